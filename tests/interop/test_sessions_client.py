"""Sessions of Tillie's own client on a real Prosody: what the command line stands on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from support.prosody import HOSTS, PASSWORD, new_account, prosody
from support.xmpp import until
from tillie import store as stores
from tillie.account import Account, SessionSettings, Settings
from tillie.client import Client, connect, text_of
from tillie.demo.prosody import PrivateProsody
from tillie.errors import NegotiationFailed
from tillie.model import Address
from tillie.store import MemoryStore

__all__ = ["prosody"]

KEY = bytes(range(32))
SECONDS = 15.0


def account(server: PrivateProsody, name: str, host: str = HOSTS[0], *, answer: str = "everyone") -> Account:
    made = Account(MemoryStore(Address(new_account(server, name, host))))
    return with_settings(made, server, answer)


def with_settings(made: Account, server: PrivateProsody, answer: str = "everyone") -> Account:
    made.change(
        Settings(
            server=f"127.0.0.1:{server.port}", ca_file=str(server.ca_file), sessions=SessionSettings(answer=answer)
        )
    )
    return made


@asynccontextmanager
async def online(*accounts: Account, listening: bool = True) -> AsyncIterator[list[Client]]:
    clients: list[Client] = []
    try:
        for each in accounts:
            clients.append(await connect(each, PASSWORD, listening=listening))
        yield clients
    finally:
        for client in reversed(clients):
            await client.close()


async def hear(client: Client) -> str:
    async for row, delivery in client.listen():
        await client.acknowledge(row)
        assert delivery.scheme == "esession"
        return text_of(delivery.content)
    raise AssertionError


def test_a_message_in_a_session_that_is_opened_for_it(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = account(prosody, "juliet"), account(prosody, "romeo", HOSTS[1])
        async with online(romeo) as [at_romeos]:
            async with online(juliet, listening=False) as [at_juliets]:
                for text in ("soft", "what light"):
                    sent = await at_juliets.send(romeo.address, text, scheme="esession")
                    assert sent.arrived
                    assert await asyncio.wait_for(hear(at_romeos), SECONDS) == text
                assert [each.state for each in juliet.sessions()] == ["active"]
            assert [(each.state, each.why) for each in juliet.sessions()] == [("ended", "")]
            assert [(each.state, each.why) for each in romeo.sessions()] == [("ended", "the other side ended it")]

    asyncio.run(scenario())


def test_a_second_process_uses_changes_and_ends_the_session_of_the_first(
    prosody: PrivateProsody, tmp_path: Path
) -> None:
    async def scenario() -> None:
        romeo = account(prosody, "romeo", HOSTS[1])
        address = Address(new_account(prosody, "juliet"))
        first_store, second_store = (stores.open(tmp_path / "store", address, KEY) for _ in range(2))
        with closing(first_store), closing(second_store):
            first = with_settings(Account(first_store), prosody)
            async with online(romeo, first) as [at_romeos, at_juliets]:
                session = await at_juliets.sessions.start(romeo.address)
                second = Account(second_store)
                second.rekey_session(session.thread)
                await until(lambda: romeo.sessions()[0].rekeys == 1)
                async with online(second, listening=False) as [from_elsewhere]:
                    assert (await from_elsewhere.send(romeo.address, "from elsewhere", scheme="esession")).arrived
                    assert await asyncio.wait_for(hear(at_romeos), SECONDS) == "from elsewhere"
                assert first.sessions()[0].active
                second.end_session(session.thread)
                await until(lambda: first.sessions()[0].over)
                assert (first.sessions()[0].state, first.sessions()[0].why) == ("ended", "")

    asyncio.run(scenario())


def test_an_offer_that_nobody_answers(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = account(prosody, "juliet"), account(prosody, "romeo", HOSTS[1], answer="nobody")
        async with online(romeo, juliet) as [_, at_juliets]:
            with pytest.raises(NegotiationFailed, match="no answer in time"):
                await at_juliets.sessions.start(romeo.address, wait=1.0)
            assert romeo.sessions() == []
            assert [each.state for each in juliet.sessions()] == ["failed"]

    asyncio.run(scenario())
