"""The command line over a real server: login, TLS, messages that wait, two processes on one account."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support.machine import Machine
from support.prosody import new_account, prosody
from tillie.cli import exits
from tillie.demo.prosody import PrivateProsody

__all__ = ["prosody"]


@pytest.fixture
def alice(tmp_path: Path, prosody: PrivateProsody) -> Machine:
    return Machine(tmp_path / "alice", prosody, new_account(prosody, "alice"))


@pytest.fixture
def bob(tmp_path: Path, prosody: PrivateProsody) -> Machine:
    return Machine(tmp_path / "bob", prosody, new_account(prosody, "bob", "montague.test"))


def test_messages_wait_at_the_server_and_are_shown_once(alice: Machine, bob: Machine) -> None:
    alice.ready(), bob.ready()
    for text in ("one", "two"):
        assert alice.run("send", bob.address, "-", stdin=text)[0] == exits.OK
    code, out, err = bob.run("listen", "--count", "2", "--json")
    assert (code, [json.loads(line)["text"] for line in out.splitlines()]) == (exits.OK, ["one", "two"]), err
    assert bob.run("send", alice.address, "three")[0] == exits.OK
    assert alice.run("send", bob.address, "four")[0] == exits.OK
    code, out, err = bob.run("listen", "--count", "1", "--json")
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["four"], err
    code, out, err = alice.run("listen", "--count", "1", "--json")
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["three"], err


def test_one_process_listens_while_others_of_the_same_account_send(alice: Machine, bob: Machine) -> None:
    alice.ready(), bob.ready()
    listening = bob.start("listen", "--count", "3", "--json")
    try:
        for text in ("one", "two", "three"):
            assert bob.run("send", alice.address, f"re {text}")[0] == exits.OK
            assert alice.run("send", bob.address, text)[0] == exits.OK
        out, err = listening.communicate(timeout=120)
    finally:
        listening.kill()
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["one", "two", "three"], err
    _, out, err = alice.run("listen", "--count", "3", "--json")
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["re one", "re two", "re three"], err


def test_direct_tls(alice: Machine) -> None:
    code, _, err = alice.add("--ca-file", str(alice.server.ca_file), "--direct-tls", port=alice.server.direct_tls_port)
    assert code == exits.OK, err
    assert alice.run("devices")[0] == exits.OK


def test_a_wrong_password_is_told_and_leaves_nothing(alice: Machine) -> None:
    (alice.folder / "wrong").write_text("wrong")
    code, out, err = alice.add("--ca-file", str(alice.server.ca_file), password="wrong")
    assert (code, out) == (exits.NETWORK, "")
    assert err.splitlines()[-1] == "error: The server did not accept the account or password."
    assert not os.listdir(alice.folder / "home")


@pytest.mark.parametrize("direct_tls", [False, True])
def test_a_certificate_of_an_unknown_authority_ends_it(alice: Machine, direct_tls: bool) -> None:
    port = alice.server.direct_tls_port if direct_tls else alice.server.port
    code, out, err = alice.add(*(["--direct-tls"] if direct_tls else []), port=port)
    assert (code, out) == (exits.NETWORK, "")
    assert "certificate is not to be trusted" in err
    assert "--ca-file" in err


def test_a_server_that_is_not_there(alice: Machine) -> None:
    code, _, err = alice.add(port=1)
    assert code == exits.NETWORK
    assert "The server can't be reached." in err


def test_an_account_can_be_removed_and_its_device_goes_off_the_list(alice: Machine, bob: Machine) -> None:
    alice.ready(), bob.ready()
    assert bob.run("account", "remove", bob.address, "--yes")[0] == exits.OK
    code, out, _ = alice.run("send", bob.address, "hello")
    assert (code, out) == (exits.NO_RECIPIENT, "")
