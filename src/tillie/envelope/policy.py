"""What is sealed and what stays readable (XEP-0420 section "Server-processed Elements").

Everything is sealed that is not in `RULES`: "other elements are considered sensitive and MUST NOT be available in
plaintext outside". The table is the list of XEP-0420, which calls itself non-exhaustive, completed for the reason it
gives: elements that servers act on or put there themselves, and that a member of a conversation could otherwise forge.
XEP-0420 lets the registrar complete the list; the registrar has not published one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from tillie.errors import Malformed, UsageError
from tillie.model import Content
from tillie.wire import flat, xml
from tillie.wire.display import printable

SCE = "urn:xmpp:sce:1"
OPENPGP_ELEMENT = "{urn:xmpp:openpgp:0}openpgp"
BODY = "<body> (jabber:client)"  # as `name_of` writes it
_MAX_NAME = 200  # characters of an element's name in a report


class Place(Enum):
    """Where an element may be: inside the sealed content, or beside the sealed element, in plain."""

    INSIDE = "inside"  # the content of a conversation
    BESIDE = "beside"  # servers read it, or put it there
    BOTH = "both"
    NEITHER = "neither"  # never travels with a sealed element


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: these elements of this namespace (all of them if none is named) belong at `place`, because of `why`."""

    namespace: str
    names: tuple[str, ...]
    place: Place
    why: str


RULES = (
    # -- listed in XEP-0420 itself
    Rule("urn:xmpp:hints", (), Place.BESIDE, "XEP-0334: hints are addressed to the server"),
    Rule("urn:xmpp:sid:0", ("stanza-id",), Place.BESIDE, "XEP-0359: the server filters forged ones"),
    Rule("http://jabber.org/protocol/address", (), Place.BESIDE, "XEP-0033: servers route by it"),
    Rule("urn:xmpp:eme:0", (), Place.BESIDE, "XEP-0380: names the encryption before anything is opened"),
    Rule(SCE, (), Place.NEITHER, "XEP-0420: an unencrypted envelope must be dropped"),
    # -- servers act on it
    Rule("urn:xmpp:sid:0", ("origin-id",), Place.BOTH, "XEP-0359: equal to the stanza's id; allowed inside"),
    Rule("http://jabber.org/protocol/amp", (), Place.BESIDE, "XEP-0079: rules for the server"),
    Rule("urn:xmpp:carbons:2", ("private",), Place.BESIDE, "XEP-0280: the server must not copy it"),
    Rule("urn:xmpp:sec-label:0", (), Place.BESIDE, "XEP-0258: servers enforce labels"),
    Rule("http://jabber.org/protocol/muc", (), Place.BESIDE, "XEP-0045: the room reads it"),
    Rule("http://jabber.org/protocol/muc#user", (), Place.BESIDE, "XEP-0045: the room reads it, and writes it"),
    Rule("http://jabber.org/protocol/caps", (), Place.BESIDE, "XEP-0115: servers filter notifications by it"),
    Rule("jabber:client", ("priority",), Place.BESIDE, "RFC 6121: servers choose a resource by it"),
    # -- servers put it there
    Rule("jabber:client", ("error",), Place.BESIDE, "RFC 6120: stanza errors"),
    Rule("urn:xmpp:delay", (), Place.BESIDE, "XEP-0203: delay stamps"),
    Rule("jabber:x:delay", (), Place.BESIDE, "XEP-0091: old delay stamps"),
    Rule("urn:xmpp:occupant-id:0", (), Place.BESIDE, "XEP-0421: the room says who an occupant is"),
    Rule("urn:xmpp:hats:0", (), Place.BESIDE, "XEP-0317: the room says who an occupant is"),
    Rule("urn:xmpp:mix:core:1", (), Place.BESIDE, "XEP-0369: the channel says who a participant is"),
    # -- wrappers and answers of servers: forged ones would speak for a server or for another person
    Rule("urn:xmpp:carbons:2", (), Place.NEITHER, "XEP-0280: copies come from one's own server"),
    Rule("urn:xmpp:mam:2", (), Place.NEITHER, "XEP-0313: results come from an archive"),
    Rule("http://jabber.org/protocol/pubsub#event", (), Place.NEITHER, "XEP-0060: notifications come from a node"),
    Rule("urn:xmpp:message-moderate:0", (), Place.NEITHER, "XEP-0425: moderation comes from the room"),
    Rule("urn:xmpp:message-moderate:1", (), Place.NEITHER, "XEP-0425: moderation comes from the room"),
    # -- between a client and its own server, which never is at the other end of a sealed IQ
    Rule("jabber:iq:roster", (), Place.NEITHER, "RFC 6121: roster pushes come from one's own server"),
    Rule("jabber:iq:register", (), Place.NEITHER, "XEP-0077: for a server"),
    Rule("jabber:iq:privacy", (), Place.NEITHER, "XEP-0016: for a server"),
    Rule("urn:xmpp:blocking", (), Place.NEITHER, "XEP-0191: for a server"),
    Rule("urn:xmpp:push:0", (), Place.NEITHER, "XEP-0357: for a server"),
    Rule("urn:ietf:params:xml:ns:xmpp-bind", (), Place.NEITHER, "RFC 6120: for a server"),
    Rule("urn:ietf:params:xml:ns:xmpp-session", (), Place.NEITHER, "RFC 3921: for a server"),
    # -- a sealed element in a sealed one would be opened under somebody else's name
    Rule("urn:xmpp:omemo:2", ("encrypted",), Place.NEITHER, "XEP-0384: one sealed element at a time"),
    Rule("eu.siacs.conversations.axolotl", ("encrypted",), Place.NEITHER, "XEP-0384: one sealed element at a time"),
    Rule("urn:xmpp:openpgp:0", (), Place.NEITHER, "XEP-0373: one sealed element at a time"),
    Rule("jabber:x:encrypted", (), Place.NEITHER, "XEP-0027: one sealed element at a time"),
    Rule("jabber:x:signed", (), Place.NEITHER, "XEP-0027: signs plain presence"),
)

_BY_TAG = {f"{{{rule.namespace}}}{name}": rule.place for rule in RULES for name in rule.names}
_BY_NAMESPACE = {rule.namespace: rule.place for rule in RULES if not rule.names}
# A start tag whose name and namespace are plain to see, as serialisers of XMPP software write it.
_PLAIN_START = re.compile(rb"<([A-Za-z_][A-Za-z0-9_.-]{0,99}) xmlns=(['\"])([A-Za-z0-9:/.#_-]{1,199})\2")


def place_of(tag: str) -> Place:
    """Where the element with this tag (`{namespace}name`) belongs."""
    place = _BY_TAG.get(tag)
    if place is not None:
        return place
    namespace, brace, _ = tag[1:].partition("}")
    # "Elements in the <content/> element MUST be identified using an element name and namespace."
    return _BY_NAMESPACE.get(namespace, Place.INSIDE) if brace else Place.NEITHER


def may_be_inside(tag: str) -> bool:
    """Whether the element with this tag may be sealed, and read from what was sealed."""
    place = place_of(tag)
    return place is Place.INSIDE or place is Place.BOTH


def split_outgoing(content: Content) -> tuple[Content, tuple[bytes, ...]]:
    """The part of a stanza's children to seal, and those to leave in plain, from all of them (XEP-0420, "Sending").

    Raises `UsageError` on elements that travel with no sealed element, and on what is not XML.
    """
    children = parse_own(content)
    places = [place_of(child.tag) for child in children]
    for child, place in zip(children, places, strict=True):
        if place is Place.NEITHER:
            raise UsageError(f"{name_of(child.tag)} can't be sent with encryption.")
    if all(place is Place.INSIDE for place in places):
        return content, ()
    written = [(xml.serialise(child), place is Place.INSIDE) for child, place in zip(children, places, strict=True)]
    sealed = b"".join(data for data, inside in written if inside)
    return Content(sealed), tuple(data for data, inside in written if not inside)


def check_outgoing(content: Content) -> None:
    """Refuse content that XEP-0420 forbids in an envelope. Raises `UsageError`."""
    tags = flat.tags_of(content.data)
    if tags is None:
        children = parse_own(content)
        tags = [child.tag for child in children]
        for child in children:
            # The envelope's own default namespace would take them in.
            if None not in child.nsmap and any(not element.tag.startswith("{") for element in child.iter()):
                raise UsageError(f"{name_of(child.tag)} holds an element without a namespace.")
    for tag in tags:
        if not may_be_inside(tag):
            raise UsageError(f"{name_of(tag)} must not be sealed: it is for servers.")


def has_body(content: Content) -> bool:
    """Whether a person would see something of it in a client that can open it."""
    return b"body" in content.data and any(_local(child.tag) == "body" for child in parse_own(content))


def holds_sealed(content: Content) -> bool:
    """Whether it is sealed already (XEP-0473 section "Implementation Notes": "Double encryption should be checked")."""
    return b"openpgp" in content.data and any(child.tag == OPENPGP_ELEMENT for child in parse_own(content))


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def filter_incoming(elements: Iterable[xml.Element]) -> tuple[list[xml.Element], tuple[str, ...]]:
    """Which opened elements are delivered, and the names of those that are discarded (XEP-0420, "Receiving")."""
    kept: list[xml.Element] = []
    discarded: list[str] = []
    for element in elements:
        if may_be_inside(element.tag):
            kept.append(element)
        else:
            discarded.append(name_of(element.tag))
    return kept, tuple(discarded)


def filter_siblings(siblings: Iterable[bytes]) -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    """Which plain elements beside a sealed one are delivered, and the names of those that are dropped.

    XEP-0420 section "Business Rules": "the receiving client MUST ignore any extension elements considered as
    sensitive which are found outside of the <envelope/> element". A body, correction or reaction there is the
    server's word, not the sender's.
    """
    kept: list[bytes] = []
    dropped: list[str] = []
    for sibling in siblings:
        start = _PLAIN_START.match(sibling)
        tag = _tag_in(start[0]) if start else _tag_of(sibling)
        place = place_of(tag)
        if place is Place.BESIDE or place is Place.BOTH:
            kept.append(sibling)
        else:
            dropped.append(name_of(tag))
    return tuple(kept), tuple(dropped)


def name_of(tag: str) -> str:
    """An element's name for a report: `name (namespace)`, safe to show."""
    namespace, brace, name = tag[1:].partition("}")
    return printable(f"<{name}> ({namespace})" if brace else f"<{tag}> (no namespace)", _MAX_NAME)


def parse_own(content: Content) -> list[xml.Element]:
    """The elements of content that our own program made. Raises `UsageError`: it is not a peer's fault."""
    try:
        return xml.parse_fragment(content.data)
    except Malformed as error:
        raise UsageError(error.detail) from None


@lru_cache(maxsize=256)  # of short strings: _PLAIN_START is bounded
def _tag_in(start: bytes) -> str:
    name, _, namespace = start[1:-1].decode().partition(" xmlns=")
    return f"{{{namespace[1:]}}}{name}"


def _tag_of(element: bytes) -> str:
    try:
        return str(xml.parse(element).tag)
    except Malformed:
        return "malformed"
