"""Sealing under a passphrase: Argon2id (RFC 9106), then AES-256-GCM. For backups and for the key file.

    magic       8   says what is inside
    version     1   1
    memory      4   Argon2id, KiB               (all numbers big-endian)
    iterations  4   Argon2id, passes
    lanes       1   Argon2id
    salt       16   random
    check      32   HKDF(root, "tillie passphrase check")
    sealed          AES-256-GCM under HKDF(root, "tillie passphrase key"): nonce 12, ciphertext, tag 16;
                    everything before it is authenticated with it

where root = Argon2id(passphrase in UTF-8, NFC). The check tells a wrong passphrase from a damaged file, also if there
is nothing inside; and it commits to the key, which GCM does not: nobody can make one file that opens under two
passphrases. It helps a guesser no more than the tag does.
"""

from __future__ import annotations

import struct
import unicodedata
from dataclasses import dataclass

from tillie.crypto.kdf import argon2id, equal, hkdf
from tillie.crypto.random import random_bytes
from tillie.crypto.seal import OVERHEAD, seal, unseal
from tillie.errors import StoreDamaged, StoreError, StoreLocked, StoreTooNew, Undecryptable, UsageError

VERSION = 1
MAGIC_SIZE = 8
SALT_SIZE = 16
PASSPHRASE_MAX = 1024  # characters
# What a file may ask of us when it is opened. A hostile one must not take the machine's memory or its afternoon.
MEMORY_MAX = 1 << 20  # KiB: 1 GiB
ITERATIONS_MAX = 64
LANES_MAX = 16
WORK_MAX = 4 << 20  # KiB times passes: 4 GiB

_HEADER = struct.Struct(f">{MAGIC_SIZE}sBIIB{SALT_SIZE}s32s")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one guess of a passphrase costs: Argon2id's memory in KiB, passes and lanes."""

    memory: int
    iterations: int
    lanes: int

    def is_bearable(self) -> bool:
        return (
            0 < self.lanes <= LANES_MAX
            and 0 < self.iterations <= ITERATIONS_MAX
            and 8 * self.lanes <= self.memory <= MEMORY_MAX
            and self.memory * self.iterations <= WORK_MAX
        )


RECOMMENDED = Cost(memory=64 << 10, iterations=3, lanes=4)
"""RFC 9106 section 4, the second recommended option: 64 MiB, 3 passes, 4 lanes."""


def lock(passphrase: str, plaintext: bytes, magic: bytes, *, cost: Cost = RECOMMENDED) -> bytes:
    """Seal under a passphrase. Raises `UsageError` for an empty or endless one, or a cost beyond the limits."""
    if not cost.is_bearable():
        raise UsageError("This cost for a passphrase is beyond the limits.")
    salt = random_bytes(SALT_SIZE)
    key, check = _derive(passphrase, salt, cost)
    header = _HEADER.pack(magic, VERSION, cost.memory, cost.iterations, cost.lanes, salt, check)
    return header + seal(key, plaintext, bound=header)


def unlock(passphrase: str, locked: bytes, magic: bytes) -> bytes:
    """The inverse. Raises `StoreLocked` (another passphrase), `StoreDamaged`, `StoreTooNew`, or `UsageError`."""
    if locked[:MAGIC_SIZE] != magic:
        raise StoreDamaged("This is another kind of file.")
    if len(locked) > MAGIC_SIZE and locked[MAGIC_SIZE] != VERSION:
        raise StoreTooNew(f"The file has version {locked[MAGIC_SIZE]}, the newest known here is {VERSION}.")
    if len(locked) < _HEADER.size + OVERHEAD:
        raise StoreDamaged("The file is cut short.")
    header = locked[: _HEADER.size]
    _, _, memory, iterations, lanes, salt, check = _HEADER.unpack(header)
    cost = Cost(memory, iterations, lanes)
    if not cost.is_bearable():
        raise StoreDamaged("The file asks for more work than any of ours.")
    key, expected = _derive(passphrase, salt, cost)
    if not equal(check, expected):
        raise StoreLocked("The passphrase is wrong.")
    try:
        return unseal(key, locked[_HEADER.size :], bound=header)
    except Undecryptable:
        raise StoreDamaged("The file was altered.") from None


def _derive(passphrase: str, salt: bytes, cost: Cost) -> tuple[bytes, bytes]:
    if not 0 < len(passphrase) <= PASSPHRASE_MAX:
        raise UsageError(f"A passphrase has 1 to {PASSPHRASE_MAX} characters.")
    try:
        secret = unicodedata.normalize("NFC", passphrase).encode()
    except UnicodeEncodeError:
        raise UsageError("The passphrase is not valid text.") from None  # the error would quote the passphrase
    try:
        root = argon2id(secret, salt, memory_kib=cost.memory, iterations=cost.iterations, lanes=cost.lanes)
    except MemoryError:
        raise StoreError(f"Opening it takes {cost.memory >> 10} MiB of memory.") from None
    key = hkdf(root, salt=b"", info=b"tillie passphrase key", length=32)
    return key, hkdf(root, salt=b"", info=b"tillie passphrase check", length=32)
