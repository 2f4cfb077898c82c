"""Encrypted sessions in slixmpp programs on a real Prosody: negotiated, used by plugins that don't know, ended.

What the programs send and receive is slixmpp's own: `Message.send`, `await Iq.send()`, plugins and their handlers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from slixmpp.exceptions import IqError

from support.players import Player
from support.prosody import HOSTS, new_account, prosody
from support.xmpp import SECONDS, online, until
from tillie.demo.prosody import PrivateProsody
from tillie.errors import NegotiationFailed, SessionEnded
from tillie.networks.xmpp.opened import InSession, SessionMessage
from tillie.schemes.esession import Session

__all__ = ["prosody"]

CONTENT = "http://www.xmpp.org/extensions/xep-0200.html#ns"


def couple(server: PrivateProsody, **options: Any) -> tuple[Player, Player]:
    jids = new_account(server, "juliet"), new_account(server, "romeo", HOSTS[1])
    juliet, romeo = (Player(server, jid, **options) for jid in jids)
    return juliet, romeo


@asynccontextmanager
async def in_session(server: PrivateProsody, **options: Any) -> AsyncIterator[tuple[Player, Player, Session]]:
    juliet, romeo = couple(server, **options)
    async with online(juliet, romeo):
        session = await juliet.sessions.start(romeo.full)
        yield juliet, romeo, session


def test_two_people_negotiate_talk_and_end(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        async with in_session(prosody) as (juliet, romeo, session):
            (other,) = await romeo.sessions.sessions.all()
            assert (session.state, other.state) == ("active", "active")
            assert len(session.string) == 6
            assert session.string == other.string
            assert session.verifiable
            juliet.send_message(romeo.full, "wherefore", mtype="chat")
            heard = await romeo.read_stanza()
            assert isinstance(heard, SessionMessage)
            assert (heard["body"], heard["from"].full, heard["thread"]) == ("wherefore", juliet.full, session.thread)
            assert heard.delivery.scheme == "esession"
            heard.reply("therefore").send()
            assert await juliet.read() == "therefore"
            assert (await asyncio.wait_for(juliet.plain.get(), SECONDS))["body"] == "therefore"
            for number in range(20):
                juliet.send_message(romeo.full, f"J{number}", mtype="chat")
                romeo.send_message(juliet.full, f"R{number}", mtype="chat")
            assert [await romeo.read() for _ in range(20)] == [f"J{number}" for number in range(20)]
            assert [await juliet.read() for _ in range(20)] == [f"R{number}" for number in range(20)]
            ended = await juliet.sessions.end(session.thread)
            assert (ended.state, ended.why) == ("ended", "")
            await until(lambda: [name for name, _ in romeo.told] == ["started", "ended"])
            assert [name for name, _ in juliet.told] == ["started", "ended"]
            assert juliet.leaked("wherefore", ">J1<") == romeo.leaked("therefore", ">R1<") == []
            for player in (juliet, romeo):
                assert player.failed == []
                assert await player.core.engine.inbox() == []
                assert await player.core.engine.outbox() == []

    asyncio.run(scenario())
    assert not any(b"herefore" in file.read_bytes() for file in prosody.data_folder.rglob("*") if file.is_file())


def test_iqs_of_plugins_that_know_nothing_of_sessions(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        async with in_session(prosody) as (juliet, romeo, _):
            begun = len(juliet.wire), len(romeo.wire)
            version = await juliet.plugin["xep_0092"].get_version(romeo.full)
            assert version["software_version"]["name"] == "Balcony"
            info = await romeo.plugin["xep_0030"].get_info(jid=juliet.full)
            assert "urn:xmpp:ping" in info["disco_info"]["features"]
            await juliet.plugin["xep_0199"].send_ping(romeo.full)
            assert await juliet.ask(romeo.full, "the hour") == "the hour"
            out = [*juliet.wire[begun[0] :], *romeo.wire[begun[1] :]]
            iqs = [seen for seen in out if seen.startswith("<iq") and "@" in seen.partition(">")[0]]
            assert len(iqs) == 8
            assert all(CONTENT in seen for seen in iqs)
            assert not any(word in seen for seen in iqs for word in ("version", "disco", "ping", "verona"))

    asyncio.run(scenario())


def test_a_hundred_iqs_share_a_session_at_once_and_in_a_row(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        async with in_session(prosody) as (juliet, romeo, session):
            asked = [juliet.ask(romeo.full, f"j{number}") for number in range(100)]
            asked += [romeo.ask(juliet.full, f"r{number}") for number in range(100)]
            answers = await asyncio.gather(*asked)
            assert answers == [f"{who}{number}" for who in "jr" for number in range(100)]
            for number in range(100):
                assert await juliet.ask(romeo.full, str(number)) == str(number)
            assert (await juliet.sessions.sessions.get(session.thread)).sent >= 300
            assert len(await juliet.sessions.sessions.all()) == 1

    asyncio.run(scenario())


def test_presence_and_errors(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        async with in_session(prosody) as (juliet, romeo, _):
            seen: asyncio.Queue[Any] = asyncio.Queue()
            romeo.add_event_handler("esession_presence", seen.put_nowait)
            juliet.send_presence(pto=romeo.full, pstatus="on the balcony", pshow="away")
            presence = await asyncio.wait_for(seen.get(), SECONDS)
            assert (presence["status"], presence["show"]) == ("on the balcony", "away")
            iq = juliet.make_iq_get("urn:example:unknown", ito=romeo.full)
            with pytest.raises(IqError) as caught:
                await iq.send(timeout=SECONDS)
            assert caught.value.condition == "feature-not-implemented"
            assert juliet.leaked("balcony", "urn:example:unknown") == romeo.leaked("urn:example:unknown") == []
            assert await juliet.ask(romeo.full, "still there?") == "still there?"

    asyncio.run(scenario())


def test_what_comes_in_plain_from_the_peer_is_not_accepted(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        async with in_session(prosody) as (juliet, romeo, session):
            romeo.send_raw(f"<message to='{juliet.full}' type='chat' id='x'><body>slipped in</body></message>")
            romeo.send_raw(f"<iq to='{juliet.full}' type='get' id='y'><ping xmlns='urn:xmpp:ping'/></iq>")
            await until(lambda: len(juliet.failed) == 2)
            assert [refused.stanza["id"] for refused in juliet.failed] == ["x", "y"]
            assert juliet.plain.empty()
            assert juliet.opened.empty()
            assert len(juliet.notices) == 2
            await until(lambda: any("not-acceptable" in seen for seen in juliet.wire))
            question = asyncio.ensure_future(juliet.plugin["xep_0092"].get_version(romeo.full))
            assert (await question)["software_version"]["name"] == "Balcony"
            assert (await juliet.sessions.sessions.get(session.thread)).active

    asyncio.run(scenario())


def test_nothing_goes_in_plain_into_a_session_that_is_over(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        async with in_session(prosody) as (juliet, romeo, session):
            await romeo.sessions.end(session.thread)
            await until(lambda: [name for name, _ in juliet.told] == ["started", "ended"])
            juliet.send_message(romeo.full, "are you there?", mtype="chat")
            with pytest.raises(IqError):
                await juliet.plugin["xep_0092"].get_version(romeo.full)
            assert len(juliet.failed) == 2
            assert juliet.leaked("are you there?", "jabber:iq:version") == []
            with pytest.raises(SessionEnded):
                await juliet.plugin["xep_0200"].send_sealed(juliet.make_message(romeo.full, "there?", mtype="chat"))
            juliet.plugin["xep_0200"].allow_plain(romeo.full)
            juliet.send_message(romeo.full, "in plain, then", mtype="chat")
            heard = await asyncio.wait_for(romeo.plain.get(), SECONDS)
            assert heard["body"] == "in plain, then"
            assert not isinstance(heard, InSession)

    asyncio.run(scenario())


def test_rekeying_while_both_talk(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        async with in_session(prosody) as (juliet, romeo, session):
            for number in range(5):
                juliet.send_message(romeo.full, f"J{number}", mtype="chat")
                romeo.send_message(juliet.full, f"R{number}", mtype="chat")
                await asyncio.gather(*(each.sessions.rekey(session.thread) for each in (juliet, romeo)))
                assert await juliet.ask(romeo.full, f"{number}") == f"{number}"
            assert [await romeo.read() for _ in range(5)] == [f"J{number}" for number in range(5)]
            assert (await juliet.sessions.sessions.get(session.thread)).rekeys == 10
            assert juliet.failed == romeo.failed == []

    asyncio.run(scenario())


def test_who_leaves_ends_her_sessions_first(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        async with in_session(prosody) as (juliet, romeo, session):
            await juliet.sessions.leave()
            await until(lambda: [name for name, _ in romeo.told] == ["started", "ended"])
            assert (await romeo.sessions.sessions.get(session.thread)).why == "the other side ended it"

    asyncio.run(scenario())


def test_what_a_client_can_do_is_known_from_the_first_answer(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        async with in_session(prosody) as (juliet, romeo, _):
            assert [await juliet.sessions.supports(romeo.full) for _ in range(2)] == [True, True]

    asyncio.run(scenario())


@pytest.mark.parametrize("answer", ["contacts", "ask", "nobody"])
def test_a_stranger_is_not_told_that_we_are_there(prosody: PrivateProsody, answer: str) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody, answer=answer)
        async with online(juliet, romeo):
            await romeo.settled()
            begun = len(romeo.wire)
            attempt = asyncio.ensure_future(juliet.sessions.start(romeo.full, wait=5.0))
            if answer == "nobody":
                with pytest.raises(NegotiationFailed):
                    await attempt
                assert romeo.told == []
                assert [seen for seen in romeo.wire[begun:] if "juliet" in seen] == []
                return
            await until(lambda: [name for name, _ in romeo.told] == ["offer"])
            assert [seen for seen in romeo.wire[begun:] if "juliet" in seen] == []
            await romeo.sessions.accept(romeo.told[0][1].thread)
            assert (await attempt).active

    asyncio.run(scenario())
