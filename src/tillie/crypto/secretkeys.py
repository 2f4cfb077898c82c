"""Secret key packets (RFC 4880 section 5.5.3), and taking off a passphrase that protects them.

A key rests in a store that is encrypted itself. The library keeps a passphrase on, and has no way to take it off.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from tillie.crypto import s2k
from tillie.crypto.packets import SECRET_KEY, SECRET_SUBKEY, Fields, Packet, encode, split
from tillie.crypto.s2k import KEY_SIZES
from tillie.errors import BadKey, Malformed, PassphraseNeeded, UsageError

# RFC 4880 section 9.1, RFC 6637 section 5, RFC 9580 section 9.1
RSA, RSA_ENCRYPT, RSA_SIGN, ELGAMAL, DSA, ECDH, ECDSA, EDDSA, X25519, ED25519 = 1, 2, 3, 16, 17, 18, 19, 22, 25, 27

_PUBLIC_MPIS = {RSA: 2, RSA_ENCRYPT: 2, RSA_SIGN: 2, ELGAMAL: 3, DSA: 4}
_USAGE_PLAIN, _USAGE_SHA1 = 0, 254


@dataclass(frozen=True, slots=True)
class KeyParts:
    """What is in one secret key packet. `body` is all that is public of it, `public` the fields of the public key as
    written, `secret` those of the secret one, under no passphrase."""

    fingerprint: bytes  # 20 bytes
    algorithm: int
    body: bytes = field(repr=False)
    public: bytes = field(repr=False)
    secret: bytes = field(repr=False)

    @property
    def key_id(self) -> bytes:
        return self.fingerprint[-8:]

    @property
    def hashed(self) -> bytes:
        """What fingerprints and signatures hash of it (RFC 4880 sections 5.2.4, 12.2)."""
        return _hashed(self.body)

    @property
    def decrypts(self) -> bool:
        return self.algorithm in (RSA, RSA_ENCRYPT, ECDH, X25519)


def read(data: bytes) -> tuple[KeyParts, ...]:
    """The parts of an unprotected transferable secret key, the primary key first. Whether the others are bound to it,
    the certificate says. Malformed; BadKey: another version, or an algorithm that is not known here."""
    return tuple(_split(p.body, None)[0] for p in split(data) if p.tag in (SECRET_KEY, SECRET_SUBKEY))


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


def _split(body: bytes, passphrase: str | None) -> tuple[KeyParts, int]:
    """The key in a packet's body, and how many octets of the body are public."""
    fields = Fields(body)
    if fields.octet() != 4:
        raise BadKey("it is not an OpenPGP key of version 4")
    fields.take(4)
    algorithm = fields.octet()
    start = fields.at
    _skip_public(fields, algorithm)
    size = fields.at
    public = body[:size]
    fingerprint = hashlib.sha1(_hashed(public)).digest()
    return KeyParts(fingerprint, algorithm, public, public[start:], _unprotect(fields, passphrase)), size


def _hashed(public: bytes) -> bytes:
    return b"\x99" + len(public).to_bytes(2, "big") + public


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
    if not passphrase:
        raise PassphraseNeeded
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
