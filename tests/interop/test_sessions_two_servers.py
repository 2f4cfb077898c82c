"""Encrypted sessions between people on two servers, which talk to each other over TLS."""

from __future__ import annotations

import asyncio
import logging
import re
from base64 import b64decode, b64encode

import pytest

from support.federation import Federation, federation
from support.players import Player
from support.prosody import HOSTS, new_account
from support.session_run import secrets_of
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


def test_a_server_that_goes_away_ends_the_session_and_another_one_begins(federation: Federation) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(federation)
        a, b = Player(federation[CAPULET], juliet), Player(federation[MONTAGUE], romeo)
        async with online(a, b):
            first = await a.sessions.start(romeo)
            a.send_message(b.full, "before", mtype="chat")
            assert await b.read() == "before"
            federation[MONTAGUE].stop()
            a.send_message(b.full, "into the void", mtype="chat")
            await until(lambda: [name for name, _ in a.told] == ["started", "ended"])
            over = a.told[-1][1]
            assert (over.thread, over.state) == (first.thread, "broken")
            assert "was refused" in over.why
            assert not a.leaked("into the void")
        await federation[MONTAGUE].start()
        a, b = Player(federation[CAPULET], juliet, store=a.store), Player(federation[MONTAGUE], romeo, store=b.store)
        async with online(a, b):
            second = await a.sessions.start(b.full)
            assert second.thread != first.thread
            assert second.known  # the secret that the first session left
            a.send_message(b.full, "after", mtype="chat")
            assert await b.read() == "after"
            assert a.failed == b.failed == []

    asyncio.run(scenario())


def test_no_log_has_a_word_of_it_or_a_key(federation: Federation, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secrets: set[bytes] = set()

    async def scenario() -> None:
        juliet, romeo = couple(federation)
        a, b = Player(federation[CAPULET], juliet), Player(federation[MONTAGUE], romeo)
        async with online(a, b):
            session = await a.sessions.start(romeo)
            await a.sessions.rekey(session.thread)
            a.send_message(b.full, "herefore", mtype="chat")
            assert await b.read() == "herefore"
            for player in (a, b):
                secrets.update(secrets_of(dict(player.store._records)))
            await a.sessions.end(session.thread)
            # Keys of MACs that verify nothing any more are everybody's.
            old = re.findall("<old>([^<]+)</old>", "".join((*a.wire, *b.wire)))
            secrets.difference_update(map(b64decode, old))

    asyncio.run(scenario())
    assert len(secrets) >= 6
    assert "RECV" in caplog.text
    for text in (caplog.text, *(federation[host].log_file.read_text() for host in HOSTS)):
        assert "herefore" not in text
        for secret in secrets:
            assert secret.hex() not in text
            assert b64encode(secret).decode() not in text
            assert repr(secret)[2:-1] not in text
