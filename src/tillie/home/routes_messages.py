"""sendToDevice and sync (client-server API, "Send-to-Device messaging", "Syncing")."""

from __future__ import annotations

import asyncio
import re
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tillie.directory.matrix import V1
from tillie.home import keys, lists, messages
from tillie.home.accounts import Who
from tillie.home.answers import Refused, answer, strict_body
from tillie.home.database import Connection
from tillie.home.service import Home
from tillie.wire.canonical import Object

MAX_SEND_BYTES = 4 << 20  # one request, for all devices
MAX_TRANSACTION_ID = 255  # characters
MAX_WAIT = 120.0  # seconds that a sync is held, whatever the client asks for
PRUNE_EVERY = 3_600_000  # milliseconds: all requests of a day are looked through then
MAX_CHANGES = 100_000  # users in an answer to keys/changes

_TOKEN = re.compile(r"m(0|[1-9][0-9]{0,17})_n(0|[1-9][0-9]{0,17})")


def routes(home: Home) -> list[Route]:
    door = _Messages(home)
    return [
        Route(f"{V1.path}/sendToDevice/{{event_type}}/{{transaction_id}}", door.send, methods=["PUT"]),
        Route(f"{V1.path}/sync", door.sync, methods=["GET"]),
        Route(f"{V1.path}/keys/changes", door.changes, methods=["GET"]),
    ]


class Position(NamedTuple):
    """How far a device has read: its messages, and its user's news. As a token: "m12_n3"."""

    message: int
    news: int

    def __str__(self) -> str:
        return f"m{self.message}_n{self.news}"

    @classmethod
    def parse(cls, token: str) -> Position:
        """Raises `Refused`: M_INVALID_PARAM."""
        found = _TOKEN.fullmatch(token)
        if found is None:
            raise Refused(400, "M_INVALID_PARAM", "This is no token of a sync of this home.")
        return cls(int(found[1]), int(found[2]))


class _Messages:
    def __init__(self, home: Home) -> None:
        self._home = home
        self._pruned = 0

    # -- in ---------------------------------------------------------------------------------------------------------

    async def send(self, request: Request) -> Response:
        home = self._home
        who = await home.who(request)
        type, transaction = request.path_params["event_type"], request.path_params["transaction_id"]
        if len(type.encode()) > messages.MAX_TYPE_BYTES or len(transaction) > MAX_TRANSACTION_ID:
            raise Refused(400, "M_INVALID_PARAM", "The event's type or the transaction id is too long.")
        # Quoted: "a/b" and "c" are not "a" and "b/c".
        path = f"sendToDevice/{quote(type, safe='')}/{quote(transaction, safe='')}"
        if home.db.read(lambda conn: messages.is_answered(conn, who, path)):
            return answer({})
        wanted = read_messages(await strict_body(request, MAX_SEND_BYTES))
        home.limit("messages", who.user, max(1, sum(map(len, wanted.values()))))
        local, remote = home.by_server(wanted)
        if not home.config.federation.enabled:
            remote = {}
        now = home.now()
        sent = await home.db.write(lambda conn: messages.send(conn, who, path, type, local, remote, now))
        home.wake(sent.users, sent.servers)
        await self._prune(now)
        return answer({})

    async def _prune(self, now: int) -> None:
        if abs(now - self._pruned) >= PRUNE_EVERY:
            self._pruned = now
            await self._home.db.write(lambda conn: messages.forget_requests(conn, now))

    # -- out --------------------------------------------------------------------------------------------------------

    async def sync(self, request: Request) -> Response:
        """To-device messages, changed device lists, and how many keys are left. There are no rooms, nothing to filter
        and nobody's presence: the parameters for those are taken, and change nothing."""
        home = self._home
        who = await home.who(request)
        token = request.query_params.get("since")
        since = Position.parse(token) if token else None
        deadline = asyncio.get_running_loop().time() + _timeout(request)
        if since is not None:
            since = await self._acknowledge(who, since)
        while True:
            changed = home.waiters.event(who.user)
            try:
                found, is_news = home.db.read(lambda conn: _answer(conn, who, since))
                left = deadline - asyncio.get_running_loop().time()
                if is_news or since is None or left <= 0 or home.is_stopping:
                    return answer(found)
                async with asyncio.timeout(left):
                    await changed.wait()
            except TimeoutError:
                pass  # one more look, and the answer
            finally:
                home.waiters.leave(who.user)
            await home.who(request)  # this device may have been logged out meanwhile

    async def _acknowledge(self, who: Who, since: Position) -> Position:
        """Delete what this token shows to have arrived. One from before a database was lost, or restored from a copy,
        shows nothing: everything that waits is given then."""
        last, news = self._home.db.read(lambda conn: (messages.last(conn, who), lists.last_news(conn, who.user)))
        since = Position(since.message if since.message <= last else 0, since.news if since.news <= news else 0)
        if self._home.db.read(lambda conn: messages.is_waiting(conn, who, since.message)):
            await self._home.db.write(lambda conn: messages.acknowledge(conn, who, since.message))
        return since

    async def changes(self, request: Request) -> Response:
        """GET keys/changes. `to` is a hint, and not needed."""
        who = await self._home.who(request)
        token = request.query_params.get("from")
        if token is None:
            raise Refused(400, "M_MISSING_PARAM", "There is no 'from'.")
        since = Position.parse(token)
        found = self._home.db.read(lambda conn: lists.news(conn, who.user, since.news, limit=MAX_CHANGES))
        return answer({"changed": [user for _, user in found], "left": []})


def read_messages(body: Object) -> dict[str, dict[str, bytes]]:
    """{user: {device: content as JSON}} of the body of sendToDevice. Raises `Refused`."""
    found = body.get("messages")
    if found is None:
        raise Refused(400, "M_MISSING_PARAM", "There are no messages.")
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise Refused(400, "M_BAD_JSON", "The messages are not by user and device.")
    return {
        user: {device: _content(content) for device, content in contents.items()} for user, contents in found.items()
    }


def _content(content: object) -> bytes:
    if not isinstance(content, dict):
        raise Refused(400, "M_BAD_JSON", "The content of a message is not an object.")
    json = msgspec.json.encode(content)
    if len(json) > messages.MAX_CONTENT_BYTES:
        raise Refused(413, "M_TOO_LARGE", f"A message has at most {messages.MAX_CONTENT_BYTES} bytes.")
    return json


def _timeout(request: Request) -> float:
    """Seconds to wait for news. Raises `Refused`."""
    text = request.query_params.get("timeout", "0")
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise Refused(400, "M_INVALID_PARAM", "The timeout is not a number of milliseconds.")
    return min(int(text) / 1000, MAX_WAIT)


def _answer(conn: Connection, who: Who, since: Position | None) -> tuple[dict[str, Any], bool]:
    """An answer to a sync, and whether it has anything to say. A client that begins asks for all keys anyway: no news
    of device lists then."""
    events = messages.waiting(conn, who, since.message if since else 0)
    if since is None:
        news, newest = [], lists.last_news(conn, who.user)
    else:
        news = lists.news(conn, who.user, since.news)
        newest = news[-1][0] if news else since.news
    position = Position(events[-1][0] if events else since.message if since else 0, newest)
    profile = keys.profile_of(conn, who)
    found: dict[str, Any] = {
        "next_batch": str(position),
        "device_one_time_keys_count": keys.counts(conn, who, profile),
        "device_unused_fallback_key_types": keys.unused_fallback_keys(conn, who),
    }
    if events:
        found["to_device"] = {"events": [msgspec.Raw(event) for _, event in events]}
    if news:
        found["device_lists"] = {"changed": [user for _, user in news], "left": []}
    return found, bool(events or news)
