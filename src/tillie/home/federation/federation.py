"""All that a home says to other homes, and hears from them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING

from tillie.errors import StoreUnwritable
from tillie.home import lists
from tillie.home.database import Connection
from tillie.home.federation import followed, incoming
from tillie.home.federation.absence import Absence
from tillie.home.federation.incoming import Incoming
from tillie.home.federation.keyring import Keyring
from tillie.home.federation.outgoing import Outgoing
from tillie.home.federation.remote import Answer, Keys, Remote
from tillie.home.federation.transport import Transport

if TYPE_CHECKING:
    from tillie.home.service import Home

TIDY_SECONDS = 3_600.0


class Federation:
    """The parts of federation, joined. Made on the event loop."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.transport = Transport(home)
        self.keyring = Keyring(home, self.transport)
        config = home.config.federation
        self.absence = Absence(config.first_retry, config.longest_retry)
        self.outgoing = Outgoing(home, self.transport, self.absence)
        self.remote = Remote(home, self.transport, self.absence, self.outgoing)
        self.incoming = Incoming(home, self.remote)
        self._tidying: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.outgoing.start()
        self._tidying = asyncio.create_task(self._tidy())

    async def stop(self) -> None:
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.gather(self._tidying, return_exceptions=True)
        await self.outgoing.stop()
        await self.remote.stop()
        await self.transport.close()

    async def query(self, server: str, users: Collection[str], seconds: float) -> Answer:
        """See `Remote.query`."""
        return await self.remote.query(server, users, seconds)

    async def claim(self, server: str, wanted: Mapping[str, Mapping[str, str]], seconds: float) -> Keys:
        """See `Remote.claim`. Raises `transport.Failed`."""
        return await self.remote.claim(server, wanted, seconds)

    async def signing_keys(self, server: str, seconds: float) -> Mapping[str, bytes]:
        """The keys that a server signs with now: {"ed25519:...": 32 bytes}; none if it can't be asked in time."""
        try:
            async with asyncio.timeout(seconds):
                return await self.keyring.all(server)
        except TimeoutError:
            return {}

    def alive(self, server: str) -> None:
        """A server is heard of, which may have been away."""
        self.absence.heard(server)
        self.outgoing.alive(server)

    def wake(self, server: str) -> None:
        """Something waits for a server, and is committed."""
        self.outgoing.wake(server)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            now = self._home.now()
            try:
                await self._home.db.write(partial(_forget_old, now=now))
            except StoreUnwritable as error:  # it may be writable in an hour
                self._home.log.event("unwritable", detail=error.detail)


def _forget_old(conn: Connection, now: int) -> None:
    followed.forget_old(conn, now)
    incoming.forget_old(conn, now)
    lists.forget_old(conn, now)
