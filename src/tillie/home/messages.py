"""To-device messages (client-server API, "Send-to-Device messaging"): steps on the database.

A message is kept until the device that it is for has shown that it came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from tillie.crypto.random import random_bytes
from tillie.home import accounts
from tillie.home.accounts import Who
from tillie.home.database import Connection
from tillie.home.federation import outgoing

DIRECT_TO_DEVICE = "m.direct_to_device"
ALL_DEVICES = "*"
MAX_TYPE_BYTES = 255
MAX_CONTENT_BYTES = 65_536  # of one message's content, as canonical JSON
MAX_EDU_BYTES = 65_536  # of the contents that travel together
MAX_MESSAGES = 100  # in one answer to a sync
MAX_PLACES = 1_000  # devices in one statement
REMEMBERED = 24 * 3_600_000  # milliseconds that an answered transaction id is known at least

Messages = Mapping[str, Mapping[str, bytes]]  # {user: {device or "*": content as JSON}}


class Sent(NamedTuple):
    """Who is to be woken once it is committed: local users, and the queues for other servers."""

    users: frozenset[str]
    servers: frozenset[str]


# -- in -------------------------------------------------------------------------------------------------------------


def is_answered(conn: Connection, who: Who, path: str) -> bool:
    """Whether a device's request under this path, which ends in its transaction id, was answered before."""
    key = (*who, path)
    found = conn.execute("SELECT 1 FROM requests WHERE user_id = ? AND device_id = ? AND path = ?", key)
    return found.fetchone() is not None


def send(
    conn: Connection, who: Who, path: str, type: str, local: Messages, remote: Mapping[str, Messages], now: int
) -> Sent:
    """Take a request in once: the same path again sends nothing. `remote` is by server, `now` in milliseconds. Raises
    `Refused` for a device that is gone."""
    accounts.require_device(conn, who)
    taken = conn.execute(
        "INSERT INTO requests (user_id, device_id, path, created_ts) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (user_id, device_id, path) DO NOTHING",
        (*who, path, now),
    )
    if not taken.rowcount:
        return Sent(frozenset(), frozenset())
    servers = set()
    for server, messages in remote.items():
        for edu in edus(who.user, type, messages):
            outgoing.enqueue(conn, server, edu, now)
            servers.add(server)
    return Sent(deliver(conn, who.user, type, local), frozenset(servers))


def deliver(conn: Connection, sender: str, type: str, messages: Messages) -> frozenset[str]:
    """Keep messages for local devices; those that are not there get none. Whom to wake."""
    rows: list[tuple[str, str, int, bytes]] = []
    named: dict[tuple[str, str], bytes] = {}
    for user, contents in messages.items():
        for device, content in contents.items():
            event = _event(sender, type, content)
            if device == ALL_DEVICES:
                rows += ((*place, event) for place in _places_of_all(conn, user))
            else:
                named[user, device] = event
    devices = list(named)
    for start in range(0, len(devices), MAX_PLACES):
        rows += ((*place, named[place[:2]]) for place in _places(conn, devices[start : start + MAX_PLACES]))
    conn.executemany("INSERT INTO messages (user_id, device_id, position, json) VALUES (?, ?, ?, ?)", rows)
    return frozenset(row[0] for row in rows)


def _event(sender: str, type: str, content: bytes) -> bytes:
    return msgspec.json.encode({"content": msgspec.Raw(content), "sender": str(sender), "type": type})


def _places(conn: Connection, devices: Sequence[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """The next place in the queue of each of these devices, (user, device, position). One statement for all of them
    takes half of the time of one for each."""
    step = f"""
        WITH named (user_id, device_id) AS (VALUES {", ".join(["(?, ?)"] * len(devices))})
        UPDATE devices SET next_message = next_message + 1 FROM named
        WHERE devices.user_id = named.user_id AND devices.device_id = named.device_id
        RETURNING devices.user_id, devices.device_id, next_message - 1
    """
    return conn.execute(step, [name for device in devices for name in device]).fetchall()


def _places_of_all(conn: Connection, user: str) -> list[tuple[str, str, int]]:
    """As `_places`, for all devices of a user."""
    step = "UPDATE devices SET next_message = next_message + 1 WHERE user_id = ?"
    return conn.execute(step + " RETURNING user_id, device_id, next_message - 1", (user,)).fetchall()


def edus(sender: str, type: str, messages: Messages) -> Iterator[dict[str, Any]]:
    """Messages for the users of one server, as m.direct_to_device (server-server API): as many in each as fit."""
    part: dict[str, dict[str, msgspec.Raw]] = {}
    size = 0
    for user, contents in messages.items():
        for device, content in contents.items():
            if part and size + len(content) > MAX_EDU_BYTES:
                yield _edu(sender, type, part)
                part, size = {}, 0
            part.setdefault(user, {})[device] = msgspec.Raw(content)
            size += len(content)
    if part:
        yield _edu(sender, type, part)


def _edu(sender: str, type: str, messages: Mapping[str, Mapping[str, msgspec.Raw]]) -> dict[str, Any]:
    # "message_id": at most 32 code points, and the other server drops what comes twice under one.
    content = {"sender": str(sender), "type": type, "message_id": random_bytes(16).hex(), "messages": messages}
    return {"edu_type": DIRECT_TO_DEVICE, "content": content}


def forget_requests(conn: Connection, now: int) -> None:
    """Forget transaction ids that nobody will send again."""
    conn.execute("DELETE FROM requests WHERE created_ts < ?", (now - REMEMBERED,))


# -- out ------------------------------------------------------------------------------------------------------------


def waiting(conn: Connection, who: Who, after: int, limit: int = MAX_MESSAGES) -> list[tuple[int, bytes]]:
    """(position, event) of a device's messages behind a position, in the order of their arrival."""
    rows = conn.execute(
        "SELECT position, json FROM messages WHERE user_id = ? AND device_id = ? AND position > ?"
        " ORDER BY position LIMIT ?",
        (*who, after, limit),
    )
    return rows.fetchall()


def last(conn: Connection, who: Who) -> int:
    """The position of the newest message that a device was ever sent; 0: none yet."""
    row = conn.execute("SELECT next_message - 1 FROM devices WHERE user_id = ? AND device_id = ?", who).fetchone()
    return row[0] if row else 0


def is_waiting(conn: Connection, who: Who, until: int) -> bool:
    """Whether there is something to acknowledge up to a position."""
    found = conn.execute(
        "SELECT 1 FROM messages WHERE user_id = ? AND device_id = ? AND position <= ? LIMIT 1", (*who, until)
    )
    return found.fetchone() is not None


def acknowledge(conn: Connection, who: Who, until: int) -> None:
    """A device has shown that it has everything up to a position."""
    conn.execute("DELETE FROM messages WHERE user_id = ? AND device_id = ? AND position <= ?", (*who, until))
