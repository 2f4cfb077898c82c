"""X3DH with Ed25519 identity keys (XEP-0384 section "Key Exchange"; Marlinspike and Perrin, "The X3DH Key Agreement
Protocol", section 3).

    secret = HKDF-SHA-256(F || DH1 || DH2 || DH3 || DH4), F = 32 bytes 0xFF, salt = 32 zero bytes
    DH1 = DH(IK_A, SPK_B)   DH2 = DH(EK_A, IK_B)   DH3 = DH(EK_A, SPK_B)   DH4 = DH(EK_A, OPK_B)

Alice initiates, Bob published the bundle. A prekey is always used.
"""

from __future__ import annotations

from tillie.crypto import sign
from tillie.crypto.agree import agree
from tillie.crypto.kdf import hkdf
from tillie.schemes.omemo.version import Version

_F = b"\xff" * 32
_NO_SALT = bytes(32)


def initiate(
    version: Version,
    identity_private: bytes,
    ephemeral_private: bytes,
    their_identity: bytes,
    signed: bytes,
    once: bytes,
) -> bytes:
    """Alice's side: the shared secret, 32 bytes. `their_identity` is in Ed25519 form; `signed` and `once` are Bob's
    signed and one-time prekey, whose signature was checked when the bundle was learned."""
    return _derive(
        version,
        agree(identity_private, signed),
        agree(ephemeral_private, sign.public_to_curve(their_identity)),
        agree(ephemeral_private, signed),
        agree(ephemeral_private, once),
    )


def accept(
    version: Version,
    identity_private: bytes,
    signed_private: bytes,
    once_private: bytes,
    their_identity: bytes,
    ephemeral: bytes,
) -> bytes:
    """Bob's side."""
    return _derive(
        version,
        agree(signed_private, sign.public_to_curve(their_identity)),
        agree(identity_private, ephemeral),
        agree(signed_private, ephemeral),
        agree(once_private, ephemeral),
    )


def _derive(version: Version, *agreed: bytes) -> bytes:
    return hkdf(_F + b"".join(agreed), salt=_NO_SALT, info=version.x3dh_info, length=32)
