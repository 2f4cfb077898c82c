"""What ends an encrypted session, or drops it when its time is over, and that its secrets go."""

from __future__ import annotations

import pytest

from support.sessions import (
    ALICE,
    BOB,
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
    secrets_of,
)
from tillie.errors import SessionEnded, UsageError
from tillie.model import Address, Done, Kind, RolledBack
from tillie.schemes.esession import Settings, negotiating, scheme, sessions, traffic
from tillie.schemes.esession import channel as channels
from tillie.schemes.esession.profile import GAJIM
from tillie.wire import xml

# -- what ends a session ----------------------------------------------------------------------------------------------


def has_none_of(client: Client, keys: list[bytes]) -> bool:
    everything = b"".join(client.records().values())
    return not any(key in everything for key in keys)


@pytest.mark.parametrize("how", ["altered", "lost", "repeated", "reflected", "not XML", "malformed"])
def test_a_stanza_that_does_not_verify_ends_the_session_and_the_secrets_go(how: str) -> None:
    alice, bob, thread = pair()
    alice.say(BOB, "one")
    alice.say(BOB, "two")
    bob.say(ALICE, "mine")
    one, two = alice.sent()
    (mine,) = bob.sent()
    keys = secrets_of(bob, thread)
    wrong = {
        "altered": flying(ALICE, one.stanza.replace(b"<mac>", b"<mac>AAAA")),
        "lost": two,
        "repeated": one,
        "reflected": flying(ALICE, mine.stanza.replace(ALICE.encode(), BOB.encode())),
        "malformed": flying(
            ALICE, message(BOB, thread, b"<c xmlns='http://www.xmpp.org/extensions/xep-0200.html#ns'><x/></c>")
        ),
    }
    if how == "repeated":
        bob.get(one)
    if how == "not XML":
        record = alice.run(lambda s: Done(sessions.load(s, thread)))
        assert record is not None
        forged, _ = bob_reads_garbage(alice, bob, thread)
        wrong["not XML"] = forged
    opened = bob.get(wrong[how])
    assert opened.kind is Kind.TAMPERED
    assert bob.look(thread).state == "broken"
    assert has_none_of(bob, keys)
    assert "is over" in bob.notices[-1]
    with pytest.raises(SessionEnded):
        bob.say(ALICE, "more")
    (told,) = bob.sent()
    assert b"not-acceptable" in told.stanza
    alice.get(told)
    assert alice.look(thread).state == "broken"
    assert alice.sent() == []


def bob_reads_garbage(alice: Client, bob: Client, thread: str) -> tuple[Flying, Flying]:
    """A stanza of Alice that verifies, and hides what is not XML."""
    record = bob.run(lambda s: Done(sessions.load(s, thread)))
    theirs = alice.run(lambda s: Done(sessions.load(s, thread)))
    assert record is not None
    assert theirs is not None
    bob_channel, alice_channel = channels.decode(record.channel), channels.decode(theirs.channel)
    import msgspec

    back = msgspec.structs.replace(alice_channel, counter_out=bob_channel.counter_in)
    _, element = channels.seal(back, b"<a><b></a>", now=NOW)
    return flying(ALICE, message(BOB, thread, element)), flying(ALICE, b"")


def test_an_end_is_answered_and_both_know_that_nothing_was_lost() -> None:
    alice, bob, thread = pair()
    keys = [*secrets_of(alice, thread), *secrets_of(bob, thread)]
    alice.say(BOB, "last words")
    bob.say(ALICE, "mine too")
    alice.end(thread)
    assert alice.look(thread).state == "ending"
    with pytest.raises(SessionEnded):
        alice.say(BOB, "one more")
    alice.end(thread)  # twice is fine
    deliver(alice, bob)
    assert (alice.look(thread).state, bob.look(thread).state) == ("ended", "ended")
    assert (alice.heard, bob.heard) == (["mine too"], ["last words"])
    assert has_none_of(alice, keys)
    assert has_none_of(bob, keys)
    assert alice.sent() + bob.sent() == []


def test_both_may_end_at_once() -> None:
    alice, bob, thread = pair()
    alice.end(thread)
    bob.end(thread)
    deliver(alice, bob)
    assert (alice.look(thread).state, bob.look(thread).state) == ("ended", "ended")


def test_an_end_that_covers_a_loss_is_noticed() -> None:
    alice, bob, thread = pair()
    alice.say(BOB, "lost on the way")
    alice.sent()
    alice.end(thread)
    deliver(alice, bob)
    assert bob.look(thread).state == "broken"
    assert alice.look(thread).state == "broken"


def test_an_end_in_clear_is_only_noticed() -> None:
    alice, bob, thread = pair()
    opened = bob.get(flying(ALICE, message(BOB, thread, TERMINATE)))
    assert opened.kind is Kind.EMPTY
    assert bob.look(thread).active
    assert "it goes on" in bob.notices[-1]
    alice.say(BOB, "still here")
    deliver(alice, bob)
    assert bob.heard == ["still here"]


def test_gajim_ends_in_clear_and_a_person_decides() -> None:
    clock = Clock()
    gajim = Settings(groups=(1,), legacy=True, profile=GAJIM)
    alice, bob, thread = pair(Client(ALICE, gajim, clock=clock), Client(BOB, gajim, clock=clock))
    alice.end(thread)
    assert alice.look(thread).state == "ended"
    deliver(alice, bob)
    seen = bob.look(thread)
    assert seen.active
    assert seen.wants_end
    assert "nothing proves it" in bob.notices[-1]
    bob.get(flying(ALICE, message(BOB, thread, TERMINATE)))
    assert len(bob.notices) == 1  # told once
    bob.end(thread)
    assert bob.look(thread).state == "ended"


@pytest.mark.parametrize("thread_is_there", [True, False])
def test_a_message_that_comes_back_ends_the_session(thread_is_there: bool) -> None:
    alice, bob, thread = pair()
    alice.say(BOB, "to nobody")
    alice.sent()
    named = thread if thread_is_there else ""
    alice.get(error_from(BOB, ALICE, "service-unavailable", thread=named))
    assert alice.look(thread).state == "broken"
    assert alice.sent() == []
    assert bob.look(thread).active


@pytest.mark.parametrize(
    ("condition", "state"),
    [("feature-not-implemented", "active"), ("service-unavailable", "active"), ("remote-server-timeout", "broken")],
)
def test_an_error_that_answers_an_iq_may_be_the_peers(condition: str, state: str) -> None:
    alice, _, thread = pair()
    alice.get(error_from(BOB, ALICE, condition, kind="iq", id="q"))
    assert alice.look(thread).state == state


def test_an_iq_that_comes_back_with_what_it_held_ends_the_session() -> None:
    alice, _, thread = pair()
    alice.send(f"<iq xmlns='jabber:client' type='get' id='q' to='{BOB}'><a xmlns='urn:a'/></iq>".encode())
    (sealed,) = alice.sent()
    back = (
        sealed.stanza.replace(b'type="get"', b"type='error'")
        .replace(b"type='get'", b"type='error'")
        .replace(BOB.encode(), ALICE.encode())
    )
    assert b"type='error'" in back
    alice.get(flying(BOB, back))
    assert alice.look(thread).state == "broken"


def test_an_offer_that_comes_back_fails() -> None:
    for sender in (BOB, "bob@b.example", "b.example"):
        alice = Client(ALICE)
        thread = alice.start("bob@b.example")
        (offer,) = alice.sent()
        alice.get(error_from(sender, ALICE, "service-unavailable", id=str(xml.parse(offer.stanza).get("id"))))
        assert (alice.look(thread).state == "failed") == (sender != "b.example")


def test_who_goes_on_with_a_session_that_we_lost_is_told() -> None:
    alice, bob, thread = pair()
    bob.do(lambda s, now: bob.scheme.abandon(s, thread, "lost", now))
    alice.say(BOB, "are you there?")
    results = deliver(alice, bob)
    assert results[0].kind is Kind.NO_SESSION
    assert alice.look(thread).state == "broken"


def test_a_peer_that_goes_offline_takes_its_sessions_along() -> None:
    alice, bob, thread = pair()
    alice.do(lambda s, now: alice.scheme.peer_left(s, Address("bob@b.example/other"), now))
    assert alice.look(thread).active
    alice.do(lambda s, now: alice.scheme.peer_left(s, bob.own, now))
    assert alice.look(thread).state == "ended"
    assert has_none_of(alice, secrets_of(bob, thread)[1:2])


def test_a_roll_back_drops_every_session() -> None:
    alice, bob, thread = pair()
    pending = alice.start("carol@c.example")
    alice.sent()
    alice.run(lambda s: alice.scheme.learn(s, RolledBack(), NOW))
    assert alice.look(thread).over
    assert alice.look(pending).over
    deliver(alice, bob)
    assert bob.look(thread).state == "broken"


# -- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(1, 5))
def test_a_negotiation_that_stops_is_given_up_on_both_sides(steps: int) -> None:
    clock = Clock()
    alice, bob = Client(ALICE, clock=clock), Client(BOB, clock=clock)
    thread = alice.start(BOB)
    deliver(alice, bob, only=steps - 1)
    for client in (alice, bob):
        client.sent()
    for _ in range(12):
        clock.now += 60.0
        for client in (alice, bob):
            client.tick()
    found = [client.look(thread) for client in (alice, bob) if client.all()]
    assert all(each.over or each.active for each in found)
    assert not alice.look(thread).active
    lost = [client.run(lambda s, c=client: Done(list(sessions.live(s)))) for client in (alice, bob)]  # type: ignore[misc]
    assert not lost[0]
    counted = [
        client.run(lambda s, c=client, o=other: Done(c.scheme.failures(s, Address(o), clock.now)))  # type: ignore[misc]
        for client, other in ((alice, BOB), (bob, ALICE))
    ]
    assert counted == {1: [0, 0], 2: [0, 1], 3: [1, 1], 4: [1, 0]}[steps]


def test_sessions_of_a_connection_that_is_gone_go_with_it() -> None:
    alice, bob, thread = pair()
    second = Client("alice@a.example/second", clock=alice.clock, store=alice.store)
    alice.tick()
    for _ in range(3):
        alice.clock.now += scheme.OWNER_LIFE / 2
        second.tick()
    assert second.look(thread).state == "ended"
    assert "gone" in second.look(thread).why
    assert bob.look(thread).active


def test_another_process_seals_and_the_owners_connection_sends() -> None:
    alice, bob, _ = pair()
    second = Client("alice@a.example/second", clock=alice.clock, store=alice.store)
    alice.say(BOB, "one")
    second.say(BOB, "two")
    alice.say(BOB, "three")
    assert second.sent() == []
    deliver(alice, bob)
    assert bob.heard == ["one", "two", "three"]


def test_old_keys_are_replaced_with_content_and_reported() -> None:
    alice, bob, thread = pair()
    alice.say(BOB, "under the first key")
    alice.clock.now += traffic.REKEY_SECONDS
    alice.say(BOB, "with a new key")
    deliver(alice, bob)
    assert alice.look(thread).rekeys == bob.look(thread).rekeys == 1
    bob.tick()
    deliver(alice, bob)
    record = alice.run(lambda s: Done(sessions.load(s, thread)))
    assert record is not None
    assert channels.decode(record.channel).acknowledged == 1
    assert len(bob.heard) == 2


def test_a_rekey_by_hand() -> None:
    alice, bob, thread = pair()
    alice.do(lambda s, now: alice.scheme.rekey(s, thread, now))
    deliver(alice, bob)
    alice.say(BOB, "new keys")
    bob.say(ALICE, "indeed")
    deliver(alice, bob)
    assert (alice.heard, bob.heard) == (["indeed"], ["new keys"])
    rarely = pair(settings=Settings(groups=(1,), rekey_frequency=50, legacy=True))
    with pytest.raises(UsageError, match="re-keyed"):
        rarely[0].do(lambda s, now: rarely[0].scheme.rekey(s, rarely[2], now))


def test_a_few_failures_and_nothing_is_automatic_any_more_today() -> None:
    clock = Clock()
    alice, bob = Client(ALICE, clock=clock), Client(BOB, clock=clock)
    for _ in range(negotiating.MAX_RETRIES + 1):
        thread = alice.start(BOB, automatic=True)
        deliver(alice, bob, only=2)  # message 3 is lost
        alice.sent()
        clock.now += 200.0
        alice.tick()
        bob.tick()
        for client in (alice, bob):
            client.sent()
    assert alice.look(thread).state == "failed"
    assert f"attempt {negotiating.MAX_RETRIES + 1} today" in alice.notices[-1]
    with pytest.raises(UsageError, match="a person"):
        alice.start(BOB, automatic=True)
    thread = alice.start(BOB)  # a person may
    deliver(alice, bob)
    assert bob.look(thread).state == "asked"
    assert "so many attempts failed" in bob.notices[-1]
    clock.now += negotiating.DAY
    assert alice.start(BOB, automatic=True)
