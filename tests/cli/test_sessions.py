"""Transcripts: what one sees of encrypted sessions, verifies, names, sets and forges, without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.channels import pair
from support.terminal import ALICE, BOB, Person, World, alice, bob, world
from tillie.account import Account
from tillie.cli import exits, online, session, session_forge, unlock
from tillie.cli.terminal import Lines
from tillie.client import options_of, text_content
from tillie.errors import NegotiationFailed, SessionBroken
from tillie.model import Address, Decide, Device, Done, Trust
from tillie.schemes.esession import channel, negotiating, records, sessions, text, transcript
from tillie.schemes.esession.settings import CODE_GROUP, CODE_GROUPS, is_code

__all__ = ["alice", "bob", "world"]


@contextmanager
def opened(person: Person) -> Iterator[Account]:
    """Somebody's account, as a command opens it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TILLIE_HOME", str(person.home / "tillie"))
        with unlock.account(None, None) as account:
            yield account


async def talk(world: World, one: Account, two: Account) -> None:
    """A session with a message each way, which nobody ends: as programs leave it that are killed."""
    ends = [
        await world.server.connect(each.address, each.store, options_of(each, True, None, print)) for each in (one, two)
    ]
    hers, his = ends
    here = await hers.sessions.start(two.address)
    await hers.sessions.send(here.peer, text_content("hello"))
    while not await his.engine.inbox():  # noqa: ASYNC110  a store tells nobody that it changed
        await asyncio.sleep(0.01)
    for end in ends:
        end.sessions.stop()
    world.server._online.clear()  # not `leave`, of which the other end would hear


def open_session(world: World, alice: Person, bob: Person) -> dict[str, Any]:
    """Leave an open session in both stores; as Alice sees it."""
    with opened(alice) as one, opened(bob) as two:
        for each in (one, two):
            each.settings = each.settings.__class__(sessions=each.settings.sessions.__class__(answer="everyone"))
        asyncio.run(talk(world, one, two))
    (found,) = listed(alice)
    return found


def listed(person: Person, *options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in person("session", "list", "--json", *options).lines]


# -- list -----------------------------------------------------------------------------------------------------------


def test_both_ends_list_the_same_string(world: World, alice: Person, bob: Person) -> None:
    here = open_session(world, alice, bob)
    (there,) = listed(bob)
    assert (here["state"], here["role"], there["role"]) == ("active", "initiator", "responder")
    assert (here["string"], here["string_digest"]) == (there["string"], there["string_digest"])
    assert (here["sent"], there["received"], here["trust"]) == (1, 1, "trusted")
    shown = alice("session", "list", BOB).lines
    assert here["string"] in shown[1]
    assert "not verified" in shown[1]
    assert alice("session", "list", "nurse@capulet.example").err == (
        "There is no open session with nurse@capulet.example.\n"
    )


def test_the_list_as_json_has_the_written_schema(world: World, alice: Person, bob: Person) -> None:
    assert list(open_session(world, alice, bob)) == [
        "thread", "own", "peer", "petname", "role", "state", "string", "string_name", "string_digest", "verifiable",
        "trust", "known", "profile", "parameters", "started", "sent", "received", "rekeys", "why",
    ]  # fmt: skip


def test_failed_attempts_are_listed_and_counted(world: World, alice: Person) -> None:
    with opened(alice) as ours:
        now = ours.clock()

        def fail(s: Any) -> Done[None]:
            record = records.Record("t", f"{ALICE}/a", f"{BOB}/b", "initiator", "concluded", now, now)
            return Done(None, negotiating.give_up(s, record, "its message does not verify", now))

        ours.store.run(fail)
    assert alice("session", "list").out == ""
    done = alice("session", "list", "--over")
    assert "did not come about" in done.out
    assert "its message does not verify" in done.out
    assert f"1 attempt with {BOB} failed today" in done.err
    assert "2 more will be taken" in done.err


# -- verify ---------------------------------------------------------------------------------------------------------


def test_yes_verifies_the_other_end_and_it_stays_so(world: World, alice: Person, bob: Person) -> None:
    here = open_session(world, alice, bob)
    done = alice("verify", BOB, answers="yes\n\n")
    assert here["string"] in done.out
    assert f"xmpp:{ALICE}?esession-string={here['string_digest']}" in done.out
    assert listed(alice)[0]["trust"] == "verified"
    assert "verified" in alice("trust", "list", BOB).out


def test_no_distrusts_and_ends_the_session(world: World, alice: Person, bob: Person) -> None:
    open_session(world, alice, bob)
    done = alice("verify", BOB, answers="what\nno\n\n")
    assert "distrusted" in done.out
    assert listed(alice) == []
    (over,) = listed(alice, "--over")
    assert (over["trust"], over["state"]) == ("distrusted", "broken")
    assert alice("send", "--scheme", "esession", BOB, "hello").code != exits.OK


def test_enter_leaves_it_open(world: World, alice: Person, bob: Person) -> None:
    open_session(world, alice, bob)
    assert alice("verify", BOB, answers="\n\n").code == exits.DECISION
    assert listed(alice)[0]["trust"] == "trusted"


def test_the_string_as_it_was_read_out(world: World, alice: Person, bob: Person) -> None:
    string = open_session(world, alice, bob)["string"]
    wrong = alice("verify", BOB, "--string", "aaaaaa")
    assert (wrong.code, "Nothing was verified" in wrong.err) == (exits.DECISION, True)
    assert listed(alice)[0]["trust"] == "trusted"
    assert alice("verify", BOB, "--string", f" {string[:3].upper()} {string[3:]}").code == exits.OK
    assert listed(alice)[0]["trust"] == "verified"


def test_the_link_of_the_other_end(world: World, alice: Person, bob: Person) -> None:
    digest = open_session(world, alice, bob)["string_digest"]
    for link, code in (
        (f"xmpp:{BOB}?esession-string={'00' * (len(digest) // 2)}", exits.DECISION),
        (f"xmpp:{ALICE}?esession-string={digest}", exits.USAGE),
        (f"https:{BOB}?esession-string={digest}", exits.USAGE),
        (f"xmpp:{BOB}?esession-string={digest[:-1]}", exits.USAGE),
        (f"xmpp:{BOB}?esession-string={digest}", exits.OK),
    ):
        assert listed(alice)[0]["trust"] == "trusted"
        assert alice("verify", BOB, "--uri", link).code == code, link
    assert listed(alice)[0]["trust"] == "verified"


def test_the_string_of_a_session_that_is_over(world: World, alice: Person, bob: Person) -> None:
    here = open_session(world, alice, bob)
    with opened(alice) as ours:
        ours.store.run(lambda s: ours.esession.abandon(s, here["thread"], "over", ours.clock()))
    shown = alice("verify", BOB, answers="\n\n").out
    assert here["string"] in shown
    assert "that was opened at" in shown
    assert alice("verify", BOB, "--string", here["string"]).code == exits.OK
    assert listed(alice, "--over")[-1]["trust"] == "verified"


def test_one_thing_is_compared_at_a_time(alice: Person) -> None:
    assert alice("verify", BOB, "--string", "aaaaaa", "--fingerprint", "00" * 32).code == exits.USAGE
    done = alice("verify", BOB, "--string", "aaaaaa")
    assert (done.code, f"tillie session start {BOB}" in done.err) == (exits.USAGE, True)


def test_a_string_of_the_old_kind_verifies_nothing(world: World, alice: Person, bob: Person) -> None:
    thread = open_session(world, alice, bob)["thread"]
    with opened(alice) as ours:

        def age(s: Any) -> Done[None]:
            record = sessions.load(s, thread)
            assert record is not None
            sessions.save(s, msgspec.structs.replace(record, string="abcde", string_name="sas28x5"))
            return Done(None)

        ours.store.run(age)
    done = alice("verify", BOB, answers="\n")
    assert "comparing it verifies nothing" in done.out
    refused = alice("verify", BOB, "--string", "abcde")
    assert (refused.code, "sas28x5" in refused.err) == (exits.USAGE, True)
    assert "(abcde, old kind)" in alice("session", "list").out
    assert listed(alice)[0]["trust"] == "trusted"


def test_a_question_on_the_way_verifies_no_session(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only a string does, and of our kind alone: who types "it is verified" has compared nothing."""
    (tmp_path / "typed").write_text("v\nt\n")
    other_end = Device(Address(BOB), 1, b"R" + bytes(16))

    async def asked() -> list[Trust]:
        with (tmp_path / "typed").open() as typed:
            return [each.trust for each in await online.ask_person(Decide((other_end,)), Lines(typed))]

    assert asyncio.run(asked()) == [Trust.TRUSTED]
    assert "[v]erified" not in capsys.readouterr().err


# -- names ----------------------------------------------------------------------------------------------------------


def test_a_name_of_our_own_comes_before_the_address(world: World, alice: Person, bob: Person) -> None:
    none_yet = alice("trust", "name", BOB, "Bobby")
    assert (none_yet.code, "tillie session start" in none_yet.err) == (exits.USAGE, True)
    open_session(world, alice, bob)
    assert alice("trust", "name", BOB, "Bobby").code == exits.OK
    assert alice("session", "list").lines[1].startswith("Bobby ")
    assert alice("verify", BOB, answers="\n\n").out.startswith(f"Session with Bobby ({BOB}/")
    assert "Bobby" in alice("trust", "list", BOB).out
    assert alice("trust", "name", BOB, "Bob\nby").code == exits.USAGE
    assert alice("trust", "name", BOB, "Mercutio", "00" * 8).code == exits.USAGE
    assert alice("trust", "name", BOB, "").code == exits.OK
    assert listed(alice)[0]["petname"] == ""


# -- from another terminal ------------------------------------------------------------------------------------------


def test_what_nobody_carries_out_is_told(
    world: World, alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "END_SECONDS", 0.0)
    open_session(world, alice, bob)
    assert alice("session", "rekey", BOB).code == exits.OK
    done = alice("session", "end", BOB)
    assert (done.code, "not acknowledged yet" in done.err) == (exits.QUEUED, True)
    assert alice("session", "end", BOB).code == exits.USAGE
    assert alice("session", "rekey", BOB).code == exits.USAGE


def test_nobody_there_to_have_a_session_with(world: World, alice: Person) -> None:
    done = alice("session", "start", BOB)
    assert (done.code, done.out) == (exits.PEER, "")
    assert "error: " in done.err
    assert "'tillie listen'" in done.err
    assert alice("session", "start", "nobody").code == exits.USAGE


# -- settings, keys, codes ------------------------------------------------------------------------------------------


def test_settings_are_shown_and_changed(alice: Person) -> None:
    assert alice("session", "settings").lines[0].split() == ["answer", "ask"]
    changed = alice("session", "settings", "--answer", "contacts", "--groups", "18, 16", "--shield", "ours", "--json")
    assert json.loads(changed.out) == {
        "answer": "contacts", "groups": [18, 16], "give_key": True, "shield": "ours", "profile": "strict",
        "logging": "may", "legacy": False,
    }  # fmt: skip
    assert json.loads(alice("session", "settings", "--json").out) == json.loads(changed.out)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--groups", "2"),
        ("--groups", "x"),
        ("--groups", ""),
        ("--groups", "3"),
        ("--shield", "x"),
        ("--answer", "x"),
        ("--logging", "x"),
    ],
)
def test_settings_that_are_not_safe_or_nonsense_are_refused(alice: Person, wrong: tuple[str, str]) -> None:
    assert alice("session", "settings", *wrong).code == exits.USAGE
    assert json.loads(alice("session", "settings", "--json").out)["groups"] == [15, 14, 16]


def test_small_groups_are_for_those_who_say_legacy(alice: Person) -> None:
    assert alice("session", "settings", "--legacy", "--groups", "14,5").code == exits.OK
    assert alice("session", "settings", "--no-legacy").code == exits.USAGE
    assert alice("session", "settings", "--no-legacy", "--groups", "14").code == exits.OK


@pytest.mark.parametrize("kind", [(), ("--rsa",)])
def test_a_key_for_sessions_is_made_shown_and_kept_in_a_backup(alice: Person, kind: tuple[str, ...]) -> None:
    made = alice("keys", "generate", "--scheme", "esession", *kind)
    assert made.code == exits.OK
    fingerprint = made.lines[1].strip()
    assert len(fingerprint.split()) == 8
    (key,) = [json.loads(line) for line in alice("keys", "list", "--scheme", "esession", "--json", "--offline").lines]
    assert (key["fingerprint"], key["this"], key["device"]) == (fingerprint, True, None)
    assert fingerprint in alice("session", "settings").out
    assert alice("keys", "generate", "--scheme", "esession").code == exits.USAGE
    with opened(alice) as ours:
        assert any(key.scheme == "esession" for key, _ in ours.copy())
    assert alice("keys", "generate", "--scheme", "esession", "--another").lines[1].strip() != fingerprint


def test_only_a_key_for_sessions_is_rsa_and_it_goes_nowhere(alice: Person) -> None:
    assert alice("keys", "generate", "--rsa").code == exits.USAGE
    for command in (("publish",), ("backup",), ("restore",), ("revoke", "00" * 20)):
        done = alice("keys", *command, "--scheme", "esession")
        assert (done.code, "published nowhere" in done.err) == (exits.USAGE, True)


def test_a_code_is_made_once_and_typed_at_the_other_end(world: World, alice: Person, bob: Person) -> None:
    made = alice("session", "secret", BOB)
    code = made.out.strip()
    assert is_code(code)
    assert len(code.split("-")) == CODE_GROUPS
    assert {len(group) for group in code.split("-")} == {CODE_GROUP}
    assert code not in made.err
    assert alice("session", "secret", BOB).code == exits.USAGE
    (bob.home / "code").write_text(code.lower().replace("-", " ") + "\n")
    assert bob("session", "secret", ALICE, "--code-file", str(bob.home / "code")).code == exits.OK
    with opened(alice) as one, opened(bob) as two:
        assert one.session_code(Address(BOB)) == two.session_code(Address(ALICE)) == code
    open_session(world, alice, bob)
    assert alice("session", "secret", BOB, "--forget").code == exits.OK
    with opened(alice) as one:
        assert one.session_code(Address(BOB)) == ""


def test_what_a_person_made_up_is_no_code(bob: Person) -> None:
    (bob.home / "code").write_text("correct horse battery staple\n")
    assert bob("session", "secret", ALICE, "--code-file", str(bob.home / "code")).code == exits.USAGE
    assert bob("session", "secret", ALICE, "--enter").code == exits.USAGE
    assert bob("session", "secret", ALICE, "--enter", "--forget").code == exits.USAGE


def test_with_a_code_at_one_end_only_no_session_comes_about(world: World, alice: Person, bob: Person) -> None:
    alice("session", "secret", BOB)
    with pytest.raises((NegotiationFailed, SessionBroken)):
        open_session(world, alice, bob)
    shown = alice("session", "list", BOB, "--over")
    assert "did not come about" in shown.out
    assert f"1 attempt with {BOB} failed today" in shown.err


# -- forge ----------------------------------------------------------------------------------------------------------


def write_transcript(path: Path, *, published: bool = True) -> None:
    """Two chat messages of a session, as a recorder leaves them."""
    one, two = pair()
    header = transcript.header_of(one, f"{ALICE}/a", f"{BOB}/b", "thread")
    lines: list[Any] = []
    for number, said in enumerate(("Tea at four?", "Gladly, and bring the scones.")):
        one, element = channel.seal(one, text.encode(text_content(said)), now=0.0)
        two, _ = channel.open(two, element, now=0.0)
        stanza = b"<message type='chat' to='%s/b' id='%d'>%s</message>" % (BOB.encode(), number, element)
        lines.append(transcript.Entry(f"{ALICE}/a", stanza.decode()))
    if published:
        lines.append(transcript.keys_of([one.km]))
    path.write_bytes(transcript.write(transcript.Transcript(header, tuple(lines))))


def test_a_forged_transcript_verifies_as_well(world: World, tmp_path: Path) -> None:
    somebody = Person(world, "somebody", ALICE)  # who needs no account
    real, forged = tmp_path / "real", tmp_path / "forged"
    write_transcript(real)
    done = somebody("session", "forge", str(real), "--say", "1=I owe you ten ducats.", "-o", str(forged))
    assert done.code == exits.OK
    assert done.lines[2].split()[:4] == ["0", f"{ALICE}/a", "verifies", "verifies"]
    assert '"I owe you ten ducats."' in done.lines[3]
    assert forged.read_bytes() != real.read_bytes()
    again = json.loads(somebody("session", "forge", str(forged), "--json").out)
    assert [each["real"] for each in again["stanzas"]] == ["verifies", "verifies"]
    assert [each["says"] for each in again["stanzas"]] == [None, session_forge.DEFAULT_WORDS]
    assert somebody("session", "forge", str(real), "-o", str(forged)).code == exits.USAGE


def test_who_knows_what_was_said_chooses_what_it_opens_to(world: World, tmp_path: Path) -> None:
    somebody = Person(world, "somebody", ALICE)
    write_transcript(tmp_path / "real")
    given = ("session", "forge", str(tmp_path / "real"), "--say", "0=No tea.")
    assert somebody(*given, "--knowing", "0=Tea at four?").code == exits.OK
    assert somebody(*given, "--knowing", "1=Tea at four?").code == exits.USAGE
    too_long = somebody("session", "forge", str(tmp_path / "real"), "--say", "0=No tea for you.", "--knowing", "0=Tea.")
    assert too_long.code == exits.USAGE


def test_what_is_said_is_written_as_a_session_hides_it() -> None:
    assert text.encode(text_content("Tea & <scones>?")).rstrip() == session_forge._body("Tea & <scones>?").encode()


@pytest.mark.parametrize("say", ["x", "x=1", "-1=x", "7=x", "=x"])
def test_what_can_t_be_forged_is_told(world: World, tmp_path: Path, say: str) -> None:
    somebody = Person(world, "somebody", ALICE)
    write_transcript(tmp_path / "real")
    assert somebody("session", "forge", str(tmp_path / "real"), f"--say={say}").code == exits.USAGE


def test_while_the_session_goes_on_nothing_can_be_forged(world: World, tmp_path: Path) -> None:
    somebody = Person(world, "somebody", ALICE)
    write_transcript(tmp_path / "real", published=False)
    done = somebody("session", "forge", str(tmp_path / "real"))
    assert (done.code, "not published" in done.err) == (exits.USAGE, True)
    (tmp_path / "nothing").write_text("{}\n")
    assert somebody("session", "forge", str(tmp_path / "nothing")).code == exits.USAGE
