"""What homes ask of each other: devices and one-time keys, served, asked for, and never believed beyond what was asked
(server-server API, "End-to-End Encryption")."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support.home_inside import CLIENT, FREE
from support.homes_apart import Wire, homes_apart
from tillie.directory import statements
from tillie.directory.matrix import DRAFT2015
from tillie.directory.signed import verify_object
from tillie.home import honesty
from tillie.home.config import Rate
from tillie.home.federation import followed, routes_federation
from tillie.home.federation.followed import BELIEVED_MS, FOLLOWS
from tillie.home.federation.routes_federation import MAX_USERS
from tillie.home.federation.transport import Failed
from tillie.model import Address

A, B = "a.test", "b.test"
BASE = "/_matrix/federation/v1"
QUERY, CLAIM = f"{BASE}/user/keys/query", f"{BASE}/user/keys/claim"
BOB, CAROL = f"@bob:{B}", "@carol:c.test"


def test_a_user_of_another_home_is_asked_for_claimed_from_and_written_to(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann, bob = await wire.homes[A].device("ann", "A"), await wire.homes[B].device("bob", "B")
            await bob.upload("k1", "k2")
            answer = await ann.query(BOB)
            assert answer["device_keys"][BOB]["B"]["keys"] == bob.device_keys()["keys"]
            statement = answer[statements.MEMBER][BOB]
            for server in (A, B):
                verify_object(statement, server, "ed25519:1", wire.homes[server].home.signer.public)
            given = [await ann.claim(bob) for _ in range(3)]
            assert [list(each.get(BOB, {}).get("B", {})) for each in given] == [
                ["signed_curve25519:k1"],
                ["signed_curve25519:k2"],
                [],
            ]
            assert (await ann.send("1", {BOB: {"*": {"n": 1}}}))[0] == 200
            await wire.quiet()
            events = (await bob.sync())["to_device"]["events"]
            assert [(each["sender"], each["content"]) for each in events] == [(ann.user, {"n": 1})]

    asyncio.run(run())


def test_the_draft_shows_devices_that_both_homes_signed(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann = await wire.homes[A].device("ann", "A", DRAFT2015)
            bob = await wire.homes[B].device("bob", "B", DRAFT2015)
            await bob.upload("k1")
            for _ in range(2):  # asked for, and as it is kept
                device = (await ann.query(BOB))["device_keys"][BOB]["B"]
                for server in (A, B):
                    verify_object(device, server, "ed25519:1", wire.homes[server].home.signer.public)
            assert list((await ann.claim(bob))[BOB]["B"]) == ["curve25519:k1"]
            carol = await wire.homes[A].device("carol", "C")
            assert (await carol.query(BOB))["device_keys"] == {BOB: {}}

    asyncio.run(run())


def test_a_list_of_devices_has_a_number_and_those_without_keys(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            bob, _ = await wire.homes[B].device("bob", "B"), await wire.homes[B].device("bob", "C")
            await bob.upload()
            status, answer = await wire.ask(A, B, "GET", f"{BASE}/user/devices/%40bob%3A{B}")
            assert status == 200
            assert answer["user_id"] == BOB
            assert [sorted(each) for each in answer["devices"]] == [["device_id", "keys"], ["device_id"]]
            followed = (await wire.ask(A, B, "POST", QUERY, {"device_keys": {BOB: []}}))[1][FOLLOWS][BOB]
            assert followed["sequence"] == answer["stream_id"]
            assert (await wire.ask(A, B, "GET", f"{BASE}/user/devices/@nobody:{B}"))[0] == 404
            assert (await wire.ask(A, B, "GET", f"{BASE}/user/devices/@ann:{A}"))[0] == 400

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (QUERY, {"device_keys": {BOB: ["B"], f"@nobody:{B}": None}}, 200),
        (QUERY, {"device_keys": {f"@ann:{A}": []}}, 400),
        (QUERY, {"device_keys": []}, 400),
        (QUERY, {"device_keys": {BOB: [7]}}, 400),
        (QUERY, {}, 400),
        (QUERY, [], 400),
        (QUERY, {"device_keys": {f"@u{number}:{B}": [] for number in range(MAX_USERS)}}, 200),
        (QUERY, {"device_keys": {f"@u{number}:{B}": [] for number in range(MAX_USERS + 1)}}, 400),
        (CLAIM, {"one_time_keys": {BOB: {"B": "unknown", "X": "signed_curve25519"}}}, 200),
        (CLAIM, {"one_time_keys": {f"@ann:{A}": {"A": "signed_curve25519"}}}, 400),
        (CLAIM, {"one_time_keys": {BOB: ["B"]}}, 400),
        (CLAIM, {"one_time_keys": None}, 400),
        (CLAIM, {"one_time_keys": {BOB: {str(number): "x" for number in range(10_001)}}}, 400),
    ],
)
def test_requests_have_their_form(tmp_path: Path, path: str, body: Any, status: int) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            await wire.homes[B].device("bob", "B")
            assert (await wire.ask(A, B, "POST", path, body))[0] == status

    asyncio.run(run())


def test_an_answer_speaks_for_what_was_asked_for_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann, bob = await wire.homes[A].device("ann", "A"), await wire.homes[B].device("bob", "B")
            good = bob.device_keys()
            wire.answers[B] = (200, {"device_keys": {
                BOB: {
                    "B": good, "X": good, "none": None, "text": "B", "list": [],
                    "fraction": {"user_id": BOB, "device_id": "fraction", "keys": {"x": 0.5}},
                    "large": {"user_id": BOB, "device_id": "large", "keys": {"x": "x" * 70_000}},
                    "other": {**good, "device_id": "other", "user_id": ann.user},
                    "*": {**good, "device_id": "*"}, "new\nline": {**good, "device_id": "new\nline"},
                },
                ann.user: {"evil": {**good, "user_id": ann.user, "device_id": "evil"}},
                "@carol:c.test": {"evil": good},
            }})  # fmt: skip
            shown = (await ann.query(BOB))["device_keys"]
            assert list(shown) == [BOB]
            assert list(shown[BOB]) == ["B"]

            key = {"key": "k", "signatures": {}}
            for given, kept in [
                ({BOB: {"B": {"signed_curve25519:1": key}}}, True),
                ({BOB: {"B": {"signed_curve25519:1": key, "signed_curve25519:2": key}}}, False),
                ({BOB: {"B": {"curve25519:1": "k"}}}, False),
                ({BOB: {"B": {"signed_curve25519": key}}}, False),
                ({BOB: {"B": {"signed_curve25519:\u001b[2J": key}}}, False),
                ({BOB: {"B": {f"signed_curve25519:{'x' * 256}": key}}}, False),
                ({BOB: {"B": {"signed_curve25519:1": {"x": "x" * 5_000}}}}, False),
                ({BOB: {"B": [key]}}, False),
                ({BOB: [], ann.user: {"A": {"signed_curve25519:1": key}}}, False),
            ]:
                wire.answers[B] = (200, {"one_time_keys": given})
                assert await ann.claim(bob) == (given if kept else {})

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer", [(500, {}), (429, {}), (200, {}), (200, {"device_keys": []}), (404, {"errcode": "X"})]
)
def test_a_server_that_fails_is_named_and_the_others_are_answered(tmp_path: Path, answer: Any) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann = await wire.homes[A].device("ann", "A")
            await ann.upload()
            wire.answers[B] = answer
            found = await ann.query(BOB, ann.user, "@nobody:gone.test")
            assert set(found["failures"]) == {B, "gone.test"}
            assert set(found["device_keys"]) == {ann.user}

    asyncio.run(run())


def test_a_list_of_a_server_that_promises_nothing_is_asked_for_each_time(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann, bob = await wire.homes[A].device("ann", "A"), await wire.homes[B].device("bob", "B")
            for promise, asked in [({}, 2), ({FOLLOWS: {BOB: {"sequence": 1, "until_ts": 2**52}}}, 1)]:
                wire.requests.clear()
                wire.answers[B] = (200, {"device_keys": {BOB: {"B": bob.device_keys()}}, **promise})
                for _ in range(2):
                    assert list((await ann.query(BOB))["device_keys"][BOB]) == ["B"]
                assert len([each for each in wire.requests if each[3] == QUERY]) == asked

    asyncio.run(run())


def test_queries_for_one_user_side_by_side_are_one(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann, bob = await wire.homes[A].device("ann", "A"), await wire.homes[B].device("bob", "B")
            await bob.upload()
            found = await asyncio.gather(*(ann.query(BOB) for _ in range(20)))
            assert [list(each["device_keys"][BOB]) for each in found] == [["B"]] * 20
            assert _queries(wire) == 1
            # Also of a server that promises nothing, or fails, so that there is nothing to keep.
            for answer in [(200, {"device_keys": {CAROL: {}}}), (500, {})]:
                wire.requests.clear()
                wire.answers["c.test"] = answer
                await asyncio.gather(*(ann.query(CAROL) for _ in range(20)), ann.query(CAROL, "@dave:c.test"))
                assert sorted(list(body["device_keys"]) for *_, body in wire.requests) == [[CAROL], ["@dave:c.test"]]

    asyncio.run(run())


def test_who_waits_no_longer_stops_nobody_elses_query(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann, bob = await wire.homes[A].device("ann", "A"), await wire.homes[B].device("bob", "B")
            await bob.upload("k1")
            go = _held(wire)
            hurried = {"device_keys": {BOB: []}, "timeout": 1}
            assert set((await ann.must("POST", f"{CLIENT}/keys/query", hurried))["failures"]) == {B}
            patient = asyncio.create_task(ann.query(BOB))
            hurried = {"one_time_keys": {BOB: {"B": "signed_curve25519"}}, "timeout": 1}
            assert set((await ann.must("POST", f"{CLIENT}/keys/claim", hurried))["failures"]) == {B}
            go.set()
            assert list((await patient)["device_keys"][BOB]) == ["B"]
            assert _queries(wire) == 1
            assert list((await ann.claim(bob))[BOB]) == ["B"], "the server is not taken for absent"

    asyncio.run(run())


def test_what_is_kept_is_answered_beside_what_a_server_fails_to(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann, bob = await wire.homes[A].device("ann", "A"), await wire.homes[B].device("bob", "B")
            await bob.upload()
            await ann.query(BOB)
            await wire.stop(B)
            found = await ann.query(BOB, f"@ben:{B}")
            assert list(found["device_keys"][BOB]) == ["B"]
            assert set(found["device_keys"]) == {BOB}
            assert set(found["failures"]) == {B}

    asyncio.run(run())


def test_nobody_waits_longer_than_she_wants_for_the_keys_that_a_server_signs_with(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann, bob = await wire.homes[A].device("ann", "A"), await wire.homes[B].device("bob", "B")
            await bob.upload()
            transport = wire.homes[A].home.federation.transport  # type: ignore[union-attr]
            carry = transport._answer
            go = asyncio.Event()

            async def keys_late(server: str, method: str, uri: str, *given: Any) -> bytes:
                if "/key/" in uri:
                    await go.wait()
                return await carry(server, method, uri, *given)

            transport._answer = keys_late  # type: ignore[method-assign]
            found = await ann.must("POST", f"{CLIENT}/keys/query", {"device_keys": {BOB: []}, "timeout": 1_000})
            assert (list(found["device_keys"][BOB]), found[statements.MEMBER]) == (["B"], {})
            home = wire.homes[A].home
            heard = home.db.read(lambda conn: honesty.audit(conn, home.signer, Address(BOB)))
            assert heard.is_stating is None
            go.set()
            assert list((await ann.query(BOB))[statements.MEMBER]) == [BOB], "not of what was kept meanwhile"

    asyncio.run(run())


def test_a_query_that_fails_half_way_fails_for_whom_it_has_no_answer(tmp_path: Path) -> None:
    """Bob's list changes while it is asked for, and when it is asked for again, nobody answers."""

    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann, bob = await wire.homes[A].device("ann", "A"), await wire.homes[B].device("bob", "B")
            ben = f"@ben:{B}"
            await bob.upload()
            await ann.query(BOB)
            await (await wire.homes[B].device("ben", "B")).upload()
            wire.pass_time(BELIEVED_MS / 1000)
            transport = wire.homes[A].home.federation.transport  # type: ignore[union-attr]
            carry = transport._answer
            go = asyncio.Event()

            async def half(server: str, method: str, uri: str, *given: Any) -> bytes:
                answer = await carry(server, method, uri, *given)
                if uri == QUERY and _queries(wire) == 2:
                    await go.wait()
                    await (await wire.homes[B].device("bob", "LATE")).upload()
                    await wire.quiet()
                elif uri == QUERY:
                    raise Failed(0)
                return answer

            transport._answer = half  # type: ignore[method-assign]
            both, only = asyncio.create_task(ann.query(BOB, ben)), asyncio.create_task(ann.query(ben))
            await wire.until(lambda: _queries(wire) == 2)
            go.set()
            found = await both
            assert (list(found["device_keys"]), list(found["failures"])) == ([ben], [B])
            found = await only
            assert (list(found["device_keys"]), list(found["failures"])) == ([ben], [])

    asyncio.run(run())


def test_a_server_that_did_not_answer_costs_no_time_again_until_it_is_heard_of(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann, bob = await wire.homes[A].device("ann", "A"), await wire.homes[B].device("bob", "B")
            await bob.upload("k1", "k2")
            federation = wire.homes[A].home.federation
            assert federation is not None
            federation.absence._clock = lambda: wire.now
            federation.absence._longest = 60.0
            stopped = wire.homes.pop(B)
            for _ in range(5):
                assert set((await ann.query(BOB))["failures"]) == {B}
                claim = {"one_time_keys": {BOB: {"B": "signed_curve25519"}}}
                assert set((await ann.must("POST", f"{CLIENT}/keys/claim", claim))["failures"]) == {B}
            assert len(wire.requests) == 1
            wire.homes[B] = stopped
            assert set((await ann.query(BOB))["failures"]) == {B}
            wire.pass_time(1)
            assert (await ann.query(BOB))["failures"] == {}
            assert list((await ann.claim(bob))[BOB]) == ["B"]

            wire.pass_time(BELIEVED_MS / 1000)
            del wire.homes[B]
            assert set((await ann.query(BOB))["failures"]) == {B}
            wire.homes[B] = stopped
            assert (await wire.ask(B, A, "POST", QUERY, {"device_keys": {ann.user: []}}))[0] == 200
            assert (await ann.query(BOB))["failures"] == {}, "its request was a sign of life"

    asyncio.run(run())


def test_a_query_that_is_answered_gives_what_waits_its_next_chance(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann, bob = await wire.homes[A].device("ann", "A"), await wire.homes[B].device("bob", "B")
            queue = wire.homes[A].home.federation.outgoing  # type: ignore[union-attr]
            queue._try_in(B, 9, 3_600.0)
            await ann.send("1", {BOB: {"B": {"n": 1}}})
            await ann.query(BOB)
            await wire.quiet()
            assert [each["content"] for each in (await bob.sync())["to_device"]["events"]] == [{"n": 1}]

    asyncio.run(run())


def test_a_home_stops_while_it_asks(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann = await wire.homes[A].device("ann", "A")
            _held(wire)
            asked = asyncio.create_task(ann.query(BOB))
            await wire.until(lambda: bool(wire.homes[A].home.federation.remote._flights))  # type: ignore[union-attr]
            await wire.stop(A)
            await asyncio.gather(asked, return_exceptions=True)
            assert asked.done()

    asyncio.run(run())


def test_so_many_servers_are_told_of_one_user_and_others_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "MAX_TOLD", 2)

    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann, bob = await wire.homes[A].device("ann", "A"), await wire.homes[B].device("bob", "B")
            await bob.upload()
            home = wire.homes[B].home
            body = {"device_keys": {BOB: [], f"@nobody:{B}": []}}

            async def fill(*servers: str) -> list[str]:
                await home.db.write(lambda conn: conn.execute("DELETE FROM interested_servers"))
                for each in servers:
                    await home.db.write(lambda conn, each=each: followed.promise(conn, [BOB], each, home.now()))
                return list((await wire.ask(A, B, "POST", QUERY, body))[1][FOLLOWS])

            assert await fill("1.test") == [BOB]
            assert await fill("1.test", "2.test") == []
            assert await fill("1.test", A) == [BOB]
            await fill("1.test", "2.test")
            for _ in range(2):
                assert list((await ann.query(BOB))["device_keys"][BOB]) == ["B"]
            assert _queries(wire) == 2

    asyncio.run(run())


def _queries(wire: Wire) -> int:
    return len([each for each in wire.requests if each[3] == QUERY])


def _held(wire: Wire) -> asyncio.Event:
    """Requests of A wait until this is set."""
    go = asyncio.Event()
    transport = wire.homes[A].home.federation.transport  # type: ignore[union-attr]
    carry = transport._answer

    async def wait(*given: Any) -> bytes:
        await go.wait()
        return await carry(*given)

    transport._answer = wait  # type: ignore[method-assign]
    return go


def test_a_server_that_asks_too_often_waits_and_only_a_flood_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        waits = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)
            wire.pass_time(seconds)

        async with homes_apart(tmp_path, A, B) as wire:
            await wire.stop(B)
            limits = type(FREE)(
                **{**{name: Rate(1e9, 10**9) for name in FREE.__struct_fields__}, "claims_server": Rate(1, 2)}
            )
            await wire.start(B, tmp_path / B, limits=limits)
            monkeypatch.setattr(routes_federation, "asyncio", type("Clock", (), {"sleep": staticmethod(sleep)}))
            body = {"one_time_keys": {BOB: {"B": "signed_curve25519"}}}
            for _ in range(4):
                assert (await wire.ask(A, B, "POST", CLAIM, body))[0] == 200
            assert len(waits) == 2
            flood = {"one_time_keys": {BOB: {str(number): "signed_curve25519" for number in range(100)}}}
            statuses = [(await wire.ask(A, B, "POST", CLAIM, flood))[0] for _ in range(2)]
            assert statuses == [200, 429]

    asyncio.run(run())


def test_a_logged_out_device_is_gone_everywhere(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            ann, bob = await wire.homes[A].device("ann", "A"), await wire.homes[B].device("bob", "B")
            await bob.upload("k1")
            assert list((await ann.query(BOB))["device_keys"][BOB]) == ["B"]
            await bob.must("POST", f"{CLIENT}/logout")
            await wire.quiet()
            assert (await ann.query(BOB))["device_keys"] == {BOB: {}}
            assert await ann.claim(bob) == {}

    asyncio.run(run())
