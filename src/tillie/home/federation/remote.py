"""What is asked of other homes for local users: device keys and one-time keys (server-server API, "End-to-End
Encryption"). An answer holds only what was asked for: a server speaks for its own users, and for nobody else's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tillie.directory import statements
from tillie.directory.matrix import MAX_DEVICE_BYTES, MAX_DEVICES
from tillie.errors import Malformed
from tillie.home import honesty
from tillie.home.database import Connection
from tillie.home.federation import followed
from tillie.home.federation.followed import FOLLOWS, Fresh
from tillie.home.federation.transport import Failed, Transport
from tillie.wire import canonical
from tillie.wire.canonical import Object

if TYPE_CHECKING:
    from tillie.home.service import Home

QUERY = "/_matrix/federation/v1/user/keys/query"
CLAIM = "/_matrix/federation/v1/user/keys/claim"
MAX_KEY_BYTES = 4_096  # of a one-time key
ROUNDS = 3  # a list that changes while it is asked for is asked for again

Devices = dict[str, dict[str, Object]]  # {user: {device: device keys}}
Keys = dict[str, dict[str, Object]]  # {user: {device: {"algorithm:id": one-time key}}}


class _Flight:
    """A query that is under way for one user. `heard`: the newest update that came meanwhile."""

    def __init__(self) -> None:
        self.heard: int | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Remote:
    """Queries and claims."""

    def __init__(self, home: Home, transport: Transport) -> None:
        self._home = home
        self._transport = transport
        self._flights: dict[str, _Flight] = {}

    # -- query ------------------------------------------------------------------------------------------------------

    async def query(self, server: str, users: Collection[str], seconds: float) -> Object:
        """All devices of users of one server, as its answer to user/keys/query: `device_keys` and, where it signs any,
        `directory.statements.MEMBER`; no signature was looked at. From what is kept, where that is to be believed
        (`followed`). Raises `Failed`.
        """
        try:
            async with asyncio.timeout(seconds):
                devices, said = self._believed(users)
                missing = [user for user in users if user not in devices]
                if under_way := [self._flights[user].done for user in missing if user in self._flights]:
                    await asyncio.wait(under_way)  # one query for a user at a time
                    again = self._believed(missing)
                    devices, said = devices | again[0], said | again[1]
                    missing = [user for user in missing if user not in devices]
                if missing:
                    fresh = await self._fetch(server, missing, seconds)
                    devices, said = devices | fresh[0], said | fresh[1]
        except TimeoutError:
            raise Failed(0, "", "The server did not answer in time.") from None
        return {"device_keys": devices, statements.MEMBER: said}

    def _believed(self, users: Collection[str]) -> tuple[Devices, Object]:
        """What may be believed without asking, and what the users' home said of it."""
        now = self._home.now()

        def look(conn: Connection) -> tuple[Devices, Object]:
            devices: Devices = {}
            said: Object = {}
            for user in users:
                known = followed.cached(conn, user, now)
                if known is not None:
                    devices[user] = known.devices
                    if (statement := honesty.latest(conn, user, known.sequence)) is not None:
                        said[user] = statement
            return devices, said

        return self._home.db.read(look)

    async def _fetch(self, server: str, users: Sequence[str], seconds: float) -> tuple[Devices, Object]:
        """Ask, until nothing was heard meanwhile that the answer does not hold. Raises `Failed`."""
        flights = {user: _Flight() for user in users}
        self._flights.update(flights)
        devices: Devices = {}
        said: Object = {}
        try:
            for _ in range(ROUNDS):
                for flight in flights.values():
                    flight.heard = None
                answer = await self._transport.signed(server, "POST", QUERY, _asking(users), seconds=seconds)
                found = self._read(server, users, answer)
                told = answer.get(statements.MEMBER)
                for each in found:
                    devices[each.user] = dict(each.devices)
                    if isinstance(told, dict) and each.user in told:
                        said[each.user] = told[each.user]
                users = await self._keep(found, flights)
                if not users:
                    break
        finally:
            for user, flight in flights.items():
                if self._flights.get(user) is flight:
                    del self._flights[user]
                flight.done.set_result(None)
        return devices, said

    def _read(self, server: str, users: Sequence[str], answer: Object) -> list[Fresh]:
        """What a server says of its users. What is not as it should be costs its own device only. Raises `Failed`."""
        given = answer.get("device_keys")
        if not isinstance(given, dict):
            raise Failed(502, "M_BAD_JSON", "The server's answer has no device_keys.")
        now = self._home.now()
        found = []
        for user in users:
            devices = self._sound(server, user, given.get(user, {}))
            found.append(Fresh(user, devices, *followed.read_follows(answer.get(FOLLOWS), user, now)))
        return found

    def _sound(self, server: str, user: str, given: object) -> dict[str, Object]:
        """Those devices in an answer that are what they are called."""
        if not isinstance(given, dict) or len(given) > MAX_DEVICES:
            self._home.log.event("remote_devices_refused", server=server)
            return {}
        devices = {}
        for device, keys in given.items():
            try:
                devices[device] = _device(keys, user, device)
            except Malformed as error:
                self._home.log.event("remote_device_refused", server=server, detail=error.detail)
        return devices

    async def _keep(self, found: list[Fresh], flights: Mapping[str, _Flight]) -> list[str]:
        """Write down the answers of a server that tells of changes. Those users of whom more was heard meanwhile."""
        told = [each for each in found if each.followed_until_ts]
        if not told:
            return []
        now = self._home.now()

        def step(conn: Connection) -> list[str]:
            changed = []
            for each in told:
                heard = flights[each.user].heard
                is_stale = heard is not None and heard > each.sequence
                followed.store(conn, each, now, is_stale=is_stale)
                if is_stale:
                    changed.append(each.user)
            return changed

        return await self._home.db.write(step)

    def heard(self, user: str, sequence: int) -> None:
        """An update of a user's list is being taken in, on the database's thread."""
        flight = self._flights.get(user)
        if flight is not None:
            flight.heard = max(sequence, flight.heard or 0)

    # -- claim ------------------------------------------------------------------------------------------------------

    async def claim(self, server: str, wanted: Mapping[str, Mapping[str, str]], seconds: float) -> Keys:
        """One-time keys of devices of one server: {user: {device: algorithm}}, at most one for each, not verified:
        whoever claims them does that. Asked once: what was given out is gone, whether or not the answer arrives.
        Raises `Failed`."""
        body: Object = {"one_time_keys": {user: dict(devices) for user, devices in wanted.items()}}
        answer = await self._transport.signed(server, "POST", CLAIM, body, seconds=seconds)
        given = answer.get("one_time_keys")
        if not isinstance(given, dict):
            raise Failed(502, "M_BAD_JSON", "The server's answer has no one_time_keys.")
        found: Keys = {}
        for user, devices in wanted.items():
            for device, algorithm in devices.items():
                try:
                    key = _one_time_key(given, user, device, algorithm)
                except Malformed as error:
                    self._home.log.event("remote_key_refused", server=server, detail=error.detail)
                    continue
                if key:
                    found.setdefault(user, {})[device] = key
        return found


def _asking(users: Sequence[str]) -> Object:
    return {"device_keys": {user: [] for user in users}}


def _device(keys: object, user: str, device: str) -> Object:
    """One device of an answer. Raises `Malformed`."""
    if not isinstance(keys, dict) or keys.get("user_id") != user or keys.get("device_id") != device:
        raise Malformed("a device is not an object, or says that it is another one")
    if len(canonical.encode(keys)) > MAX_DEVICE_BYTES:
        raise Malformed("a device is too large")
    return keys


def _one_time_key(given: Mapping[str, Any], user: str, device: str, algorithm: str) -> Object:
    """The key that was asked for; empty if none is left. Raises `Malformed`."""
    devices = given.get(user, {})
    found = devices.get(device, {}) if isinstance(devices, dict) else None
    if not isinstance(found, dict) or len(found) > 1:
        raise Malformed("a claim was not answered with one key")
    for name, key in found.items():
        if name.partition(":")[0] != algorithm or len(canonical.encode(key)) > MAX_KEY_BYTES:
            raise Malformed("a claim was answered with another algorithm, or with a key that is too large")
    return found
