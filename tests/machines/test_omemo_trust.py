"""Whom a message goes to: new and changed keys under every policy, decisions, labels, shared identities."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from support.ends import ALICE, BOB, DEVICES, NS, End, World, keys_of, talking
from tillie.crypto import sign
from tillie.errors import KeyChanged, NoRecipients, NotTrusted
from tillie.model import Decide, Decided, Device, Fetched, Kind, Trust
from tillie.trust.decisions import Policy
from tillie.wire import base64, xml


def world_of(policy: Policy) -> tuple[World, End, End]:
    world = World()
    return world, End(world, ALICE, policy=policy), End(world, BOB)


def test_manual_sends_nothing_before_a_decision() -> None:
    world, alice, bob = world_of(Policy.MANUAL)
    with pytest.raises(NotTrusted) as raised:
        alice.say(BOB, "secret")
    assert not isinstance(raised.value, KeyChanged)
    assert [device.key for device in raised.value.devices if isinstance(device, Device)] == [bob.device.key]
    assert not world.sent
    alice.trust(bob, Trust.VERIFIED)
    alice.say(BOB, "now")
    world.settle()
    assert bob.read_texts == ["now"]


def test_a_person_may_decide_while_the_send_waits() -> None:
    world, alice, bob = world_of(Policy.MANUAL)

    def decide(ask: Decide) -> Iterable[Decided]:
        return [Decided(device.address, device.key, Trust.VERIFIED) for device in ask.devices]

    alice.decide = decide
    alice.say(BOB, "asked")
    world.settle()
    assert bob.read_texts == ["asked"]
    assert alice.trust_of(bob) is Trust.VERIFIED


def test_manual_answers_a_key_exchange_with_an_empty_message_all_the_same() -> None:
    world, alice, bob = world_of(Policy.MANUAL)
    bob.say(ALICE, "hello")
    opened = world.settle()
    assert [x.kind for x in opened] == [Kind.OPENED, Kind.EMPTY]
    assert opened[0].trust is Trust.UNDECIDED
    with pytest.raises(NotTrusted):
        alice.say(BOB, "not yet")


def test_first_use_trusts_the_keys_of_the_first_send_and_no_later_one() -> None:
    world, alice, bob = world_of(Policy.FIRST_USE)
    second = End(world, BOB)
    alice.say(BOB, "to both")
    world.settle()
    assert bob.read_texts == second.read_texts == ["to both"]
    End(world, BOB)
    world.push_lists()
    with pytest.raises(NotTrusted) as raised:
        alice.say(BOB, "to three")
    assert not isinstance(raised.value, KeyChanged)


def test_a_message_received_decides_nothing_for_the_first_send() -> None:
    world, alice, bob = world_of(Policy.FIRST_USE)
    bob.say(ALICE, "hello")
    world.settle()
    second = End(world, BOB)
    world.push_lists()
    assert keys_of(alice.say(BOB, "both are first").element) == {bob.id, second.id}


def test_blind_trusts_new_keys_until_one_was_verified() -> None:
    world, alice, bob = world_of(Policy.BLIND)
    alice.say(BOB, "one")
    second = End(world, BOB)
    world.push_lists()
    assert keys_of(alice.say(BOB, "two").element) == {bob.id, second.id}
    alice.trust(bob, Trust.VERIFIED)
    third = End(world, BOB)
    world.push_lists()
    before = len(world.sent)
    with pytest.raises(KeyChanged) as raised:
        alice.say(BOB, "three")
    assert [device.id for device in raised.value.devices if isinstance(device, Device)] == [third.id]
    assert len(world.sent) == before
    alice.trust(third, Trust.DISTRUSTED)
    sealed = alice.say(BOB, "not to the third")
    assert keys_of(sealed.element) == {bob.id, second.id}
    assert {(r.device.id, r.sealed, r.why) for r in sealed.report} >= {(third.id, False, "distrusted")}
    world.settle()
    assert not third.read_texts


@pytest.mark.parametrize("policy", Policy)
def test_a_key_that_changes_under_one_device_id(policy: Policy) -> None:
    """B13. Under blind trust it goes on; once verified it stops the send, under every policy."""
    world, alice, bob = world_of(policy)
    alice.trust(bob, Trust.VERIFIED)
    alice.say(BOB, "one")
    world.settle()
    replace_identity(world, bob)
    intruder = bob.device
    bob.say(ALICE, "it is me, honestly")
    letter = world.take(alice)[0]
    opened = alice.read(letter)
    assert (opened.kind, opened.trust) == (Kind.OPENED, Trust.UNDECIDED)
    assert f"device {bob.id} has a new identity key" in alice.notices
    world.flying.clear()
    before = len(world.sent)
    with pytest.raises(KeyChanged) as raised:
        alice.say(BOB, "really?")
    assert [d.key for d in raised.value.devices if isinstance(d, Device)] == [intruder.key]
    assert len(world.sent) == before


def replace_identity(world: World, end: End) -> None:
    """The same device id, freshly made with another identity key: a reinstallation, or a server's forgery."""
    from tillie.model import Done
    from tillie.schemes.omemo import own, records

    end.restore(({}, [], []))
    end.store.run(lambda s: Done(own.create(s, end.id, bytes(range(32)), end.now)))
    end.store.run(lambda s: Done(s.put(records.key("announcing"), None)))
    device = end.store.run(lambda s: Done(end.scheme.own_device(s)))
    end.device = device.value  # type: ignore[union-attr, assignment]
    end._publish("bundle")


def test_a_session_is_trusted_by_the_key_it_was_made_with() -> None:
    """A server that swaps the published bundle changes nothing for a session that exists."""
    world, alice, bob = talking()
    alice.trust(bob, Trust.VERIFIED)
    mallory = End(World(), BOB)
    world.items[BOB, f"{NS}:bundles", str(bob.id)] = mallory.world.items[BOB, f"{NS}:bundles", str(mallory.id)]
    world.pass_time(4_000)
    alice.say(BOB, "to the same key")
    assert not world.flying[0].is_key_exchange
    world.settle()
    assert bob.read_texts == ["to the same key"]
    alice.reset(BOB)
    with pytest.raises(KeyChanged):
        alice.say(BOB, "to another")


def test_distrusting_everybody_is_an_error_that_says_so() -> None:
    _, alice, bob = talking()
    alice.trust(bob, Trust.DISTRUSTED)
    with pytest.raises(NoRecipients, match="distrusted"):
        alice.say(BOB, "nobody")


def test_taking_a_decision_back_asks_again() -> None:
    world, alice, bob = world_of(Policy.MANUAL)
    alice.trust(bob, Trust.VERIFIED)
    alice.trust(bob, Trust.UNDECIDED)
    alice.trust(bob, Trust.UNDECIDED)
    with pytest.raises(NotTrusted):
        alice.say(BOB, "hm")
    assert not world.sent


def test_two_devices_that_share_an_identity_key_are_reported() -> None:
    """B13, and what a restored backup looks like to the others."""
    world, alice, bob = talking()
    twin = End(world, BOB, seed=seed_of(bob))
    world.push_lists()
    alice.say(BOB, "to both")
    assert any("shares its identity key" in text for text in alice.notices)
    world.settle()
    assert twin.read_texts == bob.read_texts == ["to both"]


def seed_of(end: End) -> bytes:
    from tillie.schemes.omemo import records

    (data,) = end.kinds("own").values()
    return records.decode_own(data).seed


# -- labels ---------------------------------------------------------------------------------------------------------


def listed(label: str, signature: bytes, device_id: int) -> bytes:
    coded = base64.encode(signature).encode()
    return b"<devices xmlns='%s'><device id='%d' label=%s labelsig='%s'/></devices>" % (
        NS.encode(), device_id, xml.attribute(label), coded,
    )  # fmt: skip


@pytest.mark.parametrize("case", ["good", "forged", "other key", "other label", "short"])
def test_a_label_is_shown_only_if_the_identity_key_signed_it(case: str) -> None:
    world, alice, bob = talking()
    signature = sign.sign(seed_of(bob), b"Bob's phone")
    label = "Bob's phone"
    if case == "forged":
        signature = signature[:-1] + bytes((signature[-1] ^ 1,))
    elif case == "other key":
        signature = sign.sign(bytes(32), b"Bob's phone")
    elif case == "other label":
        label = "Carol's phone"
    elif case == "short":
        signature = signature[:63]
    alice.learn(Fetched(BOB, DEVICES, "", listed(label, signature, bob.id), pushed=True))
    (line,) = alice.say(BOB, "hello").report
    assert line.device.label == ("Bob's phone" if case == "good" else "")
    bob.read(world.take(bob)[0])
    assert bob.read_texts == ["hello"], "a bad label never costs the device"
    bob.say(ALICE, "hi")
    opened = alice.read(world.take(alice)[0])
    assert opened.device is not None
    assert opened.device.label == line.device.label


def test_our_own_label_is_published_signed() -> None:
    world = World()
    alice = End(world, ALICE)
    bob = End(world, BOB, label="<Bob's \N{SNOWMAN}>")
    alice.say(BOB, "first")
    (line,) = alice.say(BOB, "second").report
    assert line.device.label == bob.label
