"""How a home reaches another: redirects of .well-known, SRV records, and addresses behind names (server-server API,
"Resolving server names")."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from support.homes_apart import homes_apart
from tillie.home.federation import transport as module
from tillie.home.federation.names import MAX_WELL_KNOWN_BYTES, Route, Target
from tillie.home.federation.transport import MAX_REDIRECTS, MAX_TARGETS, Failed, Refusal, Transport

HOST = "host.test"
GOOD = b'{"m.server":"there.test:1"}'
START = f"https://{HOST}/.well-known/matrix/server"


class _Body:
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        for at in range(0, len(self._data), size):
            yield self._data[at : at + size]


class _Response:
    def __init__(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.status, self.content = status, _Body(body)
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


async def _transport(wire: Any) -> Transport:
    federation = wire.homes["a.test"].home.federation
    assert federation is not None
    found: Transport = federation.transport
    return found


def _answers(answers: dict[str, _Response], asked: list[str]) -> Any:
    @asynccontextmanager
    async def open_(method: str, url: URL, headers: Any, body: bytes) -> AsyncIterator[_Response]:
        asked.append(str(url))
        if str(url) not in answers:
            raise OSError("nobody there")
        yield answers[str(url)]

    return open_


@pytest.mark.parametrize(
    ("answers", "requests", "body"),
    [
        ({START: _Response(200, GOOD)}, 1, GOOD),
        ({START: _Response(302, Location="/other"), f"https://{HOST}/other": _Response(200, GOOD)}, 2, GOOD),
        ({START: _Response(301, Location="https://b.test/x"), "https://b.test/x": _Response(200, GOOD)}, 2, GOOD),
        ({START: _Response(308, Location="http://b.test/x"), "http://b.test/x": _Response(200, GOOD)}, 1, None),
        ({START: _Response(302, Location="file:///etc/passwd")}, 1, None),
        ({START: _Response(302, Location=START)}, MAX_REDIRECTS + 1, None),
        ({START: _Response(302)}, MAX_REDIRECTS + 1, None),
        ({START: _Response(200, b" " * MAX_WELL_KNOWN_BYTES)}, 1, b" " * MAX_WELL_KNOWN_BYTES),
        ({START: _Response(200, b" " * (MAX_WELL_KNOWN_BYTES + 1))}, 1, None),
        ({START: _Response(200, GOOD, Content_Encoding="gzip")}, 1, None),
        ({}, 1, None),
    ],
)
def test_well_known_is_followed_a_few_steps_over_https(
    tmp_path: Path, answers: dict[str, _Response], requests: int, body: bytes | None
) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, "a.test") as wire:
            transport, asked = await _transport(wire), list[str]()
            transport._open = _answers(answers, asked)  # type: ignore[method-assign]
            found = await transport._well_known(HOST)
            assert (found.body if found else None) == body
            assert len(asked) == requests

    asyncio.run(run())


@pytest.mark.parametrize(("status", "limit"), [(200, "MAX_ANSWER_BYTES"), (500, "MAX_ERROR_BYTES")])
def test_an_answer_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, limit: str) -> None:
    monkeypatch.setattr(module, limit, 20)

    async def run() -> None:
        async with homes_apart(tmp_path, "a.test") as wire:
            transport = await _transport(wire)
            del transport._answer  # not over the test's wire
            url = f"https://{HOST}:1/x"
            found = []
            for size in (20, 21):
                transport._open = _answers({url: _Response(status, b" " * size)}, [])  # type: ignore[method-assign]
                try:
                    found.append((200, len(await transport.plain(f"{HOST}:1", "/x"))))
                except Failed as failed:
                    found.append((failed.status, failed.errcode))  # type: ignore[arg-type]
            assert found == [(200, 20) if status == 200 else (500, "M_UNKNOWN"), (502, "M_TOO_LARGE")]

    asyncio.run(run())


def test_a_web_server_that_hangs_does_not_hide_the_homeserver(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, "a.test") as wire:
            transport, asked = await _transport(wire), list[str]()
            del transport._answer  # not over the test's wire
            transport._timeout = 1.0
            transport.names._services = _no_services

            @asynccontextmanager
            async def open_(method: str, url: URL, headers: Any, body: bytes) -> AsyncIterator[_Response]:
                asked.append(str(url))
                if url.port == 443:
                    await asyncio.Event().wait()
                yield _Response(200, b"{}")

            transport._open = open_  # type: ignore[method-assign]
            for _ in range(2):
                assert await transport.plain(HOST, "/x") == b"{}"
            assert asked == [START, *[f"https://{HOST}:8448/x"] * 2]

    asyncio.run(run())


async def _no_services(name: str) -> tuple[Target, ...]:
    return ()


def test_an_address_that_is_written_out_is_looked_at_before_it_is_spoken_to(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, "a.test") as wire:
            transport = await _transport(wire)
            for host in ("127.0.0.1", "[::1]", "169.254.169.254", "[::ffff:10.0.0.1]", "127.1", "2130706433"):
                with pytest.raises(Refusal):
                    transport._open("GET", URL(f"https://{host}:1/"), {}, b"")

    asyncio.run(run())


class _Inner:
    """Addresses of names, without DNS."""

    def __init__(self, **found: list[str]) -> None:
        self._found = {name.replace("_", "."): each for name, each in found.items()}

    async def resolve(self, host: str, port: int, family: socket.AddressFamily) -> list[Any]:
        if host not in self._found:
            raise OSError("no such name")
        return [{"hostname": host, "host": each, "port": port} for each in self._found[host]]

    async def close(self) -> None:
        pass


def test_names_lead_to_public_addresses_only_also_by_srv(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, "a.test") as wire:
            resolver = (await _transport(wire))._resolver
            await resolver._inner.close()
            resolver._inner = _Inner(  # type: ignore[assignment]
                mixed_test=["10.0.0.1", "8.8.8.8", "::1"], inside_test=["127.0.0.1"], one_test=["1.1.1.1"]
            )
            assert [each["host"] for each in await resolver.resolve("mixed.test", 1)] == ["8.8.8.8"]
            for name in ("inside.test", "none.test"):
                with pytest.raises(Refusal):
                    await resolver.resolve(name, 1)
            targets = (Target("gone.test", 5), Target("one.test", 6), Target("inside.test", 7), Target("mixed.test", 8))
            resolver.direct(Route("srv.test", 5, "srv.test", targets))
            found = [(each["host"], each["port"]) for each in await resolver.resolve("srv.test", 5)]
            assert found == [("1.1.1.1", 6), ("8.8.8.8", 8)]
            many = tuple(Target("one.test", port) for port in range(1, MAX_TARGETS + 3))
            resolver.direct(Route("srv.test", 5, "srv.test", many))
            assert len(await resolver.resolve("srv.test", 5)) == MAX_TARGETS
            resolver.direct(Route("srv.test", 5, "srv.test"))
            with pytest.raises(Refusal):
                await resolver.resolve("srv.test", 5)

    asyncio.run(run())


def test_errors_of_other_servers_are_cut_and_their_wait_is_read() -> None:
    assert module._error(_Response(400), b'{"errcode":"M_\\u001b[2JX"}').errcode == "M_[2JX"  # type: ignore[arg-type]
    said = b'{"errcode":"M_LIMIT_EXCEEDED","error":"slow\\u001b[2Jdown' + b"x" * 500 + b'","retry_after_ms":2500}'
    found = module._error(_Response(429), said)  # type: ignore[arg-type]
    assert isinstance(found, Failed)
    assert (found.status, found.errcode, found.retry_after) == (429, "M_LIMIT_EXCEEDED", 2.5)
    assert found.message.isprintable()
    assert len(found.message) <= 200
    assert module._error(_Response(429, Retry_After="7"), said).retry_after == 7  # type: ignore[arg-type]
    for bad in (b"", b"[]", b'{"errcode":7}', b"[" * 60_000):
        assert module._error(_Response(500), bad).status == 500  # type: ignore[arg-type]
