"""What may be opened of what the server hands us, and under whose name. Pure: stanzas in, facts out.

A carbon (XEP-0280) counts only from our own bare address, an archive result (XEP-0313) only from our own archive and
for a query of ours: anybody can send a message that looks like one. Neither is looked for inside the other, nor in
group chat. A forwarded message inside is believed because our own server vouches for it, no more.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Container, Mapping
from dataclasses import dataclass

from tillie.envelope.policy import OPENPGP_ELEMENT
from tillie.errors import Malformed
from tillie.model import NO_PAYLOAD, Address, Arrived, Fetched, Stanza, Time
from tillie.networks.xmpp.elements import CLIENT, KINDS, address_of, as_delivered, only, to_bytes
from tillie.wire.time import parse_datetime

CARBONS, FORWARD, ARCHIVE = "urn:xmpp:carbons:2", "urn:xmpp:forward:0", "urn:xmpp:mam:2"
DELAY, STANZA_IDS, EVENT = "urn:xmpp:delay", "urn:xmpp:sid:0", "http://jabber.org/protocol/pubsub#event"
MAX_ID = 1_023  # characters of a stanza id or archive id

_MESSAGE = f"{{{CLIENT}}}message"
_FORWARDED, _DELAY = f"{{{FORWARD}}}forwarded", f"{{{DELAY}}}delay"
_RESULT = f"{{{ARCHIVE}}}result"
_ORIGIN_ID, _STANZA_ID = f"{{{STANZA_IDS}}}origin-id", f"{{{STANZA_IDS}}}stanza-id"
# Types in which nothing is opened: what comes back in an error is what somebody sent, and rooms are not ours yet.
_CLOSED_TYPES = frozenset({"error", "groupchat"})


@dataclass(frozen=True, slots=True)
class Incoming:
    """One sealed element as it came. `archive_id` is its id in our own archive, if the server told one.

    `ambiguous` says that there was more than one sealed element: then none of them may be opened. But of several
    `<openpgp>` the first is: Libervia, in a session of XEP-0374, sends a secret in one and mere hints in a second.
    """

    arrived: Arrived
    archive_id: str = ""
    ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads stanzas for one account. `account` is its bare address, `schemes` the names of its schemes by the tags of
    their sealed elements, `sessions` the scheme among them whose sessions belong to one resource ("" if none does)."""

    account: Address
    schemes: Mapping[str, str]
    sessions: str = ""

    def sealed(self, stanza: ET.Element, queries: Container[str] = ()) -> Incoming | None:
        """The sealed element of a message, presence or IQ, if there is one to open. `queries` are the ids of our
        archive queries that are under way."""
        kind = KINDS.get(stanza.tag)
        sender = address_of(stanza, "from", self.account)
        if kind is None or sender is None:
            return None
        if kind == "message" and sender == self.account:
            wrapped = self._carbon(stanza) or self._result(stanza, queries)
            if wrapped is not None:
                return wrapped
        return self._read(stanza, kind, "live")

    def bounced(self, stanza: ET.Element) -> Incoming | None:
        """An error that may be about a stanza of a session. What it is about is named by the element that it echoes,
        or by its id alone: then the element is the `<error/>`."""
        kind = KINDS.get(stanza.tag)
        sender, to = address_of(stanza, "from", self.account), address_of(stanza, "to", self.account)
        if not self.sessions or stanza.get("type") != "error" or kind is None or sender is None or to is None:
            return None
        echoed = [child for child in stanza if self.schemes.get(child.tag) == self.sessions]
        found = echoed[0] if len(echoed) == 1 else only(stanza, f"{{{CLIENT}}}error")
        if found is None or (kind != "message" and not echoed):
            return None  # any IQ may fail, and that ends no session
        siblings = tuple(to_bytes(child) for child in stanza)  # what was refused, and why
        around = Stanza(kind, sender, to, "error", stanza.get("id", "")[:MAX_ID], None, siblings)
        return Incoming(Arrived(as_delivered(found), around, self.sessions))

    def _carbon(self, outer: ET.Element) -> Incoming | None:
        for direction in ("received", "sent"):
            copy = only(outer, f"{{{CARBONS}}}{direction}")
            inner = _forwarded(copy)
            if inner is None:
                continue
            # Our server copies what we sent or got. A copy of anything else is forged, wherever it comes from.
            ours = address_of(inner, "from" if direction == "sent" else "to", self.account)
            if ours is not None and ours.bare == self.account:
                return self._read(inner, "message", "carbon", forwarded=copy)
        return None

    def _result(self, outer: ET.Element, queries: Container[str]) -> Incoming | None:
        result = only(outer, _RESULT)
        inner = _forwarded(result)
        if result is None or inner is None or result.get("queryid", "") not in queries:
            return None
        return self._read(inner, "message", "archive", forwarded=result)

    def _read(self, stanza: ET.Element, kind: str, via: str, *, forwarded: ET.Element | None = None) -> Incoming | None:
        found = [child for child in stanza if child.tag in self.schemes]
        type_ = stanza.get("type", "")
        sender, to = address_of(stanza, "from", self.account), address_of(stanza, "to", self.account)
        if not found or type_ in _CLOSED_TYPES or sender is None or to is None:
            return None
        stamp = self._stamp(stanza, forwarded)
        if via == "live" and stamp is not None:
            via = "offline"
        origin = stanza.find(_ORIGIN_ID)
        stanza_id = stanza.get("id", "") if origin is None else origin.get("id", "")
        siblings = tuple(to_bytes(child) for child in stanza if child is not found[0])
        around = Stanza(kind, sender, to, type_, stanza_id[:MAX_ID], stamp, siblings, via)
        archive_id = self._archive_id(stanza, forwarded) if kind == "message" else ""
        scheme = self.schemes[found[0].tag]
        # The normal form of a session's elements is computed from what came: as few prefixes as there were.
        element = as_delivered(found[0]) if scheme == self.sessions else to_bytes(found[0])
        arrived = Arrived(element, around, scheme)
        ambiguous = len(found) > 1 and any(child.tag != OPENPGP_ELEMENT for child in found)
        return Incoming(arrived, archive_id, ambiguous)

    def _stamp(self, stanza: ET.Element, forwarded: ET.Element | None) -> Time | None:
        """The delay stamp (XEP-0203) of our own server. Others may be forged by the sender, or by a server between."""
        if forwarded is not None:
            forwarding = only(forwarded, _FORWARDED)
            stamps = [] if forwarding is None else forwarding.findall(_DELAY)
        else:
            stamps = [d for d in stanza.findall(_DELAY) if d.get("from") in (self.account, self.account.domain)]
        for delay in stamps:
            try:
                return parse_datetime(delay.get("stamp", ""))
            except Malformed:
                continue
        return None

    def _archive_id(self, stanza: ET.Element, forwarded: ET.Element | None) -> str:
        if forwarded is not None and forwarded.tag == _RESULT:
            return forwarded.get("id", "")[:MAX_ID]
        for element in stanza.findall(_STANZA_ID):
            if element.get("by") == self.account:
                return element.get("id", "")[:MAX_ID]
        return ""

    def notification(self, message: ET.Element, nodes: Container[str]) -> Fetched | None:
        """What a notification of one of these PEP nodes says (XEP-0060 section 7.1.2, XEP-0163 section 4.3).

        Only from a bare address, which no other client can send from, and it speaks for that account alone.
        """
        event = only(message, f"{{{EVENT}}}event")
        sender = address_of(message, "from", self.account)
        if event is None or len(event) != 1 or sender is None or sender != sender.bare:
            return None
        if message.get("type", "") in _CLOSED_TYPES or event[0].get("node", "") not in nodes:
            return None
        node = event[0].get("node", "")
        if event[0].tag in (f"{{{EVENT}}}delete", f"{{{EVENT}}}purge"):
            return Fetched(sender, node, "", None, "item-not-found", pushed=True)
        if event[0].tag != f"{{{EVENT}}}items" or len(event[0]) != 1:
            return None
        item = event[0][0]
        if item.tag == f"{{{EVENT}}}retract":
            return Fetched(sender, node, item.get("id", ""), None, "item-not-found", pushed=True)
        if item.tag != f"{{{EVENT}}}item" or len(item) > 1:
            return None
        if len(item) == 0:  # the node tells only that something changed
            return Fetched(sender, node, item.get("id", ""), None, NO_PAYLOAD, pushed=True)
        return Fetched(sender, node, item.get("id", ""), to_bytes(item[0]), pushed=True)


def _forwarded(wrapper: ET.Element | None) -> ET.Element | None:
    """The one message inside `<forwarded/>` (XEP-0297)."""
    if wrapper is None:
        return None
    forwarded = only(wrapper, _FORWARDED)
    return None if forwarded is None else only(forwarded, _MESSAGE)
