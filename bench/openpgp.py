"""Messages of OpenPGP for XMPP (XEP-0373, XEP-0374), a kilobyte of text.

Ours is the scheme: from what is to be said to `<openpgp>` and back, with keys, lists and certificates out of the store,
one transaction for each message; `openpgp.message` adds what the pipeline does around any scheme. The floor does the
same job with the plain library for the same keys: a padded content element in Base64, or one parse of each, and no
store, checks or choices. The peer is the command of GnuPG, which is what a program pays that uses GPGME.
"""

from __future__ import annotations

import shutil
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import count
from os import urandom

import pysequoia
from lxml import etree
from pysequoia import Tsk

from bench import measure
from bench.floor import PARSER
from bench.measure import Figure, Operation, Side
from bench.ours import TICK
from support.gnupg import GnuPG
from support.openpgp import PgpEnd, PgpWorld
from tillie import pipeline
from tillie.crypto import openpgp
from tillie.crypto.random import random_bytes
from tillie.model import Address, Arrived, Content, Envelope, Kind, Opened, Sealed, Stanza, Target
from tillie.schemes import Outcome
from tillie.schemes.openpgp import content
from tillie.schemes.openpgp.content import Form

ALICE, BOB = Address("alice@a.example"), Address("bob@b.example")
SIZE = 1_024  # characters of text
PADDING = 100  # characters, the mean of what ours adds
SIGNCRYPT = (
    b"<signcrypt xmlns='urn:xmpp:openpgp:0'><to jid='bob@b.example'/><time stamp='%b'/><rpad>%b</rpad>"
    b"<payload>%b</payload></signcrypt>"
)
BATCH, PEER_BATCH = 20, 3

_numbers = count()


class Keyring:
    """A GnuPG home that lives as long as this object."""

    def __init__(self) -> None:
        self.gpg = GnuPG().__enter__()

    def __del__(self) -> None:
        self.gpg.__exit__(None, None, None)


def body() -> bytes:
    """A message body, another one each time."""
    return b"<body xmlns='jabber:client'>%b</body>" % f"{next(_numbers):08d} ".ljust(SIZE, "x").encode()


class OurPair:
    """Alice and Bob, who know and trust each other's keys; Bob has `keys` of them, and holds the first."""

    def __init__(self, keys: int = 1) -> None:
        self.world = PgpWorld()
        self.alice, self.bob = PgpEnd(self.world, ALICE), PgpEnd(self.world, BOB)
        others = [openpgp.generate(f"xmpp:{BOB}") for _ in range(keys - 1)]
        certificates = [self.bob.key.certificate, *(other.certificate for other in others)]
        self.world.announce(BOB, *certificates)
        self.world.push(BOB)
        self.recipients = [self.alice.key.certificate, *certificates]
        sent = self.send(body())
        self.read(sent.element)
        self.target = Target(BOB, tuple(one.device for one in sent.report))
        if [one.sealed for one in sent.report] != [True] * keys:
            raise RuntimeError("a key of Bob's is left out")

    def seal(self, inside: bytes) -> Sealed:
        """Wrapped, signed and encrypted for keys that are chosen already."""
        self.world.now += TICK
        now, scheme = self.world.now, self.alice.scheme
        envelope = Envelope(Content(inside), sender=ALICE, to=BOB, time=now)
        return self.alice.drive(lambda s: scheme.seal(s, scheme.wrap(envelope, self.target), self.target, now))

    def open(self, sealed: bytes) -> Outcome:
        """Opened, its signature and its content element checked."""
        self.world.now += TICK
        now, scheme = self.world.now, self.bob.scheme
        return self.bob.drive(lambda s: scheme.open(s, self.arrived(sealed), now))

    def arrived(self, sealed: bytes) -> Arrived:
        return Arrived(sealed, Stanza("message", Address(f"{ALICE}/home"), BOB, "chat", "id"), "openpgp")

    def send(self, inside: bytes) -> Sealed:
        """Through the pipeline, which chooses the keys and asks for trust in them."""
        self.world.now += TICK
        now, alice = self.world.now, self.alice
        return alice.drive(lambda s: pipeline.seal(s, alice.scheme, alice.policy, Content(inside), BOB, now))

    def read(self, sealed: bytes) -> Opened:
        self.world.now += TICK
        now, bob = self.world.now, self.bob
        return bob.drive(lambda s: pipeline.open(s, bob.scheme, bob.policy, self.arrived(sealed), now))

    def plaintext(self) -> bytes:
        """What is signed and encrypted for a message."""
        return content.encode(Form.SIGNCRYPT, Content(body()), (BOB,), self.world.now, random_bytes)


def _library(data: bytes) -> pysequoia.Cert:
    """A certificate whose self-signatures the library has checked, once and for all."""
    cert = pysequoia.Cert.from_bytes(data)
    pysequoia.encrypt(b"", recipients=[cert], armor=False)
    return cert


def _sealed(results: Sequence[object]) -> None:
    if not all(results):
        raise RuntimeError("something was not sealed")


def _opened(results: Sequence[object]) -> None:
    if not all(isinstance(one, Outcome | Opened) and one.kind is Kind.OPENED for one in results):
        raise RuntimeError("something was not opened")


def _gpg_sealing(ring: Keyring, pair: OurPair, keys: int) -> Side:
    gpg = ring.gpg
    signer = gpg.generate(f"xmpp:{ALICE}")
    readers = [signer, *(gpg.generate(f"xmpp:bob{n}@b.example") for n in range(keys))]

    def prepare(wanted: int) -> list[Operation]:
        return [partial(gpg.seal, pair.plaintext(), readers, signer, "-z", "0") for _ in range(wanted)]

    return Side(prepare, PEER_BATCH, _sealed, warm_up=1, wall=True)


def _library_sealing(pair: OurPair) -> Side:
    signer = Tsk.from_bytes(pair.alice.key.data).signer()
    certs = [_library(certificate.data) for certificate in pair.recipients]

    def seal(inside: bytes) -> bytes:
        padding = b2a_base64(urandom(PADDING * 3 // 4), newline=False)
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").encode()
        plaintext = SIGNCRYPT % (stamp, padding, inside)
        message = pysequoia.encrypt(plaintext, recipients=certs, signer=signer, armor=False)
        return b"<openpgp xmlns='urn:xmpp:openpgp:0'>%b</openpgp>" % b2a_base64(message, newline=False)

    return Side(lambda wanted: [partial(seal, body()) for _ in range(wanted)], BATCH, _sealed)


def _library_opening(pair: OurPair) -> Side:
    decryptor, sender = Tsk.from_bytes(pair.bob.key.data).decryptor(), _library(pair.alice.key.certificate.data)

    def open(sealed: bytes) -> bytes:
        message = a2b_base64(etree.fromstring(sealed, PARSER).text or "")
        opened = pysequoia.decrypt(message, decryptor=decryptor, store=lambda _: [sender]).bytes
        payload: bytes = etree.tostring(etree.fromstring(opened, PARSER)[-1][0])
        return payload

    return Side(lambda wanted: [partial(open, pair.seal(body()).element) for _ in range(wanted)], BATCH, _sealed)


def _gpg_opening(ring: Keyring, pair: OurPair) -> Side:
    gpg = ring.gpg
    key = gpg.generate(f"xmpp:{BOB}")

    def prepare(wanted: int) -> list[Operation]:
        return [partial(gpg.open, gpg.seal(pair.plaintext(), [key], key)) for _ in range(wanted)]

    return Side(prepare, PEER_BATCH, _sealed, warm_up=1, wall=True)


def _figure(name: str, sides: dict[str, Side], peer: Callable[[Keyring], Side]) -> Figure:
    ring = Keyring() if shutil.which("gpg") else None
    if ring is not None:
        sides["peer"] = peer(ring)
    target = measure.Target() if "message" in name else measure.Target(floor_ratio=1.3)
    return Figure(name, sides, target, keep=ring)


def _seal(name: str, keys: int) -> Figure:
    pair = OurPair(keys)
    ours = pair.send if "message" in name else pair.seal
    sides = {
        "ours": Side(lambda wanted: [partial(ours, body()) for _ in range(wanted)], BATCH, _sealed),
        "floor": _library_sealing(pair),
    }
    return _figure(name, sides, partial(_gpg_sealing, pair=pair, keys=keys))


def _open(name: str) -> Figure:
    pair = OurPair()
    ours = pair.read if "message" in name else pair.open

    def prepare(wanted: int) -> list[Operation]:
        pair.bob.store.acknowledge(*(each for each, _ in pair.bob.store.inbox()))
        # Distinct ones: a signature that was verified once is not verified again.
        return [partial(ours, pair.seal(body()).element) for _ in range(wanted)]

    sides = {"ours": Side(prepare, BATCH, _opened), "floor": _library_opening(pair)}
    return _figure(name, sides, partial(_gpg_opening, pair=pair))


FIGURES: dict[str, Callable[[], Figure]] = {
    "openpgp.signcrypt.1": partial(_seal, "openpgp.signcrypt.1", 1),
    "openpgp.signcrypt.10": partial(_seal, "openpgp.signcrypt.10", 10),
    "openpgp.open.1": partial(_open, "openpgp.open.1"),
    "openpgp.message.send": partial(_seal, "openpgp.message.send", 1),
    "openpgp.message.read": partial(_open, "openpgp.message.read"),
}
