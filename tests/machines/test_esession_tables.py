"""The table of a session's life: whole, true to the code, drawn as it is; and the page about it names real tests."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tillie.schemes.esession import tables
from tillie.schemes.esession.tables import OPEN, OVER, PENDING, STATES, TRANSITIONS, Transition

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "esession.md"


@pytest.mark.parametrize("row", TRANSITIONS, ids=lambda row: f"{row.state}-{row.event}-{row.step}")
def test_each_step_is_a_function_that_exists(row: Transition) -> None:
    module, _, name = row.step.partition(".")
    assert callable(getattr(importlib.import_module(f"tillie.schemes.esession.{module}"), name))
    assert row.after in STATES
    assert row.state in ("", *STATES)
    assert bool(row.condition) == bool(row.failed)


def test_every_state_can_be_reached_and_left() -> None:
    reached, seen = {""}, set[str]()
    while reached - seen:
        state = (reached - seen).pop()
        seen.add(state)
        reached |= {after for row in TRANSITIONS if row.state == state for after in (row.after, row.failed) if after}
    assert seen == {"", *STATES}
    for state in (*PENDING, *OPEN):
        assert any(row.after in OVER for row in TRANSITIONS if row.state == state)
    assert not any(row.state in OVER for row in TRANSITIONS)  # what is over stays over


def test_every_negotiation_can_be_declined_fail_and_run_out_of_time() -> None:
    for state in PENDING:
        for event in (tables.DECLINED, tables.ERROR, tables.TOO_LATE, tables.LEFT, tables.GIVE_UP):
            row = tables.find(state, event)
            assert row is not None
            assert row.after == tables.FAILED


def test_a_message_out_of_its_turn_is_nobodys() -> None:
    turns = {
        tables.MESSAGE_1: "",
        tables.MESSAGE_2: tables.OFFERED,
        tables.MESSAGE_3: tables.ANSWERED,
        tables.MESSAGE_4: tables.CONCLUDED,
    }
    for event, only in turns.items():
        assert [state for state in ("", *STATES) if tables.find(state, event)] == [only]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", tables.ANSWERED),
        (tables.OFFERED, tables.ANSWERED),
        (tables.ASKED, tables.ACTIVE),
        (tables.ENDING, tables.ACTIVE),
        (tables.ENDED, tables.ACTIVE),
        (tables.FAILED, tables.OFFERED),
    ],
)
def test_other_changes_are_refused(before: str, after: str) -> None:
    with pytest.raises(ValueError, match="can't go from"):
        tables.require_change(before, after)


def test_all_changes_of_the_table_are_allowed() -> None:
    for row in TRANSITIONS:
        tables.require_change(row.state, row.after)
        tables.require_change(row.state, row.state)


def test_the_diagrams_are_current() -> None:
    """`python scripts/diagrams.py` makes them anew."""
    assert subprocess.run([sys.executable, ROOT / "scripts" / "diagrams.py", "--check"], check=False).returncode == 0
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("made by scripts/diagrams.py") == 7
    assert page.count("stateDiagram-v2") == 3


def test_the_tests_that_the_page_names_exist() -> None:
    page = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"`([a-z]+/test_[a-z0-9_]+\.py)::(test_\w+)`", page)
    assert len(named) >= 20
    for file, function in named:
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"^\s*(?:async )?def {function}\(", text, re.MULTILINE), (file, function)


def test_all_requirements_of_xep_0210_are_there() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = [
        line.split("|")[1].strip() for line in page.partition("## XEP-0210")[2].splitlines() if line.startswith("| ")
    ]
    assert rows[1:] == [
        *("Confidentiality", "Integrity", "Replay protection", "Perfect forward secrecy", "PKI independence"),
        *("Authentication", "Identity protection", "Repudiability", "Robustness", "Upgradability"),
        *("Generality", "Implementability", "Usability", "Efficiency", "Flexibility", 'Offline "sessions"'),
        *("Interoperability", "Object encryption"),
    ]
