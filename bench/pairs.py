"""Two ends that talk, whoever implements them; and the ways in which a figure makes them talk."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Any, Protocol

from bench import floor
from bench.measure import Operation, Side

ALICE, BOB = "alice@a.example", "bob@b.example"
MESSAGE = 200  # characters of text
_numbers = count()


def content_bytes() -> bytes:
    """A message body of 200 characters, another one each time."""
    return b"<body xmlns='jabber:client'>%b</body>" % f"{next(_numbers):08d} ".ljust(MESSAGE, "x").encode()


def envelope_bytes() -> bytes:
    """The same in an SCE envelope, for a peer that makes none itself."""
    return floor.envelope(content_bytes())


class Pair(Protocol):
    """Alice (0) and Bob (1). What `message` makes, `seal` takes; what `seal` gives, `open` takes at the other end."""

    @abstractmethod
    def forget(self) -> None:
        """Back to before the first message: both know of each other's devices, and have no session."""

    @abstractmethod
    def meet(self) -> None:
        """The first message and its answer: after it both ends have a confirmed session."""

    @abstractmethod
    def message(self) -> Any: ...

    @abstractmethod
    def seal(self, sender: int, message: Any, /) -> Any: ...

    @abstractmethod
    def open(self, receiver: int, sealed: Any, /) -> Any: ...


def _opened(results: Sequence[object]) -> None:
    if not all(isinstance(result, bytes) and b"<body" in result for result in results):
        raise RuntimeError("something was not opened")


def _sealed(results: Sequence[object]) -> None:
    if not all(results):
        raise RuntimeError("something was not sealed")


def _answer(pair: Pair) -> None:
    """Bob answers, so that no chain grows longer than in a conversation."""
    pair.open(0, pair.seal(1, pair.message()))
    pair.open(1, pair.seal(0, pair.message()))


def steady_seal(pair: Pair, batch: int) -> Side:
    """Alice sends one message after the other."""

    def prepare(wanted: int) -> list[Operation]:
        return [partial(pair.seal, 0, pair.message()) for _ in range(wanted)]

    return Side(prepare, batch, _sealed)


def steady_open(pair: Pair, batch: int) -> Side:
    """Bob opens one message of Alice's after the other, in order."""

    def prepare(wanted: int) -> list[Operation]:
        _answer(pair)
        return [partial(pair.open, 1, pair.seal(0, pair.message())) for _ in range(wanted)]

    return Side(prepare, batch, _opened)


def pingpong_open(pairs: Sequence[Pair]) -> Side:
    """Bob opens Alice's answer to a message of his: her ratchet key is new. One in each pair and round."""

    def prepare(wanted: int) -> list[Operation]:
        operations: list[Operation] = []
        for pair in pairs[:wanted]:
            pair.open(0, pair.seal(1, pair.message()))
            operations.append(partial(pair.open, 1, pair.seal(0, pair.message())))
        return operations

    return Side(prepare, len(pairs), _opened, warm_up=0)


def pingpong_seal(pairs: Sequence[Pair]) -> Side:
    """Alice answers a message of Bob's whose ratchet key was new. One in each pair and round."""

    def prepare(wanted: int) -> list[Operation]:
        operations: list[Operation] = []
        for pair in pairs[:wanted]:
            pair.open(1, pair.seal(0, pair.message()))
            pair.open(0, pair.seal(1, pair.message()))
            operations.append(partial(pair.seal, 0, pair.message()))
        return operations

    def deliver(results: Sequence[object]) -> None:
        _opened([pair.open(1, sealed) for pair, sealed in zip(pairs, results, strict=False)])

    return Side(prepare, len(pairs), deliver, warm_up=0)


def first_seal(pairs: Sequence[Pair]) -> Side:
    """Alice makes new sessions and her first message. One in each pair and round."""

    def prepare(wanted: int) -> list[Operation]:
        operations: list[Operation] = []
        for pair in pairs[:wanted]:
            pair.forget()
            operations.append(partial(pair.seal, 0, pair.message()))
        return operations

    return Side(prepare, len(pairs), _sealed, warm_up=0)


def first_open(pairs: Sequence[Pair]) -> Side:
    """Bob opens the first message, with the duties that come with it. One in each pair and round."""

    def prepare(wanted: int) -> list[Operation]:
        operations: list[Operation] = []
        for pair in pairs[:wanted]:
            pair.forget()
            operations.append(partial(pair.open, 1, pair.seal(0, pair.message())))
        return operations

    return Side(prepare, len(pairs), _opened, warm_up=0)
