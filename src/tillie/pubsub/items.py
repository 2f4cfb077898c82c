"""Nodes, items, and what an item turned out to be (XEP-0060; XEP-0473; XEP-0477)."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from tillie.model import Address, Device


class Node(NamedTuple):
    """One node. `service` is a pubsub service, or the bare address of an account (PEP, XEP-0163)."""

    service: Address
    name: str


class Item(NamedTuple):
    """One item as the service has it: `payload` is its payload element, serialised, b"" if there is none. `publisher`
    is who published it by the service's word (bare), None if it does not say."""

    id: str
    payload: bytes
    publisher: Address | None = None

    def __repr__(self) -> str:
        return f"Item({self.id!r}, {len(self.payload)} bytes)"


class ItemKind(Enum):
    """What kind of thing an item was."""

    CLEAR = "clear"  # not sealed: anybody at the service could have read or changed it
    OPENED = "opened"
    NO_SECRET = "no secret"  # sealed with a shared secret that we don't have
    NOT_FOR_US = "not for us"  # sealed for other people, or for other devices
    TAMPERED = "tampered"  # it does not open, or not to what it was
    REJECTED = "rejected"  # it opens, but must not count: from somebody who was removed
    MALFORMED = "malformed"


class Reading(NamedTuple):
    """What one item turned out to be.

    `payload` is the payload in clear, None unless `kind` is CLEAR or OPENED. `secret` is the id of the shared secret
    (XEP-0473), `by` the device that sealed it (XEP-0477). `notes` are findings a person may want: an item newly seen
    under a revoked secret, the same item under another id. `error` says why for the kinds that failed.
    """

    item: Item
    kind: ItemKind
    payload: bytes | None = None
    secret: str = ""
    by: Device | None = None
    notes: tuple[str, ...] = ()
    error: str = ""

    def __repr__(self) -> str:
        return f"Reading({self.item!r}, {self.kind}, {self.error!r})"
