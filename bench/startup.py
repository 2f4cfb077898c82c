"""How long a person waits for nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import partial

from bench.measure import Figure, Side, Target

MOST = 150_000.0  # microseconds
TIMEOUT = 60.0  # seconds
ROUNDS = 11


def _process(*arguments: str) -> bytes:
    return subprocess.run((sys.executable, *arguments), check=True, capture_output=True, timeout=TIMEOUT).stdout


def _says_version(results: Sequence[object]) -> None:
    if not all(isinstance(result, bytes) and b"tillie" in result.lower() for result in results):
        raise RuntimeError(f"tillie --version says {results}")


def _version() -> Figure:
    """`tillie --version` as a process of its own; its floor is a Python that does nothing."""
    ours = partial(_process, "-m", "tillie.cli", "--version")
    floor = partial(_process, "-c", "pass")
    sides = {
        "ours": Side(lambda count: [ours] * count, 1, _says_version, warm_up=1, wall=True),
        "floor": Side(lambda count: [floor] * count, 1, warm_up=1, wall=True),
    }
    return Figure("cli.version", sides, Target(most=MOST), rounds=ROUNDS)


FIGURES = {"cli.version": _version}
