"""Codec of <openpgp> (XEP-0373 section "Exchanging OpenPGP Encrypted and Signed Data"): a binary OpenPGP message.

<openpgp xmlns='urn:xmpp:openpgp:0'>Base64</openpgp>
"""

from __future__ import annotations

import re
from binascii import b2a_base64

from tillie.directory.openpgp import NAMESPACE, binary
from tillie.errors import Malformed
from tillie.wire import base64, xml

TAG = f"{{{NAMESPACE}}}openpgp"
MAX_MESSAGE_BYTES = xml.MAX_STANZA_BYTES // 4 * 3

_PLAIN = re.compile(rb"<openpgp xmlns=(['\"])urn:xmpp:openpgp:0\1>([A-Za-z0-9+/]++={0,2})</openpgp>")


def encode(message: bytes) -> bytes:
    return b"<openpgp xmlns='urn:xmpp:openpgp:0'>" + b2a_base64(message, newline=False) + b"</openpgp>"


def decode(data: bytes) -> bytes:
    """The OpenPGP message, not looked at. Raises `Malformed`.

    As OpenPGP software writes it, it is read without a parser: a third of what that costs.
    """
    plain = _PLAIN.fullmatch(data) if len(data) <= xml.MAX_STANZA_BYTES else None
    if plain is not None:
        return base64.decode(plain[2], max_bytes=MAX_MESSAGE_BYTES)
    root = xml.parse(data)
    if root.tag != TAG:
        raise Malformed("this is not an OpenPGP element")
    return binary(root, max_bytes=MAX_MESSAGE_BYTES)
