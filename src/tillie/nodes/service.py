"""What `nodes` asks of pubsub services (XEP-0060, XEP-0163), implemented by each network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import NamedTuple, Protocol

from tillie.model import Address
from tillie.pubsub.items import Item, Node


class Notification(NamedTuple):
    """One event of a node: items that were published (a payload may be missing), and ids that were retracted."""

    node: Node
    items: tuple[Item, ...] = ()
    retracted: tuple[str, ...] = ()


class Service(Protocol):
    """Pubsub services as one account reaches them. A service that can't be reached raises `Unreachable`, an error of it
    `Rejected` (`condition` is that of RFC 6120, `detail` the pubsub condition where there is one)."""

    account: Address

    async def create(self, node: Node, options: Mapping[str, str]) -> str:
        """Make a node, configured in the same request (XEP-0060 section 8.1.3); its name, which the service may choose
        if `node.name` is ""."""

    async def configure(self, node: Node, options: Mapping[str, str]) -> None:
        """Change these options of a node (section 8.2). What the service does not know is left out if it can be."""

    async def configuration(self, node: Node) -> dict[str, str]:
        """A node's options, as its owner (section 8.2.1)."""

    async def delete(self, node: Node) -> None: ...

    async def affiliations(self, node: Node) -> dict[Address, str]:
        """Who is what at a node, by bare address, as its owner (section 8.9)."""

    async def affiliate(self, node: Node, changes: Mapping[Address, str]) -> None:
        """Make people "member", "publisher", "owner", "none" ... of a node (section 8.9.2)."""

    async def owners(self, node: Node) -> frozenset[Address]:
        """Who owns a node, as far as anybody can know: the account for PEP; else what affiliations or the node's
        meta-data (section 5.4) tell. Empty if nothing does."""

    async def publish(self, node: Node, item: Item, options: Mapping[str, str] = ...) -> str:
        """Publish an item (section 7.1); its id, which the service chooses if `item.id` is ""."""

    def items(self, node: Node, *, ids: Iterable[str] = (), limit: int | None = None) -> AsyncIterator[list[Item]]:
        """A node's items, newest first or as the service orders them, page by page (XEP-0059); some ids, or the newest
        `limit`, or all."""

    async def retract(self, node: Node, item_id: str) -> None: ...

    async def subscribe(self, node: Node) -> None:
        """Ask for notifications (section 6.1); fine if we have them already."""

    def notifications(self, node: Node) -> AsyncIterator[Notification]:
        """What the service tells of a node from now on, until the iterator is closed."""

    async def nodes(self, service: Address) -> list[str]:
        """The names of the nodes that a service shows us (section 5.2)."""
