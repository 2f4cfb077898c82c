"""A home at work: what its parts share, and how it starts and stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import Request

from tillie.crypto import sign
from tillie.directory.signed import sign_object
from tillie.home.config import Config
from tillie.home.database import Database
from tillie.model import Address
from tillie.wire.canonical import Object


class Who(NamedTuple):
    """Who is asking: a device of a local user."""

    user: Address
    device: str


@dataclass(frozen=True, slots=True)
class Signer:
    """The home's own signing key. `key_id` is "ed25519:<version>"."""

    server: str
    key_id: str
    seed: bytes

    def __repr__(self) -> str:
        return f"Signer({self.server!r}, {self.key_id!r})"

    @property
    def public(self) -> bytes:
        return sign.public_of(self.seed)

    def sign(self, value: Object) -> Object:
        return sign_object(value, self.server, self.key_id, self.seed)


class Waiters:
    """Long polls, by local user: `wake` ends those of a user."""

    def __init__(self) -> None:
        self._events: dict[str, asyncio.Event] = {}
        self._counts: dict[str, int] = {}

    def wake(self, *users: str) -> None:
        for user in users:
            if user in self._events:
                self._events[user].set()
                self._events[user] = asyncio.Event()

    def wake_all(self) -> None:
        self.wake(*self._events)

    def event(self, user: str) -> asyncio.Event:
        """Set at the next `wake` of this user. Take it before looking whether there is something, and give it back
        with `leave`."""
        self._counts[user] = self._counts.get(user, 0) + 1
        return self._events.setdefault(user, asyncio.Event())

    def leave(self, user: str) -> None:
        self._counts[user] -= 1
        if not self._counts[user]:
            del self._counts[user], self._events[user]


class Home:
    """One home. Made on the event loop that it runs on."""

    def __init__(self, config: Config, db: Database, signer: Signer, *, clock: Callable[[], float] = time.time) -> None:
        self.config = config
        self.server = config.server_name
        self.db = db
        self.signer = signer
        self.clock = clock
        self.waiters = Waiters()

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return int(self.clock() * 1000)

    def is_local(self, user: str) -> bool:
        return user.partition(":")[2] == self.server

    async def who(self, request: Request) -> Who:
        """Whose access token this is. Raises `Refused`: M_MISSING_TOKEN, M_UNKNOWN_TOKEN."""
        raise NotImplementedError
