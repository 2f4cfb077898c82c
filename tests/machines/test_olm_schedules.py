"""Any schedule of sends, losses, repetitions, reorderings, crashes and restarts between three devices: what is accepted
is shown once, and no key of ours is given out or used twice."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.olm import ALICE, BOB, Crash, Home, Json, Player, for_device, text_of
from tillie.model import Address, Kind, Opened
from tillie.schemes.olm import Olm, keys, sessions

WHO = st.integers(0, 2)


class Letter:
    """One event on its way to one device."""

    def __init__(self, sender: Address, to: int, content: Json, text: str) -> None:
        self.sender = sender
        self.to = to
        self.content = content
        self.text = text  # empty for what repairs a session


class Conversation(RuleBasedStateMachine):
    @initialize()
    def meet(self) -> None:
        self.home = Home()
        self.players = [
            Player(self.home, ALICE, "PHONE"), Player(self.home, BOB, "PHONE"), Player(self.home, BOB, "LAPTOP"),
        ]  # fmt: skip
        self.flying: list[Letter] = []
        self.delivered: list[Letter] = []
        self.shown: list[tuple[int, str]] = []
        self.lossless = True
        self.texts = 0

    @rule(who=WHO)
    def send(self, who: int) -> None:
        player = self.players[who]
        to = BOB if player.user == ALICE else ALICE
        self.texts += 1
        text = str(self.texts)
        sealed = player.send(to, text)
        for place, other in enumerate(self.players):
            if other is not player:
                content = for_device(sealed, other.user, other.device)
                self.flying.append(Letter(player.user, place, content, text))

    @rule(who=WHO)
    def crash_while_sending(self, who: int) -> None:
        player = self.players[who]
        to = BOB if player.user == ALICE else ALICE
        player.send(to, "lost on its way, so that nothing is to be fetched below")
        before = player.records()
        player.crash = True
        with pytest.raises(Crash):
            player.send(to, "never sent")
        player.crash = False
        assert player.records() == before

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), crash=st.booleans(), keep=st.booleans())
    def deliver(self, data: st.DataObject, crash: bool, keep: bool) -> None:
        letter = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        player = self.players[letter.to]
        if crash:
            before = _sealed_state(player)
            player.crash = True
            with suppress(Crash):
                player.open(letter.sender, letter.content)
            player.crash = False
            assert _sealed_state(player) == before
        got = player.open(letter.sender, letter.content)
        self.check(letter, got)
        self.delivered.append(letter)
        if keep:
            self.flying.append(letter)

    def check(self, letter: Letter, got: Opened) -> None:
        kind = got.kind
        seen = (letter.to, letter.text)
        if kind is Kind.OPENED:
            assert text_of(got) == letter.text
            assert seen not in self.shown, "shown twice"
            self.shown.append(seen)
        elif kind is Kind.EMPTY:
            assert letter.text == ""
        elif kind is Kind.DUPLICATE:
            assert seen in self.shown or letter.text == ""
        else:
            # Only what came long after its session was put away may be lost.
            assert kind in (Kind.NO_SESSION, Kind.TAMPERED), got
            assert not self.lossless, got

    @precondition(lambda self: self.delivered)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        letter = data.draw(st.sampled_from(self.delivered))
        got = self.players[letter.to].open(letter.sender, letter.content)
        assert got.kind in (Kind.DUPLICATE, Kind.TAMPERED, Kind.NO_SESSION)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))

    @rule(who=WHO)
    def restart(self, who: int) -> None:
        """A new process on the same store."""
        self.players[who].scheme = Olm(self.players[who].user)
        sessions._live.clear()

    @rule(who=WHO, data=st.data())
    def put_back(self, who: int, data: st.DataObject) -> None:
        """Somebody restores the sessions of before: what is in memory does not count."""
        player = self.players[who]
        if self.flying:
            letter = data.draw(st.sampled_from(self.flying))
            if self.players[letter.to] is player:
                before = player.records()
                got = player.open(letter.sender, letter.content)
                player.restore(before)
                again = player.open(letter.sender, letter.content)
                assert (again.kind, again.content) == (got.kind, got.content)
                player.restore(before)

    @rule(who=WHO)
    def new_session(self, who: int) -> None:
        player = self.players[who]
        for user in (ALICE, BOB):
            player.step(lambda s, user=user: player.scheme.reset(s, user, None, self.home.now))  # type: ignore[misc]
        self.lossless = False  # more sessions than are kept may be under way

    @rule(who=WHO)
    def sync(self, who: int) -> None:
        self.players[who].sync()
        self.players[who].tick()

    @rule()
    def drain(self) -> None:
        """Somebody claims all one-time keys: from now on the fallback key answers."""
        for left in self.home.one_time.values():
            left.clear()

    @rule(minutes=st.sampled_from([1, 10, 59]))
    def wait(self, minutes: int) -> None:
        self.home.now += 60 * minutes
        self.lossless = False  # a fallback key may be gone before what it began has come

    @invariant()
    def what_is_in_memory_is_what_was_saved(self) -> None:
        for (pickle_key, _), (pickle, olm) in sessions._live.items():
            assert olm.pickle(pickle_key) == pickle

    @invariant()
    def bounds(self) -> None:
        for player in getattr(self, "players", ()):
            assert player.count("old") <= sessions.MAX_OLD * player.count("devices") * 2
            assert player.count("fallback") <= 2
            assert player.count("fresh") + player.count("one-time") <= keys.MAX_KEPT


def _sealed_state(player: Player) -> dict[object, bytes]:
    return {name: data for name, data in player.records().items() if name.kind not in ("devices",)}


Conversation.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestConversation = Conversation.TestCase
