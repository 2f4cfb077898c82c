"""XEP-0475 (Pubsub Signing) as a slixmpp plugin: sign items, and check who signed them.

    client.register_plugin("xep_0475", {"store": path, "key": key}, module="tillie.networks.xmpp.xep_0475")

Signatures are attachments (xep_0470), made with OpenPGP (xep_0476); it brings both.
"""

from __future__ import annotations

from collections.abc import Iterable

from slixmpp.plugins.base import register_plugin

from tillie.model import Time
from tillie.networks.xmpp.node_plugin import NodePlugin
from tillie.pubsub.checking import Checked
from tillie.pubsub.items import Reading
from tillie.pubsub.signing import NS as FEATURE


class XEP_0475(NodePlugin):
    """Signatures of items, in clear or sealed. A signature certifies this version of an item, not who wrote it."""

    name = "xep_0475"
    description = "XEP-0475: Pubsub Signing"
    features = (FEATURE,)
    brings = ("xep_0476", "xep_0470")

    async def sign(self, jid: object, node: str, item_id: str, *, also: Iterable[object] = ()) -> Reading:
        """Sign an item as we read it, and attach the signature; what was signed is returned, to be shown. `also` names
        people who sign it, too, each for herself (section "Signing an Item")."""
        others = [self.address(other) for other in also]
        return await self.nodes.sign(self.place(jid, node), item_id, also=others)

    async def check(self, jid: object, node: str, item_id: str, *, published: Time | None = None) -> Checked:
        """Check all signatures of an item: valid and trusted, valid, invalid, or by an unknown key, each with what a
        person should know. `published` is when we saw it published, if we know."""
        return await self.nodes.check(self.place(jid, node), item_id, published=published)


register_plugin(XEP_0475)
