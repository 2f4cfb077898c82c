"""The life of a session as data: which event leads from which state where, by which step, and what the peer is told.

The code runs on it: `arriving` looks up whose turn it is, `sessions` refuses a change of state that is not here. The
diagrams of docs/esession.md are made from it (scripts/diagrams.py).
"""

from __future__ import annotations

from typing import NamedTuple

NONE = ""  # there is no such session
OFFERED = "offered"  # we sent message 1
ASKED = "asked"  # message 1 came, and waits for a person
ANSWERED = "answered"  # we sent message 2
CONCLUDED = "concluded"  # we sent message 3
ACTIVE = "active"
ENDING = "ending"  # we asked that it end, and wait for the answer
ENDED = "ended"
FAILED = "failed"  # the negotiation came to nothing
BROKEN = "broken"  # a stanza did not verify, or was lost

PENDING = (OFFERED, ASKED, ANSWERED, CONCLUDED)
OPEN = (ACTIVE, ENDING)
OVER = (ENDED, FAILED, BROKEN)
STATES = (*PENDING, *OPEN, *OVER)

# What a person, the program or time does.
START, ANSWER, DECLINE, GIVE_UP, SEND, REKEY, END, TOO_LATE, GIVEN = (
    *("we ask", "we answer", "we decline", "we give up", "we send", "we re-key", "we end it", "no answer in time"),
    "given by hand",
)
# What arrives. Forms by their meaning, stanzas by what comes of them.
MESSAGE_1, MESSAGE_2, MESSAGE_3, MESSAGE_4 = "message 1", "message 2", "message 3", "message 4"
DECLINED, ERROR, CROSSED, LEFT = "declined", "error", "both asked", "the peer left"
STANZA, TERMINATE, ACKNOWLEDGE, CLEAR_END = "stanza", "end", "end acknowledged", "end in clear"
DIFFERENT = "the strings differ"


class Transition(NamedTuple):
    """One row. `step` is the function that does it; `sends` is what goes to the peer. If the step fails, `condition` is
    what the peer is told, and the state is `failed`, "" if it can't fail."""

    state: str
    event: str
    step: str
    after: str
    sends: str = ""
    condition: str = ""
    failed: str = ""


NOT_ACCEPTABLE, NOT_IMPLEMENTED = "not-acceptable", "feature-not-implemented"

INITIATOR = (
    Transition(NONE, START, "offer.offer", OFFERED, "message 1"),
    Transition(OFFERED, MESSAGE_2, "four.conclude", CONCLUDED, "message 3", NOT_ACCEPTABLE, FAILED),
    Transition(OFFERED, MESSAGE_2, "three.conclude", ACTIVE, "message 3", NOT_IMPLEMENTED, FAILED),
    Transition(OFFERED, CROSSED, "negotiating.crossing", FAILED),
    Transition(CONCLUDED, MESSAGE_4, "four.finish", ACTIVE, "", NOT_IMPLEMENTED, FAILED),
    Transition(CONCLUDED, STANZA, "negotiating.fail", FAILED, NOT_ACCEPTABLE),  # message 4 was lost
)
RESPONDER = (
    Transition(NONE, MESSAGE_1, "negotiating.asked", ASKED),
    Transition(ASKED, ANSWER, "offer.answer", ANSWERED, "message 2", NOT_ACCEPTABLE, FAILED),
    Transition(ASKED, DECLINE, "negotiating.rejection", ENDED, "a form that declines"),
    Transition(ANSWERED, MESSAGE_3, "four.accept", ACTIVE, "message 4", NOT_IMPLEMENTED, FAILED),
)
BOTH = (
    *(Transition(state, DECLINED, "negotiating.give_up", FAILED) for state in PENDING),
    *(Transition(state, ERROR, "negotiating.give_up", FAILED) for state in PENDING),
    *(Transition(state, TOO_LATE, "negotiating.give_up", FAILED) for state in PENDING),
    *(Transition(state, LEFT, "negotiating.give_up", FAILED) for state in PENDING),
    *(Transition(state, GIVE_UP, "negotiating.give_up", FAILED, NOT_ACCEPTABLE) for state in PENDING),
)
SESSION = (
    Transition(NONE, GIVEN, "channel.begin", ACTIVE),
    Transition(ACTIVE, SEND, "channel.seal", ACTIVE, "a sealed stanza"),
    Transition(ACTIVE, REKEY, "channel.seal", ACTIVE, "a sealed stanza with a key"),
    Transition(ACTIVE, STANZA, "channel.open", ACTIVE, "", NOT_ACCEPTABLE, BROKEN),
    Transition(ACTIVE, END, "channel.terminate", ENDING, "a sealed end"),
    Transition(ACTIVE, END, "messages.write_termination", ENDED, "an end in clear, to Gajim"),
    Transition(ACTIVE, TERMINATE, "channel.acknowledge", ENDED, "a sealed acknowledgement", NOT_ACCEPTABLE, BROKEN),
    Transition(ACTIVE, CLEAR_END, "arriving.end_in_clear", ACTIVE),  # a person is told; nothing proves it
    Transition(ACTIVE, DIFFERENT, "traffic.broken", BROKEN, NOT_ACCEPTABLE),
    Transition(ENDING, STANZA, "channel.open", ENDING, "", NOT_ACCEPTABLE, BROKEN),
    Transition(ENDING, ACKNOWLEDGE, "channel.open", ENDED, "", NOT_ACCEPTABLE, BROKEN),
    Transition(ENDING, TERMINATE, "channel.open", ENDED, "", NOT_ACCEPTABLE, BROKEN),  # both ended it at once
    Transition(ENDING, CLEAR_END, "arriving.end_in_clear", ENDING),
    Transition(ENDING, TOO_LATE, "sessions.finish", ENDED),
    *(Transition(state, ERROR, "traffic.broken", BROKEN) for state in OPEN),
    *(Transition(state, LEFT, "sessions.finish", ENDED) for state in OPEN),
    *(Transition(state, GIVE_UP, "sessions.finish", ENDED) for state in OPEN),
)
TRANSITIONS = (*INITIATOR, *RESPONDER, *BOTH, *SESSION)

_BY_EVENT: dict[tuple[str, str], Transition] = {}
for _row in TRANSITIONS:
    _BY_EVENT.setdefault((_row.state, _row.event), _row)
_CHANGES = frozenset((row.state, after) for row in TRANSITIONS for after in (row.after, row.failed) if after)


def find(state: str, event: str) -> Transition | None:
    """What an event calls for in a state; None if it is not its turn. Of two (three messages or four), the first."""
    return _BY_EVENT.get((state, event))


def require_change(before: str, after: str) -> None:
    """Raises ValueError, a fault of our own, for a change of state that no row allows."""
    if before != after and (before, after) not in _CHANGES:
        raise ValueError(f"a session can't go from {before or 'nothing'} to {after}")


# -- diagrams -------------------------------------------------------------------------------------------------------


def diagram(rows: tuple[Transition, ...]) -> str:
    """A state diagram in Mermaid's language."""
    lines = ["stateDiagram-v2"]
    for row in rows:
        lines.append(f"    {row.state or '[*]'} --> {row.after}: {row.event}")
    failures = dict.fromkeys((row.state, row.failed, row.condition) for row in rows if row.failed)
    lines.extend(f"    {state} --> {after}: fails ({condition})" for state, after, condition in failures)
    over = dict.fromkeys(after for row in rows for after in (row.after, row.failed) if after in OVER)
    lines.extend(f"    {state} --> [*]" for state in over)
    return "\n".join(lines)


def table(rows: tuple[Transition, ...]) -> str:
    """The same rows as a table in Markdown."""
    lines = ["| state | event | step | then | sends | if it fails |", "|---|---|---|---|---|---|"]
    for row in rows:
        failing = f"{row.failed}, `{row.condition}`" if row.failed else ""
        sends = f"`{row.sends}`" if row.sends == NOT_ACCEPTABLE else row.sends
        lines.append(f"| {row.state or '(none)'} | {row.event} | `{row.step}` | {row.after} | {sends} | {failing} |")
    return "\n".join(lines)
