"""The home's database: SQLite in WAL mode, one writer with group commit, and a reader on the event loop.

Requests that come while a commit is under way share the next one: an fsync costs some milliseconds, a claim some
microseconds. What `write` returned is on the disk. The SQL is what PostgreSQL speaks, too; what is SQLite's own stands
here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tillie.errors import StoreTooNew, StoreUnwritable, UsageError
from tillie.home.schema import MIGRATIONS

T = TypeVar("T")
Connection = sqlite3.Connection

MAX_BATCH = 256  # steps in one commit
_BUSY_SECONDS = 10.0
_CHECKPOINT_PAGES = (
    8_000  # 32 MB: pages that many commits change are copied into the file once; a quarter of a claim's cost
)


class _Step(NamedTuple):
    work: Callable[[Connection], Any]
    done: asyncio.Future[Any]


class Database:
    """One database file, used from one event loop. Another process may read it, and write now and then (`adduser`).

    Raises `StoreUnwritable` if the file can't be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fault = ""  # why the last commit could not be made
        with contextlib.suppress(OSError):  # what is wrong with the file, SQLite says
            # Hashes of passwords, and who writes to whom: its owner's alone. What SQLite puts beside it is as this is.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            self._writer = _open(path)
            _migrate(self._writer)
            self._reader = _open(path)
        except sqlite3.Error as error:
            if _is_disk(error):
                raise StoreUnwritable(f"{path}: {error}.") from None
            raise
        self._reader.execute("PRAGMA query_only = ON")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._waiting: list[_Step] = []
        self._committing: asyncio.Task[None] | None = None
        self._is_closed = False

    def read(self, work: Callable[[Connection], T]) -> T:
        """Look something up, at once; sees every commit that `write` has returned from."""
        return work(self._reader)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run a step in a transaction that it shares with others, and return when that is committed. What it raises
        undoes this step alone. Raises `StoreUnwritable` if the disk is full, or the like."""
        if self._is_closed:
            raise UsageError("The database is closed.")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Step(work, done))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all())
        return await done

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._commit(batch)
        finally:
            self._committing = None

    async def _commit(self, batch: list[_Step]) -> None:
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, _run, self._writer, batch)
            self.fault = ""
        except Exception as error:  # noqa: BLE001  the commit failed: nobody was told that anything is done
            self.fault = str(error)
            results = [error] * len(batch)
        for step, result in zip(batch, results, strict=True):
            if step.done.cancelled():
                continue
            if isinstance(result, BaseException):
                step.done.set_exception(StoreUnwritable(str(result)) if _is_disk(result) else result)
            else:
                step.done.set_result(result[0])

    async def close(self) -> None:
        """Commit what waits, and close."""
        self._is_closed = True
        while self._committing is not None:
            await asyncio.shield(self._committing)
        self._thread.shutdown(wait=True)
        self._reader.close()
        self._writer.close()


def _run(conn: Connection, batch: list[_Step]) -> list[Any]:
    """All steps of a batch in one transaction: for each a tuple of its result, or what it raised."""
    results: list[Any] = []
    conn.execute("BEGIN IMMEDIATE")
    try:
        for step in batch:
            conn.execute("SAVEPOINT step")
            try:
                results.append((step.work(conn),))
            except Exception as error:
                if not conn.in_transaction:  # SQLite gave all of it up: the disk is full
                    raise
                conn.execute("ROLLBACK TO step")
                results.append(error)
            conn.execute("RELEASE step")
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise
    return results


def _is_disk(error: BaseException) -> bool:
    """Whether it is the disk's fault, or another process's; not our SQL's."""
    if isinstance(error, sqlite3.OperationalError):
        return error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_ERROR
    return type(error) is sqlite3.DatabaseError  # the file is no database, or is damaged


def _open(path: Path) -> Connection:
    conn = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute("PRAGMA foreign_keys = ON")
    conn.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    return conn


def _migrate(conn: Connection) -> None:
    """Bring the tables to the newest version, one script at a time, each in a transaction of its own."""
    while True:
        conn.execute("BEGIN IMMEDIATE")
        with contextlib.closing(conn.cursor()) as cursor:
            (version,) = cursor.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                conn.execute("ROLLBACK")
                raise StoreTooNew(
                    f"The database has version {version}; this version of Tillie reads {len(MIGRATIONS)}."
                )
            if version == len(MIGRATIONS):
                conn.execute("ROLLBACK")
                return
            for statement in MIGRATIONS[version].split(";\n"):
                cursor.execute(statement)
            cursor.execute(f"PRAGMA user_version = {version + 1}")
        conn.execute("COMMIT")
