"""Accounts of a real server, each with an engine and its nodes, as `client` uses them: no slixmpp program around."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from ssl import SSLContext
from typing import Any, Protocol

import slixmpp

from support.prosody import PASSWORD
from support.xmpp import SECONDS
from tillie.client import text_content
from tillie.directory.openpgp import LIST_NODE
from tillie.model import Address, Fetch
from tillie.networks import Options
from tillie.networks.xmpp.connection import Login, connect
from tillie.nodes import Nodes
from tillie.pipeline import Delivery
from tillie.pubsub.items import Node, Reading
from tillie.schemes.openpgp import OpenPgp
from tillie.store import MemoryStore

_LOOK = 0.02  # seconds between two looks at a box, which tells nobody that it changed


class Server(Protocol):
    """A private server: STARTTLS on 127.0.0.1:`port`, certified by the authority in `ca_file`."""

    @property
    def port(self) -> int: ...
    @property
    def ca_file(self) -> Path: ...
    def ssl_context(self) -> SSLContext: ...
    def add_user(self, jid: str, password: str) -> None: ...


class Resident:
    """One device of an account. `notices` are what a person would have been told."""

    def __init__(self, server: Server, jid: str, store: MemoryStore | None = None) -> None:
        self.address = Address(jid)
        self.store = store or MemoryStore(self.address)
        self.notices: list[str] = []
        self._login = Login(self.address, PASSWORD, f"127.0.0.1:{server.port}", ca_file=str(server.ca_file))

    async def arrive(self) -> None:
        options = Options(notice=lambda notice: self.notices.append(f"{notice.about}: {notice.text}"))
        self.connection = await connect(self._login, self.store, options)
        self.engine = self.connection.engine
        self.nodes = Nodes(self.engine, self.connection.service)
        await self.connection.caught_up(SECONDS)

    async def leave(self) -> None:
        await self.nodes.close()
        await self.connection.close()

    @property
    def openpgp(self) -> OpenPgp:
        scheme = self.engine.scheme_named("openpgp")
        assert isinstance(scheme, OpenPgp)
        return scheme

    async def make_key(self) -> None:
        """An OpenPGP key, announced."""
        await self.engine.drive(lambda s: self.openpgp.generate(s, self.engine.now()))
        await self.sent()

    async def learn_keys(self, address: str) -> None:
        """Ask anew which OpenPGP keys somebody announces: who is not in our roster tells us nothing."""
        await self.engine.learn(await self.engine.network.fetch(Fetch(Address(address), LIST_NODE)))

    async def sent(self) -> None:
        """The server has all that we had to say."""
        async with asyncio.timeout(SECONDS):
            while await self.engine.outbox():  # noqa: ASYNC110  there is no event for what a store holds
                await asyncio.sleep(_LOOK)

    async def settled(self) -> None:
        """All that the server has for us has arrived, and what it entails is done."""
        client: Any = self.connection.core.xmpp
        for _ in range(2):
            await client.plugin["xep_0199"].ping(slixmpp.JID(client.boundjid.host))
            await self.connection.core.receiver.drained()
        await self.nodes.settle()

    async def say(self, to: str, text: str, scheme: str = "openpgp") -> list[bool]:
        """Send a text; for which keys it was sealed and for which it was not."""
        sealed = await self.engine.send(Address(to), text_content(text), message_id="", scheme=scheme)
        await self.sent()
        return [report.sealed for report in sealed.report]

    async def heard(self) -> Delivery:
        """The next message."""
        async with asyncio.timeout(SECONDS):
            while not (rows := await self.engine.inbox()):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK)
        row, delivery = rows[0]
        await self.engine.acknowledge(row)
        return delivery

    async def read(self, node: Node, *ids: str, **options: Any) -> list[Reading]:
        return [reading async for reading in self.nodes.items(node, ids, **options)]


@asynccontextmanager
async def at_home(*residents: Resident) -> AsyncIterator[None]:
    """Residents that are logged in, and gone afterwards."""
    there: list[Resident] = []
    try:
        for resident in residents:
            await resident.arrive()
            there.append(resident)
        yield
    finally:
        for resident in there:
            await resident.leave()
