"""Records of when something happened, and two habits of all schemes that rest on them.

A record is a version byte and then moments, 8 bytes each.
"""

from __future__ import annotations

import struct

from tillie.errors import StoreTooNew
from tillie.model import Address, Key, Notice, State, Time

VERSION = 1
FIGHT_WINDOW = 600.0
FIGHT_LIMIT = 5  # re-announcements in that window, before we stop and say so (N6)


def encode_time(moment: Time) -> bytes:
    return struct.pack(">Bd", VERSION, moment)


def decode_time(data: bytes) -> Time:
    _check_version(data, "time")
    return float(struct.unpack(">Bd", data)[1])


def encode_times(times: tuple[Time, ...]) -> bytes:
    return struct.pack(f">B{len(times)}d", VERSION, *times)


def decode_times(data: bytes | None) -> tuple[Time, ...]:
    if data is None:
        return ()
    _check_version(data, "times")
    return struct.unpack(f">{(len(data) - 1) // 8}d", data[1:])


def announced_too_often(s: State, place: Key, account: Address, what: str, now: Time) -> Notice | None:
    """What to tell when `what` of ours is not to be announced again, because another client takes it off the list again
    and again: two that fight must not publish for ever. None if it may be announced: that is remembered at `place`."""
    recent = tuple(t for t in decode_times(s.get(place)) if 0 <= now - t < FIGHT_WINDOW)
    if len(recent) >= FIGHT_LIMIT:
        text = f"another client removed {what} from the list {FIGHT_LIMIT} times; it is announced again in"
        return Notice(account, f"{text} {FIGHT_WINDOW / 60:.0f} minutes")
    s.put(place, encode_times((*recent, now)))
    return None


def keep_newest(s: State, prefix: Key, most: int) -> None:
    """Delete the oldest records of moments below `prefix`, down to `most`."""
    rows = [(decode_time(data), name) for name, data in s.scan(prefix)]
    for _, name in sorted(rows)[: max(0, len(rows) - most)]:
        s.put(name, None)


def _check_version(data: bytes, what: str) -> None:
    if data[0] != VERSION:
        raise StoreTooNew(f"the {what} record has version {data[0]}; this version of Tillie reads {VERSION}.")
