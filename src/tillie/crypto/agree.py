"""X25519 (RFC 7748) on raw bytes."""

from __future__ import annotations

from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError

from tillie.crypto.random import random_bytes
from tillie.errors import BadKey

KEY = 32
_P = 2**255 - 19


def generate() -> tuple[bytes, bytes]:
    """A new key pair: (private, public), 32 bytes each."""
    private = random_bytes(KEY)
    return private, crypto_scalarmult_base(private)


def public_of(private: bytes) -> bytes:
    return crypto_scalarmult_base(private)


def check(public: bytes) -> bytes:
    """`public` itself, if it is 32 bytes and the canonical encoding of a u-coordinate; else BadKey.

    RFC 7748 section 5 lets u >= p and a set top bit pass; two encodings of one key would give two device records.
    Low-order points are caught in `agree`, by the all-zero result.
    """
    if len(public) != KEY:
        raise BadKey(f"a Curve25519 key has {len(public)} bytes instead of 32")
    if public[31] >= 0x7F and int.from_bytes(public, "little") >= _P:
        raise BadKey("a Curve25519 key is not canonical")
    return public


def agree(private: bytes, public: bytes) -> bytes:
    """The shared secret, 32 bytes. A low-order `public` is BadKey (libsodium refuses an all-zero result)."""
    try:
        return crypto_scalarmult(private, public)
    except (CryptoError, ValueError, TypeError) as error:
        raise BadKey("a Curve25519 key has a low order or the wrong length") from error
