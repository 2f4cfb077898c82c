"""Encrypted sessions (XEP-0116, XEP-0200): a negotiation, one stanza each way, a re-key, and what a session keeps.

No peer is left to measure: Gajim dropped its sessions in 2017. The floors are the primitives in a straight line.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from functools import partial
from hmac import compare_digest, digest
from itertools import count
from os import urandom

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from lxml import etree

from bench.floor import PARSER
from bench.measure import Figure, Operation, Side, Target
from tillie.crypto import modp
from tillie.schemes.esession import channel, text
from tillie.schemes.esession.keys import Pair

GROUP = modp.GROUPS[14]
SIZE = 1_024  # bytes of a plain stanza
BATCH = 40
NOW = 1_780_000_000.0
C = "http://www.xmpp.org/extensions/xep-0200.html#ns"
_C = f"{{{C}}}"
_HEAD = b"<message xmlns='jabber:client' from='alice@a.example/home' to='bob@b.example/work' id='m%08d' type='chat'>"
_THREAD_TAG = "{jabber:client}thread"
_THREAD = b"<thread>3b1c5f9a7d2e4860</thread></message>"
_numbers = count()


def stanza() -> bytes:
    """A chat message of a kilobyte, another one each time, as a program hands it over."""
    number = next(_numbers)
    head = _HEAD % number + b"<body>%d " % number
    tail = b"</body><request xmlns='urn:xmpp:receipts'/>" + _THREAD
    words = b"It was the nightingale, and not the lark, that pierced the fearful hollow of thine ear. " * 12
    return head + words[: SIZE - len(head) - len(tail)] + tail


def within(sealed: bytes) -> bytes:
    """The `<c/>` of a sealed stanza, as the network hands it over."""
    return sealed[sealed.index(b"<c ") : sealed.index(b"</c>") + 4]


# -- ours -----------------------------------------------------------------------------------------------------------


class Line:
    """Two ends of an open session with the keys at hand, and what moves over it in one direction."""

    def __init__(self) -> None:
        out, into = (Pair(urandom(32), urandom(32)) for _ in range(2))
        counter = int.from_bytes(urandom(16), "big")
        there = counter ^ (1 << 127)
        x, y = modp.private(GROUP), modp.private(GROUP)
        more = {"group": GROUP.number, "now": NOW, "cipher": "aes256-ctr", "rekey_freq": 100}
        d, e = modp.public(GROUP, y), modp.public(GROUP, x)
        self.here = channel.begin(out=out, into=into, counter_out=counter, counter_in=there, private=x, peer=d, **more)
        self.there = channel.begin(out=into, into=out, counter_out=there, counter_in=counter, private=y, peer=e, **more)

    def seal(self, plain: bytes) -> bytes:
        divided = text.divide(plain)
        self.here, element = channel.seal(self.here, divided.text, now=NOW)
        return divided.before + element + divided.after

    def open(self, element: bytes) -> bytes:
        self.there, incoming = channel.open(self.there, element, now=NOW)
        return text.decode(incoming.plaintext or b"").content.xml


def _our_sealing() -> Side:
    line = Line()
    return Side(lambda wanted: [partial(line.seal, stanza()) for _ in range(wanted)], BATCH)


def _our_opening() -> Side:
    line = Line()

    def prepare(wanted: int) -> list[Operation]:
        return [partial(line.open, within(line.seal(stanza()))) for _ in range(wanted)]

    return Side(prepare, BATCH, _are_stanzas)


# -- floors ---------------------------------------------------------------------------------------------------------


class StanzaFloor:
    """A stanza with the keys at hand: lxml in and out, AES-256-CTR, HMAC-SHA256 and Base64 of the same sizes."""

    def __init__(self) -> None:
        self.cipher_key, self.mac_key = urandom(32), urandom(32)

    def _apply(self, counter: bytes, data: bytes) -> bytes:
        return Cipher(AES(self.cipher_key), CTR(counter)).encryptor().update(data)

    def seal(self, counter: bytes, plain: bytes) -> bytes:
        message = etree.fromstring(plain, PARSER)
        hidden = [child for child in message if child.tag != _THREAD_TAG]
        text = b"".join(map(etree.tostring, hidden))
        for child in hidden:
            message.remove(child)
        data = b2a_base64(self._apply(counter, text), newline=False)
        mac = b2a_base64(digest(self.mac_key, b"<data>%b</data>" % data + counter, "sha256"), newline=False)
        element = etree.SubElement(message, _C + "c", nsmap={None: C})
        etree.SubElement(element, _C + "data").text = data
        etree.SubElement(element, _C + "mac").text = mac
        return etree.tostring(message)

    def open(self, counter: bytes, sealed: bytes) -> bytes:
        element = etree.fromstring(sealed, PARSER)
        data, mac = element[0].text, element[1].text
        content = b"<data>%b</data>" % data.encode()
        if not compare_digest(digest(self.mac_key, content + counter, "sha256"), a2b_base64(mac)):
            raise ValueError("the floor failed its own MAC")
        plain = self._apply(counter, a2b_base64(data))
        return b"".join(map(etree.tostring, etree.fromstring(b"<m xmlns='jabber:client'>%b</m>" % plain, PARSER)))


def _floor_sealing() -> Side:
    floor = StanzaFloor()
    return Side(lambda wanted: [partial(floor.seal, urandom(16), stanza()) for _ in range(wanted)], BATCH)


def _floor_opening() -> Side:
    floor = StanzaFloor()

    def prepare(wanted: int) -> list[Operation]:
        counters = [urandom(16) for _ in range(wanted)]
        return [partial(floor.open, counter, within(floor.seal(counter, stanza()))) for counter in counters]

    return Side(prepare, BATCH, _are_stanzas)


def _are_stanzas(results: Sequence[object]) -> None:
    if not all(isinstance(one, bytes) and b"nightingale" in one for one in results):
        raise RuntimeError("a stanza was not opened")


class NegotiationFloor:
    """The four exponentiations of a negotiation with one group, by what does them here."""

    def negotiate(self) -> bool:
        x, y = modp.private(GROUP), modp.private(GROUP)
        e, d = modp.public(GROUP, x), modp.public(GROUP, y)
        return modp.shared(GROUP, x, d) == modp.shared(GROUP, y, e)


# -- figures --------------------------------------------------------------------------------------------------------


def _seal() -> Figure:
    return Figure("esession.stanza.seal", {"ours": _our_sealing(), "floor": _floor_sealing()}, Target(floor_ratio=2.5))


def _open() -> Figure:
    return Figure("esession.stanza.open", {"ours": _our_opening(), "floor": _floor_opening()}, Target(floor_ratio=2.5))


FIGURES = {"esession.stanza.seal": _seal, "esession.stanza.open": _open}
