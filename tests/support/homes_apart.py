"""Homes without sockets that federate: requests are signed, cross a wire that may lose, repeat and delay them, and are
verified at the other home's door. On one event loop, with one clock that moves only if a test moves it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from support.home_inside import FREE, NOW, Inside
from tillie.home.config import Federation as FederationConfig
from tillie.home.config import Limits
from tillie.home.federation.federation import Federation
from tillie.home.federation.transport import Failed
from tillie.home.federation.x_matrix import header
from tillie.home.service import Signer

TRIES = 2_000
TICK = 0.002  # seconds
QUICKLY = FederationConfig(first_retry=0.001, longest_retry=0.004)


class Faults(NamedTuple):
    """How likely each is, for a transaction: it is lost on the way, or only its answer; it is held back and arrives
    later; it is answered and lost."""

    lost: float = 0.0
    answer_lost: float = 0.0
    late: float = 0.0
    swallowed: float = 0.0


class Wire:
    """What is between homes. `requests` holds (origin, destination, method, path, body) of all that were tried;
    `answers`, by destination, stand in for a home: (status, body)."""

    def __init__(self, seed: int = 0) -> None:
        self.homes: dict[str, Inside] = {}
        self.faults = Faults()
        self.requests: list[tuple[str, str, str, str, Any]] = []
        self.answers: dict[str, tuple[int, Any]] = {}
        self.now = NOW
        self._random = random.Random(seed)
        self._late: list[tuple[str, str, str, dict[str, str], bytes]] = []

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for each in self.homes.values():
            each.now = self.now

    async def start(self, server: str, folder: Path, *, limits: Limits = FREE) -> Inside:
        """A home on a folder, new or not."""
        inside = Inside(folder, limits, server)
        inside.now = self.now
        home = inside.home
        seed = server.encode().ljust(32, b".")[:32]  # each its own, the same after a restart
        home.signer = Signer(server, "ed25519:1", seed)
        home.maps._signer = home.signer
        home.config = replace(home.config, federation=QUICKLY)
        home.federation = Federation(home)
        home.federation.transport._answer = self._carrier(server)  # type: ignore[method-assign]
        home.federation.start()
        self.homes[server] = inside
        return inside

    async def stop(self, server: str) -> None:
        await self.homes.pop(server).home.stop()

    def _carrier(self, origin: str) -> Any:
        async def carry(
            server: str, method: str, uri: str, headers: dict[str, str], body: bytes, seconds: float
        ) -> bytes:
            await asyncio.sleep(0)
            self.requests.append((origin, server, method, uri, json.loads(body) if body else None))
            faults = self.faults if method == "PUT" else Faults()
            chance = self._random.random()
            for fault in ("lost", "answer_lost", "late", "swallowed"):
                if chance < getattr(faults, fault):
                    return await self._fail(fault, server, method, uri, headers, body)
                chance -= getattr(faults, fault)
            return await self._bring(server, method, uri, headers, body)

        return carry

    async def _fail(
        self, fault: str, server: str, method: str, uri: str, headers: dict[str, str], body: bytes
    ) -> bytes:
        if fault == "swallowed":
            return b'{"pdus":{}}'
        if fault == "answer_lost":
            await self._bring(server, method, uri, headers, body)
        if fault == "late":
            self._late.append((server, method, uri, headers, body))
        raise Failed(0, "", "The wire lost it.")

    async def bring_late(self, most: int = 1_000) -> None:
        """Let what was held back arrive, out of order."""
        self._random.shuffle(self._late)
        while self._late and most:
            most -= 1
            server, method, uri, headers, body = self._late.pop()
            if server in self.homes:
                await self._bring(server, method, uri, headers, body)

    async def _bring(self, server: str, method: str, uri: str, headers: dict[str, str], body: bytes) -> bytes:
        if server in self.answers:
            status, answer = self.answers[server]
            data = json.dumps(answer).encode()
        elif server in self.homes:
            status, data = await knock(self.homes[server], method, uri, headers, body)
        else:
            raise Failed(0, "", "Nobody is there.")
        if status == 200:
            return data
        said = json.loads(data)
        raise Failed(status, said.get("errcode", ""), said.get("error", ""))

    async def heal(self) -> None:
        """No more faults, and all that waits arrives."""
        self.faults = Faults()
        await self.bring_late()
        await self.quiet()

    async def quiet(self) -> None:
        """Until nothing waits for another home that is there."""
        await self.until(lambda: not any(self._waits(each) for each in self.homes.values()))

    async def until(self, is_so: Callable[[], bool]) -> None:
        for _ in range(TRIES):
            if is_so():
                return
            await asyncio.sleep(TICK)
        raise AssertionError("what was waited for did not come")

    def _waits(self, inside: Inside) -> bool:
        rows = inside.home.db.read(lambda conn: conn.execute("SELECT DISTINCT server FROM outgoing").fetchall())
        return any(server in self.homes or server in self.answers for (server,) in rows)

    async def ask(
        self, origin: str, server: str, method: str, uri: str, body: Any = None, *, seed: bytes = b"", key_id: str = ""
    ) -> tuple[int, Any]:
        """A signed request of one home to another, past all faults."""
        signer = self.homes[origin].home.signer
        signer = Signer(origin, key_id or signer.key_id, seed or signer.seed)
        data = b"" if body is None else json.dumps(body).encode()
        headers = {"Authorization": header(signer, server, method, uri, body)}
        status, answer = await knock(self.homes[server], method, uri, headers, data)
        return status, json.loads(answer)


async def knock(
    inside: Inside, method: str, uri: str, headers: Mapping[str, str] | list[tuple[str, str]], body: bytes = b""
) -> tuple[int, bytes]:
    """A request at a home's door: status and body of the answer."""
    path, _, query = uri.partition("?")
    pairs = headers if isinstance(headers, list) else list(headers.items())
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "scheme": "https", "path": path,
        "raw_path": path.encode(), "query_string": query.encode(), "client": ("127.0.0.1", 1),
        "headers": [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in pairs],
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await inside.app(scope, receive, send)  # type: ignore[arg-type]
    return sent[0]["status"], b"".join(each.get("body", b"") for each in sent[1:])


@asynccontextmanager
async def homes_apart(folder: Path, *names: str, seed: int = 0) -> AsyncIterator[Wire]:
    """New homes of these names; they are stopped in any case."""
    wire = Wire(seed)
    try:
        for name in names:
            (folder / name).mkdir()
            await wire.start(name, folder / name)
        yield wire
    finally:
        for name in list(wire.homes):
            await wire.stop(name)
