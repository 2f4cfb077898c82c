"""Stanzas that belong to one resource, and to their time: only the connection with that resource sends them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tillie import store as stores
from tillie.engine import Engine
from tillie.errors import UsageError
from tillie.model import Address, Changed, Done, Fetch, Fetched, Publication, Send, State
from tillie.store import MemoryStore, Store

ALICE = Address("alice@example.org")
DESK, SOFA = Address("alice@example.org/desk"), Address("alice@example.org/sofa")
NOW = 1_800_000_000.25


class Wire:
    """A network that takes everything."""

    def __init__(self) -> None:
        self.sent: list[Send] = []

    async def send(self, item: Send) -> None:
        self.sent.append(item)

    async def fetch(self, ask: Fetch) -> Fetched:
        raise AssertionError(ask)

    async def publish(self, publication: Publication) -> None:
        raise AssertionError(publication)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return MemoryStore(ALICE)
    return stores.open(tmp_path / "store", ALICE, bytes(32))


def put(*sends: Send) -> object:
    def step(s: State) -> Done[None]:
        return Done(None, sends)

    return step


def test_only_its_resource_sends_it_and_only_in_time(store: Store) -> None:
    now = [NOW]
    wire = Wire()
    engine = Engine(store, wire, clock=lambda: now[0])
    anybody = Send(b"<message/>", "1")
    ours, theirs = Send(b"<iq/>", "2", DESK, NOW + 60), Send(b"<iq/>", "3", SOFA, NOW + 60)
    late = Send(b"<presence/>", "4", DESK, NOW - 0.5)

    async def scene() -> None:
        engine.own = DESK
        await engine.drive(put(anybody, ours, theirs, late))  # type: ignore[arg-type]
        assert wire.sent == [anybody, ours]
        assert [row.effect for row in await engine.outbox()] == [anybody, ours, theirs]
        now[0] = NOW + 61
        await engine.acknowledged("1", "2")
        await engine.flush()
        assert wire.sent == [anybody, ours]
        assert await engine.outbox() == []
        await engine.close()

    asyncio.run(scene())


def test_without_a_connection_nothing_of_a_session_is_sent(store: Store) -> None:
    wire = Wire()
    engine = Engine(store, wire, clock=lambda: NOW)

    async def scene() -> None:
        await engine.drive(put(Send(b"<message/>", "1", DESK, 0.0)))  # type: ignore[arg-type]
        assert wire.sent == []
        engine.own = DESK
        await engine.flush()
        assert [item.id for item in wire.sent] == ["1"]
        await engine.close()

    asyncio.run(scene())


def test_whoever_follows_hears_of_a_change_after_its_commit(store: Store) -> None:
    engine = Engine(store, Wire(), clock=lambda: NOW)
    heard: list[Changed] = []
    change = Changed("esession", "thread")

    async def scene() -> None:
        stop = engine.follow(heard.append)
        await engine.drive(lambda s: Done(None, (change,)))
        assert heard == [change]
        assert await engine.outbox() == []
        assert await engine.inbox() == []
        stop()
        await engine.drive(lambda s: Done(None, (change,)))
        assert heard == [change]
        await engine.close()

    asyncio.run(scene())


def test_what_is_acknowledged_while_the_outbox_is_looked_at_is_not_sent_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeated stanza would end its session."""
    wire = Wire()
    engine = Engine(store, wire, clock=lambda: NOW)
    first, second = Send(b"<message id='1'/>", "1", DESK, NOW + 60), Send(b"<message id='2'/>", "2", DESK, NOW + 60)
    look = engine.outbox

    async def look_and_be_told() -> object:
        rows = await look()
        await engine.acknowledged("1")
        await engine.acknowledged("1")
        return rows

    async def scene() -> None:
        engine.own = DESK
        await engine.drive(put(first))  # type: ignore[arg-type]
        monkeypatch.setattr(engine, "outbox", look_and_be_told)
        await engine.drive(put(second))  # type: ignore[arg-type]
        monkeypatch.setattr(engine, "outbox", look)
        assert wire.sent == [first, second]
        assert [row.effect for row in await look()] == [second]
        await engine.drive(put(first))  # type: ignore[arg-type]
        assert wire.sent == [first, second, first]  # somebody has put it there anew
        await engine.close()

    asyncio.run(scene())


def test_a_closed_engine_says_so_and_closing_twice_is_fine(store: Store) -> None:
    engine = Engine(store, Wire(), clock=lambda: NOW)

    async def scene() -> None:
        await engine.close()
        await engine.close()
        with pytest.raises(UsageError, match="closed"):
            await engine.outbox()

    asyncio.run(scene())
