"""Accounts on a homeserver, each with a client as a program of ours has it, and what homeservers have in common."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest
from msgspec.structs import replace

from support.certificates import Certificates
from support.homes import PrivateHome
from tillie import account as accounts
from tillie.account import Account
from tillie.client import Client, Sent, connect, text_of
from tillie.directory.matrix import V1, Profile
from tillie.model import Address, Notice
from tillie.pipeline import Delivery
from tillie.store import MemoryStore

PASSWORD = "only for tests"
READ_SECONDS = 20.0
_LOOK = 0.02  # seconds between two looks at a box, which tells nobody that it changed

_numbers = itertools.count(1)


class Homeserver(Protocol):
    """A private homeserver. `name` is what its user ids end with, `base_url` where clients find it, over TLS with the
    authority in `ca_file`, or on loopback without ("")."""

    name: str
    base_url: str

    @property
    def ca_file(self) -> str: ...

    def register(self, localpart: str, password: str = PASSWORD) -> str: ...


def new_account(server: Homeserver, name: str) -> str:
    """A fresh account with the password `PASSWORD`; its user id."""
    return server.register(f"{name}{next(_numbers)}", PASSWORD)


class Tenant:
    """Our client on one device of one account. `notices` are what a person would have been told."""

    def __init__(
        self, server: Homeserver, user: str, *, profile: Profile = V1, store: MemoryStore | None = None
    ) -> None:
        self.address = Address(user)
        self.account = Account(store or MemoryStore(self.address))
        self.notices: list[str] = []
        matrix = accounts.MatrixSettings(homeserver=server.base_url, profile=profile.name)
        self.account.change(replace(self.account.settings, matrix=matrix, ca_file=server.ca_file))
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        assert self._client is not None, f"{self.address} is not online"
        return self._client

    @property
    def device(self) -> str:
        """The id of its device."""
        return self.client.device().label

    async def arrive(self) -> None:
        self._client = await connect(
            self.account,
            PASSWORD,
            listening=True,
            notice=lambda notice: self.notices.append(_shown(notice)),
        )

    async def leave(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def say(self, to: str, text: str, *, wait: float = READ_SECONDS) -> Sent:
        return await self.client.send(Address(to), text, wait=wait)

    async def hears(self) -> Delivery:
        """The next thing that was opened, or could not be."""
        async with asyncio.timeout(READ_SECONDS):
            while not (rows := await self.client.engine.inbox()):  # noqa: ASYNC110  no event for what a store holds
                await asyncio.sleep(_LOOK)
        row, delivery = rows[0]
        await self.client.engine.acknowledge(row)
        return delivery

    async def reads(self) -> str:
        """The text of the next message."""
        delivery = await self.hears()
        assert delivery.content, delivery
        return text_of(delivery.content)


def _shown(notice: Notice) -> str:
    return f"{notice.about}: {notice.text}"


def text_event(text: str) -> tuple[str, dict[str, Any]]:
    """The type and content of a text, as every Matrix program has them."""
    return "m.room.message", {"msgtype": "m.text", "body": text}


@asynccontextmanager
async def at_home(*tenants: Tenant) -> AsyncIterator[None]:
    """Tenants that are logged in, and gone afterwards, whatever happened."""
    try:
        for tenant in tenants:
            await tenant.arrive()
        yield
    finally:
        for tenant in tenants:
            await tenant.leave()


@pytest.fixture(scope="module")
def home(certificates: Certificates) -> Iterator[PrivateHome]:
    """A running home of ours. A module that uses it needs the fixture `certificates`, too."""
    with PrivateHome(certificates) as server:
        yield server
