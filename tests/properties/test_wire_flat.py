"""wire.flat: the short cut takes only what the parser takes, with the same meaning."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tillie.errors import Malformed
from tillie.wire import flat, xml

PIECE = st.sampled_from(
    [
        "<body xmlns='jabber:client'>",
        "</body>",
        "<body xmlns='jabber:client'/>",
        "<a xmlns='urn:x' id='1'>",
        "</a>",
        "<a xmlns='urn:x' xmlns='urn:y'/>",
        "<p:a xmlns:p='urn:x'/>",
        "<a xmlns='http://jabber.org/protocol/x#y'/>",
        "<a/>",
        "<a xmlns='urn:x' b='&lt;'/>",
        "<a xmlns='urn:x#y#z'/>",
        "<a xmlns='urn:x'  b='1'/>",
        "<a xmlns='urn:'/>",
        "]]>",
        "x",
        "<a xmlns='urn:x' xml='1'>",
        "<xml xmlns='urn:x'>",
        "<a xmlns='urn:x' xml-lang='de'/>",
        "&amp;",
        "&#13;",
        "\r",
        "\t",
        "<!---->",
        "<?a?>",
        "<![CDATA[x]]>",
        "<a xmlns='urn:x' b='\n'/>",
        "é",
        "\ufffe",
        "\x00",
        ">",
        "'",
        '"',
        " ",
        "&x;",
    ]
)
ANY = st.lists(st.one_of(PIECE, st.text("ab<>/='& :-.x", max_size=4)), max_size=5).map("".join)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20).map(
    lambda text: text.replace("&", "&amp;").replace("<", "&lt;")
)
ELEMENT = st.builds(
    "<{0} xmlns='{1}'{2}>{3}</{0}>".format,
    st.from_regex(r"[a-z_][a-z0-9_.:-]{0,4}", fullmatch=True),
    st.from_regex(r"(urn:|jabber:|http://jabber\.org/)[a-z:/.#%-]{0,6}", fullmatch=True),
    st.sampled_from(["", " b='1'", " xmlns='urn:y'"]),
    TEXT,
)


@given(st.one_of(ANY, ELEMENT, st.lists(ELEMENT, max_size=3).map("".join)))
@example("<a xmlns='urn:x'></b>")
@example("")
def test_what_is_flat_means_the_same_to_the_parser(text: str) -> None:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return
    tags = flat.tags_of(data)
    if tags is None:
        return
    parsed = xml.parse_fragment(data)
    assert [child.tag for child in parsed] == tags
    assert all(len(child) == 0 for child in parsed)


@pytest.mark.parametrize(
    "data",
    [
        b"<body xmlns='jabber:client'>Hi &amp; bye, \xc3\xa9\n</body>",
        b"<received xmlns='urn:xmpp:receipts' id='x'/>",
        b"<active xmlns='http://jabber.org/protocol/chatstates'/>",
        b"<body xmlns='jabber:client'>x</body>" * flat.MAX_FLAT,
    ],
)
def test_the_commonest_content_is_flat(data: bytes) -> None:
    assert flat.tags_of(data)
    xml.parse_fragment(data)


@pytest.mark.parametrize(
    "data",
    [
        b"<body>x</body>",
        b"<a xmlns='urn:x'><b/></a>",
        b"<a xmlns='urn:x' b='1' b='2'/>",
        b"<a xmlns='urn:x'>\xff</a>",
        b"<a xmlns='urn:x'>]]></a>",
        b"<a xmlns='urn:x'>\r</a>",
        b"<a xmlns='urn:x'>&#1;</a>",
        b"<a xmlns='urn:x'>x</b>",
        b"<body xmlns='jabber:client'>x</body>" * (flat.MAX_FLAT + 1),
        b"<a xmlns='http://www.w3.org/2000/xmlns/'/>",
        b"x",
    ],
)
def test_the_rest_goes_to_the_parser(data: bytes) -> None:
    assert flat.tags_of(data) is None


def test_flat_is_linear() -> None:
    with pytest.raises(Malformed):
        xml.parse_fragment(b"<a xmlns='urn:x'>" + b"&amp;x" * 50_000)
    assert flat.tags_of(b"<a xmlns='urn:x'>" + b"&amp;x" * 50_000) is None
    assert flat.tags_of(b"<a xmlns='" + b"urn:" * 50_000) is None
