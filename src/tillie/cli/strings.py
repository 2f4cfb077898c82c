"""Comparing the short string of an open session: shown with a code to scan, asked about, or taken from a link.

The link holds the whole digest that the string is made of: `xmpp:alice@example.org?esession-string=<hexadecimal>`.
Only our own kind of string verifies: the one of XEP-0116, sas28x5, can be forged (docs/esession.md).
"""

from __future__ import annotations

import re
import sys
from hmac import compare_digest
from typing import TYPE_CHECKING

from tillie.cli import links, show
from tillie.cli.session_views import trust_of, who
from tillie.errors import NotTrusted, UsageError
from tillie.model import Address
from tillie.wire.display import printable

if TYPE_CHECKING:
    from tillie.account import Account
    from tillie.schemes.esession import Session

_PARAMETER = re.compile(r"(?:^|;)esession-string=([0-9a-fA-F]{64,128})(?:;|$)")
_ENDED = "The session is ended, and this end of it distrusted."


def comparable(ours: Account, whose: Address) -> list[Session]:
    """The open sessions with somebody, each with a string; else the last one: what opens for a single message is over
    before anybody can compare."""
    found = [each for each in ours.sessions(whose) if each.string and each.key]
    still_open = [each for each in found if each.active]
    return still_open or [each for each in found if each.state == "ended"][-1:]


# -- links ----------------------------------------------------------------------------------------------------------


def link_of(address: Address, session: Session) -> str:
    """What our code says: whose it is, and the session's whole digest."""
    return links.write(address, f"esession-string={session.string_digest.hex()}")


def is_link(uri: str) -> bool:
    return bool(_PARAMETER.search(uri[: links.MAX_LINK].partition("?")[2]))


def digest_in(text: str, whose: Address) -> bytes:
    """The digest in such a link. Raises `UsageError` if it is none, or somebody else's."""
    link = links.read(text)
    found = _PARAMETER.search(link.query) if link else None
    if link is None or found is None or len(found[1]) % 2:
        raise UsageError("That is not a link of a session.")
    link.require_of(whose)
    return bytes.fromhex(found[1])


# -- what was read out, or scanned ------------------------------------------------------------------------------------


def match(ours: Account, whose: Address, sessions: list[Session], *, typed: str = "", link: str = "") -> None:
    """Verify the session that has this string, or the digest of this link. Raises `NotTrusted` when none has."""
    if not sessions:
        raise UsageError(
            f"There is no session with {whose}.",
            hint=f"Open one in another terminal: tillie session start {whose}",
        )
    digest = digest_in(link, whose) if link else b""
    wanted = "".join(typed.split()).lower()
    for session in sessions:
        same = compare_digest(session.string_digest, digest) if link else session.string.lower() == wanted
        if same:
            ours.confirm_session(session.thread, True)
            show.line(f"The session with {who(session)} is verified now.")
            return
    raise NotTrusted(
        f"No open session with {whose} shows that.",
        hint="Nothing was verified. Look again at both ends; if they still differ, somebody sits between you: "
        f"tillie session end {whose}",
    )


# -- at a terminal --------------------------------------------------------------------------------------------------


def ask(ours: Account, whose: Address, sessions: list[Session]) -> int:
    """Show each session's string and ask about it. How many are still open."""
    still_open = 0
    for session in sessions:
        if not session.verifiable:
            tell_old(session)
            continue
        show_string(ours.address, session)
        answer = _question()
        if answer is None:
            still_open += session.trust.value != "verified"
            continue
        for notice in ours.confirm_session(session.thread, answer):
            show.note(printable(notice.text))
        show.line("  Verified." if answer else f"  {_ENDED}")
    return still_open


def tell_old(session: Session) -> None:
    """Why the string of XEP-0116 is not asked about."""
    show.line(f"Session with {who(session)}: its string, {session.string}, is of the old kind ({session.string_name}).")
    show.line("  Whoever sits between you can make both ends show the same one, so comparing it verifies nothing.")


def show_string(own: Address, session: Session) -> None:
    """The string and the code that both ends must see alike."""
    when = f"{'open since' if session.active else 'that was opened at'} {show.clock(session.started)}"
    show.line(f"Session with {who(session)}, {when}, {trust_of(session)}:")
    show.line()
    show.line(f"    {show.paint(session.string, 'bold')}")
    show.line()
    links.show_code(link_of(own, session))
    show.line(
        f"{session.peer.bare} must see exactly this. Compare it face to face or on the telephone, not in this chat."
    )


QUESTION = "Is it the same? [y]es; [n]o, end the session; Enter: decide later: "


def answer_of(typed: str) -> bool | None:
    """What was answered; None for what is no answer."""
    return {"y": True, "yes": True, "n": False, "no": False}.get(typed.strip().lower())


def _question() -> bool | None:
    while True:
        sys.stderr.write(QUESTION)
        sys.stderr.flush()
        typed = sys.stdin.readline()
        answer = answer_of(typed)
        if answer is not None or not typed.strip():
            return answer
