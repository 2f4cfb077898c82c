"""Encrypted sessions as two people use them, each at terminals of her own, over a real server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.machine import Machine
from support.prosody import new_account, prosody
from support.typing_at import Terminal
from tillie.cli import exits
from tillie.demo.prosody import PrivateProsody

__all__ = ["prosody"]


@pytest.fixture(scope="module")
def alice(tmp_path_factory: pytest.TempPathFactory, prosody: PrivateProsody) -> Machine:
    folder = tmp_path_factory.mktemp("alice") / "machine"
    return Machine(folder, prosody, new_account(prosody, "alice")).ready()


@pytest.fixture(scope="module")
def bob(tmp_path_factory: pytest.TempPathFactory, prosody: PrivateProsody) -> Machine:
    folder = tmp_path_factory.mktemp("bob") / "machine"
    return Machine(folder, prosody, new_account(prosody, "bob", "montague.test")).ready()


@pytest.fixture
def carol(tmp_path: Path, prosody: PrivateProsody) -> Machine:
    """Somebody with whom there was no session yet."""
    return Machine(tmp_path / "carol", prosody, new_account(prosody, "carol")).ready()


def at(machine: Machine, *arguments: str) -> Terminal:
    return Terminal(*arguments, TILLIE_HOME=str(machine.folder / "home"))


def listed(machine: Machine, *options: str) -> list[dict[str, Any]]:
    code, out, err = machine.run("session", "list", "--json", *options)
    assert code == exits.OK, err
    return [json.loads(line) for line in out.splitlines()]


def test_two_people_at_their_terminals(carol: Machine, bob: Machine) -> None:
    transcript = carol.folder / "transcript"
    with at(bob, "chat", carol.address) as his:
        his.expect("Talking with")
        with at(carol, "session", "start", bob.address, "--transcript", str(transcript)) as hers:
            his.expect("no answer: ")
            his.type("y\n")
            string = his.expect("must see this string:  ")
            assert hers.expect("must see this string:  ") == string
            hers.expect("Ctrl-D ends the session.")

            hers.type("Tea at four?\n")
            his.expect("[session, not verified]  Tea at four?")
            his.type("Gladly.\n")
            hers.expect("[session, not verified]  Gladly.")

            hers.type("/verify\n")
            hers.expect(string)
            hers.expect(f"xmpp:{carol.address}?esession-string=")
            hers.expect("decide later: ")
            hers.type("yes\n")
            hers.expect("is verified now.")
            assert bob.run("verify", carol.address, "--string", string.upper())[0] == exits.OK

            hers.type("/rekey\n")
            hers.expect("The keys of the session were changed.")
            hers.type("/ned\n")
            hers.expect("That is no command, and was not sent.")
            hers.type("//ned\n")
            his.expect("[session, verified]  /ned")

            hers.type("\x04")
            hers.expect("is over")
            assert hers.end() == exits.OK
        his.expect("the other side ended it")
        his.type("\x04")
        assert his.end() == exits.OK

    code, out, err = carol.run("session", "forge", str(transcript), "--json")
    forged = json.loads(out)
    assert (code, forged["as_good"]) == (exits.OK, True), err
    assert {each["real"] for each in forged["stanzas"]} == {"verifies"}
    again = [each["state"] for each in listed(carol, "--over")]
    assert again == ["ended"]


def test_a_session_is_used_from_a_second_terminal(alice: Machine, bob: Machine) -> None:
    with at(bob, "listen", "--answer", "everyone") as his:
        his.expect("Listening as")
        with at(alice, "session", "start", bob.address) as hers:
            use_it_from_a_second_terminal(alice, bob, hers, his)


def use_it_from_a_second_terminal(alice: Machine, bob: Machine, hers: Terminal, his: Terminal) -> None:
    hers.expect("Ctrl-D ends the session.")
    (session,) = listed(alice)
    (other,) = listed(bob)
    assert (session["state"], session["string"]) == ("active", other["string"])
    assert session["string_digest"] == other["string_digest"]

    code, _, err = alice.run("send", "--scheme", "esession", bob.address, "from another room")
    assert (code, "in the open encrypted session" in err) == (exits.OK, True), err
    his.expect("from another room")
    assert alice.run("session", "rekey", bob.address)[0] == exits.OK
    hers.expect("The keys of the session were changed.")

    link = f"xmpp:{bob.address}?esession-string={other['string_digest']}"
    assert alice.run("verify", bob.address, "--uri", link)[0] == exits.OK
    hers.expect("is verified now.")
    assert alice.run("trust", "name", bob.address, "Bobby")[0] == exits.OK
    hers.expect("Bobby")
    assert listed(alice)[0]["petname"] == "Bobby"

    code, out, err = alice.run("session", "end", bob.address)
    assert (code, "is over" in out) == (exits.OK, True), err
    hers.expect("is over")
    assert hers.end() == exits.OK
    his.expect("the other side ended it")


def test_what_is_piped_in_is_sent_and_the_session_ended(alice: Machine, bob: Machine) -> None:
    ears = listening(bob, "--count", "2")
    try:
        code, out, err = alice.run("session", "start", bob.address, "--json", stdin="one\n/end is no command here\n")
        assert code == exits.OK, err
        events = [json.loads(line) for line in out.splitlines()]
        assert [each["event"] for each in events] == ["open", "sent", "sent", "over"]
        heard, err = ears.communicate(timeout=60)
    finally:
        ears.kill()
    found = [json.loads(line) for line in heard.splitlines()]
    texts = [each["text"] for each in found if each["kind"] == "opened"]
    assert texts == ["one", "/end is no command here"], err
    states = [each["state"] for each in found if each["kind"] == "session"]
    assert states[:2] == ["answered", "active"]


def test_send_opens_a_session_for_one_message(alice: Machine, bob: Machine) -> None:
    ears = listening(bob, "--count", "1")
    try:
        code, _, err = alice.run("send", "--scheme", "esession", bob.address, "only this")
        assert code == exits.OK, err
        assert "in a new encrypted session" in err
        heard, _ = ears.communicate(timeout=60)
    finally:
        ears.kill()
    opened = [json.loads(line) for line in heard.splitlines() if '"opened"' in line]
    assert [(each["text"], each["scheme"]) for each in opened] == [("only this", "esession")]
    assert listed(alice) == []


def test_ctrl_c_ends_the_session(alice: Machine, bob: Machine) -> None:
    with at(bob, "listen", "--answer", "everyone") as his:
        his.expect("Listening")
        with at(alice, "session", "start", bob.address) as hers:
            hers.expect("Ctrl-D ends the session.")
            hers.interrupt()
            assert hers.end() == exits.INTERRUPTED
        his.expect("the other side ended it")


def listening(machine: Machine, *options: str) -> subprocess.Popen[str]:
    """`tillie listen --json`, logged in: an offer to somebody who is away is lost."""
    process = machine.start("listen", "--answer", "everyone", "--json", *options)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("Listening as")
    return process
