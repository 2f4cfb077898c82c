"""Items as they are read: fetched page by page, opened, judged beside what was seen before, in the service's order.

What opens at once is opened in the transaction that looks at a page. What opens slowly goes to worker processes, and
while they work the next page is fetched: memory holds two pages, whatever the size of the node.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from typing import NamedTuple

from tillie.errors import Malformed, NetworkError, NoProgress, PeerError, Rejected, UsageError
from tillie.model import Done, State
from tillie.nodes.ground import READING, Ground, Progress, explained, silent
from tillie.pubsub import sealing, targeted
from tillie.pubsub.items import Item, ItemKind, Node, Reading
from tillie.pubsub.sealing import Work

TARGETED_SCHEME = "omemo"


class _Later(NamedTuple):
    """A targeted item: opening it may need the network, so each has a transaction of its own."""

    item: Item


async def items(
    g: Ground, node: Node, ids: Iterable[str], limit: int | None, progress: Progress
) -> AsyncGenerator[Reading, None]:
    """The items of a node, in the order of the service: those with these ids, or the newest `limit`, or all."""
    if limit is not None and limit < 1:
        raise UsageError("A limit is at least 1.")
    wanted = frozenset(ids)
    pages = g.service.items(node, ids=tuple(wanted), limit=limit)
    count = 0
    coming = asyncio.ensure_future(_next(pages))
    try:
        while True:
            with explained(READING, node):
                page = await coming
            if page is None:
                return
            coming = asyncio.ensure_future(_next(pages))
            if wanted:
                page = [item for item in page if item.id in wanted]  # a service may answer with what it likes
            for reading in await opened(g, node, page, progress=progress, before=count):
                count += 1
                yield reading
                if count == limit:
                    return
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        await _end(pages)


async def _next(pages: AsyncIterator[list[Item]]) -> list[Item] | None:
    return await anext(pages, None)


async def _end(pages: AsyncIterator[object]) -> None:
    close = getattr(pages, "aclose", None)
    if close is not None:
        await close()


async def get(g: Ground, node: Node, item_id: str) -> Reading:
    """One item. Raises `Rejected` if the service has none of this id."""
    async with aclosing(items(g, node, (item_id,), None, silent)) as readings:
        async for reading in readings:
            return reading
    raise Rejected(f"{node.name!r} at {node.service} has no item {item_id!r}.", condition="item-not-found")


# -- opening ----------------------------------------------------------------------------------------------------------


async def opened(
    g: Ground, node: Node, page: list[Item], *, live: bool = False, progress: Progress, before: int = 0
) -> list[Reading]:
    """What the items of one page turned out to be, in their order."""
    looked = await g.step(lambda s: Done([_look(s, g, node, item, live) for item in page]))
    slow = [asyncio.ensure_future(finished(g, each)) for each in looked if isinstance(each, Work)]
    readings: list[Reading] = []
    try:
        answers = iter(slow)
        for each in looked:
            if isinstance(each, Work):
                readings.append(await next(answers))
            elif isinstance(each, _Later):
                readings.append(await _open_targeted(g, node, each.item))
            else:
                readings.append(each)
            progress("opening", before + len(readings), 0)
    finally:
        for answer in slow:
            answer.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
    return readings


def _look(s: State, g: Ground, node: Node, item: Item, live: bool) -> Reading | Work | _Later:
    try:
        if targeted.is_targeted(item.payload):
            return _Later(item)
    except Malformed as error:
        return Reading(item, ItemKind.MALFORMED, error=error.detail)
    return sealing.read(s, node, item, g.now(), live=live)


async def finished(g: Ground, work: Work) -> Reading:
    """A slow item, opened in another process; what it holds is kept in the store."""
    result: bytes | PeerError
    try:
        result = await g.workers.open(work.message, work.password, max_bytes=sealing.MAX_OPENED)
    except PeerError as error:
        result = error
    return await g.step(lambda s: Done(sealing.finish(s, work, result, g.now())))


async def _open_targeted(g: Ground, node: Node, item: Item) -> Reading:
    if TARGETED_SCHEME not in g.engine.schemes:
        return Reading(item, ItemKind.NOT_FOR_US, error="Items for a few people need OMEMO, which is not used here.")
    scheme = g.engine.scheme_named(TARGETED_SCHEME)
    try:
        return await g.step(lambda s: targeted.read(s, scheme, g.engine.policy, node, item, g.now()))
    except PeerError as error:
        return targeted.failed(item, error)
    except (NoProgress, NetworkError) as error:
        return Reading(item, ItemKind.NOT_FOR_US, error=f"What opens it could not be fetched: {error.detail}")


# -- watching ---------------------------------------------------------------------------------------------------------


async def watch(g: Ground, node: Node) -> AsyncGenerator[Reading, None]:
    """What is published at a node from now on. A notification that does not carry the item makes us fetch it."""
    told = g.service.notifications(node)
    try:
        with explained(READING, node):
            await g.service.subscribe(node)
        async for notification in told:
            if notification.node != node:
                continue
            for item in notification.items:
                whole = item if item.payload else await _fetch(g, node, item.id)
                if whole is not None:
                    for reading in await opened(g, node, [whole], live=True, progress=silent):
                        yield reading
    finally:
        await _end(told)


async def _fetch(g: Ground, node: Node, item_id: str) -> Item | None:
    pages = g.service.items(node, ids=(item_id,))
    try:
        async for page in pages:
            for item in page:
                if item.id == item_id:
                    return item
    except Rejected:
        pass  # retracted since, or we may not read any more: the next notification tells
    finally:
        await _end(pages)
    return None
