"""Two clients that go through a flow of sessions, with one fault at one stanza, and what must hold after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from support.sessions import ALICE, BOB, Client, Clock, Flying
from tillie import pipeline
from tillie.errors import Malformed, PeerError, SessionEnded, UsageError
from tillie.model import Address, Arrived, Done, Key, Opened, Stanza, State
from tillie.negotiation import element as wire
from tillie.schemes.esession import Settings, channel, records, sessions, states
from tillie.schemes.esession.records import Record
from tillie.schemes.esession.sessions import ANSWERED, CONCLUDED, OFFERED
from tillie.wire import xml

Fault = Callable[["Run", Flying], list[Flying]]

# Seconds that pass when a flow is over: longer than any state that waits may last.
SETTLING = (5.0, 100.0, 100.0, 100.0, 30.0)
MAX_ROUNDS = 100
_STEPS: dict[str, tuple[type, tuple[str, ...]]] = {
    OFFERED: (states.Offering, ("exponents",)),
    ANSWERED: (states.Answering, ("exponent", "key")),
    CONCLUDED: (states.Concluding, ("exponent", "key")),
}


@dataclass
class Run:
    """Alice and Bob, and the way between them. `fault` says what arrives instead of the stanza with the number `at`."""

    alice: Client
    bob: Client
    at: int = -1
    fault: Fault | None = None
    threads: list[str] = field(default_factory=list)  # of the sessions that somebody began, the newest first
    passed: list[Flying] = field(default_factory=list)  # every stanza that was sent
    held: list[Flying] = field(default_factory=list)  # each goes behind the next of its sender
    late: list[Flying] = field(default_factory=list)  # these go when the flow is over
    unsure: bool = False  # whether somebody still negotiated when the fault came
    errors: list[tuple[str, str]] = field(default_factory=list)  # of what was sent: who, which condition
    said: dict[str, list[str]] = field(default_factory=lambda: {ALICE: [], BOB: []})
    secrets: dict[str, set[bytes]] = field(default_factory=lambda: {ALICE: set(), BOB: set()})

    @property
    def clients(self) -> tuple[Client, Client]:
        return self.alice, self.bob

    @property
    def thread(self) -> str:
        return self.threads[0]

    def other(self, client: Client) -> Client:
        return self.bob if client is self.alice else self.alice

    # -- what programs do; where the session is over by then, they are told in a typed error ------------------------

    def start(self, client: Client, *, carry: bool = True) -> None:
        self.alice.clock.now += 1.0
        self.threads.insert(0, client.start(self.other(client).own))
        if carry:
            self.carry_all()

    def say(self, client: Client, text: str) -> None:
        if self._try(lambda: client.say(self.other(client).own, text)):
            self.said[client.own].append(text)
        self.carry_all()

    def ask(self, client: Client, name: str, *, kind: str = "iq") -> None:
        """A get, or a presence."""
        type_ = " type='get'" if kind == "iq" else ""
        start = f"<{kind} xmlns='jabber:client'{type_} id='{name}' to='{self.other(client).own}'>"
        if self._try(lambda: client.send(f"{start}<x xmlns='urn:x'>{name}</x></{kind}>".encode())):
            self.said[client.own].append(name)
        self.carry_all()

    def do(self, client: Client, what: str, *arguments: object, carry: bool = True) -> None:
        step: Callable[..., Done[None]] = getattr(client.scheme, what)
        self._try(lambda: client.do(lambda s, now: step(s, self.thread, *arguments, now)))
        if carry:
            self.carry_all()

    def _try(self, action: Callable[[], object]) -> bool:
        try:
            action()
        except (UsageError, SessionEnded):
            return False
        return True

    # -- the way ----------------------------------------------------------------------------------------------------

    def carry_all(self) -> None:
        """Carry what was sent, and the answers to it, until nobody says anything more."""
        for _ in range(MAX_ROUNDS):
            self._note_secrets()
            found = [one for client in self.clients for one in client.sent()]
            if not found:
                return
            for one in found:
                self._pass(one)
        raise AssertionError("the two answer each other for ever")

    def _pass(self, one: Flying) -> None:
        number = len(self.passed)
        self.passed.append(one)
        condition = condition_of(one)
        if condition:
            self.errors.append((one.sender, condition))
        waiting = [each for each in self.held if each.sender == one.sender]
        self.held = [each for each in self.held if each.sender != one.sender]
        here = self.fault is not None and number == self.at
        for each in (*(self.fault(self, one) if here and self.fault else [one]), *waiting):
            self.deliver(each)

    def deliver(self, one: Flying) -> None:
        try:
            root = xml.parse(one.stanza)
        except Malformed:
            return  # no server passes that on
        for client in self.clients:
            if client.own == root.get("to") and client.read(one) is not None:
                client.get(one)
                self._note_secrets()

    def settle(self) -> None:
        """What was held back arrives, time passes; who has a session uses it, twice, and ends older ones."""
        late, self.held, self.late = [*self.held, *self.late], [], []
        for each in late:
            self.deliver(each)
        self.carry_all()
        for seconds in SETTLING:
            self.alice.clock.now += seconds
            for client in self.clients:
                client.tick()
            self.carry_all()
        for number in (1, 2):
            for client in self.clients:
                self.say(client, f"is it still you? {number}")
        for client in self.clients:
            for each in [each for each in client.all() if each.active][:-1]:
                client.end(each.thread)
        self.carry_all()

    # -- what must hold ---------------------------------------------------------------------------------------------

    def check(self) -> bool:
        """Everything that must hold after any fault; whether there is a session."""
        self.settle()
        open_at = [[each for each in client.all() if each.active] for client in self.clients]
        mine, theirs = ({each.thread for each in found} for found in open_at)
        assert mine == theirs, "one of the two believes in a session that the other does not have"
        for client in self.clients:
            self._check_opened(client)
            self._check_lost(client, mine)
        for thread in mine:
            alice, bob = self.alice.look(thread), self.bob.look(thread)
            assert (alice.string, alice.string_digest) == (bob.string, bob.string_digest)
            for each in self.clients:
                assert each.heard[-1].startswith("is it still you?"), "a session that carries nothing"
        return bool(mine)

    def _check_opened(self, client: Client) -> None:
        """What opened is what the other said, in its order: some may be lost, nothing is forged or comes twice. No MAC
        says whether nothing at all was said in a message, or is an answer."""
        said = iter(self.said[self.other(client).own])
        heard = [text for text in client.heard if text]
        assert all(any(text == each for each in said) for text in heard), (heard, self.said)

    def _check_lost(self, client: Client, active: set[str]) -> None:
        """Who has no session any more was told why, and keeps none of its secrets."""
        for each in client.all():
            if each.thread in active:
                continue
            assert each.over, f"{client.own} is left in the state {each.state}"
            assert each.thread in client.changes
            assert each.state == "ended" or each.why, "nobody was told why"
        kept = secrets_in(client)
        everything = b"".join(client.records().values())
        left = [secret for secret in self.secrets[client.own] - kept if secret in everything]
        assert not left, f"{client.own} keeps {len(left)} secrets of what is over"

    def _note_secrets(self) -> None:
        for client in self.clients:
            self.secrets[client.own] |= secrets_in(client)


def condition_of(one: Flying) -> str:
    """The condition of an error message; "" for all else."""
    root = xml.parse(one.stanza)
    error = root.find("{jabber:client}error")
    return wire.parse_error(xml.serialise(error)).condition if error is not None else ""


def secrets_in(client: Client) -> set[bytes]:
    """The secrets of all negotiations and sessions of a client that are not over."""
    return secrets_of(client.store._records)


def secrets_of(kept: Mapping[Key, bytes]) -> set[bytes]:
    """The same of a store's records, as the octets that lie in it."""
    return {
        secret
        for key, value in kept.items()
        if (key.scheme, key.kind) == ("esession", "session")
        for secret in _secrets_of(records.decode(value, Record))
    }


def _secrets_of(record: Record) -> Iterator[bytes]:
    if record.channel:
        found = channel.decode(record.channel)
        yield from (each for each in (found.kc, found.km) if each)
        yield from (each for own in found.sets for each in (own.x, own.kc, own.km) if each)
    elif record.state in _STEPS:
        kind, names = _STEPS[record.state]
        step: Any = msgspec.msgpack.decode(record.step, type=kind)
        for name in names:
            value = getattr(step, name)
            yield from (one[1] for one in value) if name == "exponents" else ((value,) if value else ())


def couple(alice: Settings, bob: Settings | None = None) -> Run:
    """Alice and Bob, who have no session yet."""
    clock = Clock()
    return Run(Client(ALICE, alice, clock=clock), Client(BOB, bob or alice, clock=clock))


# -- by hand ----------------------------------------------------------------------------------------------------


def arrive(
    client: Client,
    element: bytes,
    *,
    sender: str = ALICE,
    thread: str = "",
    kind: str = "message",
    type: str = "normal",
) -> Opened:
    """An element as if a network had handed it over, whatever it is."""
    siblings = (b"<thread xmlns='jabber:client'>%b</thread>" % thread.encode(),) if thread else ()
    arrived = Arrived(element, Stanza(kind, Address(sender), client.own, type, "id", None, siblings))
    try:
        return client.run(lambda s: pipeline.open(s, client.scheme, client.policy, arrived, client.clock.now))
    except PeerError as error:
        return pipeline.failed(client.scheme, arrived, error)


def sealed_raw(client: Client, thread: str, text: bytes) -> bytes:
    """A <c/> of a client that hides what no client of ours would."""

    def step(s: State) -> Done[bytes]:
        record = sessions.load(s, thread)
        assert record is not None
        after, element = channel.seal(channel.decode(record.channel), text, now=client.clock.now)
        sessions.save(s, msgspec.structs.replace(record, channel=channel.encode(after)))
        return Done(element)

    return client.run(step)
