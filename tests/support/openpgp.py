"""Ends of OpenPGP conversations and the world between them: the whole pipeline, in process, with a clock that a test
moves. As `ends`, for a scheme whose keys have nodes of their own and are published in an order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tillie import pipeline
from tillie.crypto import openpgp
from tillie.crypto.openpgp import Certificate
from tillie.directory import openpgp as directory
from tillie.errors import KeyChanged, NoProgress, NotTrusted, PeerError
from tillie.model import (
    Address,
    Arrived,
    Content,
    Decide,
    Decided,
    Device,
    Done,
    Fact,
    Fetch,
    Fetched,
    Key,
    Need,
    Notice,
    Opened,
    Publication,
    Sealed,
    Send,
    Stanza,
    State,
    Trust,
)
from tillie.schemes.openpgp import OpenPgp, content, element
from tillie.schemes.openpgp.content import Form
from tillie.store import Committed, MemoryStore
from tillie.trust.decisions import Policy
from tillie.wire import xml

T = TypeVar("T")

ALICE, BOB, CAROL = (Address(f"{name}@{name[0]}.example") for name in ("alice", "bob", "carol"))
START = 1_800_000_000.0
HOUR, DAY = 3_600.0, 86_400.0
ROUNDS = 8
LIST = directory.LIST_NODE


@dataclass
class Letter:
    """One sealed element under way to one end."""

    origin: PgpEnd
    to: PgpEnd
    arrived: Arrived

    @property
    def message(self) -> bytes:
        """The OpenPGP message in it."""
        return element.decode(self.arrived.element)

    def with_message(self, message: bytes) -> Letter:
        return replace(self, arrived=replace(self.arrived, element=element.encode(message)))

    def with_stanza(self, **changes: object) -> Letter:
        return replace(self, arrived=replace(self.arrived, stanza=replace(self.arrived.stanza, **changes)))  # type: ignore[arg-type]


@dataclass
class PgpWorld:
    """Servers and the way between them: nodes, each with one item, and letters under way."""

    now: float = START
    ends: list[PgpEnd] = field(default_factory=list)
    nodes: dict[tuple[Address, str], bytes] = field(default_factory=dict)
    flying: list[Letter] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    unreachable: set[Address] = field(default_factory=set)
    fetches: list[Fetch] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)

    def fetch(self, ask: Fetch) -> Fetched:
        self.fetches.append(ask)
        if ask.address in self.unreachable:
            return Fetched(ask.address, ask.node, ask.item, None, "remote-server-timeout")
        payload = self.nodes.get((ask.address, ask.node))
        return Fetched(ask.address, ask.node, ask.item, payload, "" if payload else "item-not-found")

    def publish(self, address: Address, publication: Publication) -> None:
        self.publications.append(publication)
        self.nodes[address, publication.node] = publication.payload

    def post(self, origin: PgpEnd, stanza: bytes) -> None:
        self.sent.append(stanza)
        message = xml.parse(stanza)
        sealed = message.find(element.TAG)
        assert sealed is not None
        to = Address(message.get("to", ""))
        outside = Stanza(
            "message", Address(f"{origin.address}/here"), to, message.get("type", ""), message.get("id", "")
        )
        for end in self.ends:
            if end is not origin and end.address in (to.bare, origin.address):
                via = "live" if end.address == to.bare else "carbon"
                got = Arrived(xml.serialise(sealed), replace(outside, via=via), "openpgp")
                self.flying.append(Letter(origin, end, got))

    def take(self, to: PgpEnd) -> list[Letter]:
        taken = [letter for letter in self.flying if letter.to is to]
        self.flying = [letter for letter in self.flying if letter.to is not to]
        return taken

    def settle(self) -> list[Opened]:
        """Deliver what is under way."""
        letters, self.flying = self.flying, []
        return [letter.to.open(letter.arrived) for letter in letters]

    def push(self, address: Address, *, payload: bool = True) -> None:
        """Everybody hears of a key list, as with PEP."""
        fact = replace(self.fetch(Fetch(address, LIST)), pushed=True)
        for end in self.ends:
            end.learn(fact if payload else replace(fact, payload=None, error="no-payload"))

    def announced(self, address: Address) -> list[bytes]:
        return [key.fingerprint for key in directory.parse_list(self.nodes[address, LIST])]

    def announce(self, address: Address, *certificates: Certificate, dates: float | None = None) -> None:
        """What another client of this account, or its server, would publish."""
        at = self.now if dates is None else dates
        for each in certificates:
            self.nodes[address, directory.key_node(each.fingerprint)] = directory.encode_key(each.data)
        self.nodes[address, LIST] = directory.encode_list(directory.Announced(c.fingerprint, at) for c in certificates)


@dataclass(eq=False)
class PgpEnd:
    """One device: its scheme, its store, what it has read and what it was told."""

    world: PgpWorld
    address: Address
    generate: bool = True
    policy: Policy = Policy.BLIND
    decide: Callable[[Decide], Iterable[Decided]] = lambda _: ()
    read_texts: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    sends: int = 0
    offline: bool = False

    def __post_init__(self) -> None:
        self.store = MemoryStore(self.address, clock=lambda: self.now)
        self.scheme = OpenPgp(self.address, generate=self.generate)
        self.world.ends.append(self)
        self.device: Device = self.run(lambda s: self.scheme.prepare(s, self.now))  # type: ignore[assignment]

    @property
    def now(self) -> float:
        return self.world.now

    @property
    def key(self) -> openpgp.SecretKey:
        return self.run(lambda s: Done(self.scheme.own_keys(s)))[0]

    # -- steps --------------------------------------------------------------------------------------------------------

    def run(self, step: Callable[[State], Done[T] | Need]) -> T:
        """One step to its end, as the engine does it: needs are answered, effects go out."""
        out = self.drive(step)
        if not self.offline:
            self.flush()
        return out

    def drive(self, step: Callable[[State], Done[T] | Need]) -> T:
        asked: object = None
        for _ in range(ROUNDS):
            out = self.store.run(step)
            if not isinstance(out, Need):
                self._tell(out)
                return out.value
            if out.asks == asked:
                break
            asked = out.asks
            for ask in out.asks:
                if isinstance(ask, Fetch):
                    self._learn(self.world.fetch(ask))
                    continue
                decided = tuple(self.decide(ask))
                if {(d.address, d.key) for d in ask.devices} - {(d.address, d.key) for d in decided}:
                    raise (KeyChanged if ask.changed else NotTrusted)(devices=ask.devices)
                for fact in decided:
                    self._learn(fact)
        raise NoProgress(repr(out))

    def learn(self, fact: Fact) -> None:
        self._learn(fact)
        if not self.offline:
            self.flush()

    def _learn(self, fact: Fact) -> None:
        out = self.store.run(lambda s: pipeline.learn(s, self.scheme, fact, self.now))
        assert isinstance(out, Committed)
        self._tell(out)

    def flush(self) -> None:
        while outbox := self.store.outbox():
            for row, effect, _ in outbox:
                if isinstance(effect, Send):
                    self.world.post(self, effect.stanza)
                else:
                    self.publish(effect.what)
                self.store.sent(row)

    def publish(self, what: str) -> None:
        publication = self.drive(lambda s: self.scheme.publication(s, what, self.now))
        if publication is not None:
            self.world.publish(self.address, publication)
            self.drive(lambda s: self.scheme.published(s, what, self.now))

    def _tell(self, out: Committed[T]) -> None:
        self.notices += [effect.text for effect in out.effects if isinstance(effect, Notice)]

    # -- what a person does -------------------------------------------------------------------------------------------

    def say(self, to: Address, text: str) -> Sealed:
        return self.say_xml(to, b"<body xmlns='jabber:client'>" + xml.escape(text) + b"</body>")

    def say_xml(self, to: Address, inside: bytes) -> Sealed:
        self.sends += 1
        message_id = f"m{self.sends}"
        return self.run(
            lambda s: pipeline.send(s, self.scheme, self.policy, Content(inside), to, message_id, self.now)
        )  # fmt: skip

    def open(self, got: Arrived) -> Opened:
        """Open one element as the engine does: what it was, whatever the peer did."""
        try:
            opened = self.run(lambda s: pipeline.open(s, self.scheme, self.policy, got, self.now))
        except PeerError as error:
            return pipeline.failed(self.scheme, got, error)
        if opened.content is not None:
            self.read_texts += [body.text or "" for body in xml.parse_fragment(opened.content.data)]
        return opened

    def read(self, letter: Letter) -> Opened:
        return self.open(letter.arrived)

    def tick(self) -> None:
        self.run(lambda s: self.scheme.tick(s, self.now))

    def trust(self, address: Address, key: bytes, trust: Trust) -> None:
        self.learn(Decided(address, key, trust))

    def roll_back(self, records: dict[Key, bytes]) -> None:
        """Put an older copy of the store back in place."""
        self.store = MemoryStore(self.address, clock=lambda: self.now)

        def fill(s: State) -> Done[None]:
            for key, value in records.items():
                s.put(key, value)
            return Done(None)

        self.store.run(fill)

    def dump(self) -> dict[Key, bytes]:
        return dict(self.store._records)


def pair(**options: object) -> tuple[PgpWorld, PgpEnd, PgpEnd]:
    """Alice and Bob, each with a key, who have never written to each other."""
    world = PgpWorld()
    return world, PgpEnd(world, ALICE, **options), PgpEnd(world, BOB, **options)  # type: ignore[arg-type]


def forged(
    signer: openpgp.SecretKey,
    readers: Iterable[Certificate],
    text: str,
    to: Iterable[Address],
    time: float,
    *,
    form: Form = Form.SIGNCRYPT,
) -> bytes:
    """An OpenPGP message that says what a test wants it to."""
    inside = Content(b"<body xmlns='jabber:client'>" + xml.escape(text) + b"</body>")
    plaintext = content.encode(form, inside, to, time, bytes)
    if form is Form.SIGN:
        return openpgp.sign(plaintext, signer)
    return openpgp.signcrypt(plaintext, signer, list(readers))


def arrived(message: bytes, sender: Address, to: Address, **stanza: object) -> Arrived:
    around = Stanza("message", Address(f"{sender}/x"), to, "chat", "f1", **stanza)  # type: ignore[arg-type]
    return Arrived(element.encode(message), around, "openpgp")
