"""Load on an HTTP/1.1 server: requests that are ready as bytes, over connections that stay open.

Raw protocols, because an HTTP client would need more of a processor than the server that is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import cpu_count, sched_getaffinity, sched_setaffinity
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, cast

import uvloop

CONNECTIONS = 32
SERVER_CORE, LOAD_CORE = 0, 1
ANSWER_SECONDS = 120.0  # for a whole burst
_LENGTH, _CHUNKED = b"\r\ncontent-length:", b"\r\ntransfer-encoding: chunked"


class Answer(NamedTuple):
    status: int
    body: bytes
    seconds: float


@dataclass
class Burst:
    """What became of some requests: their answers, in the order of the requests."""

    seconds: float
    answers: Sequence[Answer]

    @property
    def each(self) -> float:
        """Seconds for one request: the inverse of requests a second."""
        return self.seconds / len(self.answers)

    @property
    def p99(self) -> float:
        """Seconds in which 99 of 100 requests were answered."""
        times = sorted(answer.seconds for answer in self.answers)
        return times[len(times) * 99 // 100]


def request(method: str, path: str, token: str = "", body: bytes = b"") -> bytes:
    """A request, ready to be sent."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
    if token:
        head += f"Authorization: Bearer {token}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def send(port: int, requests: Sequence[bytes], connections: int = CONNECTIONS) -> Burst:
    """Send them to a port of this machine; each connection has one request under way. Raises `ConnectionError`."""
    with pinned(LOAD_CORE), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_send(port, requests, min(connections, len(requests))))


async def _send(port: int, requests: Sequence[bytes], connections: int) -> Burst:
    loop = asyncio.get_running_loop()
    work = _Work(requests, loop.create_future())
    open_ones = [
        (await loop.create_connection(lambda: _Connection(work), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    began = perf_counter()
    for connection in open_ones:
        connection.next()
    await asyncio.wait_for(work.done, ANSWER_SECONDS)
    seconds = perf_counter() - began
    for connection in open_ones:
        connection.transport.close()
    return Burst(seconds, [work.answers[number] for number in range(len(requests))])


@dataclass
class _Work:
    """The requests of a burst, and the answers by number."""

    requests: Sequence[bytes]
    done: asyncio.Future[None]
    taken: int = 0
    answers: dict[int, Answer] = field(default_factory=dict)


class _Connection(asyncio.Protocol):
    def __init__(self, work: _Work) -> None:
        self.work = work
        self.number = -1
        self.got = b""
        self.end = 0  # length of the answer, once its head is there; -1 if it comes in chunks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class

    def next(self) -> None:
        """Send the next request that nobody has sent."""
        work = self.work
        if work.taken == len(work.requests):
            return
        self.number = work.taken
        work.taken += 1
        self.began = perf_counter()
        self.transport.write(work.requests[self.number])

    def data_received(self, data: bytes) -> None:
        self.got += data
        if not self.end and (head := self.got.find(b"\r\n\r\n")) >= 0:
            self.end = _end(self.got[: head + 2].lower(), head + 4)
        if (self.end > 0 and len(self.got) >= self.end) or (self.end < 0 and self.got.endswith(b"\r\n0\r\n\r\n")):
            self._answered()

    def _answered(self) -> None:
        work, got = self.work, self.got
        seconds = perf_counter() - self.began
        body = got[got.index(b"\r\n\r\n") + 4 :]
        work.answers[self.number] = Answer(int(got[9:12]), body if self.end > 0 else _joined(body), seconds)
        self.number, self.got, self.end = -1, b"", 0
        if len(work.answers) == len(work.requests):
            work.done.set_result(None)
        else:
            self.next()

    def connection_lost(self, error: Exception | None) -> None:
        if self.number >= 0 and not self.work.done.done():
            self.work.done.set_exception(ConnectionError("the server closed a connection with a request under way"))


def _end(head: bytes, length: int) -> int:
    found = head.find(_LENGTH)
    if found >= 0:
        return length + int(head[found + len(_LENGTH) : head.index(b"\r\n", found + 2)])
    if _CHUNKED in head:
        return -1
    raise ConnectionError(f"an answer says nothing of its length: {head!r}")


def _joined(chunks: bytes) -> bytes:
    """RFC 9112 section 7.1."""
    body = b""
    while True:
        size, _, rest = chunks.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return body
        body += rest[:length]
        chunks = rest[length + 2 :]


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Run this thread, and what it starts, on one core; on a machine with a single core anywhere."""
    before = sched_getaffinity(0)
    if (cpu_count() or 1) > 1:
        sched_setaffinity(0, {core})
    try:
        yield
    finally:
        sched_setaffinity(0, before)


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used, in all its threads."""
    times = [file.read_text().split()[0] for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(map(int, times)) / 1e9


def resident_mb(pid: int, *, peak: bool = False) -> float:
    """Memory of a process, in 10^6 bytes."""
    name = "VmHWM:" if peak else "VmRSS:"
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1_024 / 1e6
