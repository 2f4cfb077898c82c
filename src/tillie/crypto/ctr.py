"""AES in counter mode (NIST SP 800-38A section 6.5), by the names that XEP-0116 negotiates.

Counter mode alone lets anybody change single bits: always under a MAC that was verified first.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

BLOCK = 16
BLOCK_BITS = 128
NONE = "none"  # nothing is encrypted, each text counts as one block: legacy, for sessions that are only MACed
CIPHERS = {"aes128-ctr": 16, "aes192-ctr": 24, "aes256-ctr": 32, NONE: 0}  # name: octets of the key
_MASK = (1 << BLOCK_BITS) - 1


def apply(name: str, key: bytes, counter: int, data: bytes) -> bytes:
    """Encrypt or decrypt, which is the same: block i is XORed with AES(key, counter + i mod 2^128), big-endian.

    The key's own length says which AES it is: 16, 24 or 32 octets (Gajim uses 32 under the name aes128-ctr).
    """
    if name == NONE:
        return data
    nonce = CTR(octets(counter))  # OpenSSL carries through all 128 bits, and wraps
    return Cipher(AES(key), nonce).encryptor().update(data)


def blocks(name: str, size: int) -> int:
    """By how much a text of `size` octets moves the counter: "1 for each encrypted block or partial block"."""
    return 1 if name == NONE else -(-size // BLOCK)


def advance(counter: int, by: int) -> int:
    """The counter after `by` blocks, mod 2^128."""
    return (counter + by) & _MASK


def octets(counter: int) -> bytes:
    """A counter as a whole block."""
    return (counter & _MASK).to_bytes(BLOCK, "big")
