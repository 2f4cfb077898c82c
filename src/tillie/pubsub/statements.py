"""What a message says of a node's secrets: `<shared-secret>` and `<revoke>` (XEP-0473 sections "Transmit Shared
Secret" and "Revocation and Shared Secret Rotation"). A codec: who may say so is decided in `secrets`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from tillie.envelope.profile import EARLIEST, MAX_AHEAD
from tillie.errors import InvalidAddress, Malformed, UsageError
from tillie.model import Content, Time
from tillie.pubsub.items import Node
from tillie.wire import address, xml
from tillie.wire.time import format_datetime, parse_datetime

NS = "urn:xmpp:openpgp:pubsub:0"
SHARED_SECRET = f"{{{NS}}}shared-secret"
REVOKE = f"{{{NS}}}revoke"
_TAGS = frozenset({SHARED_SECRET, REVOKE})
_REASON = f"{{{NS}}}reason"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"

MAX_STATEMENTS = 1_000  # in one message
MAX_ID = 128  # characters
MIN_VALUE = 16  # "A secret of at least 32 characters is recommended": less is read, much less is not
MAX_VALUE = 1_024
MAX_NODE_NAME = 4_096  # XEP-0470's names hold another node's
MAX_TYPE = 1_024
MAX_REASONS = 16
MAX_REASON = 1_024

_ID = re.compile(rf"[!-~]{{1,{MAX_ID}}}")
_BOOLEAN = {"true": True, "1": True, "false": False, "0": False}
_XML_SPACE = " \t\r\n"


class Reason(NamedTuple):
    """Why a secret was revoked, in one language (an xml:lang, "" if unknown)."""

    text: str
    lang: str = ""


class Shared(NamedTuple):
    """A secret that somebody shares. `at` is when it was made, by the sender's word; `type` what the node holds."""

    node: Node
    id: str
    value: str
    at: Time
    revoked: bool = False
    type: str = ""

    def __repr__(self) -> str:
        return f"Shared({self.node!r}, {self.id!r})"


class Revoked(NamedTuple):
    """A secret that must not seal new items any more."""

    node: Node
    id: str
    reasons: tuple[Reason, ...] = ()


Statement = Shared | Revoked


def check_node(node: Node) -> Node:
    """The node, if it can have secrets. Raises `UsageError`."""
    if not 1 <= len(node.name) <= MAX_NODE_NAME:
        raise UsageError(f"The name of a node has 1 to {MAX_NODE_NAME} characters.")
    if node.service.resource:
        raise UsageError("A pubsub service has an address without a resource.")
    return node


def encode(statement: Statement) -> bytes:
    """The element. The secret stands in it without white space: Libervia takes the text as it is."""
    if isinstance(statement, Revoked):
        head = b"<revoke xmlns='%s'%s" % (NS.encode(), _where(statement.node, statement.id))
        reasons = b"".join(map(_encode_reason, statement.reasons))
        return head + (b">" + reasons + b"</revoke>" if reasons else b"/>")
    parts = [b"<shared-secret xmlns='%s'%s" % (NS.encode(), _where(statement.node, statement.id))]
    parts.append(b" timestamp=" + xml.attribute(format_datetime(statement.at)))
    if statement.revoked:
        parts.append(b" revoked='true'")
    if statement.type:
        parts.append(b" type=" + xml.attribute(statement.type))
    return b"".join((*parts, b">", xml.escape(statement.value), b"</shared-secret>"))


def _where(node: Node, id: str) -> bytes:
    return b" jid=%s node=%s id=%s" % (xml.attribute(node.service), xml.attribute(node.name), xml.attribute(id))


def _encode_reason(reason: Reason) -> bytes:
    lang = b" xml:lang=" + xml.attribute(reason.lang) if reason.lang else b""
    return b"<reason" + lang + b">" + xml.escape(reason.text) + b"</reason>"


def split(content: Content) -> tuple[list[xml.Element], Content]:
    """The statements in a message's content, not yet parsed, and the rest of the content."""
    if NS.encode() not in content.data:
        return [], content
    children = xml.parse_fragment(content.data)
    found = [child for child in children if child.tag in _TAGS]
    if not found:
        return [], content
    return found, Content(b"".join(xml.serialise(child) for child in children if child.tag not in _TAGS))


def parse(element: xml.Element, now: Time) -> Statement:
    """One statement. White space around the secret is not part of it (the XEP's example has some). Raises
    `Malformed`, also for a time that is further ahead than any clock may be."""
    node, id = _parse_where(element)
    if element.tag == REVOKE:
        return Revoked(node, id, _parse_reasons(element))
    at = parse_datetime(element.get("timestamp", ""))
    if at > now + MAX_AHEAD:
        raise Malformed("A shared secret was made in the future.")
    if at < EARLIEST:
        raise Malformed("A shared secret was made before there was XMPP.")
    revoked = _BOOLEAN.get(element.get("revoked", "false"))
    if revoked is None:
        raise Malformed("A shared secret is neither revoked nor not.")
    value = xml.text_of(element).strip(_XML_SPACE)
    if not MIN_VALUE <= len(value) <= MAX_VALUE or not value.isprintable():
        raise Malformed(f"A shared secret does not have {MIN_VALUE} to {MAX_VALUE} printable characters.")
    type = element.get("type", "")
    if len(type) > MAX_TYPE:
        raise Malformed(f"The type of a node has more than {MAX_TYPE} characters.")
    return Shared(node, id, value, at, revoked, type)


def _parse_where(element: xml.Element) -> tuple[Node, str]:
    try:
        service = address.parse_bare(element.get("jid", ""))
    except InvalidAddress:
        raise Malformed("A shared secret is for no valid service.") from None
    name = element.get("node", "")
    if not 1 <= len(name) <= MAX_NODE_NAME:
        raise Malformed(f"A shared secret is for no node, or one with more than {MAX_NODE_NAME} characters.")
    id = element.get("id", "")
    if not _ID.fullmatch(id):
        raise Malformed(f"The id of a shared secret does not have 1 to {MAX_ID} visible characters.")
    return Node(service, name), id


def _parse_reasons(element: xml.Element) -> tuple[Reason, ...]:
    """Too many, too long, two in one language: the revocation holds all the same, so that is cut away."""
    found: dict[str, Reason] = {}
    for child in element.iterchildren(_REASON):
        reason = Reason((child.text or "")[:MAX_REASON], child.get(_LANG, "")[:MAX_ID])
        if reason.text and len(found) < MAX_REASONS:
            found.setdefault(reason.lang, reason)
    return tuple(found.values())


def check_reasons(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """Reasons of ours. Raises `UsageError` if they break a limit, or two are in one language."""
    checked = tuple(reasons)
    if len(checked) > MAX_REASONS or any(len(reason.text) > MAX_REASON for reason in checked):
        raise UsageError(f"There may be {MAX_REASONS} reasons of {MAX_REASON} characters each.")
    if len({reason.lang for reason in checked}) < len(checked):
        raise UsageError("There may be one reason for each language.")
    return checked
