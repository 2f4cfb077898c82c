"""Ours and twomemo talk: every message that arrives is read, whatever happened to the others (XEP-0384)."""

from __future__ import annotations

import random
from base64 import b64decode, b64encode

import pytest
from lxml import etree
from omemo import DecryptionFailed, OMEMOException

from support.our_device import OurDevice
from support.pep import NS, PepServer
from support.talk import (
    ALICE,
    BOB,
    KEY_PATH,
    End,
    MakeEnd,
    both_directions,
    converse,
    deliver,
    introduce,
    is_key_exchange,
    other,
    tell,
)
from support.twomemo_peer import TwomemoPeer
from tillie.errors import PeerError
from tillie.model import Kind

MANY = 1_000


def _meet(first: MakeEnd) -> tuple[PepServer, End, End]:
    server = PepServer()
    alice, bob = first(server, ALICE), other(first)(server, BOB)
    introduce(alice, bob)
    return server, alice, bob


def _settled(first: MakeEnd) -> tuple[PepServer, End, End]:
    server, alice, bob = _meet(first)
    converse(server, alice, bob, turns=1)
    return server, alice, bob


def _refuses(receiver: End, sender: str, element: bytes) -> None:
    """The receiver reads nothing in this element; ours says so with a kind or a typed error, twomemo with its own."""
    if isinstance(receiver, OurDevice):
        try:
            opened = receiver.open(sender, element)
        except PeerError:
            return
        assert opened.plaintext is None
        assert opened.kind in (Kind.DUPLICATE, Kind.TAMPERED, Kind.NO_SESSION, Kind.MALFORMED)
    else:
        with pytest.raises((OMEMOException, DecryptionFailed, ValueError)):
            receiver.decrypt(sender, element)


@both_directions
def test_first_message_and_reply(first: MakeEnd) -> None:
    server, alice, bob = _meet(first)
    opening = alice.encrypt(BOB, b"hello")
    assert is_key_exchange(opening)
    assert bob.decrypt(ALICE, opening) == b"hello"
    again = alice.encrypt(BOB, b"are you there?")
    assert is_key_exchange(again), "until the peer has answered, every message repeats the key exchange"
    assert bob.decrypt(ALICE, again) == b"are you there?"
    deliver(server, alice, bob)
    assert not is_key_exchange(alice.encrypt(BOB, b"an answer came"))
    tell(bob, alice, b"here I am")


@both_directions
def test_long_ping_pong(first: MakeEnd) -> None:
    server, alice, bob = _meet(first)
    converse(server, alice, bob, turns=20)


@both_directions
def test_out_of_order(first: MakeEnd) -> None:
    _, alice, bob = _settled(first)
    texts = [b"message %d" % number for number in range(20)]
    elements = [alice.encrypt(BOB, text) for text in texts]
    order = list(range(20))
    random.Random(7).shuffle(order)
    for number in order:
        assert bob.decrypt(ALICE, elements[number]) == texts[number]


@both_directions
def test_out_of_order_across_a_ratchet_step(first: MakeEnd) -> None:
    _, alice, bob = _settled(first)
    late = [alice.encrypt(BOB, b"late %d" % number) for number in range(3)]
    assert bob.decrypt(ALICE, late[0]) == b"late 0"
    tell(bob, alice, b"a turn")
    tell(alice, bob, b"on a new chain")
    for number in (2, 1):
        assert bob.decrypt(ALICE, late[number]) == b"late %d" % number


@both_directions
def test_first_messages_out_of_order(first: MakeEnd) -> None:
    server, alice, bob = _meet(first)
    texts = [b"message %d" % number for number in range(4)]
    elements = [alice.encrypt(BOB, text) for text in texts]
    for number in (2, 0, 3, 1):
        assert bob.decrypt(ALICE, elements[number]) == texts[number]
    deliver(server, alice, bob)
    converse(server, alice, bob)


@both_directions
def test_lost_messages(first: MakeEnd) -> None:
    server, alice, bob = _settled(first)
    for turn in range(4):
        for number in range(10):
            alice.encrypt(BOB, b"lost %d" % number)
        tell(alice, bob, b"after a loss")
        if turn % 2:
            bob.encrypt(ALICE, b"lost as well")
            tell(bob, alice, b"a turn")
    converse(server, alice, bob)


@both_directions
def test_lost_first_message(first: MakeEnd) -> None:
    server, alice, bob = _meet(first)
    alice.encrypt(BOB, b"lost")
    tell(alice, bob, b"this one comes")
    deliver(server, alice, bob)
    converse(server, alice, bob)


@both_directions
def test_repeated_messages(first: MakeEnd) -> None:
    server, alice, bob = _meet(first)
    opening = alice.encrypt(BOB, b"hello")
    assert bob.decrypt(ALICE, opening) == b"hello"
    _refuses(bob, ALICE, opening)
    deliver(server, alice, bob)
    later = alice.encrypt(BOB, b"later")
    assert bob.decrypt(ALICE, later) == b"later"
    _refuses(bob, ALICE, later)
    _refuses(bob, ALICE, opening)
    converse(server, alice, bob)


def test_a_duplicate_is_silent_at_ours() -> None:
    server, bob, alice = _settled(TwomemoPeer)
    assert isinstance(alice, OurDevice)
    element = bob.encrypt(alice.address, b"once")
    assert alice.decrypt(bob.address, element) == b"once"
    opened = alice.open(bob.address, element)
    assert (opened.kind, opened.plaintext) == (Kind.DUPLICATE, None)
    assert not server.messages


def _flip_payload(element: bytes, place: int) -> bytes:
    root = etree.fromstring(element)
    payload = root.find(f"{{{NS}}}payload")
    assert payload is not None
    payload.text = _flipped(payload.text or "", place)
    return etree.tostring(root)


def _flip_key(element: bytes, place: int) -> bytes:
    root = etree.fromstring(element)
    key = root.find(KEY_PATH)
    assert key is not None
    key.text = _flipped(key.text or "", place)
    return etree.tostring(root)


def _flipped(text: str, place: int) -> str:
    data = bytearray(b64decode(text))
    data[place % len(data)] ^= 1
    return b64encode(data).decode()


@both_directions
@pytest.mark.parametrize("flip", [_flip_payload, _flip_key])
def test_tampered_messages_cost_nothing(first: MakeEnd, flip: object) -> None:
    """A flipped bit anywhere is refused, and the good copy can still be read afterwards."""
    assert callable(flip)
    server, alice, bob = _settled(first)
    element = alice.encrypt(BOB, b"the good copy")
    size = len(b64decode(etree.fromstring(element).findtext(KEY_PATH) or "")) if flip is _flip_key else 16
    for place in range(0, size, 3):
        _refuses(bob, ALICE, flip(element, place))
    assert bob.decrypt(ALICE, element) == b"the good copy"
    converse(server, alice, bob)


@both_directions
def test_tampered_first_message(first: MakeEnd) -> None:
    """Nor does a forged key exchange use up the prekey that the true one needs."""
    server, alice, bob = _meet(first)
    element = alice.encrypt(BOB, b"the good copy")
    for place in range(0, 200, 9):
        _refuses(bob, ALICE, _flip_key(element, place))
    assert bob.decrypt(ALICE, element) == b"the good copy"
    deliver(server, alice, bob)
    converse(server, alice, bob)


@both_directions
def test_a_thousand_messages(first: MakeEnd) -> None:
    """Both ways in a random rhythm, late and out of order by up to 20, with the heartbeats that this makes."""
    chance = random.Random(384)
    server, alice, bob = _settled(first)
    under_way: dict[End, list[tuple[bytes, bytes]]] = {alice: [], bob: []}
    read = 0
    sender, receiver = alice, bob
    for number in range(MANY):
        if chance.random() < 0.1:
            sender, receiver = receiver, sender
        text = b"message %d" % number
        under_way[receiver].append((text, sender.encrypt(receiver.address, text)))
        while len(under_way[receiver]) > 20 or (under_way[receiver] and chance.random() < 0.5):
            text, element = under_way[receiver].pop(chance.randrange(len(under_way[receiver])))
            assert receiver.decrypt(sender.address, element) == text
            read += 1
        deliver(server, alice, bob)
    for end, peer in ((alice, bob), (bob, alice)):
        for text, element in under_way[end]:
            assert end.decrypt(peer.address, element) == text
            read += 1
    assert read == MANY
