"""go-sendxmpp as a peer for OpenPGP for XMPP: one account of a private server, with a home of its own.

It publishes one key for each account, trusts the newest key that a contact announces, and seals to itself, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Protocol

from support.prosody import PASSWORD

SECONDS = 30.0
STOP_SECONDS = 5.0


class GoSendXmppError(Exception):
    """go-sendxmpp ended with an error; the text is what it wrote."""


class Server(Protocol):
    """A private server: STARTTLS on 127.0.0.1:`port`, certified by the authority in `ca_file`."""

    @property
    def port(self) -> int: ...
    @property
    def ca_file(self) -> Path: ...


def unavailable() -> str:
    """Why go-sendxmpp can't be used here, in one sentence; empty if it can."""
    return "" if shutil.which("go-sendxmpp") else "go-sendxmpp is not installed"


class Listener:
    """A running `go-sendxmpp --listen`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> str:
        """The next line it prints: "TIME [OX] SENDER: TEXT" for a message that it could open."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), SECONDS)
        if not line:
            raise GoSendXmppError("it stopped listening")
        return line.decode("utf-8", "replace").rstrip("\n")


class GoSendXmpp:
    """The account `jid` on `server`, in a `with` block. Its secret key rests under `passphrase`, or under none."""

    def __init__(self, server: Server, jid: str, password: str = PASSWORD, *, passphrase: str = "for the key") -> None:
        self.jid = jid
        self.home = Path()
        self._server = server
        self._password = password
        self.passphrase = passphrase

    def __enter__(self) -> GoSendXmpp:
        self.home = Path(tempfile.mkdtemp(prefix="tillie-gosendxmpp-"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.home, ignore_errors=True)

    async def generate(self) -> None:
        """Make an X25519 key with the user id "xmpp:JID", announce and publish it."""
        await self._finish(await self._start("--ox-genprivkey-x25519"))

    async def take(self, secret_key: bytes) -> None:
        """Use this key, protected by the passphrase of this account, and publish it."""
        file = self.home / "import.pgp"
        file.write_bytes(secret_key)
        await self._finish(await self._start("--ox-import-privkey", str(file)))

    async def send(self, to: str, text: str) -> None:
        """Seal `text` for the newest key that `to` announces, and send it."""
        await self._finish(await self._start("--ox", to), text.encode())

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncIterator[Listener]:
        """Come online and print messages, those first that wait on the server."""
        process = await self._start("--ox", "--listen")
        try:
            yield Listener(process)
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                await asyncio.wait_for(process.communicate(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.communicate()

    async def _start(self, *words: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *("go-sendxmpp", "--username", self.jid, "--password", self._password),
            *("--jserver", f"127.0.0.1:{self._server.port}"),
            *(("--ox-passphrase", self.passphrase) if self.passphrase else ()),
            *words,
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "HOME": str(self.home),
                "SSL_CERT_FILE": str(self._server.ca_file),
                "SSL_CERT_DIR": str(self.home),  # no authority of the system
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def _finish(self, process: asyncio.subprocess.Process, text: bytes = b"") -> None:
        try:
            said, _ = await asyncio.wait_for(process.communicate(text), SECONDS)
        except TimeoutError:
            process.kill()
            said, _ = await process.communicate()
            raise GoSendXmppError(f"no end after {SECONDS:g} s: {said.decode('utf-8', 'replace')}") from None
        # It ends with 0 even where it did nothing, but then says why; all is well when it says nothing.
        if process.returncode or said.strip():
            raise GoSendXmppError(said.decode("utf-8", "replace"))
