"""Key derivation: HMAC-SHA-256, HKDF-SHA-256 (RFC 5869), Argon2id (RFC 9106), and HMAC by a negotiated hash."""

from __future__ import annotations

import hmac as _hmac
from hashlib import new as _new
from hashlib import sha256 as _sha256

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_SHA256 = hashes.SHA256()
_digest = _hmac.digest
equal = _hmac.compare_digest

# The hashes that XEP-0116 negotiates by name, and the octets of each. Whirlpool, which it says one SHOULD have, is in
# no library here any more; sha1 and md5 are not offered or accepted by anybody's wish.
HASHES = {"sha256": 32, "sha384": 48, "sha512": 64, "sha3-256": 32, "sha3-512": 64}
_HASHLIB = {name: name.replace("-", "_") for name in HASHES}


def hmac(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA-256, 32 bytes."""
    return _digest(key, data, "sha256")


def hmac_by(name: str, key: bytes, data: bytes) -> bytes:
    """HMAC (RFC 2104) with one of `HASHES`, whole."""
    return _digest(key, data, _HASHLIB[name])


def hash_by(name: str, data: bytes) -> bytes:
    """One of `HASHES`."""
    return _new(_HASHLIB[name], data).digest()


def hkdf(secret: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA-256 of `secret`, `length` bytes."""
    return HKDF(_SHA256, length, salt, info).derive(secret)


def sha256(data: bytes) -> bytes:
    return _sha256(data).digest()


def argon2id(
    passphrase: bytes, salt: bytes, *, memory_kib: int, iterations: int, lanes: int, length: int = 32
) -> bytes:
    """Argon2id of a passphrase. The salt is at least 8 bytes; the cost is the caller's, in KiB and passes."""
    return Argon2id(salt=salt, length=length, iterations=iterations, lanes=lanes, memory_cost=memory_kib).derive(
        passphrase
    )
