"""Signatures of items: `<signature>` (XEP-0475) with its OpenPGP profile (XEP-0476). A codec: `checking` judges.

A signature is an attachment (XEP-0470). What is signed is never sent, but built anew by who checks:

    <sign-data xmlns="urn:xmpp:pubsub-signing:0">
      <to jid="SERVICE"/> <time stamp="..Z"/> <signer>ADDRESS</signer>.. <item xmlns="http://jabber.org/protocol/pubsub">PAYLOAD</item>
    </sign-data>

in canonical form (`wire.c14n`), with the payload in clear, also where the item is sealed. Neither the item's id nor the
node's name is in it. XEP-0475 contradicts itself in most of this; docs/spec-notes.md lists where, and why it is read as
Libervia does. There is this one reading and no other: what does not verify so does not verify.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import NamedTuple

from tillie.errors import InvalidAddress, Malformed, UsageError
from tillie.model import Address, Time
from tillie.pubsub.items import Node
from tillie.wire import address, base64, c14n, xml
from tillie.wire.time import format_datetime, parse_datetime

NS = "urn:xmpp:pubsub-signing:0"
OPENPGP_NS = "urn:xmpp:pubsub-signing:openpgp:0"
FEATURES = (NS, OPENPGP_NS)

SIGNATURE = f"{{{NS}}}signature"
_NS = NS.encode()
_START = b'<sign-data xmlns="%s">' % _NS
_END = b"</sign-data>"
_TIME = f"{{{NS}}}time"
_SIGNER = f"{{{NS}}}signer"
_SIGN = f"{{{OPENPGP_NS}}}sign"

MAX_SIGNERS = 16  # of one signature
MAX_SIGNATURE = 8_192  # bytes: RSA-4096 makes 0.6 kB; Libervia puts one behind the other for each of its keys
MAX_STAMP = 40  # characters


class Statement(NamedTuple):
    """What is signed beside the item: when, and who signs, in their order. `stamp` is as it is written: another
    spelling of the same time is another statement."""

    stamp: str
    signers: tuple[Address, ...]

    @property
    def time(self) -> Time:
        return parse_datetime(self.stamp)


class Signature(NamedTuple):
    """One `<signature>`: the statement, and a detached OpenPGP signature (binary) of its signed form by one signer;
    b"" if it has none that we know how to check. `ignored` are the names of elements that mean nothing here."""

    statement: Statement
    signature: bytes
    ignored: tuple[str, ...] = ()


def statement(signer: Address, now: Time, *, also: Sequence[Address] = ()) -> Statement:
    """What to sign now. `also` are people who sign the same item, each for themselves: the statement names them.

    The time is in whole seconds: Libervia checks it so. Raises `UsageError` beyond MAX_SIGNERS.
    """
    signers = tuple(dict.fromkeys((signer.bare, *(each.bare for each in also))))
    if len(signers) > MAX_SIGNERS:
        raise UsageError(f"An item may have {MAX_SIGNERS} signers in one statement.")
    return Statement(format_datetime(floor(now)), signers)


def signed_form(node: Node, payload: bytes, statement: Statement) -> bytes:
    """The bytes that are signed (XEP-0475 section "Signing a Pubsub Item", XEP-0476).

    `payload` is the item's payload element in clear. Raises as `item_form` does.
    """
    return with_item(node, item_form(payload), statement)


def item_form(payload: bytes) -> bytes:
    """The part of the signed form that all signatures of one version of an item share, from `<item` to the end.

    Raises `Malformed` if the payload is not one element, has no namespace, or shares its canonical form with another
    (`wire.c14n`).
    """
    inner = xml.parse(payload)
    if not inner.tag.startswith("{"):
        raise Malformed("A payload without a namespace can't be signed.")
    root = xml.parse(_START + b"<item xmlns='http://jabber.org/protocol/pubsub'/>" + _END)
    root[0].append(inner)
    return c14n.canonical(root)[len(_START) :]


def with_item(node: Node, item: bytes, statement: Statement) -> bytes:
    """The signed form of one statement, from what `item_form` made."""
    signers = b"".join(b"<signer>%s</signer>" % xml.escape(signer) for signer in statement.signers)
    to, stamp = xml.attribute(node.service.bare), xml.attribute(statement.stamp)
    head = xml.parse(b"%s<to jid=%s/><time stamp=%s/>%s%s" % (_START, to, stamp, signers, _END))
    return c14n.canonical(head)[: -len(_END)] + item


def loses_space(payload: bytes) -> bool:
    """Whether a signed payload has white space that the signature does not cover, beside indentation."""
    return c14n.loses_space(xml.parse(payload))


def encode(made: Signature) -> bytes:
    """The `<signature>` attachment, as XEP-0476's example has it."""
    when, signers = made.statement
    return b"".join((
        b"<signature xmlns='%s'><time stamp=%s/>" % (_NS, xml.attribute(when)),
        *(b"<signer>%s</signer>" % xml.escape(signer) for signer in signers),
        b"<sign xmlns='%s'>%s</sign></signature>" % (OPENPGP_NS.encode(), base64.encode(made.signature).encode()),
    ))  # fmt: skip


def parse(element: bytes) -> Signature:
    """One `<signature>` attachment. Raises `Malformed`.

    Exactly one time, one or more signers (bare addresses in normal form, each once), at most one OpenPGP signature.
    Elements of other profiles are not part of what OpenPGP signs; they are left out, and named in `ignored`.
    """
    root = xml.parse(element)
    if root.tag != SIGNATURE:
        raise Malformed("It is not a <signature> element.")
    times = list(root.iterchildren(_TIME))
    signs = list(root.iterchildren(_SIGN))
    signers = tuple(map(_signer, root.iterchildren(_SIGNER)))
    if len(times) != 1 or len(signs) > 1 or not 1 <= len(signers) <= MAX_SIGNERS or len(set(signers)) < len(signers):
        raise Malformed("A signature has no single time and value, or not each signer once.")
    stamp = times[0].get("stamp", "")
    if len(stamp) > MAX_STAMP:
        raise Malformed("A signature's time is not in the form of XEP-0082.")
    parse_datetime(stamp)
    value = base64.decode(xml.text_of(signs[0]), max_bytes=MAX_SIGNATURE) if signs else b""
    if signs and not value:
        raise Malformed("A signature is empty.")
    ignored = tuple(child.tag for child in root if child.tag not in (_TIME, _SIGNER, _SIGN))
    return Signature(Statement(stamp, signers), value, ignored)


def _signer(element: xml.Element) -> Address:
    text = xml.text_of(element).strip()
    try:
        signer = address.parse_bare(text)
    except InvalidAddress:
        raise Malformed("A signer is not a bare address.") from None
    # It is signed as it is written. Libervia checks the normal form, so that any other would be valid for one of us.
    if signer != text:
        raise Malformed("A signer's address is not in its normal form.")
    return signer
