"""One negotiated session, from offer to end (XEP-0155): all legal moves are in `TRANSITIONS`.

A `Negotiation` is one party's view. Its methods are the moves of XEP-0155: ours give the new view and the form to send,
`receive` takes the other party's. Whatever is wrong leaves the view that one had as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

from tillie.errors import InvalidAddress, Malformed, NegotiationFailed, SessionEnded, UsageError
from tillie.model import Address
from tillie.negotiation import options
from tillie.negotiation.element import Failure
from tillie.negotiation.options import DECISIVE, FORM_TYPE, NO_PARAMETER, SSN
from tillie.wire import address, forms
from tillie.wire.forms import Field, Form


class Move(Enum):
    """What a form says (XEP-0155 section 3, numbers in brackets)."""

    OFFER = "offer"  # [1]
    ACCEPT = "accept"  # [2]
    REJECT = "reject"  # [3]
    COMPLETE = "complete"  # [4]
    CANCEL = "cancel"  # [5]
    RENEGOTIATE = "renegotiate"  # [6]
    AGREE = "agree"  # [7]
    DECLINE = "decline"  # [8]
    TERMINATE = "terminate"  # [9]
    ACKNOWLEDGE = "acknowledge"
    CONTINUE = "continue"
    FOLLOW = "follow"


class Phase(Enum):
    PENDING = "pending"
    ACTIVE = "active"
    ENDED = "ended"


class State(Enum):
    """Where a session is, and who is to move."""

    NEW = "new"  # nothing was said yet
    OFFERED = "offered"  # by us; they are to answer
    ASKED = "asked"  # by them; we are to answer
    ANSWERED = "answered"  # they accepted; we are to complete
    ACCEPTED = "accepted"  # we accepted; they are to complete
    ACTIVE = "active"
    MOVING = "moving"  # active; we asked to continue at another resource
    ENDED = "ended"

    @property
    def phase(self) -> Phase:
        return _PHASES.get(self, Phase.PENDING)


_PHASES = {State.ACTIVE: Phase.ACTIVE, State.MOVING: Phase.ACTIVE, State.ENDED: Phase.ENDED}


class Party(Enum):
    OUR = "our"
    THEIR = "their"


# What a form says, by its type, its decisive field, and whether that is true. An offer's `accept` is an open question,
# `continue` is a resource: None.
MOVES: Mapping[tuple[str, str, bool | None], Move] = {
    ("form", "accept", None): Move.OFFER,
    ("submit", "accept", True): Move.ACCEPT,
    ("submit", "accept", False): Move.REJECT,
    ("result", "accept", True): Move.COMPLETE,
    ("result", "accept", False): Move.CANCEL,
    ("form", "renegotiate", True): Move.RENEGOTIATE,
    ("submit", "renegotiate", True): Move.AGREE,
    ("submit", "renegotiate", False): Move.DECLINE,
    ("submit", "continue", None): Move.CONTINUE,
    ("result", "continue", None): Move.FOLLOW,
    ("submit", "terminate", True): Move.TERMINATE,
    ("result", "terminate", True): Move.ACKNOWLEDGE,
}

_OUR, _THEIR = Party.OUR, Party.THEIR
_LIVE = (State.ACTIVE, State.MOVING)
TRANSITIONS: Mapping[tuple[State, Party, Move], State] = {
    (State.NEW, _OUR, Move.OFFER): State.OFFERED,
    (State.NEW, _THEIR, Move.OFFER): State.ASKED,
    (State.OFFERED, _THEIR, Move.ACCEPT): State.ANSWERED,
    (State.OFFERED, _THEIR, Move.REJECT): State.ENDED,
    (State.OFFERED, _OUR, Move.CANCEL): State.ENDED,  # nobody waits for ever; whoever gets it knows what it means
    (State.ASKED, _OUR, Move.ACCEPT): State.ACCEPTED,
    (State.ASKED, _OUR, Move.REJECT): State.ENDED,
    (State.ASKED, _THEIR, Move.CANCEL): State.ENDED,
    (State.ANSWERED, _OUR, Move.COMPLETE): State.ACTIVE,
    (State.ANSWERED, _OUR, Move.CANCEL): State.ENDED,
    (State.ACCEPTED, _THEIR, Move.COMPLETE): State.ACTIVE,
    (State.ACCEPTED, _THEIR, Move.CANCEL): State.ENDED,
    (State.ACCEPTED, _OUR, Move.TERMINATE): State.ENDED,  # the completion may be lost, or on its way
    (State.ANSWERED, _THEIR, Move.TERMINATE): State.ENDED,
    (State.MOVING, _THEIR, Move.FOLLOW): State.ACTIVE,
    (State.ACTIVE, _OUR, Move.CONTINUE): State.MOVING,
    # "The requesting party SHOULD NOT send stanzas within the session from either resource until the other party has
    # accepted the switch" (section 5): moving, we only listen, but both may move at once.
    **{(State.ACTIVE, _OUR, move): State.ACTIVE for move in (Move.RENEGOTIATE, Move.AGREE, Move.DECLINE, Move.FOLLOW)},
    **{(state, _THEIR, move): state for state in _LIVE for move in (Move.RENEGOTIATE, Move.AGREE, Move.DECLINE)},
    **{(state, _THEIR, Move.CONTINUE): state for state in _LIVE},
    (State.MOVING, _OUR, Move.FOLLOW): State.MOVING,
    **{(state, party, Move.TERMINATE): State.ENDED for state in _LIVE for party in Party},
    (State.ENDED, _THEIR, Move.TERMINATE): State.ENDED,  # both did at once
    (State.ENDED, _OUR, Move.ACKNOWLEDGE): State.ENDED,
    (State.ENDED, _THEIR, Move.ACKNOWLEDGE): State.ENDED,
}


def read(form: Form) -> Move:
    """What a form says. Raises `Malformed` if that can't be told, and `NegotiationFailed` if it is about something else
    than sessions (XEP-0155 section 4.3: service-unavailable)."""
    if form.value(FORM_TYPE) != SSN:
        raise NegotiationFailed("The form is not about sessions.", condition="service-unavailable")
    decisive = [var for var in DECISIVE if form.get(var) is not None]
    if len(decisive) == 2 and decisive == ["accept", "terminate"] and form.type != "form" and form.boolean("terminate"):
        decisive.pop()  # XEP-0116 section 4.6.4: a session of a single stanza ends where it begins
    if len(decisive) != 1:
        raise Malformed("The form does not say what it is for, or too much at once.")
    var = decisive[0]
    open_question = var == "continue" or (form.type, var) == ("form", "accept")
    move = MOVES.get((form.type, var, None if open_question else form.boolean(var)))
    if move is None or (var == "continue" and not form.value(var)):
        raise Malformed("The form does not say what it is for.")
    return move


@dataclass(frozen=True)
class Negotiation:
    """One party's view of one session (XEP-0155).

    `peer` is bare only until somebody answered: "Both entities MUST assume the session is being established with the
    resource of the contact that sends the reply". `parameters` are the values agreed on, by field, and only meant until
    the session is active. `ours` and `theirs` are forms of renegotiations that wait for an answer. `target` is the
    resource that we asked to continue at, `requested` the one that they asked for, `left` where they were before.
    `reason` is what the other party gave as one.
    """

    own: Address
    peer: Address
    thread: str
    state: State
    offer: Form
    initiator: bool
    parameters: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    ours: Form | None = None
    theirs: Form | None = None
    target: str = ""
    requested: str = ""
    left: Address | None = None
    reason: str = ""

    @property
    def phase(self) -> Phase:
        return self.state.phase

    @property
    def crossed(self) -> bool:
        """Both asked for other parameters at once. XEP-0155 does not say which come first: then nobody agrees."""
        return self.ours is not None and self.theirs is not None

    # -- our moves ----------------------------------------------------------------------------------------------------

    def accept(self, fields: Iterable[Field] = ()) -> tuple[Negotiation, Form]:
        """Accept what was offered, with these choices. Raises `UsageError` if they don't answer the offer."""
        state = self._next(Move.ACCEPT)
        form = _answer(self.offer, Field("accept", values=("1",)), fields)
        return replace(self, state=state, parameters=_frozen(options.agreed(self.offer, form))), form

    def reject(self, reason: str = "") -> tuple[Negotiation, Form]:
        """XEP-0155 section 4.3: no field but `accept`, whatever was required, and perhaps a reason."""
        return self._say(Move.REJECT, "submit", Field("accept", values=("0",)), *_because(reason))

    def complete(self, fields: Iterable[Field] = ()) -> tuple[Negotiation, Form]:
        """The session is open: what was chosen is fine with us."""
        return self._say(Move.COMPLETE, "result", Field("accept", values=("1",)), *fields)

    def cancel(self, reason: str = "") -> tuple[Negotiation, Form]:
        """XEP-0155 section 4.4: there will be no session after all."""
        return self._say(Move.CANCEL, "result", Field("accept", values=("0",)), *_because(reason))

    def renegotiate(self, fields: Iterable[Field]) -> tuple[Negotiation, Form]:
        """Ask for other parameters. Those that hold stay until the answer, and after a refusal."""
        if self.ours or self.theirs:
            raise UsageError("Other parameters are being negotiated already.")
        state = self._next(Move.RENEGOTIATE)
        question = Field("renegotiate", "boolean", ("1",), required=True)
        form = forms.write("form", (_FORM_TYPE_HIDDEN, question, *_parameters(fields)))
        return replace(self, state=state, ours=form), form

    def agree(self, fields: Iterable[Field] = ()) -> tuple[Negotiation, Form]:
        """Accept the parameters that they asked for: they hold from now on."""
        state = self._next(Move.AGREE)
        if self.theirs is None or self.crossed:
            raise UsageError("There is nothing to agree to, or both asked at once.")
        form = _answer(self.theirs, Field("renegotiate", values=("1",)), fields)
        return replace(self._with(self.theirs, form), state=state, theirs=None), form

    def decline(self) -> tuple[Negotiation, Form]:
        """Refuse the parameters that they asked for."""
        if self.theirs is None:
            raise UsageError("There is nothing to decline.")
        view, form = self._say(Move.DECLINE, "submit", Field("renegotiate", values=("0",)))
        return replace(view, theirs=None), form

    def move(self, resource: str) -> tuple[Negotiation, Form]:
        """Ask to continue with another resource of ours. Nothing should be sent until they follow (section 5)."""
        at = address.parse(f"{self.own.bare}/{resource}")
        view, form = self._say(Move.CONTINUE, "submit", Field("continue", values=(at.resource,)))
        return replace(view, target=at.resource), form

    def follow(self) -> tuple[Negotiation, Form]:
        """Go on with the resource that they asked for. The form goes to `peer` as it was before."""
        if not self.requested:
            raise UsageError("They did not ask for another resource.")
        view, form = self._say(Move.FOLLOW, "result", Field("continue", values=(self.requested,)))
        return replace(view, peer=Address(f"{self.peer.bare}/{self.requested}"), requested="", left=self.peer), form

    def terminate(self) -> tuple[Negotiation, Form]:
        """XEP-0155 section 7: "Both parties MUST then consider the session to be ended"."""
        return self._say(Move.TERMINATE, "submit", Field("terminate", values=("1",)))

    def acknowledge(self) -> tuple[Negotiation, Form]:
        """Say that we know of the end."""
        return self._say(Move.ACKNOWLEDGE, "result", Field("terminate", values=("1",)))

    # -- their moves --------------------------------------------------------------------------------------------------

    def receive(self, form: Form, sender: Address) -> tuple[Negotiation, Move]:
        """Their move. Raises `Malformed`; `NegotiationFailed` with fields where values were chosen that can't be, and
        with condition "" where a move is not legal now, or not from whom this session is with."""
        move = read(form)
        if not self._is_from_peer(move, sender):
            raise NegotiationFailed("The session is with somebody else.")
        state = TRANSITIONS.get((self.state, Party.THEIR, move))
        if state is None:
            raise NegotiationFailed(f"To {move.value} is not possible now.")
        peer = sender if self.state is State.OFFERED else self.peer
        moved = replace(self, state=state, peer=peer, reason=form.value("reason"))
        return _RECEIVED.get(move, _nothing_else)(moved, form), move

    def failed(self, failure: Failure) -> Negotiation:
        """They answered with an error. It ends what was pending, and no active session (section 6)."""
        if self.state in _LIVE:
            return replace(self, state=State.ACTIVE, ours=None, target="", reason=failure.text)
        return replace(self, state=State.ENDED, reason=failure.text or failure.condition)

    def _is_from_peer(self, move: Move, sender: Address) -> bool:
        if self.state is State.OFFERED:
            return sender.bare == self.peer.bare
        return sender == self.peer or (sender == self.left and move in _FROM_WHERE_THEY_LEFT)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _next(self, move: Move) -> State:
        state = TRANSITIONS.get((self.state, Party.OUR, move))
        if state is None and self.state is State.ENDED:
            raise SessionEnded
        if state is None:
            raise UsageError(f"To {move.value} is not possible now.")
        return state

    def _say(self, move: Move, form_type: str, *fields: Field) -> tuple[Negotiation, Form]:
        return replace(self, state=self._next(move)), forms.write(form_type, (_FORM_TYPE, *fields))

    def _with(self, offer: Form, answer: Form) -> Negotiation:
        return replace(self, parameters=_frozen({**self.parameters, **options.agreed(offer, answer)}))


_FORM_TYPE = Field(FORM_TYPE, values=(SSN,))
# What they may say before they know that we followed them.
_FROM_WHERE_THEY_LEFT = (Move.FOLLOW, Move.TERMINATE, Move.ACKNOWLEDGE)
_FORM_TYPE_HIDDEN = Field(FORM_TYPE, "hidden", (SSN,))


def offer(own: Address, to: Address, thread: str, fields: Iterable[Field]) -> tuple[Negotiation, Form]:
    """Ask for a session with a contact, or with one resource of hers (XEP-0155 section 4.1)."""
    question = Field("accept", "boolean", ("1",), required=True)
    form = forms.write("form", (_FORM_TYPE_HIDDEN, question, *_parameters(fields)))
    state = TRANSITIONS[State.NEW, Party.OUR, Move.OFFER]
    return Negotiation(own, to, thread, state, form, initiator=True), form


def asked(own: Address, sender: Address, thread: str, form: Form) -> Negotiation:
    """Somebody asks us for a session. Raises as `receive` does."""
    state = TRANSITIONS.get((State.NEW, Party.THEIR, read(form)))
    if state is None:
        raise NegotiationFailed("There is no such session.")
    return Negotiation(own, sender, thread, state, form, initiator=False)


def lost(view: Negotiation) -> Negotiation:
    """A session that can't go on, because the resource that it was with is gone. Nobody is told."""
    return replace(view, state=State.ENDED)


def cancellation() -> Form:
    """What a resource is told that accepts when there is no such session any more (XEP-0155 section 4.4)."""
    return forms.write("result", (_FORM_TYPE, Field("accept", values=("0",))))


def _answered(view: Negotiation, form: Form) -> Negotiation:
    _refuse_bad_choices(view.offer, form)
    return view._with(view.offer, form)


def _renegotiate(view: Negotiation, form: Form) -> Negotiation:
    if view.theirs is not None:
        raise NegotiationFailed("Other parameters are being negotiated already.")
    return replace(view, theirs=form)


def _agreed(view: Negotiation, form: Form) -> Negotiation:
    if view.ours is None:
        raise NegotiationFailed("Nothing was asked.")
    _refuse_bad_choices(view.ours, form)
    return replace(view._with(view.ours, form), ours=None)


def _declined(view: Negotiation, form: Form) -> Negotiation:
    if view.ours is None:
        raise NegotiationFailed("Nothing was asked.")
    return replace(view, ours=None)


def _asked_to_follow(view: Negotiation, form: Form) -> Negotiation:
    try:
        requested = address.parse(f"{view.peer.bare}/{form.value('continue')}").resource
    except InvalidAddress:
        raise NegotiationFailed(
            "There can't be such a resource.", condition="not-acceptable", fields=("continue",)
        ) from None
    return replace(view, requested=requested)


def _followed(view: Negotiation, form: Form) -> Negotiation:
    if form.value("continue") != view.target:
        raise NegotiationFailed("They follow to another resource than was asked for.")
    return replace(view, own=Address(f"{view.own.bare}/{view.target}"), target="")


def _nothing_else(view: Negotiation, form: Form) -> Negotiation:
    return view


_RECEIVED = {
    Move.ACCEPT: _answered,
    Move.RENEGOTIATE: _renegotiate,
    Move.AGREE: _agreed,
    Move.DECLINE: _declined,
    Move.CONTINUE: _asked_to_follow,
    Move.FOLLOW: _followed,
}


def _refuse_bad_choices(question: Form, answer: Form) -> None:
    if bad := options.check_chosen(question, answer):
        raise NegotiationFailed("Values were chosen that can't be.", condition="not-acceptable", fields=bad)


def _answer(question: Form, decision: Field, fields: Iterable[Field]) -> Form:
    form = forms.write("submit", (_FORM_TYPE, decision, *_parameters(fields)))
    if bad := options.check_chosen(question, form):
        raise UsageError(f"The answer does not fit the question: {', '.join(bad)}.")
    return form


def _parameters(fields: Iterable[Field]) -> Iterable[Field]:
    kept = tuple(fields)
    if any(field.var in NO_PARAMETER for field in kept):
        raise UsageError(f"These fields are not for parameters: {', '.join(NO_PARAMETER)}.")
    return kept


def _because(reason: str) -> tuple[Field, ...]:
    return (Field("reason", values=(reason,)),) if reason else ()


def _frozen(values: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType(dict(values))
