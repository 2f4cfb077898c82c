"""The devices of local users as they are answered: JSON, with the home's signatures, made once for each change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tillie.directory.matrix import PROFILES, Profile
from tillie.home import honesty, lists
from tillie.home.database import Connection, Database
from tillie.home.lists import DeviceList, Listed
from tillie.wire import canonical
from tillie.wire.canonical import Object

if TYPE_CHECKING:
    from tillie.home.service import Signer

MAX_CACHED_BYTES = 16 << 20
_OVERHEAD = 512  # of one entry, roughly


class Shown(NamedTuple):
    """A user's devices, and what the home says of them (`directory.statements`), as JSON. `statement` is empty where
    there is nothing to say: before the first change, or to the other profile."""

    sequence: int
    devices: Mapping[str, bytes]
    statement: bytes

    @property
    def size(self) -> int:
        return _OVERHEAD + len(self.statement) + sum(len(each) + _OVERHEAD for each in self.devices.values())


class Maps:
    """Device maps, kept in memory while they are new."""

    def __init__(self, db: Database, signer: Signer) -> None:
        self._db = db
        self._signer = signer
        self._cached: dict[tuple[str, str], Shown] = {}  # the one that was used longest ago comes first
        self._bytes = 0

    def for_client(self, user: str, profile: Profile) -> Shown | None:
        """What one of our own users sees of another; None if there is no such user.

        v1 leaves devices without keys out, and gives names; the draft has an object for each device, signed.
        """
        return self._shown(user, profile.name)

    def for_server(self, user: str) -> Shown | None:
        """What another home is told: in the one profile that the user has keys of, without names."""
        return self._shown(user, "")

    def _shown(self, user: str, profile: str) -> Shown | None:
        sequence = self._db.read(lambda conn: lists.sequence_of(conn, user))
        found = self._cached.pop((user, profile), None)
        if found is not None and found.sequence == sequence:
            self._cached[user, profile] = found
            return found
        if found is not None:
            self._bytes -= found.size
        if sequence is None:
            return None
        made = self._db.read(lambda conn: self._make(conn, user, profile))
        if made is not None:
            self._cached[user, profile] = made
            self._bytes += made.size
        while self._bytes > MAX_CACHED_BYTES:
            self._bytes -= self._cached.pop(next(iter(self._cached))).size
        return made

    def _make(self, conn: Connection, user: str, profile: str) -> Shown | None:
        listed = lists.of(conn, user)
        if listed is None:
            return None
        wanted = profile or listed.profile
        devices = {}
        for device, each in listed.devices.items():
            json = self._device(user, device, each, wanted, with_name=bool(profile))
            if json:
                devices[device] = json
        statement = honesty.own(conn, self._signer, user, listed.sequence) if _is_whole(listed, wanted) else None
        return Shown(listed.sequence, devices, canonical.encode(statement) if statement else b"")

    def _device(self, user: str, device: str, listed: Listed, profile: str, *, with_name: bool) -> bytes:
        """One device, b"" where this profile does not show it."""
        signs = bool(profile) and PROFILES[profile].servers_sign
        keys = listed.keys if listed.profile == profile else b""
        if signs:
            value = msgspec.json.decode(keys) if keys else without_keys(user, device)
            return msgspec.json.encode(self._signer.sign(value))
        if keys and with_name and listed.name is not None:
            name = msgspec.json.encode({"device_display_name": listed.name})
            return keys[:-1] + b',"unsigned":' + name + b"}"
        return keys


def without_keys(user: str, device: str) -> Object:
    """What stands for a device that has no keys, in the draft: it "must synthesise a JSON object without any device
    keys"."""
    return {"user_id": user, "device_id": device, "algorithms": [], "keys": {}}


def _is_whole(listed: DeviceList, profile: str) -> bool:
    """Whether a map in this profile shows all keys there are: only then the statement is on what is shown."""
    return all(each.profile == profile for each in listed.devices.values() if each.keys)
