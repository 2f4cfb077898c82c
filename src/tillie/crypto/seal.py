"""Authenticated encryption under a key of our own: AES-256-GCM (NIST SP 800-38D) with a random nonce."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tillie.crypto.random import random_bytes
from tillie.errors import Undecryptable

KEY = 32
NONCE = 12
OVERHEAD = NONCE + 16


def seal(key: bytes, plaintext: bytes, *, bound: bytes) -> bytes:
    """Nonce (12 bytes), ciphertext, tag (16 bytes). `bound` is authenticated with it.

    At most 2**32 plaintexts for one key, as the nonce is random; GCM does not commit to its key.
    """
    nonce = random_bytes(NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, bound)


def unseal(key: bytes, sealed: bytes, *, bound: bytes) -> bytes:
    """The inverse. Raises `Undecryptable` for another key, another `bound`, or anything altered."""
    if len(sealed) < OVERHEAD:
        raise Undecryptable("the ciphertext is cut short")
    try:
        return AESGCM(key).decrypt(sealed[:NONCE], sealed[NONCE:], bound)
    except InvalidTag:
        raise Undecryptable("the tag is wrong") from None
