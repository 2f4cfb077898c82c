"""Bytes on the wire and in the store."""

from __future__ import annotations

from bench.measure import Figure, Result, Target
from bench.ours import OurPair
from bench.peers import met
from tillie.model import Done, Key, State

SAMPLES = 21  # padding is random: the median of so many
DEVICES = (1, 10, 100)
MAX_SESSION = 1_000  # bytes


def _element_bytes(devices: int) -> Result:
    """The size of `<encrypted>` with a message of 200 characters; the peer's envelope has the same mean size."""
    medians: dict[str, float] = {}
    for name, (pair,) in met(1, devices).items():
        if name != "peer_bare":
            sizes = sorted(len(pair.seal(0, pair.message())) for _ in range(SAMPLES))
            medians[name] = sizes[SAMPLES // 2]
    return Result(Figure(f"omemo.bytes.{devices}", {}, unit="B"), medians)


def _session_bytes() -> Result:
    """Everything that one session with one device keeps, key and value: the session itself and its skipped keys."""
    pair = OurPair()
    pair.meet()

    def rows(s: State) -> Done[list[int]]:
        found = [row for kind in ("session", "skipped", "old") for row in s.scan(Key("omemo", kind, ""))]
        return Done([len(name.kind) + len(name.name) + len(value) for name, value in found])

    done = pair.alice.store.run(rows)
    if not isinstance(done.value, list) or len(done.value) != 1:
        raise RuntimeError(f"one session has {done.value} rows")
    return Result(
        Figure("omemo.session.bytes", {}, Target(most=MAX_SESSION), unit="B"), {"ours": float(sum(done.value))}
    )


FIGURES = {f"omemo.bytes.{devices}": (lambda devices=devices: _element_bytes(devices)) for devices in DEVICES} | {
    "omemo.session.bytes": _session_bytes,
}
