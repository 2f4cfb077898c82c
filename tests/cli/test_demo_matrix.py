"""The demo of two homes: what it reports, and that its search and its audit can fail."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from support.demos import failed_steps, report_of
from tillie import __version__
from tillie.cli import exits, main
from tillie.demo import liar, matrix
from tillie.demo.matrix import Homes, Person

SEARCH = Homes.search
PROOF = "beside what Erin kept it proves the lie: one sequence, two lists, both signed by Bob's home"
LIE = "the operator of Bob's home gives her device another key, in secret, and Alice is shown that one"


def test_messages_are_read_in_both_profiles_and_the_lie_is_proved(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://localhost:1")  # of an office, say; homes on loopback are not behind it
    started = time.monotonic()
    assert main(["demo", "matrix", "--json"]) == exits.OK
    assert time.monotonic() - started < 60
    report = report_of(capsys.readouterr().out)
    assert report["ok"] is True
    assert report["server_saw_plaintext"] is False
    assert report["server"] == {"name": "tillie home", "version": __version__}
    steps: Any = report["steps"]
    assert [step["name"] for step in steps if "reads" in step["name"]] == [
        "Bob is away; Alice asks for keys across homes, claims one and writes; Bob comes back and reads",
        "Bob answers, Alice reads",
        "Dave is away; Carol asks for keys across homes, claims one and writes; Dave comes back and reads",
        "Dave answers, Carol reads",
    ]
    assert PROOF in [step["name"] for step in steps]


def test_a_line_in_the_clear_and_a_lie_that_is_none_are_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run for both: the homes' logs hold the texts, and the operator leaves Erin's devices as they are."""
    say = Person.say

    async def say_in_the_clear(self: Person, to: Person, text: str) -> bytes:
        with self.home.log_file.open("a") as log:
            log.write(json.dumps({"event": text}) + "\n")
        return await say(self, to, text)

    monkeypatch.setattr(Person, "say", say_in_the_clear)
    monkeypatch.setattr(liar, "swap_device", lambda *_: b"nobody's key")
    assert not matrix.run(json=True)
    out, err = capsys.readouterr()
    report = report_of(out)
    assert report["server_saw_plaintext"] is True
    assert failed_steps(report) == [LIE, SEARCH]
    assert "Plaintext lies in" in err


def test_an_audit_that_finds_nothing_fails_the_demo(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix.PrivateHome, "audit", lambda *_: {"lies": []})
    assert not matrix.run(json=True)
    assert failed_steps(report_of(capsys.readouterr().out)) == [PROOF]
