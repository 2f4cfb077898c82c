"""What Olm reads from others, whatever it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillie.client import text_of
from tillie.crypto import agree
from tillie.directory.matrix import KEY
from tillie.errors import Malformed, PeerError
from tillie.model import Address
from tillie.schemes.olm import binding, content, payload, records
from tillie.schemes.olm.binding import Match
from tillie.schemes.olm.content import Message
from tillie.schemes.olm.records import Claimed, DeviceList, Half, KnownDevice, Own, Past, Session

OURS, THEIRS = (agree.public_of(bytes([number]) * 32) for number in (1, 2))
KEYS = st.binary(min_size=32, max_size=32)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(st.binary(max_size=300))
def test_any_bytes_as_content(data: bytes) -> None:
    try:
        content.decode(data, OURS)
    except PeerError:
        return


@given(st.sampled_from(["algorithm", "sender_key", "ciphertext"]), JSON)
def test_any_member_of_a_content(name: str, value: Any) -> None:
    whole = json.loads(content.encode(THEIRS, OURS, 0, b"body"))
    whole[name] = value
    try:
        content.decode(json.dumps(whole).encode(), OURS)
    except PeerError:
        return


@given(st.sampled_from([0, 1]), st.binary(max_size=500))
def test_a_content_comes_back(type: int, body: bytes) -> None:
    data = content.encode(THEIRS, OURS, type, body)
    assert content.decode(data, OURS) == Message(THEIRS, type, body)
    assert content.decode(data, THEIRS) is None


def test_a_padded_key_is_the_same_key() -> None:
    whole = json.loads(content.encode(THEIRS, OURS, 0, b"body"))
    whole["ciphertext"] = {f"{name}=": part for name, part in whole["ciphertext"].items()}
    assert content.decode(json.dumps(whole).encode(), OURS) is not None


@given(st.binary(max_size=100))
def test_any_bytes_as_a_first_message(body: bytes) -> None:
    try:
        assert len(content.one_time_key_of(body)) == KEY
    except Malformed:
        assert body[:3] != b"\x03\x0a\x20" or len(body) < 3 + KEY


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_as_what_was_sealed(plaintext: bytes) -> None:
    try:
        payload.read(plaintext)
    except Malformed:
        return


@pytest.mark.parametrize(
    "plaintext", [b"[" * 50_000, b'{"type":"a","content":{"b":"\xff"}}', b'{"type":"a","content":1}']
)
def test_what_is_no_event(plaintext: bytes) -> None:
    with pytest.raises(Malformed):
        payload.read(plaintext)


def test_sizes_on_both_sides() -> None:
    content.decode(content.encode(THEIRS, OURS, 0, bytes(content.MAX_BODY - 1_000)), OURS)
    with pytest.raises(Malformed):
        content.decode(content.encode(THEIRS, OURS, 0, bytes(content.MAX_BODY + 1)), OURS)
    data = content.encode(THEIRS, OURS, 0, b"")
    content.decode(data + b" " * (content.MAX_CONTENT - len(data)), OURS)
    with pytest.raises(Malformed):
        content.decode(data + b" " * (content.MAX_CONTENT - len(data) + 1), OURS)


# -- records --------------------------------------------------------------------------------------------------------


@given(KEYS, KEYS, st.floats(0, 2e9), st.booleans(), st.booleans(), st.text("abc/+", max_size=50))
def test_sessions_come_back(key: bytes, id: bytes, at: float, confirmed: bool, silent: bool, pickle: str) -> None:
    session = Session(key, id, at, confirmed, silent, pickle)
    data = records.encode_session(session)
    assert records.decode_session(data) == session
    assert records.ed25519_in(data) == key


def test_records_come_back() -> None:
    own = Own("D", "v1", *(bytes([number]) * 32 for number in range(5)), 7, (1.0, 2.0))
    assert records.decode_own(records.encode_own(own)) == own
    half = Half(3, b"p", b"q", 1.0, True, 2.0, True, True)
    assert records.decode_half(records.encode_half(half)) == half
    claimed = Claimed(1.0, b"e", b"k", "why")
    assert records.decode_claimed(records.encode_claimed(claimed)) == claimed
    device = KnownDevice("D", b"c", b"e", True, False, (1.0, 2.0))
    known = DeviceList(1.0, 2.0, "why", (device,), (("B", "bad"),), (Past(1.0, (b"c",)),), (device,), 3.0)
    again = records.decode_devices(records.encode_devices(known))
    assert all(getattr(again, name) == getattr(known, name) for name in DeviceList.__struct_fields__)
    assert records.device_in(records.of_device("repair", Address("@a/b:c"), b"\x01\x02")) == ("@a/b:c", b"\x01\x02")


def test_records_of_a_newer_version_are_refused() -> None:
    for decode in (records.decode_own, records.decode_half, records.decode_session, records.decode_devices):
        with pytest.raises(records.StoreTooNew):
            decode(bytes((records.VERSION + 1,)) + bytes(100))


# -- fingerprints of lists ------------------------------------------------------------------------------------------


def _list(*keys: bytes, past: tuple[tuple[bytes, ...], ...] = (), since: float = 0.0) -> DeviceList:
    devices = tuple(KnownDevice(key.hex(), key, key, True, True) for key in keys)
    return DeviceList(1.0, devices=devices, past=tuple(Past(1.0, each) for each in past), since=since)


NOW = 1_790_000_000.0


def test_a_fingerprint_matches_the_lists_as_they_are_or_were() -> None:
    before = (_list(b"a"), _list(b"x", b"y"))
    now = (_list(b"a", b"b", past=((b"a",),)), _list(b"x", past=((b"x", b"y"),)))
    text = binding.fingerprint(before, (b"z",))
    assert binding.match(text, before, (b"z",), NOW) is Match.NOW
    assert binding.match(text, before[::-1], (b"z",), NOW) is Match.NOW
    assert binding.match(text, now, (b"z",), NOW) is Match.BEFORE
    assert binding.match(text, now, (), NOW) is Match.NEVER
    assert binding.match("", now, (b"z",), NOW) is Match.NEVER


def test_a_fingerprint_may_lack_one_device_of_the_sender_that_is_new_to_us() -> None:
    """Of the sender only, one only, not one that was there before, and not for long."""
    ours = _list(b"x")
    text = binding.fingerprint((_list(b"a"), ours), (b"a", b"x"))

    def match(theirs: DeviceList, *, mine: DeviceList = ours, now: float = NOW) -> Match:
        return binding.match(text, (mine, theirs), (b"a", b"x"), now)

    assert match(_list(b"a", b"b", since=NOW)) is Match.WITHOUT
    assert match(_list(b"a", b"b", since=NOW), now=NOW + binding.MAY_BE_NEW - 1) is Match.WITHOUT
    assert match(_list(b"a", b"b", since=NOW), now=NOW + binding.MAY_BE_NEW) is Match.NEVER
    assert match(_list(b"a", b"b", since=NOW + 1)) is Match.NEVER
    assert match(_list(b"a", b"b", b"c", since=NOW)) is Match.NEVER
    assert match(_list(b"a", b"b", past=((b"b",),), since=NOW)) is Match.NEVER
    assert match(_list(b"a", b"b", past=((b"c",),), since=NOW)) is Match.WITHOUT
    assert match(_list(b"a"), mine=_list(b"x", b"y", since=NOW)) is Match.NEVER
    assert match(_list(b"a", b"b", since=NOW), mine=_list(b"x", b"y", past=((b"x",),))) is Match.WITHOUT


def test_as_many_keys_as_are_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try costs what a home made the lists long; what fits is still found."""
    past = _list(b"a", past=((b"b", b"c"), (b"d", b"e")))
    text = binding.fingerprint((_list(b"b", b"c"),), ())
    for room, wanted in ((5, Match.BEFORE), (4, Match.NEVER)):
        monkeypatch.setattr(binding, "MAX_TRIED_KEYS", room)
        assert binding.match(text, (past,), (), NOW) is wanted


def test_as_many_ways_as_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "MAX_TRIED_KEYS", 10**6)
    keys = [number.to_bytes(2) for number in range(1, binding.MAX_TRIED + 3)]
    for new, wanted in ((binding.MAX_TRIED, Match.WITHOUT), (binding.MAX_TRIED + 1, Match.NEVER)):
        theirs = _list(b"\x00", *keys[:new], since=NOW)
        text = binding.fingerprint((_list(b"\x00", *keys[: new - 1]),), ())
        assert binding.match(text, (theirs,), (b"\x00",), NOW) is wanted
        past = tuple((key,) for key in keys[:new])
        text = binding.fingerprint((_list(keys[1]),), ())
        assert binding.match(text, (_list(b"\x00", past=past),), (), NOW) is (
            Match.BEFORE if wanted is Match.WITHOUT else Match.NEVER
        )


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"type": "m.room.message", "content": {"body": "at noon", "org.example.waveform": [0.5, 1e300]}}, "at noon"),
        ({"type": "m.room.message", "content": {"body": ["at noon"]}}, ""),
        ({"type": "m.room.message", "content": []}, ""),
        ({"type": "m.room.message"}, ""),
        ({"type": "m.reaction", "content": {"body": "at noon"}}, ""),
        ({"content": {"body": "at noon"}}, ""),
    ],
)
def test_the_text_of_an_event_is_found_whatever_stands_beside_it(event: object, text: str) -> None:
    assert text_of(json.dumps(event)) == text


@given(st.text().map("{{{}".format))
def test_an_event_that_is_none_has_no_text(text: str) -> None:
    assert text_of(text) == ""
