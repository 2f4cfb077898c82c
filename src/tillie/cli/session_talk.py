"""A conversation in an encrypted session: what is typed goes out in it, what comes is shown, until the session ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from tillie.account import Account
from tillie.cli import online, session_views, show, strings
from tillie.cli.messages import MAX_TEXT_BYTES, delivery_as_json, show_delivery
from tillie.cli.terminal import Lines
from tillie.client import Client, text_content
from tillie.crypto.random import random_bytes
from tillie.errors import (
    NegotiationFailed,
    NetworkError,
    SessionBroken,
    SessionEnded,
    StoreError,
    TillieError,
    TooLarge,
)
from tillie.model import Address, Notice, Trust
from tillie.pipeline import Delivery
from tillie.sessions import BROKEN, Session

LOOK_SECONDS = 0.5  # between two looks at a session: another process of the account may have changed it

ANSWER_SECONDS = 120.0  # somebody may have to find her keyboard
NOBODY_THERE = (
    "They must be online with a program that knows encrypted sessions (XEP-0116) and takes yours: 'tillie listen' or "
    "'tillie chat'."
)
SOMEBODY_BETWEEN = "If that comes again, somebody may sit between you: ask them another way."
ANOTHER_CODE = "You have a code with them; they must have the same: 'tillie session secret ADDRESS'."
BROKEN_HINT = "What was sent last may not have been read. 'tillie session start' opens a new one."
TOLD = ("no encrypted session: ", "the encrypted session is over: ")  # as schemes.esession begins these notices

COMMANDS = "/verify compares the string, /rekey changes the keys, /end or Ctrl-D ends the session."


class Talk:
    """One conversation. With `json`, every event is an object on standard output (docs/cli.md)."""

    def __init__(self, client: Client, lines: Lines, session: Session, *, json: bool = False) -> None:
        self.client = client
        self.lines = lines
        self.session = session
        self.json = json
        self._shown: set[int] = set()

    async def run(self) -> None:
        """Talk until one side ends the session. Raises `SessionBroken` if it was broken."""
        self._begin()
        hearing = asyncio.ensure_future(self._hear())
        speaking = asyncio.ensure_future(self._speak())
        watching = asyncio.ensure_future(self._watch())
        tasks = {hearing, speaking, watching}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await self._end()
        finally:
            for task in tasks:
                task.cancel()

    def _begin(self) -> None:
        if self.json:
            self._event("open", session_views.as_json(self.session))
            return
        code = bool(self.client.account.session_code(self.session.peer.bare))
        for line in session_views.opened(self.session, code=code):
            show.sentence(line)
        if show.is_conversation():
            show.note(COMMANDS)

    async def _end(self) -> None:
        with suppress(SessionEnded):  # it is over already, or is not even remembered
            if not (await self.client.sessions.get(self.session.thread)).over:
                await self.client.sessions.end(self.session.thread)
        with suppress(SessionEnded):
            self.session = await self.client.sessions.get(self.session.thread)
        for row, delivery in await self.client.engine.inbox():  # what came until the end
            await self._show(row, delivery)
        if self.json:
            self._event("over", session_views.as_json(self.session))
        if self.session.state == BROKEN and self.session.trust is not Trust.DISTRUSTED:
            raise SessionBroken(f"{self.session.peer}: {self.session.why}.", hint=BROKEN_HINT)
        if not self.json:
            show.note(session_views.over(self.session))

    # -- in ---------------------------------------------------------------------------------------------------------

    async def _hear(self) -> None:
        """What this contact says, in the session and beside it. Messages of others stay in the inbox."""
        async for row, delivery in self.client.listen():
            await self._show(row, delivery)

    async def _show(self, row: int, delivery: Delivery) -> None:
        if delivery.address != self.session.peer.bare or row in self._shown:
            return
        self._shown.add(row)
        if self.json:
            self._event("message", delivery_as_json(delivery))
        else:
            show_delivery(self.client.account, delivery)
        await self.client.acknowledge(row)

    async def _watch(self) -> None:
        """Until the session is over. What happens to it meanwhile is told."""
        async for session in watch(self.client, self.session.thread):
            before, self.session = self.session, session
            if session.over:
                return
            if self.json:
                self._event("changed", session_views.as_json(session))
                continue
            for line in _differences(before, session):
                show.note(line)

    # -- out --------------------------------------------------------------------------------------------------------

    async def _speak(self) -> None:
        """Until the input ends, or says so. Commands are for people: a text that is piped in has none."""
        while (line := await self.lines.next()) is not None:
            if not line.strip():
                continue
            try:
                if show.is_conversation() and line.startswith("/") and not line.startswith("/me "):
                    if not await self._command(line.strip()):
                        return
                else:
                    await self._say(line)
            except (NetworkError, StoreError, SessionEnded):
                raise
            except TillieError as error:
                if not show.is_conversation():
                    raise
                show.failure(error)

    async def _command(self, typed: str) -> bool:
        """Do what a line that begins with "/" says. False: end the session."""
        if typed.startswith("//"):
            await self._say(typed[1:])
        elif typed == "/rekey":
            await self.client.sessions.rekey(self.session.thread)
        elif typed == "/verify":
            await self._verify()
        elif typed == "/end":
            return False
        else:
            show.note(f"That is no command, and was not sent. {COMMANDS} //text sends a line that begins with '/'.")
        return True

    async def _say(self, text: str) -> None:
        if len(text.encode(errors="replace")) > MAX_TEXT_BYTES:
            raise TooLarge(f"A message has at most {MAX_TEXT_BYTES} bytes.")
        message_id = random_bytes(12).hex()
        await self.client.sessions.send(self.session.peer, text_content(text), message_id=message_id)
        if self.json:
            self._event("sent", {"id": message_id})

    async def _verify(self) -> None:
        if not self.session.verifiable:
            strings.tell_old(self.session)
            return
        strings.show_string(self.client.account.address, self.session)
        answer = await ask(self.lines, strings.QUESTION)
        if answer is not None:
            await self.client.sessions.confirm(self.session.thread, same=answer)

    def _event(self, name: str, more: dict[str, Any]) -> None:
        show.as_json({"event": name, **more})


def _differences(before: Session, now: Session) -> list[str]:
    """What changed in a session that goes on, in words."""
    found = []
    if now.rekeys > before.rekeys:
        found.append("The keys of the session were changed.")
    # A policy that lets a first message go has verified nobody: there is nothing to tell.
    if session_views.trust_of(now) != session_views.trust_of(before) or now.petname != before.petname:
        found.append(f"The session with {session_views.who(now)} is {session_views.trust_of(now)} now.")
    if now.wants_end and not before.wants_end:
        found.append("Somebody asked in clear that the session end, which anybody on the way could have written.")
    if now.peer != before.peer:
        found.append(f"The other side goes on at {now.peer}.")
    return found


async def watch(client: Client, thread: str) -> AsyncIterator[Session]:
    """A session after each change that a person may want to know of, whichever process made it; its end comes last."""
    before = await client.sessions.get(thread)
    if before.over:
        yield before
    while not before.over:
        await asyncio.sleep(LOOK_SECONDS)
        now = await client.sessions.get(thread)
        if _shape(now) != _shape(before):
            before = now
            yield now


def _shape(session: Session) -> tuple[object, ...]:
    return session.state, session.peer, session.trust, session.petname, session.rekeys, session.wants_end


async def ask(lines: Lines, question: str) -> bool | None:
    """A person's yes or no; None if she decides later, or went away."""
    while True:
        sys.stderr.write(question)
        sys.stderr.flush()
        typed = await lines.next()
        if typed is None or not typed.strip():
            return None
        if (answer := strings.answer_of(typed)) is not None:
            return answer


async def start(client: Client, to: Address, *, json: bool = False) -> Session:
    """Agree on a session with somebody, saying what goes on."""
    if not json:
        show.note(f"Asking {to} for a session. Ctrl-C gives up.")
    ours = client.account
    before = ours.failed_sessions(to.bare)
    try:
        return await client.sessions.start(to, wait=ANSWER_SECONDS)
    except NegotiationFailed as error:
        tell_failures(ours, to.bare)
        may_be_attack = ours.failed_sessions(to.bare) > before
        hint = (ANOTHER_CODE if ours.session_code(to.bare) else SOMEBODY_BETWEEN) if may_be_attack else NOBODY_THERE
        error.hint = error.hint or hint
        raise


def tell_failures(ours: Account, whose: Address) -> None:
    """If attempts failed today as they do under attack, say so."""
    failed = ours.failed_sessions(whose)
    if failed:
        show.note(session_views.failures(whose, failed))


def tell(notice: Notice) -> None:
    """What a person should hear beside the conversation. How it began and ended is told already."""
    if not notice.text.startswith(TOLD):
        online.tell(notice)
