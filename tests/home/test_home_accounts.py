"""Accounts of a home: registration, login, devices, user-interactive authentication, tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.homes import GENEROUS, PASSWORD, Clock, HomeHere, home_here
from tillie.crypto import pwhash
from tillie.home import accounts, interactive, passwords
from tillie.home.config import Limits, Rate
from tillie.home.limits import FROM_ONE_ADDRESS, MAX_BUCKETS, Buckets, network_of
from tillie.home.routes_accounts import MAX_NAME, MAX_PASSWORD, MIN_PASSWORD
from tillie.model import Address

V3 = "/_matrix/client/v3"
DUMMY = {"type": "m.login.dummy"}


def run(folder: Path, work: Callable[[HomeHere], Coroutine[Any, Any, None]], **config: Any) -> None:
    async def whole() -> None:
        async with home_here(folder, **config) as home:
            await work(home)
            assert not [line for line in home.log if line["event"] == "fault"]

    asyncio.run(whole())


def login(user: str, password: str = PASSWORD, **more: Any) -> dict[str, Any]:
    return {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user},
        "password": password,
        **more,
    }


def confirmed(user: str, session: str, password: str = PASSWORD) -> dict[str, Any]:
    return {"auth": {**login(user, password), "session": session}}


# -- registration ---------------------------------------------------------------------------------------------------


def test_registration_takes_the_stage_that_it_names(tmp_path: Path) -> None:
    async def work(home: HomeHere) -> None:
        body = {"username": "alice", "password": PASSWORD}
        status, answer = await home.request("POST", f"{V3}/register", body)
        assert status == 401
        assert "errcode" not in answer
        assert answer["flows"] == [{"stages": ["m.login.dummy"]}]
        body["auth"] = {**DUMMY, "session": answer["session"]}  # type: ignore[assignment]
        done = await home.must("POST", f"{V3}/register", body)
        assert done["user_id"] == "@alice:home.example"
        who = await home.must("GET", f"{V3}/account/whoami", token=done["access_token"])
        assert who == {"user_id": "@alice:home.example", "device_id": done["device_id"], "is_guest": False}

    run(tmp_path, work)


def test_a_session_is_for_one_request_only(tmp_path: Path) -> None:
    async def work(home: HomeHere) -> None:
        _, answer = await home.request("POST", f"{V3}/register", {"username": "alice", "password": PASSWORD})
        auth = {**DUMMY, "session": answer["session"]}
        other = {"username": "mallory", "password": PASSWORD, "auth": auth}
        status, answer = await home.request("POST", f"{V3}/register", other)
        assert (status, answer["errcode"]) == (401, "M_FORBIDDEN")
        status, answer = await home.request("POST", f"{V3}/register", {**other, "auth": {**DUMMY, "session": "?"}})
        assert (status, answer["errcode"]) == (401, "M_FORBIDDEN")

    run(tmp_path, work)


def test_a_client_may_ask_for_the_flows_first(tmp_path: Path) -> None:
    async def work(home: HomeHere) -> None:
        _, answer = await home.request("POST", f"{V3}/register", {})
        auth = {**DUMMY, "session": answer["session"]}
        await home.must("POST", f"{V3}/register", {"username": "alice", "password": PASSWORD, "auth": auth})

    run(tmp_path, work)


def test_a_session_ends_with_time_and_not_because_others_begin() -> None:
    clock = Clock()
    sessions = interactive.Interactive(clock)
    asked = interactive.Request("", "POST", "register", {"username": "a"})

    def answered(session: str) -> bool:
        auth = {**DUMMY, "session": session}
        try:
            sessions.check(interactive.DUMMY, asked._replace(members={"username": "a", "auth": auth}))
        except interactive.Challenge:
            return False
        return True

    first = sessions.begin(interactive.DUMMY, asked).body["session"]
    clock.now += interactive.SESSION_SECONDS - 1
    for number in range(10_000):
        sessions.begin(interactive.DUMMY, asked._replace(members={"username": str(number)}))
    assert answered(first)
    later = first.replace(first.partition(".")[0], str(int(clock.now) + 100))
    assert not any(answered(each) for each in (later, f"{first}0", f" {first}", first.upper(), "", "1.é", "9" * 400))
    clock.now += 1
    assert not answered(first)
    assert not interactive.Interactive(clock)._fits(sessions.begin(interactive.DUMMY, asked).body["session"], asked)


@pytest.mark.parametrize("name", ["", "Alice", "al ice", "al:ice", "älice", "a\0b", "@alice", "a" * 250])
def test_names_that_nobody_can_have_are_refused_before_any_stage(tmp_path: Path, name: str) -> None:
    async def work(home: HomeHere) -> None:
        status, answer = await home.request("POST", f"{V3}/register", {"username": name, "password": PASSWORD})
        assert (status, answer["errcode"]) == (400, "M_INVALID_USERNAME")

    run(tmp_path, work)


def test_a_name_is_had_once(tmp_path: Path) -> None:
    async def work(home: HomeHere) -> None:
        assert (await home.must("GET", f"{V3}/register/available?username=alice")) == {"available": True}
        await home.register("alice")
        for method, path, body in (
            ("POST", f"{V3}/register", {"username": "alice", "password": PASSWORD}),
            ("GET", f"{V3}/register/available?username=alice", None),
        ):
            status, answer = await home.request(method, path, body)
            assert (status, answer["errcode"]) == (400, "M_USER_IN_USE")

    run(tmp_path, work)


def test_of_two_who_register_one_name_at_once_one_has_it(tmp_path: Path) -> None:
    async def work(home: HomeHere) -> None:
        body = {"username": "alice", "password": PASSWORD, "auth": DUMMY}
        done = await asyncio.gather(*(home.request("POST", f"{V3}/register", body) for _ in range(4)))
        assert sorted(status for status, _ in done) == [200, 400, 400, 400]

    run(tmp_path, work)


def test_registration_is_closed_unless_it_is_opened(tmp_path: Path) -> None:
    async def work(home: HomeHere) -> None:
        status, answer = await home.request("POST", f"{V3}/register", {"username": "alice", "password": PASSWORD})
        assert (status, answer["errcode"]) == (403, "M_FORBIDDEN")

    run(tmp_path, work, registration=False)


@pytest.mark.parametrize(
    ("password", "errcode"),
    [
        ("x" * (MIN_PASSWORD - 1), "M_WEAK_PASSWORD"),
        ("x" * MIN_PASSWORD, ""),
        ("x" * MAX_PASSWORD, ""),
        ("x" * (MAX_PASSWORD + 1), "M_INVALID_PARAM"),
        (None, "M_MISSING_PARAM"),
    ],
)
def test_passwords_have_bounds(tmp_path: Path, password: str | None, errcode: str) -> None:
    async def work(home: HomeHere) -> None:
        body = {"username": "alice", "password": password, "auth": DUMMY}
        status, answer = await home.request("POST", f"{V3}/register", body)
        assert (status, answer.get("errcode", "")) == (400 if errcode else 200, errcode)

    run(tmp_path, work)


# -- login ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["alice", "@alice:home.example"])
def test_login_by_name_or_id(tmp_path: Path, user: str) -> None:
    async def work(home: HomeHere) -> None:
        await home.register("alice")
        done = await home.must("POST", f"{V3}/login", login(user))
        assert done["user_id"] == "@alice:home.example"
        old = {"type": "m.login.password", "user": user, "password": PASSWORD}
        assert (await home.must("POST", f"{V3}/login", old))["device_id"] != done["device_id"]

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        (login("alice", "wrong password"), 403, "M_FORBIDDEN"),
        (login("nobody"), 403, "M_FORBIDDEN"),
        (login("@alice:other.example"), 403, "M_FORBIDDEN"),
        (login("@alice"), 403, "M_FORBIDDEN"),
        (login("al\0ice"), 403, "M_FORBIDDEN"),
        ({"type": "m.login.sso"}, 400, "M_UNKNOWN"),
        ({"type": "m.login.password"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "identifier": {"type": "m.id.phone"}, "password": "x"}, 400, "M_UNKNOWN"),
        ({}, 400, "M_BAD_JSON"),
        ({"type": 5}, 400, "M_BAD_JSON"),
        (login("alice", device_id="*"), 400, "M_INVALID_PARAM"),
        (login("alice", device_id="a:b"), 400, "M_INVALID_PARAM"),
        (login("alice", device_id=""), 400, "M_INVALID_PARAM"),
        (login("alice", device_id="x" * 256), 400, "M_INVALID_PARAM"),
        (login("alice", initial_device_display_name="\x1b[31m"), 400, "M_INVALID_PARAM"),
        (login("alice", initial_device_display_name="x" * (MAX_NAME + 1)), 400, "M_INVALID_PARAM"),
    ],
)
def test_a_login_that_is_refused(tmp_path: Path, body: dict[str, Any], status: int, errcode: str) -> None:
    async def work(home: HomeHere) -> None:
        await home.register("alice")
        found, answer = await home.request("POST", f"{V3}/login", body)
        assert (found, answer["errcode"]) == (status, errcode)

    run(tmp_path, work)


def test_a_second_login_on_a_device_ends_its_first_token_and_keeps_its_name(tmp_path: Path) -> None:
    async def work(home: HomeHere) -> None:
        await home.register("alice")
        first = await home.must(
            "POST", f"{V3}/login", login("alice", device_id="A", initial_device_display_name="desk")
        )
        second = await home.must(
            "POST", f"{V3}/login", login("alice", device_id="A", initial_device_display_name="other")
        )
        status, answer = await home.request("GET", f"{V3}/account/whoami", token=first["access_token"])
        assert (status, answer["errcode"]) == (401, "M_UNKNOWN_TOKEN")
        listed = await home.must("GET", f"{V3}/devices", token=second["access_token"])
        assert listed == {"devices": [{"device_id": "A", "display_name": "desk"}]}

    run(tmp_path, work)


def test_a_user_has_a_bounded_number_of_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "MAX_DEVICES", 2)

    async def work(home: HomeHere) -> None:
        await home.register("alice")
        await home.login("alice", "A")
        await home.login("alice", "B")
        status, answer = await home.request("POST", f"{V3}/login", login("alice", device_id="C"))
        assert (status, answer["errcode"]) == (403, "M_FORBIDDEN")
        await home.login("alice", "B")

    run(tmp_path, work)


# -- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "errcode"),
    [
        (None, "M_MISSING_TOKEN"),
        ("", "M_MISSING_TOKEN"),
        ("Basic YQ==", "M_MISSING_TOKEN"),
        ("Bearer ", "M_UNKNOWN_TOKEN"),
        ("Bearer x", "M_UNKNOWN_TOKEN"),
        ("Bearer ...", "M_UNKNOWN_TOKEN"),
        ("Bearer YWxpY2U.AAAA", "M_UNKNOWN_TOKEN"),
        ("Bearer /////w.AAAA", "M_UNKNOWN_TOKEN"),
        ("Bearer ÿ.ÿ", "M_UNKNOWN_TOKEN"),
        ("Bearer " + "A" * 513, "M_MISSING_TOKEN"),
    ],
)
def test_no_token_and_a_wrong_one(tmp_path: Path, header: str | None, errcode: str) -> None:
    async def work(home: HomeHere) -> None:
        await home.register("alice")
        headers = {} if header is None else {"Authorization": header}
        status, answer = await home.request("GET", f"{V3}/account/whoami", headers=headers)
        assert (status, answer["errcode"]) == (401, errcode)
        status, answer = await home.request("GET", f"{V3}/account/whoami?access_token=x")
        assert (status, answer["errcode"]) == (401, "M_MISSING_TOKEN")

    run(tmp_path, work)


def test_the_database_holds_no_token_and_no_password(tmp_path: Path) -> None:
    tokens = []

    async def work(home: HomeHere) -> None:
        await home.register("alice")
        token = (await home.login("alice", "A")).token
        tokens.append(token)
        assert PASSWORD not in str(home.log)
        assert token not in str(home.log)
        assert "alice" not in str(home.log)

    run(tmp_path, work)
    held = b"".join(file.read_bytes() for file in tmp_path.glob("home.db*"))
    assert b"alice" in held
    assert tokens[0].partition(".")[2].encode() not in held
    assert PASSWORD.encode() not in held


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789._=/+-", min_size=1, max_size=100))
def test_a_token_names_its_user(localpart: str) -> None:
    token = accounts.new_token(Address(f"@{localpart}:home.example"))
    assert len(token) <= accounts.MAX_TOKEN
    assert token.isascii()
    assert token != accounts.new_token(Address(f"@{localpart}:home.example"))


def test_logging_out_removes_the_device_with_all_that_is_its(tmp_path: Path) -> None:
    async def work(home: HomeHere) -> None:
        await home.register("alice")
        first, second = await home.login("alice", "A"), await home.login("alice", "B")
        await home.must("POST", f"{V3}/logout", token=first.token)
        assert (await home.request("GET", f"{V3}/account/whoami", token=first.token))[0] == 401
        listed = await home.must("GET", f"{V3}/devices", token=second.token)
        assert listed == {"devices": [{"device_id": "B"}]}
        await home.must("POST", f"{V3}/logout/all", token=second.token)
        assert (await home.request("GET", f"{V3}/account/whoami", token=second.token))[0] == 401

        def left(table: str) -> int:
            return int(home.home.db.read(lambda conn: conn.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]))

        assert {table: left(table) for table in accounts._DEVICE_TABLES} == dict.fromkeys(accounts._DEVICE_TABLES, 0)

    run(tmp_path, work)


# -- devices --------------------------------------------------------------------------------------------------------


def test_devices_are_shown_and_renamed(tmp_path: Path) -> None:
    async def work(home: HomeHere) -> None:
        await home.register("alice")
        await home.register("bob")
        token = (await home.login("alice", "A/1")).token
        await home.login("bob", "B")
        path = f"{V3}/devices/A%2F1"
        await home.must("PUT", path, {"display_name": "désk"}, token)
        assert await home.must("GET", path, token=token) == {"device_id": "A/1", "display_name": "désk"}
        for other in ("B", "a%2F1", "A%252F1"):
            for method in ("GET", "PUT"):
                status, answer = await home.request(method, f"{V3}/devices/{other}", {"display_name": "x"}, token)
                assert (status, answer["errcode"]) == (404, "M_NOT_FOUND")
        for name in ("a\nb", "\x1b]0;x\x07", "x" * (MAX_NAME + 1)):
            status, answer = await home.request("PUT", path, {"display_name": name}, token)
            assert (status, answer["errcode"]) == (400, "M_INVALID_PARAM")

    run(tmp_path, work)


def test_a_device_is_removed_by_who_knows_the_password(tmp_path: Path) -> None:
    async def work(home: HomeHere) -> None:
        await home.register("alice")
        await home.register("bob")
        token = (await home.login("alice", "A")).token
        for device in ("B", "C", "D"):
            await home.login("alice", device)
        status, asked = await home.request("DELETE", f"{V3}/devices/B", token=token)
        assert (status, asked["flows"]) == (401, [{"stages": ["m.login.password"]}])
        for wrong in (confirmed("alice", asked["session"], "wrong one"), confirmed("bob", asked["session"])):
            status, answer = await home.request("DELETE", f"{V3}/devices/B", wrong, token)
            assert (status, answer["errcode"]) == (401, "M_FORBIDDEN")
        # The session for one device does not remove another one.
        status, answer = await home.request("DELETE", f"{V3}/devices/C", confirmed("alice", asked["session"]), token)
        assert (status, answer["errcode"]) == (401, "M_FORBIDDEN")
        await home.must("DELETE", f"{V3}/devices/B", confirmed("alice", asked["session"]), token)
        _, asked = await home.request("POST", f"{V3}/delete_devices", {"devices": ["C"]}, token)
        more = {"devices": ["C", "D"], **confirmed("alice", asked["session"])}
        assert (await home.request("POST", f"{V3}/delete_devices", more, token))[0] == 401
        done = {"devices": ["C"], **confirmed("alice", asked["session"])}
        await home.must("POST", f"{V3}/delete_devices", done, token)
        listed = await home.must("GET", f"{V3}/devices", token=token)
        assert [each["device_id"] for each in listed["devices"]] == ["A", "D"]

    run(tmp_path, work)


# -- passwords and limits -------------------------------------------------------------------------------------------


def test_a_password_matches_its_hash_and_nothing_else() -> None:
    hashed = pwhash.hash("tea at four")
    assert hashed.startswith(f"$argon2id$v=19$m={pwhash.MEMORY // 1024},t={pwhash.PASSES},p=1$")
    assert pwhash.hash("tea at four") != hashed
    assert pwhash.matches(hashed, "tea at four")
    assert not pwhash.matches(hashed, "tea at five")
    assert not pwhash.matches("no hash", "tea at four")


def test_who_is_not_there_costs_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    worked: list[str] = []
    real = pwhash.matches
    monkeypatch.setattr(pwhash, "matches", lambda hashed, password: worked.append(hashed) or real(hashed, password))

    async def main() -> None:
        ours = passwords.Passwords()
        assert not await ours.matches(None, PASSWORD)
        assert await ours.matches(await ours.hash(PASSWORD), PASSWORD)
        ours.close()

    asyncio.run(main())
    assert len(worked) == 2
    assert worked[0].rpartition("$")[0].rpartition("$")[0] == worked[1].rpartition("$")[0].rpartition("$")[0]


def test_only_so_many_wait_for_their_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "MAX_WAITING", 2)

    async def work(home: HomeHere) -> None:
        done = await asyncio.gather(*(home.request("POST", f"{V3}/login", login(f"u{i}")) for i in range(4)))
        assert sorted(status for status, _ in done) == [403, 403, 429, 429]

    run(tmp_path, work)


def test_who_guesses_a_password_is_stopped_and_locks_nobody_out(tmp_path: Path) -> None:
    clock = Clock()

    async def work(home: HomeHere) -> None:
        await home.register("alice")
        token = (await home.login("alice", "A")).token
        await home.login("alice", "B")
        wrong, stranger = login("alice", "a wrong one"), "192.0.2.66"
        for _ in range(2):
            assert (await home.request("POST", f"{V3}/login", wrong, client=stranger))[0] == 403
        for guess in (wrong, login("alice")):
            status, headers, answer = await home.full("POST", f"{V3}/login", guess, client=stranger)
            assert (status, answer["errcode"]) == (429, "M_LIMIT_EXCEEDED")
            assert 0 < answer["retry_after_ms"] <= 5_001
            assert 0 < int(headers["retry-after"]) <= 6
        clock.now += 5  # so that Alice, who logged in twice, may try again herself
        _, asked = await home.request("DELETE", f"{V3}/devices/B", token=token)
        await home.must("DELETE", f"{V3}/devices/B", confirmed("alice", asked["session"]), token)
        clock.now += 5
        await home.must("POST", f"{V3}/login", login("alice"))

    run(tmp_path, work, clock=clock, limits=Limits(logins=Rate(0.2, 2), registrations=GENEROUS.registrations))


def test_one_address_may_try_ten_times_as_often_as_on_one_user(tmp_path: Path) -> None:
    async def work(home: HomeHere) -> None:
        done = [(await home.request("POST", f"{V3}/login", login(f"u{number}")))[0] for number in range(11)]
        assert done == [403] * FROM_ONE_ADDRESS + [429]
        assert (await home.request("POST", f"{V3}/login", login("u0"), client="192.0.2.2"))[0] == 403

    run(tmp_path, work, clock=Clock(), limits=Limits(logins=Rate(0.2, 1)))


def test_a_forwarded_address_counts_only_if_a_proxy_of_ours_wrote_it(tmp_path: Path) -> None:
    async def work(home: HomeHere) -> None:
        seen: list[str] = []
        home.home.limits.take = lambda kind, who, amount=1: seen.append(who) or 0.0  # type: ignore[method-assign]
        path = f"{V3}/register/available?username=a"
        for client, forwarded in (
            ("192.0.2.1", "198.51.100.7"),  # no proxy of ours: it may say what it likes
            ("10.0.0.1", "203.0.113.5, 198.51.100.7"),
            ("10.0.0.1", "203.0.113.5, 10.0.0.2"),
            ("10.0.0.1", ""),
            ("10.0.0.1", "2001:db8::1:2:3:4"),
        ):
            await home.request("GET", path, headers={"X-Forwarded-For": forwarded}, client=client)
        assert seen == ["192.0.2.1", "198.51.100.7", "203.0.113.5", "10.0.0.1", "2001:db8::/64"]

    run(tmp_path, work, proxies=("10.0.0.0/8",))


@given(
    st.floats(0.1, 100),
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 10)), max_size=60),
)
def test_a_bucket_never_gives_more_than_its_rate(per_second: float, burst: int, asks: list[tuple[float, int]]) -> None:
    clock = Clock(0.0)
    buckets = Buckets(Limits(claims=Rate(per_second, burst)), clock)
    taken = 0
    for wait, amount in asks:
        clock.now += wait
        if not buckets.take("claims", "alice", amount):
            taken += amount
        assert taken <= burst + per_second * clock.now + max(0, amount - burst) + 1e-6


def test_after_the_wait_that_is_named_it_goes() -> None:
    clock = Clock()
    buckets = Buckets(Limits(claims=Rate(2, 4)), clock)
    assert buckets.take("claims", "alice", 4) == 0
    assert buckets.take("claims", "bob") == 0
    wait = buckets.take("claims", "alice", 3)
    assert wait == pytest.approx(1.5)
    clock.now += wait + 0.001
    assert buckets.take("claims", "alice", 3) == 0
    clock.now -= 3_600  # a clock that is set back gives nothing, and takes nothing
    assert buckets.take("claims", "alice", 3) > 0


def test_more_than_a_bucket_holds_is_given_from_a_full_one_and_waited_for() -> None:
    clock = Clock()
    buckets = Buckets(Limits(claims=Rate(1, 10)), clock)
    assert buckets.take("claims", "alice", 30) == 0
    assert buckets.take("claims", "alice") == pytest.approx(21)


def test_buckets_are_bounded() -> None:
    buckets = Buckets(GENEROUS, Clock())
    for number in range(MAX_BUCKETS + 10):
        buckets.take("logins", str(number))
    assert len(buckets._buckets["logins"]) == MAX_BUCKETS


def test_one_machine_is_one_address() -> None:
    assert network_of("192.0.2.1") == network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") != network_of("2001:db8:0:1::1")
    assert network_of("testclient") == "testclient"
