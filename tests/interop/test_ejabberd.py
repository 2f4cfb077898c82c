"""Conversations through a real ejabberd: a second server, different on purpose (its own PEP, its own refusals)."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET

import pytest

from support.ejabberd import PrivateEjabberd, ejabberd, new_account
from support.prosody import HOSTS
from support.xmpp import Bot, online, until
from tillie.model import Address, Done, Fetch
from tillie.networks.xmpp.network import OWNER, XmppNetwork
from tillie.store import MemoryStore

__all__ = ["ejabberd"]

pytestmark = pytest.mark.heavy

DATA = "{jabber:x:data}"


def couple(server: PrivateEjabberd) -> tuple[str, str]:
    return new_account(server, "juliet", HOSTS[0]), new_account(server, "romeo", HOSTS[1])


async def configuration(network: XmppNetwork, node: str) -> dict[str, str]:
    """What the server says of our node, as its owner sees it (XEP-0060 section 8.2)."""
    payload = ET.Element(f"{{{OWNER}}}pubsub")
    ET.SubElement(payload, f"{{{OWNER}}}configure", {"node": node})
    answer = await network.ask("get", None, payload)
    fields = answer.iter(f"{DATA}field")
    return {field.get("var", ""): field.findtext(f"{DATA}value", "") for field in fields}


def test_two_accounts_on_two_hosts_talk_and_the_server_reads_nothing(ejabberd: PrivateEjabberd) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(ejabberd)
        a, b = Bot(ejabberd, juliet), Bot(ejabberd, romeo)
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
    seen = [file.read_bytes() for file in ejabberd.folder.rglob("*") if file.is_file()]
    assert any(b"urn:xmpp:omemo:2" in data for data in seen)
    assert not any(b"herefore" in data for data in seen)


def test_nodes_are_open_and_keep_every_device(ejabberd: PrivateEjabberd) -> None:
    """ejabberd refuses pubsub#max_items among the publish-options, so the nodes are configured afterwards."""

    async def scenario() -> None:
        juliet, _ = couple(ejabberd)
        phone, laptop = Bot(ejabberd, juliet), Bot(ejabberd, juliet)
        async with online(phone, laptop):
            network, version = phone.omemo.network, phone.omemo.scheme.version
            devices = await configuration(network, version.devices_node)
            bundles = await configuration(network, version.bundles_node)
            assert devices["pubsub#access_model"] == bundles["pubsub#access_model"] == "open"
            assert bundles["pubsub#max_items"] == "max" or int(bundles["pubsub#max_items"]) >= 100
            for bot in (phone, laptop):
                own = bot.store.run(lambda state, bot=bot: Done(bot.omemo.scheme.own_device(state))).value
                found = await network.fetch(Fetch(Address(juliet), version.bundles_node, str(own.id)))
                assert found.payload is not None

    asyncio.run(scenario())


def test_offline_messages(ejabberd: PrivateEjabberd) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(ejabberd)
        store = MemoryStore(Address(romeo))
        a, b = Bot(ejabberd, juliet), Bot(ejabberd, romeo, store=store)
        async with online(a, b):
            await a.say(romeo, "one")
            assert await b.read() == "one"
        a, b = Bot(ejabberd, juliet, store=a.store), Bot(ejabberd, romeo, store=store)
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


def test_carbons_reach_the_other_device(ejabberd: PrivateEjabberd) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(ejabberd)
        phone, laptop, b = Bot(ejabberd, juliet), Bot(ejabberd, juliet), Bot(ejabberd, romeo)
        async with online(phone, b, laptop):
            await phone.settled()
            await phone.say(romeo, "to you")
            assert await b.read() == "to you"
            copy = await laptop.read_stanza()
            assert (copy["body"], copy.delivery.via) == ("to you", "carbon")
            await b.say(juliet, "to both")
            assert [await phone.read(), await laptop.read()] == ["to both", "to both"]

    asyncio.run(scenario())


def test_the_archive_is_caught_up_with(ejabberd: PrivateEjabberd) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(ejabberd)
        store = MemoryStore(Address(romeo))
        a, b = Bot(ejabberd, juliet), Bot(ejabberd, romeo, store=store)
        # Another device of Romeo's takes the messages off the server, so that nothing is kept as offline messages.
        other = Bot(ejabberd, romeo)
        async with online(a, b):
            await a.say(romeo, "live")
            assert await b.read() == "live"
        a = Bot(ejabberd, juliet, store=a.store)
        async with online(a, other):
            await a.say(romeo, "archived")
            await a.settled()
            await other.settled()
        b = Bot(ejabberd, romeo, store=store)
        async with online(b):
            stanza = await b.read_stanza()
            assert stanza["body"] == "archived"
            await b.nothing_more()

    asyncio.run(scenario())


def test_a_cut_connection_is_resumed_and_nothing_is_lost(ejabberd: PrivateEjabberd) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(ejabberd)
        a, b = Bot(ejabberd, juliet), Bot(ejabberd, romeo)
        async with online(a, b):
            await a.say(romeo, "before")
            assert await b.read() == "before"
            await b.say(juliet, "before")
            assert await a.read() == "before"
            await b.cut()
            await a.say(romeo, "meanwhile")
            await b.say(juliet, "from nowhere")
            await a.settled()
            await b.come_back()
            assert await b.read() == "meanwhile"
            assert await a.read() == "from nowhere"
            await b.nothing_more()
            assert b.events.count("session_start") == 1

    asyncio.run(scenario())
