"""XEP-0420 and XEP-0380 each alone, in any slixmpp program, with any scheme."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest
import slixmpp
from slixmpp import JID

from tillie.envelope import codec
from tillie.errors import Malformed, Refused, UsageError

JULIET, ROMEO = "juliet@capulet.test", "romeo@montague.test"


def client(jid: str, *plugins: str) -> Any:
    made: Any = slixmpp.ClientXMPP(f"{jid}/here", "x")
    made.boundjid = JID(f"{jid}/here")
    for name in plugins:
        made.register_plugin(name, module=f"tillie.networks.xmpp.{name}")
    return made


def with_two(scenario: Callable[[Any, Any], None]) -> None:
    async def run() -> None:
        scenario(client(JULIET, "xep_0420"), client(ROMEO, "xep_0420"))

    asyncio.run(run())


def over_the_wire(stanza: Any, receiver: Any) -> Any:
    """The stanza as the other side gets it, with its sender."""
    copy = ET.fromstring(str(stanza).replace("<message", "<message xmlns='jabber:client'", 1).replace(
        "<iq", "<iq xmlns='jabber:client'", 1).replace("<presence", "<presence xmlns='jabber:client'", 1))  # fmt: skip
    copy.set("from", f"{JULIET}/here")
    return type(stanza)(receiver, copy, recv=True)


def test_a_message_keeps_outside_what_servers_must_read() -> None:
    def scenario(juliet: Any, romeo: Any) -> None:
        message = juliet.make_message(ROMEO, "soft!", mtype="chat")
        message.xml.append(ET.fromstring("<store xmlns='urn:xmpp:hints'/>"))
        message.xml.append(ET.fromstring("<request xmlns='urn:xmpp:receipts'/>"))
        plaintext = juliet.plugin["xep_0420"].pack(message)
        assert [child.tag for child in message.xml] == ["{urn:xmpp:hints}store"]
        assert message["body"] == ""
        inside = codec.decode(plaintext).envelope
        assert inside.sender == JULIET
        assert b"soft!" in inside.content.data
        assert b"receipts" in inside.content.data

        arrived = over_the_wire(message, romeo)
        arrived.xml.append(ET.fromstring("<body xmlns='jabber:client'>the server's word</body>"))
        verified = romeo.plugin["xep_0420"].unpack(arrived, plaintext)
        assert arrived["body"] == "soft!"
        assert [note for note in verified.notes if "body" in note]
        assert arrived.xml.find("{urn:xmpp:receipts}request") is not None

    with_two(scenario)


def test_an_iq_is_bound_to_type_and_id() -> None:
    def scenario(juliet: Any, romeo: Any) -> None:
        request = juliet.make_iq_get("jabber:iq:version", ito=f"{ROMEO}/here")
        plaintext = juliet.plugin["xep_0420"].pack(request)
        arrived = over_the_wire(request, romeo)
        assert romeo.plugin["xep_0420"].unpack(arrived, plaintext).notes == ()
        assert arrived.xml[0].tag == "{jabber:iq:version}query"
        for name, value in (("id", "another"), ("type", "set")):
            other = over_the_wire(request, romeo)
            other.xml.set(name, value)
            with pytest.raises(Refused):
                romeo.plugin["xep_0420"].unpack(other, plaintext)

    with_two(scenario)


def test_a_presence() -> None:
    def scenario(juliet: Any, romeo: Any) -> None:
        presence = juliet.make_presence(pto=ROMEO, pstatus="at the ball", ppriority=5)
        plaintext = juliet.plugin["xep_0420"].pack(presence)
        assert [child.tag for child in presence.xml] == ["{jabber:client}priority"]
        arrived = over_the_wire(presence, romeo)
        romeo.plugin["xep_0420"].unpack(arrived, plaintext)
        assert (arrived["status"], arrived["priority"]) == ("at the ball", 5)

    with_two(scenario)


def test_refused_envelopes_leave_the_stanza_as_it_was() -> None:
    def scenario(juliet: Any, romeo: Any) -> None:
        message = juliet.make_message(ROMEO, "soft!", mtype="chat")
        plaintext = juliet.plugin["xep_0420"].pack(message)
        forged = over_the_wire(message, romeo)
        forged.xml.set("from", "tybalt@capulet.test")
        forged.xml.append(ET.fromstring("<store xmlns='urn:xmpp:hints'/>"))
        before = ET.tostring(forged.xml)
        for bad, error in (
            (plaintext, Refused),
            (b"", Malformed),
            (b"<envelope/>", Malformed),
            (plaintext[:-1], Malformed),
        ):
            with pytest.raises(error):
                romeo.plugin["xep_0420"].unpack(forged, bad)
            assert ET.tostring(forged.xml) == before
        with pytest.raises(UsageError):
            juliet.plugin["xep_0420"].pack(juliet.make_message("", "to nobody"))

    with_two(scenario)


def test_explicit_message_encryption_alone() -> None:
    async def scenario() -> None:
        juliet = client(JULIET, "xep_0380")
        eme = juliet.plugin["xep_0380"]
        message = juliet.make_message(ROMEO, "fallback")
        assert not eme.has_eme(message)
        assert eme.name_of(message) == ""
        eme.add_eme(message, "urn:xmpp:omemo:2")
        assert eme.name_of(message) == "OMEMO"
        message["eme"]["name"] = "Trust me"
        assert eme.name_of(message) == "OMEMO"
        eme.add_eme(message, "urn:example:scheme")
        message["eme"]["name"] = "\x1b[31mRed\n"
        assert "\x1b" not in eme.name_of(message)
        assert "\n" not in eme.name_of(message)
        seen: list[Any] = []
        juliet.add_event_handler("message_encryption", seen.append)
        juliet.recv_stanza(message)
        assert seen == [message]

    asyncio.run(scenario())
