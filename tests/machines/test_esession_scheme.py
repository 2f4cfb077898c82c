"""Encrypted sessions as a scheme: how they come about, what goes through them, and what is kept of them."""

from __future__ import annotations

import pytest

from support.sessions import (
    ALICE,
    BOB,
    MALLORY,
    NOW,
    SMALL,
    TERMINATE,
    Client,
    Clock,
    Flying,
    deliver,
    flying,
    message,
    pair,
    secrets_of,
)
from tillie import history
from tillie.errors import NoRecipients, NotTrusted, SessionEnded, StoreTooNew, UsageError
from tillie.model import Address, Content, Done, Key, Kind, Need, Trust
from tillie.schemes.esession import Settings, records, sessions
from tillie.schemes.esession import channel as channels
from tillie.schemes.esession.identity import Ed25519Identity
from tillie.schemes.esession.profile import GAJIM, SUBSET
from tillie.schemes.esession.settings import Shield
from tillie.trust import decisions
from tillie.wire.forms import Field

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
    assert b"jabber:iq:version" in opened[2].content.data  # type: ignore[union-attr]
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
