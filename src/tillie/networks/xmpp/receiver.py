"""The way in: stanzas are taken off the stream in order, opened and committed one by one, then told to the program.

A stanza counts as handled towards the server (XEP-0198) when that commit is done, not before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Container, Coroutine
from typing import Any, Protocol

from slixmpp.stanza import Iq, Message, Presence

from tillie.engine import Engine, Received
from tillie.envelope import policy
from tillie.errors import Refused, StoreError, TillieError
from tillie.model import Fact, Kind, Notice, Opened, Stanza
from tillie.networks.xmpp import catch_up
from tillie.networks.xmpp.acknowledgements import Handled, Hold
from tillie.networks.xmpp.catch_up import Position
from tillie.networks.xmpp.elements import to_bytes
from tillie.networks.xmpp.incoming import Incoming, Reader
from tillie.networks.xmpp.opened import InSession, OpenedIq, build, delivery_of

HIGH_WATER = 256  # stanzas that wait to be opened; then nothing more is read from the connection
LOW_WATER = 32

Work = Callable[[], Awaitable[None]]


class Door(Protocol):
    """Where the stanzas of sessions come in that belong to one resource (`scheme`): they are given back to the program
    as if they had come in plain, each in its turn."""

    scheme: str

    def takes(self, stanza: Any) -> bool:
        """Whether this stanza, which holds an element of the scheme, is for a session of it; else others get it."""

    def opened(self, incoming: Incoming, received: Received) -> None:
        """What came sealed, or tried to. It is committed."""

    def refuses(self, stanza: Any) -> bool:
        """Whether this plain stanza must not reach the program: its sender agreed to seal everything."""


# Nothing to show, and nothing wrong.
_SILENT = frozenset({Kind.EMPTY, Kind.DUPLICATE, Kind.NOT_FOR_US})


class Receiver:
    """One client's incoming stanzas. `archive_id` is the newest message of our archive that was processed."""

    def __init__(
        self,
        client: Any,
        engine: Engine,
        handled: Handled,
        queries: Container[str],
        notice: Callable[[Notice], None],
        *,
        acknowledge: bool,
    ) -> None:
        self.archive_id = ""
        self.catching_up = False  # live messages are ahead of the archive: they don't move the position
        self.acknowledges = acknowledge  # ... what its handlers have seen
        self._client = client
        self._engine = engine
        self._handled = handled
        self._queries = queries
        self._notice = notice
        self._door: Door | None = None
        self.schemes_changed()
        self._waiting: asyncio.Queue[tuple[Any, Hold | None]] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None
        self._followers: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None
        self._behind: Opened | None = None
        self._paused = False
        self._replayed = False
        self._saved = ""
        client.add_filter("in", self._take)

    def schemes_changed(self) -> None:
        """The engine's schemes say what is sealed, and which notifications are for them."""
        schemes = self._engine.schemes.values()
        tags = {tag: scheme.name for scheme in schemes for tag in scheme.tags}
        self._reader = Reader(self._engine.account, tags, self._door.scheme if self._door else "")
        self._nodes: frozenset[str] = frozenset().union(*(scheme.watched for scheme in schemes))

    def give(self, door: Door | None) -> None:
        """Whoever takes what comes in sessions; None: nobody any more."""
        self._door = door
        self.schemes_changed()

    @property
    def tags(self) -> Container[str]:
        """The tags of sealed elements."""
        return self._reader.schemes

    def in_turn(self, work: Work) -> None:
        """Do this when everything that has arrived up to now is committed, and before what arrives later."""
        self._waiting.put_nowait((work, None))

    async def start(self) -> None:
        """From now on stanzas are opened. The first time, what the inbox still holds is told again, but for what came
        under a scheme that this program does not use."""
        if not self._replayed:
            self._replayed = True
            for row, delivery in await self._engine.inbox():
                if delivery.scheme not in self._engine.schemes:
                    continue
                if delivery.stanza == "iq":  # whoever asked has long stopped waiting
                    await self._engine.acknowledge(row)
                else:
                    self._tell(build(self._client, delivery, row=row))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.ensure_future(self._work())

    def stop(self) -> None:
        self._client.del_filter("in", self._take)
        for task in (self._worker, self._following, *self._followers):
            if task is not None:
                task.cancel()

    async def drained(self) -> None:
        """Returns when everything that has arrived up to now is committed."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((done, None))
        await done

    async def save_position(self) -> None:
        """Keep `archive_id`, so that the next catch-up begins there."""
        position = Position(time.time(), self.archive_id)
        await self._engine.drive(catch_up.saving(position))
        self._saved = self.archive_id

    # -- off the stream -----------------------------------------------------------------------------------------------

    def _take(self, stanza: Any) -> Any:
        """A filter for incoming stanzas; what it returns goes to slixmpp's other handlers."""
        if not isinstance(stanza, (Iq, Message, Presence)) or isinstance(stanza, InSession):
            return stanza
        found = self._reader.sealed(stanza.xml, self._queries)
        if found is None:
            return self._take_plain(stanza)
        if self._door is not None and found.arrived.scheme == self._door.scheme:
            return self._take_of_session(self._door, stanza, found)
        if isinstance(stanza, Iq):
            if stanza["type"] not in ("get", "set"):
                return stanza  # whoever asked opens it
            self._put(found)
            return None
        self._put(found)
        if found.arrived.stanza.via in ("live", "offline"):
            self._strip(stanza)
        return stanza

    def _take_plain(self, stanza: Any) -> Any:
        fact: Incoming | Fact | None = self._reader.bounced(stanza.xml)
        if fact is None and self._door is not None and self._door.refuses(stanza):
            return None
        if fact is None and isinstance(stanza, Message):
            fact = self._reader.notification(stanza.xml, self._nodes)
        if fact is not None:
            self._put(fact)
        return stanza

    def _take_of_session(self, door: Door, stanza: Any, found: Incoming) -> Any:
        if not door.takes(stanza):
            return stanza
        # A copy, or what the archive kept, was meant for another resource.
        if found.arrived.stanza.via in ("live", "offline"):
            self._put(found)
        return None

    def _strip(self, stanza: Any) -> None:
        """Take from a sealed stanza what only its sender may say: a server could have put a plain body beside it."""
        for child in list(stanza.xml):
            if child.tag in self._reader.schemes or child.tag.endswith("}encrypted"):
                continue
            if not policy.filter_siblings((to_bytes(child),))[0]:
                stanza.xml.remove(child)

    def _put(self, what: Incoming | Fact) -> None:
        self._waiting.put_nowait((what, self._handled.hold()))
        transport = self._client.transport
        if self._worker is not None and not self._paused and self._waiting.qsize() >= HIGH_WATER and transport:
            self._paused = True
            transport.pause_reading()

    async def _work(self) -> None:
        while True:
            what, hold = await self._waiting.get()
            if self._paused and self._waiting.qsize() <= LOW_WATER:
                self._resume_reading()
            later = False
            try:
                later = await self._process(what, hold)
            except StoreError as error:
                # What is not stored must not be acknowledged: the server keeps it until the store works again.
                self._say(str(error))
                self._client.abort()
                continue
            except Exception as error:  # noqa: BLE001  a fault of ours in one stanza must not stop all others
                self._client.exception(error)
            if hold is not None and not later:
                self._handled.release(hold)
            if self._waiting.empty() and (self._following is None or self._following.done()):
                self._following = asyncio.ensure_future(self._follow())

    def _resume_reading(self) -> None:
        self._paused = False
        if self._client.transport is not None:
            self._client.transport.resume_reading()

    # -- one by one ---------------------------------------------------------------------------------------------------

    async def _process(self, what: Any, hold: Hold | None) -> bool:
        """Nothing in here waits for the network: what we wait for may be behind what we have not read yet. True if it
        goes on by itself, and releases the hold when it is done."""
        if isinstance(what, asyncio.Future):
            if not what.done():
                what.set_result(None)
            return False
        if isinstance(what, Incoming):
            return await self._open(what, hold)
        if callable(what):
            await what()
            return False
        self._later(self._learn(what, hold))
        return True

    async def _learn(self, fact: Fact, hold: Hold | None) -> None:
        try:
            await self._engine.learn(fact)
        except TillieError as error:
            self._say(str(error))
        if hold is not None:
            self._handled.release(hold)

    async def _open(self, incoming: Incoming, hold: Hold | None) -> bool:
        if incoming.ambiguous:
            self._failed(incoming.arrived.stanza, "it has more than one sealed element")
            return False
        received = await self._engine.receive_now(incoming.arrived)
        if received is None:
            self._later(self._open_later(incoming, hold))
            return True
        self._opened(incoming, received)
        return False

    async def _open_later(self, incoming: Incoming, hold: Hold | None) -> None:
        """A public key of the sender is fetched first."""
        try:
            self._opened(incoming, await self._engine.receive(incoming.arrived))
        except StoreError as error:
            self._say(str(error))
            self._client.abort()
            return
        if hold is not None:
            self._handled.release(hold)
        await self._follow()

    def _opened(self, incoming: Incoming, received: Received) -> None:
        around, opened = incoming.arrived.stanza, received.opened
        if incoming.archive_id and not self.catching_up:
            self.archive_id = incoming.archive_id
        if self._door is not None and opened.scheme == self._door.scheme:
            self._door.opened(incoming, received)
        else:
            self._tell_of(around, received)
        if opened.kind is not Kind.DUPLICATE and opened.kind is not Kind.NOT_FOR_US:
            self._behind = _more_urgent(self._behind, opened)

    def _tell_of(self, around: Stanza, received: Received) -> None:
        opened = received.opened
        handled = opened.kind is Kind.OPENED and self._client.event_handled(f"{opened.scheme}_iq")
        if around.kind == "iq" and not handled:
            self.refuse(around)
        if opened.kind is Kind.EMPTY:
            self._client.event(f"{opened.scheme}_empty", opened)
        if opened.kind not in _SILENT:
            self._tell(build(self._client, delivery_of(opened, around), around, row=received.inbox))

    async def _follow(self) -> None:
        """Nothing waits: answers, a fresh bundle, a repair, the archive position; once for many messages."""
        try:
            while self._behind is not None or (not self.catching_up and self.archive_id != self._saved):
                behind, self._behind = self._behind, None
                if behind is not None:
                    await self._engine.after_receiving(behind)
                if not self.catching_up and self.archive_id != self._saved:
                    await self.save_position()
        except TillieError as error:
            self._say(str(error))
        except Exception as error:  # noqa: BLE001  a task of ours has no caller: slixmpp tells the program
            self._client.exception(error)

    def _say(self, text: str) -> None:
        self._notice(Notice(self._engine.account, text))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._followers.add(task)
        task.add_done_callback(self._followers.discard)

    def _failed(self, around: Stanza, why: str) -> None:
        self._notice(Notice(around.sender.bare, f"a message can't be read: {why}"))
        if around.kind == "iq":
            self.refuse(around)

    def _tell(self, stanza: Any) -> None:
        """The event for an opened stanza, or for one that failed; then it leaves the inbox."""
        self._later(self._tell_now(stanza))

    async def _tell_now(self, stanza: Any) -> None:
        delivery = stanza.delivery
        what = delivery.stanza if delivery.kind == Kind.OPENED.value else "failed"
        await self._client.event_async(f"{delivery.scheme}_{what}", stanza)
        if stanza.row is None:
            return
        if self.acknowledges or isinstance(stanza, OpenedIq):
            await self._engine.acknowledge(stanza.row)

    def refuse(self, request: Stanza) -> None:
        """RFC 6120 section 8.2.3: a request must be answered. The same for one that nobody handles, and one that does
        not open: the sender learns nothing about why."""
        reply = self._client.make_iq(id=request.id, ito=request.sender, itype="error")
        reply["error"]["condition"] = "service-unavailable"
        reply.send()

    async def open_answer(self, answer: Iq) -> OpenedIq:
        """The opened answer to a sealed request. Raises `Refused`."""
        incoming = self._reader.sealed(answer.xml)
        if incoming is None or incoming.ambiguous:
            raise Refused("The answer to a sealed request came in plain.")
        received = await self._engine.receive(incoming.arrived)
        if received.inbox is not None:
            await self._engine.acknowledge(received.inbox)
        if received.opened.kind is not Kind.OPENED:
            raise Refused(received.opened.error or received.opened.kind.value)
        around = incoming.arrived.stanza
        stanza: OpenedIq = build(self._client, delivery_of(received.opened, around), around)
        return stanza


def _more_urgent(before: Opened | None, opened: Opened) -> Opened:
    """Of two received messages, the one that entails more: a repair also flushes."""
    if before is not None and before.kind in (Kind.NO_SESSION, Kind.TAMPERED):
        return before
    return opened


__all__ = ["HIGH_WATER", "LOW_WATER", "Door", "Receiver"]
