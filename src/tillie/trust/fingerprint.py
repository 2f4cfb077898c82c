"""Fingerprints, as people compare them.

OMEMO (XEP-0384 section "Security Considerations"): the identity key in Curve25519 form, 8 groups of 8 hex.
OpenPGP (RFC 4880 section 12.2): the 20 bytes of the certificate's fingerprint, 10 groups of 4 hex in upper case.
Encrypted sessions (XEP-0116 section 9.4): SHA-256 of the normalised `<KeyValue/>`, 8 groups of 8 hex.
Matrix (client-server API 1.19, "Device keys"): a device's Ed25519 key in unpadded Base64, in groups of 4, as Element
shows it.
"""

from __future__ import annotations

from tillie.crypto import sign
from tillie.errors import Malformed, UsageError
from tillie.model import FINGERPRINT_BYTES, SESSION_KEY_BYTES, Address, Device
from tillie.wire import base64

GROUPS = 8
MATRIX_BYTES = 32
SHORTEST_PREFIX = 16  # hex digits of an OpenPGP fingerprint that name a key. Short ids, of 8, were forged for everybody
_HEX = frozenset("0123456789abcdef")


def fingerprint(key: bytes) -> str:
    """Of a device's key as people compare it: "1a2b3c4d 5e6f7081 ..." of an Ed25519 identity key (32 bytes; BadKey if
    it is none), "1A2B 3C4D ..." of an OpenPGP one; "" where there is no key to compare, but a chain of sessions."""
    if len(key) == FINGERPRINT_BYTES:
        return _grouped(key.hex().upper(), 4)
    if len(key) in SESSION_KEY_BYTES:
        return _grouped(key[1:].hex(), 8) if len(key) == max(SESSION_KEY_BYTES) else ""
    return _grouped(sign.public_to_curve(key).hex(), 8)


def of(device: Device) -> str:
    """Of a device, on whatever network it is; "" if its key is not known, or there is nothing to compare."""
    return of_key(device.address, device.key)


def of_key(address: Address, key: bytes) -> str:
    """Of the key of one of this address's devices, as `of`: the same 32 bytes are shown in another form on Matrix."""
    if not key:
        return ""
    return _grouped(base64.encode_unpadded(key), 4) if address.is_matrix else fingerprint(key)


def normalise_for(address: Address, typed: str) -> str:
    """A fingerprint as a person typed or pasted it, in the form of `of_key`. Raises `UsageError`."""
    if not address.is_matrix:
        return normalise(typed)
    try:
        key = base64.decode_unpadded("".join(typed.split()), size=MATRIX_BYTES)
    except Malformed:
        raise UsageError("The fingerprint of a Matrix device is 43 letters, digits, + and /; case matters.") from None
    return of_key(address, key)


def normalise(typed: str) -> str:
    """A fingerprint as a person typed or pasted it, in the form of `fingerprint`; UsageError if it can't be one."""
    text = _digits(typed)
    if len(text) == 2 * FINGERPRINT_BYTES and _HEX.issuperset(text):
        return _grouped(text.upper(), 4)
    if len(text) != 8 * GROUPS or not _HEX.issuperset(text):
        raise UsageError("A fingerprint is 64 hexadecimal digits, or 40 of an OpenPGP key.")
    return _grouped(text, 8)


def prefix(typed: str) -> str:
    """The beginning of a fingerprint as a person typed it, in upper case, to choose one of known keys with: OpenPGP
    keys, and clients of encrypted sessions. Raises `UsageError` if it has less than 16 digits, or more than there are.
    """
    text = _digits(typed.removeprefix("0x").removeprefix("0X"))
    if not _HEX.issuperset(text) or not SHORTEST_PREFIX <= len(text) <= 8 * GROUPS:
        raise UsageError(
            "A key is named by its fingerprint: all hexadecimal digits of it, or at least the first 16.",
            hint="Shorter ids, and the last digits of a fingerprint, can be forged. See 'tillie keys list'.",
        )
    return text.upper()


def _digits(typed: str) -> str:
    return "".join(typed.lower().replace(":", " ").split())


def _grouped(text: str, size: int) -> str:
    return " ".join(text[start : start + size] for start in range(0, len(text), size))
