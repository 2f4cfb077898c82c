"""`tillie demo pubsub`: a private blog on a real server: shared, signed, and its locks changed.

Juliet keeps the blog at her own account (PEP). Her nurse may read it, Romeo may write in it, too. When the nurse's
access is taken back she keeps what she had, which the demo shows by a server that lets her in again. At the end
everything that the server holds is searched for every text, and for every key that would open one.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

from tillie.account import KnownKey
from tillie.crypto import secretkeys
from tillie.demo import performance
from tillie.demo.people import Player
from tillie.demo.performance import NotAsWritten
from tillie.demo.places import Place, choose
from tillie.demo.stage import Stage
from tillie.errors import Rejected
from tillie.model import Address, Done, Need, Trust
from tillie.nodes import Nodes
from tillie.pubsub.checking import Verdict
from tillie.pubsub.items import Item, ItemKind, Node, Reading
from tillie.pubsub.members import Role
from tillie.pubsub.secrets import Secret
from tillie.wire import xml

JULIET, NURSE = Address("juliet@capulet.example"), Address("nurse@capulet.example")
ROMEO = Address("romeo@montague.example")
CAST = (JULIET, NURSE, ROMEO)
KIND = "http://www.w3.org/2005/Atom"  # what the items are; the server does not get to know that either

HEAR_SECONDS = 15.0  # until a secret, or that it is revoked, must have come
_LOOK_SECONDS = 0.02
_NOTHING = {
    ItemKind.NOT_FOR_US: "nothing: it is sealed for others",
    ItemKind.NO_SECRET: "nothing: she does not have its secret",
}
_SEALED = re.compile(rb"[A-Za-z0-9+/]{32,}={0,2}")

FIRST = 'I dreamt of a lark & called it "nightingale"; tell nobody. <3'
MEDDLING = "Here the nurse writes, who may only read."
FROM_ROMEO = "Thy blog hath stronger walls than thy father's orchard."
FOR_ROMEO = "For thine eyes alone: the ladder hangs at the east window."
AFTER = "The locks are changed. From here on the nurse reads no more."


class Person(Player):
    """Somebody with an OpenPGP key, and perhaps a private node."""

    @property
    def nodes(self) -> Nodes:
        return self.client.nodes

    async def arrive(self) -> None:
        """Log in, and publish keys."""
        await self.log_in()
        await self.client.generate_key()
        if not await self.client.announced():
            raise NotAsWritten(f"The server did not take the key of {self.name}.")

    def own_keys(self) -> list[KnownKey]:
        return [key for key in self.account.keys(self.address) if key.this]

    async def verify(self, other: Person) -> None:
        """What people do over the telephone: each reads out her fingerprints, the other compares and says so."""
        seen = {key.fingerprint for key in await self.client.devices(other.address)}
        if seen != {key.fingerprint for key in other.own_keys()}:
            raise NotAsWritten(f"{self.name} sees other keys than {other.name} has.")
        for key in other.own_keys():
            self.account.decide(other.address, key.device.key, Trust.VERIFIED)

    async def hears(self, node: Node, what: Callable[[tuple[Secret, ...]], bool]) -> None:
        """Wait until this can be said of the secrets that have come."""
        deadline = time.monotonic() + HEAR_SECONDS
        while not what(await self.nodes.secrets(node)):
            if time.monotonic() >= deadline:
                raise NotAsWritten(f"{self.name} did not hear of a secret in {HEAR_SECONDS:.0f} seconds.")
            await asyncio.sleep(_LOOK_SECONDS)
            await self.nodes.settle()

    async def reads(self, node: Node, item: str, text: str) -> tuple[str, str]:
        """Read an item that must open, and say this; what it said."""
        got = await self.nodes.get(node, item)
        if got.kind is not ItemKind.OPENED or said_by(got) != text:
            raise NotAsWritten(f"{self.name} can't read what is for {self.name}: {got.error or got.kind.value}")
        return self.name, said_by(got)

    def keys_to_hide(self) -> Iterator[str | bytes]:
        """The shared secrets that are here, as they are sent and as bytes, and the private halves of our own keys."""
        for kept in self.account.private_nodes():
            for secret in kept.secrets:
                yield secret.value
                yield urlsafe_b64decode(secret.value + "=" * (-len(secret.value) % 4))
        openpgp = self.account.openpgp
        committed = self.account.store.run(lambda s: Done(openpgp.own_keys(s)))
        if isinstance(committed, Need):
            raise NotAsWritten(f"The keys of {self.name} can't be looked for without a network.")
        for own in committed.value:
            yield from (part.secret for part in secretkeys.read(own.data))


class Blog:
    """The play."""

    search = "nothing that was written, and no key to it, is in the server's data and logs"
    sought = "every text above, every secret of the blog and every private OpenPGP key"

    def __init__(self, place: Place, stage: Stage, folder: Path) -> None:
        self.place = place
        self.stage = stage
        self.juliet = Person("Juliet", JULIET, place, folder / "juliet")
        self.nurse = Person("the nurse", NURSE, place, folder / "nurse")
        self.romeo = Person("Romeo", ROMEO, place, folder / "romeo")
        self.people = (self.juliet, self.nurse, self.romeo)
        self.node = Node(JULIET, "")
        self.items: dict[str, str] = {}  # what was written, and the id under which it is published

    async def play(self) -> None:
        step = self.stage.step
        with step(f"{self.place.name} starts"):
            await self.place.open()
            self.stage.server(self.place.name, self.place.version)
        with step("Juliet, her nurse and Romeo log in and publish their public keys"):
            await asyncio.gather(*(person.arrive() for person in self.people))
        with step("they compare fingerprints"):
            await self._verify()
        with step("Juliet makes a private blog and writes in it; the server lets nobody else read"):
            await self._begin()
        with step("Juliet shares it: the nurse may read, Romeo may write, too; both read"):
            await self._share()
        with step("Juliet signs her entry; the nurse and Romeo find the signature valid, by a key they trust"):
            await self._sign()
        with step("Romeo writes, and Juliet and the nurse read; the nurse herself may not write"):
            await self._romeo_writes()
        with step("Juliet writes for Romeo only; the nurse can't open it"):
            await self._for_romeo_only()
        with step("Juliet takes the nurse's access back"):
            await self._take_back()
        with step("Juliet writes again; Romeo reads, and the server refuses the nurse"):
            await self._write_again()
        with step("suppose the server lets the nurse in again: she reads what she could read, and nothing new"):
            await self._let_in_again()

    async def _verify(self) -> None:
        for one in self.people:
            for other in self.people:
                if one is not other:
                    await one.verify(other)
        key = next(key for key in self.juliet.own_keys() if key.info)
        self.stage.remark(f"Juliet's OpenPGP fingerprint, the same everywhere: {key.fingerprint}")

    # -- acts ---------------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        self.node = await self.juliet.nodes.create(self.node, type=KIND)
        self.stage.remark(f"The blog, as the server knows it: node {self.node.name} of {self.node.service}")
        await self._publish(self.juliet, FIRST)
        for person in (self.nurse, self.romeo):
            await self._refused(person)

    async def _share(self) -> None:
        for person, role in ((self.nurse, Role.READER), (self.romeo, Role.PUBLISHER)):
            await self.juliet.nodes.share(self.node, person.address, role=role)
            await person.hears(self.node, lambda secrets: len(secrets) == 1)
        await self._show(self.juliet, FIRST, [self.nurse, self.romeo])

    async def _sign(self) -> None:
        item = self.items[FIRST]
        await self.juliet.nodes.sign(self.node, item)
        own = next(key.device.key for key in self.juliet.own_keys() if key.info)
        for person in (self.nurse, self.romeo):
            checked = await person.nodes.check(self.node, item)
            found = [(each.signer, each.fingerprint, each.verdict, each.trust) for each in checked.reports]
            if found != [(JULIET, own, Verdict.VALID_TRUSTED, Trust.VERIFIED)]:
                raise NotAsWritten(f"{person.name} finds another signature than Juliet's: {checked.summary}.")
            self.stage.remark(f"What {person.name} is told of Juliet's signature: {checked.reports[0].verdict.value}")

    async def _romeo_writes(self) -> None:
        await self._publish(self.romeo, FROM_ROMEO)
        await self._show(self.romeo, FROM_ROMEO, [self.juliet, self.nurse])
        with _refusal("The nurse wrote, who may only read."):
            await self._publish(self.nurse, MEDDLING)

    async def _for_romeo_only(self) -> None:
        await self._publish(self.juliet, FOR_ROMEO, only_for=ROMEO)
        kept = await self.juliet.reads(
            self.node, self.items[FOR_ROMEO], FOR_ROMEO
        )  # it opens only once: from her store
        nothing = await self._closed_to_nurse(FOR_ROMEO, ItemKind.NOT_FOR_US)
        await self._show(self.juliet, FOR_ROMEO, [self.romeo], (kept, nothing))

    async def _take_back(self) -> None:
        removed = await self.juliet.nodes.remove(self.node, NURSE)
        if removed.problems:
            raise NotAsWritten(" ".join(removed.problems))
        await self.romeo.hears(self.node, lambda secrets: secrets[0].id == removed.secret)
        await self.nurse.hears(self.node, lambda secrets: all(secret.revoked for secret in secrets))
        for line in ("What that can't undo, as Juliet is told:", *removed.cannot_undo):
            self.stage.remark(f"  {line}")

    async def _write_again(self) -> None:
        await self._publish(self.juliet, AFTER)
        await self._show(self.juliet, AFTER, [self.romeo], (await self._refused(self.nurse),))

    async def _let_in_again(self) -> None:
        """A whitelist is only the server's promise. What is sealed does not depend on it."""
        await self.juliet.nodes.service.affiliate(self.node, {NURSE: "member"})
        reads = [(await self.nurse.reads(self.node, self.items[text], text))[1] for text in (FIRST, FROM_ROMEO)]
        for text, why in ((FOR_ROMEO, ItemKind.NOT_FOR_US), (AFTER, ItemKind.NO_SECRET)):
            reads.append((await self._closed_to_nurse(text, why))[1])
        for text, got in zip((FIRST, FROM_ROMEO, FOR_ROMEO, AFTER), reads, strict=True):
            self.stage.remark(f"  written:        {text}")
            self.stage.remark(f"  the nurse read: {'the same' if got == text else got}")

    # -- props --------------------------------------------------------------------------------------------------------

    async def _publish(self, author: Person, text: str, *, only_for: Address | None = None) -> None:
        self.items[text] = ""
        done = await author.nodes.publish(
            self.node, entry(text), encrypt=True, encrypt_for=() if only_for is None else (only_for,)
        )
        self.items[text] = done.id

    async def _show(
        self, author: Person, text: str, readers: list[Person], others: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """An entry as it was written, as the server has it, and as each of these people reads it."""
        item = await self._raw(text)
        kept = self.place.published(max(_SEALED.findall(item.payload), key=len, default=item.payload))
        if not kept:
            raise NotAsWritten("The server's data does not hold the sealed item.")
        read = [await reader.reads(self.node, self.items[text], text) for reader in readers]
        self.stage.exchange(
            author.name, text, item.payload, kept, [*read, *others], verb="wrote", keeper="the node's items"
        )

    async def _raw(self, text: str) -> Item:
        async for page in self.juliet.nodes.service.items(self.node, ids=(self.items[text],)):
            return page[0]
        raise NotAsWritten("The server does not have an item that it took.")

    async def _refused(self, person: Person) -> tuple[str, str]:
        with _refusal(f"The server showed {person.name} the blog."):
            async for _ in person.nodes.items(self.node):
                pass
        return person.name, "nothing: the server refuses"

    async def _closed_to_nurse(self, text: str, why: ItemKind) -> tuple[str, str]:
        got = await self.nurse.nodes.get(self.node, self.items[text])
        if got.kind is not why or got.payload is not None:
            raise NotAsWritten(f"The nurse got something out of an item that is not for her: {got.kind.value}")
        return self.nurse.name, _NOTHING[why]

    # -- what performing it asks for ----------------------------------------------------------------------------------

    def said(self) -> list[str]:
        return [*self.items, KIND]

    def secrets(self) -> list[str | bytes]:
        return [key for person in self.people for key in person.keys_to_hide()]

    async def close(self) -> None:
        for person in self.people:
            await person.leave()
            person.account.store.close()


@contextlib.contextmanager
def _refusal(otherwise: str) -> Iterator[None]:
    """The server must refuse this, because somebody may not do it."""
    try:
        yield
    except Rejected as error:
        if error.condition != "forbidden":
            raise
        return
    raise NotAsWritten(otherwise)


def entry(text: str) -> bytes:
    """A text as an item of a blog (RFC 4287)."""
    return b"<entry xmlns='%s'><title>%s</title></entry>" % (KIND.encode(), xml.escape(text))


def said_by(reading: Reading) -> str:
    """The text of an item that was opened; "" if it has none."""
    if reading.payload is None:
        return ""
    title = xml.parse(reading.payload).find(f"{{{KIND}}}title")
    return "" if title is None else xml.text_of(title)


def run(*, json: bool = False, place: Place | None = None, author: performance.Author = Blog) -> bool:
    """Perform it for people, or for a program with `json`; whether all went well."""
    return performance.run(author, place or choose(CAST), json=json, chosen=place is None)
