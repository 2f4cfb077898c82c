"""Sessions as a person sees them: who, which string, how far it is to be believed; and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tillie.cli import show
from tillie.model import Trust
from tillie.wire.display import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tillie.schemes.esession import Session

_STATES = {
    "offered": "offered, no answer yet",
    "asked": "waits for your answer",
    "answered": "being negotiated",
    "concluded": "being negotiated",
    "active": "open",
    "ending": "ending",
    "ended": "ended",
    "failed": "did not come about",
    "broken": "broken",
}


def who(session: Session) -> str:
    """The other end. XEP-0116 section 9.4: a petname is shown "more prominently than any JIDs or nicknames"."""
    if session.petname:
        return f"{show.paint(printable(session.petname), 'bold')} ({session.peer})"
    return show.paint(session.peer, "bold")


def state_of(session: Session) -> str:
    return _STATES.get(session.state, session.state)


def trust_of(session: Session) -> str:
    """How far one may believe that it is the person."""
    if session.trust is Trust.VERIFIED:
        return "verified"
    return "distrusted" if session.trust is Trust.DISTRUSTED else "not verified"


def opened(session: Session, *, code: bool = False) -> list[str]:
    """What a person should know of a session that is open now. `code`: it was negotiated with one that both have."""
    lines = [f"The session with {who(session)} is open: all that is said in it is sealed, both ways."]
    if session.trust is Trust.VERIFIED:
        lines.append("  Verified: it is the client that you compared with before.")
    elif code and session.trust is not Trust.DISTRUSTED:
        lines.append("  Sealed with the code that you two have: nobody without it reads or writes here.")
        lines.append(f"  To verify their client once and for all: tillie verify {session.peer.bare}")
    elif session.trust is Trust.DISTRUSTED:
        lines.append("  " + show.paint("You distrust this client.", "bold red") + " Do not say anything private here.")
    elif session.verifiable:
        known = "The client of an earlier session, not verified." if session.known else "Not verified."
        lines.append(f"  {known} Both of you must see this string:  {show.paint(session.string, 'bold')}")
        lines.append(f"  Compare it face to face or on the telephone: tillie verify {session.peer.bare}")
    elif session.string:
        lines.append(f"  Not verified. Its string, {session.string}, is of the old kind, which proves nothing.")
    else:
        lines.append("  Not verified.")
    return lines


def over(session: Session) -> str:
    """How a session ended."""
    why = f": {printable(session.why)}" if session.why else ""
    with_whom = f"with {who(session)}"
    if session.state == "failed":
        return f"No session {with_whom} came about{why}."
    if session.trust is Trust.DISTRUSTED:
        return f"The session {with_whom} is over{why}. Nothing is sealed for that client again. Ask them another way."
    if session.state == "broken":
        return f"The session {with_whom} is broken{why}. What was sent last may not have been read."
    return f"The session {with_whom} is over{why}."


def failures(whose: str, failed: int) -> str:
    """That attempts failed today in a way in which somebody between the two may have guessed at the string."""
    from tillie.schemes.esession.negotiating import MAX_RETRIES

    left = max(0, MAX_RETRIES - failed)
    return (
        f"{failed} attempt{'s' * (failed != 1)} with {whose} failed today, as they do when somebody sits between you "
        f"and guesses at the string; {left or 'no'} more will be taken without asking you."
    )


def table(sessions: Sequence[Session]) -> None:
    """One line for each, and the reason under those that are over."""
    rows = [
        (
            printable(each.petname or each.peer, 60),
            state_of(each),
            each.string if each.verifiable else f"({each.string}, old kind)" if each.string else "",
            trust_of(each) if each.key else "",
            show.clock(each.started),
            f"{each.sent}/{each.received}",
            each.own.resource,
        )
        for each in sessions
    ]
    show.table(("with", "state", "string", "", "since", "sent/received", "from here"), rows)
    for each in sessions:
        if each.why:
            show.line(f"  {printable(each.peer)}, {show.clock(each.started)}: {printable(each.why)}")


def as_json(session: Session) -> dict[str, Any]:
    from tillie.wire.time import format_datetime

    return {
        "thread": session.thread,
        "own": session.own,
        "peer": session.peer,
        "petname": session.petname,
        "role": session.role,
        "state": session.state,
        "string": session.string,
        "string_name": session.string_name,
        "string_digest": session.string_digest.hex(),
        "verifiable": session.verifiable,
        "trust": session.trust.value,
        "known": session.known,
        "profile": session.profile,
        "parameters": session.parameters,
        "started": format_datetime(session.started),
        "sent": session.sent,
        "received": session.received,
        "rekeys": session.rekeys,
        "why": session.why,
    }
