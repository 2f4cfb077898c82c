"""Announced OpenPGP keys and the backup of secret ones (XEP-0373 sections "Announcing and Discovering Public Keys via
PEP" and "Synchronizing the Secret Key with a Private PEP Node").

Codecs only: what a certificate says is for `crypto.openpgp`. One bad entry never costs the others of its list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from tillie.errors import Malformed
from tillie.model import Time
from tillie.wire import base64, xml
from tillie.wire.time import format_datetime, parse_datetime

NAMESPACE = "urn:xmpp:openpgp:0"
LIST_NODE = NAMESPACE + ":public-keys"
SECRET_NODE = NAMESPACE + ":secret-key"
LIST_ITEM = "current"
MAX_KEYS = 64  # one account's; every one of them costs a fetch, and some 100 to 600 bytes in every message
MAX_LIST_ELEMENTS = 1_024  # read at all; more is not a list of somebody's keys
MAX_CERTIFICATE_BYTES = 100_000
MAX_BACKUP_BYTES = 262_144
UNKNOWN_DATE: Time = 0.0

_NS = f"{{{NAMESPACE}}}"
_FINGERPRINT = re.compile("[0-9A-Fa-f]{40}")
_SPACE = str.maketrans("", "", " \t\r\n")


class Announced(NamedTuple):
    """One <pubkey-metadata>: the fingerprint of a certificate, and when it was published or updated."""

    fingerprint: bytes
    at: Time


def key_node(fingerprint: bytes) -> str:
    """The data node of a key: the fingerprint "using upper case characters"."""
    return f"{LIST_NODE}:{fingerprint.hex().upper()}"


def fingerprint_in(node: str) -> bytes | None:
    """The fingerprint that a data node is named after; None if it is another kind of node."""
    prefix, _, name = node.rpartition(":")
    return bytes.fromhex(name) if prefix == LIST_NODE and _FINGERPRINT.fullmatch(name) else None


def parse_list(payload: bytes) -> tuple[Announced, ...]:
    """A <public-keys-list>, at most MAX_KEYS of them. Raises `Malformed`.

    An entry without a version 4 fingerprint is passed over; a date that can't be read is UNKNOWN_DATE. "An OpenPGP V4
    fingerprint MUST NOT occur in the list more than once": one that does counts once, with its newest date.
    """
    root = xml.parse(payload)
    if root.tag != _NS + "public-keys-list":
        raise Malformed("a key list has the wrong element")
    if len(root) > MAX_LIST_ELEMENTS:
        raise Malformed(f"a key list has {len(root)} entries; at most {MAX_KEYS} keys are used")
    dates: dict[bytes, Time] = {}
    for child in root:
        text = child.get("v4-fingerprint", "")
        if child.tag != _NS + "pubkey-metadata" or not _FINGERPRINT.fullmatch(text):
            continue
        fingerprint = bytes.fromhex(text)
        dates[fingerprint] = max(_date(child.get("date", "")), dates.get(fingerprint, UNKNOWN_DATE))
    if len(dates) > MAX_KEYS:
        raise Malformed(f"a key list has {len(dates)} keys; at most {MAX_KEYS} are used")
    return tuple(Announced(fingerprint, at) for fingerprint, at in dates.items())


def encode_list(announced: Iterable[Announced]) -> bytes:
    """As `parse_list` reads it. Dates are whole seconds, which every client can read."""
    entries = (
        f"<pubkey-metadata v4-fingerprint='{key.fingerprint.hex().upper()}' date='{format_datetime(int(key.at))}'/>"
        for key in announced
    )
    return f"<public-keys-list xmlns='{NAMESPACE}'>{''.join(entries)}</public-keys-list>".encode()


def parse_key(payload: bytes) -> bytes:
    """The certificate in a <pubkey>, not looked at. Raises `Malformed`."""
    root = xml.parse(payload)
    if root.tag != _NS + "pubkey":
        raise Malformed("a key has the wrong element")
    found = root.findall(_NS + "data")
    if len(found) != 1:
        raise Malformed(f"a key has {len(found)} <data> elements instead of one")
    return binary(found[0], max_bytes=MAX_CERTIFICATE_BYTES)


def encode_key(certificate: bytes) -> bytes:
    return b"<pubkey xmlns='%s'><data>%s</data></pubkey>" % (NAMESPACE.encode(), base64.encode(certificate).encode())


def parse_backup(payload: bytes) -> bytes:
    """The OpenPGP message in a <secretkey>, which a backup code opens. Raises `Malformed`."""
    root = xml.parse(payload)
    if root.tag != _NS + "secretkey":
        raise Malformed("a key backup has the wrong element")
    return binary(root, max_bytes=MAX_BACKUP_BYTES)


def encode_backup(message: bytes) -> bytes:
    return b"<secretkey xmlns='%s'>%s</secretkey>" % (NAMESPACE.encode(), base64.encode(message).encode())


def binary(element: xml.Element, *, max_bytes: int) -> bytes:
    """The Base64 text of an element. OpenPGP software wraps it in lines of 64, which the XEP does not forbid."""
    data = base64.decode(xml.text_of(element).translate(_SPACE), max_bytes=max_bytes)
    if not data:
        raise Malformed("an OpenPGP element is empty")
    return data


def _date(text: str) -> Time:
    try:
        return max(parse_datetime(text), UNKNOWN_DATE)
    except Malformed:
        return UNKNOWN_DATE
