"""Signed JSON (Matrix specification 1.19, appendices, "Signing JSON"): Ed25519 over canonical JSON."""

from __future__ import annotations

from collections.abc import Mapping

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
    """A copy with a signature that was made before. What is there in the place of signatures and is no object is left
    out: no check of another entity's signature looks at it."""
    signatures = _object(value.get("signatures"))
    return {**value, "signatures": {**signatures, entity: {**_object(signatures.get(entity)), key_id: signature}}}


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


def verify_by_any(value: Object, entity: str, keys: Mapping[str, bytes]) -> None:
    """Check that one of an entity's `keys` ({"ed25519:...": 32 bytes}) made one of its signatures: those by other keys
    say nothing. Raises `BadSignature`, `Malformed`."""
    why: Exception = BadSignature(f"{entity} has not signed with a key that is known")
    for key_id in _object(_object(value.get("signatures")).get(entity)):
        if key_id in keys:
            try:
                return verify_object(value, entity, key_id, keys[key_id])
            except (BadSignature, Malformed) as error:
                why = error
    raise why


def _object(value: object) -> Object:
    return value if isinstance(value, dict) else {}
