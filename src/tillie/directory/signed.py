"""Signed JSON (Matrix specification 1.19, appendices, "Signing JSON"): Ed25519 over canonical JSON."""

from __future__ import annotations

from tillie.crypto import sign
from tillie.errors import BadSignature, Malformed
from tillie.wire import base64, canonical
from tillie.wire.canonical import Object

ED25519 = "ed25519"
_NOT_SIGNED = ("signatures", "unsigned")


def signed_bytes(value: Object) -> bytes:
    """What a signature is over: canonical JSON without the top level's `signatures` and `unsigned`."""
    return canonical.encode({name: each for name, each in value.items() if name not in _NOT_SIGNED})


def sign_object(value: Object, entity: str, key_id: str, seed: bytes) -> Object:
    """A copy with one more signature, of `entity` (a user id or server name) under `key_id` ("ed25519:...")."""
    signature = base64.encode_unpadded(sign.sign(seed, signed_bytes(value)))
    return with_signature(value, entity, key_id, signature)


def with_signature(value: Object, entity: str, key_id: str, signature: str) -> Object:
    """A copy with a signature that was made before."""
    signatures = dict(value.get("signatures", {}))
    signatures[entity] = {**signatures.get(entity, {}), key_id: signature}
    return {**value, "signatures": signatures}


def signature_of(value: Object, entity: str, key_id: str) -> bytes:
    """One signature, 64 bytes. Raises `BadSignature` if it is not there, `Malformed`."""
    signatures = value.get("signatures", {})
    by_entity = signatures.get(entity, {}) if isinstance(signatures, dict) else None
    if not isinstance(by_entity, dict):
        raise Malformed("the signatures of a JSON object are not objects")
    if key_id not in by_entity:
        raise BadSignature(f"{entity} has not signed with {key_id}")
    return base64.decode_unpadded(by_entity[key_id], size=sign.SIGNATURE)


def verify_object(value: Object, entity: str, key_id: str, public: bytes) -> None:
    """Check the signature of one entity by one key. Raises `BadSignature`, `Malformed`."""
    sign.verify(public, signed_bytes(value), signature_of(value, entity, key_id))
