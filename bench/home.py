"""A home for keys under load, beside Synapse and beside the floor of claims: bench/home_servers.py.

What a figure shows is the time that a server takes for one request, the inverse of requests a second; beside it stands
in how much time 99 of 100 were answered. 32 connections, on another core, wait for an answer at any time.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from statistics import median
from typing import NamedTuple

from bench import home_load
from bench.home_load import Burst
from bench.home_servers import Floor, Ours, Server, Synapse
from bench.home_traffic import (
    Check,
    Crowd,
    DevicesFound,
    KeysGiven,
    Login,
    Traffic,
    all_answered,
    first_upload,
    keys_counted,
)
from bench.measure import Figure, Result, Target, measure
from support import synapse

ROUNDS = 5
WARM_UP = 5  # a fifth of a burst before the first one
PEOPLE = 400
ASKED = 20  # users or devices in one request of the larger figures
OURS, PEER = 2_000, 300  # requests in a burst: about half a second; Synapse keeps at most 500 keys of a device
OUR_UPLOADS, PEER_UPLOADS = 400, 80
MAX_IDLE = 80  # MB


@dataclass
class Place:
    """A server and those who use it: a crowd whose keys are uploaded, and a victim whom all of them ask for."""

    server: Server
    crowd: Crowd
    victim: Login
    burst: Callable[[Kind], int]

    def uploads(self, number: int) -> Sequence[bytes]:
        """The first uploads of new devices."""
        return [first_upload(each) for each in self.server.logins(number)]

    def claims_of_one(self, number: int) -> Sequence[bytes]:
        """Claims of the victim's keys: for each there is one, and none is left over."""
        self.server.stock(self.victim, number)
        return self.crowd.claims_of([self.victim] * number)


class Kind(NamedTuple):
    """One kind of traffic: what is sent, how the answers are checked, what is to be reached."""

    traffic: Callable[[Place], Traffic]
    check: Callable[[], Check]
    target: Target
    ours: int = OURS  # requests in a burst
    peer: int = PEER
    has_floor: bool = False


KINDS = {
    "home.claim": Kind(
        lambda place: place.crowd.claims, KeysGiven, Target(peer_ratio=4, floor_ratio=1.4), has_floor=True
    ),
    "home.claim.same": Kind(lambda place: place.claims_of_one, KeysGiven, Target(peer_ratio=4), has_floor=True),
    "home.upload": Kind(
        lambda place: place.uploads, lambda: keys_counted, Target(peer_ratio=10), OUR_UPLOADS, PEER_UPLOADS
    ),
    "home.query.1": Kind(lambda place: partial(place.crowd.queries, 1), partial(DevicesFound, 1), Target(peer_ratio=5)),
    "home.query.20": Kind(
        lambda place: partial(place.crowd.queries, ASKED), partial(DevicesFound, ASKED), Target(peer_ratio=5)
    ),
    "home.to_device": Kind(lambda place: partial(place.crowd.messages, 1), lambda: all_answered, Target(peer_ratio=5)),
    "home.to_device.20": Kind(
        lambda place: partial(place.crowd.messages, ASKED), lambda: all_answered, Target(peer_ratio=5)
    ),
}


@dataclass
class Bursts:
    """A server under one kind of traffic."""

    server: Server
    traffic: Traffic
    check: Check
    size: int
    p99s: list[float] = field(default_factory=list)  # of each round, in microseconds

    def round(self, *, first: bool, cpu: bool) -> float:
        """Microseconds for one request."""
        if first:
            self._burst(self.size // WARM_UP)
        before = home_load.processor_seconds(self.server.pid)
        burst = self._burst(self.size)
        used = home_load.processor_seconds(self.server.pid) - before
        self.p99s.append(burst.p99 * 1e6)
        return (used / self.size if cpu else burst.each) * 1e6

    def _burst(self, size: int) -> Burst:
        burst = home_load.send(self.server.port, self.traffic(size))
        self.check(burst.answers)
        return burst


class Stage:
    """The servers, each with its users; how much memory each had before anybody came."""

    def __init__(self, stack: ExitStack) -> None:
        self.idle: dict[str, float] = {}
        self.places: dict[str, Place] = {}
        self._open("ours", stack.enter_context(Ours()))
        if not synapse.unavailable():
            self._open("peer", stack.enter_context(Synapse()))
        self._open("floor", stack.enter_context(Floor()))

    def _open(self, side: str, server: Server) -> None:
        self.idle[side] = home_load.resident_mb(server.pid)
        size = (lambda kind: kind.peer) if side == "peer" else (lambda kind: kind.ours)
        people = server.join(PEOPLE)
        (victim,) = server.logins(1)
        self.places[side] = Place(server, Crowd(people), victim, size)


@cache
def stage() -> Stage:
    """The servers, started for the first figure that needs them, stopped when this process ends."""
    with ExitStack() as stack:
        made = Stage(stack)
        atexit.register(stack.pop_all().close)
    return made


@cache
def _figure(name: str) -> Figure:
    kind = KINDS[name]
    sides = {
        side: Bursts(place.server, kind.traffic(place), kind.check(), place.burst(kind))
        for side, place in stage().places.items()
        if side != "floor" or kind.has_floor
    }
    return Figure(name, sides, kind.target, rounds=ROUNDS)


def _p99(name: str) -> Result:
    """Of the rounds that the figure itself was measured in."""
    figure = _figure(name)
    sides = {side: bursts for side, bursts in figure.sides.items() if isinstance(bursts, Bursts)}
    if not any(bursts.p99s for bursts in sides.values()):
        measure(figure, quick=True)
    return Result(Figure(f"{name}.p99", {}), {side: median(bursts.p99s) for side, bursts in sides.items()})


def _idle() -> Result:
    return Result(Figure("home.idle.rss", {}, Target(most=MAX_IDLE), unit="MB"), stage().idle)


FIGURES: Mapping[str, Callable[[], Figure | Result]] = {"home.idle.rss": _idle} | {
    full: partial(build, name) for name in KINDS for full, build in ((name, _figure), (f"{name}.p99", _p99))
}
