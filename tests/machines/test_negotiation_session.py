"""negotiation.session: two parties, all their moves, in every order; and what is not legal."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tillie.errors import Malformed, NegotiationFailed, SessionEnded, TillieError, UsageError
from tillie.model import Address
from tillie.negotiation import options, session
from tillie.negotiation.element import Failure
from tillie.negotiation.session import TRANSITIONS, Move, Negotiation, Party, Phase, State
from tillie.wire import forms
from tillie.wire.forms import Field, Form

ROMEO, JULIET = Address("romeo@montague.test/orchard"), Address("juliet@capulet.test/balcony")
TYBALT = Address("tybalt@capulet.test/hall")
LOGGING = Field("logging", "list-single", ("may",), ("may", "mustnot"), required=True)
MAY, MUST_NOT = Field("logging", values=("may",)), Field("logging", values=("mustnot",))


def pair(*fields: Field) -> tuple[Negotiation, Negotiation]:
    """An offer of Romeo to Juliet, wherever she is, and what she makes of it."""
    romeo, form = session.offer(ROMEO, JULIET.bare, "t", fields or (LOGGING,))
    return romeo, session.asked(JULIET, ROMEO, "t", form)


def active() -> tuple[Negotiation, Negotiation]:
    romeo, juliet = pair()
    juliet, form = juliet.accept([MUST_NOT])
    romeo, move = romeo.receive(form, JULIET)
    assert move is Move.ACCEPT
    romeo, form = romeo.complete()
    juliet, _ = juliet.receive(form, ROMEO)
    return romeo, juliet


def test_a_session_from_offer_to_end() -> None:
    romeo, juliet = active()
    assert (romeo.phase, juliet.phase) == (Phase.ACTIVE, Phase.ACTIVE)
    assert (romeo.peer, juliet.peer) == (JULIET, ROMEO)  # the resource that answered
    assert romeo.parameters == juliet.parameters == {"logging": ("mustnot",)}
    assert (romeo.initiator, juliet.initiator) == (True, False)
    juliet, form = juliet.terminate()
    assert juliet.phase is Phase.ENDED
    romeo, move = romeo.receive(form, JULIET)
    assert (romeo.phase, move) == (Phase.ENDED, Move.TERMINATE)
    romeo, form = romeo.acknowledge()
    juliet, move = juliet.receive(form, ROMEO)
    assert (juliet.phase, move) == (Phase.ENDED, Move.ACKNOWLEDGE)
    with pytest.raises(SessionEnded):
        romeo.terminate()


def test_the_forms_are_those_of_the_specification() -> None:
    romeo, juliet = pair()
    assert [field.var for field in romeo.offer.fields] == ["FORM_TYPE", "accept", "logging"]
    assert romeo.offer.fields[0] == Field("FORM_TYPE", "hidden", ("urn:xmpp:ssn",))
    assert (romeo.offer.type, romeo.offer.fields[1].type) == ("form", "boolean")
    said = {
        "submit accept=1 logging=may": juliet.accept([MAY])[1],
        "submit accept=0 reason=no": juliet.reject("no")[1],
        "submit accept=0": juliet.reject()[1],
        "result accept=1": romeo.receive(juliet.accept([MAY])[1], JULIET)[0].complete()[1],
        "result accept=0 reason=no": romeo.cancel("no")[1],
        "form renegotiate=1 logging=may": active()[0].renegotiate([LOGGING])[1],
        "submit continue=PDA": active()[1].move("PDA")[1],
        "submit terminate=1": active()[1].terminate()[1],
        "result accept=0": session.cancellation(),
    }
    for text, form in said.items():
        assert form.value("FORM_TYPE") == "urn:xmpp:ssn"
        assert text.split() == [form.type, *(f"{f.var}={f.values[0]}" for f in form.fields[1:])]


@pytest.mark.parametrize("reason", ["", "How about tonight?"])
def test_rejected(reason: str) -> None:
    romeo, juliet = pair()
    juliet, form = juliet.reject(reason)
    romeo, move = romeo.receive(form, JULIET)
    assert (romeo.phase, juliet.phase, move, romeo.reason) == (Phase.ENDED, Phase.ENDED, Move.REJECT, reason)


def test_cancelled_after_the_answer_and_before_it() -> None:
    romeo, juliet = pair()
    juliet, accepted = juliet.accept([MAY])
    answered, _ = romeo.receive(accepted, JULIET)
    _, form = answered.cancel("never mind")
    assert juliet.receive(form, ROMEO)[0].phase is Phase.ENDED
    romeo, form = romeo.cancel()
    assert juliet.receive(form, ROMEO)[0].phase is Phase.ENDED  # she had accepted already
    assert pair()[1].receive(form, ROMEO)[0].phase is Phase.ENDED
    with pytest.raises(NegotiationFailed) as failed:
        romeo.receive(accepted, JULIET)
    assert failed.value.condition == ""


def test_whoever_answers_has_the_session() -> None:
    romeo, juliet = pair()
    with pytest.raises(NegotiationFailed):
        romeo.receive(juliet.accept([MAY])[1], TYBALT)
    elsewhere = Address("juliet@capulet.test/garden")
    romeo, _ = romeo.receive(juliet.accept([MAY])[1], elsewhere)
    assert romeo.peer == elsewhere
    with pytest.raises(NegotiationFailed):
        romeo.receive(juliet.accept([MAY])[1], JULIET)


@pytest.mark.parametrize("fields", [(), (Field("logging", values=("never",)),), (Field("logging"),)])
def test_choices_that_can_not_be(fields: tuple[Field, ...]) -> None:
    romeo, juliet = pair()
    with pytest.raises(UsageError):
        juliet.accept(fields)
    forged = forms.write("submit", [session._FORM_TYPE, Field("accept", values=("1",)), *fields])
    with pytest.raises(NegotiationFailed) as failed:
        romeo.receive(forged, JULIET)
    assert (failed.value.condition, failed.value.fields) == ("not-acceptable", ("logging",))
    romeo, juliet = active()
    romeo, _ = romeo.renegotiate([LOGGING])
    forged = forms.write("submit", [session._FORM_TYPE, Field("renegotiate", values=("1",)), *fields])
    with pytest.raises(NegotiationFailed) as failed:
        romeo.receive(forged, JULIET)
    assert failed.value.fields == ("logging",)


# -- renegotiation --------------------------------------------------------------------------------------------------


def test_renegotiated() -> None:
    romeo, juliet = active()
    more = Field("language", "list-single", (), ("en", "it"))
    juliet, form = juliet.renegotiate([LOGGING, more])
    romeo, _ = romeo.receive(form, JULIET)
    assert romeo.parameters == {"logging": ("mustnot",)}
    romeo, form = romeo.agree([MAY, Field("language", values=("it",))])
    assert (romeo.theirs, romeo.parameters) == (None, {"logging": ("may",), "language": ("it",)})
    juliet, _ = juliet.receive(form, ROMEO)
    assert (juliet.ours, juliet.parameters, juliet.phase) == (None, romeo.parameters, Phase.ACTIVE)


def test_what_was_not_renegotiated_holds() -> None:
    romeo, juliet = active()
    juliet, form = juliet.renegotiate([Field("language", "list-single", (), ("en", "it"))])
    romeo, _ = romeo.receive(form, JULIET)
    romeo, _ = romeo.agree([Field("language", values=("en",))])
    assert romeo.parameters == {"logging": ("mustnot",), "language": ("en",)}


def test_a_refused_renegotiation_changes_nothing() -> None:
    romeo, juliet = active()
    before = romeo.parameters
    juliet, form = juliet.renegotiate([LOGGING])
    asked, _ = romeo.receive(form, JULIET)
    declined, form = asked.decline()
    assert (declined.parameters, declined.theirs, declined.phase) == (before, None, Phase.ACTIVE)
    told, _ = juliet.receive(form, ROMEO)
    assert (told.parameters, told.ours, told.phase) == (before, None, Phase.ACTIVE)
    failed = juliet.failed(Failure("feature-not-implemented", ("logging",)))
    assert (failed.parameters, failed.ours, failed.phase) == (before, None, Phase.ACTIVE)


def test_both_ask_at_once() -> None:
    romeo, juliet = active()
    romeo, from_romeo = romeo.renegotiate([LOGGING])
    juliet, from_juliet = juliet.renegotiate([LOGGING])
    romeo, _ = romeo.receive(from_juliet, JULIET)
    juliet, _ = juliet.receive(from_romeo, ROMEO)
    assert romeo.crossed
    assert juliet.crossed
    with pytest.raises(UsageError):
        romeo.agree([MAY])
    romeo, from_romeo = romeo.decline()
    juliet, from_juliet = juliet.decline()
    romeo, _ = romeo.receive(from_juliet, JULIET)
    juliet, _ = juliet.receive(from_romeo, ROMEO)
    assert (romeo.ours, romeo.theirs, juliet.ours, juliet.theirs) == (None, None, None, None)
    assert romeo.renegotiate([LOGGING])


# -- another resource -----------------------------------------------------------------------------------------------


def test_a_session_goes_on_elsewhere() -> None:
    romeo, juliet = active()
    pda = Address("juliet@capulet.test/PDA")
    juliet, form = juliet.move("PDA")
    assert (juliet.phase, juliet.own) == (Phase.ACTIVE, JULIET)
    with pytest.raises(UsageError):  # nothing is sent until he follows
        juliet.renegotiate([LOGGING])
    romeo, _ = romeo.receive(form, JULIET)
    romeo, form = romeo.follow()
    assert (romeo.peer, romeo.parameters) == (pda, juliet.parameters)
    juliet, _ = juliet.receive(form, ROMEO)
    assert (juliet.own, juliet.state) == (pda, State.ACTIVE)
    _, form = juliet.renegotiate([LOGGING])
    with pytest.raises(NegotiationFailed):
        romeo.receive(form, JULIET)
    assert romeo.receive(form, pda)
    assert romeo.receive(juliet.terminate()[1], JULIET)[0].phase is Phase.ENDED  # said before she knew


@pytest.mark.parametrize("resource", ["", "\x07", "x" * 1024, "a\ufffe"])
def test_resources_that_can_not_be(resource: str) -> None:
    romeo, juliet = active()
    with pytest.raises(TillieError):
        juliet.move(resource)
    try:
        form = forms.write("submit", [session._FORM_TYPE, Field("continue", values=(resource,))])
    except UsageError:
        return  # XML can't carry it
    with pytest.raises((NegotiationFailed, Malformed)):
        romeo.receive(form, JULIET)


def test_following_somewhere_else() -> None:
    romeo, juliet = active()
    juliet, _ = juliet.move("PDA")
    with pytest.raises(NegotiationFailed):
        juliet.receive(forms.write("result", [session._FORM_TYPE, Field("continue", values=("pda",))]), ROMEO)
    with pytest.raises(UsageError):
        romeo.follow()


# -- what a form says -----------------------------------------------------------------------------------------------


def says(kind: str, *fields: Field) -> Form:
    return forms.write(kind, [session._FORM_TYPE, *fields])


def flag(var: str, *values: str) -> Field:
    return Field(var, values=values)


BAD = {
    "nothing": says("submit"),
    "no decision": says("submit", flag("accept")),
    "an undecided one": says("submit", flag("accept", "maybe")),
    "two decisions": says("submit", flag("accept", "1"), flag("renegotiate", "1")),
    "an offer of new parameters": says("form", flag("accept", "1"), flag("renegotiate", "1")),
    "an offer that ends": says("form", flag("accept", "1"), flag("terminate", "1")),
    "an acceptance that does not end": says("result", flag("accept", "1"), flag("terminate", "0")),
    "no termination": says("submit", flag("terminate", "0")),
    "no renegotiation": says("form", flag("renegotiate", "0")),
    "a completed renegotiation": says("result", flag("renegotiate", "1")),
    "continue nowhere": says("submit", flag("continue")),
    "an offer to continue": says("form", flag("continue", "PDA")),
    "an offer to end": says("form", flag("terminate", "1")),
    "cancelled": says("cancel"),
    "cancelled with a decision": says("cancel", flag("accept", "0")),
    "two types": forms.write("submit", [Field("FORM_TYPE", "hidden", ("urn:xmpp:ssn", "b")), flag("accept", "1")]),
}


@pytest.mark.parametrize("form", BAD.values(), ids=BAD)
def test_forms_that_say_nothing(form: Form) -> None:
    with pytest.raises(Malformed):
        session.read(form)
    romeo, _ = active()
    with pytest.raises(Malformed):
        romeo.receive(form, JULIET)


@pytest.mark.parametrize("values", [(), ("",), ("http://jabber.org/protocol/si",), ("urn:xmpp:ssn ",)])
def test_forms_about_something_else(values: tuple[str, ...]) -> None:
    form = forms.write("form", [Field("FORM_TYPE", "hidden", values), flag("accept", "1")])
    with pytest.raises(NegotiationFailed) as failed:
        session.asked(ROMEO, JULIET, "t", form)
    assert failed.value.condition == "service-unavailable"


def test_a_session_of_a_single_stanza() -> None:
    assert session.read(says("result", flag("accept", "1"), flag("terminate", "true"))) is Move.COMPLETE
    assert session.read(says("submit", flag("terminate", "1"), flag("accept", "1"))) is Move.ACCEPT


@pytest.mark.parametrize("move", set(Move) - {Move.OFFER})
def test_only_an_offer_begins_a_session(move: Move) -> None:
    (kind, var, value), _ = next(item for item in session.MOVES.items() if item[1] is move)
    form = says(kind, flag(var, {True: "1", False: "0", None: "PDA"}[value]))
    assert session.read(form) is move
    with pytest.raises(NegotiationFailed) as failed:
        session.asked(ROMEO, JULIET, "t", form)
    assert failed.value.condition == ""


def test_fields_that_decide_are_no_parameters() -> None:
    for var in options.NO_PARAMETER:
        with pytest.raises(UsageError):
            session.offer(ROMEO, JULIET, "t", [Field(var)])
    with pytest.raises(UsageError):
        pair()[1].accept([MAY, Field("terminate", values=("1",))])


# -- every state and move -------------------------------------------------------------------------------------------


def views() -> dict[State, Negotiation]:
    romeo, juliet = pair()
    accepted, form = juliet.accept([MAY])
    answered, _ = romeo.receive(form, JULIET)
    return {
        State.OFFERED: romeo,
        State.ASKED: juliet,
        State.ACCEPTED: accepted,
        State.ANSWERED: answered,
        State.ACTIVE: active()[0],
        State.MOVING: active()[0].move("garden")[0],
        State.ENDED: active()[0].terminate()[0],
    }


@pytest.mark.parametrize("state", set(State) - {State.NEW})
@pytest.mark.parametrize(("said", "move"), list(session.MOVES.items()), ids=str)
def test_their_moves_are_those_of_the_table(state: State, said: tuple[str, str, bool | None], move: Move) -> None:
    kind, var, value = said
    form = says(kind, flag(var, {True: "1", False: "0", None: "garden"}[value]), MAY)
    before = views()[state]
    sender = before.peer if before.peer.resource else JULIET
    expected = TRANSITIONS.get((state, Party.THEIR, move))
    if expected is None or (move in (Move.AGREE, Move.DECLINE) and before.ours is None):
        with pytest.raises(NegotiationFailed) as failed:
            before.receive(form, sender)
        assert failed.value.condition == ""
    else:
        after, found = before.receive(form, sender)
        assert (after.state, found) == (expected, move)


OURS: dict[Move, Callable[[Negotiation], tuple[Negotiation, Form]]] = {
    Move.ACCEPT: lambda view: view.accept([MAY]),
    Move.REJECT: Negotiation.reject,
    Move.COMPLETE: Negotiation.complete,
    Move.CANCEL: Negotiation.cancel,
    Move.RENEGOTIATE: lambda view: view.renegotiate([LOGGING]),
    Move.AGREE: lambda view: view.agree([MAY]),
    Move.DECLINE: Negotiation.decline,
    Move.TERMINATE: Negotiation.terminate,
    Move.ACKNOWLEDGE: Negotiation.acknowledge,
    Move.CONTINUE: lambda view: view.move("garden"),
    Move.FOLLOW: Negotiation.follow,
}


@pytest.mark.parametrize("state", set(State) - {State.NEW})
@pytest.mark.parametrize("move", OURS)
def test_our_moves_are_those_of_the_table(state: State, move: Move) -> None:
    before = views()[state]
    expected = TRANSITIONS.get((state, Party.OUR, move))
    if expected is None or move in (Move.AGREE, Move.DECLINE, Move.FOLLOW):  # nobody asked
        with pytest.raises(UsageError):
            OURS[move](before)
    else:
        after, form = OURS[move](before)
        assert after.state is expected
        assert session.read(form) is move


@pytest.mark.parametrize("state", set(State) - {State.NEW})
def test_errors_end_what_is_not_active(state: State) -> None:
    before = views()[state]
    after = before.failed(Failure("not-acceptable", ("logging",)))
    assert after.phase is (Phase.ACTIVE if before.phase is Phase.ACTIVE else Phase.ENDED)
    assert after.target == ""


# -- two parties ----------------------------------------------------------------------------------------------------

TOGETHER = {
    frozenset({State.OFFERED, State.ASKED}),
    frozenset({State.ANSWERED, State.ACCEPTED}),
    frozenset({State.ACTIVE}),
    frozenset({State.ACTIVE, State.MOVING}),
    frozenset({State.MOVING}),
    frozenset({State.ENDED}),
}


class TwoParties(RuleBasedStateMachine):
    """Romeo and Juliet do what they can, in any order; the network keeps the order of each direction."""

    views: dict[str, Negotiation | None]
    on_the_way: dict[str, deque[tuple[Form, Address]]]

    @initialize(is_active=st.booleans())
    def begin(self, is_active: bool) -> None:
        self.on_the_way = {"romeo": deque(), "juliet": deque()}
        if is_active:
            self.views = dict(zip(("romeo", "juliet"), active(), strict=True))
            return
        romeo, form = session.offer(ROMEO, JULIET.bare, "t", [LOGGING])
        self.views = {"romeo": romeo, "juliet": None}
        self.on_the_way["juliet"].append((form, ROMEO))

    @rule(who=st.sampled_from(("romeo", "juliet")), data=st.data(), choice=st.booleans())
    def act(self, who: str, data: st.DataObject, choice: bool) -> None:
        view = self.views[who]
        if view is None:
            return
        asked = {Move.AGREE: view.theirs, Move.DECLINE: view.theirs, Move.FOLLOW: view.requested}
        legal = [move for move in OURS if (view.state, Party.OUR, move) in TRANSITIONS and asked.get(move, True)]
        if data.draw(st.integers(0, 9)):  # most of the time the session goes on
            legal = [move for move in legal if TRANSITIONS[view.state, Party.OUR, move] is not State.ENDED]
        if not legal:
            return
        move = data.draw(st.sampled_from(legal))
        try:
            if move in (Move.ACCEPT, Move.AGREE):
                fields = [MAY if choice else MUST_NOT]
                after, form = view.accept(fields) if move is Move.ACCEPT else view.agree(fields)
            elif move is Move.CONTINUE:
                after, form = view.move("here" if choice else "there")
            else:
                after, form = OURS[move](view)
        except UsageError:
            return
        self.views[who] = after
        other = "juliet" if who == "romeo" else "romeo"
        self.on_the_way[other].append((form, view.own))

    @precondition(lambda self: any(self.on_the_way.values()))
    @rule(who=st.sampled_from(("romeo", "juliet")))
    def deliver(self, who: str) -> None:
        if not self.on_the_way[who]:
            return
        form, sender = self.on_the_way[who].popleft()
        view = self.views[who]
        if view is None:
            self.views[who] = session.asked(JULIET, sender, "t", form)
            return
        try:
            self.views[who], _ = view.receive(form, sender)
        except NegotiationFailed as failed:
            condition = failed.condition
        else:
            return
        assert condition == ""  # it crossed with something; no error is sent

    def teardown(self) -> None:
        """When all has arrived, both mean the same."""
        while any(self.on_the_way.values()):
            for who in self.on_the_way:
                self.deliver(who)
        romeo, juliet = self.views["romeo"], self.views["juliet"]
        assert romeo is not None
        assert juliet is not None
        assert frozenset({romeo.state, juliet.state}) in TOGETHER
        assert len({romeo.state, juliet.state}) == 2 or romeo.phase is not Phase.PENDING
        if romeo.phase is Phase.ACTIVE:
            assert romeo.parameters == juliet.parameters
            assert (romeo.ours, romeo.theirs) == (juliet.theirs, juliet.ours)
            assert (romeo.target, romeo.requested) == (juliet.requested, juliet.target)
            assert (romeo.peer, juliet.peer) == (juliet.own, romeo.own)


def test_two_parties_mean_the_same() -> None:
    run_state_machine_as_test(TwoParties, settings=settings(max_examples=300, stateful_step_count=16))


ANY_FORM = st.builds(
    lambda kind, values, more: forms.write(
        kind, [session._FORM_TYPE, *(Field(var, values=(value,)) for var, value in values.items()), *more]
    ),
    st.sampled_from(forms.TYPES),
    st.dictionaries(st.sampled_from(options.DECISIVE), st.sampled_from(("0", "1", "garden", "")), max_size=2),
    st.sampled_from(((), (MAY,), (Field("logging"),), (Field("reason", values=("x",)),))),
)


@given(st.lists(st.tuples(ANY_FORM, st.sampled_from((ROMEO, JULIET, TYBALT))), max_size=12), st.data())
def test_whatever_comes_only_legal_moves_are_made(said: list[Any], data: st.DataObject) -> None:
    view = views()[data.draw(st.sampled_from(sorted(views(), key=str)))]
    for form, sender in said:
        try:
            after, move = view.receive(form, sender)
        except (Malformed, NegotiationFailed):
            continue
        assert sender.bare == view.peer.bare
        assert TRANSITIONS[view.state, Party.THEIR, move] is after.state
        view = after
