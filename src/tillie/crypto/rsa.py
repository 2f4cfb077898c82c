"""RSA signatures: RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017 section 8.2), for XEP-0116.

A public key is its modulus and exponent; a private key travels as PKCS #8, unencrypted DER.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from tillie.errors import BadKey, BadSignature

MADE_BITS = 3072
LEAST_BITS = 2048
MOST_BITS = 8192  # verifying takes the square of it
MOST_EXPONENT = 1 << 33
_CACHED = 256


class PublicNumbers(NamedTuple):
    """An RSA public key."""

    modulus: int
    exponent: int


def generate() -> bytes:
    """A new private key of 3072 bits. It takes a fraction of a second."""
    return _encode(rsa.generate_private_key(65537, MADE_BITS))


def public_of(private: bytes) -> PublicNumbers:
    numbers = _load(private).public_key().public_numbers()
    return PublicNumbers(numbers.n, numbers.e)


def sign(private: bytes, data: bytes) -> bytes:
    """A signature, as long as the modulus."""
    return _load(private).sign(data, PKCS1v15(), SHA256())


def check(public: PublicNumbers) -> None:
    """Raises BadKey for a key that is too short, too long, or no RSA key."""
    _public(public)


def verify(public: PublicNumbers, data: bytes, signature: bytes) -> None:
    """Raises BadSignature, or BadKey."""
    try:
        _public(public).verify(signature, data, PKCS1v15(), SHA256())
    except InvalidSignature:
        raise BadSignature("an RSA signature does not verify") from None


@lru_cache(_CACHED)
def _public(public: PublicNumbers) -> rsa.RSAPublicKey:
    if not LEAST_BITS <= public.modulus.bit_length() <= MOST_BITS:
        raise BadKey(f"an RSA key has {public.modulus.bit_length()} bits")
    if not 3 <= public.exponent < MOST_EXPONENT or not public.exponent & public.modulus & 1:
        raise BadKey("that is no RSA key")
    try:
        return rsa.RSAPublicNumbers(public.exponent, public.modulus).public_key()
    except ValueError:
        raise BadKey("that is no RSA key") from None


@lru_cache(4)  # loading checks the primes, which takes longer than signing
def _load(private: bytes) -> rsa.RSAPrivateKey:
    try:
        key = load_der_private_key(private, None)
    except (ValueError, TypeError):
        raise BadKey("that is no private key") from None
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < LEAST_BITS:
        raise BadKey("that is no RSA key of at least 2048 bits")
    return key


def _encode(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
