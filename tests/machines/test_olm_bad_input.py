"""What a home or another client can send to a device that speaks Olm, and what it becomes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from support.olm import ALICE, BOB, Home, Json, Player, for_device, pair, text_of
from tillie.directory import matrix
from tillie.directory.matrix import DRAFT2015, V1, Profile
from tillie.directory.signed import sign_object
from tillie.model import Address, Fetch, Kind, State
from tillie.schemes.olm import contacts, content, own, payload, receiving, sessions
from tillie.schemes.olm.records import Own
from tillie.schemes.olm.sessions import Peer
from tillie.wire import base64, canonical

MALLORY = Address("@mallory:m.example")
Change = Callable[[Json], None]


def sealed_with(alice: Player, bob: Player, change: Change, *, word: bool | None = None) -> Json:
    """What Alice's device sends to Bob's if it changes what is inside: a client that cheats. `word`: with or without
    her device keys."""
    alice.send(BOB, "so that there is a session")

    mine, theirs = _own(alice), _own(bob)

    def seal(s: State) -> bytes:
        lists = tuple(contacts.load(s, user) for user in (BOB, ALICE))
        fingerprint = matrix.fingerprint(key for known in lists if known for key in known.keys)
        common = payload.common(mine, ALICE, (BOB,), fingerprint)
        signed = canonical.encode(own.device_keys(mine, ALICE, alice.scheme.profile)) if word is not False else b""
        event = b'{"content":{"body":"hello"},"type":"m.room.message"}'
        value = json.loads(payload.write(event, common, (BOB,), BOB, theirs.ed25519, signed))
        change(value)
        peer = Peer(BOB, theirs.curve25519)
        session = sessions.current(s, peer)
        assert session is not None
        session, type, body = sessions.encrypt(mine, session, json.dumps(value).encode())
        sessions.save(s, peer, session)
        return content.encode(mine.curve25519, theirs.curve25519, type, body)

    return json.loads(alice.look(seal))  # type: ignore[no-any-return]


def _own(player: Player) -> Own:
    mine = player.look(own.load)
    assert mine is not None
    return mine


def _set(name: str, value: object) -> Change:
    def change(inside: Json) -> None:
        inside[name] = value

    return change


def _without(*names: str) -> Change:
    def change(inside: Json) -> None:
        for name in names:
            del inside[name]

    return change


ODD_KEY = base64.encode_unpadded(bytes(range(1, 33)))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda inside: None, Kind.OPENED),
        (_without("sender_device_keys"), Kind.OPENED),
        (_set("org.example.more", {}), Kind.OPENED),
        (_set("sender", MALLORY), Kind.REFUSED),
        (_set("recipient", MALLORY), Kind.REFUSED),
        (_set("recipient_keys", {"ed25519": ODD_KEY}), Kind.REFUSED),
        (_set("recipient_keys", {}), Kind.MALFORMED),
        (_set("keys", {"ed25519": ODD_KEY}), Kind.REFUSED),
        (_set("keys", {}), Kind.MALFORMED),
        (_without("sender"), Kind.REFUSED),
        (_without("recipient"), Kind.REFUSED),
        (_without("recipient_keys"), Kind.REFUSED),
        (_without("keys"), Kind.REFUSED),
        (_without("room_id"), Kind.REFUSED),
        (_without("fingerprint"), Kind.REFUSED),
        (_set("room_id", "!elsewhere"), Kind.REFUSED),
        (_set("fingerprint", ""), Kind.REFUSED),
        (_set("fingerprint", ODD_KEY), Kind.REFUSED),
        (_set("org.tillie.to", [MALLORY]), Kind.REFUSED),
        (_set("org.tillie.to", []), Kind.MALFORMED),
        (_set("org.tillie.to", [BOB] * payload.MAX_RECIPIENTS), Kind.OPENED),
        (_set("org.tillie.to", [BOB] * (payload.MAX_RECIPIENTS + 1)), Kind.MALFORMED),
        (_set("org.tillie.to", ["nobody"]), Kind.MALFORMED),
        (_set("sender_device_keys", None), Kind.MALFORMED),
        (_set("sender_device_keys", {"device_id": 1}), Kind.MALFORMED),
        (_set("content", []), Kind.MALFORMED),
        (_set("content", None), Kind.MALFORMED),
        (_set("type", 1), Kind.MALFORMED),
        (_set("state_key", ""), Kind.REFUSED),
        (_set("type", "m.room.member"), Kind.REFUSED),
    ],
)
def test_what_is_inside_is_checked(change: Change, kind: Kind) -> None:
    _, alice, bob = pair()
    assert bob.open(ALICE, sealed_with(alice, bob, change)).kind is kind


def test_keys_inside_are_compared_as_keys() -> None:
    _, alice, bob = pair()

    def padded(inside: Json) -> None:
        for name in ("keys", "recipient_keys"):
            inside[name]["ed25519"] += "="

    assert bob.open(ALICE, sealed_with(alice, bob, padded)).kind is Kind.OPENED


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (_without("sender_device_keys", "sender", "recipient", "recipient_keys", "keys"), Kind.REFUSED),
        (_without("fingerprint"), Kind.REFUSED),
        (_without("room_id"), Kind.REFUSED),
        (_set("fingerprint", ""), Kind.REFUSED),
        (_set("sender", MALLORY), Kind.REFUSED),
    ],
)
def test_in_the_draft_too_between_devices_that_say_so(change: Change, kind: Kind) -> None:
    _, alice, bob = pair(DRAFT2015)
    assert bob.open(ALICE, sealed_with(alice, bob, change)).kind is kind


@pytest.mark.parametrize(("profile", "dropped"), [
    (V1, ("room_id", "fingerprint")), (DRAFT2015, ("sender", "recipient", "recipient_keys", "keys")),
])  # fmt: skip
def test_a_client_that_is_not_ours_need_not_say_what_its_profile_does_not_know(
    profile: Profile, dropped: tuple[str, ...]
) -> None:
    home, alice, bob = pair(profile)
    mine = _own(alice)
    listed = {k: v for k, v in home.devices[ALICE]["ALICEPHONE"].items() if k not in (matrix.PAYLOAD, "signatures")}
    home.devices[ALICE]["ALICEPHONE"] = sign_object(listed, ALICE, "ed25519:ALICEPHONE", mine.seed)
    plain = sealed_with(alice, bob, _without("sender_device_keys", *dropped))
    assert bob.open(ALICE, plain).kind is Kind.OPENED


def test_device_keys_inside_are_those_of_the_device_that_sealed() -> None:
    home, alice, bob = pair()
    tablet = Player(home, ALICE, "TABLET")

    def other(inside: Json) -> None:
        inside["sender_device_keys"] = home.devices[ALICE]["TABLET"]

    def altered(inside: Json) -> None:
        inside["sender_device_keys"]["algorithms"].append("m.megolm.v1.aes-sha2")

    assert bob.open(ALICE, sealed_with(alice, bob, other)).kind is Kind.REFUSED
    assert bob.open(ALICE, sealed_with(alice, bob, altered)).kind is Kind.TAMPERED
    assert tablet.count("session") == 0


def test_device_keys_inside_name_the_key_that_sealed() -> None:
    _, alice, bob = pair()

    mixed = matrix.write_device_keys(V1, ALICE, "ALICEPHONE", _own(bob).curve25519, _own(alice).seed)
    change = _set("sender_device_keys", mixed)
    assert bob.open(ALICE, sealed_with(alice, bob, change)).kind is Kind.REFUSED


def test_a_session_stays_with_the_ed25519_key_that_it_began_with() -> None:
    """Her home now shows her Curve25519 key under an Ed25519 key of its own, and a client plays along."""
    home, alice, bob = pair()
    bob.receive(ALICE, alice.send(BOB, "1"))
    alice.receive(BOB, bob.send(ALICE, "2"))
    forged = matrix.write_device_keys(V1, ALICE, "ALICEPHONE", _own(alice).curve25519, bytes(32))
    shown = forged["keys"]["ed25519:ALICEPHONE"]
    plain = sealed_with(alice, bob, _set("keys", {"ed25519": shown}), word=False)
    home.devices[ALICE]["ALICEPHONE"] = forged
    bob.learn(home.answer(Fetch(ALICE, matrix.KEYS_QUERY)))
    assert bob.open(ALICE, plain).kind is Kind.REFUSED


# -- whose device ---------------------------------------------------------------------------------------------------


def test_another_user_can_not_pass_on_a_message_as_hers() -> None:
    """Unknown key share: the home of Mallory resends Alice's first message in Mallory's name."""
    _, alice, bob = pair()
    sent = alice.send(BOB, "hello")
    before = bob.records()
    assert bob.receive(MALLORY, sent).kind is Kind.REFUSED
    after = {name: data for name, data in bob.records().items() if name.kind != "devices"}
    assert after == {name: data for name, data in before.items() if name.kind != "devices"}
    assert text_of(bob.receive(ALICE, sent)) == "hello"  # and the key was not used up


def test_a_device_that_is_not_on_the_list_is_asked_for_once_and_proved_by_its_own_word() -> None:
    home, alice, bob = pair()
    sent = alice.send(BOB, "hello")
    home.devices.pop(ALICE)
    home.fetched.clear()
    got = bob.receive(ALICE, sent)
    assert text_of(got) == "hello"
    assert got.notes == ("The device that sent this is not on its user's list.",)
    assert [each.address for each in home.fetched] == [ALICE]


def test_without_list_and_word_there_is_no_sender() -> None:
    home, alice, bob = pair()
    plain = sealed_with(alice, bob, _without("sender_device_keys", "fingerprint", "room_id"))
    home.devices.pop(ALICE)
    assert bob.open(ALICE, plain).kind is Kind.NO_SESSION
    assert bob.count("session") == 0


def test_a_distrusted_device_does_not_part_the_two() -> None:
    from tillie.model import Decided, Trust

    home, alice, bob = pair()
    laptop = Player(home, BOB, "LAPTOP")
    alice.send(BOB, "1")
    alice.learn(Decided(BOB, _own(laptop).ed25519, Trust.DISTRUSTED))
    sent = alice.send(BOB, "2")
    assert text_of(bob.receive(ALICE, sent)) == "2"


def test_two_devices_with_one_key_get_nothing() -> None:
    home, alice, bob = pair()
    laptop = Player(home, BOB, "LAPTOP")
    mine, copied = _own(laptop), _own(bob)
    listed = matrix.write_device_keys(V1, BOB, "LAPTOP", copied.curve25519, mine.seed)
    home.devices[BOB]["LAPTOP"] = listed
    Player(home, BOB, "THIRD")
    sent = alice.send(BOB, "hello")
    why = {each.device.label: each.why for each in sent.report if not each.sealed}
    assert why == {"LAPTOP": "two devices claim one key", "BOBPHONE": "two devices claim one key"}


# -- outside --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (_set("algorithm", "m.megolm.v1.aes-sha2"), Kind.MALFORMED),
        (_set("ciphertext", "AwgAEnACgAk"), Kind.MALFORMED),
        (_set("ciphertext", {}), Kind.NOT_FOR_US),
        (_set("ciphertext", {ODD_KEY: {"type": 7}}), Kind.NOT_FOR_US),
        (_set("ciphertext", None), Kind.MALFORMED),
        (_set("sender_key", "short"), Kind.MALFORMED),
        (_set("sender_key", base64.encode_unpadded(bytes(32))), Kind.MALFORMED),
        (_set("sender_key", 1), Kind.MALFORMED),
        (_without("sender_key"), Kind.MALFORMED),
        (_without("algorithm"), Kind.MALFORMED),
    ],
)
def test_what_is_no_olm_event(change: Change, kind: Kind) -> None:
    _, alice, bob = pair()
    sealed = for_device(alice.send(BOB, "hello"), BOB, "BOBPHONE")
    change(sealed)
    before = bob.records()
    assert bob.open(ALICE, sealed).kind is kind
    assert bob.records() == before


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": 2}, Kind.MALFORMED),
        ({"type": True}, Kind.MALFORMED),
        ({"type": "0"}, Kind.MALFORMED),
        ({"body": ""}, Kind.TAMPERED),
        ({"body": "AwoA"}, Kind.TAMPERED),
        ({"body": "Aw oA"}, Kind.MALFORMED),
        ({"body": "_-_-"}, Kind.MALFORMED),
        ({"body": 1}, Kind.MALFORMED),
        ({"body": "A" * (content.MAX_BODY * 4 // 3 + 4)}, Kind.MALFORMED),
        ({"type": 1}, Kind.NO_SESSION),
    ],
)
def test_what_is_no_olm_message(part: Json, kind: Kind) -> None:
    _, alice, bob = pair()
    sealed = for_device(alice.send(BOB, "hello"), BOB, "BOBPHONE")
    next(iter(sealed["ciphertext"].values())).update(part)
    assert bob.open(ALICE, sealed).kind is kind
    assert bob.count("session") == 0


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"[" * 9_999, b"{}" + b" " * content.MAX_CONTENT])
def test_what_is_no_content(data: bytes) -> None:
    _, _, bob = pair()
    assert bob.open(ALICE, data).kind is Kind.MALFORMED


def test_every_flipped_bit_is_refused_and_changes_nothing() -> None:
    """A first message and a later one; the good one opens afterwards."""
    _, alice, bob = pair()
    for later in (False, True):
        if later:
            alice.receive(BOB, bob.send(ALICE, "so that she has heard of him"))
        sealed = for_device(alice.send(BOB, "hello"), BOB, "BOBPHONE")
        (part,) = sealed["ciphertext"].values()
        good = base64.decode_unpadded_most(part["body"], max_bytes=content.MAX_BODY)
        kept = _durable(bob)
        for place in range(0, len(good), 7):
            part["body"] = base64.encode_unpadded(good[:place] + bytes((good[place] ^ 4,)) + good[place + 1 :])
            assert bob.open(ALICE, sealed).kind in (Kind.TAMPERED, Kind.MALFORMED)
            assert _durable(bob) == kept
        part["body"] = base64.encode_unpadded(good)
        assert text_of(bob.open(ALICE, sealed)) == "hello"


def _durable(player: Player) -> dict[Any, bytes]:
    """What a forged message must leave as it is: all but the wish for a new session."""
    return {name: data for name, data in player.records().items() if name.kind not in ("repair", "repaired")}


def test_what_a_first_message_wraps_is_the_same_message() -> None:
    """Its home takes it out of the wrapping: no second event, and no broken session either."""
    _, alice, bob = pair()
    sealed = for_device(alice.send(BOB, "hello"), BOB, "BOBPHONE")
    assert bob.open(ALICE, sealed).kind is Kind.OPENED
    (part,) = sealed["ciphertext"].values()
    wrapped = base64.decode_unpadded_most(part["body"], max_bytes=content.MAX_BODY)
    bare = wrapped[wrapped.index(b"\x03\x0a\x20", 1) :]
    part.update(type=1, body=base64.encode_unpadded(bare))
    assert bob.open(ALICE, sealed).kind is Kind.DUPLICATE
    assert bob.count("repair") == 0
    altered = bare[:40] + bytes((bare[40] ^ 1,)) + bare[41:-1] + bytes((bare[-1] ^ 1,))
    part["body"] = base64.encode_unpadded(altered)
    assert bob.open(ALICE, sealed).kind is Kind.TAMPERED


def test_a_first_message_of_a_session_that_fails_begins_no_second_one() -> None:
    _, alice, bob = pair()
    first, second = alice.send(BOB, "1"), alice.send(BOB, "2")
    assert bob.receive(ALICE, first).kind is Kind.OPENED
    sealed = for_device(second, BOB, "BOBPHONE")
    (part,) = sealed["ciphertext"].values()
    part["body"] = part["body"][:-12] + "AAAAAAAAAAAA"
    assert bob.open(ALICE, sealed).kind is Kind.TAMPERED
    assert (bob.count("session"), bob.count("old")) == (1, 0)
    assert text_of(bob.receive(ALICE, second)) == "2"


def test_our_own_key_is_no_sender() -> None:
    _, alice, bob = pair()
    sealed = for_device(alice.send(BOB, "hello"), BOB, "BOBPHONE")
    sealed["sender_key"] = base64.encode_unpadded(_own(bob).curve25519)
    assert bob.open(BOB, sealed).kind is Kind.MALFORMED


# -- answers of a home ----------------------------------------------------------------------------------------------


def claimed_with(answer: Callable[[Json], Json]) -> str:
    """Why a device is skipped if a claim is answered like that."""
    home, alice, _ = pair()
    Player(home, BOB, "LAPTOP")
    good = home.claim

    def claim(user: Address, device: str) -> Json:
        return answer(good(user, device)) if device == "LAPTOP" else good(user, device)

    home.claim = claim  # type: ignore[method-assign]
    sent = alice.send(BOB, "hello")
    assert any(each.sealed for each in sent.report)
    return next((each.why for each in sent.report if each.device.label == "LAPTOP" and not each.sealed), "")


def _low_order(answer: Json) -> Json:
    return {name: {**key, "key": base64.encode_unpadded(bytes(32))} for name, key in answer.items()}


@pytest.mark.parametrize(
    "answer",
    [
        lambda good: {**good, "signed_curve25519:AAAAAAAAAB0": next(iter(good.values()))},
        lambda good: {name.replace("signed_", ""): key["key"] for name, key in good.items()},
        lambda good: {name: key["key"] for name, key in good.items()},
        lambda good: {name: {**key, "signatures": {}} for name, key in good.items()},
        lambda good: {name: {**key, "fallback": True} for name, key in good.items()},
        lambda good: {name: {**key, "weight": 1.5} for name, key in good.items()},
        lambda good: {},
        lambda good: {"signed_curve25519": next(iter(good.values()))},
        _low_order,
    ],
)
def test_a_bad_claimed_key_costs_its_device_only(answer: Callable[[Json], Json]) -> None:
    assert claimed_with(answer)


def test_a_good_claimed_key_costs_nothing() -> None:
    assert claimed_with(lambda good: good) == ""


def test_low_order_keys_that_come_as_far_as_the_library_are_named_in_our_words() -> None:
    _, alice, bob = pair()
    mine, theirs = _own(alice), _own(bob)
    for identity, one_time in ((bytes(32), theirs.curve25519), (theirs.curve25519, bytes(32)), (b"x", b"y")):
        with pytest.raises(sessions.BadKey) as raised:
            sessions.initiate(mine, theirs.ed25519, identity, one_time, 0.0)
        assert raised.value.detail == "no session can begin with this key"


@pytest.mark.parametrize("told", [b"", b"[]", b'{"counts":{"signed_curve25519":"many"}}', b"x" * 20_000, b"\xff"])
def test_counts_that_can_not_be_read_change_nothing(told: bytes) -> None:
    from tillie.model import Fetched

    _, _, bob = pair()
    before = bob.records()
    bob.learn(Fetched(BOB, matrix.KEY_COUNTS, "", told, pushed=True))
    assert bob.records() == before
    assert bob.notices


def test_a_device_map_with_one_device_of_nonsense() -> None:
    home, alice, bob = pair()
    home.devices[BOB]["\n\x1b[2J"] = {"user_id": BOB}
    home.devices[BOB]["FLOAT"] = {"user_id": BOB, "device_id": "FLOAT", "keys": {}, "weight": 0.5}
    sent = alice.send(BOB, "hello")
    labels = {each.device.label for each in sent.report if not each.sealed}
    assert labels == {"(without a valid name)", "FLOAT"}
    assert text_of(bob.receive(ALICE, sent)) == "hello"


def test_secrets_are_not_printed() -> None:
    _, alice, bob = pair()
    sent = for_device(alice.send(BOB, "hello"), BOB, "BOBPHONE")
    mine = _own(bob)
    message = content.decode(json.dumps(sent).encode(), mine.curve25519)
    assert message is not None
    peer = Peer(ALICE, message.sender_key)
    received = bob.look(lambda s: receiving.receive(s, mine, peer, message, 0.0))
    shown = f"{mine!r} {received!r} {received.session!r} {received.half!r} {message!r}"
    assert "hello" not in shown
    for secret in (mine.seed, mine.curve_private, mine.pickle_key):
        assert repr(secret)[2:10] not in shown


def test_a_home_in_tests_gives_each_key_once() -> None:
    home = Home()
    Player(home, BOB, "B")
    names = [next(iter(home.claim(BOB, "B"))) for _ in range(50)]
    assert len(set(names)) == 50
