"""What waits for other servers, and how it gets there (server-server API, "Transactions").

One transaction at a time is under way to a server, and its id and content are in the database before it is tried: after
a failure, or a crash, the same is sent again, which the other server takes in once. Nothing runs for a server that
nothing waits for, nor while it is given time to come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tillie.crypto.random import random_bytes, random_index
from tillie.home.database import Connection
from tillie.home.federation.absence import Absence
from tillie.home.federation.transport import Failed, Transport

if TYPE_CHECKING:
    from tillie.home.service import Home

SEND = "/_matrix/federation/v1/send/"
MAX_EDUS = 100  # "a transaction ... must not include more than ... 100 EDUs"
MAX_BYTES = 64 << 10  # of EDUs in a transaction, unless one alone has more
MAX_WAITING = 50_000  # EDUs for one server; then the oldest go
SEND_SECONDS = 60.0  # the other server may have much to do
AFTER_FAULT_SECONDS = 60.0  # a disk that was full may have room again
STOP_SECONDS = 5.0  # for what is under way when the home stops
# Servers at once: those that answered before; those that failed the last time; those never heard of, whose names
# anybody with an account may have made up. However many hang or are gone, they take no place of the first.
MAX_SENDING = 50
MAX_RETRYING = 20
MAX_STRANGERS = 20
MAX_ANSWERED = 10_000  # servers that are known to have answered
SPLIT_AFTER = 10  # answers of 500 to one transaction, before its EDUs go one by one
_RETRIED = (401, 404, 408, 429)  # may be another tomorrow: its keys, its proxy, its rate limits
_DAY_MS = 86_400_000


# -- steps on the database ------------------------------------------------------------------------------------------


class Transaction(NamedTuple):
    """What is sent in one request."""

    id: str
    edus: tuple[bytes, ...]

    def body(self, origin: str) -> dict[str, Any]:
        """The same for the same id, whenever it is made."""
        made = int(self.id.partition("-")[0])
        edus = [msgspec.json.decode(each) for each in self.edus]
        return {"origin": origin, "origin_server_ts": made, "pdus": [], "edus": edus}


def enqueue(conn: Connection, server: str, edu: Mapping[str, Any], now: int) -> None:
    """Put an EDU behind those that wait for a server, in the transaction of what it tells. `now` in milliseconds."""
    conn.execute(
        """
        INSERT INTO outgoing (server, position, json, created_ts)
        SELECT ?, COALESCE(MAX(position), 0) + 1, ?, ? FROM outgoing WHERE server = ?
        """,
        (server, msgspec.json.encode(edu), now, server),
    )
    conn.execute(
        "DELETE FROM outgoing WHERE server = ? AND transaction_id IS NULL"
        " AND position <= (SELECT MAX(position) FROM outgoing WHERE server = ?) - ?",
        (server, server, MAX_WAITING),
    )


class _Row(NamedTuple):
    position: int
    json: bytes
    transaction_id: str | None
    created_ts: int


def take(conn: Connection, server: str, now: int, oldest: int, most: int = MAX_EDUS) -> Transaction | None:
    """The transaction that is under way to a server, else a new one of at most `most` EDUs; None if nothing waits.
    What comes first and was there before `oldest` is dropped, a transaction as a whole."""
    rows = _first(conn, server)
    while old := _too_old(rows, oldest):
        conn.execute("DELETE FROM outgoing WHERE server = ? AND position <= ?", (server, old[-1].position))
        rows = _first(conn, server)
    if not rows:
        return None
    if under_way := _under_way(rows):
        return Transaction(under_way[0].transaction_id or "", tuple(each.json for each in under_way))
    chosen: list[_Row] = []
    for each in rows[:most]:
        if chosen and sum(len(row.json) for row in chosen) + len(each.json) > MAX_BYTES:
            break
        chosen.append(each)
    id = f"{now}-{random_bytes(8).hex()}"
    conn.execute(
        "UPDATE outgoing SET transaction_id = ? WHERE server = ? AND position <= ?", (id, server, chosen[-1].position)
    )
    return Transaction(id, tuple(each.json for each in chosen))


# No step for one transaction may read a whole queue, which may be long: the one under way always comes first.
_FIRST = "SELECT position FROM outgoing WHERE server = ? ORDER BY position LIMIT ?"


def done(conn: Connection, server: str, id: str) -> None:
    """A transaction arrived, or never will."""
    conn.execute(
        f"DELETE FROM outgoing WHERE server = ? AND position IN ({_FIRST}) AND transaction_id = ?",
        (server, server, MAX_EDUS, id),
    )


def release(conn: Connection, server: str, id: str) -> None:
    """Give up a transaction, but not its EDUs."""
    conn.execute(
        f"UPDATE outgoing SET transaction_id = NULL WHERE server = ? AND position IN ({_FIRST}) AND transaction_id = ?",
        (server, server, MAX_EDUS, id),
    )


def _first(conn: Connection, server: str) -> list[_Row]:
    rows = conn.execute(
        "SELECT position, json, transaction_id, created_ts FROM outgoing WHERE server = ? ORDER BY position LIMIT ?",
        (server, MAX_EDUS),
    )
    return [_Row(*row) for row in rows.fetchall()]


def _under_way(rows: list[_Row]) -> list[_Row]:
    id = rows[0].transaction_id if rows else None
    return [each for each in rows if each.transaction_id == id] if id else []


def _too_old(rows: list[_Row], oldest: int) -> list[_Row]:
    if under_way := _under_way(rows):
        return under_way if all(each.created_ts < oldest for each in under_way) else []
    return list(takewhile(lambda each: each.created_ts < oldest, rows))


def put_off(conn: Connection, server: str, failures: int, retry_ts: int) -> None:
    """A server failed so often in a row, and is tried again at that time; 0 and 0: it answered."""
    conn.execute(
        "INSERT INTO servers (server, failures, retry_ts) VALUES (?, ?, ?)"
        " ON CONFLICT (server) DO UPDATE SET failures = excluded.failures, retry_ts = excluded.retry_ts",
        (server, failures, retry_ts),
    )


def waiting(conn: Connection) -> list[tuple[str, int, int]]:
    """(server, failures, when it is tried again) for each that something waits for."""
    return conn.execute(
        """
        SELECT waits.server, COALESCE(servers.failures, 0), COALESCE(servers.retry_ts, 0)
        FROM (SELECT DISTINCT server FROM outgoing) AS waits LEFT JOIN servers ON servers.server = waits.server
        """
    ).fetchall()


# -- on the event loop ----------------------------------------------------------------------------------------------


class _Away(NamedTuple):
    """A server that failed so often in a row, and the timer of its next chance."""

    failures: int
    timer: asyncio.TimerHandle


class Outgoing:
    """Brings what waits to its servers: a task for each that is being spoken to, a timer for each that failed."""

    def __init__(self, home: Home, transport: Transport, absence: Absence) -> None:
        self._home = home
        self._transport = transport
        self._absence = absence
        self._config = home.config.federation
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._more: set[str] = set()  # those woken while they were being spoken to
        self._away: dict[str, _Away] = {}
        self._refused: dict[str, int] = {}  # how often a server answered 500 to what is under way to it
        self._single: dict[str, int] = {}  # how many EDUs still go one by one
        self._answered: dict[str, None] = {}  # the one heard of longest ago comes first
        self._places = asyncio.Semaphore(MAX_SENDING)
        self._places_to_retry = asyncio.Semaphore(MAX_RETRYING)
        self._places_of_strangers = asyncio.Semaphore(MAX_STRANGERS)
        self._is_stopping = False

    def start(self) -> None:
        """Go on where the last run ended."""
        for server, failures, retry_ts in self._home.db.read(waiting):
            wait = max(0.0, (retry_ts - self._home.now()) / 1000)
            self._try_in(server, failures, min(wait, self._config.longest_retry))

    async def stop(self) -> None:
        """Let what is under way arrive, for a short time; the rest stays in the database."""
        self._is_stopping = True
        for away in self._away.values():
            away.timer.cancel()
        self._away.clear()
        if self._sending:
            _, late = await asyncio.wait(self._sending.values(), timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def wake(self, *servers: str) -> None:
        """Something waits for these servers, and is committed."""
        for server in servers:
            if server in self._sending:
                self._more.add(server)
            elif server not in self._away and not self._is_stopping:
                self._begin(server, 0)

    def alive(self, server: str) -> None:
        """A server is heard of: if it failed, it gets its next chance soon."""
        self._answered.pop(server, None)
        self._answered[server] = None
        if len(self._answered) > MAX_ANSWERED:
            del self._answered[next(iter(self._answered))]
        away = self._away.get(server)
        if away is not None and away.failures > 1:
            self._try_in(server, 1, self._jittered(self._config.first_retry))

    def _begin(self, server: str, failures: int) -> None:
        self._away.pop(server, None)
        task = asyncio.create_task(self._deliver(server, failures))
        self._sending[server] = task
        task.add_done_callback(lambda ended: self._ended(server, ended))

    def _ended(self, server: str, task: asyncio.Task[None]) -> None:
        del self._sending[server]
        if not task.cancelled() and (error := task.exception()) is not None and not self._is_stopping:
            self._home.log.fault(error, server=server)
            self._try_in(server, 2, min(AFTER_FAULT_SECONDS, self._config.longest_retry))
        if server in self._more:
            self._more.discard(server)
            self.wake(server)

    def _try_in(self, server: str, failures: int, seconds: float) -> None:
        if server in self._away:
            self._away[server].timer.cancel()
        if not self._is_stopping:
            timer = asyncio.get_running_loop().call_later(seconds, self._begin, server, failures)
            self._away[server] = _Away(failures, timer)

    async def _deliver(self, server: str, failures: int) -> None:
        """One transaction after the other, until nothing waits or the server fails."""
        async with self._place(server, failures):
            while not self._is_stopping:
                transaction = await self._take(server)
                if transaction is None:
                    return
                failed = await self._send(server, transaction)
                if failed is None:
                    await self._arrived(server, transaction, failures)
                    failures = 0
                elif not await self._gave_way(server, transaction, failed):
                    failures += 1
                    await self._wait(server, failures, failed)
                    return

    def _place(self, server: str, failures: int) -> asyncio.Semaphore:
        if failures:
            return self._places_to_retry
        return self._places if server in self._answered else self._places_of_strangers

    async def _take(self, server: str) -> Transaction | None:
        now = self._home.now()
        oldest = now - int(self._config.forget_after_days * _DAY_MS)
        most = 1 if self._single.get(server) else MAX_EDUS
        return await self._home.db.write(lambda conn: take(conn, server, now, oldest, most))

    async def _send(self, server: str, transaction: Transaction) -> Failed | None:
        body = transaction.body(self._home.server)
        try:
            await self._transport.signed(server, "PUT", SEND + transaction.id, body, seconds=SEND_SECONDS)
        except Failed as failed:
            return failed
        return None

    async def _arrived(self, server: str, transaction: Transaction, failures: int) -> None:
        def step(conn: Connection) -> None:
            done(conn, server, transaction.id)
            if failures:
                put_off(conn, server, 0, 0)

        await self._home.db.write(step)
        self._absence.heard(server)
        self.alive(server)
        self._refused.pop(server, None)
        self._count_single(server)

    async def _gave_way(self, server: str, transaction: Transaction, failed: Failed) -> bool:
        """Whether a transaction that its server does not want is out of the way: split, then dropped."""
        is_final = 400 <= failed.status < 500 and failed.status not in _RETRIED
        if failed.status == 500:
            self._refused[server] = self._refused.get(server, 0) + 1
            is_final = self._refused[server] >= SPLIT_AFTER
        if not is_final:
            return False
        self._refused.pop(server, None)
        if len(transaction.edus) > 1:
            self._single[server] = len(transaction.edus)
            await self._home.db.write(lambda conn: release(conn, server, transaction.id))
        else:
            self._count_single(server)
            self._home.log.event("edu_dropped", server=server, status=failed.status, errcode=failed.errcode)
            await self._home.db.write(lambda conn: done(conn, server, transaction.id))
        return True

    def _count_single(self, server: str) -> None:
        if server in self._single:
            self._single[server] -= 1
            if not self._single[server]:
                del self._single[server]

    async def _wait(self, server: str, failures: int, failed: Failed) -> None:
        """Put a server off: twice as long each time, or as long as it asks for."""
        seconds = min(self._config.first_retry * 2.0 ** min(failures - 1, 32), self._config.longest_retry)
        if failed.retry_after is not None:
            seconds = min(max(seconds, failed.retry_after), self._config.longest_retry)
        seconds = self._jittered(seconds)
        until = self._home.now() + int(seconds * 1000)
        await self._home.db.write(lambda conn: put_off(conn, server, failures, until))
        self._home.log.event("server_put_off", server=server, status=failed.status, seconds=round(seconds, 1))
        self._more.discard(server)
        self._try_in(server, failures, seconds)

    def _jittered(self, seconds: float) -> float:
        """Up to a quarter longer: servers that lost one another don't all come back at once."""
        return seconds * (1 + random_index(1_000) / 4_000)
