"""What valid signatures of items were seen before (XEP-0475 binds neither an item's id, nor its node, nor a version).

    signed      <node>/<item>/<signer>  the newest time that this signer signed this item
    statement   <service>//<hash>       where this very statement was seen first
    statements  <service>/              how many there were; the oldest go after MAX_STATEMENTS

A server can put an item with its signature under another id or at another node, and can bring an older version back:
both still verify. Only what was checked here before can tell.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from tillie.model import Address, Key, State, Time
from tillie.pubsub import records
from tillie.pubsub.items import Node
from tillie.wire.display import printable
from tillie.wire.time import format_datetime

MAX_STATEMENTS = 20_000  # that are remembered of one service
MAX_ITEM_ID = 256  # characters: an item with a longer id is compared, and not remembered
MAX_SHOWN = 100  # characters of a name in a note


class Made(NamedTuple):
    """A valid signature: by whom, when by her word, and the hash of the signed form (32 bytes)."""

    signer: Address
    time: Time
    hash: bytes


class _Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a statement was seen first."""

    node: str
    item: str
    signer: str


_decode_place = records.decoder(_Place, "statement")
_decode_time = records.decoder(float, "signed")
_decode_count = records.decoder(int, "statements")
_decode_hash = records.decoder(str, "statement")


def remember(s: State, node: Node, item_id: str, made: Made) -> tuple[str, ...]:
    """Remember a valid signature of an item, and say what earlier ones tell about it."""
    notes = []
    newest = records.key("signed", node, item_id, made.signer)
    before = s.get(newest)
    short = len(item_id) <= MAX_ITEM_ID
    if before is None or _decode_time(before) < made.time:
        if short:
            s.put(newest, records.encode(made.time))
    elif _decode_time(before) > made.time:
        when = format_datetime(_decode_time(before))
        notes.append(f"An older version: {made.signer} signed this item again at {when}.")
    service = Node(node.service, "")
    where = records.key("statement", service, made.hash.hex())
    known = s.get(where)
    if known is None and short:
        _make_room(s, service, made.hash.hex())
        s.put(where, records.encode(_Place(node.name, item_id, made.signer)))
    place = _decode_place(known) if known is not None else None
    if place is not None and (place.node, place.item) != (node.name, item_id):
        item, name = printable(place.item, MAX_SHOWN), printable(place.node, MAX_SHOWN)
        notes.append(f"The same signed version was seen before as item {item!r} of node {name!r}.")
    return tuple(notes)


def _make_room(s: State, service: Node, hash: str) -> None:
    """Put this statement in the place of the one that was remembered MAX_STATEMENTS ago."""
    counter = records.key("statements", service)
    stored = s.get(counter)
    count = _decode_count(stored) if stored else 0
    slot = _slot(service, count)
    oldest = s.get(slot)
    if oldest is not None:
        where = records.key("statement", service, _decode_hash(oldest))
        known = s.get(where)
        if known is not None:
            place = _decode_place(known)
            s.put(records.key("signed", service._replace(name=place.node), place.item, place.signer), None)
        s.put(where, None)
    s.put(slot, records.encode(hash))
    s.put(counter, records.encode(count + 1))


def _slot(service: Node, count: int) -> Key:
    return records.key("statements", service, str(count % MAX_STATEMENTS))
