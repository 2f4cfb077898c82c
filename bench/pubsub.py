"""Items of private nodes (XEP-0473): one, an archive of them, and a node's secrets for many people.

Ours is what a reader or publisher does with one item: the `<encrypted>` element as the service has it, the secret out
of the store, the comparison with what was seen before and the record of it, one transaction for each item. The peers
do the same without a store: parse, Base64, the OpenPGP message. They stretch the secret as they do by default.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import count
from os import urandom
from pathlib import Path
from typing import Any

import pysequoia
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from lxml import etree

from bench.durable import FOLDER
from bench.floor import PARSER
from bench.measure import Figure, Operation, Result, Side, Target
from bench.ours import TICK
from support.gnupg import GnuPG
from tillie.crypto.random import random_bytes
from tillie.model import Address, Done, State
from tillie.pubsub import sealing, secrets
from tillie.pubsub.items import Item, ItemKind, Node, Reading
from tillie.store import Committed, MemoryStore, SqlStore, Store

ACCOUNT = Address("alice@a.example")
NODE = Node(ACCOUNT, "blog")
SIZE = 1_024  # bytes of a payload
BATCH, PEER_BATCH, PEER_ROUNDS = 40, 1, 5
TENTH, WHOLE = 1_000, 10_000
PAGE = 100  # items of one answer, which become one transaction
ARCHIVE_ROUNDS = 5
TENTHS = 10  # in each round
MOST_MICROSECONDS = 500_000.0
SOME_TIME = 1_780_000_000.0
PEAK_ROOM = 500_000  # bytes that 8,000 further items may add to the peak: noise of the allocator
TIMEOUT = 300.0

_numbers = count()


def payload() -> bytes:
    """An Atom entry of a kilobyte, another one each time."""
    number = next(_numbers)
    head = (
        b"<entry xmlns='http://www.w3.org/2005/Atom'><title type='text'>Entry %d</title>"
        b"<id>tag:a.example,2026:blog-%d</id><updated>2026-11-21T08:00:00Z</updated>"
        b"<author><name>Alice</name><uri>xmpp:alice@a.example</uri></author><content type='text'>"
    ) % (number, number)
    tail = b"</content></entry>"
    words = b"It was the nightingale, and not the lark, that pierced the fearful hollow of thine ear. " * 12
    return head + words[: SIZE - len(head) - len(tail)] + tail


# -- ours -----------------------------------------------------------------------------------------------------------


class OurNode:
    """A node of ours in a store, with a secret that was made here."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = SOME_TIME
        self.run(lambda s: secrets.make(s, NODE, ACCOUNT, self.now))

    def run(self, look: Callable[[State], Any]) -> Any:
        done = self.store.run(lambda s: Done(look(s)))
        if not isinstance(done, Committed):
            raise RuntimeError("an item needs something")
        return done.value

    def sealed(self, number: int) -> list[Item]:
        return [Item(random_bytes(16).hex(), self.seal(payload())) for _ in range(number)]

    def seal(self, entry: bytes) -> bytes:
        element: bytes = self.run(lambda s: sealing.seal(s, NODE, entry))
        return element

    def open(self, item: Item) -> Reading:
        self.now += TICK
        reading: Reading = self.run(lambda s: sealing.read(s, NODE, item, self.now))
        return reading

    def open_archive(self, items: Sequence[Item]) -> bool:
        """Page by page, as they come from a service; whether all of them opened."""
        return all(self.open_page(items[start : start + PAGE]) for start in range(0, len(items), PAGE))

    def open_page(self, page: Sequence[Item]) -> bool:
        self.now += TICK
        readings = self.run(lambda s: [sealing.read(s, NODE, item, self.now) for item in page])
        return all(isinstance(one, Reading) and one.kind is ItemKind.OPENED for one in readings)


def _all_opened(results: Sequence[object]) -> None:
    if not all(isinstance(one, Reading) and one.kind is ItemKind.OPENED and not one.notes for one in results):
        raise RuntimeError("an item was not opened")


def _our_opening() -> Side:
    node = OurNode(MemoryStore(ACCOUNT))
    return Side(lambda wanted: [partial(node.open, item) for item in node.sealed(wanted)], BATCH, _all_opened)


# -- peers and floor ------------------------------------------------------------------------------------------------


def _element(message: bytes) -> bytes:
    coded = b2a_base64(message, newline=False)
    return b"<encrypted xmlns='urn:xmpp:openpgp:pubsub:0' key='7Y2GuJZTKdzUTXYlSdqZ1Q'>%b</encrypted>" % coded


def _message(element: bytes) -> bytes:
    return a2b_base64(etree.fromstring(element, PARSER).text or "")


def _is_entry(results: Sequence[object]) -> None:
    if not all(etree.iselement(one) and one.tag.endswith("entry") for one in results):
        raise RuntimeError("the other side opened something else")


def _sequoia_opening(secret: str) -> Side:
    def opening(element: bytes) -> object:
        plain = pysequoia.decrypt(_message(element), passwords=[secret]).bytes
        return etree.fromstring(plain, PARSER)

    @lru_cache(1)  # sealing takes as long as opening; nothing is kept between two openings of the same one
    def element() -> bytes:
        return _element(pysequoia.encrypt(payload(), passwords=[secret], armor=False))

    return Side(lambda wanted: [partial(opening, element())] * wanted, PEER_BATCH, _is_entry, warm_up=0)


def _sequoia_sealing(secret: str) -> Side:
    def sealing_(entry: bytes) -> bytes:
        return _element(pysequoia.encrypt(entry, passwords=[secret], armor=False))

    return Side(lambda wanted: [partial(sealing_, payload()) for _ in range(wanted)], PEER_BATCH, warm_up=0)


def _gpg_opening(gpg: GnuPG, secret: str) -> Side:
    def opening(element: bytes) -> object:
        return etree.fromstring(gpg.open(_message(element), secret).plaintext, PARSER)

    @lru_cache(1)
    def element() -> bytes:
        return _element(gpg.seal_with_password(payload(), secret))

    return Side(lambda wanted: [partial(opening, element())] * wanted, PEER_BATCH, _is_entry, warm_up=1, wall=True)


class _Floor:
    """The primitives of an item with the smallest count, over one secret: 1,024 octets hashed, AES-256-CFB, SHA-1."""

    def __init__(self) -> None:
        self.secret = b2a_base64(urandom(48), newline=False)

    def _key(self, salt: bytes) -> bytes:
        unit = salt + self.secret
        return hashlib.sha256((unit * (1_024 // len(unit) + 1))[:1_024]).digest()

    def seal(self, entry: bytes) -> bytes:
        salt, prefix = urandom(8), urandom(16)
        plain = prefix + prefix[-2:] + entry + b"\xd3\x14"
        plain += hashlib.sha1(plain).digest()
        return _element(salt + Cipher(AES(self._key(salt)), CFB(bytes(16))).encryptor().update(plain))

    def open(self, element: bytes) -> object:
        message = _message(element)
        plain = Cipher(AES(self._key(message[:8])), CFB(bytes(16))).decryptor().update(message[8:])
        if hashlib.sha1(plain[:-20]).digest() != plain[-20:]:
            raise ValueError("the floor failed its own check")
        return etree.fromstring(plain[18:-22], PARSER)


def _floor_opening() -> Side:
    floor = _Floor()
    return Side(lambda wanted: [partial(floor.open, floor.seal(payload())) for _ in range(wanted)], BATCH, _is_entry)


# -- one item -------------------------------------------------------------------------------------------------------


def _secret() -> str:
    return b2a_base64(urandom(48), newline=False).decode()


def _decrypt() -> Figure:
    sides = {"ours": _our_opening(), "peer": _sequoia_opening(_secret()), "floor": _floor_opening()}
    return Figure("pubsub.item.decrypt", sides, Target(peer_ratio=200, most=150), rounds=PEER_ROUNDS)


def _decrypt_gpg() -> Figure:
    sides, gpg = {"ours": _our_opening()}, None
    if shutil.which("gpg"):
        gpg = Keyring()
        sides["peer"] = _gpg_opening(gpg.gpg, _secret())
    return Figure("pubsub.item.decrypt.gpg", sides, Target(peer_ratio=1_000), rounds=PEER_ROUNDS, keep=gpg)


class Keyring:
    """A GnuPG home that lives as long as this object."""

    def __init__(self) -> None:
        self.gpg = GnuPG().__enter__()

    def __del__(self) -> None:
        self.gpg.__exit__(None, None, None)


def _encrypt() -> Figure:
    node, floor = OurNode(MemoryStore(ACCOUNT)), _Floor()

    def check(results: Sequence[object]) -> None:
        _all_opened([node.open(Item(random_bytes(16).hex(), one)) for one in results if isinstance(one, bytes)])

    sides = {
        "ours": Side(lambda wanted: [partial(node.seal, payload()) for _ in range(wanted)], BATCH, check),
        "peer": _sequoia_sealing(_secret()),
        "floor": Side(lambda wanted: [partial(floor.seal, payload()) for _ in range(wanted)], BATCH),
    }
    return Figure("pubsub.item.encrypt", sides, Target(peer_ratio=200), rounds=PEER_ROUNDS)


# -- an archive -----------------------------------------------------------------------------------------------------


def _archives(folder: Path | None, size: int, batch: int = 1) -> Side:
    """Archives that were never seen before, read into encrypted files, or into memory."""

    def prepare(wanted: int) -> list[Operation]:
        return [partial(_read_archive, node, node.sealed(size)) for node in _fresh(folder, wanted)]

    return Side(prepare, batch, _yes, warm_up=0)


def _read_archive(node: OurNode, items: Sequence[Item]) -> bool:
    opened = node.open_archive(items)
    node.store.close()
    return opened


def _fresh(folder: Path | None, wanted: int) -> Iterator[OurNode]:
    for _ in range(wanted):
        if folder is None:
            yield OurNode(MemoryStore(ACCOUNT))
        else:
            yield OurNode(SqlStore(folder / f"{random_bytes(8).hex()}.db", ACCOUNT, random_bytes(32)))


def _yes(results: Sequence[object]) -> None:
    if not all(results):
        raise RuntimeError("an item of the archive was not opened")


def _archive(name: str, size: int, *, durable: bool = False) -> Figure:
    folder: tempfile.TemporaryDirectory[str] | None = None
    if durable:
        FOLDER.mkdir(exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=FOLDER, prefix="archive-")
    place = Path(folder.name) if folder else None
    small = _archives(place, TENTH, TENTHS)
    if size == TENTH:
        return Figure(name, {"ours": small}, Target(most=MOST_MICROSECONDS), rounds=ARCHIVE_ROUNDS, keep=folder)
    sides = {"ours": _archives(place, size), "less": small}
    # In a file each page of items also changes more pages of the file, the more there are, up to a bound.
    target = Target() if durable else Target(growth=11)
    return Figure(name, sides, target, rounds=ARCHIVE_ROUNDS, keep=folder)


def _memory() -> Result:
    """What the peak of a process grows by between the first 2,000 items of an archive and all 10,000, in pages."""
    words = (sys.executable, "-m", "bench.streaming")
    said = subprocess.run(words, check=True, capture_output=True, timeout=TIMEOUT, text=True).stdout.split()
    return Result(Figure("pubsub.archive.bytes", {}, Target(most=PEAK_ROOM), unit="B"), {"ours": float(said[0])})


FIGURES: dict[str, Callable[[], Figure | Result]] = {
    "pubsub.item.decrypt": _decrypt,
    "pubsub.item.decrypt.gpg": _decrypt_gpg,
    "pubsub.item.encrypt": _encrypt,
    "pubsub.archive.1000": partial(_archive, "pubsub.archive.1000", TENTH),
    "pubsub.archive.10000": partial(_archive, "pubsub.archive.10000", WHOLE),
    "pubsub.archive.1000.durable": partial(_archive, "pubsub.archive.1000.durable", TENTH, durable=True),
    "pubsub.archive.10000.durable": partial(_archive, "pubsub.archive.10000.durable", WHOLE, durable=True),
    "pubsub.archive.bytes": _memory,
}
