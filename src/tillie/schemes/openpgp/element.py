"""Codec of <openpgp> (XEP-0373 section "Exchanging OpenPGP Encrypted and Signed Data"): a binary OpenPGP message.

<openpgp xmlns='urn:xmpp:openpgp:0'>Base64</openpgp>
"""

from __future__ import annotations

from binascii import b2a_base64

from tillie.directory.openpgp import NAMESPACE, binary
from tillie.errors import Malformed
from tillie.wire import xml

TAG = f"{{{NAMESPACE}}}openpgp"
MAX_MESSAGE_BYTES = xml.MAX_STANZA_BYTES // 4 * 3


def encode(message: bytes) -> bytes:
    return b"<openpgp xmlns='urn:xmpp:openpgp:0'>" + b2a_base64(message, newline=False) + b"</openpgp>"


def decode(data: bytes) -> bytes:
    """The OpenPGP message, not looked at. Raises `Malformed`."""
    root = xml.parse(data)
    if root.tag != TAG:
        raise Malformed("this is not an OpenPGP element")
    return binary(root, max_bytes=MAX_MESSAGE_BYTES)
