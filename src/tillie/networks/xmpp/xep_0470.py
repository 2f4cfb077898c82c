"""XEP-0470 (Pubsub Attachments) as a slixmpp plugin: what people attach to items; sealed where the node has secrets.

    client.register_plugin("xep_0470", {"store": path, "key": key}, module="tillie.networks.xmpp.xep_0470")

The feature of XEP-0470 is a service's; a client advertises nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from slixmpp.plugins.base import register_plugin

from tillie.networks.xmpp.node_plugin import NodePlugin, Payload, as_bytes
from tillie.nodes import Attachments
from tillie.pubsub import attachments
from tillie.pubsub.attachments import Attachment


class XEP_0470(NodePlugin):
    """Attachments of items: read them, and change our own. Others' elements in ours stay."""

    name = "xep_0470"
    description = "XEP-0470: Pubsub Attachments"
    brings = ("xep_0373",)

    async def attachments(self, jid: object, node: str, item_id: str) -> Attachments:
        """What everybody attached to an item (section "Basic Usage")."""
        return await self.nodes.attachments(self.place(jid, node), item_id)

    async def set_noticed(self, jid: object, node: str, item_id: str, *, noticed: bool = True) -> None:
        """Say that we have seen an item, or take that back (section "Noticed Attachment")."""
        new = (attachments.noticed(time.time()),) if noticed else ()
        await self._replace(jid, node, item_id, attachments.NOTICED, *new)

    async def set_reactions(self, jid: object, node: str, item_id: str, reactions: Iterable[str]) -> None:
        """Our reactions to an item, in the place of those before (section "Reactions Attachment"); none takes them
        back."""
        chosen = tuple(reactions)
        new = (attachments.reactions(chosen, time.time()),) if chosen else ()
        await self._replace(jid, node, item_id, attachments.REACTIONS, *new)

    async def attach(self, jid: object, node: str, item_id: str, tag: str, *elements: Payload) -> None:
        """Attach elements of a program's own, in the place of those with the same tag (`{namespace}name`)."""
        await self._replace(jid, node, item_id, tag, *map(as_bytes, elements))

    async def allow_attachments(self, jid: object, node: str, item_id: str) -> bool:
        """Make the place for attachments of an item at a node of ours, where the service leaves that to us; whether
        there is one now."""
        return await self.nodes.allow_attachments(self.place(jid, node), item_id)

    async def _replace(self, jid: object, node: str, item_id: str, tag: str, *new: bytes) -> None:
        change: Callable[[tuple[Attachment, ...]], bytes] = lambda before: attachments.replace(before, tag, *new)  # noqa: E731
        await self.nodes.attach(self.place(jid, node), item_id, change)


register_plugin(XEP_0470)
