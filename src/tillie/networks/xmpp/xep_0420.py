"""XEP-0420 (Stanza Content Encryption) as a slixmpp plugin, for any scheme: it packs and unpacks, and encrypts nothing.

plaintext = plugin.pack(stanza, profile)            # the stanza keeps what servers must read
stanza.xml.append(my_scheme.encrypt(plaintext))
...
notes = plugin.unpack(stanza, my_scheme.decrypt(element), profile)
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

from slixmpp.plugins import BasePlugin
from slixmpp.plugins.base import register_plugin
from slixmpp.stanza import Iq, Message, Presence
from slixmpp.xmlstream import ElementBase, register_stanza_plugin

from tillie.crypto.random import random_bytes
from tillie.envelope import codec, policy, profile
from tillie.envelope.profile import OMEMO2, Profile, Verified
from tillie.errors import Refused, UsageError
from tillie.model import Address, Content, Envelope, Stanza
from tillie.networks.xmpp.elements import CLIENT, address_of, children, from_bytes, one_from_bytes, to_bytes
from tillie.wire import address


class _Affix(ElementBase):
    namespace = policy.SCE


class ContentElement(_Affix):
    name = plugin_attrib = "content"
    interfaces: ClassVar[set[str]] = set()


class Rpad(_Affix):
    name = plugin_attrib = "rpad"
    interfaces: ClassVar[set[str]] = set()


class Time(_Affix):
    name = plugin_attrib = "time"
    interfaces: ClassVar[set[str]] = {"stamp"}


class To(_Affix):
    name = plugin_attrib = "to"
    interfaces: ClassVar[set[str]] = {"jid"}


class From(_Affix):
    name = plugin_attrib = "from"
    interfaces: ClassVar[set[str]] = {"jid"}


class EnvelopeElement(_Affix):
    """An `<envelope/>`, for programs that look into one by themselves."""

    name = "envelope"
    plugin_attrib = "sce_envelope"
    interfaces: ClassVar[set[str]] = set()


for _part in (ContentElement, Rpad, Time, To, From):
    register_stanza_plugin(EnvelopeElement, _part)


class XEP_0420(BasePlugin):
    """Envelopes for messages, presences and IQs, by the table of what is sealed (`tillie.envelope.policy`)."""

    name = "xep_0420"
    description = "XEP-0420: Stanza Content Encryption"
    dependencies: ClassVar[set[str]] = {"xep_0030"}

    def plugin_end(self) -> None:
        self.xmpp.plugin["xep_0030"].del_feature(feature=policy.SCE)

    def session_bind(self, jid: object) -> None:
        self.xmpp.plugin["xep_0030"].add_feature(policy.SCE)

    def pack(self, stanza: Message | Presence | Iq, rules: Profile = OMEMO2) -> bytes:
        """Take the children that must be sealed out of the stanza, and return them in an envelope.

        What servers must be able to read stays. An IQ is bound to its type and id. Raises `UsageError`.
        """
        to = address.parse(str(stanza["to"])) if stanza["to"] else None
        if to is None:
            raise UsageError("a sealed stanza needs a recipient")
        content, plain = policy.split_outgoing(Content(children(stanza.xml)))
        group = isinstance(stanza, Message) and stanza["type"] == "groupchat"
        affixes = rules.group if group else rules.chat
        envelope = Envelope(
            content,
            sender=address.parse(str(self.xmpp.boundjid.bare)),
            to=to.bare if affixes.get("to") is profile.Use.MUST else None,
            time=time.time(),
            iq=(stanza["type"], stanza["id"]) if isinstance(stanza, Iq) else None,
        )
        packed = codec.encode(envelope, random_bytes)
        _replace_children(stanza, [one_from_bytes(data) for data in plain])
        return packed

    def unpack(self, stanza: Any, plaintext: bytes, rules: Profile = OMEMO2, *, via: str = "live") -> Verified:
        """Check an opened envelope against the stanza that carried it, and put its content into the stanza.

        What is left of the plain children is what servers may add. Returns the time of sealing, and findings. Raises
        `Malformed` and `Refused`, and then the stanza is as it was.
        """
        own = address.parse(str(self.xmpp.boundjid.bare))
        decoded = codec.decode(plaintext)
        siblings = tuple(to_bytes(child) for child in stanza.xml)
        around = Stanza(
            stanza.xml.tag.removeprefix(f"{{{CLIENT}}}"),
            _valid(address_of(stanza.xml, "from", own)),
            _valid(address_of(stanza.xml, "to", own)),
            stanza.xml.get("type", ""),
            stanza.xml.get("id", ""),
            siblings=siblings,
            via=via,
        )
        verified = profile.verify(decoded, around, rules, time.time())
        kept, dropped = policy.filter_siblings(siblings)
        content = from_bytes(decoded.envelope.content.data)
        _replace_children(stanza, [*content, *(one_from_bytes(data) for data in kept)])
        return Verified(
            verified.time, verified.notes + tuple(f"Dropped from the plain part: {name}." for name in dropped)
        )


def _replace_children(stanza: Any, elements: list[Any]) -> None:
    for child in list(stanza.xml):
        stanza.xml.remove(child)
    stanza.xml.extend(elements)
    stanza.plugins.clear()  # slixmpp keeps views of the children that were there
    stanza.iterables.clear()
    stanza.loaded_plugins.clear()


def _valid(found: Address | None) -> Address:
    if found is None:
        raise Refused("The stanza's address is not valid.")
    return found


register_plugin(XEP_0420)
