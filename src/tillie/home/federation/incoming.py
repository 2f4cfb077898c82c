"""Transactions from other servers (server-server API, "Transactions"): taken in once, each EDU for itself.

What is wrong with one EDU costs that one: a server whose transaction is refused sends it again and again, with all that
waits behind it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from tillie.errors import InvalidAddress, Malformed
from tillie.home import messages
from tillie.home.answers import Refused
from tillie.home.database import Connection
from tillie.home.federation import followed
from tillie.home.federation.remote import Remote
from tillie.home.lists import DEVICE_LIST_UPDATE
from tillie.wire import canonical, matrix
from tillie.wire.canonical import Object

if TYPE_CHECKING:
    from tillie.home.service import Home

DIRECT_TO_DEVICE = "m.direct_to_device"
MAX_PDUS = 50
MAX_EDUS = 100
MAX_TRANSACTION_ID = 255
MAX_MESSAGE_ID = 255  # "at most 32 code points"; other servers are seen to take more
MAX_MESSAGES = 2_000  # for devices, and users, in one EDU
REMEMBERED_MS = 7 * 86_400_000

_TRANSACTION, _MESSAGE = "transaction", "message"


class Taken(NamedTuple):
    """What a transaction did: local users to wake, and what was wrong with some of it, how often."""

    users: frozenset[str]
    skipped: Counter[str]


class ToDevice(NamedTuple):
    """An m.direct_to_device for local users, its shape checked."""

    sender: str
    type: str
    message_id: str
    messages: dict[str, dict[str, bytes]]  # {user: {device or "*": content as JSON}}
    skipped: Counter[str]


class Incoming:
    """Takes transactions in."""

    def __init__(self, home: Home, remote: Remote) -> None:
        self._home = home
        self._remote = remote

    async def take(self, origin: str, id: str, body: Object) -> Object:
        """A whole transaction; what is answered. Raises `Refused` if it is none."""
        pdus, edus = body.get("pdus", []), body.get("edus", [])
        if not isinstance(pdus, list) or not isinstance(edus, list) or len(id) > MAX_TRANSACTION_ID:
            raise Refused(400, "M_BAD_JSON", "A transaction has lists of PDUs and EDUs, and a short id.")
        if len(pdus) > MAX_PDUS or len(edus) > MAX_EDUS:
            raise Refused(400, "M_BAD_JSON", f"A transaction has at most {MAX_PDUS} PDUs and {MAX_EDUS} EDUs.")
        if body.get("origin", origin) != origin:
            raise Refused(403, "M_FORBIDDEN", "A transaction has another origin than its request.")
        now = self._home.now()
        taken = await self._home.db.write(lambda conn: self._step(conn, origin, id, edus, now))
        self._home.waiters.wake(*taken.users)
        self._home.log.counted("edu_skipped", taken.skipped, server=origin)
        ids = [each.get("event_id") for each in pdus if isinstance(each, dict)]
        return {"pdus": {each: {"error": "There are no rooms here."} for each in ids if isinstance(each, str)}}

    def _step(self, conn: Connection, origin: str, id: str, edus: list[Any], now: int) -> Taken:
        if not remember(conn, origin, _TRANSACTION, id, now):
            return Taken(frozenset(), Counter())
        users: frozenset[str] = frozenset()
        skipped = Counter[str]()
        for edu in edus:
            conn.execute("SAVEPOINT edu")
            try:
                taken = self._edu(conn, origin, edu, now)
                users |= taken.users
                skipped += taken.skipped
            except (Malformed, InvalidAddress) as error:
                conn.execute("ROLLBACK TO edu")
                skipped[error.detail] += 1
            conn.execute("RELEASE edu")
        return Taken(users, skipped)

    def _edu(self, conn: Connection, origin: str, edu: Any, now: int) -> Taken:
        content = edu.get("content") if isinstance(edu, dict) else None
        if not isinstance(content, dict):
            raise Malformed("an EDU is not an object, or has no content")
        kind = edu.get("edu_type")
        if kind == DIRECT_TO_DEVICE:
            found = read_to_device(content, origin, self._home.server)
            if not remember(conn, origin, _MESSAGE, found.message_id, now):
                return Taken(frozenset(), Counter())
            return Taken(messages.deliver(conn, found.sender, found.type, found.messages), found.skipped)
        if kind == DEVICE_LIST_UPDATE:
            update = followed.read_update(content, origin)
            self._remote.heard(update.user, update.sequence)
            return Taken(followed.apply(conn, update), Counter())
        return Taken(frozenset(), Counter())  # presence, typing and the like are of rooms


def read_to_device(content: Object, origin: str, server: str) -> ToDevice:
    """Check an m.direct_to_device. What is for others than this server's users, or is no content, is left out. Raises
    `Malformed`, `InvalidAddress`."""
    sender, type, message_id = content.get("sender"), content.get("type"), content.get("message_id")
    if not isinstance(sender, str) or matrix.parse_user_id(sender).partition(":")[2] != origin:
        raise Malformed("a message is not of the sending server's user")
    if not isinstance(type, str) or len(type.encode(errors="replace")) > messages.MAX_TYPE_BYTES:
        raise Malformed("a message has no type, or a long one")
    if not isinstance(message_id, str) or not 0 < len(message_id) <= MAX_MESSAGE_ID:
        raise Malformed("a message has no id, or a long one")
    canonical.encode([type, message_id])
    given = content.get("messages")
    if not isinstance(given, dict) or not all(isinstance(each, dict) for each in given.values()):
        raise Malformed("messages are not objects by user")
    if max(len(given), sum(map(len, given.values()))) > MAX_MESSAGES:
        raise Malformed("there are too many messages in one EDU")
    skipped = Counter[str]()
    kept: dict[str, dict[str, bytes]] = {}
    for user, contents in given.items():
        if user.partition(":")[2] != server:
            skipped["a message is for another server's user"] += 1
            continue
        for device, each in contents.items():
            try:
                kept.setdefault(user, {})[device] = _content(device, each)
            except Malformed as error:
                skipped[error.detail] += 1
    return ToDevice(sender, type, message_id, kept, skipped)


def _content(device: str, content: object) -> bytes:
    if not isinstance(content, dict):
        raise Malformed("a message's content is not an object")
    json = canonical.encode(content)
    is_device = device == messages.ALL_DEVICES or matrix.is_device_id(device)
    if len(json) > messages.MAX_CONTENT_BYTES or not is_device:
        raise Malformed("a message is too large, or names no valid device")
    return json


def remember(conn: Connection, server: str, kind: str, id: str, now: int) -> bool:
    """Whether this is the first time that a server sends this."""
    kept = conn.execute(
        "INSERT INTO incoming (server, kind, id, received_ts) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (server, kind, id) DO NOTHING",
        (server, kind, id, now),
    )
    return kept.rowcount == 1


def forget_old(conn: Connection, now: int) -> None:
    """Forget what servers sent long ago."""
    for (server,) in conn.execute("SELECT DISTINCT server FROM incoming").fetchall():
        conn.execute("DELETE FROM incoming WHERE server = ? AND received_ts < ?", (server, now - REMEMBERED_MS))
