"""Bad input in its session form: for each, an error in words that XEP-0116 has, or nothing at all; a store that is as
it was, or a session that is over with its secrets gone; no plaintext out.

The name of each case begins with the number it has in the project's list of bad inputs (docs/functionality.md). Faults
of the way, and each altered byte: test_esession_faults. Each field of each form: test_esession_negotiation. B11 to B13
with retained secrets and public keys: test_esession_trust.
"""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import pytest

from support.session_run import Run, arrive, condition_of, couple, sealed_raw, secrets_in
from support.sessions import ALICE, BOB, MALLORY, SMALL, Client, Flying, deliver, flying, message, pair
from tillie.crypto import modp
from tillie.model import Address, Done, Kind, State
from tillie.negotiation import element as wire
from tillie.networks.xmpp.incoming import Reader
from tillie.schemes.esession import Settings, channel, records, sessions
from tillie.schemes.esession.identity import Ed25519Identity
from tillie.schemes.esession.keys import mpi
from tillie.schemes.esession.records import Record
from tillie.wire import xml

NOT_ACCEPTABLE, NOT_IMPLEMENTED = "not-acceptable", "feature-not-implemented"
SOON = 1.0  # seconds that no input may take; those of honest ones are thousandths
REFUSED = (Kind.MALFORMED, Kind.NO_SESSION, Kind.EMPTY)  # the last where the peer is told as well
C = "http://www.xmpp.org/extensions/xep-0200.html#ns"
GROUP = modp.GROUPS[1]
P = GROUP.prime


def is_over(client: Client, thread: str, secrets: set[bytes], why: str = "") -> bool:
    """Whether a session is over, its secrets gone, and its person told."""
    everything = b"".join(client.records().values())
    found = client.look(thread)
    return found.over and why in found.why and bool(client.notices) and not any(s in everything for s in secrets)


# -- negotiations -----------------------------------------------------------------------------------------------------


def through(run: Run, *changes: Callable[[bytes], bytes]) -> list[Flying]:
    """Messages 1, 2, 3, 4, each changed on its way; what was said after that."""
    run.threads.append(run.alice.start(BOB))
    for change in changes:
        found = [one for client in run.clients for one in client.sent()]
        assert len(found) == 1
        run.deliver(Flying(change(found[0].stanza), found[0].sender))
    return [one for client in run.clients for one in client.sent()]


def same(stanza: bytes) -> bytes:
    return stanza


def with_value(var: str, *values: bytes) -> Callable[[bytes], bytes]:
    """Another value for a field."""

    def change(stanza: bytes) -> bytes:
        coded = b"".join(b"<value>%b</value>" % b64encode(value) for value in values)
        pattern = b'(<field var="%b"[^>]*>)(<value>[^<]*</value>)+' % var.encode()
        changed, count = re.subn(pattern, lambda found: found[1] + coded, stanza)
        assert count == 1
        return changed

    return change


@pytest.mark.parametrize("value", [0, 1, P - 1, P, P + 1], ids=["0", "1", "p-1", "p", "p+1"])
def test_B42_e_that_gives_everything_away(value: int) -> None:
    """Mallory commits to it as she must, so that only its range tells."""
    run = couple(SMALL)
    commitment = sha256(mpi(value)).digest()
    (told,) = through(run, with_value("dhhashes", commitment), same, with_value("dhkeys", mpi(value)))
    assert (told.sender, condition_of(told)) == (BOB, NOT_IMPLEMENTED)
    assert run.bob.look(run.thread).state == "failed"
    assert "attempt 1 today" in run.bob.notices[-1]
    assert not run.check()


@pytest.mark.parametrize("value", [0, 1, P - 1, P, P + 1], ids=["0", "1", "p-1", "p", "p+1"])
def test_B42_d_that_gives_everything_away(value: int) -> None:
    run = couple(SMALL)
    (told,) = through(run, same, with_value("dhkeys", mpi(value)))
    assert (told.sender, condition_of(told)) == (ALICE, NOT_ACCEPTABLE)
    assert b'<field var="dhkeys"/>' in told.stanza.replace(b"'", b'"')
    assert not run.check()


def test_B42_only_weak_groups() -> None:
    run = couple(SMALL, Settings())
    (told,) = through(run, same)
    assert (told.sender, condition_of(told)) == (BOB, NOT_ACCEPTABLE)
    assert b'<field var="modp"/>' in told.stanza.replace(b"'", b'"')
    assert not run.check()


@pytest.mark.parametrize(
    ("number", "var", "gone"),
    [
        (1, "crypt_algs", b"<option><value>aes256-ctr</value></option>"),
        (1, "hash_algs", b"<option><value>sha512</value></option>"),
        (1, "stanzas", b"<option><value>presence</value></option>"),
        (2, "stanzas", b"<value>iq</value>"),
        (2, "rekey_freq", b"<value>1</value>"),
    ],
)
def test_B42_options_that_were_taken_out(number: int, var: str, gone: bytes) -> None:
    """What the man in the middle leaves of an offer can be agreed on, but not be proven."""
    settings = replace(SMALL, groups=(2, 1))

    def strip(stanza: bytes) -> bytes:
        start = stanza.index(b'<field var="%b"' % var.encode())
        end = stanza.index(b"</field>", start)
        less = stanza[start:end].replace(gone, b"<value>3</value>" if var == "rekey_freq" else b"")
        assert less != stanza[start:end]
        return stanza[:start] + less + stanza[end:]

    run = couple(settings)
    changes = [same, same, same]
    changes[number - 1] = strip
    if number == 2:  # Alice proves what she offered, Bob what he chose
        changes.append(same)
    (told,) = through(run, *changes)
    assert (told.sender, condition_of(told)) == ((BOB, ALICE)[number - 1], NOT_IMPLEMENTED)
    assert not run.check()


def test_B42_a_group_without_its_commitment() -> None:
    run = couple(replace(SMALL, groups=(2, 1)))
    (told,) = through(run, lambda stanza: stanza.replace(b"<option><value>2</value></option>", b""))
    assert (told.sender, condition_of(told)) == (BOB, NOT_ACCEPTABLE)
    assert not run.check()


def test_B42_a_group_that_is_offered_twice() -> None:
    twice = b"<option><value>1</value></option>"
    run = couple(SMALL)
    (told,) = through(run, lambda stanza: stanza.replace(twice, twice + twice))
    assert (told.sender, condition_of(told)) == (BOB, NOT_ACCEPTABLE)
    assert b'<field var="modp"/>' in told.stanza.replace(b"'", b'"')


def test_B42_a_rekey_that_is_replayed() -> None:
    alice, bob, thread = pair()
    alice.do(lambda s, now: alice.scheme.rekey(s, thread, now))
    (rekey,) = alice.sent()
    bob.get(rekey)
    bob.say(ALICE, "seen")
    deliver(alice, bob)
    secrets = secrets_in(bob)
    assert bob.get(rekey).kind is Kind.TAMPERED
    assert is_over(bob, thread, secrets)
    (told,) = bob.sent()
    assert condition_of(told) == NOT_ACCEPTABLE


@pytest.mark.parametrize("value", [1, P - 1, P], ids=["1", "p-1", "p"])
def test_B42_a_rekey_to_a_value_that_gives_everything_away(value: int) -> None:
    """Only the peer herself can send that, under keys that verify."""
    alice, bob, thread = pair()
    key = b64encode(mpi(value))

    def step(s: State) -> Done[bytes]:
        record = sessions.load(s, thread)
        assert record is not None
        held = channel.decode(record.channel)
        covered = b"<key>%b</key>" % key
        mac = channel.hmac_by(
            held.hash, held.km, covered + held.profile.minimal(int.from_bytes(held.counter_out, "big"))
        )
        return Done(b"<c xmlns='%b'>%b<mac>%b</mac></c>" % (C.encode(), covered, b64encode(mac)))

    secrets = secrets_in(bob)
    assert bob.get(flying(ALICE, message(BOB, thread, alice.run(step)))).kind is Kind.TAMPERED
    assert is_over(bob, thread, secrets, "not safe")


# -- B11 to B13 -------------------------------------------------------------------------------------------------------


def test_B11_the_messages_of_a_negotiation_replayed_after_it() -> None:
    run = couple(SMALL)
    run.start(run.alice)
    run.do(run.alice, "end")
    before = run.bob.records()
    for one in run.passed[:4]:
        run.deliver(one)
    assert run.bob.sent() == run.alice.sent() == []
    assert run.bob.records() == before


def test_B11_message_1_replayed_under_another_thread_comes_to_nothing() -> None:
    """It is answered like any offer, with fresh values; who replays it can't go on, nor can message 3 of then."""
    run = couple(SMALL)
    run.start(run.alice)
    thread = run.thread.encode()
    first, _, third, _ = run.passed
    run.deliver(Flying(first.stanza.replace(thread, b"another"), first.sender))
    (answer,) = run.bob.sent()
    assert b"<thread>another</thread>" in answer.stanza
    run.deliver(Flying(third.stanza.replace(thread, b"another"), third.sender))
    (told,) = run.bob.sent()
    assert condition_of(told) == NOT_IMPLEMENTED
    assert run.bob.look("another").state == "failed"
    assert run.check()  # the true session goes on


def test_B11_two_senders_with_one_offer() -> None:
    """Mallory makes Alice's offer her own. Whoever answers, she can't open what it commits to."""
    run = couple(SMALL)
    run.threads.append(run.alice.start(BOB))
    (offer,) = run.alice.sent()
    stolen = Flying(offer.stanza.replace(run.thread.encode(), b"stolen"), Address(MALLORY))
    run.bob.get(stolen)
    run.bob.get(offer)
    to_mallory, to_alice = run.bob.sent()
    assert (to_mallory.to, to_alice.to) == (MALLORY, ALICE)
    run.deliver(to_alice)
    (third,) = run.alice.sent()
    run.bob.get(Flying(third.stanza.replace(run.thread.encode(), b"stolen"), Address(MALLORY)))
    assert run.bob.look("stolen").state == "failed"
    run.bob.sent()
    run.deliver(third)
    run.carry_all()
    assert run.check()


def relayed(run: Run) -> tuple[str, str]:
    """Mallory hands all on between Alice, who wants to talk to Mallory, and Bob, who then does so with Mallory."""
    run.threads.append(run.alice.start(MALLORY))
    for _ in range(6):
        for one in run.alice.sent():
            run.bob.get(Flying(one.stanza.replace(MALLORY.encode(), BOB.encode()), Address(MALLORY)))
        for one in run.bob.sent():
            run.alice.get(Flying(one.stanza.replace(MALLORY.encode(), ALICE.encode()), Address(MALLORY)))
    return run.alice.look(run.thread).string, run.bob.look(run.thread).string


def test_B12_two_who_do_not_know_whom_they_talk_to_see_different_strings() -> None:
    """An unknown key share: nobody reads what is not for him, but each takes the other for somebody else."""
    run = couple(SMALL)
    alice, bob = relayed(run)
    assert alice
    assert bob
    assert alice != bob


def test_B12_a_known_public_key_under_another_name_is_told_at_once() -> None:
    mine = Ed25519Identity.generate()
    alice = replace(SMALL, identity=mine, own_key=("key",))
    run = couple(alice, replace(SMALL, peer_key=("key",)))
    run.start(run.alice)
    run.do(run.alice, "end")
    run.threads.clear()
    relayed(run)
    assert any("alice@a.example" in notice for notice in run.bob.notices), run.bob.notices


def test_B12_our_own_messages_reflected() -> None:
    """A mirror answers with what we sent: our key, nonce and value prove nothing."""
    mine = Ed25519Identity.generate()
    run = couple(replace(SMALL, identity=mine, own_key=("key",), peer_key=("key",)))
    run.threads.append(run.alice.start(BOB))
    (offer,) = run.alice.sent()
    mirrored = Flying(offer.stanza.replace(BOB.encode(), ALICE.encode()), Address(BOB))
    assert run.alice.get(mirrored).kind in REFUSED
    answer = mirrored.stanza.replace(b'type="form"', b'type="submit"').replace(b"list-single", b"text-single")
    answer = re.sub(rb"<option><value>([^<]*)</value></option>(<option>.*?</option>)*", rb"<value>\1</value>", answer)
    run.alice.get(Flying(answer, Address(BOB)))
    assert run.alice.look(run.thread).state == "failed"
    assert [condition_of(one) for one in run.alice.sent()] == [NOT_ACCEPTABLE]


# -- B32 to B36 -------------------------------------------------------------------------------------------------------

FORM = b'<x xmlns="jabber:x:data" type="form"><field var="FORM_TYPE"><value>urn:xmpp:ssn</value></field>%b</x>'
NOT_XML = {
    "DOCTYPE": (b"<!DOCTYPE x [<!ENTITY e 'e'>]>", b"<a xmlns='urn:a'>&e;</a>"),
    "entities that unfold": (
        b"<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>%b]>"
        % b"".join(b"<!ENTITY %c '%b'>" % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9)),
        b"<a xmlns='urn:a'>&j;</a>",
    ),
    "an external entity": (b"<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>", b"<a xmlns='urn:a'>&e;</a>"),
    "a processing instruction": (b"", b"<a xmlns='urn:a'><?b c?></a>"),
    "a comment that splits a text": (b"", b"<a xmlns='urn:a'>o<!-- -->k</a>"),
    "a prefix that is not declared": (b"", b"<p:a>x</p:a>"),
    "not closed": (b"", b"<a xmlns='urn:a'>"),
    "not UTF-8": (b"", b"<a xmlns='urn:a'>\xff</a>"),
    "a null": (b"", b"<a xmlns='urn:a'>\x00</a>"),
    "the end of what is around it": (b"", b"</message><message xmlns='jabber:client'>"),
}
ELEMENTS = ("feature", "init", "c")


def element_with(name: str, before: bytes, inside: bytes) -> bytes:
    if name == "c":
        return before + b"<c xmlns='%b'>%b<mac>AAAAAAAAAAAAAAAAAAAAAA==</mac></c>" % (C.encode(), inside)
    namespace = {"feature": wire.FEATURE, "init": wire.INIT}[name].encode()
    return before + b"<%b xmlns='%b'>%b</%b>" % (name.encode(), namespace, FORM % inside, name.encode())


@pytest.mark.parametrize("wrong", NOT_XML)
@pytest.mark.parametrize("name", ELEMENTS)
def test_B32_what_is_not_plain_xml_changes_nothing(name: str, wrong: str) -> None:
    bob = Client(BOB)
    opened = arrive(bob, element_with(name, *NOT_XML[wrong]), thread="t")
    assert opened.kind in REFUSED
    assert opened.error
    assert opened.content is None
    assert bob.records() == {}
    assert [condition_of(one) for one in bob.sent()] in ([], [NOT_ACCEPTABLE])


@pytest.mark.parametrize("wrong", NOT_XML)
def test_B32_from_the_peer_of_an_open_session(wrong: str) -> None:
    """Whoever can write in her name can end it; a negotiation in clear ends nothing."""
    _, bob, thread = pair()
    before = bob.records()
    for name in ("feature", "init"):
        assert arrive(bob, element_with(name, *NOT_XML[wrong]), thread=thread).content is None
        assert bob.records() == before
    secrets = secrets_in(bob)
    opened = arrive(bob, element_with("c", *NOT_XML[wrong]), thread=thread)
    if NOT_XML[wrong][0]:  # no network hands that over; it is not known to be a <c/>
        assert (opened.kind, bob.records()) == (Kind.MALFORMED, before)
        return
    assert opened.kind is Kind.TAMPERED
    assert is_over(bob, thread, secrets)
    assert [condition_of(one) for one in bob.sent()] == [NOT_ACCEPTABLE]


@pytest.mark.parametrize("wrong", NOT_XML)
def test_B32_hidden_in_a_stanza_that_verifies(wrong: str) -> None:
    alice, bob, thread = pair()
    secrets = secrets_in(bob)
    hidden = b"".join(NOT_XML[wrong])
    opened = arrive(bob, sealed_raw(alice, thread, hidden), thread=thread)
    assert opened.kind is Kind.TAMPERED
    assert opened.content is None
    assert is_over(bob, thread, secrets)
    assert [condition_of(one) for one in bob.sent()] == [NOT_ACCEPTABLE]


MANY = 1_000_000
HUGE = {
    "depth": lambda: b"<a xmlns='urn:a'>" + b"<a>" * MANY + b"</a>" * MANY + b"</a>",
    "depth within the size": lambda: b"<a xmlns='urn:a'>" + b"<a>" * 9_000 + b"</a>" * 9_000 + b"</a>",
    "attributes": lambda: b"<a xmlns='urn:a'" + b"".join(b" a%d=''" % n for n in range(MANY // 10)) + b"/>",
    "attributes within the size": lambda: b"<a xmlns='urn:a'" + b"".join(b" a%d=''" % n for n in range(9_000)) + b"/>",
    "one token": lambda: b"<a xmlns='urn:a'>" + b"a" * (10 * MANY) + b"</a>",
    "elements": lambda: b"<a xmlns='urn:a'/>" * (MANY // 10),
    "fields": lambda: b"".join(b'<field var="v%d"></field>' % n for n in range(4_000)),
    "values": lambda: b'<field var="v" type="hidden">' + b"<value>v</value>" * 7_000 + b"</field>",
    "namespaces": lambda: b"<a xmlns='urn:%b'>" % (b"n" * 60_000) + b"<b/>" * 15_000 + b"</a>",
}


@pytest.mark.parametrize("wrong", HUGE)
def test_B33_what_is_huge_is_refused_soon(wrong: str) -> None:
    alice, bob, thread = pair()
    stranger = Client("carol@c.example/there")
    data = HUGE[wrong]()
    for name in ELEMENTS:
        element = element_with(name, b"", data)
        began = time.perf_counter()
        assert arrive(stranger, element, thread="t").content is None
        assert time.perf_counter() - began < SOON
        assert not [key for key in stranger.records() if key[1] == "session"]
    if len(data) < channel.content.MAX_DATA_BYTES and wrong not in ("fields", "values"):
        element = sealed_raw(alice, thread, data)
        began = time.perf_counter()
        opened = arrive(bob, element, thread=thread)
        assert time.perf_counter() - began < SOON
        assert opened.kind in (Kind.TAMPERED, Kind.OPENED)
        assert opened.content is None or len(opened.content.data) < 2 * len(data)


SCHEMES = {
    f"{{{C}}}c": "esession",
    f"{{{wire.FEATURE}}}feature": "esession",
    f"{{{wire.INIT}}}init": "esession",
    "{urn:xmpp:omemo:2}encrypted": "omemo",
}


@pytest.mark.parametrize("second", SCHEMES)
def test_B34_of_two_sealed_elements_none_is_opened(second: str) -> None:
    stanza = ET.fromstring(
        f"<message xmlns='jabber:client' from='{ALICE}' to='{BOB}'><c xmlns='{C}'><mac>AAAA</mac></c></message>"
    )
    ET.SubElement(stanza, second)
    found = Reader(Address("bob@b.example"), SCHEMES, "esession").sealed(stanza)
    assert found is not None
    assert found.ambiguous


def test_B34_two_c_in_one_init_or_two_forms_in_one_feature() -> None:
    form = FORM % b""
    c = b"<c xmlns='%b'><mac>AAAAAAAAAAAAAAAAAAAAAA==</mac></c>" % C.encode()
    init, feature = (name.encode() for name in (wire.INIT, wire.FEATURE))
    for wrong in (
        b"<init xmlns='%b'>%b%b%b</init>" % (init, form, c, c),
        b"<init xmlns='%b'>%b</init>" % (init, c),
        b"<feature xmlns='%b'>%b%b</feature>" % (feature, form, form),
        b"<feature xmlns='%b'>%b%b</feature>" % (feature, form, c),
        b"<feature xmlns='%b'/>" % feature,
    ):
        bob = Client(BOB)
        assert arrive(bob, wrong, thread="t").kind in REFUSED
        assert bob.records() == {}


def test_B35_what_stands_in_clear_beside_c_is_not_what_was_said() -> None:
    alice, bob, _ = pair()
    alice.say(BOB, "the truth")
    (one,) = alice.sent()
    beside = (
        b"<body>a falsehood</body><replace xmlns='urn:xmpp:message-correct:0' id='1'/>"
        b"<reactions xmlns='urn:xmpp:reactions:0' id='1'><reaction>!</reaction></reactions>"
    )
    opened = bob.get(Flying(one.stanza.replace(b"</message>", beside + b"</message>"), one.sender))
    assert bob.heard == ["the truth"]
    assert opened.content is not None
    assert b"falsehood" not in opened.content.data
    assert b"reaction" not in opened.content.data
    assert [any(word in note for note in opened.notes) for word in ("replace", "reactions")] == [True, True]


@pytest.mark.parametrize(
    "element",
    [
        b"<delay xmlns='urn:xmpp:delay' stamp='2002-09-10T23:08:25Z'/>",
        b"<stanza-id xmlns='urn:xmpp:sid:0' id='1' by='b.example'/>",
        b"<received xmlns='urn:xmpp:carbons:2'/>",
        b"<result xmlns='urn:xmpp:mam:2'/>",
        b"<thread>another</thread>",
        b"<c xmlns='%b'><mac>AAAAAAAAAAAAAAAAAAAAAA==</mac></c>" % C.encode(),
        b"<init xmlns='%b'/>" % wire.INIT.encode(),
        b"<message><body>inside</body></message>",
        b"<amp xmlns='http://jabber.org/protocol/amp'/>",
    ],
)
def test_B36_what_only_servers_say_is_dropped_from_what_was_sealed(element: bytes) -> None:
    alice, bob, thread = pair()
    hidden = element + b"<body>said</body>"
    opened = arrive(bob, sealed_raw(alice, thread, hidden), thread=thread)
    assert opened.kind is Kind.OPENED
    assert opened.content is not None
    assert [child.tag for child in xml.parse_fragment(opened.content.data)] == ["{jabber:client}body"]
    assert any(note.startswith("Dropped from what was sealed") for note in opened.notes)
    alice.say(BOB, "it goes on")
    deliver(alice, bob)
    assert bob.heard[-1] == "it goes on"


def test_records_of_bad_input_stay_small() -> None:
    """Whoever offers what is as large as may be makes us keep no more than that, for a while."""
    bob = Client(BOB, answers=lambda address: False)
    fields = b"".join(b'<field var="v%d"><value>%b</value></field>' % (n, b"v" * 2_000) for n in range(60))
    offer = element_with("feature", b"", b'<field var="accept" type="boolean"><value>1</value></field>' + fields)
    for number in range(100):
        arrive(bob, offer, sender=f"stranger{number}@x.example/1", thread=f"t{number}")
    assert sum(map(len, bob.records().values())) < 8_000_000
    assert records.decode(next(value for key, value in bob.records().items() if key[1] == "session"), Record).step
