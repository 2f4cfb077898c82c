"""One device of ours on a `PepServer`: scheme and store, with the work of an engine done at once and in the open."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lxml import etree

from support.pep import NS, PepServer, Sent
from tillie import pipeline
from tillie.errors import NoProgress, PeerError
from tillie.model import (
    Address,
    Arrived,
    CatchUp,
    Content,
    Device,
    DeviceReport,
    Done,
    Fact,
    Fetch,
    Kind,
    Need,
    Opened,
    Sealed,
    Send,
    Stanza,
    State,
    Target,
)
from tillie.pipeline import Policy
from tillie.schemes import Outcome
from tillie.schemes.omemo import Omemo
from tillie.store import MemoryStore, Store

T = TypeVar("T")

START = 1_780_000_000.0  # when every conversation of the tests begins, in Unix seconds
ROUNDS = 5


class OurDevice:
    """One OMEMO 2 device of `address`, synchronous. `now` is its clock; a test moves it.

    `encrypt` and `decrypt` deal in plaintext bytes, as twomemo does, and trust every device that has a key.
    """

    def __init__(
        self,
        server: PepServer,
        address: str,
        *,
        label: str = "",
        store: Callable[[Address], Store] | None = None,
    ) -> None:
        self.server = server
        self.address = Address(address)
        self.scheme = Omemo(self.address, label=label)
        self.store: Store = store(self.address) if store else MemoryStore(self.address, clock=lambda: self.now)
        self.now = START
        self.report: tuple[DeviceReport, ...] = ()
        self.device: Device = self.run(lambda s: self.scheme.prepare(s, self.now))
        self.device_id = self.device.id

    def run(self, step: Callable[[State], Done[T] | Need]) -> T:
        """One step to its end: what it needs is fetched from the server and learned, what it sends goes out."""
        value = self._drive(step)
        self._flush()
        return value

    def _drive(self, step: Callable[[State], Done[T] | Need]) -> T:
        for _ in range(ROUNDS):
            done = self.store.run(step)
            if not isinstance(done, Need):
                return done.value
            for ask in done.asks:
                assert isinstance(ask, Fetch)
                self._learn(self.server.fetch(ask))
        raise NoProgress(repr(done))

    def _learn(self, fact: Fact) -> None:
        self.store.run(lambda s: self.scheme.learn(s, fact, self.now))

    def learn(self, fact: Fact) -> None:
        self._learn(fact)
        self._flush()

    def learn_devices(self, address: str) -> None:
        """A device list arrives, as after a PEP notification."""
        self.learn(self.server.device_list(address))

    def tick(self) -> None:
        """What is done now and then: rotation, repairs, lists to look at again."""
        self.run(lambda s: self.scheme.tick(s, self.now))

    def catch_up(self, *, ended: bool) -> None:
        self.learn(CatchUp(ended))

    def reset(self, address: str, device_id: int | None = None) -> int:
        return self.run(lambda s: self.scheme.reset(s, Address(address), device_id, self.now))

    def encrypt(self, to: str, plaintext: bytes) -> bytes:
        """The `<encrypted>` element for every device of `to` and our own other ones; `report` says which got it."""
        address = Address(to)

        def step(s: State) -> Done[Sealed] | Need:
            found = self.scheme.devices(s, address, self.now)
            if isinstance(found, Need):
                return found
            able, unable = found
            done = self.scheme.seal(s, plaintext, Target(address, able), self.now)
            self.report = (*done.value.report, *unable)
            return done

        return self.run(step).element

    def open(self, sender: str, element: bytes) -> Outcome:
        """What an element was. Typed errors pass through, and leave the store as it was."""
        got = Arrived(element, Stanza("message", Address(sender + "/here"), self.address, type="chat"))
        return self.run(lambda s: self.scheme.open(s, got, self.now))

    def decrypt(self, sender: str, element: bytes) -> bytes | None:
        """The plaintext of an element that must open; None for an empty message."""
        opened = self.open(sender, element)
        assert opened.kind in (Kind.OPENED, Kind.EMPTY), opened
        return opened.plaintext

    def say(self, to: str, content: Content) -> Sealed:
        """Content in an envelope, sealed for every device of `to`, through the pipeline."""
        return self.run(lambda s: pipeline.seal(s, self.scheme, Policy.BLIND, content, Address(to), self.now))

    def hear(self, element: bytes, stanza: Stanza) -> Opened:
        """What an element in this stanza was, its envelope checked."""
        try:
            return self.run(lambda s: pipeline.open(s, self.scheme, Policy.BLIND, Arrived(element, stanza), self.now))
        except PeerError as error:
            return pipeline.failed(self.scheme, Arrived(element, stanza), error)

    def _flush(self) -> None:
        for row, effect, _ in self.store.outbox():
            self.store.sent(row)
            if isinstance(effect, Send):
                message = etree.fromstring(effect.stanza)
                (element,) = message.iter(f"{{{NS}}}encrypted")
                self.server.messages.append(Sent(self.address, message.get("to", ""), etree.tostring(element)))
            else:
                self._publish(effect.what)

    def _publish(self, what: str) -> None:
        item = self._drive(lambda s: self.scheme.publication(s, what, self.now))
        if item is not None:
            self.server.publish(self.address, item.node, item.item, item.payload)
