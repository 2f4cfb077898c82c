"""Public keys that prove who is at the other end of a session (XEP-0116 section 5, XML Signature).

A key travels as the normal form of XML Signature's `<KeyValue/>`: no namespaces, no white space between elements. A
signature is a `<SignatureValue/>` over the octets that were MACed, not over a `<SignedInfo/>`. Further kinds of keys,
OpenPGP certificates or X.509 chains, come in as one more `Identity` and one more reader in `_READERS`.

    <KeyValue><RSAKeyValue><Modulus>..</Modulus><Exponent>..</Exponent></RSAKeyValue></KeyValue>
    <KeyValue><ECKeyValue><NamedCurve URI="urn:oid:1.3.101.112"></NamedCurve>
              <PublicKey>..</PublicKey></ECKeyValue></KeyValue>           (in one line)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from tillie.crypto import rsa, sign
from tillie.crypto.kdf import sha256
from tillie.errors import BadKey, BadSignature, Malformed
from tillie.wire import base64

RSA_SHA256 = "http://www.w3.org/2000/09/xmldsig#rsa-sha256"  # the name in XEP-0116
RSA_SHA256_MORE = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"  # its real one, RFC 9231
ED25519 = "http://www.w3.org/2021/04/xmldsig-more#eddsa-ed25519"
ALGORITHMS = (RSA_SHA256, RSA_SHA256_MORE, ED25519)  # what we can verify
MAX_KEY_VALUE = 4_096  # octets
_MAX_MODULUS = rsa.MOST_BITS // 8

_RSA_KEY = re.compile(
    rb"<KeyValue><RSAKeyValue><Modulus>([^<]+)</Modulus><Exponent>([^<]+)</Exponent></RSAKeyValue></KeyValue>"
)
_ED25519_KEY = re.compile(
    rb'<KeyValue><ECKeyValue><NamedCurve URI="urn:oid:1\.3\.101\.112"></NamedCurve>'
    rb"<PublicKey>([^<]+)</PublicKey></ECKeyValue></KeyValue>"
)
_SIGNATURE = re.compile(rb"<SignatureValue>([^<]+)</SignatureValue>")


class Identity(Protocol):
    """A key of ours that can sign.

    `algorithms` are its names in sign_algs, best first; `key_value` is the normal form of its `<KeyValue/>`.
    """

    @property
    def algorithms(self) -> tuple[str, ...]: ...

    @property
    def key_value(self) -> bytes: ...

    def sign(self, data: bytes) -> bytes:
        """The `<SignatureValue/>` of these octets."""


class PublicIdentity(Protocol):
    """A key of a peer."""

    @property
    def algorithms(self) -> tuple[str, ...]: ...

    @property
    def key_value(self) -> bytes: ...

    def verify(self, data: bytes, signature_value: bytes) -> None:
        """Raises BadSignature, or Malformed."""


def fingerprint(key_value: bytes) -> bytes:
    """By which people and records know a key: SHA-256 of its `<KeyValue/>`, 32 bytes."""
    return sha256(key_value)


def parse(key_value: bytes) -> PublicIdentity:
    """A peer's key from the normal form of its `<KeyValue/>`. Raises Malformed or BadKey."""
    if len(key_value) > MAX_KEY_VALUE:
        raise Malformed("a public key is too large")
    for pattern, read in _READERS:
        if found := pattern.fullmatch(key_value):
            return read(key_value, found)
    raise Malformed("that is no public key of a kind that is known")


# -- RSA ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublicRsa:
    """An RSA key of a peer, at least 2048 bits."""

    key_value: bytes
    numbers: rsa.PublicNumbers

    @property
    def algorithms(self) -> tuple[str, ...]:
        return RSA_SHA256, RSA_SHA256_MORE

    def verify(self, data: bytes, signature_value: bytes) -> None:
        rsa.verify(self.numbers, data, _signature(signature_value))


@dataclass(frozen=True, slots=True)
class RsaIdentity:
    """An RSA key of ours. `private` is PKCS #8, DER; keep it as that."""

    private: bytes

    def __repr__(self) -> str:
        return "RsaIdentity(...)"

    @staticmethod
    def generate() -> RsaIdentity:
        """A new key of 3072 bits."""
        return RsaIdentity(rsa.generate())

    @property
    def algorithms(self) -> tuple[str, ...]:
        return RSA_SHA256, RSA_SHA256_MORE

    @property
    def key_value(self) -> bytes:
        numbers = rsa.public_of(self.private)
        return b"<KeyValue><RSAKeyValue><Modulus>%b</Modulus><Exponent>%b</Exponent></RSAKeyValue></KeyValue>" % (
            _integer(numbers.modulus),
            _integer(numbers.exponent),
        )

    def sign(self, data: bytes) -> bytes:
        return _signature_value(rsa.sign(self.private, data))


def _integer(value: int) -> bytes:
    """A CryptoBinary: the octets of an integer, without leading zeros."""
    return base64.encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).encode()


def _read_rsa(key_value: bytes, found: re.Match[bytes]) -> PublicIdentity:
    modulus, exponent = (base64.decode(text, max_bytes=_MAX_MODULUS) for text in found.groups())
    numbers = rsa.PublicNumbers(int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big"))
    if (_integer(numbers.modulus), _integer(numbers.exponent)) != found.groups():
        raise Malformed("a public key is not written in its one normal form")
    rsa.check(numbers)
    return PublicRsa(key_value, numbers)


# -- Ed25519 --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublicEd25519:
    """An Ed25519 key of a peer."""

    key_value: bytes
    public: bytes

    @property
    def algorithms(self) -> tuple[str, ...]:
        return (ED25519,)

    def verify(self, data: bytes, signature_value: bytes) -> None:
        sign.verify(self.public, data, _signature(signature_value))


@dataclass(frozen=True, slots=True)
class Ed25519Identity:
    """An Ed25519 key of ours. `private` is its seed, 32 bytes; keep it as that."""

    private: bytes

    def __repr__(self) -> str:
        return "Ed25519Identity(...)"

    @staticmethod
    def generate() -> Ed25519Identity:
        return Ed25519Identity(sign.generate()[0])

    @property
    def algorithms(self) -> tuple[str, ...]:
        return (ED25519,)

    @property
    def key_value(self) -> bytes:
        return (
            b'<KeyValue><ECKeyValue><NamedCurve URI="urn:oid:1.3.101.112"></NamedCurve>'
            b"<PublicKey>%b</PublicKey></ECKeyValue></KeyValue>" % base64.encode(sign.public_of(self.private)).encode()
        )

    def sign(self, data: bytes) -> bytes:
        return _signature_value(sign.sign(self.private, data))


def _read_ed25519(key_value: bytes, found: re.Match[bytes]) -> PublicIdentity:
    public = base64.decode(found[1], max_bytes=sign.KEY)
    if base64.encode(public).encode() != found[1]:
        raise Malformed("a public key is not written in its one normal form")
    sign.public_to_curve(public)  # BadKey for what is no point of the main subgroup
    return PublicEd25519(key_value, public)


_READERS = ((_RSA_KEY, _read_rsa), (_ED25519_KEY, _read_ed25519))


def _signature_value(signature: bytes) -> bytes:
    return b"<SignatureValue>%b</SignatureValue>" % base64.encode(signature).encode()


def _signature(signature_value: bytes) -> bytes:
    found = _SIGNATURE.fullmatch(signature_value)
    if not found:
        raise BadSignature("there is no signature")
    return base64.decode(found[1], max_bytes=_MAX_MODULUS)


def private_bytes(identity: Identity) -> bytes:
    """An identity as a record keeps it: the name of its kind, a zero, and the private key."""
    for name, kind in _KINDS.items():
        if isinstance(identity, kind):
            return name + b"\0" + identity.private
    raise BadKey("that kind of key can't be kept")


def from_private_bytes(data: bytes) -> RsaIdentity | Ed25519Identity:
    """The inverse of `private_bytes`. Raises BadKey."""
    name, _, private = data.partition(b"\0")
    if name not in _KINDS:
        raise BadKey("that kind of key is not known")
    return _KINDS[name](private)


_KINDS: dict[bytes, type[RsaIdentity] | type[Ed25519Identity]] = {b"rsa": RsaIdentity, b"ed25519": Ed25519Identity}
