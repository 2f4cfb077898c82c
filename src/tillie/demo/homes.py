"""Where the Matrix demo takes place: two private homes that federate over TLS, each a process with a database of its
own."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tillie import __version__
from tillie.account import Account
from tillie.client import Client, connect
from tillie.demo import plaintext
from tillie.demo.home import PrivateHome, make_certificates
from tillie.errors import UsageError
from tillie.networks import Options

PASSWORD = "only for the demo"


class TwoHomes:
    """Alice's home and Bob's. There is no third server, and no stand-in: all that this needs is Python."""

    name = "tillie home"
    version = __version__

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._homes: tuple[PrivateHome, ...] = ()

    @property
    def alices(self) -> PrivateHome:
        return self._homes[0]

    @property
    def bobs(self) -> PrivateHome:
        return self._homes[1]

    async def open(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tillie-homes-"))
        certificates = make_certificates(self._folder)
        self._homes = tuple(PrivateHome(self._folder / name, certificates) for name in ("alices", "bobs"))
        await asyncio.gather(*(asyncio.to_thread(_make_and_start, home) for home in self._homes))

    async def close(self) -> None:
        try:
            await asyncio.gather(*(asyncio.to_thread(home.stop) for home in self._homes))
        finally:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    async def connect(self, account: Account, options: Options | None = None) -> Client:
        """Log in, as the account's settings say."""
        if options is not None:
            raise UsageError("Nothing but an account's settings says how it logs in to a home.")
        return await connect(account, PASSWORD, listening=True)

    def seen(self) -> Iterator[tuple[str, bytes]]:
        # Databases with what SQLite has not written over yet, logs, and what the operators have.
        if self._folder is not None:
            yield from plaintext.files(self._folder)

    def archived(self, payload: bytes) -> list[tuple[str, str]]:
        """Messages that wait for a device and hold this."""
        return [
            (f"{home.folder.name}/{home.database.name}, messages", bytes(event).decode())
            for home in self._homes
            for (event,) in rows(home, "SELECT json FROM messages")
            if payload in bytes(event)
        ]

    def published(self, payload: bytes) -> list[tuple[str, str]]:
        return []


def rows(home: PrivateHome, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Look into a home's database, as its operator can."""
    with closing(sqlite3.connect(f"file:{home.database}?mode=ro", uri=True)) as database:
        return database.execute(query, values).fetchall()


def _make_and_start(home: PrivateHome) -> None:
    home.make()
    home.start()
    home.wait()
