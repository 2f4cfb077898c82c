"""Codec of <encrypted> (XEP-0384 section "Message structure description").

<encrypted xmlns='urn:xmpp:omemo:2'>
  <header sid='27183'><keys jid='juliet@capulet.lit'><key rid='31415' kex='true'>b64</key></keys></header>
  <payload>b64</payload>
</encrypted>
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Sequence
from typing import NamedTuple

from lxml import etree

from tillie.directory.omemo import parse_id
from tillie.errors import InvalidAddress, Malformed
from tillie.model import Address
from tillie.schemes.omemo.messages import MAX_KEY_BYTES
from tillie.wire import address, base64, xml

NAMESPACE = "urn:xmpp:omemo:2"
MAX_KEYS = 2_048  # in one element, all recipients together
MAX_PAYLOAD_BYTES = 196_608  # of ciphertext; a stanza of 256 KiB can't carry more in base64

_NS = f"{{{NAMESPACE}}}"
_ENCRYPTED, _HEADER, _KEYS, _KEY, _PAYLOAD = (_NS + n for n in ("encrypted", "header", "keys", "key", "payload"))
_NUMBER, _CODED, _NAME = rb"'[1-9][0-9]{0,9}'", rb"[A-Za-z0-9+/=]*+", rb"[a-z0-9-]++(?:\.[a-z0-9-]++)*+"
_PLAIN_KEY = rb"<key(?: rid=N(?: kex='true')?+| kex='true' rid=N)>".replace(b"N", _NUMBER) + _CODED + rb"</key>"
_PLAIN_KEYS = rb"<keys jid='(?:" + _NAME + rb"@)?+" + _NAME + rb"'>(?:" + _PLAIN_KEY + rb")++</keys>"
_PLAIN = re.compile(
    rb"<encrypted xmlns='urn:xmpp:omemo:2'><header sid='([1-9][0-9]{0,9})'>((?:" + _PLAIN_KEYS + rb")++)</header>"
    rb"(?:<payload>(" + _CODED + rb")</payload>)?+</encrypted>"
)
_TRUE = {"true": True, "1": True, "false": False, "0": False, None: False}


class Key(NamedTuple):
    """One <key>: the recipient device's id, whether it is a key exchange, and its bytes."""

    rid: int
    kex: bool
    data: bytes


class Encrypted(NamedTuple):
    """What concerns one device in an <encrypted>: the sender's device id, our <key> if there is one, the payload."""

    sid: int
    key: Key | None
    payload: bytes | None


def encode(sid: int, keys: Sequence[tuple[Address, Sequence[Key]]], payload: bytes | None) -> bytes:
    """The element as bytes; `keys` by bare address."""
    parts = [b"<encrypted xmlns='urn:xmpp:omemo:2'><header sid='%d'>" % sid]
    for owner, owned in keys:
        parts.append(b"<keys jid=%s>" % xml.attribute(owner))
        for rid, kex, data in owned:
            opening = b"<key rid='%d' kex='true'>" if kex else b"<key rid='%d'>"
            parts += opening % rid, b2a_base64(data, newline=False), b"</key>"
        parts.append(b"</keys>")
    parts.append(b"</header>")
    if payload is not None:
        parts += b"<payload>", b2a_base64(payload, newline=False), b"</payload>"
    parts.append(b"</encrypted>")
    return b"".join(parts)


def decode(data: bytes, own_address: Address, own_id: int) -> Encrypted:
    """Read an <encrypted> for one device. Raises Malformed; other devices' keys are passed over unread."""
    return _decode_plain(data, own_address, own_id) or _decode_tree(data, own_address, own_id)


def _decode_plain(data: bytes, own_address: Address, own_id: int) -> Encrypted | None:
    """A short cut for an element as OMEMO software writes it: a tenth of what a tree costs when it has many keys.

    It takes only what `_decode_tree` takes too, with the same meaning (a property test holds both against each other);
    everything else is None and goes there.
    """
    if b'"' in data:
        if b"'" in data:
            return None
        data = data.replace(b'"', b"'")
    found = _PLAIN.fullmatch(data) if len(data) <= xml.MAX_STANZA_BYTES else None
    if found is None:
        return None
    sid, groups, coded = found.groups()
    _, ours, after = groups.partition(b"<keys jid='%b'>" % own_address.encode())
    after, _, others = after.partition(b"</keys>")
    mark = b" rid='%d'" % own_id
    if not ours or ours in others or after.count(mark) > 1 or data.count(b"<key ") > MAX_KEYS:
        return None
    key = None
    start, marked, rest = after.partition(mark)
    if marked:
        attribute, _, rest = rest.partition(b">")
        kex = bool(attribute) or start.endswith(b" kex='true'")
        key = Key(own_id, kex, base64.decode(rest.partition(b"<")[0], max_bytes=MAX_KEY_BYTES))
    payload = None if coded is None else base64.decode(coded, max_bytes=MAX_PAYLOAD_BYTES)
    return Encrypted(parse_id(sid.decode()), key, payload)


def _decode_tree(data: bytes, own_address: Address, own_id: int) -> Encrypted:
    root = xml.parse(data)
    if root.tag != _ENCRYPTED:
        raise Malformed("this is not an OMEMO 2 element")
    header = payload = None
    for child in root:
        tag = child.tag
        if tag == _HEADER and header is None:
            header = child
        elif tag == _PAYLOAD and payload is None:
            payload = child
        elif tag.startswith(_NS):
            raise Malformed("an <encrypted> has an element too many")
    if header is None:
        raise Malformed("an <encrypted> has no header")
    key = _own_key(header, own_address, str(own_id))
    ciphertext = None
    if payload is not None:
        ciphertext = base64.decode(xml.text_of(payload), max_bytes=MAX_PAYLOAD_BYTES)
    return Encrypted(parse_id(header.get("sid")), key, ciphertext)


def _own_key(header: etree._Element, own_address: Address, own_id: str) -> Key | None:
    found: etree._Element | None = None
    count = 0
    for group in header:
        if group.tag != _KEYS:
            continue
        count += max(1, len(group))  # an empty one costs the reading of its address
        if count > MAX_KEYS:
            raise Malformed(f"an <encrypted> has more than {MAX_KEYS} keys")
        if not _is_ours(group.get("jid"), own_address):
            continue
        for key in group:
            if key.get("rid") != own_id or key.tag != _KEY:
                continue
            if found is not None:
                raise Malformed("an <encrypted> has two keys for one device")
            found = key
    if found is None:
        return None
    kex = found.get("kex")
    if kex not in _TRUE:
        raise Malformed("kex is neither true nor false")
    return Key(int(own_id), _TRUE[kex], base64.decode(xml.text_of(found), max_bytes=MAX_KEY_BYTES))


def _is_ours(jid: str | None, own_address: Address) -> bool:
    if jid == own_address:
        return True
    try:
        return jid is not None and address.parse_bare(jid) == own_address
    except InvalidAddress:
        return False
