"""The sessions that one slixmpp client negotiates (XEP-0155): what comes, and what goes out in answer.

In memory: who goes offline loses them. `xep_0155` is the plugin on top.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from slixmpp.stanza import Message

from tillie.errors import Malformed, NegotiationFailed, PeerError, UsageError
from tillie.model import Address
from tillie.negotiation import element, options, session, threads
from tillie.negotiation.element import Failure
from tillie.negotiation.session import Move, Negotiation, Phase, State
from tillie.networks.xmpp.elements import CLIENT, address_of, as_delivered, from_bytes, only
from tillie.wire import address
from tillie.wire.display import printable
from tillie.wire.forms import Field, Form

log = logging.getLogger(__name__)

MAX_WAITING = 64  # offers that wait for us; beyond it the oldest is forgotten
MAX_WAITING_OF_ONE = 4  # ... of them from one account
MAX_REMEMBERED = 256  # sessions that are over, and stanzas whose errors we would know
MAX_REASON = 200  # characters that are shown of a reason that they gave

FEATURE_TAG = f"{{{element.FEATURE}}}feature"
ERROR_TAG, _THREAD_TAG, _BODY_TAG = (f"{{{CLIENT}}}{name}" for name in ("error", "thread", "body"))
_DELAY_TAG = "{urn:xmpp:delay}delay"
_NOT_FOR_SESSIONS = ("error", "groupchat")
# What the session itself depends on, and what only a question does: their errors are looked for.
_VITAL = (Move.OFFER, Move.ACCEPT, Move.COMPLETE)
_QUESTIONS = (Move.RENEGOTIATE, Move.CONTINUE)

Key = tuple[Address, str]  # the peer's bare address, and the thread
Review = Callable[["Session"], bool]
Supported = Mapping[str, Sequence[str]]


class Session:
    """One session as a program holds it. `view` is what is known of it now (`negotiation.session.Negotiation`)."""

    def __init__(self, view: Negotiation, review: Review | None = None) -> None:
        self.view = view
        self.review = review  # our say about what they chose
        self.waiting: dict[Move, asyncio.Future[None]] = {}  # what the program waits for, by the move it made

    @property
    def thread(self) -> str:
        return self.view.thread

    @property
    def peer(self) -> Address:
        """The full JID with which the session is; bare as long as nobody answered."""
        return self.view.peer

    @property
    def phase(self) -> Phase:
        return self.view.phase

    @property
    def parameters(self) -> Mapping[str, tuple[str, ...]]:
        """What was agreed on: values by field."""
        return self.view.parameters

    @property
    def reason(self) -> str:
        """Why they rejected, cancelled or could not go on, in their words."""
        return self.view.reason

    @property
    def key(self) -> Key:
        return self.view.peer.bare, self.view.thread

    def __repr__(self) -> str:
        return f"Session({self.peer}, {self.thread}, {self.view.state.value})"


class _Sent(NamedTuple):
    """A stanza of ours whose error we would know."""

    key: Key
    to: Address
    move: Move


class Negotiations:
    """All sessions of one client. `supported` tells what we can agree to now; `at_once`: offers of those who see our
    presence are answered without asking the program."""

    def __init__(self, client: Any, supported: Callable[[], Supported], *, at_once: bool, wait: float) -> None:
        # Who else negotiates: a message that one of these takes is left alone. (Encrypted sessions need none: the
        # receiver has taken their messages off the stream before.)
        self.takers: list[Callable[[Any], bool]] = []
        self._client = client
        self._supported = supported
        self._at_once = at_once
        self._wait = wait
        self._sessions: OrderedDict[Key, Session] = OrderedDict()
        self._sent: OrderedDict[str, _Sent] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def own(self) -> Address:
        return address.parse(str(self._client.boundjid.full))

    @property
    def live(self) -> tuple[Session, ...]:
        """All that are open or being negotiated."""
        return tuple(each for each in self._sessions.values() if each.phase is not Phase.ENDED)

    def get(self, key: Key) -> Session | None:
        return self._sessions.get(key)

    def shows_presence_to(self, jid: Address) -> bool:
        """Whether this account may know that we are online (XEP-0155 section 10.1): it is subscribed to our presence,
        as far as the roster says."""
        roster = self._client.client_roster
        return jid.bare == self.own.bare or (roster.has_jid(jid.bare) and bool(roster[jid.bare]["from"]))

    # -- our moves ----------------------------------------------------------------------------------------------------

    async def offer(self, asked: Session, form: Form, wait: float, more: bytes = b"") -> None:
        """Ask for a session, and wait until it is open."""
        self.keep(asked)
        try:
            await self.ask(asked, Move.OFFER, asked.view, form, wait, more)
        finally:
            if asked.view.state is State.OFFERED:
                self.say(asked, Move.CANCEL, *asked.view.cancel())
                self.ended(asked)

    async def accept(self, offered: Session, fields: Iterable[Field], wait: float) -> None:
        """Say yes, and wait until they complete it."""
        try:
            await self.ask(offered, Move.ACCEPT, *offered.view.accept(fields), wait)
        finally:
            if offered.view.state is State.ACCEPTED:
                self.terminate(offered)

    def agree(self, known: Session, fields: Iterable[Field]) -> None:
        self.say(known, Move.AGREE, *known.view.agree(fields))

    def decline(self, known: Session) -> None:
        self.say(known, Move.DECLINE, *known.view.decline())

    def terminate(self, known: Session) -> None:
        self.say(known, Move.TERMINATE, *known.view.terminate())
        self.ended(known)

    def ignore(self, offered: Session) -> None:
        self._sessions.pop(offered.key, None)

    # -- what comes ---------------------------------------------------------------------------------------------------

    def handle(self, message: Any) -> None:
        if message["type"] in _NOT_FOR_SESSIONS or any(takes(message) for takes in self.takers):
            return
        sender = address_of(message.xml, "from", self.own)
        try:
            thread, form = _read(message)
        except Malformed as error:
            log.info("a negotiation can't be read: %s", error.detail)
            return
        if sender is None:
            return
        known = self._sessions.get((sender.bare, thread))
        if known is None:
            self._asked(message, sender, thread, form)
        else:
            self._moved(known, sender, form)

    def _asked(self, message: Message, sender: Address, thread: str, form: Form) -> None:
        try:
            offered = Session(session.asked(self.own, sender, thread, form))
        except Malformed as error:
            log.info("a negotiation can't be read: %s", error.detail)
            return
        except NegotiationFailed as failed:
            if self.shows_presence_to(sender):
                self._refuse(sender, thread, form, failed)
            return
        if message.xml.find(_DELAY_TAG) is not None:
            # XEP-0155 section 4.2: an answer "would divulge the fact that the contact had been offline".
            self._client.event("xep_0155_missed", offered)
            return
        self._make_room(sender)
        self.keep(offered)
        if not self.shows_presence_to(sender):
            self._client.event("xep_0155_offer", offered)
        elif self._at_once:
            self.later(self._accept_at_once(offered))
        elif self._client.event_handled("xep_0155_offer"):
            self._client.event("xep_0155_offer", offered)
        else:
            self.say(offered, Move.REJECT, *offered.view.reject())

    async def _accept_at_once(self, offered: Session) -> None:
        try:
            await self.accept(offered, self.choices(offered, offered.view.offer), self._wait)
        except (NegotiationFailed, UsageError) as error:
            log.info("an offer led to nothing: %s", error)

    def _moved(self, known: Session, sender: Address, form: Form) -> None:
        was = known.view.state
        try:
            view, move = known.view.receive(form, sender)
        except Malformed as error:
            log.info("a negotiation can't be read: %s", error.detail)
            if was is State.OFFERED:
                self._fail(known, form, NegotiationFailed(error.detail, condition="not-acceptable"), sender)
            return
        except NegotiationFailed as failed:
            if failed.condition:
                self._fail(known, form, failed, sender)
            elif known.view.initiator and _accepts(form) and (sender != known.peer or known.phase is Phase.ENDED):
                # Another resource that the offer reached, or one that thought too long.
                self._send(known, Move.CANCEL, session.cancellation(), sender)
            return
        known.view = view
        self._RECEIVED[move](self, known)

    def _fail(self, known: Session, form: Form, failed: NegotiationFailed, sender: Address) -> None:
        """They chose what can't be. What was pending is over; so is a session where they think that it holds now."""
        was = known.view
        self._refuse(sender, known.thread, form, failed)
        if was.phase is Phase.PENDING:
            known.view = was.failed(Failure(failed.condition, failed.fields, failed.detail))
            self.ended(known, failed)
        elif was.state is State.ACTIVE and was.ours is not None and form.get("renegotiate") and form.type == "submit":
            self._settle(known, Move.RENEGOTIATE, failed)
            self.terminate(known)

    def _answered(self, known: Session) -> None:
        if known.review is None or known.review(known):
            self.say(known, Move.COMPLETE, *known.view.complete())
            self._activated(known, Move.OFFER)
            return
        self.say(known, Move.CANCEL, *known.view.cancel())
        self.ended(known, NegotiationFailed("What they chose will not do."))

    def _completed(self, known: Session) -> None:
        self._activated(known, Move.ACCEPT)

    def _activated(self, known: Session, move: Move) -> None:
        for other in self.live:
            # "multisession ... defaults to false": a peer that begins anew has lost the session before.
            single = not all("1" in each.parameters.get("multisession", ()) for each in (other, known))
            if other is not known and other.view.state is State.ACTIVE and other.peer == known.peer and single:
                self.terminate(other)
        self._settle(known, move)
        self._client.event("xep_0155_active", known)

    def _over(self, known: Session) -> None:
        self.ended(known, NegotiationFailed(_shown(known.reason) or "They don't want a session."))

    def _terminated(self, known: Session) -> None:
        self.say(known, Move.ACKNOWLEDGE, *known.view.acknowledge())
        self.ended(known, NegotiationFailed("They ended the session."))

    def _renegotiated(self, known: Session) -> None:
        theirs = known.view.theirs
        if theirs is None or known.view.crossed:
            self.decline(known)
        elif self._at_once:
            try:
                self.agree(known, self.choices(known, theirs))
            except (NegotiationFailed, UsageError) as error:
                log.info("other parameters were refused: %s", error)
            else:
                self._client.event("xep_0155_changed", known)
        elif self._client.event_handled("xep_0155_renegotiate"):
            self._client.event("xep_0155_renegotiate", known)
        else:
            self.decline(known)

    def _agreed(self, known: Session) -> None:
        self._settle(known, Move.RENEGOTIATE)
        self._client.event("xep_0155_changed", known)

    def _declined(self, known: Session) -> None:
        self._settle(known, Move.RENEGOTIATE, NegotiationFailed("They keep to what was agreed."))

    def _followed(self, known: Session) -> None:
        self._settle(known, Move.CONTINUE)
        if known.view.own != self.own:
            self._sessions.pop(known.key, None)  # it goes on there
        self._client.event("xep_0155_continue", known)

    def _follow(self, known: Session) -> None:
        """Section 5: "the other client SHOULD accept the switch automatically"."""
        before = known.peer
        view, form = known.view.follow()
        self.say(known, Move.FOLLOW, view, form, to=before)
        self._client.event("xep_0155_continue", known)

    def _nothing(self, known: Session) -> None:
        pass

    _RECEIVED: ClassVar[dict[Move, Callable[[Negotiations, Session], None]]] = {
        Move.ACCEPT: _answered,
        Move.REJECT: _over,
        Move.COMPLETE: _completed,
        Move.CANCEL: _over,
        Move.RENEGOTIATE: _renegotiated,
        Move.AGREE: _agreed,
        Move.DECLINE: _declined,
        Move.CONTINUE: _follow,
        Move.FOLLOW: _followed,
        Move.TERMINATE: _terminated,
        Move.ACKNOWLEDGE: _nothing,
    }

    def handle_error(self, message: Any) -> None:
        """Servers echo nothing, so that a stanza of ours is known by its id; clients may forget the id."""
        sender = address_of(message.xml, "from", self.own)
        sent = self._sent.get(message["id"])
        if sender is None or message["type"] != "error" or (sent is None and only(message.xml, FEATURE_TAG) is None):
            return
        known = self._sessions.get(sent.key if sent else (sender.bare, message["thread"]))
        if known is None or known.phase is Phase.ENDED:
            return
        to = sent.to if sent else known.peer
        if sender != to and not (known.view.state is State.OFFERED and sender.bare == to.bare):
            return
        self._sent.pop(message["id"], None)
        failure = _failure(message)
        failed = NegotiationFailed(
            _shown(failure.text) or failure.condition, condition=failure.condition, fields=failure.fields
        )
        pending, known.view = known.phase is Phase.PENDING, known.view.failed(failure)
        if pending or (sent is not None and sent.move in _VITAL):
            known.view = session.lost(known.view)
            self.ended(known, failed)
            return
        for question in _QUESTIONS:
            self._settle(known, question, failed)

    # -- what goes out ------------------------------------------------------------------------------------------------

    async def ask(
        self, asked: Session, move: Move, view: Negotiation, form: Form, wait: float, more: bytes = b""
    ) -> None:
        """Make a move, and wait for what comes of it."""
        waiting = asked.waiting[move] = asyncio.get_running_loop().create_future()
        self.say(asked, move, view, form, more=more)
        try:
            async with asyncio.timeout(wait):
                await waiting
        except TimeoutError:
            raise NegotiationFailed("There was no answer.") from None
        finally:
            if asked.waiting.get(move) is waiting:
                del asked.waiting[move]

    def say(
        self, known: Session, move: Move, view: Negotiation, form: Form, *, to: Address | None = None, more: bytes = b""
    ) -> None:
        known.view = view
        self._send(known, move, form, to or view.peer, more)

    def _send(self, known: Session, move: Move, form: Form, to: Address, more: bytes = b"") -> None:
        message = self._message(to, known.thread, element.feature(form) + more)
        if move in _VITAL or move in _QUESTIONS:
            self._sent[message["id"]] = _Sent(known.key, to, move)
        while len(self._sent) > MAX_REMEMBERED:
            self._sent.popitem(last=False)
        message.send()

    def _refuse(self, to: Address, thread: str, form: Form, failed: NegotiationFailed) -> None:
        """XEP-0155 section 4.3: an error with what was asked, and its fields; nothing if `failed` says so."""
        if failed.condition:
            children = element.error(failed.condition, failed.fields, element.feature(form))
            message = self._message(to, thread, children)
            message["type"] = "error"
            message.send()

    def _message(self, to: Address, thread: str, children: bytes) -> Message:
        message: Message = self._client.make_message(to, mtype="normal")
        message["id"] = message["id"] or self._client.new_id()
        message["thread"] = thread
        message.xml.extend(from_bytes(children))
        return message

    # -- parts ------------------------------------------------------------------------------------------------------

    def choices(self, known: Session, question: Form) -> tuple[Field, ...]:
        """The best answer to an offer. If there is none, they are told why, and `NegotiationFailed` is raised."""
        try:
            return options.answers(question, self._supported())
        except NegotiationFailed as failed:
            self._refuse(known.peer, known.thread, question, failed)
            if known.phase is Phase.PENDING:
                known.view = known.view.failed(Failure(failed.condition, failed.fields, failed.detail))
                self.ended(known, failed)
            else:
                known.view = known.view.decline()[0]
            raise

    def keep(self, known: Session) -> None:
        self._sessions[known.key] = known
        over = [key for key, each in self._sessions.items() if each.phase is Phase.ENDED]
        for key in over[: max(0, len(over) - MAX_REMEMBERED)]:
            del self._sessions[key]

    def _make_room(self, sender: Address) -> None:
        """Offers cost strangers nothing, so that only so many wait."""
        waiting = [each for each in self._sessions.values() if each.view.state is State.ASKED]
        of_one = [each for each in waiting if each.peer.bare == sender.bare]
        for crowd, limit in ((of_one, MAX_WAITING_OF_ONE), (waiting, MAX_WAITING)):
            if len(crowd) >= limit:
                self._sessions.pop(crowd[0].key, None)

    def _settle(self, known: Session, move: Move, failed: PeerError | None = None) -> None:
        waiting = known.waiting.pop(move, None)
        if waiting is None or waiting.done():
            return
        if failed is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(failed)

    def ended(self, known: Session, failed: NegotiationFailed | None = None) -> None:
        for move in tuple(known.waiting):
            self._settle(known, move, failed or NegotiationFailed("The session is over."))
        self._client.event("xep_0155_ended", known)

    def forget(self, known: Session) -> None:
        self._sessions.pop(known.key, None)
        if known.view.target:
            return  # it may go on at the resource that it moves to
        known.view = session.lost(known.view)
        self.ended(known, NegotiationFailed("The connection is gone."))

    def close(self) -> None:
        for each in self.live:
            self.forget(each)
        for task in self._tasks:
            task.cancel()

    def later(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _read(message: Message) -> tuple[str, Form]:
    """Thread and form of a negotiation. "The message stanza MUST NOT contain a body child element"."""
    thread, feature = only(message.xml, _THREAD_TAG), only(message.xml, FEATURE_TAG)
    if thread is None or feature is None or message.xml.find(_BODY_TAG) is not None:
        raise Malformed("It has no thread, a body, or more than one form.")
    return threads.parse(as_delivered(thread)).id, element.parse_feature(as_delivered(feature))


def _shown(text: str) -> str:
    """A reason that they gave, for people to see."""
    return printable(text, MAX_REASON)


def _accepts(form: Form) -> bool:
    return session.read(form) is Move.ACCEPT


def _failure(message: Message) -> Failure:
    error = only(message.xml, ERROR_TAG)
    try:
        return Failure("undefined-condition") if error is None else element.parse_error(as_delivered(error))
    except Malformed:
        return Failure("undefined-condition")
