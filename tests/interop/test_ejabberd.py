"""Our nodes on a real ejabberd, whose PEP is different. Conversations through it are in test_xmpp_conversation."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET

import pytest

from support.ejabberd import PrivateEjabberd, ejabberd, new_account
from support.players import Player
from support.xmpp import Bot, online, until
from tillie.model import Address, Done, Fetch
from tillie.networks.xmpp.network import OWNER, XmppNetwork

__all__ = ["ejabberd"]

pytestmark = pytest.mark.heavy

DATA = "{jabber:x:data}"


async def configuration(network: XmppNetwork, node: str) -> dict[str, str]:
    """What the server says of our node, as its owner sees it (XEP-0060 section 8.2)."""
    payload = ET.Element(f"{{{OWNER}}}pubsub")
    ET.SubElement(payload, f"{{{OWNER}}}configure", {"node": node})
    answer = await network.ask("get", None, payload)
    fields = answer.iter(f"{DATA}field")
    return {field.get("var", ""): field.findtext(f"{DATA}value", "") for field in fields}


def test_nodes_are_open_and_keep_every_device(ejabberd: PrivateEjabberd) -> None:
    """ejabberd refuses pubsub#max_items among the publish-options, so the nodes are configured afterwards."""

    async def scenario() -> None:
        juliet = new_account(ejabberd, "juliet")
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


def test_a_session(ejabberd: PrivateEjabberd) -> None:
    async def scenario() -> None:
        juliet, romeo = (Player(ejabberd, new_account(ejabberd, name)) for name in ("juliet", "romeo"))  # type: ignore[arg-type]
        async with online(juliet, romeo):
            session = await juliet.sessions.start(romeo.boundjid.bare)
            for number in range(5):
                juliet.send_message(romeo.full, f"J{number}", mtype="chat")
                assert await romeo.ask(juliet.full, f"{number}") == f"{number}"
                assert await romeo.read() == f"J{number}"
            await romeo.sessions.rekey(session.thread)
            assert await juliet.ask(romeo.full, "still there?") == "still there?"
            assert (await juliet.sessions.end(session.thread)).why == ""
            await until(lambda: [name for name, _ in romeo.told] == ["started", "ended"])
            assert juliet.failed == romeo.failed == []

    asyncio.run(scenario())
