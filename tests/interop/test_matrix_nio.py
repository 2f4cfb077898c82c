"""Our client and matrix-nio (its own crypto) exchange Olm to-device messages, over Synapse and over a home of ours."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.certificates import certificates
from support.matrix import PASSWORD, Homeserver, Tenant, at_home, home, new_account, text_event
from support.matrix_api import CLIENT, must, password_login
from support.nio_peer import NioPeer
from support.synapse import synapse
from tillie.client import text_of
from tillie.wire import base64

__all__ = ["certificates", "home", "synapse"]

pytestmark = pytest.mark.heavy

DEVICE = "NIO"
MOST_CLAIMS = 200  # far more than the one-time keys that a client of ours keeps at its homeserver


@pytest.fixture(params=["synapse", "home"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@asynccontextmanager
async def nio_at(server: Homeserver, folder: Path) -> AsyncIterator[NioPeer]:
    peer = NioPeer(server.base_url, new_account(server, "romeo"), DEVICE, folder, tls=tls_of(server))
    try:
        await peer.log_in(PASSWORD)
        yield peer
    finally:
        await peer.close()


def tls_of(server: Homeserver) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=server.ca_file) if server.ca_file else None


async def ours_to_nio(tenant: Tenant, peer: NioPeer, text: str) -> dict[str, Any]:
    """Say something; the payload as the peer opened it."""
    sent = await tenant.say(peer.user, text)
    assert sent.arrived
    assert [line.device.label for line in sent.sealed.report if line.sealed] == [DEVICE]
    payload = await peer.receive()
    assert (payload["type"], payload["content"]) == text_event(text)
    return payload


async def nio_to_ours(peer: NioPeer, tenant: Tenant, text: str) -> None:
    await peer.send(tenant.address, tenant.device, *text_event(text))
    delivery = await tenant.hears()
    assert delivery.is_trusted
    assert (delivery.address, delivery.label) == (peer.user, DEVICE)
    assert base64.encode_unpadded(delivery.key) == peer.ed25519
    assert text_of(delivery.content) == text


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


class Stranger:
    """Somebody who claims keys and does nothing with them."""

    def __init__(self, server: Homeserver) -> None:
        self._base_url, self._tls = server.base_url, tls_of(server)
        localpart = new_account(server, "stranger").partition(":")[0][1:]
        answer = self._post("/login", password_login(localpart, PASSWORD, "STRANGER"), "")
        self._token = answer["access_token"]

    def claim(self, user: str, device: str) -> dict[str, Any]:
        wanted = {"one_time_keys": {user: {device: "signed_curve25519"}}}
        (key,) = self._post("/keys/claim", wanted, self._token)["one_time_keys"][user][device].values()
        return dict(key)

    def take_all_keys(self, user: str, device: str) -> int:
        """Claim one-time keys until the fallback key comes; how many there were."""
        for taken in range(MOST_CLAIMS):
            if self.claim(user, device).get("fallback"):
                return taken
        raise AssertionError("the one-time keys have no end")

    def _post(self, path: str, body: object, token: str) -> Any:
        return must(self._base_url, "POST", CLIENT + path, body, token, self._tls)
