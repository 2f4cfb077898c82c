"""One answer to /sync, read (Matrix specification 1.19, client-server API, "Syncing" and "Send-to-Device messaging").

A homeserver, or anybody through it, may put anything into an answer: what is not sound is left out, each event and each
name by itself, so that it costs nobody else's.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from tillie.directory.matrix import KEY_COUNTS, KEYS_QUERY
from tillie.errors import InvalidAddress, Malformed
from tillie.model import NO_PAYLOAD, Address, Arrived, Fetched, Stanza
from tillie.networks.matrix import answers
from tillie.networks.matrix.network import ENCRYPTED
from tillie.schemes.olm import Olm
from tillie.wire import canonical, matrix
from tillie.wire.canonical import Object

MAX_CONTENT = 65_536  # bytes of one message in canonical form; homeservers take no larger one
MAX_POSITION = 4_096  # characters of a token
_ID_DIGITS = 24


class News(NamedTuple):
    """What came. `position` is the next `since`; `waiting` how many messages there were, of any type; `unreadable` who
    sent those of ours that can't be read at all, "" if that can't be told."""

    position: str
    messages: tuple[Arrived, ...]
    facts: tuple[Fetched, ...]
    waiting: int
    unreadable: tuple[str, ...]


def read(answer: Object, own: Address, *, via: str = "live") -> News:
    """An answer to /sync for `own`. Raises `Rejected` if it does not say where to go on."""
    position = answers.text(answer, "next_batch", max_length=MAX_POSITION)
    events = answers.child(answer, "to_device").get("events")
    messages: list[Arrived] = []
    unreadable: list[str] = []
    events = events if isinstance(events, list) else []
    for event in events:
        if not isinstance(event, dict) or event.get("type") != ENCRYPTED:
            continue  # what is not sealed is nobody's word, and is never shown
        try:
            messages.append(_message(event, own, via))
        except (InvalidAddress, Malformed):
            unreadable.append(_sender(event))
    facts = (*_lists(answer), *_counts(answer, own))
    return News(position, tuple(messages), facts, len(events), tuple(unreadable))


def _message(event: Object, own: Address, via: str) -> Arrived:
    sender = matrix.parse_user_id(_sender(event))
    content = event.get("content")
    if not isinstance(content, dict):
        raise Malformed("a message has no content")
    element = canonical.encode(content)
    if len(element) > MAX_CONTENT:
        raise Malformed(f"a message is longer than {MAX_CONTENT} bytes")
    # These events carry no id. Histories and people need one that stays the same if it comes again.
    name = hashlib.sha256(element).hexdigest()[:_ID_DIGITS]
    return Arrived(element, Stanza("to-device", sender, own, ENCRYPTED, name, via=via), Olm.name)


def _sender(event: Object) -> str:
    sender = event.get("sender")
    return sender if isinstance(sender, str) else ""


def _lists(answer: Object) -> tuple[Fetched, ...]:
    """Whose devices changed, or can't be followed any more: what we know of them is old."""
    lists = answers.child(answer, "device_lists")
    users = dict.fromkeys((*_strings(lists.get("changed")), *_strings(lists.get("left"))))
    facts = []
    for user in users:
        try:
            address = matrix.parse_user_id(user)
        except InvalidAddress:
            continue  # "device list updates from non-compliant user IDs would be dropped by the receiving server"
        facts.append(Fetched(address, KEYS_QUERY, "", None, NO_PAYLOAD, pushed=True))
    return tuple(facts)


def _counts(answer: Object, own: Address) -> tuple[Fetched, ...]:
    """How many of our one-time keys are left. An algorithm that is not named has none left; nothing at all says
    nothing."""
    if "device_one_time_keys_count" not in answer and "device_unused_fallback_key_types" not in answer:
        return ()
    counts = answers.child(answer, "device_one_time_keys_count")
    told = {
        "counts": {name: number for name, number in counts.items() if _is_count(number) and answers.is_sound(name)},
        "fallback": [
            each for each in _strings(answer.get("device_unused_fallback_key_types")) if answers.is_sound(each)
        ],
    }
    return (Fetched(own, KEY_COUNTS, "", canonical.encode(told), pushed=True),)


def _is_count(number: object) -> bool:
    return type(number) is int and 0 <= number <= canonical.MAX_INTEGER


def _strings(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
