"""Worker processes for items that open slowly: others stretch even random secrets, and pay 0.05 to 0.2 s for each.

They are started when the first is needed. They are not those of `concurrent.futures`: a spawned one of them runs the
program's main module again, which a program that does not expect it would do twice; and nothing ends one that is busy.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from tillie.crypto import password
from tillie.errors import Malformed, PeerError, Undecryptable
from tillie.nodes.worker import ANSWER, MALFORMED, OPENED, REQUEST

MAX_WORKERS = 8
_FILE = str(Path(__file__).with_name("worker.py"))


class Workers:
    """Up to `count` processes that open messages (`crypto.password.open`) side by side; as many as there are cores,
    MAX_WORKERS at most, unless the caller says otherwise. `close` ends them."""

    def __init__(self, count: int = 0) -> None:
        self.count = max(1, min(count or os.cpu_count() or 1, MAX_WORKERS))
        self._free = asyncio.Semaphore(self.count)
        self._idle: list[Process] = []
        self._all: set[Process] = set()

    @property
    def started(self) -> int:
        """How many processes there are now."""
        return len(self._all)

    async def open(self, message: bytes, secret: str, *, max_bytes: int) -> bytes:
        """Open one message in another process. Raises as `crypto.password.open` does; cancelled, the work ends."""
        async with self._free:
            try:
                process = self._idle.pop() if self._idle else await self._start()
            except OSError:
                return await asyncio.to_thread(password.open, message, secret, max_bytes=max_bytes)
            try:
                kind, said = await _ask(process, message, secret.encode(), max_bytes)
            except (OSError, asyncio.IncompleteReadError):  # it was killed: by a person, or for want of memory
                await self._end(process)
                return await asyncio.to_thread(password.open, message, secret, max_bytes=max_bytes)
            except BaseException:
                await self._end(process)  # half an answer is on its way: it is of no use any more
                raise
            self._idle.append(process)
        if kind == OPENED:
            return said
        raise _error(kind, said)

    async def close(self) -> None:
        """End all processes."""
        self._idle.clear()
        for process in list(self._all):
            await self._end(process)

    async def _start(self) -> Process:
        if not sys.executable:
            raise OSError("there is no interpreter to start")  # a frozen program
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", _FILE, stdin=PIPE, stdout=PIPE, stderr=asyncio.subprocess.DEVNULL, env=environment
        )  # fmt: skip
        self._all.add(process)
        return process

    async def _end(self, process: Process) -> None:
        self._all.discard(process)
        try:
            process.kill()
        except ProcessLookupError:
            pass  # it has ended by itself
        await process.wait()


async def _ask(process: Process, message: bytes, secret: bytes, limit: int) -> tuple[int, bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(REQUEST.pack(len(message), len(secret), limit) + message + secret)
    await process.stdin.drain()
    kind, size = ANSWER.unpack(await process.stdout.readexactly(ANSWER.size))
    return kind, await process.stdout.readexactly(size)


def _error(kind: int, said: bytes) -> PeerError:
    return (Malformed if kind == MALFORMED else Undecryptable)(said.decode())
