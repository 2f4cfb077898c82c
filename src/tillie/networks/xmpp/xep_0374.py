"""XEP-0374 (OpenPGP for XMPP Instant Messaging) as a slixmpp plugin: messages sealed with OpenPGP.

    client.register_plugin("xep_0374", {"store": path, "key": key}, module="tillie.networks.xmpp.xep_0374")

Keys are the matter of xep_0373, which it brings. Options, methods and events are in docs/xmpp.md.
"""

from __future__ import annotations

from typing import Any, ClassVar

from slixmpp.plugins.base import register_plugin

from tillie.networks.xmpp import xep_0380
from tillie.networks.xmpp.core import OPTIONS, bring, core_of
from tillie.networks.xmpp.sending import SealsMessages
from tillie.networks.xmpp.xep_0373 import XEP_0373

FEATURE = "urn:xmpp:openpgp:im:0"


class XEP_0374(SealsMessages):
    """Sends messages sealed with OpenPGP, and says that we read them (section 2.1). Without it they are opened, too."""

    name = "xep_0374"
    description = "XEP-0374: OpenPGP for XMPP Instant Messaging"
    dependencies: ClassVar[set[str]] = {"xep_0030", "xep_0380"}
    default_config: ClassVar[dict[str, Any]] = {**OPTIONS, "generate": False}

    def plugin_init(self) -> None:
        self.core = core_of(self)
        self.keys: XEP_0373 = bring(self, XEP_0373.name)
        self.scheme = self.keys.scheme

    def plugin_end(self) -> None:
        self.xmpp.plugin["xep_0030"].del_feature(feature=FEATURE)
        self.core.leave(self)

    def session_bind(self, jid: object) -> None:
        self.xmpp.plugin["xep_0030"].add_feature(FEATURE)


register_plugin(xep_0380.XEP_0380)
register_plugin(XEP_0374)
