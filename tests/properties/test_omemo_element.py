"""<encrypted> is read by a short cut or by a tree; both must always agree."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tillie.errors import Malformed
from tillie.model import Address
from tillie.schemes.omemo import element
from tillie.schemes.omemo.element import Encrypted, Key

BOB = Address("bob@b.example")
KEY = Key(7, False, b"abc")
ONE = element.encode(3, [(BOB, [KEY])], b"0123456789abcdef")


def both(data: bytes, device: int = 7) -> tuple[Encrypted | None, Encrypted | str]:
    return outcome(element._decode_plain, data, device), outcome(element._decode_tree, data, device)


def outcome(decode: Callable[[bytes, Address, int], Encrypted | None], data: bytes, device: int) -> Encrypted | str:
    try:
        return decode(data, BOB, device)
    except Malformed:
        return "malformed"


def test_the_short_cut_takes_what_we_write() -> None:
    assert both(ONE) == (Encrypted(3, KEY, b"0123456789abcdef"),) * 2


@pytest.mark.parametrize(
    "data",
    [
        ONE.replace(b"'", b'"'),  # as slixmpp writes it
        ONE.replace(b"rid='7'", b"kex='true' rid='7'"),  # as the XEP prints it
        ONE.replace(b"rid='7'", b"rid='7' kex='true'"),
        ONE.replace(b"rid='7'", b"rid='8'"),
        ONE.partition(b"<payload>")[0] + b"</encrypted>",
    ],
)
def test_the_short_cut_knows_the_common_spellings(data: bytes) -> None:
    plain, tree = both(data)
    assert plain is not None
    assert plain == tree


@pytest.mark.parametrize(
    "data",
    [
        ONE.replace(b"rid='7'", b"rid='7\""),
        ONE.replace(b"rid='7'", b"rid='7' rid='7'"),
        ONE.replace(b"rid='7'", b"rid='7' kex='true' kex='true'"),
        ONE.replace(b"rid='7'", b"rid='7' kex='yes'"),
        ONE.replace(b"<key ", b"<key rid='7'>YWJj</key><key "),
        ONE.replace(b"</keys>", b"</keys><keys jid='bob@b.example'><key rid='7'>YWJj</key></keys>"),
        ONE.replace(b"</keys>", b"</keys><keys jid='BOB@b.example'><key rid='7'>YWJj</key></keys>"),
        ONE.replace(b"sid='3'", b"sid='2147483648'"),
        ONE.replace(b"sid='3'", b"sid='0'"),
        ONE.replace(b"<payload>", b"<payload>A</payload><payload>"),
        ONE.replace(b"YWJj", b"YWJjA"),
        ONE.replace(b"YWJj", b"b'YWJj'"),
        ONE + ONE,
        ONE[:-1],
    ],
)
def test_what_breaks_the_rules_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        element.decode(data, BOB, 7)


_pieces = st.sampled_from(
    [
        b"<encrypted xmlns='urn:xmpp:omemo:2'>", b"</encrypted>", b"<header sid='3'>", b"</header>", b"<key rid='7'>",
        b"<keys jid='bob@b.example'>", b"<keys jid='Bob@b.example'>", b"<keys jid='b.example'>", b"</keys>", b"</key>",
        b"<key kex='true' rid='7'>", b"<key rid='7' kex=\"true\">", b"<key rid='77'>", b"YWJj", b"YW Jj", b" ", b"\n",
        b"<payload>", b"</payload>", b"<x/>", b"<!--x-->", b"&amp;", b"\0", b"\xff", b"'", b'"',
    ]
)  # fmt: skip


@st.composite
def _altered(draw: st.DrawFn) -> bytes:
    """An element that was well-formed, with pieces put in, taken out or swapped."""
    keys = [Key(draw(st.sampled_from([7, 8, 77])), draw(st.booleans()), b"abc") for _ in range(draw(st.integers(1, 3)))]
    groups = [(draw(st.sampled_from([BOB, Address("a@a.example"), Address("bob@b.example/x")])), keys)]
    data = element.encode(draw(st.integers(1, 2**31)), groups * draw(st.integers(1, 2)), draw(st.none() | st.binary()))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(_pieces) + data[at + draw(st.integers(0, 12)) :]
    return data


@given(_altered() | st.lists(_pieces, max_size=12).map(b"".join))
@example(ONE.replace(b"</keys>", b"</keys><keys jid='BOB@B.example'><key rid='7'>YWJj</key></keys>"))
def test_the_short_cut_agrees_with_the_tree(data: bytes) -> None:
    plain, tree = both(data)
    if plain is not None:
        assert plain == tree
