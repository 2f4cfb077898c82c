"""XEP-0155 (Stanza Session Negotiation) as a slixmpp plugin: agree on how to talk before talking. Without encryption,
store or engine; what is negotiated lives in memory.

    client.register_plugin("xep_0155", module="tillie.networks.xmpp.xep_0155")
    session = await client.plugin["xep_0155"].offer("juliet@capulet.test")
    client.plugin["xep_0155"].send(session, "soft!")

Options, methods and events are in docs/xmpp.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from slixmpp.exceptions import IqError, IqTimeout
from slixmpp.plugins import BasePlugin
from slixmpp.plugins.base import register_plugin
from slixmpp.stanza import Message
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

from tillie.errors import SessionEnded, UsageError
from tillie.negotiation import element, options, session, threads
from tillie.negotiation.session import Move, Phase, State
from tillie.networks.xmpp.elements import CLIENT, address_of
from tillie.networks.xmpp.negotiations import ERROR_TAG, FEATURE_TAG, Negotiations, Review, Session
from tillie.wire import address
from tillie.wire.forms import Field
from tillie.wire.stanza import LIVE_HINTS

log = logging.getLogger(__name__)

FEATURE = options.SSN
CONTACTS, ASK = "contacts", "ask"
WAIT = 60.0  # seconds for an answer; a person may have to be asked


class XEP_0155(BasePlugin):
    """Offers sessions and answers offers. `supported` has the values that we can agree to, by field; `answer` says
    whose offers are answered at once: "contacts" (who sees our presence) or nobody's ("ask")."""

    name = "xep_0155"
    description = "XEP-0155: Stanza Session Negotiation"
    dependencies: ClassVar[set[str]] = {"xep_0030"}
    features: ClassVar[tuple[str, ...]] = (FEATURE,)
    default_config: ClassVar[dict[str, Any]] = {
        "supported": {
            "logging": ("may",),
            "disclosure": ("enabled",),
            "security": ("c2s", "none"),
            "multisession": ("0", "1"),
        },
        "answer": CONTACTS,
        "wait": WAIT,
    }
    supported: Mapping[str, Sequence[str]]
    answer: str
    wait: float

    def plugin_init(self) -> None:
        if self.answer not in (CONTACTS, ASK):
            raise UsageError(f"xep_0155's 'answer' is '{CONTACTS}' or '{ASK}'.")
        client: Any = self.xmpp
        self._all = Negotiations(client, self._supported, at_once=self.answer == CONTACTS, wait=self.wait)
        for name, tag, handle in (
            ("Tillie SSN", FEATURE_TAG, self._all.handle),
            ("Tillie SSN error", ERROR_TAG, self._all.handle_error),
        ):
            client.register_handler(Callback(name, MatchXPath(f"{{{CLIENT}}}message/{tag}"), handle))
        client.add_event_handler("session_start", self._online)
        client.add_event_handler("session_end", self._gone)

    def plugin_end(self) -> None:
        client: Any = self.xmpp
        for name in ("Tillie SSN", "Tillie SSN error"):
            client.remove_handler(name)
        client.del_event_handler("session_start", self._online)
        client.del_event_handler("session_end", self._gone)
        client.plugin["xep_0030"].del_feature(feature=FEATURE)
        self._all.close()

    def session_bind(self, jid: object) -> None:
        self.xmpp.plugin["xep_0030"].add_feature(FEATURE)

    @property
    def takers(self) -> list[Callable[[Any], bool]]:
        """Who else negotiates in this client: a message that one of these takes is left alone."""
        return self._all.takers

    # -- beginning ----------------------------------------------------------------------------------------------------

    async def offer(
        self,
        jid: object,
        fields: Iterable[Field] | None = None,
        *,
        immediate: bool = True,
        review: Review | None = None,
        wait: float | None = None,
    ) -> Session:
        """Ask for a session, and wait until it is open. `fields` are the parameters to negotiate; else all of
        `supported`. `immediate`: servers must not keep the offer for later. `review` decides, before the session is
        completed, whether what was chosen will do.

        Raises `NegotiationFailed` if it was rejected, can't be, or was not answered in time: then it is cancelled.
        """
        to = address.parse(str(jid))
        view, form = session.offer(self._all.own, to, threads.new(), self._fields(fields))
        asked = Session(view, review)
        await self._all.offer(asked, form, self._wait(wait), element.DROP_IF_STORED + LIVE_HINTS if immediate else b"")
        return asked

    async def accept(
        self, offered: Session, fields: Iterable[Field] | None = None, *, wait: float | None = None
    ) -> Session:
        """Say yes to an offer (event `xep_0155_offer`), and wait until it is complete. `fields` are our choices; else
        the best of what is `supported`. Raises `NegotiationFailed`."""
        chosen = self._all.choices(offered, offered.view.offer) if fields is None else fields
        await self._all.accept(offered, chosen, self._wait(wait))
        return offered

    def reject(self, offered: Session, reason: str = "") -> None:
        """Say no to an offer."""
        self._all.say(offered, Move.REJECT, *offered.view.reject(reason))

    def ignore(self, offered: Session) -> None:
        """Say nothing to an offer: whoever made it does not learn that we are here."""
        if offered.view.state is not State.ASKED:
            raise UsageError("Only an offer that waits for us can be ignored.")
        self._all.ignore(offered)

    def shows_presence_to(self, jid: object) -> bool:
        """Whether this account may know that we are online: it is subscribed to our presence."""
        return self._all.shows_presence_to(address.parse(str(jid)))

    # -- an open session ----------------------------------------------------------------------------------------------

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All sessions that are open or being negotiated."""
        return self._all.live

    def session_of(self, message: Message) -> Session | None:
        """The open session that a received message belongs to."""
        sender = address_of(message.xml, "from", self._all.own)
        found = self._all.get((sender.bare, message["thread"])) if sender else None
        return found if found is not None and found.phase is Phase.ACTIVE and found.peer == sender else None

    def send(self, open_session: Session, text: str) -> Message:
        """Send a text in a session. Raises `UsageError` while it is not open, or while it moves."""
        if open_session.phase is Phase.ENDED:
            raise SessionEnded
        if open_session.view.state is not State.ACTIVE:
            raise UsageError("The session is not open, or on its way to another resource.")
        client: Any = self.xmpp
        message: Message = client.make_message(open_session.peer, text, mtype="chat")
        message["thread"] = open_session.thread
        message.send()
        return message

    async def renegotiate(
        self, open_session: Session, fields: Iterable[Field], *, wait: float | None = None
    ) -> Session:
        """Ask for other parameters, and wait until they hold. Raises `NegotiationFailed` if the old ones stay, or if
        there is no answer yet."""
        view, form = open_session.view.renegotiate(self._fields(fields))
        await self._all.ask(open_session, Move.RENEGOTIATE, view, form, self._wait(wait))
        return open_session

    def agree(self, open_session: Session, fields: Iterable[Field] | None = None) -> None:
        """Say yes to other parameters (event `xep_0155_renegotiate`): they hold from now on."""
        theirs = open_session.view.theirs
        chosen = self._all.choices(open_session, theirs) if fields is None and theirs is not None else fields or ()
        self._all.agree(open_session, chosen)

    def decline(self, open_session: Session) -> None:
        """Say no to other parameters."""
        self._all.decline(open_session)

    async def move(self, open_session: Session, resource: str, *, wait: float | None = None) -> Session:
        """Go on with another resource of ours, and wait until they follow. The client there calls `adopt`. Raises
        `NegotiationFailed` if they don't; the session stays here."""
        view, form = open_session.view.move(resource)
        await self._all.ask(open_session, Move.CONTINUE, view, form, self._wait(wait))
        return open_session

    def adopt(self, moved: Session) -> None:
        """Take over a session that moves, or has moved, to this client from another one of the same account."""
        own = self._all.own
        if own.bare != moved.view.own.bare or own.resource not in (moved.view.target, moved.view.own.resource):
            raise UsageError("The session goes on somewhere else.")
        self._all.keep(moved)

    def terminate(self, open_session: Session) -> None:
        """End a session. Nothing more may be sent in it."""
        self._all.terminate(open_session)

    def terminate_all(self) -> None:
        """End everything, before going offline: sessions, and offers of ours. Offers of others are ignored."""
        for each in self._all.live:
            if each.view.state in (State.OFFERED, State.ANSWERED):
                self._all.say(each, Move.CANCEL, *each.view.cancel())
                self._all.ended(each)
            elif each.view.state is State.ASKED:
                self._all.ignore(each)
            elif each.view.own == self._all.own:
                self._all.terminate(each)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _wait(self, wait: float | None) -> float:
        return self.wait if wait is None else wait

    def _supported(self) -> dict[str, Sequence[str]]:
        """What we can agree to now: without TLS no "c2s", which means a secure connection to our server."""
        supported = dict(self.supported)
        client: Any = self.xmpp
        if client.transport is None or client.transport.get_extra_info("ssl_object") is None:
            supported["security"] = tuple(value for value in supported.get("security", ()) if value != "c2s")
        return supported

    def _fields(self, fields: Iterable[Field] | None) -> tuple[Field, ...]:
        supported = self._supported()
        if fields is None:
            return tuple(_question(var, tuple(values)) for var, values in supported.items() if values)
        kept = tuple(fields)
        for each in kept:
            # "A client MUST NOT set the 'logging' field to 'mustnot' unless it has confirmed that its server will allow
            # it to switch off Automated Archiving": whoever has says so in `supported`.
            unsure = "mustnot" not in supported.get("logging", ())
            if each.var == "logging" and "mustnot" in options.offered(each) and unsure:
                raise UsageError("Not to log can be offered only if the program says that it is supported.")
        return kept

    def _online(self, _: object) -> None:
        """A new connection: sessions of another resource are not ours any more. Who sees us is in the roster."""
        for each in self._all.live:
            if each.view.own != self._all.own:
                self._all.forget(each)
        if self.answer == CONTACTS:
            self._all.later(self._ask_for_roster())

    async def _ask_for_roster(self) -> None:
        client: Any = self.xmpp
        try:
            await client.get_roster()
        except (IqError, IqTimeout):
            log.info("without the roster every offer waits for the program")

    def _gone(self, _: object) -> None:
        """The connection is over, and won't be resumed."""
        for each in self._all.live:
            self._all.forget(each)


def _question(var: str, values: tuple[str, ...]) -> Field:
    """A field that offers what we support, best first."""
    if set(values) <= {*options.TRUE, *options.FALSE}:
        return Field(var, "boolean", values[:1])
    return Field(var, "list-single", values[:1], values)


register_plugin(XEP_0155)
