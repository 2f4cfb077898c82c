"""Messages in a session that both ends have confirmed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

from bench.floor import Floor
from bench.measure import Figure, Operation, Side, Target
from bench.pairs import content_bytes, pingpong_open, pingpong_seal, steady_open, steady_seal
from bench.peers import met

BATCH, PEER_BATCH = 40, 10  # fewer than the 53 after which a heartbeat is due
PAIRS = 10
PINGPONG_ROUNDS = 20
MANY, MANY_BATCH, MANY_ROUNDS = 100, 5, 10


@lru_cache(1)
def the_floor() -> Floor:
    return Floor()


def floor_side(operation: Callable[[bytes], object], batch: int) -> Side:
    """A floor whose operation takes a content."""
    return Side(lambda count: [partial(operation, content_bytes()) for _ in range(count)], batch)


def floor_opening(operation: Callable[[bytes], object], seal: Callable[[bytes], bytes], batch: int) -> Side:
    """A floor whose operation takes an element that `seal` made."""

    def prepare(count: int) -> list[Operation]:
        return [partial(operation, seal(content_bytes())) for _ in range(count)]

    return Side(prepare, batch)


def _encrypt() -> Figure:
    sides = {name: steady_seal(pair, BATCH if name == "ours" else PEER_BATCH) for name, (pair,) in met().items()}
    sides["floor"] = floor_side(the_floor().encrypt, BATCH)
    return Figure("omemo.encrypt.1", sides, Target(peer_ratio=10, floor_ratio=2.5))


def _decrypt() -> Figure:
    sides = {name: steady_open(pair, BATCH if name == "ours" else PEER_BATCH) for name, (pair,) in met().items()}
    sides["floor"] = floor_opening(the_floor().decrypt, the_floor().encrypt, BATCH)
    return Figure("omemo.decrypt.1", sides, Target(peer_ratio=10, floor_ratio=2.5))


def _decrypt_pingpong() -> Figure:
    sides = {name: pingpong_open(pairs) for name, pairs in met(PAIRS).items()}
    sides["floor"] = floor_opening(the_floor().decrypt_pingpong, the_floor().encrypt, PAIRS)
    return Figure("omemo.decrypt.pingpong", sides, Target(peer_ratio=4), rounds=PINGPONG_ROUNDS)


def _encrypt_pingpong() -> Figure:
    """What the other figure could hide: whoever puts off half of a ratchet step pays for it here."""
    sides = {name: pingpong_seal(pairs) for name, pairs in met(PAIRS).items()}
    sides["floor"] = floor_side(the_floor().encrypt_pingpong, PAIRS)
    return Figure("omemo.encrypt.pingpong", sides, rounds=PINGPONG_ROUNDS)


def _encrypt_many() -> Figure:
    sides = {name: steady_seal(pair, MANY_BATCH if name == "ours" else 1) for name, (pair,) in met(1, MANY).items()}
    sides["floor"] = floor_side(partial(the_floor().encrypt, devices=MANY), MANY_BATCH)
    return Figure("omemo.encrypt.100", sides, Target(peer_ratio=15, floor_ratio=2), rounds=MANY_ROUNDS)


FIGURES = {
    "omemo.encrypt.1": _encrypt,
    "omemo.decrypt.1": _decrypt,
    "omemo.decrypt.pingpong": _decrypt_pingpong,
    "omemo.encrypt.pingpong": _encrypt_pingpong,
    "omemo.encrypt.100": _encrypt_many,
}
