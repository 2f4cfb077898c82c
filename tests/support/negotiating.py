"""Two sides that negotiate a session, message by message, each message as bytes between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from tillie.errors import NegotiationFailed
from tillie.model import Address
from tillie.schemes.esession import channel, four, offer
from tillie.schemes.esession.settings import Parties, Secret, Settings
from tillie.schemes.esession.states import Answering, Concluding, Established, Offering
from tillie.wire import base64, forms
from tillie.wire.forms import Field, Form

ALICE, BOB = Address("alice@example.org/pda"), Address("bob@example.com/laptop")
THREAD = "ffd7076498744578d10edabfe7f4a866"
FAST = Settings(groups=(14,))
NOW = 1_800_000_000.0

Change = Callable[[Form], Form]


@dataclass
class Negotiation:
    """One negotiation between Alice, who asks, and Bob. `changes` alters a message, 1 to 4, on its way."""

    alice: Settings = FAST
    bob: Settings = FAST
    alice_secrets: Sequence[Secret] = ()
    bob_secrets: Sequence[Secret] = ()
    changes: dict[int, Change] = field(default_factory=dict)
    initiator: Address = ALICE
    responder: Address = BOB
    sent: dict[int, Form] = field(default_factory=dict)
    offering: Offering | None = None
    answering: Answering | None = None
    concluding: Concluding | None = None

    @property
    def parties(self) -> tuple[Parties, Parties]:
        return Parties(self.initiator, self.responder, THREAD), Parties(self.responder, self.initiator, THREAD)

    def carry(self, number: int, form: Form) -> Form:
        """A message on its way: written, perhaps changed, and read again."""
        self.sent[number] = form
        change = self.changes.get(number)
        return forms.parse((change(form) if change else form).xml)

    def until_answered(self) -> Form:
        """Messages 1 and 2."""
        self.offering, first = offer.offer(self.alice)
        self.answering, second = offer.answer(self.bob, self.carry(1, first))
        return self.carry(2, second)

    def until_concluded(self) -> Form:
        """Messages 1 to 3."""
        second = self.until_answered()
        assert self.offering is not None
        state, third = four.conclude(self.offering, self.alice, self.parties[0], second, self.alice_secrets, now=NOW)
        assert isinstance(state, Concluding)
        self.concluding = state
        return self.carry(3, third)

    def run(self) -> tuple[Established, Established]:
        """All four messages; Alice's end and Bob's."""
        third = self.until_concluded()
        assert self.answering is not None
        assert self.concluding is not None
        theirs, fourth = four.accept(self.answering, self.bob, self.parties[1], third, self.bob_secrets, now=NOW)
        assert fourth is not None
        ours = four.finish(self.concluding, self.alice, self.carry(4, fourth), self.alice_secrets, now=NOW)
        return ours, theirs

    def run_three(self) -> tuple[Established, Established]:
        """All three messages of a negotiation with three."""
        second = self.until_answered()
        assert self.offering is not None
        assert self.answering is not None
        ours, third = four.conclude(self.offering, self.alice, self.parties[0], second, (), now=NOW)
        assert isinstance(ours, Established)
        theirs, none = four.accept(self.answering, self.bob, self.parties[1], self.carry(3, third), (), now=NOW)
        assert none is None
        return ours, theirs


def talk(ours: Established, theirs: Established) -> None:
    """One stanza each way: both ends have the same keys and counters."""
    a, b = ours.channel, theirs.channel
    a, element = channel.seal(a, b"<body>one</body>", now=NOW)
    b, got = channel.open(b, element, now=NOW)
    assert got.plaintext is not None
    assert got.plaintext.rstrip() == b"<body>one</body>"
    b, element = channel.seal(b, b"<body>two</body>", now=NOW)
    a, got = channel.open(a, element, now=NOW)
    assert got.plaintext is not None
    assert got.plaintext.rstrip() == b"<body>two</body>"


def fails(number: int, change: Change, **more: object) -> NegotiationFailed:
    """The failure of a negotiation in which one message was changed on its way."""
    with pytest.raises(NegotiationFailed) as caught:
        Negotiation(changes={number: change}, **more).run()  # type: ignore[arg-type]
    return caught.value


# -- changes --------------------------------------------------------------------------------------------------------


def with_values(var: str, *values: str) -> Change:
    """A field with these values in place of its own; its options stay."""
    return lambda form: _map(form, var, lambda one: one._replace(values=values))


def with_options(var: str, *options: str) -> Change:
    return lambda form: _map(form, var, lambda one: one._replace(options=options))


def without(var: str) -> Change:
    return lambda form: forms.write(form.type, [one for one in form.fields if one.var != var])


def with_octets(var: str, change: Callable[[bytes], bytes]) -> Change:
    """The first value of a field, decoded, changed and encoded."""

    def changed(one: Field) -> Field:
        first = base64.encode(change(base64.decode(one.values[0], max_bytes=1 << 16)))
        return one._replace(values=(first, *one.values[1:]))

    return lambda form: _map(form, var, changed)


def _map(form: Form, var: str, change: Callable[[Field], Field]) -> Form:
    assert form.get(var), var
    return forms.write(form.type, [change(one) if one.var == var else one for one in form.fields])
