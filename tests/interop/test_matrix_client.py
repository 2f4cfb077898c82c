"""Our client at a `tillie home` and at Synapse: devices, restarts, outages, logging out, what comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from support.certificates import certificates
from support.homes import PrivateHome
from support.matrix import PASSWORD, Homeserver, Tenant, at_home, new_account
from support.synapse import synapse
from tillie.account import MatrixSettings
from tillie.client import Client, connect
from tillie.directory.matrix import DRAFT2015
from tillie.errors import AuthenticationFailed, Rejected, StoreMismatch, Unreachable, UsageError
from tillie.model import Address, Done, Send, State
from tillie.networks.matrix import records, sync
from tillie.networks.matrix.api import Api, LoggedOut, open_session
from tillie.networks.matrix.connection import MatrixConnection
from tillie.store import MemoryStore

__all__ = ["certificates", "synapse"]

SECONDS = 15.0


@pytest.fixture(scope="module")
def home() -> Iterator[PrivateHome]:
    with PrivateHome() as running:
        yield running


@pytest.fixture(params=["home", pytest.param("synapse", marks=pytest.mark.heavy)])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def run(home: Homeserver, scenario: Callable[[Tenant, Tenant], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        alice, bob = (Tenant(home, new_account(home, name)) for name in ("alice", "bob"))
        async with at_home(alice, bob):
            await scenario(alice, bob)

    asyncio.run(all_of_it())


def connection_of(tenant: Tenant) -> MatrixConnection:
    connection = tenant.client._connection
    assert isinstance(connection, MatrixConnection)
    return connection


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not done():  # noqa: ASYNC110  another process changes it
            await asyncio.sleep(0.02)


def test_messages_go_both_ways_and_wait_for_who_is_away(server: Homeserver) -> None:
    async def scenario(alice: Tenant, bob: Tenant) -> None:
        sent = await alice.say(bob.address, "hello")
        assert sent.arrived
        assert [line.device.label for line in sent.sealed.report] == [bob.device]
        assert await bob.reads() == "hello"
        await bob.say(alice.address, "{and} back")
        assert await alice.reads() == "{and} back"
        device = bob.device
        await bob.leave()
        for number in range(3):
            await alice.say(bob.address, f"{number} while you were away")
        await bob.arrive()
        assert await connection_of(bob).caught_up(SECONDS)
        assert [await bob.reads() for _ in range(3)] == [f"{number} while you were away" for number in range(3)]
        assert bob.device == device
        assert [entry.sent for entry in alice.account.history(bob.address)] == [True, False, True, True, True]
        assert alice.notices == bob.notices == []

    run(server, scenario)


def test_every_device_gets_a_message_until_it_is_removed(server: Homeserver) -> None:
    async def scenario(alice: Tenant, bob: Tenant) -> None:
        tablet = Tenant(server, bob.address)
        async with at_home(tablet):
            name = tablet.device
            sent = await alice.say(bob.address, "to both")
            assert {line.device.label for line in sent.sealed.report if line.sealed} == {bob.device, name}
            assert await bob.reads() == await tablet.reads() == "to both"
            await bob.say(alice.address, "from one")
            assert await alice.reads() == await tablet.reads() == "from one"
            assert await bob.client.unlist(name)
            assert name not in {key.device.label for key in await bob.client.devices(bob.address)}
            sent = await alice.say(bob.address, "to one")
            assert [line.device.label for line in sent.sealed.report if line.sealed] == [bob.device]
            assert await bob.reads() == "to one"
            await until(lambda: any("Nothing comes here any more" in each for each in tablet.notices))
            await tablet.leave()
            with pytest.raises(AuthenticationFailed) as raised:
                await tablet.arrive()
            assert name in raised.value.detail
            # Nothing was deleted here: the person may log in to the same device again.
            tablet.account.log_in_anew()
            await tablet.arrive()
            assert tablet.device == name
            await alice.say(bob.address, "to both again")
            assert await tablet.reads() == "to both again"

    run(server, scenario)


def test_what_comes_a_second_time_is_not_shown_again(server: Homeserver) -> None:
    async def scenario(alice: Tenant, bob: Tenant) -> None:
        await alice.say(bob.address, "once")
        assert await bob.reads() == "once"
        listener = connection_of(bob)._listener
        before = listener._position
        await alice.say(bob.address, "twice")
        assert await bob.reads() == "twice"
        await bob.leave()

        def back(s: State) -> Done[None]:
            records.save_position(s, before or "")
            return Done(None)

        bob.account.store.run(back)
        await bob.arrive()
        assert await connection_of(bob).caught_up(SECONDS)
        assert await bob.client.engine.inbox() == []
        await alice.say(bob.address, "last")
        assert await bob.reads() == "last"
        assert bob.notices == []

    run(server, scenario)


def test_an_outage_loses_nothing() -> None:
    with PrivateHome() as home:

        async def scenario(alice: Tenant, bob: Tenant) -> None:
            await alice.say(bob.address, "before")
            assert await bob.reads() == "before"
            await asyncio.to_thread(home.stop)
            sent = await alice.say(bob.address, "meanwhile", wait=0.1)
            assert not sent.arrived
            await until(lambda: any("can't be reached" in each for each in bob.notices))
            await asyncio.to_thread(home.restart)
            assert await bob.reads() == "meanwhile"

        run(home, scenario)


def test_a_soft_logout_is_answered_with_the_password(server: Homeserver) -> None:
    async def scenario(alice: Tenant, bob: Tenant) -> None:
        connection, device = connection_of(alice), alice.device
        old = connection._api.token
        soft = LoggedOut("", soft=True)
        assert await connection._log_in_again(old, soft)
        new = connection._api.token
        assert new != old
        assert await connection._log_in_again(old, soft)  # a second request that heard of it
        assert connection._api.token == new
        await alice.say(bob.address, "still here")
        assert await bob.reads() == "still here"
        assert alice.device == device

    run(server, scenario)


def test_a_soft_logout_in_the_middle_of_a_send_holds_nothing_up(
    home: PrivateHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(alice: Tenant, bob: Tenant) -> None:
        api = connection_of(alice)._api
        old, send = api.token, api.send_to_device

        async def refuse(type: str, transaction: str, body: bytes) -> None:
            if api.token == old:
                raise LoggedOut("", soft=True)
            await send(type, transaction, body)

        monkeypatch.setattr(api, "send_to_device", refuse)
        async with asyncio.timeout(SECONDS):
            assert (await alice.say(bob.address, "all the same")).arrived
        assert await bob.reads() == "all the same"

    run(home, scenario)


def test_a_login_of_another_process_is_shared(server: Homeserver) -> None:
    """It makes the token of the first one worthless."""

    async def scenario(alice: Tenant, bob: Tenant) -> None:
        device = bob.device
        bob.account.log_in_anew()
        async with quiet(bob) as other:
            assert other.device().label == device
            await alice.say(bob.address, "to both")
            assert await bob.reads() == "to both"
            await bob.say(alice.address, "by the first")
            assert await alice.reads() == "by the first"
        assert bob.notices == []

    run(server, scenario)


def test_what_the_home_will_never_take_is_told_and_holds_up_nothing(
    server: Homeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(alice: Tenant, bob: Tenant) -> None:
        network = connection_of(alice).network
        send = network.send

        async def cut(item: Send) -> None:
            await send(Send(b"{}", item.id))

        monkeypatch.setattr(network, "send", cut)
        with pytest.raises(Rejected):
            await alice.say(bob.address, "cut on its way")
        monkeypatch.setattr(network, "send", send)
        assert await alice.client.engine.outbox() == []
        await alice.say(bob.address, "whole")
        assert await bob.reads() == "whole"

    run(server, scenario)


def test_a_wrong_password_and_a_home_that_is_not_there(home: PrivateHome) -> None:
    async def scenario() -> None:
        tenant = Tenant(home, new_account(home, "carol"))
        with pytest.raises(AuthenticationFailed):
            await connect(tenant.account, "not it")
        settings = replace(tenant.account.settings, matrix=MatrixSettings("https://localhost:1"))
        tenant.account.change(settings)
        with pytest.raises(Unreachable):
            await connect(tenant.account, PASSWORD)

    asyncio.run(scenario())


def test_a_certificate_of_nobody_is_refused(home: PrivateHome) -> None:
    async def scenario() -> None:
        http = open_session("")
        try:
            with pytest.raises(Unreachable) as raised:
                await Api(http, home.base_url).versions()
        finally:
            await http.close()
        assert "certificate" in raised.value.detail

    asyncio.run(scenario())


def test_a_store_belongs_to_its_device_and_profile(home: PrivateHome) -> None:
    async def scenario(alice: Tenant, bob: Tenant) -> None:
        await alice.leave()
        settings = alice.account.settings
        alice.account.change(replace(settings, matrix=replace(settings.matrix, profile=DRAFT2015.name)))
        with pytest.raises(StoreMismatch):
            await alice.arrive()
        alice.account.change(settings)

        def other_device(s: State) -> Done[None]:
            kept = records.load_login(s)
            assert kept is not None
            records.save_login(s, records.Kept("OTHER", kept.base, kept.token))
            return Done(None)

        alice.account.store.run(other_device)
        with pytest.raises(StoreMismatch):
            await alice.arrive()

    run(home, scenario)


def test_both_ends_in_the_draft_understand_each_other(home: PrivateHome) -> None:
    async def scenario() -> None:
        alice, bob = (Tenant(home, new_account(home, name), profile=DRAFT2015) for name in ("alice", "bob"))
        async with at_home(alice, bob):
            await alice.say(bob.address, "as it was meant in 2015")
            assert await bob.reads() == "as it was meant in 2015"
            await bob.say(alice.address, "indeed")
            assert await alice.reads() == "indeed"

    asyncio.run(scenario())


def test_what_matrix_does_not_have_says_so(home: PrivateHome) -> None:
    async def scenario(alice: Tenant, bob: Tenant) -> None:
        client = alice.client
        for ask in (lambda: client.nodes, lambda: client.sessions):
            with pytest.raises(UsageError) as raised:
                ask()
            assert raised.value.hint
        with pytest.raises(UsageError):
            await client.generate_key()
        with pytest.raises(UsageError):
            await client.send(Address("bob@example.net"), "to the other network")
        assert await client.settle(1.0) == 0

    run(home, scenario)


@asynccontextmanager
async def quiet(tenant: Tenant) -> AsyncIterator[Client]:
    """Online without reading, as `tillie send` is."""
    client = await connect(tenant.account, PASSWORD)
    try:
        yield client
    finally:
        await client.close()


def test_who_only_sends_leaves_the_rest_for_later(server: Homeserver) -> None:
    async def scenario() -> None:
        alice, bob = (Tenant(server, new_account(server, name)) for name in ("alice", "bob"))
        async with at_home(bob):
            async with quiet(alice) as client:
                assert (await client.send(bob.address, "just this")).arrived
                assert not await client._connection.caught_up(0.01)
            assert await bob.reads() == "just this"
            await bob.say(alice.address, "an answer")
            await alice.arrive()
            assert await alice.reads() == "an answer"
            await alice.leave()

    asyncio.run(scenario())


def test_two_accounts_do_not_share_a_store(home: PrivateHome) -> None:
    async def scenario() -> None:
        alice, bob = (Tenant(home, new_account(home, name)) for name in ("alice", "bob"))
        async with at_home(alice):
            store = MemoryStore(bob.address)
            kept = alice.account.store.run(lambda s: Done(records.load_login(s))).value  # type: ignore[union-attr]

            def stolen(s: State) -> Done[None]:
                records.save_login(s, kept)
                return Done(None)

            store.run(stolen)
            mixed = Tenant(home, bob.address, store=store)
            with pytest.raises(StoreMismatch):
                await mixed.arrive()

    asyncio.run(scenario())


def test_a_fault_of_ours_in_one_message_stops_no_other(home: PrivateHome, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(alice: Tenant, bob: Tenant) -> None:
        scheme = bob.client.engine.scheme
        opens = scheme.open

        def fails_once(*arguments: Any) -> Any:
            monkeypatch.setattr(scheme, "open", opens)
            raise ZeroDivisionError("the content of a message")

        monkeypatch.setattr(scheme, "open", fails_once)
        await alice.say(bob.address, "first")
        await alice.say(bob.address, "second")
        assert await bob.reads() == "second"
        assert bob.notices == [f"{alice.address}: a message can't be read: it made Tillie fail (ZeroDivisionError)."]

    run(home, scenario)


def test_a_fault_of_ours_in_an_answer_is_told_and_does_not_end_listening(
    home: PrivateHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(alice: Tenant, bob: Tenant) -> None:
        read = sync.read

        def fails_once(*arguments: Any, **named: Any) -> Any:
            monkeypatch.setattr(sync, "read", read)
            raise ZeroDivisionError("the content of a message")

        monkeypatch.setattr(sync, "read", fails_once)
        await alice.say(bob.address, "all the same")
        assert await bob.reads() == "all the same"
        assert alice.notices + bob.notices in (
            [f"{each.address}: This is a fault in Tillie (ZeroDivisionError). Trying again."] for each in (alice, bob)
        )

    run(home, scenario)
