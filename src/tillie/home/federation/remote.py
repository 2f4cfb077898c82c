"""What is asked of other homes for local users: device keys and one-time keys (server-server API, "End-to-End
Encryption"). An answer holds only what was asked for: a server speaks for its own users, and for nobody else's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tillie.directory import statements
from tillie.directory.matrix import MAX_DEVICES
from tillie.errors import Malformed
from tillie.home import honesty
from tillie.home.database import Connection
from tillie.home.federation import followed
from tillie.home.federation.absence import Absence
from tillie.home.federation.followed import FOLLOWS, Fresh
from tillie.home.federation.outgoing import Outgoing
from tillie.home.federation.transport import Failed, Transport
from tillie.wire import canonical, matrix
from tillie.wire.canonical import Object

if TYPE_CHECKING:
    from tillie.home.service import Home

QUERY = "/_matrix/federation/v1/user/keys/query"
CLAIM = "/_matrix/federation/v1/user/keys/claim"
MAX_KEY_BYTES = 4_096  # of a one-time key
ROUNDS = 3  # a list that changes while it is asked for is asked for again

Devices = dict[str, dict[str, Object]]  # {user: {device: device keys}}
Keys = dict[str, dict[str, Object]]  # {user: {device: {"algorithm:id": one-time key}}}


class Answer(NamedTuple):
    """All devices of users of one server, and what it says of them (`directory.statements`, no signature was looked
    at), of those users of whom that is known. `failed`: why it is not of all."""

    devices: Devices
    said: Object
    failed: Failed | None = None


class _Flight:
    """A query that is under way. `heard`: the newest update of a user's list that came meanwhile."""

    task: asyncio.Task[Answer]

    def __init__(self) -> None:
        self.heard: dict[str, int] = {}


class Remote:
    """Queries and claims."""

    def __init__(self, home: Home, transport: Transport, absence: Absence, outgoing: Outgoing) -> None:
        self._home = home
        self._transport = transport
        self._absence = absence
        self._outgoing = outgoing
        self._flights: dict[str, _Flight] = {}

    async def stop(self) -> None:
        """Give up what is under way."""
        tasks = {flight.task for flight in self._flights.values()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, server: str, uri: str, body: Object, seconds: float) -> Object:
        """At least for the usual time-out: that somebody waits no longer says nothing of the server."""
        with self._absence.asking(server):
            answer = await self._transport.signed(
                server, "POST", uri, body, seconds=max(seconds, self._home.config.federation.timeout)
            )
        self._outgoing.alive(server)
        return answer

    # -- query ------------------------------------------------------------------------------------------------------

    async def query(self, server: str, users: Collection[str], seconds: float) -> Answer:
        """All devices of users of one server: from what is kept, where that is to be believed (`followed`), else from
        one query for a user at a time, whoever asks."""
        devices, said = self._believed(users)
        missing = [user for user in users if user not in devices]
        if not missing:
            return Answer(devices, said)
        failed = None
        done, late = await asyncio.wait(self._join(server, missing, seconds), timeout=seconds)
        for task in done:
            answer = task.result()
            devices |= {user: answer.devices[user] for user in missing if user in answer.devices}
            said |= {user: answer.said[user] for user in missing if user in answer.said}
            failed = answer.failed or failed
        if late:
            failed = _late()
        return Answer(devices, said, None if all(user in devices for user in missing) else failed)

    def _join(self, server: str, users: Collection[str], seconds: float) -> set[asyncio.Task[Answer]]:
        """Queries for all these users: those that are under way, and one for the others."""
        others = [user for user in users if user not in self._flights]
        if others:
            flight = _Flight()
            flight.task = asyncio.create_task(self._fetch(server, others, flight, seconds))
            flight.task.add_done_callback(lambda _: self._landed(others))
            self._flights.update(dict.fromkeys(others, flight))
        return {self._flights[user].task for user in users}

    def _landed(self, users: Collection[str]) -> None:
        for user in users:
            del self._flights[user]

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

    async def _fetch(self, server: str, users: Sequence[str], flight: _Flight, seconds: float) -> Answer:
        """Ask, until nothing was heard meanwhile that the answer does not hold."""
        devices: Devices = {}
        said: Object = {}
        try:
            for _ in range(ROUNDS):
                flight.heard.clear()
                answer = await self._ask(server, QUERY, _asking(users), seconds)
                found = self._read(server, users, answer)
                told = answer.get(statements.MEMBER)
                for each in found:
                    devices[each.user] = dict(each.devices)
                    said.pop(each.user, None)
                    if isinstance(told, dict) and each.user in told:
                        said[each.user] = told[each.user]
                users = await self._keep(found, flight)
                if not users:
                    break
        except Failed as failed:
            for user in users:  # what was answered before is known to be old
                devices.pop(user, None)
                said.pop(user, None)
            return Answer(devices, said, failed)
        return Answer(devices, said)

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
        refused = Counter[str]()
        for device, keys in given.items():
            try:
                devices[device] = followed.sound(keys, user, device)
            except Malformed as error:
                refused[error.detail] += 1
        self._home.log.counted("remote_device_refused", refused, server=server)
        return devices

    async def _keep(self, found: list[Fresh], flight: _Flight) -> list[str]:
        """Write down the answers of a server that tells of changes. Those users of whom more was heard meanwhile."""
        told = [each for each in found if each.followed_until_ts]
        if not told:
            return []
        now = self._home.now()

        def step(conn: Connection) -> list[str]:
            changed = []
            for each in told:
                is_stale = flight.heard.get(each.user, each.sequence) > each.sequence
                followed.store(conn, each, now, is_stale=is_stale)
                if is_stale:
                    changed.append(each.user)
            return changed

        return await self._home.db.write(step)

    def heard(self, user: str, sequence: int) -> None:
        """An update of a user's list is being taken in, on the database's thread."""
        flight = self._flights.get(user)
        if flight is not None:
            flight.heard[user] = max(sequence, flight.heard.get(user, sequence))

    # -- claim ------------------------------------------------------------------------------------------------------

    async def claim(self, server: str, wanted: Mapping[str, Mapping[str, str]], seconds: float) -> Keys:
        """One-time keys of devices of one server: {user: {device: algorithm}}, at most one for each, not verified:
        whoever claims them does that. Asked once: what was given out is gone, whether or not the answer arrives.
        Raises `Failed`."""
        body: Object = {"one_time_keys": {user: dict(devices) for user, devices in wanted.items()}}
        try:
            async with asyncio.timeout(seconds):
                answer = await self._ask(server, CLAIM, body, seconds)
        except TimeoutError:
            raise _late() from None
        given = answer.get("one_time_keys")
        if not isinstance(given, dict):
            raise Failed(502, "M_BAD_JSON", "The server's answer has no one_time_keys.")
        found: Keys = {}
        refused = Counter[str]()
        for user, devices in wanted.items():
            for device, algorithm in devices.items():
                try:
                    key = _one_time_key(given, user, device, algorithm)
                except Malformed as error:
                    refused[error.detail] += 1
                    continue
                if key:
                    found.setdefault(user, {})[device] = key
        self._home.log.counted("remote_key_refused", refused, server=server)
        return found


def _late() -> Failed:
    return Failed(0, "", "The server did not answer in time.")


def _asking(users: Sequence[str]) -> Object:
    return {"device_keys": {user: [] for user in users}}


def _one_time_key(given: Mapping[str, Any], user: str, device: str, algorithm: str) -> Object:
    """The key that was asked for; empty if none is left. Raises `Malformed`."""
    devices = given.get(user, {})
    found = devices.get(device, {}) if isinstance(devices, dict) else None
    if not isinstance(found, dict) or len(found) > 1:
        raise Malformed("a claim was not answered with one key")
    for name, key in found.items():
        given_algorithm, key_id = matrix.split_key_id(name)
        if given_algorithm != algorithm or not matrix.is_key_id(key_id):
            raise Malformed("a claim was answered with another algorithm, or with no valid id")
        if len(canonical.encode(key)) > MAX_KEY_BYTES:
            raise Malformed("a claim was answered with a key that is too large")
    return found
