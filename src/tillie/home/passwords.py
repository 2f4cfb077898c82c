"""Passwords at the door: hashed beside the event loop, few at a time, and as slowly for users who are not there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tillie.crypto import pwhash
from tillie.crypto.random import random_bytes
from tillie.home.answers import too_many

T = TypeVar("T")

AT_ONCE = 2  # each takes pwhash.MEMORY
MAX_WAITING = 40  # about a second's work; who comes then is sent away
RETRY_SECONDS = 2.0


class Passwords:
    """Argon2id on two threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="passwords")
        self._waiting = 0
        self._nobodys = pwhash.hash(random_bytes(16).hex())

    async def hash(self, password: str) -> str:
        """Raises `Refused`: M_LIMIT_EXCEEDED if too many wait."""
        return await self._run(lambda: pwhash.hash(password))

    async def matches(self, hashed: str | None, password: str) -> bool:
        """Whether this is the password. None, for a user who is not there, never matches, and takes as long. Raises
        `Refused`, as `hash`."""
        found = await self._run(lambda: pwhash.matches(hashed or self._nobodys, password))
        return found and hashed is not None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= MAX_WAITING:
            raise too_many(RETRY_SECONDS)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1
