"""The life of prekeys and bundles (N18): use, top-up, catch-up, two senders on one prekey, rotation, ninety days."""

from __future__ import annotations

from support.ends import ALICE, BOB, BUNDLES, CAROL, DAY, DEVICES, End, World, changed, pair
from tillie.directory import omemo as directory
from tillie.model import Kind
from tillie.schemes.omemo import contacts, records
from tillie.schemes.omemo.own import PREKEYS, ROTATION, SIGNED_KEPT


def bundle_of(end: End) -> directory.Bundle:
    return directory.parse_bundle(end.world.items[end.address, BUNDLES, str(end.id)])


def use_one(world: World, sender: End, receiver: End) -> None:
    """A new session, through a prekey."""
    sender.reset(receiver.address)
    sender.say(receiver.address, "anew")
    world.settle(tick=False)


def test_a_new_device_publishes_about_a_hundred_prekeys_in_nodes_that_all_may_read() -> None:
    world, alice, _ = pair()
    assert len(bundle_of(alice).prekeys) == PREKEYS == 100
    publications = {p.node: p for address, p in world.publications if address == ALICE}
    assert dict(publications[BUNDLES].options) == {
        "pubsub#access_model": "open", "pubsub#persist_items": "true", "pubsub#max_items": "max",
    }  # fmt: skip
    assert publications[BUNDLES].item == str(alice.id)
    assert dict(publications[DEVICES].options)["pubsub#access_model"] == "open"


def test_a_used_prekey_leaves_the_bundle_and_is_replaced_at_once() -> None:
    world, alice, bob = pair()
    before = bundle_of(bob).prekeys
    alice.say(BOB, "uses one")
    world.settle()
    after = bundle_of(bob).prekeys
    (used,) = before.keys() - after.keys()
    (fresh,) = after.keys() - before.keys()
    assert fresh == max(before) + 1, "no id is used twice"
    assert len(after) == PREKEYS
    assert records.of_number("prekey", used) not in bob.dump()[0]


def test_no_prekey_id_comes_twice_and_none_runs_out() -> None:
    world, alice, bob = pair()
    seen = set(bundle_of(bob).prekeys)
    for _ in range(PREKEYS + 20):
        before = set(bundle_of(bob).prekeys)
        use_one(world, alice, bob)
        fresh = set(bundle_of(bob).prekeys) - before
        assert len(fresh) == 1
        assert not fresh & seen
        seen |= fresh
        world.pass_time(1)
    assert len(bundle_of(bob).prekeys) == PREKEYS


def test_a_bundle_that_was_fetched_starts_one_session_only() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "one")
    assert not alice.kinds("bundle")
    alice.reset(BOB)
    world.fetches.clear()
    alice.say(BOB, "two")
    assert [ask.node for ask in world.fetches] == [BUNDLES]
    world.settle()
    assert bob.read_texts == ["one", "two"]


def test_while_catching_up_a_used_prekey_serves_a_second_sender_and_then_goes() -> None:
    """B11: two senders picked one prekey of the same bundle while we were away."""
    world = World()
    alice, bob, carol = End(world, ALICE), End(world, BOB), End(world, CAROL)
    (only, key) = next(iter(bundle_of(bob).prekeys.items()))
    narrow = directory.Bundle(**{**vars_of(bundle_of(bob)), "prekeys": {only: key}})
    world.items[BOB, BUNDLES, str(bob.id)] = directory.encode_bundle(narrow)
    alice.say(BOB, "from Alice")
    carol.say(BOB, "from Carol")
    bob.catch_up(ended=False)
    first, second = world.take(bob)
    assert bob.read(first).kind is Kind.OPENED
    assert len(bob.kinds("used")) == 1
    assert only not in bundle_of(bob).prekeys
    assert bob.read(second).kind is Kind.OPENED
    bob.catch_up(ended=True)
    assert not bob.kinds("used")
    late = End(world, CAROL)
    world.items[BOB, BUNDLES, str(bob.id)] = directory.encode_bundle(narrow)
    late.say(BOB, "too late")
    before = bob.dump()
    opened = bob.read(world.take(bob)[0])
    assert opened.kind is Kind.TAMPERED
    assert changed(before, bob.dump()) <= {"inbox", "broken"}


def vars_of(bundle: directory.Bundle) -> dict[str, object]:
    return {name: getattr(bundle, name) for name in ("identity", "signed_prekey_id", "signed_prekey", "signature")}


def test_without_catching_up_a_used_prekey_is_gone_at_once() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "one")
    world.settle()
    assert not bob.kinds("used")
    assert len(bob.kinds("prekey")) == PREKEYS


def test_the_signed_prekey_changes_when_it_is_due_and_the_old_one_serves_as_long_again() -> None:
    world, alice, bob = pair()
    first = bundle_of(bob).signed_prekey_id
    world.pass_time(ROTATION - 1)
    bob.tick()
    assert bundle_of(bob).signed_prekey_id == first
    alice.say(BOB, "with the first")
    late = world.take(bob)
    world.pass_time(1)
    bob.tick()
    assert bundle_of(bob).signed_prekey_id == first + 1
    world.pass_time(ROTATION - 1)
    bob.catch_up(ended=True)
    assert bob.read(late[0]).kind is Kind.OPENED
    world.pass_time(1)
    bob.tick()
    assert records.of_number("signed", first) in bob.dump()[0], "what waits for us may need it"
    bob.catch_up(ended=True)
    assert records.of_number("signed", first) not in bob.dump()[0]


def test_who_never_catches_up_keeps_a_signed_prekey_for_a_month_only() -> None:
    world, _, bob = pair()
    first = bundle_of(bob).signed_prekey_id
    world.pass_time(ROTATION)
    bob.tick()
    world.pass_time(SIGNED_KEPT - 1)
    bob.tick()
    assert records.of_number("signed", first) in bob.dump()[0]
    world.pass_time(1)
    bob.tick()
    assert records.of_number("signed", first) not in bob.dump()[0]


def test_while_catching_up_no_signed_prekey_goes() -> None:
    """Away for two months; what was sealed with the old signed prekey lies in the archive."""
    world, alice, bob = pair()
    alice.say(BOB, "while you were away")
    late = world.take(bob)
    world.pass_time(1)
    bob.world.now += ROTATION
    bob.tick()
    world.pass_time(60 * DAY)
    bob.catch_up(ended=False)
    bob.tick()
    assert bob.read(late[0].with_stanza(via="archive")).kind is Kind.OPENED
    bob.catch_up(ended=True)
    bob.tick()
    assert len(bob.kinds("signed")) <= 2


def test_ninety_days_of_talking_leave_no_heap_behind() -> None:
    """N18, under the simulated clock: every day a few messages, now and then a lost or late one, a reset a week."""
    world, alice, bob = pair()
    signed, said = set(), 0
    for day in range(90):
        world.pass_time(DAY)
        for end in (alice, bob):
            end.catch_up(ended=False)
            end.tick()
            end.catch_up(ended=True)
        for n in range(3):
            alice.say(BOB, f"{day} {n}")
            said += 1
            if (day + n) % 11 == 0:
                world.flying.clear()
                said -= 1
            world.settle()
        bob.say(ALICE, f"{day}")
        world.settle()
        if day % 7 == 3:
            alice.reset(BOB)
        signed.add(bundle_of(bob).signed_prekey_id)
        assert len(bundle_of(bob).prekeys) == PREKEYS
    assert len(bob.read_texts) == said
    assert len(alice.read_texts) == 90
    assert 90 // 7 <= len(signed) <= 90 // 7 + 1
    for end in (alice, bob):
        assert len(end.kinds("signed")) <= 3
        assert not end.kinds("used", "broken", "repair", "refresh", "announcing")
        assert len(end.kinds("old")) <= 4
        assert len(end.kinds("bundle")) == 0
        rest = {key.kind for key in end.dump()[0]} - {"seen", "prekey", "signed", "old", "skipped"}
        assert sum(key.kind in rest for key in end.dump()[0]) < 12


def test_lists_are_looked_at_again_after_an_hour_and_not_before() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "one")
    world.settle()
    world.fetches.clear()
    world.pass_time(contacts.LIST_MAX_AGE - 1)
    alice.say(BOB, "two")
    assert not world.fetches
    world.pass_time(contacts.LIST_MAX_AGE)
    alice.say(BOB, "three")
    assert {(ask.address, ask.node) for ask in world.fetches} == {(BOB, DEVICES), (ALICE, DEVICES)}
    world.settle()
    assert bob.read_texts == ["one", "two", "three"]


def test_a_server_that_does_not_answer_is_asked_again_later_not_at_each_send() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "one")
    world.settle()
    world.pass_time(contacts.LIST_MAX_AGE)
    world.unreachable = {(BOB, DEVICES), (ALICE, DEVICES)}
    alice.say(BOB, "with the list we know")
    world.fetches.clear()
    alice.say(BOB, "and again")
    assert not world.fetches
    world.pass_time(contacts.RETRY)
    alice.say(BOB, "asks again")
    assert world.fetches
    world.settle()
    assert len(bob.read_texts) == 4
