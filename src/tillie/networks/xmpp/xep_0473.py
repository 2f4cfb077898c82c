"""XEP-0473 (OpenPGP for XMPP Pubsub) as a slixmpp plugin: nodes whose items only some people can read.

    client.register_plugin("xep_0473", {"store": path, "key": key}, module="tillie.networks.xmpp.xep_0473")

Secrets that come are taken in by themselves. Options, methods and events are in docs/xmpp.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from slixmpp.plugins.base import register_plugin

from tillie.errors import TillieError
from tillie.model import Notice, Opened
from tillie.networks.xmpp.node_plugin import Payload, ReadingPlugin, as_bytes
from tillie.nodes import Access, Converted, Delivered, Published, Removed, Rotated
from tillie.pubsub.hearing import Pending
from tillie.pubsub.items import Node, Reading
from tillie.pubsub.members import Role
from tillie.pubsub.secrets import Secret
from tillie.pubsub.statements import NS as FEATURE
from tillie.pubsub.statements import Reason

# After these, what waits is looked at again. A message may have brought secrets beside a text.
_EVENTS = ("openpgp_caught_up", "openpgp_message")


class XEP_0473(ReadingPlugin):
    """Private nodes. Event `pubsub_secrets`: secrets or revocations came; what is known of them, in words."""

    name = "xep_0473"
    description = "XEP-0473: OpenPGP for XMPP Pubsub"
    features = (FEATURE,)
    brings = ("xep_0373",)

    def plugin_init(self) -> None:
        super().plugin_init()
        self._settling: asyncio.Task[None] | None = None
        self._again = False
        self._news: tuple[str, ...] = ()
        for event in _EVENTS:
            self.xmpp.add_event_handler(event, self._settle)
        self.xmpp.add_event_handler("openpgp_empty", self._heard)

    def plugin_end(self) -> None:
        for event in _EVENTS:
            self.xmpp.del_event_handler(event, self._settle)
        self.xmpp.del_event_handler("openpgp_empty", self._heard)
        if self._settling is not None:
            self._settling.cancel()
        super().plugin_end()

    # -- nodes and people ---------------------------------------------------------------------------------------------

    async def create(self, jid: object, node: str = "", *, type: str = "", access: str = "whitelist") -> Node:
        """Make a private node, with a random name if it has none, and its first secret."""
        return await self.nodes.create(self.place(jid, node), type=type, access=access)

    async def convert(self, jid: object, node: str, *, type: str = "", access: str = "whitelist") -> Converted:
        """Make an existing node of ours private. What is there stays in clear, and is reported."""
        return await self.nodes.convert(self.place(jid, node), type=type, access=access)

    async def members(self, jid: object, node: str) -> tuple[Access, ...]:
        """Who has access, by the service's list and by our records."""
        return await self.nodes.members(self.place(jid, node))

    async def share(self, jid: object, node: str, member: object, *, role: Role = Role.READER) -> Delivered:
        """Give somebody access: at the service, and with all secrets (section "Sharing Secrets")."""
        return await self.nodes.share(self.place(jid, node), self.address(member), role=role)

    async def remove(self, jid: object, node: str, member: object, *, reasons: Iterable[Reason] = ()) -> Removed:
        """Take somebody's access back, change the locks, and say what that can't undo."""
        return await self.nodes.remove(self.place(jid, node), self.address(member), reasons=tuple(reasons))

    # -- secrets ------------------------------------------------------------------------------------------------------

    async def secrets(self, jid: object, node: str) -> tuple[Secret, ...]:
        """The secrets of a node that we have, newest first."""
        return await self.nodes.secrets(self.place(jid, node))

    async def rotate(self, jid: object, node: str, *, reasons: Iterable[Reason] = ()) -> Rotated:
        """Revoke all secrets of a node of ours, and send a new one to its members (section "Secrets Rotation")."""
        return await self.nodes.rotate(self.place(jid, node), reasons=tuple(reasons))

    async def revoke(self, jid: object, node: str, secret: str, *, reasons: Iterable[Reason] = ()) -> Rotated:
        """Revoke one secret; if it was the last that seals, there is a new one (section "Revoking a Secret")."""
        return await self.nodes.revoke(self.place(jid, node), secret, reasons=tuple(reasons))

    async def pending(self) -> tuple[tuple[Node, Pending], ...]:
        """Secrets of people who may not be the ones to send them: they wait for `accept` or `refuse`."""
        return await self.nodes.pending()

    async def accept(self, jid: object, node: str, sender: object) -> int:
        """A person's decision: the secrets of this node come from `sender`. Returns how much is believed."""
        return await self.nodes.accept(self.place(jid, node), self.address(sender))

    async def refuse(self, jid: object, node: str, sender: object) -> int:
        """A person's decision: forget what `sender` says of this node. Returns how much waited."""
        return await self.nodes.refuse(self.place(jid, node), self.address(sender))

    def _heard(self, opened: Opened) -> None:
        self._news += opened.notes
        self._settle(None)

    def _settle(self, _: object) -> None:
        self._again = True
        if self._settling is None or self._settling.done():
            self._settling = asyncio.ensure_future(self._settle_all())

    async def _settle_all(self) -> None:
        while self._again:
            self._again = False
            try:
                believed = await self.nodes.settle()
            except TillieError as error:
                self.core.notice(Notice(self.core.account, f"secrets of nodes wait: {error}"))
                return
            news, self._news = self._news, ()
            if believed:
                news += (f"{believed} secrets or revocations that waited are believed.",)
            if news:
                self.xmpp.event("pubsub_secrets", news)

    # -- items --------------------------------------------------------------------------------------------------------

    async def publish(
        self, jid: object, node: str, payload: Payload, item_id: str = "", *, sign: bool = False
    ) -> Published:
        """Seal an item with the node's newest secret, and publish it (section "Encrypting Pubsub Item"). It raises, and
        publishes nothing, if it can't be sealed: it never goes out in clear."""
        return await self.nodes.publish(self.place(jid, node), as_bytes(payload), item_id, encrypt=True, sign=sign)

    async def retract(self, jid: object, node: str, item_id: str) -> None:
        """Take an item off its node. Who has read it has it."""
        await self.nodes.retract(self.place(jid, node), item_id)

    def watch(self, jid: object, node: str) -> AsyncGenerator[Reading, None]:
        """What is published from now on, as it comes."""
        return self.nodes.watch(self.place(jid, node))


register_plugin(XEP_0473)
