"""What other homeservers ask (server-server API): keys, devices, transactions; and our own signing key."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tillie.directory import statements
from tillie.errors import BadSignature, Malformed
from tillie.home import keys, lists
from tillie.home.answers import Refused, answer, body_bytes, too_many
from tillie.home.federation import followed, x_matrix
from tillie.home.federation.followed import FOLLOWS
from tillie.wire import base64

if TYPE_CHECKING:
    from tillie.home.federation.federation import Federation
    from tillie.home.service import Home

T = TypeVar("T")

MAX_BODY_BYTES = 1 << 20
MAX_TRANSACTION_BYTES = 16 << 20  # 100 EDUs of 65 kB, and what is around them
MAX_USERS = 1_000  # in one query or claim
MAX_DEVICES = 10_000
KEY_MS = 86_400_000  # how long our key is said to be valid; signed again when half of that is over
LONGEST_DELAY = 5.0  # seconds that a server which asks too often waits before it is refused
VERSION = {"server": {"name": "Tillie"}}


class Peer(NamedTuple):
    """A verified request: who sent it, and its body, None if it has none."""

    origin: str
    content: Any


class _Query(msgspec.Struct):
    device_keys: dict[str, list[str] | None]


class _Claim(msgspec.Struct):
    one_time_keys: dict[str, dict[str, str]]


class _Routes:
    def __init__(self, home: Home) -> None:
        self._home = home
        self._signed_key: tuple[int, dict[str, Any]] = (0, {})

    @property
    def _federation(self) -> Federation:
        if self._home.federation is None:
            raise Refused(503, "M_UNKNOWN", "This home is starting, or stopping.")
        return self._home.federation

    # -- our key ------------------------------------------------------------------------------------------------------

    async def key(self, request: Request) -> Response:
        """GET /_matrix/key/v2/server. Who asks is not verified: that server would have to ask for ours first."""
        now = self._home.now()
        made, value = self._signed_key
        if not made <= now < made + KEY_MS // 2:
            signer = self._home.signer
            value = signer.sign(
                {
                    "server_name": self._home.server,
                    "verify_keys": {signer.key_id: {"key": base64.encode_unpadded(signer.public)}},
                    "old_verify_keys": {},
                    "valid_until_ts": now + KEY_MS,
                }
            )
            self._signed_key = (now, value)
        return answer(value)

    async def version(self, request: Request) -> Response:
        return answer(VERSION)

    # -- keys and devices ---------------------------------------------------------------------------------------------

    async def query(self, request: Request) -> Response:
        """POST user/keys/query."""
        peer = await self._peer(request)
        asked = _typed(peer.content, _Query)
        self._check_users(asked.device_keys)
        promised = await self._promise(asked.device_keys, peer.origin)
        found: dict[str, dict[str, msgspec.Raw]] = {}
        said: dict[str, msgspec.Raw] = {}
        follows: dict[str, Any] = {}
        until = self._home.now() + followed.TOLD_MS - followed.RENEW_MS
        for user, named in asked.device_keys.items():
            shown = self._home.maps.for_server(user)
            if shown is None:
                continue
            devices = frozenset(named or ())
            found[user] = {
                device: msgspec.Raw(json) for device, json in shown.devices.items() if not devices or device in devices
            }
            if user in promised:
                follows[user] = {"sequence": shown.sequence, "until_ts": until}
            if shown.statement:
                said[user] = msgspec.Raw(shown.statement)
        return answer({"device_keys": found, statements.MEMBER: said, FOLLOWS: follows})

    async def claim(self, request: Request) -> Response:
        """POST user/keys/claim: what is answered is gone, whether or not it arrives."""
        peer = await self._peer(request)
        asked = _typed(peer.content, _Claim).one_time_keys
        self._check_users(asked)
        count = sum(map(len, asked.values()))
        if count > MAX_DEVICES:
            raise Refused(400, "M_TOO_LARGE", f"One claim is for at most {MAX_DEVICES} devices.")
        await self._slow_down("claims_server", peer.origin, max(1, count))
        await self._promise(asked, peer.origin)
        found = await self._home.db.write(lambda conn: keys.claim(conn, asked))
        return answer({"one_time_keys": found})

    async def devices(self, request: Request) -> Response:
        """GET user/devices: the whole list of one user, with its number."""
        peer = await self._peer(request)
        user = request.path_params["user_id"]
        self._check_users({user: None})
        await self._promise({user: None}, peer.origin)
        listed = self._home.db.read(lambda conn: lists.of(conn, user))
        if listed is None:
            raise Refused(404, "M_NOT_FOUND", "There is no such user.")
        devices = [
            {"device_id": device, "keys": msgspec.Raw(each.keys)} if each.keys else {"device_id": device}
            for device, each in listed.devices.items()
        ]
        return answer({"user_id": user, "stream_id": listed.sequence, "devices": devices})

    def _check_users(self, users: Mapping[str, Any]) -> None:
        if len(users) > MAX_USERS:
            raise Refused(400, "M_TOO_LARGE", f"One request is for at most {MAX_USERS} users.")
        if not all(map(self._home.is_local, users)):
            raise Refused(400, "M_INVALID_PARAM", "A request asks for a user of another server.")

    async def _promise(self, users: Mapping[str, Any], origin: str) -> frozenset[str]:
        """Write down that this server will be told of changes, before it is told how things are. Of whom it will."""
        now = self._home.now()
        look = partial(followed.promised, users=users, server=origin, now=now)
        promised = self._home.db.read(look)
        if len(promised) == len(users):
            return promised
        await self._home.db.write(lambda conn: followed.promise(conn, users, origin, now))
        return self._home.db.read(look)

    # -- transactions -------------------------------------------------------------------------------------------------

    async def send(self, request: Request) -> Response:
        """PUT send/{txnId}."""
        peer = await self._peer(request, MAX_TRANSACTION_BYTES)
        if not isinstance(peer.content, dict):
            raise Refused(400, "M_BAD_JSON", "A transaction is an object.")
        return answer(await self._federation.incoming.take(peer.origin, request.path_params["txn_id"], peer.content))

    # -- who asks -----------------------------------------------------------------------------------------------------

    async def _peer(self, request: Request, max_bytes: int = MAX_BODY_BYTES) -> Peer:
        """Verify a request (server-server API, "Request Authentication"). Raises `Refused`."""
        try:
            offered = x_matrix.parse_all(request.headers.getlist("authorization"))
        except Malformed as error:
            raise _unauthorized(error.detail) from None
        keyring = self._federation.keyring
        known = [(each, public) for each in offered if (public := await keyring.key(each.origin, each.key_id))]
        if not known:  # before the body: of nobody is none read
            raise _unauthorized("a request's key is not known, or not valid any more")
        data = await body_bytes(request, max_bytes)
        content = _parse(data) if data else None
        query: bytes = request.scope["query_string"]
        uri = (request.scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")
        why = ""
        for each, public in known:
            try:
                x_matrix.verify(each, public, request.method, uri, self._home.server, content)
            except (Malformed, BadSignature) as error:
                why = error.detail
                continue
            await self._slow_down("requests_server", each.origin, 1)
            self._federation.alive(each.origin)
            return Peer(each.origin, content)
        raise _unauthorized(why)

    async def _slow_down(self, kind: str, origin: str, amount: int) -> None:
        """A server that asks too often waits first, and is refused only when that does not help: to be refused makes
        another homeserver take all of this one for broken, for minutes."""
        left = LONGEST_DELAY
        while wait := self._home.limits.take(kind, origin, amount):
            if wait > left:
                raise too_many(wait)
            left -= wait
            await asyncio.sleep(wait)


def _parse(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused(400, "M_NOT_JSON", "The request is not valid JSON.") from None


def _typed(content: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise Refused(400, "M_BAD_JSON", f"The request does not have the right members: {error}") from None


def _unauthorized(why: str) -> Refused:
    return Refused(401, "M_UNAUTHORIZED", f"The request is not signed as it must be: {why}.")


def routes(home: Home) -> list[Route]:
    """The endpoints of federation; none where the configuration turns it off."""
    if not home.config.federation.enabled:
        return []
    made = _Routes(home)
    base = "/_matrix/federation/v1"
    return [
        Route("/_matrix/key/v2/server", made.key, methods=["GET"]),
        Route("/_matrix/key/v2/server/{key_id}", made.key, methods=["GET"]),  # as it was before version 1.6
        Route(f"{base}/version", made.version, methods=["GET"]),
        Route(f"{base}/user/keys/query", made.query, methods=["POST"]),
        Route(f"{base}/user/keys/claim", made.claim, methods=["POST"]),
        Route(f"{base}/user/devices/{{user_id}}", made.devices, methods=["GET"]),
        Route(f"{base}/send/{{txn_id}}", made.send, methods=["PUT"]),
    ]
