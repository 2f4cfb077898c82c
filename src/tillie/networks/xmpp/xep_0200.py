"""XEP-0200 (Stanza Encryption) as a slixmpp plugin: what a program sends to a full JID with which it has a session is
sealed, and what comes is opened, whatever the stanza is.

    client.register_plugin("xep_0200", {"store": path, "key": key}, module="tillie.networks.xmpp.xep_0200")
    await client.plugin["xep_0200"].open_session(peer, thread, out=..., into=..., ...)

Usable alone with keys from elsewhere; `xep_0116` agrees on them. Methods and events are in docs/xmpp.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

from slixmpp.plugins import BasePlugin
from slixmpp.plugins.base import register_plugin
from slixmpp.stanza import Iq, Presence

from tillie import sessions
from tillie.engine import Engine
from tillie.errors import SessionEnded
from tillie.model import Address, Changed, Sealed
from tillie.networks.xmpp.core import OPTIONS, core_of
from tillie.networks.xmpp.door import Door
from tillie.networks.xmpp.network import TIMEOUT
from tillie.schemes.esession import channel
from tillie.schemes.esession.scheme import ESession
from tillie.schemes.esession.sessions import Session
from tillie.schemes.esession.settings import STANZAS, Settings
from tillie.sessions import END_SECONDS, Sessions
from tillie.wire import address


class XEP_0200(BasePlugin):
    """Sessions of one client. `sessions` is all that can be done with them, in Tillie's own terms."""

    name = "xep_0200"
    description = "XEP-0200: Stanza Encryption"
    dependencies: ClassVar[set[str]] = {"xep_0030", "xep_0115"}
    default_config: ClassVar[dict[str, Any]] = {**OPTIONS, "settings": None, "transparent": True}

    def plugin_init(self) -> None:
        self.core = core_of(self)
        self.scheme = ESession(self.core.account, self.settings or Settings())
        self.core.use(self.scheme)
        self.sessions = Sessions(self.core.engine, self.scheme, online=lambda: self.core.network.online)
        core = self.core
        self.door = Door(
            self.xmpp, core.engine, self.scheme, core.receiver, self.sessions, core.notice, transparent=self.transparent
        )
        self._unfollow = self.core.engine.follow(self._changed)
        self._told: dict[str, str] = {}  # the state of each session that programs were told of
        self._tasks: set[asyncio.Task[None]] = set()
        client: Any = self.xmpp
        client.add_event_handler("esession_ready", self._online)
        client.add_event_handler("session_end", self._gone)
        client.add_event_handler("presence_unavailable", self._left)

    def plugin_end(self) -> None:
        client: Any = self.xmpp
        client.del_event_handler("esession_ready", self._online)
        client.del_event_handler("session_end", self._gone)
        client.del_event_handler("presence_unavailable", self._left)
        self._unfollow()
        self.door.close()
        self.sessions.stop()
        for task in self._tasks:
            task.cancel()
        self.core.leave(self, self.scheme)

    @property
    def engine(self) -> Engine:
        return self.core.engine

    # -- sessions -----------------------------------------------------------------------------------------------------

    async def open_session(
        self, to: object, thread: str, *, stanzas: Sequence[str] = STANZAS, **parameters: Any
    ) -> Session:
        """A session with a full JID, from parameters that both sides have already: those of XEP-0200 section 3, as
        `tillie.schemes.esession.channel.begin` takes them. Each side's `out` is the other's `into`."""
        engine, own = self.core.engine, self._own()
        made = channel.begin(**parameters, now=engine.now())
        peer = address.parse(str(to))
        await engine.drive(lambda s: self.scheme.install(s, made, own, peer, thread, tuple(stanzas), engine.now()))
        await self.door.refresh()
        return await self.sessions.get(thread)

    def _own(self) -> Address:
        """Our full JID on this connection. Raises `SessionEnded` if there is none."""
        if self.core.engine.own is None:
            raise SessionEnded("We are not online.")
        return self.core.engine.own

    async def rekey(self, thread: str) -> None:
        """New keys for the session from now on (XEP-0200 section 6)."""
        await self.sessions.rekey(thread)

    async def end(self, thread: str, *, wait: float = END_SECONDS) -> Session:
        """End a session: what was sent before goes out before, and the acknowledgement is awaited."""
        await self.door.sent()
        self.door.ends(thread)
        return await self.sessions.end(thread, wait=wait)

    async def end_all(self, *, wait: float = END_SECONDS) -> None:
        """End all sessions of this connection. Do this before the client disconnects, or use `leave`."""
        if self.core.network.online:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.door.sent(), wait)
            self.door.ends("*")
            await self.sessions.end_all(wait=wait)

    def allow_plain(self, peer: object) -> None:
        """Send in plain again to a full JID. When a session ends that this program did not end, nothing goes to its
        peer in plain until this is called, or a new session is there (event `esession_refused`)."""
        self.door.allow_plain(address.parse(str(peer)))

    async def leave(self) -> None:
        """End all sessions, then disconnect."""
        await self.end_all()
        client: Any = self.xmpp
        await client.disconnect()

    # -- stanzas, for programs that want to choose ---------------------------------------------------------------------

    async def send_sealed(self, stanza: Any) -> Sealed:
        """Send a message, presence or IQ in the session with its recipient, a full JID. Raises `SessionEnded` where
        there is none; without this method the stanza would go out in plain."""
        return await self.door.send(stanza)

    async def send_sealed_iq(self, iq: Iq, *, wait: float = TIMEOUT) -> Any:
        """Send a request in the session with its recipient, and wait for the answer. Raises `IqError`, `IqTimeout`,
        `SessionEnded`."""
        return await self.door.request(iq, wait)

    # -- what happens -------------------------------------------------------------------------------------------------

    def _online(self, _: object) -> None:
        self.sessions.keep()
        self._later(self.door.refresh())

    def _gone(self, _: object) -> None:
        """For good. A connection that is only cut can be resumed, and its sessions with it."""
        self.sessions.rest()

    def _left(self, presence: Presence) -> None:
        """Behind what the peer had sent before it left."""
        peer = address.parse(str(presence["from"]))
        if self.door.knows(peer):
            self.core.receiver.in_turn(lambda: sessions.peer_left(self.core.engine, peer))

    def _changed(self, change: Changed) -> None:
        if change.scheme == self.scheme.name:
            self._later(self._tell(change.name))

    async def _tell(self, thread: str) -> None:
        """The event for what became of a session; `esession_changed` for whatever it was."""
        session = await self.sessions.get(thread)
        before = self._told.get(thread, "")
        if session.over:
            self._told.pop(thread, None)
        else:
            self._told[thread] = session.state
        client: Any = self.xmpp
        client.event("esession_changed", session)
        event = _EVENTS.get(session.state)
        if event is not None and session.state != before:
            client.event(event, session)

    def _later(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_EVENTS = {
    "asked": "esession_offer",
    "active": "esession_started",
    "ended": "esession_ended",
    "broken": "esession_ended",
    "failed": "esession_failed",
}

register_plugin(XEP_0200)
