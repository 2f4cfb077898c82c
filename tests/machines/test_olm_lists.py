"""Lists of devices that differ from one to the other, change meanwhile, or are many."""

from __future__ import annotations

import copy

import pytest

from support.olm import ALICE, BOB, Player, for_device, pair, text_of
from tillie.directory import matrix
from tillie.model import Address, Fetch, Kind
from tillie.schemes.olm import binding, contacts

NEW = "Its sender did not know of a device on their own list, which is new, or hidden from them."


def test_a_home_that_adds_a_device_for_one_side_only_is_noticed() -> None:
    """The sender's home shows a device more than the recipient's: it would read what is sealed."""
    home, alice, bob = pair()
    real = copy.deepcopy(home.devices[BOB])
    ghost = Player(home, BOB, "GHOST")
    sent = alice.send(BOB, "secret")
    assert ghost.count("one-time") > 0
    home.devices[BOB] = real
    got = bob.receive(ALICE, sent)
    assert got.kind is Kind.REFUSED
    assert "other devices" in got.error


def test_a_message_sealed_before_the_list_changed_still_opens() -> None:
    home, alice, bob = pair()
    bob.receive(ALICE, alice.send(BOB, "1"))
    bob.send(ALICE, "so that he has read both lists")
    late = alice.send(BOB, "2")
    Player(home, BOB, "LAPTOP")
    home.now += contacts.LIST_MAX_AGE
    bob.send(ALICE, "now he knows of the laptop")
    got = bob.receive(ALICE, late)
    assert text_of(got) == "2"
    assert got.notes == ("It was sealed for an earlier list of devices.",)
    home.now += contacts.PAST_KEPT
    even_later = for_device(alice.send(BOB, "3"), BOB, "BOBPHONE")
    assert bob.open(ALICE, even_later).kind is Kind.OPENED


def test_a_first_message_opens_though_its_sender_got_a_device_meanwhile() -> None:
    home, alice, bob = pair()
    first, second = alice.send(BOB, "1"), alice.send(BOB, "2")
    tablet = Player(home, ALICE, "TABLET")
    for text, sent in (("1", first), ("2", second)):
        got = bob.receive(ALICE, sent)
        assert (text_of(got), got.notes) == (text, (NEW,))
    home.now += contacts.LIST_MAX_AGE
    third, copied = alice.send(BOB, "3"), tablet.send(BOB, "4")
    for text, sent in (("3", third), ("4", copied)):
        got = bob.receive(ALICE, sent)
        assert (text_of(got), got.notes) == (text, ())


def test_a_device_that_its_own_user_does_not_see_is_found_out_in_the_end() -> None:
    """Her home shows a device of hers to everybody but her: it would read the answers."""
    home, alice, bob = pair()
    shown = copy.deepcopy(home.devices[ALICE])
    Player(home, ALICE, "GHOST")
    hidden, home.devices[ALICE] = home.devices[ALICE], shown
    sent = [alice.send(BOB, str(number)) for number in range(2)]
    home.devices[ALICE] = hidden
    assert bob.receive(ALICE, sent[0]).notes == (NEW,)
    answer = bob.send(ALICE, "read by the ghost")
    home.now += binding.MAY_BE_NEW
    assert bob.receive(ALICE, sent[1]).kind is Kind.REFUSED
    home.devices[ALICE] = shown
    got = alice.receive(BOB, answer)
    assert (got.kind, "other devices" in got.error) == (Kind.REFUSED, True)


@pytest.mark.parametrize("user", [ALICE, BOB])
def test_a_device_that_only_the_sender_of_a_first_message_saw_is_refused(user: Address) -> None:
    home, alice, bob = pair()
    real = copy.deepcopy(home.devices[user])
    Player(home, user, "GHOST")
    sent = alice.send(BOB, "secret")
    home.devices[user] = real
    assert bob.receive(ALICE, sent).kind is Kind.REFUSED
    Player(home, ALICE, "TABLET")  # one more to leave out does not make up for it
    home.now += contacts.LIST_MAX_AGE
    assert bob.receive(ALICE, sent).kind is Kind.REFUSED


def test_a_list_that_can_not_be_had_is_named_and_the_next_message_opens() -> None:
    home, alice, bob = pair()
    Player(home, ALICE, "TABLET")
    first = alice.send(BOB, "1")
    home.broken.add(ALICE)
    got = bob.receive(ALICE, first)
    assert (got.kind, "@alice:a.example can't be had (M_UNKNOWN)" in got.error) == (Kind.REFUSED, True)
    home.broken.clear()
    home.now += contacts.JUST_READ
    assert text_of(bob.receive(ALICE, alice.send(BOB, "2"))) == "2"


def test_whoever_writes_to_us_can_not_fill_the_store_with_lists() -> None:
    home, alice, bob = pair()
    crowd = [Address(f"@n{number:03d}:m.example") for number in range(contacts.MAX_STRANGERS + 1)]
    for room in (contacts.MAX_STRANGERS, contacts.MAX_STRANGERS + 1):
        for user in crowd[:room]:
            bob.learn(home.answer(Fetch(user, matrix.KEYS_QUERY)))
            home.now += 1
        bob.receive(ALICE, alice.send(BOB, "known"))
        bob.tick()
        assert bob.count("devices") == contacts.MAX_STRANGERS + 2  # and Alice's, and his own
    assert bob.look(lambda s: contacts.load(s, crowd[0])) is None
    assert bob.look(lambda s: contacts.load(s, crowd[1])) is not None
    assert text_of(bob.receive(ALICE, alice.send(BOB, "as before"))) == "as before"
