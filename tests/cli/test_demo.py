"""The demo: what it reports, and that its search for plaintext can fail."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.demos import report_of
from support.prosody import require_prosody
from tillie.cli import exits, main
from tillie.demo import conversation, places, plaintext
from tillie.demo.places import InProcess, OnProsody, Place
from tillie.demo.prosody import PrivateProsody
from tillie.demo.stage import shorten

TEXT = 'Meet me at "the old oak" & bring <nothing>.'
DEMO_SECONDS = 60.0


def on_prosody() -> Place:
    require_prosody()
    return OnProsody()


@pytest.mark.parametrize("place", [on_prosody, InProcess])
def test_the_conversation_is_read_and_the_server_saw_nothing(
    place: type[InProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    where = place()
    started = time.monotonic()
    assert conversation.run(json=True, place=where)
    assert time.monotonic() - started < DEMO_SECONDS
    report = report_of(capsys.readouterr().out)
    assert report["ok"] is True
    assert report["server_saw_plaintext"] is False
    assert report["server"] == {"name": where.name, "version": where.version}
    assert where.version


@pytest.mark.parametrize("place", [on_prosody, InProcess])
def test_a_line_in_the_clear_is_found(place: type[InProcess], capsys: pytest.CaptureFixture[str]) -> None:
    assert not conversation.run(json=True, place=place(), leak=True)
    out, err = capsys.readouterr()
    report = report_of(out)
    assert report["ok"] is False
    assert report["server_saw_plaintext"] is True
    steps = report["steps"]
    assert isinstance(steps, list)
    assert [step["name"] for step in steps if not step["ok"]] == [
        "nothing that was said is in the server's data and logs"
    ]
    assert "Plaintext lies in" in err


def test_the_command_ends_with_one_if_the_demo_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(InProcess):
        def archived(self, payload: bytes) -> list[tuple[str, str]]:
            return []

    monkeypatch.setattr(conversation, "choose", Broken)
    assert main(["demo", "conversation", "--json"]) == exits.FAILED
    report = report_of(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["server_saw_plaintext"] is False


def test_without_prosody_it_runs_in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PrivateProsody, "unavailable", staticmethod(lambda: "Prosody is not installed"))
    assert isinstance(places.choose(), InProcess)
    assert main(["demo", "conversation"]) == exits.OK
    shown = capsys.readouterr().out
    assert shown.startswith("Prosody can't be started here, so the server is a stand-in inside this process.\n")
    for line in (conversation.TEA, conversation.FROM_PHONE, "the server saw", "<payload>", "Bob's tablet read"):
        assert line in shown
    assert "\x1b" not in shown


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert conversation.run(json=True, place=InProcess())
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_demo_that_is_told_to_end_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    require_prosody()
    tmp_path.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "tillie.cli", "demo", "conversation"]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("ok  Alice and Bob log in"):
            break
    demo.send_signal(number)
    demo.communicate(timeout=60)
    assert demo.returncode == exits.INTERRUPTED
    assert not os.listdir(tmp_path)


# -- the search -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kept",
    [
        TEXT.encode(),
        TEXT.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").encode(),
        json.dumps({"body": TEXT}).encode(),
        TEXT.replace('"', '\\"').encode(),
        TEXT.encode().hex().encode(),
        TEXT.encode().hex().upper().encode(),
        TEXT.encode("utf-16"),
        base64.b64encode(TEXT.encode()),
        base64.b64encode(b"x" + TEXT.encode() + b"more"),
        base64.b64encode(b"xy" + TEXT.encode() + b"more"),
        base64.urlsafe_b64encode(b"\xff\xfe" + TEXT.encode()),
        b"only a part: bring " + b"Meet me at",
    ],
    ids=["plain", "xml", "json", "lua", "hex", "HEX", "utf-16", "base64", "base64+1", "base64+2", "url-safe", "part"],
)
def test_every_form_of_a_text_is_found(kept: bytes) -> None:
    assert plaintext.find([TEXT], [("here", b"before" + kept + b"after"), ("there", b"nothing")]) == ["here"]


def test_what_is_not_there_is_not_found() -> None:
    noise = base64.b64encode(os.urandom(100_000)) + os.urandom(100_000)
    assert plaintext.find([TEXT, conversation.TEA], [("noise", noise)]) == []


def test_every_file_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / ".hidden").write_bytes(b"x" + TEXT.encode())
    (tmp_path / "log").write_text("nothing")
    assert plaintext.find([TEXT], plaintext.files(tmp_path)) == ["deep/er/.hidden"]


def test_a_stanza_is_shortened_for_the_eye_only() -> None:
    run = "QUJD" * 100
    shown = shorten(f"<a xmlns='b'><c d='e'>{run}</c></a>".encode())
    assert shown == ["<a xmlns='b'>", "<c d='e'>QUJDQUJDQUJDQU…(400 characters)</c>", "</a>"]
