"""The short cut that takes stanzas of ours apart means what the tree means."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from support.fuzz import mutate
from tillie.errors import Malformed, UsageError
from tillie.schemes.esession import scheme, text
from tillie.wire import xml

TAGS = (
    "<message xmlns='jabber:client' to='a@b/c' id='1'>",
    '<iq xmlns="jabber:client" type="get" id="é">',
    "<presence xmlns='jabber:client'>",
    "<message xmlns='jabber:client' to='a' to='b'>",
    "<message xmlns='jabber:server'>",
    "<message xmlns='jabber:client' xmlns:a='urn:a'>",
    "<message to='a@b/c' xmlns='jabber:client'>",
    "<message>",
    "<iq xmlns='jabber:client' id='&lt;'>",
    "<iq xmlns='jabber:client' xml:lang='en' id='1'>",
    "<iq xmlns='jabber:client' >",
)
CHILDREN = (
    "<body>a</body>",
    "<body xmlns='jabber:client'>a &lt; é</body>",
    '<body xmlns="jabber:client"/>',
    "<thread>t</thread>",
    "<thread xmlns='jabber:client'>t</thread>",
    "<request xmlns='urn:xmpp:receipts'/>",
    "<no-store xmlns='urn:xmpp:hints'/>",
    "<amp xmlns='http://jabber.org/protocol/amp'/>",
    "<c xmlns='http://www.xmpp.org/extensions/xep-0200.html#ns'/>",
    "<x xmlns='urn:x'><y/></x>",
    "<a:x xmlns:a='urn:x'/>",
    "<x xmlns=''/>",
    " ",
    "\n\t",
    "text",
    "<!-- -->",
    "&amp;",
    "<status>gone</status>",
    "<query xmlns='jabber:iq:roster'/>",
    "</message>",
    "<x xmlns='urn:x' a='1' b='2'/>",
    "<x",
    "<body xmlns='jabber:client' xml:lang='en'>a</body>",
    "<stanza-id xmlns='urn:xmpp:sid:0' id='1' by='a@b'/>",
)
STANZAS = st.builds(
    lambda tag, children, end: (tag + "".join(children) + end).encode(),
    st.sampled_from(TAGS),
    st.lists(st.sampled_from(CHILDREN), max_size=5),
    st.sampled_from(("</message>", "</iq>", "</presence>", "", "</message> ")),
)


def meaning(divided: text.Divided) -> tuple[bytes, bytes]:
    """What stays outside, and what is hidden, in one spelling."""
    outside = etree.tostring(xml.parse(divided.before + divided.after), method="c14n2", strip_text=True)
    hidden = etree.fromstring(b"<m xmlns='jabber:client'>" + divided.text + b"</m>")
    return outside, etree.tostring(hidden, method="c14n2", strip_text=True)


def both_agree(stanza: bytes) -> bool:
    """Whether the short cut took it; it may always leave a stanza to the tree."""
    quick = text._divide_flat(stanza)
    if quick is None:
        return False
    assert meaning(quick) == meaning(text._divide_tree(stanza))
    return True


@given(STANZAS)
def test_pieces_in_any_order_mean_the_same_both_ways(stanza: bytes) -> None:
    both_agree(stanza)


@given(STANZAS, st.integers(0, 2**32))
def test_mutated_stanzas_mean_the_same_both_ways(stanza: bytes, seed: int) -> None:
    both_agree(mutate(stanza, Random(seed)))


@given(STANZAS)
def test_the_outside_is_that_of_the_tree(stanza: bytes) -> None:
    around = text.outside(stanza)
    try:
        root = xml.parse(stanza)
    except Malformed:  # what is within is not looked at
        return
    if around is not None:
        assert root.tag == f"{{jabber:client}}{around.kind}"
        assert dict(root.attrib) == around.attributes


def test_usual_stanzas_take_the_short_cut() -> None:
    for children in (
        "<body>a</body>",
        "<body xmlns='jabber:client'>é</body><thread>t</thread>",
        "",
        "<x xmlns='urn:x'/>",
    ):
        assert both_agree(f"<message xmlns='jabber:client' to='a@b/c' id='1'>{children}</message>".encode())


@pytest.mark.parametrize(
    ("stanza", "kind", "to", "kept"),
    [
        ("<iq xmlns='jabber:client' to='a@b/c' id='1'><x xmlns='urn:x'/></iq>", "iq", "a@b/c", True),
        ("<message xmlns='jabber:client' to='a@b/c' id='1'><thread>t</thread></message>", "message", "a@b/c", False),
        ("<presence xmlns='jabber:client' to='a@b/c'><show>away</show></presence>", "presence", "a@b/c", False),
    ],
)
def test_a_stanza_gets_an_id_and_loses_its_thread(stanza: str, kind: str, to: str, kept: bool) -> None:
    found, to_whom, made = scheme._own_stanza(stanza.encode())
    assert (found, to_whom, made == stanza.encode()) == (kind, to, kept)
    root = xml.parse(made)
    assert root.get("id")
    assert root.find("{jabber:client}thread") is None


def test_what_is_no_xml_is_refused_by_both() -> None:
    for stanza in (
        b"<message xmlns='jabber:client' id='1'><body></message>",
        b"<message xmlns='jabber:client' id='1'>\xff",
    ):
        assert not both_agree(stanza)
        with pytest.raises(UsageError):
            text.divide(stanza)
