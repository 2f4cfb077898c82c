"""The network in this process has the habits of a real one: offline, copies, devices that join, nothing shown twice."""

from __future__ import annotations

import asyncio

import pytest

from tillie.errors import Unreachable
from tillie.model import Address, Content, Kind
from tillie.networks.local import LocalConnection, LocalServer
from tillie.store import MemoryStore
from tillie.wire import xml

ALICE, BOB = Address("alice@capulet.test"), Address("bob@montague.test")


def said(text: str) -> Content:
    return Content(b"<body xmlns='jabber:client'>" + xml.escape(text) + b"</body>")


async def read(connection: LocalConnection) -> list[str]:
    """What was opened since the last look, in order, and how it came."""
    await settled()
    rows = await connection.engine.inbox()
    await connection.engine.acknowledge(*(row for row, _ in rows))
    assert all(delivery.kind == Kind.OPENED.value for _, delivery in rows), rows
    return [xml.parse(d.content.encode()).text + " " + d.via for _, d in rows]


async def settled() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


def test_both_ways_offline_and_a_device_that_joins() -> None:
    async def scenario() -> None:
        server = LocalServer()
        alice = await server.connect(ALICE, MemoryStore(ALICE))
        bob_store = MemoryStore(BOB)
        bob = await server.connect(BOB, bob_store)
        await alice.engine.send(BOB, said("one"))
        assert await read(bob) == ["one live"]
        await bob.engine.send(ALICE, said("two"))
        assert await read(alice) == ["two live"]

        await bob.close()
        await alice.engine.send(BOB, said("while you were away"))
        bob = await server.connect(BOB, bob_store)
        assert await read(bob) == ["while you were away archive"]

        tablet = await server.connect(ALICE, MemoryStore(ALICE))
        await settled()
        await bob.engine.send(ALICE, said("to both"))
        assert await read(alice) == ["to both live"]
        assert await read(tablet) == ["to both live"]
        await alice.engine.send(BOB, said("seen by my tablet"))
        assert await read(tablet) == ["seen by my tablet carbon"]
        assert await read(bob) == ["seen by my tablet live"]
        for end in (alice, bob, tablet):
            assert await end.engine.outbox() == []
        assert not any(b"tablet" in seen for seen in server.traffic)

    asyncio.run(scenario())


def test_what_is_sent_without_a_connection_waits_in_the_outbox() -> None:
    async def scenario() -> None:
        server = LocalServer()
        store = MemoryStore(ALICE)
        alice = await server.connect(ALICE, store)
        bob = await server.connect(BOB, MemoryStore(BOB))
        await alice.engine.send(BOB, said("first"))
        assert await read(bob) == ["first live"]
        await alice.close()
        await alice.engine.send(BOB, said("later"))
        with pytest.raises(Unreachable):
            alice._require_connection()
        assert await read(bob) == []
        alice = await server.connect(ALICE, store)
        assert await read(bob) == ["later live"]
        assert await alice.engine.outbox() == []

    asyncio.run(scenario())
