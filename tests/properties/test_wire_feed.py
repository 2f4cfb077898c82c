"""wire.xml.StrictFeed: the guard before a stream's parser (B32, B33, B60)."""

from __future__ import annotations

from time import perf_counter
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillie.errors import Malformed
from tillie.wire import xml
from tillie.wire.xml import StrictFeed

HEADER = b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream=\"http://etherx.jabber.org/streams\">"


def fed(data: bytes, size: int) -> bytes:
    feed = StrictFeed()
    return b"".join(feed.feed(data[at : at + size]) for at in range(0, len(data), size))


GOOD = [
    HEADER,
    b"<stream>",
    b" \n<stream>",
    b"<?xml version='1.0' encoding='UTF-8' standalone='yes' ?><stream>",
    b'<?xml version="1.0" encoding="utf-8"?>\n<stream>',
    HEADER + b"<a b='1>2' c=\"it's\">text &lt; &#33;</a> \n<b/>",
    HEADER + b"<a><![CDATA[x]]y]]]]><b/></a>",
    HEADER + b"<a>" * xml.MAX_DEPTH,
    HEADER + b"<a " + b"b='=' " * xml.MAX_ATTRIBUTES + b"/>",
    HEADER + b"<a>" + b"<b/>" * (xml.MAX_ELEMENTS - 1) + b"</a><a/>",
]


@pytest.mark.parametrize("size", [1, 3, 7, 1 << 20])
@pytest.mark.parametrize("data", GOOD)
def test_a_good_stream_passes_unchanged(data: bytes, size: int) -> None:
    assert fed(data, size) == data


BAD = {
    "doctype": b"<!DOCTYPE a>",
    "doctype after the declaration": b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]>",
    "doctype in a stanza": HEADER + b"<a><!DOCTYPE a>",
    "comment": HEADER + b"<a>x<!-- -->y</a>",
    "comment between stanzas": HEADER + b"<!-- -->",
    "instruction": HEADER + b"<a><?b?></a>",
    "second declaration": HEADER + b"<?xml version='1.0'?>",
    "declaration behind white space": b" <?xml version='1.0'?>",
    "another encoding": b"<?xml version='1.0' encoding='utf-16'?>",
    "UTF-7": b"<?xml version='1.0' encoding='utf-7'?>",
    "XML 1.1": b"<?xml version='1.1'?>",
    "endless declaration": b"<?xml version='1.0'" + b" " * 1_000,
    "instruction first": b"<?xml-stylesheet href='x'?>",
    "byte order mark": b"\xef\xbb\xbf<stream>",
    "UTF-16 mark": b"\xff\xfe<",
    "UTF-16": "<stream>".encode("utf-16-le"),
    "UTF-16 the other way": "<stream>".encode("utf-16-be"),
    "not XML": b"HTTP/1.1 400 Bad Request",
    "text between stanzas": HEADER + b"<a/>hello",
    "CDATA between stanzas": HEADER + b"<![CDATA[x]]>",
    "almost CDATA": HEADER + b"<a><![cdata[x]]>",
    "depth": HEADER + b"<a>" * (xml.MAX_DEPTH + 1),
    "attributes": HEADER + b"<a " + b"b='' " * (xml.MAX_ATTRIBUTES + 1) + b"/>",
    "elements": HEADER + b"<a>" + b"<b/>" * xml.MAX_ELEMENTS,
    "tag in tag": HEADER + b"<a <b>",
}


@pytest.mark.parametrize("size", [1, 3, 7, 1 << 20])
@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_restricted_is_refused_however_it_is_cut(data: bytes, size: int) -> None:
    with pytest.raises(Malformed):
        fed(data, size)


def test_bytes_of_a_stanza() -> None:
    room = 100
    feed = StrictFeed(max_stanza_bytes=room)
    feed.feed(b"<stream>")
    for _ in range(3):  # each stanza has room of its own, and white space between them takes none
        feed.feed(b"<a>" + b"x" * (room - 7) + b"</a>")
        feed.feed(b" " * 10 * room)
    feed.feed(b"<a>")
    with pytest.raises(Malformed):
        feed.feed(b"x" * (room - 2))


def test_one_huge_token_in_tiny_chunks_costs_linear_time() -> None:
    def seconds(length: int) -> float:
        feed = StrictFeed()
        feed.feed(HEADER + b"<a b='")
        began = perf_counter()
        for _ in range(length):
            assert feed.feed(b"x") == b""  # the parser sees no part of it
        return perf_counter() - began

    few, many = min(seconds(10_000) for _ in range(3)), seconds(200_000)
    assert many < 20 * few * 4  # quadratic would be 400 times as long


PARTS = b"<a>|</a>|<b c='>'/>|<d e=\"<\">|x|&lt;|<![CDATA[|]]>|]|<|>|'|!|?|<!|<?|--|DOCTYPE|\xc3\xa9| ".split(b"|")
PIECES = st.lists(st.sampled_from(PARTS), max_size=12)


@given(PIECES, st.integers(1, 9))
def test_cutting_changes_nothing(pieces: list[bytes], size: int) -> None:
    data = HEADER + b"".join(pieces)

    def outcome(step: int) -> bytes | None:
        try:
            return fed(data, step)
        except Malformed:
            return None

    assert outcome(size) == outcome(len(data))


@given(PIECES, st.integers(1, 9))
def test_what_passes_has_no_declaration_in_it(pieces: list[bytes], size: int) -> None:
    """Whatever the guard lets through: a parser that reads it meets neither comments nor instructions nor a DOCTYPE."""

    class Target:
        def __init__(self) -> None:
            self.depth = 0

        def start(self, *_: object) -> None:
            self.depth += 1
            assert self.depth <= xml.MAX_DEPTH + 1

        def end(self, *_: object) -> None:
            self.depth -= 1

        def refuse(self, *_: object) -> None:
            pytest.fail("it reached the parser")

        comment = pi = doctype = refuse

    parser = ElementTree.XMLParser(target=Target())
    feed = StrictFeed()
    data = HEADER + b"".join(pieces)
    try:
        for at in range(0, len(data), size):
            parser.feed(feed.feed(data[at : at + size]))
    except (Malformed, ElementTree.ParseError):
        pass
