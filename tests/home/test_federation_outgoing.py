"""What waits for another home gets there, whatever happens on the way (server-server API, "Transactions")."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from support.edus import BOB, SEND, A, B, message, received
from support.homes_apart import Faults, Wire, homes_apart
from tillie.errors import StoreUnwritable
from tillie.home.database import Database
from tillie.home.federation import outgoing
from tillie.home.federation.outgoing import (
    AFTER_FAULT_SECONDS,
    MAX_BYTES,
    MAX_EDUS,
    MAX_RETRYING,
    MAX_SENDING,
    MAX_STRANGERS,
    SPLIT_AFTER,
)


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
            outgoing.enqueue(conn, B, message(name), home.now())

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
            assert await received(bob) == ["m1", "m2"]

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
            assert await received(bob) == names

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
            assert await received(bob) == ["m1", "m2"]
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
            assert await received(bob) == ["m1"]

    asyncio.run(run())


def test_so_many_servers_are_known_to_have_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "MAX_ANSWERED", 2)

    async def run() -> None:
        async with homes_apart(tmp_path, A) as wire:
            queue = wire.homes[A].home.federation.outgoing  # type: ignore[union-attr]
            for each in ("1.test", "2.test", "1.test", "3.test"):
                queue.alive(each)
            assert [queue._place(each, 0) is queue._places for each in ("1.test", "2.test", "3.test")] == [
                True,
                False,
                True,
            ]

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
            outgoing.enqueue(conn, B, message(str(number)), 1)
        first = outgoing.take(conn, B, 1, 0)
        assert first is not None
        assert len(first.edus) == MAX_EDUS
        outgoing.enqueue(conn, B, message("later"), 2)
        assert outgoing.take(conn, B, 9, 0) == first
        assert first.body(A) == outgoing.take(conn, B, 9, 0).body(A)  # type: ignore[union-attr]
        outgoing.done(conn, B, first.id)
        second = outgoing.take(conn, B, 9, 0)
        assert second is not None
        assert len(second.edus) == 2
        outgoing.done(conn, B, second.id)
        assert outgoing.take(conn, B, 9, 0) is None
        large = message("large", messages={BOB: {"B": {"n": "x" * (MAX_BYTES // 2)}}})
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
            outgoing.enqueue(conn, B, message(str(moment)), moment)
        under_way = outgoing.take(conn, B, 30, 0)
        for moment in (*[15] * MAX_EDUS, 25, 26):
            outgoing.enqueue(conn, B, message(str(moment)), moment)
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
            outgoing.enqueue(conn, B, message(), 1)
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


@pytest.mark.parametrize(("failures", "most"), [(0, MAX_STRANGERS), (1, MAX_RETRYING)])
def test_servers_that_hang_take_no_place_of_others(tmp_path: Path, failures: int, most: int) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            bob, home = await wire.homes[B].device("bob", "B"), wire.homes[A].home
            await _queue(wire, "m0")
            await wire.quiet()
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
            await home.db.write(lambda conn: [outgoing.enqueue(conn, each, message(), home.now()) for each in gone])
            for each in gone:
                home.federation.outgoing._begin(each, failures)
            await wire.until(lambda: len(hanging) == most)
            await _queue(wire, "m1")
            await wire.quiet()
            assert await received(bob) == ["m0", "m1"]
            assert len(hanging) == most
            for task in home.federation.outgoing._sending.values():
                task.cancel()

    asyncio.run(run())


def test_so_many_wait_for_one_server_then_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "MAX_WAITING", 3)

    def work(conn: Any) -> None:
        for number in range(5):
            outgoing.enqueue(conn, B, message(str(number)), 1)
        rows = conn.execute("SELECT position FROM outgoing ORDER BY position").fetchall()
        assert [position for (position,) in rows] == [3, 4, 5]

    asyncio.run(_steps(tmp_path, work))
