"""Device lists of users of other homes that tell us of changes (server-server API, "Device Management").

Matrix sends updates to servers that share a room, and a home has none. So a home that is asked says that it will tell,
and until when (`FOLLOWS` beside the devices); a list of any other server is asked for each time. Updates may be lost,
repeated, or overtake each other: each names the one before it, and where that does not fit, the list is asked for again
when somebody wants it. And because a server that lost its database forgot whom to tell, nothing is believed for long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeGuard

import msgspec

from tillie.directory.matrix import MAX_DEVICE_BYTES, MAX_DEVICES
from tillie.errors import Malformed
from tillie.home import lists
from tillie.home.database import Connection
from tillie.wire import canonical, matrix
from tillie.wire.canonical import Object

FOLLOWS = "org.tillie.follows"  # {user: {"sequence": of what is answered, "until_ts": until when changes are told}}
TOLD_MS = 7 * 86_400_000  # how long a server that asked is told
MAX_TOLD = 1_000  # servers, of one user: whoever comes later asks each time
RENEW_MS = 86_400_000  # ... which is written down again at most so often
BELIEVED_MS = 600_000  # how long a list is believed that was neither asked for again nor changed
FORGOTTEN_MS = 30 * 86_400_000
MAX_PREVIOUS = 100  # entries of prev_id
MAX_KEPT_BYTES = 256 << 10  # of one list: each update rewrites all of it. A larger one is asked for each time


class Fresh(NamedTuple):
    """A user's devices as their server just answered. `followed_until_ts` is 0 where it does not tell of changes."""

    user: str
    devices: Mapping[str, Object]
    sequence: int
    followed_until_ts: int


class Cached(NamedTuple):
    """A list that is believed without asking."""

    devices: dict[str, Object]
    sequence: int


class Update(NamedTuple):
    """An m.device_list_update, its shape checked. `keys` is None for a device without, or one that was deleted."""

    user: str
    device: str
    sequence: int
    previous: tuple[int, ...]
    keys: Object | None


def cached(conn: Connection, user: str, now: int) -> Cached | None:
    """A list that may be believed, in milliseconds since the epoch."""
    row = conn.execute(
        "SELECT json, sequence FROM remote_lists WHERE user_id = ?"
        " AND is_stale = 0 AND followed_until_ts > ? AND fetched_ts > ? AND fetched_ts <= ?"
        # An update brings no statement: where there was one, whoever asks next gets the one on the new list.
        " AND (is_stated = 0 OR EXISTS (SELECT 1 FROM statements WHERE statements.user_id = remote_lists.user_id"
        " AND statements.sequence = remote_lists.sequence))",
        (user, now, now - BELIEVED_MS, now),
    ).fetchone()
    return Cached(msgspec.json.decode(row[0]), row[1]) if row else None


def store(conn: Connection, fresh: Fresh, now: int, *, is_stale: bool) -> None:
    """Keep what a server answered, of whatever sequence: it was asked after all that we heard before. `is_stale`: more
    was heard meanwhile. Of one that is too large nothing is kept."""
    json = msgspec.json.encode(fresh.devices)
    if len(json) > MAX_KEPT_BYTES:
        json, is_stale = b"{}", True
    conn.execute(
        """
        INSERT INTO remote_lists (user_id, sequence, json, fetched_ts, followed_until_ts, is_stale)
        VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT (user_id) DO UPDATE SET sequence = excluded.sequence, json = excluded.json,
            fetched_ts = excluded.fetched_ts, followed_until_ts = excluded.followed_until_ts,
            is_stale = excluded.is_stale
        """,
        (fresh.user, fresh.sequence, json, now, fresh.followed_until_ts, is_stale),
    )


def read_update(content: Object, origin: str) -> Update:
    """Raises `Malformed`, `InvalidAddress`."""
    user, device, sequence = content.get("user_id"), content.get("device_id"), content.get("stream_id")
    if not isinstance(user, str) or matrix.parse_user_id(user).partition(":")[2] != origin:
        raise Malformed("an update of a device list is not of the sender's user")
    if not isinstance(device, str) or not matrix.is_device_id(device):
        raise Malformed("an update names no valid device")
    previous = content.get("prev_id", [])
    if not isinstance(previous, list) or len(previous) > MAX_PREVIOUS or not all(map(_is_sequence, previous)):
        raise Malformed("an update has no valid prev_id")
    if not _is_sequence(sequence):
        raise Malformed("an update has no stream_id")
    deleted, keys = content.get("deleted", False), content.get("keys")
    if type(deleted) is not bool or not isinstance(keys, dict | None):
        raise Malformed("an update's device is not an object")
    return Update(user, device, sequence, tuple(previous), None if deleted or not keys else sound(keys, user, device))


def sound(keys: object, user: str, device: str) -> Object:
    """A device's keys as another server gives them, if they are of that device and fit to be passed on. Raises
    `Malformed`."""
    if not isinstance(keys, dict) or keys.get("user_id") != user or keys.get("device_id") != device:
        raise Malformed("a device is not an object, or says that it is another one")
    json = canonical.encode([keys])[1:-1]  # no deeper than what still has a canonical form in a map of devices
    if not matrix.is_device_id(device) or len(json) > MAX_DEVICE_BYTES:
        raise Malformed("a device has no valid id, or is too large")
    return keys


def _is_sequence(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= canonical.MAX_INTEGER


def apply(conn: Connection, update: Update) -> frozenset[str]:
    """Take an update in: the kept list is changed if this follows on it, else marked stale. Whom to wake.

    An update of an older sequence too makes it stale: a server whose database was restored counts from there again. So
    does one of the draft: its devices count with their server's signature only, and an update has none.
    """
    row = conn.execute("SELECT sequence, json, is_stale FROM remote_lists WHERE user_id = ?", (update.user,)).fetchone()
    if row is not None and not row[2]:
        sequence, json, _ = row
        follows = update.previous == (sequence,) and update.sequence > sequence
        is_dated = update.keys is not None and "valid_until_ts" in update.keys
        changed = _changed(json, update) if follows and not is_dated else b""
        if changed:
            conn.execute(
                "UPDATE remote_lists SET sequence = ?, json = ? WHERE user_id = ?",
                (update.sequence, changed, update.user),
            )
        else:
            mark_stale(conn, update.user)
    return lists.tell(conn, update.user)


def mark_stale(conn: Connection, user: str) -> None:
    """A list is not believed any more: whoever wants it next asks for it."""
    conn.execute("UPDATE remote_lists SET is_stale = 1 WHERE user_id = ?", (user,))


def take_back(conn: Connection, users: Iterable[str]) -> None:
    """What was kept of users is not believed, nor that their server signs no statements: nobody could look."""
    for user in users:
        conn.execute("DELETE FROM remote_lists WHERE user_id = ? AND is_stated = 0", (user,))
        mark_stale(conn, user)


def _changed(json: bytes, update: Update) -> bytes:
    """A kept list with an update in it; b"" if it becomes too large to be kept."""
    devices = msgspec.json.decode(json)
    devices.pop(update.device, None)
    if update.keys is not None:
        devices[update.device] = update.keys
    changed = msgspec.json.encode(devices)
    return changed if len(devices) <= MAX_DEVICES and len(changed) <= MAX_KEPT_BYTES else b""


def forget_old(conn: Connection, now: int) -> None:
    """Drop lists that nobody asked for in a long time."""
    conn.execute("DELETE FROM remote_lists WHERE fetched_ts < ?", (now - FORGOTTEN_MS,))


def read_follows(value: object, user: str, now: int) -> tuple[int, int]:
    """(sequence, until when changes are told) out of an answer; (0, 0) where it promises nothing."""
    found = value.get(user) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        return 0, 0
    sequence, until = found.get("sequence"), found.get("until_ts")
    if not _is_sequence(sequence) or not _is_sequence(until):
        return 0, 0
    return sequence, min(until, now + TOLD_MS)


# -- our own users, and who is told of them -------------------------------------------------------------------------


def promise(conn: Connection, users: Iterable[str], server: str, now: int) -> None:
    """A server asks for local users' devices: it will be told, if not too many are told. Before they are read: nothing
    falls between."""
    for user in users:
        if lists.sequence_of(conn, user) is not None:
            told = lists.interested(conn, user, now)
            if server in told or len(told) < MAX_TOLD:
                lists.serve(conn, user, server, now + TOLD_MS)


def promised(conn: Connection, users: Iterable[str], server: str, now: int) -> frozenset[str]:
    """The users for whom that was written down a short time ago, or who are not there."""
    found = "SELECT 1 FROM interested_servers WHERE user_id = ? AND server = ? AND until_ts > ?"
    return frozenset(
        user
        for user in users
        if conn.execute(found, (user, server, now + TOLD_MS - RENEW_MS)).fetchone()
        or lists.sequence_of(conn, user) is None
    )
