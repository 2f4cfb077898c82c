"""XEP-0477 (Pubsub Targeted Encryption) as a slixmpp plugin: single items for a few people only, sealed with OMEMO 2.

    client.register_plugin("xep_0477", {"store": path, "key": key}, module="tillie.networks.xmpp.xep_0477")

OMEMO is the matter of xep_0384, which it brings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from slixmpp.plugins.base import register_plugin

from tillie.networks.xmpp.node_plugin import Payload, ReadingPlugin, as_bytes
from tillie.networks.xmpp.xep_0384 import XEP_0384
from tillie.nodes import Published
from tillie.pubsub.targeted import FEATURE
from tillie.schemes.omemo.version import OMEMO2


class XEP_0477(ReadingPlugin):
    """Targeted items. One opens only once on the wire: what was opened is kept in the store."""

    name = "xep_0477"
    description = "XEP-0477: Pubsub Targeted Encryption"
    features = (FEATURE, OMEMO2.namespace)
    brings = ("xep_0384",)
    default_config: ClassVar[dict[str, Any]] = XEP_0384.default_config

    async def publish(
        self, jid: object, node: str, payload: Payload, people: Iterable[object], item_id: str = ""
    ) -> Published:
        """Publish an item that the devices of these people, and our own other ones, can open, and nobody else. The
        report says for which devices it was sealed. Raises NotTrusted, NoRecipients, ..., and then publishes nothing.
        """
        chosen = [self.address(person) for person in people]
        return await self.nodes.publish(self.place(jid, node), as_bytes(payload), item_id, encrypt_for=chosen)


register_plugin(XEP_0477)
