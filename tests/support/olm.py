"""People on Matrix without any server: a tiny home in memory, and devices whose steps run in a memory store."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from tillie import pipeline
from tillie.directory.matrix import KEY_COUNTS, KEYS_CLAIM, KEYS_QUERY, KEYS_UPLOAD, V1, Profile
from tillie.errors import PeerError
from tillie.model import (
    Address,
    Arrived,
    Content,
    Decide,
    Decided,
    Done,
    Fetch,
    Fetched,
    Key,
    Need,
    Notice,
    Opened,
    Publish,
    Sealed,
    Send,
    Stanza,
    State,
    Trust,
)
from tillie.pipeline import Policy
from tillie.schemes.olm import Olm, own, records
from tillie.store import Committed, MemoryStore, Outgoing
from tillie.wire import canonical

ALICE = Address("@alice:a.example")
BOB = Address("@bob:b.example")
START = 1_790_000_000.0
T = TypeVar("T")
Step = Callable[[State], "Done[T] | Need"]
Json = dict[str, Any]


class Crash(Exception):
    """The process died before the commit."""


class Home:
    """What homes do, for everybody: keep uploads, give out each one-time key once, then the fallback key."""

    def __init__(self) -> None:
        self.now = START
        self.devices: dict[Address, dict[str, Json]] = {}
        self.one_time: dict[tuple[Address, str], dict[str, Any]] = {}
        self.fallback: dict[tuple[Address, str], dict[str, Any]] = {}
        self.unused_fallback: set[tuple[Address, str]] = set()
        self.seen_ids: dict[tuple[Address, str, str], Any] = {}
        self.broken: set[Address] = set()  # users whose server does not answer
        self.fetched: list[Fetch] = []

    def upload(self, user: Address, device: str, body: Json) -> None:
        place = user, device
        if "device_keys" in body:
            self.devices.setdefault(user, {})[device] = body["device_keys"]
        for name, value in body.get("one_time_keys", {}).items():
            before = self.seen_ids.setdefault((*place, name), value)
            assert before == value, "an id was used again with another key"
            if before is value:
                self.one_time.setdefault(place, {})[name] = value
        if "fallback_keys" in body:
            self.fallback[place] = body["fallback_keys"]
            self.unused_fallback.add(place)

    def claim(self, user: Address, device: str) -> Json:
        place = user, device
        keys = self.one_time.get(place)
        if keys:
            name = next(iter(keys))
            return {name: keys.pop(name)}
        self.unused_fallback.discard(place)
        return dict(self.fallback.get(place, {}))

    def answer(self, ask: Fetch) -> Fetched:
        self.fetched.append(ask)
        if ask.address in self.broken:
            return Fetched(ask.address, ask.node, ask.item, None, "M_UNKNOWN")
        if ask.node == KEYS_QUERY:
            found: Json = self.devices.get(ask.address, {})
        else:
            assert ask.node == KEYS_CLAIM
            claims = {device: self.claim(ask.address, device) for device in json.loads(ask.item)}
            found = {device: keys for device, keys in claims.items() if keys}
        return Fetched(ask.address, ask.node, ask.item, json.dumps(found).encode())

    def counts(self, user: Address, device: str, profile: Profile) -> Fetched:
        place = user, device
        told: Json = {"counts": {profile.one_time: len(self.one_time.get(place, {}))}, "fallback": []}
        if place in self.unused_fallback:
            told["fallback"] = [profile.one_time]
        return Fetched(user, KEY_COUNTS, "", json.dumps(told).encode(), pushed=True)


class Player:
    """One device: its store and scheme, and what the engine and a network would do for it."""

    def __init__(self, home: Home, user: Address, device: str, profile: Profile = V1, *, publish: bool = True) -> None:
        self.home = home
        self.user = user
        self.device = device
        self.scheme = Olm(user, profile)
        self.store = MemoryStore(user, clock=lambda: home.now)
        self.policy = Policy.BLIND
        self.notices: list[str] = []
        self.crash = False  # before the next commit
        self.look(lambda s: own.bind(s, device, profile))
        self.step(lambda s: self.scheme.prepare(s, home.now))
        if publish:
            self.publish()

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self, step: Step[T]) -> Committed[T] | Need:
        def once(s: State) -> Done[T] | Need:
            out = step(s)
            if self.crash and isinstance(out, Done):
                raise Crash
            return out

        out = self.store.run(once)
        if isinstance(out, Committed):
            self.notices += [each.text for each in out.effects if isinstance(each, Notice)]
        return out

    def step(self, step: Step[T]) -> Committed[T]:
        asked: tuple[object, ...] = ()
        for _ in range(8):
            out = self.run(step)
            if isinstance(out, Committed):
                return out
            assert out.asks != asked, f"it asks again for {asked}"
            asked = out.asks
            for ask in out.asks:
                if isinstance(ask, Decide):
                    for device in ask.devices:
                        self.learn(Decided(device.address, device.key, Trust.TRUSTED))
                else:
                    self.learn(self.home.answer(ask))
            self.home.now += 0.001
        raise AssertionError("too many rounds")

    def learn(self, fact: Any) -> Committed[None]:
        out = self.run(lambda s: pipeline.learn(s, self.scheme, fact, self.home.now))
        assert isinstance(out, Committed)
        return out

    def publish(self, *, lose_answer: bool = False) -> list[Json]:
        """Everything that waits to be published goes to the home; with `lose_answer` nobody hears that it did."""
        bodies = []
        for row in [each for each in self.store.outbox() if isinstance(each.effect, Publish)]:
            made = self.step(lambda s: self.scheme.publication(s, "keys", self.home.now)).value
            if made is not None:
                assert made.node == KEYS_UPLOAD
                body = canonical.parse_object(made.payload)
                self.home.upload(self.user, self.device, body)
                bodies.append(body)
                if lose_answer:
                    continue
                self.run(lambda s: self.scheme.published(s, "keys", self.home.now))
            self.store.sent(row.id)
        return bodies

    def sync(self) -> None:
        """What a /sync says of our keys."""
        self.learn(self.home.counts(self.user, self.device, self.scheme.profile))
        self.publish()

    def tick(self) -> None:
        self.step(lambda s: self.scheme.tick(s, self.home.now))
        self.publish()

    # -- messages ---------------------------------------------------------------------------------------------------

    def send(self, to: Address, text: str, *, also: tuple[Address, ...] = ()) -> Sealed:
        return self.send_event(
            to, {"type": "m.room.message", "content": {"msgtype": "m.text", "body": text}}, also=also
        )

    def send_event(self, to: Address, event: Json, *, also: tuple[Address, ...] = ()) -> Sealed:
        content = Content(json.dumps(event, separators=(",", ":")).encode())

        def step(s: State) -> Done[Sealed] | Need:
            return pipeline.seal(s, self.scheme, self.policy, content, to, self.home.now, also=also)

        return self.step(step).value

    def outbox(self) -> list[Outgoing]:
        return [each for each in self.store.outbox() if isinstance(each.effect, Send)]

    def open(self, sender: Address, content: Json | bytes) -> Opened:
        """Open the content of one event, as `Engine.receive` does."""
        element = content if isinstance(content, bytes) else json.dumps(content).encode()
        got = Arrived(element, Stanza("to-device", sender, self.user, "m.room.encrypted"), "olm")
        try:
            return self.step(lambda s: pipeline.open(s, self.scheme, self.policy, got, self.home.now)).value
        except PeerError as error:
            return pipeline.failed(self.scheme, got, error)

    def receive(self, sender: Address, sealed: Sealed | bytes) -> Opened:
        """Open what a request has for this device."""
        return self.open(sender, for_device(sealed, self.user, self.device))

    def look(self, at: Callable[[State], T]) -> T:
        """What a function of the state returns; what it writes is kept."""
        out = self.run(lambda s: Done(at(s)))
        assert isinstance(out, Committed)
        return out.value

    def records(self) -> dict[Key, bytes]:
        return self.look(lambda s: {name: data for kind in KINDS for name, data in s.scan(records.key(kind))})

    def restore(self, before: dict[Key, bytes]) -> None:
        """The records as they were, and no others of their kinds."""

        now = self.records()

        def put(s: State) -> None:
            for name in now | before:
                s.put(name, before.get(name))

        self.look(put)

    def count(self, kind: str) -> int:
        return self.look(lambda s: sum(1 for _ in s.scan(records.key(kind))))


KINDS = (
    "own", "fresh", "one-time", "fallback", "begun", "devices", "claim", "session", "old", "seen", "repair", "repaired",
)  # fmt: skip


def for_device(sealed: Sealed | bytes, user: Address, device: str) -> Json:
    """The content that a request has for one device."""
    request = json.loads(sealed.element if isinstance(sealed, Sealed) else sealed)
    content: Json = request["messages"][user][device]
    return content


def text_of(opened: Opened) -> str:
    assert opened.content is not None, opened
    return str(json.loads(opened.content.data)["content"]["body"])


def pair(profile: Profile = V1) -> tuple[Home, Player, Player]:
    """Alice and Bob, a device each."""
    home = Home()
    return home, Player(home, ALICE, "ALICEPHONE", profile), Player(home, BOB, "BOBPHONE", profile)
