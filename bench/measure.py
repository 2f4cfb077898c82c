"""Measure the sides of a figure in interleaved rounds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter_ns, thread_time_ns
from typing import Protocol

Operation = Callable[[], object]

ROUNDS = 15
QUICK_ROUNDS = 3
WARM_UP = 2  # operations before the first round of a side that don't count


class Measured(Protocol):
    """One of the things that are measured: ours, the peer, the floor."""

    def round(self, *, first: bool, cpu: bool) -> float:
        """One round: what one operation took, in the figure's unit. With `cpu`, of a processor's time."""


@dataclass(frozen=True)
class Side:
    """Something that is called in this process.

    `prepare(count)` makes `count` operations, untimed, each with an input of its own; every operation is timed alone.
    `batch` is how many of them make one round. `check` sees what they returned, untimed, and raises if it is wrong.
    `wall`: time by the clock even with --cpu, because the work is another process's.
    """

    prepare: Callable[[int], Sequence[Operation]]
    batch: int = 20
    check: Callable[[Sequence[object]], None] = lambda results: None
    warm_up: int = WARM_UP
    wall: bool = False

    def round(self, *, first: bool, cpu: bool) -> float:
        """The median of one batch, in microseconds. The garbage collector runs before it and not during it."""
        clock = thread_time_ns if cpu and not self.wall else perf_counter_ns
        warm_up = self.warm_up if first else 0
        operations = self.prepare(self.batch + warm_up)
        for operation in operations[:warm_up]:
            operation()
        gc.collect()
        gc.disable()
        try:
            times, results = _time(operations[warm_up:], clock)
        finally:
            gc.enable()
        self.check(results)
        return median(times) / 1000


@dataclass(frozen=True)
class Target:
    """What a figure has to reach: peer/ours at least; ours/floor, and `growth` = ours/less, at most."""

    peer_ratio: float | None = None
    floor_ratio: float | None = None
    growth: float | None = None
    most: float | None = None  # of ours, in the figure's own unit


@dataclass(frozen=True)
class Figure:
    """One line of the table. `sides` maps "ours", "peer", "peer_bare", "floor" and "less" to what is measured there.

    `peer_bare` is the peer without its XML (its objects go in and come out): the job is smaller than ours. `less` is
    ours with a tenth of the work, or a thousandth of what is stored: whether the cost is linear, or flat.
    """

    name: str
    sides: Mapping[str, Measured]
    target: Target = Target()
    unit: str = "us"
    rounds: int = ROUNDS
    keep: object = None  # what must live as long as the figure: a temporary folder


@dataclass
class Result:
    """What was measured: the median of each side, sizes in bytes beside them, and the rounds that they come from."""

    figure: Figure
    medians: dict[str, float] = field(default_factory=dict)
    error: str = ""
    rounds: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def ratio(self, above: str, below: str) -> float | None:
        if above not in self.medians or not self.medians.get(below):
            return None
        return self.medians[above] / self.medians[below]

    @property
    def peer_ratio(self) -> float | None:
        return self.ratio("peer", "ours")

    @property
    def peer_bare_ratio(self) -> float | None:
        return self.ratio("peer_bare", "ours")

    @property
    def floor_ratio(self) -> float | None:
        return self.ratio("ours", "floor")

    @property
    def growth(self) -> float | None:
        """Round by round: a machine drifts more between two rounds than within one."""
        if "less" not in self.rounds:
            return None
        return median(ours / less for ours, less in zip(self.rounds["ours"], self.rounds["less"], strict=True))

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none, or if what it needs could not be measured."""
        target = self.figure.target
        verdicts: list[bool] = []
        for wanted, got, sign in (
            (target.peer_ratio, self.peer_ratio, 1),
            (target.floor_ratio, self.floor_ratio, -1),
            (target.growth, self.growth, -1),
            (target.most, self.medians.get("ours"), -1),
        ):
            if wanted is None:
                continue
            if got is None:
                return None
            verdicts.append(sign * got >= sign * wanted)
        return all(verdicts) if verdicts else None


def _time(operations: Sequence[Operation], clock: Callable[[], int]) -> tuple[list[int], list[object]]:
    times: list[int] = []
    results: list[object] = []
    for operation in operations:
        began = clock()
        result = operation()
        times.append(clock() - began)
        results.append(result)
    return times, results


def measure(figure: Figure, *, quick: bool = False, cpu: bool = False) -> Result:
    """The medians of interleaved rounds: in each round every side runs one batch, one side after the other.

    With `cpu`, time that others had the processor does not count, and neither does time spent waiting for the disk.
    """
    rounds = min(figure.rounds, QUICK_ROUNDS) if quick else figure.rounds
    samples: dict[str, list[float]] = {name: [] for name in figure.sides}
    for turn in range(rounds):
        for name, side in figure.sides.items():
            samples[name].append(side.round(first=turn == 0, cpu=cpu))
    return Result(figure, {name: median(values) for name, values in samples.items()}, rounds=samples)
