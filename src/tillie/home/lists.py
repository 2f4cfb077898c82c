"""Device lists: what devices a local user has, and whoever must hear when that changes.

Every change gets a number of its own, its statement (`honesty`), news for the local users who watch, and an update for
the servers that asked, all in the transaction of the change itself: what was changed was told, also across a crash.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from tillie.home import honesty
from tillie.home.database import Connection
from tillie.home.federation import outgoing
from tillie.wire.canonical import Object

DEVICE_LIST_UPDATE = "m.device_list_update"
MAX_NEWS = 1_000  # changed users in one answer to a sync


class Listed(NamedTuple):
    """A device as it is stored. `keys` is JSON, and of one profile; both are empty where it has none."""

    name: str | None
    profile: str
    keys: bytes


class DeviceList(NamedTuple):
    """All devices of a local user, those without keys too. `sequence` numbers the last change; 0: there was none."""

    sequence: int
    devices: dict[str, Listed]

    @property
    def profile(self) -> str:
        """The one profile that this user's keys are of, or ""."""
        return next((each.profile for each in self.devices.values() if each.keys), "")

    @property
    def keys(self) -> dict[str, Object]:
        """The device keys, for whoever has them."""
        return {name: msgspec.json.decode(each.keys) for name, each in self.devices.items() if each.keys}


class Change(NamedTuple):
    """Who is to be woken when a change is committed: local users, and the queues for other servers."""

    sequence: int
    users: frozenset[str]
    servers: frozenset[str]


_LIST = """
    SELECT users.list_sequence, devices.device_id, devices.display_name, device_keys.profile, device_keys.json
    FROM users
    LEFT JOIN devices ON devices.user_id = users.user_id
    LEFT JOIN device_keys ON device_keys.user_id = devices.user_id AND device_keys.device_id = devices.device_id
    WHERE users.user_id = ? ORDER BY devices.device_id
"""


def of(conn: Connection, user: str) -> DeviceList | None:
    """The devices of a local user, by their ids in order; None if there is no such user."""
    rows = conn.execute(_LIST, (user,)).fetchall()  # one statement: a change is seen whole, or not at all
    if not rows:
        return None
    devices = {device: Listed(name, profile or "", json or b"") for _, device, name, profile, json in rows if device}
    return DeviceList(rows[0][0], devices)


def sequence_of(conn: Connection, user: str) -> int | None:
    """The number of a local user's last change; None if there is no such user."""
    row = conn.execute("SELECT list_sequence FROM users WHERE user_id = ?", (user,)).fetchone()
    return row[0] if row else None


def changed(conn: Connection, user: str, devices: Sequence[str], now: int) -> Change:
    """Call in the transaction that changed these devices: made them, gave them keys or names, or removed them.

    `now` in milliseconds. The numbers follow the clock, so that they grow also over a database that was lost.
    """
    listed = of(conn, user)
    if listed is None:
        raise LookupError("a device list changed without its user")
    before = listed.sequence
    servers = interested(conn, user, now)
    for device in devices:
        sequence = max(before + 1, now)
        for server in servers:
            outgoing.enqueue(conn, server, _update(user, device, listed, sequence, before), now)
        before = sequence
    conn.execute("UPDATE users SET list_sequence = ? WHERE user_id = ?", (before, user))
    honesty.state(conn, user, before, listed.keys, now)
    watch(conn, user, (user,))
    return Change(before, tell(conn, user), servers)


def _update(user: str, device: str, listed: DeviceList, sequence: int, before: int) -> dict[str, Any]:
    """An m.device_list_update (server-server API, "Device Management"). Names stay at home: "Ann's second phone" is
    no other server's business."""
    content: dict[str, Any] = {
        "user_id": str(user),
        "device_id": device,
        "stream_id": sequence,
        "prev_id": [before] if before else [],
    }
    if device not in listed.devices:
        content["deleted"] = True
    elif listed.devices[device].keys:
        content["keys"] = msgspec.json.decode(listed.devices[device].keys)
    return {"edu_type": DEVICE_LIST_UPDATE, "content": content}


# -- who hears of it ------------------------------------------------------------------------------------------------


def unwatched(conn: Connection, watcher: str, users: Iterable[str]) -> list[str]:
    """Those of `users` whose device lists this local user does not watch yet."""
    found = "SELECT 1 FROM watched WHERE user_id = ? AND watcher = ?"
    return [user for user in users if conn.execute(found, (user, watcher)).fetchone() is None]


def watch(conn: Connection, watcher: str, users: Iterable[str]) -> None:
    """A local user wants to hear of changes: whoever asked for keys. Do that before they are read."""
    conn.executemany(
        "INSERT INTO watched (user_id, watcher) VALUES (?, ?) ON CONFLICT (user_id, watcher) DO NOTHING",
        [(user, watcher) for user in users],
    )


def tell(conn: Connection, user: str) -> frozenset[str]:
    """News for all who watch a user, local or not: that the device list changed. Whom to wake."""
    conn.execute(
        """
        INSERT INTO news (user_id, changed, position)
        SELECT watched.watcher, watched.user_id, users.next_news
        FROM watched JOIN users ON users.user_id = watched.watcher WHERE watched.user_id = ?
        ON CONFLICT (user_id, changed) DO UPDATE SET position = excluded.position
        """,
        (user,),
    )
    told = conn.execute(
        """
        UPDATE users SET next_news = next_news + 1
        WHERE user_id IN (SELECT watcher FROM watched WHERE user_id = ?) RETURNING user_id
        """,
        (user,),
    )
    return frozenset(watcher for (watcher,) in told.fetchall())


def news(conn: Connection, user: str, after: int, limit: int = MAX_NEWS) -> list[tuple[int, str]]:
    """(position, whose device list changed) since a position, the oldest first."""
    rows = conn.execute(
        "SELECT position, changed FROM news WHERE user_id = ? AND position > ? ORDER BY position LIMIT ?",
        (user, after, limit),
    )
    return rows.fetchall()


def last_news(conn: Connection, user: str) -> int:
    """The position of the newest news; 0: there were none yet."""
    row = conn.execute("SELECT next_news - 1 FROM users WHERE user_id = ?", (user,)).fetchone()
    return row[0] if row else 0


def serve(conn: Connection, user: str, server: str, until: int) -> None:
    """Another server asked for a local user's devices: it hears of changes until then (milliseconds)."""
    conn.execute(
        "INSERT INTO interested_servers (user_id, server, until_ts) VALUES (?, ?, ?)"
        " ON CONFLICT (user_id, server) DO UPDATE SET until_ts = excluded.until_ts",
        (user, server, until),
    )


def forget_old(conn: Connection, now: int) -> None:
    """Forget servers that hear of nothing any more."""
    conn.execute("DELETE FROM interested_servers WHERE until_ts <= ?", (now,))


def interested(conn: Connection, user: str, now: int) -> frozenset[str]:
    """The servers that hear of a local user's changes."""
    rows = conn.execute("SELECT server FROM interested_servers WHERE user_id = ? AND until_ts > ?", (user, now))
    return frozenset(server for (server,) in rows.fetchall())
