"""Integers as octets, and the keys of a session from its shared secret (XEP-0116 section 4.6, XEP-0200 section 5)."""

from __future__ import annotations

from typing import NamedTuple

from tillie.crypto.kdf import hash_by, hmac_by
from tillie.errors import Malformed
from tillie.schemes.esession.profile import Profile

NEW_RETAINED_SECRET = b"New Retained Secret"
SHARED_RETAINED_SECRET = b"Shared Retained Secret"


def mpi(value: int) -> bytes:
    """An integer as octets, big-endian, the first of them not zero; 0 is no octets at all."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def from_mpi(octets: bytes, *, max_bytes: int) -> int:
    """The inverse. Malformed: a second spelling of an integer, with leading zeros, or more than `max_bytes`."""
    if len(octets) > max_bytes:
        raise Malformed(f"an integer is longer than {max_bytes} octets")
    if octets[:1] == b"\0":
        raise Malformed("an integer has leading zeros")
    return int.from_bytes(octets, "big")


class Pair(NamedTuple):
    """What protects the stanzas of one direction: the cipher's key, and the MAC's."""

    kc: bytes
    km: bytes

    def __repr__(self) -> str:
        return "Pair(...)"


class SigmaKeys(NamedTuple):
    """The six keys of a negotiation, A the initiator, B the responder: cipher, MAC, and SIGMA keys."""

    kc_a: bytes
    km_a: bytes
    ks_a: bytes
    kc_b: bytes
    km_b: bytes
    ks_b: bytes

    def __repr__(self) -> str:
        return "SigmaKeys(...)"

    @property
    def initiator(self) -> Pair:
        return Pair(self.kc_a, self.km_a)

    @property
    def responder(self) -> Pair:
        return Pair(self.kc_b, self.km_b)


def shared_key(hash_name: str, secret: int) -> bytes:
    """K = HASH(MPI(g^xy mod p))."""
    return hash_by(hash_name, mpi(secret))


def derive(profile: Profile, cipher: str, hash_name: str, key: bytes) -> SigmaKeys:
    """The six keys from K (XEP-0116 section 4.6)."""

    def of(label: bytes, size: int) -> bytes:
        return _last(hmac_by(hash_name, key, label), size)

    kc, km = profile.cipher_key(cipher, hash_name), profile.hmac_key(hash_name)
    return SigmaKeys(
        of(b"Initiator Cipher Key", kc),
        of(b"Initiator MAC Key", km),
        of(b"Initiator SIGMA Key", km),
        of(b"Responder Cipher Key", kc),
        of(b"Responder MAC Key", km),
        of(b"Responder SIGMA Key", km),
    )


def rekeyed(profile: Profile, cipher: str, hash_name: str, secret: int) -> tuple[Pair, Pair]:
    """The keys of a re-key (XEP-0200 section 5.1): of the stanzas of who began it, and of who accepts it.

    There K is d^x mod p itself, not a hash of it, and its octets are the HMAC's key.
    """
    key = mpi(secret)

    def of(label: bytes, size: int) -> bytes:
        return _last(hmac_by(hash_name, key, label), size)

    kc, km = profile.cipher_key(cipher, hash_name), profile.hmac_key(hash_name)
    return (
        Pair(of(b"Rekey Initiator Crypt", kc), of(b"Rekey Initiator MAC", km)),
        Pair(of(b"Rekey Acceptor Crypt", kc), of(b"Rekey Acceptor MAC", km)),
    )


def _last(octets: bytes, size: int) -> bytes:
    """The least significant `size` octets."""
    return octets[len(octets) - size :]
