"""Servers that did not answer lately: for a time, whoever asks for keys is told so at once.

What is sent in the end (`outgoing`) may wait for hours. Who asks waits for the answer, and would wait for all of a
time-out, again and again; and wants to know soon that a server is back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tillie.home.federation.transport import Failed

LONGEST_SECONDS = 60.0
MAX_SERVERS = 10_000  # that are remembered; the one that failed first is forgotten first


class _Absent(NamedTuple):
    """A server that failed so often in a row, last at `since`, and is not asked before `until`."""

    failures: int
    since: float
    until: float


class Absence:
    """`first` and `longest` in seconds: how long a server is given at first, and at most. At least as long as it let us
    wait, twice as long each time."""

    def __init__(self, first: float, longest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = first
        self._longest = min(longest, LONGEST_SECONDS)
        self._clock = clock
        self._absent: dict[str, _Absent] = {}
        self._tried: set[str] = set()

    @contextmanager
    def asking(self, server: str) -> Iterator[None]:
        """Around one request, whose failure counts. Raises `Failed`, at once while a server is given time, and while
        another request finds out whether it is back."""
        started = self._clock()
        absent = self._absent.get(server)
        if absent is not None and (started < absent.until or server in self._tried):
            raise Failed(0, "", "The server did not answer lately.")
        if absent is not None:
            self._tried.add(server)
        try:
            yield
        except Failed as failed:
            if failed.status in (0, 429):
                self._failed(server, started, failed.retry_after or 0.0)
            else:
                self.heard(server)
            raise
        else:
            self.heard(server)
        finally:
            if absent is not None:
                self._tried.discard(server)

    def heard(self, server: str) -> None:
        """A server is there."""
        self._absent.pop(server, None)

    def _failed(self, server: str, started: float, wanted: float) -> None:
        now = self._clock()
        before = self._absent.pop(server, None)
        if before is not None and started < before.since:  # one of several that were under way: no new failure
            self._absent[server] = before
            return
        failures = before.failures + 1 if before is not None else 1
        wait = max(self._first, now - started) * 2.0 ** min(failures - 1, 16)
        self._absent[server] = _Absent(failures, now, now + min(max(wait, wanted), self._longest))
        if len(self._absent) > MAX_SERVERS:
            del self._absent[next(iter(self._absent))]
