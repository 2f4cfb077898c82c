"""kill -9 at every statement that the store executes (B24): no message key is repeated, and nothing that returned is
lost - neither a message whose `send` returned nor one whose `receive` returned."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import tillie.store
from support.children import die, fork, wait
from support.ends import ALICE, BOB, ENCRYPTED, START, Dump, End, World
from support.traffic import positions
from support.wire import Wire, text
from tillie.engine import Engine
from tillie.model import Address, Arrived, Kind, Stanza
from tillie.schemes.omemo import Omemo
from tillie.store import sql as sql_module
from tillie.wire import xml

KEY = bytes(range(32))
CALLS = ("send 0", "receive 0", "send 1", "receive 1", "send 2")


def arrived(stanza: bytes, sender: Address, to: Address) -> Arrived:
    element = xml.parse(stanza).find(ENCRYPTED)
    assert element is not None
    return Arrived(xml.serialise(element), Stanza("message", Address(f"{sender}/x"), to, "chat", "m"))


def engine(folder: Path, wire: Wire) -> Engine:
    made = Engine(tillie.store.open(folder / "alice.db", ALICE, KEY), wire, Omemo(ALICE), clock=lambda: START)
    wire.engine = made
    return made


async def begin(folder: Path, world: World, bob: End) -> list[bytes]:
    """Alice's device and a first message, so that there is a session; what she sent."""
    wire = Wire(world.items)
    alice = engine(folder, wire)
    await alice.start()
    for published in wire.published:
        world.items[ALICE, published.node, published.item] = published.payload
    await alice.send(BOB, text("first"))
    for stanza in wire.sent:
        bob.open(arrived(stanza, ALICE, BOB))
    await alice.receive(arrived(world.sent[-1][1], BOB, ALICE))
    await alice.close()
    return wire.sent


async def work(folder: Path, items: dict[tuple[str, str, str], bytes], letters: list[Arrived], log: int) -> None:
    """What is interrupted. Each stanza that leaves, and each call that returned, is written down at once."""
    wire = Wire(items)
    wire.on_send = lambda stanza: _note(log, b"S" + stanza)
    alice = engine(folder, wire)
    for call in CALLS:
        verb, _, number = call.partition(" ")
        if verb == "send":
            await alice.send(BOB, text(f"alice {number}"))
        else:
            await alice.receive(letters[int(number)])
        _note(log, b"R" + call.encode())
    await alice.close()


def _note(log: int, line: bytes) -> None:
    os.write(log, line + b"\n")


def die_at(place: int) -> None:
    """Kill this process before the `place`-th statement of the store, counted from now."""
    left = [place]
    connect = sql_module.connect

    def count(_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            die()

    def traced(path: Path, secret: bytes) -> object:
        connection = connect(path, secret)
        connection.set_trace_callback(count)
        return connection

    sql_module.connect = traced  # type: ignore[assignment]


async def resume(folder: Path, world: World, letters: list[Arrived]) -> tuple[list[bytes], list[str]]:
    """After the crash: the same program again. The server hands over what it does not know to be delivered, here all
    of it. What is sent now, and the texts that the program finds in its inbox."""
    wire = Wire(world.items)
    alice = engine(folder, wire)
    await alice.start()
    for letter in letters:
        received = await alice.receive(letter)
        assert received.opened.kind in (Kind.OPENED, Kind.DUPLICATE)
    await alice.send(BOB, text("alice again"))
    inbox = [xml.parse(row.content.encode()).text or "" for _, row in await alice.inbox()]
    assert not await alice.outbox()
    await alice.close()
    return wire.sent, inbox


def check(log: bytes, before: list[bytes], after: tuple[list[bytes], list[str]], bob: End, at_first: Dump) -> None:
    lines = log.split(b"\n")[:-1]
    returned = [line[1:].decode() for line in lines if line[:1] == b"R"]
    sent = [line[1:] for line in lines if line[:1] == b"S"]
    positions([*before, *sent, *after[0]])
    bob.restore(at_first)
    bob.read_texts.clear()
    for stanza in (*sent, *after[0]):
        assert bob.open(arrived(stanza, ALICE, BOB)).kind in (Kind.OPENED, Kind.DUPLICATE, Kind.EMPTY)
    assert set(bob.read_texts) >= {f"alice {call[5:]}" for call in returned if call.startswith("send")}
    assert len(bob.read_texts) == len(set(bob.read_texts))
    assert bob.read_texts[-1] == "alice again"
    assert after[1] == ["bob 0", "bob 1"], "received once each, whether before the crash or after it"


def test_killed_at_every_statement(tmp_path: Path) -> None:
    world = World()
    bob = End(world, BOB)
    origin = tmp_path / "origin"
    before = asyncio.run(begin(origin, world, bob))
    sent_so_far = len(world.sent)
    bob.say(ALICE, "bob 0")
    bob.say(ALICE, "bob 1")
    letters = [arrived(stanza, BOB, ALICE) for _, stanza in world.sent[sent_so_far:]]
    at_first = bob.dump()

    place, ended = 0, -signal.SIGKILL
    while ended == -signal.SIGKILL:
        place += 1
        folder = tmp_path / str(place)
        shutil.copytree(origin, folder)
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

        def child(folder: Path = folder, log: int = log, place: int = place) -> None:
            die_at(place)
            asyncio.run(work(folder, world.items, letters, log))

        ended = wait(fork(child))
        os.close(log)
        after = asyncio.run(resume(folder, world, letters))
        check((folder / "log").read_bytes(), before, after, bob, at_first)
        shutil.rmtree(folder)
    assert ended == 0
    assert place > 40, "the places were not counted"
