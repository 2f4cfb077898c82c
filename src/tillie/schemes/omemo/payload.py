"""Content encryption, once for all recipients (XEP-0384 section "Message Encryption")."""

from __future__ import annotations

from tillie.crypto.cipher import decrypt_cbc, encrypt_cbc
from tillie.crypto.kdf import equal, hkdf, hmac
from tillie.crypto.random import random_bytes
from tillie.errors import Undecryptable
from tillie.schemes.omemo.messages import MAC
from tillie.schemes.omemo.version import Version

KEY = 32
EMPTY_SECRET = bytes(KEY)  # "32 zero-bytes are encrypted with the Double Ratchet session directly"
_NO_SALT = bytes(32)


def seal(version: Version, plaintext: bytes) -> tuple[bytes, bytes]:
    """(secret, ciphertext): the secret is key and tag, 48 bytes, for each recipient's ratchet."""
    return _seal_from_parts(version, plaintext, random_bytes(KEY))


def _seal_from_parts(version: Version, plaintext: bytes, key: bytes) -> tuple[bytes, bytes]:
    cipher_key, mac_key, iv = _derive(version, key)
    ciphertext = encrypt_cbc(cipher_key, iv, plaintext)
    return key + hmac(mac_key, ciphertext)[:MAC], ciphertext


def open(version: Version, secret: bytes, ciphertext: bytes) -> bytes:
    """The plaintext; Undecryptable if the tag is wrong."""
    if len(secret) != KEY + MAC:
        raise Undecryptable("the payload key has the wrong length")
    cipher_key, mac_key, iv = _derive(version, secret[:KEY])
    if not equal(hmac(mac_key, ciphertext)[:MAC], secret[KEY:]):
        raise Undecryptable("the payload was altered")
    return decrypt_cbc(cipher_key, iv, ciphertext)


def _derive(version: Version, key: bytes) -> tuple[bytes, bytes, bytes]:
    material = hkdf(key, salt=_NO_SALT, info=version.payload_info, length=80)
    return material[:32], material[32:64], material[64:]
