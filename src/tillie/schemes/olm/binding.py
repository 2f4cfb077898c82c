"""To which conversation and to which devices an event belongs: the draft's `room_id` and `fingerprint`.

The fingerprint is over the devices that take part as the sender's home shows them to the sender, so a device that one
home shows to one of the two only is noticed by the other. It is over all devices that can take part, trusted or
not: else a device that one side does not trust would part the two for good.

A message may have been sealed before a list changed. So what the lists were is remembered for a while, and a match with
an earlier list is told, not refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from itertools import islice, product

from tillie.directory import matrix
from tillie.schemes.olm.records import DeviceList

MAX_TRIED = 256  # ways in which earlier lists of several users are put together


class Match(Enum):
    NOW = "now"
    BEFORE = "before"
    NEVER = "never"


@lru_cache(256)
def fingerprint(lists: tuple[DeviceList, ...], more: tuple[bytes, ...]) -> str:
    """The fingerprint of what takes part: these users' devices, and the two that surely do."""
    return _of((known.keys for known in lists), more)


def match(text: str, lists: tuple[DeviceList, ...], more: tuple[bytes, ...]) -> Match:
    """Whether a fingerprint is that of these users' devices, now or earlier."""
    if text == fingerprint(lists, more):
        return Match.NOW
    views = ([known.keys, *(past.keys for past in reversed(known.past))] for known in lists)
    earlier = islice(product(*views), MAX_TRIED)
    return Match.BEFORE if any(text == _of(each, more) for each in earlier) else Match.NEVER


def _of(sets: Iterable[tuple[bytes, ...]], more: tuple[bytes, ...]) -> str:
    return matrix.fingerprint((*(key for keys in sets for key in keys), *more))
