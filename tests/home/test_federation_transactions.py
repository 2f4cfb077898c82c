"""Transactions from other homes: what arrives is taken in once, and each EDU for itself (server-server API,
"Transactions")."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest

from support.edus import BOB, SEND, A, B, message, received
from support.home_inside import NOW
from support.homes_apart import Wire, homes_apart, knock
from tillie.errors import StoreUnwritable
from tillie.home import lists, messages
from tillie.home.database import Database
from tillie.home.federation import federation, incoming, routes_federation
from tillie.home.federation.followed import MAX_PREVIOUS
from tillie.home.federation.incoming import (
    MAX_EDUS,
    MAX_MESSAGE_ID,
    MAX_MESSAGES,
    MAX_PDUS,
    MAX_TRANSACTION_ID,
)
from tillie.home.federation.x_matrix import header
from tillie.home.log import Log
from tillie.home.messages import MAX_CONTENT_BYTES, MAX_TYPE_BYTES

QUERY = "/_matrix/federation/v1/user/keys/query"


def _update(**more: Any) -> dict[str, Any]:
    content = {"user_id": f"@ann:{A}", "device_id": "X", "stream_id": 5, "prev_id": []}
    return {"edu_type": "m.device_list_update", "content": {**content, **more}}


def _body(*edus: Any, **more: Any) -> dict[str, Any]:
    return {"origin": A, "origin_server_ts": int(NOW * 1000), "pdus": [], "edus": list(edus), **more}


async def _put(wire: Wire, id: str, *edus: Any, **more: Any) -> tuple[int, Any]:
    return await wire.ask(A, B, "PUT", SEND + id, _body(*edus, **more))


def test_a_transaction_and_a_message_are_taken_in_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            bob = await wire.homes[B].device("bob", "B")
            assert await _put(wire, "1", message("m1")) == (200, {"pdus": {}})
            assert await _put(wire, "1", message("m2")) == (200, {"pdus": {}})
            assert await _put(wire, "2", message("m1"), message("m3")) == (200, {"pdus": {}})
            assert await received(bob) == ["m1", "m3"]

    asyncio.run(run())


BAD_EDUS = [
    None,
    7,
    {},
    {"edu_type": "m.direct_to_device"},
    {"edu_type": "m.direct_to_device", "content": []},
    {"edu_type": 7, "content": {}},
    {"edu_type": "m.presence", "content": {"push": []}},
    message(sender="@eve:elsewhere.test"),
    message(sender=f"@bob:{B}"),
    message(sender="ann"),
    message(sender=None),
    message(type=None),
    message(type="t" * 300),
    message(message_id=None),
    message(message_id=""),
    message(message_id="m" * (MAX_MESSAGE_ID + 1)),
    message(messages=[]),
    message(messages={BOB: []}),
    message(messages={BOB: {"B": "text"}}),
    message(messages={BOB: {"B": {"fraction": 0.5}}}),
    message(messages={BOB: {"B": {"n": "x" * 66_000}}}),
    message(messages={f"@ann:{A}": {"B": {}}, "": {"B": {}}}),
    message(messages={BOB: {str(number): {} for number in range(MAX_MESSAGES + 1)}}),
    message(messages={f"@u{number}:{B}": {} for number in range(MAX_MESSAGES + 1)}),
    _update(user_id="@eve:elsewhere.test"),
    _update(user_id=7),
    _update(device_id=None),
    _update(device_id="*"),
    _update(stream_id="5"),
    _update(stream_id=True),
    _update(stream_id=-1),
    _update(stream_id=2**53),
    _update(stream_id=10**30),
    _update(prev_id=[2**53]),
    _update(prev_id=5),
    _update(prev_id=["4"]),
    _update(prev_id=[1] * (MAX_PREVIOUS + 1)),
    _update(deleted="yes"),
    _update(keys=[]),
    _update(keys={"large": "x" * 70_000}),
    _update(keys={"fraction": 0.5}),
    _update(keys={"user_id": f"@ann:{A}", "device_id": "Y"}),
    _update(keys={"user_id": f"@eve:{A}", "device_id": "X"}),
]


def test_a_bad_edu_costs_no_other(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            bob = await wire.homes[B].device("bob", "B")
            for number, bad in enumerate(BAD_EDUS):
                good = f"good{number}"
                assert (await _put(wire, str(number), bad, message(good)))[0] == 200, bad
            assert await received(bob) == [f"good{number}" for number in range(len(BAD_EDUS))]

    asyncio.run(run())


def test_an_edu_may_be_as_large_as_its_limits(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            bob = await wire.homes[B].device("bob", "B")
            full = {"n": "x" * (MAX_CONTENT_BYTES - len('{"n":""}'))}
            good = [
                message("m" * MAX_MESSAGE_ID),
                message("2", type="t" * MAX_TYPE_BYTES),
                message("3", messages={BOB: {"B": full}}),
                message("4", messages={BOB: {"B": {"n": 4}, **{f"X{each}": {} for each in range(MAX_MESSAGES - 1)}}}),
            ]
            assert (await _put(wire, "t" * MAX_TRANSACTION_ID, *good))[0] == 200
            assert await received(bob) == ["m" * MAX_MESSAGE_ID, "2", full["n"], 4]
            assert (await _put(wire, "t" * (MAX_TRANSACTION_ID + 1), message("5")))[0] == 400
            bad = [
                message("6", type="t" * (MAX_TYPE_BYTES + 1)),
                message("7", messages={BOB: {"B": {"n": "xx" + full["n"]}}}),
            ]
            assert (await _put(wire, "2", *bad, message("8")))[0] == 200
            assert (await received(bob))[4:] == ["8"]

    asyncio.run(run())


@pytest.mark.parametrize(("limit", "path"), [("MAX_TRANSACTION_BYTES", SEND + "1"), ("MAX_BODY_BYTES", QUERY)])
def test_requests_of_other_homes_have_an_end(tmp_path: Path, limit: str, path: str) -> None:
    most = getattr(routes_federation, limit)
    body: dict[str, Any] = {"device_keys": {}, "edus": []}
    text = json.dumps(body).encode()

    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            method = "PUT" if path.startswith(SEND) else "POST"
            headers = {"Authorization": header(wire.homes[A].home.signer, B, method, path, body)}
            statuses = [
                (await knock(wire.homes[B], method, path, headers, text.ljust(size)))[0] for size in (most, most + 1)
            ]
            assert statuses == [200, 413]

    asyncio.run(run())


def test_what_is_wrong_is_logged_once_a_kind(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            stream = io.BytesIO()
            wire.homes[B].home.log = Log(stream)
            many = {f"@u{number}:elsewhere.test": {"B": {}} for number in range(MAX_MESSAGES)}
            assert (await _put(wire, "1", *[message(str(number), messages=many) for number in range(9)]))[0] == 200
            (line,) = map(json.loads, stream.getvalue().splitlines())
            assert (line["event"], line["server"], line["count"]) == ("edu_skipped", A, 9 * MAX_MESSAGES)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (_body(*[message()] * MAX_EDUS), 200),
        (_body(*[message()] * (MAX_EDUS + 1)), 400),
        (_body(pdus=[{}] * MAX_PDUS), 200),
        (_body(pdus=[{}] * (MAX_PDUS + 1)), 400),
        (_body(pdus=None), 400),
        (_body(edus="many"), 400),
        (_body(origin=B), 403),
        ([], 400),
        ({}, 200),
    ],
)
def test_what_is_no_transaction_is_refused(tmp_path: Path, body: Any, status: int) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            assert (await wire.ask(A, B, "PUT", SEND + "1", body))[0] == status

    asyncio.run(run())


def test_a_pdu_is_answered_with_an_error(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            status, answer = await _put(wire, "1", pdus=[{"event_id": "$1"}, {"type": "m.room.message"}])
            assert status == 200
            assert list(answer["pdus"]) == ["$1"]
            assert answer["pdus"]["$1"]["error"]

    asyncio.run(run())


def test_what_was_taken_in_is_remembered_for_a_week(tmp_path: Path) -> None:
    async def run() -> None:
        db = Database(tmp_path / "home.db")
        try:

            def step(conn: Any) -> list[bool]:
                first = incoming.remember(conn, A, "message", "m1", 0)
                incoming.forget_old(conn, incoming.REMEMBERED_MS)
                again = incoming.remember(conn, A, "message", "m1", 0)
                incoming.forget_old(conn, incoming.REMEMBERED_MS + 1)
                return [first, again, incoming.remember(conn, A, "message", "m1", 0)]

            assert await db.write(step) == [True, False, True]
        finally:
            await db.close()

    asyncio.run(run())


def test_what_is_old_is_forgotten_also_after_a_time_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(federation, "TIDY_SECONDS", 0.001)

    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            home = wire.homes[B].home
            assert (await _put(wire, "1", message("m1")))[0] == 200
            await home.db.write(lambda conn: lists.serve(conn, BOB, A, home.now() + 1))
            write, times = home.db.write, 0

            async def full(work: Any) -> Any:
                nonlocal times
                times += 1
                if times < 3:
                    raise StoreUnwritable("no room")
                return await write(work)

            home.db.write = full  # type: ignore[method-assign,assignment]
            wire.pass_time(incoming.REMEMBERED_MS / 1000 + 1)
            tables = ("incoming", "interested_servers")
            count = lambda conn: [conn.execute(f"SELECT COUNT(*) FROM {each}").fetchone()[0] for each in tables]  # noqa: E731
            await wire.until(lambda: home.db.read(count) == [0, 0])

    asyncio.run(run())


def test_after_a_fault_of_ours_nothing_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            bob = await wire.homes[B].device("bob", "B")
            deliver = messages.deliver

            def fail(*given: Any) -> frozenset[str]:
                deliver(*given)
                raise RuntimeError

            monkeypatch.setattr(messages, "deliver", fail)
            assert (await _put(wire, "1", message("m1")))[0] == 500
            monkeypatch.setattr(messages, "deliver", deliver)
            assert await received(bob) == []
            assert (await _put(wire, "1", message("m1")))[0] == 200
            assert await received(bob) == ["m1"]

    asyncio.run(run())
