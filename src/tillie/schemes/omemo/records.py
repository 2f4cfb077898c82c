"""What OMEMO keeps in the store: the keys of its records, and their bytes. Every record starts with its version.

own         ""                       our device: id, identity seed, next key ids
signed      <id>                     a signed prekey of ours, current or retired
prekey      <id>                     a one-time prekey of ours that nobody has used
used        <id>                     ... that was used while catching up, kept until catch-up ends
devices     <address>                the device list of an account, with identity keys and checked labels
bundle      <address>/<id>           a bundle that waits for the next message, or why there is none
session     <address>/<id>           the session that sends
old         <address>/<id>/<ek>      sessions that were replaced, for receiving
skipped     <address>/<id>/<ek>/..   keys of messages that have not come
seen        <address>/<id>/<hash>    messages that were opened
broken      <address>                devices whose session failed to open something, and when
repair      <address>/<id>           a new session is to be made and announced by an empty message
repaired    <address>/<id>           when that was last done
refresh     <address>                the device list is to be fetched: an unlisted device wrote
opt-out     <address>                the contact asked for clear text
fight       ""                       when we re-announced ourselves, newest last
catch-up    ""                       present while catching up
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from tillie.errors import StoreTooNew
from tillie.model import Address, Key
from tillie.schemes.omemo.ratchet import OurChain, Ratchet, TheirChain

VERSION = 1
SCHEME = "omemo"
_CACHED_LISTS = 1024


def key(kind: str, name: str = "") -> Key:
    return Key(SCHEME, kind, name)


def of_device(kind: str, address: Address, device_id: int) -> Key:
    return Key(SCHEME, kind, f"{address}/{device_id}")


def of_number(kind: str, number: int) -> Key:
    """Zero-padded, so that names sort as numbers do."""
    return Key(SCHEME, kind, f"{number:010d}")


def of_session(kind: str, address: Address, device_id: int, ephemeral: bytes, rest: str = "") -> Key:
    return Key(SCHEME, kind, f"{address}/{device_id}/{ephemeral[:16].hex()}{rest}")


def _check_version(data: bytes, what: str) -> None:
    if data[0] != VERSION:
        raise StoreTooNew(f"the {what} record has version {data[0]}; this version of Tillie reads {VERSION}.")


# -- our own device -------------------------------------------------------------------------------------------------

_OWN = struct.Struct(">BI32s32s32sIId")


class Own(NamedTuple):
    """Our device. `curve_private` is the identity key for X25519, derived from `seed` once."""

    device_id: int
    seed: bytes
    identity: bytes
    curve_private: bytes
    next_prekey: int
    signed_prekey: int  # the id of the current one
    created: float

    def __repr__(self) -> str:
        return f"Own(device_id={self.device_id})"


def encode_own(own: Own) -> bytes:
    return _OWN.pack(VERSION, *own)


@lru_cache(64)
def decode_own(data: bytes) -> Own:
    _check_version(data, "device")
    return Own._make(_OWN.unpack(data)[1:])


_SIGNED = struct.Struct(">B32s32s64sdd")


class SignedPrekey(NamedTuple):
    private: bytes
    public: bytes
    signature: bytes
    created: float
    retired: float  # 0 while current

    def __repr__(self) -> str:
        return f"SignedPrekey(created={self.created})"


def encode_signed(signed: SignedPrekey) -> bytes:
    return _SIGNED.pack(VERSION, *signed)


def decode_signed(data: bytes) -> SignedPrekey:
    _check_version(data, "signed prekey")
    return SignedPrekey._make(_SIGNED.unpack(data)[1:])


def encode_seed(seed: bytes) -> bytes:
    return bytes((VERSION,)) + seed


def decode_seed(data: bytes) -> bytes:
    _check_version(data, "restored identity")
    return data[1:]


def encode_pair(private: bytes, public: bytes) -> bytes:
    return bytes((VERSION,)) + private + public


def decode_pair(data: bytes) -> tuple[bytes, bytes]:
    _check_version(data, "prekey")
    return data[1:33], data[33:65]


# -- devices of accounts --------------------------------------------------------------------------------------------

_LIST_HEAD = struct.Struct(">BdBH")
_LIST_ITEM = struct.Struct(">IB32sHB")


class KnownDevice(NamedTuple):
    """A device that its account lists or listed. `identity` is empty until a bundle or message showed it.

    `label` and `labelsig` are as published; `signed` says that the identity key was seen to have signed the label.
    """

    id: int
    listed: bool
    identity: bytes = b""
    label: str = ""
    labelsig: bytes = b""
    signed: bool = False


class DeviceList(NamedTuple):
    """All we know of one account's devices, `at` the time of the newest list; `found` is False where it has none."""

    at: float
    found: bool
    devices: tuple[KnownDevice, ...]

    def by_id(self, device_id: int) -> KnownDevice | None:
        for device in self.devices:
            if device.id == device_id:
                return device
        return None

    def with_device(self, changed: KnownDevice) -> DeviceList:
        """The same list with this device in it, in the place of one with its id."""
        if self.by_id(changed.id) is None:
            return self._replace(devices=(*self.devices, changed))
        return self._replace(devices=tuple(changed if d.id == changed.id else d for d in self.devices))


def encode_devices(known: DeviceList) -> bytes:
    parts = [_LIST_HEAD.pack(VERSION, known.at, known.found, len(known.devices))]
    for device in known.devices:
        label = device.label.encode()
        flags = device.listed | bool(device.identity) << 1 | device.signed << 2
        parts.append(_LIST_ITEM.pack(device.id, flags, device.identity, len(label), len(device.labelsig)))
        parts += label, device.labelsig
    return b"".join(parts)


@lru_cache(_CACHED_LISTS)
def decode_devices(data: bytes) -> DeviceList:
    _check_version(data, "device list")
    _, at, found, count = _LIST_HEAD.unpack_from(data)
    offset = _LIST_HEAD.size
    devices = []
    for _ in range(count):
        device_id, flags, identity, label, signature = _LIST_ITEM.unpack_from(data, offset)
        start = offset + _LIST_ITEM.size
        offset = start + label + signature
        devices.append(
            KnownDevice(
                device_id,
                bool(flags & 1),
                identity if flags & 2 else b"",
                data[start : start + label].decode(),
                data[start + label : offset],
                bool(flags & 4),
            )
        )
    return DeviceList(at, bool(found), tuple(devices))


# -- sessions -------------------------------------------------------------------------------------------------------

_SESSION = struct.Struct(">BB32s32sII32s32s32s32sI32s32sIIIIId")
_NONE = bytes(32)
_INITIATED, _CONFIRMED, _OURS, _THEIRS, _CROSSED = 1, 2, 4, 8, 16


class Session(NamedTuple):
    """One session with one device.

    `ephemeral` is the X3DH ephemeral key: "same ek" is the same session. While a session that we initiated is not
    `confirmed`, every message repeats the key exchange with `prekey_id` and `signed_prekey_id`.
    `skipped` counts stored skipped keys, `next_skipped` numbers them, `turns` counts the peer's ratchet keys.
    `created` is when it began, or was last chosen, to send; `crossed` that it and another were begun at once.
    """

    identity: bytes
    ephemeral: bytes
    initiated: bool
    confirmed: bool
    prekey_id: int
    signed_prekey_id: int
    ratchet: Ratchet
    created: float
    skipped: int = 0
    next_skipped: int = 0
    turns: int = 0
    crossed: bool = False

    def __repr__(self) -> str:
        return f"Session(ephemeral={self.ephemeral[:4].hex()}, initiated={self.initiated}, confirmed={self.confirmed})"


def encode_session(session: Session) -> bytes:
    ratchet = session.ratchet
    ours, theirs = ratchet.ours, ratchet.theirs
    flags = session.initiated * _INITIATED | session.confirmed * _CONFIRMED | session.crossed * _CROSSED
    flags |= (bool(ours.key) and _OURS) | (bool(theirs.key) and _THEIRS)
    return _SESSION.pack(
        VERSION, flags, session.identity, session.ephemeral, session.prekey_id, session.signed_prekey_id,
        ratchet.root, ours.private, ours.public, ours.key, ours.n, theirs.public, theirs.key, theirs.n,
        ratchet.previous, session.skipped, session.next_skipped, session.turns, session.created,
    )  # fmt: skip


def identity_in(data: bytes) -> bytes:
    """The identity key of an encoded session, without reading the rest: a send to a hundred devices asks for each."""
    _check_version(data, "session")
    return data[2:34]


def decode_session(data: bytes) -> Session:
    _check_version(data, "session")
    (
        _, flags, identity, ephemeral, prekey_id, signed_prekey_id,
        root, private, public, our_key, our_n, their_public, their_key, their_n,
        previous, skipped, next_skipped, turns, created,
    ) = _SESSION.unpack(data)  # fmt: skip
    ours = OurChain(private, public, our_key if flags & _OURS else b"", our_n)
    theirs = TheirChain(their_public if their_public != _NONE else b"", their_key if flags & _THEIRS else b"", their_n)
    return Session(
        identity, ephemeral, bool(flags & _INITIATED), bool(flags & _CONFIRMED), prekey_id, signed_prekey_id,
        Ratchet(root, ours, theirs, previous), created, skipped, next_skipped, turns, bool(flags & _CROSSED),
    )  # fmt: skip


_SKIPPED = struct.Struct(">B32sII")


def encode_skipped(message_key: bytes, number: int, turn: int) -> bytes:
    return _SKIPPED.pack(VERSION, message_key, number, turn)


def decode_skipped(data: bytes) -> tuple[bytes, int, int]:
    """(message key, its number in the session, the turn it belongs to)."""
    _check_version(data, "skipped key")
    _, message_key, number, turn = _SKIPPED.unpack(data)
    return message_key, number, turn


# -- bundles --------------------------------------------------------------------------------------------------------

_BUNDLE = struct.Struct(">Bd32sI32sI32s")


class Prospect(NamedTuple):
    """A checked bundle, reduced to what one new session needs: one prekey, chosen at random. Or `error`: why not."""

    at: float
    identity: bytes = b""
    signed_prekey_id: int = 0
    signed_prekey: bytes = b""
    prekey_id: int = 0
    prekey: bytes = b""
    error: str = ""


def encode_prospect(prospect: Prospect) -> bytes:
    error = prospect.error.encode()[:255]
    packed = _BUNDLE.pack(
        VERSION, prospect.at, prospect.identity, prospect.signed_prekey_id, prospect.signed_prekey,
        prospect.prekey_id, prospect.prekey,
    )  # fmt: skip
    return packed + error


def decode_prospect(data: bytes) -> Prospect:
    _check_version(data, "bundle")
    _, at, identity, signed_id, signed, prekey_id, prekey = _BUNDLE.unpack_from(data)
    error = data[_BUNDLE.size :].decode(errors="replace")
    return Prospect(at, identity, signed_id, signed, prekey_id, prekey, error)


# -- devices whose session is broken --------------------------------------------------------------------------------

_BROKEN = struct.Struct(">Id")


def encode_broken(broken: dict[int, float]) -> bytes:
    return bytes((VERSION,)) + b"".join(_BROKEN.pack(*item) for item in broken.items())


def decode_broken(data: bytes | None) -> dict[int, float]:
    if data is None:
        return {}
    _check_version(data, "broken session")
    return dict(_BROKEN.iter_unpack(data[1:]))
