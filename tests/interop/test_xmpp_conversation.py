"""Whole conversations through a real server: live, offline, copied, archived, cut off; nothing lost, nothing twice.

What must hold on every server is tried on ejabberd, too.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from support.ejabberd import ejabberd
from support.prosody import HOSTS, PASSWORD, new_account, prosody, require_prosody
from support.servers import server, stored
from support.xmpp import Bot, online, until
from tillie.demo.prosody import PrivateProsody
from tillie.engine import Received
from tillie.errors import StoreUnwritable, UsageError
from tillie.model import Address, Arrived, Kind, Send
from tillie.networks.xmpp import receiver
from tillie.store import MemoryStore

__all__ = ["ejabberd", "prosody", "server"]


def couple(server: Any) -> tuple[str, str]:
    return new_account(server, "juliet", HOSTS[0]), new_account(server, "romeo", HOSTS[1])


def test_two_accounts_on_two_hosts_talk_and_the_server_reads_nothing(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def scenario() -> None:
        juliet, romeo = couple(server)
        a, b = Bot(server, juliet), Bot(server, romeo)
        async with online(a, b):
            for number in range(3):
                report = await a.say(romeo, f"wherefore {number}")
                assert [device.sealed for device in report.report] == [True]
                stanza = await b.read_stanza()
                assert (stanza["body"], stanza["from"].bare) == (f"wherefore {number}", juliet)
                assert stanza.delivery.is_trusted
                await b.say(juliet, f"therefore {number}")
                assert await a.read() == f"therefore {number}"
            await a.nothing_more()
            await b.nothing_more()
            await until(lambda: a.store.outbox() == [])
            assert b.store.inbox() == []

    asyncio.run(scenario())
    seen = stored(server)
    assert any(b"urn:xmpp:omemo:2" in data for data in seen)
    assert not any(b"herefore" in data for data in (*seen, server.log_file.read_bytes()))
    assert "RECV" in caplog.text
    assert "herefore" not in caplog.text


def test_offline_messages(server: Any) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(server)
        store = MemoryStore(Address(romeo))
        a, b = Bot(server, juliet), Bot(server, romeo, store=store)
        async with online(a, b):
            await a.say(romeo, "one")
            assert await b.read() == "one"
        a, b = Bot(server, juliet, store=a.store), Bot(server, romeo, store=store)
        async with online(a):
            await a.say(romeo, "two")
            await a.say(romeo, "three")
            await a.settled()
            async with online(b):
                assert [await b.read(), await b.read()] == ["two", "three"]
                await b.nothing_more()
                await b.say(juliet, "four")
                assert await a.read() == "four"

    asyncio.run(scenario())


def test_carbons_reach_the_other_device_and_a_new_one_is_announced_to_it(server: Any) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(server)
        phone, laptop, b = Bot(server, juliet), Bot(server, juliet), Bot(server, romeo)
        fetched: list[Any] = []
        inner = phone.omemo.network.fetch

        async def fetch(ask: Any) -> Any:
            fetched.append(ask)
            return await inner(ask)

        phone.omemo.network.fetch = fetch
        async with online(phone, b, laptop):
            await phone.settled()
            await phone.say(romeo, "to you")
            # The phone heard of the laptop by notification: it fetched a bundle, but no list of its own account.
            ours = [ask.node.rpartition(":")[2] for ask in fetched[1:] if ask.address == juliet]
            assert "bundles" in ours
            assert await b.read() == "to you"
            copy = await laptop.read_stanza()
            assert (copy["body"], copy["from"].bare, copy["to"].bare) == ("to you", juliet, romeo)
            assert copy.delivery.via == "carbon"
            await b.say(juliet, "to both")
            assert [await phone.read(), await laptop.read()] == ["to both", "to both"]
            for bot in (phone, laptop, b):
                await bot.nothing_more()

    asyncio.run(scenario())


def test_archive_catch_up_shows_once_what_only_the_archive_has(server: Any) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(server)
        store = MemoryStore(Address(romeo))
        a, b = Bot(server, juliet), Bot(server, romeo, store=store)
        # Another device of Romeo's takes the messages off the server, so that nothing is kept as offline messages.
        other = Bot(server, romeo)
        async with online(a, b):
            await a.say(romeo, "live")
            assert await b.read() == "live"
            await other.start()
            await a.settled()
            await b.stop()
            for number in range(120):  # more than a page
                await a.say(romeo, f"archived {number}")
            await a.settled()
            await other.settled()
            await other.stop()
            b2 = Bot(server, romeo, store=store)
            async with online(b2):
                stanzas = [await b2.read_stanza() for _ in range(120)]
                assert [s["body"] for s in stanzas] == [f"archived {n}" for n in range(120)]
                assert {s.delivery.via for s in stanzas} == {"archive"}
                await b2.nothing_more()
            b3 = Bot(server, romeo, store=store)
            async with online(b3):
                await b3.nothing_more()
            b.connect("127.0.0.1", server.port)  # `online` stops it once more

    asyncio.run(scenario())


def test_a_cut_connection_is_resumed_and_nothing_is_lost_or_shown_twice(server: Any) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(server)
        a, b = Bot(server, juliet), Bot(server, romeo)
        async with online(a, b):
            await a.say(romeo, "before")
            assert await b.read() == "before"
            await b.say(juliet, "before")
            assert await a.read() == "before"
            for round_ in range(3):
                await b.cut()
                await a.say(romeo, f"meanwhile {round_}")
                await b.say(juliet, f"from nowhere {round_}")
                await a.settled()
                await b.come_back()
                assert await b.read() == f"meanwhile {round_}"
                assert await a.read() == f"from nowhere {round_}"
            await a.cut()
            await b.cut()
            for number in range(5):
                await a.say(romeo, f"both gone {number}")
            await a.come_back()
            await b.come_back()
            assert [await b.read() for _ in range(5)] == [f"both gone {n}" for n in range(5)]
            for bot in (a, b):
                await bot.nothing_more()
                await until(lambda bot=bot: bot.store.outbox() == [])
            assert b.events.count("session_resumed") == 4
            assert b.events.count("session_start") == 1

    asyncio.run(scenario())


def test_what_was_not_committed_before_the_cut_comes_again(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        a, b = Bot(prosody, juliet), Bot(prosody, romeo)
        async with online(a, b):
            await a.say(romeo, "hello")
            assert await b.read() == "hello"
            await a.settled()
            await b.settled()
            engine = b.omemo.engine
            receive = engine.receive_now
            arrived: list[Arrived] = []

            async def stuck(got: Arrived) -> Received:
                arrived.append(got)
                return await asyncio.Future()

            engine.receive_now = stuck
            await a.say(romeo, "not committed")
            await until(lambda: len(arrived) == 1)
            before = b.plugin["xep_0198"].handled
            await b.plugin["xep_0199"].ping(b.boundjid.host)
            assert b.plugin["xep_0198"].handled == before  # the ping's answer is behind it
            await b.cut()
            b.omemo.receiver._worker.cancel()
            engine.receive_now = receive
            await b.come_back()
            assert await b.read() == "not committed"
            await b.nothing_more()

    asyncio.run(scenario())


def test_a_store_that_fails_leaves_the_message_with_the_server(prosody: PrivateProsody) -> None:
    class Failing(MemoryStore):
        full = False

        def run(self, step: Any, /) -> Any:
            if self.full:
                raise StoreUnwritable()
            return super().run(step)

    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        store = Failing(Address(romeo))
        a, b = Bot(prosody, juliet), Bot(prosody, romeo, store=store)
        async with online(a, b):
            await a.say(romeo, "hello")
            assert await b.read() == "hello"
            await b.settled()
            gone = asyncio.ensure_future(b.wait_until("disconnected", 10))
            store.full = True
            await a.say(romeo, "not stored")
            await gone
            assert b.notices == [str(StoreUnwritable())]
            store.full = False
            await b.come_back()
            assert await b.read() == "not stored"
            await b.nothing_more()

    asyncio.run(scenario())


def test_a_flood_makes_the_connection_wait_and_loses_nothing(
    prosody: PrivateProsody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "HIGH_WATER", 4)
    monkeypatch.setattr(receiver, "LOW_WATER", 1)

    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        a, b = Bot(prosody, juliet), Bot(prosody, romeo)
        async with online(a, b):
            await a.say(romeo, "hello")
            assert await b.read() == "hello"
            await b.settled()
            engine = b.omemo.engine
            receive, gate, most = engine.receive_now, asyncio.Event(), 0

            async def slowly(got: Arrived) -> Received:
                nonlocal most
                await gate.wait()
                most = max(most, b.omemo.receiver._waiting.qsize())
                return await receive(got)

            engine.receive_now = slowly
            for number in range(40):
                await a.say(romeo, f"{number} " + "x" * 20_000)
            await until(lambda: b.omemo.receiver._paused)
            assert not b.transport.is_reading()
            gate.set()
            assert [(await b.read()).split()[0] for _ in range(40)] == [str(number) for number in range(40)]
            await b.nothing_more()
            # What one read from the socket brings is taken in before reading stops.
            assert most < 40

    asyncio.run(scenario())


def test_what_was_sealed_while_nobody_listened_goes_out_after_a_restart(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        store = MemoryStore(Address(juliet))
        a, b = Bot(prosody, juliet, store=store), Bot(prosody, romeo)
        async with online(a, b):
            await a.say(romeo, "hello")
            assert await b.read() == "hello"
            await until(lambda: store.outbox() == [])
            await a.cut()
            await a.say(romeo, "sealed, and then the program died")
            (waiting,) = store.outbox()
            assert isinstance(waiting.effect, Send)
        again, b = Bot(prosody, juliet, store=store), Bot(prosody, romeo, store=b.store)
        async with online(b, again):
            stanza = await b.read_stanza()
            assert (stanza["body"], stanza["id"]) == ("sealed, and then the program died", waiting.effect.id)
            await b.nothing_more()
            await until(lambda: store.outbox() == [])

    asyncio.run(scenario())


def test_what_the_program_did_not_acknowledge_is_told_again(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        store = MemoryStore(Address(romeo))
        a, b = Bot(prosody, juliet), Bot(prosody, romeo, store=store, auto_acknowledge=False)
        async with online(a, b):
            await a.say(romeo, "one")
            await a.say(romeo, "two")
            stanza = await b.read_stanza()
            await b.omemo.acknowledge(stanza)
            assert await b.read() == "two"
        b = Bot(prosody, romeo, store=store)
        async with online(b):
            again = await b.read_stanza()
            assert (again["body"], again["from"]) == ("two", juliet)
            await b.nothing_more()
            assert store.inbox() == []

    asyncio.run(scenario())


def test_without_stream_management_a_ping_empties_the_outbox() -> None:
    require_prosody()

    async def scenario() -> None:
        plain = 'modules_disabled = { "s2s"; "s2s_auth_certs"; "posix"; "smacks"; "mam"; "carbons" }'
        juliet, romeo = f"juliet@{HOSTS[0]}", f"romeo@{HOSTS[1]}"
        async with PrivateProsody(HOSTS, {juliet: PASSWORD, romeo: PASSWORD}, options=plain) as server:
            a, b = Bot(server, juliet), Bot(server, romeo)
            async with online(a, b):
                assert not a.plugin["xep_0198"].enabled_out
                await a.say(romeo, "hello")
                assert await b.read() == "hello"
                await until(lambda: a.store.outbox() == [])
                await b.cut()
                await a.say(romeo, "offline")
                await b.come_back("omemo_caught_up")
                assert await b.read() == "offline"
                await b.nothing_more()

    asyncio.run(scenario())


def test_a_sealed_message_cannot_be_answered_in_plain_by_mistake(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        a, b = Bot(prosody, juliet), Bot(prosody, romeo)
        async with online(a, b):
            await a.say(romeo, "hello")
            stanza = await b.read_stanza()
            with pytest.raises(UsageError):
                stanza.reply("in plain").send()
            await b.omemo.send_sealed(stanza.reply("sealed"))
            assert await a.read() == "sealed"
            sealed, report = await a.omemo.encrypt_message(a.make_message(romeo, "stanza out", mtype="chat"))
            assert sealed.xml.find("{urn:xmpp:omemo:2}encrypted") is not None
            assert sealed["body"] == ""
            assert report.report[0].sealed
            sealed.send()
            assert await b.read() == "stanza out"

    asyncio.run(scenario())


def test_sealed_requests_answers_and_presences(prosody: PrivateProsody, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        a, b = Bot(prosody, juliet), Bot(prosody, romeo)
        presences: asyncio.Queue[Any] = asyncio.Queue()
        b.add_event_handler("omemo_presence", presences.put_nowait)

        async def answer(request: Any) -> None:
            assert request["from"] == a.boundjid
            assert request.delivery.kind == Kind.OPENED.value
            assert not any("bound to neither" in note for note in request.delivery.notes)
            assert request.xml.find("{jabber:iq:version}query") is not None
            reply = request.reply()
            reply.enable("software_version")
            reply["software_version"]["name"] = "only for Juliet"
            await b.omemo.send_sealed_reply(reply)

        for bot in (a, b):
            bot.register_plugin("xep_0092")
        async with online(a, b):
            await a.say(romeo, "hello")
            await b.read()
            request = a.make_iq_get(ito=b.boundjid)
            request.enable("software_version")
            from slixmpp.exceptions import IqError

            with pytest.raises(IqError) as refused:
                await a.omemo.send_sealed_iq(request)
            assert refused.value.condition == "service-unavailable"
            b.add_event_handler("omemo_iq", answer)
            request = a.make_iq_get(ito=b.boundjid)
            request.enable("software_version")
            result = await a.omemo.send_sealed_iq(request)
            assert result["software_version"]["name"] == "only for Juliet"

            presence = a.make_presence(pto=b.boundjid, pshow="away", pstatus="at the ball")
            sealed, _ = await a.omemo.encrypt_presence(presence)
            assert "ball" not in str(sealed)
            sealed.send()
            opened = await asyncio.wait_for(presences.get(), 10)
            assert opened["status"] == "at the ball"
            assert a.errors == b.errors == []

    asyncio.run(scenario())
    assert "RECV" in caplog.text
    assert "ball" not in caplog.text
    assert "only for Juliet" not in caplog.text
