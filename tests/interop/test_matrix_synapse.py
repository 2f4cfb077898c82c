"""A home of ours federates with Synapse, both ways: keys queried and claimed, messages delivered, late where a
server was away. The people at Synapse use matrix-nio or our client, those at the home our client.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.certificates import Certificates, certificates
from support.homes import PrivateHome
from support.matrix import Tenant, at_home, home, new_account, text_event
from support.matrix_talk import Stranger, nio_at, nio_to_ours, ours_to_nio
from support.synapse import PrivateSynapse, synapse, unavailable

__all__ = ["certificates", "home", "synapse"]

pytestmark = pytest.mark.heavy


@pytest.fixture
def own_synapse(certificates: Certificates) -> Iterator[PrivateSynapse]:
    """One that a test stops."""
    if unavailable():
        pytest.skip(unavailable())
    with PrivateSynapse(certificates) as server:
        yield server


@pytest.fixture
def own_home(certificates: Certificates) -> Iterator[PrivateHome]:
    """One that a test stops."""
    with PrivateHome(certificates) as server:
        yield server


def test_a_home_and_nio_at_synapse(home: PrivateHome, synapse: PrivateSynapse, tmp_path: Path) -> None:
    async def scenario() -> None:
        juliet = Tenant(home, new_account(home, "juliet"))
        async with at_home(juliet), nio_at(synapse, tmp_path) as romeo:
            await ours_to_nio(juliet, romeo, "wherefore art thou")
            await nio_to_ours(romeo, juliet, "shall I hear more")
            await ours_to_nio(juliet, romeo, "'tis but thy name")

    asyncio.run(scenario())


def test_nio_at_synapse_writes_first(home: PrivateHome, synapse: PrivateSynapse, tmp_path: Path) -> None:
    async def scenario() -> None:
        juliet = Tenant(home, new_account(home, "juliet"))
        async with at_home(juliet), nio_at(synapse, tmp_path) as romeo:
            await nio_to_ours(romeo, juliet, "but soft")
            await ours_to_nio(juliet, romeo, "ay me")
            await nio_to_ours(romeo, juliet, "she speaks")

    asyncio.run(scenario())


def test_our_client_at_both(home: PrivateHome, synapse: PrivateSynapse) -> None:
    async def scenario() -> None:
        juliet, romeo = Tenant(home, new_account(home, "juliet")), Tenant(synapse, new_account(synapse, "romeo"))
        async with at_home(juliet, romeo):
            assert (await juliet.say(romeo.address, "one")).arrived
            assert await romeo.reads() == "one"
            assert (await romeo.say(juliet.address, "two")).arrived
            assert await juliet.reads() == "two"

    asyncio.run(scenario())


def test_each_key_is_claimed_once_across_federation(home: PrivateHome, synapse: PrivateSynapse) -> None:
    async def scenario() -> tuple[str, str]:
        juliet = Tenant(home, new_account(home, "juliet"))
        async with at_home(juliet):
            return juliet.address, juliet.device

    user, device = asyncio.run(scenario())
    stranger = Stranger(synapse)
    first, second = stranger.claim(user, device), stranger.claim(user, device)
    assert first["key"] != second["key"]
    assert stranger.take_all_keys(user, device) > 1
    assert stranger.claim(user, device)["fallback"] is True


def test_that_synapse_signs_no_statements_is_recorded(home: PrivateHome, synapse: PrivateSynapse) -> None:
    async def scenario() -> str:
        juliet, romeo = Tenant(home, new_account(home, "juliet")), Tenant(synapse, new_account(synapse, "romeo"))
        async with at_home(juliet, romeo):
            await juliet.say(romeo.address, "one")
            return romeo.address

    user = asyncio.run(scenario())
    done = home.command("audit", user, "--config", str(home.config_file), "--json")
    report = json.loads(done.stdout)
    assert (report["signs"], report["statements"], report["lies"]) == (False, [], [])


def test_what_a_home_has_for_synapse_waits_until_it_is_back(
    own_home: PrivateHome, own_synapse: PrivateSynapse, tmp_path: Path
) -> None:
    """The home starts again meanwhile, too."""

    async def scenario() -> None:
        juliet = Tenant(own_home, new_account(own_home, "juliet"))
        async with nio_at(own_synapse, tmp_path) as romeo:
            async with at_home(juliet):
                await ours_to_nio(juliet, romeo, "one")
                await nio_to_ours(romeo, juliet, "two")
                await asyncio.to_thread(own_synapse.stop)
                for text in ("three", "four"):
                    assert (await juliet.say(romeo.user, text)).arrived
            await asyncio.to_thread(own_home.restart)
            own_synapse.start()
            await asyncio.to_thread(own_synapse.wait)
            assert [(await romeo.receive())["content"]["body"] for _ in range(2)] == ["three", "four"]

    asyncio.run(scenario())


def test_what_synapse_has_for_a_home_waits_until_it_is_back(
    own_home: PrivateHome, own_synapse: PrivateSynapse, tmp_path: Path
) -> None:
    async def scenario() -> None:
        juliet = Tenant(own_home, new_account(own_home, "juliet"))
        async with nio_at(own_synapse, tmp_path) as romeo:
            async with at_home(juliet):
                device = juliet.device
                await nio_to_ours(romeo, juliet, "one")
            await asyncio.to_thread(own_home.stop)
            for text in ("two", "three"):
                await romeo.send(juliet.address, device, *text_event(text))
            own_home.start()
            await asyncio.to_thread(own_home.wait)
            async with at_home(juliet):
                assert [await juliet.reads() for _ in range(2)] == ["two", "three"]

    asyncio.run(scenario())
