"""An open session, as it lies in the store: what goes out and comes in, the forms that travel inside it, and its end
(XEP-0200, XEP-0116 section 7, XEP-0155 sections 5 to 7).

A stanza that does not verify ends the session, whatever it was: "the entity MUST terminate the ESession". Who may send
one at all was checked before: the peer's full JID, and whoever can speak in its name, which is the servers between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from tillie.envelope import policy
from tillie.errors import Malformed, NegotiationFailed, PeerError, SessionBroken, SessionEnded, TooLarge, UsageError
from tillie.model import Address, Content, Effect, Kind, Notice, Send, State, Time
from tillie.negotiation import element as wire
from tillie.negotiation import options
from tillie.negotiation import session as moves
from tillie.negotiation.session import Move, Negotiation
from tillie.schemes.esession import channel as channels
from tillie.schemes.esession import messages, negotiating, retained, sessions, text
from tillie.schemes.esession.channel import Channel
from tillie.schemes.esession.profile import PROFILES
from tillie.schemes.esession.records import Record
from tillie.schemes.esession.sessions import ACTIVE, BROKEN, ENDED, ENDING
from tillie.schemes.esession.settings import Settings
from tillie.wire import forms, xml
from tillie.wire.forms import Field, Form

REKEY_SECONDS = 600.0  # a key that is older is replaced with the next stanza that hides something, if it may be
STANZA_LIFE = 120.0  # seconds that a sealed stanza may wait for its connection
RENEGOTIABLE = ("logging", "disclosure")  # inside a session; algorithms and keys are for a new one
_NEVER = {"disclosure": ("never",)}

Effects = tuple[Effect, ...]


class Came(NamedTuple):
    """What a stanza of a session was: `plaintext` is what it hid, for the program; None if it was for the session."""

    kind: Kind
    record: Record
    plaintext: bytes | None = None
    error: str = ""
    effects: Effects = ()


# -- out ------------------------------------------------------------------------------------------------------------


def seal(s: State, record: Record, plaintext: bytes | None, now: Time, *, rekey: bool = False) -> tuple[Record, bytes]:
    """The <c/> that hides `plaintext`; the session is kept as it is after it. Raises `SessionEnded`, `UsageError`."""
    _require_active(record)
    before = channels.decode(record.channel)
    if plaintext and not rekey:
        # "it SHOULD be with content": who learns today's keys can't read what is said in ten minutes.
        rekey = now - before.sets[-1].made >= REKEY_SECONDS and before.may_rekey
    after, element = channels.seal(before, plaintext, rekey=rekey, now=now)
    rekeyed = after.newest > before.newest
    record = msgspec.structs.replace(
        record, channel=channels.encode(after), sent=record.sent + 1, rekeys=record.rekeys + rekeyed
    )
    sessions.save(s, record)
    return record, element


def _require_active(record: Record) -> None:
    if record.state != ACTIVE:
        raise SessionEnded(f"The session with {record.peer} is {record.state}.")


def require_settled(record: Record) -> None:
    """Raises `UsageError` while nothing but answers may be sent."""
    if record.target:
        raise UsageError("The session is moving to another resource; nothing is sent until the other side follows.")


def say(s: State, record: Record, form: Form, now: Time) -> Send:
    """A form inside the session."""
    record, element = seal(s, record, _hidden(form), now)
    return carry(record, element, now)


def carry(record: Record, element: bytes, now: Time) -> Send:
    """The message that carries a <c/> of the session's own."""
    return negotiating.told(record, element, now, life=STANZA_LIFE)


def rekey(s: State, record: Record, now: Time) -> Effects:
    """A new key, in an empty stanza. Raises `UsageError` if the profile or the agreed frequency forbid it now."""
    _require_active(record)
    require_settled(record)
    if not channels.decode(record.channel).may_rekey:
        raise UsageError("The session can't be re-keyed now.", hint="The two sides agreed on how often it may be.")
    record, element = seal(s, record, None, now, rekey=True)
    return (carry(record, element, now), sessions.changed(record))


def report_keys(s: State, record: Record, now: Time) -> Effects:
    """An empty stanza, if the peer waits to hear that we have its new key: only then its old ones go."""
    if record.state != ACTIVE or record.target or not channels.decode(record.channel).answer_due:
        return ()
    record, element = seal(s, record, None, now)
    return (carry(record, element, now),)


# -- in -------------------------------------------------------------------------------------------------------------


def open_any(s: State, records: list[Record], element: bytes, now: Time) -> tuple[Record, Channel, channels.Incoming]:
    """Open a <c/> of one of these sessions: IQs and presences name none. The error is that of the first."""
    first: PeerError | None = None
    for record in records:
        try:
            after, got = channels.open(channels.decode(record.channel), element, now=now)
        except (SessionBroken, Malformed) as error:
            first = first or error
        else:
            return record, after, got
    raise first or SessionBroken()


def came(
    s: State,
    settings: Callable[[], Settings],
    candidates: list[Record],
    element: bytes,
    stanza: str,
    now: Time,
    *,
    sender: Address,
) -> Came:
    """Open a <c/> and do what it says. Whatever is wrong with it, the session is over."""
    try:
        record, after, got = open_any(s, candidates, element, now)
    except PeerError as error:
        return broken(s, candidates[0], error.detail or "a stanza did not verify", now)
    record = msgspec.structs.replace(
        record,
        channel=channels.encode(after),
        received=record.received + 1,
        rekeys=record.rekeys + got.rekeyed,
        was=record.was if sender == record.was else "",
    )
    record, effects = believe(s, record, now)
    sessions.save(s, record)
    if got.rekeyed:
        effects += (sessions.changed(record),)
    if got.plaintext is None and stanza == "message":
        return Came(Kind.EMPTY, record, effects=effects)
    plaintext = got.plaintext or b""  # an IQ's result, or a presence, says something by being there
    try:
        form = form_in(text.decode(plaintext).content)
        if form is not None:
            done = _inside(s, settings, record, form, now)
            return done._replace(effects=effects + done.effects)
    except NegotiationFailed as error:  # "the existing negotiated session parameters are maintained"
        return Came(Kind.EMPTY, record, error=error.detail, effects=effects)
    except (PeerError, SessionEnded, TooLarge) as error:  # also if our answer can't be sealed any more
        return broken(s, sessions.reload(s, record), error.detail, now)
    if stanza not in record.stanzas:
        return Came(Kind.REFUSED, record, error=f"this session was not agreed on for {stanza} stanzas", effects=effects)
    return Came(Kind.OPENED, record, plaintext, effects=effects)


def believe(s: State, record: Record, now: Time) -> tuple[Record, Effects]:
    """The peer has shown that it has the final keys: what it said of itself in the negotiation holds."""
    if record.proven:
        return record, ()
    peer = Address(record.peer)
    key, findings = retained.prove(s, record.chain, record.key, record.public, peer, now)
    negotiating.forgive(s, peer, key)
    return msgspec.structs.replace(record, key=key, proven=True), negotiating.notices(peer, findings)


def broken(s: State, record: Record, why: str, now: Time, *, tell: bool = True) -> Came:
    """The session is over: a stanza was lost, altered, repeated or forged."""
    changed = sessions.finish(s, record, BROKEN, why, now)
    notice = Notice(record.bare, f"the encrypted session is over: {why}")
    told = negotiating.tell(record, "not-acceptable", (), b"", now) if tell else ()
    return Came(Kind.TAMPERED, record, error=why, effects=(*told, changed, notice))


def form_in(hidden: Content) -> Form | None:
    """The form of a negotiation that a stanza hid; None if it is for the program. Raises `Malformed`."""
    if b"urn:xmpp:ssn" not in hidden.data:
        return None
    children = policy.parse_own(hidden)
    if len(children) != 1 or children[0].tag != f"{{{wire.FEATURE}}}feature":
        return None
    form = wire.parse_feature(xml.serialise(children[0]))
    return form if form.value(options.FORM_TYPE) == options.SSN else None


def _hidden(form: Form) -> bytes:
    return text.encode(Content(wire.feature(form)))


# -- forms inside a session -----------------------------------------------------------------------------------------


def _inside(s: State, settings: Callable[[], Settings], record: Record, form: Form, now: Time) -> Came:
    view, move = _view(record).receive(form, Address(record.peer))  # from where it is, or from where it was
    if move is Move.TERMINATE:
        return _end_asked(s, record, view, now)
    if move is Move.ACKNOWLEDGE:
        if record.state != ENDING:
            raise SessionBroken("an end was acknowledged that nobody asked for")
        return Came(Kind.EMPTY, record, effects=(sessions.finish(s, record, ENDED, "", now),))
    if record.state == ENDING:
        return Came(Kind.EMPTY, record)  # "MUST NOT send another stanza within the ESession"
    if move is Move.RENEGOTIATE:
        return _renegotiate(s, settings, record, view, form, now)
    if move in (Move.AGREE, Move.DECLINE):
        return _answered(s, record, view, move, now)
    if move is Move.CONTINUE:
        return _follow(s, record, view, now)
    if move is Move.FOLLOW:
        record, changed = sessions.enter(s, record, ACTIVE, now, own=str(view.own), target="")
        return Came(Kind.EMPTY, record, effects=(changed,))
    raise SessionBroken(f"to {move.value} is not possible inside a session")


def _end_asked(s: State, record: Record, view: Negotiation, now: Time) -> Came:
    """The peer ended the session, and its MAC says that nothing was lost: acknowledge at once, and be done."""
    effects: list[Effect] = []
    if record.state == ACTIVE:
        plaintext = _hidden(view.acknowledge()[1])
        element = channels.acknowledge(channels.decode(record.channel), plaintext, now=now)
        effects.append(carry(record, element, now))
    effects.append(sessions.finish(s, record, ENDED, "the other side ended it", now))
    return Came(Kind.EMPTY, record, effects=tuple(effects))


def _renegotiate(
    s: State, settings: Callable[[], Settings], record: Record, view: Negotiation, form: Form, now: Time
) -> Came:
    """What both may change: what is logged and disclosed. If both ask at once, both decline."""
    supported = {"logging": settings().logging, **_NEVER}
    fields = list(options.parameters(form))
    answer: Form | None = None
    if fields and all(field.var in RENEGOTIABLE for field in fields) and not view.crossed:
        try:
            view, answer = view.agree(options.answers(form, supported))
        except (NegotiationFailed, UsageError):
            answer = None
    if answer is None:
        _, answer = view.decline()
        return Came(Kind.EMPTY, record, effects=(say(s, record, answer, now),))
    # In this order: the answer still goes under the old parameters, which for these two makes no difference.
    send = say(s, record, answer, now)
    record, changed = _with_parameters(s, sessions.reload(s, record), view, now)
    return Came(Kind.EMPTY, record, effects=(send, changed))


def _answered(s: State, record: Record, view: Negotiation, move: Move, now: Time) -> Came:
    if move is Move.AGREE:
        record, changed = _with_parameters(s, record, view, now)
        return Came(Kind.EMPTY, record, effects=(changed,))
    record, changed = sessions.enter(s, record, ACTIVE, now, asked=b"")
    return Came(Kind.EMPTY, record, effects=(changed, Notice(record.bare, "the other side declined to change that")))


def _with_parameters(s: State, record: Record, view: Negotiation, now: Time) -> tuple[Record, Effect]:
    values = dict(record.parameters)
    values.update({name: ",".join(found) for name, found in view.parameters.items() if name in RENEGOTIABLE})
    return sessions.enter(
        s, record, ACTIVE, now,
        parameters=tuple(values.items()), logging=values.get("logging", record.logging),
        asked=view.ours.xml if view.ours else b"",
    )  # fmt: skip


def _follow(s: State, record: Record, view: Negotiation, now: Time) -> Came:
    """The peer goes on with another of its resources: it can, whoever has the keys, and asked for it under them.

    What it said before it knew that we follow, if both move at once, comes from where it was."""
    view, form = view.follow()
    send = say(s, record, form, now)
    record, changed = sessions.enter(s, sessions.reload(s, record), ACTIVE, now, peer=str(view.peer), was=record.peer)
    return Came(Kind.EMPTY, record, effects=(send, changed))


def renegotiate(s: State, record: Record, fields: Iterable[Field], now: Time) -> Effects:
    """Ask the peer for another value of `logging` or `disclosure`. Raises `UsageError`."""
    require_settled(record)
    fields = tuple(fields)
    if not fields or any(field.var not in RENEGOTIABLE for field in fields):
        raise UsageError(f"Inside a session only {' and '.join(RENEGOTIABLE)} can be changed.")
    _, form = _view(record).renegotiate(fields)
    send = say(s, record, form, now)
    _, changed = sessions.enter(s, sessions.reload(s, record), record.state, now, asked=form.xml)
    return (send, changed)


def move(s: State, record: Record, resource: str, now: Time) -> Effects:
    """Ask to go on with another resource of ours, which has the same store. Raises `UsageError`."""
    view, form = _view(record).move(resource)
    send = say(s, record, form, now)
    _, changed = sessions.enter(s, sessions.reload(s, record), record.state, now, target=view.target)
    return (send, changed)


def _view(record: Record) -> Negotiation:
    """The session as XEP-0155 sees it: forms are read and made by the rules of `negotiation`."""
    asked = forms.parse(record.asked) if record.asked else None
    state = moves.State.ENDED if record.state == ENDING else moves.State.MOVING if record.target else moves.State.ACTIVE
    held = {name: (value,) for name, value in record.parameters if name in RENEGOTIABLE}
    own, peer = Address(record.own), Address(record.peer)
    return Negotiation(
        own, peer, record.thread, state, moves.cancellation(), record.role == sessions.INITIATOR, held, ours=asked,
        target=record.target,
    )  # fmt: skip


# -- the end --------------------------------------------------------------------------------------------------------


def end(s: State, record: Record, now: Time) -> Effects:
    """End the session, inside it; the answer is awaited, so that both know that nothing was lost.

    Gajim ends sessions in clear, and awaits no answer."""
    _, form = _view(record).terminate()
    if PROFILES[record.profile].ends_in_clear:
        form = messages.write_termination(PROFILES[record.profile].layout)
        return (negotiating.told(record, wire.feature(form), now), sessions.finish(s, record, ENDED, "", now))
    after, element = channels.terminate(channels.decode(record.channel), _hidden(form), now=now)
    send = carry(record, element, now)
    _, changed = sessions.enter(s, record, ENDING, now, channel=channels.encode(after), sent=record.sent + 1, target="")
    return (send, changed)
