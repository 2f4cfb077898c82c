"""Key derivation: HMAC-SHA-256, HKDF-SHA-256 (RFC 5869) and Argon2id (RFC 9106)."""

from __future__ import annotations

import hmac as _hmac
from hashlib import sha256 as _sha256

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_SHA256 = hashes.SHA256()
_digest = _hmac.digest
equal = _hmac.compare_digest


def hmac(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA-256, 32 bytes."""
    return _digest(key, data, "sha256")


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
