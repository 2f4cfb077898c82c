"""Many sends and receives at once on one session (B23), and two processes on one account (B25)."""

from __future__ import annotations

import asyncio
import multiprocessing
from pathlib import Path

import pytest

import tillie.store
from support.children import fork, wait
from support.ends import ALICE, BOB, BUNDLES, DEVICES, ENCRYPTED, START, End, World
from support.traffic import positions
from support.wire import Wire, text
from tillie.engine import Engine
from tillie.model import Address, Arrived, Done, Kind, Publish, Stanza
from tillie.schemes.omemo import Omemo
from tillie.store import MemoryStore, Store
from tillie.wire import xml

KEY = bytes(range(32))
SENDS = 500
PER_PROCESS = 60


def opened(folder: Path) -> Store:
    return tillie.store.open(folder / "alice.db", ALICE, KEY)


def engine(store: Store, wire: Wire) -> Engine:
    made = Engine(store, wire, Omemo(ALICE), clock=lambda: START)
    wire.engine = made
    return made


def arrivals(stanzas: list[bytes]) -> list[Arrived]:
    """What Alice sent, as it arrives at Bob."""
    found = []
    for stanza in stanzas:
        message = xml.parse(stanza)
        element = message.find(ENCRYPTED)
        assert element is not None
        outside = Stanza("message", Address(f"{ALICE}/x"), BOB, "chat", message.get("id", ""))
        found.append(Arrived(xml.serialise(element), outside))
    return found


def test_500_sends_at_once_on_one_session_all_open(tmp_path: Path) -> None:
    world = World()
    bob = End(world, BOB)

    async def talk() -> list[bytes]:
        wire = Wire(world.items)
        alice = engine(opened(tmp_path), wire)
        await alice.start()
        await asyncio.gather(*(alice.send(BOB, text(f"{n}")) for n in range(SENDS)))
        assert not await alice.outbox()
        await alice.close()
        return wire.sent

    sent = asyncio.run(talk())
    assert len(positions(sent)) == len(sent) == SENDS, "each its own message key"
    kinds = {bob.open(got).kind for got in arrivals(sent)}
    assert kinds == {Kind.OPENED}
    assert sorted(map(int, bob.read_texts)) == list(range(SENDS))
    assert len(bob.kinds("session", "old")) == 1, "one session, although none was there when all began"


def test_many_receives_at_once_on_one_session_all_open(tmp_path: Path) -> None:
    world = World()
    bob = End(world, BOB)
    count = 300

    async def talk() -> None:
        wire = Wire(world.items)
        alice = engine(opened(tmp_path), wire)
        await alice.start()
        for published in wire.published:
            world.items[ALICE, published.node, published.item] = published.payload
        for n in range(count):
            bob.say(ALICE, f"{n}")
        letters = [Arrived(*_parts(stanza, BOB, ALICE)) for _, stanza in world.sent]
        out = await asyncio.gather(*(alice.receive(got) for got in letters), *(alice.receive(got) for got in letters))
        kinds = [received.opened.kind for received in out]
        assert kinds.count(Kind.OPENED) == kinds.count(Kind.DUPLICATE) == count
        assert len(await alice.inbox()) == count
        await alice.close()

    asyncio.run(talk())


def _parts(stanza: bytes, sender: Address, to: Address) -> tuple[bytes, Stanza]:
    element = xml.parse(stanza).find(ENCRYPTED)
    assert element is not None
    return xml.serialise(element), Stanza("message", Address(f"{sender}/x"), to, "chat", "m")


def test_two_processes_on_one_account_repeat_no_message_key(tmp_path: Path) -> None:
    """Both send on one session, from one file, at the same time."""
    world = World()
    bob = End(world, BOB)

    async def begin() -> list[bytes]:
        wire = Wire(world.items)
        alice = engine(opened(tmp_path), wire)
        await alice.start()
        await alice.close()
        return wire.sent

    asyncio.run(begin())

    both = multiprocessing.get_context("fork").Barrier(2, timeout=60)

    def child(name: str) -> None:
        async def talk() -> None:
            wire = Wire(world.items)
            alice = engine(opened(tmp_path), wire)
            await alice.send(BOB, text(f"{name} is there"))  # so that both have read the session
            both.wait()
            await asyncio.gather(*(alice.send(BOB, text(f"{name}{n}")) for n in range(PER_PROCESS)))
            await alice.close()
            (tmp_path / name).write_bytes(b"\n".join(wire.sent))

        asyncio.run(talk())

    children = [fork(lambda name=name: child(name)) for name in ("a", "b")]  # type: ignore[misc]
    assert [wait(pid) for pid in children] == [0, 0]
    sent = [stanza for name in ("a", "b") for stanza in (tmp_path / name).read_bytes().split(b"\n")]
    # Both flush one outbox, so a stanza may go out twice: the same bytes, which Bob finds to be a duplicate.
    assert len(positions(sent)) == len(set(sent)) == 2 * (PER_PROCESS + 1)
    kinds = [bob.open(got).kind for got in arrivals(sent)]
    assert set(kinds) <= {Kind.OPENED, Kind.DUPLICATE}
    assert len(bob.read_texts) == len(set(bob.read_texts)) == 2 * (PER_PROCESS + 1)


def test_what_could_not_be_sent_goes_out_later_the_same_bytes_in_order() -> None:
    world = World()
    bob = End(world, BOB)

    async def talk() -> list[bytes]:
        wire = Wire(world.items, acknowledges=False)
        alice = engine(MemoryStore(ALICE), wire)
        await alice.start()
        await alice.send(BOB, text("first"))
        wire.down = True
        for said in ("second", "third"):
            await alice.send(BOB, text(said))
        assert len(wire.sent) == 1
        wire.down = False
        alice.disconnected()
        await alice.flush()
        assert wire.sent[0] == wire.sent[1], "not acknowledged, so it goes out again, the same bytes"
        assert len(positions(wire.sent)) == 3
        return wire.sent[1:]

    for got in arrivals(asyncio.run(talk())):
        bob.open(got)
    assert bob.read_texts == ["first", "second", "third"]


class RolledBackStore(MemoryStore):
    """A store that was found to be older than it should be."""

    rolled_back = True

    def accept_roll_back(self, step, /):  # type: ignore[no-untyped-def]
        self.rolled_back = False
        return super().accept_roll_back(step)


@pytest.mark.parametrize("first", ["start", "send"])
def test_a_rolled_back_store_renews_before_anything_else_and_says_so(first: str) -> None:
    world = World()
    bob = End(world, BOB)
    told: list[str] = []

    async def talk() -> None:
        wire = Wire(world.items)
        before = engine(MemoryStore(ALICE), wire)
        await before.start()
        await before.send(BOB, text("one"))
        for got in arrivals(wire.sent):
            bob.open(got)
        for _, stanza in world.sent:
            await before.receive(Arrived(*_parts(stanza, BOB, ALICE)))
        old = RolledBackStore(ALICE)
        assert isinstance(before.store, MemoryStore)
        records = dict(before.store._records)
        old.run(lambda s: Done([s.put(*row) for row in records.items()]))
        after = Engine(old, wire, Omemo(ALICE), clock=lambda: START, notice=lambda n: told.append(n.text))
        wire.engine = after
        if first == "start":
            await after.start()
        await after.send(BOB, text("two"))
        assert b"kex='true'" in wire.sent[-1]
        assert any(published.node.endswith("bundles") for published in wire.published[1:])

    asyncio.run(talk())
    assert any("old copy" in text for text in told)


def test_an_own_list_that_cannot_be_read_holds_up_no_message_and_is_not_overwritten() -> None:
    world = World()
    bob = End(world, BOB)
    rubbish = {(ALICE, DEVICES, "current"): b"<rubbish/>"}

    async def talk() -> list[bytes]:
        wire = Wire(world.items | rubbish)
        alice = engine(MemoryStore(ALICE), wire)
        await alice.start()
        await alice.send(BOB, text("hello"))
        assert [published.node for published in wire.published] == [BUNDLES]
        assert any(row.effect == Publish("omemo", "devices") for row in await alice.outbox())
        return wire.sent

    for got in arrivals(asyncio.run(talk())):
        bob.open(got)
    assert bob.read_texts == ["hello"]
