"""Short authentication strings: what two people read to each other to find a man in the middle of a session.

Ours, `TILLIE`, is six characters of a hash of what each side had fixed before it learned what the other would say; so
nobody can search for values that make two strings equal, and one attempt succeeds with probability 28^-6. The argument
is in docs/esession.md. The one of XEP-0116, `SAS28X5`, can be searched: there a man in the middle chooses what goes
into the string after he has seen the other side's. It is here for peers that have no other, and verifies nobody.
"""

from __future__ import annotations

from typing import NamedTuple

from tillie.crypto.kdf import hash_by, sha256
from tillie.model import Address

TILLIE = "tillie-base28x6"  # its name in sas_algs
SAS28X5 = "sas28x5"
DIGITS = "acdefghikmopqruvwxy123456789"
LENGTH = 6
_MOST = len(DIGITS) ** LENGTH
# Of the digest, as an integer to reduce: 28^6 is less than 2^29, so the bias is below 2^-35.
_INTEGER_BYTES = 8


def verifies(name: str) -> bool:
    """Whether comparing a string of this kind tells who is at the other end."""
    return name == TILLIE


class ShortString(NamedTuple):
    """What both people should see: `text` to read aloud, and the whole `digest`, 32 octets, for a QR code."""

    text: str
    digest: bytes


def short_string(initiator: Address, responder: Address, form_a: bytes, form_b: bytes, e: bytes) -> ShortString:
    """Our string of a negotiation: both full JIDs, the normal forms of messages 1 and 2, and the octets of e.

    SHA-256 of the label and these five, each with its length as four octets, big-endian, before it. Nothing else of
    messages 3 and 4 enters: it is chosen when the other side's string can be known.
    """
    parts = (TILLIE.encode(), initiator.encode(), responder.encode(), form_a, form_b, e)
    digest = sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts))
    value = int.from_bytes(digest[:_INTEGER_BYTES], "big") % _MOST
    return ShortString(_digits(value, LENGTH), digest)


def sas28x5(m_a: bytes, form_b: bytes, hash_name: str, *, pad: bool = True) -> ShortString:
    """XEP-0116 section 8, "The sas28x5 SAS Algorithm". Gajim drops leading digits (`pad` False)."""
    digest = hash_by(hash_name, m_a + form_b + b"Short Authentication String")
    text = _digits(int.from_bytes(digest[-3:], "big"), 5)
    return ShortString(text if pad else text.lstrip(DIGITS[0]) or DIGITS[0], digest)


def _digits(value: int, length: int) -> str:
    """A number in base 28, the most significant digit first."""
    digits = []
    for _ in range(length):
        value, digit = divmod(value, len(DIGITS))
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))
