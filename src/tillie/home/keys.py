"""Device keys, one-time keys and fallback keys of local users: checks at the door, and steps on the database.

A home looks at the shape of one-time keys only: whoever claims one verifies it, and no home could do that for her.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import NamedTuple

import msgspec

from tillie.crypto import sign
from tillie.directory import matrix as directory
from tillie.directory.matrix import CURVE25519, SIGNED_CURVE25519, Profile
from tillie.directory.signed import ED25519
from tillie.errors import BadKey, BadSignature, Malformed
from tillie.home import accounts, lists
from tillie.home.accounts import Who
from tillie.home.answers import Refused
from tillie.home.database import Connection
from tillie.home.lists import Change
from tillie.wire import base64, canonical, matrix

MAX_DEVICE_KEYS_BYTES = 8_192  # of one device, as JSON: whoever asks for a user gets up to a thousand of them
MAX_ONE_TIME_KEYS = 500  # of one device, waiting to be claimed
MAX_KEY_BYTES = 4_096  # of one of them, as JSON

Claimed = dict[str, dict[str, dict[str, msgspec.Raw]]]  # {user: {device: {"algorithm:id": key}}}


class Key(NamedTuple):
    """A one-time or fallback key as it was uploaded. Two are the same if their 32 public bytes are."""

    id: str
    public: bytes
    json: bytes


class Body(msgspec.Struct):
    """The body of keys/upload (client-server API, "End-to-end encryption"), each key still to be looked at. Null is
    what old clients write for nothing."""

    device_keys: msgspec.Raw = msgspec.Raw()
    one_time_keys: dict[str, msgspec.Raw] | None = None
    fallback_keys: dict[str, msgspec.Raw] | None = None


class _SignedKey(msgspec.Struct, forbid_unknown_fields=True):
    """What nearly all keys look like. Written again, it is what was signed."""

    key: str
    signatures: dict[str, dict[str, str]]
    fallback: bool | msgspec.UnsetType = msgspec.UNSET


class Upload(NamedTuple):
    """What a device uploads, its shape checked. `device_keys` is canonical JSON, or empty."""

    device_keys: bytes
    one_time: tuple[Key, ...]
    fallback: tuple[Key, ...]


class Uploaded(NamedTuple):
    """How many one-time keys are there now, and the change of the device list, if it is one."""

    counts: dict[str, int]
    change: Change | None


# -- at the door ----------------------------------------------------------------------------------------------------


def read_upload(body: Body, who: Who, profile: Profile) -> Upload:
    """What a device uploads. Raises `Refused`."""
    one_time, fallback = body.one_time_keys or {}, body.fallback_keys or {}
    if len(fallback) > profile.fallback:
        raise Refused(400, "M_INVALID_PARAM", "There are more fallback keys than one, or than this profile has.")
    return Upload(
        _device_keys(body.device_keys, who, profile) if body.device_keys else b"",
        tuple(_key(name, each, who, profile) for name, each in one_time.items()),
        tuple(_key(name, each, who, profile) for name, each in fallback.items()),
    )


def _device_keys(given: msgspec.Raw, who: Who, profile: Profile) -> bytes:
    try:
        value = canonical.parse(bytes(given))
    except Malformed as error:
        raise Refused(400, "M_NOT_JSON", error.detail) from None
    if not isinstance(value, dict):
        raise Refused(400, "M_BAD_JSON", "device_keys is not an object.")
    value.pop("unsigned", None)
    json = canonical.encode(value)
    if len(json) > MAX_DEVICE_KEYS_BYTES:
        raise Refused(400, "M_TOO_LARGE", f"Device keys have at most {MAX_DEVICE_KEYS_BYTES} bytes.")
    try:
        found = directory.read_device_keys(value, who.user, who.device, profile)
    except BadSignature as error:
        raise Refused(400, "M_INVALID_SIGNATURE", f"The device keys are not sound: {error.detail}.") from None
    except (Malformed, BadKey) as error:
        raise Refused(400, "M_BAD_JSON", f"The device keys are not sound: {error.detail}.") from None
    if not found.ed25519:
        raise Refused(400, "M_BAD_JSON", "The device keys hold no key.")
    return json


def _key(name: str, given: msgspec.Raw, who: Who, profile: Profile) -> Key:
    if len(given) > MAX_KEY_BYTES:
        raise Refused(400, "M_TOO_LARGE", f"A key has at most {MAX_KEY_BYTES} bytes.")
    try:
        algorithm, key_id = matrix.split_key_id(name)
        if algorithm != profile.one_time or not matrix.is_key_id(key_id):
            raise Malformed(f"keys here are named {profile.one_time}:ID")
        text, json = _signed(given, who) if profile.signed else _bare(given)
        public = directory.check_curve(base64.decode_unpadded(text, size=directory.KEY))
    except (Malformed, BadKey) as error:
        raise Refused(400, "M_INVALID_PARAM", f"A one-time or fallback key is not sound: {error.detail}.") from None
    return Key(key_id, public, json)


def _bare(given: msgspec.Raw) -> tuple[object, bytes]:
    """A key by itself, and its JSON."""
    value = canonical.parse(bytes(given))
    return value, msgspec.json.encode(value)


def _signed(given: msgspec.Raw, who: Who) -> tuple[object, bytes]:
    """A key in an object with a signature of the device, and the object's JSON: what claimers get must have one
    reading, and be fit to stand beside other users' keys."""
    try:
        usual = _signed_key.decode(given)
        text: object = usual.key
        signature: object = usual.signatures.get(who.user, {}).get(f"{ED25519}:{who.device}")
        json = _encode(usual)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # or it has more members than those
        value = canonical.parse(bytes(given))
        if not isinstance(value, dict) or not isinstance(value.get("fallback", False), bool):
            raise Malformed("a key is not an object") from None
        signatures = value.get("signatures")
        by_user = signatures.get(who.user) if isinstance(signatures, dict) else None
        signature = by_user.get(f"{ED25519}:{who.device}") if isinstance(by_user, dict) else None
        text, json = value.get("key"), _encode(value)
    base64.decode_unpadded(signature, size=sign.SIGNATURE)
    return text, json


_signed_key = msgspec.json.Decoder(_SignedKey)
_encode = msgspec.json.Encoder().encode


# -- upload ---------------------------------------------------------------------------------------------------------


def upload(conn: Connection, who: Who, body: Upload, profile: Profile, now: int) -> Uploaded:
    """Take an upload in, all or nothing; what is there already changes nothing. Raises `Refused`."""
    accounts.require_device(conn, who)
    change = None
    if body.device_keys:
        change = _take_device_keys(conn, who, body.device_keys, profile, now)
    if body.one_time:
        _take_one_time_keys(conn, who, body.one_time, profile)
    for each in body.fallback:
        _take_fallback_key(conn, who, each, profile)
    return Uploaded(counts(conn, who, profile), change)


def _take_device_keys(conn: Connection, who: Who, json: bytes, profile: Profile, now: int) -> Change | None:
    other = conn.execute(
        "SELECT profile FROM device_keys WHERE user_id = ? AND profile <> ? LIMIT 1", (who.user, profile.name)
    ).fetchone()
    if other:  # two maps of one user would be two answers to one question
        raise Refused(403, "M_FORBIDDEN", f"This account publishes its keys in the profile {other[0]}.")
    before = conn.execute(
        "SELECT json FROM device_keys WHERE user_id = ? AND device_id = ? AND profile = ?", (*who, profile.name)
    ).fetchone()
    if before and before[0] == json:
        return None
    if before and msgspec.json.decode(before[0])["keys"] != msgspec.json.decode(json)["keys"]:
        _forget(conn, who)
    conn.execute(
        "INSERT INTO device_keys (user_id, device_id, profile, json) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (user_id, device_id, profile) DO UPDATE SET json = excluded.json",
        (*who, profile.name, json),
    )
    return lists.changed(conn, who.user, [who.device], now)


def _forget(conn: Connection, who: Who) -> None:
    """Another identity: what the old one published belongs to nobody, and ids begin again."""
    for table in ("one_time_keys", "issued_keys", "fallback_keys"):
        conn.execute(f"DELETE FROM {table} WHERE user_id = ? AND device_id = ?", who)


def _take_one_time_keys(conn: Connection, who: Who, keys: tuple[Key, ...], profile: Profile) -> None:
    waiting = _waiting(conn, who, profile)
    known = waiting | _issued(conn, who, keys, profile)
    new = []
    for key in keys:
        if key.id not in known:
            new.append(key)
        elif known[key.id] != key.public:
            raise Refused(400, "M_INVALID_PARAM", f"There is, or was, another one-time key {key.id}.")
    if not new:
        return
    if len(waiting) + len(new) > MAX_ONE_TIME_KEYS:
        raise Refused(400, "M_TOO_LARGE", f"A device has at most {MAX_ONE_TIME_KEYS} one-time keys.")
    (after,) = conn.execute(
        "UPDATE devices SET next_key = next_key + ? WHERE user_id = ? AND device_id = ? RETURNING next_key",
        (len(new), *who),
    ).fetchone()
    first = after - len(new)
    conn.executemany(
        "INSERT INTO one_time_keys (user_id, device_id, algorithm, position, key_id, public, json)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(*who, profile.one_time, first + place, *key) for place, key in enumerate(new)],
    )


def _waiting(conn: Connection, who: Who, profile: Profile) -> dict[str, bytes]:
    """The public bytes of all one-time keys that wait, by id. They are few: an index of their ids would cost every
    upload and every claim more."""
    found = "SELECT key_id, public FROM one_time_keys WHERE user_id = ? AND device_id = ? AND algorithm = ?"
    return dict(conn.execute(found, (*who, profile.one_time)).fetchall())


def _issued(conn: Connection, who: Who, keys: tuple[Key, ...], profile: Profile) -> dict[str, bytes]:
    """The public bytes of those ids of `keys` that were given out."""
    found = (
        "SELECT key_id, public FROM issued_keys WHERE user_id = ? AND device_id = ? AND algorithm = ?"
        f" AND key_id IN ({', '.join('?' * len(keys))})"
    )
    return dict(conn.execute(found, (*who, profile.one_time, *(key.id for key in keys))).fetchall())


def _take_fallback_key(conn: Connection, who: Who, key: Key, profile: Profile) -> None:
    """In place of the one before; the same one again does not become unused."""
    conn.execute(
        """
        INSERT INTO fallback_keys (user_id, device_id, algorithm, key_id, public, json) VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT (user_id, device_id, algorithm) DO UPDATE
        SET key_id = excluded.key_id, public = excluded.public, json = excluded.json, used = 0
        WHERE fallback_keys.key_id <> excluded.key_id OR fallback_keys.public <> excluded.public
        """,
        (*who, profile.one_time, *key),
    )


def counts(conn: Connection, who: Who, profile: Profile) -> dict[str, int]:
    """{algorithm: how many one-time keys wait to be claimed}, always with the profile's algorithm."""
    (count,) = conn.execute(
        "SELECT COUNT(*) FROM one_time_keys WHERE user_id = ? AND device_id = ? AND algorithm = ?",
        (*who, profile.one_time),
    ).fetchone()
    return {profile.one_time: count}


def unused_fallback_keys(conn: Connection, who: Who) -> list[str]:
    """The algorithms whose fallback key was never claimed."""
    rows = conn.execute(
        "SELECT algorithm FROM fallback_keys WHERE user_id = ? AND device_id = ? AND used = 0", who
    ).fetchall()
    return [algorithm for (algorithm,) in rows]


def profile_of(conn: Connection, who: Who) -> Profile:
    """The profile that a device has published keys in; v1 before it has."""
    row = conn.execute("SELECT profile FROM device_keys WHERE user_id = ? AND device_id = ?", who).fetchone()
    return directory.PROFILES[row[0]] if row else directory.V1


# -- claim ----------------------------------------------------------------------------------------------------------

_TAKE = """
    DELETE FROM one_time_keys WHERE user_id = ? AND device_id = ? AND algorithm = ? AND position = (
        SELECT MIN(position) FROM one_time_keys WHERE user_id = ? AND device_id = ? AND algorithm = ?
    ) RETURNING key_id, public, json
"""
_ISSUE = "INSERT INTO issued_keys (user_id, device_id, algorithm, key_id, public) VALUES (?, ?, ?, ?, ?)"
_FALL_BACK = """
    UPDATE fallback_keys SET used = 1 WHERE user_id = ? AND device_id = ? AND algorithm = ? RETURNING key_id, json
"""
_ALGORITHMS = frozenset((SIGNED_CURVE25519, CURVE25519))


def claim(
    conn: Connection, wanted: Mapping[str, Mapping[str, str]], algorithms: Container[str] = _ALGORITHMS
) -> Claimed:
    """One key for each device of `wanted` ({user: {device: algorithm}}), the one that was uploaded first; the fallback
    key only where none is left. A device that has neither is not in the answer.

    What is given out is gone with the commit, whether or not the answer arrives.
    """
    found: Claimed = {}
    for user, devices in wanted.items():
        for device, algorithm in devices.items():
            if algorithm in algorithms:
                key = _take(conn, user, device, algorithm)
                if key:
                    found.setdefault(user, {})[device] = key
    return found


def _take(conn: Connection, user: str, device: str, algorithm: str) -> dict[str, msgspec.Raw] | None:
    place = (user, device, algorithm)
    # fetchall: SQLite has changed nothing for certain before the last row is read.
    for key_id, public, json in conn.execute(_TAKE, place + place).fetchall():
        conn.execute(_ISSUE, (*place, key_id, public))
        return {f"{algorithm}:{key_id}": msgspec.Raw(json)}
    for key_id, json in conn.execute(_FALL_BACK, place).fetchall():
        return {f"{algorithm}:{key_id}": msgspec.Raw(json)}
    return None
