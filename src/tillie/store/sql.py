"""The store in a file: SQLCipher with a raw key, in WAL mode, durable at every commit. One file for each account."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock, RLock
from time import time
from typing import Any, TypeVar

import sqlcipher3.dbapi2 as sqlite

from tillie.errors import StoreDamaged, StoreMismatch, StoreUnwritable, UsageError
from tillie.model import Address, Deliver, Done, Key, Need, Publish, Send
from tillie.store.contract import Committed, Outgoing, Step, number
from tillie.store.generation import SideFile, peek
from tillie.store.schema import (
    DELIVER,
    PUBLISH,
    SEND,
    VERSION,
    connect,
    translate,
    translated,
    upgrade,
    use_wal,
    version,
)

T = TypeVar("T")

KEY_SIZE = 32
CACHE_MAX = 4096
"""Records kept in memory between steps (at most; they are kept for speed alone)."""

_GET = "SELECT value FROM records WHERE scheme = ? AND kind = ? AND name = ?"
_PUT = "INSERT INTO records VALUES (?, ?, ?, ?) ON CONFLICT(scheme, kind, name) DO UPDATE SET value = excluded.value"
_DELETE = "DELETE FROM records WHERE scheme = ? AND kind = ? AND name = ?"
_SCAN = "SELECT name, value FROM records WHERE scheme = ? AND kind = ? AND name >= ? ORDER BY name"
_GENERATION = "SELECT body FROM queue WHERE id = 0"
_SET_GENERATION = "UPDATE queue SET body = ? WHERE id = 0"
# A Publish replaces the pending one of the same scheme and what (index one_publish), and its id is a new one: whoever
# deletes the older by its id after publishing it does not delete the newer request.
_QUEUE = "INSERT OR REPLACE INTO queue VALUES (?, ?, ?, ?, ?, ?)"
_OUTBOX = f"SELECT id, box, scheme, what, body, created FROM queue WHERE box IN ({SEND}, {PUBLISH}) ORDER BY id"
_INBOX = f"SELECT id, body FROM queue WHERE box = {DELIVER} ORDER BY id"
_SENT = f"DELETE FROM queue WHERE id = ? AND box IN ({SEND}, {PUBLISH})"
_ACKNOWLEDGE = f"DELETE FROM queue WHERE id = ? AND box = {DELIVER}"


# Closing any descriptor of a file drops all POSIX locks that this process has on it, SQLite's too. So a file is made
# only while no other thread can have begun to use it.
_OPENING = Lock()


class SqlStore:
    """A `Store` in one SQLCipher file, with NAME.generation beside it (see `generation`: roll-backs, and which of them
    can't be found). Any number of threads and processes may have it open; their steps run one after the other.

    Raises `StoreLocked`, `StoreDamaged`, `StoreTooNew`, `StoreMismatch` or `StoreUnwritable`.
    """

    def __init__(
        self, path: Path, account: Address, key: bytes, *, device: int | None = None, clock: Callable[[], float] = time
    ) -> None:
        if len(key) != KEY_SIZE:
            raise UsageError(f"The key of a store has {KEY_SIZE} bytes.")
        self.account = account
        self.path = path
        self.rolled_back = False
        self._clock = clock
        self._lock = RLock()
        self._cache: dict[Key, bytes | None] = {}
        self._generation = -1  # of the records in the cache
        self._busy = False
        self._side: SideFile | None = None
        self._connection: sqlite.Connection | None = None
        with _OPENING:
            self._connection = _connect(path, key)
        self._execute = self._connection.cursor().execute
        try:
            self._open(device)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"SqlStore({str(self.path)!r}, {self.account!r})"

    # -- opening ----------------------------------------------------------------------------------------------------

    def _open(self, device: int | None) -> None:
        assert self._connection is not None
        side_path = self.path.with_name(self.path.name + ".generation")
        with translated():
            found = version(self._connection, self.path)
            use_wal(self._connection)
            self._execute("PRAGMA synchronous = FULL")
            seen = peek(side_path)  # before the database (see `generation`)
            if found < VERSION or self._stale(seen):
                self._prepare(side_path)
            else:
                self._side = SideFile(side_path)
            self._bind(device)
            # Says at once, not at the first message, that the file can't be written.
            self._execute("BEGIN IMMEDIATE")
            self._execute("ROLLBACK")
            self.rolled_back = self._meta("rolled back") is not None

    def _stale(self, seen: int | None) -> bool:
        """Whether the database is older than the number `seen` in the side file, or that number is lost."""
        return seen is None or seen > self._read_generation()

    def _prepare(self, side_path: Path) -> None:
        """Make or upgrade the tables, and write down a roll-back, all in one transaction and alone."""
        assert self._connection is not None
        self._execute("BEGIN IMMEDIATE")
        try:
            # Looked at again, now that nobody else can commit: another process may have done all this meanwhile.
            found = version(self._connection, self.path)
            seen = peek(side_path)
            self._side = SideFile.create(side_path)
            upgrade(self._connection, found)
            if found == 0:
                self._set_meta("account", str(self.account))
                self._set_meta("created", self._clock())
            elif self._stale(seen):
                self._set_meta("rolled back", 1)  # until `accept_roll_back`
            # Beyond everything seen, so that ids stay new and the next opening does not find the same again. A new
            # database beside an old side file has nothing in it that could be old.
            generation = max(self._read_generation(), seen or 0) + 1
            self._execute(_SET_GENERATION, (generation,))
            self._execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        self._side.raise_to(generation)

    def _bind(self, device: int | None) -> None:
        """Refuse another account's store; keep our device id if this is the first time that it is told."""
        account, known = self._meta("account"), self._meta("device")
        if account != str(self.account):
            raise StoreMismatch(f"It belongs to {account}, not to {self.account}.")
        if device is None:
            return
        if known is None:
            self._execute("INSERT OR IGNORE INTO meta VALUES ('device', ?)", (device,))
            known = self._meta("device")
        if known != device:
            raise StoreMismatch(f"It belongs to device {known}, not to device {device}.")

    def _meta(self, name: str) -> object:
        row = self._execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def _set_meta(self, name: str, value: str | float) -> None:
        self._execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def _read_generation(self) -> int:
        row = self._execute(_GENERATION).fetchone()
        if row is None or not isinstance(row[0], int):
            raise StoreDamaged("Its generation is missing.")
        return row[0]

    # -- steps ------------------------------------------------------------------------------------------------------

    def run(self, step: Step[T], /) -> Committed[T] | Need:
        with self._lock:
            return self._transaction(step, accept=False)

    def accept_roll_back(self, step: Step[T], /) -> Committed[T] | Need:
        with self._lock:
            out = self._transaction(step, accept=True)
            if isinstance(out, Committed):
                self.rolled_back = False
            return out

    def _transaction(self, step: Step[T], *, accept: bool) -> Committed[T] | Need:
        self._check()
        execute = self._execute
        self._busy = True
        try:
            execute("BEGIN IMMEDIATE")
            generation = self._read_generation()
            if generation != self._generation:
                # Another process has written. Nobody writes records without raising the generation, and nobody can
                # write while we are in this transaction: so the cache holds what the file holds.
                self._cache.clear()
                self._generation = generation
            state = _SqlState(execute, self._cache)
            done = step(state)
            if isinstance(done, Need):
                execute("ROLLBACK")
                return done
            changes, effects = state.changes, done.effects
            ids = number(effects, generation + 1) if effects else ()
            if accept:
                execute("DELETE FROM meta WHERE name = 'rolled back'")
            if accept or changes or any(each is not None for each in ids):
                self._write(changes, done, ids)
                execute(_SET_GENERATION, (generation + 1,))
                execute("COMMIT")
                self._committed(changes, generation + 1)
            else:
                execute("COMMIT")
            return Committed(done.value, effects, ids)
        except sqlite.Error as error:
            self._roll_back()
            raise translate(error) from error
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._busy = False

    def _write(self, changes: dict[Key, bytes | None], done: Done[T], ids: tuple[int | None, ...]) -> None:
        execute = self._execute
        for key, value in changes.items():
            if value is None:
                execute(_DELETE, key)
            else:
                execute(_PUT, (*key, value))
        for each, effect in zip(ids, done.effects, strict=True):
            if isinstance(effect, Send):
                execute(_QUEUE, (each, SEND, _bound(effect), effect.id, effect.stanza, self._clock()))
            elif isinstance(effect, Publish):
                execute(_QUEUE, (each, PUBLISH, effect.scheme, effect.what, None, self._clock()))
            elif isinstance(effect, Deliver):
                execute(_QUEUE, (each, DELIVER, None, None, effect.message, self._clock()))

    def _committed(self, changes: dict[Key, bytes | None], generation: int) -> None:
        if len(self._cache) > CACHE_MAX:
            self._cache.clear()
        self._cache.update(changes)
        self._generation = generation
        assert self._side is not None
        try:
            self._side.raise_to(generation)
        except OSError:
            # The commit stands and must be reported so: the caller would else do the step twice. A side file that lags
            # behind is harmless, and the full disk behind this shows at the next commit.
            return

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self._execute("ROLLBACK")

    def _check(self) -> None:
        if self._busy:
            raise UsageError("A step must not call the store it runs in.")
        if self._connection is None:
            raise UsageError("The store is closed.")

    # -- outbox and inbox -------------------------------------------------------------------------------------------

    def outbox(self) -> list[Outgoing]:
        return [
            Outgoing(each, _send(body, what, scheme) if box == SEND else Publish(scheme, what), created)
            for each, box, scheme, what, body, created in self._all(_OUTBOX)
        ]

    def inbox(self) -> list[tuple[int, bytes]]:
        return self._all(_INBOX)

    def sent(self, *ids: int) -> None:
        self._remove(_SENT, ids)

    def acknowledge(self, *ids: int) -> None:
        self._remove(_ACKNOWLEDGE, ids)

    def _all(self, query: str) -> list[Any]:
        with self._lock, translated():
            self._check()
            rows: list[Any] = self._execute(query).fetchall()
            return rows

    def _remove(self, statement: str, ids: Iterable[int]) -> None:
        """Delete rows of the queue in a commit that does not wait for the disk (about a quarter of the time).

        A power cut may bring such a row back: then the same bytes are sent, or the same message delivered, once more.
        The generation stays as it is: one that the side file had and the database lost would be a false alarm.
        """
        with self._lock, translated():
            self._check()
            self._execute("PRAGMA synchronous = NORMAL")
            try:
                self._execute("BEGIN IMMEDIATE")
                for each in ids:
                    self._execute(statement, (each,))
                self._execute("COMMIT")
            finally:
                self._roll_back()
                self._execute("PRAGMA synchronous = FULL")

    def close(self) -> None:
        with self._lock:
            if self._busy:
                raise UsageError("A step must not close the store it runs in.")
            connection, self._connection = self._connection, None
            self._cache.clear()
            side, self._side = self._side, None
            if side is not None:
                side.close()
            if connection is not None:
                with translated():
                    connection.close()


class _SqlState:
    """One transaction: what it changed lies over the cache, the cache over the file."""

    __slots__ = ("cache", "changes", "execute")

    def __init__(self, execute: Callable[..., sqlite.Cursor], cache: dict[Key, bytes | None]) -> None:
        self.execute = execute
        self.cache = cache
        self.changes: dict[Key, bytes | None] = {}

    def get(self, key: Key, /) -> bytes | None:
        changes = self.changes
        if key in changes:
            return changes[key]
        cache = self.cache
        if key in cache:
            return cache[key]
        row = self.execute(_GET, key).fetchone()
        value: bytes | None = row[0] if row else None
        if len(cache) < CACHE_MAX:
            cache[key] = value
        return value

    def put(self, key: Key, value: bytes | None, /) -> None:
        self.changes[key] = value

    def scan(self, prefix: Key, /) -> list[tuple[Key, bytes]]:
        scheme, kind, start = prefix
        changes = self.changes
        found: dict[Key, bytes] = {}
        for name, value in self.execute(_SCAN, prefix):
            if not name.startswith(start):
                break
            key = Key(scheme, kind, name)
            if key not in changes:
                found[key] = value
        for key, changed in changes.items():
            if changed is not None and key[:2] == (scheme, kind) and key[2].startswith(start):
                found[key] = changed
        return sorted(found.items())


def _bound(effect: Send) -> str | None:
    """Who may send it, and until when, as one column."""
    return f"{effect.until!r} {effect.sender}" if effect.sender or effect.until else None


def _send(stanza: bytes, id: str, bound: str | None) -> Send:
    if bound is None:
        return Send(stanza, id)
    until, _, sender = bound.partition(" ")
    return Send(stanza, id, sender, float(until))


def _connect(path: Path, key: bytes) -> sqlite.Connection:
    """A connection to the file, which is made (empty, for its owner alone) if it is not there."""
    with translated():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        # SQLite would open it for reading and fail at the first write. Asked, not tried: closing a descriptor of one's
        # own drops the locks that another connection of this process has on the file.
        if not os.access(path, os.W_OK):
            raise StoreUnwritable(f"{path.name} may not be written.")
        return connect(path, key)
