"""Encrypted sessions as a program uses them: start, send, re-key, end, follow. On the engine, whatever the network.

A session lives in the store and belongs to one connection of ours. Another process of the account sees it, and what it
does with it waits in the outbox for that connection, which looks there while a session of its own is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from enum import Enum
from functools import partial

from tillie.engine import Engine
from tillie.errors import NegotiationFailed, SessionBroken, SessionEnded, StoreError, TillieError, UsageError
from tillie.model import Address, Changed, Content, Done, Notice, Sealed, State
from tillie.schemes.esession.scheme import ESession
from tillie.schemes.esession.sessions import ACTIVE, ASKED, BROKEN, FAILED, OPEN, PENDING, Session
from tillie.store import MemoryStore

START_SECONDS = 30.0  # until somebody must have answered; four stanzas on a slow way
END_SECONDS = 2.0  # for the acknowledgement of an end: whoever goes offline waits for it
BEAT_SECONDS = 30.0  # between two signs that our connection is there
LOOK_SECONDS = 0.5  # between two looks at what another process of the account did


class Answer(Enum):
    """Whose offer of a session is answered without asking a person. An answer tells that we are online."""

    CONTACTS = "contacts"  # who may see our presence anyway; others wait for a person
    EVERYONE = "everyone"
    ASK = "ask"  # a person is asked each time
    NOBODY = "nobody"  # and nobody is told


def bind(engine: Engine, own: Address | None) -> None:
    """The network says with which full JID we are connected; None: this connection is over for good."""
    engine.own = own
    scheme = of_engine(engine)
    if scheme is not None:
        scheme.own = own


async def begin(engine: Engine, own: Address, *, before: Address | None = None) -> None:
    """We are connected anew: what was open on our last connection (`before`), or on one with the same full JID, is
    over, because whoever was at the other end has been told that we left."""
    bind(engine, own)
    scheme = of_engine(engine)
    if scheme is None:
        return
    for session in await engine.drive(lambda s: Done(scheme.sessions(s))):
        if not session.over and session.own in (own, before):
            gone = partial(scheme.abandon, thread=session.thread, why="the connection broke", now=engine.now())
            await engine.drive(gone)


def of_engine(engine: Engine) -> ESession | None:
    """The engine's scheme of encrypted sessions, if it has one."""
    scheme = engine.schemes.get(ESession.name)
    return scheme if isinstance(scheme, ESession) else None


async def peer_left(engine: Engine, peer: Address) -> None:
    """A resource is not there any more: sessions with it are over."""
    scheme = of_engine(engine)
    if scheme is not None:
        await engine.drive(lambda s: scheme.peer_left(s, peer, engine.now()))


class Sessions:
    """One account's sessions. `keep` looks after those of this connection, `end_all` ends them. `reach` finds the
    client of somebody that a session can be with; without it the server decides who gets an offer."""

    def __init__(
        self,
        engine: Engine,
        scheme: ESession,
        *,
        reach: Callable[[Address], Awaitable[Address]] | None = None,
        online: Callable[[], bool] = lambda: True,
    ) -> None:
        self.engine = engine
        self.scheme = scheme
        self.reach = reach
        self._online = online
        self._waiters: list[Callable[[str], None]] = []
        self._unfollow = engine.follow(self._changed)
        self._keeper: asyncio.Task[None] | None = None
        self._seen: dict[str, Session] = {}

    # -- looking ------------------------------------------------------------------------------------------------------

    async def all(self) -> tuple[Session, ...]:
        """All sessions of the account that are not over, and those that were, for a while."""
        return await self.engine.drive(lambda s: Done(self.scheme.sessions(s)))

    async def get(self, thread: str) -> Session:
        """One session, open or over. Raises `SessionEnded` if nothing is known of it."""
        found = await self.engine.drive(lambda s: Done(self.scheme.session(s, thread)))
        if found is None:
            raise SessionEnded()
        return found

    async def with_peer(self, address: Address) -> Session | None:
        """The newest active session with a full JID, or with any resource of a bare one."""
        return await self.engine.drive(lambda s: Done(self.scheme.with_peer(s, address)))

    async def find(self, name: str | Address) -> Session:
        """An active session by its thread, or by whom it is with. Raises `SessionEnded`."""
        found = await self.engine.drive(lambda s: Done(self.scheme.session(s, name)))
        if found is None and isinstance(name, Address):
            found = await self.with_peer(name)
        if found is None or found.over:
            raise SessionEnded()
        return found

    # -- beginning ----------------------------------------------------------------------------------------------------

    async def start(self, to: Address, *, wait: float = START_SECONDS) -> Session:
        """Agree on a session with a full JID, or with a client of a bare one that can: its string is there to be
        compared. The one that this connection has already, if there is one.

        Raises `NegotiationFailed` with the reason, or because nobody answered in `wait` seconds: a person may have to
        be asked.
        """
        found = await self.with_peer(to)
        if found is not None and found.own == self.engine.own:
            return found
        if not to.resource and self.reach is not None:
            to = await self.reach(to)
        thread = await self.engine.drive(lambda s: self.scheme.start(s, to, self.engine.now()))
        return await self.agreed(thread, wait)

    async def agreed(self, thread: str, wait: float = START_SECONDS) -> Session:
        """The session when the negotiation is through. Raises as `start`."""
        session = await self._wait(thread, lambda session: session.state not in PENDING, wait)
        if session.instead:  # both began at once
            return await self.agreed(session.instead, wait)
        if session.state in PENDING:
            why = "there was no answer in time"
            await self.engine.drive(lambda s: self.scheme.abandon(s, thread, why, self.engine.now()))
            raise NegotiationFailed(f"{session.peer}: {why}.")
        if session.state == FAILED or (session.over and not session.string):
            raise NegotiationFailed(_reason(session))
        if session.over:
            raise SessionBroken(_reason(session))
        return session

    async def accept(self, thread: str, *, wait: float = START_SECONDS) -> Session:
        """Say yes to an offer that waits for a person, and wait until the session is open, unless `wait` is 0.
        Raises as `start`."""
        await self.engine.drive(lambda s: self.scheme.accept(s, thread, self.engine.now()))
        return await self.agreed(thread, wait) if wait else await self.get(thread)

    async def decline(self, thread: str, reason: str = "") -> None:
        """Say no to an offer that waits for a person."""
        await self.engine.drive(lambda s: self.scheme.decline(s, thread, reason, self.engine.now()))

    # -- an open one --------------------------------------------------------------------------------------------------

    async def send(self, to: Address, content: Content, *, message_id: str = "") -> Sealed:
        """Send a message in the session with `to`. Raises `SessionEnded` if there is none."""
        return await self.engine.send(to, content, message_id=message_id, scheme=self.scheme.name)

    async def seal(self, stanza: bytes) -> Sealed:
        """Send a whole stanza to a full JID: its children are sealed, and it goes out in its turn. Raises
        `SessionEnded`, and for trust what every send raises."""
        engine = self.engine
        return await engine.drive(lambda s: self.scheme.seal_stanza(s, stanza, engine.now(), policy=engine.policy))

    async def rekey(self, thread: str) -> None:
        """New keys from now on: who learns today's keys can't read what is said later."""
        await self.engine.drive(lambda s: self.scheme.rekey(s, thread, self.engine.now()))

    async def confirm(self, thread: str, *, same: bool) -> None:
        """A person compared the strings. Raises `UsageError` for one that verifies nothing."""
        await self.engine.drive(lambda s: self.scheme.confirm(s, thread, same, self.engine.now()))

    async def end(self, thread: str, *, wait: float = END_SECONDS) -> Session:
        """End a session, and wait for the acknowledgement: it proves that nothing was lost on the way. The session as
        it is then, with why it ended. One of another connection that is gone is given up after the same time."""
        await self.engine.drive(lambda s: self.scheme.end(s, thread, self.engine.now()))
        session = await self._wait(thread, lambda session: session.over, wait)
        if not session.over:
            why = "ended, but the other side did not acknowledge it"
            await self.engine.drive(lambda s: self.scheme.abandon(s, thread, why, self.engine.now()))
            session = await self.get(thread)
        return session

    async def end_all(self, *, wait: float = END_SECONDS) -> None:
        """End the sessions of this connection: XEP-0200 section 9, "before going offline". Never raises: whatever can't
        be ended in order is given up."""
        try:
            mine = [session for session in await self.all() if session.own == self.engine.own and not session.over]
        except (StoreError, UsageError):
            return  # the store is gone, or closed: they can be neither read nor used any more
        await asyncio.gather(*(self._end(session, wait) for session in mine))

    async def _end(self, session: Session, wait: float) -> None:
        try:
            if session.state in OPEN:
                await self.end(session.thread, wait=wait)
                return
        except TillieError:
            pass  # it ended meanwhile
        with suppress(SessionEnded, StoreError):
            await self.engine.drive(lambda s: self.scheme.abandon(s, session.thread, "given up", self.engine.now()))

    # -- following ----------------------------------------------------------------------------------------------------

    async def changes(self) -> AsyncGenerator[Session]:
        """Every session as it is after each change, also of other processes where `keep` runs."""
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._waiters.append(queue.put_nowait)
        try:
            while True:
                with suppress(SessionEnded):
                    yield await self.get(await queue.get())
        finally:
            self._waiters.remove(queue.put_nowait)

    def _changed(self, change: Changed) -> None:
        if change.scheme == self.scheme.name:
            for waiter in tuple(self._waiters):
                waiter(change.name)

    async def _wait(self, thread: str, enough: Callable[[Session], bool], wait: float) -> Session:
        """The session when it is so far, or as it is after `wait` seconds. Another process may be the one that
        changes it, so that it is looked at now and then."""
        moved = asyncio.Event()

        def look(changed: str) -> None:
            if changed == thread:
                moved.set()

        self._waiters.append(look)
        deadline = asyncio.get_running_loop().time() + wait
        try:
            while True:
                moved.clear()
                session = await self.get(thread)
                left = deadline - asyncio.get_running_loop().time()
                if enough(session) or left <= 0:
                    return session
                with suppress(TimeoutError):
                    await asyncio.wait_for(moved.wait(), min(left, LOOK_SECONDS))
        finally:
            self._waiters.remove(look)

    # -- this connection ----------------------------------------------------------------------------------------------

    def keep(self) -> None:
        """As long as we are there: say so in the store, and send what other processes of the account sealed."""
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.ensure_future(self._keep())

    def rest(self) -> None:
        """Our connection is over for good."""
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None

    def stop(self) -> None:
        self.rest()
        self._unfollow()

    async def _keep(self) -> None:
        beaten = -BEAT_SECONDS
        while True:
            now = asyncio.get_running_loop().time()
            own = self.engine.own
            if own is not None and now - beaten >= BEAT_SECONDS:
                beaten = now
                await self.engine.drive(partial(self._beat, own=own))
            elif not isinstance(self.engine.store, MemoryStore):
                if self._online():
                    await self.engine.flush_bound()
                await self._look_around()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look_around(self) -> None:
        """What another process of the account did to sessions is told as if we had done it."""
        seen = {session.thread: session for session in await self.all()}
        for thread, session in seen.items():
            if self._seen.get(thread, session) != session:
                self._changed(Changed(self.scheme.name, thread))
        self._seen = seen

    def _beat(self, s: State, *, own: Address) -> Done[None]:
        return self.scheme.beat(s, own, self.engine.now())


def _reason(session: Session) -> str:
    return f"{session.peer}: {session.why.rstrip('.')}."


__all__ = ["ACTIVE", "ASKED", "BROKEN", "Answer", "Notice", "Session", "Sessions", "bind", "of_engine", "peer_left"]
