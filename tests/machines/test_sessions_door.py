"""The parts of the way into and out of sessions that need no server: what is read, what is left of an error, limits."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import slixmpp
from slixmpp import JID

from tillie.model import Address, Stanza
from tillie.networks.xmpp import door
from tillie.networks.xmpp.incoming import Reader
from tillie.networks.xmpp.opened import InSession, SessionIq, build_in_session
from tillie.networks.xmpp.xep_0116 import is_offer
from tillie.pipeline import Delivery
from tillie.schemes.esession import ESession

ALICE, BOB = Address("alice@capulet.test"), "bob@montague.test/balcony"
HERE = f"{ALICE}/here"
CONTENT = "<c xmlns='http://www.xmpp.org/extensions/xep-0200.html#ns'/>"
ERROR = "<error type='cancel'><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
READER = Reader(ALICE, dict.fromkeys(ESession.tags, "esession"), "esession")


def stanza(kind: str, inside: str = "", **attributes: str) -> ET.Element:
    given = {"from": BOB, "to": HERE, "id": "1"} | attributes
    written = " ".join(f"{name}='{value}'" for name, value in given.items())
    return ET.fromstring(f"<{kind} xmlns='jabber:client' {written}>{inside}</{kind}>")


def with_client(scenario: Callable[[Any], None]) -> None:
    async def run() -> None:
        client = slixmpp.ClientXMPP(HERE, "x")
        client.boundjid = JID(HERE)
        scenario(client)

    asyncio.run(run())


# -- errors that come -----------------------------------------------------------------------------------------------


def test_an_error_names_what_it_is_about_by_what_it_echoes_or_by_its_id() -> None:
    echoed = READER.bounced(stanza("message", CONTENT + ERROR, type="error"))
    assert echoed is not None
    assert echoed.arrived.element.startswith(b"<c xmlns='http://www.xmpp.org/extensions/xep-0200.html#ns'")
    alone = READER.bounced(stanza("message", ERROR, type="error"))
    assert alone is not None
    assert alone.arrived.element.startswith(b"<error xmlns='jabber:client'")
    for found in (echoed, alone):
        around = found.arrived.stanza
        assert (around.kind, around.type, around.id, around.sender) == ("message", "error", "1", BOB)
        assert any(b"gone" in sibling for sibling in around.siblings)


@pytest.mark.parametrize(
    "element",
    [
        stanza("message", CONTENT, type="chat"),
        stanza("message", type="error"),
        stanza("message", ERROR * 2, type="error"),
        stanza("message", ERROR, type="error", **{"from": "@@"}),
        stanza("iq", ERROR, type="error"),  # any request may fail, and that ends no session
        stanza("presence", ERROR, type="error"),
    ],
)
def test_other_stanzas_are_no_errors_of_sessions(element: ET.Element) -> None:
    assert READER.bounced(element) is None


def test_without_sessions_no_error_is_looked_at() -> None:
    assert Reader(ALICE, {}).bounced(stanza("message", ERROR, type="error")) is None


FEATURE = (
    "<feature xmlns='http://jabber.org/protocol/feature-neg'><x xmlns='jabber:x:data'><field var='%s'/></x></feature>"
)


@pytest.mark.parametrize(
    ("inside", "ours"),
    [
        (FEATURE % "modp", True),
        (FEATURE % "nonce", True),
        ("<init xmlns='http://www.xmpp.org/extensions/xep-0116.html#ns-init'/>", True),
        (FEATURE % "language", False),
        ("<feature xmlns='http://jabber.org/protocol/feature-neg'/>", False),
        ("<x xmlns='jabber:x:data'><field var='modp'/></x>", False),
    ],
)
def test_which_negotiations_are_for_encrypted_sessions(inside: str, ours: bool) -> None:
    with_client(lambda client: check(is_offer(slixmpp.Message(client, stanza("message", inside), recv=True)) is ours))


def check(holds: bool) -> None:
    assert holds


# -- errors that go -------------------------------------------------------------------------------------------------


def test_of_an_error_only_the_condition_leaves() -> None:
    def scenario(client: Any) -> None:
        texts = (
            "<query xmlns='urn:example'>the secret</query>"
            "<error type='modify' code='406'><not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
            "<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>the secret</text><why xmlns='urn:example'>secret</why>"
            "</error>"
        )
        bare = door._bare_error(slixmpp.Iq(client, stanza("iq", texts, type="error"), recv=True))
        assert b"secret" not in ET.tostring(bare.xml)
        assert (bare["error"]["condition"], bare["error"]["type"]) == ("not-acceptable", "modify")

    with_client(scenario)


# -- what is handed on ----------------------------------------------------------------------------------------------


def delivery(kind: str, content: str = "<query xmlns='jabber:iq:version'/>") -> Delivery:
    return Delivery(
        "opened", "esession", "bob@montague.test", HERE, 1, b"R" * 17, "", "trusted", 1.0, content, (), "", kind, "get",
        "1", "live",
    )  # fmt: skip


def test_an_answer_belongs_to_the_session_of_the_question_and_nothing_of_it_is_logged() -> None:
    def scenario(client: Any) -> None:
        thread = b"<thread xmlns='jabber:client'>t1</thread>"
        plain = b"<body xmlns='jabber:client'>[This is part of an encrypted session]</body>"
        around = Stanza("iq", Address(BOB), Address(HERE), "get", "1", siblings=(thread, plain))
        iq = build_in_session(client, delivery("iq"), around, row=7)
        assert isinstance(iq, SessionIq)
        assert (iq["from"], iq["id"], iq.session, iq.row) == (BOB, "1", "t1", 7)
        assert [child.tag for child in iq.xml] == ["{jabber:iq:version}query"]
        reply = iq.reply()
        assert isinstance(reply, InSession)
        assert (reply["type"], reply["to"], reply.session) == ("result", BOB, "t1")
        assert str(iq) == repr(iq) == "<SessionIq>"

    with_client(scenario)


@pytest.mark.parametrize("kept", [door.MAX_ASKED, door.MAX_ASKED + 1])
def test_of_questions_without_an_answer_the_newest_are_remembered(kept: int) -> None:
    asked: OrderedDict[tuple[str, str], str] = OrderedDict()
    for number in range(kept):
        door._remember(asked, (BOB, str(number)), "")
    assert len(asked) == door.MAX_ASKED
    assert ((BOB, "0") in asked) is (kept == door.MAX_ASKED)
