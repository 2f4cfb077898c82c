"""Encrypted sessions between people on two servers, which talk to each other over TLS."""

from __future__ import annotations

import asyncio

from support.federation import Federation, federation
from support.prosody import HOSTS, new_account
from support.xmpp import Bot, online

__all__ = ["federation"]

CAPULET, MONTAGUE = HOSTS


def couple(federation: Federation) -> tuple[str, str]:
    return new_account(federation[CAPULET], "juliet", CAPULET), new_account(federation[MONTAGUE], "romeo", MONTAGUE)


def test_the_two_servers_are_two_and_know_each_other_by_certificate(federation: Federation) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(federation)
        a, b = Bot(federation[CAPULET], juliet), Bot(federation[MONTAGUE], romeo)
        async with online(a, b):
            await a.say(romeo, "wherefore")
            assert await b.read() == "wherefore"
            await b.say(juliet, "therefore")
            assert await a.read() == "therefore"

    asyncio.run(scenario())
    for here, there in ((CAPULET, MONTAGUE), (MONTAGUE, CAPULET)):
        assert f"Accepting SASL EXTERNAL identity from {there}" in federation[here].log_file.read_text()
