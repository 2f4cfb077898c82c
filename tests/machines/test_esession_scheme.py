"""Encrypted sessions as a scheme, from an offer to the end: clients over stores, and by hand what is between them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.sessions import (
    ALICE,
    BOB,
    MALLORY,
    NOW,
    SMALL,
    Client,
    Clock,
    Flying,
    deliver,
    flying,
    message,
    pair,
)
from tillie import history
from tillie.errors import Malformed, NoRecipients, NotTrusted, SessionEnded, StoreTooNew, UsageError
from tillie.model import Address, Content, Done, Key, Kind, Need, RolledBack, Trust
from tillie.negotiation import element as wire
from tillie.negotiation import options
from tillie.schemes.esession import Settings, negotiating, records, scheme, sessions, traffic
from tillie.schemes.esession import channel as channels
from tillie.schemes.esession.identity import Ed25519Identity
from tillie.schemes.esession.profile import GAJIM, SUBSET
from tillie.schemes.esession.settings import Shield
from tillie.trust import decisions
from tillie.wire import forms, xml
from tillie.wire.forms import Field

NOBODY: Callable[[Address], bool] = lambda address: False  # noqa: E731
TERMINATE = wire.feature(
    forms.write("submit", (Field("FORM_TYPE", values=(options.SSN,)), Field("terminate", values=("1",))))
)
_ERROR = b"<error xmlns='jabber:client' type='cancel'><%b xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"


def error_from(
    sender: str, to: str, condition: str, *, kind: str = "message", thread: str = "", id: str = "m"
) -> Flying:
    """What a server answers, mostly without the thread of what it answers."""
    named = f"<thread>{thread}</thread>" if thread else ""
    start = f"<{kind} xmlns='jabber:client' type='error' to='{to}' id='{id}'>{named}"
    return flying(sender, start.encode() + _ERROR % condition.encode() + f"</{kind}>".encode())


def thread_of(stanza: Flying) -> str:
    found = xml.parse(stanza.stanza).find("{jabber:client}thread")
    assert found is not None
    return str(found.text)


# -- to a session, and what goes through it ---------------------------------------------------------------------------


def test_two_clients_agree_and_see_the_same_string() -> None:
    alice, bob, thread = pair()
    ours, theirs = alice.look(thread), bob.look(thread)
    assert (ours.string, ours.string_digest) == (theirs.string, theirs.string_digest)
    assert len(ours.string) == 6
    assert ours.verifiable
    assert (ours.role, theirs.role) == ("initiator", "responder")
    assert (ours.peer, theirs.peer) == (BOB, ALICE)
    assert alice.run(lambda s: Done(alice.scheme.with_peer(s, bob.own.bare))) == ours
    assert thread in alice.changes


def test_an_offer_to_a_bare_address_is_with_the_resource_that_answers() -> None:
    clock = Clock()
    alice, bob = Client(ALICE, clock=clock), Client(BOB, clock=clock)
    thread = alice.start(bob.own.bare)
    deliver(alice, bob)
    assert alice.look(thread).peer == bob.own
    assert b"stored" in message_one(alice, bob)


def message_one(alice: Client, bob: Client) -> bytes:
    alice.start(bob.own.bare)
    return alice.sent()[0].stanza


@pytest.mark.parametrize("profile", [SUBSET, GAJIM], ids=lambda profile: profile.name)
def test_the_other_profiles_are_found_by_who_answers(profile: object) -> None:
    """The initiator is told, the responder tries."""
    clock = Clock()
    old = Settings(groups=(1,), rekey_frequency=1, legacy=True, profile=profile)  # type: ignore[arg-type]
    alice, bob = Client(ALICE, old, clock=clock), Client(BOB, SMALL, clock=clock)
    alice, bob, thread = pair(alice, bob)
    assert alice.look(thread).profile.partition("+")[0] == bob.look(thread).profile.partition("+")[0] == profile.name  # type: ignore[attr-defined]
    assert not alice.look(thread).verifiable
    alice.say(BOB, "hello")
    bob.say(ALICE, "hello back")
    deliver(alice, bob)
    assert (alice.heard, bob.heard) == (["hello back"], ["hello"])


def test_messages_presence_and_iqs_go_in_their_order() -> None:
    alice, bob, _ = pair()
    alice.say(BOB, "one")
    alice.send(f"<presence xmlns='jabber:client' to='{BOB}'><status>here</status></presence>".encode())
    alice.send(
        f"<iq xmlns='jabber:client' type='get' id='q' to='{BOB}'><query xmlns='jabber:iq:version'/></iq>".encode()
    )
    alice.send(f"<message xmlns='jabber:client' to='{BOB}'><thread>mine</thread><body>two</body></message>".encode())
    out = alice.sent()
    assert all(b"<c " in each.stanza and b"body>" not in each.stanza for each in out)
    assert [b"thread" in each.stanza for each in out] == [True, False, False, True]
    assert b"mine" not in out[3].stanza
    opened = [bob.get(each) for each in out]
    assert [each.kind for each in opened] == [Kind.OPENED] * 4
    assert b"jabber:iq:version" in opened[2].content.xml  # type: ignore[union-attr]
    assert opened[0].notes == ()
    assert opened[0].trust is Trust.TRUSTED


def test_what_can_not_be_sealed_is_refused() -> None:
    alice, bob, _ = pair(settings=Settings(groups=(1,), stanzas=("message",), legacy=True))
    with pytest.raises(UsageError, match="not for iq"):
        alice.send(f"<iq xmlns='jabber:client' type='get' id='q' to='{BOB}'><a xmlns='urn:a'/></iq>".encode())
    with pytest.raises(UsageError, match="full JID"):
        alice.send(b"<message xmlns='jabber:client' to='bob@b.example'><body>x</body></message>")
    with pytest.raises(SessionEnded):
        alice.say(MALLORY, "hello")
    for bad in (b"<message", b"<message xmlns='jabber:client' to='" + BOB.encode() + b"'>" + TERMINATE + b"</message>"):
        with pytest.raises(UsageError):
            alice.send(bad)
    assert alice.sent() == []
    assert bob.heard == []


def test_a_stanza_of_a_kind_that_was_not_agreed_on_is_refused_and_keeps_its_place() -> None:
    alice, bob, thread = pair(settings=Settings(groups=(1,), stanzas=("message",), legacy=True))
    alice.say(BOB, "as a message")
    alice.say(BOB, "next")
    first, second = alice.sent()
    as_presence = first.stanza.replace(b"<message", b"<presence").replace(b"</message", b"</presence")
    assert bob.get(Flying(as_presence, alice.own)).kind is Kind.REFUSED
    bob.get(second)
    assert bob.heard == ["next"]
    assert bob.look(thread).active


def test_a_person_decides_whom_a_session_may_be_used_with() -> None:
    alice, _, thread = pair()
    key = alice.look(thread).key
    alice.run(lambda s: Done(decisions.decide(s, Address("bob@b.example"), key, Trust.DISTRUSTED, NOW)))
    iq = f"<iq xmlns='jabber:client' type='get' id='q' to='{BOB}'><a xmlns='urn:a'/></iq>".encode()
    with pytest.raises(NoRecipients):
        alice.send(iq)
    with pytest.raises(NoRecipients):
        alice.say(BOB, "hello")
    alice.run(lambda s: Done(decisions.decide(s, Address("bob@b.example"), key, Trust.UNDECIDED, NOW)))
    manual = alice.store.run(lambda s: alice.scheme.seal_stanza(s, iq, NOW, policy=decisions.Policy.MANUAL))
    assert isinstance(manual, Need)
    assert NotTrusted  # what the engine makes of it where nobody decides


def test_a_session_is_one_small_record() -> None:
    alice, _, thread = pair(settings=Settings(groups=(18,), rekey_frequency=1))
    for _ in range(channels.MAX_SETS - 1):
        alice.do(lambda s, now: alice.scheme.rekey(s, thread, now))
    size = max(len(value) for key, value in alice.records().items() if key[1] == "session")
    assert size <= records.MAX_SESSION_BYTES


def test_three_messages_open_a_session_between_keys() -> None:
    clock = Clock()
    mine, theirs = Ed25519Identity.generate(), Ed25519Identity.generate()
    both = {"groups": (1,), "legacy": True, "own_key": ("key",), "peer_key": ("key",), "three_message": True}
    alice = Client(
        ALICE, Settings(identity=mine, known_keys=(theirs.key_value,), shield=Shield.OURS, **both), clock=clock
    )  # type: ignore[arg-type]
    bob = Client(BOB, Settings(identity=theirs, shield=Shield.THEIRS, **both), clock=clock)  # type: ignore[arg-type]
    alice, bob, thread = pair(alice, bob)
    alice.say(BOB, "hello")
    deliver(alice, bob)
    assert bob.heard == ["hello"]
    assert alice.look(thread).key[:1] == b"K"
    assert not alice.look(thread).string


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
            out.append(flying(sender, message(BOB, thread, child + _ERROR % b"not-acceptable", type="error")))
            out.append(flying(sender, message(BOB, "", _ERROR % b"not-acceptable", type="error")))
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


# -- what ends a session ----------------------------------------------------------------------------------------------


def secrets_of(client: Client, thread: str) -> list[bytes]:
    """The keys of an open session, as they lie in the store."""
    record = client.run(lambda s: Done(sessions.load(s, thread)))
    assert record is not None
    channel = channels.decode(record.channel)
    return [channel.kc, channel.km, *(key for each in channel.sets for key in (each.x, each.kc, each.km) if key)]


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


# -- forms inside a session -------------------------------------------------------------------------------------------

BOTH = Settings(groups=(1,), rekey_frequency=1, legacy=True, logging=("may", "mustnot"))
MUSTNOT = Field("logging", "list-single", ("mustnot",), ("mustnot",), required=True)


def test_logging_is_renegotiated_and_the_history_obeys() -> None:
    alice, bob, thread = pair(settings=BOTH)
    alice.say(BOB, "kept", remember=True)
    for each in alice.sent():
        bob.get(each, remember=True)
    alice.do(lambda s, now: alice.scheme.renegotiate(s, thread, [MUSTNOT], now))
    deliver(alice, bob)
    assert alice.look(thread).parameters["logging"] == bob.look(thread).parameters["logging"] == "mustnot"
    alice.say(BOB, "not kept", remember=True, id="n")
    for each in alice.sent():
        bob.get(each, remember=True)
    assert bob.heard == ["kept", "not kept"]
    for client, other in ((alice, "bob@b.example"), (bob, "alice@a.example")):
        told = client.run(lambda s, o=other: Done(list(history.read(s, Address(o)))))  # type: ignore[misc]
        assert [b"not" in each.content.encode() for each in told] == [False]


def test_what_we_do_not_support_is_declined_and_the_session_goes_on() -> None:
    alice, bob, thread = pair(Client(ALICE, BOTH, clock=Clock()), Client(BOB, SMALL))
    alice.do(lambda s, now: alice.scheme.renegotiate(s, thread, [MUSTNOT], now))
    deliver(alice, bob)
    assert alice.look(thread).parameters["logging"] == bob.look(thread).parameters["logging"] == "may"
    assert "declined" in alice.notices[-1]
    with pytest.raises(UsageError, match="only logging"):
        alice.do(lambda s, now: alice.scheme.renegotiate(s, thread, [Field("modp", values=("14",))], now))


def test_two_renegotiations_that_cross_are_both_declined() -> None:
    alice, bob, thread = pair(settings=BOTH)
    for client in (alice, bob):
        client.do(lambda s, now, c=client: c.scheme.renegotiate(s, thread, [MUSTNOT], now))  # type: ignore[misc]
    deliver(alice, bob)
    assert {client.look(thread).parameters["logging"] for client in (alice, bob)} == {"may"}
    bob.do(lambda s, now: bob.scheme.renegotiate(s, thread, [MUSTNOT], now))
    deliver(alice, bob)
    assert {client.look(thread).parameters["logging"] for client in (alice, bob)} == {"mustnot"}


def test_a_session_goes_on_at_another_resource() -> None:
    alice, bob, thread = pair()
    phone = Client("alice@a.example/phone", clock=alice.clock, store=alice.store)
    alice.do(lambda s, now: alice.scheme.move(s, thread, "phone", now))
    with pytest.raises(UsageError, match="moving"):
        alice.say(BOB, "too early")
    deliver(alice, phone, bob)
    assert phone.look(thread).own == phone.own
    assert bob.look(thread).peer == phone.own
    phone.say(BOB, "from the phone")
    bob.say(phone.own, "to the phone")
    deliver(alice, phone, bob)
    assert bob.heard == ["from the phone"]
    assert phone.heard == ["to the phone"]
    bob.get(flying(ALICE, message(BOB, thread, TERMINATE)))
    assert bob.look(thread).active


def test_both_may_move_at_once() -> None:
    alice, bob, thread = pair()
    phone = Client("alice@a.example/phone", clock=alice.clock, store=alice.store)
    tablet = Client("bob@b.example/tablet", clock=bob.clock, store=bob.store)
    alice.do(lambda s, now: alice.scheme.move(s, thread, "phone", now))
    bob.do(lambda s, now: bob.scheme.move(s, thread, "tablet", now))
    deliver(alice, bob, phone, tablet)
    assert (phone.look(thread).own, phone.look(thread).peer) == (phone.own, tablet.own)
    assert (tablet.look(thread).own, tablet.look(thread).peer) == (tablet.own, phone.own)
    phone.say(tablet.own, "there")
    tablet.say(phone.own, "here")
    deliver(alice, bob, phone, tablet)
    assert (phone.heard, tablet.heard) == (["here"], ["there"])
    before = tablet.records()
    tablet.get(
        flying(ALICE, message(str(tablet.own), thread, b"<c xmlns='http://www.xmpp.org/extensions/xep-0200.html#ns'/>"))
    )
    assert tablet.records() == before  # from where she was, nothing comes any more


# -- by hand, and records ---------------------------------------------------------------------------------------------


def test_a_session_with_given_keys() -> None:
    from support.channels import pair as channel_pair

    one, two = channel_pair(1)
    alice, bob = Client(ALICE), Client(BOB)
    for client, channel, peer in ((alice, one, bob), (bob, two, alice)):
        client.do(
            lambda s, now, c=client, h=channel, p=peer: c.scheme.install(s, h, c.own, p.own, "given", ("message",), now)
        )  # type: ignore[misc]
    alice.say(BOB, "no negotiation")
    deliver(alice, bob)
    assert bob.heard == ["no negotiation"]
    assert bob.look("given").role == "given"
    with pytest.raises(UsageError, match="no string"):
        bob.do(lambda s, now: bob.scheme.confirm(s, "given", True, now))


def test_every_record_has_a_version() -> None:
    alice, bob, thread = pair()
    alice.tick()
    bob.do(lambda s, now: bob.scheme.abandon(s, thread, "x", now))
    alice.start("carol@c.example")
    mine = {key: value for key, value in alice.records().items() if key[0] == "esession"}
    mine |= {key: value for key, value in bob.records().items() if key[0] == "esession"}
    assert {key[1] for key in mine} == {"session", "open", "past", "chain", "alive"}
    for key, value in mine.items():
        assert value[0] == records.VERSION
        newer = Client(ALICE)
        newer.run(lambda s, k=key, v=value: Done(s.put(Key(*k), b"\x7f" + v[1:])))  # type: ignore[misc]
        with pytest.raises(StoreTooNew):
            (newer.do(newer.scheme.tick), newer.all(), newer.say(BOB, "x"))


def test_what_is_kept_of_sessions_that_are_over_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_PAST", 3)
    alice = Client(ALICE)
    for _ in range(5):
        alice.end(alice.start("bob@b.example"))
        alice.clock.now += 1.0
    alice.tick()
    assert len(alice.all()) == 3
    alice.clock.now += sessions.PAST_LIFE + 1
    alice.tick()
    assert alice.all() == ()


def test_secrets_have_no_repr() -> None:
    alice, _, thread = pair()
    record = alice.run(lambda s: Done(sessions.load(s, thread)))
    assert record is not None
    for secret in secrets_of(alice, thread):
        assert repr(secret)[2:-1] not in repr(record)
    chain = next(value for key, value in alice.records().items() if key[1] == "chain")
    assert "secret" not in repr(records.decode(chain, records.Chain))


def test_reset_drops_what_there_is_with_somebody() -> None:
    alice, bob, thread = pair()
    assert alice.do(lambda s, now: alice.scheme.reset(s, bob.own.bare, None, now)) == 1
    assert alice.look(thread).over
    assert alice.do(lambda s, now: alice.scheme.reset(s, bob.own.bare, None, now)) == 0


def test_content_never_is_more_than_what_was_hidden() -> None:
    """A server adds a body beside <c/>: it is named, and not shown."""
    alice, bob, _ = pair()
    alice.say(BOB, "true")
    (sealed,) = alice.sent()
    added = sealed.stanza.replace(b"</message>", b"<subject>added</subject></message>")
    opened = bob.get(Flying(added, alice.own))
    assert opened.content == Content(b"<body xmlns='jabber:client'>true</body>")
    assert any("subject" in note for note in opened.notes)
