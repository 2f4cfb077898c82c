"""The SCE envelope through twomemo: what ours writes, another XML library must read; what other clients would write,
ours must check (XEP-0420, profile of XEP-0384)."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from support.our_device import START, OurDevice
from support.pep import PepServer
from support.talk import ALICE, BOB, introduce
from support.twomemo_peer import TwomemoPeer
from tillie.model import Address, Content, Kind, Opened, Stanza

SCE = "{urn:xmpp:sce:1}"
TEXT = "Grüße & 🧵"
BODY = "<body xmlns='jabber:client'>Grüße &amp; 🧵</body>".encode()


@pytest.fixture
def ends() -> tuple[OurDevice, TwomemoPeer]:
    server = PepServer()
    alice, bob = OurDevice(server, ALICE), TwomemoPeer(server, BOB)
    introduce(alice, bob)
    return alice, bob


def _hear(alice: OurDevice, bob: TwomemoPeer, envelope: bytes) -> Opened:
    around = Stanza("message", Address(BOB + "/shed"), Address(ALICE), "chat", "m1")
    return alice.hear(bob.encrypt(ALICE, envelope), around)


def _envelope(*affixes: str, content: str = BODY.decode()) -> bytes:
    """As another client might write it: other quotes, another order, a prefix for nothing."""
    return f'<envelope xmlns="urn:xmpp:sce:1">{"".join(affixes)}<content>{content}</content></envelope>'.encode()


RPAD = "<rpad>9&lt;some % padding&gt;</rpad>"
FROM = f'<from jid="{BOB}"/>'
TIME = '<time stamp="2026-05-28T20:26:40Z"/>'  # START


def test_ours_is_read_by_another_library(ends: tuple[OurDevice, TwomemoPeer]) -> None:
    alice, bob = ends
    plaintext = bob.decrypt(ALICE, alice.say(BOB, Content(BODY)).element)
    assert plaintext is not None
    root = ET.fromstring(plaintext)
    assert root.tag == f"{SCE}envelope"
    (content,) = root.findall(f"{SCE}content")
    assert [child.text for child in content] == [TEXT]
    assert [child.get("jid") for child in root.findall(f"{SCE}from")] == [ALICE]
    assert root.find(f"{SCE}rpad") is not None
    assert len(plaintext) >= 512


def test_length_hides_the_text(ends: tuple[OurDevice, TwomemoPeer]) -> None:
    """Two texts of different length can have elements of the same size."""
    alice, _ = ends
    sizes = [
        {len(alice.say(BOB, Content(b"<body xmlns='jabber:client'>%b</body>" % text)).element) for _ in range(40)}
        for text in (b"yes", b"no, and here is a long reason why not")
    ]
    assert sizes[0] & sizes[1]


@pytest.mark.parametrize("affixes", [(RPAD, FROM), (FROM, TIME, RPAD), (RPAD,), (RPAD, FROM, "<new xmlns='urn:x'/>")])
def test_envelopes_of_other_clients(ends: tuple[OurDevice, TwomemoPeer], affixes: tuple[str, ...]) -> None:
    opened = _hear(*ends, _envelope(*affixes))
    assert opened.kind is Kind.OPENED, opened.error
    assert opened.content is not None
    assert ET.fromstring(opened.content.data).text == ET.fromstring(BODY).text
    assert (TIME not in affixes) or opened.time == START


@pytest.mark.parametrize(
    "plaintext",
    [
        _envelope(FROM),  # no padding
        _envelope(RPAD, "<from jid='mallory@m.example'/>"),
        _envelope(RPAD, FROM, FROM),
        _envelope(RPAD, FROM, "<time stamp='2020-01-01T00:00:00Z'/>"),
        _envelope(RPAD, FROM, "<to jid='carol@c.example'/>"),
        b"only text",
        b"<body xmlns='jabber:client'>no envelope</body>",
        b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + _envelope(RPAD, FROM),
        _envelope(RPAD, FROM)[:-1],
        b"",
    ],
)
def test_envelopes_that_are_refused(ends: tuple[OurDevice, TwomemoPeer], plaintext: bytes) -> None:
    """Nothing of it is shown; its message key was authenticated and is used up, and the next message opens."""
    alice, bob = ends
    opened = _hear(alice, bob, plaintext)
    assert opened.kind in (Kind.REFUSED, Kind.MALFORMED)
    assert opened.error
    assert opened.content is None
    assert _hear(alice, bob, _envelope(RPAD, FROM)).kind is Kind.OPENED


def test_what_only_servers_may_say_is_dropped(ends: tuple[OurDevice, TwomemoPeer]) -> None:
    inside = BODY.decode() + "<stanza-id xmlns='urn:xmpp:sid:0' id='1' by='b.example'/>"
    opened = _hear(*ends, _envelope(RPAD, FROM, content=inside))
    assert opened.kind is Kind.OPENED
    assert opened.content is not None
    assert b"stanza-id" not in opened.content.data
    assert any("stanza-id" in note for note in opened.notes)
