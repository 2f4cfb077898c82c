"""`python -m bench [--quick] [--cpu] [--strict] [--list] [NAME ...]`; each NAME is a part of a figure's name."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # the peer's driver is shared with the tests

from bench import report
from bench.measure import Figure, Result, measure

Builder = Callable[[], Figure | Result]


def figures() -> Mapping[str, Builder]:
    """Every figure by name, in the order of the table; what a figure needs is set up when it is its turn."""
    from bench import (
        durable,
        esession,
        first,
        home,
        home_size,
        matrix_olm,
        openpgp,
        pubsub,
        sharing,
        size,
        startup,
        steady,
        xmpp,
    )

    groups = (
        steady,
        first,
        durable,
        xmpp,
        size,
        openpgp,
        pubsub,
        sharing,
        esession,
        matrix_olm,
        home,
        home_size,
        startup,
    )
    return {name: build for group in groups for name, build in group.FIGURES.items()}


def _run(name: str, build: Builder, *, quick: bool, cpu: bool) -> Result:
    try:
        built = build()
        return built if isinstance(built, Result) else measure(built, quick=quick, cpu=cpu)
    except Exception as error:  # noqa: BLE001 - one figure that fails must not cost the others; it is shown, and the exit code says so
        traceback.print_exc()
        return Result(Figure(name, {}), error=f"{type(error).__name__}: {error}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Tillie beside its peer and its floor.")
    parser.add_argument("names", nargs="*", help="only figures whose name contains one of these")
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it runs, not to compare")
    parser.add_argument("--cpu", action="store_true", help="processor time, for a busy machine; nothing is written")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--list", action="store_true", help="only name the figures")
    options = parser.parse_args()
    chosen = {
        name: build
        for name, build in figures().items()
        if not options.names or any(wanted in name for wanted in options.names)
    }
    if options.list:
        print("\n".join(chosen))
        return 0
    where = report.machine()
    if os.getloadavg()[0] > report.BUSY and not options.cpu:
        print(f"This machine is busy (load {os.getloadavg()[0]:.2f}): expect ratios to be off.", file=sys.stderr)
    gc.freeze()
    results = []
    for name, build in chosen.items():
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        results.append(_run(name, build, quick=options.quick, cpu=options.cpu))
    print(report.table(results))
    if not (options.names or options.cpu or options.quick):
        report.write(results, where)
        print(f"written to {report.RESULTS}", file=sys.stderr)
    failed = any(result.error for result in results)
    missed = options.strict and any(result.met is False for result in results)
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main())
