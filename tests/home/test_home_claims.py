"""One-time keys: handed out at most once, in the order of uploads, never empty while one remains."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from support.home_inside import CLIENT, home_inside
from tillie.directory.matrix import DRAFT2015, V1
from tillie.home.keys import MAX_ONE_TIME_KEYS


def _ids(answer: Any) -> list[str]:
    return [name for devices in answer.values() for keys in devices.values() for name in keys]


def test_claims_give_each_key_once_and_in_the_order_of_uploads(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann, bob = await inside.device("ann", "A"), await inside.device("bob", "B")
            await bob.upload("z", "a")
            await bob.upload("m")
            given = [_ids(await ann.claim(bob)) for _ in range(4)]
            assert given == [["signed_curve25519:z"], ["signed_curve25519:a"], ["signed_curve25519:m"], []]

    asyncio.run(run())


def test_side_by_side_claims_and_uploads_share_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann, bob = await inside.device("ann", "A"), await inside.device("bob", "B")
            await bob.upload(*(f"a{number}" for number in range(50)))
            more = bob.upload(*(f"b{number}" for number in range(50)))
            answers = await asyncio.gather(more, *(ann.claim(bob) for _ in range(50)))
            first = [name for answer in answers[1:] for name in _ids(answer)]
            rest = [name for _ in range(60) for name in _ids(await ann.claim(bob))]
            assert len(first) == 50, "no claim is empty while a key remains"
            assert len(first + rest) == len({*first, *rest}) == 100

    asyncio.run(run())


def test_the_fallback_key_comes_last_and_is_marked_used(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann, bob = await inside.device("ann", "A"), await inside.device("bob", "B")
            fallback = bob.one_time_keys("f", fallback=True)
            await bob.upload("a", fallback_keys=fallback)
            assert (await bob.sync())["device_unused_fallback_key_types"] == ["signed_curve25519"]
            given = [_ids(await ann.claim(bob)) for _ in range(3)]
            assert given == [["signed_curve25519:a"], ["signed_curve25519:f"], ["signed_curve25519:f"]]
            assert (await bob.sync())["device_unused_fallback_key_types"] == []
            await bob.upload(fallback_keys=fallback)
            assert (await bob.sync())["device_unused_fallback_key_types"] == [], "the same key again is still used"
            await bob.upload(fallback_keys=bob.one_time_keys("g", fallback=True))
            assert (await bob.sync())["device_unused_fallback_key_types"] == ["signed_curve25519"]

    asyncio.run(run())


def test_an_issued_key_is_never_taken_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann, bob = await inside.device("ann", "A"), await inside.device("bob", "B")
            key = {"one_time_keys": bob.one_time_keys("a")}
            await bob.upload(**key)
            assert _ids(await ann.claim(bob)) == ["signed_curve25519:a"]
            assert (await bob.upload(**key))["one_time_key_counts"] == {"signed_curve25519": 0}
            assert await ann.claim(bob) == {}
            status, answer = await bob.call(
                "POST", bob.upload_path, {"one_time_keys": bob.one_time_keys("a") | bob.one_time_keys("b")}
            )
            assert (status, answer["errcode"]) == (400, "M_INVALID_PARAM")
            assert await ann.claim(bob) == {}, "nothing of a refused request is kept"

    asyncio.run(run())


def test_too_many_keys_are_refused_at_the_edge(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            body = {"one_time_keys": bob.one_time_keys(*(f"k{number}" for number in range(MAX_ONE_TIME_KEYS)))}
            answer = await bob.must("POST", bob.upload_path, body)
            assert answer["one_time_key_counts"] == {"signed_curve25519": MAX_ONE_TIME_KEYS}
            assert (await bob.call("POST", bob.upload_path, body))[0] == 200, "the same again is not more"
            status, error = await bob.call("POST", bob.upload_path, {"one_time_keys": bob.one_time_keys("one")})
            assert (status, error["errcode"]) == (400, "M_TOO_LARGE")

    asyncio.run(run())


def test_profiles_never_mix(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann, old = await inside.device("ann", "A"), await inside.device("old", "O", DRAFT2015)
            await old.upload("a")
            assert await ann.claim(old, algorithm="curve25519") == {}
            assert await ann.claim(old) == {}
            old_ann = await inside.device("ann2", "A", DRAFT2015)
            assert _ids(await old_ann.claim(old)) == ["curve25519:a"]
            old.profile = V1
            status, answer = await old.call("POST", f"{CLIENT}/keys/upload", {"device_keys": old.device_keys()})
            assert (status, answer["errcode"]) == (403, "M_FORBIDDEN")

    asyncio.run(run())


def test_another_identity_takes_its_keys_away(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann, bob = await inside.device("ann", "A"), await inside.device("bob", "B")
            await bob.upload("a", "b", fallback_keys=bob.one_time_keys("f", fallback=True))
            again = await inside.device("bob", "B")
            assert (await again.upload("a"))["one_time_key_counts"] == {"signed_curve25519": 1}
            assert _ids(await ann.claim(again)) == ["signed_curve25519:a"]
            assert await ann.claim(again) == {}

    asyncio.run(run())
