"""OpenPGP conversations of two and three accounts: whom a message is sealed for, who opens it, and what it is then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.openpgp import ALICE, BOB, CAROL, DAY, HOUR, LIST, PgpEnd, PgpWorld, arrived, forged, pair
from tillie import pipeline
from tillie.crypto import openpgp
from tillie.directory import openpgp as directory
from tillie.errors import NoRecipients, NotTrusted, TooLarge, UsageError
from tillie.model import NO_PAYLOAD, Arrived, Content, Decided, Done, Fetch, Kind, Opened, Target, Trust
from tillie.schemes.openpgp import contacts
from tillie.schemes.openpgp.content import Form
from tillie.schemes.openpgp.scheme import MAX_PLAINTEXT
from tillie.trust.decisions import Policy
from tillie.wire import xml


def kinds(opened: list[Opened]) -> list[Kind]:
    return [each.kind for each in opened]


def test_two_people_write_to_each_other() -> None:
    world, alice, bob = pair()
    for number in range(3):
        assert [report.sealed for report in alice.say(BOB, f"hello {number} é").report] == [True]
        bob.say(ALICE, f"you, too {number}")
    opened = world.settle()
    assert kinds(opened) == [Kind.OPENED] * 6
    assert bob.read_texts == [f"hello {number} é" for number in range(3)]
    assert alice.read_texts == [f"you, too {number}" for number in range(3)]
    assert {each.device.key for each in opened if each.device} == {alice.device.key, bob.device.key}
    assert {each.trust for each in opened} == {Trust.TRUSTED}
    assert not any(each.notes for each in opened)


def test_what_a_server_sees() -> None:
    world, alice, _ = pair()
    alice.say(BOB, "a secret")
    message = xml.parse(world.sent[0])
    assert b"secret" not in world.sent[0]
    assert message.findtext("{jabber:client}body") == alice.scheme.fallback
    assert message.find("{urn:xmpp:hints}store") is not None
    encryption = message.find("{urn:xmpp:eme:0}encryption")
    assert encryption is not None
    assert encryption.get("namespace") == "urn:xmpp:openpgp:0"


def test_what_a_server_puts_beside_is_told_but_for_the_fallback() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "hello")
    fallback, correction = (
        b"<body xmlns='jabber:client'>sealed</body>",
        b"<replace xmlns='urn:xmpp:message-correct:0'/>",
    )
    letter = world.flying[0].with_stanza(siblings=(fallback, correction))
    opened = bob.open(letter.arrived)
    assert opened.content == Content(b"<body xmlns='jabber:client'>hello</body>")
    assert opened.notes == ("Dropped from the plain part: <replace> (urn:xmpp:message-correct:0).",)


def test_a_message_without_a_body_has_no_fallback() -> None:
    world, alice, _ = pair()
    alice.say_xml(BOB, b"<active xmlns='http://jabber.org/protocol/chatstates'/>")
    assert xml.parse(world.sent[0]).find("{jabber:client}body") is None


def test_every_trusted_key_and_our_own_other_devices_read_it() -> None:
    world, alice, bob = pair()
    tablet = PgpEnd(world, BOB, generate=False)
    laptop = PgpEnd(world, ALICE, generate=False)
    for end in (tablet, laptop):
        end.run(lambda s, end=end: end.scheme.generate(s, end.now))  # type: ignore[misc]
    assert len(world.announced(BOB)) == len(world.announced(ALICE)) == 2
    world.push(ALICE)
    alice.trust(ALICE, laptop.key.fingerprint, Trust.VERIFIED)
    report = alice.say(BOB, "to all of you").report
    assert [each.sealed for each in report] == [True, True, True]
    assert kinds(world.settle()) == [Kind.OPENED] * 3
    assert bob.read_texts == tablet.read_texts == laptop.read_texts == ["to all of you"]


def test_devices_that_share_a_key() -> None:
    world, alice, _ = pair()
    laptop = PgpEnd(world, ALICE, generate=False)
    code = alice.scheme.new_code()
    payload = alice.run(lambda s: Done(alice.scheme.backup(s, code)))
    laptop.run(lambda s: laptop.scheme.restore(s, payload, code, laptop.now))
    assert world.announced(ALICE) == [alice.device.key]
    alice.say(BOB, "from the phone")
    (mine, _) = sorted(world.settle(), key=lambda each: each.trust.value, reverse=True)
    assert laptop.read_texts == ["from the phone"]
    assert mine.trust is Trust.VERIFIED  # its private key lies here: nobody has to compare it
    alice.say(ALICE, "a note to myself")
    world.settle()
    assert laptop.read_texts == ["from the phone", "a note to myself"]


def test_our_own_message_from_the_archive_is_nothing_new() -> None:
    world, alice, _ = pair()
    alice.say(BOB, "hello")
    (letter,) = world.flying
    copy = letter.with_stanza(via="archive", stamp=world.now)
    assert alice.open(copy.arrived).kind is Kind.DUPLICATE


def test_a_third_account_opens_nothing() -> None:
    world, alice, _ = pair()
    carol = PgpEnd(world, CAROL)
    alice.say(BOB, "for Bob")
    (letter,) = world.flying
    assert carol.open(letter.arrived).kind is Kind.NOT_FOR_US


def test_a_message_for_two_people() -> None:
    world, alice, bob = pair()
    carol = PgpEnd(world, CAROL)
    sealed = alice.run(
        lambda s: pipeline.seal(
            s,
            alice.scheme,
            Policy.BLIND,
            Content(b"<body xmlns='jabber:client'>both</body>"),
            BOB,
            alice.now,
            also=(CAROL,),
        )
    )
    assert [each.device.address for each in sealed.report] == [BOB, CAROL]
    alice.say(BOB, "x")
    around = world.flying[0].arrived.stanza
    assert bob.open(Arrived(sealed.element, around, "openpgp")).kind is Kind.OPENED
    assert carol.open(Arrived(sealed.element, replace(around, to=CAROL), "openpgp")).kind is Kind.OPENED


def test_keys_are_fetched_once_and_again_when_they_may_be_old() -> None:
    world, alice, _ = pair()
    alice.say(BOB, "one")
    world.fetches.clear()
    alice.say(BOB, "two")
    assert not world.fetches
    world.now += HOUR + 1
    alice.say(BOB, "three")
    assert {ask.node for ask in world.fetches} == {LIST}
    world.fetches.clear()
    world.now += DAY
    alice.say(BOB, "four")
    assert any(ask.node != LIST for ask in world.fetches)


def test_a_notification_is_as_good_as_a_fetch() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "one")
    bob.run(lambda s: bob.scheme.generate(s, bob.now))
    world.push(BOB)
    world.fetches.clear()
    report = alice.say(BOB, "two").report
    assert [ask.node for ask in world.fetches] == [directory.key_node(bob.key.fingerprint)]
    assert [(each.sealed, each.why) for each in report] == [(True, ""), (False, "waits for your decision")]


def test_a_notification_without_payload_is_followed() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "one")
    bob.run(lambda s: bob.scheme.generate(s, bob.now))
    world.push(BOB, payload=False)
    world.fetches.clear()
    alice.tick()
    assert Fetch(BOB, LIST) in world.fetches
    world.fetches.clear()
    alice.tick()
    assert not world.fetches
    assert len(alice.say(BOB, "two").report) == 2


def test_a_notification_without_payload_counts_at_once() -> None:
    world, alice, _ = pair()
    alice.say(BOB, "one")
    world.push(BOB, payload=False)
    world.fetches.clear()
    alice.say(BOB, "two")
    assert Fetch(BOB, LIST) in world.fetches
    assert NO_PAYLOAD not in alice.notices


# -- trust ----------------------------------------------------------------------------------------------------------


def another(address: str = BOB) -> openpgp.SecretKey:
    return openpgp.generate(f"xmpp:{address}")


def test_a_key_that_a_server_adds_reads_nothing_and_stops_nothing() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "one")
    spy = another()
    world.announce(BOB, bob.key.certificate, spy.certificate)
    world.push(BOB)
    report = alice.say(BOB, "two").report
    assert {each.device.key: each.sealed for each in report} == {bob.device.key: True, spy.fingerprint: False}
    message = world.take(bob)[-1].message
    assert openpgp.reads(spy).isdisjoint(openpgp.recipients(message))


@pytest.mark.parametrize("first", [True, False])
def test_a_key_that_our_own_server_adds_reads_nothing(first: bool) -> None:
    world, alice, bob = pair()
    if not first:
        alice.say(BOB, "one")
    spy = another(ALICE)
    world.announce(ALICE, alice.key.certificate, spy.certificate)
    world.push(ALICE)
    report = alice.say(BOB, "two").report
    assert {each.device.key: each.sealed for each in report} == {bob.device.key: True, spy.fingerprint: False}
    message = world.take(bob)[-1].message
    assert openpgp.reads(spy).isdisjoint(openpgp.recipients(message))
    sealed = alice.run(lambda s: alice.scheme.seal_object(s, Policy.BLIND, b"data", [BOB], alice.now))
    assert openpgp.reads(spy).isdisjoint(openpgp.recipients(sealed.message))


def test_a_message_that_our_own_server_forges_in_our_name_is_not_trusted() -> None:
    world, alice, _ = pair()
    spy = another(ALICE)
    world.announce(ALICE, alice.key.certificate, spy.certificate)
    world.push(ALICE)
    message = forged(spy, [alice.key.certificate], "a secret that I share", [ALICE], world.now)
    opened = alice.open(arrived(message, ALICE, ALICE))
    assert (opened.kind, opened.trust) == (Kind.OPENED, Trust.UNDECIDED)


def test_the_first_keys_are_trusted_together() -> None:
    world, alice, bob = pair()
    world.announce(BOB, bob.key.certificate, another().certificate)
    assert [each.sealed for each in alice.say(BOB, "one").report] == [True, True]


def test_a_server_that_replaces_the_only_key_gets_nothing() -> None:
    world, alice, _ = pair()
    alice.say(BOB, "one")
    world.announce(BOB, another().certificate)
    world.push(BOB)
    with pytest.raises(NotTrusted):
        alice.say(BOB, "two")


def test_after_a_decision_a_new_key_reads() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "one")
    world.settle()
    bob.run(lambda s: bob.scheme.generate(s, bob.now))
    world.push(BOB)
    alice.decide = lambda ask: [Decided(each.address, each.key, Trust.VERIFIED) for each in ask.devices]
    new = bob.key.fingerprint
    alice.trust(BOB, bob.device.key, Trust.DISTRUSTED)
    assert {each.device.key for each in alice.say(BOB, "two").report if each.sealed} == {new}
    assert kinds(world.settle()) == [Kind.OPENED]


def test_a_message_of_an_undecided_key_is_marked() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "one")
    world.settle()
    bob.run(lambda s: bob.scheme.generate(s, bob.now))
    world.push(BOB)
    bob.say(ALICE, "it is me")
    (opened,) = world.settle()
    assert (opened.kind, opened.trust) == (Kind.OPENED, Trust.UNDECIDED)


def test_a_distrusted_contact_gets_nothing() -> None:
    _, alice, bob = pair()
    alice.trust(BOB, bob.device.key, Trust.DISTRUSTED)
    with pytest.raises(NoRecipients, match="distrusted"):
        alice.say(BOB, "x")


# -- keys that can't be used ----------------------------------------------------------------------------------------


def why(end: PgpEnd, text: str = "x") -> dict[bytes, str]:
    return {each.device.key: each.why for each in end.say(BOB, text).report}


def test_one_bad_key_never_costs_the_others() -> None:
    world, alice, bob = pair()
    good = bob.key.certificate
    revoked, nameless, lost = openpgp.revoke(another()).certificate, another(CAROL).certificate, another().certificate
    swapped, broken = another().certificate, another().certificate
    world.announce(BOB, good, revoked, nameless, lost, swapped, broken)
    del world.nodes[BOB, directory.key_node(lost.fingerprint)]
    world.nodes[BOB, directory.key_node(swapped.fingerprint)] = directory.encode_key(another().certificate.data)
    world.nodes[BOB, directory.key_node(broken.fingerprint)] = directory.encode_key(broken.data[:200])
    found = why(alice)
    assert found.pop(good.fingerprint) == ""
    assert found.pop(revoked.fingerprint) == "revoked"
    assert found.pop(nameless.fingerprint) == f"has no user id xmpp:{BOB}"
    assert found.pop(lost.fingerprint) == "can't be fetched (item-not-found)"
    assert found.pop(swapped.fingerprint) == "its fingerprint is not the announced one"
    assert found.pop(broken.fingerprint)
    assert not found
    assert kinds(world.settle()) == [Kind.OPENED]


def test_somebody_without_a_key() -> None:
    world, alice, _ = pair()
    PgpEnd(world, CAROL, generate=False)
    with pytest.raises(NoRecipients, match="announces no OpenPGP key"):
        alice.say(CAROL, "x")
    world.unreachable.add(BOB)
    with pytest.raises(NoRecipients, match="can't be fetched"):
        alice.say(BOB, "x")


def test_somebody_whose_keys_are_all_unusable() -> None:
    world, alice, bob = pair()
    bob.run(lambda s: bob.scheme.revoke(s, bob.device.key, bob.now))
    world.announce(BOB, bob.key.certificate)
    with pytest.raises(NoRecipients, match="revoked"):
        alice.say(BOB, "x")


def test_without_a_key_of_our_own_nothing_is_sent() -> None:
    world = PgpWorld()
    PgpEnd(world, BOB)
    alice = PgpEnd(world, ALICE, generate=False)
    world.fetches.clear()
    with pytest.raises(UsageError, match="no OpenPGP key"):
        alice.say(BOB, "x")
    assert not world.fetches


def test_a_known_certificate_survives_a_server_that_forgets_or_garbles_it() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "one")
    node = (BOB, directory.key_node(bob.device.key))
    for payload in (None, b"<pubkey xmlns='urn:xmpp:openpgp:0'/>", directory.encode_key(another().certificate.data)):
        world.now += 2 * DAY
        if payload is None:
            del world.nodes[node]
        else:
            world.nodes[node] = payload
        assert alice.say(BOB, "two").report[0].sealed


def test_a_revocation_can_not_be_undone_by_a_server() -> None:
    world, alice, bob = pair()
    alice.say(BOB, "one")
    before = bob.key.certificate
    bob.run(lambda s: bob.scheme.revoke(s, bob.device.key, bob.now))
    world.announce(BOB, bob.key.certificate, dates=world.now + 1)
    world.push(BOB)
    with pytest.raises(NoRecipients, match="revoked"):
        alice.say(BOB, "two")
    assert any("revoked" in notice for notice in alice.notices)
    for step in range(3):
        world.announce(BOB, *(before,) * (step != 1), dates=world.now + 2 + step)  # once, it is not even listed
        world.push(BOB)
        with pytest.raises(NoRecipients):
            alice.say(BOB, "three")


def test_unlisted_certificates_are_bounded() -> None:
    world, alice, bob = pair()
    gone = another()
    alice.say(BOB, "one")
    for _ in range(contacts.MAX_UNLISTED // 32 + 2):
        world.now += 1
        world.announce(BOB, bob.key.certificate, *(another().certificate for _ in range(32)))
        world.push(BOB)
        alice.say(BOB, "x")
    for each in (gone, openpgp.revoke(gone)):
        world.now += 1
        world.announce(BOB, bob.key.certificate, each.certificate)
        world.push(BOB)
        alice.say(BOB, "two")
    rows = [key for key in alice.dump() if key.kind == "certificate"]
    assert contacts.MAX_UNLISTED < len(rows) <= contacts.MAX_UNLISTED + 33
    world.announce(BOB, bob.key.certificate, dates=world.now)
    world.push(BOB)
    world.announce(BOB, bob.key.certificate, gone.certificate, dates=world.now + 1)
    world.push(BOB)
    assert {each.device.key: each.why for each in alice.say(BOB, "x").report}[gone.fingerprint] == "revoked"


# -- what may be inside ---------------------------------------------------------------------------------------------


def test_what_is_sealed_is_not_sealed_again() -> None:
    _, alice, _ = pair()
    with pytest.raises(UsageError):
        alice.say_xml(BOB, b"<openpgp xmlns='urn:xmpp:openpgp:0'>QQ==</openpgp>")


def test_the_size_of_a_message() -> None:
    _, alice, _ = pair()
    with pytest.raises(TooLarge):
        alice.say(BOB, "x" * MAX_PLAINTEXT)
    assert alice.say(BOB, "x" * (MAX_PLAINTEXT - 1_000)).element


def test_an_iq_is_not_sealed() -> None:
    _, alice, _ = pair()
    with pytest.raises(UsageError, match="IQ"):
        alice.run(
            lambda s: pipeline.seal(
                s, alice.scheme, Policy.BLIND, Content(b"<x xmlns='u'/>"), BOB, alice.now, iq=("get", "1")
            )
        )


@pytest.mark.parametrize("form", Form)
def test_content_elements_of_all_forms_are_for_other_profiles(form: Form) -> None:
    world, alice, bob = pair()
    alice.say(BOB, "x")
    target = alice.run(lambda s: Done(alice.scheme.devices(s, BOB, alice.now)))
    sealed = alice.run(
        lambda s: alice.scheme.seal_content(s, form, Content(b"<x xmlns='u'/>"), Target(BOB, target[0]), alice.now)  # type: ignore[index]
    )
    got = replace(world.flying[0].arrived, element=sealed.element)
    opened = bob.run(lambda s: bob.scheme.open_content(s, got, bob.now))
    assert opened.form is form
    assert opened.envelope.content.data == b'<x xmlns="u"/>'
    assert (opened.device.key if opened.device else b"") == (b"" if form is Form.CRYPT else alice.device.key)
    if form is not Form.SIGNCRYPT:
        assert bob.open(got).kind is Kind.REFUSED  # as a message
