"""The floor of claims: the smallest application with the same token check, rate limit, fallback look-up and durability.

`python -m uvicorn --factory bench.home_floor:application` with the database in FLOOR_DATABASE. It checks nothing else,
asks no other server, and remembers no key that it gave.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from queue import Empty, SimpleQueue

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

DATABASE = "FLOOR_DATABASE"
MAX_BATCH = 256
PER_SECOND, BURST = 1e9, 1e9

SCHEMA = """
    CREATE TABLE tokens (hash BLOB PRIMARY KEY, user TEXT, device TEXT) WITHOUT ROWID;
    CREATE TABLE keys (user TEXT, device TEXT, algorithm TEXT, position INTEGER, name TEXT, json BLOB,
        PRIMARY KEY (user, device, algorithm, position)) WITHOUT ROWID;
    CREATE TABLE fallback (user TEXT, device TEXT, algorithm TEXT, name TEXT, json BLOB, used INTEGER,
        PRIMARY KEY (user, device, algorithm)) WITHOUT ROWID;
"""
WHO = "SELECT user, device FROM tokens WHERE hash = ?"
TAKE = """
    DELETE FROM keys WHERE user = ?1 AND device = ?2 AND algorithm = ?3 AND position =
        (SELECT min(position) FROM keys WHERE user = ?1 AND device = ?2 AND algorithm = ?3)
    RETURNING name, json
"""
FALL_BACK = "UPDATE fallback SET used = 1 WHERE user = ?1 AND device = ?2 AND algorithm = ?3 RETURNING name, json"


_positions = count()

Given = dict[str, dict[str, dict[str, msgspec.Raw]]]


class Claim(msgspec.Struct):
    one_time_keys: dict[str, dict[str, str]]


def connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


def add_token(connection: sqlite3.Connection, user: str, device: str, token: str) -> None:
    connection.execute("INSERT INTO tokens VALUES (?, ?, ?)", (_hash(token), user, device))


def add_keys(connection: sqlite3.Connection, user: str, device: str, keys: Mapping[str, object]) -> None:
    """One-time keys of a device, {"algorithm:id": key}, after those that it has."""
    for name, key in keys.items():
        row = (user, device, name.partition(":")[0], next(_positions), name, _encode(key))
        connection.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?)", row)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Floor:
    """Tokens are read on the event loop, keys are taken on a thread, as many at once as wait."""

    def __init__(self, path: str) -> None:
        self.reader, self.writer = connect(path), connect(path)
        self.queue: SimpleQueue[tuple[Claim, asyncio.Future[Given]]] = SimpleQueue()
        self.buckets: dict[str, tuple[float, float]] = {}
        self.loop: asyncio.AbstractEventLoop | None = None

    async def claim(self, request: Request) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        who = self.reader.execute(WHO, (_hash(token),)).fetchone()
        if who is None:
            return Response(b'{"errcode":"M_UNKNOWN_TOKEN"}', 401, media_type="application/json")
        wanted = _decode(await request.body())
        if not self.may(who[0]):
            return Response(b'{"errcode":"M_LIMIT_EXCEEDED"}', 429, media_type="application/json")
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
            threading.Thread(target=self.write, daemon=True).start()
        done = self.loop.create_future()
        self.queue.put((wanted, done))
        return Response(_encode({"one_time_keys": await done, "failures": {}}), media_type="application/json")

    def may(self, user: str) -> bool:
        now = time.monotonic()
        left, since = self.buckets.get(user, (BURST, now))
        left = min(BURST, left + (now - since) * PER_SECOND)
        self.buckets[user] = (left - 1, now)
        return left >= 1

    def write(self) -> None:
        assert self.loop is not None
        while True:
            batch = [self.queue.get()]
            try:
                while len(batch) < MAX_BATCH:
                    batch.append(self.queue.get_nowait())
            except Empty:
                pass
            self.writer.execute("BEGIN IMMEDIATE")
            results = [self.take(wanted) for wanted, _ in batch]
            self.writer.execute("COMMIT")
            self.loop.call_soon_threadsafe(_tell, batch, results)

    def take(self, wanted: Claim) -> Given:
        given: Given = {}
        for user, devices in wanted.one_time_keys.items():
            for device, algorithm in devices.items():
                of = (user, device, algorithm)
                row = self.writer.execute(TAKE, of).fetchone() or self.writer.execute(FALL_BACK, of).fetchone()
                if row:
                    given.setdefault(user, {})[device] = {row[0]: msgspec.Raw(row[1])}
        return given


def _tell(batch: list[tuple[Claim, asyncio.Future[Given]]], results: list[Given]) -> None:
    for (_, done), result in zip(batch, results, strict=True):
        done.set_result(result)


_decode = msgspec.json.Decoder(Claim).decode
_encode = msgspec.json.Encoder().encode


def application() -> Starlette:
    floor = Floor(os.environ[DATABASE])
    return Starlette(routes=[Route("/_matrix/client/v3/keys/claim", floor.claim, methods=["POST"])])
