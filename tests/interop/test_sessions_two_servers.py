"""Encrypted sessions between people on two servers, which talk to each other over TLS."""

from __future__ import annotations

import asyncio

from support.federation import Federation, federation
from support.players import Player
from support.prosody import HOSTS, new_account
from support.xmpp import Bot, online, until

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


def test_a_session_between_two_servers(federation: Federation) -> None:
    """Neither of them learns what is said, and what they put between stanzas changes nothing."""

    async def scenario() -> None:
        juliet, romeo = couple(federation)
        a, b = Player(federation[CAPULET], juliet), Player(federation[MONTAGUE], romeo)
        async with online(a, b):
            session = await a.sessions.start(romeo)
            (other,) = await b.sessions.sessions.all()
            assert session.string == other.string
            assert (session.peer, other.peer) == (b.full, a.full)
            for number in range(10):
                a.send_message(b.full, f"wherefore {number}", mtype="chat")
                b.send_message(a.full, f"therefore {number}", mtype="chat")
                assert await a.ask(b.full, f"{number}") == f"{number}"
            assert [await b.read() for _ in range(10)] == [f"wherefore {number}" for number in range(10)]
            assert [await a.read() for _ in range(10)] == [f"therefore {number}" for number in range(10)]
            await b.sessions.rekey(session.thread)
            assert await b.ask(a.full, "still there?") == "still there?"
            assert (await a.sessions.end(session.thread)).state == "ended"
            await until(lambda: [name for name, _ in b.told] == ["started", "ended"])
            assert a.failed == b.failed == []

    asyncio.run(scenario())
    for host in HOSTS:
        files = [file for file in federation[host].data_folder.rglob("*") if file.is_file()]
        assert not any(b"herefore" in file.read_bytes() for file in files)
