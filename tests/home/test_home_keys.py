"""What may be uploaded, and what is shown of it to whom."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from support.home_inside import CLIENT, DRAFT, InsideDevice, home_inside, key_bytes
from tillie.directory import statements
from tillie.directory.matrix import DRAFT2015, V1, Profile, read_device_keys, read_device_map
from tillie.directory.signed import sign_object, verify_object
from tillie.home import maps
from tillie.home.config import Limits, Rate
from tillie.home.keys import MAX_DEVICE_KEYS_BYTES, MAX_KEY_BYTES
from tillie.home.routes_keys import MAX_TIMEOUT, _seconds
from tillie.wire import canonical


def _signed(device: InsideDevice, **change: Any) -> dict[str, Any]:
    """Its device keys with other members, signed again."""
    value = {**device.device_keys(), **change}
    value.pop("signatures")
    return sign_object(value, device.user, f"ed25519:{device.id}", device.seed)


_BAD: dict[str, tuple[Any, str]] = {
    "another user": (lambda b: {"device_keys": _signed(b, user_id="@eve:home.test")}, "M_BAD_JSON"),
    "another device": (lambda b: {"device_keys": _signed(b, device_id="C")}, "M_BAD_JSON"),
    "no keys": (lambda b: {"device_keys": _signed(b, keys={})}, "M_BAD_JSON"),
    "zero key": (
        lambda b: {"device_keys": _signed(b, keys={**b.device_keys()["keys"], "curve25519:B": key_bytes(0)})},
        "M_BAD_JSON",
    ),
    "not signed": (lambda b: {"device_keys": {**b.device_keys(), "signatures": {}}}, "M_INVALID_SIGNATURE"),
    "changed": (lambda b: {"device_keys": {**b.device_keys(), "more": 1}}, "M_INVALID_SIGNATURE"),
    "null": (lambda b: {"device_keys": None}, "M_BAD_JSON"),
    "too large": (lambda b: {"device_keys": _signed(b, more="x" * MAX_DEVICE_KEYS_BYTES)}, "M_TOO_LARGE"),
    "fraction": (lambda b: {"device_keys": {**b.device_keys(), "more": 1.5}}, "M_NOT_JSON"),
    "keys are a list": (lambda b: {"one_time_keys": []}, "M_BAD_JSON"),
    "no id": (lambda b: {"one_time_keys": {"signed_curve25519": {}}}, "M_INVALID_PARAM"),
    "other algorithm": (lambda b: {"one_time_keys": {"curve25519:a": key_bytes(9)}}, "M_INVALID_PARAM"),
    "unsigned key": (lambda b: {"one_time_keys": {"signed_curve25519:a": {"key": key_bytes(9)}}}, "M_INVALID_PARAM"),
    "a string": (lambda b: {"one_time_keys": {"signed_curve25519:a": key_bytes(9)}}, "M_INVALID_PARAM"),
    "a short key": (
        lambda b: {"one_time_keys": {"signed_curve25519:a": {**b.one_time_keys("a").popitem()[1], "key": "AAAA"}}},
        "M_INVALID_PARAM",
    ),
    "a long id": (lambda b: {"one_time_keys": b.one_time_keys("a" * 256)}, "M_INVALID_PARAM"),
    "a large key": (
        lambda b: {
            "one_time_keys": {"signed_curve25519:a": {**b.one_time_keys("a").popitem()[1], "x": "y" * MAX_KEY_BYTES}}
        },
        "M_TOO_LARGE",
    ),
    "two fallback keys": (lambda b: {"fallback_keys": b.one_time_keys("a", "b")}, "M_INVALID_PARAM"),
}


@pytest.mark.parametrize("name", _BAD)
def test_a_bad_upload_is_refused_and_nothing_of_it_kept(tmp_path: Path, name: str) -> None:
    make, errcode = _BAD[name]

    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            body = {"one_time_keys": bob.one_time_keys("good"), "device_keys": bob.device_keys(), **make(bob)}
            status, answer = await bob.call("POST", bob.upload_path, body)
            assert (status, answer["errcode"]) == (400, errcode), answer
            assert await bob.must("POST", bob.upload_path, {}) == {"one_time_key_counts": {"signed_curve25519": 0}}
            assert (await bob.query(bob.user))["device_keys"] == {bob.user: {}}

    asyncio.run(run())


def test_device_keys_have_just_so_many_bytes(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            room = MAX_DEVICE_KEYS_BYTES - len(canonical.encode(_signed(bob, more="")))
            for length, expected in ((room + 1, 400), (room, 200)):
                body = {"device_keys": _signed(bob, more="x" * length)}
                assert (await bob.call("POST", bob.upload_path, body))[0] == expected

    asyncio.run(run())


@pytest.mark.parametrize("more", [{}, {"fallback": False}, {"unsigned": {"age": 1}}, {"note": "ü"}], ids=str)
def test_a_one_time_key_is_given_out_as_it_was_signed(tmp_path: Path, more: dict[str, Any]) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            (name, key) = bob.one_time_keys("a").popitem()
            del key["signatures"]
            key = sign_object({**key, **more}, bob.user, "ed25519:B", bob.seed)
            await bob.must("POST", bob.upload_path, {"one_time_keys": {name: key}})
            assert await bob.claim(bob) == {bob.user: {"B": {name: key}}}

    asyncio.run(run())


@pytest.mark.parametrize(
    "bad", [b'"note": 1.5', b'"note": 1, "note": 2', b'"note": "\xff"', b'"note": ' + b"[" * 40 + b"]" * 40], ids=str
)
def test_a_one_time_key_that_claimers_could_not_read_is_refused(tmp_path: Path, bad: bytes) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            (name, key) = bob.one_time_keys("a").popitem()
            body = b'{"one_time_keys": {"%b": %b, %b}}}' % (name.encode(), json.dumps(key).encode()[:-1], bad)
            assert (await bob.call("POST", bob.upload_path, body))[0] == 400
            assert await bob.claim(bob) == {}

    asyncio.run(run())


def test_a_device_that_goes_meanwhile_leaves_nothing_to_the_next_one_of_its_id(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann, bob = await inside.device("ann", "A"), await inside.device("bob", "B")
            upload = {"device_keys": bob.device_keys(), "fallback_keys": bob.one_time_keys("f", fallback=True)}
            done = await asyncio.gather(  # one commit for all three, and the first of them is the end of the device
                bob.call("POST", f"{CLIENT}/logout", {}),
                bob.call("POST", bob.upload_path, upload),
                bob.send("t", {ann.user: {"A": {"n": 1}}}),
            )
            assert [status for status, _ in done] == [200, 401, 401]
            assert "to_device" not in await ann.sync()
            again = await inside.device("bob", "B")
            assert (await ann.query(bob.user))["device_keys"] == {bob.user: {}}
            assert await ann.claim(again) == {}
            assert (await again.send("t", {ann.user: {"A": {"n": 2}}}))[0] == 200
            assert [event["content"]["n"] for event in (await ann.sync())["to_device"]["events"]] == [2]

    asyncio.run(run())


@pytest.mark.parametrize("profile", [V1, DRAFT2015], ids=lambda each: each.name)
def test_what_was_uploaded_is_shown_and_verifies(tmp_path: Path, profile: Profile) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann, bob = await inside.device("ann", "A", profile), await inside.device("bob", "B", profile)
            other = await inside.device("bob", "C", profile)
            for _ in range(2):
                answer = await bob.upload(one_time_keys=None, fallback_keys=None)
                assert answer == {"one_time_key_counts": {profile.one_time: 0}}
            found = await ann.query(bob.user, "@nobody:home.test")
            assert list(found["device_keys"]) == [bob.user]
            devices = found["device_keys"][bob.user]
            assert read_device_keys(devices["B"], bob.user, "B", profile).is_able
            assert list(devices) == (["B", "C"] if profile.servers_sign else ["B"]), "synthesised in the draft only"
            if profile.servers_sign:
                signer = inside.home.signer
                for device in devices.values():
                    verify_object(device, inside.home.server, signer.key_id, signer.public)
                assert devices["C"]["keys"] == {}
                able, bad = read_device_map(devices, bob.user, profile)
                assert (len(able), bad) == (2, ())
            statement = statements.read(found[statements.MEMBER][bob.user], bob.user)
            statements.verify(statement, inside.home.server, {inside.home.signer.key_id: inside.home.signer.public})
            assert statement.hash == statements.map_hash(devices)
            assert other.id == "C"

    asyncio.run(run())


def test_a_query_names_devices_and_shows_their_names(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob, second = await inside.device("bob", "B"), await inside.device("bob", "C")
            await bob.upload()
            await second.upload()
            await bob.must("PUT", f"{CLIENT}/devices/B", {"display_name": 'Bob\'s "phone"'})
            answer = await bob.must("POST", f"{CLIENT}/keys/query", {"device_keys": {bob.user: ["B", "no"]}})
            assert list(answer["device_keys"][bob.user]) == ["B"]
            assert answer["device_keys"][bob.user]["B"]["unsigned"] == {"device_display_name": 'Bob\'s "phone"'}
            assert read_device_keys(answer["device_keys"][bob.user]["B"], bob.user, "B", V1).is_able

    asyncio.run(run())


def test_the_draft_takes_an_object_for_all_devices(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B", DRAFT2015)
            await bob.upload()
            answer = await bob.must("POST", f"{DRAFT}/keys/query", {"device_keys": {bob.user: {}}})
            assert list(answer["device_keys"][bob.user]) == ["B"]
            status, error = await bob.call("POST", f"{DRAFT}/keys/upload/C", {})
            assert (status, error["errcode"]) == (400, "M_INVALID_PARAM")
            status, error = await bob.call("POST", f"{CLIENT}/keys/query", {"device_keys": {bob.user: {}}})
            assert (status, error["errcode"]) == (400, "M_BAD_JSON")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("endpoint", "body", "errcode"),
    [
        ("query", {}, "M_BAD_JSON"),
        ("query", {"device_keys": []}, "M_BAD_JSON"),
        ("query", {"device_keys": {"@a:home.test": None}}, "M_BAD_JSON"),
        ("query", {"device_keys": {}, "timeout": "soon"}, "M_BAD_JSON"),
        ("query", b"{", "M_NOT_JSON"),
        ("claim", {}, "M_BAD_JSON"),
        ("claim", {"one_time_keys": {"@a:home.test": ["A"]}}, "M_BAD_JSON"),
        ("claim", {"one_time_keys": {"@a:home.test": {"A": None}}}, "M_BAD_JSON"),
        ("claim", {"one_time_keys": {f"@a{n}:home.test": {} for n in range(1001)}}, "M_TOO_LARGE"),
    ],
)
def test_bad_requests(tmp_path: Path, endpoint: str, body: object, errcode: str) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            status, answer = await bob.call("POST", f"{CLIENT}/keys/{endpoint}", body)
            assert (status, answer["errcode"]) == (400, errcode)

    asyncio.run(run())


def test_strange_users_cost_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            await bob.upload("a")
            answer = await bob.query("nobody", "@:", "@x:bad server", bob.user, "@far:away.test")
            assert list(answer["device_keys"]) == [bob.user]
            assert answer["failures"]["away.test"]["status"] == 503, "this home has no federation"
            wanted = {"@x:": {"A": "signed_curve25519"}, bob.user: {"B": "signed_curve25519", "C": "signed_curve25519"}}
            answer = await bob.must("POST", f"{CLIENT}/keys/claim", {"one_time_keys": wanted})
            assert list(answer["one_time_keys"][bob.user]) == ["B"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("timeout", "seconds"), [(1_500, 1.5), (-1, 0), (60_001, MAX_TIMEOUT), (10**400, MAX_TIMEOUT), (-(10**400), 0)]
)
def test_no_timeout_is_too_large_to_count(timeout: int, seconds: float) -> None:
    assert _seconds(timeout) == seconds


def test_limits_are_answered_with_a_wait(tmp_path: Path) -> None:
    async def run() -> None:
        limits = Limits(claims=Rate(1, 2), uploads=Rate(1, 2), queries=Rate(1, 2), messages=Rate(1, 2))
        async with home_inside(tmp_path, limits) as inside:
            bob = await inside.device("bob", "B")
            for path, body in (
                ("keys/upload", {}),
                ("keys/query", {"device_keys": {bob.user: []}}),
                ("keys/claim", {"one_time_keys": {bob.user: {"B": "signed_curve25519"}}}),
            ):
                got = [await bob.call("POST", f"{CLIENT}/{path}", body) for _ in range(3)]
                assert [status for status, _ in got] == [200, 200, 429]
                assert got[2][1]["errcode"] == "M_LIMIT_EXCEEDED"
                assert got[2][1]["retry_after_ms"] > 0

    asyncio.run(run())


def test_the_cache_of_maps_is_bounded_and_never_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bobs = [await inside.device(f"bob{number}", "B") for number in range(5)]
            for bob in bobs:
                await bob.upload()
            one = inside.home.maps.for_client(bobs[0].user, V1)
            assert one is not None
            monkeypatch.setattr(maps, "MAX_CACHED_BYTES", 2 * one.size)
            for bob in bobs:
                shown = inside.home.maps.for_client(bob.user, V1)
                assert shown is not None
                assert json.loads(shown.devices["B"]) == bob.device_keys()
            assert inside.home.maps._bytes == sum(each.size for each in inside.home.maps._cached.values())
            assert inside.home.maps._bytes <= 2 * one.size
            again = await inside.device("bob4", "B")
            await again.upload()
            shown = inside.home.maps.for_client(again.user, V1)
            assert shown is not None
            assert json.loads(shown.devices["B"]) == again.device_keys()

    asyncio.run(run())


def test_bytes_that_were_signed_are_kept_in_canonical_form(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            value = _signed(bob, note="日本\u2028\x7f", zoo={"\uffff": 1, "\U00010000": 2})
            await bob.must("POST", bob.upload_path, {"device_keys": {**value, "unsigned": {"x": 1}}})
            shown = inside.home.maps.for_client(bob.user, V1)
            assert shown is not None
            assert shown.devices["B"] == canonical.encode(value)

    asyncio.run(run())
