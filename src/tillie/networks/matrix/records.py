"""What is kept of a homeserver, in the store.

    ("matrix", "login", "")      -> version, then JSON: our device's id, and the access token of its last login
    ("matrix", "position", "")   -> version, then how far /sync was read: every message before that is in the store

The device's id is chosen and kept before it is first sent, so that a login whose answer was lost leaves no second
device behind.
"""

from __future__ import annotations

import msgspec

from tillie.errors import StoreTooNew
from tillie.model import Key, State

VERSION = 1
_LOGIN = Key("matrix", "login", "")
_POSITION = Key("matrix", "position", "")


class Kept(msgspec.Struct, frozen=True):
    """A login. The token, "" if there is none, is good at `base` and goes nowhere else."""

    device: str
    base: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return f"Kept({self.device!r}, {self.base!r})"


_encode_login = msgspec.json.Encoder().encode
_decode_login = msgspec.json.Decoder(Kept).decode


def load_login(s: State) -> Kept | None:
    data = _load(s, _LOGIN)
    return None if data is None else _decode_login(data)


def save_login(s: State, kept: Kept) -> None:
    s.put(_LOGIN, bytes((VERSION,)) + _encode_login(kept))


def forget_token(s: State) -> None:
    """The next connection logs in with the password, to the same device."""
    kept = load_login(s)
    if kept is not None:
        save_login(s, Kept(kept.device))


def load_position(s: State) -> str:
    """The `since` of the next /sync; "" before the first."""
    return (_load(s, _POSITION) or b"").decode()


def save_position(s: State, position: str) -> None:
    s.put(_POSITION, bytes((VERSION,)) + position.encode() if position else None)


def _load(s: State, key: Key) -> bytes | None:
    data = s.get(key)
    if data is None:
        return None
    if data[0] != VERSION:
        raise StoreTooNew(f"the record of {key.kind} has version {data[0]}; this version of Tillie reads {VERSION}.")
    return data[1:]
