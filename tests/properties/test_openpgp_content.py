"""<signcrypt>, <sign> and <crypt>: the table of XEP-0373, and its checks against the stanza outside."""

from __future__ import annotations

from collections.abc import Callable
from os import urandom

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillie.envelope import codec, profile
from tillie.errors import Malformed, PeerError, Refused, TooLarge, UsageError
from tillie.model import Address, Content, Stanza
from tillie.schemes.openpgp import content, element
from tillie.schemes.openpgp.content import Form
from tillie.wire import xml

ALICE, BOB, CAROL = (Address(f"{name}@{name[0]}.example") for name in ("alice", "bob", "carol"))
NOW = 1_780_000_000.0
BODY = b"<body xmlns='jabber:client'>hello</body>"
HEAD = "<signcrypt xmlns='urn:xmpp:openpgp:0'>"
TO, TIME = f"<to jid='{BOB}'/>", "<time stamp='2026-05-28T20:26:40Z'/>"
PAYLOAD = f"<payload>{BODY.decode()}</payload>"
texts = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"))


def made(*children: str, form: str = "signcrypt") -> bytes:
    return f"<{form} xmlns='urn:xmpp:openpgp:0'>{''.join(children)}</{form}>".encode()


@given(
    st.sampled_from(Form), texts, st.sets(st.sampled_from([ALICE, BOB, CAROL]), min_size=1), st.integers(0, 4 * 10**9)
)
def test_what_is_written_is_read(form: Form, text: str, to: set[Address], time: int) -> None:
    inside = Content(b"<body xmlns='jabber:client'>" + xml.escape(text) + b"</body>")
    recipients = sorted(to)
    found = content.decode(content.encode(form, inside, recipients, float(time), urandom))
    assert (found.form, found.to, found.time) == (form, tuple(recipients), float(time))
    assert [child.text or "" for child in xml.parse_fragment(found.content.data)] == [text]
    assert found.padded == (form is not Form.SIGN)
    assert not found.discarded
    assert not found.unknown


def test_a_full_address_is_written_bare_and_once() -> None:
    found = content.decode(content.encode(Form.SIGNCRYPT, Content(BODY), [Address(f"{BOB}/x"), BOB], NOW, urandom))
    assert found.to == (BOB,)


def test_lengths_do_not_depend_on_short_contents() -> None:
    def length(text: str) -> int:
        inside = Content(f"<body xmlns='jabber:client'>{text}</body>".encode())
        return len(content.encode(Form.SIGNCRYPT, inside, [BOB], NOW, bytes))

    assert length("") == length("x" * 100) == content.MIN_CONTENT_BYTES
    lengths = {len(content.encode(Form.SIGNCRYPT, Content(BODY), [BOB], NOW, urandom)) for _ in range(300)}
    assert min(lengths) >= content.MIN_CONTENT_BYTES
    assert max(lengths) <= content.MIN_CONTENT_BYTES + codec.MAX_RANDOM_PADDING
    assert len(lengths) > 100


def test_the_size_of_content() -> None:
    frame = len(b"<body xmlns='jabber:client'></body>")
    largest = b"<body xmlns='jabber:client'>%b</body>" % (b"x" * (codec.MAX_CONTENT_BYTES - frame))
    assert content.encode(Form.SIGNCRYPT, Content(largest), [BOB], NOW, urandom)
    with pytest.raises(TooLarge):
        content.encode(Form.SIGNCRYPT, Content(largest.replace(b">x", b">xx")), [BOB], NOW, urandom)


@pytest.mark.parametrize("inside", [b"<openpgp xmlns='urn:xmpp:openpgp:0'>QQ==</openpgp>", b"<body/>", b"text", b"<a"])
def test_what_is_not_sealed(inside: bytes) -> None:
    with pytest.raises(UsageError):
        content.encode(Form.SIGNCRYPT, Content(inside), [BOB], NOW, urandom)


def test_children_may_come_in_any_order_and_with_white_space() -> None:
    found = content.decode(made("\n ", PAYLOAD, "\n", "<rpad>\n x</rpad>", TIME, f"<to jid='{CAROL}'/>", TO, "\n"))
    assert found.to == (CAROL, BOB)
    assert found.content.data.startswith(b"<body")


@pytest.mark.parametrize(
    "data",
    [
        made(TIME, PAYLOAD),  # no <to>
        made(TIME, PAYLOAD, form="sign"),
        made(TO, PAYLOAD),
        made(TO, TIME),
        made(TO, TIME, TIME, PAYLOAD),
        made(TO, TIME, PAYLOAD, PAYLOAD),
        made(TO, TIME, "<rpad/>", "<rpad/>", PAYLOAD),
        made("<to/>", TIME, PAYLOAD),
        made("<to jid=''/>", TIME, PAYLOAD),
        made("<to jid='bob@@'/>", TIME, PAYLOAD),
        made(TO, "<time/>", PAYLOAD),
        made(TO, "<time stamp='now'/>", PAYLOAD),
        made(TO, "<time stamp='2026-02-30T20:26:40Z'/>", PAYLOAD),
        made(TO, TIME, PAYLOAD, "text"),
        made(TO, TIME, "<payload>text</payload>"),
        made(TO, TIME, PAYLOAD, form="crypto"),
        made(TO, TIME, PAYLOAD).replace(b"openpgp:0", b"openpgp:1"),
        b"<?xml version='1.0'?>" + made(TO, TIME, PAYLOAD),
        b"<!DOCTYPE x>" + made(TO, TIME, PAYLOAD),
        made(TO, TIME, PAYLOAD).replace(b"hello", b"hel<!-- -->lo"),
        b"hello",
        b"",
    ],
)
def test_what_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        content.decode(data)


def test_crypt_needs_no_recipient() -> None:
    assert content.decode(made(TIME, PAYLOAD, form="crypt")).to == ()


def test_the_number_of_recipients() -> None:
    assert len(content.decode(made(TO * content.MAX_RECIPIENTS, TIME, PAYLOAD)).to) == content.MAX_RECIPIENTS
    with pytest.raises(Malformed):
        content.decode(made(TO * (content.MAX_RECIPIENTS + 1), TIME, PAYLOAD))


def test_bodies_of_servers_are_bodies() -> None:
    inside = "<body xmlns='jabber:server' xml:lang='en'>hi <b xmlns='u'>you</b></body><x xmlns='urn:x'/>"
    (body, other) = xml.parse_fragment(content.decode(made(TO, TIME, f"<payload>{inside}</payload>")).content.data)
    assert (body.tag, body.text, body[0].tag) == ("{jabber:client}body", "hi ", "{u}b")
    assert body.get("{http://www.w3.org/XML/1998/namespace}lang") == "en"
    assert other.tag == "{urn:x}x"


def test_what_only_servers_may_send_is_discarded() -> None:
    inside = BODY.decode() + "<delay xmlns='urn:xmpp:delay' stamp='x'/><error xmlns='jabber:server'/>"
    found = content.decode(made(TO, TIME, f"<payload>{inside}</payload>"))
    assert len(found.discarded) == 2
    assert found.content.data.count(b"<body") == 1
    assert b"delay" not in found.content.data
    notes = content.verify(found, stanza(), BOB, NOW).notes
    assert sum("Discarded" in note for note in notes) == 2


def test_hints_inside_are_dropped_without_a_word() -> None:
    inside = BODY.decode() + "<store xmlns='urn:xmpp:hints'/>"
    found = content.decode(made(TO, TIME, "<rpad/>", f"<payload>{inside}</payload>"))
    assert found.discarded
    assert content.verify(found, stanza(), BOB, NOW).notes == ()


# -- against the stanza ----------------------------------------------------------------------------------------------


def stanza(sender: Address = ALICE, to: Address = BOB, **changes: object) -> Stanza:
    return Stanza("message", Address(f"{sender}/x"), Address(f"{to}/y"), "chat", "1", **changes)  # type: ignore[arg-type]


def decoded(*to: Address, time: float = NOW, form: Form = Form.SIGNCRYPT) -> content.Decoded:
    return content.decode(content.encode(form, Content(BODY), to, time, urandom))


def test_what_fits() -> None:
    envelope, time, notes = content.verify(decoded(BOB), stanza(), BOB, NOW)
    assert (envelope.content.data, envelope.to, time, notes) == (BODY, BOB, NOW, ())


def test_one_of_several_recipients() -> None:
    assert content.verify(decoded(CAROL, BOB), stanza(), BOB, NOW).envelope.to == BOB


def test_a_copy_of_what_we_sent() -> None:
    assert content.verify(decoded(CAROL), stanza(BOB, CAROL, via="carbon"), BOB, NOW).envelope.to == CAROL


@pytest.mark.parametrize(
    ("inside", "around"),
    [
        ((CAROL,), stanza()),  # passed on by Carol, to whom Alice wrote
        ((BOB,), stanza(ALICE, CAROL)),  # the outer one is not ours
        ((CAROL,), stanza(ALICE, CAROL)),
        ((BOB,), stanza(BOB, CAROL)),  # a copy of ours that was for somebody else
        ((Address("b.example"),), stanza()),
        ((Address("bоb@b.example"),), stanza()),  # a Cyrillic letter
    ],
)
def test_for_somebody_else(inside: tuple[Address, ...], around: Stanza) -> None:
    with pytest.raises(Refused):
        content.verify(decoded(*inside), around, BOB, NOW)


def test_other_spellings_of_our_address() -> None:
    found = content.decode(made("<to jid='BOB@B.example/phone'/>", TIME, "<rpad/>", PAYLOAD))
    assert content.verify(found, stanza(), BOB, NOW).envelope.to == BOB


@pytest.mark.parametrize(
    ("time", "refused"),
    [
        (NOW + profile.MAX_AHEAD, False),
        (NOW + profile.MAX_AHEAD + 1, True),
        (NOW - profile.MAX_DELAY, False),
        (NOW - profile.MAX_DELAY - 1, True),
    ],
)
def test_its_time(time: float, refused: bool) -> None:
    if refused:
        with pytest.raises(Refused):
            content.verify(decoded(BOB, time=time), stanza(), BOB, NOW)
    else:
        assert content.verify(decoded(BOB, time=time), stanza(), BOB, NOW).notes


def test_what_has_no_padding_is_noted() -> None:
    assert any(
        "padding" in note for note in content.verify(content.decode(made(TO, TIME, PAYLOAD)), stanza(), BOB, NOW).notes
    )


def test_what_is_unknown_is_noted() -> None:
    found = content.decode(made(TO, TIME, "<rpad/>", PAYLOAD, "<new/>"))
    assert any("new" in note for note in content.verify(found, stanza(), BOB, NOW).notes)


def test_crypt_without_recipient_fits_whoever_can_read_it() -> None:
    assert content.verify(decoded(form=Form.CRYPT), stanza(), BOB, NOW).envelope.to == BOB
    with pytest.raises(Refused):
        content.verify(decoded(CAROL, form=Form.CRYPT), stanza(), BOB, NOW)


# -- <openpgp> -------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=1))
def test_an_element_is_read_as_it_was_written(data: bytes) -> None:
    assert element.decode(element.encode(data)) == data


@pytest.mark.parametrize(
    "data",
    [
        b"<openpgp xmlns='urn:xmpp:openpgp:0'/>",
        b"<openpgp>QQ==</openpgp>",
        b"<openpgp xmlns='urn:xmpp:openpgp:0'>Q</openpgp>",
    ],
)
def test_elements_that_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        element.decode(data)


@given(st.binary(min_size=1), st.sampled_from(["'", '"']), st.sampled_from(["", "\n", " "]), st.sampled_from(["", "="]))
def test_an_element_is_read_by_a_short_cut_or_by_a_parser(data: bytes, quote: str, space: str, end: str) -> None:
    written = element.encode(data).decode().replace("'", quote).replace("<", f"{space}<").encode()
    if end:
        written = written.replace(b"</", b"=</")
    parsed = written.replace(b"<openpgp ", b"<openpgp  ")  # the short cut does not take it
    assert element._PLAIN.fullmatch(parsed) is None
    assert _outcome(element.decode, written) == _outcome(element.decode, parsed)


def _outcome(decode: Callable[[bytes], object], data: bytes) -> object:
    try:
        return decode(data)
    except Malformed:
        return "malformed"


WHOLE = content.encode(Form.SIGNCRYPT, Content(BODY), [BOB], NOW, bytes)


inside = st.lists(
    st.sampled_from(
        [
            "<body xmlns='jabber:client'>hi</body>",
            "<body xmlns='jabber:server'>hi</body>",
            "<x xmlns='urn:x' a='1'/>",
            "<delay xmlns='urn:xmpp:delay'/>",
            "<x xmlns='urn:x'><y/></x>",
            " ",
            "text",
        ]
    )
)
as_written = st.sampled_from([[TO, TIME, "<rpad>abc</rpad>"], [TO, TO, TIME], [TIME]])
in_disorder = st.sampled_from([TO, TIME, "<rpad>abc</rpad>", "<rpad/>", "<to jid='@'/>", "<new/>", " "])
outside = as_written | st.lists(in_disorder, max_size=5)


@given(outside, inside, st.sampled_from(Form))
def test_content_is_read_by_a_short_cut_or_by_a_parser(around: list[str], within: list[str], form: Form) -> None:
    data = made(*around, f"<payload>{''.join(within)}</payload>", form=form.value)
    parsed = data.replace(b" xmlns='urn:xmpp:openpgp:0'", b"  xmlns='urn:xmpp:openpgp:0'", 1)
    assert content._HEAD.match(parsed.decode()) is None
    short, long = _outcome(content.decode, data), _outcome(content.decode, parsed)
    if isinstance(short, content.Decoded) and isinstance(long, content.Decoded):
        tags = [[(each.tag, each.text) for each in xml.parse_fragment(found.content.data)] for found in (short, long)]
        assert tags[0] == tags[1]
        short, long = (found._replace(content=Content(b"")) for found in (short, long))
    assert short == long


@given(st.integers(0, len(WHOLE)), st.binary(max_size=12), st.integers(0, 40))
def test_altered_bytes_are_read_or_refused(at: int, put: bytes, cut: int) -> None:
    try:
        content.verify(content.decode(WHOLE[:at] + put + WHOLE[at + cut :]), stanza(), BOB, NOW)
    except PeerError:
        pass
    try:
        element.decode(WHOLE[:at] + put + WHOLE[at + cut :])
    except Malformed:
        pass
