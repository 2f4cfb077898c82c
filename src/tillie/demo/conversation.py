"""`tillie demo conversation`: two people, three devices, a real server, and a look at what that server got of it.

Alice has a laptop and, half-way, a telephone; Bob has a tablet. Each is a real account with an encrypted store of its
own. At the end everything that the server holds is searched for every text that was said, in every form it could have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tillie import store as stores
from tillie.account import Account
from tillie.client import Client, text_content
from tillie.crypto.random import random_bytes
from tillie.demo import people, performance
from tillie.demo.performance import NotAsWritten
from tillie.demo.places import ALICE, BOB, Place, choose
from tillie.demo.stage import Stage
from tillie.errors import Unreachable
from tillie.model import Address, Send, Trust
from tillie.wire import xml

TEA = 'Shall we have tea at four, under the "old" balcony? <3'
YES = "At four, gladly & without thy cousin Tybalt."
WAITING = ("The nurse says thou art at sea. I write all the same.", "Second letter: bring the golden apricots.")
BOTH = "Now thou hast two devices; may both of them read this line."
FROM_PHONE = "This comes from my new telephone, dear heart."


@dataclass
class Device:
    """One device of a person: its own store, and its connection while it is online."""

    name: str
    account: Account
    place: Place
    client: Client | None = None
    sent: list[bytes] = field(default_factory=list)  # finished messages, as they went to the server

    @property
    def address(self) -> Address:
        return self.account.address

    async def go_online(self) -> None:
        self.client = await self.place.connect(self.account)
        self._watch()

    async def go_offline(self) -> None:
        client, self.client = self.client, None
        if client is not None:
            await client.close()

    def online(self) -> Client:
        if self.client is None:
            raise Unreachable(f"{self.name} is offline.")
        return self.client

    async def say(self, to: Address, text: str) -> bytes:
        """Send a text; the stanza that carried it."""
        sent = await self.online().send(to, text)
        if not sent.arrived:
            raise NotAsWritten(f"The server did not take the message of {self.name}.")
        needle = f"id='{sent.id}'".encode()
        return next(stanza for stanza in self.sent if needle in stanza)

    async def reads(self, text: str) -> str:
        """Wait for a message that says this; what it said, as it was opened."""
        return await people.read(self.name, self.online().engine, text)

    def _watch(self) -> None:
        """Keep a copy of what goes to the server: the audience wants to see what it gets."""
        network: Any = self.online().engine.network
        send: Callable[[Send], Any] = network.send

        async def send_and_keep(item: Send) -> None:
            self.sent.append(item.stanza)
            await send(item)

        network.send = send_and_keep


class Conversation:
    """The play. `leak` makes it say one line in the clear: only to show that the check at the end can fail."""

    search = "nothing that was said is in the server's data and logs"
    sought = "every text above"

    def __init__(self, place: Place, stage: Stage, folder: Path, *, leak: bool = False) -> None:
        self.place = place
        self.stage = stage
        self.leak = leak
        self._said: list[str] = []
        self.laptop = self._device("Alice's laptop", ALICE, folder / "laptop")
        self.phone = self._device("Alice's telephone", ALICE, folder / "telephone")
        self.bob = self._device("Bob's tablet", BOB, folder / "tablet")

    def _device(self, name: str, address: Address, folder: Path) -> Device:
        return Device(name, Account(stores.open(folder / "store", address, random_bytes(32))), self.place)

    async def play(self) -> None:
        step = self.stage.step
        with step(f"{self.place.name} starts"):
            await self.place.open()
            self.stage.server(self.place.name, self.place.version)
        with step("Alice and Bob log in and publish their public keys"):
            await asyncio.gather(self.laptop.go_online(), self.bob.go_online())
        with step("Alice writes, Bob reads"):
            await self._exchange(self.laptop, BOB, TEA, [self.bob])
        with step("Bob answers, Alice reads"):
            await self._exchange(self.bob, ALICE, YES, [self.laptop])
        with step("Alice and Bob compare fingerprints"):
            self._verify()
        with step("Bob is offline; Alice writes twice; Bob comes back and reads"):
            await self._while_away()
        with step("Alice adds a second device, and both read what Bob writes"):
            await self.phone.go_online()
            await self._exchange(self.bob, ALICE, BOTH, [self.laptop, self.phone])
        with step("Alice writes on the new device; Bob and her laptop read"):
            await self._exchange(self.phone, BOB, FROM_PHONE, [self.bob, self.laptop])
        if self.leak:
            with step("somebody says a line in the clear"):
                await self._say_in_the_clear("This line was never sealed by anybody.")

    async def _exchange(self, author: Device, to: Address, text: str, readers: list[Device]) -> None:
        self._said.append(text)
        stanza = await author.say(to, text)
        self._show(author, text, stanza, [(reader.name, await reader.reads(text)) for reader in readers])

    async def _while_away(self) -> None:
        await self.bob.go_offline()
        stanzas = []
        for text in WAITING:
            self._said.append(text)
            stanzas.append(await self.laptop.say(BOB, text))
        await self.bob.go_online()
        for text, stanza in zip(WAITING, stanzas, strict=True):
            self._show(self.laptop, text, stanza, [(self.bob.name, await self.bob.reads(text))])

    def _show(self, author: Device, text: str, stanza: bytes, read: list[tuple[str, str]]) -> None:
        kept = self.place.archived(payload_of(stanza))
        if not kept:
            raise NotAsWritten("The server's archive does not hold the sealed message.")
        self.stage.exchange(author.name, text, stanza, kept, read)

    def _verify(self) -> None:
        """What people do over the telephone: each reads out a fingerprint, the other compares it."""
        for ours, theirs in ((self.laptop, self.bob), (self.bob, self.laptop)):
            own = theirs.account.own_device()
            known = [key for key in ours.account.keys(theirs.address) if key.device == own]
            if own is None or not known:
                raise NotAsWritten(f"{ours.name} sees another key than {theirs.name} has.")
            if ours is self.laptop:  # Bob goes on without: he takes Alice's second device as it comes
                ours.account.decide(theirs.address, own.key, Trust.VERIFIED)
        self.stage.remark(f"Bob's fingerprint, the same on both sides: {known_fingerprint(self.bob)}")

    async def _say_in_the_clear(self, text: str) -> None:
        self._said.append(text)
        message = (
            b"<message xmlns='jabber:client' type='chat' to='%s' id='leak'>%s<store xmlns='urn:xmpp:hints'/></message>"
        )
        content = text_content(text).data
        await self.laptop.online().engine.network.send(Send(message % (BOB.encode(), content), "leak"))
        await self.laptop.say(BOB, YES)  # the server handles the line before this, and has this when we go on

    def said(self) -> list[str]:
        return self._said

    def secrets(self) -> list[str | bytes]:
        return []

    async def close(self) -> None:
        for device in (self.laptop, self.phone, self.bob):
            await device.go_offline()
            device.account.store.close()


def known_fingerprint(device: Device) -> str:
    own = device.account.own_device()
    return next(key.fingerprint for key in device.account.keys(device.address) if key.device == own)


def payload_of(stanza: bytes) -> bytes:
    """The sealed payload of a finished message, in Base64."""
    found = xml.parse(stanza).find("{urn:xmpp:omemo:2}encrypted/{urn:xmpp:omemo:2}payload")
    if found is None:
        raise NotAsWritten("The message has no sealed payload.")
    return xml.text_of(found).encode()


def run(*, json: bool = False, place: Place | None = None, leak: bool = False) -> bool:
    """Perform it for people, or for a program with `json`; whether all went well."""

    def author(place: Place, stage: Stage, folder: Path) -> Conversation:
        return Conversation(place, stage, folder, leak=leak)

    return performance.run(author, place or choose(), json=json, chosen=place is None)
