"""Signatures of a key over its own parts: user ids and subkeys (RFC 4880 sections 5.2.1, 5.2.3, 5.2.4).

The library makes them as well, but its own say in their Features that the key reads SEIPD version 2, which RFC 4880
does not know, and it then writes that to such a key. A person who restores her key in a client on GnuPG, as the backup
of XEP-0373 is meant, would have messages there that can't be read. Ours say version 1, and ask for no compression.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature

from tillie.crypto.packets import SIGNATURE, Fields, Packet
from tillie.crypto.pkesk import CURVES, rsa_key
from tillie.crypto.secretkeys import ECDSA, EDDSA, RSA, KeyParts
from tillie.errors import Malformed

POSITIVE, SUBKEY_BINDING = 0x13, 0x18  # RFC 4880 section 5.2.1

_SHA512 = 10
_WIDEST = 66  # octets of a number modulo the order of P-521
_ED25519 = b"\x09" + bytes.fromhex("2b06010401da470f01")  # the curve's name, counted (RFC 9580 section 9.2)
# RFC 4880 section 5.2.3.1, RFC 9580 section 5.2.3.7
_CREATED, _KEY_EXPIRES, _CIPHERS, _ISSUER, _HASHES, _COMPRESSIONS = 2, 9, 11, 16, 21, 22
_SERVER, _PRIMARY_NAME, _FLAGS, _FEATURES, _FINGERPRINT, _AEAD, _SUITES = 23, 25, 27, 30, 33, 34, 39
_ABOUT_KEY = frozenset((_KEY_EXPIRES, _CIPHERS, _HASHES, _COMPRESSIONS, _SERVER, _FLAGS, _FEATURES, _AEAD, _SUITES))


def _subpacket(kind: int, data: bytes) -> bytes:
    return bytes((len(data) + 1, kind)) + data


# To certify, sign; AES-256, AES-128; SHA-512, SHA-256; no compression; SEIPD version 1.
OUR_NAME = b"".join(
    (
        _subpacket(_FLAGS, b"\x03"),
        _subpacket(_CIPHERS, b"\x09\x07"),
        _subpacket(_HASHES, b"\x0a\x08"),
        _subpacket(_COMPRESSIONS, b"\x00"),
        _subpacket(_FEATURES, b"\x01"),
        _subpacket(_PRIMARY_NAME, b"\x01"),
    )
)
_TO_ENCRYPT = _subpacket(_FLAGS, b"\x0c")


def can_sign(primary: KeyParts) -> bool:
    """Whether such a primary key can sign here; the library knows more kinds."""
    if primary.algorithm == EDDSA:
        return primary.public.startswith(_ED25519)
    return primary.algorithm == RSA or (primary.algorithm == ECDSA and Fields(primary.public).counted() in CURVES)


def certify(primary: KeyParts, user_id: bytes, about: bytes, created: int) -> Packet:
    """The signature over a user id. `about`: subpackets on what the key is and can; `created`: Unix seconds."""
    named = b"\xb4" + len(user_id).to_bytes(4, "big") + user_id
    return _signature(primary, POSITIVE, about, created, named)


def bind(primary: KeyParts, subkey: KeyParts, created: int) -> Packet:
    """The signature over a subkey, which says that it is to encrypt to."""
    return _signature(primary, SUBKEY_BINDING, _TO_ENCRYPT, created, subkey.hashed)


def about_key(signature: bytes) -> bytes:
    """The subpackets on what the key is and can, from the body of a signature over one of its user ids."""
    return b"".join(_subpacket(kind, data) for kind, data in _hashed(signature) if kind in _ABOUT_KEY)


def created(signature: bytes) -> int:
    """When a signature was made, Unix seconds, from its body."""
    return next((int.from_bytes(data, "big") for kind, data in _hashed(signature) if kind == _CREATED), 0)


def _hashed(signature: bytes) -> Iterator[tuple[int, bytes]]:
    """The subpackets that a signature covers: type and data, those of 192 octets and more left out."""
    fields = Fields(signature)
    if fields.octet() != 4:
        raise Malformed("an OpenPGP signature has an unknown version")
    fields.take(3)
    hashed = Fields(fields.take(int.from_bytes(fields.take(2), "big")))
    while hashed.left:
        length = hashed.octet()
        if length == 255:
            length = int.from_bytes(hashed.take(4), "big")
        elif length >= 192:
            length = (length - 192 << 8) + hashed.octet() + 192
        body = hashed.take(length)
        if 0 < length < 192:
            yield body[0] & 0x7F, body[1:]  # the high bit: who does not know it must not go on


def _signature(primary: KeyParts, kind: int, about: bytes, created: int, over: bytes) -> Packet:
    hashed = _subpacket(_CREATED, created.to_bytes(4, "big"))
    hashed += _subpacket(_FINGERPRINT, b"\x04" + primary.fingerprint) + about
    head = bytes((4, kind, primary.algorithm, _SHA512)) + len(hashed).to_bytes(2, "big") + hashed
    trailer = b"\x04\xff" + len(head).to_bytes(4, "big")
    data = b"".join((primary.hashed, over, head, trailer))
    digest = hashlib.sha512(data).digest()
    unhashed = _subpacket(_ISSUER, primary.fingerprint[-8:])
    made = {RSA: _rsa, ECDSA: _ecdsa, EDDSA: _eddsa}[primary.algorithm](primary, digest)
    return Packet(SIGNATURE, b"".join((head, len(unhashed).to_bytes(2, "big"), unhashed, digest[:2], made)))


def _eddsa(primary: KeyParts, digest: bytes) -> bytes:
    """RFC 9580 section 5.2.3.3: R and S of the signature over the digest, as two integers."""
    seed = Fields(primary.secret).mpi().rjust(32, b"\0")
    made = Ed25519PrivateKey.from_private_bytes(seed).sign(digest)
    return _mpi(made[:32]) + _mpi(made[32:])


def _ecdsa(primary: KeyParts, digest: bytes) -> bytes:
    """RFC 6637 section 6."""
    scalar = int.from_bytes(Fields(primary.secret).mpi(), "big")
    key = ec.derive_private_key(scalar, CURVES[Fields(primary.public).counted()])
    r, s = decode_dss_signature(key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA512()))))
    return _mpi(r.to_bytes(_WIDEST, "big")) + _mpi(s.to_bytes(_WIDEST, "big"))


def _rsa(primary: KeyParts, digest: bytes) -> bytes:
    return _mpi(rsa_key(primary).sign(digest, padding.PKCS1v15(), Prehashed(hashes.SHA512())))


def _mpi(data: bytes) -> bytes:
    number = int.from_bytes(data, "big")
    return number.bit_length().to_bytes(2, "big") + number.to_bytes(number.bit_length() + 7 >> 3, "big")
