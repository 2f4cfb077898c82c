"""What is believed of what a server hands over, and under whose name (B27, B28, B29, B34); what counts as handled."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from typing import Any

import pytest
import slixmpp
from hypothesis import given
from hypothesis import strategies as st
from slixmpp.plugins.xep_0198 import stanza as sm

from tillie.model import Address, Fetched
from tillie.networks.xmpp.acknowledgements import Acknowledged, Handled
from tillie.networks.xmpp.incoming import Incoming, Reader

OWN = Address("juliet@capulet.test")
DEVICES = "urn:xmpp:omemo:2:devices"
READER = Reader(OWN, {"{urn:xmpp:omemo:2}encrypted": "omemo"})
SEALED = "<encrypted xmlns='urn:xmpp:omemo:2'><payload>x</payload></encrypted>"
DELAY = "<delay xmlns='urn:xmpp:delay' stamp='2026-11-01T12:00:00Z'%s/>"
NOON = 1_793_534_400.0


def element(text: str) -> ET.Element:
    text = text if text.startswith("<message xmlns") else text.replace("<message", "<message xmlns='jabber:client'", 1)
    return ET.fromstring(text)


def inner(
    attributes: str = "from='romeo@montague.test/garden' to='juliet@capulet.test' type='chat'", body: str = SEALED
) -> str:
    return f"<message xmlns='jabber:client' {attributes}>{body}</message>"


def carbon(inside: str, *, of: str = "received", sender: str = f"from='{OWN}'") -> str:
    return (
        f"<message {sender} to='{OWN}/balcony' type='chat'><{of} xmlns='urn:xmpp:carbons:2'>"
        f"<forwarded xmlns='urn:xmpp:forward:0'>{DELAY % ''}{inside}</forwarded></{of}></message>"
    )


def result(inside: str, *, query: str = "q1", sender: str = f"from='{OWN}'") -> str:
    return (
        f"<message {sender} to='{OWN}/balcony'><result xmlns='urn:xmpp:mam:2' queryid='{query}' id='a1'>"
        f"<forwarded xmlns='urn:xmpp:forward:0'>{DELAY % ''}{inside}</forwarded></result></message>"
    )


def sealed(text: str) -> Incoming | None:
    return READER.sealed(element(text), {"q1"})


# -- who may hand over what ---------------------------------------------------------------------------------------


def test_a_live_message() -> None:
    text = inner(
        f"from='Romeo@Montague.test/garden' to='{OWN}/balcony' type='chat' id='m1'", SEALED + "<body>no</body>"
    )
    found = sealed(text)
    assert found is not None
    around = found.arrived.stanza
    assert (around.kind, around.sender, around.to) == ("message", "romeo@montague.test/garden", f"{OWN}/balcony")
    assert (around.type, around.id, around.stamp, around.via) == ("chat", "m1", None, "live")
    assert [ET.fromstring(sibling).tag for sibling in around.siblings] == ["{jabber:client}body"]
    assert ET.fromstring(found.arrived.element).tag == "{urn:xmpp:omemo:2}encrypted"


def test_the_origin_id_is_the_id() -> None:
    found = sealed(inner("from='a@b.test' id='1'", SEALED + "<origin-id xmlns='urn:xmpp:sid:0' id='2'/>"))
    assert found is not None
    assert found.arrived.stanza.id == "2"


@pytest.mark.parametrize(
    ("by", "via", "stamp"),
    [("capulet.test", "offline", NOON), (OWN, "offline", NOON), ("montague.test", "live", None), ("", "live", None)],
)
def test_only_our_own_server_can_delay(by: str, via: str, stamp: float | None) -> None:
    mark = f" from='{by}'" if by else ""
    found = sealed(inner(body=SEALED + DELAY % mark))
    assert found is not None
    assert (found.arrived.stanza.via, found.arrived.stanza.stamp) == (via, stamp)


def test_the_legitimate_carbons_pass() -> None:
    received = sealed(carbon(inner()))
    assert received is not None
    assert received.arrived.stanza.sender == "romeo@montague.test/garden"
    assert (received.arrived.stanza.via, received.arrived.stanza.stamp) == ("carbon", NOON)
    sent = sealed(carbon(inner(f"from='{OWN}/phone' to='romeo@montague.test'"), of="sent"))
    assert sent is not None
    assert sent.arrived.stanza.sender == f"{OWN}/phone"
    no_from = sealed(carbon(inner(), sender=""))
    assert no_from is not None
    assert no_from.arrived.stanza.via == "carbon"


FORGED_CARBONS = {
    "from a stranger": carbon(inner(), sender="from='mallory@evil.test/x'"),
    "from a stranger's bare address": carbon(inner(), sender="from='mallory@evil.test'"),
    "from our server": carbon(inner(), sender="from='capulet.test'"),
    "from another client of ours": carbon(inner(), sender=f"from='{OWN}/phone'"),
    "from a look-alike": carbon(inner(), sender="from='juliet@capulet.test.evil.test'"),
    "in another letter case of somebody else": carbon(inner(), sender="from='jul\u0131et@capulet.test'"),
    "sent, but not by us": carbon(inner(), of="sent"),
    "received, but not by us": carbon(inner("from='romeo@montague.test' to='mallory@evil.test'")),
    "of group chat": carbon(inner("from='room@muc.test/nick' type='groupchat'")),
    "of an error": carbon(inner("from='romeo@montague.test' type='error'")),
    "in a carbon": carbon(inner(body=carbon(inner()))),
    "in an archive result": carbon(inner(body=result(inner()))),
    "with two messages": carbon(inner() + inner()),
    "with another namespace inside": carbon(inner().replace("jabber:client", "jabber:server")),
    "with a broken address": carbon(inner("from='@@' to='juliet@capulet.test'")),
}


@pytest.mark.parametrize("name", FORGED_CARBONS)
def test_other_carbons_are_ignored(name: str) -> None:
    assert sealed(FORGED_CARBONS[name]) is None


def test_what_wraps_a_sealed_message_of_a_stranger_does_not_change_its_sender() -> None:
    text = carbon(inner(), sender="from='mallory@evil.test/x'").replace("<received", SEALED + "<received", 1)
    found = sealed(text)
    assert found is not None
    assert found.arrived.stanza.sender == "mallory@evil.test/x"


def test_the_legitimate_archive_result_passes() -> None:
    found = sealed(result(inner()))
    assert found is not None
    assert (found.archive_id, found.arrived.stanza.via, found.arrived.stanza.stamp) == ("a1", "archive", NOON)
    assert sealed(result(inner(), sender="")) is not None


FORGED_RESULTS = {
    "from a stranger": result(inner(), sender="from='mallory@evil.test/x'"),
    "from another client of ours": result(inner(), sender=f"from='{OWN}/phone'"),
    "from our server": result(inner(), sender="from='capulet.test'"),
    "for a query that was not asked": result(inner(), query="q2"),
    "without a query": result(inner()).replace(" queryid='q1'", ""),
    "of group chat": result(inner("from='room@muc.test/nick' type='groupchat'")),
    "in a result": result(inner(body=result(inner()))),
    "with a carbon": result(inner(body=carbon(inner()))),
}


@pytest.mark.parametrize("name", FORGED_RESULTS)
def test_other_archive_results_are_ignored(name: str) -> None:
    assert sealed(FORGED_RESULTS[name]) is None


def test_our_archive_id_comes_from_our_server_only() -> None:
    mark = "<stanza-id xmlns='urn:xmpp:sid:0' id='%s' by='%s'/>"
    found = sealed(inner(body=SEALED + mark % ("forged", "romeo@montague.test") + mark % ("true", OWN)))
    assert found is not None
    assert found.archive_id == "true"


@pytest.mark.parametrize("type_", ["error", "groupchat"])
def test_nothing_is_opened_in_errors_and_group_chat(type_: str) -> None:
    assert sealed(inner(f"from='a@b.test' type='{type_}'")) is None


BOTH_SCHEMES = Reader(OWN, {"{urn:xmpp:omemo:2}encrypted": "omemo", "{urn:xmpp:openpgp:0}openpgp": "openpgp"})
OX, OX2 = (f"<openpgp xmlns='urn:xmpp:openpgp:0'>{text}</openpgp>" for text in ("QUJD", "REVG"))


@pytest.mark.parametrize("body", [SEALED + SEALED, SEALED + OX, OX + SEALED, OX + OX2 + SEALED])
def test_two_sealed_elements_are_ambiguous(body: str) -> None:
    found = BOTH_SCHEMES.sealed(element(inner(body=body)))
    assert found is not None
    assert found.ambiguous


def test_of_two_openpgp_elements_the_first_is_opened() -> None:
    found = BOTH_SCHEMES.sealed(element(inner(body=OX + OX2)))
    assert found is not None
    assert not found.ambiguous
    assert (found.arrived.scheme, b"QUJD" in found.arrived.element) == ("openpgp", True)
    [other] = found.arrived.stanza.siblings
    assert b"REVG" in other


def test_a_sealed_element_deeper_down_is_not_the_message_s() -> None:
    assert sealed(inner(body=f"<x xmlns='y'>{SEALED}</x>")) is None


# -- notifications (B29) ------------------------------------------------------------------------------------------


def event(
    payload: str, *, sender: str = "romeo@montague.test", node: str = DEVICES, type_: str = "headline"
) -> ET.Element:
    return element(
        f"<message from='{sender}' to='{OWN}/balcony' type='{type_}'>"
        f"<event xmlns='http://jabber.org/protocol/pubsub#event'><items node='{node}'>"
        f"{payload}</items></event></message>"
    )


LIST = "<item id='current'><devices xmlns='urn:xmpp:omemo:2'/></item>"


def notified(message: ET.Element) -> Fetched | None:
    return READER.notification(message, {DEVICES})


def test_a_notification_speaks_for_the_account_it_comes_from() -> None:
    found = notified(event(LIST))
    assert found is not None
    assert (found.address, found.node, found.item, found.pushed) == ("romeo@montague.test", DEVICES, "current", True)
    assert found.payload is not None
    assert notified(event("<retract id='current'/>")) == Fetched(
        Address("romeo@montague.test"), DEVICES, "current", None, "item-not-found", pushed=True
    )


def test_a_notification_without_payload_says_that_something_changed() -> None:
    fact = notified(event("<item id='current'/>"))
    assert fact is not None
    assert (fact.payload, fact.error, fact.pushed) == (None, "no-payload", True)


@pytest.mark.parametrize(
    "message",
    [
        event(LIST, sender="romeo@montague.test/garden"),
        event(LIST, sender=f"{OWN}/phone"),
        event(LIST, node="urn:xmpp:omemo:2:bundles"),
        event(LIST, node="urn:xmpp:bookmarks:1"),
        event(LIST, type_="error"),
        event(LIST, type_="groupchat"),
        event(LIST + LIST),
        event("<item id='current'><a xmlns='x'/><b xmlns='x'/></item>"),
        event(""),
    ],
)
def test_other_notifications_are_ignored(message: ET.Element) -> None:
    assert notified(message) is None


def test_a_private_event_of_somebody_else_says_nothing_about_us() -> None:
    found = notified(event(LIST, sender="mallory@evil.test"))
    assert found is not None
    assert found.address == "mallory@evil.test"


# -- anything at all ----------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        "{jabber:client}message", "{jabber:client}iq", "{urn:xmpp:carbons:2}sent", "{urn:xmpp:carbons:2}received",
        "{urn:xmpp:forward:0}forwarded", "{urn:xmpp:mam:2}result", "{urn:xmpp:omemo:2}encrypted",
        "{urn:xmpp:delay}delay",
        "{http://jabber.org/protocol/pubsub#event}event", "{http://jabber.org/protocol/pubsub#event}items",
        "{http://jabber.org/protocol/pubsub#event}item", "{urn:xmpp:sid:0}stanza-id", "plain",
    ]
)  # fmt: skip
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["from", "to", "type", "id", "by", "queryid", "stamp", "node"]),
    st.sampled_from(
        [OWN, "a@b.test", "@", "", "q1", "chat", "error", DEVICES, "2026-11-01T12:00:00Z", "\u0130@x/\u200f"]
    ),
)


@st.composite
def trees(draw: Any, depth: int = 3) -> ET.Element:
    node = ET.Element(draw(NAMES), draw(ATTRIBUTES))
    if depth:
        node.extend(draw(st.lists(trees(depth - 1), max_size=2)))
    return node


@given(trees())
def test_no_element_raises_and_no_stranger_speaks_for_another(tree: ET.Element) -> None:
    tree.tag = "{jabber:client}message"
    found = READER.sealed(tree, {"q1"})
    outer = tree.get("from")
    if found is not None and outer not in (None, "", OWN):
        assert found.arrived.stanza.via in ("live", "offline")
    push = READER.notification(tree, {DEVICES})
    if push is not None:
        assert push.address in (OWN, "a@b.test")
        assert push.address == (outer or OWN)


# -- handled means committed --------------------------------------------------------------------------------------


def client_with_sm() -> tuple[Any, Any, Handled, list[str]]:
    client: Any = slixmpp.ClientXMPP(OWN, "x")
    client.register_plugin("xep_0198")
    client.register_plugin("xep_0199")
    plugin = client.plugin["xep_0198"]
    handled = Handled(client)
    wire: list[str] = []
    client.send_raw = wire.append
    client.transport = object()
    return client, plugin, handled, wire


def enable(client: Any) -> None:
    client.recv_stanza(
        sm.Enabled(client, ET.fromstring("<enabled xmlns='urn:xmpp:sm:3' id='x' resume='true'/>"), recv=True)
    )


def arrive(client: Any) -> None:
    client.recv_stanza(client.make_message(mto=OWN, mfrom="a@b.test"))


def ask(client: Any) -> None:
    client.recv_stanza(sm.RequestAck(client, ET.fromstring("<r xmlns='urn:xmpp:sm:3'/>"), recv=True))


def test_the_counter_stops_before_what_is_held_and_goes_on_in_any_order() -> None:
    async def scenario() -> None:
        client, plugin, handled, _ = client_with_sm()
        enable(client)
        holds = []
        for number in range(1, 6):
            arrive(client)
            if number in (2, 4):
                holds.append(handled.hold())
        assert plugin.handled == 1
        handled.release(holds[1])
        assert plugin.handled == 1
        handled.release(holds[0])
        assert plugin.handled == 5

    asyncio.run(scenario())


def test_a_release_after_the_stream_has_ended_counts_for_nothing() -> None:
    # The server sends it again to the resumed stream, under a number that may be another stanza's.
    async def scenario() -> None:
        client, plugin, handled, _ = client_with_sm()
        enable(client)
        arrive(client)
        arrive(client)
        late = handled.hold()
        client.event("disconnected")
        assert plugin.handled == 1
        handled.release(late)
        assert plugin.handled == 1
        plugin.enabled_in = True
        arrive(client)
        again = handled.hold()
        handled.release(late)
        assert plugin.handled == 1
        handled.release(again)
        assert plugin.handled == 2

    asyncio.run(scenario())


def test_a_server_that_asked_too_early_is_answered_again() -> None:
    async def scenario() -> None:
        client, _, handled, wire = client_with_sm()
        enable(client)
        arrive(client)
        hold = handled.hold()
        ask(client)
        handled.release(hold)
        assert [ET.fromstring(ack).get("h") for ack in wire] == ["0", "1"]

    asyncio.run(scenario())


def test_without_stream_management_a_ping_tells_what_the_server_has() -> None:
    async def scenario() -> None:
        client, _, _, _ = client_with_sm()
        client.session_bind_event.set()
        told: list[tuple[str, ...]] = []
        acknowledged = Acknowledged(client, told.append)
        sent: list[Any] = []
        client.send = sent.append
        acknowledged.sent("m1")
        acknowledged.sent("m2")
        await asyncio.sleep(0)
        assert told == []
        (ping,) = sent
        assert ping["to"] == "capulet.test"
        client.recv_stanza(client.make_iq_result(id=ping["id"], ifrom="mallory@evil.test", ito=OWN))
        await asyncio.sleep(0)
        assert told == []
        acknowledged.sent("m3")
        client.recv_stanza(client.make_iq_result(id=ping["id"], ifrom="capulet.test", ito=OWN))
        await asyncio.sleep(0)
        assert told == [("m1", "m2")]
        client.recv_stanza(client.make_iq_error(id=sent[1]["id"], ifrom="capulet.test", ito=OWN))
        await asyncio.sleep(0)
        assert told == [("m1", "m2"), ("m3",)]

    asyncio.run(scenario())
