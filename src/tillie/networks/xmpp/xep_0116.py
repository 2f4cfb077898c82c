"""XEP-0116 (Encrypted Session Negotiation) as a slixmpp plugin on Tillie's engine and store.

    client.register_plugin("xep_0116", {"store": path, "key": key}, module="tillie.networks.xmpp.xep_0116")
    session = await client.plugin["xep_0116"].start("bob@example.org")
    print(session.string)                             # to be compared with Bob's

From then on everything that the program sends to `session.peer` is sealed. Options, methods and events are in
docs/xmpp.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, ClassVar

from slixmpp import JID
from slixmpp.exceptions import IqError, IqTimeout
from slixmpp.plugins import BasePlugin
from slixmpp.plugins.base import register_plugin
from slixmpp.stanza import Iq

from tillie.errors import NegotiationFailed
from tillie.model import Address
from tillie.negotiation import element
from tillie.networks.xmpp import xep_0200
from tillie.networks.xmpp.core import OPTIONS, bring, core_of
from tillie.schemes.esession.sessions import Session
from tillie.sessions import START_SECONDS, Answer, Sessions
from tillie.wire import address

FEATURE = "http://www.xmpp.org/extensions/xep-0116.html#ns"
LOOK_SECONDS = 5.0  # for a client to say what it supports
MAX_RESOURCES = 8  # clients of somebody that are asked
# What only the form of an ESession has (XEP-0116 section 4): other negotiations are for others.
_FIELDS = frozenset({"modp", "dhkeys", "dhhashes", "my_nonce", "nonce", "crypt_algs"})
_FIELD = f"{{{element.FEATURE}}}feature/{{jabber:x:data}}x/{{jabber:x:data}}field"


class XEP_0116(BasePlugin):
    """Negotiates sessions. `answer` says whose offers are taken without asking: "contacts" (who sees our presence),
    "everyone", "ask" (event `esession_offer` each time) or "nobody"."""

    name = "xep_0116"
    description = "XEP-0116: Encrypted Session Negotiation"
    dependencies: ClassVar[set[str]] = {"xep_0030", "xep_0115"}
    features: ClassVar[tuple[str, ...]] = (FEATURE,)
    default_config: ClassVar[dict[str, Any]] = {
        **OPTIONS, "settings": None, "transparent": True, "answer": Answer.CONTACTS.value,
    }  # fmt: skip

    def plugin_init(self) -> None:
        self.core = core_of(self)
        self.policy = Answer(self.answer)
        self.stanzas: xep_0200.XEP_0200 = bring(self, "xep_0200")
        self.sessions: Sessions = self.stanzas.sessions
        self.scheme = self.stanzas.scheme
        self.sessions.reach = self.reach
        self.scheme.answers, self.scheme.asks = self._answers, self._asks
        self.stanzas.door.negotiates, self.stanzas.door.is_offer = True, is_offer
        self._contacts: frozenset[str] = frozenset()
        self._tasks: set[asyncio.Task[Any]] = set()
        client: Any = self.xmpp
        client.add_event_handler("esession_ready", self._online)
        client.add_event_handler("roster_update", self._roster)

    def plugin_end(self) -> None:
        client: Any = self.xmpp
        client.del_event_handler("esession_ready", self._online)
        client.del_event_handler("roster_update", self._roster)
        client.plugin["xep_0030"].del_feature(feature=FEATURE)
        self.stanzas.door.negotiates = False
        for task in self._tasks:
            task.cancel()
        self.core.leave(self)

    def session_bind(self, jid: object) -> None:
        # XEP-0116 section 9: "If an entity supports ESessions, it MUST advertise that fact".
        self.xmpp.plugin["xep_0030"].add_feature(FEATURE)

    # -- what programs call -------------------------------------------------------------------------------------------

    async def start(self, jid: object, *, wait: float = START_SECONDS) -> Session:
        """Agree on a session with a full JID, or with a client of a bare one that can. The open one, if there is one.

        Raises `NegotiationFailed`. Who has to ask a person may take long: give a longer `wait`.
        """
        session = await self.sessions.start(address.parse(str(jid)), wait=wait)
        await self.stanzas.door.refresh()
        return session

    async def accept(self, thread: str, *, wait: float = START_SECONDS) -> Session:
        """Say yes to an offer (event `esession_offer`), and wait until the session is open."""
        return await self.sessions.accept(thread, wait=wait)

    async def decline(self, thread: str, reason: str = "") -> None:
        await self.sessions.decline(thread, reason)

    async def confirm(self, thread: str, *, same: bool = True) -> None:
        """A person compared the short string with the peer's, over another way: verified, or distrusted."""
        await self.sessions.confirm(thread, same=same)

    async def rekey(self, thread: str) -> None:
        await self.stanzas.rekey(thread)

    async def end(self, thread: str) -> Session:
        return await self.stanzas.end(thread)

    async def end_all(self) -> None:
        """End all sessions of this connection. Do this before the client disconnects, or use `leave`."""
        await self.stanzas.end_all()

    async def leave(self) -> None:
        """End all sessions, then disconnect."""
        await self.stanzas.leave()

    async def supports(self, jid: object) -> bool:
        """Whether the client with this full JID says that it negotiates sessions."""
        disco = self.xmpp.plugin["xep_0030"]
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                info = await disco.get_info(jid=JID(str(jid)), cached=True)
        except (IqError, IqTimeout, TimeoutError):
            return False
        # What slixmpp has kept comes without the IQ around it.
        return FEATURE in (info["disco_info"] if isinstance(info, Iq) else info)["features"]

    async def reach(self, bare: Address) -> Address:
        """The client of somebody that can have a session, of those that we see online, by priority; the bare address if
        we see none: then the server decides who gets the offer. Raises `NegotiationFailed` if none of them can."""
        online = self._online_resources(bare)
        if not online:
            return bare
        able = await asyncio.gather(*(self.supports(each) for each in online))
        for each, can in zip(online, able, strict=True):
            if can:
                return each
        raise NegotiationFailed(f"No client of {bare} that is online has encrypted sessions.")

    def _online_resources(self, bare: Address) -> list[Address]:
        client: Any = self.xmpp
        roster = client.client_roster
        if not roster.has_jid(bare):
            return []
        own = client.boundjid.resource if bare == self.core.account else None
        found = [(each.get("priority") or 0, name) for name, each in roster[bare].resources.items() if name != own]
        ranked = sorted((row for row in found if row[1]), reverse=True)
        return [address.parse(f"{bare}/{name}") for _, name in ranked[:MAX_RESOURCES]]

    # -- whom we answer -----------------------------------------------------------------------------------------------

    def _answers(self, peer: Address) -> bool:
        """XEP-0155 section 8: an answer, even an error, tells that we are online."""
        if self.policy is Answer.CONTACTS:
            return peer.bare == self.core.account or peer.bare in self._contacts
        return self.policy is Answer.EVERYONE

    def _asks(self, peer: Address) -> bool:
        return self.policy is not Answer.NOBODY

    def _online(self, _: object) -> None:
        if self.policy is Answer.CONTACTS:
            self._later(self._ask_for_roster())

    async def _ask_for_roster(self) -> None:
        client: Any = self.xmpp
        try:
            await client.get_roster()
        except (IqError, IqTimeout):
            return  # nobody is a contact then, and every offer waits for a person

    def _roster(self, _: object) -> None:
        """slixmpp calls this before it takes the roster in."""
        self.xmpp.loop.call_soon(self._read_roster)

    def _read_roster(self) -> None:
        roster: Any = self.xmpp.client_roster
        self._contacts = frozenset(str(jid) for jid in roster if roster[jid]["subscription"] in ("from", "both"))
        self._later(self._answer_waiting())

    async def _answer_waiting(self) -> None:
        """Offers that came before the roster did."""
        for session in await self.sessions.all():
            if session.state == "asked" and session.own == self.core.engine.own and self._answers(session.peer):
                await self.sessions.accept(session.thread, wait=0.0)

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def is_offer(stanza: Any) -> bool:
    """Whether the negotiation in a message is one of an encrypted session."""
    if stanza.xml.find(f"{{{element.INIT}}}init") is not None:
        return True
    return any(field.get("var") in _FIELDS for field in stanza.xml.iterfind(_FIELD))


register_plugin(xep_0200.XEP_0200)
register_plugin(XEP_0116)
