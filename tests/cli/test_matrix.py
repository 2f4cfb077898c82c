"""Transcripts on Matrix: accounts, messages, devices, trust, over a private `tillie home` on loopback."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from support.homes import PASSWORD, PrivateHome
from support.terminal import Outcome
from tillie.cli import exits, main, verifying
from tillie.cli.messages import MAX_MATRIX_TEXT_BYTES
from tillie.errors import UsageError
from tillie.model import Address, Device

_names = (f"person{number}" for number in count())


@pytest.fixture(scope="module")
def home() -> Iterator[PrivateHome]:
    with PrivateHome() as running:
        yield running


@dataclass
class Street:
    """Where people live: their homeserver, and a folder with all their machines."""

    home: PrivateHome
    folder: Path
    patch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]

    def person(self, *options: str) -> Person:
        """Somebody new, at a machine of her own."""
        person = Person(self, self.home.register(next(_names)))
        done = person.add(*options)
        assert done.code == exits.OK, done.err
        return person


class Person:
    """A machine of somebody's."""

    def __init__(self, street: Street, address: str, machine: str = "") -> None:
        self.street, self.address = street, address
        self.home = street.folder / (machine or address[1:].partition(":")[0])
        self.home.mkdir()
        (self.home / "password").write_text(f"{PASSWORD}\n")

    def again(self, machine: str, *options: str) -> Person:
        """Another machine of hers."""
        other = Person(self.street, self.address, machine)
        assert other.add(*options).code == exits.OK
        return other

    def add(self, *options: str) -> Outcome:
        at = ("--homeserver", self.street.home.base_url, "--ca-file", self.street.home.ca_file)
        kept = ("--password-file", str(self.home / "password"), "--key-file", str(self.home / "key"))
        return self("account", "add", self.address, *at, *kept, *options)

    def __call__(self, *arguments: str, stdin: str = "", answers: str | None = None) -> Outcome:
        """Run a command line here. `answers` are typed at a terminal, `stdin` comes from a pipe."""
        patch = self.street.patch
        patch.setenv("TILLIE_HOME", str(self.home / "tillie"))
        typed = self.home / "typed"
        typed.write_text(stdin if answers is None else answers)
        patch.setattr(sys, "stdin", typed.open())
        patch.setattr("tillie.cli.show.is_conversation", lambda: answers is not None)
        self.street.capture.readouterr()
        code = main(arguments)
        out, err = self.street.capture.readouterr()
        return Outcome(code, out, err)

    @property
    def device(self) -> str:
        return str(self.own["device"])

    @property
    def fingerprint(self) -> str:
        return str(self.own["fingerprint"])

    @property
    def own(self) -> dict[str, object]:
        keys = [json.loads(line) for line in self("devices", "--offline", "--json").lines]
        return next(key for key in keys if key["this"])


@pytest.fixture
def street(
    home: PrivateHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Street:
    return Street(home, tmp_path, monkeypatch, capsys)


@pytest.fixture
def alice(street: Street) -> Person:
    return street.person()


@pytest.fixture
def bob(street: Street) -> Person:
    return street.person()


# -- accounts -------------------------------------------------------------------------------------------------------


def test_a_new_account_shows_its_fingerprint_and_nothing_secret(street: Street) -> None:
    person = Person(street, street.home.register(next(_names)))
    done = person.add()
    assert done.out == f"{person.address} is ready: this is device {person.device}.\n"
    assert done.err.endswith(f"  {person.fingerprint}\n")
    assert [len(group) for group in person.fingerprint.split(" ")] == [4] * 10 + [3]
    assert PASSWORD not in done.out + done.err
    for path in (person.home / "tillie").rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes()


def test_a_wrong_password_leaves_nothing(street: Street) -> None:
    person = Person(street, street.home.register(next(_names)))
    (person.home / "password").write_text("wrong\n")
    done = person.add()
    assert done.code == exits.NETWORK
    assert "did not accept the account or password" in done.err
    assert "account password" not in done.err  # there is no account whose password could be kept
    assert not list((person.home / "tillie").iterdir())


def test_a_server_whose_certificate_is_not_trusted_gets_no_password(street: Street) -> None:
    person = Person(street, street.home.register(next(_names)))
    given = ("--password-file", str(person.home / "password"), "--key-file", str(person.home / "key"))
    done = person("account", "add", person.address, "--homeserver", street.home.base_url, *given)
    assert (done.code, "certificate is not to be trusted" in done.err) == (exits.NETWORK, True)
    assert "--ca-file" in done.err
    # The same where the server's name tells where it is.
    done = person("account", "add", person.address, *given)
    assert (done.code, "--ca-file" in done.err) == (exits.NETWORK, True)


def test_a_profile_is_chosen_once_for_an_account(alice: Person) -> None:
    second = Person(alice.street, alice.address, "second")
    done = second.add("--profile", "draft2015")
    assert done.code == exits.NETWORK
    assert "did not take this device's keys" in done.err
    assert "--profile" in done.err
    assert not list((second.home / "tillie").iterdir())


@pytest.mark.parametrize(
    ("address", "options", "named"),
    [
        ("@bob:montague.example", ("--server", "xmpp.example"), "--server"),
        ("@bob:montague.example", ("--direct-tls",), "--direct-tls"),
        ("bob@montague.example", ("--homeserver", "https://montague.example"), "--homeserver"),
        ("bob@montague.example", ("--profile", "v1"), "--profile"),
    ],
)
def test_an_option_of_the_other_network_says_so(
    street: Street, address: str, options: tuple[str, ...], named: str
) -> None:
    done = Person(street, "@bob:montague.example", "bob")("account", "add", address, *options)
    assert done.code == exits.USAGE
    assert f"{named} is for accounts on" in done.err


def test_an_account_that_leaves_is_logged_out(alice: Person, bob: Person) -> None:
    assert bob("send", alice.address, "hello").code == exits.OK
    device = alice.device
    assert alice("account", "remove", alice.address, "--yes").code == exits.OK
    assert device not in bob("devices", alice.address).out
    done = bob("send", alice.address, "hello")
    assert (done.code, f"{alice.address} has no device" in done.err) == (exits.NO_RECIPIENT, True)


def test_an_account_whose_device_was_removed_leaves_without_advice_to_come_back(alice: Person) -> None:
    laptop = alice.again("laptop")
    assert alice("devices", "remove", laptop.device).code == exits.OK
    done = laptop("account", "remove", alice.address, "--yes")
    assert (done.code, done.err) == (exits.OK, "The homeserver has removed this device already.\n")


# -- messages -------------------------------------------------------------------------------------------------------


def test_a_message_is_sent_listened_to_answered_and_kept(alice: Person, bob: Person) -> None:
    sent = alice("send", bob.address, "Tea at four?")
    assert (sent.code, sent.out, sent.err) == (exits.OK, "", f"Sent: sealed for 1 device of {bob.address}.\n")
    heard = bob("listen", "--count", "1")
    assert heard.out.endswith(f"  {alice.address}  Tea at four?\n")
    assert bob("send", alice.address, "-", stdin="Gladly.\nAt <four> & \u00e9clairs.\n").code == exits.OK
    assert alice("listen", "--count", "1").lines[-1].strip() == "At <four> & \u00e9clairs."
    said = [line.split("  ", 1)[1] for line in alice("history", bob.address).lines]
    assert said[:2] == ["you  Tea at four?", f"{bob.address}  Gladly."]


def test_listen_as_json_has_the_written_schema(alice: Person, bob: Person) -> None:
    alice("send", bob.address, "line\none \N{RIGHT-TO-LEFT OVERRIDE}")
    line = bob("listen", "--count", "1", "--json").out
    assert line.isascii()
    heard = json.loads(line)
    assert list(heard) == [
        "kind", "from", "to", "device", "fingerprint", "label", "trust", "time", "text", "content", "notes", "error",
        "scheme", "stanza", "type", "id", "via",
    ]  # fmt: skip
    assert (heard["kind"], heard["from"], heard["to"]) == ("opened", alice.address, bob.address)
    assert (heard["device"], heard["fingerprint"], heard["label"]) == (alice.device, alice.fingerprint, "")
    assert (heard["scheme"], heard["stanza"], heard["trust"]) == ("olm", "to-device", "trusted")
    assert heard["text"] == "line\none \N{RIGHT-TO-LEFT OVERRIDE}"
    assert json.loads(heard["content"])["type"] == "m.room.message"


def test_a_peer_s_text_can_t_steer_the_terminal(alice: Person, bob: Person) -> None:
    alice("send", bob.address, "a\N{RIGHT-TO-LEFT OVERRIDE}b\u009bc\r\nforged line")
    shown = bob("listen", "--count", "1").lines
    assert shown[0].endswith(r"a\u202eb\x9bc")
    assert shown[1] == "                    forged line"


def test_every_device_is_reported_by_its_id_and_our_own_others_read_it(alice: Person, bob: Person) -> None:
    tablet, laptop = bob.again("tablet"), alice.again("laptop")
    sent = json.loads(alice("send", bob.address, "hello", "--json").out)
    assert (sent["scheme"], sent["session"]) == ("olm", None)
    assert {each["device"] for each in sent["devices"]} == {bob.device, tablet.device, laptop.device}
    assert all(each["sealed"] for each in sent["devices"])
    assert tablet("listen", "--count", "1").lines[0].endswith("hello")
    assert laptop("listen", "--count", "1").out.endswith(f"you, to {bob.address}  hello\n")
    assert laptop("history", bob.address).out.endswith("you  hello\n")


def test_history_as_json_names_the_device_that_wrote(alice: Person, bob: Person) -> None:
    alice("send", bob.address, "one")
    bob("listen", "--count", "1")
    (read,), (written,) = (
        [json.loads(line) for line in person("history", other.address, "--json").lines]
        for person, other in ((bob, alice), (alice, bob))
    )
    assert (read["text"], read["sent"], read["device"], read["scheme"]) == ("one", False, alice.device, "olm")
    assert (written["text"], written["sent"], written["device"]) == ("one", True, None)


def test_the_longest_message_goes_through_and_a_longer_one_is_refused(alice: Person, bob: Person) -> None:
    assert alice("send", bob.address, "-", stdin="x" * MAX_MATRIX_TEXT_BYTES).code == exits.OK
    assert bob("listen", "--count", "1").out.rstrip().endswith("x" * MAX_MATRIX_TEXT_BYTES)
    done = alice("send", bob.address, "-", stdin="x" * (MAX_MATRIX_TEXT_BYTES + 1))
    assert (done.code, f"at most {MAX_MATRIX_TEXT_BYTES} bytes" in done.err) == (exits.USAGE, True)


def test_a_text_that_json_makes_much_longer_is_refused_for_its_size(alice: Person, bob: Person) -> None:
    done = alice("send", bob.address, "-", stdin="\x01" * MAX_MATRIX_TEXT_BYTES)
    assert (done.code, done.err.count("too large")) == (exits.USAGE, 1)
    assert "Sent" in alice("send", bob.address, "and this one goes").err


def test_what_json_can_t_hold_is_refused_before_it_is_sent(alice: Person, bob: Person) -> None:
    done = alice("send", bob.address, "a\udc80b")  # bytes on the command line that are not UTF-8
    assert done.code == exits.USAGE
    assert "fault in Tillie" not in done.err


def test_two_people_chat(alice: Person, bob: Person) -> None:
    alice("chat", bob.address, stdin="Tea at four?\n")
    assert bob("listen", "--count", "1").out.endswith("Tea at four?\n")


# -- devices and trust ----------------------------------------------------------------------------------------------


def test_a_verified_contact_s_new_device_stops_a_send(alice: Person, bob: Person) -> None:
    assert alice("send", bob.address, "one").code == exits.OK
    assert alice("verify", bob.address, "--fingerprint", bob.fingerprint).code == exits.OK
    tablet = bob.again("tablet")
    stopped = alice("send", bob.address, "two")
    assert (stopped.code, tablet.device in stopped.err) == (exits.DECISION, True)
    assert alice("trust", "distrust", bob.address, tablet.device).code == exits.OK
    report = [line.split() for line in alice("send", bob.address, "three", "--report").lines[1:]]
    assert {row[0]: row[2] for row in report} == {bob.device: "sealed", tablet.device: "skipped"}


def test_a_fingerprint_is_compared_as_it_was_read_out(alice: Person, bob: Person) -> None:
    assert bob.fingerprint in alice("devices", bob.address).out
    other = "A" * 43
    assert alice("verify", bob.address, "--fingerprint", other).code == exits.DECISION
    assert alice("verify", bob.address, "--fingerprint", "0123 4567").code == exits.USAGE
    done = alice("verify", bob.address, "--fingerprint", bob.fingerprint.replace(" ", ""))
    assert done.out == f"1 key of {bob.address} verified.\n"
    seen = json.loads(alice("trust", "list", bob.address, "--json").out)
    assert (seen["scheme"], seen["device"], seen["trust"]) == ("olm", bob.device, "verified")


def test_a_link_is_shown_and_verifies(alice: Person, bob: Person) -> None:
    shown = bob("verify", alice.address, answers="y\n").out
    link = next(line.strip() for line in shown.splitlines() if "matrix:u/" in line)
    assert alice.fingerprint in shown
    assert bob.fingerprint in shown
    altered = link[:-6] + ("A" if link[-6] != "A" else "B") + link[-5:]
    assert alice("verify", bob.address, "--uri", altered).code == exits.DECISION
    assert alice("verify", bob.address, "--uri", link.replace("u/", "u/mercutio")).code == exits.USAGE
    assert alice("verify", bob.address, "--uri", "matrix:u/x:y").code == exits.USAGE
    assert alice("verify", bob.address, "--uri", link).code == exits.OK
    assert "verified" in alice("trust", "list", bob.address).out


@pytest.mark.parametrize("device", ["JLAFKJWSCS", "a:b", "a&b=c%25?#/+"])
def test_a_link_of_any_device_is_read_back(device: str) -> None:
    key = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")  # RFC 8032, test 2
    odd = Address("@o+x/y=z%?#:capulet.example:8448")
    link = verifying.uri_of([Device(odd, 7, key, device), Device(odd, 8, key, "OTHER")])
    assert link.isascii()
    assert link.startswith("matrix:u/")
    assert list(verifying.fingerprints_in(link, odd)) == [device, "OTHER"]
    with pytest.raises(UsageError):
        verifying.fingerprints_in(link, Address("@alice:capulet.example"))


def test_a_device_that_is_lost_is_removed_and_logged_out(alice: Person, bob: Person) -> None:
    tablet = bob.again("tablet")
    tablet("devices")  # it has just read the list that it is on
    bob("devices")
    assert bob("devices", "remove", bob.device).code == exits.USAGE
    assert bob("devices", "remove", "NOSUCH").code == exits.USAGE
    assert bob("devices", "remove", tablet.device).code == exits.OK
    assert tablet.device not in alice("devices", bob.address).out
    done = tablet("send", alice.address, "hello")
    assert done.code == exits.NETWORK
    assert f"was logged out at its homeserver. It was device {tablet.device}" in done.err
    assert "tillie account password" in done.err
    assert tablet("account", "password", "--password-file", str(tablet.home / "password")).code == exits.OK
    assert tablet("send", alice.address, "I am back").code == exits.OK
    assert tablet.device in alice("devices", bob.address).out  # its keys are at the homeserver again


def test_a_password_is_asked_for_only_where_the_homeserver_wants_it(alice: Person, bob: Person) -> None:
    desk = bob.again("desk", "--no-keep-password")
    tablet = bob.again("tablet")
    asked: list[str] = []

    def type_it(question: str, _: object) -> str:
        asked.append(question)
        return PASSWORD

    bob.street.patch.setattr("getpass.getpass", type_it)
    assert desk("send", alice.address, "hello").code == exits.OK
    assert alice("send", bob.address, "hello", answers="").code == exits.OK
    assert desk("listen", "--count", "1", answers="").out.endswith("hello\n")
    assert desk("devices", answers="").code == exits.OK
    assert asked == []
    done = desk("devices", "remove", tablet.device)
    assert (done.code, "wants the account's password" in done.err) == (exits.NETWORK, True)
    assert "tillie account password" in done.err
    assert desk("devices", "remove", tablet.device, answers="").code == exits.OK
    assert asked == [f"Password of {bob.address}: "]
    assert desk("account", "password", "--forget").code == exits.OK  # and the token with it
    assert desk("devices").code == exits.NETWORK
    assert desk("devices", answers="").code == exits.OK
    assert len(asked) == 2


def test_a_server_that_can_t_be_asked_is_not_taken_for_one_without_devices(alice: Person) -> None:
    nobody, away = f"@nobody:{alice.street.home.name}", "@bob:localhost:1"
    assert f"{nobody} has no device" in alice("devices", nobody).err
    done = alice("devices", away)
    assert (done.code, done.out) == (exits.NETWORK, "")
    assert f"The devices of {away} can't be had" in done.err
    done = alice("send", away, "hello")
    assert (done.code, done.err.count("M_UNKNOWN")) == (exits.NO_RECIPIENT, 1)
    assert "every device: the list can't be had" in done.err


def test_sessions_are_reset_by_the_device_s_id(alice: Person, bob: Person) -> None:
    alice("send", bob.address, "one")
    assert alice("devices", "reset", bob.address, bob.device).out.startswith("1 session put away")
    assert alice("devices", "reset", bob.address, "NOSUCH").out.startswith("There was no session")
    alice("send", bob.address, "two")
    assert [line.rpartition("  ")[2] for line in bob("listen", "--count", "2").lines] == ["one", "two"]


def test_a_restored_account_is_a_new_device_and_says_so(alice: Person, bob: Person) -> None:
    alice("verify", bob.address, "--fingerprint", bob.fingerprint)
    alice("send", bob.address, "before")
    assert bob("listen", "--count", "1").out.endswith("before\n")
    secret = alice.home / "secret"
    secret.write_text("a passphrase of its own\n")
    file = alice.home / "alice.backup"
    assert alice("backup", str(file), "--backup-passphrase-file", str(secret)).code == exits.OK
    other = Person(alice.street, alice.address, "other")
    done = other(
        "restore", str(file), "--backup-passphrase-file", str(secret), "--key-file", str(other.home / "key"),
        "--password-file", str(other.home / "password"),
    )  # fmt: skip
    assert done.code == exits.OK, done.err
    assert f"this is device {other.device}, with a new fingerprint" in done.out
    assert f"tillie devices remove {alice.device}" in done.err
    assert other("history", bob.address).out.endswith("you  before\n")
    assert other("send", bob.address, "after").code == exits.OK
    assert bob("listen", "--count", "1").out.endswith("after\n")


# -- what is of XMPP alone ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("session", "start", "@bob:montague.example"),
        ("session", "list"),
        ("session", "settings"),
        ("pubsub", "list", "blog"),
        ("pubsub", "list", "blog", "--service", "@bob:montague.example"),
        ("keys", "generate"),
        ("keys", "backup"),
        ("seal", "--to", "bob@montague.example"),
        ("seal", "--to", "@bob:montague.example"),
        ("send", "bob@montague.example", "hello"),
        ("send", "@bob:montague.example", "hello", "--scheme", "omemo"),
        ("verify", "@bob:montague.example", "--string", "abcdef"),
        ("trust", "name", "@bob:montague.example", "Bobby"),
        ("listen", "--answer", "ask"),
        ("chat", "@bob:montague.example", "--transcript", "transcript"),
    ],
)
def test_what_is_of_xmpp_alone_says_so(alice: Person, arguments: tuple[str, ...]) -> None:
    done = alice(*arguments)
    assert (done.code, done.out) == (exits.USAGE, "")
    assert len(done.err.splitlines()) >= 2  # what is wrong, and what to do


@pytest.mark.parametrize("address", ["@bob@montague.example", "bob:montague.example", "@bob", "@:x", "@bob:mon tague"])
def test_what_is_no_address_is_refused_with_an_example(alice: Person, address: str) -> None:
    done = alice("send", address, "hello")
    assert done.code == exits.USAGE
    assert "@bob:example.net" in done.err


def test_links_to_a_person_are_read_as_addresses(alice: Person, bob: Person) -> None:
    for link in (f"matrix:u/{bob.address[1:]}?action=chat", f"https://matrix.to/#/{bob.address}"):
        assert bob.device in alice("devices", link).out
