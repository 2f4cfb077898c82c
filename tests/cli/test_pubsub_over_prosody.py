"""Private nodes over a real server, each command a process: keys, sharing, watching, signatures, changing the locks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.machine import Machine
from support.prosody import new_account, prosody
from tillie.cli import exits
from tillie.demo.prosody import PrivateProsody

__all__ = ["prosody"]


@pytest.fixture
def juliet(tmp_path: Path, prosody: PrivateProsody) -> Machine:
    return with_key(Machine(tmp_path / "juliet", prosody, new_account(prosody, "juliet")))


@pytest.fixture
def romeo(tmp_path: Path, prosody: PrivateProsody) -> Machine:
    return with_key(Machine(tmp_path / "romeo", prosody, new_account(prosody, "romeo", "montague.test")))


def with_key(machine: Machine) -> Machine:
    machine.ready()
    done(machine, "keys", "generate")
    return machine


def done(machine: Machine, *arguments: str, stdin: str = "") -> str:
    code, out, err = machine.run(*arguments, stdin=stdin)
    assert code == exits.OK, err
    return out


def items(machine: Machine, *arguments: str) -> dict[str, Any]:
    code, out, err = machine.run("pubsub", "get", "blog", "--json", *arguments)
    assert code in (exits.OK, exits.PEER), err
    return {row["id"]: row for row in map(json.loads, out.splitlines())}


def test_a_blog_is_shared_signed_and_taken_back(juliet: Machine, romeo: Machine) -> None:
    at = ("--service", juliet.address)
    done(juliet, "pubsub", "node", "create", "blog")
    done(juliet, "pubsub", "set", "blog", "--text", "one", "--id", "1", "--sign")
    assert romeo.run("pubsub", "get", "blog", *at)[0] == exits.NETWORK
    assert "1 message" in done(juliet, "pubsub", "secret", "share", "blog", romeo.address, "--publisher")
    assert items(romeo, *at)["1"]["text"] == "one"
    assert "valid, by a trusted key" in done(romeo, "pubsub", "signature", "check", "blog", "1", *at)
    done(romeo, "pubsub", "signature", "sign", "blog", "1", *at)
    checked = json.loads(done(juliet, "pubsub", "signature", "check", "blog", "1", "--json"))
    assert [one["verdict"] for one in checked["signatures"]] == ["valid_trusted"] * 2
    done(romeo, "pubsub", "set", "blog", "--text", "two", "--id", "2", *at)
    assert items(juliet)["2"]["text"] == "two"
    done(juliet, "pubsub", "set", "blog", "--text", "for you", "--id", "3", "--encrypt-for", romeo.address)
    assert items(romeo, "3", *at)["3"]["text"] == "for you"

    taken = done(juliet, "pubsub", "secret", "revoke", "blog", romeo.address)
    assert "What this can't undo:" in taken
    done(juliet, "pubsub", "set", "blog", "--text", "four", "--id", "4")
    assert romeo.run("pubsub", "get", "blog", *at)[0] == exits.NETWORK
    assert romeo.run("pubsub", "set", "blog", "--text", "five", *at)[0] == exits.USAGE  # he knows that it is revoked
    rows = [json.loads(line) for line in done(romeo, "pubsub", "secret", "list", "--json").splitlines()]
    assert [row["state"] for row in rows] == ["revoked"]
    assert set(items(juliet)) == {"1", "2", "3", "4"}


def test_items_are_watched_as_they_come(juliet: Machine, romeo: Machine) -> None:
    done(juliet, "pubsub", "node", "create", "blog")
    done(juliet, "pubsub", "secret", "share", "blog", romeo.address)
    command = ("pubsub", "watch", "blog", "--count", "2", "--json", "--service", juliet.address)
    watching = romeo.start(*command)
    try:
        assert watching.stderr is not None
        assert "Watching" in watching.stderr.readline()
        done(juliet, "pubsub", "set", "blog", "--text", "one")
        done(juliet, "pubsub", "secret", "rotate", "blog")
        done(juliet, "pubsub", "set", "blog", "--text", "two")
        out, err = watching.communicate(timeout=120)
    finally:
        watching.kill()
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["one", "two"], err
