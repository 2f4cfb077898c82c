"""Line mode: what one person types is sent, what the other says is shown, each line whole."""

from __future__ import annotations

import asyncio

from tillie.account import Account
from tillie.cli import online, show
from tillie.cli.messages import show_delivery
from tillie.cli.terminal import Lines
from tillie.client import Client
from tillie.errors import NetworkError, StoreError, TillieError
from tillie.model import Address


def run(account: Account, password: str, to: Address) -> None:
    async def work(client: Client, lines: Lines) -> None:
        show.note(f"Talking with {to} as {account.address}. Ctrl-D leaves.")
        hearing = asyncio.ensure_future(_hear(client, to))
        speaking = asyncio.ensure_future(_speak(client, to, lines))
        try:
            done, _ = await asyncio.wait({hearing, speaking}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            hearing.cancel()
            speaking.cancel()

    online.run(account, password, work, listening=True)


async def _hear(client: Client, to: Address) -> None:
    """What this contact says, and what our other devices say to them. Messages of others stay in the inbox."""
    async for row, delivery in client.listen():
        if delivery.address == to or (delivery.address == client.account.address and delivery.to == to):
            show_delivery(client.account, delivery)
            await client.acknowledge(row)


async def _speak(client: Client, to: Address, lines: Lines) -> None:
    while (line := await lines.next()) is not None:
        if not line.strip():
            continue
        try:
            sent = await client.send(to, line)
        except (NetworkError, StoreError):
            raise
        except TillieError as error:  # a decision that is open, no device: say so, and go on talking
            show.failure(error)
            if not show.is_conversation():
                raise
            continue
        if not sent.arrived:
            show.note("  (queued: the server does not have it yet)")
