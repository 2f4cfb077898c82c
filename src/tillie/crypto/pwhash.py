"""Hashes of passwords: Argon2id (RFC 9106), with what OWASP names as the least: 19 MiB, two passes, one lane.

Everybody who logs in costs the home that much memory for some 30 ms; the larger settings of RFC 9106 section 4 would
not fit a small machine.
"""

from __future__ import annotations

from nacl import pwhash
from nacl.exceptions import CryptPrefixError, InvalidkeyError

MEMORY = 19 << 20  # bytes
PASSES = 2


def hash(password: str) -> str:
    """A hash with its salt and parameters, in the usual text form ("$argon2id$v=19$...")."""
    return pwhash.argon2id.str(password.encode(), PASSES, MEMORY).decode()


def matches(hashed: str, password: str) -> bool:
    """Whether this is the password; compared in constant time, by the parameters in the hash."""
    try:
        return bool(pwhash.verify(hashed.encode(), password.encode()))
    except (InvalidkeyError, CryptPrefixError):
        return False
