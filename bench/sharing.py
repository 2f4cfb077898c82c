"""A node's secrets for many people: access at the service, keys looked up, a message for each, the marks that it was
sent. All of it is real but the server, which is in this process; the store is a file, durable at every step.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench.durable import FOLDER
from bench.measure import Figure, Operation, Side, Target
from support.people import BLOG, JULIET, House, Person
from tillie.crypto import openpgp
from tillie.crypto.random import random_bytes
from tillie.directory import openpgp as directory
from tillie.model import Address
from tillie.nodes.sharing import Delivered
from tillie.store import SqlStore

MEMBERS, TENTH = 100, 10
ROUNDS, TENTHS = 5, 10


class Feast:
    """Juliet with a private node, and people whose keys she never saw."""

    def __init__(self, folder: Path, guests: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.house = House()
        self.guests = [Address(f"guest{number}@verona.test") for number in range(guests)]
        for guest in self.guests:
            self._announce(guest)
        store = SqlStore(folder / f"{random_bytes(8).hex()}.db", JULIET, random_bytes(32))
        self.juliet = self.loop.run_until_complete(self._arrive(store))

    def _announce(self, guest: Address) -> None:
        certificate = openpgp.generate(f"xmpp:{guest}").certificate
        listed = directory.encode_list([directory.Announced(certificate.fingerprint, self.house.clock.now)])
        items, key = self.house.server.items, directory.key_node(certificate.fingerprint)
        items[guest, directory.LIST_NODE] = {"current": listed}
        items[guest, key] = {"current": directory.encode_key(certificate.data)}

    async def _arrive(self, store: SqlStore) -> Person:
        juliet = await self.house.person(JULIET, store=store)
        await juliet.nodes.create(BLOG)
        return juliet

    def share(self) -> tuple[Delivered, ...]:
        return self.loop.run_until_complete(self.juliet.nodes.share_all(BLOG, self.guests))

    def leave(self) -> None:
        self.loop.run_until_complete(self.house.close())
        self.loop.close()


def _side(folder: Path, guests: int, batch: int) -> Side:
    feasts: list[Feast] = []

    def prepare(wanted: int) -> list[Operation]:
        feasts.extend(Feast(folder, guests) for _ in range(wanted))
        return [feast.share for feast in feasts]

    def check(results: Sequence[object]) -> None:
        for feast in feasts:
            feast.leave()
        feasts.clear()
        for result in results:
            if not isinstance(result, tuple) or [one.messages for one in result] != [1] * guests:
                raise RuntimeError(f"not everybody was sent the secret: {result}")

    return Side(prepare, batch, check, warm_up=0, wall=True)  # most of it is in the thread of the store


def _share() -> Figure:
    FOLDER.mkdir(exist_ok=True)
    folder = tempfile.TemporaryDirectory(dir=FOLDER, prefix="sharing-")
    side = partial(_side, Path(folder.name))
    sides = {"ours": side(MEMBERS, 1), "less": side(TENTH, TENTHS)}
    return Figure(f"pubsub.share.{MEMBERS}", sides, Target(growth=11), rounds=ROUNDS, keep=folder)


FIGURES: dict[str, Callable[[], Figure]] = {f"pubsub.share.{MEMBERS}": _share}
