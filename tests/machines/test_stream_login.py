"""Servers that drip, strip, or never finish a login (B60, B32): typed errors in bounded time, nothing given away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tillie.errors import TillieError, Unreachable, UsageError
from tillie.model import Address
from tillie.networks.xmpp import connection
from tillie.networks.xmpp.connection import Login, connect
from tillie.store import MemoryStore

JULIET = Address("juliet@capulet.test")
HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'"
    b" id='1' version='1.0'>"
)
ANONYMOUS = (
    b"<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>ANONYMOUS</mechanism>"
    b"<mechanism>PLAIN</mechanism></mechanisms>"
)

Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def attempt(behave: Server) -> tuple[TillieError, bytes]:
    """What a login at such a server ends in, and all that the client said to it."""
    heard = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def listen() -> None:
            while data := await reader.read(4096):
                heard.extend(data)

        listening = asyncio.ensure_future(listen())
        try:
            await behave(reader, writer)
            await listening
        except ConnectionError:
            pass
        finally:
            listening.cancel()
            writer.close()

    async def scenario() -> TillieError:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TillieError) as error:
            await connect(Login(JULIET, "geheim", f"127.0.0.1:{port}"), MemoryStore(JULIET))
        server.close()
        return error.value

    return asyncio.run(scenario()), bytes(heard)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TIMEOUT", 0.5)


def sends(*pieces: bytes) -> Server:
    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return behave


async def drips(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEADER)
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def drips_a_header(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"<stream:stream a='")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("behave", "says"),
    [
        (sends(), "in time"),
        (sends(HEADER), "in time"),
        (drips, "in time"),
        (drips_a_header, "in time"),
        (sends(b"<!DOCTYPE a>"), "DOCTYPE"),
        (sends(HEADER + b"<!-- -->"), ""),
        (sends(HEADER + b"<stream:features>" + ANONYMOUS + b"</stream:features>"), "encrypted"),
        (sends(HEADER + b"<stream:features/>"), "encrypted"),
        (sends(b"HTTP/1.1 400 Bad Request\r\n\r\n"), ""),
        (sends(HEADER + b"</stream:stream>"), ""),
    ],
)
def test_a_login_that_cannot_end_well(behave: Server, says: str) -> None:
    error, heard = attempt(behave)
    assert isinstance(error, Unreachable)
    assert says in str(error)
    assert b"<auth" not in heard
    assert b"geheim" not in heard


def test_a_server_that_keeps_offering_starttls_and_never_begins() -> None:
    features = (
        b"<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>" + ANONYMOUS + b"</stream:features>"
    )
    error, heard = attempt(sends(HEADER, features, features, features))
    assert isinstance(error, Unreachable)
    assert b"<starttls" in heard
    assert b"<auth" not in heard


def test_nobody_listens() -> None:
    async def scenario() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        with pytest.raises(Unreachable):
            await connect(Login(JULIET, "x", f"127.0.0.1:{port}"), MemoryStore(JULIET))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "server", ["x", ":5222", "host:", "host:0", "host:65536", "host:-1", "host:\u0665", "host:5222x"]
)
def test_places_that_are_none(server: str) -> None:
    with pytest.raises(UsageError):
        _ = Login(JULIET, "x", server).host_and_port


def test_places() -> None:
    assert Login(JULIET, "x").host_and_port is None
    assert Login(JULIET, "x", "localhost:1").host_and_port == ("localhost", 1)
    assert Login(JULIET, "x", "[::1]:65535").host_and_port == ("::1", 65_535)
    assert "geheim" not in repr(Login(JULIET, "geheim"))
