"""People with private nodes, on one server in process: Juliet, her nurse, Romeo, and whoever else a test needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from tillie.model import Address, Done
from tillie.networks import Options
from tillie.networks.local import LocalConnection, LocalServer
from tillie.nodes import Nodes
from tillie.pubsub import secrets
from tillie.pubsub.items import Node, Reading
from tillie.schemes.openpgp import OpenPgp
from tillie.store import MemoryStore, Store

JULIET, NURSE, ROMEO = (Address(name) for name in ("juliet@capulet.test", "nurse@capulet.test", "romeo@montague.test"))
TYBALT = Address("tybalt@capulet.test")
PUBSUB = Address("pubsub.capulet.test")
BLOG = Node(JULIET, "0a1b2c")
START = 1_790_000_000.0
MANY = 1_000_000  # turns of the loop: some seconds


class Clock:
    """A clock that a test moves, and that moves a little whenever somebody looks."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


class Person:
    """One device of somebody: a connection, and her nodes."""

    def __init__(self, connection: LocalConnection, notices: list[str]) -> None:
        self.connection = connection
        self.engine = connection.engine
        self.address = connection.account
        self.notices = notices
        self.pauses: list[float] = []
        self.nodes = Nodes(connection.engine, connection.service, workers=2, pause=self._pause)

    @property
    def openpgp(self) -> OpenPgp:
        scheme = self.engine.scheme_named("openpgp")
        assert isinstance(scheme, OpenPgp)
        return scheme

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def make_key(self) -> None:
        await self.engine.drive(lambda s: self.openpgp.generate(s, self.engine.now()))

    async def make_secret(self, node: Node) -> None:
        """A secret of a node, whoever owns it."""
        await self.nodes._ground.step(lambda s: Done(secrets.make(s, node, self.address, self.engine.now())))

    async def heard(self) -> None:
        """Everything that was sent to her has arrived, and what it entails is done."""
        for _ in range(3):
            await self.connection.drained()
            await asyncio.sleep(0)
        await self.nodes.settle()

    async def inbox(self) -> list[str]:
        return [delivery.content or delivery.error for _, delivery in await self.engine.inbox()]

    async def read(self, node: Node, *ids: str, **options: Any) -> list[Reading]:
        return [reading async for reading in self.nodes.items(node, ids, **options)]


class House:
    """The server, and everybody who is at it."""

    def __init__(self, *, attachments: bool = False) -> None:
        self.clock = Clock()
        self.server = LocalServer(clock=self.clock, attachments=attachments)
        self.people: list[Person] = []

    @property
    def pubsub(self) -> Any:
        return self.server.pubsub

    async def person(self, address: Address, *, key: bool = True, store: Store | None = None, **options: Any) -> Person:
        notices: list[str] = []
        chosen = Options(notice=lambda notice: notices.append(notice.text), **options)
        connection = await self.server.connect(address, store or MemoryStore(address), chosen)
        person = Person(connection, notices)
        self.people.append(person)
        if key:
            await person.make_key()
        return person

    async def heard(self) -> None:
        for _ in range(2):
            for person in self.people:
                await person.heard()

    async def close(self) -> None:
        for person in self.people:
            await person.nodes.close()
            await person.connection.close()


@asynccontextmanager
async def house(**options: Any) -> AsyncIterator[House]:
    made = House(**options)
    try:
        yield made
    finally:
        await made.close()


def at_home(scenario: Callable[[House], Awaitable[None]], **options: Any) -> None:
    """Run a scenario in a house of its own."""

    async def run() -> None:
        async with house(**options) as made:
            await scenario(made)

    asyncio.run(run())


def entry(text: str) -> bytes:
    return f"<entry xmlns='http://www.w3.org/2005/Atom'><title>{text}</title></entry>".encode()


def texts(readings: list[Reading]) -> list[str]:
    """What each item says: its text if it was read, else what kind of thing it is."""
    return [_text(reading) for reading in readings]


def _text(reading: Reading) -> str:
    if reading.payload is None:
        return reading.kind.value
    return reading.payload.decode().partition("<title>")[2].partition("<")[0]


async def until(condition: Callable[[], object]) -> None:
    """Give way to everything else until something holds."""
    for _ in range(MANY):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to hold")
