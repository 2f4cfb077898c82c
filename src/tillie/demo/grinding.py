"""The short string of XEP-0116, forged: a man in the middle searches until both sides see the same (docs/esession.md).

All three are Tillie: Alice, Bob, and Mallory between them, who answers Alice as Bob and asks Bob as Alice. The string
of `sas28x5` hangs on all of message 3. When Mallory writes hers to Bob she knows what Alice sees already, and message 3
has room for values that mean nothing. So she tries values until Bob will see the same. In small: only the last
characters, `SHOWN`, must agree.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from tillie.crypto.random import random_bytes
from tillie.model import Address, Time
from tillie.schemes.esession import channel, four, keys, messages, offer, opening, sigma
from tillie.schemes.esession.channel import Channel
from tillie.schemes.esession.profile import PROFILES
from tillie.schemes.esession.settings import Parties, Settings
from tillie.schemes.esession.sigma import Context
from tillie.schemes.esession.states import Answering, Concluding, Established, Offering
from tillie.trust import strings
from tillie.wire import base64, forms
from tillie.wire.forms import Form

SHOWN = 3  # characters that must agree here
WHOLE = 1 << 24  # values of the whole string
MAX_TRIES = 40 * len(strings.DIGITS) ** SHOWN  # beyond all luck: e^-40
OURS_TRIED = 25  # third messages that Mallory tries against our string
_GROUP = (14,)
_FILLERS = 3
_FILLER_BYTES = 32

OLD = Settings(groups=_GROUP, strings=(strings.SAS28X5,), legacy=True)
NEW = Settings(groups=_GROUP)


class Forged(NamedTuple):
    """What came of it: the strings that Alice and Bob see, how long it took, and what Mallory read of what Alice wrote
    and Bob read."""

    alice: str
    bob: str
    tries: int
    seconds: float
    overheard: bytes
    read: bytes

    @property
    def succeeded(self) -> bool:
        return self.alice[-SHOWN:] == self.bob[-SHOWN:]

    @property
    def whole_seconds(self) -> float:
        """What all five characters would take on average, at the same rate."""
        return WHOLE * self.seconds / self.tries


class Legs(NamedTuple):
    """The man in the middle as the strings are about to be known. Alice sees hers; Bob waits for message 3."""

    alice: Established
    with_alice: Established
    offering: Offering
    answering: Answering
    form_b: Form
    to_bob: Parties
    bob: Parties


def forge(alice: Address, bob: Address, text: bytes, *, now: Time) -> Forged:
    """Play it with full JIDs and what Alice then says. Takes a second or so, and no network."""
    legs = _between(OLD, alice, bob, now)
    started = time.monotonic()
    found = _search(legs, legs.alice.string[-SHOWN:])
    seconds = time.monotonic() - started
    with_bob, answer = four.accept(legs.answering, OLD, legs.bob, found.sent, (), now=now)
    assert answer is not None
    mine = four.finish(found.concluding, OLD, answer, (), now=now)
    overheard = _carry(legs.alice.channel, legs.with_alice.channel, text, now)
    read = _carry(mine.channel, with_bob.channel, overheard, now)
    return Forged(legs.alice.string, with_bob.string, found.tries, seconds, overheard, read)


def strings_of_ours(alice: Address, bob: Address, *, now: Time) -> tuple[str, frozenset[str]]:
    """The same with our string: what Alice sees, and what Bob would, for each of the third messages that Mallory
    tries."""
    legs = _between(NEW, alice, bob, now)
    tried = {
        four.accept(legs.answering, NEW, legs.bob, form, (), now=now)[0].string
        for form in (
            four.conclude(legs.offering, NEW, legs.to_bob, legs.form_b, (), now=now)[1] for _ in range(OURS_TRIED)
        )
    }
    return legs.alice.string, frozenset(tried)


def _between(settings: Settings, alice: Address, bob: Address, now: Time) -> Legs:
    """Mallory answers Alice in Bob's name, to the end, and asks Bob in hers, up to his answer."""
    alice_to_bob, bob_to_alice = Parties(alice, bob, "thread"), Parties(bob, alice, "thread")
    offering, form = offer.offer(settings)
    as_bob, form_b = offer.answer(settings, form)
    concluding, form = four.conclude(offering, settings, alice_to_bob, form_b, (), now=now)
    with_alice, answer = four.accept(as_bob, settings, bob_to_alice, form, (), now=now)
    assert answer is not None
    assert isinstance(concluding, Concluding)
    seen = four.finish(concluding, settings, answer, (), now=now)

    mine, form = offer.offer(settings)
    answering, form_b = offer.answer(settings, form)
    return Legs(seen, with_alice, mine, answering, form_b, alice_to_bob, bob_to_alice)


def _carry(sender: Channel, receiver: Channel, text: bytes, now: Time) -> bytes:
    """One stanza from one end of a session to the other; what is read there."""
    _, element = channel.seal(sender, text, now=now)
    return channel.open(receiver, element, now=now)[1].plaintext or b""


# -- the search -------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """Message 3 that gives the wanted string, and what Mallory keeps to finish the negotiation."""

    sent: Form
    concluding: Concluding
    tries: int


def _search(legs: Legs, wanted: str) -> Found:
    """Message 3 with random values where hashes of retained secrets would be, such that Bob's string ends in
    `wanted`."""
    # One exponentiation for all: K, and with it all keys, does not hang on what else message 3 holds.
    concluding, _ = four.conclude(legs.offering, OLD, legs.to_bob, legs.form_b, (), now=0.0)
    assert isinstance(concluding, Concluding)
    answered = opening.check_answer(legs.offering, legs.form_b)
    context = Context(PROFILES[legs.offering.profile], answered.chosen)
    sigma_keys = keys.derive(context.profile, answered.chosen.cipher, answered.chosen.hash, concluding.key)
    form_a, form_b = (forms.normal(form, context.profile.dialect) for form in (legs.offering.form, legs.form_b))
    fillers = [random_bytes(_FILLER_BYTES) for _ in range(_FILLERS)]
    plain = messages.write_conclusion(context.profile.layout, answered.nonce_b, answered.e, fillers)
    before, after = forms.normal(plain, context.profile.dialect).split(base64.encode(fillers[-1]).encode())
    for tries in range(1, MAX_TRIES + 1):
        fillers[-1] = random_bytes(_FILLER_BYTES)
        form_a2 = before + base64.encode(fillers[-1]).encode() + after
        said = sigma.Said(answered.nonce_b, legs.offering.nonce, answered.e, (form_a, form_a2))
        proof = sigma.prove(context, sigma_keys.ks_a, said, answered.chosen.init_pubkey, None)
        hidden = sigma.hide(context, sigma_keys.initiator, answered.counter, proof)
        if strings.sas28x5(hidden.mac, form_b, answered.chosen.hash).text.endswith(wanted):
            plain = messages.write_conclusion(context.profile.layout, answered.nonce_b, answered.e, fillers)
            return Found(messages.prove(plain, hidden.identity, hidden.mac), concluding, tries)
    raise AssertionError("unreachable")
