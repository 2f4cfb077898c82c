"""The home's log: one JSON object a line. Nobody's content, no password, no token, and no user's name in it."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

FLUSH_SECONDS = 0.25  # lines about requests are written together
MAX_HELD = 500  # lines

_encode = msgspec.json.Encoder().encode


class Log:
    """Lines on a stream, by default standard error. `requests`: also one for each request."""

    def __init__(self, stream: BinaryIO | None = None, *, requests: bool = True) -> None:
        self._stream = stream or sys.stderr.buffer
        self._requests = requests
        self._held: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def event(self, event: str, **fields: Any) -> None:
        """Something that an operator may want to know, written at once."""
        self._held.append(_line(event, fields))
        self.flush()

    def counted(self, event: str, details: Mapping[str, int], **fields: Any) -> None:
        """What went wrong with parts of one request: a line for each kind, however many others made of it."""
        for detail, count in details.items():
            self.event(event, detail=detail, count=count, **fields)

    def fault(self, error: BaseException, **fields: Any) -> None:
        """A fault of ours: its kind and where it was, but not what it says, which may quote a request."""
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        self.event("fault", kind=type(error).__name__, trace=places, **fields)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request that was answered. `route` is the path with names in place of ids; "" if there is no such path."""
        if not self._requests:
            return
        fields = {"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 2)}
        self._held.append(_line("request", fields))
        if len(self._held) >= MAX_HELD:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held, self._held = self._held, []
        try:
            self._stream.write(b"".join(held))
            self._stream.flush()
        except (OSError, ValueError):
            pass  # nobody reads the log any more, or its disk is full: the home goes on


def _line(event: str, fields: dict[str, Any]) -> bytes:
    moment = time.time()
    stamp = f"{_second(int(moment))}.{int(moment % 1 * 1000):03}Z"
    return _encode({"time": stamp, "event": event, **fields}) + b"\n"


@lru_cache(1)
def _second(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
