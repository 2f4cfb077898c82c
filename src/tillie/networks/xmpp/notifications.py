"""What pubsub services tell: events (XEP-0060 section 7.1.2) as `Notification`s, and those who wait for them."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator

from tillie.errors import InvalidAddress, TooLarge
from tillie.model import Address
from tillie.networks.xmpp.elements import as_delivered, only
from tillie.networks.xmpp.incoming import EVENT, MAX_ID
from tillie.nodes.service import Notification
from tillie.pubsub.items import Item, Node
from tillie.wire import address

MAX_WAITING = 1_000  # notifications that nobody has read yet
MAX_REMEMBERED = 256  # items whose last payload is remembered
_CLOSED_TYPES = frozenset({"error", "groupchat"})


def read(message: ET.Element, account: Address) -> Notification | None:
    """The notification in a message to `account`; None if there is none.

    It speaks for the node of its sender alone, and comes from a service or a bare address, never from a resource: a
    client could send it. A node that was purged or deleted tells nothing here.
    """
    event = only(message, f"{{{EVENT}}}event")
    sender = _sender(message, account)
    if event is None or sender is None or message.get("type", "") in _CLOSED_TYPES:
        return None
    items = only(event, f"{{{EVENT}}}items")
    name = "" if items is None else items.get("node", "")
    if items is None or not name:
        return None
    published = (item_of(item) for item in items.findall(f"{{{EVENT}}}item"))
    retracted = (item.get("id", "") for item in items.findall(f"{{{EVENT}}}retract"))
    return Notification(
        Node(sender, name),
        tuple(item for item in published if item is not None),
        tuple(item_id for item_id in retracted if 0 < len(item_id) <= MAX_ID),
    )


def _sender(message: ET.Element, account: Address) -> Address | None:
    try:
        sender = address.parse(message.get("from") or account)
    except InvalidAddress:
        return None
    return sender if sender == sender.bare else None


def item_of(element: ET.Element) -> Item | None:
    """An `<item/>` in the terms of `pubsub.items`; None if it has no id that can be used.

    Without a payload, or with more than one (XEP-0060 section 7.1.3.3 forbids it), the payload is b"".
    """
    item_id = element.get("id", "")
    if not 0 < len(item_id) <= MAX_ID:
        return None
    try:
        publisher = address.parse(element.get("publisher", "")).bare
    except InvalidAddress:
        publisher = None
    return Item(item_id, as_delivered(element[0]) if len(element) == 1 else b"", publisher)


class Watch(AsyncIterator[Notification]):
    """The notifications of one node, in order, until it is closed."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Notification | None] = asyncio.Queue()
        self._closed = False
        self._overflowed = False
        self._told: dict[str, int] = {}  # by item id, the hash of its payload

    def put(self, notification: Notification) -> None:
        """One more; beyond MAX_WAITING nothing is taken any more, and whoever reads hears of it.

        Who is subscribed twice (by presence, and by name) is told twice: the same item again is left out.
        """
        if self._closed or self._overflowed:
            return
        notification = notification._replace(items=tuple(filter(self._is_news, notification.items)))
        for item_id in notification.retracted:
            self._told.pop(item_id, None)
        if not notification.items and not notification.retracted:
            return
        self._overflowed = self._waiting.qsize() >= MAX_WAITING
        self._waiting.put_nowait(None if self._overflowed else notification)

    def _is_news(self, item: Item) -> bool:
        if not item.payload:
            return True  # it says only that something changed
        payload = hash(item.payload)
        known = self._told.pop(item.id, None) == payload
        self._told[item.id] = payload
        while len(self._told) > MAX_REMEMBERED:
            del self._told[next(iter(self._told))]
        return not known

    async def __anext__(self) -> Notification:
        if self._closed and self._waiting.empty():
            raise StopAsyncIteration
        notification = await self._waiting.get()
        if notification is not None:
            return notification
        if self._overflowed:
            self._closed = True
            raise TooLarge(f"More than {MAX_WAITING} notifications wait; read the node's items instead.")
        raise StopAsyncIteration

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._waiting.put_nowait(None)
