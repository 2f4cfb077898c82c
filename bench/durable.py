"""A message that is in the outbox of an encrypted file, committed, before its bytes are out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import sqlcipher3.dbapi2 as sqlite

from bench.measure import Figure, Operation, Side, Target
from bench.ours import TICK, OurPair, run
from bench.pairs import BOB, content_bytes
from bench.steady import the_floor
from tillie import pipeline
from tillie.crypto.random import random_bytes
from tillie.model import Address, Content, Done, Need, Sealed, State
from tillie.pipeline import Policy
from tillie.store import SqlStore, Store

# Beside the results, on the same disk as the project: the system's folder for temporary files may be in memory.
FOLDER = Path(__file__).parent / "results"
BATCH = 40
ROW = 400  # bytes of the row that the floor writes: about a session


def _ours(folder: Path) -> Side:
    def store(account: Address) -> Store:
        return SqlStore(folder / "alice.db", account, random_bytes(32))

    pair = OurPair(store=store)
    pair.meet()
    alice = pair.alice

    def send(content: Content, message_id: str) -> object:
        alice.now += TICK

        def step(s: State) -> Done[Sealed] | Need:
            return pipeline.send(s, alice.scheme, Policy.FIRST_USE, content, Address(BOB), message_id, alice.now)

        return run(alice, step).effects

    def prepare(count: int) -> list[Operation]:
        alice.store.sent(*(row.id for row in alice.store.outbox()))  # as after the server's acknowledgement
        return [partial(send, Content(content_bytes()), random_bytes(12).hex()) for _ in range(count)]

    def check(results: Sequence[object]) -> None:
        if len(alice.store.outbox()) < len(results):
            raise RuntimeError("the outbox lacks messages")

    return Side(prepare, BATCH, check)


def _committer(folder: Path) -> Callable[[bytes], None]:
    """One row, replaced in a transaction of its own: SQLCipher with a raw key, WAL, synchronous=FULL."""
    connection = sqlite.connect(str(folder / "floor.db"), isolation_level=None)
    execute = connection.cursor().execute
    execute(f"PRAGMA key = \"x'{random_bytes(32).hex()}'\"")
    execute("PRAGMA journal_mode = WAL")
    execute("PRAGMA synchronous = FULL")
    execute("CREATE TABLE records (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
    execute("INSERT INTO records VALUES ('session', ?)", (bytes(ROW),))

    def commit(value: bytes) -> None:
        execute("BEGIN IMMEDIATE")
        execute("UPDATE records SET value = ? WHERE name = 'session'", (value,))
        execute("COMMIT")

    return commit


def _floor(folder: Path) -> Side:
    commit = _committer(folder)

    def operation(content: bytes, row: bytes) -> bytes:
        element = the_floor().encrypt(content)
        commit(row)
        return element

    return Side(
        lambda count: [partial(operation, content_bytes(), random_bytes(ROW)) for _ in range(count)],
        BATCH,
    )


def _encrypt() -> Figure:
    FOLDER.mkdir(exist_ok=True)
    folder = tempfile.TemporaryDirectory(dir=FOLDER, prefix="durable-")
    path = Path(folder.name)
    sides = {"ours": _ours(path), "floor": _floor(path)}
    return Figure("omemo.encrypt.1.durable", sides, Target(floor_ratio=2.5), keep=folder)


FIGURES = {"omemo.encrypt.1.durable": _encrypt}
