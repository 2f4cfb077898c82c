"""Where keys, sessions and messages are kept: one transactional map per account, with an outbox and an inbox.

`open` gives the encrypted file, `MemoryStore` the same without a file. `keys` says where the file's key comes from,
`backup` is the sealed container of a backup.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tillie.model import Address
from tillie.store.contract import EFFECTS_MAX, Committed, Outgoing, Step, Store
from tillie.store.memory import MemoryStore

if TYPE_CHECKING:
    from tillie.store.sql import SqlStore


def open(path: str | Path, account: Address, key: bytes, *, device: int | None = None) -> SqlStore:
    """Open the store of one account, or make it if there is no file yet.

    `key` is the raw 32-byte key (see `keys`). `device` is our device id if it is known already; the store keeps the
    first that it is told and refuses another. Raises the `StoreError`s.
    """
    from tillie.store.sql import SqlStore  # only here: a program on a MemoryStore need not load SQLCipher

    return SqlStore(Path(path), account, key, device=device)


def __getattr__(name: str) -> object:
    if name == "SqlStore":
        from tillie.store.sql import SqlStore

        return SqlStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["EFFECTS_MAX", "Committed", "MemoryStore", "Outgoing", "SqlStore", "Step", "Store", "open"]
