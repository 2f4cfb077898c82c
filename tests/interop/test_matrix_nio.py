"""Our client and matrix-nio (its own crypto) exchange Olm to-device messages, over Synapse and over a home of ours."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support.certificates import certificates
from support.matrix import Homeserver, Tenant, at_home, home, new_account, text_event
from support.matrix_talk import Stranger, nio_at, nio_to_ours, ours_to_nio
from support.synapse import synapse
from tillie.wire import base64

__all__ = ["certificates", "home", "synapse"]

pytestmark = pytest.mark.heavy


@pytest.fixture(params=["synapse", "home"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_we_write_first(server: Homeserver, tmp_path: Path) -> None:
    async def scenario() -> None:
        juliet = Tenant(server, new_account(server, "juliet"))
        async with at_home(juliet), nio_at(server, tmp_path) as romeo:
            payload = await ours_to_nio(juliet, romeo, "wherefore art thou")
            assert payload["sender"] == juliet.address
            assert payload["recipient"] == romeo.user
            assert payload["recipient_keys"] == {"ed25519": romeo.ed25519}
            assert payload["keys"] == {"ed25519": base64.encode_unpadded(juliet.client.device().key)}
            assert payload["room_id"].startswith("!")
            assert payload["fingerprint"]
            await nio_to_ours(romeo, juliet, "shall I hear more")
            await ours_to_nio(juliet, romeo, "'tis but thy name")

    asyncio.run(scenario())


def test_they_write_first(server: Homeserver, tmp_path: Path) -> None:
    async def scenario() -> None:
        juliet = Tenant(server, new_account(server, "juliet"))
        async with at_home(juliet), nio_at(server, tmp_path) as romeo:
            await nio_to_ours(romeo, juliet, "but soft")
            await nio_to_ours(romeo, juliet, "what light")
            await ours_to_nio(juliet, romeo, "ay me")
            await nio_to_ours(romeo, juliet, "she speaks")

    asyncio.run(scenario())


def test_both_start_again_between_messages(server: Homeserver, tmp_path: Path) -> None:
    async def scenario() -> None:
        juliet = Tenant(server, new_account(server, "juliet"))
        async with nio_at(server, tmp_path) as romeo:
            async with at_home(juliet):
                await ours_to_nio(juliet, romeo, "one")
            await romeo.restart()
            async with at_home(juliet):
                await nio_to_ours(romeo, juliet, "two")
            async with at_home(juliet):
                await ours_to_nio(juliet, romeo, "three")
                await romeo.restart()
                await ours_to_nio(juliet, romeo, "four")
                await nio_to_ours(romeo, juliet, "five")

    asyncio.run(scenario())


def test_what_was_sent_while_we_were_away_comes_in_order_and_once(server: Homeserver, tmp_path: Path) -> None:
    async def scenario() -> None:
        juliet = Tenant(server, new_account(server, "juliet"))
        async with nio_at(server, tmp_path) as romeo:
            async with at_home(juliet):
                device = juliet.device
            texts = ["one", "two", "three"]
            for text in texts:
                await romeo.send(juliet.address, device, *text_event(text))
            async with at_home(juliet):
                assert [await juliet.reads() for _ in texts] == texts
            async with at_home(juliet):
                await nio_to_ours(romeo, juliet, "four")

    asyncio.run(scenario())


def test_a_device_that_has_only_its_fallback_key_left(server: Homeserver, tmp_path: Path) -> None:
    async def scenario() -> None:
        juliet = Tenant(server, new_account(server, "juliet"))
        async with nio_at(server, tmp_path) as romeo:
            async with at_home(juliet):
                device = juliet.device
            stranger = Stranger(server)
            assert await asyncio.to_thread(stranger.take_all_keys, juliet.address, device) > 1
            await romeo.send(juliet.address, device, *text_event("at thy window"))
            async with at_home(juliet):
                assert await juliet.reads() == "at thy window"
                await ours_to_nio(juliet, romeo, "who bids")
                await nio_to_ours(romeo, juliet, "I, thy love")
            key = await asyncio.to_thread(stranger.claim, juliet.address, device)
            assert "fallback" not in key, "no new one-time keys went up"

    asyncio.run(scenario())
