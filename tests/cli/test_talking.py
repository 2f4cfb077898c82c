"""Transcripts: accounts, messages, history, over a network in this process."""

from __future__ import annotations

import json
import os
import stat

import pytest

from support.terminal import ALICE, BOB, PASSWORD, Person, World, alice, bob, world
from tillie.cli import exits
from tillie.errors import AuthenticationFailed, Unreachable

__all__ = ["alice", "bob", "world"]


def raises(error: Exception) -> None:
    raise error


def test_a_new_account_shows_its_fingerprint_and_nothing_secret(world: World) -> None:
    alice = Person(world, "alice", ALICE)
    done = alice.add_account()
    assert done.code == exits.OK
    assert done.out.startswith(f"{ALICE} is ready: this is device ")
    assert len(done.err.split()[-8:]) == 8
    assert PASSWORD not in done.out + done.err


def test_files_are_for_their_owner_alone(alice: Person) -> None:
    os.umask(0)
    for path in [alice.home / "tillie", *(alice.home / "tillie").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE((alice.home / "key").stat().st_mode) == 0o600


def test_the_password_is_in_no_file_in_plain(alice: Person) -> None:
    for path in (alice.home / "tillie").rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes()


def test_an_account_that_can_t_log_in_leaves_nothing(world: World) -> None:
    alice = Person(world, "alice", ALICE)
    world.refuse = lambda: raises(AuthenticationFailed())
    done = alice.add_account()
    assert done.code == exits.NETWORK
    assert "did not accept the account or password" in done.err
    assert not list((alice.home / "tillie").iterdir())
    assert alice("account", "list").err.startswith("There is no account here yet.")


def test_a_message_is_sent_listened_to_answered_and_kept(alice: Person, bob: Person) -> None:
    sent = alice("send", BOB, "Tea at four?")
    assert (sent.code, sent.out, sent.err) == (exits.OK, "", f"Sent: sealed for 1 device of {BOB}.\n")

    heard = bob("listen", "--count", "1")
    assert heard.code == exits.OK
    assert heard.out.endswith(f"  {ALICE}  Tea at four?\n")

    assert bob("send", ALICE, "-", stdin="Gladly.\nAt <four> & with scones.\n").code == exits.OK
    assert alice("listen", "--count", "1").lines[-1].strip() == "At <four> & with scones."

    said = [line.split("  ", 1)[1] for line in alice("history", BOB).lines]
    assert said[:2] == ["you  Tea at four?", f"{BOB}  Gladly."]
    assert [json.loads(line)["sent"] for line in bob("history", ALICE, "--json").lines] == [False, True]


def test_what_was_shown_is_not_shown_again_and_what_was_not_is(alice: Person, bob: Person) -> None:
    for text in ("one", "two", "three"):
        alice("send", BOB, text)
    assert [line.rpartition("  ")[2] for line in bob("listen", "--count", "1").lines] == ["one"]
    assert [line.rpartition("  ")[2] for line in bob("listen", "--count", "2").lines] == ["two", "three"]


def test_send_reports_every_device(world: World, alice: Person, bob: Person) -> None:
    tablet = world.person("bob", BOB, machine="tablet")
    sent = json.loads(alice("send", BOB, "hello", "--json").out)
    assert sent["sent"] is True
    assert [device["sealed"] for device in sent["devices"]] == [True, True]
    shown = alice("send", BOB, "hello", "--report")
    assert [line.split()[-1] for line in shown.lines[1:]] == ["sealed", "sealed"]
    assert tablet("listen", "--count", "1").lines[0].endswith("hello")


def test_own_other_device_reads_what_we_send(world: World, alice: Person, bob: Person) -> None:
    phone = world.person("alice", ALICE, machine="telephone")
    assert "and 1 of your own" in alice("send", BOB, "hello").err
    assert phone("listen", "--count", "1").out.endswith(f"you, to {BOB}  hello\n")
    assert phone("history", BOB).out.endswith("you  hello\n")


def test_listen_as_json_has_the_written_schema(alice: Person, bob: Person) -> None:
    alice("send", BOB, "line\none \x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}".replace("\x1b", ""))
    line = bob("listen", "--count", "1", "--json").out
    assert line.isascii()
    heard = json.loads(line)
    assert list(heard) == [
        "kind", "from", "to", "device", "fingerprint", "label", "trust", "time", "text", "content", "notes", "error",
        "scheme", "stanza", "type", "id", "via",
    ]  # fmt: skip
    assert (heard["kind"], heard["from"], heard["trust"], heard["scheme"]) == ("opened", ALICE, "trusted", "omemo")
    assert heard["text"] == "line\none [31m\N{RIGHT-TO-LEFT OVERRIDE}"


def test_a_peer_s_text_can_t_steer_the_terminal(alice: Person, bob: Person) -> None:
    alice("send", BOB, "a\N{RIGHT-TO-LEFT OVERRIDE}b\u009bc\r\nforged line")
    shown = bob("listen", "--count", "1").lines
    assert shown[0].endswith(r"a\u202eb\x9bc")
    assert shown[1] == "                    forged line"


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_message_is_not_sent(alice: Person, text: str) -> None:
    done = alice("send", BOB, "-", stdin=text)
    assert (done.code, done.out) == (exits.USAGE, "")
    assert "nothing to send" in done.err


def test_a_message_at_the_limit_goes_and_one_beyond_does_not(alice: Person, bob: Person) -> None:
    from tillie.cli.messages import MAX_TEXT_BYTES

    assert alice("send", BOB, "-", stdin="x" * MAX_TEXT_BYTES).code == exits.OK
    assert bob("listen", "--count", "1").out.rstrip().endswith("x" * MAX_TEXT_BYTES)
    done = alice("send", BOB, "-", stdin="x" * (MAX_TEXT_BYTES + 1))
    assert (done.code, f"at most {MAX_TEXT_BYTES} bytes" in done.err) == (exits.USAGE, True)


def test_nobody_could_read_it(alice: Person) -> None:
    done = alice("send", "nobody@montague.example", "hello")
    assert done.code == exits.NO_RECIPIENT
    assert done.err.startswith("error: Nobody could read this message, so it was not sent.")
    assert "tillie devices" in done.err


@pytest.mark.parametrize("address", ["nobody", "a@b@c", "a b@c.example", ""])
def test_what_is_no_address_is_refused_with_an_example(alice: Person, address: str) -> None:
    done = alice("send", address, "hello")
    assert done.code == exits.USAGE
    assert "An address looks like bob@example.net." in done.err


def test_without_a_network_the_error_says_that_nothing_is_lost(world: World, alice: Person) -> None:
    world.refuse = lambda: raises(Unreachable("montague.example: no route."))
    done = alice("send", BOB, "hello")
    assert done.code == exits.NETWORK
    assert done.err.startswith("error: The server can't be reached.")
    assert "Check the connection" in done.err


def test_several_accounts_need_a_choice(world: World, alice: Person) -> None:
    assert Person(world, "alice", "nurse@capulet.example").add_account().code == exits.OK
    done = alice("history", BOB)
    assert done.code == exits.USAGE
    assert "--account" in done.err
    assert alice("history", BOB, "--account", ALICE).code == exits.OK
    assert alice("history", BOB, "-a", "romeo@montague.example").code == exits.USAGE
    assert [json.loads(line)["address"] for line in alice("account", "list", "--json").lines] == [
        ALICE,
        "nurse@capulet.example",
    ]


def test_an_account_is_added_once(alice: Person) -> None:
    done = alice.add_account()
    assert done.code == exits.USAGE
    assert "is here already" in done.err


def test_removing_an_account_takes_its_device_off_the_list(world: World, alice: Person, bob: Person) -> None:
    world.person("bob", BOB, machine="tablet")
    assert len(alice("devices", BOB, "--json").lines) == 2
    removed = bob("account", "remove", BOB, "--yes")
    assert (removed.code, removed.out) == (exits.OK, f"{BOB} is removed from this machine.\n")
    assert len([1 for line in alice("devices", BOB, "--json").lines if json.loads(line)["listed"]]) == 1
    assert not list((bob.home / "tillie").glob("*/store"))


def test_a_lost_device_is_taken_off_the_list(world: World, alice: Person, bob: Person) -> None:
    tablet = world.person("bob", BOB, machine="tablet")
    lost = next(json.loads(line)["device"] for line in tablet("devices", "--json").lines if json.loads(line)["this"])
    assert bob("devices", "remove", str(lost)).code == exits.OK
    report = json.loads(alice("send", BOB, "hello", "--json").out)["devices"]
    assert lost not in [device["device"] for device in report]
    assert bob("devices", "remove", str(lost)).code == exits.USAGE


def test_a_session_that_is_reset_begins_anew(alice: Person, bob: Person) -> None:
    alice("send", BOB, "one")
    assert alice("devices", "reset", BOB).out.startswith("1 session put away.")
    assert alice("send", BOB, "two").code == exits.OK
    assert [line.rpartition("  ")[2] for line in bob("listen", "--count", "2").lines] == ["one", "two"]


def test_chat_talks_and_hears(alice: Person, bob: Person) -> None:
    bob("send", ALICE, "art thou there?")
    done = alice("chat", BOB, stdin="I am.\n\nFarewell.\n")
    assert done.code == exits.OK
    assert [line.rpartition("  ")[2] for line in bob("listen", "--count", "2").lines] == ["I am.", "Farewell."]


@pytest.mark.parametrize("part", [b"<payload>", b"<key rid="])
def test_an_altered_message_is_told_and_shows_nothing(world: World, alice: Person, bob: Person, part: bytes) -> None:
    alice("send", BOB, "one")
    bob("listen", "--count", "1")
    alice("send", BOB, "altered")
    archived = world.server.archive[-1]
    at = archived.stanza.index(b">", archived.stanza.index(part) + len(part) - 1) + 60
    changed = b"A" if archived.stanza[at : at + 1] != b"A" else b"B"
    stanza = archived.stanza[:at] + changed + archived.stanza[at + 1 :]
    world.server.archive[-1] = archived._replace(stanza=stanza)
    alice("send", BOB, "three")
    heard = bob("listen", "--count", "1" if part == b"<payload>" else "2")
    assert "altered" not in heard.out
    assert heard.out.endswith("three\n")
    assert "can't be read" in heard.out + heard.err
