"""A homeserver that answers what a test wants, on loopback without TLS, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import web

from tillie.networks.matrix.api import Api, open_session


class Asked(NamedTuple):
    method: str
    target: str  # path and query as they were sent
    token: str
    body: bytes


Break = Callable[[asyncio.Transport], None]


def closed(connection: asyncio.Transport) -> None:
    connection.abort()


def reset(connection: asyncio.Transport) -> None:
    at_once = struct.pack("ii", 1, 0)
    connection.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    connection.abort()


class Answering:
    """`answers` are given in their order, the last one for ever: status, body, and headers if there are any. Before
    that so many requests find the connection closed, or reset, as `breaks` has."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: list[tuple[int, bytes, Mapping[str, str]]] = []
        self.breaks: list[Break] = []
        self.base = ""

    def says(self, status: int, body: bytes = b"{}", headers: Mapping[str, str] | None = None) -> None:
        self.answers.append((status, body, headers or {}))

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.asked.append(Asked(request.method, request.raw_path, token, await request.read()))
        if self.breaks and request.transport is not None:
            self.breaks.pop(0)(request.transport)
            return web.Response()  # nobody gets it
        status, body, headers = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.Response(status=status, body=body, headers=headers)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Answering]:
        runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            self.base = f"http://{host}:{port}"
            yield self
        finally:
            await runner.cleanup()


@asynccontextmanager
async def api_at(
    server: Answering, token: str = "", *, longest_wait: float = 30.0
) -> AsyncIterator[tuple[Api, list[str]]]:
    """A client of it, and what it would have told a person."""
    told: list[str] = []
    http = open_session("")
    try:
        yield Api(http, server.base, token, told=told.append, longest_wait=longest_wait), told
    finally:
        await http.close()
