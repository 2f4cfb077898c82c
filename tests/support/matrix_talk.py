"""Talk between a client of ours and matrix-nio, on whatever homeservers they are; and a stranger at the door."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.matrix import PASSWORD, Homeserver, Tenant, new_account, text_event
from support.matrix_api import CLIENT, must, password_login
from support.nio_peer import NioPeer
from tillie.client import text_of
from tillie.wire import base64

DEVICE = "NIO"
MOST_CLAIMS = 200  # far more than the one-time keys that a client of ours keeps at its homeserver


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
