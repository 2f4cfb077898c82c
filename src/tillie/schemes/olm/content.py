"""The content of m.room.encrypted with Olm (Matrix specification 1.19, "m.olm.v1.curve25519-aes-sha2"), and as much of
an Olm message as must be known before it is opened (the Olm specification, "Message Format").

    {"algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": "<Curve25519 of the sender>",
     "ciphertext": {"<Curve25519 of a recipient>": {"type": 0 or 1, "body": "<an Olm message>"}}}
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import msgspec

from tillie.directory.matrix import KEY, OLM, check_curve
from tillie.errors import Malformed
from tillie.wire import base64

EVENT = "m.room.encrypted"
MAX_CONTENT = 131_072  # bytes of one event's content that are read; servers take 65,536
MAX_BODY = 98_304  # bytes of an Olm message
PRE_KEY, NORMAL = 0, 1
_VERSION = 3
_CACHED = 1024
_ONE_TIME_KEY = 0x0A  # tag of the first field of a pre-key message


class Message(NamedTuple):
    """What is for us: who says that she sealed it (a Curve25519 key), the kind of Olm message, and its bytes."""

    sender_key: bytes
    type: int
    body: bytes

    def __repr__(self) -> str:
        return f"Message(type={self.type}, {len(self.body)} bytes)"


class _Encrypted(msgspec.Struct):
    algorithm: str
    ciphertext: dict[str, msgspec.Raw]
    sender_key: str


class _Part(msgspec.Struct):
    type: int
    body: str


_encrypted = msgspec.json.Decoder(_Encrypted)
_part = msgspec.json.Decoder(_Part)


def encode(sender_key: bytes, recipient_key: bytes, type: int, body: bytes) -> bytes:
    """The content for one device."""
    sealed = f'{{"{_name(recipient_key)}":{{"body":"{base64.encode_unpadded(body)}","type":{type}}}}}'
    return f'{{"algorithm":"{OLM}","ciphertext":{sealed},"sender_key":"{_name(sender_key)}"}}'.encode()


def decode(data: bytes, own_key: bytes) -> Message | None:
    """What a content has for the device with this Curve25519 key; None if it has nothing. Other devices' entries are
    not looked at. Raises `Malformed`, `BadKey`.

    A ciphertext that is a string is Megolm's, which must never be taken for Olm: its sender is not proved.
    """
    if len(data) > MAX_CONTENT:
        raise Malformed(f"the content has {len(data)} bytes; {MAX_CONTENT} is the most")
    try:
        encrypted = _encrypted.decode(data)
        if encrypted.algorithm != OLM:
            raise Malformed("the algorithm is not Olm")
        name = _name(own_key)
        raw = encrypted.ciphertext.get(name) or encrypted.ciphertext.get(f"{name}=")
        part = _part.decode(raw) if raw is not None else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Malformed("the content is not that of an Olm event") from None
    sender_key = _curve(encrypted.sender_key)
    if part is None:
        return None
    if part.type not in (PRE_KEY, NORMAL):
        raise Malformed("the type of an Olm message is neither 0 nor 1")
    return Message(sender_key, part.type, base64.decode_unpadded_most(part.body, max_bytes=MAX_BODY))


@lru_cache(_CACHED)
def _curve(text: str) -> bytes:
    """A sound Curve25519 key; most senders come again."""
    return check_curve(base64.decode_unpadded(text, size=KEY))


@lru_cache(_CACHED)
def _name(key: bytes) -> str:
    """Under which name a ciphertext is for the device with this key."""
    return base64.encode_unpadded(key)


def one_time_key_of(body: bytes) -> bytes:
    """The public half of our key that a pre-key message begins with (32 bytes). All clients write it first; one that
    does not names no key of ours. Raises `Malformed`."""
    if len(body) < 3 + KEY or body[0] != _VERSION or body[1:3] != bytes((_ONE_TIME_KEY, KEY)):
        raise Malformed("a pre-key message does not begin with a key")
    return body[3 : 3 + KEY]
