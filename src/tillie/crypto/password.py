"""Messages under a password: SKESK version 4 and SEIPD version 1 (RFC 4880 sections 3.7, 5.3, 5.13).

For the items of XEP-0473 and the key backup of XEP-0373. The shared secret of a node is random, and needs no
stretching: the smallest count there is, 1,024 octets, makes an item a thousand times cheaper to open. A password that a
person made or types needs the largest.

`open` is top level, and takes and gives plain bytes: worker processes call it when `work` is above `SLOW_WORK`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from tillie.crypto import s2k, seipd
from tillie.crypto.packets import PKESK, SED, SEIPD, SKESK, Fields, Packet, header, split
from tillie.crypto.random import random_bytes
from tillie.crypto.s2k import AES256, ITERATED, KEY_SIZES, LARGEST, SALT, SHA256, SMALLEST, Stretch
from tillie.errors import Malformed, Undecryptable

MAX_BYTES = 4 << 20  # of plaintext, unless the caller says otherwise
MAX_SKESKS = 4
SLOW_WORK = 65_536  # octets: hashing so many takes some 50 µs
_OVERHEAD = 1 << 16  # packets around the plaintext
_MAX_PKESKS = 64  # a message may be for keys, too
_WRONG = "the password is wrong, or it was altered"


class _Locked(NamedTuple):
    """One SKESK packet: the cipher, how the password becomes a key, and the session key if that key only seals it."""

    cipher: int
    stretch: Stretch
    session: bytes


def seal(plaintext: bytes, password: str, *, stretch: bool) -> bytes:
    """A message under a password, AES-256 with MDC.

    `stretch` False is for random secrets of at least 256 bits only: anything else could be guessed a million times a
    second. True hashes 65,011,712 octets, a quarter of a second.
    """
    coded = LARGEST if stretch else SMALLEST
    salt = random_bytes(SALT)
    skesk = bytes((4, AES256, ITERATED, SHA256)) + salt + bytes((coded,))
    key = Stretch(SHA256, salt, s2k.count_of(coded)).key(password.encode(), KEY_SIZES[AES256])
    return header(SKESK, len(skesk)) + skesk + seipd.seal(key, seipd.encode_literal(plaintext))


def open(message: bytes, password: str, *, max_bytes: int = MAX_BYTES) -> bytes:
    """What is in a message under a password, whoever wrote it; at most `max_bytes`, compressed or not.

    Undecryptable: wrong password or altered, which look alike. Malformed: not such a message, or too large.
    """
    locked, container = _read(message, max_bytes)
    for lock in locked:
        cipher, key = _session_key(lock, password.encode())
        try:
            inner = seipd.unseal(container, key, cipher)
        except Undecryptable:
            continue
        return seipd.literal(seipd.inflate(inner, max_bytes=max_bytes), max_bytes=max_bytes)
    raise Undecryptable(_WRONG)


def work(message: bytes) -> int:
    """How many octets `open` will hash at most, from the headers alone. Malformed: not a message under a password."""
    locked, _ = _read(message, len(message))
    return sum(lock.stretch.work(lock.cipher) for lock in locked)


def sealed(message: bytes) -> bytes:
    """The body of the packet that is sealed: what nobody can change without the password, unlike what is around it."""
    return _split(message)[1].body


def _read(message: bytes, max_bytes: int) -> tuple[list[_Locked], Packet]:
    if len(message) > max_bytes + _OVERHEAD:
        raise Malformed("an OpenPGP message is too large")
    return _split(message)


@lru_cache(1)  # whoever opens a message has asked for its `work` just before
def _split(message: bytes) -> tuple[list[_Locked], Packet]:
    *before, last = split(message, limit=MAX_SKESKS + _MAX_PKESKS)
    if last.tag == SED:
        raise Malformed("it is encrypted without protection against changes")
    if last.tag != SEIPD or any(packet.tag not in (SKESK, PKESK) for packet in before):
        raise Malformed("it is not an encrypted OpenPGP message")
    skesks = [packet.body for packet in before if packet.tag == SKESK]
    if not 1 <= len(skesks) <= MAX_SKESKS:
        raise Malformed("it is not a message under a password")
    return [lock for lock in map(_lock, skesks) if lock], last


def _lock(body: bytes) -> _Locked | None:
    """RFC 4880 section 5.3. None: another version, cipher or way to stretch; then `open` says Undecryptable."""
    fields = Fields(body)
    version, cipher = fields.octet(), fields.octet()
    if version != 4:
        return None
    stretch = s2k.read(fields)
    if stretch is None or cipher not in KEY_SIZES:
        return None
    return _Locked(cipher, stretch, fields.rest())


def _session_key(lock: _Locked, password: bytes) -> tuple[int, bytes]:
    key = lock.stretch.key(password, KEY_SIZES[lock.cipher])
    if not lock.session:
        return lock.cipher, key
    opened = Cipher(AES(key), CFB(bytes(16))).decryptor().update(lock.session)
    return opened[0], opened[1:]
