"""Ours: Tillie's pipeline, from content to the bytes of `<encrypted>` and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from bench.pairs import ALICE, BOB, Pair, content_bytes
from support.our_device import OurDevice
from support.pep import PepServer
from tillie import pipeline
from tillie.model import Address, Arrived, Content, Done, Fetch, Need, Publish, Sealed, Stanza, State
from tillie.pipeline import Policy
from tillie.store import Committed, Store

T = TypeVar("T")

TICK = 0.001  # seconds between two operations, so that no two envelopes have the same time


class OurPair(Pair):
    """Alice and Bob on Tillie; Bob has `devices` devices, and only the first of them opens.

    `store` makes Alice's store, where that is what a figure is about. Keys are new after every `forget`, so that no
    cache helps a first message.
    """

    def __init__(self, devices: int = 1, store: Callable[[Address], Store] | None = None) -> None:
        self.devices = devices
        self.make_store = store
        self.forget()

    def forget(self) -> None:
        self.server = PepServer()
        self.alice = OurDevice(self.server, ALICE, store=self.make_store)
        self.bobs = [OurDevice(self.server, BOB) for _ in range(self.devices)]
        self.ends = (self.alice, self.bobs[0])
        for end in self.ends:
            for address in (ALICE, BOB):
                end.learn_devices(address)

    def meet(self) -> None:
        opening = self.seal(0, self.message())
        for bob in self.bobs:
            bob.open(ALICE, opening)
        for sent in self.server.messages_to(ALICE):
            self.alice.open(sent.sender, sent.element)
        self.open(1, self.seal(0, self.message()))

    def message(self) -> Content:
        return Content(content_bytes())

    def seal(self, sender: int, message: Content) -> bytes:
        """Through `pipeline.seal`; what it needs is looked up in the server's dict and learned, as an engine does."""
        device = self.ends[sender]
        device.now += TICK
        to = Address((ALICE, BOB)[1 - sender])

        def step(s: State) -> Done[Sealed] | Need:
            return pipeline.seal(s, device.scheme, Policy.FIRST_USE, message, to, device.now)

        return run(device, step).value.element

    def open(self, receiver: int, sealed: bytes) -> bytes | None:
        """Through `pipeline.open`; a fresh bundle is made where the step asks for it, as the peer does too."""
        device = self.ends[receiver]
        device.now += TICK
        sender = (ALICE, BOB)[1 - receiver]
        got = Arrived(sealed, Stanza("message", Address(sender + "/home"), device.address, "chat", "id"))
        out = run(device, lambda s: pipeline.open(s, device.scheme, Policy.FIRST_USE, got, device.now))
        for effect in out.effects:
            if isinstance(effect, Publish):
                device.store.run(lambda s: device.scheme.publication(s, "bundle", device.now))
        content = out.value.content
        return content.data if content else None


def run(device: OurDevice, step: Callable[[State], Done[T] | Need]) -> Committed[T]:
    """One step, its needs answered from the server's dict and learned."""
    for _ in range(4):
        out = device.store.run(step)
        if isinstance(out, Committed):
            return out
        for ask in out.asks:
            if not isinstance(ask, Fetch):
                raise RuntimeError("a figure asks a person")
            fact = device.server.fetch(ask)
            device.store.run(lambda s: device.scheme.learn(s, fact, device.now))  # noqa: B023 - runs at once
    raise RuntimeError("no progress")
