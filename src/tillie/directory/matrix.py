"""Device keys and one-time keys on Matrix, and their checks, in two profiles that never mix.

`V1` is Matrix as it is (client-server API 1.19, "End-to-End Encryption"); `DRAFT2015` its first draft (matrix-doc,
specification/41_end_to_end_encryption.rst, November 2015). docs/matrix.md compares them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from tillie.crypto import sign
from tillie.crypto.random import random_index
from tillie.directory.signed import ED25519, sign_object, verify_object
from tillie.errors import BadKey, BadSignature, Malformed
from tillie.model import Address, Device
from tillie.wire import base64, canonical, matrix
from tillie.wire.canonical import Object

OLM = "m.olm.v1.curve25519-aes-sha2"
CURVE25519 = "curve25519"
SIGNED_CURVE25519 = "signed_curve25519"
PAYLOAD = "org.tillie.payload"  # in signed device keys: whoever seals for this device sends room_id and fingerprint
MAX_DEVICES = 1_024  # of one user, read at all
MAX_DEVICE_BYTES = 65_536
KEY = 32
DEVICE_ID_LETTERS = 10

# What `model.Fetch.node` and `model.Publication.node` are on Matrix.
KEYS_QUERY = "keys/query"  # answered with the device map of this user: {device id: device keys}
KEYS_CLAIM = "keys/claim"  # `item` is a JSON array of device ids; answered with {device id: {key id: key}}
KEYS_UPLOAD = "keys/upload"  # the payload is the request's body
KEY_COUNTS = "keys/counts"  # pushed: {"counts": {algorithm: number}, "fallback": [unused algorithms]}


class Profile(NamedTuple):
    """Which keys are published, where, and what a payload must hold."""

    name: str
    path: str
    one_time: str  # the algorithm of one-time keys
    signed: bool  # one-time keys are signed
    fallback: bool  # fallback keys exist
    dated: bool  # device keys say from when until when they are valid
    servers_sign: bool  # both homeservers sign every device


V1 = Profile("v1", "/_matrix/client/v3", SIGNED_CURVE25519, True, True, False, False)
DRAFT2015 = Profile("draft2015", "/_matrix/client/v2_alpha", CURVE25519, False, False, True, True)
PROFILES: Mapping[str, Profile] = {each.name: each for each in (V1, DRAFT2015)}


class DeviceKeys(NamedTuple):
    """One device's published keys, checked. `valid` is from when until when, in seconds, where the profile has that;
    `binds` that it wants room_id and fingerprint in what is sealed for it. `source` is the object as it was signed.

    `curve25519` and `ed25519` are 32 bytes; an able device has both and speaks Olm.
    """

    user: Address
    device: str
    curve25519: bytes
    ed25519: bytes
    algorithms: tuple[str, ...]
    source: Object
    valid: tuple[float, float] | None = None
    binds: bool = False

    @property
    def is_able(self) -> bool:
        return bool(self.curve25519) and OLM in self.algorithms


class OneTimeKey(NamedTuple):
    """A published Curve25519 key (32 bytes) that begins one session, or, as a fallback, several."""

    id: str
    key: bytes
    fallback: bool = False


@lru_cache(1024)
def device_of(user: Address, device: str, ed25519: bytes) -> Device:
    """A Matrix device as the rest of Tillie knows it."""
    return Device(user, olm_id(device), ed25519, device)


def new_device_id() -> str:
    """A device id as homeservers make them: letters."""
    return "".join(chr(ord("A") + random_index(26)) for _ in range(DEVICE_ID_LETTERS))


def olm_id(device: str) -> int:
    """The number that stands for a device id: 31 bits of its hash, never used to choose a key."""
    return int.from_bytes(hashlib.sha256(device.encode()).digest()[:4]) >> 1


# -- device keys ----------------------------------------------------------------------------------------------------


def write_device_keys(
    profile: Profile,
    user: Address,
    device: str,
    curve25519: bytes,
    seed: bytes,
    *,
    valid: tuple[float, float] | None = None,
) -> Object:
    """Our own device's keys, signed by its Ed25519 seed. `valid` in seconds, where the profile has it."""
    value: Object = {
        "user_id": str(user),
        "device_id": device,
        "algorithms": [OLM],
        "keys": {
            f"{CURVE25519}:{device}": base64.encode_unpadded(curve25519),
            f"{ED25519}:{device}": base64.encode_unpadded(sign.public_of(seed)),
        },
        PAYLOAD: True,
    }
    if profile.dated and valid is not None:
        value["valid_after_ts"], value["valid_until_ts"] = (int(each * 1000) for each in valid)
    return sign_object(value, str(user), f"{ED25519}:{device}", seed)


def read_device_keys(value: object, user: Address, device: str, profile: Profile) -> DeviceKeys:
    """One device out of a device map, all of it checked: it says what the map says, its keys are sound, it signed
    itself. A device without any keys, as a home of the draft makes them up, is read too, and is not able. Raises
    `Malformed`, `BadKey`, `BadSignature`.
    """
    if not isinstance(value, dict):
        raise Malformed("a device is not an object")
    if value.get("user_id") != user or value.get("device_id") != device:
        raise Malformed("a device says that it is another one")
    if not matrix.is_device_id(device):
        raise Malformed("a device's id is not valid")
    algorithms, keys = value.get("algorithms"), value.get("keys")
    if not isinstance(algorithms, list) or not all(isinstance(each, str) for each in algorithms):
        raise Malformed("a device's algorithms are not strings")
    if not isinstance(keys, dict):
        raise Malformed("a device's keys are not an object")
    if not keys and profile.servers_sign:
        return DeviceKeys(user, device, b"", b"", tuple(algorithms), value)
    ed25519 = _only(keys, ED25519, device)
    curve25519 = _only(keys, CURVE25519, device)
    sign.public_to_curve(ed25519)  # BadKey unless it is a point of the main subgroup
    verify_object(value, str(user), f"{ED25519}:{device}", ed25519)
    check_curve(curve25519)
    return DeviceKeys(
        user,
        device,
        curve25519,
        ed25519,
        tuple(algorithms),
        value,
        _validity(value, profile),
        value.get(PAYLOAD) is True,
    )


def _only(keys: Mapping[str, Any], algorithm: str, device: str) -> bytes:
    """The one key of an algorithm: "a device must have only one"."""
    found = [name for name in keys if name.partition(":")[0] == algorithm]
    if found != [f"{algorithm}:{device}"]:
        raise Malformed(f"a device has {len(found)} {algorithm} keys, or not under its own name")
    return base64.decode_unpadded(keys[found[0]], size=KEY)


def check_curve(key: bytes) -> bytes:
    """A Curve25519 public key whose agreement is no constant. Raises `BadKey`."""
    if key in _LOW_ORDER or int.from_bytes(key, "little") & (2**255 - 1) >= _P or key[-1] & 0x80:
        raise BadKey("a Curve25519 key is of low order, or not in its one spelling")
    return key


_P = 2**255 - 19
_LOW_ORDER = frozenset(
    number.to_bytes(KEY, "little")
    for number in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        _P - 1,
    )
)


def _validity(value: Object, profile: Profile) -> tuple[float, float] | None:
    if not profile.dated:
        return None
    after, until = value.get("valid_after_ts"), value.get("valid_until_ts")
    if type(after) is not int or type(until) is not int or after >= until:
        raise Malformed("a device does not say when its keys are valid")
    return after / 1000, until / 1000


def read_device_map(
    value: object, user: Address, profile: Profile
) -> tuple[tuple[DeviceKeys, ...], tuple[tuple[str, str], ...]]:
    """A user's devices as a home answered: those that are sound, and (device id, why) of the others: one bad device
    never costs the rest. Raises `Malformed` if it is no map of devices, or has too many."""
    if not isinstance(value, dict):
        raise Malformed("a user's devices are not an object")
    return _read_each(value, lambda device: read_device_keys(value[device], user, device, profile))


def parse_device_map(
    payload: bytes, user: Address, profile: Profile
) -> tuple[tuple[DeviceKeys, ...], tuple[tuple[str, str], ...]]:
    """As `read_device_map`, from the bytes of a `KEYS_QUERY`; what is not strict JSON costs its own device only."""
    parts = canonical.split_object(payload, max_bytes=MAX_DEVICES * MAX_DEVICE_BYTES)

    def read(device: str) -> DeviceKeys:
        return read_device_keys(canonical.parse(parts[device], max_bytes=MAX_DEVICE_BYTES), user, device, profile)

    return _read_each(parts, read)


def _read_each(
    devices: Collection[str], read: Callable[[str], DeviceKeys]
) -> tuple[tuple[DeviceKeys, ...], tuple[tuple[str, str], ...]]:
    if len(devices) > MAX_DEVICES:
        raise Malformed(f"a user has more than {MAX_DEVICES} devices")
    good, bad = [], []
    for device in devices:
        try:
            good.append(read(device))
        except (Malformed, BadKey, BadSignature) as error:
            bad.append((device, error.detail))
    twice = _twice(each.curve25519 for each in good) | _twice(each.ed25519 for each in good)
    bad += [(each.device, "two devices claim one key") for each in good if {each.curve25519, each.ed25519} & twice]
    return tuple(each for each in good if not {each.curve25519, each.ed25519} & twice), tuple(bad)


def _twice(keys: Iterable[bytes]) -> set[bytes]:
    seen: set[bytes] = set()
    return {key for key in keys if key and (key in seen or seen.add(key))}  # type: ignore[func-returns-value]


# -- one-time keys --------------------------------------------------------------------------------------------------


def write_one_time_key(
    profile: Profile, user: Address, device: str, key: bytes, seed: bytes, *, fallback: bool = False
) -> Object | str:
    """The value of a one-time or fallback key: a signed object, or in the draft a string, unsigned for deniability."""
    text = base64.encode_unpadded(key)
    if not profile.signed:
        return text
    value: Object = {"key": text, "fallback": True} if fallback else {"key": text}
    return sign_object(value, str(user), f"{ED25519}:{device}", seed)


def read_one_time_key(answer: object, device: DeviceKeys, profile: Profile) -> OneTimeKey:
    """The key that a claim gave for one device: {"algorithm:id": key}, exactly one, of the profile's algorithm, and
    signed by that device where the profile wants it. Raises `Malformed`, `BadKey`, `BadSignature`."""
    if not isinstance(answer, dict) or len(answer) != 1:
        raise Malformed("a claim was not answered with one key")
    ((name, value),) = answer.items()
    algorithm, key_id = matrix.split_key_id(name)
    if algorithm != profile.one_time:
        raise Malformed(f"a claim was answered with a key of {algorithm}")
    if not profile.signed:
        return OneTimeKey(key_id, check_curve(base64.decode_unpadded(value, size=KEY)))
    if not isinstance(value, dict):
        raise Malformed("a signed key is not an object")
    verify_object(value, str(device.user), f"{ED25519}:{device.device}", device.ed25519)
    key = check_curve(base64.decode_unpadded(value.get("key"), size=KEY))
    return OneTimeKey(key_id, key, value.get("fallback") is True)


# -- what a payload is bound to -------------------------------------------------------------------------------------


def fingerprint(keys: Iterable[bytes]) -> str:
    """The draft's "sha256 hash of the currently participating keys". It says no more; ours: the Curve25519 keys of all
    devices that take part, the sender's own included, each once, in unpadded Base64, sorted, joined by commas."""
    texts = sorted({base64.encode_unpadded(key) for key in keys})
    return base64.encode_unpadded(hashlib.sha256(",".join(texts).encode()).digest())


def room_id(users: Iterable[Address]) -> str:
    """The room of a conversation that has none: both ends derive it from who takes part. It has the form of a room id
    without a server ("!" and the hash of its making, as since room version 12)."""
    digest = hashlib.sha256("\n".join(sorted(map(str, set(users)))).encode()).digest()
    return "!" + base64.encode_unpadded(digest).translate(_URL_SAFE)


_URL_SAFE = str.maketrans("+/", "-_")


def is_state_event(type: str, event: Mapping[str, Any]) -> bool:
    """Whether this is an event that says what a room is: those are never encrypted ("encrypting state events is not
    supported")."""
    return "state_key" in event or type in _STATE_TYPES


_STATE_TYPES = frozenset(
    f"m.room.{name}"
    for name in (
        "aliases", "avatar", "canonical_alias", "create", "encryption", "guest_access", "history_visibility",
        "join_rules", "member", "name", "pinned_events", "power_levels", "server_acl", "third_party_invite",
        "tombstone", "topic",
    )
) | {"m.space.child", "m.space.parent"}  # fmt: skip
