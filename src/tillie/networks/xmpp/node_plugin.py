"""What the pubsub plugins have in common: a node is named by the JID of its service and its name, as in slixmpp's own
xep_0060, and a payload is an element, a slixmpp stanza object, or bytes."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import AsyncGenerator, Iterable
from typing import Any, ClassVar

from slixmpp.plugins import BasePlugin
from slixmpp.xmlstream import ElementBase

from tillie.model import Address
from tillie.networks.xmpp.core import OPTIONS, Core, bring, core_of
from tillie.networks.xmpp.elements import as_delivered
from tillie.nodes import Nodes
from tillie.pubsub.items import Node, Reading
from tillie.wire import address

Payload = ET.Element | ElementBase | bytes


class NodePlugin(BasePlugin):
    """Works on nodes. `features` are what it advertises (XEP-0030), `brings` the plugins of ours that it needs."""

    features: ClassVar[tuple[str, ...]] = ()
    brings: ClassVar[tuple[str, ...]] = ()
    dependencies: ClassVar[set[str]] = {"xep_0030", "xep_0060"}
    default_config: ClassVar[dict[str, Any]] = {**OPTIONS, "generate": False}
    core: Core

    def plugin_init(self) -> None:
        self.core = core_of(self)
        for name in self.brings:
            bring(self, name)

    def plugin_end(self) -> None:
        for feature in self.features:
            self.xmpp.plugin["xep_0030"].del_feature(feature=feature)
        self.core.leave(self)

    def session_bind(self, jid: object) -> None:
        for feature in self.features:
            self.xmpp.plugin["xep_0030"].add_feature(feature)

    @property
    def nodes(self) -> Nodes:
        """All that can be done with nodes, in Tillie's own terms."""
        return self.core.nodes

    async def close(self) -> None:
        """Stop working, and close the store unless the program opened it. The client should be disconnected."""
        await self.core.close()

    def place(self, jid: object, node: str) -> Node:
        """A node at a service; at our own PEP if `jid` is None."""
        return Node(self.core.account if jid is None else self.address(jid), node)

    def address(self, jid: object) -> Address:
        return address.parse_bare(str(jid))


class ReadingPlugin(NodePlugin):
    """A plugin of one way to seal items: it reads them all, whatever sealed them."""

    def items(
        self, jid: object, node: str, ids: Iterable[str] = (), *, limit: int | None = None
    ) -> AsyncGenerator[Reading, None]:
        """Items as they are read, in clear ones among them: those with these ids, the newest `limit`, or all."""
        return self.nodes.items(self.place(jid, node), ids, limit=limit)

    async def item(self, jid: object, node: str, item_id: str) -> Reading:
        """One item. Raises `Rejected` if there is none of this id."""
        return await self.nodes.get(self.place(jid, node), item_id)


def as_bytes(payload: Payload) -> bytes:
    """A payload, with default namespaces."""
    if isinstance(payload, bytes):
        return payload
    return as_delivered(payload.xml if isinstance(payload, ElementBase) else payload)
