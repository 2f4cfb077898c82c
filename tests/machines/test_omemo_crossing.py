"""Crossed first messages and replaced sessions in every interleaving: nothing is lost, and both end on one session."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from support.ends import ALICE, BOB, pair, seeded, talking
from tillie.model import Address, Kind
from tillie.schemes.omemo import sessions
from tillie.schemes.omemo.receiving import CROSSING

MAX_RESETS = 2  # each is a session that may still be in the air; MAX_OLD of them are kept
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from([ALICE, BOB])),
        st.tuples(st.just("deliver"), st.sampled_from([ALICE, BOB]), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.sampled_from([1.0, CROSSING, 400.0])),
        st.tuples(st.just("reset"), st.sampled_from([ALICE, BOB])),
    ),
    min_size=3,
    max_size=24,
)


class Both:
    """Alice and Bob write when they like; all of what they wrote arrives, once, when it likes."""

    def __init__(self) -> None:
        self.world, alice, bob = pair()
        self.ends = {ALICE: alice, BOB: bob}
        self.said: dict[str, list[str]] = {ALICE: [], BOB: []}
        self.resets = 0

    def say(self, who: str) -> None:
        text = f"{who} {len(self.said[who])}"
        self.said[who].append(text)
        self.ends[Address(who)].say(BOB if who == ALICE else ALICE, text)

    def deliver(self, to: str, at: int) -> None:
        waiting = [x for x in self.world.flying if x.to.address == to] or self.world.flying
        if waiting:
            letter = waiting[at % len(waiting)]
            self.world.flying = [x for x in self.world.flying if x is not letter]
            assert letter.to.read(letter).kind in (Kind.OPENED, Kind.EMPTY)

    def reset(self, who: str) -> None:
        if self.resets < MAX_RESETS:
            self.resets += 1
            self.ends[Address(who)].reset(BOB if who == ALICE else ALICE)

    def take(self, step: tuple[Any, ...], *, in_order: bool) -> None:
        match step:
            case ("say", who):
                self.say(who)
            case ("deliver", to, at):
                self.deliver(to, 0 if in_order else at)
            case ("wait", seconds):
                self.world.pass_time(seconds)
            case ("reset", who):
                self.reset(who)
        for end in self.ends.values():
            assert len(end.kinds("old")) <= sessions.MAX_OLD
            assert not end.kinds("broken", "repair")

    def go_on(self) -> None:
        """What is in the air arrives, and they go on talking."""
        self.world.settle()
        for _ in range(3):
            self.world.pass_time(CROSSING + 1)
            for who in (ALICE, BOB):
                self.say(who)
                self.world.settle()
        assert sorted(self.ends[BOB].read_texts) == sorted(self.said[ALICE])
        assert sorted(self.ends[ALICE].read_texts) == sorted(self.said[BOB])


@given(STEPS, st.integers(0, 2**32))
def test_nothing_is_lost_whatever_the_order(steps: list[tuple[Any, ...]], seed: int) -> None:
    with seeded(seed):
        both = Both()
        for step in steps:
            both.take(step, in_order=False)
        both.go_on()


@given(STEPS, st.integers(0, 2**32))
def test_both_end_on_one_session_in_every_interleaving(steps: list[tuple[Any, ...]], seed: int) -> None:
    """Each direction keeps its order, as XMPP streams and archives do, and nobody resets while they cross (then
    each may stay on the session that the other one made; still nothing is lost)."""
    with seeded(seed):
        both = Both()
        for step in steps:
            if step[0] != "reset":
                both.take(step, in_order=True)
        both.go_on()
        alice, bob = both.ends[ALICE], both.ends[BOB]
        assert alice.current_with(bob) == bob.current_with(alice)
        alice.say(BOB, "no key exchange any more")
        assert not both.world.take(bob)[0].is_key_exchange


def test_two_who_start_at_once_end_on_one_session() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "from Alice")
    bob.say(ALICE, "from Bob")
    assert all(letter.is_key_exchange for letter in world.flying)
    world.settle()
    alice.say(BOB, "two")
    world.settle()
    bob.say(ALICE, "two")
    world.settle()
    assert (alice.read_texts, bob.read_texts) == (["from Bob", "two"], ["from Alice", "two"])
    assert alice.current_with(bob) == bob.current_with(alice)
    assert not alice.kinds("broken", "repair")


def test_a_first_message_that_never_arrived_leaves_a_working_session() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "lost")
    world.flying.clear()
    bob.say(ALICE, "from Bob")
    world.settle()
    alice.say(BOB, "again")
    world.settle()
    assert (alice.read_texts, bob.read_texts) == (["from Bob"], ["again"])
    assert alice.current_with(bob) == bob.current_with(alice)


def test_replaced_sessions_stay_for_receiving_and_the_fifth_goes() -> None:
    world, alice, bob = talking()
    held = []
    for n in range(sessions.MAX_OLD + 1):
        alice.say(BOB, f"on session {n}")
        held += world.take(bob)
        world.pass_time(1)
        alice.reset(BOB)
        alice.say(BOB, "anew")
        world.settle()
    assert len(bob.kinds("old")) == sessions.MAX_OLD
    kinds = [bob.read(letter).kind for letter in held]
    assert kinds == [Kind.TAMPERED] + [Kind.OPENED] * sessions.MAX_OLD
    assert not [key for key in bob.kinds("skipped") if "/on session 0" in key.name]


def test_a_forgotten_session_takes_its_skipped_keys_along() -> None:
    world, alice, bob = talking()
    alice.say(BOB, "never comes")
    world.flying.clear()
    alice.say(BOB, "comes")
    world.settle()
    assert len(bob.kinds("skipped")) == 1
    for _ in range(sessions.MAX_OLD + 1):
        world.pass_time(1)
        alice.reset(BOB)
        alice.say(BOB, "anew")
        world.settle()
    assert not bob.kinds("skipped")


def test_a_heartbeat_that_an_old_session_asks_for_goes_out_on_the_one_that_sends() -> None:
    world, alice, bob = talking()
    for n in range(54):
        alice.say(BOB, f"{n}")
    late = world.take(bob)
    world.pass_time(1)
    bob.reset(ALICE)
    bob.say(ALICE, "on a new session")
    world.settle()
    new = bob.current_with(alice)
    assert bob.read(late[53]).kind is Kind.OPENED
    assert bob.current_with(alice) == new
    assert [x.kind for x in world.settle()] == [Kind.EMPTY]
