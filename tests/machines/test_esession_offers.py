"""Offers of encrypted sessions, and who may change one: what strangers, servers and second clients try."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.sessions import (
    ALICE,
    BOB,
    ERROR,
    MALLORY,
    NOW,
    TERMINATE,
    Client,
    Clock,
    Flying,
    deliver,
    error_from,
    flying,
    message,
    pair,
)
from tillie.errors import Malformed, UsageError
from tillie.model import Address, Kind, RolledBack
from tillie.negotiation import element as wire
from tillie.schemes.esession import Settings, negotiating
from tillie.wire import forms, xml
from tillie.wire.forms import Field

NOBODY: Callable[[Address], bool] = lambda address: False  # noqa: E731


# -- offers -----------------------------------------------------------------------------------------------------------


def test_whoever_does_not_see_our_presence_learns_nothing() -> None:
    alice, bob = Client(ALICE), Client(BOB, answers=NOBODY)
    bob.scheme.asks = NOBODY
    alice.start(BOB)
    before = bob.records()
    (offer,) = alice.sent()
    assert bob.get(offer).kind is Kind.MALFORMED
    bad = message(BOB, "t", wire.feature(forms.write("form", (Field("FORM_TYPE", "hidden", ("other",)),))))
    for each in (
        flying(ALICE, bad),
        flying(ALICE, message(BOB, "t", b"<feature xmlns='http://jabber.org/protocol/feature-neg'/>")),
    ):
        bob.get(each)
    assert bob.sent() == []
    assert bob.records() == before


def test_an_offer_waits_for_a_person() -> None:
    clock = Clock()
    alice, bob = Client(ALICE, clock=clock), Client(BOB, clock=clock, answers=NOBODY)
    thread = alice.start(BOB)
    deliver(alice, bob)
    assert bob.look(thread).state == "asked"
    assert bob.sent() == []
    assert "asks for an encrypted session" in bob.notices[-1]
    bob.do(lambda s, now: bob.scheme.accept(s, thread, now))
    deliver(alice, bob)
    assert alice.look(thread).active
    with pytest.raises(UsageError, match="Nobody waits"):
        bob.do(lambda s, now: bob.scheme.accept(s, thread, now))


def test_who_waits_for_a_person_is_told_nothing_whatever_it_sends() -> None:
    """An error would tell that somebody is there."""
    alice, bob = Client(ALICE), Client(BOB, answers=NOBODY)
    thread = alice.start(BOB)
    deliver(alice, bob)
    bad = wire.feature(forms.write("submit", (Field("FORM_TYPE", values=("other",)),)))
    c = b"<c xmlns='http://www.xmpp.org/extensions/xep-0200.html#ns'><mac>AAAAAAAAAAAAAAAAAAAAAA==</mac></c>"

    def probe() -> None:
        for child in (bad, TERMINATE[:-3], c, wire.init(forms.write("result", ()))):
            try:
                bob.get(flying(ALICE, message(BOB, thread, child)))
            except Malformed:
                pass  # not even XML

    probe()
    bob.run(lambda s: bob.scheme.learn(s, RolledBack(), NOW))
    probe()
    assert bob.sent() == []


def test_what_is_no_offer_is_answered_where_we_may_be_seen() -> None:
    alice, bob = Client(ALICE), Client(BOB)
    bad = wire.feature(forms.write("form", (Field("FORM_TYPE", "hidden", ("other",)),)))
    bob.get(flying(ALICE, message(BOB, "t", bad)))
    (told,) = bob.sent()
    assert b"service-unavailable" in told.stanza
    assert alice.get(told).kind is Kind.NO_SESSION
    assert bob.all() == ()


def test_the_second_client_that_answers_is_told_and_changes_nothing() -> None:
    clock = Clock()
    alice, laptop = Client(ALICE, clock=clock), Client(BOB, clock=clock)
    phone = Client("bob@b.example/phone", clock=clock)
    thread = alice.start("bob@b.example")
    (one,) = alice.sent()
    laptop.get(one)
    phone.get(one)
    (late,) = phone.sent()
    deliver(alice, laptop)
    before = alice.records()
    alice.get(late)
    deliver(alice, laptop, phone)
    assert alice.records() == before
    assert alice.look(thread).peer == BOB
    assert phone.look(thread).state == "failed"
    assert "Another client" in phone.look(thread).why


def test_a_person_says_no() -> None:
    alice, bob = Client(ALICE), Client(BOB, answers=NOBODY)
    thread = alice.start(BOB)
    deliver(alice, bob)
    bob.do(lambda s, now: bob.scheme.decline(s, thread, "not now", now))
    deliver(alice, bob)
    assert (alice.look(thread).state, bob.look(thread).state) == ("failed", "ended")
    assert "not now" in alice.look(thread).why


def test_strangers_crowd_out_only_each_other() -> None:
    bob = Client(BOB, answers=lambda peer: peer.bare == "alice@a.example")
    for number in range(negotiating.MAX_PENDING + 5):
        stranger = Client(f"s{number}@m.example/x")
        stranger.start(BOB)
        bob.get(stranger.sent()[0])
    waiting = [each for each in bob.all() if each.state == "asked"]
    assert len(waiting) == negotiating.MAX_PENDING
    pair(Client(ALICE), bob)


def test_one_stranger_gets_few_places() -> None:
    bob, mallory = Client(BOB, answers=NOBODY), Client(MALLORY)
    for _ in range(negotiating.MAX_PENDING_OF_ONE + 3):
        mallory.start(BOB)
        bob.get(mallory.sent()[0])
    assert len(bob.all()) == negotiating.MAX_PENDING_OF_ONE


@pytest.mark.parametrize("first", [ALICE, BOB])
def test_two_offers_that_cross_come_to_one_session(first: str) -> None:
    """Both began before they saw the other's offer: the one of the lower JID goes on, at both ends."""
    clock = Clock()
    alice, bob = Client(ALICE, clock=clock), Client(BOB, clock=clock)
    threads = {ALICE: alice.start(bob.own.bare), BOB: bob.start(ALICE)}
    ends = (alice, bob) if first == ALICE else (bob, alice)
    deliver(*ends)
    goes_on, given_up = threads[ALICE], threads[BOB]
    for end in ends:
        assert end.look(goes_on).active
    assert (bob.look(given_up).state, bob.look(given_up).instead) == ("failed", goes_on)
    assert given_up not in [each.thread for each in alice.all()]
    alice.say(BOB, "one session")
    deliver(*ends)
    assert bob.heard == ["one session"]


def test_who_gives_way_answers_even_if_a_person_would_have_been_asked() -> None:
    clock = Clock()
    alice, bob = Client(ALICE, clock=clock), Client(BOB, clock=clock, answers=NOBODY)
    thread = alice.start(BOB)
    bob.start(ALICE)
    deliver(alice, bob)
    assert bob.look(thread).active


def test_an_offer_that_was_stored_or_copied_is_not_answered() -> None:
    alice, bob = Client(ALICE), Client(BOB)
    alice.start(BOB)
    (offer,) = alice.sent()
    for via in ("archive", "carbon", "offline"):
        bob.get(offer, via=via)
    assert bob.sent() == []
    assert bob.all() == ()


def test_a_stanza_that_a_server_kept_while_the_connection_was_lost_has_its_place() -> None:
    alice, bob, _ = pair()
    alice.say(BOB, "one")
    bob.get(alice.sent()[0], via="offline")
    assert bob.heard == ["one"]


def test_no_common_option_is_not_acceptable_and_names_the_fields() -> None:
    clock = Clock()
    alice = Client(ALICE, Settings(groups=(14,), hashes=("sha256",)), clock=clock)
    bob = Client(BOB, Settings(groups=(15,), hashes=("sha512",)), clock=clock)
    thread = alice.start(BOB)
    deliver(alice, bob, only=1)
    (answer,) = bob.sent()
    failure = next(wire.parse_error(xml.serialise(child)) for child in xml.parse(answer.stanza) if "error" in child.tag)
    assert (failure.condition, set(failure.fields)) == ("not-acceptable", {"modp", "hash_algs"})
    alice.get(answer)
    assert alice.look(thread).state == "failed"
    assert "not-acceptable" in alice.look(thread).why


# -- who may change a session -----------------------------------------------------------------------------------------


def strangers(alice: Client, thread: str) -> list[Flying]:
    """What somebody else can send about a session: any JID but the peer's full one, any thread, any content."""
    alice.say(BOB, "to be copied")
    (sealed,) = alice.sent()
    element = next(xml.serialise(child) for child in xml.parse(sealed.stanza) if str(child.tag).endswith("}c"))
    bodies = (
        element,
        element.replace(b"<data>", b"<data>AAAA"),
        TERMINATE,
        b"<c xmlns='http://www.xmpp.org/extensions/xep-0200.html#ns'/>",
    )
    out = []
    for sender in (MALLORY, "alice@a.example/other", "alice@a.example", "a.example", "b.example"):
        for child in bodies:
            out.append(flying(sender, message(BOB, thread, child)))
        for child in (b"", bodies[0]):
            out.append(flying(sender, message(BOB, thread, child + ERROR % b"not-acceptable", type="error")))
            out.append(flying(sender, message(BOB, "", ERROR % b"not-acceptable", type="error")))
        iq = f"<iq xmlns='jabber:client' type='set' id='1' to='{BOB}'>".encode()
        out.append(flying(sender, iq + element + b"</iq>"))
        presence = f"<presence xmlns='jabber:client' to='{BOB}'>".encode()
        out.append(flying(sender, presence + element + b"</presence>"))
    return [
        *out,
        flying(ALICE, message("bob@b.example/elsewhere", thread, element)),
        flying(ALICE, message(BOB, "wrong", TERMINATE)),
    ]


def test_nobody_else_ends_or_changes_a_session() -> None:
    alice, bob, thread = pair()
    bob.scheme.answers = NOBODY
    attempts = strangers(alice, thread)
    before = bob.records()
    for attempt in attempts:
        assert bob.get(attempt).kind in (Kind.NO_SESSION, Kind.MALFORMED)
        assert bob.records() == before
    assert bob.sent() == []
    assert len(attempts) > 30


def test_nobody_else_ends_or_changes_a_negotiation() -> None:
    for step in range(1, 4):
        clock = Clock()
        alice, bob = Client(ALICE, clock=clock), Client(BOB, clock=clock)
        thread = alice.start(BOB)
        deliver(alice, bob, only=step)
        (answer,) = (alice, bob)[step % 2].sent()
        victim = (bob, alice)[step % 2]
        before = victim.records()
        child = next(xml.serialise(each) for each in xml.parse(answer.stanza) if each.tag in victim.scheme.tags)
        victim.scheme.answers = victim.scheme.asks = NOBODY
        for sender in (MALLORY, "alice@a.example/other" if victim is bob else "carol@b.example/work"):
            victim.get(flying(sender, message(str(victim.own), thread, child)))
            victim.get(flying(sender, message(str(victim.own), "other", child)))
            victim.get(error_from(sender, str(victim.own), "not-acceptable", thread=thread))
        assert victim.records() == before
        victim.scheme.answers = lambda peer: True
        victim.get(answer)
        deliver(alice, bob)
        assert alice.look(thread).active
        assert bob.look(thread).active


def test_a_thread_that_is_taken_begins_nothing() -> None:
    alice, bob, thread = pair()
    mallory = Client(MALLORY, clock=alice.clock)
    mallory.start(BOB, thread=thread)
    before = bob.records()
    assert bob.get(mallory.sent()[0]).kind is Kind.NO_SESSION
    alice.end(thread)
    deliver(alice, bob)
    mallory.start(BOB, thread="fresh")
    mallory.sent()
    assert before
    again = Client(ALICE, clock=alice.clock)
    again.start(BOB, thread=thread)
    assert bob.get(again.sent()[0]).kind is Kind.NO_SESSION
