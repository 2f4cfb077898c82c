"""Two ends in conversation: first message, replies, lost, late, repeated, own other devices, heartbeat, opting out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.ends import ALICE, BOB, BUNDLES, CAROL, End, World, changed, keys_of, pair, talking
from tillie.errors import NoRecipients, OptedOut, TooLarge
from tillie.model import Kind, Trust
from tillie.schemes import moments
from tillie.schemes.omemo import records, sessions
from tillie.schemes.omemo.ratchet import HEARTBEAT_AT, MAX_SKIP
from tillie.schemes.omemo.scheme import MAX_PLAINTEXT, MAX_SEEN


def test_the_first_message_is_read_and_answered_by_itself_and_the_key_exchange_ends() -> None:
    world, alice, bob = pair()
    sealed = alice.say(BOB, "one")
    assert [(r.device.id, r.sealed) for r in sealed.report] == [(bob.id, True)]
    assert world.flying[0].is_key_exchange
    assert [x.kind for x in world.settle()] == [Kind.OPENED, Kind.EMPTY]
    assert bob.read_texts == ["one"]
    alice.say(BOB, "two")
    assert not world.flying[0].is_key_exchange
    world.settle()
    bob.say(ALICE, "three")
    world.settle()
    assert (bob.read_texts, alice.read_texts) == (["one", "two"], ["three"])
    assert alice.current_with(bob) == bob.current_with(alice)


def test_until_somebody_answers_every_message_repeats_the_key_exchange() -> None:
    world, alice, bob = pair()
    for text in "abc":
        alice.say(BOB, text)
    assert all(letter.is_key_exchange for letter in world.flying)
    letters = world.take(bob)
    assert [bob.read(letter).kind for letter in reversed(letters)] == [Kind.OPENED] * 3
    assert bob.read_texts == ["c", "b", "a"]
    assert len(bob.kinds("session", "old")) == 1, "the same ek is the same session"


@given(st.permutations(range(8)), st.sets(st.integers(0, 7), max_size=5), st.booleans())
def test_any_order_with_any_loss(order: list[int], lost: set[int], turned: bool) -> None:
    world, alice, bob = talking()
    for n in range(4):
        alice.say(BOB, f"{n}")
    held = world.take(bob)
    if turned:  # Bob says something in between, so that half of it comes on the next ratchet key
        bob.say(ALICE, "turn")
        world.settle()
    for n in range(4, 8):
        alice.say(BOB, f"{n}")
    held += world.take(bob)
    for n in order:
        if n not in lost:
            assert bob.read(held[n]).kind is Kind.OPENED
    assert bob.read_texts == [str(n) for n in order if n not in lost]
    alice.say(BOB, "end")
    world.settle()
    assert bob.read_texts[-1] == "end"


def test_a_repeated_message_is_a_duplicate_and_changes_nothing_even_after_a_restart() -> None:
    world, alice, bob = talking()
    alice.say(BOB, "once")
    (letter,) = world.take(bob)
    assert bob.read(letter).kind is Kind.OPENED
    before = bob.dump()
    again = bob.read(letter)
    assert (again.kind, again.content) == (Kind.DUPLICATE, None)
    bob.restore(before)
    assert bob.read(letter).kind is Kind.DUPLICATE
    assert changed(before, bob.dump()) <= {"inbox"}  # what `restore` leaves out
    assert bob.read_texts == ["once"]


def test_replaying_a_whole_archive_changes_nothing() -> None:
    world, alice, bob = pair()
    archive = []
    for n in range(12):
        (alice if n % 3 else bob).say(BOB if n % 3 else ALICE, f"{n}")
        while world.flying:
            letter = world.flying.pop(0)
            archive.append(letter)
            letter.to.read(letter)
    before = alice.dump(), bob.dump()
    kinds = {letter.to.read(letter.with_stanza(via="archive")).kind for letter in archive}
    assert kinds == {Kind.DUPLICATE}
    assert (alice.dump(), bob.dump()) == before
    assert not world.flying


def test_only_the_newest_opened_messages_are_remembered() -> None:
    world, alice, bob = talking()
    for n in range(3):
        world.pass_time(1)
        alice.say(BOB, f"{n}")
    letters = world.take(bob)
    for letter in letters:
        world.pass_time(1)
        bob.read(letter)
    (newest, *_) = sorted(bob.kinds("seen").items(), key=lambda row: -moments.decode_time(row[1]))
    surplus = {records.key("seen", f"x/1/{n:032x}"): moments.encode_time(world.now - 5_000) for n in range(MAX_SEEN)}
    bob.restore(({**bob.dump()[0], **surplus}, [], []))
    bob.tick()
    kept = bob.kinds("seen")
    assert len(kept) == MAX_SEEN
    assert newest[0] in kept


def test_a_gap_of_the_limit_opens_and_one_more_does_not() -> None:
    world, alice, bob = talking()
    for n in range(MAX_SKIP + 2):
        alice.say(BOB, f"{n}")
    letters = world.take(bob)
    before = bob.dump()
    assert bob.read(letters[MAX_SKIP + 1]).kind is Kind.TAMPERED
    assert changed(before, bob.dump()) == {"broken", "inbox"}
    assert bob.read(letters[MAX_SKIP]).kind is Kind.OPENED
    assert len(bob.kinds("skipped")) == MAX_SKIP
    assert bob.read(letters[MAX_SKIP + 1]).kind is Kind.OPENED
    assert bob.read(letters[0]).kind is Kind.OPENED
    assert len(bob.kinds("skipped")) == MAX_SKIP - 1


def test_skipped_keys_of_many_ratchet_steps_stay_within_the_limit() -> None:
    """B15: each step leaves keys behind; the oldest go first, and those of long ago go without being pushed out."""
    world, alice, bob = talking()
    for step in range(MAX_SKIP // 90 + 2):
        for n in range(91):
            alice.say(BOB, f"{step}/{n}")
        bob.read(world.take(bob)[-1])
        bob.say(ALICE, "turn")
        alice.read(world.take(alice)[-1])
        world.flying.clear()
    assert len(bob.kinds("skipped")) == MAX_SKIP
    for _ in range(sessions.MAX_TURNS + 1):
        alice.say(BOB, "on")
        bob.read(world.take(bob)[-1])
        bob.say(ALICE, "and on")
        alice.read(world.take(alice)[-1])
    assert not bob.kinds("skipped")


def test_own_other_devices_read_what_one_of_them_wrote() -> None:
    world = World()
    phone, desk, bob = End(world, ALICE), End(world, ALICE), End(world, BOB)
    world.push_lists()
    sealed = phone.say(BOB, "from the phone")
    assert keys_of(sealed.element) == {desk.id, bob.id}
    world.settle()
    desk.say(BOB, "from the desk")
    world.settle()
    bob.say(ALICE, "to both")
    world.settle()
    assert bob.read_texts == ["from the phone", "from the desk"]
    assert desk.read_texts == ["from the phone", "to both"]
    assert phone.read_texts == ["from the desk", "to both"]


def test_a_note_to_oneself_goes_to_ones_other_devices() -> None:
    world = World()
    phone, desk = End(world, ALICE), End(world, ALICE)
    world.push_lists()
    phone.say(ALICE, "milk")
    world.settle()
    assert desk.read_texts == ["milk"]


def test_whom_a_message_is_not_for_is_told_so() -> None:
    world, alice, bob = talking()
    carol = End(world, CAROL)
    alice.say(BOB, "for Bob")
    (letter,) = world.take(bob)
    before = carol.dump()
    assert carol.open(letter.arrived).kind is Kind.NOT_FOR_US
    assert carol.dump() == before


def test_nobody_to_read_it_is_an_error_and_nothing_is_sent() -> None:
    world = World()
    alice, desk = End(world, ALICE), End(world, ALICE)
    before = len(world.sent)
    with pytest.raises(NoRecipients):
        alice.say(BOB, "anybody?")
    assert len(world.sent) == before
    assert not desk.read_texts


def test_one_bad_device_costs_no_other() -> None:
    world = World()
    alice, bob, broken = End(world, ALICE), End(world, BOB), End(world, BOB)
    world.items[BOB, BUNDLES, str(broken.id)] = b"<bundle xmlns='urn:xmpp:omemo:2'/>"
    sealed = alice.say(BOB, "hello")
    report = {r.device.id: (r.sealed, r.why) for r in sealed.report}
    assert report[bob.id] == (True, "")
    assert report[broken.id][0] is False
    assert report[broken.id][1]
    world.settle()
    assert bob.read_texts == ["hello"]


# -- heartbeat ------------------------------------------------------------------------------------------------------


def test_a_heartbeat_answers_the_first_message_with_a_counter_of_53_or_more() -> None:
    world, alice, bob = talking()
    alice.say(BOB, "first of a new ratchet key")
    world.settle()
    for n in range(1, HEARTBEAT_AT):
        alice.say(BOB, f"{n}")
    world.settle()
    assert not world.take(alice)
    alice.say(BOB, "53")
    bob.read(world.take(bob)[0])
    (beat,) = world.take(alice)
    alice.say(BOB, "54, before the heartbeat came")
    bob.read(world.take(bob)[0])
    assert not world.take(alice), "one heartbeat for each ratchet key"
    assert alice.read(beat).kind is Kind.EMPTY
    alice.say(BOB, "anew")
    bob.read(world.take(bob)[0])
    assert not world.flying


@given(st.permutations([52, 53, 54, 55]))
def test_one_heartbeat_whatever_the_order_around_53(order: list[int]) -> None:
    world, alice, bob = talking()
    for n in range(56):
        alice.say(BOB, f"{n}")
    letters = world.take(bob)
    for n in order:
        assert bob.read(letters[n]).kind is Kind.OPENED
    assert len(world.take(alice)) == 1


# -- opting out -----------------------------------------------------------------------------------------------------

OPT_OUT = b"<opt-out xmlns='urn:xmpp:omemo:2'><reason>new phone</reason></opt-out>"


def test_an_opt_out_blocks_sending_until_a_person_decides() -> None:
    world, alice, bob = talking()
    bob.say_xml(ALICE, OPT_OUT)
    world.settle()
    before = alice.dump()
    with pytest.raises(OptedOut):
        alice.say(BOB, "clear text?")
    assert alice.dump() == before
    alice.reset(BOB)
    alice.say(BOB, "sealed, as always")
    world.settle()
    assert bob.read_texts == ["sealed, as always"]


def test_a_contact_who_goes_on_under_encryption_lifts_the_opt_out() -> None:
    world, alice, bob = talking()
    bob.say_xml(ALICE, OPT_OUT)
    bob.say(ALICE, "never mind")
    world.settle()
    alice.say(BOB, "good")
    world.settle()
    assert bob.read_texts == ["good"]


def test_an_opt_out_of_our_own_device_or_of_a_stranger_device_blocks_nothing() -> None:
    world = World()
    phone, desk, bob = End(world, ALICE), End(world, ALICE), End(world, BOB)
    world.push_lists()
    desk.say_xml(BOB, OPT_OUT)
    phone.trust(bob, Trust.DISTRUSTED)
    bob.say_xml(ALICE, OPT_OUT)
    world.settle()
    phone.trust(bob, Trust.VERIFIED)
    phone.say(BOB, "still here")
    world.settle()
    assert "still here" in bob.read_texts


# -- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 15, 16, 17, 49_152, MAX_PLAINTEXT])
def test_plaintexts_of_every_size_come_back(size: int) -> None:
    """B26, beneath the envelope: 0 bytes, a whole block, the limit."""
    from tillie.model import Target

    world, alice, bob = talking()
    plaintext = bytes(size)
    target = Target(BOB, (bob.device,))
    sealed = alice.run(lambda s: alice.scheme.seal(s, plaintext, target, world.now))
    alice.say(BOB, "for its stanza")
    (letter,) = world.take(bob)
    got = letter.with_element(sealed.element).arrived
    assert bob.run(lambda s: bob.scheme.open(s, got, world.now)).plaintext == plaintext


def test_content_beyond_the_limit_is_refused_before_anything_is_sealed() -> None:
    from tillie.model import Target

    _, alice, bob = talking()
    before = alice.dump()
    with pytest.raises(TooLarge):
        alice.run(lambda s: alice.scheme.seal(s, bytes(MAX_PLAINTEXT + 1), Target(BOB, (bob.device,)), alice.now))
    with pytest.raises(TooLarge):
        alice.say(BOB, "x" * 200_000)
    assert alice.dump() == before
