"""What stands in a sealed item and in the messages about secrets, for any input."""

from __future__ import annotations

import re
import tracemalloc
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lxml import etree

from support.pubsub import BLOG, ENTRY, JULIET, NOW, ROMEO, VALUE, Records, opened, own_node, say, shared
from tillie.crypto import packets, password, seipd
from tillie.errors import Malformed, TooLarge, UsageError
from tillie.model import Address, Content, Key
from tillie.pubsub import records, sealing, secrets, statements
from tillie.pubsub.items import Item, ItemKind, Node
from tillie.pubsub.statements import Reason, Revoked, Shared
from tillie.wire import xml

_text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\ufffe\uffff").filter(
    lambda c: c in "\t\n\r" or ord(c) >= 0x20
), max_size=40)  # fmt: skip
_name = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,8}", fullmatch=True)
_wide_name = st.sampled_from(["\u00e9t\u00e9", "\u540d", "nom\u00e9"])


@st.composite
def elements(draw: st.DrawFn, depth: int = 2, names: st.SearchStrategy[str] = _name) -> etree._Element:
    namespace = draw(st.sampled_from(["urn:a", "http://www.w3.org/2005/Atom", "urn:it's"]))
    prefix = draw(st.sampled_from([None, "p"]))
    element = etree.Element(f"{{{namespace}}}{draw(names)}", nsmap={prefix: namespace})
    for name, value in draw(st.dictionaries(names, _text, max_size=3)).items():
        element.set(name, value)
    element.text = draw(_text)
    for child in draw(st.lists(elements(depth=depth - 1, names=names), max_size=2)) if depth else ():
        child.tail = draw(_text)
        element.append(child)
    return element


def infoset(element: etree._Element) -> object:
    text = element.text or ""
    inside = [(infoset(child), child.tail or "") for child in element]
    return element.tag, sorted(element.attrib.items()), text, inside


def as_libervia_reads(data: bytes) -> etree._Element:
    """Decrypted bytes as its version 0.9 puts them into a parser (`"<div>{}</div>".format(data)`)."""
    shown = repr(data)
    inner = re.fullmatch(r"b(['\"])(.*)\1", shown, re.DOTALL)
    assert inner
    return etree.fromstring(inner[2].encode())


@given(elements())
@example(etree.fromstring("<a xmlns='urn:a' b='&#9;&#10;&#13;\"&apos;\\'>\"'\\n\\ \x7f\x85&#13;\n\u2028</a>".encode()))
def test_what_is_sealed_is_the_same_element_to_every_parser_and_to_libervia(element: etree._Element) -> None:
    written = sealing.write_payload(etree.tostring(element, encoding="UTF-8"))
    assert written.isascii()
    assert not re.search(rb"[\x00-\x1f\x7f\\']", written)
    assert infoset(etree.fromstring(written)) == infoset(element)
    assert infoset(as_libervia_reads(written)) == infoset(element)
    assert sealing.write_payload(written) == written


@given(elements(names=_wide_name))
def test_names_outside_of_ascii_are_written_as_they_are(element: etree._Element) -> None:
    written = sealing.write_payload(etree.tostring(element, encoding="UTF-8"))
    assert infoset(etree.fromstring(written)) == infoset(element)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"text",
        b"<a/><b/>",
        b"<a>",
        b"<?xml version='1.0'?><a/>",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
        b"<a><!-- aside --></a>",
        b"<a>\xff</a>",
        "<a>\u00e9</a>".encode("utf-16"),
        b"<a>" * 100 + b"</a>" * 100,
    ],
)
def test_a_payload_is_one_element(payload: bytes) -> None:
    with pytest.raises(UsageError):
        sealing.write_payload(payload)


def test_the_size_of_a_payload() -> None:
    edge = b"<a>" + b"x" * (sealing.MAX_PAYLOAD - 7) + b"</a>"
    assert len(sealing.write_payload(edge)) == sealing.MAX_PAYLOAD
    with pytest.raises(TooLarge):
        sealing.write_payload(edge.replace(b"xx", b"xxx", 1))
    with pytest.raises(TooLarge, match="escaped"):
        sealing.write_payload(edge.replace(b"x", b"'", 1))


# -- the sealed element ---------------------------------------------------------------------------------------------

_S = Records()
own_node(_S)
_SEALED = sealing.seal(_S, BLOG, ENTRY)


def test_spellings_of_a_sealed_item() -> None:
    id, coded = sealing._parse(_SEALED) or ("", b"")
    assert id == sealing.secret_of(_SEALED)
    text = coded.decode()
    for spelling in (
        _SEALED.replace(b"'", b'"'),
        f"<encrypted key='{id}' xmlns='urn:xmpp:openpgp:pubsub:0'>{text}</encrypted>".encode(),
        f"<x:encrypted xmlns:x='urn:xmpp:openpgp:pubsub:0' key='{id}'>\n  {text}\n</x:encrypted>".encode(),
        f"<encrypted xmlns='urn:xmpp:openpgp:pubsub:0'\tkey = '&#{ord(id[0])};{id[1:]}' >{text}</encrypted >".encode(),
    ):
        assert opened(Records(_S), BLOG, Item("i", spelling)).payload == ENTRY, spelling


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"", ItemKind.CLEAR),
        (ENTRY, ItemKind.CLEAR),
        (b"<encrypted xmlns='urn:xmpp:omemo:2'/>", ItemKind.CLEAR),
        (b"<a about='urn:xmpp:openpgp:pubsub:0'/>", ItemKind.CLEAR),
        (b"<attachments xmlns='urn:x'>" + _SEALED + b"</attachments>", ItemKind.CLEAR),
        (_SEALED.replace(b" key=", b" kee="), ItemKind.MALFORMED),
        (re.sub(rb" key='[^']*'", b" key=''", _SEALED), ItemKind.MALFORMED),
        (_SEALED.replace(b"</encrypted>", b"<b/></encrypted>"), ItemKind.MALFORMED),
        (_SEALED.replace(b"</encrypted>", b""), ItemKind.MALFORMED),
        (_SEALED + _SEALED, ItemKind.MALFORMED),
        (re.sub(rb">[^<]*<", b"><", _SEALED), ItemKind.MALFORMED),
        (re.sub(rb">[^<]*<", b">AAAA<", _SEALED), ItemKind.MALFORMED),
        (re.sub(rb">[^<]*<", b">Not Base64!<", _SEALED), ItemKind.MALFORMED),
        (re.sub(rb">[^<]*<", b">-----BEGIN PGP MESSAGE-----\n\nAAAA\n<", _SEALED), ItemKind.MALFORMED),
        (re.sub(rb" key='[^']*'", b" key='unknown'", _SEALED), ItemKind.NO_SECRET),
        (re.sub(rb" key='[^']*'", b" key='\xc3\xa9'", _SEALED), ItemKind.NO_SECRET),
        (re.sub(rb" key='[^']*'", b" key='\xff'", _SEALED), ItemKind.MALFORMED),
        (re.sub(rb" key='[^']*'", b" key='" + b"x" * 5_000 + b"'", _SEALED), ItemKind.NO_SECRET),
    ],
)
def test_what_is_not_a_sealed_item_of_ours(payload: bytes, kind: ItemKind) -> None:
    s = Records(_S)
    reading = opened(s, BLOG, Item("i", payload))
    assert reading.kind is kind
    assert reading.payload == (payload if kind is ItemKind.CLEAR else None)
    assert len(reading.error) < 500
    assert s == _S  # what did not open leaves no trace


def test_the_size_of_a_sealed_item() -> None:
    room = sealing.MAX_SEALED - len(_SEALED)
    padded = _SEALED.replace(b"</", b" " * room + b"</")
    assert opened(Records(_S), BLOG, Item("i", padded)).kind is ItemKind.OPENED
    reading = opened(Records(_S), BLOG, Item("i", padded.replace(b"</", b" </")))
    assert reading.kind is ItemKind.MALFORMED


def under_secret(plaintext: bytes) -> Item:
    secret = secrets.newest(_S, BLOG)
    assert secret is not None
    message = password.seal(plaintext, secret.value, stretch=False)
    coded = statements.xml.escape(sealing.base64.encode(message))
    return Item(
        "i", b"<encrypted xmlns='urn:xmpp:openpgp:pubsub:0' key='%s'>%s</encrypted>" % (secret.id.encode(), coded)
    )


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        b"words",
        b"<a/><b/>",
        b"<!DOCTYPE a><a/>",
        b"<a><?php?></a>",
        b"\xff\xfe<\0a\0/\0>\0",
        b"<a>" * 65 + b"</a>" * 65,
        b"<a>" + b"x" * sealing.MAX_OPENED + b"</a>",
    ],
)
def test_what_opens_to_something_else_than_one_element(plaintext: bytes) -> None:
    s = Records(_S)
    reading = opened(s, BLOG, under_secret(plaintext))
    assert (reading.kind, reading.payload) == (ItemKind.MALFORMED, None)
    assert s == _S


def test_a_compression_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes that unfold to 64 MB, from somebody who has the secret."""
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    literal = packets.header(packets.LITERAL, (64 << 20) + 6) + b"b\0\0\0\0\0"
    folded = pack.compress(literal) + b"".join(pack.compress(bytes(1 << 20)) for _ in range(64)) + pack.flush()
    inner = packets.encode(packets.Packet(packets.COMPRESSED, b"\x01" + folded))
    monkeypatch.setattr(seipd, "encode_literal", lambda _: inner)
    item = under_secret(b"")
    assert len(item.payload) < 200_000
    tracemalloc.start()
    try:
        reading = opened(Records(_S), BLOG, item)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (reading.kind, reading.payload) == (ItemKind.MALFORMED, None)
    assert peak < 8 << 20


def test_white_space_around_what_was_sealed_is_left_out() -> None:
    assert opened(Records(_S), BLOG, under_secret(b"\n " + ENTRY + b"\r\n")).payload == ENTRY


@given(st.integers(0, len(_SEALED) - 1), st.integers(0, 7), st.booleans())
def test_an_altered_item_never_opens_to_something_else(at: int, bit: int, cut: bool) -> None:
    data = bytearray(_SEALED)
    data[at] ^= 1 << bit
    payload = bytes(_SEALED[:at] if cut else data)
    reading = opened(Records(_S), BLOG, Item("i", payload))
    if reading.kind is ItemKind.OPENED:
        assert reading.payload == ENTRY  # another spelling of the same bytes
    elif reading.kind is ItemKind.CLEAR:
        assert reading.payload == payload


@given(st.binary(max_size=200))
def test_any_bytes_for_a_message(message: bytes) -> None:
    coded = sealing.base64.encode(message).encode()
    payload = re.sub(rb">[^<]*<", b">" + coded + b"<", _SEALED)
    reading = opened(Records(_S), BLOG, Item("i", payload))
    assert reading.kind in (ItemKind.MALFORMED, ItemKind.TAMPERED)


_NS = statements.NS.encode()
_pieces = st.lists(
    st.sampled_from(
        [b"<encrypted", b" xmlns='%s'" % _NS, b" key='one'", b' key="one"', b" key='&amp;'", b">", b"/>",
         b"</encrypted>", b"AAAA", b"<a/>", b"&#65;", b" ", b"\n", b"xmlns:e='%s'" % _NS, b"<e:encrypted"]
    ),
    max_size=10,
).map(b"".join)  # fmt: skip


@given(_pieces)
def test_the_short_cut_reads_what_the_parser_reads(payload: bytes) -> None:
    if sealing._PLAIN.fullmatch(payload):
        found = sealing._parse(payload)
        element = xml.parse(payload)
        assert element.tag == sealing.ENCRYPTED
        assert found == (element.get("key"), xml.text_of(element).encode()) or not found


# -- statements -----------------------------------------------------------------------------------------------------

_nodes = st.builds(
    Node,
    st.sampled_from([JULIET, ROMEO, Address("pubsub.capulet.test")]),
    _text.filter(lambda t: len(t) >= 1),
)
_ids = st.from_regex(r"[!-~]{1,40}", fullmatch=True)
_reasons = st.lists(
    st.builds(Reason, _text.filter(bool), st.sampled_from(["", "en", "it"])), max_size=3, unique_by=lambda r: r.lang
).map(tuple)


@given(
    st.builds(
        Shared,
        _nodes,
        _ids,
        st.from_regex(r"[!-~]{16,60}", fullmatch=True),
        st.integers(1_000_000_000, int(NOW)).map(float),
        st.booleans(),
        _text,
    )
    | st.builds(Revoked, _nodes, _ids, _reasons)
)
def test_statements_come_back_as_they_were(statement: Shared | Revoked) -> None:
    found, rest = statements.split(Content(statements.encode(statement)))
    assert not rest.data
    assert [statements.parse(element, NOW) for element in found] == [statement]


@given(st.data())
def test_any_element_is_a_statement_or_malformed(data: st.DataObject) -> None:
    values = st.sampled_from(["", "x", "juliet@capulet.test", "true", "2026-05-28T20:00:00Z", VALUE, "\u202e" * 200])
    names = ("jid", "node", "id", "timestamp", "revoked", "type")
    chosen = data.draw(st.dictionaries(st.sampled_from(names), values | _text))
    element = etree.Element(data.draw(st.sampled_from([statements.SHARED_SECRET, statements.REVOKE])))
    for name, value in chosen.items():
        element.set(name, value)
    element.text = data.draw(_text | st.just(VALUE))
    if data.draw(st.booleans()):
        etree.SubElement(element, f"{{{statements.NS}}}reason").text = data.draw(_text)
    try:
        statement = statements.parse(element, NOW)
    except Malformed:
        return
    assert statements.parse(xml.parse(statements.encode(statement)), NOW) == statement


@given(st.binary(max_size=60))
def test_any_content_of_a_message(junk: bytes) -> None:
    try:
        statements.split(Content(junk + b"<a xmlns='urn:xmpp:openpgp:pubsub:0'/>"))
    except Malformed:
        pass


# -- names of records -----------------------------------------------------------------------------------------------

_part = st.text(st.sampled_from("a/%@: 2F\u00e9\0"), max_size=5)


@given(_part, _part, _part, _part, _part, _part)
def test_no_name_is_taken_for_another(a: str, b: str, c: str, d: str, e: str, f: str) -> None:
    one, other = Node(Address(a), b), Node(Address(d), e)
    same = (a, b, c) == (d, e, f)
    assert (records.key("secret", one, c) == records.key("secret", other, f)) is same
    assert records.parts_of(records.key("secret", one, c)) == (one, [c])
    assert records.key("secret", one, c).name.startswith(records.below("secret", other).name) is (one == other)


def test_a_record_of_a_later_version_is_refused() -> None:
    from tillie.errors import StoreTooNew

    s = Records(_S)
    key = records.key("node", BLOG)
    s[key] = b"\x02" + s[key][1:]
    with pytest.raises(StoreTooNew):
        secrets.newest(s, BLOG)
    assert key == Key("pubsub", "node", "juliet@capulet.test/a%20private%20blog")


# -- what needs no stretching ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "random"),
    [
        (VALUE, True),
        (VALUE[:42], False),
        (VALUE * 2, True),
        ("x" * 43, False),
        ("correct-horse-battery-staple", False),
        ("correct horse battery staple, correct horse battery staple", False),
        ("abcabcabcabc" * 5, False),
        (VALUE[:-1] + "+", False),
        (VALUE[:-1] + "\u00e9", False),
    ],
)
def test_only_a_random_secret_goes_without_stretching(
    value: str, random: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = Records()
    if say(s, ROMEO, JULIET, shared(value=value)) and secrets.newest(s, BLOG) is None:
        raise AssertionError(value)
    stretched = []
    monkeypatch.setattr(password, "seal", lambda p, w, *, stretch: stretched.append(stretch) or b"sealed")
    sealing.seal(s, BLOG, ENTRY)
    assert stretched == [not random]
