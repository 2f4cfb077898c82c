"""Device lists that another home tells us the changes of: what follows is applied, and whatever does not fit makes the
list one to be asked for (server-server API, "Device Management")."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.homes_apart import homes_apart
from tillie.directory import statements
from tillie.directory.matrix import MAX_DEVICE_BYTES
from tillie.errors import Malformed
from tillie.home.database import Database
from tillie.home.federation import followed
from tillie.home.federation.followed import (
    BELIEVED_MS,
    FORGOTTEN_MS,
    MAX_KEPT_BYTES,
    MAX_PREVIOUS,
    TOLD_MS,
    Fresh,
    Update,
)
from tillie.wire import canonical

A, B = "a.test", "b.test"
BOB = f"@bob:{B}"
KEYS = {"user_id": BOB, "device_id": "X", "keys": {"k": "v"}}
NOW = 2 * FORGOTTEN_MS
QUERY = "/_matrix/federation/v1/user/keys/query"


def _on_database(tmp_path: Path, work: Any) -> Any:
    async def run() -> Any:
        db = Database(tmp_path / "home.db")
        try:
            return await db.write(work)
        finally:
            await db.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("update", "devices"),
    [
        (Update(BOB, "X", 11, (10,), KEYS), {"OLD", "X"}),
        (Update(BOB, "OLD", 11, (10,), None), set()),
        (Update(BOB, "UNKNOWN", 11, (10,), None), {"OLD"}),
        (Update(BOB, "X", 12, (11,), KEYS), None),  # one was lost
        (Update(BOB, "X", 11, (), KEYS), None),
        (Update(BOB, "X", 11, (10, 9), KEYS), None),
        (Update(BOB, "X", 10, (10,), KEYS), None),  # a loop
        (Update(BOB, "X", 9, (10,), KEYS), None),
        (Update(BOB, "X", 5, (4,), KEYS), None),  # its server counts from an older database
        (Update(BOB, "X", 2**53 - 1, (2**53 - 2,), KEYS), None),
        (Update(BOB, "X", 11, (10,), {**KEYS, "valid_until_ts": 5}), None),  # of the draft: its server did not sign it
    ],
)
def test_an_update_is_applied_if_it_follows_on_what_is_kept(
    tmp_path: Path, update: Update, devices: set[str] | None
) -> None:
    def work(conn: Any) -> None:
        followed.store(conn, Fresh(BOB, {"OLD": {"keys": {}}}, 10, NOW + TOLD_MS), NOW, is_stale=False)
        followed.apply(conn, update)
        found = followed.cached(conn, BOB, NOW)
        assert (set(found.devices) if found else None) == devices
        if devices is None:
            followed.apply(conn, Update(BOB, "X", 11, (10,), KEYS))
            assert followed.cached(conn, BOB, NOW) is None, "until it is asked for again"

    _on_database(tmp_path, work)


def test_a_list_is_kept_up_to_a_size_then_asked_for_each_time(tmp_path: Path) -> None:
    def devices(size: int) -> dict[str, Any]:
        found = {"OLD": {"keys": "x" * 60_000}, "X": KEYS, "MORE": {"keys": ""}}
        found["MORE"]["keys"] = "x" * (size - len(msgspec.json.encode(found)))
        return found

    def work(conn: Any) -> None:
        for size, is_kept in ((MAX_KEPT_BYTES, True), (MAX_KEPT_BYTES + 1, False)):
            followed.store(conn, Fresh(BOB, devices(size), 10, NOW + TOLD_MS), NOW, is_stale=False)
            assert (followed.cached(conn, BOB, NOW) is not None) == is_kept
        assert conn.execute("SELECT json FROM remote_lists").fetchone() == (b"{}",)
        for more, is_kept in (("", True), ("x", False)):
            followed.store(conn, Fresh(BOB, devices(MAX_KEPT_BYTES), 10, NOW + TOLD_MS), NOW, is_stale=False)
            followed.apply(conn, Update(BOB, "OLD", 11, (10,), {"keys": "x" * 60_000 + more}))
            assert (followed.cached(conn, BOB, NOW) is not None) == is_kept

    _on_database(tmp_path, work)


def test_a_list_is_believed_for_a_time_kept_for_another_and_then_forgotten(tmp_path: Path) -> None:
    def work(conn: Any) -> None:
        followed.store(conn, Fresh(BOB, {}, 10, NOW + TOLD_MS), NOW, is_stale=False)
        assert followed.cached(conn, BOB, NOW + BELIEVED_MS - 1) is not None
        assert followed.cached(conn, BOB, NOW + BELIEVED_MS) is None
        assert followed.cached(conn, BOB, NOW - 1) is None, "our clock went back"
        followed.store(conn, Fresh(BOB, {}, 10, NOW + 5), NOW, is_stale=False)
        assert followed.cached(conn, BOB, NOW + 4) is not None
        assert followed.cached(conn, BOB, NOW + 5) is None, "its server tells us no more"
        for now, count in ((NOW + FORGOTTEN_MS, 1), (NOW + FORGOTTEN_MS + 1, 0)):
            followed.forget_old(conn, now)
            assert conn.execute("SELECT COUNT(*) FROM remote_lists").fetchone() == (count,)

    _on_database(tmp_path, work)


def _sized(size: int) -> dict[str, Any]:
    return {**KEYS, "more": "x" * (size - len(canonical.encode({**KEYS, "more": ""})))}


def _deep(levels: int) -> dict[str, Any]:
    return {**KEYS, "more": _deep(levels - 1)} if levels > 1 else dict(KEYS, keys=0)


def test_devices_are_passed_on_up_to_a_size_and_as_deep_as_a_statement_can_be_on() -> None:
    for good, bad in [
        (_sized(MAX_DEVICE_BYTES), _sized(MAX_DEVICE_BYTES + 1)),
        (_deep(canonical.MAX_DEPTH - 1), _deep(canonical.MAX_DEPTH)),
    ]:
        assert followed.sound(good, BOB, "X") == good
        assert statements.map_hash({"X": followed.sound(good, BOB, "X")})
        with pytest.raises(Malformed):
            followed.sound(bad, BOB, "X")


MOST = canonical.MAX_INTEGER
GOOD = {"user_id": BOB, "device_id": "X", "stream_id": MOST, "prev_id": [MOST, 0], "keys": KEYS}


@pytest.mark.parametrize(
    "change",
    [
        {"stream_id": MOST + 1},
        {"stream_id": -1},
        {"stream_id": True},
        {"prev_id": [MOST + 1]},
        {"prev_id": [0] * (MAX_PREVIOUS + 1)},
        {"keys": {**KEYS, "device_id": "Y"}},
        {"keys": {**KEYS, "user_id": "@eve:b.test"}},
        {"keys": {"x": 1}},
        {"device_id": "a\nb", "keys": {**KEYS, "device_id": "a\nb"}},
    ],
)
def test_updates_are_read_strictly(change: dict[str, Any]) -> None:
    assert followed.read_update(GOOD, B) == Update(BOB, "X", MOST, (MOST, 0), KEYS)
    assert followed.read_update({**GOOD, "deleted": True, "prev_id": [0] * MAX_PREVIOUS}, B).keys is None
    with pytest.raises(Malformed):
        followed.read_update({**GOOD, **change}, B)


@pytest.mark.parametrize(
    ("promise", "found"),
    [
        ({BOB: {"sequence": 3, "until_ts": NOW + 1}}, (3, NOW + 1)),
        ({BOB: {"sequence": 3, "until_ts": NOW + TOLD_MS + 1}}, (3, NOW + TOLD_MS)),
        ({BOB: {"sequence": "3", "until_ts": NOW}}, (0, 0)),
        ({BOB: {"sequence": -1, "until_ts": NOW}}, (0, 0)),
        ({BOB: {"sequence": 2**53, "until_ts": NOW}}, (0, 0)),
        ({BOB: {"sequence": 3, "until_ts": -1}}, (0, 0)),
        ({BOB: {"sequence": 3}}, (0, 0)),
        ({BOB: []}, (0, 0)),
        ([], (0, 0)),
        (None, (0, 0)),
    ],
)
def test_promises_are_read_strictly(promise: object, found: tuple[int, int]) -> None:
    assert followed.read_follows(promise, BOB, NOW) == found


def test_an_update_that_overtakes_an_answer_is_not_lost(tmp_path: Path) -> None:
    """The answer is made, a device comes, its update arrives, and only then the answer."""

    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann, bob = await wire.homes[A].device("ann", "A"), await wire.homes[B].device("bob", "B")
            await bob.upload()
            federation = wire.homes[A].home.federation
            assert federation is not None
            carry = federation.transport._answer

            async def slowly(server: str, method: str, uri: str, *rest: Any) -> bytes:
                answer = await carry(server, method, uri, *rest)
                if uri == QUERY and len([each for each in wire.requests if each[3] == QUERY]) == 1:
                    await (await wire.homes[B].device("bob", "LATE")).upload()
                    await wire.quiet()
                return answer

            federation.transport._answer = slowly  # type: ignore[method-assign]
            assert set((await ann.query(BOB))["device_keys"][BOB]) == {"B", "LATE"}
            assert set((await ann.query(BOB))["device_keys"][BOB]) == {"B", "LATE"}
            assert len([each for each in wire.requests if each[3] == QUERY]) == 2

    asyncio.run(run())


def test_a_home_whose_database_went_back_in_time_is_believed_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann, bob = await wire.homes[A].device("ann", "A"), await wire.homes[B].device("bob", "B")
            await bob.upload()
            assert set((await ann.query(BOB))["device_keys"][BOB]) == {"B"}

            def back(conn: Any) -> None:
                conn.execute("UPDATE users SET list_sequence = 1")

            await wire.homes[B].home.db.write(back)
            wire.homes[B].now = 1.0
            await (await wire.homes[B].device("bob", "NEW")).upload()
            wire.homes[B].now = wire.now
            await wire.quiet()
            assert set((await ann.query(BOB))["device_keys"][BOB]) == {"B", "NEW"}

    asyncio.run(run())
