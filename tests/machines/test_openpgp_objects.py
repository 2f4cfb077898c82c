"""Sealed objects: any bytes, offline, for people whose keys are known."""

from __future__ import annotations

import pytest

from support.openpgp import ALICE, BOB, CAROL, DAY, PgpEnd, PgpWorld, forged, pair
from tillie.crypto import openpgp
from tillie.directory import openpgp as directory
from tillie.errors import (
    BadSignature,
    Malformed,
    NoRecipients,
    NotTrusted,
    PeerError,
    Refused,
    TooLarge,
    Undecryptable,
    UsageError,
)
from tillie.model import Address, Content, Fetch, Trust
from tillie.schemes.openpgp import OpenedObject, SealedObject, content, objects
from tillie.schemes.openpgp.content import Form
from tillie.trust.decisions import Policy

DATA = bytes(range(256))


def acquainted() -> tuple[PgpWorld, PgpEnd, PgpEnd]:
    """Alice and Bob, who have written to each other; then the network is gone."""
    world, alice, bob = pair()
    alice.say(BOB, "hello")
    bob.say(ALICE, "hello")
    world.settle()
    world.now += 100 * DAY
    world.unreachable |= {ALICE, BOB}
    world.fetches.clear()
    return world, alice, bob


def seal(end: PgpEnd, *to: Address, data: bytes = DATA, policy: Policy = Policy.BLIND) -> SealedObject:
    return end.run(lambda s: end.scheme.seal_object(s, policy, data, to, end.now))


def opened(end: PgpEnd, message: bytes) -> OpenedObject:
    return end.run(lambda s: end.scheme.open_object(s, Policy.BLIND, message, end.now))


def test_an_object_there_and_back() -> None:
    world, alice, bob = acquainted()
    sealed = seal(alice, BOB)
    assert [(each.device.address, each.sealed) for each in sealed.report] == [(BOB, True)]
    got = opened(bob, sealed.message)
    assert (got.data, got.device, got.trust, got.time, got.notes) == (DATA, alice.device, Trust.TRUSTED, world.now, ())
    mine = opened(alice, sealed.message)
    assert (mine.data, mine.trust) == (DATA, Trust.VERIFIED)
    assert not world.fetches
    assert opened(bob, sealed.message).data == DATA  # a file may be opened again


def test_an_object_for_oneself() -> None:
    alice = PgpEnd(PgpWorld(), ALICE)
    sealed = seal(alice, ALICE)
    assert sealed.report == ()
    assert opened(alice, sealed.message).data == DATA


def test_the_size_of_an_object() -> None:
    _, alice, _ = acquainted()
    largest = bytes(objects.MAX_OBJECT_BYTES)
    assert opened(alice, seal(alice, BOB, data=largest).message).data == largest
    with pytest.raises(TooLarge):
        seal(alice, BOB, data=largest + b"\0")


def test_somebody_unknown() -> None:
    _, alice, _ = acquainted()
    with pytest.raises(UsageError, match="No OpenPGP key of carol") as caught:
        seal(alice, CAROL)
    assert str(CAROL) in caught.value.hint
    with pytest.raises(NoRecipients):
        seal(alice)


def test_somebody_undecided_or_distrusted() -> None:
    _, alice, bob = acquainted()
    fresh = PgpEnd(PgpWorld(), CAROL)
    fresh.world.announce(BOB, bob.key.certificate)
    for node in (directory.LIST_NODE, directory.key_node(bob.device.key)):
        fresh.learn(fresh.world.fetch(Fetch(BOB, node)))
    with pytest.raises(NotTrusted):
        seal(fresh, BOB, policy=Policy.MANUAL)
    alice.trust(BOB, bob.device.key, Trust.DISTRUSTED)
    with pytest.raises(NoRecipients, match="distrusted"):
        seal(alice, BOB)


def test_what_is_not_for_us() -> None:
    world, alice, _ = acquainted()
    carol = PgpEnd(world, CAROL)
    with pytest.raises(UsageError, match="not sealed for a key of this account"):
        opened(carol, seal(alice, BOB).message)


def test_what_was_passed_on_by_somebody_it_was_for() -> None:
    world, alice, bob = acquainted()
    for_carol = forged(alice.key, [bob.key.certificate], "x", [CAROL], world.now)
    with pytest.raises(Refused, match="somebody else"):
        opened(bob, for_carol)


def test_what_a_stranger_signed() -> None:
    world, _, bob = acquainted()
    stranger = openpgp.generate(f"xmpp:{ALICE}")
    with pytest.raises(BadSignature) as caught:
        opened(bob, forged(stranger, [bob.key.certificate], "x", [BOB], world.now))
    assert caught.value.hint


def test_what_nobody_signed() -> None:
    _, _, bob = acquainted()
    with pytest.raises(BadSignature):
        opened(bob, openpgp.crypt(b"<crypt/>", [bob.key.certificate]))


def test_what_is_no_object() -> None:
    world, alice, bob = acquainted()
    with pytest.raises(Malformed):
        opened(bob, forged(alice.key, [bob.key.certificate], "x", [BOB], world.now))


@pytest.mark.parametrize("form", [Form.SIGN, Form.CRYPT])
def test_what_says_that_it_was_made_otherwise(form: Form) -> None:
    world, alice, bob = acquainted()
    inside = Content(b"<object xmlns='urn:tillie:object:0'>QQ==</object>")
    plaintext = content.encode(form, inside, [BOB], world.now, bytes)
    with pytest.raises(Refused, match="says that it is not"):
        opened(bob, openpgp.signcrypt(plaintext, alice.key, [bob.key.certificate]))


def test_what_comes_from_the_future() -> None:
    world, alice, bob = acquainted()
    with pytest.raises(Refused, match="future"):
        opened(bob, forged(alice.key, [bob.key.certificate], "x", [BOB], world.now + 2 * DAY))


def test_altered_objects() -> None:
    _, alice, bob = acquainted()
    message = seal(alice, BOB).message
    for at in range(0, len(message), 97):
        altered = message[:at] + bytes((message[at] ^ 1,)) + message[at + 1 :]
        with pytest.raises((PeerError, UsageError)):
            opened(bob, altered)
    for cut in (0, 1, 10, len(message) - 1):
        with pytest.raises((Malformed, Undecryptable)):
            opened(bob, message[:cut])


def test_armour_is_refused() -> None:
    _, _, bob = acquainted()
    with pytest.raises(Malformed):
        opened(bob, b"-----BEGIN PGP MESSAGE-----\n\nhF4D\n-----END PGP MESSAGE-----\n")
