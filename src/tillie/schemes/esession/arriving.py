"""What arrives for encrypted sessions: whose it is, and which step it calls for (XEP-0116, XEP-0155, XEP-0201).

Whoever can send us a stanza may send these. So what comes must fit a session before it may change anything: its thread,
our full JID, and the peer's, which servers vouch for. What does not fit is answered by nothing, and changes nothing.
A person who does not see our presence gets no answer either, not even an error (XEP-0155 section 9.2).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from tillie.errors import Malformed, NegotiationFailed, NoSession, PeerError
from tillie.model import Address, Arrived, Device, Done, Effect, Kind, Notice, Stanza, State, Time
from tillie.negotiation import element as wire
from tillie.negotiation import session as moves
from tillie.negotiation import threads
from tillie.negotiation.session import Move
from tillie.schemes import Outcome
from tillie.schemes.esession import negotiating, sessions, tables, traffic
from tillie.schemes.esession.profile import PROFILES
from tillie.schemes.esession.records import Record
from tillie.schemes.esession.sessions import ACTIVE, ASKED, CONCLUDED, FAILED, INITIATOR, OFFERED, OPEN, PENDING
from tillie.schemes.esession.settings import Settings
from tillie.wire import xml
from tillie.wire.forms import Form

CONTENT_TAG = f"{{{wire.CONTENT}}}c"
FEATURE_TAG = f"{{{wire.FEATURE}}}feature"
INIT_TAG = f"{{{wire.INIT}}}init"
MAX_REASON = 200  # characters of what the other side gave as a reason

_NAME = re.compile(rb"<(c|feature|init|error)[ >]")
_THREAD = re.compile(rb"<(?:[A-Za-z0-9_.-]+:)?thread[ />]")
_ERROR = re.compile(rb"<(?:[A-Za-z0-9_.-]+:)?error[ />]")
# What servers answer when there is nobody at the other end.
_NOBODY_THERE = ("service-unavailable", "recipient-unavailable", "item-not-found", "gone")
_NO_WAY = ("recipient-unavailable", "gone", "remote-server-not-found", "remote-server-timeout")  # only servers say so

# A server that kept a stanza for a connection which it thought lost stamps it as it does what it stored.
_DIRECT = ("live", "offline")

_EVENTS = {  # what a form in clear means in `tables`
    Move.ACCEPT: tables.MESSAGE_2,
    Move.COMPLETE: tables.MESSAGE_3,
    Move.REJECT: tables.DECLINED,
    Move.CANCEL: tables.DECLINED,
    Move.TERMINATE: tables.CLEAR_END,
}

Effects = tuple[Effect, ...]


class Here(NamedTuple):
    """This end. `answers` says whether somebody may learn at once that we are there, `asks` whether an offer that is
    not answered at once waits for a person; `settings` are those for the sender."""

    own: Address | None
    settings: Callable[[], Settings]
    answers: Callable[[Address], bool]
    asks: Callable[[Address], bool]


class Where(NamedTuple):
    """Which session a stanza means, and from whom it is."""

    own: Address
    peer: Address
    thread: str


def open(s: State, here: Here, got: Arrived, now: Time) -> Done[Outcome]:
    """Do what the element calls for. Raises a PeerError where nothing may change."""
    around = got.stanza
    if around.via not in _DIRECT:
        return Done(Outcome(Kind.NOT_FOR_US, Device(around.sender.bare, 0, b"")))
    if around.type == "groupchat" or not (around.sender.resource or around.type == "error"):
        raise NoSession("sessions are between two resources")
    where = _where(here, around)
    name = _name(got.element)
    if around.type == "error" and (around.kind == "message" or name == "error"):
        return _refused(s, where, got, now)
    if name == "c":
        return _content(s, here, where, around, got.element, now)
    if around.kind != "message":
        raise Malformed("a negotiation is made of messages")
    if not where.thread:
        raise Malformed("a negotiation has a thread")
    if name == "init":
        return _accepted(s, here, where, got.element, now)
    return _negotiate(s, here, where, got.element, now, stored=around.via != "live")


def _where(here: Here, around: Stanza) -> Where:
    own = around.to if around.to.resource else here.own
    if own is None:
        raise NoSession("it is for another connection")
    found = [sibling for sibling in around.siblings if _THREAD.match(sibling)]
    if len(found) > 1:
        raise Malformed("it has two threads")
    return Where(own, around.sender, threads.parse(found[0]).id if found else "")


def _name(element: bytes) -> str:
    """Which of our elements it is; the network has looked at its tag, and may give us the <error/> of an error."""
    found = _NAME.match(element)
    return found[1].decode() if found else str(xml.parse(element).tag).rpartition("}")[2]


def _nothing(peer: Address, *effects: Effect, error: str = "") -> Done[Outcome]:
    return Done(Outcome(Kind.EMPTY, Device(peer.bare, 0, b""), error=error), effects)


# -- stanzas of sessions --------------------------------------------------------------------------------------------


def _content(s: State, here: Here, where: Where, around: Stanza, element: bytes, now: Time) -> Done[Outcome]:
    candidates = _open_sessions(s, where)
    if not candidates:
        return _no_session(s, here, where, around, now)
    if around.type == "error" and around.kind != "message" and _is_ours(s, candidates, element, now):
        return _bounced(s, candidates[0], "an answer came from where it never was", now)
    came = traffic.came(s, here.settings, candidates, element, around.kind, now, sender=where.peer)
    device = sessions.device(Address(came.record.peer), came.record.key)
    keep = came.record.logging != "mustnot"
    return Done(Outcome(came.kind, device, came.plaintext, came.error, keep=keep), came.effects)


def _is_ours(s: State, candidates: list[Record], element: bytes, now: Time) -> bool:
    """Servers send back what they could not deliver, with what it held: then it is not the peer's."""
    try:
        traffic.open_any(s, candidates, element, now)
    except PeerError:
        return True
    return False


def _open_sessions(s: State, where: Where) -> list[Record]:
    """The session of the thread; of IQs and presences, which have none, those of the two resources, newest first."""
    if where.thread:
        record = sessions.load(s, where.thread)
        found = [record] if record is not None else []
    else:
        found = list(reversed(sessions.listed(s, where.peer)))
    return [each for each in found if _is_with(each, where)]


def _is_with(record: Record, where: Where) -> bool:
    return record.state in OPEN and record.own == where.own and where.peer in (record.peer, record.was)


def _no_session(s: State, here: Here, where: Where, around: Stanza, now: Time) -> Done[Outcome]:
    """The peer goes on with a session that we don't have: it is told, if it may know that we are there."""
    why = "it belongs to an encrypted session that is over, or never was"
    pending = sessions.load(s, where.thread) if where.thread else None
    if pending is not None and (pending.own, pending.peer) == (where.own, where.peer) and pending.state == CONCLUDED:
        # Message 4 was lost or comes late; either way what it opened is out of order.
        effects = negotiating.fail(s, pending, NegotiationFailed(why, condition="not-acceptable"), now)
        return Done(Outcome(Kind.NO_SESSION, Device(where.peer.bare, 0, b""), error=why), effects)
    past = sessions.load_past(s, where.thread) if where.thread else None
    was = past is not None and bool(past.profile) and (past.own, past.peer) == (where.own, where.peer)
    if not where.thread or around.type == "error" or not (was or here.answers(where.peer)):
        raise NoSession(why)
    error = wire.error("not-acceptable")
    send = negotiating.message(where.own, where.peer, where.thread, error, now, kind="error")
    return Done(Outcome(Kind.NO_SESSION, Device(where.peer.bare, 0, b""), error=why), (send,))


# -- negotiations ---------------------------------------------------------------------------------------------------


def _negotiate(s: State, here: Here, where: Where, element: bytes, now: Time, *, stored: bool) -> Done[Outcome]:
    """Messages 1 to 3, and what ends a negotiation."""
    record = sessions.load(s, where.thread)
    if record is None:
        if stored:  # whoever answers tells that he is there now, and the other may not be any more
            raise NegotiationFailed("The offer was kept for us, and is too old.")
        return _offered(s, here, where, element, now)
    if not _fits(record, where):
        return _came_late(record, where, element, now)
    try:
        form = wire.parse_feature(element)
        move = moves.read(form)
    except PeerError as error:
        if record.state in OPEN or record.state == ASKED:  # who waits for a person's answer gets no other one
            raise
        return _nothing(where.peer, *negotiating.fail(s, record, error, now, echo=element), error=error.detail)
    event = _EVENTS.get(move, "")
    if move is Move.TERMINATE and record.state in PENDING:
        event = tables.DECLINED
    if tables.find(record.state, event) is None:
        raise NoSession("that is not its turn")
    settings = here.settings()
    if event == tables.MESSAGE_2:
        effects = negotiating.conclude(s, settings, record, where.peer, form, element, now)
    elif event == tables.MESSAGE_3:
        effects = negotiating.accept(s, settings, record, form, element, now)
    elif event == tables.DECLINED:
        effects = _declined(s, record, form, now)
    else:
        effects = end_in_clear(s, record, now)
    return _nothing(where.peer, *effects)


def _came_late(record: Record, where: Where, element: bytes, now: Time) -> Done[Outcome]:
    """Another client of the peer answers what one of them has answered: it is told, and nothing changes here."""
    offered = record.role == INITIATOR and (record.own, record.bare) == (where.own, where.peer.bare)
    if not offered or moves.read(wire.parse_feature(element)) is not Move.ACCEPT:
        raise NoSession("the thread belongs to another session")
    return _nothing(where.peer, negotiating.cancellation(*where, now))


def _fits(record: Record, where: Where) -> bool:
    """Whether a stanza can belong to a session. "Both entities MUST assume the session is being established with the
    resource of the contact that sends the reply": until then any resource of the peer may answer."""
    if record.own != where.own:
        return False
    return where.peer.bare == record.bare if record.state == OFFERED else where.peer == record.peer


def _offered(s: State, here: Here, where: Where, element: bytes, now: Time) -> Done[Outcome]:
    own, peer, thread = where
    if sessions.load_past(s, thread) is not None:
        raise NoSession("the session is over")
    allowed, mine = here.answers(peer), negotiating.crossing(s, own, peer)
    if not (allowed or mine or here.asks(peer)):
        raise NegotiationFailed("Nobody is told that we are there.")
    try:
        form = wire.parse_feature(element)
        move = moves.read(form)
    except PeerError as wrong:
        if not (allowed or mine):
            raise
        return _nothing(peer, *negotiating.refuse(own, peer, thread, wrong, element, now), error=wrong.detail)
    if move is not Move.OFFER:
        raise NoSession("there is no such negotiation")
    if not negotiating.may_take(s, peer, waits=not (allowed or mine)):
        raise NegotiationFailed("There are too many negotiations at once.")
    effects: Effects = ()
    if mine is not None:
        if negotiating.ours_goes_on(own, peer):
            crossed = NegotiationFailed(negotiating.CROSSED, condition="not-acceptable")
            return _nothing(peer, *negotiating.refuse(own, peer, thread, crossed, element, now))
        effects = (sessions.finish(s, mine, FAILED, negotiating.CROSSED, now, instead=thread),)
    record, asked = negotiating.asked(s, own, peer, thread, form, now)
    if (allowed or mine) and not negotiating.too_many(s, peer, now):
        return _nothing(peer, *effects, *negotiating.answer(s, here.settings(), record, now))
    text = f"{peer} asks for an encrypted session"
    if allowed:
        text += "; it is not answered by itself, because so many attempts failed today"
    return _nothing(peer, *effects, *asked, Notice(peer.bare, text))


def _accepted(s: State, here: Here, where: Where, element: bytes, now: Time) -> Done[Outcome]:
    """Message 4, perhaps with a first stanza of the session in it."""
    record = sessions.load(s, where.thread)
    if record is None or not _fits(record, where) or tables.find(record.state, tables.MESSAGE_4) is None:
        raise NoSession("there is no negotiation that it would end")
    try:
        form, content = wire.parse_init(element)
    except PeerError as error:
        return _nothing(where.peer, *negotiating.fail(s, record, error, now), error=error.detail)
    effects = negotiating.finish(s, here.settings(), record, form, element, now)
    opened = sessions.load(s, where.thread)
    if content is None or opened is None or opened.state != ACTIVE:
        return _nothing(where.peer, *effects)
    came = traffic.came(s, here.settings, [opened], content, "message", now, sender=where.peer)
    device = sessions.device(Address(came.record.peer), came.record.key)
    keep = came.record.logging != "mustnot"
    return Done(Outcome(came.kind, device, came.plaintext, came.error, keep=keep), (*effects, *came.effects))


def _declined(s: State, record: Record, form: Form, now: Time) -> Effects:
    reason = _one_line(form)
    why = "the other side does not want one" + (f': "{reason}"' if reason else "")
    return negotiating.give_up(s, record, why, now)


def _one_line(form: Form) -> str:
    try:
        return form.value("reason")[:MAX_REASON]
    except Malformed:
        return ""


def end_in_clear(s: State, record: Record, now: Time) -> Effects:
    """Anybody on the way could have written that; Gajim never writes anything else."""
    profile = PROFILES.get(record.profile)
    if profile is None or not profile.ends_in_clear:
        return (Notice(record.bare, "somebody asked in clear that the encrypted session end; it goes on"),)
    if record.wants_end:
        return ()
    _, changed = sessions.enter(s, record, record.state, now, wants_end=True)
    text = "the other side seems to have ended the session, in clear, so that nothing proves it: end it yourself"
    return (changed, Notice(record.bare, text))


# -- errors ---------------------------------------------------------------------------------------------------------


def _refused(s: State, where: Where, got: Arrived, now: Time) -> Done[Outcome]:
    """An error of the peer, or of a server in its name. It ends what it is about: a negotiation, or an open session,
    where a stanza that did not arrive leaves the next ones without their place.

    An error that answers an IQ ends nothing if the peer itself may have sent it: errors are not sealed."""
    found = _about(s, where, got.stanza.id)
    if found is None:
        raise NoSession("there is nothing that this error could be about")
    condition = _condition(got)
    if got.stanza.kind == "iq" and condition not in _NO_WAY:
        raise NoSession("it answers a question, and is not sealed")
    if found.state in OPEN:
        return _bounced(s, found, f"a stanza was refused ({condition})", now)
    who = "nobody is there" if condition in _NOBODY_THERE else "the other side can't, or does not want to"
    return _nothing(where.peer, *negotiating.give_up(s, found, f"{who} ({condition})", now))


def _about(s: State, where: Where, stanza_id: str) -> Record | None:
    """The session that an error is about. Servers leave out the thread; then the id tells, or the two resources."""
    if where.thread:
        record = sessions.load(s, where.thread)
        return record if record is not None and _fits_error(record, where) else None
    found = [each for each in sessions.live(s) if _fits_error(each, where)]
    by_id = next((each for each in found if stanza_id and each.message_id == stanza_id), None)
    if by_id is not None:
        return by_id
    return next((each for each in reversed(found) if each.state in OPEN), None)


def _fits_error(record: Record, where: Where) -> bool:
    """An offer to a bare JID is refused from there, too."""
    return record.own == where.own and (where.peer == record.peer or (record.state == OFFERED and _fits(record, where)))


def _bounced(s: State, record: Record, why: str, now: Time) -> Done[Outcome]:
    came = traffic.broken(s, record, why, now, tell=False)
    device = sessions.device(Address(record.peer), record.key)
    return Done(Outcome(Kind.EMPTY, device, error=why), came.effects)


def _condition(got: Arrived) -> str:
    found = next((each for each in (got.element, *got.stanza.siblings) if _ERROR.match(each)), None)
    try:
        return wire.parse_error(found).condition if found else "unknown"
    except Malformed:
        return "unknown"
