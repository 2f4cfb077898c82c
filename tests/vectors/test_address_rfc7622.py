"""Addresses of RFC 7622 section 3.5, both of its tables.

Provenance: RFC 7622 (September 2015), tables 1 and 2, typed in by hand. Table 1 says which strings are addresses, not
what they normalise to; where that differs from the string, the third column is ours, from RFC 8265.
"""

from __future__ import annotations

import pytest

from tillie.errors import InvalidAddress
from tillie.wire import address

VALID = [
    (1, "juliet@example.com", None),
    (2, "juliet@example.com/foo", None),
    (3, "juliet@example.com/foo bar", None),
    (4, "juliet@example.com/foo@bar", None),
    (5, "foo\\20bar@example.com", None),
    (6, "fussball@example.com", None),
    (7, "fu\u00dfball@example.com", None),
    (8, "\u03c0@example.com", None),
    (9, "\u03a3@example.com/foo", "\u03c3@example.com/foo"),
    (10, "\u03c3@example.com/foo", None),
    (11, "\u03c2@example.com/foo", None),
    (12, "king@example.com/\u265a", None),
    (13, "example.com", None),
    (14, "example.com/foobar", None),
    (15, "a.example.com/b@example.net", None),
]
INVALID = [
    (16, '"juliet"@example.com', "quotation marks"),
    (17, "foo bar@example.com", "a space in the localpart"),
    (18, "juliet@example.com/", "an empty resource"),
    (19, "@example.com/", "an empty localpart"),
    (20, "henry\u2163@example.com", "Roman numeral four"),
    (21, "\u265a@example.com", "a symbol in the localpart"),
    (22, "juliet@", "no domain"),
    (23, "/foobar", "no domain"),
]


@pytest.mark.parametrize(("number", "text", "normal"), VALID)
def test_valid(number: int, text: str, normal: str | None) -> None:
    assert address.parse(text) == (normal or text)


@pytest.mark.parametrize(("number", "text", "why"), INVALID)
def test_invalid(number: int, text: str, why: str) -> None:
    with pytest.raises(InvalidAddress):
        address.parse(text)
