"""The demo of encrypted sessions: what it reports, and that each of its checks can fail."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from support.demos import failed_steps, report_of
from support.prosody import require_prosody
from tillie.cli import exits, main
from tillie.client import text_content
from tillie.demo import grinding, mallory, middle, session
from tillie.demo.grinding import Forged
from tillie.demo.middle import Middle, MiddleInProcess, MiddleOnProsody, WatchedPlace
from tillie.demo.prosody import PrivateProsody
from tillie.demo.session import HELLO, NEVER, Rendezvous
from tillie.model import Address, Decide, Decided, Send, Trust
from tillie.schemes.esession import Session
from tillie.trust.strings import DIGITS, LENGTH

DEMO_SECONDS = 30.0
SEARCH = Rendezvous.search
DESK, ORCHARD = Address("alice@capulet.example/desk"), Address("bob@montague.example/orchard")
NOW = 1_800_000_000.0


def on_prosody() -> WatchedPlace:
    require_prosody()
    return MiddleOnProsody()


PLACES = pytest.mark.parametrize("place", [on_prosody, MiddleInProcess])


@PLACES
def test_they_talk_and_mallory_is_noticed_each_time(
    place: Callable[[], WatchedPlace], capsys: pytest.CaptureFixture[str]
) -> None:
    where = place()
    started = time.monotonic()
    assert session.run(json=True, place=where)
    assert time.monotonic() - started < DEMO_SECONDS
    out, err = capsys.readouterr()
    report = report_of(out)
    assert (report["ok"], report["server_saw_plaintext"], err) == (True, False, "")
    assert report["server"] == {"name": where.name, "version": where.version}
    assert where.version
    steps = report["steps"]
    assert isinstance(steps, list)
    assert len(steps) == 18
    assert steps[-2]["name"] == SEARCH
    assert where.middle.seen


def test_without_prosody_it_runs_in_process_and_is_plain_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PrivateProsody, "unavailable", staticmethod(lambda: "Prosody is not installed"))
    monkeypatch.setattr(grinding, "SHOWN", 2)
    assert main(["demo", "session"]) == exits.OK
    shown = capsys.readouterr().out
    assert shown.startswith("Prosody can't be started here, so the server is a stand-in inside this process.\n")
    lines = shown.splitlines()
    assert lines.count(f"    {HELLO}") == 2  # Alice said it, and Bob read it
    for title in ("  Alice sees:", "  Bob sees:", "  the server saw:", "  Mallory reads:"):
        assert title in lines
    assert lines.count("    Bob, verified") == 1
    assert lines.count("    not verified: compare this string") == 4
    assert lines.count(f"    > {NEVER}") == 2
    assert "Nothing was sent: a contact you verified has a new key." in shown
    assert "a stanza did not verify" in shown
    assert "attempts that failed today: 1" in shown
    assert "it goes on" in shown
    assert f"{len(DIGITS) ** LENGTH:,}" in shown
    assert "\x1b" not in shown


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert session.run(json=True, place=MiddleInProcess(), author=Quick)
    assert not os.listdir(tmp_path)


def test_the_command_ends_with_one_if_it_goes_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(middle, "choose", MiddleInProcess)
    monkeypatch.setattr(Rendezvous, "_compare", Suspicious._compare)
    assert main(["demo", "session", "--json"]) == exits.FAILED
    assert report_of(capsys.readouterr().out)["ok"] is False


# -- the old string, and ours -----------------------------------------------------------------------------------------


def test_the_old_string_is_forged_in_small_and_mallory_reads_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grinding, "SHOWN", 2)
    text = text_content("For thee alone.").data
    forged = grinding.forge(DESK, ORCHARD, text, now=NOW)
    assert forged.succeeded
    assert forged.alice[-2:] == forged.bob[-2:]
    assert forged.overheard == forged.read == text
    assert 0 < forged.tries <= grinding.MAX_TRIES
    assert forged.whole_seconds == pytest.approx(forged.seconds / forged.tries * 2**24)


def test_third_messages_choose_nothing_in_ours() -> None:
    seen, tried = grinding.strings_of_ours(DESK, ORCHARD, now=NOW)
    assert len(tried) == 1
    assert seen not in tried


# -- the man in the middle --------------------------------------------------------------------------------------------

SEALED = (
    b"<message xmlns='jabber:client' from='a@b/c' to='d@e/f'><c xmlns='http://www.xmpp.org/extensions/xep-0200.html#ns'>"
    b"<data>AAAA</data><mac>AAAA</mac></c></message>"
)
PLAIN = b"<message xmlns='jabber:client' from='a@b/c' to='d@e/f'><body>x</body></message>"


def test_each_trick_is_played_once_and_on_sealed_stanzas() -> None:
    given: list[bytes] = []
    between = Middle()
    between.give = given.append
    for trick, count in ((mallory.alter, 1), (mallory.repeat, 2), (mallory.drop, 0)):
        given.clear()
        between.doing = mallory.Once(between, trick)
        between.take(PLAIN)
        assert given == [PLAIN]
        between.take(SEALED)
        assert len(given) == 1 + count
        between.take(SEALED)
        assert given[-1] == SEALED
    assert mallory.is_sealed(SEALED, "a@b/c")
    assert not mallory.is_sealed(SEALED, "d@e/f")
    assert not mallory.is_sealed(PLAIN)
    (altered,) = mallory.alter(SEALED)
    assert b"<data>AAAB</data>" in altered


# -- sabotage: each of the checks -------------------------------------------------------------------------------------


class Quick(Rendezvous):
    """Without the forging."""

    def _forge(self) -> None:
        pass

    def _forge_ours(self) -> None:
        pass


class Suspicious(Quick):
    """They never compare their strings."""

    async def _compare(self, session: Session) -> None:
        pass


class Believing(Quick):
    """Alice says yes to every key."""

    async def _swap(self) -> None:
        async def decide(asked: Decide) -> list[Decided]:
            return [Decided(device.address, device.key, Trust.TRUSTED) for device in asked.devices]

        self.alice.client.engine._decide = decide
        await super()._swap()


class NoNewKeys(Quick):
    """The re-key never happens."""

    async def _rekey(self, session: Session) -> None:
        self.alice.sessions.rekey = nothing  # type: ignore[method-assign, assignment]
        await super()._rekey(session)


class OtherText(Quick):
    """Bob reads something else than what Alice wrote."""

    async def _exchange(self, author: object, reader: object, session: Session, text: str) -> None:
        await self.alice.say(session, "Something else.")
        await super()._exchange(author, reader, session, text)  # type: ignore[arg-type]


async def nothing(*_: object, **__: object) -> None:
    pass


@pytest.mark.parametrize(
    ("play", "step", "why"),
    [
        (Suspicious, "they end the session", "The session is not verified"),
        (OtherText, "Alice writes", "Bob read something else"),
        (NoNewKeys, "new keys", "The keys are the old ones"),
        (Believing, "Mallory answers", "Alice could write to Mallory"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_play_that_goes_wrong_fails(
    play: type[Rendezvous], step: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not session.run(json=True, place=MiddleInProcess(), author=play)
    out, err = capsys.readouterr()
    (name,) = failed_steps(report_of(out))
    assert name.startswith(step)
    assert why in err


def harmless(stanza: bytes) -> Iterable[bytes]:
    return (stanza,)


@pytest.mark.parametrize(
    ("trick", "step", "why"),
    [
        ("alter", "she alters one bit", "The session goes on"),
        ("repeat", "she repeats", "The session goes on"),
        ("drop", "she drops", "The session goes on"),
    ],
)
def test_a_trick_that_nobody_notices_is_noticed(
    trick: str, step: str, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mallory, trick, harmless)
    monkeypatch.setattr(session, "WAIT_SECONDS", 1.0)
    assert not session.run(json=True, place=MiddleInProcess(), author=Quick)
    out, err = capsys.readouterr()
    (name,) = failed_steps(report_of(out))
    assert name.startswith(step)
    assert why in err


def test_a_proof_that_nobody_checks_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mallory, "Proof", lambda _: harmless)
    assert not session.run(json=True, place=MiddleInProcess(), author=Quick)
    out, err = capsys.readouterr()
    assert failed_steps(report_of(out))[0].startswith("she alters a proof")
    assert "Nobody noticed" in err


def test_an_end_in_clear_that_nobody_is_told_of_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mallory, "end_in_clear", lambda _: PLAIN)
    assert not session.run(json=True, place=MiddleInProcess(), author=Quick)
    out, err = capsys.readouterr()
    assert failed_steps(report_of(out))[0].startswith("she says in the clear")
    assert "Bob believed it, or was not told" in err


@pytest.mark.parametrize("what", ["forge", "strings_of_ours"])
def test_forging_that_goes_otherwise_is_noticed(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = {
        "forge": Forged("aaaaa", "aaaac", 1, 0.1, b"<body>x</body>", b"<body>x</body>"),
        "strings_of_ours": ("aaaaaa", frozenset({"cccccc", "dddddd"})),
    }
    monkeypatch.setattr(grinding, what, lambda *_, **__: results[what])
    assert not session.run(json=True, place=MiddleInProcess())
    out, _ = capsys.readouterr()
    (name,) = failed_steps(report_of(out))
    assert name.startswith("the old string" if what == "forge" else "the same attack")


# -- sabotage: the search ---------------------------------------------------------------------------------------------


class InTheClear(Quick):
    """Alice says one line in clear."""

    async def _end_in_clear(self) -> None:
        await super()._end_in_clear()
        await tell(self, text_content(HELLO).data)


class Telling(Quick):
    """A retained secret gets out."""

    async def _end_in_clear(self) -> None:
        await super()._end_in_clear()
        key = max(await self.bob.keys())
        await tell(self, b"<x xmlns='urn:example'>%b</x>" % base64.b64encode(key))


async def tell(play: Rendezvous, xml: bytes) -> None:
    message = b"<message xmlns='jabber:client' type='chat' to='%b' id='leak'>%b</message>"
    await play.alice.client.engine.network.send(Send(message % (play.bob.own.encode(), xml), "leak"))
    await play.bob.sessions.end((await play._meet(known=True)).thread)  # the server has handled the line before that


@pytest.mark.parametrize(
    ("place", "play", "said"),
    [
        (on_prosody, InTheClear, "Plaintext lies in"),
        (MiddleInProcess, InTheClear, "Plaintext lies in"),
        (MiddleInProcess, Telling, "A secret key lies in"),
    ],
)
def test_what_the_server_may_not_have_is_found(
    place: Callable[[], WatchedPlace], play: type[Rendezvous], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not session.run(json=True, place=place(), author=play)
    out, err = capsys.readouterr()
    report = report_of(out)
    assert (report["ok"], report["server_saw_plaintext"]) == (False, True)
    assert failed_steps(report) == [SEARCH]
    assert said in err
