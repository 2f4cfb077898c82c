"""OpenPGP for XMPP (XEP-0373) on keys and messages: Sequoia's library signs, encrypts and verifies.

Messages are opened by `pkesk` and `seipd`, and only their signatures checked by the library, because it reads no
message that GnuPG compressed, and inflates without bounds. All its errors end here: they carry its backtraces.

It judges validity by the system's clock; what is checked with `now` is `Certificate.why_unusable`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import pysequoia
from pysequoia import Sig, SignatureMode, Tsk
from pysequoia.packet import PacketPile

from tillie.crypto import certificates, pkesk, secretkeys, seipd, selfsign
from tillie.crypto.certificates import MAX_CERTIFICATE, Certificate, library_form
from tillie.crypto.packets import (
    COMPRESSED,
    ONE_PASS,
    PKESK,
    SECRET_KEY,
    SECRET_SUBKEY,
    SEIPD,
    SIGNATURE,
    SKESK,
    USER_ID,
    Packet,
    encode,
    split,
)
from tillie.crypto.secretkeys import KeyParts
from tillie.errors import BadKey, BadSignature, Malformed, NoRecipients, Undecryptable, UsageError

__all__ = [
    "MAX_BYTES",
    "MAX_CERTIFICATE",
    "MAX_SECRET_KEYS",
    "Certificate",
    "Message",
    "SecretKey",
    "add_user_id",
    "crypt",
    "generate",
    "import_secret_keys",
    "issuer",
    "merge",
    "open_crypt",
    "open_sign",
    "open_signcrypt",
    "parse_certificate",
    "parse_secret_keys",
    "reads",
    "recipients",
    "revoke",
    "sign",
    "sign_detached",
    "signcrypt",
    "verify_detached",
    "with_certificate",
]

MAX_BYTES = 4 << 20  # of a message when opened, unless the caller says otherwise
MAX_PKESKS = 512  # session keys of one message: two for each of some hundred readers
MAX_SECRET_KEYS = 16  # in one backup or import
MAX_SIGNATURE = 4_096  # bytes of a detached signature
_OVERHEAD = 1 << 18  # packets around the text of a message
_CACHED_KEYS = 32

parse_certificate = certificates.parse


@dataclass(frozen=True, slots=True)
class SecretKey:
    """A transferable secret key (RFC 4880 section 11.2), binary and under no passphrase, and its certificate."""

    data: bytes
    certificate: Certificate

    def __repr__(self) -> str:
        return f"SecretKey({self.certificate.fingerprint.hex().upper()})"

    @property
    def fingerprint(self) -> bytes:
        return self.certificate.fingerprint


class Message(NamedTuple):
    """An opened message, and the fingerprints of the certificates that signed it; those of bad signatures are not."""

    plaintext: bytes
    signers: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"Message({len(self.plaintext)} bytes, {len(self.signers)} signers)"


# -- keys -----------------------------------------------------------------------------------------------------------


def generate(user_id: str) -> SecretKey:
    """A new key that never expires: Ed25519 to certify and sign, Curve25519 to encrypt. `user_id`: "xmpp:ADDRESS"."""
    # The library makes the keys, and dates them; why the signatures are ours is said in `selfsign`.
    try:
        made = bytes(Tsk.generate(user_id, validity_seconds=None))
    except (RuntimeError, UnicodeError):
        raise UsageError("No OpenPGP key can have that name.") from None
    keys = [packet for packet in split(made) if packet.tag in (SECRET_KEY, SECRET_SUBKEY)]
    parts = secretkeys.read(made)
    primary, at = parts[0], next(index for index, part in enumerate(parts) if part.decrypts)
    created, name = int(certificates.created(primary.body)), user_id.encode()
    named = selfsign.certify(primary, name, selfsign.OUR_NAME, created)
    bound = selfsign.bind(primary, parts[at], created)
    return _secret(b"".join(map(encode, (keys[0], Packet(USER_ID, name), named, keys[at], bound))))


def parse_secret_keys(data: bytes) -> tuple[SecretKey, ...]:
    """The secret keys of a backup (XEP-0373 section 5.4), one behind the other. Malformed, BadKey."""
    if len(data) > MAX_SECRET_KEYS * MAX_CERTIFICATE:
        raise Malformed("there are too many OpenPGP keys")
    found = split(data)
    if found[0].tag != SECRET_KEY:
        raise Malformed("it is not an OpenPGP secret key")
    starts = [at for at, packet in enumerate(found) if packet.tag == SECRET_KEY]
    if len(starts) > MAX_SECRET_KEYS:
        raise Malformed("there are too many OpenPGP keys")
    ends = [*starts[1:], len(found)]
    return tuple(_secret(b"".join(map(encode, found[start:end]))) for start, end in zip(starts, ends, strict=True))


def import_secret_keys(data: bytes, passphrase: str = "") -> tuple[SecretKey, ...]:
    """The secret keys that GnuPG or another program exported, armoured or not, their passphrase taken off.

    UsageError: wrong passphrase, or an export without the secrets. Malformed, BadKey.
    """
    if len(data) > 2 * MAX_SECRET_KEYS * MAX_CERTIFICATE:
        raise Malformed("there are too many OpenPGP keys")
    binary = _dearmoured(data) if data.lstrip().startswith(b"-----BEGIN PGP") else data
    return parse_secret_keys(secretkeys.without_passphrase(binary, passphrase))


def add_user_id(secret: SecretKey, user_id: str) -> SecretKey:
    """The same key with one more user id."""
    if user_id in secret.certificate.user_ids:
        return secret
    try:
        named = bytes(library_form(secret.certificate).add_user_id(user_id, _tsk(secret.data).certifier()))
    except RuntimeError:
        raise UsageError("The key can't get another user id.") from None
    return _named_by_us(secret, user_id, named)


def _named_by_us(secret: SecretKey, user_id: str, named: bytes) -> SecretKey:
    """The new user id with all that the key's others say of it, and the date of the library's.

    What the library says of the key would count as the newest: that it does not sign, and reads SEIPD version 2.
    """
    primary = secretkeys.read(secret.data)[0]
    before = certificates.newest_name(secret.certificate)
    after = certificates.newest_name(parse_certificate(named))
    if before is None or after is None or not selfsign.can_sign(primary):
        raise UsageError("A key of this kind can't get another user id here.")
    name = user_id.encode()
    signature = selfsign.certify(primary, name, selfsign.about_key(before), selfsign.created(after))
    ours = _secret(secret.data + encode(Packet(USER_ID, name)) + encode(signature))
    if user_id not in ours.certificate.user_ids:
        raise UsageError("The key can't get another user id.")
    return ours


def revoke(secret: SecretKey) -> SecretKey:
    """The same key, revoked: what was encrypted to it stays readable."""
    try:
        signature = library_form(secret.certificate).revoke(_tsk(secret.data).certifier())
    except RuntimeError:
        raise UsageError("The key can't be revoked.") from None
    return _secret(secret.data + bytes(signature))


def merge(old: Certificate, new: Certificate) -> Certificate:
    """Both together: nothing that one of them says is lost, a revocation least of all. BadKey: they are two keys."""
    if old.fingerprint != new.fingerprint:
        raise BadKey("two OpenPGP certificates do not have the same key")
    if old.data == new.data:
        return old
    try:
        return parse_certificate(bytes(library_form(old).merge(library_form(new))))
    except RuntimeError:
        raise BadKey("two OpenPGP certificates do not fit together") from None


def with_certificate(secret: SecretKey, certificate: Certificate) -> SecretKey:
    """The same key with what its certificate says elsewhere: a revocation, a user id. BadKey: it is another key's."""
    if certificate.fingerprint != secret.certificate.fingerprint:
        raise BadKey("the certificate is another key's")
    return _with_packets(secret, certificate.data)


def _with_packets(secret: SecretKey, certificate: bytes) -> SecretKey:
    known = {encode(packet) for packet in split(secret.certificate.data)}
    added = [encode(packet) for packet in split(certificate) if encode(packet) not in known]
    return _secret(secret.data + b"".join(added))


def _secret(data: bytes) -> SecretKey:
    """Malformed, unless `data` is one secret key under no passphrase that fits its certificate."""
    found = split(data)
    if any(packet.body[:1] != b"\x04" for packet in found if packet.tag in (SECRET_KEY, SECRET_SUBKEY)):
        raise BadKey("it is not an OpenPGP key of version 4")
    secretkeys.read(data)  # Malformed if a passphrase is on one, BadKey if it can't be read here
    try:
        tsk = Tsk.from_bytes(data)
        public, private = bytes(tsk.extract_certificate()), bytes(tsk)
    except RuntimeError:
        raise Malformed("an OpenPGP secret key is damaged") from None
    return SecretKey(private, parse_certificate(public))


def _dearmoured(data: bytes) -> bytes:
    """The blocks of ASCII armour one after the other (RFC 4880 section 6.2); their checksums guard nothing."""
    out = []
    for block in data.replace(b"\r", b"").split(b"-----BEGIN PGP PRIVATE KEY BLOCK-----")[1:]:
        body, ending, _ = block.partition(b"-----END PGP PRIVATE KEY BLOCK-----")
        _, _, text = body.partition(b"\n\n")
        lines = [line.strip() for line in text.split(b"\n")]
        try:
            out.append(base64.b64decode(b"".join(line for line in lines if not line.startswith(b"=")), validate=True))
        except binascii.Error:
            ending = b""
        if not ending:
            raise Malformed("the armour of an OpenPGP key is damaged")
    if not out:
        raise UsageError("That is not a secret key.", hint="Export it with 'gpg --export-secret-keys ADDRESS'.")
    return b"".join(out)


# -- the library's objects --------------------------------------------------------------------------------------------


@lru_cache(_CACHED_KEYS)
def _tsk(data: bytes) -> Tsk:
    try:
        return Tsk.from_bytes(data)
    except RuntimeError:
        raise Malformed("an OpenPGP secret key is damaged") from None


@lru_cache(_CACHED_KEYS)
def _decryption_keys(data: bytes) -> tuple[KeyParts, ...]:
    """Old, expired and revoked ones too: what was encrypted to them stays readable."""
    return tuple(key for key in secretkeys.read(data) if key.decrypts)


def _signer(secret: SecretKey) -> Any:
    if secret.certificate.revoked:
        raise UsageError("Your OpenPGP key is revoked.")
    return (_kept_signer if _is_lasting(secret.data) else _signer_now)(secret.data)


def _signer_now(data: bytes) -> Any:
    try:
        return _tsk(data).signer()
    except RuntimeError:
        raise UsageError("Your OpenPGP key can't sign: it is expired, or has no key for signatures.") from None


_kept_signer = lru_cache(_CACHED_KEYS)(_signer_now)


@lru_cache(_CACHED_KEYS)
def _is_lasting(data: bytes) -> bool:
    """Whether no part of a key ever expires: one that was kept goes on signing after that without complaint."""
    return all(packet.key_validity_period is None for packet in PacketPile.from_bytes(data))


# -- to seal and to sign ----------------------------------------------------------------------------------------------


def signcrypt(plaintext: bytes, signer: SecretKey, recipients: Sequence[Certificate]) -> bytes:
    """A message signed and encrypted to each recipient: <signcrypt/> of XEP-0373 section 3.

    Whether they are usable is the caller's to check, at its `now`. BadKey: there is one that is not.
    """
    return _encrypt(plaintext, recipients, _signer(signer))


def crypt(plaintext: bytes, recipients: Sequence[Certificate]) -> bytes:
    """A message encrypted and not signed: <crypt/> of XEP-0373 section 3."""
    return _encrypt(plaintext, recipients, None)


def _encrypt(plaintext: bytes, recipients: Sequence[Certificate], signer: Any) -> bytes:
    if not recipients:
        raise NoRecipients
    certs = [library_form(certificate) for certificate in recipients]
    try:
        sealed: bytes = pysequoia.encrypt(plaintext, recipients=certs, signer=signer, armor=False)
    except RuntimeError:
        raise BadKey("an OpenPGP certificate can't be encrypted to") from None
    return sealed


def sign(plaintext: bytes, signer: SecretKey) -> bytes:
    """A signed message with the text in it: <sign/> of XEP-0373 section 3."""
    return _sign(plaintext, signer, SignatureMode.INLINE)


def sign_detached(data: bytes, signer: SecretKey) -> bytes:
    """A signature of `data`, apart from it, binary (RFC 4880 section 11.4), as XEP-0476 has it."""
    return _sign(data, signer, SignatureMode.DETACHED)


def _sign(data: bytes, signer: SecretKey, mode: Any) -> bytes:
    try:
        signed: bytes = pysequoia.sign(_signer(signer), data, mode=mode, armor=False)
    except RuntimeError:
        raise UsageError("Your OpenPGP key can't sign.") from None
    return signed


# -- to open and to verify --------------------------------------------------------------------------------------------


def recipients(message: bytes) -> tuple[bytes, ...]:
    """The key ids, 8 bytes each, that a message is encrypted to; zeros for a hidden one. () if it is only signed."""
    session_keys, container = _outside(message, len(message))
    if container is None:
        return ()
    return tuple(named for named in map(pkesk.addressee, session_keys) if named)


def reads(secret: SecretKey) -> frozenset[bytes]:
    """The key ids that a secret key answers to."""
    return frozenset(key.key_id for key in _decryption_keys(secret.data))


def open_signcrypt(
    message: bytes, secrets: Sequence[SecretKey], senders: Sequence[Certificate], *, max_bytes: int = MAX_BYTES
) -> Message:
    """Open a message that is encrypted to one of `secrets` and signed by one of `senders`.

    Undecryptable: for other keys, or altered. BadSignature: not signed, or by none of them. Malformed: too large, or
    not such a message.
    """
    inner = _opened(message, secrets, max_bytes)
    if not seipd.signed(inner, max_bytes=max_bytes):
        raise BadSignature("it is not signed")
    return _verified(inner, senders)


def open_crypt(message: bytes, secrets: Sequence[SecretKey], *, max_bytes: int = MAX_BYTES) -> Message:
    """Open a message that is encrypted and not signed: XEP-0373 section 3 says that it "MUST NOT be signed"."""
    return Message(seipd.literal(_opened(message, secrets, max_bytes), max_bytes=max_bytes), ())


def open_sign(message: bytes, senders: Sequence[Certificate], *, max_bytes: int = MAX_BYTES) -> Message:
    """Check a message that is signed by one of `senders`, and not encrypted."""
    if _outside(message, max_bytes)[1] is not None:
        raise Malformed("a signed message is encrypted")
    inner = seipd.inflate(message, max_bytes=max_bytes)
    if not seipd.signed(inner, max_bytes=max_bytes):
        raise BadSignature("it is not signed")
    return _verified(inner, senders)


def issuer(signature: bytes) -> bytes:
    """Who a detached signature says made it: the fingerprint of a key (20 bytes), else its key id (8), else b""."""
    sig = _detached(signature)
    return bytes.fromhex(sig.issuer_fingerprint or sig.issuer_key_id or "")


def verify_detached(signature: bytes, data: bytes, certificates: Sequence[Certificate]) -> Certificate:
    """Which of `certificates` signed `data`. BadSignature: none; Malformed: not one binary signature (type 0x00)."""
    sig = _detached(signature)
    certs = [library_form(certificate) for certificate in certificates]
    try:
        valid = pysequoia.verify(data, store=lambda _: certs, signature=sig).valid_sigs
    except RuntimeError:
        raise BadSignature("an OpenPGP signature does not verify") from None
    made_by = {bytes.fromhex(one.certificate) for one in valid}
    for certificate in certificates:
        if certificate.fingerprint in made_by:
            return certificate
    raise BadSignature("an OpenPGP signature is by somebody else")


def _detached(signature: bytes) -> Sig:
    if len(signature) > MAX_SIGNATURE:
        raise Malformed("an OpenPGP signature is too large")
    # The library would read the first of several packets, armour, and what is compressed.
    found = split(signature, limit=1)
    if found[0].tag != SIGNATURE or found[0].body[:2] != b"\x04\x00":
        raise Malformed("it is not a binary OpenPGP signature")
    try:
        return Sig.from_bytes(signature)
    except RuntimeError:
        raise Malformed("an OpenPGP signature is damaged") from None


def _outside(message: bytes, max_bytes: int) -> tuple[list[bytes], Packet | None]:
    """The bodies of the PKESK packets and the container behind them; None if the message is not encrypted."""
    if len(message) > max_bytes + _OVERHEAD:
        raise Malformed("an OpenPGP message is too large")
    *before, last = found = split(message, limit=MAX_PKESKS + 8)
    if last.tag == SEIPD and before and all(packet.tag in (PKESK, SKESK) for packet in before):
        return [packet.body for packet in before if packet.tag == PKESK], last
    if found[0].tag in (COMPRESSED, ONE_PASS):
        return [], None
    raise Malformed("it is not an OpenPGP message with integrity")


def _opened(message: bytes, secrets: Sequence[SecretKey], max_bytes: int) -> bytes:
    bodies, container = _outside(message, max_bytes)
    if container is None:
        raise Malformed("it is not encrypted")
    keys = [key for secret in secrets for key in _decryption_keys(secret.data)]
    for cipher, session in pkesk.session_keys(bodies, keys):
        try:
            inner = seipd.unseal(container, session, cipher)
        except Undecryptable:
            continue
        return seipd.inflate(inner, max_bytes=max_bytes)
    raise Undecryptable("it is for other keys, or was altered")


def _verified(inner: bytes, senders: Sequence[Certificate]) -> Message:
    certs = [library_form(certificate) for certificate in senders]
    try:
        verified = pysequoia.verify(inner, store=lambda _: certs)
    except RuntimeError:
        raise BadSignature("none of the sender's keys signed it") from None
    signers = dict.fromkeys(bytes.fromhex(one.certificate) for one in verified.valid_sigs)
    if not signers:
        raise BadSignature("none of the sender's keys signed it")
    return Message(verified.bytes or b"", tuple(signers))
