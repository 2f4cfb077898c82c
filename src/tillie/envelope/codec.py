"""The envelope as bytes (XEP-0420 section "Affix Elements"), written and read.

    <envelope xmlns='urn:xmpp:sce:1'>
      <content> elements, each with its own namespace </content>
      <time stamp='2026-11-01T12:00:00.250Z'/>      XEP-0082
      <to jid='bob@example.org'/>
      <from jid='alice@example.org'/>
      <iq xmlns='urn:tillie:sce:0' type='get' id='x'/>   ours: binds an IQ to its type and id
      <rpad>random characters</rpad>
    </envelope>

The affixes may come in any order, each at most once. Others are ignored and reported: XEP-0420 lets every scheme add
its own, and to refuse them would lock out the next version of a profile.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from tillie.envelope import policy
from tillie.envelope.policy import SCE
from tillie.errors import InvalidAddress, Malformed, TooLarge, UsageError
from tillie.model import Address, Content, Envelope
from tillie.wire import address, flat, xml
from tillie.wire.time import format_datetime, parse_datetime

OWN = "urn:tillie:sce:0"  # the namespace of our own affix
MIN_ENVELOPE_BYTES = 512  # "first, the stanza is padded to a fixed minimum size"
MAX_RANDOM_PADDING = 200  # "afterwards, between 0 and 200 characters are added on top"
MAX_CONTENT_BYTES = 131_072  # in Base64, with keys for a hundred devices, still below what servers take from a client
MAX_ENVELOPE_BYTES = xml.MAX_STANZA_BYTES
MAX_ID_CHARACTERS = 1_023
IQ_TYPES = frozenset({"get", "set", "result", "error"})

_HEAD = b"<envelope xmlns='urn:xmpp:sce:1'><content>"
_TAIL = b"</rpad></envelope>"
_ENVELOPE, _CONTENT, _RPAD, _TIME, _TO, _FROM = (
    f"{{{SCE}}}{name}" for name in ("envelope", "content", "rpad", "time", "to", "from")
)
# What `encode` writes behind the content.
_AFFIXES = re.compile(
    f"</content>(?:<time stamp='({flat.VALUE})'/>)?(?:<to jid='({flat.VALUE})'/>)?(?:<from jid='({flat.VALUE})'/>)?"
    f"(?:<iq xmlns='{OWN}' type='({'|'.join(sorted(IQ_TYPES))})' id='({flat.VALUE})'/>)?"
    "<rpad>[A-Za-z0-9+/]*+</rpad></envelope>"
)
_IQ = f"{{{OWN}}}iq"
_NAMES = {_CONTENT: "content", _RPAD: "rpad", _TIME: "time", _TO: "to", _FROM: "from", _IQ: "iq"}


class Decoded(NamedTuple):
    """An envelope, and what was seen while it was read: `affixes` that are there ("rpad", "time", "to", "from", "iq"),
    names of `unknown` ones, and names of elements `discarded` from the content because only servers may send them."""

    envelope: Envelope
    affixes: frozenset[str]
    unknown: tuple[str, ...] = ()
    discarded: tuple[str, ...] = ()


def encode(envelope: Envelope, random: Callable[[int], bytes]) -> bytes:
    """The envelope as UTF-8 XML, padded with characters made from `random` (number of bytes -> bytes).

    Raises `TooLarge`, and `UsageError` for content that is not XML or that servers must be able to read.
    """
    content = envelope.content.data
    if len(content) > MAX_CONTENT_BYTES:
        raise TooLarge(f"The content has {len(content)} bytes; {MAX_CONTENT_BYTES} is the most.")
    policy.check_outgoing(envelope.content)
    parts = [_HEAD, content, b"</content>"]
    if envelope.time is not None:
        parts.append(b"<time stamp='%b'/>" % format_datetime(envelope.time).encode())
    if envelope.to is not None:
        parts.append(b"<to jid=%b/>" % xml.attribute(envelope.to))
    if envelope.sender is not None:
        parts.append(b"<from jid=%b/>" % xml.attribute(envelope.sender))
    if envelope.iq is not None:
        parts.append(_encode_iq(*envelope.iq))
    parts.append(b"<rpad>")
    short = MIN_ENVELOPE_BYTES - len(_TAIL) - sum(map(len, parts))
    parts.append(padding(max(short, 0), random))
    parts.append(_TAIL)
    return b"".join(parts)


def padding(least: int, random: Callable[[int], bytes]) -> bytes:
    """Random padding: `least` characters, and 0 .. MAX_RANDOM_PADDING more."""
    drawn = random(8 + (least + MAX_RANDOM_PADDING) * 3 // 4 + 1)
    # 64 bits: what the remainder prefers is nothing that a length could show.
    length = least + int.from_bytes(drawn[:8], "big") % (MAX_RANDOM_PADDING + 1)
    return b2a_base64(drawn[8:], newline=False)[:length]


def _encode_iq(kind: str, stanza_id: str) -> bytes:
    if kind not in IQ_TYPES or not 0 < len(stanza_id) <= MAX_ID_CHARACTERS:
        raise UsageError("An IQ is sealed with its type, and an id of 1 to 1023 characters.")
    return b"<iq xmlns='%b' type='%b' id=%b/>" % (OWN.encode(), kind.encode(), xml.attribute(stanza_id))


def decode(data: bytes, *, max_bytes: int = MAX_ENVELOPE_BYTES) -> Decoded:
    """The envelope in opened bytes, without the elements that only servers may send. Raises `Malformed`."""
    if len(data) <= max_bytes and (decoded := _decode_flat(data)):
        return decoded
    root = xml.parse(data, max_bytes=max_bytes)
    if root.tag != _ENVELOPE:
        raise Malformed("What was sealed is not an envelope.")
    found: dict[str, xml.Element] = {}
    unknown: list[str] = []
    refuse_text(root.text)
    for child in root:
        refuse_text(child.tail)
        name = _NAMES.get(child.tag)
        if name is None:
            unknown.append(policy.name_of(child.tag))
        elif name in found:
            raise Malformed(f"The envelope has more than one <{name}/>.")
        else:
            found[name] = child
    if "content" not in found:
        raise Malformed("The envelope has no content.")
    content, discarded = content_of(found.pop("content"))
    if "rpad" in found:
        xml.text_of(found["rpad"])  # any text of any length: "longer paddings than expected MUST NOT be rejected"
    stamp, iq = _attribute(found, "time", "stamp"), found.get("iq")
    envelope = Envelope(
        content,
        sender=_address(_attribute(found, "from", "jid")),
        to=_address(_attribute(found, "to", "jid")),
        time=None if stamp is None else parse_datetime(stamp),
        iq=None if iq is None else _decode_iq(iq),
    )
    return Decoded(envelope, frozenset(found), tuple(unknown), discarded)


def _decode_flat(data: bytes) -> Decoded | None:
    """What `decode` makes of an envelope as `encode` writes it, if its content is flat and nothing is discarded."""
    if not data.startswith(_HEAD):
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    tags, end = flat.read(text, len(_HEAD))
    found = _AFFIXES.fullmatch(text, end)
    if not found or not all(map(policy.may_be_inside, tags)):
        return None
    stamp, to, sender, kind, stanza_id = found.groups()
    if kind is not None and not 0 < len(stanza_id) <= MAX_ID_CHARACTERS:
        return None
    envelope = Envelope(
        Content(text[len(_HEAD) : end].encode()),
        sender=_address(sender),
        to=_address(to),
        time=None if stamp is None else parse_datetime(stamp),
        iq=None if kind is None else (kind, stanza_id),
    )
    return Decoded(envelope, _affixes(stamp is not None, to is not None, sender is not None, kind is not None))


@lru_cache(maxsize=16)
def _affixes(time: bool, to: bool, sender: bool, iq: bool) -> frozenset[str]:
    there = {"rpad": True, "time": time, "to": to, "from": sender, "iq": iq}
    return frozenset(name for name, is_there in there.items() if is_there)


def content_of(element: xml.Element, *, max_bytes: int = MAX_ENVELOPE_BYTES) -> tuple[Content, tuple[str, ...]]:
    """What an opened element holds, and the names of what is discarded because only servers may send it."""
    refuse_text(element.text)
    for child in element:
        refuse_text(child.tail)
    kept, discarded = policy.filter_incoming(element)
    parts, size = [], 0
    for child in kept:
        parts.append(xml.serialise(child))
        size += len(parts[-1])
        if size > max_bytes:
            # Each child gets its own copy of the declarations around it: one long namespace name and thousands of
            # small children would unfold into hundreds of megabytes.
            raise Malformed(f"The content is longer than {max_bytes} bytes.")
    return Content(b"".join(parts)), discarded


def _attribute(found: dict[str, xml.Element], name: str, attribute: str) -> str | None:
    element = found.get(name)
    if element is None:
        return None
    value: str | None = element.get(attribute)
    if value is None or len(element):
        raise Malformed(f"The affix <{name}/> is not as XEP-0420 defines it.")
    return value


def _address(text: str | None) -> Address | None:
    if text is None:
        return None
    try:
        return address.parse(text)
    except InvalidAddress:
        raise Malformed("An affix holds an address that is not valid.") from None


def _decode_iq(element: xml.Element) -> tuple[str, str]:
    kind, stanza_id = element.get("type", ""), element.get("id", "")
    if kind not in IQ_TYPES or not 0 < len(stanza_id) <= MAX_ID_CHARACTERS or len(element):
        raise Malformed("The affix <iq/> is not as Tillie defines it.")
    return kind, stanza_id


def refuse_text(text: str | None) -> None:
    """Raises `Malformed` for text where only elements may be; white space is none."""
    if text and text.strip(" \t\r\n"):
        raise Malformed("The envelope has text where only elements may be.")
