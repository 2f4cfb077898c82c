"""Users, their devices and access tokens: steps on the database.

An access token names its user, so that a home that is cut along its users finds the part that knows it:
base64url(localpart) "." base64url(32 random bytes). The database holds its SHA-256 only.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

from tillie.crypto.random import random_bytes
from tillie.home import lists
from tillie.home.answers import Refused
from tillie.home.database import Connection
from tillie.home.lists import Change
from tillie.model import Address

TOKEN_BYTES = 32
MAX_TOKEN = 512  # characters
MAX_DEVICES = 1_000  # of one user; more than that other servers ignore

# What belongs to one device, and goes with it.
_DEVICE_TABLES = (
    "tokens",
    "device_keys",
    "one_time_keys",
    "issued_keys",
    "fallback_keys",
    "messages",
    "requests",
    "devices",
)


class Who(NamedTuple):
    """Who is asking: a device of a local user."""

    user: Address
    device: str


class LoggedIn(NamedTuple):
    """A token, and whom to tell that there is a new device, if there is."""

    token: str
    change: Change | None


class DeviceRow(NamedTuple):
    """A device as its owner sees it."""

    device: str
    name: str | None


def new_token(user: Address) -> str:
    localpart = user[1:].partition(":")[0]
    return f"{_encode(localpart.encode())}.{_encode(random_bytes(TOKEN_BYTES))}"


def who(conn: Connection, token: str, server: str) -> Who | None:
    """Whose token this is, if anybody's."""
    try:
        localpart = urlsafe_b64decode(token.partition(".")[0] + "==").decode()
        digest = _digest(token)
    except ValueError:
        return None
    user = f"@{localpart}:{server}"
    found = conn.execute("SELECT device_id FROM tokens WHERE user_id = ? AND token_hash = ?", (user, digest)).fetchone()
    return Who(Address(user), found[0]) if found else None


def password_hash(conn: Connection, user: str) -> str | None:
    """None: there is no such user."""
    found = conn.execute("SELECT password_hash FROM users WHERE user_id = ?", (user,)).fetchone()
    return str(found[0]) if found else None


def add_user(conn: Connection, user: Address, hashed: str, now: int) -> bool:
    """A new user; False if there is one of that name."""
    added = conn.execute(
        "INSERT INTO users (user_id, password_hash, created_ts) VALUES (?, ?, ?) ON CONFLICT (user_id) DO NOTHING",
        (user, hashed, now),
    )
    return added.rowcount == 1


def log_in(conn: Connection, user: Address, device: str, name: str | None, now: int) -> LoggedIn | None:
    """A new token for a device, which is made if it is not there; of one that is, the name stays and the old tokens
    end. None: the user has too many devices."""
    change = None
    if not has_device(conn, user, device):
        (count,) = conn.execute("SELECT COUNT(*) FROM devices WHERE user_id = ?", (user,)).fetchone()
        if count >= MAX_DEVICES:
            return None
        conn.execute(
            "INSERT INTO devices (user_id, device_id, display_name, created_ts) VALUES (?, ?, ?, ?)",
            (user, device, name, now),
        )
        change = lists.changed(conn, user, [device], now)
    conn.execute("DELETE FROM tokens WHERE user_id = ? AND device_id = ?", (user, device))
    token = new_token(user)
    conn.execute(
        "INSERT INTO tokens (user_id, token_hash, device_id, created_ts) VALUES (?, ?, ?, ?)",
        (user, _digest(token), device, now),
    )
    return LoggedIn(token, change)


def has_device(conn: Connection, user: str, device: str) -> bool:
    key = (user, device)
    return conn.execute("SELECT 1 FROM devices WHERE user_id = ? AND device_id = ?", key).fetchone() is not None


def require_device(conn: Connection, who: Who) -> None:
    """Call in the transaction that stores something of a device: it may be gone since the token was looked at, and what
    it left would be the next one's of that id. Raises `Refused`."""
    if not has_device(conn, *who):
        raise Refused(401, "M_UNKNOWN_TOKEN", "The device is gone.")


def devices(conn: Connection, user: str) -> list[DeviceRow]:
    rows = conn.execute(
        "SELECT device_id, display_name FROM devices WHERE user_id = ? ORDER BY device_id", (user,)
    ).fetchall()
    return [DeviceRow(*row) for row in rows]


def rename(conn: Connection, user: Address, device: str, name: str | None, now: int) -> Change | None:
    """None: there is no such device."""
    renamed = conn.execute(
        "UPDATE devices SET display_name = ? WHERE user_id = ? AND device_id = ?", (name, user, device)
    )
    return lists.changed(conn, user, [device], now) if renamed.rowcount else None


def remove_devices(conn: Connection, user: Address, ids: list[str], now: int) -> Change | None:
    """Remove devices with all that belongs to them. None: none of them was there."""
    gone = [device for device in dict.fromkeys(ids) if has_device(conn, user, device)]
    for table in _DEVICE_TABLES:
        conn.executemany(
            f"DELETE FROM {table} WHERE user_id = ? AND device_id = ?", [(user, device) for device in gone]
        )
    return lists.changed(conn, user, gone, now) if gone else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")
