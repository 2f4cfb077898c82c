"""What an OpenPGP certificate says, and whether it may be encrypted to (RFC 4880 sections 11.1, 12.1; XEP-0373).

The library checks signatures, but believes too much for a world where any server may add packets: a revocation that a
stranger made counts, and a message is encrypted to expired, revoked and nameless certificates without a word. So
- signatures by others are taken out first: nothing here rests on them, and XEP-0373 section 7 asks for small keys;
- each claim that the library can't be asked about, as when a subkey expires, is read from the packets, and believed
  only when the library accepts the certificate cut down to it.
Designated revokers (RFC 4880 section 5.2.3.15) are thereby not heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from pysequoia import Cert, encrypt
from pysequoia.packet import Packet as Claim
from pysequoia.packet import PacketPile, SignatureType, Tag

from tillie.crypto.packets import PUBLIC_KEY, PUBLIC_SUBKEY, SIGNATURE, TRUST, USER_ATTRIBUTE, USER_ID, split
from tillie.errors import BadKey, InvalidAddress, Malformed
from tillie.model import Address, Time
from tillie.wire import address as addresses

MAX_CERTIFICATE = 100_000  # bytes
MAX_SUBKEYS = 20
MAX_SIGNATURES = 128  # by the certificate itself
MAX_USER_IDS = 32
_CACHED = 1_024  # certificates kept parsed: a secret is shared with hundreds of members
_CACHED_BYTES = 8_192  # larger ones are parsed anew each time
_SCHEME = "xmpp:"
_DSA = b"\x11"  # RFC 4880 section 9.1; the library still takes long ones
_OVER_NAMES = (
    SignatureType.GenericCertification,
    SignatureType.PersonaCertification,
    SignatureType.CasualCertification,
    SignatureType.PositiveCertification,
)
_EPOCH = datetime.fromtimestamp(0, UTC)
_LEFT_OUT = frozenset((TRUST, USER_ATTRIBUTE))


class EncryptionKey(NamedTuple):
    """A key of a certificate that messages can be encrypted to: its fingerprint (20 bytes), and when it expires."""

    fingerprint: bytes
    expires: Time | None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A public OpenPGP key, version 4, as binary data; without what others signed.

    `fingerprint` is that of the primary key (20 bytes), `keys` those of all keys, the primary first. `user_ids` are
    those with a good self-signature that are not revoked. `weak`: the library refuses its kind.
    """

    data: bytes
    fingerprint: bytes
    user_ids: tuple[str, ...]
    created: Time
    expires: Time | None
    revoked: bool
    keys: tuple[bytes, ...]
    encryption: tuple[EncryptionKey, ...]
    weak: bool = False

    def __repr__(self) -> str:
        return f"Certificate({self.fingerprint.hex().upper()})"

    def why_unusable(self, now: Time) -> str:
        """Why nothing may be encrypted to it; "" if it may."""
        if self.revoked:
            return "revoked"
        if self.weak:
            return "weak, or of a kind that is not known here"
        if self.expires is not None and self.expires <= now:
            return "expired"
        if not self.user_ids:
            return "no valid user id"
        if not self.encryption:
            return "no key for encryption"
        if all(key.expires is not None and key.expires <= now for key in self.encryption):
            return "its key for encryption expired"
        return ""

    def names(self, address: Address) -> bool:
        """Whether it has the user id xmpp:ADDRESS (XEP-0373 sections 2.2, 8.6); both sides normalised."""
        return any(_names(user_id, address.bare) for user_id in self.user_ids)

    def has_key(self, issuer: bytes) -> bool:
        """Whether one of its keys has this fingerprint (20 bytes) or key id (8 bytes): what a signature names."""
        return len(issuer) >= 8 and any(key.endswith(issuer) for key in self.keys)


def _names(user_id: str, address: Address) -> bool:
    if not user_id.startswith(_SCHEME):
        return False
    named = user_id[len(_SCHEME) :]
    if named == address:
        return True
    try:
        return addresses.parse_bare(named) == address
    except InvalidAddress:
        return False


def parse(data: bytes) -> Certificate:
    """The one certificate in `data`, binary. Malformed: it is not that; BadKey: another version, or beyond a limit."""
    if len(data) > MAX_CERTIFICATE:
        raise Malformed("an OpenPGP certificate is too large")
    return (_parse if len(data) <= _CACHED_BYTES else _parse_now)(data)


def library_form(certificate: Certificate) -> Cert:
    """The library's object for it, kept: a fresh one checks every signature again, which costs more than encrypting."""
    return (_cert if len(certificate.data) <= _CACHED_BYTES else _cert_now)(certificate.data)


def _cert_now(data: bytes) -> Cert:
    try:
        return Cert.from_bytes(data)
    except RuntimeError:
        raise Malformed("an OpenPGP certificate is damaged") from None


def _parse_now(data: bytes) -> Certificate:
    primary = _primary(data)
    made = created(primary)
    # Errors of the library carry a backtrace, and are never passed on.
    try:
        claims = _own_claims(list(PacketPile.from_bytes(data)))
        cert = Cert.from_packets(claims)
        cleaned = bytes(cert)
        keys = tuple(_fingerprint(claim) for claim in claims if claim.fingerprint)
    except RuntimeError:
        raise Malformed("an OpenPGP certificate is damaged") from None
    fingerprint = keys[0]
    try:
        user_ids = tuple(str(user_id) for user_id in cert.user_ids)
        expires = cert.expiration.timestamp() if cert.expiration else None
        revoked = bool(cert.is_revoked)
    except RuntimeError:  # no self-signature that the library's policy accepts
        return Certificate(cleaned, fingerprint, (), made, None, False, keys, (), weak=True)
    weak = primary[5:6] == _DSA
    return Certificate(cleaned, fingerprint, user_ids, made, expires, revoked, keys, _encryption(claims, expires), weak)


_parse = lru_cache(_CACHED)(_parse_now)
_cert = lru_cache(_CACHED)(_cert_now)


def created(public: bytes) -> Time:
    """When a key was made, from the body of its packet (RFC 4880 section 5.5.2)."""
    return float(int.from_bytes(public[1:5], "big"))


def newest_name(certificate: Certificate) -> bytes | None:
    """The body of the newest good signature of a certificate over one of its user ids."""
    primary, *claims = PacketPile.from_bytes(certificate.data)
    found = []
    name = primary
    for claim in claims:
        if claim.tag == Tag.UserID:
            name = claim
        elif claim.signature_type in _OVER_NAMES and _has_name([primary, name, claim]):
            found.append(claim)
    return max(found, key=lambda claim: claim.signature_created or _EPOCH).body if found else None


def _has_name(claims: list[Claim]) -> bool:
    try:
        return bool(Cert.from_packets(claims).user_ids)
    except RuntimeError:
        return False


def _primary(data: bytes) -> bytes:
    """The body of the one primary key, public, of version 4; behind it is only what belongs to it, in bounds."""
    found = split(data)
    if found[0].tag != PUBLIC_KEY:
        raise Malformed("it is not an OpenPGP certificate")
    for packet in found[1:]:
        if packet.tag not in (PUBLIC_SUBKEY, SIGNATURE, USER_ID) and packet.tag not in _LEFT_OUT:
            raise Malformed("it is not one OpenPGP certificate and nothing else")
    if any(packet.body[:1] != b"\x04" for packet in found if packet.tag in (PUBLIC_KEY, PUBLIC_SUBKEY)):
        raise BadKey("it is not an OpenPGP key of version 4")
    tags = [packet.tag for packet in found]
    if tags.count(PUBLIC_SUBKEY) > MAX_SUBKEYS or tags.count(USER_ID) > MAX_USER_IDS:
        raise BadKey("an OpenPGP certificate has too many keys or names")
    return found[0].body


def _own_claims(claims: list[Claim]) -> list[Claim]:
    own = (claims[0].fingerprint, claims[0].key_id)
    kept = [
        claim
        for claim in claims
        if int(claim.tag) not in _LEFT_OUT and (claim.signature_type is None or _issuer(claim) in own)
    ]
    if sum(claim.signature_type is not None for claim in kept) > MAX_SIGNATURES:
        raise BadKey("an OpenPGP certificate has too many signatures")
    return kept


def _issuer(claim: Claim) -> str | None:
    return claim.issuer_fingerprint or claim.issuer_key_id


def _fingerprint(key: Claim) -> bytes:
    return bytes.fromhex(key.fingerprint or "")


def _created(key: Claim) -> datetime:
    if key.key_created is None:
        raise Malformed("an OpenPGP certificate is damaged")
    return key.key_created


def _encryption(claims: Sequence[Claim], expires: Time | None) -> tuple[EncryptionKey, ...]:
    """The keys that the library would encrypt to, if each were the only one."""
    starts = [at for at, claim in enumerate(claims) if claim.fingerprint]
    head = list(claims[: starts[1]]) if len(starts) > 1 else list(claims)
    found = []
    if _encrypts(head):
        found.append(EncryptionKey(_fingerprint(claims[0]), expires))
    for start, end in pairwise([*starts[1:], len(claims)]):
        key, signatures = claims[start], list(claims[start + 1 : end])
        if not _encrypts([*head, key, *signatures]):
            continue
        binding = _newest_binding(head, key, signatures)
        if binding is not None:
            period = binding.key_validity_period
            until = (_created(key) + period).timestamp() if period else None
            found.append(EncryptionKey(_fingerprint(key), until))
    return tuple(found)


def _newest_binding(head: list[Claim], key: Claim, signatures: list[Claim]) -> Claim | None:
    """The newest binding signature of a subkey that is not forged."""
    bindings = [claim for claim in signatures if claim.signature_type == SignatureType.SubkeyBinding]
    if len(bindings) == 1:
        return bindings[0]
    bindings.sort(key=lambda claim: claim.signature_created or _created(key), reverse=True)
    return next((binding for binding in bindings if _encrypts([*head, key, binding])), None)


def _encrypts(claims: list[Claim]) -> bool:
    try:
        encrypt(b"", recipients=[Cert.from_packets(claims)], armor=False)
    except RuntimeError:
        return False
    return True
