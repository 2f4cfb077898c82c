"""Proving an identity under a fresh key without showing it to others (XEP-0116 sections 4.7 and 4.8, XEP-0188).

    mac  = HMAC(KS, first nonce | second nonce | public value | key | forms)
    ID   = CIPHER(KC, C, mac)  or  CIPHER(KC, C, key | signature of mac)
    M    = HMAC(KM, C | ID)

`hide` makes ID and M, `reveal` verifies M and undoes ID, `verify` verifies what was in it. All failures here are
NegotiationFailed with one condition: the peer must not learn which check it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from tillie.crypto import ctr
from tillie.crypto.kdf import equal, hash_by, hmac_by
from tillie.errors import BadKey, BadSignature, Malformed, NegotiationFailed
from tillie.schemes.esession import identity as identities
from tillie.schemes.esession.identity import Identity, PublicIdentity
from tillie.schemes.esession.keys import Pair, mpi
from tillie.schemes.esession.parameters import NOT_IMPLEMENTED, Parameters
from tillie.schemes.esession.profile import Profile
from tillie.schemes.esession.settings import Settings, Shield
from tillie.wire import base64

_SIGNED = re.compile(
    rb"(?:(<KeyValue>.*</KeyValue>)|<fingerprint>([A-Za-z0-9+/=]+)</fingerprint>)(<SignatureValue>[^<]*</SignatureValue>)",
    re.DOTALL,
)


class Context(NamedTuple):
    """What both sides' proofs depend on."""

    profile: Profile
    parameters: Parameters

    def hmac(self, key: bytes, data: bytes) -> bytes:
        return hmac_by(self.parameters.hash, key, data)


class Said(NamedTuple):
    """What a proof covers beside the key: the nonce of the side that verifies it, of the side that proves, the public
    value of the latter, and normal forms of the messages."""

    other_nonce: bytes
    own_nonce: bytes
    public: int
    forms: tuple[bytes, ...]


class Hidden(NamedTuple):
    """ID and M, and the counter after it."""

    identity: bytes
    mac: bytes
    counter: int


class Revealed(NamedTuple):
    """What was in ID, and the counter after it."""

    proof: bytes
    counter: int


def failed(detail: str) -> NegotiationFailed:
    """The one failure of messages 3 and 4, as the peer sees it."""
    return NegotiationFailed(detail, condition=NOT_IMPLEMENTED)


def _mac(context: Context, ks: bytes, said: Said, key_value: bytes) -> bytes:
    parts = (said.other_nonce, said.own_nonce, mpi(said.public), key_value, *said.forms)
    return context.hmac(ks, b"".join(parts))


def prove(context: Context, ks: bytes, said: Said, way: str, identity: Identity | None) -> bytes:
    """What goes into ID: the MAC itself, or our key, or its hash, and a signature of the MAC."""
    if way == "none":
        return _mac(context, ks, said, b"")
    if identity is None:
        raise failed("There is no public key to give.")
    key_value = identity.key_value
    signature = identity.sign(_mac(context, ks, said, key_value))
    if way == "hash":
        digest = base64.encode(hash_by(context.parameters.hash, key_value)).encode()
        key_value = b"<fingerprint>%b</fingerprint>" % digest
    return key_value + signature


def verify(
    context: Context, ks: bytes, said: Said, way: str, proof: bytes, known: Sequence[bytes]
) -> PublicIdentity | None:
    """The peer's key, whose signature was verified; None if it is identified by no key. `known` are the `<KeyValue/>`
    elements that a hash may stand for."""
    if way == "none":
        if not equal(proof, _mac(context, ks, said, b"")):
            raise failed("The proof of the other side does not verify.")
        return None
    found = _SIGNED.fullmatch(proof)
    if not found or (found[1] is None) != (way == "hash"):
        raise failed("The other side did not identify itself as agreed.")
    key_value = found[1] or _known(context, found[2], known)
    try:
        key = identities.parse(key_value)
        if context.parameters.sign not in key.algorithms:
            raise BadKey("its key is not for the algorithm that was agreed on")
        key.verify(_mac(context, ks, said, key_value), found[3])
    except (BadKey, BadSignature, Malformed) as error:
        raise failed(f"The key of the other side: {error.detail}.") from None
    return key


def _known(context: Context, fingerprint: bytes, known: Sequence[bytes]) -> bytes:
    for key_value in known:
        if base64.encode(hash_by(context.parameters.hash, key_value)).encode() == fingerprint:
            return key_value
    raise failed("The other side named a key by its hash that is not known here.")


def check_shield(settings: Settings, way: str, peer_key: PublicIdentity | None) -> None:
    """Fails if our key would be shown, and settings say that only those get it who have proven a key that we know."""
    if way == "none" or settings.shield is Shield.THEIRS:
        return
    if peer_key is None or peer_key.key_value not in settings.known_keys:
        raise failed("The other side has not proven a key that is known here, so it does not get ours.")


def hide(context: Context, pair: Pair, counter: int, proof: bytes) -> Hidden:
    """ID and M. The counter in M is the one before encrypting."""
    profile, parameters = context
    if profile.pad:
        proof += b" " * (-len(proof) % profile.pad)
    identity = ctr.apply(parameters.cipher, pair.kc, profile.start(counter), proof)
    mac = context.hmac(pair.km, profile.minimal(counter) + identity)
    return Hidden(identity, mac, ctr.advance(counter, ctr.blocks(parameters.cipher, len(proof))))


def fits(context: Context, km: bytes, counter: int, identity: bytes, mac: bytes) -> bool:
    """Whether M verifies."""
    return equal(mac, context.hmac(km, context.profile.minimal(counter) + identity))


def reveal(context: Context, pair: Pair, counter: int, identity: bytes, mac: bytes) -> Revealed:
    """What is in ID, once M verified."""
    profile, parameters = context
    if not fits(context, pair.km, counter, identity, mac):
        raise failed("The MAC of the other side's proof does not verify.")
    proof = ctr.apply(parameters.cipher, pair.kc, profile.start(counter), identity)
    if profile.pad and b"</SignatureValue>" in proof:
        proof = proof.rstrip(b" ")  # a MAC alone fills its blocks
    return Revealed(proof, ctr.advance(counter, ctr.blocks(parameters.cipher, len(identity))))
