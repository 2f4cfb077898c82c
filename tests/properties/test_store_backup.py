"""The sealed container of a backup (tillie.store.backup)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tillie.errors import StoreDamaged, StoreLocked, StoreTooNew, TooLarge, UsageError
from tillie.model import Key
from tillie.store import backup
from tillie.store.backup import MAGIC, PADDED_MIN, decode, encode, padded, read, write
from tillie.store.passphrase import Cost, lock

CHEAP = Cost(memory=64, iterations=1, lanes=1)
RECORDS = [(Key("omemo", "identity", ""), b"k" * 32), (Key("trust", "key", "bob@example.org"), b"")]

_names = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
_records = st.dictionaries(st.builds(Key, _names, _names, _names), st.binary(max_size=40), max_size=8)
_words = st.dictionaries(
    _names,
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _names,
)


@given(_records, _words)
def test_what_is_written_is_read(records: dict[Key, bytes], words: backup.Words) -> None:
    assert decode(encode(records.items(), words)) == (list(records.items()), words)


@settings(max_examples=20)
@given(_records, _words, st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20))
def test_what_is_sealed_is_opened(records: dict[Key, bytes], words: backup.Words, passphrase: str) -> None:
    sealed = write(records.items(), words, passphrase, cost=CHEAP)
    assert read(sealed, passphrase) == (list(records.items()), words)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        records, words = decode(body)
    except StoreDamaged:
        return
    assert decode(encode(records, words)) == (records, words)


@given(_records, st.data())
def test_a_body_cut_or_longer_or_altered(records: dict[Key, bytes], data: st.DataObject) -> None:
    body = encode(records.items(), {})
    cut = data.draw(st.integers(0, len(body) - 1))
    for wrong in (body[:cut], body + b"\0"):
        with pytest.raises(StoreDamaged):
            decode(wrong)
    altered = bytearray(body)
    altered[cut] ^= data.draw(st.integers(1, 255))
    try:
        decode(bytes(altered))
    except StoreDamaged:
        return


@pytest.mark.parametrize(
    "words",
    [b"[]", b"1", b"{", b'{"a":[]}', b'{"a":{}}', b'{"a":NaN}', b'{"a":Infinity}', b"\xff", b"[" * 100_000, b""],
)
def test_words_that_are_none(words: bytes) -> None:
    with pytest.raises(StoreDamaged):
        decode(len(words).to_bytes(4, "big") + words + bytes(4))


def test_a_record_twice_is_refused() -> None:
    with pytest.raises(StoreDamaged):
        decode(encode([RECORDS[0], RECORDS[0]], {}))


def test_a_count_beyond_all_bounds_costs_nothing() -> None:
    with pytest.raises(StoreDamaged):
        decode(b"\0\0\0\x02{}" + b"\xff" * 4)


def test_a_wrong_passphrase_fails_even_on_an_empty_backup() -> None:
    for records in (RECORDS, []):
        sealed = write(records, {}, "correct", cost=CHEAP)
        with pytest.raises(StoreLocked):
            read(sealed, "wrong")
        with pytest.raises(UsageError):
            read(sealed, "")


def test_every_altered_or_missing_byte_is_found() -> None:
    sealed = write(RECORDS, {}, "a", cost=CHEAP)
    for place in [*range(110), *range(110, len(sealed), 611), len(sealed) - 1]:
        altered = bytearray(sealed)
        altered[place] ^= 0x80
        with pytest.raises((StoreDamaged, StoreLocked, StoreTooNew)):
            read(bytes(altered), "a")
        with pytest.raises(StoreDamaged):
            read(sealed[:place], "a")


def test_nothing_is_legible() -> None:
    sealed = write(RECORDS, {"account": "alice@example.org"}, "a", cost=CHEAP)
    assert sealed.startswith(MAGIC)
    for each in (b"omemo", b"kkkk", b"bob", b"alice", b"account"):
        assert each not in sealed
    assert write(RECORDS, {}, "a", cost=CHEAP) != write(RECORDS, {}, "a", cost=CHEAP)


@pytest.mark.parametrize(
    ("plaintext", "error"),
    [
        (b"", StoreDamaged),
        (b"\x02", StoreTooNew),
        (b"\x01\0\0", StoreDamaged),
        (b"\x01" + (11).to_bytes(8, "big") + bytes(10), StoreDamaged),
        (b"\x01" + b"\xff" * 8 + bytes(10), StoreDamaged),
        (b"\x01" + (10).to_bytes(8, "big") + b"\0\0\0\x02{}\0\0\0\0" + b"\0\x01", StoreDamaged),
    ],
)
def test_a_strange_inside(plaintext: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        read(lock("a", plaintext, MAGIC, cost=CHEAP), "a")


def test_the_size_says_little() -> None:
    sizes = {len(write([(RECORDS[0][0], bytes(size))], {}, "a", cost=CHEAP)) for size in range(0, 16_000, 1000)}
    assert len(sizes) == 1


@given(st.integers(1, 1 << 28))
def test_padding_costs_at_most_an_eighth(size: int) -> None:
    assert size <= padded(size)
    assert padded(size) == PADDED_MIN or padded(size) <= size * 9 / 8
    assert padded(padded(size)) == padded(size)


def test_the_limits_hold_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "RECORDS_MAX", 2)
    assert len(decode(encode(RECORDS, {}))[0]) == 2
    with pytest.raises(TooLarge):
        encode([*RECORDS, RECORDS[0]], {})
    three = encode(RECORDS, {})
    monkeypatch.setattr(backup, "RECORDS_MAX", 1)
    with pytest.raises(StoreDamaged):
        decode(three)
    encode([], {})
    sealed = write([], {}, "a", cost=CHEAP)
    monkeypatch.setattr(backup, "BACKUP_MAX", len(sealed))
    assert read(sealed, "a") == ([], {})
    monkeypatch.setattr(backup, "BACKUP_MAX", len(sealed) - 1)
    with pytest.raises(StoreDamaged):
        read(sealed, "a")
    with pytest.raises(TooLarge):
        write([], {}, "a", cost=CHEAP)


def test_names_are_bounded() -> None:
    assert decode(encode([(Key("a", "b", "x" * 65535), b"")], {}))
    with pytest.raises(TooLarge):
        encode([(Key("a", "b", "x" * 65536), b"")], {})
