"""wire.c14n: the same bytes as lxml's writer, for less; and never one form for two things."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from tillie.errors import Malformed
from tillie.wire import c14n, xml

NAMESPACES = ("urn:a", "urn:b", "http://example.org/c")
TEXT = st.text(st.sampled_from("ab \n\t\r\u00a0\u3000<>&\"'é𝄞"), max_size=6)


def _markup(text: str) -> bytes:
    return xml.escape(text)


@st.composite
def plain(draw: st.DrawFn, depth: int = 3) -> bytes:
    """An element as XMPP software writes it: a default namespace, no prefixes."""
    namespace = draw(st.sampled_from(NAMESPACES)).encode()
    names = draw(st.lists(st.sampled_from("abxyzAZ"), unique=True, max_size=3))
    attributes = b"".join(b" %s=%s" % (name.encode(), xml.attribute(draw(TEXT))) for name in names)
    children = draw(st.lists(plain(depth - 1), max_size=2)) if depth else []
    inner = _markup(draw(TEXT)) + b"".join(child + _markup(draw(TEXT)) for child in children)
    return b"<e xmlns='%s'%s>%s</e>" % (namespace, attributes, inner)


@st.composite
def odd(draw: st.DrawFn, depth: int = 3) -> bytes:
    """An element with prefixes, no namespaces, attributes in namespaces, in every mixture."""
    declared = draw(st.lists(st.sampled_from(("p", "q", "")), unique=True, max_size=3))
    parts = []
    for name in declared:
        namespaces = NAMESPACES if name else (*NAMESPACES, "")
        namespace = draw(st.sampled_from(namespaces)).encode()
        parts.append(b" xmlns%s='%s'" % (b":" + name.encode() if name else b"", namespace))
    prefix = draw(st.sampled_from(("p:", "q:", "")))
    for name in draw(st.lists(st.sampled_from(("a", "p:a", "q:a", "b", "p:b")), unique=True, max_size=3)):
        parts.append(b" %s=%s" % (name.encode(), xml.attribute(draw(TEXT))))
    children = draw(st.lists(odd(depth - 1), max_size=2)) if depth else []
    inner = _markup(draw(TEXT)) + b"".join(child + _markup(draw(TEXT)) for child in children)
    tag = f"{prefix}e".encode()
    return b"<%s%s>%s</%s>" % (tag, b"".join(parts), inner, tag)


def _meaning(element: etree._Element) -> object:
    """All that an element says, but for white space around texts."""
    return (
        element.tag,
        sorted(element.items()),
        (element.text or "").strip(),
        [(_meaning(child), (child.tail or "").strip()) for child in element],
    )


def _lxml(data: bytes) -> bytes:
    written: bytes = etree.tostring(etree.fromstring(data), method="c14n2", with_comments=False, strip_text=True)
    return written


def _parsed(data: bytes) -> etree._Element | None:
    try:
        return xml.parse(b"<r xmlns:p='urn:p' xmlns:q='urn:a'>" + data + b"</r>")[0]
    except Malformed:  # an attribute twice
        return None


@given(plain())
def test_plain_xml_is_written_as_lxml_writes_it(data: bytes) -> None:
    assert c14n.canonical(xml.parse(data)) == _lxml(data)


@given(plain())
def test_the_canonical_form_is_its_own(data: bytes) -> None:
    once = c14n.canonical(xml.parse(data))
    assert c14n.canonical(xml.parse(once)) == once


@given(odd())
def test_what_has_a_form_can_be_read_from_it(data: bytes) -> None:
    element = _parsed(data)
    if element is None:
        return
    alone = xml.parse(xml.serialise(element))
    meaning = _meaning(alone)
    try:
        form = c14n.canonical(alone)
    except Malformed:
        return
    assert form == _lxml(xml.serialise(element))
    assert _meaning(etree.fromstring(form)) == meaning


@pytest.mark.parametrize(
    "data",
    [
        b"<e xmlns='urn:a' xmlns:p='urn:a' p:a='1'/>",
        b"<e xmlns='urn:a' xmlns:p='urn:a' p:a='1' a='2'/>",
        b"<e xmlns='urn:a' xmlns:p='urn:a'><f p:a='1'/></e>",
    ],
)
def test_two_things_with_one_form_are_refused(data: bytes) -> None:
    """lxml writes the attribute without its namespace."""
    assert b"p:a" not in _lxml(data)
    with pytest.raises(Malformed):
        c14n.canonical(xml.parse(data))


def test_no_namespace_below_a_default_one() -> None:
    """In a tree that was put together lxml writes the child as if it were in the namespace."""
    root = xml.parse(b"<e xmlns='urn:a'/>")
    root.append(xml.parse(b"<f/>"))
    with pytest.raises(Malformed):
        c14n.canonical(root)


def test_space_that_is_kept() -> None:
    assert c14n.canonical(xml.parse(b"<e xml:space='preserve'> x </e>")) == b'<e xml:space="preserve"> x </e>'


@pytest.mark.parametrize(
    ("data", "loses"),
    [
        (b"<e>x</e>", False),
        (b"<e> <f>x</f>\n </e>", False),  # indentation
        (b"<e> </e>", False),
        (b"<e>x </e>", True),
        (b"<e>now <f>here</f></e>", True),
        (b"<e><f>now</f> here</e>", True),
        ("<e>\u00a0x</e>".encode(), True),  # Python's strip knows Unicode's white space
    ],
)
def test_whether_space_is_lost(data: bytes, loses: bool) -> None:
    assert c14n.loses_space(xml.parse(data)) is loses


def _declaring(count: int) -> bytes:
    children = b"".join(b"<p%d:f xmlns:p%d='urn:%d'/>" % (n, n, n) for n in range(count))
    return b"<e xmlns:q='urn:q' q:a=''>" + children + b"</e>"


def test_as_many_declarations_as_allowed_and_one_more() -> None:
    c14n.canonical(xml.parse(_declaring(c14n.MAX_DECLARATIONS - 1)))
    with pytest.raises(Malformed):
        c14n.canonical(xml.parse(_declaring(c14n.MAX_DECLARATIONS)))


def test_a_namespace_that_would_be_written_at_every_element() -> None:
    def repeating(count: int) -> bytes:
        used = b"<p:f/>" * count
        return b"<e xmlns:p='%s'>%s</e>" % (b"u" * 4_000, used)

    fits = c14n.MAX_NAMES // 4_003
    c14n.canonical(xml.parse(repeating(fits)))
    with pytest.raises(Malformed):
        c14n.canonical(xml.parse(repeating(fits + 1)))


@pytest.mark.parametrize("namespace", [b"urn:a", b"a"])  # libxml2's writer refuses a relative one
def test_as_many_elements_as_allowed_take_no_time(namespace: bytes) -> None:
    inner = b"<f a='1'> x </f>" * (xml.MAX_ELEMENTS - 1)
    element = xml.parse(b"<e xmlns='%s'>%s</e>" % (namespace, inner))
    started = time.process_time()
    c14n.canonical(element)
    assert time.process_time() - started < 5
