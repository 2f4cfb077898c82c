"""The table and bench/results/latest.json."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from bench.measure import Result

RESULTS = Path(__file__).parent / "results" / "latest.json"
PACKAGES = (
    "tillie", "cryptography", "PyNaCl", "lxml", "protobuf", "slixmpp", "sqlcipher3", "omemo", "twomemo",
    "doubleratchet", "x3dh", "pysequoia", "gmpy2", "vodozemac", "starlette", "uvicorn",
)  # fmt: skip
SIDES = ("ours", "peer", "peer_bare", "floor")
LESS = "less"  # a column only as a ratio
BUSY = 0.5  # of a core, in the minute before the run: more than that disturbs what is measured
HEADINGS = (
    "figure",
    "ours",
    "peer",
    "bare",
    "floor",
    "peer/ours",
    "bare/ours",
    "ours/floor",
    "growth",
    "target",
    "met",
)


def _amount(value: float | None, unit: str) -> str:
    """A value in a unit that can be read at a glance; times come in microseconds."""
    if value is None:
        return "-"
    if unit != "us":
        return f"{value:.0f} {unit}"
    for limit, divisor, name, digits in ((1000, 1, "us", 1), (1e6, 1e3, "ms", 2)):
        if value < limit:
            return f"{value / divisor:.{digits}f} {name}"
    return f"{value / 1e6:.2f} s"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _target(result: Result) -> str:
    target = result.figure.target
    parts = [f"peer >= {target.peer_ratio:g}"] if target.peer_ratio is not None else []
    if target.floor_ratio is not None:
        parts.append(f"floor <= {target.floor_ratio:g}")
    if target.growth is not None:
        parts.append(f"growth <= {target.growth:g}")
    if target.most is not None:
        parts.append(f"<= {_amount(target.most, result.figure.unit)}")
    return ", ".join(parts) or "-"


def table(results: Sequence[Result]) -> str:
    """One line for each figure, in columns."""
    rows = [HEADINGS]
    for result in results:
        if result.error:
            rows.append((result.figure.name, *"-" * (len(HEADINGS) - 3), _target(result), f"failed: {result.error}"))
            continue
        rows.append(
            (
                result.figure.name,
                *(_amount(result.medians.get(side), result.figure.unit) for side in SIDES),
                _ratio(result.peer_ratio),
                _ratio(result.peer_bare_ratio),
                _ratio(result.floor_ratio),
                "-" if result.growth is None else f"{result.growth:.1f}",
                _target(result),
                {True: "yes", False: "NO", None: "-"}[result.met],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS) - 1)]
    lines = []
    for row in rows:
        first, *middle = (
            cell.ljust(width) if index in (0, len(HEADINGS) - 2) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=False))
        )
        lines.append("  ".join((first, *middle, row[-1])))
    return "\n".join(lines)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.processor()
    return platform.processor()


def machine() -> dict[str, object]:
    """Where this was measured, and how busy that machine was already (its load average of one minute)."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def _figure(result: Result) -> dict[str, object]:
    suffix = {"B": "bytes"}.get(result.figure.unit, result.figure.unit)
    entry: dict[str, object] = {f"{side}_{suffix}": _rounded(result.medians.get(side)) for side in SIDES}
    entry["peer_ratio"] = _rounded(result.peer_ratio)
    entry["peer_bare_ratio"] = _rounded(result.peer_bare_ratio)
    entry["floor_ratio"] = _rounded(result.floor_ratio)
    if LESS in result.medians:
        entry[f"{LESS}_{suffix}"] = _rounded(result.medians[LESS])
        entry["growth"] = _rounded(result.growth)
    target = {name: value for name, value in asdict(result.figure.target).items() if value is not None}
    if target:
        entry["target"] = target
        entry["met"] = result.met
    if result.error:
        entry["error"] = result.error
    return entry


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def write(results: Sequence[Result], where: dict[str, object], path: Path = RESULTS) -> None:
    """The report for machines: docs/design.md, "Performance"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": where,
        "versions": versions(),
        "figures": {result.figure.name: _figure(result) for result in results},
    }
    path.write_text(json.dumps(report, indent=2) + "\n")
