"""Where a slixmpp program's own stanzas go into encrypted sessions, and come out of them again, without its doing.

Out: a stanza to a full JID with which there is a session is taken off its way, sealed in its turn, and goes through the
outbox. In: what opens is handed to slixmpp as if it had come in plain, so that handlers, plugins and waiting requests
never know; it is an instance of `InSession`, which tells programs that ask.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from slixmpp.stanza import Iq, Message, Presence

from tillie.engine import Engine, Received
from tillie.errors import SessionEnded, TillieError, UsageError
from tillie.model import Address, Changed, Done, Kind, Need, Notice, Sealed, State
from tillie.networks.xmpp.elements import CLIENT, STANZAS, address_of, as_delivered, only
from tillie.networks.xmpp.incoming import Incoming
from tillie.networks.xmpp.opened import SESSION_CLASSES, InSession, build, build_in_session, delivery_of
from tillie.networks.xmpp.receiver import Receiver
from tillie.schemes.esession.scheme import ESession
from tillie.schemes.esession.sessions import Session
from tillie.sessions import Sessions

MAX_ASKED = 1_000  # sealed requests that are not answered yet, the newest of each direction
_ERROR = f"{{{CLIENT}}}error"
_ANSWERS = ("result", "error")
_SILENT = frozenset({Kind.EMPTY, Kind.DUPLICATE, Kind.NOT_FOR_US})  # what is to be told of it, an effect tells


class Refused(NamedTuple):
    """A stanza that was not handed on, and why: it came in plain from somebody who agreed to seal everything, or it was
    an answer to something sealed and the session was over before it went out."""

    stanza: Any
    why: str


class _Outgoing(NamedTuple):
    """A stanza that waits to be sealed. `thread` is of the session in which alone it may go, "" for any with `to`;
    `sealed_only`: never in plain. `done` is told what came of it, if somebody waits."""

    stanza: Any
    to: Address
    thread: str
    sealed_only: bool
    done: asyncio.Future[Sealed] | None = None


class Door:
    """The way in and out of one client's sessions."""

    def __init__(
        self,
        client: Any,
        engine: Engine,
        scheme: ESession,
        receiver: Receiver,
        sessions: Sessions,
        notice: Callable[[Notice], None],
        *,
        transparent: bool = True,
    ) -> None:
        self.scheme = scheme.name
        self.negotiates = False  # else offers are for nobody here
        self._transparent = transparent  # else only what the program says is sealed, and answers
        self._client = client
        self._engine = engine
        self._esession = scheme
        self._receiver = receiver
        self._sessions = sessions
        self._notice = notice
        self._live: dict[Address, Session] = {}  # by the peer, bare as long as nobody answered
        self._threads: frozenset[str] = frozenset()
        self._closed: dict[Address, str] = {}  # peers whose session ended without our doing, and why
        self._ours_to_end: set[str] = set()  # threads that the program wants to end
        self._heard: set[str] = set()  # threads in which something sealed has come
        self._asked: OrderedDict[tuple[str, str], str] = OrderedDict()  # sealed requests of ours, by peer and id
        self._owed: OrderedDict[tuple[str, str], str] = OrderedDict()  # ... of a peer, and the thread they came in
        self._out: asyncio.Queue[_Outgoing] = asyncio.Queue()
        self._sealing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._unfollow = engine.follow(self._changed)
        client.add_filter("out", self._leave)
        receiver.give(self)

    def close(self) -> None:
        self._unfollow()
        self._receiver.give(None)
        self._client.del_filter("out", self._leave)
        for task in (self._sealing, *self._tasks):
            if task is not None:
                task.cancel()

    # -- which sessions there are -------------------------------------------------------------------------------------

    def _changed(self, change: Changed) -> None:
        if change.scheme == self.scheme:
            self._later(self.refresh())

    async def refresh(self) -> None:
        """Look at the sessions of this connection. Whoever may have one is known before it is open: its first stanza
        waits for the store, like this."""
        mine = {each.thread: each for each in await self._sessions.all() if each.own == self._engine.own}
        live = sorted((each for each in mine.values() if not each.over), key=lambda each: each.started)
        before, self._live = self._live, {session.peer: session for session in live}
        for session in before.values():
            if session.active and session.peer not in self._live and session.thread not in self._ours_to_end:
                now = mine.get(session.thread)
                self._closed[session.peer] = (now.why if now else "") or "it ended"
            if session.active and session.peer not in self._live:
                self._give_up(session.peer)
        for session in live:
            if session.active:
                self._closed.pop(session.peer, None)
        self._threads = frozenset(session.thread for session in live)
        self._heard &= self._threads
        self._ours_to_end &= self._threads

    def ends(self, thread: str) -> None:
        """The program ends this session, or all ("*"): what it sends later may go in plain."""
        self._ours_to_end |= self._threads if thread == "*" else {thread}

    def allow_plain(self, peer: Address) -> None:
        """The program knows that there is no session with this full JID any more."""
        self._closed.pop(peer, None)

    def knows(self, peer: Address) -> bool:
        """Whether there may be a session with a full JID, or was one that the program may think is there."""
        return peer in self._live or peer in self._closed or (peer.bare in self._live and bool(peer.resource))

    # -- out ----------------------------------------------------------------------------------------------------------

    def _leave(self, stanza: Any) -> Any:
        """A filter for outgoing stanzas: those that may belong to a session wait for their turn."""
        if not isinstance(stanza, (Message, Presence, Iq)) or getattr(stanza, "outbox_id", None) is not None:
            return stanza
        to = address_of(stanza.xml, "to", self._engine.account)
        if to is None or not to.resource:
            return stanza
        thread = self._question_of(stanza, to)
        if stanza["type"] == "error":
            return stanza if thread is None else _bare_error(stanza)
        sealed_only = thread is not None or getattr(stanza, "sealed_only", False)
        if not sealed_only and (not self._transparent or not self.knows(to) or self._is_sealed(stanza)):
            return stanza
        self._put(_Outgoing(stanza, to, thread or "", sealed_only))
        return None

    def _question_of(self, stanza: Any, to: Address) -> str | None:
        """The thread of the session in which came what this answers, None if it answers nothing of the kind."""
        owed = (
            self._owed.pop((to, stanza["id"]), None) if isinstance(stanza, Iq) and stanza["type"] in _ANSWERS else None
        )
        return stanza.session if isinstance(stanza, InSession) else owed

    def _is_sealed(self, stanza: Any) -> bool:
        return any(child.tag in self._receiver.tags for child in stanza.xml)

    def _put(self, item: _Outgoing) -> None:
        if not item.stanza["id"]:
            item.stanza["id"] = self._client.new_id()
        self._out.put_nowait(item)
        if self._sealing is None or self._sealing.done():
            self._sealing = asyncio.ensure_future(self._seal_all())

    async def send(self, stanza: Any) -> Sealed:
        """Seal this stanza in its turn and send it. Raises `SessionEnded`, and what sealing raises."""
        to = address_of(stanza.xml, "to", self._engine.account)
        if to is None or not to.resource:
            raise UsageError("A session is with a full JID.")
        done: asyncio.Future[Sealed] = asyncio.get_running_loop().create_future()
        self._put(_Outgoing(stanza, to, "", True, done))
        return await done

    async def request(self, iq: Any, wait: float) -> Any:
        """As `send`, and the answer, which must come sealed. Raises `IqError` and `IqTimeout` besides."""
        to = address_of(iq.xml, "to", self._engine.account)
        if to is None or await self._sessions.with_peer(to) is None:
            raise SessionEnded(f"There is no session with {to}.")
        iq.sealed_only = True
        return await iq.send(timeout=wait)

    async def _seal_all(self) -> None:
        """One after the other, in the order in which the program sent them."""
        while True:
            item = await self._out.get()
            try:
                await self._seal(item)
            except TillieError as error:
                self._not_sent(item, error)
            except Exception as error:  # noqa: BLE001  a fault of ours in one stanza must not stop all others
                self._client.exception(error)
                self._not_sent(item, UsageError("It could not be sealed."))
            self._out.task_done()

    async def _seal(self, item: _Outgoing) -> None:
        stanza, to = item.stanza, item.to
        data = as_delivered(stanza.xml)

        def step(s: State) -> Done[Sealed | None] | Need:
            session = self._esession.with_peer(s, to)
            if session is not None and session.own == self._engine.own:
                if stanza.name in session.stanzas and item.thread in ("", session.thread):
                    return self._esession.seal_stanza(s, data, self._engine.now(), policy=self._engine.policy)
            elif not item.sealed_only:
                self._require_plain_is_meant(stanza, to)
            if item.sealed_only:
                raise SessionEnded(f"There is none with {to} that could take it.")
            return Done(None)

        is_question = isinstance(stanza, Iq) and stanza["type"] in ("get", "set")
        if is_question:  # before it is out: the answer may come at once
            _remember(self._asked, (to, stanza["id"]), "")
        sealed = await self._engine.drive(step)
        if sealed is None:
            self._asked.pop((to, stanza["id"]), None)
            stanza.outbox_id = ""  # no session after all: it goes on as it is
            self._client.send(stanza)
        elif item.done is not None and not item.done.done():
            item.done.set_result(sealed)

    def _require_plain_is_meant(self, stanza: Any, to: Address) -> None:
        """There is no session. Whoever broke it must not get in plain what the program sends into it. An answer to what
        came in plain may go in plain."""
        known = self._live.get(to)
        was_open = known is not None and known.active and known.thread not in self._ours_to_end
        if (was_open or to in self._closed) and not (isinstance(stanza, Iq) and stanza["type"] == "result"):
            raise SessionEnded(f"The one with {to} is over: {self._closed.get(to, 'it ended')}.")

    def _not_sent(self, item: _Outgoing, error: TillieError) -> None:
        """Never in plain instead. Whoever waits for an answer is told now."""
        stanza, why = item.stanza, str(error)
        self._asked.pop((item.to, stanza["id"]), None)
        if item.done is not None:
            if not item.done.done():
                item.done.set_exception(error)
            return
        self._client.event(f"{self.scheme}_refused", Refused(stanza, why))
        if isinstance(stanza, Iq) and stanza["type"] in ("get", "set"):
            self._fail(item.to, stanza["id"], why)

    def _fail(self, peer: str, iq_id: str, why: str) -> None:
        """Whoever waits for the answer to this request gets an error."""
        answer: Any = SESSION_CLASSES["iq"](self._client, recv=True)
        answer["from"], answer["id"], answer["type"] = peer, iq_id, "error"
        answer["error"]["condition"], answer["error"]["text"] = "not-acceptable", why
        self._client.recv_stanza(answer)

    def _give_up(self, peer: Address) -> None:
        """The session is over: no answer to what was asked in it can come any more."""
        for whom, iq_id in [key for key in self._asked if key[0] == peer]:
            del self._asked[whom, iq_id]
            self._fail(whom, iq_id, "The session ended before the answer came.")

    async def sent(self) -> None:
        """Returns when everything that the program has sent up to now is sealed, and in the outbox."""
        await self._client.waiting_queue.join()
        await self._out.join()

    # -- in -----------------------------------------------------------------------------------------------------------

    def takes(self, stanza: Any) -> bool:
        """Whether this stanza, which holds an element of the scheme, is for a session of it; else others get it."""
        if any(child.tag == self._esession.tags[0] for child in stanza.xml):
            return True
        thread = only(stanza.xml, f"{{{CLIENT}}}thread")
        known = thread is not None and thread.text in self._threads
        return self.negotiates and (known or self.is_offer(stanza))

    is_offer: Callable[[Any], bool] = staticmethod(lambda stanza: True)

    def opened(self, incoming: Incoming, received: Received) -> None:
        """What came sealed, or tried to. It is committed."""
        around, opened = incoming.arrived.stanza, received.opened
        if opened.kind is Kind.OPENED:
            stanza = build_in_session(self._client, delivery_of(opened, around), around, row=received.inbox)
            if not stanza.session and around.sender in self._live:
                stanza.session = self._live[around.sender].thread  # IQs and presences don't say
            self._heard.add(stanza.session)
            if around.kind == "iq":
                if around.type in _ANSWERS:
                    self._asked.pop((around.sender, around.id), None)
                else:
                    _remember(self._owed, (around.sender, around.id), stanza.session)
            self._client.recv_stanza(stanza)
            self._later(self._tell(stanza.name, stanza))
            return
        if around.kind == "iq" and around.type in ("get", "set"):
            self._receiver.refuse(around)
        if opened.kind not in _SILENT and around.type != "error":
            stanza = build(self._client, delivery_of(opened, around), around, row=received.inbox)
            self._later(self._tell("unreadable", stanza))

    async def _tell(self, what: str, stanza: Any) -> None:
        await self._client.event_async(f"{self.scheme}_{what}", stanza)
        if stanza.row is not None and (self._receiver.acknowledges or stanza.name != "message"):
            await self._engine.acknowledge(stanza.row)

    def refuses(self, stanza: Any) -> bool:
        """Whether this plain stanza must not reach the program: "only encrypted forms of the stanza types that were
        agreed MUST be exchanged" (XEP-0116 section 5.5). Else a server could slip something in.

        Presence is told by servers, and errors come from them. What a responder's peer had sent before it could seal
        is let through.
        """
        sender = address_of(stanza.xml, "from", self._engine.account)
        if sender is None or not sender.resource or stanza["type"] == "error":
            return False
        if isinstance(stanza, Iq) and stanza["type"] == "result":
            return self._refuse(stanza, sender) if (sender, stanza["id"]) in self._asked else False
        session = self._live.get(sender)
        if session is None or not session.active or isinstance(stanza, Presence) or stanza.name not in session.stanzas:
            return False
        if session.role == "responder" and session.thread not in self._heard:
            return False
        return self._refuse(stanza, sender)

    def _refuse(self, stanza: Any, sender: Address) -> bool:
        why = "it came in plain, though there is an encrypted session"
        self._client.event(f"{self.scheme}_refused", Refused(stanza, why))
        self._notice(Notice(sender.bare, f"a {stanza.name} was not accepted: {why}"))
        if isinstance(stanza, Iq) and stanza["type"] in ("get", "set"):
            request: Any = stanza
            reply = request.reply()
            reply["error"]["condition"] = "not-acceptable"
            reply.send()
        return True

    def _later(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _remember(where: OrderedDict[tuple[str, str], str], key: tuple[str, str], value: str) -> None:
    where[key] = value
    while len(where) > MAX_ASKED:
        where.popitem(last=False)


def _bare_error(stanza: Any) -> Any:
    """An error is never sealed (XEP-0200 section 5): it says what failed, and nothing of what was asked or answered."""
    for child in list(stanza.xml):
        if child.tag != _ERROR:
            stanza.xml.remove(child)
            continue
        for part in list(child):
            if not part.tag.startswith(f"{{{STANZAS}}}") or part.tag == f"{{{STANZAS}}}text":
                child.remove(part)
    return stanza
