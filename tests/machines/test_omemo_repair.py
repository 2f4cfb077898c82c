"""Sessions that break (N1), stores that come back from a copy (N2, B25), lists that are fought over (N6)."""

from __future__ import annotations

import random

import pytest

from support.ends import ALICE, BOB, BUNDLES, CAROL, DEVICES, End, Letter, World, changed, pair, talking
from tillie.directory import omemo as directory
from tillie.errors import OptedOut
from tillie.model import Address, Done, Fetched, Kind, Need
from tillie.schemes.moments import FIGHT_LIMIT, FIGHT_WINDOW
from tillie.schemes.omemo import Repair, contacts, own, records
from tillie.schemes.omemo.contacts import MAX_REPAIRS, REPAIR_INTERVAL
from tillie.schemes.omemo.scheme import JUST_READ


def forget_sessions(end: End) -> None:
    """What a bad restore or a lost file does: all sessions gone, identity and device id kept."""
    kept, outbox, inbox = end.dump()
    end.restore(({key: value for key, value in kept.items() if key.kind not in ("session", "old")}, outbox, inbox))


def fail(end: End, letter: Letter) -> Kind:
    """The letter with the ciphertext of its key altered."""

    def alter(root):  # type: ignore[no-untyped-def]
        for key in root.iter("{urn:xmpp:omemo:2}key"):
            key.text = ("A" if key.text[-10] != "A" else "B").join((key.text[:-10], key.text[-9:]))

    return end.read(letter.altered(alter)).kind


# -- no session -----------------------------------------------------------------------------------------------------


def test_a_message_without_a_session_is_answered_with_a_new_one_and_the_next_is_read() -> None:
    world, alice, bob = talking()
    forget_sessions(bob)
    alice.say(BOB, "lost")
    opened = world.settle()
    assert [x.kind for x in opened] == [Kind.NO_SESSION, Kind.EMPTY, Kind.EMPTY]
    alice.say(BOB, "read")
    bob.say(ALICE, "read too")
    world.settle()
    assert (bob.read_texts, alice.read_texts) == (["read"], ["read too"])
    assert alice.current_with(bob) == bob.current_with(alice)


@pytest.mark.parametrize("count", [2, 100])
def test_a_hundred_failures_at_once_are_answered_once(count: int) -> None:
    world, alice, bob = talking()
    for n in range(count):
        alice.say(BOB, f"{n}")
    forget_sessions(bob)
    first, *rest = world.take(bob)
    assert bob.read(first).kind is Kind.NO_SESSION
    for letter in rest:
        bob.tick()
        assert bob.read(letter).kind is Kind.TAMPERED, "there is a session by now, but not the one"
    bob.tick()
    assert len(world.take(alice)) == 1


def test_a_hundred_failures_before_the_answer_are_answered_once() -> None:
    world, alice, bob = talking()
    for n in range(100):
        alice.say(BOB, f"{n}")
    forget_sessions(bob)
    assert {bob.read(letter).kind for letter in world.take(bob)} == {Kind.NO_SESSION}
    bob.tick()
    assert len(world.take(alice)) == 1


def test_at_most_one_answer_per_device_in_five_minutes() -> None:
    world, alice, bob = talking()
    answers = []
    for minute in range(0, 11):
        forget_sessions(bob)
        alice.say(BOB, "again")
        bob.read(world.take(bob)[0])
        bob.tick()
        if world.take(alice):
            answers.append(minute * 60)
        world.pass_time(60)
    assert answers == [0, REPAIR_INTERVAL, 2 * REPAIR_INTERVAL]


def test_both_lose_everything_and_find_each_other_by_writing() -> None:
    world, alice, bob = talking()
    forget_sessions(alice)
    forget_sessions(bob)
    alice.say(BOB, "one")
    bob.say(ALICE, "two")
    world.settle()
    assert (bob.read_texts, alice.read_texts) == (["one"], ["two"])


def test_strangers_can_ask_for_few_repairs_only() -> None:
    """Messages with invented device ids: each is a wish for a session, and the wishes of one account are bounded."""
    world, alice, bob = talking()
    alice.say(BOB, "template")
    (letter,) = world.take(bob)
    rng = random.Random(1)
    for _ in range(MAX_REPAIRS + 50):

        def as_another(root):  # type: ignore[no-untyped-def]
            root[0].set("sid", str(rng.randrange(1, 2**31)))

        assert bob.read(letter.altered(as_another)).kind is Kind.NO_SESSION
    assert len(bob.kinds("repair")) == MAX_REPAIRS
    bob.tick()
    assert not bob.kinds("repair", "repaired")
    assert len(bob.kinds("bundle")) <= MAX_REPAIRS
    assert not world.flying
    world.pass_time(contacts.BUNDLE_MAX_AGE)
    bob.tick()
    assert not bob.kinds("bundle"), "what is too old to use is not kept"


# -- broken sessions ------------------------------------------------------------------------------------------------


def test_a_session_that_fails_is_marked_and_the_next_send_carries_a_new_key_exchange() -> None:
    world, alice, bob = talking()
    world.pass_time(REPAIR_INTERVAL)
    alice.say(BOB, "altered")
    assert fail(bob, world.take(bob)[0]) is Kind.TAMPERED
    assert bob.kinds("broken")
    bob.tick()
    assert not world.flying, "MUST NOT react to decryption errors by initiating new sessions automatically"
    bob.say(ALICE, "anew")
    assert world.flying[0].is_key_exchange
    world.settle()
    assert alice.read_texts == ["anew"]
    assert not bob.kinds("broken")
    alice.say(BOB, "on it")
    world.settle()
    assert bob.read_texts == ["on it"]
    assert alice.current_with(bob) == bob.current_with(alice)


def test_a_young_session_is_not_replaced_while_old_failures_still_arrive() -> None:
    world, alice, bob = talking()
    alice.say(BOB, "altered")
    assert fail(bob, world.take(bob)[0]) is Kind.TAMPERED
    bob.say(ALICE, "still the same")
    assert not world.take(alice)[0].is_key_exchange
    world.pass_time(REPAIR_INTERVAL)
    bob.say(ALICE, "anew")
    assert world.take(alice)[0].is_key_exchange


def test_a_real_desync_heals_by_one_message_each() -> None:
    """Alice falls back behind what she has sent and received, unnoticed: both directions fail."""
    world, alice, bob = talking()
    copy = alice.dump()
    for n in range(3):
        alice.say(BOB, f"{n}")
        world.settle()
        bob.say(ALICE, f"{n}")
        world.settle()
    alice.restore(copy)
    world.pass_time(REPAIR_INTERVAL)
    bob.read_texts.clear()
    alice.read_texts.clear()
    alice.say(BOB, "does not open")
    bob.say(ALICE, "nor does this")
    world.settle()
    assert not bob.read_texts
    alice.say(BOB, "alice again")
    bob.say(ALICE, "bob again")
    world.settle()
    assert (bob.read_texts, alice.read_texts) == (["alice again"], ["bob again"])


def test_repair_automatic_answers_by_itself_once_in_five_minutes() -> None:
    world, alice, bob = pair(repair=Repair.AUTOMATIC)
    alice.say(BOB, "hello")
    world.settle()
    world.pass_time(REPAIR_INTERVAL)
    for n in range(100):
        alice.say(BOB, f"{n}")
    for letter in world.take(bob):
        fail(bob, letter)
        bob.tick()
    (answer,) = world.take(alice)
    assert answer.is_key_exchange
    assert alice.read(answer).kind is Kind.EMPTY


def test_a_stranger_that_sends_rubbish_leaves_no_mark() -> None:
    world, alice, bob = talking()
    alice.say(BOB, "template")
    letter = world.take(bob)[0]
    before = bob.dump()
    assert bob.read(letter.with_stanza(sender=Address("carol@c.example/x"))).kind is Kind.NO_SESSION
    assert changed(before, bob.dump()) == {"inbox", "repair"}


def test_reset_begins_anew_for_one_device_or_all_and_lifts_an_opt_out() -> None:
    world = World()
    alice, bob, tablet = End(world, ALICE), End(world, BOB), End(world, BOB)
    alice.say(BOB, "hello")
    world.settle()
    before = alice.current_with(bob), alice.current_with(tablet)
    assert alice.reset(BOB, bob.id) == 1
    alice.say(BOB, "anew for one")
    world.settle()
    assert alice.current_with(bob) != before[0]
    assert alice.current_with(tablet) == before[1]
    bob.say_xml(ALICE, b"<opt-out xmlns='urn:xmpp:omemo:2'/>")
    world.settle()
    with pytest.raises(OptedOut):
        alice.say(BOB, "blocked")
    assert alice.reset(BOB) == 2
    assert alice.reset(CAROL) == 0
    alice.say(BOB, "anew for all")
    world.settle()
    assert bob.read_texts == tablet.read_texts == ["hello", "anew for one", "anew for all"]


# -- roll-back ------------------------------------------------------------------------------------------------------


def ratchet_positions(end: End) -> set[tuple[bytes, int]]:
    """(ratchet key, n) of every key that this device ever sealed; two of one pair would be a repeated message key."""
    from support.traffic import positions

    return positions(stanza for address, stanza in end.world.sent if address == end.address)


def test_a_roll_back_forces_new_sessions_and_repeats_no_message_key() -> None:
    world, alice, bob = talking()
    alice.reset(BOB)
    alice.say(BOB, "fetches a bundle")
    world.settle()
    copy = alice.dump()
    for n in range(3):
        alice.say(BOB, f"{n}")
    world.settle()
    bob.say(ALICE, "x")
    lost = bob.current_with(alice)
    alice.roll_back(copy)
    assert any("old copy of the store" in text for text in alice.notices)
    assert not alice.kinds("session", "bundle")
    world.settle()
    alice.say(BOB, "on a new session")
    assert world.flying[0].is_key_exchange
    world.settle()
    assert bob.current_with(alice) != lost
    bob.say(ALICE, "read")
    world.settle()
    assert (bob.read_texts[-1], alice.read_texts[-1]) == ("on a new session", "read")
    ratchet_positions(alice)


def test_after_a_roll_back_no_heartbeat_goes_out_on_an_old_session() -> None:
    world, alice, bob = talking()
    copy = alice.dump()
    alice.say(BOB, "uses the next message key")
    world.flying.clear()
    for n in range(54):
        bob.say(ALICE, f"{n}")
    alice.roll_back(copy)
    for letter in world.take(alice):
        assert alice.read(letter).kind is Kind.OPENED
    assert not world.flying
    ratchet_positions(alice)


def test_a_rolled_back_crossing_does_not_come_back() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "a")
    bob.say(ALICE, "b")
    alice.read(world.take(alice)[0])
    copy = alice.dump()
    alice.say(BOB, "uses message keys")
    held = world.take(bob)
    alice.roll_back(copy)
    for letter in held:
        bob.read(letter)
    bob.say(ALICE, "c")
    world.pass_time(400)
    world.settle()
    alice.say(BOB, "anew")
    world.settle()
    alice.say(BOB, "on")
    world.settle()
    assert bob.read_texts[-2:] == ["anew", "on"]
    ratchet_positions(alice)


def test_prekeys_that_were_published_after_the_copy_never_come_back_under_their_ids() -> None:
    world, alice, bob = talking()
    copy = alice.dump()
    for _ in range(3):
        bob.reset(ALICE)
        bob.say(ALICE, "uses one")
        world.settle()
    published = {
        key_id: key
        for address, publication in world.publications
        if address == ALICE and publication.node == BUNDLES
        for key_id, key in directory.parse_bundle(publication.payload).prekeys.items()
    }
    alice.roll_back(copy)
    fresh = directory.parse_bundle(world.items[ALICE, BUNDLES, str(alice.id)]).prekeys
    assert len(fresh) == own.PREKEYS
    assert not fresh.keys() & published.keys()
    bob.reset(ALICE)
    bob.say(ALICE, "with a new prekey")
    world.settle()
    assert alice.read_texts[-1] == "with a new prekey"


# -- a backup (N2) --------------------------------------------------------------------------------------------------


def test_after_a_restore_the_identity_is_the_same_the_device_is_new_and_the_first_message_is_read() -> None:
    world, alice, bob = talking()
    from tillie.model import Trust

    alice.trust(bob, Trust.VERIFIED)
    (data,) = bob.kinds("own").values()
    world.ends.remove(bob)
    restored = End(world, BOB, seed=records.decode_own(data).seed)
    assert restored.device.key == bob.device.key
    assert restored.id != bob.id
    world.push_lists()
    alice.say(BOB, "welcome back")
    world.settle()
    assert restored.read_texts == ["welcome back"], "the verified key stays verified"
    restored.say(ALICE, "thanks")
    world.settle()
    assert alice.read_texts == ["thanks"]


def test_a_second_live_copy_of_the_identity_is_noticed() -> None:
    world, alice, bob = talking()
    (data,) = bob.kinds("own").values()
    twin = End(world, BOB, seed=records.decode_own(data).seed)
    world.push_lists()
    sealed = twin.say(ALICE, "from the copy")
    assert {r.device.id: r.sealed for r in sealed.report} == {alice.id: True, bob.id: False}
    assert any("this device's own identity key" in text for text in twin.notices)
    twin.notices.clear()
    world.pass_time(10_000)
    twin.say(ALICE, "again")
    assert not any("own identity key" in text for text in twin.notices), "once is enough"


# -- lists (N6) -----------------------------------------------------------------------------------------------------


def remove_ourselves(end: End) -> None:
    """Another client publishes a list without us."""
    payload = directory.encode_devices([directory.ListedDevice(77)])
    end.world.items[end.address, DEVICES, "current"] = payload
    end.learn(Fetched(end.address, DEVICES, "", payload, pushed=True))


def lists_published(end: End) -> int:
    return sum(1 for address, p in end.world.publications if address == end.address and p.node == DEVICES)


def test_a_device_that_was_removed_announces_itself_again_beside_the_others() -> None:
    world, alice, _ = pair()
    world.push_lists()
    before = lists_published(alice)
    remove_ourselves(alice)
    assert lists_published(alice) == before + 1
    ids = {d.id for d in directory.parse_devices(world.items[ALICE, DEVICES, "current"])}
    assert ids == {alice.id, 77}


def test_a_fight_over_the_list_ends_and_is_reported_and_taken_up_again_later() -> None:
    world, alice, _ = pair()
    world.push_lists()
    before = lists_published(alice)
    for _ in range(30):
        remove_ourselves(alice)
        world.pass_time(1)
    assert lists_published(alice) == before + FIGHT_LIMIT
    assert any("another client removed this device" in text for text in alice.notices)
    alice.tick()
    assert lists_published(alice) == before + FIGHT_LIMIT
    world.pass_time(FIGHT_WINDOW)
    alice.tick()
    assert lists_published(alice) == before + FIGHT_LIMIT + 1


def test_a_third_device_that_joined_meanwhile_stays_on_the_list() -> None:
    world, alice, _ = pair()
    world.push_lists()
    desk = End(world, ALICE)
    remove_ourselves(alice)
    world.items[ALICE, DEVICES, "current"] = directory.encode_devices(
        [directory.ListedDevice(77), directory.ListedDevice(desk.id)]
    )
    world.pass_time(JUST_READ)
    alice._publish("devices")
    ids = {d.id for d in directory.parse_devices(world.items[ALICE, DEVICES, "current"])}
    assert ids == {alice.id, desk.id, 77}


def test_a_new_device_takes_no_id_that_is_listed() -> None:
    with pytest.MonkeyPatch.context() as patch:
        drawn = iter([4, 4, 9])
        patch.setattr(own, "random_index", lambda _: next(drawn))
        assert own.new_device_id(frozenset({5})) == 10


def test_a_new_device_looks_at_the_list_before_it_publishes() -> None:
    world = World()
    alice = End(world, ALICE)
    assert world.fetches[0].node == DEVICES
    assert lists_published(alice) == 1


@pytest.mark.parametrize("payload", [b"<devices xmlns='urn:xmpp:omemo:2'/>", b"<nonsense/>", b"<devices"])
def test_a_list_that_is_empty_or_broken(payload: bytes) -> None:
    """B31: an empty list is believed; what can't be read leaves the list that is known, and is reported."""
    world, alice, _ = talking()
    fact = Fetched(BOB, DEVICES, "", payload, pushed=True)
    alice.learn(fact)
    found = alice.store.run(lambda s: Done(alice.scheme.devices(s, BOB, world.now)))
    assert not isinstance(found, Need)
    empty = payload.endswith(b"/>") and b"omemo" in payload
    assert (not found.value[0]) is empty  # type: ignore[index]
    assert any("can't be read" in text for text in alice.notices) is not empty


def test_a_device_that_left_the_list_gets_nothing_more_and_one_that_returns_does() -> None:
    world, alice, bob = talking()
    full = world.items[BOB, DEVICES, "current"]
    tablet = End(world, BOB)
    world.push_lists()
    alice.say(BOB, "to both")
    world.settle()
    world.items[BOB, DEVICES, "current"] = full
    alice.learn(Fetched(BOB, DEVICES, "", full, pushed=True))
    alice.say(BOB, "to one")
    world.settle()
    assert (bob.read_texts, tablet.read_texts) == (["to both", "to one"], ["to both"])
    tablet.say(ALICE, "I am still here")
    before = len(world.fetches)
    world.settle()
    assert world.fetches[before:], "a message of an unlisted device makes us look at the list"
    assert alice.read_texts == ["I am still here"]
