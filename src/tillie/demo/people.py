"""Whoever plays in a demo: an account with a store of its own, and a client while she is there."""

from __future__ import annotations

from pathlib import Path

from tillie import store as stores
from tillie.account import Account
from tillie.client import Client
from tillie.crypto.random import random_bytes
from tillie.demo.places import Place
from tillie.errors import Unreachable
from tillie.model import Address
from tillie.networks import Options


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
