"""The tables of the store, how they are made and brought up to date, and SQLite's errors as ours.

    records(scheme, kind, name, value)      what the schemes keep
    queue(id, box, scheme, what, body, created)
        row 0                               body: the generation (see `generation`)
        box 1 (send)                        what: the stanza's id, body: the stanza; scheme: NULL, or "UNTIL SENDER" of
                                            one that only one resource may send, and not after a time
        box 2 (publish)                     scheme, what; one row for each pair of them
        box 3 (deliver)                     body: the message for the program
    meta(name, value)                       account, device, created, rolled back

Outbox, inbox and generation share one table, because a commit costs some 20 microseconds for each page it changes:
while little waits, all three lie on one page. `records` has row ids, as a value beyond 450 bytes or so does not fit
on a page of a table without them and would change two or three. Ids come from the generation and are never used twice,
even after a roll-back, without the page that AUTOINCREMENT would cost. PRAGMA user_version is the schema's version.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlcipher3.dbapi2 as sqlite

from tillie.errors import StoreDamaged, StoreError, StoreLocked, StoreTooNew, StoreUnwritable

SEND, PUBLISH, DELIVER = 1, 2, 3
# Measured: SQLCipher's 4096 takes a quarter longer for a send, which changes two to four pages; with 1024 a session
# does not fit on one. SQLCipher can't find the size out by itself: another one would be another kind of file.
PAGE = 2048
BUSY_SECONDS = 30.0
WAL_PAUSE = 0.005  # seconds between two attempts to switch it on

_VERSION_1 = (
    "CREATE TABLE records(scheme TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL,"
    " PRIMARY KEY(scheme, kind, name))",
    "CREATE TABLE queue(id INTEGER PRIMARY KEY, box INTEGER NOT NULL, scheme TEXT, what TEXT, body, created REAL)",
    "CREATE UNIQUE INDEX one_publish ON queue(scheme, what) WHERE box = 2",
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value NOT NULL)",
    "INSERT INTO queue(id, box, body) VALUES (0, 0, 0)",
)
MIGRATIONS: tuple[tuple[str, ...], ...] = (_VERSION_1,)
"""What leads from version N to N + 1, at place N."""
VERSION = len(MIGRATIONS)


def connect(path: Path, key: bytes) -> sqlite.Connection:
    """A connection to an existing file (perhaps an empty one), with SQLCipher's raw key set.

    Nothing is read yet: a wrong key shows with the first statement. Raises `StoreDamaged` if not even a page is left.
    """
    if 0 < path.stat().st_size < PAGE:  # SQLite would take some of these for a new file
        raise StoreDamaged(f"{path} is cut short.")
    connection = sqlite.connect(
        str(path), isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False, cached_statements=64
    )
    # SQLCipher would write its errors to stderr, in the middle of somebody's terminal.
    connection.execute("PRAGMA cipher_log_level = NONE")
    connection.execute(f"PRAGMA key = \"x'{key.hex()}'\"")
    connection.execute(f"PRAGMA cipher_page_size = {PAGE}")
    return connection


def version(connection: sqlite.Connection, path: Path) -> int:
    """The schema's version, 0 for a new file. Raises `StoreLocked`, `StoreDamaged`, `StoreTooNew`; changes nothing."""
    with translated(opening=path):
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > VERSION:
        raise StoreTooNew(f"Its schema is version {found}, the newest known here is {VERSION}.")
    return found


def upgrade(connection: sqlite.Connection, found: int) -> None:
    """Bring the schema from version `found` to the newest, inside the caller's transaction."""
    for statements in MIGRATIONS[found:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def use_wal(connection: sqlite.Connection) -> None:
    """Write ahead (WAL), which the file remembers.

    SQLite asks no busy handler for this statement: while another process makes the file, or is the last to close it,
    it fails at once. So it is tried again, for as long as any other statement would wait.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(WAL_PAUSE)
        else:
            return


_UNWRITABLE = frozenset(
    (sqlite.SQLITE_READONLY, sqlite.SQLITE_FULL, sqlite.SQLITE_CANTOPEN, sqlite.SQLITE_PERM, sqlite.SQLITE_IOERR)
)
_DAMAGED = frozenset((sqlite.SQLITE_CORRUPT, sqlite.SQLITE_NOTADB, sqlite.SQLITE_FORMAT))
_UNREADABLE = frozenset((sqlite.SQLITE_IOERR | 1 << 8, sqlite.SQLITE_IOERR | 2 << 8))  # IOERR_READ, IOERR_SHORT_READ
_BUSY = frozenset((sqlite.SQLITE_BUSY, sqlite.SQLITE_LOCKED))


@contextmanager
def translated(opening: Path | None = None) -> Iterator[None]:
    """SQLite's and the system's errors as `StoreError`s. With `opening`, the key has not been seen to work yet."""
    try:
        yield
    except sqlite.Error as error:
        raise translate(error, opening) from error
    except OSError as error:
        raise StoreUnwritable(f"{error.strerror}.") from error


def translate(error: sqlite.Error, opening: Path | None = None) -> StoreError:
    """One of SQLite's errors as ours. The text is SQLite's own, which never quotes a value."""
    extended = getattr(error, "sqlite_errorcode", sqlite.SQLITE_ERROR)
    code = extended & 0xFF
    if code == sqlite.SQLITE_NOTADB and opening is not None:
        return StoreLocked(f"{opening} was made with another key, or is not a store.")
    if code in _DAMAGED or extended in _UNREADABLE:
        return StoreDamaged(f"{error}.")
    if code in _UNWRITABLE:
        return StoreUnwritable(f"{error}.")
    if code in _BUSY:
        return StoreUnwritable(f"Another program has held it for more than {BUSY_SECONDS:.0f} seconds.")
    return StoreError(f"{error}.")
