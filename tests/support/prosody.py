"""A private Prosody for the tests: one for the whole run, or skipped with the reason.

Import the `prosody` fixture into a test module to use it; tests that stop the server start their own.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from tillie.demo.prosody import PrivateProsody

HOSTS = ("capulet.test", "montague.test")
PASSWORD = "only for tests"

_numbers = itertools.count(1)


def require_prosody() -> None:
    """Skip the test, saying why, if no private Prosody can be started."""
    reason = PrivateProsody.unavailable()
    if reason:
        pytest.skip(reason)


def new_account(server: PrivateProsody, name: str, host: str = HOSTS[0]) -> str:
    """A fresh account `nameN@host` with the password `PASSWORD`; its bare JID."""
    jid = f"{name}{next(_numbers)}@{host}"
    server.add_user(jid, PASSWORD)
    return jid


@pytest.fixture(scope="session")
def prosody() -> Iterator[PrivateProsody]:
    """A running Prosody with the two hosts of `HOSTS`."""
    require_prosody()
    server = PrivateProsody(HOSTS)
    asyncio.run(server.__aenter__())
    try:
        yield server
    finally:
        asyncio.run(server.__aexit__(None, None, None))
