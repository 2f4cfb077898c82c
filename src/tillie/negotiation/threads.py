"""Threads name conversations (XEP-0201, RFC 6121 section 5.2.5). Their ids mean nothing and are only ever compared."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import NamedTuple

from tillie.crypto.random import random_bytes
from tillie.errors import Malformed
from tillie.wire import xml

Draw = Callable[[int], bytes]
MAX_THREAD = 1_023  # characters of an id
_TAG = "{jabber:client}thread"
_RANDOM_BYTES = 16


class Thread(NamedTuple):
    """One conversation: its id, and that of the conversation it went off from ("" if none)."""

    id: str
    parent: str = ""


def new(*, draw: Draw = random_bytes) -> str:
    """The id of a new conversation (XEP-0201 section 3.2): nobody can guess it."""
    return draw(_RANDOM_BYTES).hex()


def offshoot(thread: Thread, *, draw: Draw = random_bytes) -> Thread:
    """A conversation that goes off from another one (XEP-0201 section 3.3)."""
    return Thread(new(draw=draw), parent=thread.id)


def place(known: Container[str], got: Thread | None, *, draw: Draw = random_bytes) -> tuple[Thread, bool]:
    """The thread of a received chat message, and whether it begins a new session (XEP-0201 section 4.1): an unknown id
    does, and so does a message without a thread, for which an id is made. A reply carries the thread it answers."""
    if got is None:
        return Thread(new(draw=draw)), True
    return got, got.id not in known


def check(text: str) -> str:
    """An id that is not too long to keep. Raises `Malformed`. White space counts: ids are opaque."""
    if not text or len(text) > MAX_THREAD:
        raise Malformed("The thread has no id, or one that is too long.")
    return text


def parse(data: bytes) -> Thread:
    """The thread in a `<thread/>`. Raises `Malformed`."""
    element = xml.parse(data, max_bytes=16 * MAX_THREAD)
    if element.tag != _TAG or not all(name == "parent" for name in element.attrib):
        raise Malformed("That is no thread.")
    parent = element.get("parent")
    return Thread(check(xml.text_of(element)), "" if parent is None else check(parent))


def write(thread: Thread) -> bytes:
    parent = b" parent=" + xml.attribute(thread.parent) if thread.parent else b""
    return b"<thread xmlns='jabber:client'%b>%b</thread>" % (parent, xml.escape(thread.id))
