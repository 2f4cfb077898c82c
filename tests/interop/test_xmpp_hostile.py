"""What others can send through a real server: forged copies, results, notifications, plain text beside sealed."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from typing import Any

import pytest
import slixmpp
from slixmpp.exceptions import IqError

from support.prosody import HOSTS, PASSWORD, new_account, prosody
from support.xmpp import Bot, online
from tillie.demo.prosody import PrivateProsody
from tillie.model import Kind

__all__ = ["prosody"]

DEVICES = "urn:xmpp:omemo:2:devices"


class Mallory(slixmpp.ClientXMPP):
    """A client that sends what she likes."""

    def __init__(self, server: PrivateProsody, jid: str) -> None:
        super().__init__(jid, PASSWORD, ssl_context=server.ssl_context())
        self.enable_direct_tls = False
        self.register_plugin("xep_0199")
        self.place = ("127.0.0.1", server.port)

    async def __aenter__(self) -> Mallory:
        started = asyncio.ensure_future(self.wait_until("session_start", 10))
        self.connect(*self.place)
        await started
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect(1.0)
        self._run_out_filters.cancel()

    async def post(self, to: object, body: str, *, type_: str = "chat") -> None:
        self.send_raw(f"<message to='{to}' type='{type_}' id='evil'>{body}</message>")
        await self.plugin["xep_0199"].ping(slixmpp.JID(self.boundjid.host))


def wrapped(element: str, romeo: object, juliet: object, stanza: str) -> str:
    return (
        f"<{element}><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='{juliet}' to='{romeo}'"
        f" type='chat' id='x'>{stanza}</message></forwarded></{element.split()[0]}>"
    )


def test_forged_copies_and_results_are_ignored_and_burn_nothing(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = new_account(prosody, "juliet"), new_account(prosody, "romeo", HOSTS[1])
        a, b = Bot(prosody, juliet), Bot(prosody, romeo)
        asked: set[str] = b.omemo.archive.queries
        async with online(a, b), Mallory(prosody, new_account(prosody, "mallory")) as mallory:
            await a.say(romeo, "hello")
            assert await b.read() == "hello"
            sealed, _ = await a.omemo.encrypt_message(a.make_message(romeo, "truly from Juliet", mtype="chat"))
            element = ET.tostring(sealed.xml[0], encoding="unicode")
            for target in (b.boundjid, romeo):
                for direction in ("received", "sent"):
                    await mallory.post(
                        target, wrapped(f"{direction} xmlns='urn:xmpp:carbons:2'", romeo, a.boundjid, element)
                    )
                asked.add("guessed")
                await mallory.post(
                    target,
                    wrapped("result xmlns='urn:xmpp:mam:2' queryid='guessed' id='1'", romeo, a.boundjid, element),
                )
            await b.nothing_more()
            # Under her own name it is a message of a device that we know nothing of.
            await mallory.post(b.boundjid, element)
            await b.settled()
            (failed,) = b.failed
            assert failed["from"].bare == mallory.boundjid.bare
            assert failed.delivery.kind in (Kind.NO_SESSION.value, Kind.TAMPERED.value)
            b.failed.clear()
            sealed.send()
            stanza = await b.read_stanza()
            assert (stanza["body"], stanza["from"]) == ("truly from Juliet", a.boundjid)
            await b.nothing_more()

    asyncio.run(scenario())


def test_forged_notifications_are_ignored(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        romeo = new_account(prosody, "romeo", HOSTS[1])
        b, other = Bot(prosody, romeo), Bot(prosody, romeo)
        learned: list[Any] = []
        async with online(b, other), Mallory(prosody, new_account(prosody, "mallory")) as mallory:
            await b.settled()
            learn = b.omemo.engine.learn

            async def listening(fact: Any) -> None:
                learned.append(fact)
                await learn(fact)

            b.omemo.engine.learn = listening
            event = (
                f"<event xmlns='http://jabber.org/protocol/pubsub#event'><items node='{DEVICES}'><item id='current'>"
                "<devices xmlns='urn:xmpp:omemo:2'/></item></items></event>"
            )
            await mallory.post(b.boundjid, event, type_="headline")
            await mallory.post(romeo, event)
            other.send_raw(f"<message to='{b.boundjid}' type='headline'>{event}</message>")
            await other.settled()
            await b.settled()
            assert learned == []
            # The true one, from our own node: it makes us announce this device again.
            await other.omemo.network.publish(_empty_list())
            await b.settled()
            assert {fact.address for fact in learned} == {romeo}

    asyncio.run(scenario())


def _empty_list() -> Any:
    from tillie.model import Publication

    return Publication(DEVICES, "current", b"<devices xmlns='urn:xmpp:omemo:2'/>")


@pytest.mark.parametrize("plain", ["<body>sell everything</body>", "<subject>hello</subject><body>x</body>"])
def test_plain_text_beside_a_sealed_element_reaches_no_handler(prosody: PrivateProsody, plain: str) -> None:
    async def scenario() -> None:
        juliet, romeo = new_account(prosody, "juliet"), new_account(prosody, "romeo", HOSTS[1])
        a, b = Bot(prosody, juliet), Bot(prosody, romeo)
        read: list[str] = []
        b.add_event_handler("message", lambda message: read.append(message["body"]))
        async with online(a, b):
            await a.say(romeo, "hello")
            assert await b.read() == "hello"
            sealed, _ = await a.omemo.encrypt_message(a.make_message(romeo, "true", mtype="chat"))
            element = ET.tostring(sealed.xml[0], encoding="unicode")
            a.send_raw(f"<message to='{romeo}' type='chat' id='1'>{plain}{element}</message>")
            stanza = await b.read_stanza()
            assert (stanza["body"], stanza.xml.findtext("{jabber:client}subject")) == ("true", None)
            assert any("Dropped from the plain part" in note for note in stanza.delivery.notes)
            # Two sealed elements: nobody can say which one the sender meant.
            a.send_raw(f"<message to='{romeo}' type='chat' id='2'>{element}{element}{plain}</message>")
            await a.settled()
            await b.settled()
            assert b.notices[-1:] == ["a message can't be read: it has more than one sealed element"]
            assert [text for text in read if text] == []

    asyncio.run(scenario())


def test_an_error_with_our_own_sealed_message_in_it_is_not_opened(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = new_account(prosody, "juliet"), new_account(prosody, "romeo", HOSTS[1])
        a, b = Bot(prosody, juliet), Bot(prosody, romeo)
        async with online(a, b):
            await a.say(romeo, "hello")
            assert await b.read() == "hello"
            sealed, _ = await a.omemo.encrypt_message(a.make_message(romeo, "back to you", mtype="chat"))
            element = ET.tostring(sealed.xml[0], encoding="unicode")
            a.send_raw(f"<message to='{b.boundjid}' type='error' id='1'>{element}<error type='cancel'/></message>")
            await a.settled()
            await b.nothing_more()

    asyncio.run(scenario())


def test_every_sealed_request_that_is_not_served_gets_the_same_answer(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = new_account(prosody, "juliet"), new_account(prosody, "romeo", HOSTS[1])
        a, b = Bot(prosody, juliet), Bot(prosody, romeo)
        served: list[Any] = []
        async with online(a, b):
            await a.say(romeo, "hello")
            assert await b.read() == "hello"
            request = a.make_iq_get("jabber:iq:version", ito=b.boundjid)
            sealed, _ = await a.omemo.encrypt_iq(request)
            good = ET.tostring(sealed.xml[0], encoding="unicode")
            elsewhere = good.replace(' rid="', ' rid="1')
            for element in (
                good,
                good.replace("</", "A</", 1),
                elsewhere,
                "<encrypted xmlns='urn:xmpp:omemo:2'/>",
            ):
                again = a.make_iq_get(ito=b.boundjid)
                for child in ET.fromstring(f"<f>{element}</f>"):
                    again.xml.append(child)
                with pytest.raises(IqError) as refusal:
                    await again.send(timeout=10)
                error = refusal.value.iq["error"]
                assert (error["condition"], error["type"], error["text"]) == ("service-unavailable", "cancel", "")
                b.add_event_handler("omemo_iq", served.append)
            assert served == []
            assert b.errors == []

    asyncio.run(scenario())
