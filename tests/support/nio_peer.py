"""matrix-nio as a peer without a screen: Olm to-device messages of any type, both ways, by its own crypto, in no room.

matrix-nio is made for rooms: it asks for keys only of members of encrypted rooms, and drops every decrypted to-device
message that is no room key. So keys are asked for by hand here, and payloads taken before they are dropped (their
sender and recipient are checked by then). A message that it can't decrypt makes its sync raise, and costs the ones
behind it: send it none.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Any

from nio import AsyncClient, AsyncClientConfig, LoginResponse, SyncResponse, ToDeviceMessage, ToDeviceResponse
from nio.store import DefaultStore

READ_SECONDS = 20.0
SYNC_MILLISECONDS = 500
ROOM_KEY = "m.room_key"  # what matrix-nio itself goes on with


class NioPeer:
    """One device of one account, with matrix-nio's encrypted store in `folder`."""

    def __init__(
        self, base_url: str, user: str, device: str, folder: Path, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.user, self.device = user, device
        self._base_url, self._folder, self._tls = base_url, folder, tls
        self._got: list[dict[str, Any]] = []
        self._client = self._new_client()

    def _new_client(self) -> AsyncClient:
        config = AsyncClientConfig(
            store=DefaultStore,
            encryption_enabled=True,
            pickle_key="only for tests",
            store_sync_tokens=True,
            max_timeouts=2,
            request_timeout=20,
        )
        return AsyncClient(
            self._base_url, self.user, self.device, str(self._folder), config, ssl=self._tls if self._tls else None
        )

    async def log_in(self, password: str) -> None:
        """Log in, and upload device and one-time keys."""
        answer = await self._client.login(password)
        assert isinstance(answer, LoginResponse), answer
        self._take_payloads()
        await self._upload()

    async def restart(self) -> None:
        """As after the end of its process: all that it knows is what its store holds."""
        token = self._client.access_token
        await self._client.close()
        self._client = self._new_client()
        self._client.restore_login(self.user, self.device, token)
        self._take_payloads()

    async def close(self) -> None:
        await self._client.close()

    @property
    def ed25519(self) -> str:
        return str(self._client.olm.account.identity_keys["ed25519"])

    async def send(self, user: str, device: str, type: str, content: dict[str, Any]) -> None:
        """Seal an event for one device, over a claimed key if there is no session, and send it."""
        olm = self._client.olm
        if device not in olm.device_store._entries.get(user, {}):
            olm.users_for_key_query.add(user)
            await self._client.keys_query()
        recipient = olm.device_store[user][device]
        session = olm.session_store.get(recipient.curve25519)
        if session is None:
            await self._client.keys_claim({user: [device]})
            session = olm.session_store.get(recipient.curve25519)
        assert session is not None, "the claim gave no key, or its signature was wrong"
        sealed = olm._olm_encrypt(session, recipient, type, content)
        answer = await self._client.to_device(ToDeviceMessage("m.room.encrypted", user, device, sealed))
        assert isinstance(answer, ToDeviceResponse), answer

    async def receive(self) -> dict[str, Any]:
        """Wait for the next decrypted payload, of any type."""
        deadline = time.monotonic() + READ_SECONDS
        while not self._got:
            assert time.monotonic() < deadline, f"{self.user} got nothing"
            answer = await self._client.sync(timeout=SYNC_MILLISECONDS)
            assert isinstance(answer, SyncResponse), answer
            await self._upload()
        return self._got.pop(0)

    async def _upload(self) -> None:
        if self._client.should_upload_keys:  # keys_upload raises when there is nothing to do
            await self._client.keys_upload()

    def _take_payloads(self) -> None:
        goes_on = self._client.olm._handle_olm_event

        def take(sender: str, sender_key: str, payload: dict[str, Any]) -> Any:
            self._got.append(payload)
            return goes_on(sender, sender_key, payload) if payload["type"] == ROOM_KEY else None

        self._client.olm._handle_olm_event = take
