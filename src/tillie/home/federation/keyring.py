"""Other servers' signing keys (Matrix specification 1.19, server-server API, "Retrieving server keys").

Only keys that a server itself publishes count, only while they are valid, and never those that it calls old: they are
for events. A key that changes under its id is not believed before the one that was there first has expired.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tillie.crypto import sign
from tillie.directory.signed import ED25519, verify_by_any
from tillie.errors import BadKey, BadSignature, Malformed
from tillie.home.database import Connection
from tillie.home.federation.transport import Failed, Transport
from tillie.wire import base64, canonical

if TYPE_CHECKING:
    from tillie.home.service import Home

PATH = "/_matrix/key/v2/server"
MAX_BYTES = 64 << 10
MAX_KEYS = 32
LONGEST_MS = 7 * 86_400_000  # "the lesser of this value and 7 days into the future"
REFETCH_SECONDS = 60.0  # for a key id that is not known, or that has expired
MAX_ASKED = 10_000  # servers, whose last fetch is remembered
MAX_STRANGERS = 50  # asked at once: anybody can name any server as the origin of a request


class Keys(NamedTuple):
    """A server's keys by their ids ("ed25519:..."), 32 bytes each, and until when they are valid (milliseconds)."""

    keys: Mapping[str, bytes]
    valid_until_ts: int


NO_KEYS = Keys({}, 0)


def read_keys(data: bytes, server: str, now: int) -> Keys:
    """A server's answer, checked: it is of that server, and signed by a key in it. Raises `Malformed`,
    `BadSignature`."""
    answer = canonical.parse_object(data, max_bytes=MAX_BYTES)
    published, until = answer.get("verify_keys"), answer.get("valid_until_ts")
    if answer.get("server_name") != server:
        raise Malformed("the keys are of another server")
    if not isinstance(published, dict) or len(published) > MAX_KEYS or type(until) is not int:
        raise Malformed("a server's keys are not an object, too many, or without a date")
    keys = {}
    for key_id, each in published.items():
        if key_id.startswith(f"{ED25519}:") and (key := _key(each)):
            keys[key_id] = key
    verify_by_any(answer, server, keys)
    return Keys(keys, min(until, now + LONGEST_MS))


def _key(value: object) -> bytes:
    """The bytes of one published key; empty if it is not sound, which costs no other key."""
    try:
        found = base64.decode_unpadded(value.get("key") if isinstance(value, dict) else None, size=sign.KEY)
        sign.public_to_curve(found)
    except (Malformed, BadKey):
        return b""
    return found


def merged(known: Keys, fetched: Keys, now: int) -> Keys:
    """What is believed after a fetch: a key that is still valid stays the one that its id stands for, for as long as
    was said when it was the one."""
    if known.valid_until_ts <= now:
        return fetched
    same = {key_id: known.keys.get(key_id, key) for key_id, key in fetched.keys.items()}
    until = fetched.valid_until_ts
    return Keys(same, until if same == fetched.keys else min(until, known.valid_until_ts))


class Keyring:
    """The keys of other servers, kept in the database, fetched where they are not known."""

    def __init__(self, home: Home, transport: Transport) -> None:
        self._home = home
        self._transport = transport
        self._asked: dict[str, float] = {}
        self._fetching: dict[str, asyncio.Task[Keys]] = {}
        self._places = asyncio.Semaphore(MAX_STRANGERS)

    async def key(self, server: str, key_id: str) -> bytes | None:
        """A server's key that is valid now, or None if it has no such key or can't be asked."""
        return (await self.all(server, key_id)).get(key_id)

    async def all(self, server: str, key_id: str = "") -> Mapping[str, bytes]:
        """All keys of a server that are valid now; it is asked if none is known, or not this one."""
        if server == self._home.server:
            return {self._home.signer.key_id: self._home.signer.public}
        known = self._home.db.read(lambda conn: _load(conn, server))
        if known.valid_until_ts <= self._home.now() or (key_id and key_id not in known.keys):
            known = await self._fetch(server, known, is_stranger=bool(key_id) and not known.keys)
        return known.keys if known.valid_until_ts > self._home.now() else {}

    async def _fetch(self, server: str, known: Keys, *, is_stranger: bool) -> Keys:
        if server not in self._fetching:
            now = self._home.clock()
            if 0 <= now - self._asked.get(server, float("-inf")) < REFETCH_SECONDS:
                return known
            self._asked.pop(server, None)
            self._asked[server] = now
            if len(self._asked) > MAX_ASKED:
                del self._asked[next(iter(self._asked))]
            task = asyncio.create_task(self._ask(server, known, self._places if is_stranger else nullcontext()))
            self._fetching[server] = task
            task.add_done_callback(lambda _: self._fetching.pop(server, None))
        return await asyncio.shield(self._fetching[server])

    async def _ask(self, server: str, known: Keys, place: AbstractAsyncContextManager[None]) -> Keys:
        try:
            async with asyncio.timeout(2 * self._home.config.federation.timeout), place:
                answer = await self._transport.plain(server, PATH)
            found = read_keys(answer, server, self._home.now())
        except (Failed, TimeoutError):
            return known
        except (Malformed, BadSignature) as error:
            self._home.log.event("server_keys_refused", server=server, detail=error.detail)
            return known
        now = self._home.now()
        believed = merged(known, found, now)
        if believed.keys != found.keys:
            self._home.log.event("server_key_changed", server=server)
        await self._home.db.write(lambda conn: _save(conn, server, believed))
        return believed


def _load(conn: Connection, server: str) -> Keys:
    row = conn.execute("SELECT keys, valid_until_ts FROM servers WHERE server = ?", (server,)).fetchone()
    if row is None or row[0] is None:
        return NO_KEYS
    keys = {key_id: base64.decode_unpadded(key, size=sign.KEY) for key_id, key in msgspec.json.decode(row[0]).items()}
    return Keys(keys, row[1])


def _save(conn: Connection, server: str, keys: Keys) -> None:
    json = msgspec.json.encode({key_id: base64.encode_unpadded(key) for key_id, key in keys.keys.items()})
    conn.execute(
        "INSERT INTO servers (server, keys, valid_until_ts) VALUES (?, ?, ?)"
        " ON CONFLICT (server) DO UPDATE SET keys = excluded.keys, valid_until_ts = excluded.valid_until_ts",
        (server, json, keys.valid_until_ts),
    )
