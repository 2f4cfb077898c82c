"""wire.base64, time, protobuf and display (B7, B19, B62)."""

from __future__ import annotations

import base64 as standard
from datetime import UTC, datetime
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tillie.errors import Malformed
from tillie.schemes.omemo import omemo_pb2
from tillie.wire import base64, protobuf, time
from tillie.wire.display import MAX_FILE_NAME_BYTES, MAX_SHOWN, printable, safe_name

# -- base64 ---------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=100))
def test_base64_comes_back(data: bytes) -> None:
    text = base64.encode(data)
    assert text == standard.b64encode(data).decode()
    assert base64.decode(text, max_bytes=100) == data
    assert base64.decode(f" \n\t{text}\r\n", max_bytes=len(data)) == data
    assert base64.decode(text.encode(), max_bytes=len(data)) == data


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AA",
        "AAA",
        "AA=",
        "A===",
        "====",
        "=",
        "AAAA=",
        "AAAA====",
        "AA==AAAA",
        "AA==AA==",
        "AA===",
        "AB==",
        "AAB=",
        "b'AA=='",
        "'AA=='",
        "A A==",
        "AA\n==",
        "AAAA\nAAAA",
        "AA=\n=",
        "_-8=",
        "AA..",
        "%41A==",
        "\u0661AAA",
        "\uff21AAA",
        "AA==\0",
        "AA==\xa0",
        "\ufeffAA==",
        "\ud800AAA",
    ],
)
def test_second_spellings_of_base64(text: str) -> None:
    with pytest.raises(Malformed):
        base64.decode(text, max_bytes=100)


def test_every_short_string_is_canonical_base64_or_refused() -> None:
    for length in range(6):
        for characters in product("AB/= g_", repeat=length):
            text = "".join(characters)
            try:
                data = base64.decode(text, max_bytes=100)
            except Malformed:
                continue
            assert standard.b64encode(data).decode() == text.strip()


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 4, 32])
def test_base64_limit(limit: int) -> None:
    base64.decode(base64.encode(bytes(limit)), max_bytes=limit)
    with pytest.raises(Malformed):
        base64.decode(base64.encode(bytes(limit + 1)), max_bytes=limit)


@given(st.one_of(st.text(max_size=20), st.binary(max_size=20)))
def test_base64_raises_only_typed_errors(text: str | bytes) -> None:
    try:
        base64.decode(text, max_bytes=10)
    except Malformed:
        pass


# -- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # the first two from XEP-0082 section 3.2, the third from XEP-0420
        ("1969-07-21T02:56:15Z", datetime(1969, 7, 21, 2, 56, 15, tzinfo=UTC).timestamp()),
        ("1969-07-20T21:56:15-05:00", datetime(1969, 7, 21, 2, 56, 15, tzinfo=UTC).timestamp()),
        ("2004-01-25T06:05:00+01:00", 1_075_007_100.0),
        ("1970-01-01T00:00:00.5Z", 0.5),
        ("2026-11-01T12:00:00.123456789Z", 1_793_534_400.123456789),
        ("2024-02-29T00:00:00-14:00", 1_709_164_800.0 + 14 * 3_600),
    ],
)
def test_times(text: str, expected: float) -> None:
    assert time.parse_datetime(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-01",
        "2026-11-01T12:00:00",
        "2026-11-01 12:00:00Z",
        "2026-11-01t12:00:00z",
        "20261101T12:00:00Z",
        "2026-11-01T12:00Z",
        "2026-11-01T24:00:00Z",
        "2026-11-01T12:60:00Z",
        "2026-11-01T12:00:60Z",
        "2026-13-01T12:00:00Z",
        "2026-02-29T12:00:00Z",
        "2026-11-00T12:00:00Z",
        "0000-01-01T00:00:00Z",
        "-2026-11-01T12:00:00Z",
        "12026-11-01T12:00:00Z",
        "2026-11-01T12:00:00.Z",
        "2026-11-01T12:00:00.1234567890Z",
        "2026-11-01T12:00:00+1:00",
        "2026-11-01T12:00:00+0100",
        "2026-11-01T12:00:00+14:01",
        "2026-11-01T12:00:00+01:60",
        "2026-11-01T12:00:00Z ",
        " 2026-11-01T12:00:00Z",
        "2026-11-01T12:00:00Z\n",
        "\u0662026-11-01T12:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
    ],
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(Malformed):
        time.parse_datetime(text)


@given(st.integers(int(time.EARLIEST) * 1000, int(time.LATEST) * 1000 - 1))
@example(int(time.EARLIEST) * 1000)
@example(int(time.LATEST) * 1000 - 1)
@example(-1)
@example(1_793_534_399_999)
def test_times_come_back(milliseconds: int) -> None:
    text = time.format_datetime(milliseconds / 1000)
    assert time.parse_datetime(text) == pytest.approx(milliseconds / 1000, abs=1e-4)
    assert time.format_datetime(time.parse_datetime(text)) == text


def test_times_out_of_range_are_not_written() -> None:
    for moment in (time.EARLIEST - 1, time.LATEST, float("inf"), float("nan")):
        with pytest.raises(ValueError):
            time.format_datetime(moment)


@given(st.one_of(st.text(max_size=30), st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,12}(Z|[+-][0-9:]{5})")))
def test_times_raise_only_typed_errors(text: str) -> None:
    try:
        assert time.EARLIEST <= time.parse_datetime(text) < time.LATEST
    except Malformed:
        pass


# -- protobuf -------------------------------------------------------------------------------------------------------

MESSAGE = omemo_pb2.OMEMOMessage(n=5, pn=300, dh_pub=bytes(32), ciphertext=b"x").SerializeToString()


def parse_message(data: bytes) -> omemo_pb2.OMEMOMessage:
    return protobuf.parse(omemo_pb2.OMEMOMessage, data, max_bytes=100)


def test_protobuf_canonical() -> None:
    message = parse_message(MESSAGE)
    assert (message.n, message.pn, message.ciphertext) == (5, 300, b"x")
    assert MESSAGE[:5] == b"\x08\x05\x10\xac\x02"  # what the bad ones below are cut from
    assert MESSAGE[-3:] == b"\x22\x01x"


@pytest.mark.parametrize(
    "data",
    {
        "empty": b"",
        "missing field": MESSAGE[2:],
        "truncated": MESSAGE[:-1],
        "trailing zero": MESSAGE + b"\0",
        "trailing bytes": MESSAGE + b"\xff\xff",
        "unknown field": MESSAGE + b"\x78\x01",
        "unknown field first": b"\x78\x01" + MESSAGE,
        "repeated field": MESSAGE + b"\x22\x01x",
        "repeated field with another value": b"\x08\x06" + MESSAGE,
        "other order": MESSAGE[2:5] + MESSAGE[:2] + MESSAGE[5:],
        "over-long varint": b"\x08\x85\x00" + MESSAGE[2:],
        "over-long length": MESSAGE[:-3] + b"\x22\x81\x00x",
        "over-long tag": b"\x88\x00\x05" + MESSAGE[2:],
        "varint above 32 bits": b"\x08\x85\x80\x80\x80\x10" + MESSAGE[2:],
        "varint of eleven bytes": b"\x08" + b"\x80" * 10 + b"\x01" + MESSAGE[2:],
        "wrong wire type": b"\x0d\x05\0\0\0" + MESSAGE[2:],
        "group": MESSAGE + b"\x7b\x7c",
        "too long": MESSAGE[:-3] + b"\x22\x50" + bytes(80),
    }.items(),
    ids=lambda item: item[0],
)
def test_other_encodings_of_protobuf(data: tuple[str, bytes]) -> None:
    with pytest.raises(Malformed):
        parse_message(data[1])


@given(st.integers(0, len(MESSAGE) - 1), st.binary(max_size=4), st.integers(0, 4))
def test_mutated_protobuf_is_canonical_or_refused(at: int, inserted: bytes, cut: int) -> None:
    data = MESSAGE[:at] + inserted + MESSAGE[at + cut :]
    try:
        message = parse_message(data)
    except Malformed:
        return
    assert message.SerializeToString() == data


# -- display --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Anna's phone", "Anna's phone"),
        ("Zoë \u05d0\u05d1 \u4f60\u597d \U0001f600", "Zoë \u05d0\u05d1 \u4f60\u597d \U0001f600"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x9b31m", "\\x9b31m"),
        ("a\nERROR forged", "a\\x0aERROR forged"),
        ("a\r\u2028b\u0085", "a\\x0d\\u2028b\\x85"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2066x\u2069\u200e\u061c", "\\u2066x\\u2069\\u200e\\u061c"),
        ("a\u200bb\u00ad\ufeff", "a\\u200bb\\xad\\ufeff"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("C:\\x1b", "C:\\\\x1b"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_printable_length() -> None:
    assert printable("x" * MAX_SHOWN) == "x" * MAX_SHOWN
    assert printable("x" * (MAX_SHOWN + 1)) == "x" * (MAX_SHOWN - 1) + "…"
    assert printable("a" + "\u0300" * 1_000, 500).count("\u0300") < 10


@given(st.text())
def test_printable_is_one_harmless_line(text: str) -> None:
    shown = printable(text, 50)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0x202A <= ord(c) <= 0x202E for c in shown)
    shown.encode()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("photo.jpg", "photo.jpg"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("/", "_"),
        ("..", "_"),
        ("", "_"),
        (".bashrc", "bashrc"),
        ("a\0b\n.txt", "a_x00b_x0a.txt"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("a:b*c?", "a_b_c_"),
        ("x. .", "x"),
    ],
)
def test_safe_name(text: str, name: str) -> None:
    assert safe_name(text) == name


@given(st.text())
@example("é" * 400)
def test_safe_name_is_one_name(text: str) -> None:
    name = safe_name(text)
    assert 0 < len(name.encode()) <= MAX_FILE_NAME_BYTES
    assert not set(name) & set('/\\:\0\n<>"|?*')
    assert name[0] != "."
    assert name.isprintable()
