"""Device lists of users of other homes, as they are passed on: what their home signed is verified before this one signs
it, too, and what it said of them is remembered."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

from tillie.directory import statements
from tillie.directory.matrix import MAX_DEVICE_BYTES, Profile
from tillie.directory.signed import verify_by_any
from tillie.directory.statements import Statement
from tillie.errors import BadSignature, Malformed
from tillie.home import honesty
from tillie.home.database import Connection
from tillie.home.federation import followed
from tillie.home.federation.transport import Failed
from tillie.home.service import Home
from tillie.model import Address
from tillie.wire import canonical
from tillie.wire.canonical import Object

if TYPE_CHECKING:
    from tillie.home.federation.federation import Federation


class Found(NamedTuple):
    """A user's devices as JSON, and what the homes say of them; empty: nothing."""

    devices: Mapping[str, bytes]
    statement: bytes


class Answer(NamedTuple):
    """What is found of users of one server. `failed`: why some of them are missing."""

    found: dict[str, Found]
    failed: Failed | None


async def query(
    home: Home, federation: Federation, profile: Profile, server: str, users: Collection[str], seconds: float
) -> Answer:
    """All devices of users of another server, as it says them, or as they are kept."""
    answer = await federation.query(server, users, seconds)
    signing_keys = await federation.signing_keys(server, seconds) if answer.said or profile.servers_sign else {}
    found: dict[str, Found] = {}
    heard: dict[str, Statement | None] = {}
    for user, devices in answer.devices.items():
        statement = heard[user] = _statement(answer.said.get(user), Address(user), server, signing_keys)
        shown = {name: each for name, each in devices.items() if _is_of(profile, each)}
        is_whole = all(
            name in shown or not each.get("keys") for name, each in devices.items() if isinstance(each, dict)
        )
        if profile.servers_sign:
            shown = _signed(home, server, shown, signing_keys)
        is_stated = statement is not None and is_whole and _is_on(statement, devices)
        json = canonical.encode(home.signer.sign(statement.source)) if statement is not None and is_stated else b""
        found[user] = Found(_as_json(shown), json)
    if answer.said and not signing_keys:  # nobody knows yet what it said: ask again, and remember nothing of it
        await home.db.write(lambda conn: followed.take_back(conn, answer.said))
        heard = {user: each for user, each in heard.items() if user not in answer.said}
    await _remember(home, heard)
    return Answer(found, answer.failed)


def _is_of(profile: Profile, device: object) -> bool:
    """Whether a device's keys are of this profile: only the draft's say until when they are valid. A device without
    keys is shown in the draft alone."""
    if not isinstance(device, dict):
        return False
    if not device.get("keys"):
        return profile.dated
    return ("valid_until_ts" in device) == profile.dated


def _statement(value: object, user: Address, server: str, signing_keys: Mapping[str, bytes]) -> Statement | None:
    """What a home says of a user's devices, if it signed that. That it shows other ones takes nothing from it."""
    try:
        statement = statements.read(value, user)
        statements.verify(statement, server, signing_keys)
    except (Malformed, BadSignature):
        return None
    return statement


def _is_on(statement: Statement, devices: Object) -> bool:
    """Whether a statement is on just these devices."""
    try:
        return statement.hash == statements.map_hash(devices)
    except Malformed:  # nobody can have stated what has no canonical form
        return False


def _signed(home: Home, server: str, devices: Object, signing_keys: Mapping[str, bytes]) -> Object:
    """The draft: "The JSON must be signed by both the homeserver of the user querying and the homeserver of the
    device". Ours signs what the other signed, and nothing else is shown."""
    found = {}
    for name, each in devices.items():
        try:
            verify_by_any(each, server, signing_keys)
            found[name] = home.signer.sign(each)
        except (Malformed, BadSignature):
            continue
    return found


def _as_json(devices: Object) -> dict[str, bytes]:
    """Each device by itself: one that can't be written costs no other."""
    found = {}
    for name, each in devices.items():
        try:
            json = canonical.encode(each)
        except Malformed:
            continue
        if len(json) <= MAX_DEVICE_BYTES:
            found[name] = json
    return found


async def _remember(home: Home, heard: Mapping[str, Statement | None]) -> None:
    """Write down what is new in what was heard: mostly that is nothing."""
    now = home.now()
    new = home.db.read(lambda conn: {user: each for user, each in heard.items() if not _is_known(conn, user, each)})
    if new:
        await home.db.write(lambda conn: _write_down(conn, new, now))


def _is_known(conn: Connection, user: str, statement: Statement | None) -> bool:
    if statement is not None:
        return honesty.is_recorded(conn, statement)
    return conn.execute("SELECT 1 FROM remote_lists WHERE user_id = ?", (user,)).fetchone() is not None


def _write_down(conn: Connection, heard: Mapping[str, Statement | None], now: int) -> None:
    """A home that once signed is never again taken for one that does not."""
    for user, statement in heard.items():
        if statement is not None:
            honesty.record(conn, statement, now)
        conn.execute(
            "INSERT INTO remote_lists (user_id, sequence, json, fetched_ts, followed_until_ts, is_stale, is_stated)"
            " VALUES (?, 0, ?, ?, 0, 1, ?) ON CONFLICT (user_id) DO UPDATE SET is_stated ="
            " CASE WHEN excluded.is_stated = 1 THEN 1 ELSE remote_lists.is_stated END",
            (user, b"{}", now, int(statement is not None)),
        )
