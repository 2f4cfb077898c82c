"""A home without sockets: requests go straight to its door, on one event loop. For what needs no server of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tillie.crypto import sign
from tillie.crypto.agree import generate
from tillie.directory.matrix import V1, Profile, write_device_keys, write_one_time_key
from tillie.home import accounts
from tillie.home.app import app
from tillie.home.config import Config, Limits, Rate
from tillie.home.database import Database
from tillie.home.log import Log
from tillie.home.service import Home, Signer
from tillie.model import Address
from tillie.wire import base64
from tillie.wire.canonical import Object

SERVER = "home.test"
CLIENT = "/_matrix/client/v3"
DRAFT = "/_matrix/client/v2_alpha"
NOW = 1_800_000_000.0
_FREELY = Rate(1e9, 1_000_000_000)
FREE = Limits(*[_FREELY] * len(Limits.__struct_fields__))


class Inside:
    """A home and its door. `now` in seconds, and moves only if a test moves it."""

    def __init__(self, folder: Path, limits: Limits = FREE, server: str = SERVER) -> None:
        self.now = NOW
        config = Config(server_name=server, folder=str(folder), limits=limits, log_requests=False)
        signer = Signer(server, "ed25519:a_1", b"\7" * 32)
        self.home = Home(config, Database(folder / "home.db"), signer, clock=lambda: self.now, log=Log(requests=False))
        self.app = app(self.home)

    async def call(self, method: str, path: str, body: object = None, token: str = "") -> tuple[int, Any]:
        """One request; status and JSON. `body` bytes go as they are."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        parts = urlsplit(path)
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "scheme": "https", "path": parts.path,
            "raw_path": parts.path.encode(), "query_string": parts.query.encode(), "client": ("127.0.0.1", 1),
            "headers": [(b"authorization", b"Bearer " + token.encode())] if token else [],
        }  # fmt: skip
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        return sent[0]["status"], json.loads(b"".join(each.get("body", b"") for each in sent[1:]))

    async def device(self, localpart: str, device: str, profile: Profile = V1) -> InsideDevice:
        """A logged-in device; its user is made with the first."""
        user = Address(f"@{localpart}:{self.home.server}")

        def step(conn: Any) -> Any:
            accounts.add_user(conn, user, "x", self.home.now())
            return accounts.log_in(conn, user, device, None, self.home.now())

        made = await self.home.db.write(step)
        self.home.tell(made.change)
        return InsideDevice(self, user, device, made.token, profile)


class InsideDevice:
    """One device, with an identity that signs."""

    def __init__(self, inside: Inside, user: Address, device: str, token: str, profile: Profile) -> None:
        self.inside, self.user, self.id, self.token, self.profile = inside, user, device, token, profile
        self.seed = sign.generate()[0]
        self.curve = generate()[1]

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        return await self.inside.call(method, path, body, self.token)

    async def must(self, method: str, path: str, body: object = None) -> Any:
        status, answer = await self.call(method, path, body)
        assert status == 200, f"{path} was answered with {status} {answer}"
        return answer

    @property
    def upload_path(self) -> str:
        return f"{CLIENT}/keys/upload" if self.profile is V1 else f"{DRAFT}/keys/upload/{self.id}"

    def device_keys(self) -> Object:
        valid = (NOW - 10, NOW + 1000) if self.profile.dated else None
        return write_device_keys(self.profile, self.user, self.id, self.curve, self.seed, valid=valid)

    def one_time_keys(self, *ids: str, fallback: bool = False) -> Object:
        return {
            f"{self.profile.one_time}:{each}": write_one_time_key(
                self.profile, self.user, self.id, generate()[1], self.seed, fallback=fallback
            )
            for each in ids
        }

    async def upload(self, *ids: str, **more: Any) -> Any:
        """Device keys, and one-time keys of these ids."""
        body = {"device_keys": self.device_keys(), "one_time_keys": self.one_time_keys(*ids), **more}
        return await self.must("POST", self.upload_path, body)

    async def claim(self, *devices: InsideDevice, algorithm: str = "") -> Object:
        """{user: {device: {"algorithm:id": key}}}"""
        wanted: dict[str, dict[str, str]] = {}
        for each in devices:
            wanted.setdefault(each.user, {})[each.id] = algorithm or self.profile.one_time
        answer = await self.must("POST", f"{self.profile.path}/keys/claim", {"one_time_keys": wanted})
        found: Object = answer["one_time_keys"]
        return found

    async def query(self, *users: str) -> Any:
        body = {"device_keys": {user: [] for user in users}}
        return await self.must("POST", f"{self.profile.path}/keys/query", body)

    async def send(self, transaction: str, messages: object, type: str = "m.test") -> tuple[int, Any]:
        return await self.call("PUT", f"{CLIENT}/sendToDevice/{type}/{transaction}", {"messages": messages})

    async def sync(self, since: str = "", wait: int = 0) -> Any:
        """`wait` in milliseconds."""
        query = f"?since={since}&timeout={wait}" if since else ""
        return await self.must("GET", f"{CLIENT}/sync{query}")


@asynccontextmanager
async def home_inside(folder: Path, limits: Limits = FREE, server: str = SERVER) -> AsyncIterator[Inside]:
    inside = Inside(folder, limits, server)
    try:
        yield inside
    finally:
        await inside.home.stop()


def key_bytes(number: int) -> str:
    """Some Curve25519 key, as text."""
    return base64.encode_unpadded(number.to_bytes(32, "little"))
