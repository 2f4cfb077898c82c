"""Reading lines without a thread: one that waits for a terminal can't be stopped, and would hold up the way out."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import IO

MAX_READ = 65_536


class Lines:
    """The lines of a terminal, pipe or file, as they come."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._rest = b""
        self._lines: deque[str] = deque()
        self._ended = False

    async def next(self) -> str | None:
        """The next line without its end; None when there are no more."""
        while not self._lines and not self._ended:
            self._take(await self._read())
        return self._lines.popleft() if self._lines else None

    def _take(self, data: bytes) -> None:
        if not data:
            self._ended = True
            if self._rest:
                self._lines.append(self._rest.decode(errors="replace"))
            return
        *whole, self._rest = (self._rest + data).split(b"\n")
        self._lines += [line.decode(errors="replace").removesuffix("\r") for line in whole]

    async def _read(self) -> bytes:
        loop = asyncio.get_running_loop()
        fd = self._stream.fileno()
        ready = loop.create_future()
        try:
            loop.add_reader(fd, lambda: None if ready.done() else ready.set_result(None))
        except PermissionError:  # a plain file: reading it never waits
            return os.read(fd, MAX_READ)
        try:
            await ready
        finally:
            loop.remove_reader(fd)
        return os.read(fd, MAX_READ)
