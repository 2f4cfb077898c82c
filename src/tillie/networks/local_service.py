"""Pubsub services in this process (XEP-0060, XEP-0163), with the habits of real ones: affiliations, access and publish
models, publish-options as preconditions, notifications with or without payload.

For tests, and for the demo where no server is to be had. Whoever owns a service can do to `LocalPubsub.nodes` as he
likes: that is what the tests of `tillie.nodes` do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote_plus

from tillie.crypto.random import random_bytes
from tillie.errors import Rejected, Unreachable
from tillie.model import Address
from tillie.nodes.service import Notification
from tillie.pubsub.items import Item, Node

ACCESS, PUBLISH, PAYLOADS = "pubsub#access_model", "pubsub#publish_model", "pubsub#deliver_payloads"
MAX_ITEMS, PERSIST = "pubsub#max_items", "pubsub#persist_items"
PAGE = 50  # items in one answer
_ATTACHMENTS = "urn:xmpp:pubsub-attachments:1/"
_DEFAULTS = {ACCESS: "open", PUBLISH: "publishers", MAX_ITEMS: "max", PERSIST: "true", PAYLOADS: "true"}
_PEP_DEFAULTS = {**_DEFAULTS, ACCESS: "presence"}


@dataclass
class LocalNode:
    """One node as its service has it; `items` newest last."""

    options: dict[str, str]
    affiliations: dict[Address, str]
    items: dict[str, Item] = field(default_factory=dict)
    subscribers: set[Address] = field(default_factory=set)

    def may_read(self, who: Address) -> bool:
        role = self.affiliations.get(who, "")
        if role == "outcast":
            return False
        return bool(role and role != "none") or self.options[ACCESS] in ("open", "presence")

    def may_publish(self, who: Address) -> bool:
        role = self.affiliations.get(who, "")
        if self.options[PUBLISH] == "open":
            return role != "outcast" and self.may_read(who)
        return role == "owner" or (role == "publisher" and self.options[PUBLISH] == "publishers")


class LocalPubsub:
    """All pubsub services of a `LocalServer`. A service with the address of an account is that account's PEP.

    `attachments`: services look after the nodes of XEP-0470 themselves, as "fully compliant" ones do.
    `down`: services that can't be reached. `seen` is every payload that was ever published.
    """

    def __init__(self, *, attachments: bool = False) -> None:
        self.nodes: dict[Node, LocalNode] = {}
        self.attachments = attachments
        self.down: set[Address] = set()
        self.seen: list[bytes] = []
        self._watches: list[_Watch] = []

    def at(self, node: Node) -> LocalNode:
        if node.service in self.down:
            raise Unreachable(f"{node.service}.")
        if node not in self.nodes:
            raise Rejected("there is no such node", condition="item-not-found")
        return self.nodes[node]

    def owned(self, node: Node, who: Address) -> LocalNode:
        found = self.at(node)
        if found.affiliations.get(who) != "owner":
            raise Rejected("only its owner may", condition="forbidden")
        return found

    def make(self, node: Node, owner: Address, options: Mapping[str, str]) -> LocalNode:
        is_pep = "@" in node.service
        made = LocalNode({**(_PEP_DEFAULTS if is_pep else _DEFAULTS), **options}, {owner: "owner"})
        self.nodes[node] = made
        return made

    def tell(self, notification: Notification) -> None:
        """Hand a notification to everybody who listens, is subscribed and may read."""
        node = notification.node
        found = self.nodes.get(node)
        for watch in self._watches:
            if watch.node == node and (found is None or (watch.who in found.subscribers and found.may_read(watch.who))):
                watch.queue.put_nowait(notification)

    def watch(self, who: Address, node: Node) -> AsyncIterator[Notification]:
        watch = _Watch(self._watches, who, node)
        self._watches.append(watch)
        return watch


class _Watch:
    """What one account hears of one node, from when it is made until it is closed."""

    def __init__(self, all_: list[_Watch], who: Address, node: Node) -> None:
        self.who, self.node, self._all = who, node, all_
        self.queue: asyncio.Queue[Notification] = asyncio.Queue()

    def __aiter__(self) -> _Watch:
        return self

    async def __anext__(self) -> Notification:
        return await self.queue.get()

    async def aclose(self) -> None:
        if self in self._all:
            self._all.remove(self)


class LocalService:
    """The pubsub services of a `LocalPubsub`, as one account reaches them: a `nodes.Service`."""

    def __init__(self, pubsub: LocalPubsub, account: Address) -> None:
        self.pubsub = pubsub
        self.account = account

    async def create(self, node: Node, options: Mapping[str, str]) -> str:
        self._require(node)
        node = node if node.name else Node(node.service, random_bytes(8).hex())
        if node in self.pubsub.nodes:
            raise Rejected("the node exists", condition="conflict")
        if "@" in node.service and node.service != self.account:
            raise Rejected("only the account itself makes nodes there", condition="forbidden")
        if self.pubsub.attachments and node.name.startswith(_ATTACHMENTS):
            raise Rejected("the service makes such nodes itself", condition="not-allowed")
        self.pubsub.make(node, self.account, options)
        return node.name

    async def configure(self, node: Node, options: Mapping[str, str]) -> None:
        self.pubsub.owned(node, self.account).options.update(options)

    async def configuration(self, node: Node) -> dict[str, str]:
        return dict(self.pubsub.owned(node, self.account).options)

    async def delete(self, node: Node) -> None:
        self.pubsub.owned(node, self.account)
        del self.pubsub.nodes[node]

    async def affiliations(self, node: Node) -> dict[Address, str]:
        return dict(self.pubsub.owned(node, self.account).affiliations)

    async def affiliate(self, node: Node, changes: Mapping[Address, str]) -> None:
        found = self.pubsub.owned(node, self.account)
        for who, role in changes.items():
            if role == "none":
                found.affiliations.pop(who, None)
            else:
                found.affiliations[who] = role
        found.subscribers = {who for who in found.subscribers if found.may_read(who)}

    async def owners(self, node: Node) -> frozenset[Address]:
        if "@" in node.service:
            return frozenset((node.service,))
        return frozenset(who for who, role in self.pubsub.at(node).affiliations.items() if role == "owner")

    async def publish(self, node: Node, item: Item, options: Mapping[str, str] | None = None) -> str:
        found = self._published_at(node, options or {})
        if not found.may_publish(self.account):
            raise Rejected("only publishers may", condition="forbidden")
        if node.name.startswith(_ATTACHMENTS) and self.pubsub.attachments and item.id != self.account:
            raise Rejected("an attachment has the address of its author as id", condition="bad-request")
        kept = Item(item.id or random_bytes(8).hex(), item.payload, self.account)
        self.pubsub.seen.append(item.payload)
        found.items.pop(kept.id, None)
        if found.options[PERSIST] == "true":
            found.items[kept.id] = kept
        if found.options[MAX_ITEMS].isdigit():
            for old in list(found.items)[: -int(found.options[MAX_ITEMS])]:
                del found.items[old]
        told = kept if found.options[PAYLOADS] == "true" else kept._replace(payload=b"")
        self.pubsub.tell(Notification(node, (told,)))
        return kept.id

    def _published_at(self, node: Node, options: Mapping[str, str]) -> LocalNode:
        self._require(node)
        found = self.pubsub.nodes.get(node)
        if found is None and self.pubsub.attachments and node.name.startswith(_ATTACHMENTS):
            return self._attachment_node(node)
        if found is None and node.service == self.account:
            return self.pubsub.make(node, self.account, options)  # PEP makes a node that is published to
        found = self.pubsub.at(node)
        if any(found.options.get(name) != value for name, value in options.items()):
            raise Rejected("precondition-not-met", condition="conflict")
        return found

    def _attachment_node(self, node: Node) -> LocalNode:
        """XEP-0470 section "Automatic Node Creation": the access and the people of the node that it is about."""
        for target, about in self.pubsub.nodes.items():
            start = f"{_ATTACHMENTS}xmpp:{target.service}?;node={quote_plus(target.name)};item="
            if target.service == node.service and node.name.startswith(start):
                made = LocalNode({**about.options, PUBLISH: "open"}, about.affiliations)  # shared: kept in step
                self.pubsub.nodes[node] = made
                return made
        raise Rejected("there is no such node", condition="item-not-found")

    async def items(
        self, node: Node, *, ids: Iterable[str] = (), limit: int | None = None
    ) -> AsyncIterator[list[Item]]:
        found = self._readable(node)
        wanted = list(ids)
        if wanted:
            chosen = [found.items[each] for each in wanted if each in found.items]
        else:
            chosen = list(reversed(found.items.values()))[:limit]
        for start in range(0, len(chosen), PAGE):
            await asyncio.sleep(0)
            yield chosen[start : start + PAGE]

    async def retract(self, node: Node, item_id: str) -> None:
        found = self._readable(node)
        item = found.items.get(item_id)
        if item is None:
            raise Rejected("there is no such item", condition="item-not-found")
        if found.affiliations.get(self.account) != "owner" and item.publisher != self.account:
            raise Rejected("only its publisher may", condition="forbidden")
        del found.items[item_id]
        self.pubsub.tell(Notification(node, (), (item_id,)))

    async def subscribe(self, node: Node) -> None:
        self._readable(node).subscribers.add(self.account)

    def notifications(self, node: Node) -> AsyncIterator[Notification]:
        return self.pubsub.watch(self.account, node)

    async def nodes(self, service: Address) -> list[str]:
        if service in self.pubsub.down:
            raise Unreachable(f"{service}.")
        shown = [
            node.name
            for node, found in self.pubsub.nodes.items()
            if node.service == service and found.may_read(self.account)
        ]
        return shown

    def _readable(self, node: Node) -> LocalNode:
        found = self.pubsub.at(node)
        if not found.may_read(self.account):
            raise Rejected("only members may", condition="forbidden")
        return found

    def _require(self, node: Node) -> None:
        if node.service in self.pubsub.down:
            raise Unreachable(f"{node.service}.")
