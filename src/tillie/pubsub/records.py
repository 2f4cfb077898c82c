"""What private pubsub keeps in the store: the keys of its records, and their bytes.

Every record starts with its version.

node        <node>                  who its secrets come from, who owns it, which secret is the newest
secret      <node>/<id>             a shared secret (XEP-0473)
revocation  <node>/<id>             ... of a secret that has not come yet
pending     <node>/<sender>/<key>/<what>/<id>   what somebody said who may not be the one to say it
from        <sender>                how much of the above one sender has here; "" for all pending ones
member      <node>/<address>        who has access, as what; who was removed when
sent        <node>/<address>/<id>   that this secret, or its revocation, was sent to her
item        <node>/<item>           the newest sealed version of an item that was seen, and the older ones
seen        <node>/<version>        under which id a sealed version was first seen
kept        <node>/<version>        what opened slowly
signed, statement, statements       signatures that were seen: see `signed`
targeted, target-at                 items for a few people, which open only once: see `targeted`

<node> is service and name of the node. Every part is quoted, so that no name can be taken for another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar
from urllib.parse import quote, unquote

import msgspec

from tillie.errors import StoreTooNew
from tillie.model import Address, Key
from tillie.pubsub.items import Node

VERSION = 1
SCHEME = "pubsub"
_CACHED = 1_024
_SAFE = "@:"  # "/" is what parts are joined with

T = TypeVar("T")
_encode = msgspec.msgpack.Encoder(enc_hook=str).encode  # an Address is a str of its own kind


def key(kind: str, node: Node, *rest: str) -> Key:
    """The key of a record of a node."""
    return Key(SCHEME, kind, "/".join((name_of(node), *map(_quoted, rest))))


def below(kind: str, node: Node, *rest: str) -> Key:
    """The prefix of all records below these parts, for `State.scan`."""
    return Key(SCHEME, kind, "/".join((name_of(node), *map(_quoted, rest), "")))


@lru_cache(maxsize=_CACHED)
def name_of(node: Node) -> str:
    return f"{_quoted(node.service)}/{_quoted(node.name)}"


def _quoted(part: str) -> str:
    # Most are hexadecimal digits, which would cost as much as reading the record.
    return part if part.isascii() and part.isalnum() else quote(part, safe=_SAFE)


def parts_of(found: Key) -> tuple[Node, list[str]]:
    """The node and the other parts that a record's name was made of."""
    service, name, *rest = map(unquote, found.name.split("/"))
    return Node(Address(service), name), rest


def encode(record: object) -> bytes:
    return bytes((VERSION,)) + _encode(record)


def decoder(kind: type[T], what: str) -> Callable[[bytes], T]:
    """The inverse of `encode` for one kind of record; the same bytes are decoded once, mostly."""
    decode = msgspec.msgpack.Decoder(kind).decode

    @lru_cache(maxsize=_CACHED)
    def decoded(data: bytes) -> T:
        if data[0] != VERSION:
            raise StoreTooNew(f"the {what} record has version {data[0]}; this version of Tillie reads {VERSION}.")
        return decode(data[1:])

    return decoded
