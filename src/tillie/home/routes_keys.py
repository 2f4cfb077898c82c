"""keys/upload, query and claim (client-server API, "End-to-End Encryption"), and the same in the first draft."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tillie.directory import statements
from tillie.directory.matrix import DRAFT2015, V1, Profile
from tillie.home import elsewhere, keys, lists
from tillie.home.accounts import Who
from tillie.home.answers import Refused, answer, body
from tillie.home.database import Connection
from tillie.home.elsewhere import Found
from tillie.home.federation.transport import Failed
from tillie.home.service import Home

MAX_USERS = 1_000  # in one query or claim
MAX_CLAIMS = 10_000  # devices in one claim
MAX_TIMEOUT = 60.0  # seconds
MAX_WATCHED = 100_000  # pairs that are known to be in the database

Failures = dict[str, dict[str, Any]]


class Query(msgspec.Struct):
    device_keys: dict[str, list[str]]
    timeout: int = 10_000


class DraftQuery(msgspec.Struct):
    """The draft's only client asked for all devices of a user with {}."""

    device_keys: dict[str, list[str] | dict[str, Any]]
    timeout: int = 10_000


class Claim(msgspec.Struct):
    one_time_keys: dict[str, dict[str, str]]
    timeout: int = 10_000


_QUERIES: Mapping[str, msgspec.json.Decoder[Any]] = {
    V1.name: msgspec.json.Decoder(Query),
    DRAFT2015.name: msgspec.json.Decoder(DraftQuery),
}
_UPLOAD = msgspec.json.Decoder(keys.Body)
_CLAIM = msgspec.json.Decoder(Claim)


def routes(home: Home) -> list[Route]:
    found = []
    for profile in (V1, DRAFT2015):
        door = _Keys(home, profile)
        upload = f"{profile.path}/keys/upload" + ("/{device_id}" if profile is DRAFT2015 else "")
        found += [
            Route(upload, door.upload, methods=["POST"]),
            Route(f"{profile.path}/keys/query", door.query, methods=["POST"]),
            Route(f"{profile.path}/keys/claim", door.claim, methods=["POST"]),
        ]
    return found


class _Keys:
    """The endpoints of one profile; a key of the other never comes out of them."""

    def __init__(self, home: Home, profile: Profile) -> None:
        self._home = home
        self._profile = profile
        self._watched: set[tuple[str, str]] = set()

    # -- upload -----------------------------------------------------------------------------------------------------

    async def upload(self, request: Request) -> Response:
        home, profile = self._home, self._profile
        who = await home.who(request)
        if request.path_params.get("device_id", who.device) != who.device:
            raise Refused(400, "M_INVALID_PARAM", "The access token is another device's.")
        home.limit("uploads", who.user)
        wanted = keys.read_upload(await body(request, _UPLOAD), who, profile)
        if any(wanted):
            now = home.now()
            done = await home.db.write(lambda conn: keys.upload(conn, who, wanted, profile, now))
            home.tell(done.change)
            counts = done.counts
        else:
            counts = home.db.read(lambda conn: keys.counts(conn, who, profile))
        return answer({"one_time_key_counts": counts})

    # -- query ------------------------------------------------------------------------------------------------------

    async def query(self, request: Request) -> Response:
        home = self._home
        who = await home.who(request)
        wanted = await body(request, _QUERIES[self._profile.name])
        asked: dict[str, frozenset[str]] = {user: frozenset(each) for user, each in wanted.device_keys.items()}
        home.limit("queries", who.user, max(1, len(asked)))
        local, remote = self._by_server(asked)
        await self._watch(who, [*local, *(user for users in remote.values() for user in users)])
        found = {user: each for user in local if (each := self._local(user)) is not None}
        failures = await self._ask(
            remote, lambda server, users: self._query_elsewhere(server, users, found, _seconds(wanted.timeout))
        )
        said = {user: msgspec.Raw(each.statement) for user, each in found.items() if each.statement}
        return answer(
            {
                "device_keys": {user: _chosen(each.devices, asked[user]) for user, each in found.items()},
                "failures": failures,
                statements.MEMBER: said,
            }
        )

    def _local(self, user: str) -> Found | None:
        shown = self._home.maps.for_client(user, self._profile)
        return Found(shown.devices, shown.statement) if shown is not None else None

    async def _query_elsewhere(
        self, server: str, users: Mapping[str, Any], found: dict[str, Found], seconds: float
    ) -> None:
        if self._home.federation is not None:
            answer = await elsewhere.query(self._home, self._home.federation, self._profile, server, users, seconds)
            found.update(answer.found)
            if answer.failed is not None:
                raise answer.failed

    async def _watch(self, who: Who, users: Iterable[str]) -> None:
        """Before the keys are read: a change that comes between is told then."""
        new = [user for user in users if (user, who.user) not in self._watched]
        if not new:
            return
        here = self._home.db.read(
            lambda conn: [
                user
                for user in lists.unwatched(conn, who.user, new)
                if not self._home.is_local(user) or lists.sequence_of(conn, user) is not None
            ]
        )
        if here:
            await self._home.db.write(lambda conn: lists.watch(conn, who.user, here))
        self._remember(who, here)

    def _remember(self, who: Who, watched: Iterable[str]) -> None:
        """That this is in the database: it is not looked up again."""
        if len(self._watched) > MAX_WATCHED:
            self._watched.clear()
        self._watched.update((user, who.user) for user in watched)

    # -- claim ------------------------------------------------------------------------------------------------------

    async def claim(self, request: Request) -> Response:
        home = self._home
        who = await home.who(request)
        wanted = await body(request, _CLAIM)
        count = sum(map(len, wanted.one_time_keys.values()))
        if count > MAX_CLAIMS:
            raise Refused(400, "M_TOO_LARGE", f"A claim has at most {MAX_CLAIMS} devices.")
        home.limit("claims", who.user, max(1, count))
        local, remote = self._by_server(wanted.one_time_keys)
        found: dict[str, Any] = {}
        if local:
            found.update(await home.db.write(lambda conn: self._take(conn, who, local)))
            self._remember(who, found)
        failures: Failures = {}
        if remote:
            await self._watch(who, [user for users in remote.values() for user in users])
            failures = await self._ask(
                remote, lambda server, devices: self._claim_elsewhere(server, devices, found, _seconds(wanted.timeout))
            )
        return answer({"one_time_keys": found, "failures": failures})

    def _take(self, conn: Connection, who: Who, wanted: Mapping[str, Mapping[str, str]]) -> keys.Claimed:
        """Claim, and watch whoever had a key: in one commit, because here that costs less than to look first."""
        found = keys.claim(conn, wanted, (self._profile.one_time,))
        new = [user for user in found if (user, who.user) not in self._watched]
        if new:
            lists.watch(conn, who.user, new)
        return found

    async def _claim_elsewhere(
        self, server: str, wanted: Mapping[str, Mapping[str, str]], found: dict[str, Any], seconds: float
    ) -> None:
        of_profile = {
            user: {device: each for device, each in devices.items() if each == self._profile.one_time}
            for user, devices in wanted.items()
        }
        of_profile = {user: devices for user, devices in of_profile.items() if devices}
        if of_profile and self._home.federation is not None:
            found.update(await self._home.federation.claim(server, of_profile, seconds))

    # -- both -------------------------------------------------------------------------------------------------------

    def _by_server(self, wanted: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """As `Home.by_server`. Raises `Refused` for too many users."""
        if len(wanted) > MAX_USERS:
            raise Refused(400, "M_TOO_LARGE", f"A request has at most {MAX_USERS} users.")
        return self._home.by_server(wanted)

    async def _ask(
        self, remote: Mapping[str, Mapping[str, Any]], ask: Callable[[str, Any], Awaitable[None]]
    ) -> Failures:
        """Ask all servers side by side; those that failed, as `failures` says it."""
        failures: Failures = {}

        async def one(server: str, wanted: Mapping[str, Any]) -> None:
            try:
                if self._home.federation is None:
                    raise Failed(0, "M_FORBIDDEN", "This home does not speak to others.")
                await ask(server, wanted)
            except Failed as error:
                failures[server] = {"status": 503, "errcode": error.errcode or "M_UNKNOWN", "message": error.message}

        await asyncio.gather(*(one(server, wanted) for server, wanted in remote.items()))
        return failures


def _chosen(devices: Mapping[str, bytes], wanted: frozenset[str]) -> dict[str, msgspec.Raw]:
    """The devices that were asked for; nothing named means all."""
    return {device: msgspec.Raw(json) for device, json in devices.items() if not wanted or device in wanted}


def _seconds(timeout: int) -> float:
    return max(0, min(timeout, int(MAX_TIMEOUT * 1000))) / 1000  # bounded first: no float holds what JSON may
