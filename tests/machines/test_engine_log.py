"""A DEBUG log of a whole conversation, with the repr of everything that crosses a seam: no plaintext, no key."""

from __future__ import annotations

import asyncio
import logging
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tillie.store
from support.ends import ALICE, BOB, ENCRYPTED, START
from support.wire import Wire, text
from tillie import history, pipeline
from tillie.engine import Engine
from tillie.model import Address, Arrived, Done, Key, Stanza
from tillie.schemes.omemo import Omemo, own, receiving, records, sessions
from tillie.schemes.omemo.ratchet import SkippedKey
from tillie.wire import xml

SECRET = "the eagle lands at midnight"
KINDS = ("own", "signed", "prekey", "used", "session", "old", "skipped", "bundle", "devices")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """All that is logged from DEBUG up, and, because the core logs nothing, the arguments and results of its rooms."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    rooms: list[tuple[Any, str]] = [
        (pipeline, "send"), (pipeline, "open"), (pipeline, "learn"), (receiving, "receive"), (sessions, "load"),
        (sessions, "load_old"), (sessions, "initiate"), (own, "load"), (own, "signed_prekey"), (history, "append"),
        (Omemo, "devices"), (Omemo, "publication"), (Omemo, "tick"), (pipeline, "decode_delivery"),
    ]  # fmt: skip
    for place, name in rooms:
        monkeypatch.setattr(place, name, _logged(getattr(place, name)))
    yield lines
    root.removeHandler(handler)
    root.setLevel(level)


def _logged(call: Any) -> Any:
    def logged(*arguments: Any, **named: Any) -> Any:
        out = call(*arguments, **named)
        shown = [each for each in (*arguments, *named.values()) if not isinstance(each, bytes | str)]
        logging.getLogger("test").debug("%s %r -> %r", call.__name__, shown, out)
        return out

    return logged


def forms(secret: bytes) -> set[str]:
    """How bytes could stand in a log."""
    coded = b64encode(secret).decode()
    return {secret.hex(), secret.hex(" "), coded, repr(secret)[2:-1], secret.decode("latin-1")}


def secrets_in(store: Any) -> set[bytes]:
    """The private keys, chain keys and seeds of all records that hold any."""

    def collect(s: Any) -> Done[set[bytes]]:
        found: set[bytes] = set()
        for kind in KINDS:
            for _, data in s.scan(Key("omemo", kind, "")):
                if kind == "own":
                    mine = records.decode_own(data)
                    found |= {mine.seed, mine.curve_private}
                elif kind == "signed":
                    found.add(records.decode_signed(data).private)
                elif kind in ("prekey", "used"):
                    found.add(records.decode_pair(data)[0])
                elif kind in ("session", "old"):
                    ratchet = records.decode_session(data).ratchet
                    found |= {ratchet.root, ratchet.ours.private, ratchet.ours.key, ratchet.theirs.key}
                elif kind == "skipped":
                    found.add(records.decode_skipped(data)[0])
        return Done(found)

    return set(store.run(collect).value) - {b"", bytes(32)}


def deliver(stanzas: list[bytes], sender: Address, to: Address) -> list[Arrived]:
    arrived = []
    for stanza in stanzas:
        element = xml.parse(stanza).find(ENCRYPTED)
        assert element is not None
        outside = Stanza("message", Address(f"{sender}/x"), to, "chat", "m")
        arrived.append(Arrived(xml.serialise(element), outside))
    stanzas.clear()
    return arrived


def test_a_whole_conversation_leaves_no_secret_in_the_log(tmp_path: Path, log: list[str]) -> None:
    found: set[bytes] = set()

    async def talk() -> None:
        world: dict[tuple[str, str, str], bytes] = {}
        wires, ends = {}, {}
        for name in (ALICE, BOB):
            wires[name] = Wire(world)
            store = tillie.store.open(tmp_path / f"{name}.db", name, bytes(range(32)))
            ends[name] = Engine(store, wires[name], Omemo(name), clock=lambda: START, history=True)
            wires[name].engine = ends[name]
            await ends[name].start()
            for published in wires[name].published:
                world[name, published.node, published.item] = published.payload
        for turn in range(4):
            for sender, to in ((ALICE, BOB), (BOB, ALICE)):
                sealed = await ends[sender].send(to, text(f"{SECRET} {turn}"))
                await ends[sender].send(to, text(f"{SECRET} again"))
                logging.getLogger("test").debug("%r", sealed)
                arrived = deliver(wires[sender].sent, sender, to)
                if turn % 2:
                    arrived.reverse()
                for got in arrived:
                    logging.getLogger("test").debug("%r", await ends[to].receive(got))
                    altered = Arrived(got.element.replace(b"</payload>", b"AAAA</payload>"), got.stanza)
                    logging.getLogger("test").debug("%r", await ends[to].receive(altered))
                logging.getLogger("test").debug("%r %r", await ends[to].inbox(), await ends[sender].outbox())
                for name in (ALICE, BOB):
                    found.update(secrets_in(ends[name].store))
        for name in (ALICE, BOB):
            logging.getLogger("test").debug("%r %r", ends[name], ends[name].store)
            await ends[name].close()

    asyncio.run(talk())
    everything = "\n".join(log)
    assert "Sealed" in everything, "the log was read"
    assert "Session(" in everything
    assert SECRET not in everything
    assert b64encode(SECRET.encode()).decode()[:20] not in everything
    assert len(found) > 200
    leaked = [form for secret in found for form in forms(secret) if form in everything]
    assert not leaked


def test_the_search_finds_what_is_there() -> None:
    key = bytes(range(100, 132))
    for line in (repr(key), key.hex(), b64encode(key).decode(), f"Session(key={key!r})"):
        assert any(form in line for form in forms(key))
    assert repr(SkippedKey(key, 3, key)) == "SkippedKey(n=3)"
