"""Ends of a conversation and the world between them: the whole pipeline, in process, with a clock that a test moves.

Nothing is delivered by itself. What an end sends lies in `World.flying`, one `Letter` for each device that a server
would hand it to, until the test delivers, drops, repeats, alters or reorders it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar

import pytest
from lxml import etree

from tillie import pipeline
from tillie.crypto import agree, random
from tillie.errors import KeyChanged, NoProgress, NotTrusted, PeerError
from tillie.model import (
    Address,
    Arrived,
    CatchUp,
    Content,
    Decide,
    Decided,
    Done,
    Fact,
    Fetch,
    Fetched,
    Key,
    Need,
    Notice,
    Opened,
    Publication,
    RolledBack,
    Sealed,
    Send,
    Stanza,
    State,
    Trust,
)
from tillie.schemes.omemo import Omemo, Repair
from tillie.store import Committed, MemoryStore, Store
from tillie.trust import decisions
from tillie.trust.decisions import Policy
from tillie.wire import xml

T = TypeVar("T")

ALICE, BOB, CAROL = (Address(f"{name}@{name[0]}.example") for name in ("alice", "bob", "carol"))
START = 1_780_000_000.0
DAY = 86_400.0
ROUNDS = 8
MAX_DELIVERIES = 200  # of answers to answers, in one `settle`
NS = "urn:xmpp:omemo:2"
DEVICES, BUNDLES = f"{NS}:devices", f"{NS}:bundles"
ENCRYPTED = f"{{{NS}}}encrypted"
KEY_PATH = f"{{{NS}}}header/{{{NS}}}keys/{{{NS}}}key"

Dump = tuple[dict[Key, bytes], list[tuple[int, object]], list[tuple[int, bytes]]]


@dataclass
class Letter:
    """One sealed element under way to one device."""

    origin: End
    to: End
    arrived: Arrived

    @property
    def element(self) -> bytes:
        return self.arrived.element

    def with_element(self, element: bytes) -> Letter:
        return replace(self, arrived=replace(self.arrived, element=element))

    def altered(self, change: Callable[[etree._Element], None]) -> Letter:
        """The same letter with its element changed in place by `change`."""
        root = etree.fromstring(self.element)
        change(root)
        return self.with_element(etree.tostring(root))

    def with_stanza(self, **changes: object) -> Letter:
        return replace(self, arrived=replace(self.arrived, stanza=replace(self.arrived.stanza, **changes)))  # type: ignore[arg-type]

    @property
    def is_key_exchange(self) -> bool:
        """Whether the key for the receiving device is one."""
        found = [k for k in etree.fromstring(self.element).iterfind(KEY_PATH) if k.get("rid") == str(self.to.id)]
        return any(key.get("kex") == "true" for key in found)


class World:
    """Servers and the way between them: published items, and letters under way."""

    def __init__(self, now: float = START) -> None:
        self.now = now
        self.ends: list[End] = []
        self.items: dict[tuple[str, str, str], bytes] = {}
        self.flying: list[Letter] = []
        self.sent: list[tuple[Address, bytes]] = []  # every stanza that ever left, with its sender
        self.unreachable: set[tuple[str, str]] = set()  # (address, node) that answer with an error
        self.fetches: list[Fetch] = []
        self.publications: list[tuple[Address, Publication]] = []

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def fetch(self, ask: Fetch) -> Fetched:
        self.fetches.append(ask)
        if (ask.address, ask.node) in self.unreachable:
            return Fetched(ask.address, ask.node, ask.item, None, "remote-server-timeout")
        payload = self.items.get((ask.address, ask.node, ask.item or "current"))
        return Fetched(ask.address, ask.node, ask.item, payload, "" if payload else "item-not-found")

    def publish(self, address: Address, publication: Publication) -> None:
        self.publications.append((address, publication))
        self.items[address, publication.node, publication.item] = publication.payload

    def post(self, origin: End, stanza: bytes) -> None:
        self.sent.append((origin.address, stanza))
        message = xml.parse(stanza)
        element = message.find(ENCRYPTED)
        assert element is not None
        to = Address(message.get("to", ""))
        outside = Stanza(
            "message", Address(f"{origin.address}/{origin.id}"), to, message.get("type", ""), message.get("id", "")
        )
        for end in self.ends:
            if end is origin or end.address not in (to.bare, origin.address):
                continue
            via = "live" if end.address == to.bare else "carbon"
            self.flying.append(Letter(origin, end, Arrived(xml.serialise(element), replace(outside, via=via))))

    def take(self, to: End, origin: End | None = None) -> list[Letter]:
        """Take out of the air what is under way to one end, oldest first."""
        taken = [x for x in self.flying if x.to is to and (origin is None or x.origin is origin)]
        self.flying = [x for x in self.flying if not any(x is y for y in taken)]
        return taken

    def settle(self, *, tick: bool = True) -> list[Opened]:
        """Deliver everything, and the answers to it, and the repairs that are due, until nothing moves."""
        opened = []
        for _ in range(MAX_DELIVERIES):
            if not self.flying:
                before = len(self.sent)
                for end in self.ends if tick else ():
                    end.tick()
                if len(self.sent) == before:
                    return opened
                continue
            letter = self.flying.pop(0)
            opened.append(letter.to.read(letter))
        raise AssertionError("ends answer each other for ever")

    def push_lists(self) -> None:
        """Everybody hears of everybody's newest device list, as with PEP."""
        for address in dict.fromkeys(end.address for end in self.ends):
            fact = replace(self.fetch(Fetch(address, DEVICES)), pushed=True)
            for end in self.ends:
                end.learn(fact)


@dataclass(eq=False)
class End:
    """One device: its scheme, its store, what it has read and what it was told."""

    world: World
    address: Address
    policy: Policy = Policy.BLIND
    label: str = ""
    repair: Repair = Repair.MANUAL
    seed: bytes | None = None
    store: Store = None  # type: ignore[assignment]
    decide: Callable[[Decide], Iterable[Decided]] = lambda _: ()
    read_texts: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    sends: int = 0

    def __post_init__(self) -> None:
        if self.store is None:
            self.store = MemoryStore(self.address, clock=lambda: self.now)
        self.scheme = Omemo(self.address, label=self.label, repair=self.repair)
        self.device = self.run(lambda s: self.scheme.prepare(s, self.now, seed=self.seed))
        self.id = self.device.id
        self.world.ends.append(self)

    def __repr__(self) -> str:
        return f"End({self.address}, {getattr(self, 'id', 0)})"

    @property
    def now(self) -> float:
        return self.world.now

    # -- steps ------------------------------------------------------------------------------------------------------

    def run(self, step: Callable[[State], Done[T] | Need]) -> T:
        """One step to its end, as the engine does it: needs are answered, effects go out."""
        for _ in range(ROUNDS):
            out = self.store.run(step)
            if not isinstance(out, Need):
                self._tell(out)
                self.flush()
                return out.value
            for ask in out.asks:
                if isinstance(ask, Fetch):
                    self.learn(self.world.fetch(ask))
                    continue
                decided = tuple(self.decide(ask))
                if {(d.address, d.key) for d in ask.devices} - {(d.address, d.key) for d in decided}:
                    raise (KeyChanged if ask.changed else NotTrusted)(devices=ask.devices)
                for fact in decided:
                    self.learn(fact)
        raise NoProgress(repr(out))

    def learn(self, fact: Fact) -> None:
        out = self.store.run(lambda s: pipeline.learn(s, self.scheme, fact, self.now))
        assert isinstance(out, Committed)
        self._tell(out)
        self.flush()

    def flush(self) -> None:
        while outbox := self.store.outbox():
            for row, effect, _ in outbox:
                if isinstance(effect, Send):
                    self.world.post(self, effect.stanza)
                else:
                    self._publish(effect.what)
                self.store.sent(row)

    def _publish(self, what: str) -> None:
        for _ in range(ROUNDS):
            out = self.store.run(lambda s: self.scheme.publication(s, what, self.now))
            if not isinstance(out, Need):
                if out.value is not None:
                    self.world.publish(self.address, out.value)
                return
            for ask in out.asks:
                assert isinstance(ask, Fetch)
                self._tell(self.store.run(lambda s: pipeline.learn(s, self.scheme, self.world.fetch(ask), self.now)))  # noqa: B023
        raise NoProgress(repr(out))

    def _tell(self, out: object) -> None:
        assert isinstance(out, Committed)
        self.notices += [effect.text for effect in out.effects if isinstance(effect, Notice)]

    # -- what a person does -----------------------------------------------------------------------------------------

    def say(self, to: Address, text: str, **options: object) -> Sealed:
        return self.say_xml(to, b"<body xmlns='jabber:client'>" + xml.escape(text) + b"</body>", **options)

    def say_xml(self, to: Address, content: bytes, **options: object) -> Sealed:
        self.sends += 1
        message_id = f"m{self.sends}"
        return self.run(
            lambda s: pipeline.send(
                s, self.scheme, self.policy, Content(content), to, message_id, self.now, **options  # type: ignore[arg-type]
            )
        )  # fmt: skip

    def read(self, letter: Letter) -> Opened:
        return self.open(letter.arrived)

    def open(self, got: Arrived) -> Opened:
        """Open one element as the engine does: what it was, whatever the peer did."""
        try:
            opened = self.run(lambda s: pipeline.open(s, self.scheme, self.policy, got, self.now))
        except PeerError as error:
            return pipeline.failed(self.scheme, got, error)
        if opened.content is not None:
            self.read_texts += [body.text or "" for body in xml.parse_fragment(opened.content.data)]
        return opened

    def tick(self) -> None:
        self.run(lambda s: self.scheme.tick(s, self.now))

    def catch_up(self, *, ended: bool) -> None:
        self.learn(CatchUp(ended))

    def reset(self, address: Address, device_id: int | None = None) -> int:
        return self.run(lambda s: self.scheme.reset(s, address, device_id, self.now))

    def trust(self, other: End, trust: Trust) -> None:
        self.learn(Decided(other.address, other.device.key, trust))

    def trust_of(self, other: End) -> Trust:
        out = self.store.run(lambda s: Done(decisions.of(s, self.policy, other.address, other.device.key)))
        assert isinstance(out, Committed)
        return out.value

    def roll_back(self, dump: Dump) -> None:
        """Put an older copy back in place and tell the scheme, as the engine does when the store finds out."""
        self.restore(dump)
        self.learn(RolledBack())

    # -- looking inside ---------------------------------------------------------------------------------------------

    def dump(self) -> Dump:
        """Everything in a MemoryStore."""
        assert isinstance(self.store, MemoryStore)
        outbox = [(row.id, row.effect) for row in self.store.outbox()]
        return dict(self.store._records), outbox, self.store.inbox()

    def restore(self, dump: Dump) -> None:
        self.store = MemoryStore(self.address, clock=lambda: self.now)
        records = dump[0]

        def fill(s: State) -> Done[None]:
            for key, value in records.items():
                s.put(key, value)
            return Done(None)

        self.store.run(fill)

    def kinds(self, *kinds: str) -> dict[Key, bytes]:
        """The OMEMO records of these kinds."""
        return {key: value for key, value in self.dump()[0].items() if key.scheme == "omemo" and key.kind in kinds}

    def current_with(self, other: End) -> bytes | None:
        """The ephemeral key of the session that sends to `other`."""
        from tillie.schemes.omemo import sessions

        out = self.store.run(lambda s: Done(sessions.load(s, other.address, other.id)))
        assert isinstance(out, Committed)
        return out.value.ephemeral if out.value else None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Keys and ids from a seed: for tests that search, where the same input must do the same again."""
    draw = Random(seed).randbytes
    with pytest.MonkeyPatch.context() as patch:
        for module in (agree, random):
            patch.setattr(module, "random_bytes", draw)
        yield


def changed(before: Dump, after: Dump) -> set[str]:
    """The kinds of records that differ between two dumps, and "outbox" or "inbox" if those do."""
    old, new = before[0], after[0]
    kinds = {key.kind for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    return kinds | {name for name, i in (("outbox", 1), ("inbox", 2)) if before[i] != after[i]}


def pair(**options: object) -> tuple[World, End, End]:
    """Alice and Bob, who have never written to each other."""
    world = World()
    return world, End(world, ALICE, **options), End(world, BOB, **options)  # type: ignore[arg-type]


def talking(**options: object) -> tuple[World, End, End]:
    """Alice and Bob with a confirmed session, and nothing under way."""
    world, alice, bob = pair(**options)
    alice.say(BOB, "hello")
    world.settle()
    bob.say(ALICE, "hello, Alice")
    world.settle()
    assert bob.read_texts == ["hello"]
    assert alice.read_texts == ["hello, Alice"]
    alice.read_texts.clear()
    bob.read_texts.clear()
    return world, alice, bob


def keys_of(element: bytes) -> set[int]:
    """The ids of the devices that an element has a key for."""
    return {int(key.get("rid", "0")) for key in etree.fromstring(element).iterfind(KEY_PATH)}
