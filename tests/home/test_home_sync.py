"""To-device messages and sync: once, in order, until the device shows that it has them; device lists' news."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from support.home_inside import CLIENT, home_inside
from tillie.home.messages import MAX_CONTENT_BYTES, MAX_EDU_BYTES, MAX_MESSAGES, MAX_PLACES, REMEMBERED, edus
from tillie.home.routes_messages import PRUNE_EVERY, Position


def test_messages_come_in_order_and_again_until_they_are_acknowledged(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann, bob = await inside.device("ann", "A"), await inside.device("bob", "B")
            count = MAX_MESSAGES + 5
            for number in range(count):
                assert await ann.send(f"t{number}", {bob.user: {"B": {"n": number}, "gone": {}}}) == (200, {})
            start = (await ann.sync())["next_batch"]
            first = await bob.sync()
            again = await bob.sync()
            assert first == again, "nothing shows that they came"
            assert [event["content"]["n"] for event in first["to_device"]["events"]] == list(range(MAX_MESSAGES))
            assert first["to_device"]["events"][0] == {"content": {"n": 0}, "sender": ann.user, "type": "m.test"}
            rest = await bob.sync(first["next_batch"], wait=30_000)
            assert [event["content"]["n"] for event in rest["to_device"]["events"]] == list(range(MAX_MESSAGES, count))
            assert rest == await bob.sync(first["next_batch"])
            assert "to_device" not in await bob.sync(rest["next_batch"])
            assert "to_device" not in await bob.sync(first["next_batch"]), "an old token brings nothing back"
            assert "to_device" not in await ann.sync(start)

    asyncio.run(run())


@pytest.mark.parametrize("named", [MAX_PLACES - 1, MAX_PLACES, MAX_PLACES + 1])
def test_each_device_gets_its_own_however_many_are_named(tmp_path: Path, named: int) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann, tablet = await inside.device("ann", "A"), await inside.device("ann", "T")
            bob, other = await inside.device("bob", "B"), await inside.device("bob", "O")
            gone: dict[str, object] = {f"gone{number}": {} for number in range(named - 2)}
            messages = {ann.user: {**gone, "A": {"n": 1}, "T": {"n": 2}}, bob.user: {"B": {"n": 3}, "*": {"n": 4}}}
            assert (await ann.send("1", messages))[0] == 200
            assert (await ann.send("2", {ann.user: {"A": {"n": 5}}}))[0] == 200
            found = []
            for device in (ann, tablet, bob, other):
                events = (await device.sync())["to_device"]["events"]
                found.append(sorted(event["content"]["n"] for event in events))
            assert found == [[1, 5], [2], [3, 4], [4]]

    asyncio.run(run())


def test_a_transaction_is_taken_once_also_after_a_restart(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann, bob = await inside.device("ann", "A"), await inside.device("bob", "B")
            await ann.send("t", {bob.user: {"*": {"n": 1}}})
        async with home_inside(tmp_path) as inside:
            ann.inside = bob.inside = inside
            assert await ann.send("t", {bob.user: {"B": {"n": 2}}}) == (200, {})
            assert await ann.send("t", {bob.user: {"B": {"n": 3}}}, "m.other") == (200, {})
            assert [each["content"]["n"] for each in (await bob.sync())["to_device"]["events"]] == [1, 3]

    asyncio.run(run())


def test_a_transaction_is_forgotten_after_a_day(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            known = "SELECT path FROM requests ORDER BY created_ts"
            for wait, left in ((0, "1"), (REMEMBERED, "12"), (PRUNE_EVERY - 1, "123"), (1, "234")):
                inside.now += wait / 1000
                await bob.send(left[-1], {bob.user: {"B": {}}})
                rows = inside.home.db.read(lambda conn: conn.execute(known).fetchall())
                assert [path[-1] for (path,) in rows] == list(left)

    asyncio.run(run())


def test_a_type_and_a_transaction_with_slashes_are_no_other_two(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            for number, path in enumerate(("a%2Fb/c", "a/b%2Fc", "a%252Fb/c", "%61%2Fb/c")):
                body = {"messages": {bob.user: {"B": {"n": number}}}}
                assert (await bob.call("PUT", f"{CLIENT}/sendToDevice/{path}", body))[0] == 200
            # The last is the first, written in another way.
            assert [each["content"]["n"] for each in (await bob.sync())["to_device"]["events"]] == [0, 1, 2]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({}, 400, "M_MISSING_PARAM"),
        ({"messages": []}, 400, "M_BAD_JSON"),
        ({"messages": {"@bob:home.test": []}}, 400, "M_BAD_JSON"),
        ({"messages": {"@bob:home.test": {"B": "text"}}}, 400, "M_BAD_JSON"),
        ({"messages": {"@bob:home.test": {"B": {"n": 1.5}}}}, 400, "M_NOT_JSON"),
        (b'{"messages": {"@bob:home.test": {"B": {"a": 1, "a": 2}}}}', 400, "M_NOT_JSON"),
        ({"messages": {"@bob:home.test": {"B": {}, "C": {"t": "x" * MAX_CONTENT_BYTES}}}}, 413, "M_TOO_LARGE"),
        ({"messages": {"nobody": {"B": {}}, "@x:": {"B": {}}, "@none:home.test": {"B": {}}}}, 200, None),
    ],
)
def test_what_is_no_message(tmp_path: Path, body: object, status: int, errcode: str | None) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            found, answer = await bob.call("PUT", f"{CLIENT}/sendToDevice/m.test/1", body)
            assert (found, answer.get("errcode")) == (status, errcode)
            assert "to_device" not in await bob.sync(), "nothing of it was sent"

    asyncio.run(run())


def test_content_may_have_just_so_many_bytes(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            room = MAX_CONTENT_BYTES - len('{"t":""}')
            assert (await bob.send("1", {bob.user: {"B": {"t": "x" * room}}}))[0] == 200
            assert (await bob.send("2", {bob.user: {"B": {"t": "x" * (room + 1)}}}))[0] == 413

    asyncio.run(run())


def test_a_sync_waits_for_a_message(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann, bob = await inside.device("ann", "A"), await inside.device("bob", "B")
            since = (await bob.sync())["next_batch"]
            waiting = asyncio.create_task(bob.sync(since, wait=60_000))
            await asyncio.sleep(0)
            assert not waiting.done()
            await ann.send("t", {bob.user: {"B": {"n": 1}}})
            async with asyncio.timeout(5):
                assert [each["content"] for each in (await waiting)["to_device"]["events"]] == [{"n": 1}]

    asyncio.run(run())


def test_a_device_that_is_logged_out_while_it_waits_hears_that(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            tablet, desk = await inside.device("bob", "T"), await inside.device("bob", "D")
            since = (await tablet.sync())["next_batch"]
            path = f"{CLIENT}/sync?since={since}&timeout=60000"
            waiting = [asyncio.create_task(each.call("GET", path)) for each in (tablet, desk)]
            await asyncio.sleep(0)
            await tablet.must("POST", f"{CLIENT}/logout")
            async with asyncio.timeout(5):
                (status, answer), (other, news) = await asyncio.gather(*waiting)
            assert (status, answer["errcode"]) == (401, "M_UNKNOWN_TOKEN")
            assert (other, news["device_lists"]["changed"]) == (200, [desk.user])

    asyncio.run(run())


@pytest.mark.parametrize("token", ["x", "m1", "m1_n", "m-1_n0", "m01_n0", "m1_n1_", "m" + "1" * 19 + "_n0"])
def test_a_token_that_is_none(tmp_path: Path, token: str) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            for path in (f"{CLIENT}/sync?since={token}", f"{CLIENT}/keys/changes?from={token}"):
                status, answer = await bob.call("GET", path)
                assert (status, answer["errcode"]) == (400, "M_INVALID_PARAM")

    asyncio.run(run())


def test_a_token_of_a_database_that_was_lost_gives_everything(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            await bob.send("1", {bob.user: {"B": {"n": 1}}})
            assert len((await bob.sync(str(Position(1000, 1000))))["to_device"]["events"]) == 1

    asyncio.run(run())


def test_whoever_asked_for_keys_hears_of_changes(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann, bob, eve = [await inside.device(name, "A") for name in ("ann", "bob", "eve")]
            await ann.query(bob.user)
            since = {each: (await each.sync())["next_batch"] for each in (ann, bob, eve)}
            await bob.upload()
            assert (await ann.sync(since[ann]))["device_lists"] == {"changed": [bob.user], "left": []}
            assert (await bob.sync(since[bob]))["device_lists"]["changed"] == [bob.user], "oneself, too"
            assert "device_lists" not in await eve.sync(since[eve])
            changes = await ann.must("GET", f"{CLIENT}/keys/changes?from={since[ann]}")
            assert changes == {"changed": [bob.user], "left": []}
            newer = (await ann.sync(since[ann]))["next_batch"]
            assert "device_lists" not in await ann.sync(newer)

    asyncio.run(run())


def test_counts_are_always_there(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            answer = await bob.sync()
            assert answer["device_one_time_keys_count"] == {"signed_curve25519": 0}
            assert answer["device_unused_fallback_key_types"] == []

    asyncio.run(run())


def test_messages_for_another_server_are_split() -> None:
    half = {"t": "x" * (MAX_EDU_BYTES // 2 - len('{"t":""}'))}
    coded = msgspec.json.encode(half)
    made = list(edus("@a:x", "m.test", {"@b:y": {"1": coded, "2": coded, "3": coded}, "@c:y": {"1": b"{}"}}))
    assert [msgspec.json.decode(msgspec.json.encode(each))["content"]["messages"] for each in made] == [
        {"@b:y": {"1": half, "2": half}},
        {"@b:y": {"3": half}, "@c:y": {"1": {}}},
    ]
    assert all(len(each["content"]["message_id"]) <= 32 for each in made)


def test_whoever_claimed_hears_of_changes_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann, bob = await inside.device("ann", "A"), await inside.device("bob", "B")
            await bob.upload("a")
            since = (await ann.sync())["next_batch"]
            assert await ann.claim(bob)
            await bob.must("PUT", f"{CLIENT}/devices/B", {"display_name": "other"})
            assert (await ann.sync(since))["device_lists"]["changed"] == [bob.user]

    asyncio.run(run())
