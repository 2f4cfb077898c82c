"""The sealed container of a backup: records and a few words about them, under a passphrase.

The outside is that of `passphrase`, with the magic "TILLIEBK". Inside, numbers big-endian:

    version     1   1
    length      8   of the body
    body            words: 4 bytes length, JSON object (account, when, which kinds of records ...)
                    4 bytes count, then each record:
                    scheme, kind, name: 2 bytes length, UTF-8;  value: 4 bytes length, bytes
    padding         zeros, up to the next size of a coarse scale (`padded`)

The padding hides how much there is to within an eighth, and nothing below 16 KiB.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable

from tillie.errors import StoreDamaged, StoreTooNew, TooLarge
from tillie.model import Key
from tillie.store.passphrase import RECOMMENDED, Cost, lock, unlock

MAGIC = b"TILLIEBK"
VERSION = 1
BACKUP_MAX = 256 << 20  # bytes, of the whole container
RECORDS_MAX = 1_000_000
PADDED_MIN = 16 << 10

_PREFIX = struct.Struct(">BQ")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")

Words = dict[str, str | int | float | bool | None]


def write(records: Iterable[tuple[Key, bytes]], words: Words, passphrase: str, *, cost: Cost = RECOMMENDED) -> bytes:
    """A sealed backup. Raises `TooLarge`, or `UsageError` for an unusable passphrase."""
    body = encode(records, words)
    size = padded(_PREFIX.size + len(body))
    if size > BACKUP_MAX - 1024:
        raise TooLarge(f"A backup holds at most {BACKUP_MAX >> 20} MiB.")
    plaintext = (_PREFIX.pack(VERSION, len(body)) + body).ljust(size, b"\0")
    return lock(passphrase, plaintext, MAGIC, cost=cost)


def read(sealed: bytes, passphrase: str) -> tuple[list[tuple[Key, bytes]], Words]:
    """What a backup holds: records and words.

    Raises `StoreLocked` (another passphrase), `StoreDamaged`, `StoreTooNew`. Only what was sealed under the passphrase
    is ever parsed, so nobody else can put keys into a backup.
    """
    if len(sealed) > BACKUP_MAX:
        raise StoreDamaged(f"A backup has at most {BACKUP_MAX >> 20} MiB.")
    plaintext = unlock(passphrase, sealed, MAGIC)
    if plaintext and plaintext[0] != VERSION:
        raise StoreTooNew(f"The backup has version {plaintext[0]}, the newest known here is {VERSION}.")
    if len(plaintext) < _PREFIX.size:
        raise StoreDamaged("The backup is cut short.")
    end = _PREFIX.size + _PREFIX.unpack_from(plaintext)[1]
    if end > len(plaintext) or plaintext.count(b"\0", end) != len(plaintext) - end:
        raise StoreDamaged("The backup has a wrong length.")
    return decode(plaintext[_PREFIX.size : end])


def padded(size: int) -> int:
    """The next size of the scale: at least `PADDED_MIN`, then steps of an eighth of the power of two below."""
    if size <= PADDED_MIN:
        return PADDED_MIN
    step = 1 << ((size - 1).bit_length() - 4)
    return (size + step - 1) // step * step


def encode(records: Iterable[tuple[Key, bytes]], words: Words) -> bytes:
    """The body of a backup. Raises `TooLarge`."""
    text = json.dumps(words, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True).encode()
    parts = [_U32.pack(len(text)), text, b""]
    count = 0
    for key, value in records:
        count += 1
        for each in key:
            name = each.encode()
            if len(name) > 0xFFFF:
                raise TooLarge("The name of a record has at most 65535 bytes.")
            parts += (_U16.pack(len(name)), name)
        parts += (_U32.pack(len(value)), value)
    if count > RECORDS_MAX:
        raise TooLarge(f"A backup holds at most {RECORDS_MAX} records.")
    parts[2] = _U32.pack(count)
    return b"".join(parts)


def decode(body: bytes) -> tuple[list[tuple[Key, bytes]], Words]:
    """The inverse of `encode`, and of nothing else: no byte left over, no record twice. Raises `StoreDamaged`."""
    reader = _Reader(body)
    try:
        words = json.loads(reader.take(_U32).decode(), parse_constant=_refuse)
        if not isinstance(words, dict) or any(isinstance(each, list | dict) for each in words.values()):
            raise ValueError
        count = reader.number(_U32)
        if count > RECORDS_MAX:
            raise ValueError
        records: dict[Key, bytes] = {}
        for _ in range(count):
            key = Key(reader.take(_U16).decode(), reader.take(_U16).decode(), reader.take(_U16).decode())
            if key in records:
                raise ValueError
            records[key] = reader.take(_U32)
        if reader.place != len(body):
            raise ValueError
    except (ValueError, RecursionError):
        raise StoreDamaged("The backup can't be read.") from None
    return list(records.items()), words


def _refuse(constant: str) -> None:
    raise ValueError(constant)


class _Reader:
    """A place in bytes; every step beyond the end raises ValueError."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.place = 0

    def number(self, layout: struct.Struct) -> int:
        return int.from_bytes(self._bytes(layout.size), "big")

    def take(self, layout: struct.Struct) -> bytes:
        return self._bytes(self.number(layout))

    def _bytes(self, size: int) -> bytes:
        start, self.place = self.place, self.place + size
        if self.place > len(self.source):
            raise ValueError("cut short")
        return self.source[start : self.place]
