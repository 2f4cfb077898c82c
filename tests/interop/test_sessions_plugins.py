"""The plugins xep_0116 and xep_0200 in particular: whom they find and answer, connections that break, keys by hand."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from slixmpp.exceptions import IqError

from support.players import Player
from support.prosody import HOSTS, new_account, prosody
from support.xmpp import Bot, online, until
from tillie.crypto import modp
from tillie.demo.prosody import PrivateProsody
from tillie.errors import NegotiationFailed, SessionEnded, UsageError
from tillie.networks.xmpp import xep_0116
from tillie.networks.xmpp.opened import InSession
from tillie.schemes.esession.keys import Pair

__all__ = ["prosody"]


def couple(server: PrivateProsody, **options: Any) -> tuple[Player, Player]:
    jids = new_account(server, "juliet"), new_account(server, "romeo", HOSTS[1])
    juliet, romeo = (Player(server, jid, **options) for jid in jids)
    return juliet, romeo


async def befriend(one: Player, other: Player) -> None:
    """They see each other's presence, and have heard of it."""
    pairs = ((one, other.boundjid), (other, one.boundjid))
    for kind in ("subscribe", "subscribed"):
        for player, peer in pairs:
            player.send_raw(f"<presence to='{peer.bare}' type='{kind}'/>")
        for player, _ in pairs:
            await player.settled()
    for player, peer in pairs:
        await until(lambda player=player, peer=peer: peer.bare in player.sessions._contacts)  # type: ignore[misc]
        await until(lambda player=player, peer=peer: peer.resource in player.client_roster[peer.bare].resources)  # type: ignore[misc]


def test_contacts_are_found_and_answered(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody, answer="contacts")
        async with online(juliet, romeo):
            await befriend(juliet, romeo)
            other = Bot(prosody, romeo.boundjid.bare)  # another client of Romeo's, without sessions
            async with online(other):
                await until(lambda: len(juliet.client_roster[romeo.boundjid.bare].resources) == 2)
                assert await juliet.sessions.supports(romeo.full)
                assert not await juliet.sessions.supports(other.boundjid.full)
                session = await juliet.sessions.start(romeo.boundjid.bare)
                assert session.peer == romeo.full
                assert await juliet.sessions.start(romeo.boundjid.bare) == session
                await romeo.stop()
                await until(lambda: len(juliet.client_roster[romeo.boundjid.bare].resources) == 1)
                with pytest.raises(NegotiationFailed, match="No client of"):
                    await juliet.sessions.start(romeo.boundjid.bare)

    asyncio.run(scenario())


def test_the_feature_is_there_while_the_plugin_is(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        async with online(juliet, romeo):
            assert await juliet.sessions.supports(romeo.full)
            romeo.plugin.disable("xep_0116")
            info = await juliet.plugin["xep_0030"].get_info(jid=romeo.full)
            assert xep_0116.FEATURE not in info["disco_info"]["features"]
            assert romeo.plugin["xep_0200"].door.negotiates is False
            romeo.plugin.enable("xep_0116")

    asyncio.run(scenario())


def test_whoever_is_gone_takes_no_offer(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        async with online(juliet):
            for peer in (romeo.boundjid.bare, f"{romeo.boundjid.bare}/gone"):
                with pytest.raises(NegotiationFailed):
                    await juliet.sessions.start(peer, wait=2.0)
            async with online(romeo):  # an offer that was kept for him is not answered: it would tell when he came back
                await romeo.settled()
                assert [each.peer for each in await romeo.sessions.sessions.all()] == []

    asyncio.run(scenario())


def test_a_connection_that_breaks_and_is_resumed_loses_nothing(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        async with online(juliet, romeo):
            session = await juliet.sessions.start(romeo.full)
            for number in range(3):
                await juliet.cut()
                romeo.send_message(juliet.full, f"R{number}", mtype="chat")
                await romeo.settled()
                await juliet.come_back()
                juliet.send_message(romeo.full, f"J{number}", mtype="chat")
                assert await juliet.read() == f"R{number}"
                assert await romeo.read() == f"J{number}"
            assert await juliet.ask(romeo.full, "still there?") == "still there?"
            assert (await juliet.sessions.sessions.get(session.thread)).active
            assert juliet.failed == romeo.failed == []

    asyncio.run(scenario())


def test_a_connection_that_is_not_resumed_ends_its_sessions(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody, answer="contacts")
        async with online(juliet, romeo):
            await befriend(juliet, romeo)
            session = await juliet.sessions.start(romeo.full)
            await juliet.cut()
            juliet.plugin["xep_0198"].sm_id = None  # the server does not know her any more
            juliet.event("session_end")
            assert juliet.core.engine.own is None
            await juliet.come_back("session_start")
            await juliet.wait_until("esession_caught_up", 15.0)
            ended = await juliet.sessions.sessions.get(session.thread)
            assert (ended.state, ended.why) == ("ended", "the connection broke")
            juliet.send_message(romeo.full, "as if nothing had happened", mtype="chat")
            await until(lambda: len(juliet.failed) == 1)
            assert juliet.leaked("as if nothing") == []
            again = await juliet.sessions.start(romeo.full)
            assert again.known  # by the secret of the session before
            juliet.send_message(romeo.full, "here again", mtype="chat")
            assert await romeo.read() == "here again"

    asyncio.run(scenario())


def test_who_goes_offline_without_a_word_ends_the_session(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody, answer="contacts")
        async with online(juliet, romeo):
            await befriend(juliet, romeo)
            session = await juliet.sessions.start(romeo.full)
            romeo.send_raw("<presence type='unavailable'/>")
            await until(lambda: [name for name, _ in juliet.told] == ["started", "ended"])
            assert (await juliet.sessions.sessions.get(session.thread)).why == "the other side went offline"

    asyncio.run(scenario())


def by_hand(mine: int) -> dict[str, Any]:
    """The parameters of XEP-0200 section 3 that both have from elsewhere; `mine` is which of the two we are."""
    pairs = tuple(Pair(bytes([n]) * 16, bytes([16 + n]) * 32) for n in (1, 2))
    counters, privates = (5, 2**127 + 5), (2**300 + 1, 2**300 + 3)
    publics = [modp.public(modp.GROUPS[14], x) for x in privates]
    other = 1 - mine
    return {
        "out": pairs[mine], "into": pairs[other], "counter_out": counters[mine], "counter_in": counters[other],
        "group": 14, "private": privates[mine], "peer": publics[other],
    }  # fmt: skip


def test_stanza_encryption_alone_with_keys_from_elsewhere(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody, plugins=("xep_0200",))
        async with online(juliet, romeo):
            assert juliet.plugin.get("xep_0116", None) is None
            for mine, (player, peer) in enumerate(((juliet, romeo), (romeo, juliet))):
                await player.plugin["xep_0200"].open_session(peer.full, "balcony", **by_hand(mine))
            juliet.send_message(romeo.full, "wherefore", mtype="chat")
            assert await romeo.read() == "wherefore"
            assert await romeo.ask(juliet.full, "the hour") == "the hour"
            await romeo.plugin["xep_0200"].rekey("balcony")
            assert await juliet.ask(romeo.full, "the place") == "the place"
            assert juliet.leaked("wherefore", "verona") == romeo.leaked("verona") == []
            assert (await juliet.plugin["xep_0200"].end("balcony")).state == "ended"
            offers = juliet.make_message(romeo.full, mtype="normal")
            offers["thread"] = "new"
            assert not romeo.plugin["xep_0200"].door.takes(offers)

    asyncio.run(scenario())


def test_programs_that_choose_by_themselves(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody, transparent=False)
        async with online(juliet, romeo):
            stanzas = juliet.plugin["xep_0200"]
            with pytest.raises(SessionEnded):
                await stanzas.send_sealed(juliet.make_message(romeo.full, "too early"))
            await juliet.sessions.start(romeo.full)
            report = await stanzas.send_sealed(juliet.make_message(romeo.full, "sealed", mtype="chat"))
            assert [device.sealed for device in report.report] == [True]
            assert await romeo.read() == "sealed"
            question = juliet.make_iq_get("jabber:iq:version", ito=romeo.full)
            answer = await stanzas.send_sealed_iq(question)
            assert isinstance(answer, InSession)
            assert juliet.leaked(">sealed<", "jabber:iq:version") == []
            juliet.send_message(romeo.full, "in plain", mtype="chat")
            await until(lambda: len(romeo.failed) == 1)  # the other side does not take that
            with pytest.raises(IqError):
                await juliet.make_iq_get("jabber:iq:version", ito=romeo.full).send(timeout=5)
            with pytest.raises(UsageError):
                await stanzas.send_sealed(juliet.make_message(romeo.boundjid.bare, "to all of him"))

    asyncio.run(scenario())


def test_beside_omemo(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody, plugins=("xep_0384", "xep_0116"))
        async with online(juliet, romeo):
            await juliet.sessions.start(romeo.full)
            for number in range(3):
                await juliet.say(romeo.boundjid.bare, f"for all of you {number}")
                juliet.send_message(romeo.full, f"for you alone {number}", mtype="chat")
                await juliet.say(romeo.full, f"for all of you, again {number}")
                schemes = [(await romeo.read_stanza()).delivery.scheme for _ in range(3)]
                assert sorted(schemes) == ["esession", "omemo", "omemo"]
            assert romeo.failed == []

    asyncio.run(scenario())


def test_the_log_knows_nothing_of_what_was_said(prosody: PrivateProsody, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        async with online(juliet, romeo):
            session = await juliet.sessions.start(romeo.full)
            juliet.send_message(romeo.full, "parting is such sweet sorrow", mtype="chat")
            (await romeo.read_stanza()).reply("good night, good night").send()
            assert await juliet.read() == "good night, good night"
            assert await juliet.ask(romeo.full, "till it be morrow") == "till it be morrow"
            await juliet.sessions.end(session.thread)

    with caplog.at_level(logging.DEBUG):
        asyncio.run(scenario())
    assert "SEND: <message" in caplog.text
    assert not any(said in caplog.text for said in ("sorrow", "good night", "morrow"))


def test_beside_sessions_that_are_not_encrypted(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody, answer="contacts")
        for player in (juliet, romeo):
            player.register_plugin("xep_0155", module="tillie.networks.xmpp.xep_0155")
        async with online(juliet, romeo):
            await befriend(juliet, romeo)
            plain, sealed = await asyncio.gather(
                juliet.plugin["xep_0155"].offer(romeo.full), romeo.sessions.start(juliet.full)
            )
            assert plain.view.state.name == "ACTIVE"
            assert sealed.active
            assert [name for name, _ in juliet.told + romeo.told] == ["started", "started"]
            assert juliet.failed == romeo.failed == []

    asyncio.run(scenario())
