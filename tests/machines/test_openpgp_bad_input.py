"""What a server, a stranger or a contact may send to harm an OpenPGP conversation (B29, B38, B40 and their kin)."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from os import urandom

import pytest

from support.openpgp import (
    ALICE,
    BOB,
    CAROL,
    DAY,
    LIST,
    Letter,
    PgpEnd,
    PgpWorld,
    arrived,
    forged,
    pair,
)
from tillie.crypto import openpgp
from tillie.crypto.openpgp import SecretKey
from tillie.directory import openpgp as directory
from tillie.errors import BadKey, NoRecipients
from tillie.model import Address, Arrived, Content, Done, Fetch, Fetched, Kind, Stanza, Trust
from tillie.schemes.openpgp import contacts, content, element
from tillie.schemes.openpgp.content import Form
from tillie.wire import base64


def acquainted() -> tuple[PgpWorld, PgpEnd, PgpEnd]:
    world, alice, bob = pair()
    alice.say(BOB, "hello")
    bob.say(ALICE, "hello")
    world.settle()
    alice.read_texts.clear()
    bob.read_texts.clear()
    return world, alice, bob


def one_letter() -> tuple[PgpWorld, PgpEnd, PgpEnd, Letter]:
    world, alice, bob = acquainted()
    alice.say(BOB, "x")
    return world, alice, bob, world.flying.pop()


def kind(end: PgpEnd, got: Arrived) -> Kind:
    return end.open(got).kind


# -- to whom it is addressed ----------------------------------------------------------------------------------------


def test_what_was_meant_for_somebody_else() -> None:
    """Surreptitious forwarding: Bob seals what Alice signed for him once more, for Carol."""
    world, alice, bob = acquainted()
    carol = PgpEnd(world, CAROL)
    for_bob = forged(alice.key, [carol.key.certificate, bob.key.certificate], "I love you", [BOB], world.now)
    opened = carol.open(arrived(for_bob, ALICE, CAROL))
    assert (opened.kind, opened.content) == (Kind.REFUSED, None)
    assert "somebody else" in opened.error


def test_a_refused_copy_does_not_use_up_the_good_one() -> None:
    world, _, bob, letter = one_letter()
    for stanza in ({"to": CAROL}, {"via": "live", "stamp": world.now + DAY, "sender": BOB}):
        assert kind(bob, letter.with_stanza(**stanza).arrived) in (Kind.REFUSED, Kind.TAMPERED)
    world.now += 40 * DAY  # the server held it back, and says so neither
    assert kind(bob, letter.arrived) is Kind.REFUSED
    assert kind(bob, letter.with_stanza(stamp=world.now - 40 * DAY, via="archive").arrived) is Kind.OPENED


def test_a_message_under_another_senders_name() -> None:
    world, _, bob, letter = one_letter()
    PgpEnd(world, CAROL)
    opened = bob.open(letter.with_stanza(sender=Address(f"{CAROL}/x")).arrived)
    assert opened.kind is Kind.TAMPERED
    assert bob.read(letter).kind is Kind.OPENED


def test_a_carbon_that_was_never_ours() -> None:
    _, _, bob, letter = one_letter()
    stanza = letter.with_stanza(sender=Address(f"{BOB}/phone"), to=ALICE, via="carbon")
    assert kind(bob, stanza.arrived) is Kind.TAMPERED


@pytest.mark.parametrize("type_", ["groupchat", "error"])
def test_rooms_and_errors(type_: str) -> None:
    world, _, bob, letter = one_letter()
    world.fetches.clear()
    assert kind(bob, letter.with_stanza(type=type_).arrived) is Kind.REFUSED
    assert not world.fetches


@pytest.mark.parametrize("to", ["bob@b.examp1e", "bоb@b.example", "b.example", "bob@b.example.org"])
def test_addresses_that_only_look_like_ours(to: str) -> None:
    world, alice, bob = acquainted()
    assert kind(bob, arrived(forged(alice.key, [bob.key.certificate], "x", [Address(to)], world.now), ALICE, BOB)) is (
        Kind.REFUSED
    )


def test_user_ids_that_only_look_like_the_senders() -> None:
    for user_id in ("xmpp:alice@a.example.org", "xmpp:аlice@a.example", "alice@a.example", "xmpp:alice@a.example/x"):
        world, _, bob = acquainted()
        fake = openpgp.generate(user_id)
        world.announce(ALICE, fake.certificate)
        world.push(ALICE)
        message = forged(fake, [bob.key.certificate], "x", [BOB], world.now)
        assert kind(bob, arrived(message, ALICE, BOB)) is Kind.NO_SESSION, user_id


def test_user_ids_in_another_spelling_are_the_senders() -> None:
    world, _, bob = acquainted()
    key = openpgp.generate("xmpp:Alice@A.example")
    world.announce(ALICE, key.certificate)
    world.push(ALICE)
    message = forged(key, [bob.key.certificate], "x", [BOB], world.now)
    assert kind(bob, arrived(message, ALICE, BOB)) is Kind.OPENED


# -- how it is made -------------------------------------------------------------------------------------------------


def test_only_signcrypt_is_a_message() -> None:
    world, alice, bob = acquainted()
    inside = Content(b"<body xmlns='jabber:client'>x</body>")
    plain = {form: content.encode(form, inside, [BOB], world.now, urandom) for form in Form}
    readers = [bob.key.certificate]
    made = {
        "signed": openpgp.sign(plain[Form.SIGN], alice.key),
        "encrypted": openpgp.crypt(plain[Form.CRYPT], readers),
        "signcrypt, only signed": openpgp.sign(plain[Form.SIGNCRYPT], alice.key),
        "signcrypt, only encrypted": openpgp.crypt(plain[Form.SIGNCRYPT], readers),
        "sign in a signcrypt": openpgp.signcrypt(plain[Form.SIGN], alice.key, readers),
        "crypt in a signcrypt": openpgp.signcrypt(plain[Form.CRYPT], alice.key, readers),
    }
    for what, message in made.items():
        opened = bob.open(arrived(message, ALICE, BOB))
        assert (opened.kind, opened.content) == (Kind.REFUSED, None), what
        assert opened.error


@pytest.mark.parametrize(
    "inside", [b"", b"hello", b"<body xmlns='jabber:client'>hello</body>", b"\xff" * 100, b"<signcrypt/>"]
)
def test_what_holds_no_content_element(inside: bytes) -> None:
    _, alice, bob = acquainted()
    message = openpgp.signcrypt(inside, alice.key, [bob.key.certificate])
    opened = bob.open(arrived(message, ALICE, BOB))
    assert (opened.kind, opened.content) == (Kind.REFUSED, None)


def test_sealed_elements_in_sealed_ones_are_not_opened() -> None:
    world, alice, bob = acquainted()
    nested = "<openpgp xmlns='urn:xmpp:openpgp:0'>QQ==</openpgp><body xmlns='jabber:client'>x</body>"
    head = f"<signcrypt xmlns='urn:xmpp:openpgp:0'><to jid='{BOB}'/><time stamp='2027-01-15T08:00:00Z'/><rpad/>"
    plaintext = f"{head}<payload>{nested}</payload></signcrypt>".encode()
    opened = bob.open(arrived(openpgp.signcrypt(plaintext, alice.key, [bob.key.certificate]), ALICE, BOB))
    assert opened.content is not None
    assert b"openpgp" not in opened.content.data
    assert any("Discarded" in note for note in opened.notes)
    assert world.now == 1_800_000_000.0


# -- its time, and repeats ------------------------------------------------------------------------------------------


def test_a_replay_is_nothing_new() -> None:
    _, _, bob, letter = one_letter()
    assert bob.read(letter).kind is Kind.OPENED
    assert bob.read(letter).kind is Kind.DUPLICATE
    assert bob.read(letter.with_stanza(id="other", via="archive")).kind is Kind.DUPLICATE
    assert bob.read_texts == ["x"]


def test_a_replay_in_other_packets_is_nothing_new() -> None:
    """What was signed may be sealed anew, by anybody who could read it."""
    world, alice, bob = acquainted()
    same = [forged(alice.key, [bob.key.certificate], "x", [BOB], world.now) for _ in range(2)]
    assert same[0] != same[1]
    assert kind(bob, arrived(same[0], ALICE, BOB)) is Kind.OPENED
    assert kind(bob, arrived(same[1], ALICE, BOB)) is Kind.DUPLICATE


@pytest.mark.parametrize(("age", "expected"), [(-2 * DAY, Kind.REFUSED), (31 * DAY, Kind.REFUSED), (DAY, Kind.OPENED)])
def test_its_time_must_be_plausible(age: float, expected: Kind) -> None:
    world, alice, bob = acquainted()
    message = forged(alice.key, [bob.key.certificate], "x", [BOB], world.now - age)
    assert kind(bob, arrived(message, ALICE, BOB)) is expected


def test_what_was_opened_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    from tillie.schemes.openpgp import scheme

    monkeypatch.setattr(scheme, "MAX_SEEN", 6)
    world, alice, bob = acquainted()
    letters = []
    for number in range(5):
        world.now += 1
        alice.say(BOB, str(number))
        letters.append(world.flying.pop())
        bob.read(letters[-1])
    bob.tick()
    assert sum(key.kind == "seen" for key in bob.dump()) == 6
    assert bob.read(letters[-1]).kind is Kind.DUPLICATE


# -- who signed it --------------------------------------------------------------------------------------------------


def announced_key(world: PgpWorld, key: SecretKey) -> None:
    world.announce(ALICE, key.certificate, dates=world.now + 1)
    world.push(ALICE)


def test_a_key_that_nobody_announces() -> None:
    world, _, bob = acquainted()
    stranger = openpgp.generate(f"xmpp:{ALICE}")
    opened = bob.open(arrived(forged(stranger, [bob.key.certificate], "x", [BOB], world.now), ALICE, BOB))
    assert opened.kind is Kind.TAMPERED
    assert "none of the sender's keys" in opened.error


def test_a_revoked_key_signs_nothing() -> None:
    world, alice, bob = acquainted()
    message = forged(alice.key, [bob.key.certificate], "x", [BOB], world.now)
    announced_key(world, openpgp.revoke(alice.key))
    opened = bob.open(arrived(message, ALICE, BOB))
    assert opened.kind is Kind.TAMPERED
    assert "revoked" in opened.error


def test_a_sender_whose_keys_are_all_of_somebody_else() -> None:
    world, _, bob = acquainted()
    nameless = openpgp.generate(f"xmpp:{CAROL}")
    announced_key(world, nameless)
    opened = bob.open(arrived(forged(nameless, [bob.key.certificate], "x", [BOB], world.now), ALICE, BOB))
    assert opened.kind is Kind.NO_SESSION
    assert "has no user id" in opened.error


def test_a_key_that_was_announced_a_moment_ago() -> None:
    world, _, bob = acquainted()
    fresh = openpgp.generate(f"xmpp:{ALICE}")
    world.announce(ALICE, fresh.certificate)  # and no notification
    world.now += contacts.RECHECK
    opened = bob.open(arrived(forged(fresh, [bob.key.certificate], "x", [BOB], world.now), ALICE, BOB))
    assert (opened.kind, opened.trust) == (Kind.OPENED, Trust.UNDECIDED)


def test_forged_messages_make_us_look_only_now_and_then() -> None:
    world, _, bob = acquainted()
    stranger = openpgp.generate(f"xmpp:{ALICE}")
    world.now += contacts.RECHECK
    world.fetches.clear()
    for number in range(5):
        bob.open(arrived(forged(stranger, [bob.key.certificate], str(number), [BOB], world.now), ALICE, BOB))
    assert len(world.fetches) == 1
    world.unreachable.add(ALICE)
    world.now += contacts.RECHECK
    for number in range(5):
        bob.open(arrived(forged(stranger, [bob.key.certificate], f"{number}b", [BOB], world.now), ALICE, BOB))
    assert len(world.fetches) == 2


def test_a_sender_whose_keys_can_not_be_fetched() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "x")
    (letter,) = world.take(bob)
    world.unreachable.add(ALICE)
    opened = bob.read(letter)
    assert (opened.kind, opened.content) == (Kind.NO_SESSION, None)
    assert "can't be fetched" in opened.error
    world.unreachable.clear()
    world.now += contacts.RETRY
    assert bob.read(letter).kind is Kind.OPENED  # from the archive, later


# -- bytes ----------------------------------------------------------------------------------------------------------


def test_every_cut_and_many_flips() -> None:
    _, _, bob, letter = one_letter()
    message, before = letter.message, bob.dump()
    chance = random.Random(1)
    cuts = [message[:length] for length in chance.sample(range(1, len(message)), 60)]
    flips = [
        message[:at] + bytes((message[at] ^ 4,)) + message[at + 1 :] for at in chance.sample(range(len(message)), 120)
    ]
    for altered in (*cuts, *flips, message + b"\0", message + message):
        opened = bob.read(letter.with_message(altered))
        if opened.kind is Kind.OPENED:  # the bit count of a number is not covered by anything, and changes nothing
            bob.roll_back(before)
            continue
        assert opened.content is None
    assert bob.read(letter).kind is Kind.OPENED


@pytest.mark.parametrize(
    "sealed",
    [
        b"",
        b"<openpgp xmlns='urn:xmpp:openpgp:0'/>",
        b"<openpgp xmlns='urn:xmpp:openpgp:0'>LS0tLS1CRUdJTiBQR1AgTUVTU0FHRS0tLS0t</openpgp>",
        b"<openpgp xmlns='urn:xmpp:openpgp:0'>-----BEGIN PGP MESSAGE-----</openpgp>",
        b"<openpgp xmlns='urn:xmpp:openpgp:0'>AAAA</openpgp>",
        b"<openpgp xmlns='urn:xmpp:openpgp:0'><x/></openpgp>",
        b"<!DOCTYPE x><openpgp xmlns='urn:xmpp:openpgp:0'>AAAA</openpgp>",
        b"<openpgp xmlns='urn:xmpp:openpgp:0'>" + b"A" * 600_000 + b"</openpgp>",
    ],
)
def test_elements_that_hold_no_message(sealed: bytes) -> None:
    _, _, bob = acquainted()
    before = bob.dump()
    around = Stanza("message", Address(f"{ALICE}/x"), BOB, "chat", "1")
    assert kind(bob, Arrived(sealed, around, "openpgp")) is Kind.MALFORMED
    assert bob.dump() == before


def test_a_compression_bomb_is_not_unfolded() -> None:
    import zlib

    _, alice, bob = acquainted()
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = squeezed.compress(b"<signcrypt>" + bytes(64 << 20)) + squeezed.flush()
    packet = b"\xc8\xff" + (len(bomb) + 1).to_bytes(4, "big") + b"\x01" + bomb  # RFC 4880 section 5.6
    for message in (packet, openpgp.crypt(bytes(900_000), [bob.key.certificate])):
        tracemalloc.start()
        try:
            opened = bob.open(arrived(message, ALICE, BOB)) if len(message) < 390_000 else None
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert opened is None or opened.content is None
        assert peak < 16 << 20
    assert alice.device


# -- lists and certificates -----------------------------------------------------------------------------------------


def test_ten_thousand_keys() -> None:
    world, alice, _ = acquainted()
    entries = "".join(f"<pubkey-metadata v4-fingerprint='{n:040X}' date='2026-01-01T00:00:00Z'/>" for n in range(5_000))
    for listed in (entries, entries * 2):
        payload = f"<public-keys-list xmlns='urn:xmpp:openpgp:0'>{listed}</public-keys-list>".encode()
        alice.learn(Fetched(BOB, LIST, "current", payload, pushed=True))
    assert sum("can't be read" in notice for notice in alice.notices) == 2
    world.fetches.clear()
    assert alice.say(BOB, "still here").report[0].sealed
    assert len(world.fetches) <= 1


def test_as_many_keys_as_are_read() -> None:
    world, alice, bob = pair()
    others = [Address("x"), *(urandom(20) for _ in range(directory.MAX_KEYS - 1))][1:]
    announced = [directory.Announced(each, world.now) for each in (bob.device.key, *others)]  # type: ignore[arg-type]
    world.nodes[BOB, LIST] = directory.encode_list(announced)
    report = alice.say(BOB, "x").report
    assert len(report) == directory.MAX_KEYS
    assert [each.device.key for each in report if each.sealed] == [bob.device.key]


def test_a_list_that_can_not_be_read_changes_nothing_but_when_it_is_tried_again() -> None:
    world, alice, bob = acquainted()
    good = world.nodes[BOB, LIST]
    for payload in (b"<x/>", b"<public-keys-list", b"<!DOCTYPE a><public-keys-list xmlns='urn:xmpp:openpgp:0'/>"):
        world.nodes[BOB, LIST] = payload
        world.push(BOB)
        assert alice.say(BOB, "x").report[0].sealed
    world.nodes[BOB, LIST] = good
    world.now += contacts.RETRY
    world.fetches.clear()
    alice.say(BOB, "y")
    assert world.fetches == [Fetch(BOB, LIST)]
    assert bob.device


def test_certificates_nobody_lists_are_not_kept() -> None:
    _, alice, _ = acquainted()
    before = alice.dump()
    stranger = openpgp.generate(f"xmpp:{BOB}").certificate
    node = directory.key_node(stranger.fingerprint)
    alice.learn(Fetched(BOB, node, "x", directory.encode_key(stranger.data), pushed=True))
    alice.learn(Fetched(CAROL, node, "x", directory.encode_key(stranger.data), pushed=True))
    assert alice.dump() == before


@pytest.mark.parametrize("what", ["secret", "armour", "two", "large", "garbage", "empty"])
def test_certificates_that_are_none(what: str) -> None:
    world, alice, bob = pair()
    good = bob.key.certificate.data
    data = {
        "secret": bob.key.data,
        "armour": b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n" + base64.encode(good).encode(),
        "two": good + openpgp.generate(f"xmpp:{BOB}").certificate.data,
        "large": good + bytes(directory.MAX_CERTIFICATE_BYTES),
        "garbage": urandom(500),
        "empty": b"",
    }[what]
    world.nodes[BOB, directory.key_node(bob.device.key)] = directory.encode_key(data)
    with pytest.raises(NoRecipients):
        alice.say(BOB, "x")
    (known,) = alice.run(lambda s: Done(alice.scheme.keys(s, BOB, alice.now)))
    assert known.why
    assert "Traceback" not in known.why


def named(key: SecretKey, mark: str) -> SecretKey:
    for number in range(20):
        key = openpgp.add_user_id(key, f"{mark} {number}")
    return key


def test_a_certificate_that_a_server_fills_up_stays_as_it_was_and_can_still_be_revoked() -> None:
    world, alice, bob = pair()
    first, second = named(bob.key, "one"), named(bob.key, "two")
    with pytest.raises(BadKey):
        openpgp.merge(first.certificate, second.certificate)
    world.announce(BOB, first.certificate)
    assert alice.say(BOB, "x").report[0].sealed
    world.announce(BOB, second.certificate, dates=world.now + 1)
    world.push(BOB)
    assert alice.say(BOB, "x").report[0].sealed
    (known,) = alice.run(lambda s: Done(alice.scheme.keys(s, BOB, alice.now)))
    assert "one 0" in known.user_ids
    world.announce(BOB, openpgp.revoke(second).certificate, dates=world.now + 2)
    world.push(BOB)
    with pytest.raises(NoRecipients, match="revoked"):
        alice.say(BOB, "x")


def test_a_certificate_that_only_the_library_refuses_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    world, alice, bob = pair()
    odd = openpgp.generate(f"xmpp:{BOB}").certificate
    world.announce(BOB, bob.key.certificate, odd)
    for name in ("signcrypt", "crypt"):
        real = getattr(openpgp, name)

        def refusing(*given: object, real: Callable[..., bytes] = real) -> bytes:
            if odd in given[-1]:  # type: ignore[operator]
                raise BadKey("it is odd")
            return real(*given)

        monkeypatch.setattr(openpgp, name, refusing)
    report = {each.device.key: (each.sealed, each.why) for each in alice.say(BOB, "x").report}
    assert report == {bob.device.key: (True, ""), odd.fingerprint: (False, "it is odd")}
    assert [each.kind for each in world.settle()] == [Kind.OPENED]
    world.announce(BOB, odd)
    world.push(BOB)
    with pytest.raises(NoRecipients):
        alice.say(BOB, "y")


def test_our_own_key_under_somebody_elses_address() -> None:
    world, alice, bob = pair()
    world.announce(BOB, alice.key.certificate)
    with pytest.raises(NoRecipients, match="has no user id"):
        alice.say(BOB, "x")
    message = forged(alice.key, [alice.key.certificate], "x", [ALICE], world.now)
    assert kind(alice, arrived(message, BOB, ALICE)) is Kind.NO_SESSION  # reflected
    assert bob.device


def test_a_key_that_two_accounts_share() -> None:
    world, alice, bob = pair()
    both = openpgp.add_user_id(bob.key, f"xmpp:{CAROL}")
    world.announce(CAROL, both.certificate)
    assert alice.say(CAROL, "x").report[0].device.address == CAROL
    alice.trust(CAROL, both.fingerprint, Trust.DISTRUSTED)
    assert alice.say(BOB, "y").report[0].sealed


def test_an_error_of_the_library_is_never_shown() -> None:
    world, alice, bob = acquainted()
    messages = [urandom(200), b"\xc1\x04junk", letter_of(alice, bob)[:-30]]
    for message in messages:
        opened = bob.open(arrived(message, ALICE, BOB))
        assert "RuntimeError" not in opened.error
        assert "\n" not in opened.error
    assert world.ends


def letter_of(alice: PgpEnd, bob: PgpEnd) -> bytes:
    alice.say(BOB, "x")
    return bob.world.take(bob)[-1].message


def test_a_stanza_of_somebody_is_judged_by_its_bare_address() -> None:
    _, _, bob, letter = one_letter()
    stanza = replace(letter.arrived.stanza, sender=Address(f"{ALICE}/{BOB}/x"), to=Address(f"{BOB}/a/b"))
    assert kind(bob, Arrived(letter.arrived.element, stanza, "openpgp")) is Kind.OPENED
    assert bob.scheme.tags == (element.TAG,)
