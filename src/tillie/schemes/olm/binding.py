"""To which conversation and to which devices an event belongs: the draft's `room_id` and `fingerprint`.

The fingerprint is over the devices that take part as the sender's home shows them to the sender, so a device that one
home shows to one of the two only is noticed by the other. It is over all devices that can take part, trusted or
not: else a device that one side does not trust would part the two for good.

A message may have been sealed before a list changed. So what the lists were is remembered for a while, and a match with
an earlier list is told, not refused. A list that was never read before has no earlier one: for a while its devices may
be new, and a match with the sender's list without one of them is told as well. docs/matrix.md says what a home gains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from functools import lru_cache
from itertools import islice, product

from tillie.directory import matrix
from tillie.model import Time
from tillie.schemes.olm import records
from tillie.schemes.olm.records import DeviceList

MAX_TRIED = 256  # ways in which earlier lists of several users are put together; as many again without a new device
MAX_TRIED_KEYS = 16_384  # that are hashed for that; a home may list a thousand devices, and change them each time
MAY_BE_NEW = 3_600.0  # seconds after a device was first seen in which its owner may not have known of it


class Match(Enum):
    NOW = "now"
    BEFORE = "before"
    WITHOUT = "without one of the sender's devices"
    NEVER = "never"


@lru_cache(records.CACHED_LISTS)
def fingerprint(lists: tuple[DeviceList, ...], more: tuple[bytes, ...]) -> str:
    """The fingerprint of what takes part: these users' devices, and the two that surely do."""
    return _of((known.keys for known in lists), more)


def match(text: str, lists: tuple[DeviceList, ...], more: tuple[bytes, ...], now: Time) -> Match:
    """Whether a fingerprint is that of these users' devices, the sender's last, now or earlier."""
    if text == fingerprint(lists, more):
        return Match.NOW
    views = [[known.keys, *(past.keys for past in reversed(known.past))] for known in lists]
    for what, ways in ((Match.BEFORE, views), (Match.WITHOUT, [*views[:-1], _without_one(lists[-1], more, now)])):
        if any(text == _of(each, more) for each in _tried(ways)):
            return what
    return Match.NEVER


def _tried(ways: list[list[tuple[bytes, ...]]]) -> Iterator[tuple[tuple[bytes, ...], ...]]:
    room = MAX_TRIED_KEYS
    for each in islice(product(*ways), MAX_TRIED):
        room -= sum(map(len, each))
        if room < 0:
            return
        yield each


def _without_one(known: DeviceList, more: tuple[bytes, ...], now: Time) -> list[tuple[bytes, ...]]:
    """A list without each of its devices that were not on it before it changed, which it did a short time ago."""
    if not 0 <= now - known.since < MAY_BE_NEW:
        return []
    before = known.past[-1].keys if known.past else ()
    new = (key for key in known.keys if key not in before and key not in more)
    return [tuple(key for key in known.keys if key != left_out) for left_out in islice(new, MAX_TRIED)]


def _of(sets: Iterable[tuple[bytes, ...]], more: tuple[bytes, ...]) -> str:
    return matrix.fingerprint((*(key for keys in sets for key in keys), *more))
