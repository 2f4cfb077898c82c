"""Who is at the other end of a session: chains of retained secrets, public keys, strings to compare, petnames."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from os import urandom

import pytest

from support.sessions import ALICE, BOB, MALLORY, SMALL, Client, Clock, Flying, deliver, flying, message, pair
from tillie.errors import NoRecipients, UsageError
from tillie.model import Address, Done, Kind, Trust
from tillie.negotiation import element as wire
from tillie.schemes.esession import Settings, four, offer, records, retained, sessions
from tillie.schemes.esession import own as own_records
from tillie.schemes.esession.identity import Ed25519Identity
from tillie.schemes.esession.profile import GAJIM
from tillie.schemes.esession.settings import MAX_SECRETS, Parties, new_code
from tillie.schemes.esession.states import Offering
from tillie.trust import associations, decisions
from tillie.wire import xml
from tillie.wire.forms import Form

ALICE_BARE, BOB_BARE = Address("alice@a.example"), Address("bob@b.example")
KEYS = {"groups": (1,), "rekey_frequency": 1, "legacy": True, "own_key": ("key",), "peer_key": ("key", "none")}


def with_key(identity: Ed25519Identity) -> Settings:
    return Settings(identity=identity, **KEYS)  # type: ignore[arg-type]


TAKES_KEYS = Settings(groups=(1,), rekey_frequency=1, legacy=True, peer_key=("key", "none"))


def again(alice: Client, bob: Client) -> str:
    """One more session, after the one before has ended."""
    for session in alice.all():
        if session.active:
            alice.end(session.thread)
    deliver(alice, bob)
    _, _, thread = pair(alice, bob)
    return thread


def confirm(client: Client, thread: str, *, same: bool = True) -> None:
    client.do(lambda s, now: client.scheme.confirm(s, thread, same, now))


def trust_of(client: Client, address: Address, key: bytes) -> Trust:
    return client.run(lambda s: Done(decisions.of(s, client.policy, address, key)))


def form_of(stanza: Flying) -> Form:
    for child in xml.parse(stanza.stanza):
        if str(child.tag).endswith("}feature"):
            return wire.parse_feature(xml.serialise(child))
        if str(child.tag).endswith("}init"):
            return wire.parse_init(xml.serialise(child))[0]
    raise AssertionError("no form")


# -- chains -----------------------------------------------------------------------------------------------------------


def test_what_was_verified_once_is_verified_for_as_long_as_the_chain_goes_on() -> None:
    alice, bob, thread = pair()
    assert not alice.look(thread).known
    confirm(alice, thread)
    assert alice.look(thread).trust is Trust.VERIFIED
    for _ in range(3):
        thread = again(alice, bob)
        assert alice.look(thread).known
        assert bob.look(thread).known
        assert alice.look(thread).trust is Trust.VERIFIED
        assert bob.look(thread).trust is not Trust.VERIFIED  # he has compared nothing
    assert alice.notices == bob.notices == []
    assert len([key for key in alice.records() if key[1] == "chain"]) == 1


def test_who_lost_the_secret_is_shown_as_unverified_at_once() -> None:
    alice, bob, thread = pair()
    confirm(alice, thread)
    alice.do(lambda s, now: alice.scheme.name_peer(s, thread, "Bob", now))
    alice.end(thread)
    deliver(alice, bob)
    stranger = Client(BOB, clock=alice.clock)  # with Bob's JID, and an empty store
    _, _, thread = pair(alice, stranger)
    found = alice.look(thread)
    assert not found.known
    assert found.trust is Trust.UNDECIDED
    assert found.petname == ""
    assert any("has lost the secret" in notice for notice in alice.notices)
    assert any("not the client of Bob that was verified" in notice for notice in alice.notices)
    # Whatever the policy, nothing goes to a new client of somebody who was verified before a person has decided.
    with pytest.raises(AssertionError):
        alice.say(BOB, "for Bob alone")


def test_a_server_that_drops_message_4_breaks_no_chain() -> None:
    alice, bob, thread = pair()
    confirm(bob, thread)
    alice.end(thread)
    deliver(alice, bob)
    for _ in range(3):
        lost = alice.start(BOB)
        deliver(alice, bob, only=3)
        bob.sent()  # message 4
        for client in (alice, bob):
            client.do(lambda s, now, c=client, t=lost: c.scheme.abandon(s, t, "lost", now))  # type: ignore[misc]
            client.sent()
    _, _, thread = pair(alice, bob)
    assert bob.look(thread).known
    assert alice.look(thread).known
    assert bob.look(thread).trust is Trust.VERIFIED


def test_a_first_session_whose_message_4_is_lost_is_not_missed() -> None:
    """Bob retained a secret that Alice never got. That is no reason to tell him that she may be somebody else."""
    alice, bob = Client(ALICE), Client(BOB)
    alice.clock = bob.clock
    alice.start(BOB)
    deliver(alice, bob, only=3)
    bob.say(ALICE, "are you there?")
    for lost in bob.sent()[1:]:
        alice.get(lost)
    deliver(alice, bob)
    assert not any(each.active for client in (alice, bob) for each in client.all())
    bob.notices.clear()
    _, _, thread = pair(alice, bob)
    alice.say(BOB, "here I am")
    deliver(alice, bob)
    assert bob.notices == []
    assert len([key for key in bob.records() if key[1] == "chain"]) == 1
    again(alice, bob)
    assert bob.look(thread).key == bob.all()[-1].key


def test_the_secret_before_goes_with_the_first_stanza() -> None:
    alice, bob, _ = pair()
    again(alice, bob)
    chain = next(value for key, value in bob.records().items() if key[1] == "chain")
    assert records.decode(chain, records.Chain).previous
    alice.say(BOB, "here I am")
    deliver(alice, bob)
    chain = next(value for key, value in bob.records().items() if key[1] == "chain")
    assert not records.decode(chain, records.Chain).previous


def test_a_verified_client_that_is_there_is_forgiven_what_failed() -> None:
    alice, bob, thread = pair()
    confirm(bob, thread)
    alice.end(thread)
    deliver(alice, bob)

    def fail() -> int:
        lost = alice.start(BOB)
        deliver(alice, bob, only=2)
        alice.sent()
        for client in (alice, bob):
            client.do(lambda s, now, c=client: c.scheme.abandon(s, lost, "lost", now))  # type: ignore[misc]
        return bob.run(lambda s: Done(bob.scheme.failures(s, ALICE_BARE, bob.clock.now)))

    assert [fail(), fail()] == [1, 2]
    pair(alice, bob)
    assert fail() == 3  # she has not spoken yet
    _, _, thread = pair(alice, bob)
    alice.say(BOB, "here I am")
    deliver(alice, bob)
    assert fail() == 1
    assert alice.run(lambda s: Done(alice.scheme.failures(s, BOB_BARE, alice.clock.now))) == 4  # she compared nothing


def test_a_retained_secret_expires() -> None:
    alice, bob, thread = pair()
    alice.end(thread)
    deliver(alice, bob)
    alice.clock.now += retained.LIFE + 1
    for client in (alice, bob):
        client.tick()
    assert not [key for key in alice.records() if key[1] == "chain"]
    _, _, thread = pair(alice, bob)
    assert not alice.look(thread).known


def test_several_clients_of_one_person_have_a_chain_each() -> None:
    alice, laptop, first = pair()
    phone = Client("bob@b.example/phone", clock=alice.clock)
    thread = alice.start(phone.own)
    deliver(alice, laptop, phone)
    assert alice.look(thread).active
    assert alice.look(thread).key != alice.look(first).key
    for client in (laptop, phone):
        alice.clock.now += 1.0
        thread = alice.start(client.own)
        deliver(alice, laptop, phone)
        assert alice.look(thread).known
    assert alice.run(lambda s: Done(alice.scheme.with_peer(s, BOB_BARE))) == alice.look(thread)


def test_chains_are_bounded_and_the_verified_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retained, "MAX_CHAINS", 3)
    alice, bob, thread = pair()
    confirm(alice, thread)
    alice.end(thread)
    deliver(alice, bob)
    for _ in range(5):
        alice.clock.now += 1.0
        _, other, thread = pair(alice, Client(BOB, clock=alice.clock))
        alice.end(thread)
        deliver(alice, other)
    assert len([key for key in alice.records() if key[1] == "chain"]) == 3
    _, _, thread = pair(alice, bob)
    assert alice.look(thread).trust is Trust.VERIFIED


def test_no_more_secrets_are_named_than_a_negotiation_takes() -> None:
    assert 2 * retained.MAX_CHAINS <= MAX_SECRETS


# -- a man in the middle ----------------------------------------------------------------------------------------------


def test_hashes_of_secrets_that_were_copied_verify_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mallory sits where Alice's server is. He lets Alice begin a session with him instead of Bob, and begins one with
    Bob in Alice's name, under Alice's nonce. Then the hashes that Alice sends fit Bob's secrets; and he signs with a
    key of his own, so that Bob takes it for Alice's: that would outlive this session."""
    alice, bob, thread = pair(Client(ALICE), Client(BOB, TAKES_KEYS))
    confirm(bob, thread)
    verified = bob.look(thread).key
    alice.end(thread)
    deliver(alice, bob)

    as_bob = Client(BOB, clock=alice.clock)
    began = alice.start(BOB)
    (one,) = alice.sent()
    as_bob.get(one)
    alice.get(as_bob.sent()[0])
    hashes = [b64decode(each) for each in form_of(alice.sent()[0]).values("rshashes")]
    nonce = b64decode(form_of(one).value("my_nonce"))

    mallory = Ed25519Identity.generate()
    phantom = speak_as_alice(bob, with_key(mallory), nonce, hashes, monkeypatch)
    assert bob.look(phantom).known  # only Alice can read what Bob says in it
    assert bob.look(phantom).key == verified
    stolen = own_records.trust_key(mallory)
    assert trust_of(bob, ALICE_BARE, stolen) is not Trust.VERIFIED

    # With his key alone he is nobody.
    later = Client(ALICE, with_key(mallory), clock=alice.clock)
    bob.do(lambda s, now: bob.scheme.abandon(s, phantom, "given up", now))
    _, _, thread = pair(later, bob)
    assert bob.look(thread).key == stolen
    assert bob.look(thread).trust is Trust.UNDECIDED
    assert any("verified" in notice for notice in bob.notices)

    # And Alice is still who she was.
    alice.do(lambda s, now: alice.scheme.abandon(s, began, "no answer", now))
    alice.sent()
    bob.do(lambda s, now: bob.scheme.abandon(s, thread, "given up", now))
    _, _, thread = pair(alice, bob)
    assert bob.look(thread).key == verified
    assert bob.look(thread).trust is Trust.VERIFIED


def speak_as_alice(
    bob: Client, settings: Settings, nonce: bytes, hashes: Sequence[bytes], monkeypatch: pytest.MonkeyPatch
) -> str:
    """A negotiation with Bob in Alice's name, with her nonce and her hashes."""
    parties, first = Parties(Address(ALICE), Address(BOB), "phantom"), [nonce]

    def draw(size: int) -> bytes:
        return first.pop() if first else urandom(size)

    offering, form = offer.offer(settings, draw=draw)
    assert isinstance(offering, Offering)
    bob.get(flying(ALICE, message(BOB, "phantom", wire.feature(form))))
    with monkeypatch.context() as patch:
        patch.setattr(four, "_name_secrets", lambda *_: list(hashes))
        answer = form_of(bob.sent()[0])
        _, form = four.conclude(offering, settings, parties, answer, (), now=0.0)
    bob.get(flying(ALICE, message(BOB, "phantom", wire.feature(form))))
    bob.sent()
    assert bob.look("phantom").active
    return "phantom"


def test_strings_that_differ_end_the_session_and_mark_the_client() -> None:
    alice, bob, thread = pair()
    key = alice.look(thread).key
    confirm(alice, thread, same=False)
    assert alice.look(thread).state == "broken"
    assert "in the middle" in alice.look(thread).why
    assert trust_of(alice, BOB_BARE, key) is Trust.DISTRUSTED
    assert not [each for each in alice.records() if each[1] == "chain"]
    deliver(alice, bob)
    assert bob.look(thread).state == "broken"
    _, _, thread = pair(alice, bob)
    assert alice.look(thread).key != key


def test_the_old_string_verifies_nobody() -> None:
    gajim = Settings(groups=(1,), legacy=True, profile=GAJIM)
    alice, _, thread = pair(settings=gajim)
    assert alice.look(thread).string
    with pytest.raises(UsageError, match="sas28x5"):
        confirm(alice, thread)
    assert alice.look(thread).trust is Trust.UNDECIDED
    confirm(alice, thread, same=False)  # that it differs is worth knowing
    assert alice.look(thread).over


def test_a_string_can_be_compared_after_the_session() -> None:
    alice, bob, thread = pair()
    alice.end(thread)
    deliver(alice, bob)
    confirm(alice, thread)
    _, _, thread = pair(alice, bob)
    assert alice.look(thread).trust is Trust.VERIFIED


def test_the_responder_may_compare_before_the_other_says_anything() -> None:
    _, bob, thread = pair()
    bob.do(lambda s, now: bob.scheme.name_peer(s, thread, "Alice", now))
    confirm(bob, thread)
    found = bob.look(thread)
    assert (found.trust, found.petname) == (Trust.VERIFIED, "Alice")
    assert bob.run(lambda s: Done(associations.load(s, found.key))).addresses == (ALICE_BARE,)


def test_a_distrusted_client_is_sent_nothing() -> None:
    alice, bob, thread = pair()
    key = alice.look(thread).key
    alice.run(lambda s: Done(decisions.decide(s, BOB_BARE, key, Trust.DISTRUSTED, 0.0)))
    with pytest.raises(NoRecipients):
        alice.say(BOB, "x")
    bob.say(ALICE, "y")
    (opened,) = deliver(alice, bob)
    assert (opened.kind, opened.trust) == (Kind.OPENED, Trust.DISTRUSTED)


# -- public keys ------------------------------------------------------------------------------------------------------


def test_a_public_key_stands_for_its_owner_whatever_the_chain() -> None:
    bobs = Ed25519Identity.generate()
    alice, bob, thread = pair(Client(ALICE, TAKES_KEYS), Client(BOB, with_key(bobs)))
    key = alice.look(thread).key
    assert key == own_records.trust_key(bobs)
    confirm(alice, thread)
    fresh = Client(BOB, with_key(bobs), clock=alice.clock)  # another store: the chain is lost, the key is there
    alice.end(thread)
    deliver(alice, bob)
    _, _, thread = pair(alice, fresh)
    assert alice.look(thread).key == key
    assert alice.look(thread).known
    assert alice.look(thread).trust is Trust.VERIFIED


def test_a_verified_chain_vouches_for_the_key_that_joins_it() -> None:
    alice, bob, thread = pair(Client(ALICE, TAKES_KEYS), Client(BOB))
    confirm(alice, thread)
    alice.do(lambda s, now: alice.scheme.name_peer(s, thread, "Bob", now))
    bob.scheme.settings = with_key(Ed25519Identity.generate())
    thread = again(alice, bob)
    assert alice.look(thread).key[:1] == b"K"
    assert alice.look(thread).trust is Trust.VERIFIED
    assert alice.look(thread).petname == "Bob"
    # Where she answers, the key is believed with the first stanza, and not before.
    for each in alice.all():
        if each.active:
            alice.end(each.thread)
    deliver(alice, bob)


def test_a_key_joins_a_chain_at_the_responder_with_the_first_stanza() -> None:
    alice, bob, thread = pair(Client(ALICE), Client(BOB, TAKES_KEYS))
    confirm(bob, thread)
    before = bob.look(thread).key
    alice.scheme.settings = with_key(Ed25519Identity.generate())
    thread = again(alice, bob)
    assert bob.look(thread).key == before
    alice.say(BOB, "it is me")
    deliver(alice, bob)
    assert bob.look(thread).key[:1] == b"K"
    assert bob.look(thread).trust is Trust.VERIFIED


def test_a_key_that_is_gone_or_changed_is_told() -> None:
    alice, bob, thread = pair(Client(ALICE, TAKES_KEYS), Client(BOB, with_key(Ed25519Identity.generate())))
    key = alice.look(thread).key
    bob.scheme.settings = SMALL
    thread = again(alice, bob)
    assert alice.look(thread).key == key  # the chain says so
    assert "without its public key" in alice.notices[-1]
    bob.scheme.settings = with_key(Ed25519Identity.generate())
    thread = again(alice, bob)
    assert alice.look(thread).key != key
    assert any("another public key" in notice for notice in alice.notices)


def test_a_known_key_under_another_address_is_told_at_once() -> None:
    bobs = Ed25519Identity.generate()
    clock = Clock()
    alice = Client(ALICE, TAKES_KEYS, clock=clock)
    _, _, thread = pair(alice, Client(BOB, with_key(bobs), clock=clock))
    confirm(alice, thread)
    alice.do(lambda s, now: alice.scheme.name_peer(s, thread, "Bob", now))
    other = Client("robert@c.example/x", with_key(bobs), clock=clock)
    _, _, thread = pair(alice, other)
    assert "the same key is known as Bob (bob@b.example)" in alice.notices
    assert alice.look(thread).petname == "Bob"
    assert alice.look(thread).trust is Trust.UNDECIDED  # a decision is about one address


# -- two addresses of one person --------------------------------------------------------------------------------------


SECRETIVE = ("my_nonce", "nonce", "counter", "dhhashes", "dhkeys", "rshashes", "srshash", "identity", "mac")


def random_values(stanza: Flying) -> set[str]:
    """All that differs from session to session, as whoever sees the wire does."""
    root, form = xml.parse(stanza.stanza), form_of(stanza)
    names = {str(root.get("id")), *(str(child.text) for child in root if str(child.tag).endswith("}thread"))}
    return names | {value for var in SECRETIVE for value in form.values(var)}


def test_two_jids_of_one_person_are_recognised_and_not_linkable_on_the_wire() -> None:
    clock = Clock()
    bob = Client(BOB, clock=clock)
    first = Client(ALICE, clock=clock)
    second = Client("secret@x.example/home", clock=clock, store=first.store)
    transcripts = []
    for client in (first, first, second, second):
        clock.now += 1.0
        thread = client.start(BOB)
        values: set[str] = set()
        for _ in range(4):
            for end, other in ((client, bob), (bob, client)):
                for stanza in end.sent():
                    values |= random_values(stanza)
                    other.get(stanza)
        assert client.look(thread).active
        transcripts.append(values)
        client.say(BOB, "so that Bob's side is proven")
        bob.get(client.sent()[0])
        client.end(thread)
        deliver(client, bob)
    assert all(len(values) > 8 for values in transcripts)
    for one in range(4):
        for two in range(one):
            assert transcripts[one].isdisjoint(transcripts[two])
    third = bob.all()[2]
    assert third.known
    assert third.key == bob.all()[0].key
    assert any("the same key is known as alice@a.example" in notice for notice in bob.notices)


# -- petnames, codes, versions ----------------------------------------------------------------------------------------


def test_petnames() -> None:
    alice, _, thread = pair()
    alice.do(lambda s, now: alice.scheme.name_peer(s, thread, "Bob", now))
    assert alice.look(thread).petname == "Bob"
    for bad in ("x" * (associations.MAX_PETNAME + 1), "two\nlines", "\u202e"):
        with pytest.raises(UsageError):
            alice.do(lambda s, now, b=bad: alice.scheme.name_peer(s, thread, b, now))  # type: ignore[misc]
    longest = "y" * associations.MAX_PETNAME
    alice.do(lambda s, now: alice.scheme.name_peer(s, thread, longest, now))
    alice.do(lambda s, now: alice.scheme.name_peer(s, thread, "", now))
    assert alice.look(thread).petname == ""
    with pytest.raises(UsageError, match="never seen"):
        alice.run(lambda s: Done(associations.name(s, b"Knobody", "X")))


def test_addresses_of_a_key_are_bounded() -> None:
    alice = Client(ALICE)
    for number in range(associations.MAX_ADDRESSES + 2):
        address = Address(f"a{number}@x.example")
        alice.run(lambda s, a=address, n=number: Done(associations.saw(s, b"K" * 33, a, float(n))))  # type: ignore[misc]
    known = alice.run(lambda s: Done(associations.load(s, b"K" * 33)))
    assert len(known.addresses) == associations.MAX_ADDRESSES
    assert known.addresses[0] == f"a{associations.MAX_ADDRESSES + 1}@x.example"


def test_a_code_that_only_one_has_fails_and_both_having_it_agree() -> None:
    code = new_code()
    alice, bob = Client(ALICE), Client(BOB)
    alice.run(lambda s: Done(own_records.set_code(s, BOB_BARE, code)))
    thread = alice.start(BOB)
    deliver(alice, bob)
    assert alice.look(thread).state == "failed"
    bob.run(lambda s: Done(own_records.set_code(s, ALICE_BARE, code.lower())))
    pair(alice, bob)


def test_nobody_is_marked_by_a_negotiation_that_fails() -> None:
    alice, bob = Client(ALICE), Client(BOB)
    thread = alice.start(BOB)
    deliver(alice, bob, only=3)
    (last,) = bob.sent()
    alice.get(Flying(last.stanza.replace(b"identity", b"identify"), last.sender))
    assert alice.look(thread).state == "failed"
    left = {key[1] for key in alice.records()}
    assert left == {"past", "failures"}
    assert all(each.channel == each.step == b"" for each in alice.run(lambda s: Done(list(sessions.past(s)))))


def test_a_stranger_has_no_association_before_a_session() -> None:
    bob = Client(BOB, answers=lambda peer: False)
    mallory = Client(MALLORY)
    mallory.start(BOB)
    bob.get(mallory.sent()[0])
    assert not [key for key in bob.records() if key[1] == "associations"]
