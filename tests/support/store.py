"""Stores for tests: both kinds, and the few steps that every test of a store needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tillie.store
from tillie.model import Address, Done, Effect, Key, State
from tillie.store import Committed, MemoryStore, SqlStore, Store

ALICE = Address("alice@example.org")
BOB = Address("bob@example.org")
STORE_KEY = bytes(range(32))
KINDS = ("memory", "sql")


def make(kind: str, folder: Path) -> Store:
    """An empty store of one of the `KINDS`."""
    return MemoryStore(ALICE) if kind == "memory" else reopen(folder / "new" / "store.db")


def reopen(path: Path, **more: int) -> SqlStore:
    return tillie.store.open(path, ALICE, STORE_KEY, **more)


def key(name: str, kind: str = "session", scheme: str = "omemo") -> Key:
    return Key(scheme, kind, name)


def write(values: dict[Key, bytes | None], *effects: Effect) -> Callable[[State], Done[None]]:
    """A step that writes these records and has these effects."""

    def step(state: State) -> Done[None]:
        for each, value in values.items():
            state.put(each, value)
        return Done(None, effects)

    return step


def read(store: Store, *keys: Key) -> list[bytes | None]:
    """The values of these records, in a transaction of their own."""
    out = store.run(lambda state: Done([state.get(each) for each in keys]))
    assert isinstance(out, Committed)
    return out.value


def everything(store: Store, scheme: str, kind: str, prefix: str = "") -> list[tuple[Key, bytes]]:
    out = store.run(lambda state: Done(list(state.scan(Key(scheme, kind, prefix)))))
    assert isinstance(out, Committed)
    return out.value
