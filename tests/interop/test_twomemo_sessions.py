"""Devices and sessions that come, go and cross, between ours and twomemo (XEP-0384)."""

from __future__ import annotations

import random

import pytest
from lxml import etree

from support.our_device import OurDevice
from support.pep import BUNDLES_NODE, NS, PepServer
from support.talk import (
    ALICE,
    BOB,
    CAROL,
    KEY_PATH,
    MakeEnd,
    both_directions,
    converse,
    deliver,
    introduce,
    is_key_exchange,
    other,
    rids,
    tell,
)
from support.twomemo_peer import TwomemoPeer
from tillie.errors import Malformed
from tillie.model import Address, Fetch, Kind
from tillie.wire import base64

DAY = 86_400.0
CROSSINGS = 8  # which session wins depends on keys; both outcomes come up


def _pair() -> tuple[PepServer, OurDevice, TwomemoPeer]:
    server = PepServer()
    ours, theirs = OurDevice(server, ALICE), TwomemoPeer(server, BOB)
    introduce(ours, theirs)
    return server, ours, theirs


def _settled() -> tuple[PepServer, OurDevice, TwomemoPeer]:
    server, ours, theirs = _pair()
    converse(server, ours, theirs, turns=1)
    return server, ours, theirs


# -- devices --------------------------------------------------------------------------------------------------------


@both_directions
def test_a_device_is_added(first: MakeEnd) -> None:
    """A second device of Bob's, of the other make, reads what is sent after its list entry arrived."""
    server = PepServer()
    alice, bob = first(server, ALICE), other(first)(server, BOB)
    introduce(alice, bob)
    converse(server, alice, bob, turns=1)
    tablet = first(server, BOB)
    introduce(alice, bob, tablet)
    element = alice.encrypt(BOB, b"to both")
    assert rids(element) == {bob.device_id, tablet.device_id}
    assert bob.decrypt(ALICE, element) == b"to both"
    assert tablet.decrypt(ALICE, element) == b"to both"
    answer = tablet.encrypt(ALICE, b"from the tablet")
    assert alice.decrypt(BOB, answer) == b"from the tablet"
    assert bob.decrypt(BOB, answer) == b"from the tablet"


@pytest.mark.parametrize("second", [OurDevice, TwomemoPeer], ids=["ours", "twomemo"])
def test_own_other_devices_read_what_was_sent(second: MakeEnd) -> None:
    server, alice, bob = _pair()
    laptop = second(server, ALICE)
    introduce(alice, bob, laptop)
    element = alice.encrypt(BOB, b"hello")
    assert rids(element) == {bob.device_id, laptop.device_id}
    assert laptop.decrypt(ALICE, element) == b"hello"
    element = laptop.encrypt(BOB, b"from the laptop")
    assert alice.decrypt(ALICE, element) == b"from the laptop"


def test_a_removed_device_gets_nothing_more() -> None:
    server, alice, bob = _settled()
    tablet = TwomemoPeer(server, BOB)
    introduce(alice, bob, tablet)
    tell(alice, tablet, b"hello")
    only_bob = b"<devices xmlns='urn:xmpp:omemo:2'><device id='%d'/></devices>" % bob.device_id
    server.publish(BOB, "urn:xmpp:omemo:2:devices", "current", only_bob)
    alice.learn_devices(BOB)
    assert rids(alice.encrypt(BOB, b"not for the tablet")) == {bob.device_id}


def test_a_device_without_a_bundle_costs_no_other() -> None:
    server, alice, bob = _settled()
    tablet = TwomemoPeer(server, BOB)
    server.retract(BOB, BUNDLES_NODE, str(tablet.device_id))
    alice.learn_devices(BOB)
    tell(alice, bob, b"still arrives")
    (skipped,) = (line for line in alice.report if not line.sealed)
    assert skipped.device.id == tablet.device_id
    assert skipped.why


def test_not_for_this_device() -> None:
    server, alice, bob = _settled()
    element = bob.encrypt(ALICE, b"for the device that was there")
    late = OurDevice(server, ALICE)
    opened = late.open(BOB, element)
    assert (opened.kind, opened.plaintext) == (Kind.NOT_FOR_US, None)
    assert alice.decrypt(BOB, element) == b"for the device that was there"


def test_signed_labels() -> None:
    server = PepServer()
    alice = OurDevice(server, ALICE, label="Alice's loom")
    bob = TwomemoPeer(server, BOB, label="Bob's telephone")
    introduce(alice, bob)
    tell(bob, alice, b"hello")
    alice.encrypt(BOB, b"hello")
    (line,) = alice.report
    assert line.device.label == "Bob's telephone"
    assert bob.device_label(ALICE, alice.device_id) == "Alice's loom"


def test_identity_keys_are_the_same_at_both_ends() -> None:
    _, alice, bob = _settled()
    alice.encrypt(BOB, b"hello")
    (line,) = alice.report
    assert line.device.key == bob.identity_key


# -- sessions -------------------------------------------------------------------------------------------------------


def test_twomemo_replaces_the_session() -> None:
    server, alice, bob = _settled()
    under_way = bob.encrypt(ALICE, b"sealed with the old session")
    bob.replace_session(ALICE, alice.device_id)
    deliver(server, alice, bob)
    assert alice.decrypt(BOB, under_way) == b"sealed with the old session"
    converse(server, alice, bob)


def test_ours_replaces_the_session() -> None:
    server, alice, bob = _settled()
    under_way = bob.encrypt(ALICE, b"sealed with the old session")
    assert alice.reset(BOB) == 1
    element = alice.encrypt(BOB, b"on a new session")
    assert is_key_exchange(element)
    assert alice.decrypt(BOB, under_way) == b"sealed with the old session"
    assert bob.decrypt(ALICE, element) == b"on a new session"
    deliver(server, alice, bob)
    converse(server, alice, bob)


def test_twomemo_loses_everything_since_an_old_backup() -> None:
    """The peer went back in time: its message keys repeat. Ours notices, and the user's next send mends it."""
    server, alice, bob = _settled()
    backup = bob.storage.snapshot()
    converse(server, alice, bob, turns=2)
    bob.storage.restore(backup)
    opened = alice.open(BOB, bob.encrypt(ALICE, b"with a key that was used"))
    assert opened.kind is Kind.TAMPERED
    alice.now += DAY
    tell(alice, bob, b"mended")
    deliver(server, alice, bob)
    converse(server, alice, bob)


def test_ours_has_lost_the_session() -> None:
    """A device without the session answers a message on it with a new one (an empty message), without a user."""
    server, _, bob = _settled()
    element = bob.encrypt(ALICE, b"can't be read")
    stranger = OurDevice(server, ALICE)
    renumbered = etree.fromstring(element)
    for key in renumbered.iterfind(KEY_PATH):
        key.set("rid", str(stranger.device_id))
    opened = stranger.open(BOB, etree.tostring(renumbered))
    assert (opened.kind, opened.plaintext) == (Kind.NO_SESSION, None)
    introduce(stranger, bob)
    stranger.tick()
    (sent,) = server.messages
    assert is_key_exchange(sent.element)
    deliver(server, stranger, bob)
    converse(server, stranger, bob)


@pytest.mark.parametrize("ours_arrives_first", [True, False])
@pytest.mark.parametrize("attempt", range(CROSSINGS))
def test_crossed_first_messages(ours_arrives_first: bool, attempt: int) -> None:
    """Both start at once: both messages are read, nothing is lost afterwards, both end on one session."""
    server, alice, bob = _pair()
    from_alice, from_bob = alice.encrypt(BOB, b"hello Bob"), bob.encrypt(ALICE, b"hello Alice")
    if ours_arrives_first:
        assert bob.decrypt(ALICE, from_alice) == b"hello Bob"
        assert alice.decrypt(BOB, from_bob) == b"hello Alice"
    else:
        assert alice.decrypt(BOB, from_bob) == b"hello Alice"
        assert bob.decrypt(ALICE, from_alice) == b"hello Bob"
    deliver(server, alice, bob)
    converse(server, alice, bob)
    assert not is_key_exchange(alice.encrypt(BOB, b"settled"))
    assert not is_key_exchange(bob.encrypt(ALICE, b"settled"))


@pytest.mark.parametrize("attempt", range(CROSSINGS))
def test_several_crossed_first_messages(attempt: int) -> None:
    """... also when each has written several before it hears of the other, and they come in a random order."""
    chance = random.Random(attempt)
    server, alice, bob = _pair()
    under_way = [(bob, ALICE, alice.encrypt(BOB, b"a%d" % n), b"a%d" % n) for n in range(3)]
    under_way += [(alice, BOB, bob.encrypt(ALICE, b"b%d" % n), b"b%d" % n) for n in range(3)]
    while under_way:
        receiver, sender, element, text = under_way.pop(chance.randrange(len(under_way)))
        assert receiver.decrypt(sender, element) == text
    deliver(server, alice, bob)
    converse(server, alice, bob)


# -- empty messages -------------------------------------------------------------------------------------------------


@both_directions
def test_heartbeat(first: MakeEnd) -> None:
    """Someone who only listens still moves the ratchet: an empty message answers the 53rd on one chain."""
    server = PepServer()
    alice, bob = first(server, ALICE), other(first)(server, BOB)
    introduce(alice, bob)
    converse(server, alice, bob, turns=1)
    heartbeats = 0
    for number in range(120):
        tell(alice, bob, b"monologue %d" % number)
        heartbeats += bool(server.messages)
        deliver(server, alice, bob)
    assert heartbeats == 2
    converse(server, alice, bob)


def test_an_empty_message_is_an_empty_message() -> None:
    server, alice, bob = _pair()
    assert bob.decrypt(ALICE, alice.encrypt(BOB, b"hello")) == b"hello"
    (sent,) = server.messages_to(ALICE)
    opened = alice.open(BOB, sent.element)
    assert (opened.kind, opened.plaintext) == (Kind.EMPTY, None)
    assert not server.messages, "an empty message that completes a session is not answered"


# -- key exchange ---------------------------------------------------------------------------------------------------


def test_a_key_exchange_without_a_prekey_is_refused() -> None:
    _, alice, bob = _pair()
    good = bob.encrypt(ALICE, b"hello")
    root = etree.fromstring(good)
    key = root.find(KEY_PATH)
    assert key is not None
    data = base64.decode(key.text or "", max_bytes=1_000)
    assert data[0] == 0x08, "pk_id comes first"
    assert data[1] < 0x80, "and is small"
    for without in (data[2:], b"\x08\x00" + data[2:]):
        key.text = base64.encode(without)
        with pytest.raises(Malformed):
            alice.open(BOB, etree.tostring(root))
    assert alice.decrypt(BOB, good) == b"hello"


def test_an_unknown_prekey_is_refused() -> None:
    _, alice, bob = _pair()
    good = bob.encrypt(ALICE, b"hello")
    root = etree.fromstring(good)
    key = root.find(KEY_PATH)
    assert key is not None
    data = base64.decode(key.text or "", max_bytes=1_000)
    key.text = base64.encode(b"\x08\xe7\x07" + data[2:])  # 999
    opened = alice.open(BOB, etree.tostring(root))
    assert (opened.kind, opened.plaintext) == (Kind.TAMPERED, None)
    assert alice.decrypt(BOB, good) == b"hello"


def _leave_one_prekey(server: PepServer, address: str, device_id: int) -> None:
    """Make everybody choose the same prekey."""
    item = (address, BUNDLES_NODE, str(device_id))
    bundle = etree.fromstring(server.items[item])
    prekeys = bundle.find(f"{{{NS}}}prekeys")
    assert prekeys is not None
    for prekey in prekeys[1:]:
        prekeys.remove(prekey)
    server.items[item] = etree.tostring(bundle)


@pytest.mark.parametrize("catching_up", [True, False])
def test_two_senders_use_one_prekey(catching_up: bool) -> None:
    """While catching up both can be read; live, the second comes too late, and ends with a session all the same."""
    server = PepServer()
    alice = OurDevice(server, ALICE)
    if catching_up:
        alice.catch_up(ended=False)
    bob, carol = TwomemoPeer(server, BOB), TwomemoPeer(server, CAROL)
    _leave_one_prekey(server, ALICE, alice.device_id)
    for end in (bob, carol):
        introduce(alice, end)
    from_bob, from_carol = bob.encrypt(ALICE, b"I am Bob"), carol.encrypt(ALICE, b"I am Carol")
    assert alice.decrypt(BOB, from_bob) == b"I am Bob"
    opened = alice.open(CAROL, from_carol)
    if catching_up:
        assert opened.plaintext == b"I am Carol"
        alice.catch_up(ended=True)
    else:
        assert (opened.kind, opened.plaintext) == (Kind.TAMPERED, None)
        tell(alice, carol, b"who are you?")
    deliver(server, alice, bob, carol)
    converse(server, alice, bob)
    converse(server, alice, carol)


def test_used_prekeys_are_replaced_in_the_bundle() -> None:
    server, alice, bob = _pair()
    before = server.items[ALICE, BUNDLES_NODE, str(alice.device_id)]
    tell(bob, alice, b"hello")
    after = server.items[ALICE, BUNDLES_NODE, str(alice.device_id)]
    ids = [{key.get("id") for key in etree.fromstring(bundle).iter(f"{{{NS}}}pk")} for bundle in (before, after)]
    assert len(ids[0]) == len(ids[1]) == 100
    assert len(ids[0] - ids[1]) == 1


def test_our_signed_prekey_is_rotated() -> None:
    """After a rotation twomemo starts with the new one, and what it sealed with the old one can still be read."""
    server, alice, bob = _pair()
    old = bob.encrypt(ALICE, b"sealed before the rotation")
    before = server.items[ALICE, BUNDLES_NODE, str(alice.device_id)]
    alice.now += 8 * DAY
    alice.tick()
    after = server.items[ALICE, BUNDLES_NODE, str(alice.device_id)]
    spk = [etree.fromstring(bundle).findtext(f"{{{NS}}}spk") for bundle in (before, after)]
    assert spk[0] != spk[1]
    assert alice.decrypt(BOB, old) == b"sealed before the rotation"
    carol = TwomemoPeer(server, CAROL)
    introduce(alice, carol)
    tell(carol, alice, b"sealed after the rotation")


def test_twomemo_rotates_its_signed_prekey() -> None:
    server, alice, bob = _pair()
    alice.learn_devices(BOB)
    alice.learn(server.fetch(Fetch(Address(BOB), BUNDLES_NODE, str(bob.device_id))))
    bob.rotate_signed_prekey()
    tell(alice, bob, b"with the old one, which it still has")
    deliver(server, alice, bob)
    converse(server, alice, bob)
