"""AES-256-CBC with PKCS#7 padding, always under a MAC that was verified first."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC

from tillie.errors import Undecryptable

BLOCK = 16


def encrypt_cbc(key: bytes, iv: bytes, plaintext: bytes) -> bytes:
    """AES-256-CBC with PKCS#7 padding (RFC 5652 section 6.3)."""
    missing = BLOCK - len(plaintext) % BLOCK
    encryptor = Cipher(AES256(key), CBC(iv)).encryptor()
    return encryptor.update(plaintext + missing * bytes((missing,)))


def decrypt_cbc(key: bytes, iv: bytes, ciphertext: bytes) -> bytes:
    """The inverse. Call it only on a ciphertext whose MAC was verified: a padding error told apart is an oracle."""
    if not ciphertext or len(ciphertext) % BLOCK:
        raise Undecryptable("the ciphertext is not a whole number of blocks")
    plaintext = Cipher(AES256(key), CBC(iv)).decryptor().update(ciphertext)
    missing = plaintext[-1]
    if not 1 <= missing <= BLOCK or plaintext[-missing:] != missing * bytes((missing,)):
        raise Undecryptable("the padding is wrong")
    return plaintext[:-missing]
