"""wire.xml: hardened parsing and quoting (B32, B33)."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tillie.errors import Malformed, TillieError, UsageError
from tillie.wire import xml

BOMB = b"<!DOCTYPE a [<!ENTITY b '%s'><!ENTITY c '%s'>]><a>&c;</a>" % (b"x" * 50, b"&b;" * 50)
RESTRICTED = {
    "doctype": b"<!DOCTYPE a><a/>",
    "entity expansion": BOMB,
    "external entity": b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
    "external subset": b"<!DOCTYPE a SYSTEM 'http://127.0.0.1/x.dtd'><a/>",
    "undeclared entity": b"<a>&nbsp;</a>",
    "processing instruction": b"<a><?php x?></a>",
    "instruction before": b"<?xml-stylesheet href='x'?><a/>",
    "declaration": b"<?xml version='1.0'?><a/>",
    "comment that splits text": b"<body>transfer 1<!-- -->000</body>",
    "comment behind": b"<a/><!-- x -->",
    "declaration inside CDATA": b"<a><![CDATA[<!DOCTYPE b>]]></a>",
    "byte order mark": b"\xef\xbb\xbf<a/>",
    "UTF-16": "<a/>".encode("utf-16"),
    "UTF-16 without mark": "<a/>".encode("utf-16-le"),
    "Latin-1": "<a>\xe9</a>".encode("latin-1"),
    "over-long UTF-8": b"<a>\xc0\xbc</a>",
    "surrogate in UTF-8": b"<a>\xed\xa0\x80</a>",
    "NUL": b"<a>x\0</a>",
    "NUL behind": b"<a/>\0",
    "control character": b"<a>\x1b[31m</a>",
    "control character reference": b"<a>&#27;</a>",
    "NUL reference": b"<a>&#0;</a>",
    "attribute twice": b"<a b='1' b='2'/>",
    "attribute twice by namespace": b"<a xmlns:p='u' xmlns:q='u' p:a='1' q:a='2'/>",
    "undeclared prefix": b"<a:b/>",
    "raw < in attribute": b"<a b='<'/>",
    "]]> in text": b"<a>]]></a>",
    "two roots": b"<a/><b/>",
    "text behind": b"<a/>x",
    "unclosed": b"<a>",
    "empty": b"",
    "no XML": b"hello",
}


@pytest.mark.parametrize("data", RESTRICTED.values(), ids=RESTRICTED)
def test_restricted_xml_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        xml.parse(data)


@pytest.mark.parametrize("data", RESTRICTED.values(), ids=RESTRICTED)
def test_errors_quote_nothing(data: bytes) -> None:
    secret = b"<a>attack at dawn" + data + b"</b>"
    with pytest.raises(Malformed) as raised:
        xml.parse(secret)
    assert "attack" not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_restricted_xml_is_refused_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml.etree, "fromstring", lambda *_: pytest.fail("it was parsed"))
    for name in ("doctype", "entity expansion", "external entity", "processing instruction", "UTF-16", "NUL"):
        with pytest.raises(Malformed):
            xml.parse(RESTRICTED[name])


def nested(depth: int) -> bytes:
    return b"<a>" * depth + b"</a>" * depth


def attributes(count: int) -> bytes:
    return b"<a " + b" ".join(b"a%d='='" % n for n in range(count)) + b"/>"


def elements(count: int) -> bytes:
    return b"<a>" + b"<b/>" * (count - 1) + b"</a>"


@pytest.mark.parametrize(
    ("most", "more"),
    [
        (nested(xml.MAX_DEPTH), nested(xml.MAX_DEPTH + 1)),
        (attributes(xml.MAX_ATTRIBUTES), attributes(xml.MAX_ATTRIBUTES + 1)),
        (attributes(xml.MAX_ATTRIBUTES).replace(b"'", b'"'), attributes(xml.MAX_ATTRIBUTES + 1).replace(b"'", b'"')),
        (elements(xml.MAX_ELEMENTS), elements(2 * xml.MAX_ELEMENTS)),
        (b"<a>%s</a>" % (b"x" * (xml.MAX_STANZA_BYTES - 7)), b"<a>%s</a>" % (b"x" * (xml.MAX_STANZA_BYTES - 6))),
    ],
    ids=["depth", "attributes", "attributes in double quotes", "elements", "bytes"],
)
def test_limits(most: bytes, more: bytes) -> None:
    xml.parse(most)
    with pytest.raises(Malformed):
        xml.parse(more)


@pytest.mark.parametrize("data", [b"<a>" * 100_000, nested(30_000), attributes(30_000), b"<a " + b"x" * 500_000])
def test_absurd_documents_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        xml.parse(data)


def test_many_equals_signs_in_text_are_no_attributes() -> None:
    line = b"=" * 2 * xml.MAX_ATTRIBUTES
    assert xml.parse(b"<a b='1'>%s</a>" % line).text == line.decode()
    assert xml.parse(b"<a b='%s'/>" % line).get("b") == line.decode()


def test_white_space_around_and_cdata_are_fine() -> None:
    assert xml.parse(b" \n<a><![CDATA[x & y]]></a>\n").text == "x & y"


def test_fragment() -> None:
    a, b = xml.parse_fragment(b"<a xmlns='x'>1</a> \n<b xmlns='y'/>")
    assert (a.tag, a.text, b.tag) == ("{x}a", "1", "{y}b")
    assert xml.parse_fragment(b"") == []


@pytest.mark.parametrize(
    "data", [b"x<a/>", b"<a/>x", b"</f><f>", b"</f>", b"</f><a/>", b"<f>", b"<a/></f><f><b/>", b"<a/>&#120;"]
)
def test_fragment_can_not_leave_its_wrapper(data: bytes) -> None:
    with pytest.raises(Malformed):
        xml.parse_fragment(data)


def test_text_of() -> None:
    assert xml.text_of(xml.parse(b"<a/>")) == ""
    assert xml.text_of(xml.parse(b"<a>&lt;</a>")) == "<"
    with pytest.raises(Malformed):
        xml.text_of(xml.parse(b"<a>1<b/>2</a>"))


def test_serialise_brings_its_namespaces() -> None:
    root = xml.parse(b"<a xmlns='u' xmlns:p='v'><b p:c='1'><p:d/></b>tail<e xmlns=''/></a>")
    b, e = root
    again = xml.parse(xml.serialise(b))
    assert (again.tag, again.get("{v}c"), again[0].tag) == ("{u}b", "1", "{v}d")
    assert xml.parse(xml.serialise(e)).tag == "e"
    assert b"tail" not in xml.serialise(b)


XML_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffe\uffff")).map(
    lambda text: "".join(c for c in text if c >= " " or c in "\t\n\r")
)


@given(XML_TEXT)
@example("\r\n\t<>&'\"]]>")
def test_quoted_text_comes_back(text: str) -> None:
    root = xml.parse(b"<a b=%s>%s</a>" % (xml.attribute(text), xml.escape(text)))
    assert root.get("b") == text
    assert xml.text_of(root) == text


@pytest.mark.parametrize("bad", ["\0", "\x1b", "\x0b", "\ud800", "\ufffe", "\uffff"])
def test_characters_that_xml_can_not_carry(bad: str) -> None:
    for quote in (xml.escape, xml.attribute):
        with pytest.raises(UsageError, match="U\\+"):
            quote(f"a{bad}b")


SOUP = st.text("<>/!?='\"&; [](){}-x\n" + string.ascii_lowercase[:4], max_size=80).map(str.encode)


@given(st.one_of(st.binary(max_size=200), SOUP, SOUP.map(lambda data: b"<a>" + data + b"</a>")))
@example(b"<a>]]&gt;</a>")
def test_only_typed_errors(data: bytes) -> None:
    for parse in (xml.parse, xml.parse_fragment):
        try:
            result = parse(data)
        except TillieError:
            continue
        for element in [result] if parse is xml.parse else result:
            assert xml.serialise(xml.parse(xml.serialise(element))) == xml.serialise(element)
