"""What Olm keeps in the store: the keys of its records, and their bytes. Every record starts with its version.

own         ""                       our device: its id, profile and keys, the next key id
fresh       <public key>             a one-time key of ours that the home may not have yet
one-time    <public key>             ... that it has, and that nobody has used as far as we know
fallback    <public key>             a fallback key of ours, current or retired
begun       <session>                a session that began with a fallback key, as long as we have that key
uploading   ""                       what the upload under way holds
announcing  ""                       since when the home is to get our device keys, until it has them
top-ups     ""                       when one-time keys were made, newest last
fight       ""                       when our device was published again because the home had lost it, newest last
catch-up    ""                       present while catching up
devices     <user>                   a user's devices, checked, and earlier ones
stale       <user>                   when the home said that this list changed
claim       <user>/<curve>           a claimed key that waits for the next message, or why there is none
session     <user>/<curve>           the session that sends
old         <user>/<curve>/<session> other sessions with that device, for receiving
seen        <user>/<curve>/<end>     messages that were opened, by their last 16 bytes
repair      <user>/<curve>           a new session is to be made and announced by m.dummy
repaired    <user>/<curve>           when that was last tried

<curve> is a device's Curve25519 key: it names a device better than its id, which its home can give to another one.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple, TypeVar

import msgspec

from tillie.errors import StoreTooNew
from tillie.model import Address, Key, State

VERSION = 1
SCHEME = "olm"
_HEAD = bytes((VERSION,))
CACHED_LISTS = 32  # device lists that are kept decoded; a home can make each a megabyte
T = TypeVar("T")


def key(kind: str, name: str = "") -> Key:
    return Key(SCHEME, kind, name)


def of_device(kind: str, user: Address, curve25519: bytes, rest: str = "") -> Key:
    return Key(SCHEME, kind, f"{user}/{curve25519.hex()}{rest}")


def device_in(name: Key) -> tuple[Address, bytes]:
    """(user, Curve25519 key) of the name of such a record. A user id may hold slashes, what follows it none."""
    user, _, curve = name.name.rpartition("/")
    return Address(user), bytes.fromhex(curve)


def _check_version(data: bytes, what: str) -> None:
    if data[0] != VERSION:
        raise StoreTooNew(f"the {what} record has version {data[0]}; this version of Tillie reads {VERSION}.")


_pack = msgspec.msgpack.Encoder().encode


def _encode(value: msgspec.Struct) -> bytes:
    return _HEAD + _pack(value)


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes, what: str) -> T:
    _check_version(data, what)
    return decoder.decode(memoryview(data)[1:])


# -- our own device -------------------------------------------------------------------------------------------------


class Own(msgspec.Struct, frozen=True, array_like=True):
    """Our device. `seed` is empty until it has keys. `pickle_key` locks what vodozemac writes. `valid` is from when
    until when the keys are published as valid, in a profile that says so."""

    device: str
    profile: str
    seed: bytes = b""
    ed25519: bytes = b""
    curve_private: bytes = b""
    curve25519: bytes = b""
    pickle_key: bytes = b""
    next_key: int = 0
    valid: tuple[float, float] = (0.0, 0.0)

    def __repr__(self) -> str:
        return f"Own(device={self.device!r}, profile={self.profile!r})"


_own = msgspec.msgpack.Decoder(Own)


def encode_own(own: Own) -> bytes:
    return _encode(own)


@lru_cache(64)
def decode_own(data: bytes) -> Own:
    return _decode(_own, data, "device")


class Half(msgspec.Struct, frozen=True, array_like=True):
    """A one-time or fallback key of ours, both halves. `retired` is 0 while it may be handed out; `used` that somebody
    began a session with it, or that the home gave it out. `uploaded` is of fallback keys."""

    number: int
    private: bytes
    public: bytes
    created: float
    fallback: bool = False
    retired: float = 0.0
    used: bool = False
    uploaded: bool = False

    def __repr__(self) -> str:
        return f"Half(number={self.number}, fallback={self.fallback})"


_half = msgspec.msgpack.Decoder(Half)


def encode_half(half: Half) -> bytes:
    return _encode(half)


def decode_half(data: bytes) -> Half:
    return _decode(_half, data, "one-time key")


class Upload(msgspec.Struct, frozen=True, array_like=True):
    """The upload under way: the first key id that it leaves out, and since when the device keys in it, if any, were to
    be published."""

    below: int
    announced: float


_upload = msgspec.msgpack.Decoder(Upload)


def encode_upload(upload: Upload) -> bytes:
    return _encode(upload)


def decode_upload(data: bytes) -> Upload:
    return _decode(_upload, data, "upload")


# -- devices of users -----------------------------------------------------------------------------------------------


class KnownDevice(msgspec.Struct, frozen=True, array_like=True):
    """A device that its user lists and whose keys signed themselves. `able`: it speaks Olm; `binds`: it wants room_id
    and fingerprint in what is sealed for it. `valid` is all zero where the profile has no dates."""

    id: str
    curve25519: bytes
    ed25519: bytes
    able: bool
    binds: bool
    valid: tuple[float, float] = (0.0, 0.0)


class Past(msgspec.Struct, frozen=True, array_like=True):
    """Who took part before a list changed, `until` then: the Curve25519 keys of its able devices."""

    until: float
    keys: tuple[bytes, ...]


class DeviceList(msgspec.Struct, frozen=True, array_like=True, eq=False):
    """All we know of one user's devices, `at` the time of the newest answer. `tried` is when one was last asked for,
    and `error` why none came. `bad` are devices that can't be used, and why; `past` who took part before; `gone`
    devices that were on it once, newest last; `since` when those that take part were first seen together.

    Two are equal only if they are one object: `decode_devices` gives one for equal bytes.
    """

    at: float
    tried: float = 0.0
    error: str = ""
    devices: tuple[KnownDevice, ...] = ()
    bad: tuple[tuple[str, str], ...] = ()
    past: tuple[Past, ...] = ()
    gone: tuple[KnownDevice, ...] = ()
    since: float = 0.0

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The Curve25519 keys of those that take part."""
        return tuple(device.curve25519 for device in self.devices if device.able)

    def by_curve(self, curve25519: bytes) -> KnownDevice | None:
        for device in self.devices:
            if device.curve25519 == curve25519:
                return device
        return None

    def by_id(self, device_id: str) -> KnownDevice | None:
        for device in self.devices:
            if device.id == device_id:
                return device
        return None


_list = msgspec.msgpack.Decoder(DeviceList)


def encode_devices(known: DeviceList) -> bytes:
    return _encode(known)


@lru_cache(CACHED_LISTS)
def decode_devices(data: bytes) -> DeviceList:
    return _decode(_list, data, "device list")


class Claimed(msgspec.Struct, frozen=True, array_like=True):
    """A key that one new session with a device can begin with, or `error`: why there is none. `ed25519` is that of the
    device that the key was claimed for."""

    at: float
    ed25519: bytes
    key: bytes = b""
    error: str = ""


_claimed = msgspec.msgpack.Decoder(Claimed)


def encode_claimed(claimed: Claimed) -> bytes:
    return _encode(claimed)


def decode_claimed(data: bytes) -> Claimed:
    return _decode(_claimed, data, "claimed key")


# -- sessions -------------------------------------------------------------------------------------------------------

_SESSION = struct.Struct(">BB32s32sd")
_CONFIRMED, _SILENT = 1, 2
_KEY_AT, _ID_AT = slice(2, 34), slice(34, 66)


class Session(NamedTuple):
    """One session with one device, whose Ed25519 key it was made with (`key`). `id` is vodozemac's, 32 bytes.

    `at` is when it last opened something, or began. `confirmed`: the other end is known to have it. A `silent` one
    never sends: the store was older than it should be. `pickle` is vodozemac's.
    """

    key: bytes
    id: bytes
    at: float
    confirmed: bool
    silent: bool
    pickle: str

    def __repr__(self) -> str:
        return f"Session(id={self.id[:4].hex()}, confirmed={self.confirmed}, silent={self.silent})"


def encode_session(session: Session) -> bytes:
    flags = session.confirmed * _CONFIRMED | session.silent * _SILENT
    return _SESSION.pack(VERSION, flags, session.key, session.id, session.at) + session.pickle.encode("ascii")


def decode_session(data: bytes) -> Session:
    _check_version(data, "session")
    _, flags, ed25519, session_id, at = _SESSION.unpack_from(data)
    pickle = data[_SESSION.size :].decode("ascii")
    return Session(ed25519, session_id, at, bool(flags & _CONFIRMED), bool(flags & _SILENT), pickle)


def ed25519_in(data: bytes) -> bytes:
    """The Ed25519 key of an encoded session, without reading the rest: a send to a hundred devices asks for each."""
    _check_version(data, "session")
    return data[_KEY_AT]


def id_in(data: bytes) -> bytes:
    """The id of an encoded session."""
    _check_version(data, "session")
    return data[_ID_AT]


def delete_all(s: State, *kinds: str) -> None:
    """Every record of these kinds."""
    for kind in kinds:
        for name, _ in list(s.scan(key(kind))):
            s.put(name, None)
