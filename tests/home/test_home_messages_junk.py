"""Whatever comes in: bodies, tokens and files are taken or refused, and never a fault of the home."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tillie.directory.matrix import DRAFT2015, V1
from tillie.errors import Malformed
from tillie.home import honesty
from tillie.home.accounts import Who
from tillie.home.answers import Refused
from tillie.home.keys import Body, read_upload
from tillie.home.routes_messages import Position, read_messages
from tillie.model import Address

T = TypeVar("T")

_USER = Address("@bob:home.test")
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=8,
)
_names = st.sampled_from(["signed_curve25519:a", "curve25519:a", "curve25519", ":", "signed_curve25519:ü"])
_key = st.fixed_dictionaries(
    {},
    optional={
        "key": _values | st.just("A" * 43),
        "signatures": _values | st.just({_USER: {"ed25519:B": "A" * 86}}),
        "fallback": _values,
    },
)
_uploads = st.fixed_dictionaries(
    {},
    optional={
        "device_keys": _values
        | st.fixed_dictionaries(
            {"user_id": st.just(str(_USER)), "device_id": st.just("B")},
            optional={"algorithms": _values, "keys": _values, "signatures": _values},
        ),
        "one_time_keys": _values | st.dictionaries(_names, _key | _values, max_size=3),
        "fallback_keys": _values | st.dictionaries(_names, _key | _values, max_size=3),
    },
)


def _try(read: Callable[[], T]) -> T | None:
    """What was read; None if it was refused, and that for the asker's fault."""
    try:
        return read()
    except Refused as refused:
        if refused.status not in (400, 413):
            raise
        return None


@given(_uploads, st.sampled_from([V1, DRAFT2015]))
def test_any_upload_is_taken_or_refused(body: dict[str, Any], profile: Any) -> None:
    try:
        typed = msgspec.json.decode(json.dumps(body), type=Body)
    except msgspec.ValidationError:
        return
    found = _try(lambda: read_upload(typed, Who(_USER, "B"), profile))
    if found is not None:
        assert found.device_keys == b""
        for key in (*found.one_time, *found.fallback):
            assert len(key.public) == 32


@given(st.dictionaries(st.just("messages"), _values | st.dictionaries(st.text(), st.dictionaries(st.text(), _values))))
def test_any_messages_are_taken_or_refused(body: dict[str, Any]) -> None:
    found = _try(lambda: read_messages(body))
    if found is not None:
        contents = [content for contents in found.values() for content in contents.values()]
        assert all(isinstance(json.loads(content), dict) for content in contents)


@given(st.text())
def test_any_token_is_taken_or_refused(token: str) -> None:
    found = _try(lambda: Position.parse(token))
    assert found is None or str(found) == token


@given(st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1))
def test_a_token_is_read_as_it_was_written(message: int, news: int) -> None:
    assert Position.parse(str(Position(message, news))) == (message, news)


@given(st.binary() | _values.map(lambda value: json.dumps(value).encode()))
def test_any_file_is_read_or_refused(data: bytes) -> None:
    try:
        assert all(isinstance(each, dict) for each in honesty.read_saved(data, _USER))
    except Malformed:
        pass
