"""Offers of encrypted sessions that come while we are online: who gets an answer, what a person is told and asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from tillie.account import Account
from tillie.cli import session_talk, session_views, show
from tillie.cli.options import AnswerName
from tillie.client import LISTEN_SECONDS, Client
from tillie.errors import TillieError, UsageError
from tillie.model import Address
from tillie.sessions import ASKED, Session

Ask = Callable[[str], Awaitable[bool | None]]


def decide(ours: Account, answer: AnswerName | None, transcript: Path | None) -> None:
    """Who gets an answer from this program: as given, else as in the settings. "ask" needs somebody to ask. Raises
    `UsageError` if something was given, and there are no sessions: on Matrix."""
    if ours.address.is_matrix:
        if answer is not None or transcript is not None:
            raise UsageError(
                f"There are no encrypted sessions on Matrix, where {ours.address} is.",
                hint="Leave out --answer and --transcript.",
            )
        return
    chosen = answer.value if answer is not None else ours.settings.sessions.answer
    if chosen == AnswerName.ASK.value and not show.is_conversation():
        chosen = AnswerName.CONTACTS.value
    wanted = msgspec.structs.replace(ours.settings.sessions, answer=chosen)
    ours.settings = msgspec.structs.replace(ours.settings, sessions=wanted)


async def attend(client: Client, ask: Ask, *, only: Address | None = None, json: bool = False) -> None:
    """Until cancelled: ask about each offer, if there is somebody to ask, and tell of sessions that open and end; of
    those with `only` alone, if it is given."""
    told: dict[str, str] = {}
    async for session in client.sessions.changes():
        mine = session.own == client.engine.own and only in (None, session.peer.bare)
        if not mine or told.get(session.thread) == session.state:
            continue
        told[session.thread] = session.state
        if session.over:
            await asyncio.sleep(LISTEN_SECONDS)  # what was said until then is shown first
        if json:
            show.as_json({"kind": "session", **session_views.as_json(session)})
        elif session.active:
            for line in session_views.opened(session, code=bool(client.account.session_code(session.peer.bare))):
                show.note(line)
        elif session.over and session.string:  # of an attempt that failed a notice tells
            show.note(session_views.over(session))
        if session.state == ASKED and show.is_conversation():
            await _ask(client, session, ask)


async def _ask(client: Client, session: Session, ask: Ask) -> None:
    session_talk.tell_failures(client.account, session.peer.bare)
    answer = await ask("Take it? An answer tells that you are here. [y]es; [n]o; Enter: no answer: ")
    try:
        if answer:
            await client.sessions.accept(session.thread, wait=0)
        elif answer is False:
            await client.sessions.decline(session.thread)
    except TillieError as error:  # it was taken back, or waited too long
        show.failure(error)
