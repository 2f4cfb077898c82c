"""The pairs of each side; the peer's are left out where it is not installed."""

from __future__ import annotations

from functools import lru_cache

from bench.ours import OurPair
from bench.pairs import Pair


def pairs(count: int = 1, devices: int = 1) -> dict[str, list[Pair]]:
    """`count` pairs of each kind; Bob has `devices` devices."""
    made: dict[str, list[Pair]] = {"ours": [OurPair(devices) for _ in range(count)]}
    try:
        from bench.peer import BarePeerPair, PeerPair
    except ModuleNotFoundError:
        return made
    return made | {
        "peer": [PeerPair(devices) for _ in range(count)],
        "peer_bare": [BarePeerPair(devices) for _ in range(count)],
    }


_kept = lru_cache(2)(pairs)


def met(count: int = 1, devices: int = 1) -> dict[str, list[Pair]]:
    """The same after the first message and its answer, with nothing left over from the figure before."""
    made = _kept(count, devices)
    for side in made.values():
        for pair in side:
            pair.forget()
            pair.meet()
    return made
