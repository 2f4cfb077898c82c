"""OpenPGP packets: where each begins and ends (RFC 4880 section 4.2), and the fields in their bodies (section 3).

Framing only: nothing here has a key. Every length is checked against what is there before anything is taken.
"""

from __future__ import annotations

from typing import NamedTuple

from tillie.errors import Malformed

MAX_PACKETS = 2_048  # in one input; an honest message has a dozen, an honest certificate some hundreds
MAX_PARTIALS = 16_384  # pieces of one body; 512 octets each make 8 MiB, and GnuPG's pieces have 8,192
FIRST_PARTIAL = 512  # RFC 4880 section 4.2.2.4: "The first partial length MUST be at least 512 octets long."

# RFC 4880 section 4.3, RFC 9580 section 5 for PADDING
PKESK, SIGNATURE, SKESK, ONE_PASS, SECRET_KEY, PUBLIC_KEY, SECRET_SUBKEY = 1, 2, 3, 4, 5, 6, 7
COMPRESSED, SED, MARKER, LITERAL, TRUST, USER_ID, PUBLIC_SUBKEY = 8, 9, 10, 11, 12, 13, 14
USER_ATTRIBUTE, SEIPD, PADDING = 17, 18, 21

_IGNORED = frozenset((MARKER, PADDING))  # RFC 4880 section 5.8, RFC 9580 section 5.14: to be passed over
_MAY_BE_PARTIAL = frozenset((COMPRESSED, SED, LITERAL, SEIPD))
_MAY_BE_INDETERMINATE = frozenset((COMPRESSED, LITERAL))  # as GnuPG writes them inside others


class Packet(NamedTuple):
    """One packet: its tag and its body, partial lengths joined."""

    tag: int
    body: bytes

    def __repr__(self) -> str:
        return f"Packet({self.tag}, {len(self.body)} octets)"  # the body may be a secret


def split(data: bytes, *, limit: int = MAX_PACKETS) -> list[Packet]:
    """The packets of `data`, at least one; markers and padding left out. Malformed: armour, cut short, stray octets."""
    found: list[Packet] = []
    at = seen = 0
    end = len(data)
    while at < end:
        seen += 1
        if seen > limit:
            raise Malformed("it has too many OpenPGP packets")
        try:
            packet, at = _packet(data, at)
        except IndexError:
            raise Malformed("an OpenPGP packet is cut short") from None
        if packet.tag not in _IGNORED:
            found.append(packet)
    if not found:
        raise Malformed("there is no OpenPGP packet")
    return found


def header(tag: int, length: int) -> bytes:
    """The header of a packet whose body has `length` octets, in the new format (RFC 4880 section 4.2.2)."""
    if length < 192:
        return bytes((0xC0 | tag, length))
    if length < 8_384:
        return bytes((0xC0 | tag, (length - 192 >> 8) + 192, length - 192 & 0xFF))
    return bytes((0xC0 | tag, 255)) + length.to_bytes(4, "big")


def encode(packet: Packet) -> bytes:
    return header(packet.tag, len(packet.body)) + packet.body


def _packet(data: bytes, at: int) -> tuple[Packet, int]:
    first = data[at]
    if first & 0xC0 == 0xC0:
        return _new_format(first & 0x3F, data, at + 1)
    if first & 0xC0 != 0x80:
        raise Malformed("it is not binary OpenPGP data")
    kind, tag = first & 3, first >> 2 & 0x0F
    if kind == 3:
        if tag not in _MAY_BE_INDETERMINATE:
            raise Malformed("an OpenPGP packet has no length")
        return Packet(tag, data[at + 1 :]), len(data)
    size = 1 << kind
    start = at + 1 + size
    length = int.from_bytes(_take(data, at + 1, size), "big")
    return Packet(tag, _take(data, start, length)), start + length


def _new_format(tag: int, data: bytes, at: int) -> tuple[Packet, int]:
    pieces: list[bytes] = []
    while True:
        octet = data[at]
        at += 1
        partial = 224 <= octet < 255
        if octet < 192:
            length = octet
        elif octet < 224:
            length = (octet - 192 << 8) + data[at] + 192
            at += 1
        elif partial:
            length = 1 << (octet & 31)
            _check_partial(tag, length, len(pieces))
        else:
            length = int.from_bytes(_take(data, at, 4), "big")
            at += 4
        body = _take(data, at, length)
        at += length
        if not partial and not pieces:
            return Packet(tag, body), at
        pieces.append(body)
        if not partial:
            return Packet(tag, b"".join(pieces)), at


def _check_partial(tag: int, length: int, before: int) -> None:
    if tag not in _MAY_BE_PARTIAL or (not before and length < FIRST_PARTIAL):
        raise Malformed("an OpenPGP packet comes in pieces where it must not")
    if before >= MAX_PARTIALS:
        raise Malformed("an OpenPGP packet comes in too many pieces")


def _take(data: bytes, at: int, length: int) -> bytes:
    if length > len(data) - at:
        raise Malformed("an OpenPGP packet is cut short")
    return data[at : at + length]


class Fields:
    """Reads the fields of a packet's body from the front (RFC 4880 section 3)."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def at(self) -> int:
        return self._at

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, length: int) -> bytes:
        piece = _take(self._data, self._at, length)
        self._at += length
        return piece

    def octet(self) -> int:
        return self.take(1)[0]

    def counted(self) -> bytes:
        """What follows an octet that counts it."""
        return self.take(self.octet())

    def mpi(self) -> bytes:
        """A multiprecision integer (section 3.2), without the two octets that count its bits."""
        return self.take(int.from_bytes(self.take(2), "big") + 7 >> 3)

    def rest(self) -> bytes:
        return self.take(self.left)
