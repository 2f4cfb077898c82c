"""Transcripts: OpenPGP keys, made, imported, announced, revoked, backed up; messages and objects sealed with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.gnupg import GnuPG, unavailable
from support.terminal import ALICE, BOB, Outcome, Person, World, alice, bob, world
from tillie.cli import exits
from tillie.cli.keys import MAX_IMPORT
from tillie.schemes.openpgp.objects import MAX_OBJECT_BYTES

__all__ = ["alice", "bob", "world"]


def listed(person: Person, *arguments: str) -> list[dict[str, Any]]:
    """OpenPGP keys, as `tillie keys list` shows them."""
    done = person("keys", "list", *arguments, "--scheme", "openpgp", "--json")
    assert done.code == exits.OK, done.err
    return [json.loads(line) for line in done.lines]


def generated(person: Person) -> str:
    """A new key of a person; its fingerprint without spaces."""
    done = person("keys", "generate")
    assert done.code == exits.OK, done.err
    return done.lines[1].replace(" ", "")


def backed_up(person: Person) -> str:
    done = person("keys", "backup")
    assert done.code == exits.OK, done.err
    return done.out.strip()


# -- made and shown -------------------------------------------------------------------------------------------------


def test_generate_says_what_it_did_and_what_to_do_next(alice: Person) -> None:
    done = alice("keys", "generate")
    assert done.code == exits.OK
    first, second = done.lines
    assert first == f"The OpenPGP key of {ALICE} is made:"
    assert [len(group) for group in second.split()] == [4] * 10
    assert second == second.upper()
    assert "tillie keys backup" in done.err
    (key,) = listed(alice)
    assert key["fingerprint"] == second.strip()
    assert (key["scheme"], key["device"], key["this"], key["active"], key["listed"]) == (
        "openpgp",
        None,
        True,
        True,
        True,
    )
    assert key["user_ids"] == [f"xmpp:{ALICE}"]


def test_a_second_key_is_made_on_purpose_only(alice: Person) -> None:
    generated(alice)
    again = alice("keys", "generate")
    assert (again.code, "--another" in again.err) == (exits.USAGE, True)
    assert alice("keys", "generate", "--another").code == exits.OK
    assert sorted(key["active"] for key in listed(alice)) == [False, True]


def test_a_key_that_is_announced_elsewhere_is_restored_or_left(world: World, alice: Person) -> None:
    generated(alice)
    laptop = world.person("alice", ALICE, machine="laptop")
    done = laptop("keys", "generate")
    assert done.code == exits.USAGE
    assert "tillie keys restore" in done.err
    assert "--another" in done.err
    assert laptop("keys", "generate", "--another").code == exits.OK
    assert len(listed(laptop)) == 2


def test_list_shows_both_kinds_and_reads_well(alice: Person, bob: Person) -> None:
    fingerprint = generated(bob)
    shown = alice("keys", "list", BOB)
    assert [line for line in shown.lines if line[:1] != " "][1].replace(" ", "") == fingerprint
    assert "OMEMO, device" in shown.out
    assert f"  xmpp:{BOB}" in shown.lines
    kinds = [json.loads(line)["scheme"] for line in alice("keys", "list", BOB, "--offline", "--json").lines]
    assert kinds == ["omemo", "openpgp"]
    assert "tillie keys generate" in alice("keys", "list").err


@pytest.mark.parametrize("command", ["generate", "publish", "backup", "restore"])
def test_omemo_keys_are_none_of_these_commands_business(alice: Person, command: str) -> None:
    done = alice("keys", command, "--scheme", "omemo")
    assert (done.code, done.out) == (exits.USAGE, "")


@pytest.mark.parametrize("command", ["publish", "backup"])
def test_without_a_key_it_is_said_how_to_make_one(alice: Person, command: str) -> None:
    done = alice("keys", command)
    assert (done.code, "tillie keys generate" in done.err) == (exits.USAGE, True)


# -- published, revoked, retracted ------------------------------------------------------------------------------------


def test_a_key_that_was_taken_off_is_published_again(world: World, alice: Person, bob: Person) -> None:
    fingerprint = generated(alice)
    nodes = [node for _, node in world.server.items if "openpgp" in node]
    for node in nodes:
        world.server.items.pop((ALICE, node))  # type: ignore[call-overload]
    assert listed(bob, ALICE) == []
    assert alice("keys", "publish").code == exits.OK
    assert [key["fingerprint"].replace(" ", "") for key in listed(bob, ALICE)] == [fingerprint]


def test_revoking_asks_and_is_told_to_everybody(alice: Person, bob: Person) -> None:
    fingerprint = generated(alice)
    assert alice("keys", "revoke", fingerprint).code == exits.USAGE  # nobody to ask
    assert alice("keys", "revoke", fingerprint[:16], answers="n\n").code == exits.INTERRUPTED
    assert listed(alice)[0]["revoked"] is False
    done = alice("keys", "revoke", fingerprint[:16], answers="y\n")
    assert (done.code, done.out.endswith("is revoked.\n")) == (exits.OK, True)
    assert "tillie keys generate" in done.err
    generated(bob)
    assert bob("send", ALICE, "hello", "--scheme", "openpgp").code == exits.NO_RECIPIENT
    assert alice("keys", "revoke", fingerprint, "--yes").code == exits.OK  # as before


def test_a_lost_key_is_taken_off_the_list(world: World, alice: Person) -> None:
    lost = generated(alice)
    laptop = world.person("alice", ALICE, machine="laptop")
    assert laptop("keys", "generate", "--another").code == exits.OK
    refused = laptop("keys", "revoke", lost, "--yes")
    assert (refused.code, "tillie keys retract" in refused.err) == (exits.USAGE, True)
    assert laptop("keys", "retract", lost).code == exits.OK
    assert lost not in [key["fingerprint"].replace(" ", "") for key in listed(laptop)]


@pytest.mark.parametrize("typed", ["", "8 digits", "0123ABCD", "0" * 15, "0" * 41, "0" * 40])
def test_a_key_is_not_named_by_a_short_id(alice: Person, typed: str) -> None:
    fingerprint = generated(alice)
    assert alice("keys", "revoke", typed, "--yes").code == exits.USAGE
    assert alice("keys", "revoke", fingerprint[-16:], "--yes").code == exits.USAGE
    assert listed(alice)[0]["revoked"] is False


def test_removing_an_account_leaves_the_key_to_other_devices(alice: Person, bob: Person) -> None:
    fingerprint = generated(alice)
    done = alice("account", "remove", ALICE, "--yes")
    assert (done.code, "stays on the account's list" in done.err) == (exits.OK, True)
    assert [key["fingerprint"].replace(" ", "") for key in listed(bob, ALICE)] == [fingerprint]


# -- backup ---------------------------------------------------------------------------------------------------------


def test_the_code_brings_the_keys_to_another_machine(world: World, alice: Person, bob: Person) -> None:
    fingerprint = generated(alice)
    code = backed_up(alice)
    assert [len(group) for group in code.split("-")] == [4] * 6
    laptop = world.person("alice", ALICE, machine="laptop")
    (laptop.home / "code").write_text(code.lower().replace("-", " ") + "\n")
    done = laptop("keys", "restore", "--code-file", str(laptop.home / "code"))
    assert (done.code, done.lines[1].replace(" ", "")) == (exits.OK, fingerprint), done.err
    generated(bob)
    assert bob("send", ALICE, "sealed for one key", "--scheme", "openpgp").code == exits.OK
    assert laptop("listen", "--count", "1").out.endswith("sealed for one key\n")


def test_the_code_is_kept_nowhere_and_a_wrong_one_brings_nothing(world: World, alice: Person) -> None:
    generated(alice)
    code = backed_up(alice)
    for items in world.server.items.values():
        assert not any(code.encode() in payload for payload in items.values())
    laptop = world.person("alice", ALICE, machine="laptop")
    nobody = laptop("keys", "restore")
    assert (nobody.code, "--code-file" in nobody.err) == (exits.USAGE, True)
    (laptop.home / "code").write_text("1111-1111-1111-1111-1111-1111\n")
    wrong = laptop("keys", "restore", "--code-file", str(laptop.home / "code"))
    assert (wrong.code, "does not open with this code" in wrong.err) == (exits.USAGE, True)
    assert [key["this"] for key in listed(laptop)] == [False]


def test_without_a_backup_restore_says_so(alice: Person) -> None:
    done = alice("keys", "restore")
    assert (done.code, "There is no backup" in done.err) == (exits.USAGE, True)


def test_the_code_is_not_printed_if_the_server_does_not_take_the_backup(
    world: World, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tillie.errors import Rejected

    generated(alice)
    publish = world.server.publish

    def refuse(account: Any, publication: Any) -> None:
        if publication.node.endswith("secret-key"):
            raise Rejected("no such nodes here", condition="forbidden")
        publish(account, publication)

    monkeypatch.setattr(world.server, "publish", refuse)
    done = alice("keys", "backup")
    assert (done.code, done.out) == (exits.NETWORK, "")
    assert "Write it down" not in done.err


def test_a_backup_file_takes_the_openpgp_keys_too(world: World, alice: Person, bob: Person) -> None:
    fingerprint = generated(alice)
    (alice.home / "secret").write_text("correct horse\n")
    secret = ("--backup-passphrase-file", str(alice.home / "secret"))
    file = str(world.folder / "backup")
    assert alice("backup", file, *secret).code == exits.OK
    again = Person(world, "alice", ALICE, machine="new laptop")
    given = ("--password-file", str(again.password_file), "--key-file", str(again.home / "key"))
    assert again("restore", file, *secret, *given).code == exits.OK
    assert [key["fingerprint"].replace(" ", "") for key in listed(again) if key["active"]] == [fingerprint]
    generated(bob)
    bob("send", ALICE, "hello", "--scheme", "openpgp")
    assert again("listen", "--count", "1").out.endswith("hello\n")


# -- import ---------------------------------------------------------------------------------------------------------


def test_what_is_no_key_is_refused(alice: Person) -> None:
    (alice.home / "file").write_bytes(b"not a key")
    done = alice("keys", "import", str(alice.home / "file"))
    assert (done.code, "Traceback" in done.err) == (exits.USAGE, False)
    assert alice("keys", "import", str(alice.home / "nothing")).code == exits.USAGE
    (alice.home / "file").write_bytes(b"\x95" * (MAX_IMPORT + 1))
    large = alice("keys", "import", str(alice.home / "file"))
    assert (large.code, str(MAX_IMPORT) in large.err) == (exits.USAGE, True)


def test_a_key_without_a_passphrase_is_taken_from_standard_input(world: World, alice: Person) -> None:
    from tillie.crypto import openpgp

    (alice.home / "key.pgp").write_bytes(openpgp.generate("Alice <alice@example.org>").data)
    done = alice("keys", "import", str(alice.home / "key.pgp"))
    assert done.code == exits.OK, done.err
    assert listed(alice)[0]["user_ids"] == ["Alice <alice@example.org>", f"xmpp:{ALICE}"]


def test_a_key_of_gnupg_is_taken_with_its_passphrase(alice: Person) -> None:
    if unavailable():
        pytest.skip(unavailable())
    with GnuPG() as gnupg:
        gnupg.generate("alice@example.org", "open sesame")
        (alice.home / "key.pgp").write_bytes(gnupg.export_secret("alice@example.org", "open sesame"))
    command = ("keys", "import", str(alice.home / "key.pgp"))
    locked = alice(*command)
    assert (locked.code, "--key-passphrase-file" in locked.err) == (exits.USAGE, True)
    (alice.home / "secret").write_text("open barley\n")
    assert alice(*command, "--key-passphrase-file", str(alice.home / "secret")).code == exits.USAGE
    assert listed(alice) == []
    (alice.home / "secret").write_text("open sesame\n")
    assert alice(*command, "--key-passphrase-file", str(alice.home / "secret")).code == exits.OK
    (key,) = listed(alice)
    assert (key["active"], key["user_ids"]) == (True, ["alice@example.org", f"xmpp:{ALICE}"])


# -- messages -------------------------------------------------------------------------------------------------------


def test_a_message_goes_by_openpgp_and_is_answered(alice: Person, bob: Person) -> None:
    generated(alice), generated(bob)
    sent = alice("send", BOB, "Tea at four?", "--scheme", "openpgp")
    assert (sent.code, sent.err) == (exits.OK, f"Sent: sealed for 1 OpenPGP key of {BOB}.\n")
    heard = json.loads(bob("listen", "--count", "1", "--json").out)
    assert (heard["text"], heard["scheme"], heard["device"]) == ("Tea at four?", "openpgp", None)
    assert heard["fingerprint"] == listed(alice)[0]["fingerprint"]
    assert bob("send", ALICE, "Gladly.", "--scheme", "openpgp").code == exits.OK
    assert alice("listen", "--count", "1").out.endswith("Gladly.\n")


def test_without_a_key_of_one_s_own_nothing_is_sent(alice: Person, bob: Person) -> None:
    generated(bob)
    done = alice("send", BOB, "hello", "--scheme", "openpgp")
    assert (done.code, "keys generate" in done.err) == (exits.USAGE, True)


def test_a_key_that_comes_later_waits_and_gets_nothing(world: World, alice: Person, bob: Person) -> None:
    generated(alice), generated(bob)
    alice("send", BOB, "one", "--scheme", "openpgp")
    other = world.person("bob", BOB, machine="tablet")
    assert other("keys", "generate", "--another").code == exits.OK
    done = alice("send", BOB, "two", "--scheme", "openpgp")
    assert done.code == exits.OK
    assert f"tillie verify {BOB}" in done.err
    report = json.loads(alice("send", BOB, "three", "--scheme", "openpgp", "--json").out)["devices"]
    assert sorted(each["sealed"] for each in report) == [False, True]
    assert all(each["device"] is None and len(each["fingerprint"].split()) == 10 for each in report)
    table = alice("send", BOB, "four", "--scheme", "openpgp", "--report")
    assert sum("waits for your decision" in line for line in table.lines) == 1


# -- trust ----------------------------------------------------------------------------------------------------------


def test_an_openpgp_key_is_verified_and_distrusted_by_its_fingerprint(alice: Person, bob: Person) -> None:
    fingerprint = generated(bob)
    generated(alice)
    listed(alice, BOB)
    assert alice("verify", BOB, fingerprint[:16], answers="y\n").code == exits.OK
    assert [key["trust"] for key in listed(alice, BOB)] == ["verified"]
    shown = alice("trust", "list", BOB)
    assert fingerprint[:16] in shown.out
    assert "OpenPGP" in shown.out
    assert alice("trust", "distrust", BOB, fingerprint).code == exits.OK
    assert alice("send", BOB, "hello", "--scheme", "openpgp").code == exits.NO_RECIPIENT
    assert alice("send", BOB, "hello").code == exits.OK  # OMEMO is another key
    assert alice("verify", BOB, "--fingerprint", fingerprint.lower()).code == exits.OK
    assert [key["trust"] for key in listed(alice, BOB)] == ["verified"]


def test_verify_wants_the_whole_fingerprint_or_eyes(alice: Person, bob: Person) -> None:
    fingerprint = generated(bob)
    assert alice("verify", BOB, "--fingerprint", fingerprint[:16]).code == exits.USAGE
    assert alice("trust", "distrust", BOB, fingerprint[-8:]).code == exits.USAGE
    assert alice("trust", "distrust", BOB, str(int(fingerprint[-8:], 16) & 0x7FFFFFFF)).code == exits.USAGE
    assert [key["trust"] for key in listed(alice, BOB)] == ["trusted"]


# -- objects --------------------------------------------------------------------------------------------------------


@pytest.fixture
def both(alice: Person, bob: Person) -> tuple[Person, Person]:
    generated(alice), generated(bob)
    listed(alice, BOB), listed(bob, ALICE)
    return alice, bob


def seal(person: Person, data: bytes, *options: str) -> tuple[Outcome, Path]:
    (person.home / "in").write_bytes(data)
    sealed = person.home / "sealed"
    return person("seal", str(person.home / "in"), "-o", str(sealed), "--force", *options), sealed


def test_anything_is_sealed_and_opened_offline(world: World, both: tuple[Person, Person]) -> None:
    alice, bob = both
    world.refuse = lambda: pytest.fail("it went online")
    data = bytes(range(256)) * 100
    done, sealed = seal(alice, data, "--to", BOB)
    assert (done.code, done.out, done.err) == (exits.OK, "", "Sealed for 1 key and your own.\n")
    assert data[:64] not in sealed.read_bytes()
    for person, whose in ((bob, ALICE), (alice, "you")):
        opened = person("open", str(sealed), "-o", str(person.home / "out"))
        assert opened.code == exits.OK
        assert (person.home / "out").read_bytes() == data
        assert opened.err.startswith(f"Sealed by {whose}, ")
    about = json.loads(bob("open", str(sealed), "-o", str(bob.home / "out"), "--force", "--json").err)
    assert (about["from"], about["trust"], about["bytes"]) == (ALICE, "trusted", len(data))


def test_objects_go_through_pipes(both: tuple[Person, Person]) -> None:
    alice, bob = both
    done = alice("seal", "--to", BOB, "-o", str(bob.home / "sealed"), stdin="by pipe")
    assert done.code == exits.OK
    assert bob("open", str(bob.home / "sealed")).out == "by pipe"


def test_the_trust_in_who_sealed_it_is_in_the_exit_code(both: tuple[Person, Person]) -> None:
    alice, bob = both
    _, sealed = seal(alice, b"content", "--to", BOB)
    bob("trust", "policy", "manual")
    undecided = bob("open", str(sealed))
    assert (undecided.code, undecided.out) == (exits.DECISION, "content")
    assert f"tillie verify {ALICE}" in undecided.err
    key = listed(alice)[0]["fingerprint"]
    assert bob("trust", "distrust", ALICE, key).code == exits.OK
    distrusted = bob("open", str(sealed))
    assert (distrusted.code, distrusted.out) == (exits.DECISION, "")


def test_what_can_t_be_opened(both: tuple[Person, Person]) -> None:
    alice, bob = both
    _, sealed = seal(alice, b"content", "--to", ALICE)
    foreign = bob("open", str(sealed))
    assert (foreign.code, foreign.out) == (exits.USAGE, "")
    _, sealed = seal(alice, b"content", "--to", BOB)
    data = bytearray(sealed.read_bytes())
    data[-30] ^= 1
    sealed.write_bytes(data)
    altered = bob("open", str(sealed))
    assert (altered.code, altered.out) == (exits.PEER, "")
    sealed.write_bytes(b"")
    assert bob("open", str(sealed)).code == exits.PEER


def test_an_object_of_an_unknown_signer_is_not_shown(both: tuple[Person, Person], world: World) -> None:
    _alice, bob = both
    stranger = world.person("stranger", "stranger@example.org")
    generated(stranger)
    listed(stranger, BOB)
    _, sealed = seal(stranger, b"content", "--to", BOB)
    done = bob("open", str(sealed))
    assert (done.code, done.out) == (exits.PEER, "")
    assert "tillie keys list" in done.err


def test_sealing_needs_known_keys_and_has_a_limit(both: tuple[Person, Person]) -> None:
    alice, _bob = both
    done, _ = seal(alice, b"x", "--to", "nobody@example.org")
    assert (done.code, "tillie keys list nobody@example.org" in done.err) == (exits.USAGE, True)
    assert seal(alice, b"x")[0].code == exits.USAGE
    assert seal(alice, bytes(MAX_OBJECT_BYTES + 1), "--to", BOB)[0].code == exits.USAGE
    assert seal(alice, bytes(MAX_OBJECT_BYTES), "--to", BOB)[0].code == exits.OK


def test_binary_is_not_written_to_a_terminal(both: tuple[Person, Person], monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = both
    _, sealed = seal(alice, b"\x1b[2J\xff", "--to", BOB)
    monkeypatch.setattr("tillie.cli.files.is_terminal", lambda: True)
    assert alice("seal", "--to", BOB, stdin="x").code == exits.USAGE
    done = bob("open", str(sealed))
    assert (done.code, done.out) == (exits.USAGE, "")
    _, sealed = seal(alice, b"one\x1b[2J\ntwo", "--to", BOB)
    assert "\x1b" not in bob("open", str(sealed)).out


def test_a_file_is_not_replaced_unasked(both: tuple[Person, Person]) -> None:
    alice, _ = both
    (alice.home / "precious").write_text("precious")
    done = alice("seal", "--to", BOB, "-o", str(alice.home / "precious"), stdin="x")
    assert (done.code, (alice.home / "precious").read_text()) == (exits.USAGE, "precious")
