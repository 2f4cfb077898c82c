"""Encrypted sessions (XEP-0116, XEP-0200): a negotiation, one stanza each way, a re-key, and what a session keeps.

No peer is left to measure: Gajim dropped its sessions long ago. The floors are the primitives in a straight line.
`negotiate`, `stanza` and `rekey` are steps with what they need at hand, as their floors have it; `start` and `message`
are the whole way, through the pipeline and a store in memory.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from hmac import compare_digest, digest
from itertools import count
from os import urandom

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from lxml import etree

from bench.floor import PARSER
from bench.measure import Figure, Operation, Result, Side, Target
from support.sessions import ALICE, BOB, Client, Clock, deliver, pair
from tillie import pipeline
from tillie.crypto import modp
from tillie.model import Address, Arrived
from tillie.negotiation.element import feature, init, parse_feature, parse_init
from tillie.schemes.esession import Settings, channel, four, offer, states, text
from tillie.schemes.esession.channel import MAX_SETS
from tillie.schemes.esession.keys import Pair
from tillie.schemes.esession.settings import Parties

GROUP = modp.GROUPS[14]
SIZE = 1_024  # bytes of a plain stanza
SETTINGS = Settings(groups=(14,))
BATCH, STEPS, STARTS, START_ROUNDS = 40, 10, 3, 7
MAX_SESSION = 4_096  # bytes
NOW = 1_780_000_000.0
C = "http://www.xmpp.org/extensions/xep-0200.html#ns"
_C = f"{{{C}}}"
_HEAD = b"<message xmlns='jabber:client' from='alice@a.example/home' to='bob@b.example/work' id='m%08d' type='chat'>"
_numbers = count()


def stanza() -> bytes:
    """A chat message of a kilobyte, another one each time, as a program hands it over."""
    number = next(_numbers)
    head = _HEAD % number + b"<body>%d " % number
    tail = (
        b"</body><request xmlns='urn:xmpp:receipts'/><active xmlns='http://jabber.org/protocol/chatstates'/></message>"
    )
    words = b"It was the nightingale, and not the lark, that pierced the fearful hollow of thine ear. " * 12
    return head + words[: SIZE - len(head) - len(tail)] + tail


def within(sealed: bytes) -> bytes:
    """The `<c/>` of a sealed stanza, as the network hands it over."""
    return sealed[sealed.index(b"<c ") : sealed.index(b"</c>") + 4]


# -- ours -----------------------------------------------------------------------------------------------------------


class Line:
    """Two ends of an open session with the keys at hand, and what moves over it in one direction."""

    def __init__(self, rekey_freq: int = 100) -> None:
        out, into = (Pair(urandom(32), urandom(32)) for _ in range(2))
        counter = int.from_bytes(urandom(16), "big")
        there = counter ^ (1 << 127)
        x, y = modp.private(GROUP), modp.private(GROUP)
        more = {"group": GROUP.number, "now": NOW, "cipher": "aes256-ctr", "rekey_freq": rekey_freq}
        d, e = modp.public(GROUP, y), modp.public(GROUP, x)
        self.here = channel.begin(out=out, into=into, counter_out=counter, counter_in=there, private=x, peer=d, **more)
        self.there = channel.begin(out=into, into=out, counter_out=there, counter_in=counter, private=y, peer=e, **more)

    def seal(self, plain: bytes) -> bytes:
        divided = text.divide(plain)
        self.here, element = channel.seal(self.here, divided.text, now=NOW)
        return divided.before + element + divided.after

    def open(self, element: bytes) -> bytes:
        self.there, incoming = channel.open(self.there, element, now=NOW)
        return text.decode(incoming.plaintext or b"").content.data

    def rekey(self) -> bool:
        """A new key of ours, and the stanza that says that it came."""
        self.here, element = channel.seal(self.here, None, rekey=True, now=NOW)
        self.there, incoming = channel.open(self.there, element, now=NOW)
        self.there, element = channel.seal(self.there, None, now=NOW)
        self.here, _ = channel.open(self.here, element, now=NOW)
        return incoming.rekeyed and len(self.here.sets) == 1


def negotiate() -> bool:
    """All four messages of both ends, from settings to keys, each as the bytes that travel."""
    own, peer = Parties(Address(ALICE), Address(BOB), "t"), Parties(Address(BOB), Address(ALICE), "t")
    offering, form = offer.offer(SETTINGS)
    answering, form = offer.answer(SETTINGS, parse_feature(feature(form)))
    concluding, form = four.conclude(offering, SETTINGS, own, parse_feature(feature(form)), (), now=NOW)
    responder, last = four.accept(answering, SETTINGS, peer, parse_feature(feature(form)), (), now=NOW)
    if last is None or not isinstance(concluding, states.Concluding):
        raise RuntimeError("that was no negotiation of four messages")
    initiator = four.finish(concluding, SETTINGS, parse_init(init(last))[0], (), now=NOW)
    return initiator.string == responder.string and initiator.new_secret == responder.new_secret


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
        hidden = list(message)
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


def _exponentiations() -> bool:
    """The four of a negotiation with one group, by what does them here."""
    x, y = modp.private(GROUP), modp.private(GROUP)
    e, d = modp.public(GROUP, x), modp.public(GROUP, y)
    return modp.shared(GROUP, x, d) == modp.shared(GROUP, y, e)


def _rekey_exponentiations(y: int, d: int) -> bool:
    """The three of a re-key: the other end's value is there already."""
    x = modp.private(GROUP)
    return modp.shared(GROUP, x, d) == modp.shared(GROUP, y, modp.public(GROUP, x))


def _yes(results: Sequence[object]) -> None:
    if not all(result is True for result in results):
        raise RuntimeError("the two sides did not come to the same")


# -- figures --------------------------------------------------------------------------------------------------------


def _negotiate() -> Figure:
    sides = {
        "ours": Side(lambda wanted: [negotiate] * wanted, STEPS, _yes),
        "floor": Side(lambda wanted: [_exponentiations] * wanted, STEPS, _yes),
    }
    return Figure("esession.negotiate.group14", sides, Target(floor_ratio=2))


def _seal() -> Figure:
    return Figure("esession.stanza.seal", {"ours": _our_sealing(), "floor": _floor_sealing()}, Target(floor_ratio=2.5))


def _open() -> Figure:
    return Figure("esession.stanza.open", {"ours": _our_opening(), "floor": _floor_opening()}, Target(floor_ratio=2.5))


def _rekey() -> Figure:
    line, y = Line(rekey_freq=1), modp.private(GROUP)
    floor = partial(_rekey_exponentiations, y, modp.public(GROUP, y))
    sides = {
        "ours": Side(lambda wanted: [line.rekey] * wanted, STEPS, _yes),
        "floor": Side(lambda wanted: [floor] * wanted, STEPS, _yes),
    }
    return Figure("esession.rekey.group14", sides)


def _send() -> Figure:
    alice, _, _ = pair(settings=SETTINGS)
    ours = Side(lambda wanted: [partial(alice.send, stanza()) for _ in range(wanted)], BATCH)
    return Figure("esession.message.send", {"ours": ours, "floor": _floor_sealing()})


def _read() -> Figure:
    alice, bob, _ = pair(settings=SETTINGS)

    def prepare(wanted: int) -> list[Operation]:
        for _ in range(wanted):
            alice.send(stanza())
        arrived = [bob.read(each) for each in alice.sent()]
        return [partial(_take_in, bob, each) for each in arrived if each is not None]

    return Figure("esession.message.read", {"ours": Side(prepare, BATCH, _are_stanzas), "floor": _floor_opening()})


def _take_in(bob: Client, arrived: Arrived) -> bytes:
    opened = bob.run(lambda s: pipeline.open(s, bob.scheme, bob.policy, arrived, bob.clock.now))
    return opened.content.data if opened.content else b""


def _start(name: str, settings: Settings) -> Figure:
    """From "start" to an active session at both ends, each message with all that a network would hand over."""

    def start(alice: Client, bob: Client) -> bool:
        thread = alice.start(bob.own)
        deliver(alice, bob)
        return alice.look(thread).active and bob.look(thread).active

    def prepare(wanted: int) -> list[Operation]:
        clock = Clock()
        return [
            partial(start, Client(ALICE, settings, clock=clock), Client(BOB, settings, clock=clock))
            for _ in range(wanted)
        ]

    return Figure(name, {"ours": Side(prepare, STARTS, _yes)}, rounds=START_ROUNDS)


def _negotiation_sizes() -> list[int]:
    """The stanzas of a negotiation, in bytes, as they leave with the groups that we offer."""
    clock = Clock()
    alice, bob = Client(ALICE, Settings(), clock=clock), Client(BOB, Settings(), clock=clock)
    thread = alice.start(bob.own)
    sizes = []
    while flying := [*alice.sent(), *bob.sent()]:
        for each in flying:
            sizes.append(len(each.stanza))
            (bob if each.sender == alice.own else alice).get(each)
    if not alice.look(thread).active:
        raise RuntimeError("there is no session to measure")
    return sizes


def _wire(name: str, unit: str, measured: Callable[[list[int]], int]) -> Result:
    return Result(Figure(name, {}, unit=unit), {"ours": float(measured(_negotiation_sizes()))})


def _kept(name: str, group: int, rekeys: int) -> Result:
    """Everything that the store keeps of one open session, keys and values. `rekeys`: new keys of Alice's that Bob has
    not seen yet, which all wait for his next stanza."""
    settings = replace(SETTINGS, groups=(group,), rekey_frequency=1)
    alice, bob, thread = pair(settings=settings)
    for _ in range(rekeys):
        alice.do(lambda s, now: alice.scheme.rekey(s, thread, now))
    rows = {key: value for key, value in alice.records().items() if key[1] in ("session", "open")}
    size = sum(len(key[1]) + len(key[2]) + len(value) for key, value in rows.items())
    if len(rows) != 2 or not bob.look(thread).active:
        raise RuntimeError(f"one session has {len(rows)} records")
    return Result(Figure(name, {}, Target(most=MAX_SESSION), unit="B"), {"ours": float(size)})


FIGURES: dict[str, Callable[[], Figure | Result]] = {
    "esession.negotiate.group14": _negotiate,
    "esession.negotiate.stanzas": partial(_wire, "esession.negotiate.stanzas", "stanzas", len),
    "esession.negotiate.bytes": partial(_wire, "esession.negotiate.bytes", "B", sum),
    "esession.start": partial(_start, "esession.start", Settings()),
    "esession.start.group14": partial(_start, "esession.start.group14", SETTINGS),
    "esession.stanza.seal": _seal,
    "esession.stanza.open": _open,
    "esession.message.send": _send,
    "esession.message.read": _read,
    "esession.rekey.group14": _rekey,
    "esession.session.bytes": partial(_kept, "esession.session.bytes", 14, 0),
    "esession.session.bytes.group18": partial(_kept, "esession.session.bytes.group18", 18, 0),
    "esession.session.bytes.most": partial(_kept, "esession.session.bytes.most", 18, MAX_SETS - 1),
}
