"""Sessions of accounts on the network in this process: two ends, several resources, several processes of one end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from tillie import store as stores
from tillie.account import Account
from tillie.client import Client, text_content, text_of
from tillie.errors import NegotiationFailed, NotTrusted, SessionEnded, UsageError
from tillie.model import Address, Decided, Notice, Trust
from tillie.networks import Options
from tillie.networks.local import LocalConnection, LocalServer
from tillie.pipeline import Policy
from tillie.schemes.esession.sessions import Session
from tillie.sessions import Answer
from tillie.store import MemoryStore, Store

ALICE, BOB = Address("alice@capulet.test"), Address("bob@montague.test")
KEY = bytes(range(32))
SECONDS = 10.0

Two = tuple[LocalServer, LocalConnection, LocalConnection]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await condition():  # noqa: ASYNC110  there is no event for what a store holds
            await asyncio.sleep(0.01)


@asynccontextmanager
async def two(store: Store | None = None, **options: object) -> AsyncIterator[Two]:
    """Alice and Bob, who answers everybody."""
    server = LocalServer()
    alice = await server.connect(ALICE, store or MemoryStore(ALICE), Options(**options))  # type: ignore[arg-type]
    bob = await server.connect(BOB, MemoryStore(BOB), Options(answer=Answer.EVERYONE))
    try:
        yield server, alice, bob
    finally:
        await alice.close()
        await bob.close()


async def texts(connection: LocalConnection) -> list[str]:
    """What was said to this end since the last look."""
    await connection.drained()
    rows = await connection.engine.inbox()
    await connection.engine.acknowledge(*(row for row, _ in rows))
    assert all(delivery.scheme == "esession" for _, delivery in rows), rows
    return [text_of(delivery.content) for _, delivery in rows]


async def one(connection: LocalConnection) -> Session:
    (session,) = await connection.sessions.all()
    return session


def test_from_start_to_end() -> None:
    async def scenario() -> None:
        async with two() as (server, alice, bob):
            session = await alice.sessions.start(BOB)
            assert (session.peer, session.own) == (bob.address, alice.address)
            assert session.string == (await one(bob)).string
            for number in range(5):
                await alice.sessions.send(session.peer, text_content(f"A{number}"))
                await bob.sessions.send(ALICE, text_content(f"B{number}"))
            assert await texts(bob) == [f"A{number}" for number in range(5)]
            assert await texts(alice) == [f"B{number}" for number in range(5)]
            await alice.sessions.rekey(session.thread)
            await alice.sessions.send(BOB, text_content("with new keys"))
            assert await texts(bob) == ["with new keys"]
            assert (await alice.sessions.end(session.thread)).why == ""
            assert (await one(bob)).why == "the other side ended it"
            with pytest.raises(SessionEnded):
                await alice.sessions.send(BOB, text_content("too late"))
            assert not any(
                word in seen
                for seen in server.traffic
                for word in (b"A0", b"new keys", b"too late")
                if b"<body" in seen
            )
            assert server.archive == []
            for end in (alice, bob):
                assert await end.engine.outbox() == []

    asyncio.run(scenario())


def test_stanzas_of_all_kinds_keep_their_order() -> None:
    async def scenario() -> None:
        async with two() as (_, alice, bob):
            session = await alice.sessions.start(bob.address)
            stanzas = [
                b"<message xmlns='jabber:client' type='chat' to='%b' id='1'><body>one</body></message>",
                b"<iq xmlns='jabber:client' type='get' to='%b' id='1'><query xmlns='jabber:iq:version'/></iq>",
                b"<presence xmlns='jabber:client' to='%b' id='1'><status>three</status></presence>",
                b"<iq xmlns='jabber:client' type='result' to='%b' id='1'/>",
            ] * 5
            await asyncio.gather(*(alice.sessions.seal(each % bob.address.encode()) for each in stanzas))
            await bob.drained()
            rows = await bob.engine.inbox()
            assert [d.stanza for _, d in rows] == ["message", "iq", "presence", "iq"] * 5
            assert [d.type for _, d in rows] == ["chat", "get", "", "result"] * 5
            assert rows[1][1].content == "<query xmlns='jabber:iq:version'/>"
            assert rows[3][1].content == ""
            assert (await bob.sessions.get(session.thread)).received == 20

    asyncio.run(scenario())


def test_nobody_there_and_nobody_who_answers() -> None:
    async def scenario() -> None:
        async with two() as (server, alice, _):
            with pytest.raises(NegotiationFailed, match="nobody is there"):
                await alice.sessions.start(Address("carol@montague.test/away"))
            silent = await server.connect(
                Address("dora@montague.test"), MemoryStore(Address("dora@montague.test")), Options(answer=Answer.NOBODY)
            )
            with pytest.raises(NegotiationFailed, match="no answer in time"):
                await alice.sessions.start(silent.address, wait=0.3)
            assert await silent.sessions.all() == ()
            assert all(session.over for session in await alice.sessions.all())
            await silent.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("yes", [True, False])
def test_an_offer_that_waits_for_a_person(yes: bool) -> None:
    async def scenario() -> None:
        server = LocalServer()
        notices: list[Notice] = []
        alice = await server.connect(ALICE, MemoryStore(ALICE))
        bob = await server.connect(BOB, MemoryStore(BOB), Options(answer=Answer.ASK, notice=notices.append))
        changes = bob.sessions.changes()
        offered = asyncio.ensure_future(anext(changes))
        attempt = asyncio.ensure_future(alice.sessions.start(BOB))
        offer = await asyncio.wait_for(offered, SECONDS)
        assert (offer.state, offer.peer) == ("asked", alice.address)
        assert [notice.about for notice in notices] == [ALICE]
        if yes:
            assert (await bob.sessions.accept(offer.thread)).string == (await attempt).string
        else:
            await bob.sessions.decline(offer.thread, "not now")
            with pytest.raises(NegotiationFailed, match="not now"):
                await attempt
        for end in (alice, bob):
            await end.close()

    asyncio.run(scenario())


def test_both_start_at_once() -> None:
    async def scenario() -> None:
        async with two(answer=Answer.EVERYONE) as (_, alice, bob):
            first, second = await asyncio.gather(alice.sessions.start(bob.address), bob.sessions.start(alice.address))
            assert (first.thread, first.string) == (second.thread, second.string)
            await alice.sessions.send(BOB, text_content("one session"))
            assert await texts(bob) == ["one session"]

    asyncio.run(scenario())


def test_a_session_for_each_resource() -> None:
    async def scenario() -> None:
        async with two() as (server, alice, bob):
            sofa = await server.connect(BOB, MemoryStore(BOB), Options(answer=Answer.EVERYONE))
            desk, other = [await alice.sessions.start(each.address) for each in (bob, sofa)]
            assert desk.thread != other.thread
            for session, name in ((desk, "desk"), (other, "sofa")):
                await alice.sessions.send(session.peer, text_content(name))
            assert (await texts(bob), await texts(sofa)) == (["desk"], ["sofa"])
            await sofa.close()
            await until(lambda: _is_over(alice, other.thread))
            await alice.sessions.send(BOB, text_content("who is there"))
            assert await texts(bob) == ["who is there"]

    asyncio.run(scenario())


async def _is_over(end: LocalConnection, thread: str) -> bool:
    return (await end.sessions.get(thread)).over


def test_who_comes_back_has_no_session_and_is_known() -> None:
    async def scenario() -> None:
        store = MemoryStore(ALICE)
        async with two(store) as (server, alice, _):
            session = await alice.sessions.start(BOB)
            await alice.sessions.confirm(session.thread, same=True)
            server._online.remove(alice)  # her connection breaks: nobody is told anything
            again = await server.connect(ALICE, store)
            assert (
                await again.sessions.with_peer(BOB) is None
                or (await again.sessions.with_peer(BOB)).own != again.address
            )  # type: ignore[union-attr]
            new = await again.sessions.start(BOB)
            assert (new.known, new.trust) == (True, Trust.VERIFIED)
            await again.close()

    asyncio.run(scenario())


def test_a_person_decides_on_keys_first() -> None:
    async def scenario() -> None:
        async with two(policy=Policy.MANUAL) as (_, alice, bob):
            session = await alice.sessions.start(BOB)
            with pytest.raises(NotTrusted):
                await alice.sessions.send(BOB, text_content("who are you?"))
            with pytest.raises(NotTrusted):
                await alice.sessions.seal(
                    b"<iq xmlns='jabber:client' type='get' to='%b' id='1'><q xmlns='u:x'/></iq>" % bob.address.encode()
                )
            await alice.sessions.confirm(session.thread, same=True)
            await alice.sessions.send(BOB, text_content("it is you"))
            assert await texts(bob) == ["it is you"]
            await alice.engine.learn(Decided(BOB, session.key, Trust.DISTRUSTED))
            with pytest.raises(UsageError):
                await alice.sessions.send(BOB, text_content("no"))

    asyncio.run(scenario())


def test_different_strings_end_it() -> None:
    async def scenario() -> None:
        async with two() as (_, alice, bob):
            session = await alice.sessions.start(BOB)
            await alice.sessions.confirm(session.thread, same=False)
            assert (await one(alice)).state == "broken"
            await until(lambda: _is_over(bob, session.thread))

    asyncio.run(scenario())


def test_another_process_of_the_account(tmp_path: Path) -> None:
    """It sees the session, and whatever it does goes out through the connection that has it, soon."""

    async def scenario() -> None:
        path = tmp_path / "store"
        async with two(stores.open(path, ALICE, KEY)) as (server, alice, bob):
            session = await alice.sessions.start(BOB)
            following = asyncio.ensure_future(_followed(alice))
            with closing(stores.open(path, ALICE, KEY)) as other:
                account = Account(other)
                assert [each.thread for each in account.sessions()] == [session.thread]
                account.rekey_session(session.thread)
                await until(lambda: _rekeyed(bob, session.thread))
                second = Client(account, await server.connect(ALICE, other))
                sent = await second.send(BOB, "from the other window", scheme="esession")
                assert sent.arrived
                assert await texts(bob) == ["from the other window"]
                assert not any(b"other window" in seen for seen in server.traffic)
                await second.close()
                assert not (await one(alice)).over
                account.end_session(session.thread)
                await until(lambda: _is_over(alice, session.thread))
                await until(lambda: _is_over(bob, session.thread))
            rekeyed, *states = await asyncio.wait_for(following, SECONDS)
            assert rekeyed == "active"
            assert states[-1] == "ended"

    asyncio.run(scenario())


async def _followed(end: LocalConnection) -> list[str]:
    """The states of all that changes, until a session is over."""
    states: list[str] = []
    async for session in end.sessions.changes():
        states.append(session.state)
        if session.over:
            break
    return states


async def _rekeyed(end: LocalConnection, thread: str) -> bool:
    return (await end.sessions.get(thread)).rekeys > 0


def test_a_client_that_sends_one_message_ends_what_it_began(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = LocalServer()
        with closing(stores.open(tmp_path / "store", ALICE, KEY)) as store:
            bob = await server.connect(BOB, MemoryStore(BOB), Options(answer=Answer.EVERYONE))
            client = Client(Account(store), await server.connect(ALICE, store, Options(listening=False)))
            sent = await client.send(BOB, "in passing", scheme="esession")
            assert sent.arrived
            assert [report.sealed for report in sent.sealed.report] == [True]
            await client.close()
            assert (await one(bob)).state == "ended"
            assert await texts(bob) == ["in passing"]
            assert [each.state for each in Account(store).sessions()] == ["ended"]
            await bob.close()

    asyncio.run(scenario())


def test_what_is_not_ended_in_time_is_given_up() -> None:
    async def scenario() -> None:
        async with two() as (server, alice, bob):
            session = await alice.sessions.start(BOB)
            server._online.remove(bob)
            server._pass_on = lambda *_: None  # type: ignore[method-assign]  # no error tells her, either
            ended = await alice.sessions.end(session.thread, wait=0.2)
            assert (ended.state, ended.why) == ("ended", "ended, but the other side did not acknowledge it")
            with pytest.raises(SessionEnded):
                await alice.sessions.find(session.thread)
            with pytest.raises(SessionEnded):
                await alice.sessions.get("no such thread")

    asyncio.run(scenario())
