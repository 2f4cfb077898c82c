"""Fingerprints (XEP-0384 section "Security Considerations"): the identity key in Curve25519 form, 8 groups of 8 hex."""

from __future__ import annotations

from tillie.crypto import sign
from tillie.errors import UsageError

GROUPS = 8


def fingerprint(identity: bytes) -> str:
    """Of an Ed25519 identity key (32 bytes), as people compare it: "1a2b3c4d 5e6f7081 ...". BadKey if it is none."""
    text = sign.public_to_curve(identity).hex()
    return " ".join(text[start : start + 8] for start in range(0, 8 * GROUPS, 8))


def normalise(typed: str) -> str:
    """A fingerprint as a person typed or pasted it, in the form of `fingerprint`; UsageError if it can't be one."""
    text = "".join(typed.lower().replace(":", " ").split())
    if len(text) != 8 * GROUPS or not set(text) <= set("0123456789abcdef"):
        raise UsageError("A fingerprint is 64 hexadecimal digits, in groups of 8.")
    return " ".join(text[start : start + 8] for start in range(0, 8 * GROUPS, 8))
