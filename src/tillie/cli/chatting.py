"""Line mode: what one person types is sent, what the other says is shown, each line whole."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tillie.account import Account
from tillie.cli import offers, online, session_record, show, strings
from tillie.cli.messages import show_delivery
from tillie.cli.terminal import Lines
from tillie.client import Client
from tillie.errors import NetworkError, StoreError, TillieError
from tillie.model import Address


def run(account: Account, password: str, to: Address, transcript: Path | None = None) -> None:
    async def work(client: Client, lines: Lines) -> None:
        show.note(f"Talking with {to} as {account.address}. Ctrl-D leaves.")
        async with session_record.recorded(client, transcript, to):
            await _Conversation(client, to, lines).run()

    online.run(account, password, work, listening=True)


class _Conversation:
    """While a session with this contact is open, what is typed goes out in it; else as any message does."""

    def __init__(self, client: Client, to: Address, lines: Lines) -> None:
        self._client = client
        self._to = to
        self._lines = lines
        self._question: asyncio.Future[str] | None = None
        self._in_session = False  # what was typed last

    async def run(self) -> None:
        works = [self._hear(), self._speak()]
        if not self._to.is_matrix:
            works.append(offers.attend(self._client, self._ask, only=self._to))
        await online.side_by_side(*works)

    async def _hear(self) -> None:
        """What this contact says, and what our other devices say to them. Messages of others stay in the inbox."""
        async for row, delivery in self._client.listen():
            if delivery.address == self._to or (
                delivery.address == self._client.account.address and delivery.to == self._to
            ):
                show_delivery(self._client.account, delivery)
                await self._client.acknowledge(row)

    async def _speak(self) -> None:
        while (line := await self._lines.next()) is not None:
            if self._question is not None and not self._question.done():
                self._question.set_result(line)
                continue
            if not line.strip():
                continue
            try:
                await self._say(line)
            except (NetworkError, StoreError):
                raise
            except TillieError as error:  # a decision that is open, no device: say so, and go on talking
                show.failure(error)
                if not show.is_conversation():
                    raise

    async def _say(self, line: str) -> None:
        in_session = not self._to.is_matrix and await self._has_session()
        if self._in_session and not in_session:
            show.note("  (sent outside the session, which is over)")
        self._in_session = in_session
        sent = await self._client.send(self._to, line, scheme="esession" if in_session else "")
        if not sent.arrived:
            show.note("  (queued: the server does not have it yet)")

    async def _has_session(self) -> bool:
        """Whether this program holds an open session with them."""
        session = await self._client.sessions.with_peer(self._to)
        return session is not None and session.own == self._client.engine.own

    async def _ask(self, question: str) -> bool | None:
        """The next line that is typed answers, and is not sent."""
        while True:
            sys.stderr.write(question)
            sys.stderr.flush()
            self._question = asyncio.get_running_loop().create_future()
            typed = await self._question
            if not typed.strip():
                return None
            if (answer := strings.answer_of(typed)) is not None:
                return answer
