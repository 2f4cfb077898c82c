"""What Olm keeps for a while, or up to a number: both sides of each limit."""

from __future__ import annotations

import copy

import pytest

from support.olm import ALICE, BOB, Home, Player, for_device, pair, text_of
from tillie.directory import matrix
from tillie.directory.matrix import DRAFT2015
from tillie.errors import UsageError
from tillie.model import Address, CatchUp, Fetch, Fetched, Kind
from tillie.schemes.olm import contacts, keys, own, payload, repair, scheme
from tillie.schemes.olm.records import DeviceList


def lists(player: Player, user: Address) -> DeviceList:
    known = player.look(lambda s: contacts.load(s, user))
    assert known is not None
    return known


def read_again(player: Player, user: Address) -> None:
    player.learn(player.home.answer(Fetch(user, matrix.KEYS_QUERY)))


@pytest.mark.parametrize(("seconds", "claims"), [(contacts.CLAIM_MAX_AGE - 1, 1), (contacts.CLAIM_MAX_AGE + 1, 2)])
def test_a_claimed_key_waits_for_an_hour(seconds: float, claims: int) -> None:
    """Somebody decides late: until then the key that was claimed waits, and no second one is used up."""
    home, alice, _ = pair()
    read_again(alice, BOB)
    alice.learn(home.answer(contacts.claim(BOB, ["BOBPHONE"])))
    home.now += seconds
    alice.tick()
    alice.send(BOB, "1")
    assert sum(each.node == matrix.KEYS_CLAIM for each in home.fetched) == claims


def test_what_lists_were_is_kept_up_to_a_number_and_for_a_week() -> None:
    home, alice, _ = pair()
    for number in range(contacts.MAX_PAST + 2):
        read_again(alice, BOB)
        home.now += 60
        Player(home, BOB, f"N{number}")
        assert len(lists(alice, BOB).past) == min(number, contacts.MAX_PAST)
    read_again(alice, BOB)
    oldest = lists(alice, BOB).past[0].until
    home.now = oldest + contacts.PAST_KEPT - 1
    read_again(alice, BOB)
    assert len(lists(alice, BOB).past) == contacts.MAX_PAST
    home.now += 2
    read_again(alice, BOB)
    assert len(lists(alice, BOB).past) == contacts.MAX_PAST - 1


def test_devices_that_left_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contacts, "MAX_GONE", 2)
    home, alice, _ = pair()
    for name in ("A", "B", "C"):
        Player(home, BOB, name)
    for left, gone in (("A", ["A"]), ("B", ["A", "B"]), ("C", ["B", "C"])):
        read_again(alice, BOB)
        del home.devices[BOB][left]
        read_again(alice, BOB)
        assert [each.id for each in lists(alice, BOB).gone] == gone


@pytest.mark.parametrize(("most", "kind"), [(2, Kind.DUPLICATE), (1, Kind.TAMPERED)])
def test_opened_messages_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch, most: int, kind: Kind) -> None:
    monkeypatch.setattr(scheme, "MAX_SEEN", most)
    home, alice, bob = pair()
    first = alice.send(BOB, "1")
    bob.receive(ALICE, first)
    home.now += 1
    bob.receive(ALICE, alice.send(BOB, "2"))
    bob.tick()
    assert bob.receive(ALICE, first).kind is kind  # forgotten or not, it does not open again


@pytest.mark.parametrize(("seconds", "asked"), [(scheme.OWN_LIST_AGE - 1, 0), (scheme.OWN_LIST_AGE + 1, 1)])
def test_our_own_list_is_looked_at_every_hour(seconds: float, asked: int) -> None:
    home, _, bob = pair()
    bob.tick()
    home.fetched.clear()
    home.now = lists(bob, BOB).tried + seconds
    bob.tick()
    assert len(home.fetched) == asked


@pytest.mark.parametrize(("more", "notices"), [(0, 0), (1, 1)])
def test_counts_up_to_a_size_are_read(more: int, notices: int) -> None:
    _, _, bob = pair()
    told = b'{"counts":{"signed_curve25519":50},"fallback":null}'
    told += b" " * (scheme.MAX_COUNTS - len(told) + more)
    bob.learn(Fetched(BOB, matrix.KEY_COUNTS, "", told, pushed=True))
    assert len(bob.notices) == notices


def test_an_event_is_for_as_many_people_as_others_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "MAX_RECIPIENTS", 2)
    home, alice, bob = pair()
    carol, dora = (Player(home, Address(f"@{name}:c.example"), "C").user for name in ("carol", "dora"))
    assert text_of(bob.receive(ALICE, alice.send(BOB, "1", also=(carol, BOB)))) == "1"
    with pytest.raises(UsageError, match="3 people"):
        alice.send(BOB, "2", also=(carol, dora))


def test_the_longest_type_of_an_event() -> None:
    _, alice, bob = pair()
    assert bob.receive(ALICE, alice.send_event(BOB, {"type": "x" * payload.MAX_TYPE, "content": {}})).content
    for text in ("x" * (payload.MAX_TYPE + 1), "é" * (payload.MAX_TYPE // 2 + 1)):
        with pytest.raises(UsageError):
            alice.send_event(BOB, {"type": text, "content": {}})


@pytest.mark.parametrize(("seconds", "made"), [(keys.TOP_UP_WINDOW - 1, 0), (keys.TOP_UP_WINDOW, keys.GOAL)])
def test_a_home_that_counted_wrong_is_believed_again_later(seconds: float, made: int) -> None:
    home, _, bob = pair()
    for _ in range(keys.TOP_UPS):
        home.one_time.clear()
        bob.sync()
    home.one_time.clear()
    home.now += seconds
    bob.sync()
    assert sum(map(len, home.one_time.values())) == made


@pytest.mark.parametrize(("seconds", "kept"), [(keys.MAX_CATCH_UP - 1, 2), (keys.MAX_CATCH_UP, 1)])
def test_while_catching_up_a_retired_fallback_key_waits_for_what_was_sealed_for_it(seconds: float, kept: int) -> None:
    home, alice, bob = pair()
    home.one_time.clear()
    bob.learn(CatchUp(ended=False))
    assert text_of(bob.receive(ALICE, alice.send(BOB, "1"))) == "1"
    retired = home.now
    home.now = retired + seconds
    bob.look(lambda s: keys.forget(s, home.now))
    assert bob.count("fallback") == kept


def test_repairs_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "MAX_WAITING", 2)
    home = Home()
    bob = Player(home, BOB, "BOBPHONE")
    for number in range(3):
        alice = Player(home, ALICE, f"PHONE{number}")
        sealed = for_device(alice.send(BOB, "1"), BOB, "BOBPHONE")
        read_again(bob, ALICE)
        next(iter(sealed["ciphertext"].values()))["type"] = 1
        assert bob.open(ALICE, sealed).kind is Kind.NO_SESSION
        assert bob.count("repair") == min(number + 1, 2)


@pytest.mark.parametrize(("seconds", "renewed"), [(-1, False), (0, True)])
def test_dates_of_the_draft_are_renewed_some_days_before_their_end(seconds: float, renewed: bool) -> None:
    home, _, bob = pair(DRAFT2015)
    first = copy.deepcopy(home.devices[BOB]["BOBPHONE"])
    home.now = first["valid_until_ts"] / 1000 - own.RENEW + seconds
    bob.tick()
    assert (home.devices[BOB]["BOBPHONE"] != first) is renewed


@pytest.mark.parametrize(("seconds", "expired"), [(own.CLOCKS - 1, False), (own.CLOCKS, True)])
def test_clocks_may_differ_about_dates(seconds: float, expired: bool) -> None:
    _, alice, _ = pair(DRAFT2015)
    read_again(alice, BOB)
    (device,) = lists(alice, BOB).devices
    assert ("expired" in contacts.why_unable(device, DRAFT2015, device.valid[1] + seconds)) is expired
    first = device.valid[0] - own.CLOCKS
    assert contacts.why_unable(device, DRAFT2015, first) == ""
    assert contacts.why_unable(device, DRAFT2015, first - 1)
