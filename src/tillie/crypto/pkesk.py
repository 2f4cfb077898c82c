"""Session keys sealed for a public key (RFC 4880 section 5.1, RFC 6637, RFC 9580 section 5.1).

The library gives no session key, and without it a message can't be inflated within bounds (see `seipd`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from functools import lru_cache

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from tillie.crypto.packets import Fields
from tillie.crypto.s2k import HASHES, KEY_SIZES
from tillie.crypto.secretkeys import ECDH, RSA, RSA_ENCRYPT, X25519, KeyParts
from tillie.errors import BadKey, Malformed

ANYBODY = bytes(8)  # a key id of zeros: the sender does not say for whom it is
MAX_HIDDEN = 32  # of those in one message are tried

_CACHED_KEYS = 32
_CV25519 = bytes.fromhex("2b060104019755010501")
CURVES: dict[bytes, ec.EllipticCurve] = {
    bytes.fromhex("2a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("2b81040022"): ec.SECP384R1(),
    bytes.fromhex("2b81040023"): ec.SECP521R1(),
}


def addressee(body: bytes) -> bytes:
    """The key id, 8 bytes, that the body of a PKESK packet names; `ANYBODY` if it hides it, b"" if it is unknown."""
    fields = Fields(body)
    version = fields.octet()
    if version == 3:
        return fields.take(8)
    if version != 6:
        return b""
    named = fields.counted()  # RFC 9580 section 5.1.2: the version of the key, and its fingerprint
    if not named:
        return ANYBODY
    return named[-8:] if named[0] == 4 else named[1:9]


def session_keys(bodies: Sequence[bytes], keys: Sequence[KeyParts]) -> Iterator[tuple[int, bytes]]:
    """Each session key that one of `keys` finds in the bodies of PKESK packets: (cipher, key).

    The cipher is 0 in version 6. What does not open is passed over without a word: whether padding, checksum or
    anything else is wrong must not be told apart.
    """
    hidden = 0
    for body in bodies:
        named = addressee(body)
        hidden += named == ANYBODY
        for key in keys:
            if named != key.key_id and (named != ANYBODY or hidden > MAX_HIDDEN):
                continue
            try:
                found = _session_key(Fields(body), key)
            except (ValueError, ArithmeticError, InvalidUnwrap, Malformed, BadKey):
                continue
            if found is not None:
                yield found


def _session_key(fields: Fields, key: KeyParts) -> tuple[int, bytes] | None:
    version = fields.octet()
    if version == 3:
        fields.take(8)
    elif fields.counted()[1:] not in (key.fingerprint, b""):
        return None
    if fields.octet() not in ((RSA, RSA_ENCRYPT) if key.algorithm in (RSA, RSA_ENCRYPT) else (key.algorithm,)):
        return None
    if key.algorithm == X25519:
        return _x25519(fields, key, version)
    framed = Fields(_ecdh(fields, key) if key.algorithm == ECDH else _rsa(fields, key))
    cipher = framed.octet() if version == 3 else 0
    session = framed.rest()
    session, checksum = session[:-2], session[-2:]
    if not hmac.compare_digest((sum(session) & 0xFFFF).to_bytes(2, "big"), checksum):
        return None
    return cipher, session


def _x25519(fields: Fields, key: KeyParts, version: int) -> tuple[int, bytes]:
    """RFC 9580 section 5.1.6."""
    ephemeral, sealed = fields.take(32), Fields(fields.counted())
    cipher = sealed.octet() if version == 3 else 0
    shared = X25519PrivateKey.from_private_bytes(key.secret[:32]).exchange(X25519PublicKey.from_public_bytes(ephemeral))
    wrapper = HKDF(hashes.SHA256(), 16, None, b"OpenPGP X25519").derive(ephemeral + key.public + shared)
    return cipher, aes_key_unwrap(wrapper, sealed.rest())


def _ecdh(fields: Fields, key: KeyParts) -> bytes:
    """RFC 6637 section 8: the shared point, hashed once with curve and recipient, unwraps the padded session key."""
    point, wrapped = fields.mpi(), fields.counted()
    public = Fields(key.public)
    curve = public.counted()
    public.mpi()
    parameters = public.counted()
    scalar = Fields(key.secret).mpi()
    if curve == _CV25519:
        if len(point) != 33 or point[0] != 0x40:
            raise ValueError("a point has the wrong form")
        ours = X25519PrivateKey.from_private_bytes(scalar.rjust(32, b"\0")[::-1])
        shared = ours.exchange(X25519PublicKey.from_public_bytes(point[1:]))
    elif curve in CURVES:
        theirs = ec.EllipticCurvePublicKey.from_encoded_point(CURVES[curve], point)
        private = ec.derive_private_key(int.from_bytes(scalar, "big"), CURVES[curve])
        shared = private.exchange(ec.ECDH(), theirs)
    else:
        raise BadKey("its curve is not known here")
    if len(parameters) != 3 or parameters[1] not in HASHES or parameters[2] not in KEY_SIZES:
        raise BadKey("its parameters are not known here")
    who = b"".join(
        (bytes((len(curve),)), curve, bytes((ECDH, 3)), parameters, b"Anonymous Sender    ", key.fingerprint)
    )
    digest = hashlib.new(HASHES[parameters[1]], b"\0\0\0\1" + shared + who).digest()
    padded = aes_key_unwrap(digest[: KEY_SIZES[parameters[2]]], wrapped)
    pad = padded[-1]
    if not 1 <= pad <= len(padded) - 3 or padded[-pad:] != bytes((pad,)) * pad:
        raise ValueError("the padding is wrong")
    return padded[:-pad]


def _rsa(fields: Fields, key: KeyParts) -> bytes:
    """RFC 4880 section 13.1: PKCS #1 version 1.5. OpenSSL answers wrong padding with a random text, not an error."""
    private = rsa_key(key)
    return private.decrypt(fields.mpi().rjust(private.key_size + 7 >> 3, b"\0"), padding.PKCS1v15())


@lru_cache(_CACHED_KEYS)
def rsa_key(key: KeyParts) -> rsa.RSAPrivateKey:
    """The private key for OpenSSL, kept, because it checks each new one for long. ValueError: it is not one."""
    public, secret = Fields(key.public), Fields(key.secret)
    modulus, exponent = (int.from_bytes(public.mpi(), "big") for _ in range(2))
    d, p, q = (int.from_bytes(secret.mpi(), "big") for _ in range(3))
    if min(d, p, q) < 3:
        raise ValueError("it is not an RSA key")
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(exponent, modulus)
    )
    return numbers.private_key()
