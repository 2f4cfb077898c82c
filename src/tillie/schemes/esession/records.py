"""What encrypted sessions keep in the store. Every record starts with its version, then msgpack.

session     <thread>          a negotiation or a session that goes on: one record, at most 4 kB once it is open
open        <peer's full JID> the threads of the sessions with it that can carry stanzas, the newest last
past        <thread>          one that is over: what it was and why it ended, and no secret
chain       <32 hex>          the secret retained with one client of somebody, and the trust key that it stands for
failures    <bare address>    attempts that failed after message 2, and on which day
alive       <our full JID>    when the connection with this resource last said that it is there
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from tillie.errors import StoreTooNew
from tillie.model import Address, Key, Time

VERSION = 1
SCHEME = "esession"
MAX_SESSION_BYTES = 4_096  # of an open session

R = TypeVar("R", bound=msgspec.Struct)


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One negotiation or session. `peer` is bare until somebody answered; `state` is one of `sessions.STATES`.

    `step` is what the negotiation needs for its next step, `channel` the keys of the session: never both, and neither
    in what is over. `key` is the peer's trust key, `chain` the chain of retained secrets that the session continues.
    """

    thread: str
    own: str
    peer: str
    role: str  # "initiator", "responder", or "given" (XEP-0200 with parameters from elsewhere)
    state: str
    started: Time
    changed: Time  # when it last changed its state
    step: bytes = b""
    channel: bytes = b""
    key: bytes = b""
    chain: bytes = b""
    public: bytes = b""  # fingerprint of the public key that the peer signed with
    proven: bool = True  # something of the peer has verified under the final keys
    known: bool = False  # a secret retained before was found
    string: str = ""
    string_name: str = ""
    string_digest: bytes = b""
    profile: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    stanzas: tuple[str, ...] = ()
    logging: str = ""
    sent: int = 0
    received: int = 0
    rekeys: int = 0
    message_id: str = ""  # of our last message of the negotiation: an error may name nothing else
    why: str = ""
    instead: str = ""  # the thread of the session that took its place, when both began at once
    wants_end: bool = False  # the peer asked in clear that it end, which proves nothing
    asked: bytes = b""  # the form of our renegotiation that waits for an answer
    was: str = ""  # where the peer was before it moved, until it speaks from where it is
    target: str = ""  # the resource of ours that we asked to go on with; nothing is sent until the peer follows

    def __repr__(self) -> str:
        return f"Record({self.thread!r}, {self.own!r}, {self.peer!r}, {self.state!r})"

    @property
    def bare(self) -> Address:
        return Address(self.peer).bare


class Chain(msgspec.Struct, frozen=True, array_like=True):
    """The secret retained with one client of somebody. `key` is the trust key it stands for; `previous` the secret
    before, kept until the peer has shown that it has the new one; `addresses` are bare, the last first."""

    key: bytes
    secret: bytes
    previous: bytes
    addresses: tuple[str, ...]
    expires: Time
    shared: bool = True  # the peer has shown that it has it: message 4, which gives it the secret, may get lost

    def __repr__(self) -> str:
        return f"Chain({self.addresses!r})"


class Failures(msgspec.Struct, frozen=True, array_like=True):
    """Attempts with a peer that failed after message 2, on one day (days since 1970, UTC)."""

    day: int
    count: int


class Threads(msgspec.Struct, frozen=True, array_like=True):
    threads: tuple[str, ...]


class Moment(msgspec.Struct, frozen=True, array_like=True):
    at: Time


_encode = msgspec.msgpack.Encoder().encode
_DECODERS: dict[type, msgspec.msgpack.Decoder[object]] = {}


def key(kind: str, name: str = "") -> Key:
    return Key(SCHEME, kind, name)


def encode(record: msgspec.Struct) -> bytes:
    return bytes((VERSION,)) + _encode(record)


def decode(data: bytes, what: type[R]) -> R:
    """The record in these bytes. Raises `StoreTooNew`."""
    if data[0] != VERSION:
        name = what.__name__.lower()
        raise StoreTooNew(f"an encrypted session's {name} has version {data[0]}; this version reads {VERSION}.")
    decoder = _DECODERS.get(what)
    if decoder is None:
        decoder = _DECODERS[what] = msgspec.msgpack.Decoder(what)
    return decoder.decode(memoryview(data)[1:])  # type: ignore[return-value]
