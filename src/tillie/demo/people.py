"""Whoever plays in a demo: an account with a store of its own, and a client while she is there."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tillie import store as stores
from tillie.account import Account
from tillie.client import Client, text_of
from tillie.crypto.random import random_bytes
from tillie.demo.performance import NotAsWritten
from tillie.demo.places import Place
from tillie.engine import Engine
from tillie.errors import Unreachable
from tillie.model import Address
from tillie.networks import Options

READ_SECONDS = 15.0  # until a message must have been read
_LOOK_SECONDS = 0.02


class Player:
    """Somebody with one client. `name` is what the audience calls her, `folder` is for her alone."""

    def __init__(self, name: str, address: Address, place: Place, folder: Path) -> None:
        self.name = name
        self.address = address
        self.account = Account(stores.open(folder / "store", address, random_bytes(32)))
        self._place = place
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            raise Unreachable(f"{self.name} is offline.")
        return self._client

    async def log_in(self, options: Options | None = None) -> None:
        self._client = await self._place.connect(self.account, options)

    async def leave(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


async def read(name: str, engine: Engine, text: str) -> str:
    """Wait until a message that says this is in the inbox; what it said."""
    deadline = time.monotonic() + READ_SECONDS
    while time.monotonic() < deadline:
        for row, delivery in await engine.inbox():
            opened = text_of(delivery.content) if delivery.content else ""
            if opened == text:
                await engine.acknowledge(row)
                return opened
        await asyncio.sleep(_LOOK_SECONDS)
    raise NotAsWritten(f"{name} did not read a message in {READ_SECONDS:.0f} seconds.")
