"""What was said, kept in the store if the program wants it: one record a message, written in the transaction that
sealed or opened it.

Records: ("history", address, "<milliseconds>-<id>") -> version byte, then JSON. Names sort by time.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from tillie.errors import StoreTooNew
from tillie.model import Address, Key, State, Time

VERSION = 1
MAX_ID = 128  # characters of a stanza id that enter a record's name


class Entry(msgspec.Struct, frozen=True):
    """One message: with whom, which way, its content, and what is known of the sender's key. `device` is its number,
    `label` what it is called (on Matrix its id); neither is there of what this device sent."""

    address: str
    sent: bool
    time: Time
    content: str
    id: str = ""
    device: int = 0
    trust: str = ""
    scheme: str = ""
    notes: tuple[str, ...] = ()
    label: str = ""

    def __repr__(self) -> str:
        return f"Entry({self.address!r}, {len(self.content)} characters)"


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


def append(s: State, entry: Entry) -> None:
    name = f"{int(entry.time * 1000):015d}-{entry.id[:MAX_ID]}"
    s.put(Key("history", entry.address, name), bytes((VERSION,)) + _encode(entry))


def read(s: State, address: Address) -> Iterator[Entry]:
    """All messages with a bare address, oldest first."""
    for _, data in s.scan(Key("history", address, "")):
        if data[0] != VERSION:
            raise StoreTooNew(f"a history record has version {data[0]}; this version of Tillie reads {VERSION}.")
        yield _decode(data[1:])
