"""A network in this process, with the seam and the habits of a real one: published items with notifications, messages
to every device of an account, copies to the sender's other devices, an archive for who was away.

For tests, and for the demo where no server is to be had. `LocalServer.traffic` is everything that crossed it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from tillie import sessions
from tillie.crypto.random import random_bytes
from tillie.engine import Engine
from tillie.errors import Malformed, StoreError, Unreachable, UsageError
from tillie.model import Address, Arrived, Done, Fetch, Fetched, Key, Notice, Publication, Send, Stanza, State, Time
from tillie.networks import USUAL, Options
from tillie.networks.local_service import LocalPubsub, LocalService
from tillie.schemes.esession.scheme import ESession
from tillie.sessions import Answer, Sessions
from tillie.store import Store
from tillie.wire import xml

_ORIGIN_ID = "{urn:xmpp:sid:0}origin-id"
_NO_STORE = "{urn:xmpp:hints}no-store"
_MESSAGE, _PRESENCE, _IQ = (f"{{jabber:client}}{kind}" for kind in ("message", "presence", "iq"))
_KINDS = {_MESSAGE: "message", _PRESENCE: "presence", _IQ: "iq"}
_ERROR = "{jabber:client}error"
_POSITION = Key("local", "archive", "position")


class Archived(NamedTuple):
    """One stanza as the server keeps it, or passes it on."""

    sender: Address  # full
    to: Address
    at: Time
    stanza: bytes


class Gone(NamedTuple):
    """A resource that has left."""

    address: Address


class LocalServer:
    """All accounts of the world on one server without a wire. `archive` and `traffic` are what it has seen, `pubsub`
    its nodes, but for those that hold keys."""

    def __init__(self, *, clock: Callable[[], Time] = time.time, attachments: bool = False) -> None:
        self.pubsub = LocalPubsub(attachments=attachments)
        self.archive: list[Archived] = []
        self.traffic: list[bytes] = []
        self.items: dict[tuple[Address, str], dict[str, bytes]] = {}  # newest last
        self.clock = clock
        self._online: list[LocalConnection] = []

    async def connect(self, account: Address, store: Store, options: Options = USUAL) -> LocalConnection:
        """As `networks.xmpp.connection.connect`, without a password."""
        connection = LocalConnection(self, account, options.notice)
        connection.engine = Engine(
            store,
            connection,
            *options.schemes(account),
            policy=options.policy,
            decide=options.decide,
            notice=options.notice,
            clock=self.clock,
            history=options.history,
        )
        connection.use_sessions(options.answer)
        await connection.open(listening=options.listening)
        return connection

    def route(self, sender: LocalConnection, stanza: bytes) -> None:
        """Take a message: into the archive, to every listening device of the recipient, and copies to the sender's.
        What is not to be kept, and all that is no message, goes to the recipient alone, now or never."""
        element = xml.parse(stanza)
        to = Address(element.get("to", ""))
        entry = Archived(sender.address, to, self.clock(), stanza)
        self.traffic.append(stanza)
        if element.tag != _MESSAGE or element.find(_NO_STORE) is not None or element.get("type") == "error":
            self._pass_on(sender, entry, element)
            return
        self.archive.append(entry)
        for end in list(self._online):
            if end is not sender and end.listening and end.account in (to.bare, sender.account):
                via = "live" if end.account == to.bare else "carbon"
                end.deliver(entry, via, len(self.archive) - 1)

    def _pass_on(self, sender: LocalConnection, entry: Archived, element: xml.Element) -> None:
        if entry.to.resource:
            ends = [end for end in self._online if end.address == entry.to]
        else:
            ends = [end for end in self._online if end.account == entry.to and end.listening and end is not sender]
        for end in ends:
            end.deliver(entry, "live")
        if not ends and element.get("type") not in ("error", "result"):
            sender.deliver(Archived(entry.to, sender.address, entry.at, _bounce(element, sender.address)), "live")

    def leave(self, gone: LocalConnection) -> None:
        """A resource is not there any more, and everybody hears of it."""
        if gone in self._online:
            self._online.remove(gone)
            for end in list(self._online):
                end.hear_of(Gone(gone.address))

    def publish(self, account: Address, publication: Publication) -> None:
        self.traffic.append(publication.payload)
        items = self.items.setdefault((account, publication.node), {})
        items.pop(publication.item, None)
        items[publication.item] = publication.payload
        for end in list(self._online):
            if publication.node in end.interests:
                end.notify(Fetched(account, publication.node, publication.item, publication.payload, pushed=True))

    def fetch(self, ask: Fetch) -> Fetched:
        items = self.items.get((ask.address, ask.node), {})
        name = ask.item or next(reversed(items), "")
        payload = items.get(name)
        return Fetched(ask.address, ask.node, name, payload, "" if payload is not None else "item-not-found")


class _Arrival(NamedTuple):
    """Something for one device. `number` is its place in the archive, None if it is not kept."""

    entry: Archived
    via: str
    number: int | None


class LocalConnection:
    """One device on the server: the engine's `Network`, and what arrives for it, in order."""

    engine: Engine

    def __init__(self, server: LocalServer, account: Address, notice: Callable[[Notice], None]) -> None:
        self._notice = notice
        self.account = account
        self.service = LocalService(server.pubsub, account)
        self.address = Address(f"{account}/{random_bytes(6).hex()}")
        self.listening = False
        self._server = server
        self._arrivals: asyncio.Queue[_Arrival | Fetched | Gone | asyncio.Future[None]] = asyncio.Queue()
        self._sessions: Sessions | None = None
        self._worker: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def interests(self) -> frozenset[str]:
        """The nodes whose changes we want to hear of, while we listen."""
        schemes = self.engine.schemes.values()
        return frozenset().union(*(scheme.watched for scheme in schemes)) if self.listening else frozenset()

    def use_sessions(self, answer: Answer) -> None:
        """Here everybody is everybody's contact."""
        scheme = sessions.of_engine(self.engine)
        if scheme is not None:
            scheme.answers = lambda _: answer in (Answer.CONTACTS, Answer.EVERYONE)
            scheme.asks = lambda _: answer is not Answer.NOBODY
            self._sessions = Sessions(self.engine, scheme)

    @property
    def sessions(self) -> Sessions:
        if self._sessions is None:
            raise UsageError("This account does not use encrypted sessions.")
        return self._sessions

    async def open(self, *, listening: bool = True) -> None:
        """Log in: our device, and then, if `listening`, what the archive holds since we were here last."""
        self._server._online.append(self)
        await sessions.begin(self.engine, self.address)
        if self._sessions is not None:
            self._sessions.keep()
        is_new = await self.engine.drive(lambda s: Done(s.get(_POSITION) is None))
        if is_new:
            await self._keep(len(self._server.archive))  # what is there already was not sealed for this device
        await self.engine.start(catching_up=listening)
        self._worker = asyncio.ensure_future(self._work())
        if not listening:
            return
        self.listening = True
        start = await self.engine.drive(lambda s: Done(int(s.get(_POSITION) or b"0")))
        for number in range(start, len(self._server.archive)):
            entry = self._server.archive[number]
            if self.account in (entry.to.bare, entry.sender.bare) and entry.sender != self.address:
                self.deliver(entry, "archive", number)
        await self.drained()
        await self.engine.catch_up(ended=True)

    async def close(self) -> None:
        """Log out. The store stays open."""
        if self._sessions is not None:
            if self in self._server._online:
                await self._sessions.end_all()
            self._sessions.stop()
            self._sessions = None
        self._server.leave(self)
        self.listening = False
        sessions.bind(self.engine, None)
        self.engine.disconnected()
        for task in (self._worker, *self._tasks):
            if task is not None:
                task.cancel()

    async def caught_up(self, seconds: float) -> bool:
        """As that of `networks.xmpp.connection`; `open` has done it."""
        return True

    async def drained(self) -> None:
        """Returns when everything that has arrived up to now is committed."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals.put_nowait(done)
        await done

    # -- the engine's Network -----------------------------------------------------------------------------------------

    async def send(self, item: Send) -> None:
        self._require_connection()
        self._server.route(self, item.stanza)
        self._later(self.engine.acknowledged(item.id))

    async def fetch(self, ask: Fetch) -> Fetched:
        self._require_connection()
        return self._server.fetch(ask)

    async def publish(self, publication: Publication) -> None:
        self._require_connection()
        self._server.publish(self.account, publication)

    # -- what arrives -------------------------------------------------------------------------------------------------

    def deliver(self, entry: Archived, via: str, number: int | None = None) -> None:
        self._arrivals.put_nowait(_Arrival(entry, via, number))

    def notify(self, fact: Fetched) -> None:
        self._arrivals.put_nowait(fact)

    def hear_of(self, gone: Gone) -> None:
        self._arrivals.put_nowait(gone)

    async def _work(self) -> None:
        while True:
            what = await self._arrivals.get()
            if isinstance(what, asyncio.Future):
                if not what.done():
                    what.set_result(None)
            elif isinstance(what, Fetched):
                self._later(self.engine.learn(what))
            elif isinstance(what, Gone):
                await sessions.peer_left(self.engine, what.address)
            else:
                await self._open(*what)

    async def _open(self, entry: Archived, via: str, number: int | None) -> None:
        arrived = self._read(entry, via)
        if arrived is None:
            return
        try:
            received = await self.engine.receive(arrived)
            if number is not None:
                await self._keep(number + 1)
        except StoreError:
            await self.close()  # the archive keeps it until the store works again
            raise
        opened = received.opened
        if received.inbox is None and opened.error:
            self._notice(Notice(arrived.stanza.sender.bare, f"a message can't be read: {opened.error}"))
        self._later(self.engine.after_receiving(opened))

    async def _keep(self, position: int) -> None:
        def step(s: State) -> Done[None]:
            s.put(_POSITION, str(position).encode())
            return Done(None)

        await self.engine.drive(step)

    def _read(self, entry: Archived, via: str) -> Arrived | None:
        """The sealed element of a stanza, or the error that came instead; None if there is none that is ours to
        open."""
        try:
            stanza = xml.parse(entry.stanza)
        except Malformed:
            return None
        tags = {tag: scheme.name for scheme in self.engine.schemes.values() for tag in scheme.tags}
        type_ = stanza.get("type", "")
        if type_ == "error" and stanza.tag == _MESSAGE and sessions.of_engine(self.engine) is not None:
            tags[_ERROR] = ESession.name
        sealed = [child for child in stanza if child.tag in tags]
        if (len(sealed) != 1 and type_ != "error") or not sealed:
            return None
        origin = stanza.find(_ORIGIN_ID)
        stanza_id = stanza.get("id", "") if origin is None else origin.get("id", "")
        siblings = tuple(xml.serialise(child) for child in stanza if child is not sealed[0] or type_ == "error")
        stamp = entry.at if via == "archive" else None
        around = Stanza(_KINDS[stanza.tag], entry.sender, entry.to, type_, stanza_id, stamp, siblings, via)
        return Arrived(xml.serialise(sealed[0]), around, tags[sealed[0].tag])

    def _later(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _require_connection(self) -> None:
        if self not in self._server._online:
            raise Unreachable("There is no connection.")


def _bounce(element: xml.Element, to: Address) -> bytes:
    """What a server answers for somebody who is not there (RFC 6121 section 8.5.3.2)."""
    name = _KINDS[element.tag].encode()
    attributes = (("type", "error"), ("to", to), ("from", element.get("to", "")), ("id", element.get("id", "")))
    return b"<%b xmlns='jabber:client'%b>%b</%b>" % (
        name,
        b"".join(b" %b=%b" % (key.encode(), xml.attribute(value)) for key, value in attributes if value),
        b"<error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>",
        name,
    )
