"""The bytes inside a <key>: OMEMOAuthenticatedMessage and OMEMOKeyExchange (XEP-0384 0.9.1, "Protobuf Schema").

    OMEMOKeyExchange          = pk_id, spk_id, ik (32), ek (32), OMEMOAuthenticatedMessage
    OMEMOAuthenticatedMessage = mac (16), message: the bytes of an OMEMOMessage, exactly as the MAC covers them
    OMEMOMessage              = n, pn, dh_pub (32), ciphertext

Decoding is canonical: what does not re-encode to the same bytes is refused, so a message has one encoding only.
"""

from __future__ import annotations

from typing import NamedTuple

from tillie.crypto import agree
from tillie.errors import Malformed
from tillie.schemes.omemo.omemo_pb2 import OMEMOAuthenticatedMessage, OMEMOKeyExchange, OMEMOMessage
from tillie.wire import protobuf

MAC = 16
MAX_KEY_BYTES = 512  # an honest <key> holds at most about 230
MAX_CIPHERTEXT = 128  # 48 bytes of key and tag take 64
MAX_KEY_ID = 2**31 - 1


class RatchetMessage(NamedTuple):
    """An OMEMOMessage with its MAC. `signed` is the byte string that the MAC covers, after the associated data."""

    n: int
    pn: int
    ratchet_key: bytes
    ciphertext: bytes
    mac: bytes
    signed: bytes


class KeyExchange(NamedTuple):
    """An OMEMOKeyExchange: which of our keys were used, the sender's identity and ephemeral key, and the message."""

    prekey_id: int
    signed_prekey_id: int
    identity: bytes
    ephemeral: bytes
    message: RatchetMessage


def encode_unauthenticated(n: int, pn: int, ratchet_key: bytes, ciphertext: bytes) -> bytes:
    """An OMEMOMessage: serialised once, these exact bytes are what the MAC covers."""
    return OMEMOMessage(n=n, pn=pn, dh_pub=ratchet_key, ciphertext=ciphertext).SerializeToString()


def encode(mac: bytes, signed: bytes) -> bytes:
    return OMEMOAuthenticatedMessage(mac=mac, message=signed).SerializeToString()


def decode(data: bytes) -> RatchetMessage:
    outer = protobuf.parse(OMEMOAuthenticatedMessage, data, max_bytes=MAX_KEY_BYTES)
    return _decode_inner(outer.mac, outer.message)


def encode_key_exchange(
    prekey_id: int, signed_prekey_id: int, identity: bytes, ephemeral: bytes, mac: bytes, signed: bytes
) -> bytes:
    return OMEMOKeyExchange(
        pk_id=prekey_id,
        spk_id=signed_prekey_id,
        ik=identity,
        ek=ephemeral,
        message=OMEMOAuthenticatedMessage(mac=mac, message=signed),
    ).SerializeToString()


def decode_key_exchange(data: bytes) -> KeyExchange:
    outer = protobuf.parse(OMEMOKeyExchange, data, max_bytes=MAX_KEY_BYTES)
    if not (1 <= outer.pk_id <= MAX_KEY_ID and 1 <= outer.spk_id <= MAX_KEY_ID):
        # "key exchanges that don't use a PreKey MUST be rejected": a missing
        # pk_id fails to parse, a zero one fails here.
        raise Malformed("a key exchange names no valid prekey")
    if len(outer.ik) != agree.KEY:
        raise Malformed("an identity key has the wrong length")
    message = _decode_inner(outer.message.mac, outer.message.message)
    return KeyExchange(outer.pk_id, outer.spk_id, outer.ik, agree.check(outer.ek), message)


def _decode_inner(mac: bytes, signed: bytes) -> RatchetMessage:
    inner = protobuf.parse(OMEMOMessage, signed, max_bytes=MAX_KEY_BYTES)
    ciphertext = inner.ciphertext
    if len(mac) != MAC:
        raise Malformed("a message authentication code has the wrong length")
    if not ciphertext or len(ciphertext) % 16 or len(ciphertext) > MAX_CIPHERTEXT:
        raise Malformed("a ciphertext has the wrong length")
    return RatchetMessage(inner.n, inner.pn, agree.check(inner.dh_pub), ciphertext, mac, signed)
