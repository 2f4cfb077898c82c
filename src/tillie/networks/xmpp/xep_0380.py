"""XEP-0380 (Explicit Message Encryption) as a slixmpp plugin: says what a message is sealed with, in plain."""

from __future__ import annotations

from typing import Any, ClassVar

from slixmpp.plugins import BasePlugin
from slixmpp.plugins.base import register_plugin
from slixmpp.plugins.xep_0380.stanza import Encryption
from slixmpp.stanza import Message
from slixmpp.xmlstream import register_stanza_plugin
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import StanzaPath

from tillie.wire.display import printable

NAMESPACE = "urn:xmpp:eme:0"
MAX_NAME = 100  # characters of a name that the sender chose
# XEP-0380 section 3, and what was registered since.
NAMES = {
    "urn:xmpp:otr:0": "OTR",
    "jabber:x:encrypted": "Legacy OpenPGP",
    "urn:xmpp:openpgp:0": "OpenPGP for XMPP",
    "eu.siacs.conversations.axolotl": "OMEMO",
    "urn:xmpp:omemo:1": "OMEMO",
    "urn:xmpp:omemo:2": "OMEMO",
}


class XEP_0380(BasePlugin):
    """Adds `<encryption/>` to messages, and reads it. Event `message_encryption`: a message says how it is sealed."""

    name = "xep_0380"
    description = "XEP-0380: Explicit Message Encryption"
    dependencies: ClassVar[set[str]] = {"xep_0030"}

    def plugin_init(self) -> None:
        register_stanza_plugin(Message, Encryption)
        self.xmpp.register_handler(Callback("Tillie EME", StanzaPath("message/eme"), self._handle))

    def plugin_end(self) -> None:
        self.xmpp.remove_handler("Tillie EME")
        self.xmpp.plugin["xep_0030"].del_feature(feature=NAMESPACE)

    def session_bind(self, jid: object) -> None:
        self.xmpp.plugin["xep_0030"].add_feature(NAMESPACE)

    def add_eme(self, message: Message, namespace: str) -> Message:
        """Say that this message is sealed with the scheme of `namespace`."""
        message["eme"]["namespace"] = namespace
        if namespace in NAMES:
            message["eme"]["name"] = NAMES[namespace]
        return message

    def has_eme(self, message: Message) -> bool:
        return message.xml.find(f"{{{NAMESPACE}}}encryption") is not None

    def name_of(self, message: Message) -> str:
        """The name of the encryption for people; "" if there is none. Known ones are named by us, not the sender."""
        if not self.has_eme(message):
            return ""
        namespace: Any = message["eme"]["namespace"]
        return NAMES.get(namespace) or printable(message["eme"]["name"] or namespace, MAX_NAME)

    def _handle(self, message: Any) -> None:
        self.xmpp.event("message_encryption", message)


register_plugin(XEP_0380)
