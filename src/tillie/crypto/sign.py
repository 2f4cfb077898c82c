"""Ed25519 (RFC 8032) on raw bytes, and its map to Curve25519 (RFC 7748 section 4.1)."""

from __future__ import annotations

from functools import lru_cache

from nacl.bindings import (
    crypto_sign,
    crypto_sign_ed25519_pk_to_curve25519,
    crypto_sign_ed25519_sk_to_curve25519,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import CryptoError

from tillie.crypto.random import random_bytes
from tillie.errors import BadKey, BadSignature

KEY = 32
SIGNATURE = 64
_CACHED_KEYS = 4096


def generate() -> tuple[bytes, bytes]:
    """A new key pair: (seed, public), 32 bytes each."""
    seed = random_bytes(KEY)
    return seed, public_of(seed)


def public_of(seed: bytes) -> bytes:
    return crypto_sign_seed_keypair(seed)[0]


def sign(seed: bytes, message: bytes) -> bytes:
    """A signature, 64 bytes."""
    return crypto_sign(message, crypto_sign_seed_keypair(seed)[1])[:SIGNATURE]


def verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Raises BadSignature. libsodium refuses small-order and non-canonical keys and malleable signatures (s + L)."""
    if len(signature) != SIGNATURE or len(public) != KEY:
        raise BadSignature("a signature or its key has the wrong length")
    try:
        crypto_sign_open(signature + message, public)
    except CryptoError as error:
        raise BadSignature("a signature does not verify") from error


def private_to_curve(seed: bytes) -> bytes:
    """The Curve25519 private key of an Ed25519 seed."""
    return crypto_sign_ed25519_sk_to_curve25519(crypto_sign_seed_keypair(seed)[1])


@lru_cache(_CACHED_KEYS)
def public_to_curve(public: bytes) -> bytes:
    """The Curve25519 form of an Ed25519 public key; BadKey if it is not a point of the main subgroup.

    This is also the check of a peer's identity key: libsodium refuses points that are not on the curve, of small
    order, or outside the main subgroup, and non-canonical encodings.
    """
    if len(public) != KEY:
        raise BadKey(f"an Ed25519 key has {len(public)} bytes instead of 32")
    try:
        return crypto_sign_ed25519_pk_to_curve25519(public)
    except (CryptoError, RuntimeError) as error:
        raise BadKey("an Ed25519 key is not a valid point") from error
