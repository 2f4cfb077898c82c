"""A network for engines: it answers fetches from a dict, and keeps what was sent and published."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tillie.engine import Engine
from tillie.errors import Unreachable
from tillie.model import Content, Fetch, Fetched, Publication, Send


class Wire:
    """A `Network` that has `items` (address, node, item) and takes every stanza, acknowledging it if `acknowledges`."""

    def __init__(self, items: dict[tuple[str, str, str], bytes], *, acknowledges: bool = True) -> None:
        self.items = items
        self.acknowledges = acknowledges
        self.sent: list[bytes] = []
        self.published: list[Publication] = []
        self.down = False
        self.on_send: Callable[[bytes], None] = self.sent.append
        self.engine: Engine | None = None

    async def send(self, item: Send) -> None:
        if self.down:
            raise Unreachable
        await asyncio.sleep(0)
        self.on_send(item.stanza)
        if self.acknowledges and self.engine is not None:
            await self.engine.acknowledged(item.id)

    async def fetch(self, ask: Fetch) -> Fetched:
        if self.down:
            raise Unreachable
        await asyncio.sleep(0)
        payload = self.items.get((ask.address, ask.node, ask.item or "current"))
        return Fetched(ask.address, ask.node, ask.item, payload, "" if payload else "item-not-found")

    async def publish(self, publication: Publication) -> None:
        self.published.append(publication)


def text(said: str) -> Content:
    return Content(b"<body xmlns='jabber:client'>%b</body>" % said.encode())
