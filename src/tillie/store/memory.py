"""A store in memory: for tests, and for bots that keep nothing."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from time import time
from typing import TypeVar

from tillie.errors import UsageError
from tillie.model import Address, Deliver, Done, Key, Need, Publish, Send
from tillie.store.contract import Committed, Outgoing, Step, number

T = TypeVar("T")
Names = dict[tuple[str, str], set[str]]


class MemoryStore:
    """A `Store` that is gone when the process ends. It is never `rolled_back`."""

    rolled_back = False

    def __init__(self, account: Address, *, clock: Callable[[], float] = time) -> None:
        self.account = account
        self._clock = clock
        self._lock = RLock()
        self._records: dict[Key, bytes] = {}
        self._names: Names = {}
        self._outbox: dict[int, Outgoing] = {}
        self._inbox: dict[int, bytes] = {}
        self._generation = 0
        self._busy = False
        self._closed = False

    def __repr__(self) -> str:
        return f"MemoryStore({self.account!r})"

    def run(self, step: Step[T], /) -> Committed[T] | Need:
        with self._lock:
            self._check()
            state = _MemoryState(self._records, self._names)
            self._busy = True
            try:
                done = step(state)
            finally:
                self._busy = False
            if isinstance(done, Need):
                return done
            return self._commit(done, state.changes)

    def accept_roll_back(self, step: Step[T], /) -> Committed[T] | Need:
        return self.run(step)

    def outbox(self) -> list[Outgoing]:
        with self._lock:
            self._check()
            return list(self._outbox.values())

    def sent(self, *ids: int) -> None:
        with self._lock:
            self._check()
            for each in ids:
                self._outbox.pop(each, None)

    def inbox(self) -> list[tuple[int, bytes]]:
        with self._lock:
            self._check()
            return list(self._inbox.items())

    def acknowledge(self, *ids: int) -> None:
        with self._lock:
            self._check()
            for each in ids:
                self._inbox.pop(each, None)

    def close(self) -> None:
        with self._lock:
            self._closed = True

    def _check(self) -> None:
        if self._busy:
            raise UsageError("a step must not call the store it runs in")
        if self._closed:
            raise UsageError("the store is closed")

    def _commit(self, done: Done[T], changes: dict[Key, bytes | None]) -> Committed[T]:
        effects = done.effects
        ids = number(effects, self._generation + 1) if effects else ()
        if effects or changes:
            self._generation += 1
        if changes:
            self._write(changes)
        for each, effect in zip(ids, effects, strict=True):
            if each is None:
                continue
            if isinstance(effect, Deliver):
                self._inbox[each] = effect.message
            elif isinstance(effect, Send | Publish):
                if isinstance(effect, Publish):
                    self._forget(effect)
                self._outbox[each] = Outgoing(each, effect, self._clock())
        return Committed(done.value, effects, ids)

    def _write(self, changes: dict[Key, bytes | None]) -> None:
        records = self._records
        for key, value in changes.items():
            if value is None:
                if records.pop(key, None) is not None:
                    self._names[key[:2]].discard(key[2])
            else:
                if key not in records:
                    self._names.setdefault(key[:2], set()).add(key[2])
                records[key] = value

    def _forget(self, effect: Publish) -> None:
        for older in [each for each, row in self._outbox.items() if row.effect == effect]:
            del self._outbox[older]


class _MemoryState:
    """One transaction: what it changed lies over the records, which stay as they are until it is committed."""

    __slots__ = ("changes", "names", "records")

    def __init__(self, records: dict[Key, bytes], names: Names) -> None:
        self.records = records
        self.names = names
        self.changes: dict[Key, bytes | None] = {}

    def get(self, key: Key, /) -> bytes | None:
        changes = self.changes
        return changes[key] if key in changes else self.records.get(key)

    def put(self, key: Key, value: bytes | None, /) -> None:
        self.changes[key] = value

    def scan(self, prefix: Key, /) -> list[tuple[Key, bytes]]:
        scheme, kind, start = prefix
        changes, records = self.changes, self.records
        found = {
            key: records[key]
            for name in self.names.get((scheme, kind), ())
            if name.startswith(start) and (key := Key(scheme, kind, name)) not in changes
        }
        for key, value in changes.items():
            if value is not None and key[:2] == (scheme, kind) and key[2].startswith(start):
                found[key] = value
        # Python orders strings by code point, which is the order of their UTF-8.
        return sorted(found.items())
