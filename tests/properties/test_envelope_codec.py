"""envelope.codec: XEP-0420 envelopes, written and read strictly (B32, B33, B36)."""

from __future__ import annotations

from collections import Counter
from os import urandom

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tillie.envelope import codec
from tillie.envelope.codec import MAX_CONTENT_BYTES, MAX_RANDOM_PADDING, MIN_ENVELOPE_BYTES, decode, encode
from tillie.errors import Malformed, TooLarge, UsageError
from tillie.model import Address, Content, Envelope
from tillie.wire import xml

BODY = Content(b"<body xmlns='jabber:client'>Hello &amp; good-bye</body>")
ALICE, BOB = Address("alice@example.org"), Address("bob@example.org/phone")


def zeros(length: int) -> bytes:
    return bytes(length)


def sealed(inside: bytes) -> bytes:
    return b"<envelope xmlns='urn:xmpp:sce:1'>" + inside + b"</envelope>"


TEXT = st.text(st.characters(codec="utf-8", min_codepoint=32, exclude_characters="\ufffe\uffff"), max_size=30)
ADDRESSES = st.sampled_from([None, ALICE, BOB, Address("\u00e9@m\u00fcnchen.de/'\"<&>"), Address("o\\27x@example.org")])
CONTENTS = st.lists(
    st.one_of(
        TEXT.map(lambda text: b"<body xmlns='jabber:client'>" + xml.escape(text) + b"</body>"),
        TEXT.map(lambda text: b"<x xmlns='urn:x' b=" + xml.attribute(text) + b"/>"),
        TEXT.map(lambda text: b'<x xmlns="urn:x"><y>' + xml.escape(text) + b"</y></x>"),
        st.just(b"<p:z xmlns:p='urn:z'><p:content/></p:z>"),
        st.just(b"<a xmlns='urn:a'><b xmlns=''/></a>"),
    ),
    max_size=4,
).map(lambda elements: Content(b"".join(elements)))
ENVELOPES = st.builds(
    Envelope,
    CONTENTS,
    sender=ADDRESSES,
    to=ADDRESSES,
    time=st.one_of(st.none(), st.integers(0, 4_000_000_000_000).map(lambda ms: ms / 1000)),
    iq=st.one_of(st.none(), st.tuples(st.sampled_from(sorted(codec.IQ_TYPES)), TEXT.filter(bool))),
)


def canonical(content: Content) -> list[bytes]:
    from lxml import etree

    return [
        etree.tostring(child, method="c14n", exclusive=True, with_tail=False)
        for child in xml.parse_fragment(content.data)
    ]


@given(ENVELOPES, st.binary(min_size=8, max_size=8))
def test_an_envelope_comes_back(envelope: Envelope, drawn: bytes) -> None:
    data = encode(envelope, lambda length: drawn + urandom(length - 8))
    decoded = decode(data)
    again = decoded.envelope
    assert canonical(again.content) == canonical(envelope.content)
    assert (again.sender, again.to, again.iq) == (envelope.sender, envelope.to, envelope.iq)
    assert again.time == (None if envelope.time is None else pytest.approx(envelope.time, abs=0.001))
    present = {"from": again.sender, "to": again.to, "time": again.time, "iq": again.iq}
    assert decoded.affixes == {"rpad"} | {name for name, value in present.items() if value is not None}
    assert decoded.discarded == decoded.unknown == ()


@given(ENVELOPES)
def test_the_short_cut_reads_what_the_parser_reads(envelope: Envelope) -> None:
    data = encode(envelope, urandom)
    quick = codec._decode_flat(data)
    slow = decode(b" " + data)  # which the short cut does not know
    if quick is None:
        return
    assert canonical(quick.envelope.content) == canonical(slow.envelope.content)
    assert (quick.affixes, quick.unknown, quick.discarded) == (slow.affixes, slow.unknown, slow.discarded)
    for field in ("sender", "to", "time", "iq"):
        assert getattr(quick.envelope, field) == getattr(slow.envelope, field)


def test_the_short_cut_is_taken_for_a_body() -> None:
    assert codec._decode_flat(encode(Envelope(BODY, sender=ALICE, time=1.5), urandom))


# -- padding --------------------------------------------------------------------------------------------------------


def test_short_envelopes_have_lengths_that_do_not_depend_on_the_content() -> None:
    lengths = [len(encode(Envelope(Content(b"<a xmlns='urn:x'>%s</a>" % (b"x" * n))), zeros)) for n in (0, 1, 100, 300)]
    assert set(lengths) == {MIN_ENVELOPE_BYTES}


def test_the_random_part_of_the_padding() -> None:
    for size in (0, 2 * MIN_ENVELOPE_BYTES):
        envelope = Envelope(Content(b"<a xmlns='urn:x'>%s</a>" % (b"x" * size)))
        least = len(encode(envelope, zeros))
        counts = Counter(len(encode(envelope, urandom)) - least for _ in range(4_000))
        assert set(counts) <= set(range(MAX_RANDOM_PADDING + 1))
        assert len(counts) == MAX_RANDOM_PADDING + 1  # each of 201 lengths misses 4,000 draws once in 2 million runs
    assert len(encode(envelope, lambda n: b"\xff" * n)) - least == (2**64 - 1) % (MAX_RANDOM_PADDING + 1)


def test_padding_of_the_largest_draw() -> None:
    drawn = (MAX_RANDOM_PADDING).to_bytes(8, "big")
    data = encode(Envelope(Content(b"")), lambda n: drawn + bytes(n - 8))
    assert len(data) == MIN_ENVELOPE_BYTES + MAX_RANDOM_PADDING


@pytest.mark.parametrize("padding", [b"", b"x" * 300_000, "\u00e9 \n!%^".encode(), b"&lt;"])
def test_longer_or_other_paddings_are_read(padding: bytes) -> None:
    assert "rpad" in decode(sealed(b"<content/><rpad>" + padding + b"</rpad>")).affixes


# -- what is refused ------------------------------------------------------------------------------------------------

TIME = b"<time stamp='2026-11-01T12:00:00Z'/>"


@pytest.mark.parametrize(
    "data",
    {
        "empty": b"",
        "text": b"hello",
        "a body alone": BODY.data,
        "another namespace": b"<envelope xmlns='urn:xmpp:sce:0'><content/></envelope>",
        "no namespace": b"<envelope><content/></envelope>",
        "content alone": b"<content xmlns='urn:xmpp:sce:1'/>",
        "two envelopes": sealed(b"<content/>") * 2,
        "no content": sealed(b"<rpad/>"),
        "content of another namespace": sealed(b"<content xmlns='urn:x'/>"),
        "content twice": sealed(b"<content/><content/>"),
        "rpad twice": sealed(b"<content/><rpad/><rpad/>"),
        "time twice": sealed(b"<content/>" + TIME + TIME),
        "from twice": sealed(b"<content/><from jid='a@b'/><from jid='a@b'/>"),
        "to twice": sealed(b"<content/><to jid='a@b'/><to jid='a@b'/>"),
        "iq twice": sealed(b"<content/>" + b"<iq xmlns='urn:tillie:sce:0' type='get' id='1'/>" * 2),
        "text in the envelope": sealed(b"<content/>x"),
        "text before the content": sealed(b"x<content/>"),
        "text in the content": sealed(b"<content>x</content>"),
        "text between elements": sealed(b"<content><a xmlns='urn:x'/>x</content>"),
        "elements in rpad": sealed(b"<content/><rpad><a/></rpad>"),
        "elements in from": sealed(b"<content/><from jid='a@b'><a/></from>"),
        "from without address": sealed(b"<content/><from/>"),
        "from of nobody": sealed(b"<content/><from jid=''/>"),
        "from with a bad address": sealed(b"<content/><from jid='a@b@c'/>"),
        "to with a bad address": sealed(b"<content/><to jid='@b'/>"),
        "namespaced attribute": sealed(b"<content/><from xmlns:p='urn:x' p:jid='a@b'/>"),
        "time without stamp": sealed(b"<content/><time/>"),
        "time of no day": sealed(b"<content/><time stamp='2026-02-30T12:00:00Z'/>"),
        "time as a number": sealed(b"<content/><time stamp='1793534400'/>"),
        "iq without id": sealed(b"<content/><iq xmlns='urn:tillie:sce:0' type='get'/>"),
        "iq with an empty id": sealed(b"<content/><iq xmlns='urn:tillie:sce:0' type='get' id=''/><rpad></rpad>"),
        "iq of another type": sealed(b"<content/><iq xmlns='urn:tillie:sce:0' type='put' id='1'/>"),
        "comment": sealed(b"<content><!-- --></content>"),
        "doctype": b"<!DOCTYPE envelope>" + sealed(b"<content/>"),
        "declaration": b"<?xml version='1.0'?>" + sealed(b"<content/>"),
        "not UTF-8": sealed(b"<content><body xmlns='jabber:client'>\xff</body></content>"),
        "too deep": sealed(b"<content>" + b"<a>" * 10_000 + b"</a>" * 10_000 + b"</content>"),
        "too long": sealed(b"<content/><rpad>" + b"x" * codec.MAX_ENVELOPE_BYTES + b"</rpad>"),
    }.items(),
    ids=lambda item: item[0],
)
def test_malformed(data: tuple[str, bytes]) -> None:
    with pytest.raises(Malformed):
        decode(data[1])


def test_affixes_of_other_schemes_are_ignored_and_reported() -> None:
    decoded = decode(sealed(b"<content/><subject/><hash xmlns='urn:x'>1</hash><from xmlns='urn:x' jid='a@b'/>"))
    assert decoded.unknown == ("<subject> (urn:xmpp:sce:1)", "<hash> (urn:x)", "<from> (urn:x)")
    assert decoded.envelope.sender is None


def test_addresses_are_normalised() -> None:
    assert decode(sealed(b"<content/><from jid='ALICE@Example.org'/>")).envelope.sender == ALICE


@pytest.mark.parametrize(
    "inside",
    [
        b"<body xmlns='jabber:client'>x</body><store xmlns='urn:xmpp:hints'/>",
        b"<envelope xmlns='urn:xmpp:sce:1'/><body xmlns='jabber:client'>x</body>",
        b"<body xmlns='jabber:client'>x</body><body>y</body>",
        b"<body xmlns='jabber:client'>x</body><body xmlns=''>y</body>",
    ],
)
def test_forbidden_elements_are_discarded_and_the_rest_is_read(inside: bytes) -> None:
    data = encode(Envelope(Content(b"")), zeros).replace(b"<content></content>", b"<content>" + inside + b"</content>")
    decoded = decode(data)
    (body,) = xml.parse_fragment(decoded.envelope.content.data)
    assert (body.tag, body.text) == ("{jabber:client}body", "x")
    assert len(decoded.discarded) == 1


def test_discarded_names_are_safe_to_show() -> None:
    (name,) = decode(sealed("<content><x\U000e0041 xmlns='urn:xmpp:hints'/></content>".encode())).discarded
    assert name == "<x\\U000e0041> (urn:xmpp:hints)"


def test_content_that_must_not_be_sealed() -> None:
    for bad in (
        b"<store xmlns='urn:xmpp:hints'/>",
        b"<stanza-id xmlns='urn:xmpp:sid:0' id='1' by='a@b'/>",
        b"<body>no namespace</body>",
        b"text",
        b"<a xmlns='urn:x'>",
        b"</content><from jid='mallory@example.org'/><content>",
        b"<!-- --><a xmlns='urn:x'/>",
        b"<p:a xmlns:p='urn:x'><envelope/></p:a>",
    ):
        with pytest.raises(UsageError):
            encode(Envelope(Content(bad)), zeros)


def test_size_of_content() -> None:
    def content(size: int) -> Envelope:
        return Envelope(Content(b"<a xmlns='urn:x'>" + b"x" * (size - 21) + b"</a>"))

    assert decode(encode(content(MAX_CONTENT_BYTES), zeros)).envelope == content(MAX_CONTENT_BYTES)
    with pytest.raises(TooLarge):
        encode(content(MAX_CONTENT_BYTES + 1), zeros)


@pytest.mark.parametrize("iq", [("put", "1"), ("get", ""), ("get", "x" * (codec.MAX_ID_CHARACTERS + 1)), ("get", "\0")])
def test_iq_affix_that_can_not_be_written(iq: tuple[str, str]) -> None:
    with pytest.raises(UsageError):
        encode(Envelope(BODY, iq=iq), zeros)


GOOD = encode(Envelope(BODY, ALICE, BOB, 1.5, ("get", "x")), zeros)


@given(st.integers(0, len(GOOD)), st.binary(max_size=6), st.integers(0, 40))
@example(0, b"", 0)
def test_mutated_envelopes_raise_only_typed_errors(at: int, inserted: bytes, cut: int) -> None:
    data = GOOD[:at] + inserted + GOOD[at + cut :]
    try:
        decoded = decode(data)
    except Malformed:
        return
    if decoded.envelope.content.data:
        xml.parse_fragment(decoded.envelope.content.data)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_only_typed_errors(data: bytes) -> None:
    for attempt in (data, sealed(data), sealed(b"<content>" + data + b"</content>")):
        try:
            decode(attempt)
        except Malformed:
            pass
