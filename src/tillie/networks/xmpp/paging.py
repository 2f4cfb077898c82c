"""Items and lists that don't fit into one answer: by pages (XEP-0059), or by their ids."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator

from tillie.errors import Rejected
from tillie.model import Address
from tillie.networks.xmpp.elements import only
from tillie.networks.xmpp.network import PUBSUB, XmppNetwork
from tillie.networks.xmpp.notifications import item_of
from tillie.networks.xmpp.stream import MAX_STREAM_STANZA_BYTES
from tillie.pubsub.items import Item, Node

RSM = "http://jabber.org/protocol/rsm"
FEATURES = frozenset({RSM, PUBSUB + "#rsm"})
# Servers let their users send stanzas of 256 KiB, and one answer must fit into the stream.
FIRST_PAGE = 7
LARGEST_PAGE = 100
LIST_PAGE = 500  # entries of a list, which are small
MAX_PAGES = 100_000
ROOM = MAX_STREAM_STANZA_BYTES // 2  # what the items of one page should take together
OVERHEAD = 300  # bytes around an item's payload


class Source:
    """The items of one node, as a service hands them out."""

    def __init__(self, network: XmppNetwork, account: Address, node: Node) -> None:
        self._network = network
        self._to = None if node.service == account else node.service
        self._node = node
        self._page = FIRST_PAGE

    async def newest(self, limit: int | None) -> AsyncIterator[list[Item]]:
        """In one answer: the newest, all if `limit` is None. Prosody and ejabberd hand out the newest last."""
        found, _ = await self._get({} if limit is None else {"max_items": str(limit)}, (), None)
        yield found[::-1][:limit]

    async def fit(self, limit: int) -> bool:
        """Whether the newest `limit` items will fit into one answer, by the size of the few newest."""
        if limit > FIRST_PAGE:
            self._learn((await self._get({"max_items": str(FIRST_PAGE)}, (), None))[0])
        return limit <= self._page

    async def by_ids(self, ids: list[str], *, or_newest: int | None = None) -> AsyncIterator[list[Item]]:
        """The items with these ids; where there are none, all or the newest in one answer, if `or_newest` says so."""
        if not ids:
            async for page in self.newest(or_newest):
                yield page
            return
        start = 0
        while start < len(ids):
            asked = ids[start : start + self._page]
            start += len(asked)
            try:
                found = {item.id: item for item in (await self._get({}, tuple(asked), None))[0]}
            except Rejected as refusal:  # ejabberd's answer if none of them is there, and the node's if it is not there
                if refusal.condition != "item-not-found" or len(ids) == 1:
                    raise
                found = {}
            self._learn(list(found.values()))
            yield [found[item_id] for item_id in asked if item_id in found]

    async def by_pages(self, limit: int | None) -> AsyncIterator[list[Item]]:
        """All of them, or the first `limit` in the service's order."""
        after, count = "", 0
        for _ in range(MAX_PAGES):
            size = self._page if limit is None else min(self._page, limit - count)
            found, last = await self._get({}, (), (size, after))
            self._learn(found)
            yield found if limit is None else found[: limit - count]
            count += len(found)
            if not found or not last or last == after or (limit is not None and count >= limit):
                return
            after = last

    async def _get(
        self, attributes: dict[str, str], ids: tuple[str, ...], page: tuple[int, str] | None
    ) -> tuple[list[Item], str]:
        payload = ET.Element(f"{{{PUBSUB}}}pubsub")
        items = ET.SubElement(payload, f"{{{PUBSUB}}}items", {"node": self._node.name, **attributes})
        for item_id in ids:
            ET.SubElement(items, f"{{{PUBSUB}}}item", {"id": item_id})
        if page is not None:
            _ask_for_page(payload, *page)
        answer = only(await self._network.ask("get", self._to, payload), f"{{{PUBSUB}}}pubsub")
        listed = None if answer is None else only(answer, f"{{{PUBSUB}}}items")
        if answer is None or listed is None or listed.get("node") != self._node.name:
            return [], ""
        found = [item_of(item) for item in listed.findall(f"{{{PUBSUB}}}item")]
        return [item for item in found if item is not None], answer.findtext(f"{{{RSM}}}set/{{{RSM}}}last") or ""

    def _learn(self, found: list[Item]) -> None:
        """How many fit into the next answer, by the largest of this one."""
        if found:
            largest = max(len(item.payload) for item in found) + OVERHEAD
            self._page = max(1, min(LARGEST_PAGE, ROOM // largest))


async def disco_items(
    network: XmppNetwork, account: Address, service: Address, query: ET.Element, *, by_pages: bool
) -> AsyncIterator[list[ET.Element]]:
    """The entries of a list (XEP-0030 section 4), page by page if the service can."""
    to, after = None if service == account else service, ""
    for _ in range(MAX_PAGES):
        asked = ET.Element(query.tag, query.attrib)
        if by_pages:
            _ask_for_page(asked, LIST_PAGE, after)
        answer = only(await network.ask("get", to, asked), query.tag)
        if answer is None:
            return
        entries = answer.findall(f"{query.tag.partition('}')[0]}}}item")
        yield entries
        last = answer.findtext(f"{{{RSM}}}set/{{{RSM}}}last") or ""
        if not by_pages or not entries or not last or last == after:
            return
        after = last


def _ask_for_page(parent: ET.Element, size: int, after: str) -> None:
    paging = ET.SubElement(parent, f"{{{RSM}}}set")
    ET.SubElement(paging, f"{{{RSM}}}max").text = str(size)
    if after:
        ET.SubElement(paging, f"{{{RSM}}}after").text = after
