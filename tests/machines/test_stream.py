"""The stream's own parser refuses what XMPP restricts, in chunks of any size, and repeats nothing of it (B32, B33)."""

from __future__ import annotations

import asyncio
import logging
import xml.etree.ElementTree as ET
from typing import Any

import pytest
import slixmpp
from hypothesis import given
from hypothesis import strategies as st

from tillie.networks.xmpp.stream import MAX_STREAM_STANZA_BYTES, StreamViolation, StrictParser, harden
from tillie.wire import xml

HEADER = b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
DOCUMENT = (
    HEADER
    + b""" <message a="x>y'" to='b"/'><body>h\xc3\xa9 > ' " &lt;</body><x a='1>/'/></message>\n <iq/>"""
    + b"<m><![CDATA[ <q> ]] > ]]></m> </stream:stream>"
)


def events(data: bytes, size: int) -> list[tuple[str, str, str | None]]:
    parser = StrictParser()
    found = []
    for start in range(0, len(data), size):
        parser.feed(data[start : start + size])
        found += [(event, element.tag) for event, element in parser.read_events()]
    return found


def test_chunks_of_any_size_give_the_same_elements_as_a_plain_parser() -> None:
    plain = ET.XMLPullParser(("start", "end"))
    plain.feed(DOCUMENT)
    expected = [(event, element.tag) for event, element in plain.read_events()]
    for size in range(1, len(DOCUMENT) + 1):
        assert events(DOCUMENT, size) == expected


@given(st.binary(max_size=200), st.integers(1, 20))
def test_arbitrary_bytes_raise_the_typed_error_or_nothing(data: bytes, size: int) -> None:
    try:
        events(HEADER + b"<m>" + data, size)
    except StreamViolation:
        pass


PIECES = st.sampled_from(
    [
        b"<",
        b">",
        b"/",
        b"'",
        b'"',
        b"<a>",
        b"</a>",
        b"<!",
        b"<?",
        b"<![CDATA[",
        b"]]>",
        b"x",
        b" ",
        b"b='1'",
        b"\xc3\xa9",
    ]
)


@given(st.lists(PIECES, max_size=40).map(b"".join))
def test_what_passes_in_one_piece_passes_in_bytes_and_the_other_way_round(data: bytes) -> None:
    def outcome(size: int) -> object:
        try:
            return events(HEADER + b"<m>" + data, size)
        except StreamViolation:
            return "refused"

    assert outcome(1) == outcome(10**6)


RESTRICTED = {
    "doctype": b"<!DOCTYPE a [<!ENTITY x 'y'>]><stream>",
    "doctype behind the header": HEADER + b"<!DOCTYPE a>",
    "doctype in a stanza": HEADER + b"<m><!DOCTYPE a>",
    "entity": HEADER + b"<m><!ENTITY a 'b'>",
    "comment": HEADER + b"<m>a<!-- b -->c</m>",
    "comment between stanzas": HEADER + b"<!-- -->",
    "processing instruction": HEADER + b"<m><?p?></m>",
    "a second declaration": HEADER + b"<?xml version='1.0'?>",
}
MALFORMED = {
    "an undefined entity": HEADER + b"<m>&x;</m>",
    "text between stanzas": HEADER + b"hello",
    "cdata between stanzas": HEADER + b"x<![CDATA[x]]>",
    "a tag without its pair": HEADER + b"<m></n>",
    "less-than in an attribute": HEADER + b"<m a='<'/>",
    "an attribute twice": HEADER + b"<m a='' a=''/>",
    "not UTF-8": HEADER + b"<m>\xff</m>",
    "a byte order mark": b"\xef\xbb\xbf<stream>",
    "UTF-16": "<stream><m/>".encode("utf-16"),
    "UTF-16 declared only": b"<?xml version='1.0' encoding='latin-1'?><s><m>\xe9</m>",
    "NUL": HEADER + b"<m>\0</m>",
    "an unbound prefix": HEADER + b"<a:m/>",
}


@pytest.mark.parametrize("size", [1, 3, 10**6])
@pytest.mark.parametrize("name", [*RESTRICTED, *MALFORMED])
def test_restricted_and_malformed_xml_is_refused(name: str, size: int) -> None:
    with pytest.raises(StreamViolation):
        events({**RESTRICTED, **MALFORMED}[name], size)


def longest_stanza(extra: int) -> bytes:
    return b"<m>" + b"x" * (MAX_STREAM_STANZA_BYTES - len(b"<m></m>") + extra) + b"</m>"


LIMITS = {
    "bytes": longest_stanza,
    "bytes of one tag": lambda extra: b"<m a='" + b">" * (MAX_STREAM_STANZA_BYTES - 9 + extra) + b"'/>",
    "elements": lambda extra: b"<m>" + b"<a/>" * (xml.MAX_ELEMENTS - 1 + extra) + b"</m>",
    "depth": lambda extra: b"<a>" * (xml.MAX_DEPTH + extra),
    "attributes": lambda extra: b"<m " + b" ".join(b"a%d=''" % n for n in range(xml.MAX_ATTRIBUTES + extra)) + b"/>",
}


@pytest.mark.parametrize("size", [997, 10**7])
@pytest.mark.parametrize("name", LIMITS)
def test_limits_on_both_sides(name: str, size: int) -> None:
    events(HEADER + b"<iq/>" + LIMITS[name](0), size)
    with pytest.raises(StreamViolation):
        events(HEADER + b"<iq/>" + LIMITS[name](1), size)


def test_many_stanzas_of_one_connection_are_not_one_large_one() -> None:
    many = longest_stanza(0) * 3
    assert len(events(HEADER + many, 65_536)) == 1 + 6


def test_nesting_a_million_deep_is_refused_before_it_is_built() -> None:
    with pytest.raises(StreamViolation):
        events(HEADER + b"<a>" * 10**6, 4096)


class Counting:
    """A parser that notes how often it was fed."""

    def __init__(self) -> None:
        self.fed: list[bytes] = []

    def feed(self, data: bytes) -> None:
        self.fed.append(data)

    def read_events(self) -> list[tuple[str, ET.Element]]:
        return []


def test_a_huge_tag_in_tiny_chunks_reaches_the_parser_once() -> None:
    # expat 2.5 reads an unfinished tag again with every chunk: half a megabyte in bytes would take hours.
    parser = StrictParser()
    parser._parser = inner = Counting()  # type: ignore[assignment]
    parser.feed(HEADER)
    tag = b"<m a='" + b"x>" * 50_000 + b"'/>"
    for at in range(len(tag)):
        parser.feed(tag[at : at + 1])
    assert b"".join(inner.fed[1:]) == tag
    assert len(inner.fed) == 2


def test_white_space_that_keeps_the_connection_alive_gathers_nowhere() -> None:
    parser = StrictParser()
    parser._parser = inner = Counting()  # type: ignore[assignment]
    parser.feed(HEADER)
    for _ in range(2 * MAX_STREAM_STANZA_BYTES // 65_536):
        parser.feed(b" " * 65_536)
    assert len(inner.fed) == 1


class Wire(asyncio.Transport):
    """What a client writes, and whether it hung up."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True


def hostile_session(data: bytes) -> tuple[Wire, list[StreamViolation]]:
    async def scenario() -> tuple[Wire, list[StreamViolation]]:
        client = slixmpp.ClientXMPP("juliet@capulet.test", "x")
        harden(client)
        harden(client)
        violations: list[StreamViolation] = []
        client.add_event_handler("stream_violation", violations.append)
        wire = Wire()
        client.connection_made(wire)
        client.data_received(HEADER)
        client.data_received(data)
        client.data_received(b"and more of it")
        return wire, violations

    return asyncio.run(scenario())


def test_a_violation_closes_the_stream_and_neither_log_nor_answer_repeat_the_bytes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    wire, violations = hostile_session(b"<message><body>wherefore<!DOCTYPE")
    assert wire.closed
    assert [violation.condition for violation in violations] == ["bad-format"]
    assert wire.written.endswith(
        b"<stream:error><bad-format xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
    )
    for secret in ("wherefore", "and more"):
        assert secret.encode() not in wire.written
        assert secret not in caplog.text


def test_a_message_from_before_the_login_is_dropped() -> None:
    async def scenario(authenticated: bool) -> list[object]:
        client = slixmpp.ClientXMPP("juliet@capulet.test", "x")
        harden(client)
        client.connection_made(Wire())
        client.authenticated = authenticated
        seen: list[object] = []
        client.add_event_handler("message", seen.append)
        client.data_received(
            HEADER + b"<message type='chat' from='r@m.test' to='juliet@capulet.test'><body>x</body></message>"
        )
        return seen

    assert len(asyncio.run(scenario(True))) == 1
    assert asyncio.run(scenario(False)) == []
