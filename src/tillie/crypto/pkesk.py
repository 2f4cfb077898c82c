"""Session keys sealed for a public key (RFC 4880 section 5.1, RFC 6637, RFC 9580 section 5.1), and the secret keys that
open them (RFC 4880 section 5.5.3).

The library gives no session key, and without it a message can't be inflated within bounds (see `seipd`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from tillie.crypto import s2k
from tillie.crypto.packets import SECRET_KEY, SECRET_SUBKEY, Fields, Packet, encode, split
from tillie.crypto.s2k import HASHES, KEY_SIZES
from tillie.errors import BadKey, Malformed, UsageError

RSA, RSA_ENCRYPT, RSA_SIGN, ELGAMAL, DSA, ECDH, ECDSA, EDDSA, X25519, ED25519 = 1, 2, 3, 16, 17, 18, 19, 22, 25, 27
ANYBODY = bytes(8)  # a key id of zeros: the sender does not say for whom it is

_CV25519 = bytes.fromhex("2b060104019755010501")
_CURVES: dict[bytes, ec.EllipticCurve] = {
    bytes.fromhex("2a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("2b81040022"): ec.SECP384R1(),
    bytes.fromhex("2b81040023"): ec.SECP521R1(),
    bytes.fromhex("2b2403030208010107"): ec.BrainpoolP256R1(),
    bytes.fromhex("2b240303020801010b"): ec.BrainpoolP384R1(),
    bytes.fromhex("2b240303020801010d"): ec.BrainpoolP512R1(),
}
_PUBLIC_MPIS = {RSA: 2, RSA_ENCRYPT: 2, RSA_SIGN: 2, ELGAMAL: 3, DSA: 4}
_USAGE_PLAIN, _USAGE_SHA1 = 0, 254
_NO_SECRET = 101  # GnuPG's own kind of S2K: the secret is elsewhere


@dataclass(frozen=True, slots=True)
class DecryptionKey:
    """One secret key packet. `public` are its public fields as written, `secret` the unprotected secret ones."""

    fingerprint: bytes  # 20 bytes
    algorithm: int
    public: bytes = field(repr=False)
    secret: bytes = field(repr=False)

    @property
    def key_id(self) -> bytes:
        return self.fingerprint[-8:]

    @property
    def decrypts(self) -> bool:
        return self.algorithm in (RSA, RSA_ENCRYPT, ECDH, X25519)


def secret_keys(data: bytes) -> tuple[DecryptionKey, ...]:
    """The keys of an unprotected transferable secret key that can decrypt. Whether they are bound to it, the
    certificate says. Old, expired and revoked ones too: what was written to them stays readable."""
    parts = (_split(p.body, None)[0] for p in split(data) if p.tag in (SECRET_KEY, SECRET_SUBKEY))
    return tuple(key for key in parts if key.decrypts)


def without_passphrase(data: bytes, passphrase: str) -> bytes:
    """The same secret keys, unprotected: for a store that is encrypted itself. UsageError: wrong passphrase."""
    out = []
    for packet in split(data):
        if packet.tag in (SECRET_KEY, SECRET_SUBKEY):
            key, size = _split(packet.body, passphrase)
            checksum = (sum(key.secret) & 0xFFFF).to_bytes(2, "big")
            packet = Packet(packet.tag, packet.body[:size] + b"\x00" + key.secret + checksum)
        out.append(encode(packet))
    return b"".join(out)


def _split(body: bytes, passphrase: str | None) -> tuple[DecryptionKey, int]:
    """The key in a packet's body, and how many octets of the body are public."""
    fields = Fields(body)
    if fields.octet() != 4:
        raise BadKey("it is not an OpenPGP key of version 4")
    fields.take(4)
    algorithm = fields.octet()
    start = fields.at
    _skip_public(fields, algorithm)
    size = fields.at
    fingerprint = hashlib.sha1(b"\x99" + size.to_bytes(2, "big") + body[:size]).digest()
    return DecryptionKey(fingerprint, algorithm, body[start:size], _unprotect(fields, passphrase)), size


def _skip_public(fields: Fields, algorithm: int) -> None:
    if algorithm in _PUBLIC_MPIS:
        for _ in range(_PUBLIC_MPIS[algorithm]):
            fields.mpi()
    elif algorithm in (ECDH, ECDSA, EDDSA):
        fields.counted()
        fields.mpi()
        if algorithm == ECDH:
            fields.counted()
    elif algorithm in (X25519, ED25519):
        fields.take(32)
    else:
        raise BadKey("its algorithm is not known here")


def _unprotect(fields: Fields, passphrase: str | None) -> bytes:
    usage = fields.octet()
    if usage == _USAGE_PLAIN:
        data = fields.rest()
        if len(data) < 2 or int.from_bytes(data[-2:], "big") != sum(data[:-2]) & 0xFFFF:
            raise Malformed("a secret key is damaged")
        return data[:-2]
    if passphrase is None:
        raise Malformed("a secret key is under a passphrase")
    if usage != _USAGE_SHA1:
        raise UsageError("The key's passphrase protects it in a way that is not known here.")
    cipher = fields.octet()
    stretch = s2k.read(fields)
    if stretch is None or cipher not in KEY_SIZES:
        # GnuPG marks a secret that is on a smartcard, or was left out, as a kind of its own.
        raise UsageError("A secret key is missing, or its passphrase protects it in a way that is not known here.")
    vector = fields.take(16)
    key = stretch.key(passphrase.encode(), KEY_SIZES[cipher])
    plain = Cipher(AES(key), CFB(vector)).decryptor().update(fields.rest())
    if not hmac.compare_digest(hashlib.sha1(plain[:-20]).digest(), plain[-20:]):
        raise UsageError("The passphrase of the key is wrong.")
    return plain[:-20]


# -- session keys -----------------------------------------------------------------------------------------------------


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


def session_keys(bodies: Sequence[bytes], keys: Sequence[DecryptionKey]) -> Iterator[tuple[int, bytes]]:
    """Each session key that one of `keys` finds in the bodies of PKESK packets: (cipher, key).

    The cipher is 0 in version 6. What does not open is passed over without a word: whether padding, checksum or
    anything else is wrong must not be told apart.
    """
    for body in bodies:
        named = addressee(body)
        for key in keys:
            if named not in (key.key_id, ANYBODY):
                continue
            try:
                found = _session_key(Fields(body), key)
            except (ValueError, InvalidUnwrap, Malformed, BadKey):
                continue
            if found is not None:
                yield found


def _session_key(fields: Fields, key: DecryptionKey) -> tuple[int, bytes] | None:
    version = fields.octet()
    if version == 3:
        fields.take(8)
    elif fields.counted()[1:] not in (key.fingerprint, b""):
        return None
    if fields.octet() != key.algorithm and key.algorithm not in (RSA, RSA_ENCRYPT):
        return None
    if key.algorithm == X25519:
        return _x25519(fields, key, version)
    framed = _ecdh(fields, key) if key.algorithm == ECDH else _rsa(fields, key)
    cipher = 0
    if version == 3:
        cipher, framed = framed[0], framed[1:]
    session, checksum = framed[:-2], framed[-2:]
    if not hmac.compare_digest((sum(session) & 0xFFFF).to_bytes(2, "big"), checksum):
        return None
    return cipher, session


def _x25519(fields: Fields, key: DecryptionKey, version: int) -> tuple[int, bytes]:
    """RFC 9580 section 5.1.6."""
    ephemeral, wrapped = fields.take(32), fields.counted()
    cipher = 0
    if version == 3:
        cipher, wrapped = wrapped[0], wrapped[1:]
    shared = X25519PrivateKey.from_private_bytes(key.secret[:32]).exchange(X25519PublicKey.from_public_bytes(ephemeral))
    wrapper = HKDF(hashes.SHA256(), 16, None, b"OpenPGP X25519").derive(ephemeral + key.public + shared)
    return cipher, aes_key_unwrap(wrapper, wrapped)


def _ecdh(fields: Fields, key: DecryptionKey) -> bytes:
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
    elif curve in _CURVES:
        theirs = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[curve], point)
        private = ec.derive_private_key(int.from_bytes(scalar, "big"), _CURVES[curve])
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


def _rsa(fields: Fields, key: DecryptionKey) -> bytes:
    """RFC 4880 section 13.1: PKCS #1 version 1.5. OpenSSL answers wrong padding with a random key, not an error."""
    public, secret = Fields(key.public), Fields(key.secret)
    modulus, exponent = (int.from_bytes(public.mpi(), "big") for _ in range(2))
    d, p, q = (int.from_bytes(secret.mpi(), "big") for _ in range(3))
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(exponent, modulus)
    )
    sealed = fields.mpi().rjust((modulus.bit_length() + 7) >> 3, b"\0")
    framed = numbers.private_key().decrypt(sealed, padding.PKCS1v15())
    if len(framed) < 3:
        raise ValueError("the session key is too short")
    return framed
