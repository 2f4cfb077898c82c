"""What a demo reports, for tests of each of them."""

from __future__ import annotations

import json


def report_of(out: str) -> dict[str, object]:
    """The one report, exactly as it is promised: that of every demo."""
    report = json.loads(out)
    assert out.count("\n") == 1
    assert list(report) == ["ok", "steps", "server_saw_plaintext", "server"]
    assert all(list(step) == ["name", "ok", "seconds"] for step in report["steps"])
    assert list(report["server"]) == ["name", "version"]
    return dict(report)


def failed_steps(report: dict[str, object]) -> list[str]:
    """The names of the steps that did not come out as they should."""
    steps = report["steps"]
    assert isinstance(steps, list)
    return [step["name"] for step in steps if not step["ok"]]
