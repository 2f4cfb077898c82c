"""Two to three devices that talk by Olm, on a home in memory."""

from __future__ import annotations

import json

import pytest

from support.olm import ALICE, BOB, Home, Player, for_device, pair, text_of
from tillie.directory.matrix import DRAFT2015, V1, Profile
from tillie.errors import NoRecipients, StoreMismatch, TooLarge, UsageError
from tillie.model import NO_PAYLOAD, Address, Fetched, Kind, RolledBack
from tillie.schemes.olm import contacts, keys, own, payload, records, repair, sessions
from tillie.schemes.olm.sessions import Peer

PROFILES = pytest.mark.parametrize("profile", [V1, DRAFT2015], ids=lambda profile: profile.name)


@PROFILES
def test_messages_go_both_ways(profile: Profile) -> None:
    _, alice, bob = pair(profile)
    sent = alice.send(BOB, "hello")
    got = bob.receive(ALICE, sent)
    assert (got.kind, text_of(got), got.notes) == (Kind.OPENED, "hello", ())
    assert got.device is not None
    assert got.device.label == "ALICEPHONE"
    assert got.envelope is not None
    assert got.envelope.to == BOB
    for number in range(5):
        assert text_of(alice.receive(BOB, bob.send(ALICE, f"b{number}"))) == f"b{number}"
        assert text_of(bob.receive(ALICE, alice.send(BOB, f"a{number}"))) == f"a{number}"
    assert bob.count("one-time") == keys.GOAL - 1  # the first message used one up


def test_nothing_is_fetched_for_an_existing_session() -> None:
    home, alice, bob = pair()
    bob.receive(ALICE, alice.send(BOB, "1"))
    home.fetched.clear()
    bob.receive(ALICE, alice.send(BOB, "2"))
    assert home.fetched == []


def test_one_copy_for_each_device_and_own_ones_hear_too() -> None:
    home, alice, bob = pair()
    tablet = Player(home, ALICE, "TABLET")
    laptop = Player(home, BOB, "LAPTOP")
    sent = alice.send(BOB, "hello")
    assert {(each.device.label, each.sealed) for each in sent.report} == {
        ("BOBPHONE", True), ("LAPTOP", True), ("TABLET", True)
    }  # fmt: skip
    for each in (bob, laptop):
        assert text_of(each.receive(ALICE, sent)) == "hello"
    copy = tablet.receive(ALICE, sent)
    assert text_of(copy) == "hello"
    assert copy.envelope is not None
    assert copy.envelope.to == BOB


def test_several_recipients() -> None:
    home, alice, bob = pair()
    carol = Player(home, Address("@carol:c.example"), "C")
    sent = alice.send(BOB, "both", also=(carol.user,))
    assert text_of(bob.receive(ALICE, sent)) == "both"
    assert text_of(carol.receive(ALICE, sent)) == "both"


def test_a_note_to_oneself() -> None:
    home, alice, _ = pair()
    tablet = Player(home, ALICE, "TABLET")
    assert text_of(tablet.receive(ALICE, alice.send(ALICE, "milk"))) == "milk"


@PROFILES
def test_what_comes_again_is_a_duplicate(profile: Profile) -> None:
    _, alice, bob = pair(profile)
    first, second = alice.send(BOB, "1"), alice.send(BOB, "2")
    assert text_of(bob.receive(ALICE, second)) == "2"  # reordered
    assert text_of(bob.receive(ALICE, first)) == "1"
    before = bob.records()
    assert bob.receive(ALICE, first).kind is bob.receive(ALICE, second).kind is Kind.DUPLICATE
    assert bob.records() == before


def test_crossing_first_messages_settle_on_one_session() -> None:
    _, alice, bob = pair()
    a, b = alice.send(BOB, "a"), bob.send(ALICE, "b")
    assert text_of(alice.receive(BOB, b)) == "b"
    assert text_of(bob.receive(ALICE, a)) == "a"
    assert text_of(bob.receive(ALICE, alice.send(BOB, "c"))) == "c"
    assert text_of(alice.receive(BOB, bob.send(ALICE, "d"))) == "d"
    assert current_id(alice, bob) == current_id(bob, alice)


def current_id(player: Player, other: Player) -> bytes:
    """The id of the session with which one sends to the other."""
    mine = other.look(own.load)
    assert mine is not None
    session = player.look(lambda s: sessions.current(s, Peer(other.user, mine.curve25519)))
    assert session is not None
    return session.id


def test_sessions_with_a_device_are_bounded() -> None:
    _, alice, bob = pair()
    sent = []
    for number in range(sessions.MAX_OLD + 3):
        sent.append(alice.send(BOB, str(number)))
        alice.step(lambda s: alice.scheme.reset(s, BOB, None, 0.0))
    for number, each in enumerate(sent):
        assert text_of(bob.receive(ALICE, each)) == str(number)
    assert bob.count("session") == 1
    assert bob.count("old") == sessions.MAX_OLD
    assert alice.count("old") == sessions.MAX_OLD


def test_what_is_kept_of_sessions_in_memory_serves_for_what_is_stored_only() -> None:
    _, alice, bob = pair()
    alice.send(BOB, "1")
    before = alice.records()
    sent = for_device(alice.send(BOB, "2"), BOB, "BOBPHONE")
    alice.restore(before)
    assert for_device(alice.send(BOB, "2"), BOB, "BOBPHONE") == sent  # not the next message of what is in memory
    assert text_of(bob.open(ALICE, sent)) == "2"


def test_what_is_kept_of_sessions_in_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_LIVE", 2)
    sessions._live.clear()
    home, alice, bob = pair()
    Player(home, BOB, "LAPTOP")
    alice.send(BOB, "1")
    assert len(sessions._live) == 2
    Player(home, BOB, "TABLET")
    home.now += contacts.LIST_MAX_AGE
    sent = alice.send(BOB, "2")
    assert len(sessions._live) == 2
    assert text_of(bob.receive(ALICE, sent)) == "2"


# -- keys and their life --------------------------------------------------------------------------------------------


def test_keys_are_topped_up_at_half_and_no_id_comes_twice() -> None:
    home, _alice, bob = pair()
    for _number in range(keys.GOAL - keys.TOP_UP_BELOW):
        home.claim(BOB, "BOBPHONE")
        bob.sync()
    assert len(home.one_time[BOB, "BOBPHONE"]) == keys.TOP_UP_BELOW
    home.claim(BOB, "BOBPHONE")
    bob.sync()
    assert len(home.one_time[BOB, "BOBPHONE"]) == keys.GOAL
    bob.sync()
    assert len(home.one_time[BOB, "BOBPHONE"]) == keys.GOAL  # and not again


def test_an_upload_whose_answer_is_lost_is_repeated_byte_for_byte() -> None:
    home = Home()
    bob = Player(home, BOB, "BOBPHONE", publish=False)
    first = bob.publish(lose_answer=True)
    assert bob.publish() == first  # the home asserts that one id has one key
    assert bob.count("fresh") == 0
    assert bob.count("one-time") == keys.GOAL


def test_a_key_whose_upload_was_not_acknowledged_begins_a_session_all_the_same() -> None:
    home = Home()
    alice = Player(home, ALICE, "ALICEPHONE")
    bob = Player(home, BOB, "BOBPHONE", publish=False)
    bob.publish(lose_answer=True)
    assert text_of(bob.receive(ALICE, alice.send(BOB, "early"))) == "early"
    assert bob.count("fresh") == keys.GOAL - 1


def test_a_home_that_always_counts_nothing_can_not_make_us_publish_for_ever() -> None:
    home, _, bob = pair()
    for _ in range(keys.TOP_UPS * 2):
        home.one_time.clear()
        bob.sync()
    assert bob.count("one-time") == keys.GOAL * (keys.TOP_UPS + 1)
    bob.tick()
    assert bob.count("one-time") == keys.MAX_KEPT  # the oldest are gone


def test_fallback_key_is_rotated_after_use_and_kept_for_an_hour() -> None:
    home, alice, bob = pair()
    home.one_time.clear()
    first, late = alice.send(BOB, "1"), Player(home, Address("@carol:c.example"), "C").send(BOB, "late")
    old = home.fallback[BOB, "BOBPHONE"]
    assert text_of(bob.receive(ALICE, first)) == "1"
    bob.publish()
    assert home.fallback[BOB, "BOBPHONE"] != old
    home.now += keys.GRACE - 1
    bob.tick()
    assert text_of(bob.receive(Address("@carol:c.example"), late)) == "late"
    assert bob.count("fallback") == 2
    home.now += 2
    bob.tick()
    assert bob.count("fallback") == 1


def test_at_most_two_fallback_keys_are_kept_however_often_they_are_used() -> None:
    home, _, bob = pair()
    home.one_time[BOB, "BOBPHONE"].clear()
    for _ in range(4):
        home.claim(BOB, "BOBPHONE")
        bob.sync()
        home.one_time[BOB, "BOBPHONE"].clear()
        assert bob.count("fallback") == 2
    home.now += keys.GRACE + 1
    last = home.fallback[BOB, "BOBPHONE"]
    bob.tick()  # the one that was used while the other had its grace
    assert home.fallback[BOB, "BOBPHONE"] != last


def test_fallback_key_is_rotated_when_the_home_says_that_it_is_used_and_after_a_week() -> None:
    home, _, bob = pair()
    first = home.fallback[BOB, "BOBPHONE"]
    home.one_time[BOB, "BOBPHONE"].clear()
    home.claim(BOB, "BOBPHONE")
    bob.sync()
    second = home.fallback[BOB, "BOBPHONE"]
    assert second != first
    home.now += keys.FALLBACK_AGE - 1
    bob.tick()
    assert home.fallback[BOB, "BOBPHONE"] == second
    home.now += 2
    bob.tick()
    assert home.fallback[BOB, "BOBPHONE"] != second


def test_a_session_of_a_fallback_key_that_was_dropped_does_not_begin_again() -> None:
    home, alice, bob = pair()
    home.one_time.clear()
    first = alice.send(BOB, "1")
    assert text_of(bob.receive(ALICE, first)) == "1"
    drop(bob, "session", "old", "seen")
    assert bob.receive(ALICE, first).kind is Kind.DUPLICATE


def drop(player: Player, *kinds: str) -> None:
    player.look(lambda s: records.delete_all(s, *kinds))


def test_sessions_that_one_fallback_key_begins_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_BEGUN", 2)
    home, alice, bob = pair()
    home.one_time.clear()
    for text, kind in (("1", Kind.OPENED), ("2", Kind.OPENED)):
        assert bob.receive(ALICE, alice.send(BOB, text)).kind is kind
        alice.step(lambda s: alice.scheme.reset(s, BOB, None, 0.0))
        drop(alice, "claim")
    assert bob.receive(ALICE, alice.send(BOB, "3")).kind is Kind.TAMPERED


def test_a_home_that_lost_the_device_gets_its_keys_again() -> None:
    home, _, bob = pair()
    home.devices.clear()
    home.one_time.clear()
    bob.learn(Fetched(BOB, "keys/query", "", None, NO_PAYLOAD, pushed=True))
    home.now += contacts.LIST_MAX_AGE
    bob.tick()
    bob.tick()
    bob.sync()
    assert "BOBPHONE" in home.devices[BOB]
    assert len(home.one_time[BOB, "BOBPHONE"]) == keys.GOAL


def test_keys_of_the_draft_are_dated_unsigned_and_renewed_in_time() -> None:
    home, alice, bob = pair(DRAFT2015)
    first = home.devices[BOB]["BOBPHONE"]
    assert first["valid_until_ts"] == int((home.now + own.VALID) * 1000) // 1000 * 1000
    assert all(isinstance(key, str) for key in home.one_time[BOB, "BOBPHONE"].values())
    assert (BOB, "BOBPHONE") not in home.fallback
    home.now += own.VALID + own.CLOCKS + 1
    with pytest.raises(NoRecipients, match="expired"):
        alice.send(BOB, "too late")
    bob.tick()
    bob.publish()
    assert home.devices[BOB]["BOBPHONE"]["keys"] == first["keys"]
    home.now += contacts.LIST_MAX_AGE
    assert text_of(bob.receive(ALICE, alice.send(BOB, "again"))) == "again"


def test_a_store_belongs_to_one_device_and_one_profile() -> None:
    _, _, bob = pair()
    bob.look(lambda s: own.bind(s, "BOBPHONE", V1))
    with pytest.raises(StoreMismatch):
        bob.look(lambda s: own.bind(s, "OTHER", V1))
    with pytest.raises(StoreMismatch):
        bob.look(lambda s: own.bind(s, "BOBPHONE", DRAFT2015))


def test_after_a_roll_back_nothing_old_is_used() -> None:
    home, alice, bob = pair()
    bob.receive(ALICE, alice.send(BOB, "1"))
    alice.receive(BOB, bob.send(ALICE, "2"))
    before = set(home.one_time[ALICE, "ALICEPHONE"])
    session = current_id(alice, bob)
    alice.learn(RolledBack())
    alice.publish()
    assert before < set(home.one_time[ALICE, "ALICEPHONE"])  # new ids
    assert text_of(alice.receive(BOB, bob.send(ALICE, "3"))) == "3"  # the old session still receives
    sent = alice.send(BOB, "4")
    assert text_of(bob.receive(ALICE, sent)) == "4"
    assert current_id(alice, bob) != session


# -- repair ---------------------------------------------------------------------------------------------------------


def broken(alice: Player, bob: Player) -> bytes:
    """A message of Alice's that Bob can't open: he has lost the session."""
    bob.receive(ALICE, alice.send(BOB, "1"))
    alice.receive(BOB, bob.send(ALICE, "2"))
    drop(bob, "session", "old")
    return alice.send(BOB, "lost").element


def test_a_lost_session_is_replaced_once_an_hour() -> None:
    home, alice, bob = pair()
    assert bob.receive(ALICE, broken(alice, bob)).kind is Kind.NO_SESSION
    bob.tick()
    (row,) = bob.outbox()
    dummy = row.effect.stanza  # type: ignore[union-attr]
    assert alice.receive(BOB, dummy).kind is Kind.EMPTY
    assert text_of(bob.receive(ALICE, alice.send(BOB, "healed"))) == "healed"
    drop(bob, "session", "old")
    for seconds, count in ((repair.INTERVAL - 60, 1), (repair.INTERVAL + 60, 2)):
        home.now = row.created + seconds
        assert bob.receive(ALICE, alice.send(BOB, "lost again")).kind is Kind.NO_SESSION
        bob.tick()
        assert len(bob.outbox()) == count


def test_an_attempt_counts_even_if_the_claim_gave_nothing() -> None:
    home, alice, bob = pair()
    lost = broken(alice, bob)
    home.one_time.clear()
    home.fallback.clear()
    bob.receive(ALICE, lost)
    bob.tick()
    claims = len(home.fetched)
    bob.receive(ALICE, alice.send(BOB, "x"))
    bob.tick()
    assert len(home.fetched) == claims
    assert bob.outbox() == []


def test_junk_under_unknown_keys_causes_nothing() -> None:
    home, alice, bob = pair()
    content = for_device(broken(alice, bob), BOB, "BOBPHONE")
    content["sender_key"] = "3C5BFWi2Y8MaVvjM8M22DBmh24PmgR0nPvJOIArzgyI"
    home.fetched.clear()
    for _ in range(3):
        assert bob.open(ALICE, content).kind is Kind.NO_SESSION
        assert bob.count("repair") == 0
        bob.tick()
    assert home.fetched == []
    assert bob.count("repair") == 0
    assert bob.outbox() == []


# -- sending --------------------------------------------------------------------------------------------------------


def test_one_device_without_keys_costs_no_other() -> None:
    home, alice, bob = pair()
    for name in ("SILENT", "ODD", "EMPTY", "FORGED"):
        Player(home, BOB, name)
    home.one_time[BOB, "SILENT"].clear()
    home.fallback.pop((BOB, "SILENT"))
    home.one_time[BOB, "ODD"] = {"signed_curve25519:AAAA": {"key": "short", "signatures": {}}}
    home.devices[BOB]["EMPTY"]["algorithms"] = ["m.megolm.v1.aes-sha2"]
    home.devices[BOB]["FORGED"]["keys"]["curve25519:FORGED"] = home.devices[BOB]["BOBPHONE"]["keys"][
        "curve25519:BOBPHONE"
    ]
    sent = alice.send(BOB, "hello")
    why = {each.device.label: each.why for each in sent.report if each.device.address == BOB}
    assert why.pop("BOBPHONE") == ""
    assert set(why) == {"SILENT", "ODD", "EMPTY", "FORGED"}
    assert all(why.values())
    assert "no one-time key" in why["SILENT"]
    assert text_of(bob.receive(ALICE, sent)) == "hello"


def test_a_server_that_does_not_answer_is_named() -> None:
    home, alice, _ = pair()
    home.broken.add(BOB)
    with pytest.raises(NoRecipients, match="M_UNKNOWN"):
        alice.send(BOB, "hello")


def test_a_device_that_left_the_list_gets_nothing() -> None:
    home, alice, _bob = pair()
    Player(home, BOB, "LAPTOP")
    alice.send(BOB, "1")
    del home.devices[BOB]["LAPTOP"]
    alice.learn(Fetched(BOB, "keys/query", "", None, NO_PAYLOAD, pushed=True))
    assert [each.device.label for each in alice.send(BOB, "2").report] == ["BOBPHONE"]


def test_a_device_with_new_keys_is_told_of_and_begins_anew() -> None:
    home, alice, bob = pair()
    bob.receive(ALICE, alice.send(BOB, "1"))
    again = Player(home, BOB, "BOBPHONE", publish=False)
    home.one_time.clear()
    home.seen_ids.clear()
    again.publish()
    home.now += contacts.LIST_MAX_AGE
    sent = alice.send(BOB, "2")
    assert "device BOBPHONE has new keys" in alice.notices
    assert text_of(again.receive(ALICE, sent)) == "2"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "m.room.member", "content": {}},
        {"type": "m.room.message", "content": {}, "state_key": ""},
        {"type": "m.room.encrypted", "content": {}},
        {"type": "", "content": {}},
        {"type": "m.room.message"},
        {"type": "m.room.message", "content": {"number": 1.5}},
        {"type": "m.room.message", "content": []},
        [],
    ],
)
def test_what_is_no_message_event_is_refused(event: object) -> None:
    _, alice, _ = pair()
    with pytest.raises(UsageError):
        alice.send_event(BOB, event)  # type: ignore[arg-type]


def test_the_largest_event_is_sealed_and_one_byte_more_is_not() -> None:
    _, alice, bob = pair()
    room = payload.MAX_EVENT - len(b'{"content":{"body":""},"type":"m.text"}')
    with pytest.raises(TooLarge):
        alice.send_event(BOB, {"type": "m.text", "content": {"body": "x" * (room + 1)}})
    sent = alice.send_event(BOB, {"type": "m.text", "content": {"body": "x" * room}})
    assert len(json.dumps(for_device(sent, BOB, "BOBPHONE"))) < 65_536  # what servers take
    assert bob.receive(ALICE, sent).kind is Kind.OPENED
