"""Messages under a password: what is sealed opens, nothing else does, and no input costs more than it should."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from random import Random

import pysequoia
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import fuzz
from tillie.crypto import packets, password, s2k, seipd
from tillie.crypto.packets import LITERAL, MAX_PACKETS, MAX_PARTIALS, PKESK, SED, SEIPD, SKESK, Packet
from tillie.errors import Malformed, PeerError, Undecryptable

PASSWORD = "k" * 43
TEXT = b"<entry xmlns='http://www.w3.org/2005/Atom'/>" * 4
MESSAGE = password.seal(TEXT, PASSWORD, stretch=False)
CONTAINER = packets.split(MESSAGE)[1]


def _joined(*found: Packet) -> bytes:
    return b"".join(map(packets.encode, found))


def _skesk(word: str, salt: bytes = bytes(8)) -> tuple[Packet, bytes]:
    """A SKESK packet for a word, and the key that it gives."""
    key = s2k.Stretch(s2k.SHA256, salt, 1_024).key(word.encode(), 32)
    return Packet(SKESK, bytes((4, 9, 3, 8)) + salt + b"\0"), key


@given(st.binary(max_size=3_000), st.text(max_size=90))
def test_round_trip(plaintext: bytes, word: str) -> None:
    message = password.seal(plaintext, word, stretch=False)
    assert password.open(message, word, max_bytes=len(plaintext)) == plaintext
    assert password.work(message) == 1_024


@given(st.binary(max_size=3_000))
@settings(max_examples=20)
def test_sequoia_reads_ours(plaintext: bytes) -> None:
    message = password.seal(plaintext, PASSWORD, stretch=False)
    assert pysequoia.decrypt(message, passwords=[PASSWORD]).bytes == plaintext


def test_stretched() -> None:
    message = password.seal(TEXT, "TWNK-KD5Y", stretch=True)
    assert password.work(message) == 65_011_712 > password.SLOW_WORK
    assert pysequoia.decrypt(message, passwords=["TWNK-KD5Y"]).bytes == TEXT
    by_sequoia = pysequoia.encrypt(TEXT, passwords=["TWNK-KD5Y"], armor=False)
    assert password.work(by_sequoia) > password.SLOW_WORK
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        opened = [pool.submit(password.open, each, "TWNK-KD5Y") for each in (message, by_sequoia)]
        refused = pool.submit(password.open, MESSAGE, "another")
        assert [each.result() for each in opened] == [TEXT, TEXT]
        assert isinstance(refused.exception(), Undecryptable)


def test_no_two_are_alike() -> None:
    assert len({password.seal(TEXT, PASSWORD, stretch=False) for _ in range(8)}) == 8


@pytest.mark.parametrize("at", range(len(MESSAGE)))
def test_cut_short(at: int) -> None:
    with pytest.raises(PeerError):
        password.open(MESSAGE[:at], PASSWORD)


@pytest.mark.parametrize("bit", range(8))
def test_any_bit_flipped(bit: int) -> None:
    for at in range(len(MESSAGE)):
        altered = bytearray(MESSAGE)
        altered[at] ^= 1 << bit
        with pytest.raises(PeerError):
            password.open(bytes(altered), PASSWORD)


def test_wrong_password_and_altered_look_alike() -> None:
    told = set()
    start = len(MESSAGE) - len(CONTAINER.body) + 1
    for at in (start, start + 8, start + 17, start + 40, len(MESSAGE) - 30, len(MESSAGE) - 22, len(MESSAGE) - 1):
        altered = bytearray(MESSAGE)
        altered[at] ^= 1
        with pytest.raises(Undecryptable) as error:
            password.open(bytes(altered), PASSWORD)
        told.add(str(error.value))
    with pytest.raises(Undecryptable) as error:
        password.open(MESSAGE, PASSWORD + "k")
    assert told == {str(error.value)}


@given(st.integers())
@settings(max_examples=300)
def test_mutated(seed: int) -> None:
    data = fuzz.mutate(MESSAGE, Random(seed))
    for call in (lambda: password.open(data, PASSWORD), lambda: password.work(data)):
        try:
            call()
        except PeerError:
            pass


@given(st.binary(max_size=400))
def test_garbage(data: bytes) -> None:
    with pytest.raises(PeerError):
        password.open(data, PASSWORD)
    with pytest.raises(PeerError):
        password.open(MESSAGE + data + b"\xcb\x00", PASSWORD)  # something behind it, too


def test_armour_is_refused() -> None:
    armoured = pysequoia.armor(MESSAGE, pysequoia.ArmorKind.Message).encode()
    for call in (lambda: password.open(armoured, PASSWORD), lambda: password.work(armoured)):
        with pytest.raises(Malformed, match="binary"):
            call()


# -- several passwords, and limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, password.MAX_SKESKS, password.MAX_SKESKS + 1])
def test_several_passwords(count: int) -> None:
    right, key = _skesk(PASSWORD)
    others = [_skesk(f"other {index}", bytes((index,)) * 8)[0] for index in range(count - 1)]
    message = _joined(*others, right) + seipd.seal(key, seipd.encode_literal(TEXT))
    if count <= password.MAX_SKESKS:
        assert password.work(message) == 1_024 * count
        assert password.open(message, PASSWORD) == TEXT
    else:
        with pytest.raises(Malformed):
            password.open(message, PASSWORD)


def test_size_has_an_edge() -> None:
    assert password.open(MESSAGE, PASSWORD, max_bytes=len(TEXT)) == TEXT
    with pytest.raises(Malformed, match="too large"):
        password.open(MESSAGE, PASSWORD, max_bytes=len(TEXT) - 1)
    with pytest.raises(Malformed, match="too large"):
        password.open(bytes(password.MAX_BYTES + (1 << 16) + 1), PASSWORD)


def _refused(packet: Packet) -> bytes:
    return _joined(_skesk(PASSWORD)[0], packet)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (_joined(_skesk(PASSWORD)[0]), Malformed),
        (_joined(CONTAINER), Malformed),
        (_joined(CONTAINER, _skesk(PASSWORD)[0]), Malformed),
        (_joined(Packet(PKESK, b"\x03" + bytes(20)), CONTAINER), Malformed),
        (_refused(Packet(SED, CONTAINER.body[1:])), Malformed),  # nothing tells whether it was altered
        (_refused(Packet(SEIPD, b"")), Malformed),
        (_refused(Packet(SEIPD, b"\x03" + bytes(60))), Malformed),
        (_refused(Packet(SEIPD, b"\x02\x09\x02\x06" + bytes(80))), Undecryptable),  # version 2 wants a SKESK version 6
        (_refused(Packet(SEIPD, b"\x01" + bytes(39))), Undecryptable),
        (_joined(Packet(SKESK, b"\x04"), CONTAINER), Malformed),
        (_joined(Packet(SKESK, b"\x06" + bytes(60)), CONTAINER), Undecryptable),
        (_joined(Packet(SKESK, b"\x04\x09\x04" + bytes(20)), CONTAINER), Undecryptable),  # Argon2
        (_joined(Packet(SKESK, b"\x04\x09\x03\x01" + bytes(9)), CONTAINER), Undecryptable),  # MD5
        (_joined(Packet(SKESK, b"\x04\x02\x03\x08" + bytes(9)), CONTAINER), Undecryptable),  # 3DES
        (seipd.encode_literal(TEXT), Malformed),
    ],
)
def test_refused(message: bytes, error: type[PeerError]) -> None:
    with pytest.raises(error):
        password.open(message, PASSWORD)


@pytest.mark.parametrize(
    "inner",
    [
        b"",
        seipd.encode_literal(TEXT) * 2,
        _joined(Packet(LITERAL, b"b\x05abc")),
        MESSAGE,
        _joined(Packet(packets.COMPRESSED, b"")),
        _joined(Packet(packets.COMPRESSED, b"\x09" + TEXT)),
        _joined(Packet(packets.COMPRESSED, b"\x01" + TEXT)),
        _joined(Packet(packets.COMPRESSED, b"\x00" + _joined(Packet(packets.COMPRESSED, b"\x00")))),
        _joined(Packet(packets.COMPRESSED, b"\x00" + seipd.encode_literal(TEXT))) + seipd.encode_literal(TEXT),
    ],
)
def test_refused_inside(inner: bytes) -> None:
    skesk, key = _skesk(PASSWORD)
    with pytest.raises(Malformed):
        password.open(_joined(skesk) + seipd.seal(key, inner), PASSWORD)


# -- framing ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 63), st.binary(max_size=9_000)), min_size=1, max_size=5))
@settings(max_examples=50)
def test_framing(found: list[tuple[int, bytes]]) -> None:
    whole = [Packet(*each) for each in found]
    if kept := [each for each in whole if each.tag not in (packets.MARKER, packets.PADDING)]:
        assert packets.split(_joined(*whole)) == kept


def _pieces(tag: int, first: int, count: int) -> bytes:
    return bytes((0xC0 | tag, 224 + first)) + bytes(1 << first) + b"\xe0\x00" * (count - 1) + b"\x00"


@pytest.mark.parametrize(
    ("data", "good"),
    [
        (_pieces(SEIPD, 9, 1), True),
        (_pieces(SEIPD, 8, 1), False),
        (_pieces(SKESK, 9, 1), False),
        (_pieces(SEIPD, 9, MAX_PARTIALS), True),
        (_pieces(SEIPD, 9, MAX_PARTIALS + 1), False),
        (b"\xcb\x00" * MAX_PACKETS, True),
        (b"\xcb\x00" * (MAX_PACKETS + 1), False),
        (b"\xca\x03PGP" * (MAX_PACKETS + 1), False),  # markers count as well
        (b"\xa3abc", True),  # old format: compressed, up to the end
        (b"\xb3abc", False),  # nothing else may be
        (b"\x8c\x01a\x8d\x00\x01a\x8e\x00\x00\x00\x01a", True),
        (b"\x8d\x00", False),
        (b"\xd2\xff\x00\x00", False),
        (b"\xd2\xff\xff\xff\xff\xff", False),
        (b"\xd2\xc0", False),
        (b"\xca\x03PGP", False),
        (b"", False),
        (b"\x00", False),
    ],
)
def test_framing_has_edges(data: bytes, good: bool) -> None:
    if good:
        assert packets.split(data)
    else:
        with pytest.raises(Malformed):
            packets.split(data)


def test_nothing_is_shown() -> None:
    assert repr(packets.split(MESSAGE)) == f"[Packet(3, 13 octets), Packet(18, {len(CONTAINER.body)} octets)]"
