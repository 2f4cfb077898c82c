"""What is inside a sealed event, written, read and checked (Matrix specification 1.19, "m.olm.v1.curve25519-aes-sha2").

{"type", "content", "sender", "recipient", "recipient_keys": {"ed25519"}, "keys": {"ed25519"},
 "sender_device_keys": our device keys, until the other end has answered,
 "room_id", "fingerprint": of the draft, to which conversation and to which devices it belongs,
 "org.tillie.to": [user ids], if it is not for the recipient alone: a copy for our other devices, say}
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec

from tillie.directory import matrix
from tillie.directory.matrix import DeviceKeys, Profile
from tillie.errors import InvalidAddress, Malformed, Refused, TooLarge, UsageError
from tillie.model import Address, Content, Envelope
from tillie.schemes.olm.content import EVENT
from tillie.schemes.olm.records import Own
from tillie.wire import base64, canonical
from tillie.wire import matrix as names

MAX_EVENT = 45_000  # bytes of type and content: sealed and in Base64, below the 65,536 that servers take
MAX_TYPE = 255  # bytes; "The type of event ... 255 bytes"
MAX_RECIPIENTS = 16  # whoever writes to us makes us look up the devices of each
DUMMY = "m.dummy"
_CACHED = 256
_CACHED_DEVICES = 32  # of up to 64 kB each


class Payload(msgspec.Struct, frozen=True):
    """One opened event, as it is inside."""

    type: str
    content: dict[str, Any]
    sender: str | None = None
    recipient: str | None = None
    recipient_keys: dict[str, str] | None = None
    keys: dict[str, str] | None = None
    room_id: str | None = None
    fingerprint: str | None = None
    sender_device_keys: msgspec.Raw = msgspec.Raw()
    to: list[str] | None = msgspec.field(name="org.tillie.to", default=None)
    state_key: msgspec.Raw = msgspec.Raw()

    def __repr__(self) -> str:
        return f"Payload(type={self.type!r})"


class Plain(msgspec.Struct, frozen=True, array_like=True):
    """What `Olm.open` hands to `Olm.unwrap`: an event that was checked, for whom it was, and what to tell."""

    event: bytes
    is_state: bool
    to: str
    notes: tuple[str, ...] = ()


class _Event(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    content: dict[str, Any]


_payload = msgspec.json.Decoder(Payload)
_event = msgspec.json.Decoder(_Event)
_encode_event = msgspec.json.Encoder().encode
_plain = msgspec.msgpack.Decoder(Plain)
_encode_plain = msgspec.msgpack.Encoder().encode


# -- out ------------------------------------------------------------------------------------------------------------


def wrap(content: Content) -> bytes:
    """An event, {"type", "content"}, as canonical JSON. Raises `UsageError`, `TooLarge`."""
    if len(content.data) > MAX_EVENT:
        raise TooLarge(f"The event has {len(content.data)} bytes; {MAX_EVENT} is the most.")
    try:
        event = _event.decode(content.data)
        data = canonical.encode({"type": event.type, "content": event.content})
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise UsageError("It is not an event: an object of type and content, no state.") from None
    except Malformed as error:
        raise UsageError(error.detail) from None
    if not event.type or len(event.type.encode()) > MAX_TYPE:
        raise UsageError(f"An event's type has 1 to {MAX_TYPE} bytes.")
    if event.type == EVENT:
        raise UsageError("It is sealed already, and would be sealed twice.")
    if matrix.is_state_event(event.type, {}):
        raise UsageError(f"{event.type} says what a room is; such events are never sealed.")
    if len(data) > MAX_EVENT:
        raise TooLarge(f"The event has {len(data)} bytes; {MAX_EVENT} is the most.")
    return data


def check_recipients(recipients: Iterable[Address]) -> tuple[Address, ...]:
    """Whom an event is written to, each once. Raises `UsageError` for more than others read."""
    each = tuple(dict.fromkeys(recipients))
    if len(each) > MAX_RECIPIENTS:
        raise UsageError(f"It is for {len(each)} people; {MAX_RECIPIENTS} is the most.")
    return each


@lru_cache(_CACHED)
def common(own: Own, sender: Address, recipients: tuple[Address, ...], fingerprint: str) -> bytes:
    """The members that are the same for every device that a message is for, without braces."""
    return msgspec.json.encode(
        {
            "sender": str(sender),
            "keys": {"ed25519": base64.encode_unpadded(own.ed25519)},
            "room_id": room_of((sender, *recipients)),
            "fingerprint": fingerprint,
        }
    )[1:-1]


def write(
    event: bytes, members: bytes, recipients: tuple[Address, ...], to: Address, key: bytes, device_keys: bytes
) -> bytes:
    """The whole payload for one device of `to`, whose Ed25519 key is `key`. `device_keys` are ours, or nothing."""
    parts = [event[:-1], b",", members, b',"recipient":', msgspec.json.encode(str(to))]
    parts.append(b',"recipient_keys":{"ed25519":"%b"}' % base64.encode_unpadded(key).encode())
    if recipients != (to,):
        parts.append(b',"org.tillie.to":' + msgspec.json.encode([str(each) for each in recipients]))
    if device_keys:
        parts.append(b',"sender_device_keys":' + device_keys)
    return b"".join((*parts, b"}"))


@lru_cache(_CACHED)
def room_of(users: tuple[Address, ...]) -> str:
    """The `room_id` of what these users say to each other."""
    return matrix.room_id(users)


# -- in -------------------------------------------------------------------------------------------------------------


def read(plaintext: bytes) -> Payload:
    """What was sealed. Raises `Malformed`."""
    try:
        plaintext.decode()  # msgspec does not look at what it does not need
        return _payload.decode(plaintext)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Malformed("what was sealed is not an event") from None


def recipients_of(payload: Payload, account: Address) -> tuple[Address, ...]:
    """Whom the sender wrote to, each once. Raises `Malformed`."""
    if payload.to is None:
        return (account,)
    if not 1 <= len(payload.to) <= MAX_RECIPIENTS:
        raise Malformed("an event is for nobody, or for too many")
    try:
        return tuple(dict.fromkeys(names.parse_user_id(each) for each in payload.to))
    except InvalidAddress:
        raise Malformed("an event is for somebody without a valid name") from None


def check(payload: Payload, sender: Address, own: Own, account: Address, *, strict: bool) -> None:
    """That the event is from whom it came, and for us (the specification's checks 1, 3 and 4). A member that is missing
    fails them, unless `strict` is False: the draft has none of these. Raises `Refused`, `Malformed`."""
    if strict and None in (payload.sender, payload.recipient, payload.recipient_keys, payload.keys):
        raise Refused("it does not say who sealed it for whom")
    if payload.sender not in (None, sender):
        raise Refused("it was sealed by somebody else")
    if payload.recipient not in (None, account):
        raise Refused("it was sealed for somebody else")
    if payload.recipient_keys is not None and _ed25519(payload.recipient_keys.get("ed25519")) != own.ed25519:
        raise Refused("it was sealed for another device")


def sender_key(payload: Payload) -> bytes | None:
    """The Ed25519 key that the sender says is its own. Raises `Malformed`."""
    if payload.keys is None:
        return None
    return _ed25519(payload.keys.get("ed25519"))


@lru_cache(_CACHED)
def _ed25519(text: str | None) -> bytes:
    return base64.decode_unpadded(text, size=matrix.KEY)


@lru_cache(_CACHED_DEVICES)
def device_keys(data: bytes, sender: Address, profile: Profile) -> DeviceKeys:
    """`sender_device_keys`: of a device of the sender, signed by itself (check 5). Raises a PeerError."""
    value = canonical.parse_object(data, max_bytes=matrix.MAX_DEVICE_BYTES)
    device = value.get("device_id")
    if not isinstance(device, str):
        raise Malformed("the sender's device keys have no device id")
    return matrix.read_device_keys(value, sender, device, profile)


def encode_plain(payload: Payload, to: Address, notes: tuple[str, ...]) -> bytes:
    state = bool(payload.state_key) or matrix.is_state_event(payload.type, {})
    event = _encode_event({"type": payload.type, "content": payload.content})
    return _encode_plain(Plain(event, state, str(to), notes))


def unwrap(plaintext: bytes, sender: Address) -> tuple[Envelope, tuple[str, ...]]:
    """The envelope of an event that `Olm.open` opened. Raises `Refused`."""
    plain = _plain.decode(plaintext)
    if plain.is_state:
        raise Refused("it is a state event; such events are never sealed")
    return Envelope(Content(plain.event), sender, Address(plain.to)), plain.notes
