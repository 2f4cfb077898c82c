"""The private Prosody itself: it starts, restarts on the same data, is not root's, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path

import pytest
import slixmpp

from support.prosody import HOSTS, PASSWORD, new_account, prosody, require_prosody
from tillie.demo.prosody import PrivateProsody
from tillie.errors import UsageError

__all__ = ["prosody"]


async def log_in(
    server: PrivateProsody, jid: str, *, direct_tls: bool = False, trust: bool = True
) -> slixmpp.ClientXMPP:
    client = slixmpp.ClientXMPP(jid, PASSWORD, ssl_context=server.ssl_context())
    client.enable_direct_tls, client.enable_starttls = direct_tls, not direct_tls
    client.connect("127.0.0.1", server.direct_tls_port if direct_tls else server.port)
    await client.wait_until("session_start", 10)
    return client


@pytest.mark.parametrize("direct_tls", [False, True])
@pytest.mark.parametrize("host", HOSTS)
def test_log_in_with_certificate_checks(prosody: PrivateProsody, host: str, direct_tls: bool) -> None:
    async def scenario() -> None:
        client = await log_in(prosody, new_account(prosody, "juliet", host), direct_tls=direct_tls)
        assert isinstance(client.socket, ssl.SSLObject)
        assert client.socket.context.check_hostname
        await client.disconnect()

    asyncio.run(scenario())


def test_a_client_that_does_not_know_the_authority_refuses_the_certificate(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        client = slixmpp.ClientXMPP(new_account(prosody, "juliet"), PASSWORD)
        client.enable_direct_tls = False
        refused = asyncio.ensure_future(client.wait_until("ssl_invalid_chain", 10))
        client.connect("127.0.0.1", prosody.port)
        assert isinstance(await refused, ssl.SSLCertVerificationError)
        client.abort()

    asyncio.run(scenario())


def test_restart_keeps_accounts_and_the_end_leaves_nothing() -> None:
    require_prosody()

    async def scenario() -> Path:
        async with PrivateProsody(["capulet.test"]) as server:
            assert server.version[0].isdigit()
            jid = new_account(server, "nurse")
            server.stop()
            await server.start()
            client = await log_in(server, jid)
            await client.disconnect()
            assert server._process is not None
            owner = os.stat(f"/proc/{server._process.pid}").st_uid
            assert owner != 0
            return server.folder

    assert not asyncio.run(scenario()).exists()


def test_an_exception_inside_leaves_nothing() -> None:
    require_prosody()
    server = PrivateProsody(["capulet.test"])
    places: list[Path] = []

    async def scenario() -> None:
        async with server:
            places.append(server.folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(scenario())
    assert server._process is None
    assert not places[0].exists()


@pytest.mark.parametrize("host", ["", 'a"b', "../x", "UPPER", "a b"])
def test_host_names_that_could_leave_the_configuration_are_refused(host: str) -> None:
    with pytest.raises(UsageError):
        PrivateProsody([host])
