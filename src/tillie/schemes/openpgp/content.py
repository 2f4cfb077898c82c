"""OpenPGP content elements (XEP-0373 sections "Exchanging OpenPGP Encrypted and Signed Data" and "Verification of
<openpgp/> Content"): what is sealed in an OpenPGP message.

    <signcrypt xmlns='urn:xmpp:openpgp:0'>          or <sign>, or <crypt>
      <to jid='juliet@example.org'/>                one for each recipient; <crypt> may have none
      <time stamp='2026-11-01T12:00:00Z'/>          XEP-0082
      <rpad>random characters</rpad>                <sign> has none
      <payload> elements, each with its own namespace </payload>
    </signcrypt>

The children may come in any order. Others are ignored and reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, NamedTuple

from lxml import etree

from tillie.directory.openpgp import NAMESPACE
from tillie.envelope import codec, policy, profile
from tillie.errors import InvalidAddress, Malformed, Refused, TooLarge
from tillie.model import Address, Content, Envelope, Stanza, Time
from tillie.schemes import Unwrapped
from tillie.wire import address, flat, xml
from tillie.wire.time import format_datetime, parse_datetime

MIN_CONTENT_BYTES = codec.MIN_ENVELOPE_BYTES  # XEP-0373 names no sizes for its padding: those of XEP-0420 are used
MAX_CONTENT_BYTES = xml.MAX_STANZA_BYTES
MAX_RECIPIENTS = 1_024

_NS = f"{{{NAMESPACE}}}"
_TO, _TIME, _RPAD, _PAYLOAD = (_NS + name for name in ("to", "time", "rpad", "payload"))
# What `encode` writes around the payload.
_HEAD = re.compile(
    f"<(signcrypt|sign|crypt) xmlns='{NAMESPACE}'>((?:<to jid='{flat.VALUE}'/>)*+)<time stamp='({flat.VALUE})'/>"
    "(<rpad>[A-Za-z0-9+/]*+</rpad>)?+<payload>"
)
_PLAIN_TO = re.compile(f"<to jid='({flat.VALUE})'/>")
_CLIENT, _SERVER = "{jabber:client}", "{jabber:server}"
_AS_CLIENT: Any = {None: "jabber:client"}  # the stubs of lxml know no default namespace here
_HINT = "(urn:xmpp:hints)"


class Form(Enum):
    """Which content element, and so how the OpenPGP message around it must be made."""

    SIGNCRYPT = "signcrypt"  # signed and encrypted
    SIGN = "sign"  # signed, not encrypted
    CRYPT = "crypt"  # encrypted, not signed


_FORMS = {_NS + form.value: form for form in Form}


class Decoded(NamedTuple):
    """A content element: its recipients (bare), when it was made, what is in it, whether it is padded, the names of
    elements `discarded` from the payload because only servers may send them, and of `unknown` ones beside it."""

    form: Form
    to: tuple[Address, ...]
    time: Time
    content: Content
    padded: bool
    discarded: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def encode(
    form: Form,
    content: Content,
    to: Iterable[Address],
    time: Time,
    random: Callable[[int], bytes],
    *,
    max_bytes: int = codec.MAX_CONTENT_BYTES,
) -> bytes:
    """The element as UTF-8 XML without a declaration; padded unless it is only signed.

    Raises `TooLarge`, and `UsageError` for content that is not XML or that servers must be able to read.
    """
    if len(content.data) > max_bytes:
        raise TooLarge(f"The content has {len(content.data)} bytes; {max_bytes} is the most.")
    policy.check_outgoing(content)
    name = form.value.encode()
    head = [b"<%b xmlns='urn:xmpp:openpgp:0'>" % name]
    head += (b"<to jid=%b/>" % xml.attribute(bare) for bare in dict.fromkeys(each.bare for each in to))
    head.append(b"<time stamp='%b'/>" % format_datetime(time).encode())
    tail = b"<payload>%b</payload></%b>" % (content.data, name)
    if form is not Form.SIGN:
        frame = len(b"<rpad></rpad>") + len(tail) + sum(map(len, head))
        head += b"<rpad>", codec.padding(max(MIN_CONTENT_BYTES - frame, 0), random), b"</rpad>"
    return b"".join((*head, tail))


def decode(data: bytes, *, max_bytes: int = MAX_CONTENT_BYTES) -> Decoded:
    """A content element in opened bytes, as the table of XEP-0373 wants it. Raises `Malformed`."""
    if len(data) <= min(max_bytes, MAX_CONTENT_BYTES) and (decoded := _decode_flat(data)):
        return decoded
    root = xml.parse(data, max_bytes=max_bytes)
    form = _FORMS.get(root.tag)
    if form is None:
        raise Malformed("What was sealed is not an OpenPGP content element.")
    found: dict[str, list[xml.Element]] = {_TO: [], _TIME: [], _RPAD: [], _PAYLOAD: []}
    unknown: list[str] = []
    codec.refuse_text(root.text)
    for child in root:
        codec.refuse_text(child.tail)
        if child.tag in found:
            found[child.tag].append(child)
        else:
            unknown.append(policy.name_of(child.tag))
    if len(found[_TIME]) != 1 or len(found[_PAYLOAD]) != 1 or len(found[_RPAD]) > 1:
        raise Malformed("An OpenPGP content element has not exactly one time and one payload.")
    if len(found[_TO]) > MAX_RECIPIENTS or (form is not Form.CRYPT and not found[_TO]):
        raise Malformed("An OpenPGP content element names no recipient, or too many.")
    payload = found[_PAYLOAD][0]
    _as_client(payload)
    content, discarded = codec.content_of(payload, max_bytes=max_bytes)
    return Decoded(
        form,
        tuple(_address(child.get("jid")) for child in found[_TO]),
        _time(found[_TIME][0].get("stamp")),
        content,
        bool(found[_RPAD]),
        discarded,
        tuple(unknown),
    )


def _decode_flat(data: bytes) -> Decoded | None:
    """What `decode` makes of an element as `encode` writes it, if its content is flat and nothing is discarded."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    head = _HEAD.match(text)
    if head is None:
        return None
    tags, end = flat.read(text, head.end())
    form = Form(head[1])
    if text[end:] != f"</payload></{head[1]}>" or not all(map(_is_plain, tags)):
        return None
    to = _PLAIN_TO.findall(head[2])
    if len(to) > MAX_RECIPIENTS or (form is not Form.CRYPT and not to):
        return None
    inside = Content(text[head.end() : end].encode())
    return Decoded(form, tuple(map(_address, to)), parse_datetime(head[3]), inside, head[4] is not None)


def _is_plain(tag: str) -> bool:
    return policy.may_be_inside(tag) and not tag.startswith(_SERVER)


def verify(decoded: Decoded, around: Stanza, account: Address, now: Time) -> Unwrapped:
    """Check an opened content element against the stanza that carried it. Raises `Refused`.

    "At least one of the XMPP addresses found in the 'to' elements contained in OpenPGP content element MUST correspond
    to the outer 'to' of the XMPP <message/>": else whoever could read it could pass it on as meant for somebody else.
    The outer one is ours, or, in a copy of what we sent, the contact's.
    """
    to = around.to.bare
    if around.sender.bare != account and to != account:
        raise Refused("The message that carried it was not for us.")
    if to not in decoded.to and (decoded.to or decoded.form is not Form.CRYPT):
        raise Refused("It was sealed for somebody else.")
    time, time_notes = profile.check_time(decoded.time, around, now)
    # Libervia puts every child of a message inside, hints to the server too.
    notes = [f"Discarded from the sealed content: {name}." for name in decoded.discarded if not name.endswith(_HINT)]
    notes += [f"Ignored an unknown element of OpenPGP: {name}." for name in decoded.unknown]
    if not decoded.padded and decoded.form is not Form.SIGN:
        notes.append("It has no padding.")
    envelope = Envelope(decoded.content, to=to, time=decoded.time)
    return Unwrapped(envelope, time, (*notes, *time_notes))


def _as_client(payload: xml.Element) -> None:
    """<body/> "is also defined in the 'jabber:server' namespace, recipients MUST accept both" (XEP-0374): from here on
    there is only one."""
    for child in list(payload):
        if not child.tag.startswith(_SERVER):
            continue
        plain = etree.Element(_CLIENT + child.tag.removeprefix(_SERVER), None, _AS_CLIENT)
        plain.attrib.update(child.attrib)
        plain.text, plain.tail = child.text, child.tail
        plain.extend(list(child))
        payload.replace(child, plain)


def _address(text: str | None) -> Address:
    try:
        return address.parse(text or "").bare
    except InvalidAddress:
        raise Malformed("An OpenPGP content element names an address that is not valid.") from None


def _time(text: str | None) -> Time:
    if text is None:
        raise Malformed("An OpenPGP content element does not say when it was made.")
    return parse_datetime(text)
