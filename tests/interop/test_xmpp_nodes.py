"""Publishing and fetching on a real Prosody, and on servers that know less (N7)."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest

from support.prosody import HOSTS, new_account, prosody
from support.xmpp import Bot, online
from tillie.demo.prosody import PrivateProsody
from tillie.errors import Rejected, Unreachable
from tillie.model import Address, Fetch, Fetched, Publication
from tillie.networks.xmpp.elements import form
from tillie.networks.xmpp.network import NODE_CONFIG, OWNER, PUBSUB, XmppNetwork
from tillie.schemes.openpgp import backup

__all__ = ["prosody"]

BUNDLES, DEVICES = "urn:xmpp:omemo:2:bundles", "urn:xmpp:omemo:2:devices"
OPTIONS = (("pubsub#access_model", "open"), ("pubsub#max_items", "max"))
ITEM = Publication(BUNDLES, "7", b"<bundle xmlns='urn:xmpp:omemo:2'/>", OPTIONS)


async def create(bot: Bot, node: str, *config: tuple[str, str]) -> None:
    payload = ET.Element(f"{{{PUBSUB}}}pubsub")
    ET.SubElement(payload, f"{{{PUBSUB}}}create", {"node": node})
    ET.SubElement(payload, f"{{{PUBSUB}}}configure").append(form(NODE_CONFIG, config))
    await bot.omemo.network.ask("set", None, payload)


async def config_of(bot: Bot, node: str) -> dict[str, str]:
    payload = ET.Element(f"{{{OWNER}}}pubsub")
    ET.SubElement(payload, f"{{{OWNER}}}configure", {"node": node})
    answer = await bot.omemo.network.ask("get", None, payload)
    return {field.get("var"): field.findtext("{jabber:x:data}value") for field in answer.iter("{jabber:x:data}field")}


def test_nodes_that_exist_with_other_options_are_reconfigured(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = new_account(prosody, "juliet"), new_account(prosody, "romeo", HOSTS[1])
        a, b = Bot(prosody, juliet), Bot(prosody, romeo)
        begin = b.omemo.engine.start

        async def after_somebody_else(**options: bool) -> Any:
            await create(b, DEVICES, ("pubsub#access_model", "whitelist"))
            await create(b, BUNDLES, ("pubsub#access_model", "presence"), ("pubsub#max_items", "1"))
            return await begin(**options)

        b.omemo.engine.start = after_somebody_else
        async with online(b, a):
            for node in (DEVICES, BUNDLES):
                assert (await config_of(b, node))["pubsub#access_model"] == "open"
            assert (await config_of(b, BUNDLES))["pubsub#max_items"] == "max"
            report = await a.say(romeo, "hello")
            assert report.report[0].sealed
            assert await b.read() == "hello"

    asyncio.run(scenario())


def test_fetching(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = new_account(prosody, "juliet"), new_account(prosody, "romeo", HOSTS[1])
        a, b = Bot(prosody, juliet), Bot(prosody, romeo)
        async with online(a, b):
            await b.omemo.network.publish(ITEM)
            fetch = a.omemo.network.fetch
            found: Fetched = await fetch(Fetch(Address(romeo), BUNDLES, "7"))
            assert found.payload is not None
            assert ET.fromstring(found.payload).tag == "{urn:xmpp:omemo:2}bundle"
            assert (await fetch(Fetch(Address(romeo), BUNDLES, "8"))).error == "item-not-found"
            newest: Fetched = await fetch(Fetch(Address(romeo), DEVICES))
            assert (newest.item, newest.error) == ("current", "")
            with pytest.raises(Rejected):
                await fetch(Fetch(Address(f"nobody@{HOSTS[1]}"), DEVICES))

    asyncio.run(scenario())


async def outcome(question: asyncio.Future[Fetched]) -> str:
    try:
        return (await question).error
    except Rejected as refusal:
        return refusal.condition


def test_an_answer_from_somebody_else_is_no_answer(prosody: PrivateProsody) -> None:
    # slixmpp takes our own server's word, and that of the contact's server, for the contact's.
    async def scenario() -> None:
        juliet, romeo = new_account(prosody, "juliet"), new_account(prosody, "romeo", HOSTS[1])
        a = Bot(prosody, juliet)
        async with online(a):
            for liar in (juliet, HOSTS[0], HOSTS[1], f"{romeo}/x", "mallory@evil.test"):
                sent: list[Any] = []
                a.send, send = sent.append, a.send
                a.omemo.network._timeout = 0.3
                question = asyncio.ensure_future(a.omemo.network.fetch(Fetch(Address(romeo), DEVICES)))
                await asyncio.sleep(0)
                a.send = send
                answer = a.make_iq_result(id=sent[0]["id"], ifrom=liar, ito=a.boundjid)
                answer.append(ET.fromstring(f"<pubsub xmlns='{PUBSUB}'><items node='{DEVICES}'/></pubsub>"))
                a.recv_stanza(answer)
                assert await outcome(question) in ("remote-server-timeout", "not-authorized")

    asyncio.run(scenario())


class Limited(XmppNetwork):
    """A server that refuses publish-options with `refusal`, and `pubsub#max_items` above `most`."""

    def __init__(self, refusal: Rejected, *, most: str = "max", refuses: int = 10**6) -> None:
        self.refusal, self.most, self.refuses = refusal, most, refuses
        self.asked: list[str] = []

    async def ask(self, type_: str, to: Address | None, payload: ET.Element) -> ET.Element:
        if payload.find(f"{{{OWNER}}}configure") is not None:
            values = [v.text for v in payload.iter("{jabber:x:data}value")]
            self.asked.append(f"configure {values[-1]}")
            if values[-1] != self.most:
                raise Rejected("x", condition="not-acceptable")
        elif payload.find(f"{{{PUBSUB}}}publish-options") is not None:
            self.asked.append("publish with options")
            if self.refuses:
                self.refuses -= 1
                raise self.refusal
        elif payload.find(f"{{{PUBSUB}}}create") is not None:
            self.asked.append("create")
            raise Rejected("conflict", condition="conflict")
        else:
            self.asked.append("publish")
        return ET.Element("iq")


def test_a_server_that_does_not_know_the_options() -> None:
    ejabberd = Limited(Rejected("bad-request", condition="bad-request"), most="100")
    asyncio.run(ejabberd.publish(ITEM))
    sizes = ["max", "10000", "1000", "250", "100"]
    assert ejabberd.asked == ["publish with options", "publish", *(f"configure {size}" for size in sizes)]


def test_what_nobody_else_may_see_is_not_published_before_its_node_is_closed() -> None:
    secret = replace(ITEM, options=backup.OPTIONS)
    server = Limited(Rejected("bad-request", condition="bad-request"), most="never")
    asyncio.run(server.publish(secret))
    assert server.asked == ["publish with options", "create", "configure never", "publish"]
    stubborn = Limited(Rejected("bad-request", condition="bad-request"), most="")
    with pytest.raises(Rejected):
        asyncio.run(stubborn.publish(secret))
    assert "publish" not in stubborn.asked


def test_a_precondition_that_does_not_hold() -> None:
    server = Limited(Rejected("precondition-not-met", condition="conflict"), refuses=1)
    asyncio.run(server.publish(ITEM))
    assert server.asked == ["publish with options", "configure max", "publish with options"]


def test_other_refusals_are_told() -> None:
    server = Limited(Rejected("forbidden", condition="forbidden"))
    with pytest.raises(Rejected):
        asyncio.run(server.publish(ITEM))
    assert server.asked == ["publish with options"]
    nothing_fits = Limited(Rejected("precondition-not-met", condition="conflict"), most="")
    with pytest.raises(Rejected):
        asyncio.run(nothing_fits.publish(ITEM))


def test_without_a_connection_a_question_fails_at_once_and_when_it_breaks_too(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        a = Bot(prosody, new_account(prosody, "juliet"))
        with pytest.raises(Unreachable):
            await a.omemo.network.fetch(Fetch(Address("romeo@montague.test"), DEVICES))
        async with online(a):
            send = a.send
            a.send = lambda *_, **__: None
            question = asyncio.ensure_future(a.omemo.network.fetch(Fetch(Address("romeo@montague.test"), DEVICES)))
            await asyncio.sleep(0)
            a.send = send
            await a.cut()
            with pytest.raises(Unreachable):
                await asyncio.wait_for(question, 1)

    asyncio.run(scenario())
