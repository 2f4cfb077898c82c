"""Names on Matrix: what is one, and how long it may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillie.errors import InvalidAddress, Malformed
from tillie.wire import matrix


@given(st.text(max_size=30) | st.text("@:[].-aA0", max_size=12))
def test_any_text_is_a_name_or_none(text: str) -> None:
    try:
        user = matrix.parse_user_id(text)
    except InvalidAddress:
        return
    assert user == text
    assert user.is_matrix
    assert matrix.is_server_name(user.domain)


@pytest.mark.parametrize(
    "text",
    [
        "@a:b", "@a/b:c.example:8448", "@A!B:c", "@a:[2001:db8::1]:443", "@a:1.2.3.4", "@a:B.example",
        f"@{'a' * (matrix.MAX_USER_ID_BYTES - 3)}:b", f"@a:{'b' * matrix.MAX_SERVER_NAME}",
    ],
)  # fmt: skip
def test_user_ids_of_anybody(text: str) -> None:
    assert matrix.parse_user_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "@", "@a", "a:b", "@:b", "@a:", "@a b:c", "@a\n:b", "@a:b\n", "@é:b", "@a\ud800:b", "@a:b c", "@a:b:0",
        "@a:b:65536", "@a:b:", "@a:b/c", "@a:[::1", "@a:b:x", "@a:b:٣", f"@{'a' * (matrix.MAX_USER_ID_BYTES - 2)}:b",
        f"@a:{'b' * (matrix.MAX_SERVER_NAME + 1)}",
    ],
)  # fmt: skip
def test_what_is_no_user_id(text: str) -> None:
    with pytest.raises(InvalidAddress):
        matrix.parse_user_id(text)


@pytest.mark.parametrize("name", ["Alice", "a!b", "", "a:b", "é"])
def test_what_may_not_be_made_today(name: str) -> None:
    with pytest.raises(InvalidAddress):
        matrix.new_user_id(name, "b")
    assert matrix.new_user_id("a._=/+-0", "b") == "@a._=/+-0:b"


def test_device_and_key_ids() -> None:
    for text in ("D", "a:b", "!" * matrix.MAX_ID):
        assert matrix.is_device_id(text)
    for text in ("", "*", "a b", "a\n", "é", "\x1b", "!" * (matrix.MAX_ID + 1), 1, None):
        assert not matrix.is_device_id(text)
    for text in ("AAAAHg", "a+/=._~-", "A" * matrix.MAX_ID):
        assert matrix.is_key_id(text)
    for text in ("", "a:b", "a\n", "A" * (matrix.MAX_ID + 1)):
        assert not matrix.is_key_id(text)


def test_names_of_keys_are_split_at_the_first_colon() -> None:
    assert matrix.split_key_id("ed25519:a:b") == ("ed25519", "a:b")
    for text in ("", "ed25519", "ed25519:", ":a", None, 1):
        with pytest.raises(Malformed):
            matrix.split_key_id(text)
