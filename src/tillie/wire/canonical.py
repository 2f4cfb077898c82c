"""JSON as Matrix signs it (Matrix specification 1.19, appendices, "Canonical JSON").

`parse` reads what others wrote and may have signed: what has two readings (a member twice, a fraction, a number beyond
2^53, half of a surrogate pair) is refused, because two programs would verify one signature over different things.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec

from tillie.errors import Malformed

MAX_BYTES = 1 << 20  # unless the caller says otherwise
MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1

Object = dict[str, Any]


def parse(data: bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """The value of one JSON text, strictly. Raises `Malformed`."""
    if len(data) > max_bytes:
        raise Malformed(f"The JSON is longer than {max_bytes} bytes.")
    value = _read(data)
    _check(value, MAX_DEPTH)
    return value


def _read(data: bytes) -> Any:
    # What is the same when it is written again has one reading. Most JSON is; that with spaces takes twice as long.
    with suppress(ValueError, RecursionError):
        value = _decoder.decode(data)
        if _writer.encode(value) == data:
            return value
    try:
        return json.loads(
            data.decode(), object_pairs_hook=_object, parse_float=_number, parse_constant=_number, parse_int=_integer
        )
    except (ValueError, RecursionError):
        raise Malformed("The JSON is not valid.") from None


_decoder = msgspec.json.Decoder()
_writer = msgspec.json.Encoder()


def parse_object(data: bytes, *, max_bytes: int = MAX_BYTES) -> Object:
    """As `parse`, for an object. Raises `Malformed`."""
    value = parse(data, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise Malformed("The JSON is not an object.")
    return value


def split_object(data: bytes, *, max_bytes: int) -> dict[str, bytes]:
    """The members of an object, each still to be parsed: what is wrong with one costs no other. Raises `Malformed`."""
    if len(data) > max_bytes:
        raise Malformed(f"The JSON is longer than {max_bytes} bytes.")
    try:
        return {name: bytes(each) for name, each in _members.decode(data).items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Malformed("The JSON is not an object.") from None


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def encode(value: object) -> bytes:
    """A value in canonical form. Raises `Malformed` for what has none: fractions, large integers, names that are no
    strings, half of a surrogate pair."""
    _check(value, MAX_DEPTH)
    return _encoder.encode(value).encode()


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _object(pairs: list[tuple[str, Any]]) -> Object:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("The JSON has a member twice.")
    return found


def _number(text: str) -> Any:
    raise Malformed("The JSON has a number that is not an integer.")


def _integer(text: str) -> int:
    if len(text) > 17 or text == "-0":
        raise Malformed("The JSON has an integer that is out of range.")
    return int(text)


def _check(value: object, depth: int) -> None:
    if isinstance(value, str):
        if not value.isascii():
            _check_text(value)
    elif isinstance(value, dict):
        if not depth:
            raise Malformed("The JSON is nested too deeply.")
        for name, each in value.items():
            if not isinstance(name, str):
                raise Malformed("The JSON has a name that is not a string.")
            if not name.isascii():
                _check_text(name)
            if type(each) is not str or not each.isascii():
                _check(each, depth - 1)
    elif isinstance(value, list | tuple):
        if not depth:
            raise Malformed("The JSON is nested too deeply.")
        for each in value:
            _check(each, depth - 1)
    elif isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise Malformed("The JSON has an integer that is out of range.")
    elif value is not None:
        raise Malformed("The JSON has a value that canonical JSON can't hold.")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Malformed("The JSON has half of a surrogate pair.") from None
