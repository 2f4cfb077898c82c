"""Clients with encrypted sessions over stores in memory, and what is on the wire between them, without a network.

Each stanza is delivered when the test says so; whoever stands between can do with it what she likes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from tillie import pipeline
from tillie.errors import PeerError
from tillie.model import (
    Address,
    Arrived,
    Changed,
    Content,
    Done,
    Kind,
    Need,
    Notice,
    Opened,
    Stanza,
    State,
    Time,
)
from tillie.negotiation import element as wire
from tillie.negotiation import options
from tillie.pipeline import Policy
from tillie.schemes.esession import ESession, Session, Settings, sessions
from tillie.schemes.esession import channel as channels
from tillie.store import MemoryStore
from tillie.wire import address, forms, stanza, xml
from tillie.wire.forms import Field

T = TypeVar("T")
NOW = 1_780_000_000.0
SMALL = Settings(groups=(1,), rekey_frequency=1, legacy=True)  # 768 bits: fast, and the protocol is the same
ALICE, BOB, MALLORY = "alice@a.example/home", "bob@b.example/work", "mallory@m.example/den"

_KINDS = {f"{{jabber:client}}{kind}": kind for kind in ("message", "presence", "iq")}
_ERROR_TAG = "{jabber:client}error"


def everybody(peer: Address) -> bool:
    return True


class Flying(NamedTuple):
    """A stanza on its way, and from whom servers say it is."""

    stanza: bytes
    sender: Address

    @property
    def to(self) -> Address:
        return address.parse(xml.parse(self.stanza).get("to", ""))


class Clock:
    def __init__(self) -> None:
        self.now: Time = NOW


class Client:
    """One connection of somebody. Clients with the same `store` are processes of one account."""

    def __init__(
        self,
        full: str,
        settings: Settings = SMALL,
        *,
        clock: Clock | None = None,
        store: MemoryStore | None = None,
        answers: Callable[[Address], bool] = everybody,
    ) -> None:
        self.own = address.parse(full)
        self.clock = clock or Clock()
        self.store = store or MemoryStore(self.own.bare)
        self.scheme = ESession(self.own.bare, settings, answers=answers)
        self.scheme.own = self.own
        self.policy = Policy.BLIND
        self.notices: list[str] = []
        self.changes: list[str] = []
        self.opened: list[Opened] = []

    # -- steps --------------------------------------------------------------------------------------------------------

    def run(self, step: Callable[[State], Done[T] | Need]) -> T:
        out = self.store.run(step)
        assert not isinstance(out, Need)
        self.notices += [effect.text for effect in out.effects if isinstance(effect, Notice)]
        self.changes += [effect.name for effect in out.effects if isinstance(effect, Changed)]
        return out.value

    def do(self, step: Callable[[State, Time], Done[T]]) -> T:
        return self.run(lambda s: step(s, self.clock.now))

    def start(self, to: str | Address, *, thread: str = "", automatic: bool = False) -> str:
        peer = address.parse(to)
        return self.do(lambda s, now: self.scheme.start(s, peer, now, thread=thread, automatic=automatic))

    def say(self, to: str | Address, text: str, *, id: str = "m", remember: bool = False) -> None:
        content, peer = Content(stanza.body(text)), address.parse(to)
        self.run(
            lambda s: pipeline.send(s, self.scheme, self.policy, content, peer, id, self.clock.now, remember=remember)
        )

    def send(self, whole: bytes) -> None:
        """Any stanza, sealed."""
        self.run(lambda s: self.scheme.seal_stanza(s, whole, self.clock.now, policy=self.policy))

    def look(self, thread: str) -> Session:
        found = self.run(lambda s: Done(self.scheme.session(s, thread)))
        assert found is not None
        return found

    def all(self) -> tuple[Session, ...]:
        return self.run(lambda s: Done(self.scheme.sessions(s)))

    def end(self, thread: str) -> None:
        self.do(lambda s, now: self.scheme.end(s, thread, now))

    def tick(self) -> None:
        self.do(lambda s, now: self.scheme.beat(s, self.own, now))

    # -- the wire -----------------------------------------------------------------------------------------------------

    def sent(self) -> list[Flying]:
        """What waits to go out through this connection, in its order; it is gone from the outbox then."""
        rows = [row for row in self.store.outbox() if row.effect.sender in ("", self.own)]  # type: ignore[union-attr]
        self.store.sent(*(row.id for row in rows))
        return [Flying(row.effect.stanza, self.own) for row in rows]  # type: ignore[union-attr]

    def read(self, flying: Flying, *, via: str = "live") -> Arrived | None:
        """As the network hands it over; None if it holds nothing for sessions."""
        root = xml.parse(flying.stanza)
        tags = (*self.scheme.tags, _ERROR_TAG)
        element = next((child for tag in tags for child in root if child.tag == tag), None)
        if element is None:
            return None
        siblings = tuple(xml.serialise(child) for child in root if child is not element)
        to = address.parse(root.get("to", str(self.own)))
        around = Stanza(
            _KINDS[str(root.tag)], flying.sender, to, root.get("type", ""), root.get("id", ""), None, siblings, via
        )
        return Arrived(xml.serialise(element), around)

    def get(self, flying: Flying, *, via: str = "live", remember: bool = False) -> Opened:
        """Open what came; what it was. Nothing has changed if that is an error of `pipeline.failed`."""
        arrived = self.read(flying, via=via)
        assert arrived is not None
        try:
            opened = self.run(
                lambda s: pipeline.open(s, self.scheme, self.policy, arrived, self.clock.now, remember=remember)
            )
        except PeerError as error:
            opened = pipeline.failed(self.scheme, arrived, error)
        self.opened.append(opened)
        return opened

    @property
    def heard(self) -> list[str]:
        """The bodies of what opened."""
        return [body_of(each) for each in self.opened if each.kind is Kind.OPENED]

    def records(self) -> dict[tuple[str, str, str], bytes]:
        return {tuple(key): value for key, value in self.store._records.items()}  # type: ignore[misc]


def body_of(opened: Opened) -> str:
    assert opened.content is not None
    root = xml.parse(b"<x>" + opened.content.data + b"</x>")
    return "".join(root.itertext())


def deliver(*clients: Client, only: int = 1000) -> list[Opened]:
    """Carry what was sent until nobody says anything more; at most `only` stanzas. A bare JID reaches one resource."""
    results: list[Opened] = []
    queue: deque[Flying] = deque()
    while len(results) < only:
        for client in clients:
            queue.extend(client.sent())
        if not queue:
            break
        flying = queue.popleft()
        to = flying.to
        for client in clients:
            if client.own in (to, to.bare) or (not to.resource and client.own.bare == to):
                results.append(client.get(flying))
                break
    return results


def pair(
    alice: Client | None = None, bob: Client | None = None, *, settings: Settings = SMALL
) -> tuple[Client, Client, str]:
    """Two clients with a session, and its thread."""
    clock = Clock()
    alice, bob = alice or Client(ALICE, settings, clock=clock), bob or Client(BOB, settings, clock=clock)
    thread = alice.start(bob.own)
    deliver(alice, bob)
    assert alice.look(thread).active, (alice.look(thread).why, bob.look(thread).why)
    assert bob.look(thread).active
    return alice, bob, thread


def message(to: str, thread: str, children: bytes, *, type: str = "normal", id: str = "x") -> bytes:
    """A message as anybody can write it."""
    return b"<message xmlns='jabber:client' type='%b' to='%b' id='%b'><thread>%b</thread>%b</message>" % (
        type.encode(),
        to.encode(),
        id.encode(),
        thread.encode(),
        children,
    )


def flying(sender: str, stanza_bytes: bytes) -> Flying:
    return Flying(stanza_bytes, address.parse(sender))


def all_octets(stanzas: Iterable[bytes]) -> bytes:
    return b"\n".join(stanzas)


# -- what servers and others write ------------------------------------------------------------------------------------

TERMINATE = wire.feature(
    forms.write("submit", (Field("FORM_TYPE", values=(options.SSN,)), Field("terminate", values=("1",))))
)
ERROR = b"<error xmlns='jabber:client' type='cancel'><%b xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"


def error_from(
    sender: str, to: str, condition: str, *, kind: str = "message", thread: str = "", id: str = "m"
) -> Flying:
    """What a server answers, mostly without the thread of what it answers."""
    named = f"<thread>{thread}</thread>" if thread else ""
    start = f"<{kind} xmlns='jabber:client' type='error' to='{to}' id='{id}'>{named}"
    return flying(sender, start.encode() + ERROR % condition.encode() + f"</{kind}>".encode())


def secrets_of(client: Client, thread: str) -> list[bytes]:
    """The keys of an open session, as they lie in the store."""
    record = client.run(lambda s: Done(sessions.load(s, thread)))
    assert record is not None
    channel = channels.decode(record.channel)
    return [channel.kc, channel.km, *(key for each in channel.sets for key in (each.x, each.kc, each.km) if key)]
