"""Transactions between homes: what arrives is taken in once and each EDU for itself; what waits gets there, whatever
happens on the way (server-server API, "Transactions")."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from support.home_inside import NOW
from support.homes_apart import Faults, Wire, homes_apart
from tillie.errors import StoreUnwritable
from tillie.home import lists, messages
from tillie.home.database import Database
from tillie.home.federation import federation, incoming, outgoing
from tillie.home.federation.followed import MAX_PREVIOUS
from tillie.home.federation.incoming import MAX_EDUS, MAX_MESSAGE_ID, MAX_MESSAGES, MAX_PDUS
from tillie.home.federation.outgoing import AFTER_FAULT_SECONDS, MAX_BYTES, MAX_RETRYING, MAX_SENDING, SPLIT_AFTER
from tillie.home.log import Log

A, B = "a.test", "b.test"
SEND = "/_matrix/federation/v1/send/"
BOB = f"@bob:{B}"


def _message(id: str = "m1", **more: Any) -> dict[str, Any]:
    content = {"sender": f"@ann:{A}", "type": "m.test", "message_id": id, "messages": {BOB: {"B": {"n": id}}}}
    return {"edu_type": "m.direct_to_device", "content": {**content, **more}}


def _update(**more: Any) -> dict[str, Any]:
    content = {"user_id": f"@ann:{A}", "device_id": "X", "stream_id": 5, "prev_id": []}
    return {"edu_type": "m.device_list_update", "content": {**content, **more}}


def _body(*edus: Any, **more: Any) -> dict[str, Any]:
    return {"origin": A, "origin_server_ts": int(NOW * 1000), "pdus": [], "edus": list(edus), **more}


async def _put(wire: Wire, id: str, *edus: Any, **more: Any) -> tuple[int, Any]:
    return await wire.ask(A, B, "PUT", SEND + id, _body(*edus, **more))


async def _received(bob: Any) -> list[Any]:
    return [each["content"].get("n") for each in (await bob.sync()).get("to_device", {}).get("events", [])]


def test_a_transaction_and_a_message_are_taken_in_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            bob = await wire.homes[B].device("bob", "B")
            assert await _put(wire, "1", _message("m1")) == (200, {"pdus": {}})
            assert await _put(wire, "1", _message("m2")) == (200, {"pdus": {}})
            assert await _put(wire, "2", _message("m1"), _message("m3")) == (200, {"pdus": {}})
            assert await _received(bob) == ["m1", "m3"]

    asyncio.run(run())


BAD_EDUS = [
    None,
    7,
    {},
    {"edu_type": "m.direct_to_device"},
    {"edu_type": "m.direct_to_device", "content": []},
    {"edu_type": 7, "content": {}},
    {"edu_type": "m.presence", "content": {"push": []}},
    _message(sender="@eve:elsewhere.test"),
    _message(sender=f"@bob:{B}"),
    _message(sender="ann"),
    _message(sender=None),
    _message(type=None),
    _message(type="t" * 300),
    _message(message_id=None),
    _message(message_id=""),
    _message(message_id="m" * (MAX_MESSAGE_ID + 1)),
    _message(messages=[]),
    _message(messages={BOB: []}),
    _message(messages={BOB: {"B": "text"}}),
    _message(messages={BOB: {"B": {"fraction": 0.5}}}),
    _message(messages={BOB: {"B": {"n": "x" * 66_000}}}),
    _message(messages={f"@ann:{A}": {"B": {}}, "": {"B": {}}}),
    _message(messages={BOB: {str(number): {} for number in range(MAX_MESSAGES + 1)}}),
    _message(messages={f"@u{number}:{B}": {} for number in range(MAX_MESSAGES + 1)}),
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
                assert (await _put(wire, str(number), bad, _message(good)))[0] == 200, bad
            assert await _received(bob) == [f"good{number}" for number in range(len(BAD_EDUS))]

    asyncio.run(run())


def test_what_is_wrong_is_logged_once_a_kind(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            stream = io.BytesIO()
            wire.homes[B].home.log = Log(stream)
            many = {f"@u{number}:elsewhere.test": {"B": {}} for number in range(MAX_MESSAGES)}
            assert (await _put(wire, "1", *[_message(str(number), messages=many) for number in range(9)]))[0] == 200
            (line,) = map(json.loads, stream.getvalue().splitlines())
            assert (line["event"], line["server"], line["count"]) == ("edu_skipped", A, 9 * MAX_MESSAGES)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (_body(*[_message()] * MAX_EDUS), 200),
        (_body(*[_message()] * (MAX_EDUS + 1)), 400),
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
            assert (await _put(wire, "1", _message("m1")))[0] == 200
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
            assert (await _put(wire, "1", _message("m1")))[0] == 500
            monkeypatch.setattr(messages, "deliver", deliver)
            assert await _received(bob) == []
            assert (await _put(wire, "1", _message("m1")))[0] == 200
            assert await _received(bob) == ["m1"]

    asyncio.run(run())


# -- what waits -----------------------------------------------------------------------------------------------------


def _sent(wire: Wire) -> list[tuple[str, list[Any]]]:
    """(transaction id, what its messages say) of all that were tried."""
    return [
        (path.removeprefix(SEND), [edu["content"]["messages"][BOB]["B"]["n"] for edu in body["edus"]])
        for _, _, method, path, body in wire.requests
        if method == "PUT"
    ]


async def _queue(wire: Wire, *names: str) -> None:
    home = wire.homes[A].home

    def step(conn: Any) -> None:
        for name in names:
            outgoing.enqueue(conn, B, _message(name), home.now())

    await home.db.write(step)
    home.wake((), (B,))


def test_the_same_transaction_is_sent_until_it_arrives_also_by_a_home_that_starts_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            bob = await wire.homes[B].device("bob", "B")
            wire.faults = Faults(lost=0.5, answer_lost=0.5)
            await _queue(wire, "m1", "m2")
            await wire.until(lambda: len(_sent(wire)) >= 3)
            await wire.stop(A)
            wire.faults = Faults()
            await wire.start(A, tmp_path / A)
            await wire.quiet()
            assert len({id for id, _ in _sent(wire)}) == 1
            assert await _received(bob) == ["m1", "m2"]

    asyncio.run(run())


def test_everything_arrives_once_and_in_order_over_a_bad_wire(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B, seed=1) as wire:
            bob = await wire.homes[B].device("bob", "B")
            wire.faults = Faults(lost=0.2, answer_lost=0.2, late=0.2)
            names = [f"m{number}" for number in range(60)]
            for name in names:
                await _queue(wire, name)
                await asyncio.sleep(0)
            await wire.heal()
            assert await _received(bob) == names

    asyncio.run(run())


def test_an_edu_that_is_refused_for_good_is_dropped_and_the_others_arrive(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            carry = wire.homes[A].home.federation.transport._answer  # type: ignore[union-attr]
            tried = 0

            async def picky(server: str, method: str, uri: str, headers: Any, body: bytes, seconds: float) -> bytes:
                nonlocal tried
                if b"poison" in body:
                    tried += 1
                    raise outgoing.Failed(500)
                return await carry(server, method, uri, headers, body, seconds)

            wire.homes[A].home.federation.transport._answer = picky  # type: ignore[union-attr,method-assign]
            bob = await wire.homes[B].device("bob", "B")
            await _queue(wire, "m1", "poison", "m2")
            await wire.quiet()
            assert await _received(bob) == ["m1", "m2"]
            assert tried == 2 * SPLIT_AFTER
            await _queue(wire, "m3", "m4")
            await wire.quiet()
            assert _sent(wire)[-1][1] == ["m3", "m4"], "side by side again"

    asyncio.run(run())


def test_a_server_that_fails_is_waited_for_longer_each_time_and_tried_soon_when_heard_of(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A) as wire:
            home = wire.homes[A].home
            await _queue(wire, "m1")
            assert home.federation is not None
            away = home.federation.outgoing._away
            await wire.until(lambda: B in away and away[B].failures >= 3)
            row = home.db.read(lambda conn: conn.execute("SELECT server, failures FROM servers").fetchone())
            assert row[0] == B
            assert row[1] >= 3
            home.federation.outgoing.alive(B)
            assert away[B].failures == 1
            (tmp_path / B).mkdir()
            await wire.start(B, tmp_path / B)
            await wire.quiet()
            row = home.db.read(lambda conn: conn.execute("SELECT failures, retry_ts FROM servers").fetchone())
            assert row == (0, 0)

    asyncio.run(run())


def test_after_a_fault_of_ours_a_server_is_tried_soon_when_heard_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise StoreUnwritable("no room")

    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            bob, home = await wire.homes[B].device("bob", "B"), wire.homes[A].home
            assert home.federation is not None
            queue = home.federation.outgoing
            queue._config = replace(queue._config, longest_retry=3_600.0)
            with monkeypatch.context() as now:
                now.setattr(outgoing, "take", full)
                await _queue(wire, "m1")
                await wire.until(lambda: B in queue._away)
            assert queue._away[B].timer.when() - asyncio.get_running_loop().time() <= AFTER_FAULT_SECONDS
            queue.alive(B)
            await wire.quiet()
            assert await _received(bob) == ["m1"]

    asyncio.run(run())


async def _steps(tmp_path: Path, work: Any) -> Any:
    db = Database(tmp_path / "home.db")
    try:
        return await db.write(work)
    finally:
        await db.close()


def test_a_transaction_holds_so_many_edus_and_bytes_and_stays_as_it_is(tmp_path: Path) -> None:
    def work(conn: Any) -> None:
        for number in range(MAX_EDUS + 1):
            outgoing.enqueue(conn, B, _message(str(number)), 1)
        first = outgoing.take(conn, B, 1, 0)
        assert first is not None
        assert len(first.edus) == MAX_EDUS
        outgoing.enqueue(conn, B, _message("later"), 2)
        assert outgoing.take(conn, B, 9, 0) == first
        assert first.body(A) == outgoing.take(conn, B, 9, 0).body(A)  # type: ignore[union-attr]
        outgoing.done(conn, B, first.id)
        second = outgoing.take(conn, B, 9, 0)
        assert second is not None
        assert len(second.edus) == 2
        outgoing.done(conn, B, second.id)
        assert outgoing.take(conn, B, 9, 0) is None
        large = _message("large", messages={BOB: {"B": {"n": "x" * (MAX_BYTES // 2)}}})
        for _ in range(3):
            outgoing.enqueue(conn, B, large, 1)
        third = outgoing.take(conn, B, 9, 0)
        assert third is not None
        assert len(third.edus) == 1

    asyncio.run(_steps(tmp_path, work))


def test_what_waited_too_long_is_dropped_but_not_out_of_a_transaction(tmp_path: Path) -> None:
    def work(conn: Any) -> None:
        count = "SELECT COUNT(*) FROM outgoing"
        for moment in (10, 20):
            outgoing.enqueue(conn, B, _message(str(moment)), moment)
        under_way = outgoing.take(conn, B, 30, 0)
        for moment in (*[15] * MAX_EDUS, 25, 26):
            outgoing.enqueue(conn, B, _message(str(moment)), moment)
        assert outgoing.take(conn, B, 30, 20) == under_way
        assert conn.execute(count).fetchone() == (2 + MAX_EDUS + 2,)
        found = outgoing.take(conn, B, 30, 25)
        assert found is not None
        assert [msgspec.json.decode(each)["content"]["message_id"] for each in found.edus] == ["25", "26"]
        assert conn.execute(count).fetchone() == (2,)
        assert outgoing.take(conn, B, 30, 27) is None

    asyncio.run(_steps(tmp_path, work))


def test_no_step_for_a_transaction_reads_a_whole_queue(tmp_path: Path) -> None:
    def work(conn: Any) -> None:
        for _ in range(50 * MAX_EDUS):
            outgoing.enqueue(conn, B, _message(), 1)
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        conn.set_progress_handler(count, 100)  # instructions of SQLite's machine
        found = outgoing.take(conn, B, 2, 0)
        assert found is not None
        outgoing.release(conn, B, found.id)
        found = outgoing.take(conn, B, 2, 0)
        assert found is not None
        outgoing.done(conn, B, found.id)
        conn.set_progress_handler(None, 0)
        assert steps * 100 < 200 * MAX_EDUS, "of a queue of fifty times as many"

    asyncio.run(_steps(tmp_path, work))


@pytest.mark.parametrize("depth", range(24, 30))
def test_what_is_nested_as_deep_as_a_request_may_be_arrives_and_holds_nothing_up(tmp_path: Path, depth: int) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann, bob = await wire.homes[A].device("ann", "A"), await wire.homes[B].device("bob", "B")
            deep: dict[str, Any] = {"n": "deep"}
            for _ in range(depth - 1):
                deep = {"x": deep}
            assert (await ann.send("1", {BOB: {"B": deep}}))[0] == 200
            assert (await ann.send("2", {BOB: {"B": {"n": "flat"}}}))[0] == 200
            await wire.quiet()
            events = (await bob.sync())["to_device"]["events"]
            assert [each["content"] for each in events] == [deep, {"n": "flat"}]
            assert (await ann.send("3", {BOB: {"B": {"x": deep}}}))[0] == (200 if depth < 29 else 400)

    asyncio.run(run())


def test_servers_that_are_gone_take_no_place_of_others(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            bob, home = await wire.homes[B].device("bob", "B"), wire.homes[A].home
            assert home.federation is not None
            carry, hanging = home.federation.transport._answer, set[str]()

            async def hang(server: str, *given: Any) -> bytes:
                if server == B:
                    return await carry(server, *given)
                hanging.add(server)
                await asyncio.Event().wait()
                raise AssertionError

            home.federation.transport._answer = hang  # type: ignore[method-assign]
            gone = [f"gone{number}.test" for number in range(MAX_SENDING + 1)]
            await home.db.write(lambda conn: [outgoing.enqueue(conn, each, _message(), home.now()) for each in gone])
            for each in gone:
                home.federation.outgoing._begin(each, failures=1)
            await wire.until(lambda: len(hanging) == MAX_RETRYING)
            await _queue(wire, "m1")
            await wire.quiet()
            assert await _received(bob) == ["m1"]
            for task in home.federation.outgoing._sending.values():
                task.cancel()

    asyncio.run(run())


def test_so_many_wait_for_one_server_then_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "MAX_WAITING", 3)

    def work(conn: Any) -> None:
        for number in range(5):
            outgoing.enqueue(conn, B, _message(str(number)), 1)
        rows = conn.execute("SELECT position FROM outgoing ORDER BY position").fetchall()
        assert [position for (position,) in rows] == [3, 4, 5]

    asyncio.run(_steps(tmp_path, work))
