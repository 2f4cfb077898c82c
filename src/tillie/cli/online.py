"""What a command does with the network: log in, ask the person at the terminal, say what goes on, leave in order."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from tillie import client as clients
from tillie.account import Account
from tillie.cli import show, unlock
from tillie.cli.terminal import Lines
from tillie.client import Client
from tillie.errors import AuthenticationFailed, PasswordNeeded
from tillie.model import Decide, Decided, Notice, Trust
from tillie.trust import fingerprint
from tillie.wire.display import printable

T = TypeVar("T")

connect = clients.connect  # tests put another network here


def run(
    account: Account,
    password: str,
    work: Callable[[Client, Lines], Awaitable[T]],
    *,
    listening: bool = False,
    ask: bool = True,
    notice: Callable[[Notice], None] | None = None,
) -> T:
    """Log the account in, do the work, leave. With `ask`, and somebody at the terminal, decisions on keys are asked.
    `notice` tells a person what she should hear; `tell` does if it is left out.

    `password` may be "" where a homeserver gave a token. If it wants the password all the same, a person is asked, and
    the work begins anew."""

    async def all_of_it(password: str) -> T:
        lines = Lines(sys.stdin)
        async with online(account, password, lines, listening=listening, ask=ask, notice=notice) as client:
            return await work(client, lines)

    try:
        return asyncio.run(all_of_it(password))
    except PasswordNeeded as error:
        if not show.is_conversation():
            raise
        show.note(f"The homeserver of {account.address} wants the password again.")
        asked = unlock.ask_password(account.address, error.hint)
    return asyncio.run(all_of_it(asked))


@asynccontextmanager
async def online(
    account: Account,
    password: str,
    lines: Lines,
    *,
    listening: bool = False,
    ask: bool = True,
    notice: Callable[[Notice], None] | None = None,
) -> AsyncIterator[Client]:
    async def decide(need: Decide) -> Sequence[Decided]:
        return await ask_person(need, lines) if ask and show.is_conversation() else ()

    try:
        client = await connect(account, password, listening=listening, decide=decide, notice=notice or tell)
    except AuthenticationFailed as error:
        if account.password():  # else she has just typed it
            error.hint = error.hint or "Was it changed at the server? 'tillie account password' keeps the new one."
        raise
    try:
        yield client
    finally:
        await client.close()


async def side_by_side(*works: Coroutine[Any, Any, None]) -> None:
    """Do several things at once, until the first of them ends; the others are given up then."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


def tell(notice: Notice) -> None:
    """Something a person should hear, beside the results."""
    show.note(f"note: {printable(notice.about)}: {printable(notice.text)}")


async def ask_person(need: Decide, lines: Lines) -> Sequence[Decided]:
    """Ask about each key; an empty list as soon as one is left open, since then nothing is sent anyway."""
    if need.changed:
        show.note(show.paint("A contact whose keys you verified has a new key.", "bold", sys.stderr))
        show.note("That is so with a new telephone, and when somebody sits between you. Ask them before you trust it.")
    decided = []
    for device in need.devices:
        label = f' "{printable(device.label, 60)}"' if device.label and not device.address.is_matrix else ""
        show.note(f"{device.address}, {printable(device.name, 60)}{label}:")
        if device.is_session:
            show.note(f"  The other end of a session. To compare strings first: tillie verify {device.address}")
        else:
            show.note(f"  {fingerprint.of(device)}")
        trust = await _answer(lines, may_verify=not device.is_session)
        if trust is None:
            return ()
        decided.append(Decided(device.address, device.key, trust))
    return decided


async def _answer(lines: Lines, *, may_verify: bool) -> Trust | None:
    """What a person thinks of a key. A session's other end is verified by its string alone, and not by every string."""
    choices = {"t": Trust.TRUSTED, "d": Trust.DISTRUSTED} | ({"v": Trust.VERIFIED} if may_verify else {})
    verified = "it is [v]erified, " if may_verify else ""
    while True:
        sys.stderr.write(f"[t]rust it, {verified}[d]istrust it, or Enter to send nothing: ")
        sys.stderr.flush()
        answer = (await lines.next() or "").strip().lower()
        if not answer:
            return None
        if answer[0] in choices:
            return choices[answer[0]]
