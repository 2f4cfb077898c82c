"""Bad input at the door of a home: always a Matrix error with the right code, never a fault (B58, B60, B62)."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.homes import PASSWORD, HomeHere, home_here
from tillie.errors import StoreUnwritable
from tillie.home import answers
from tillie.home.routes_accounts import MAX_BODY

V3 = "/_matrix/client/v3"


def run(folder: Path, work: Callable[[HomeHere], Coroutine[Any, Any, None]], **config: Any) -> None:
    async def whole() -> None:
        async with home_here(folder, **config) as home:
            await work(home)

    asyncio.run(whole())


def faults(home: HomeHere) -> list[Any]:
    return [line for line in home.log if line["event"] == "fault"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/_matrix/client/v3/rooms", 404),
        ("POST", "/_matrix/client/v3/../../etc/passwd", 404),
        ("GET", f"{V3}/devices/", 404),
        ("GET", f"{V3}/devices/a/b", 404),
        ("GET", f"{V3}/devices/{{device_id}}/x", 404),
        ("GET", f"{V3}/login/", 404),
        ("PUT", f"{V3}/login", 405),
        ("POST", "/health", 405),
        ("PATCH", f"{V3}/devices/A", 405),
    ],
)
def test_unknown_paths_and_methods(tmp_path: Path, method: str, path: str, status: int) -> None:
    async def work(home: HomeHere) -> None:
        found, answer = await home.request(method, path)
        assert (found, answer["errcode"]) == (status, "M_UNRECOGNIZED")

    run(tmp_path, work)


def test_browsers_are_answered(tmp_path: Path) -> None:
    async def work(home: HomeHere) -> None:
        for method, path in (("OPTIONS", f"{V3}/login"), ("GET", "/_matrix/client/versions"), ("GET", "/nothing")):
            _, headers, _ = await home.full(method, path)
            assert headers["access-control-allow-origin"] == "*"
            assert "PUT" in headers["access-control-allow-methods"]
            assert "Authorization" in headers["access-control-allow-headers"]
            assert headers["content-type"] == "application/json"
        assert (await home.request("OPTIONS", f"{V3}/login"))[0] == 200

    run(tmp_path, work)


BAD = [
    (b"", "M_NOT_JSON"),
    (b"{", "M_NOT_JSON"),
    (b"\xff\xfe", "M_NOT_JSON"),
    (b"\xef\xbb\xbf{}", "M_NOT_JSON"),
    (b"[" * 100_000, "M_TOO_LARGE"),
    (b"[" * 60_000, "M_NOT_JSON"),
    (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "M_NOT_JSON"),
    (b'{"type":"a","type":"b"}', "M_NOT_JSON"),
    (b'{"type":"\\ud800"}', "M_NOT_JSON"),
    (b'{"type":1.5}', "M_NOT_JSON"),
    (b'{"type":' + b"9" * 5_000 + b"}", "M_NOT_JSON"),
    (b'{"type":NaN}', "M_NOT_JSON"),
    (b'{"__proto__":{}}', "M_BAD_JSON"),
    (b"[]", "M_BAD_JSON"),
    (b"null", "M_BAD_JSON"),
    (b'"text"', "M_BAD_JSON"),
    (b'{"type":null}', "M_BAD_JSON"),
    (b'{"type":"m.login.password","identifier":[]}', "M_BAD_JSON"),
    (b" " * (MAX_BODY + 1), "M_TOO_LARGE"),
    (b" " * MAX_BODY, "M_NOT_JSON"),
]


@pytest.mark.parametrize(("body", "errcode"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_bad_bodies(tmp_path: Path, body: bytes, errcode: str) -> None:
    async def work(home: HomeHere) -> None:
        status, answer = await home.request("POST", f"{V3}/login", body)
        assert (status, answer["errcode"]) == (413 if errcode == "M_TOO_LARGE" else 400, errcode)
        assert not faults(home)

    run(tmp_path, work)


@given(st.lists(st.tuples(st.sampled_from(["POST", "PUT", "DELETE", "GET"]), st.binary(max_size=80)), max_size=6))
@settings(max_examples=25)
def test_whatever_comes_is_answered_without_a_fault(asks: list[tuple[str, bytes]]) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with home_here(Path(folder)) as home:
                await home.register("alice")
                token = (await home.login("alice", "A")).token
                for method, body in asks:
                    for path in ("login", "register", "devices/%41", "delete_devices", "keys/upload", "keys/query"):
                        status, answer = await home.request(method, f"{V3}/{path}", body, token)
                        assert status < 500, (method, path, body)
                        assert status == 200 or isinstance(answer, dict)
                assert not faults(home)

    asyncio.run(main())


@pytest.mark.parametrize("name", ["%FF", "%ED%A0%80", "%C0%80"])
def test_a_path_that_is_not_utf8(tmp_path: Path, name: str) -> None:
    async def work(home: HomeHere) -> None:
        status, answer = await home.request("GET", f"{V3}/devices/{name}")
        assert (status, answer["errcode"]) == (400, "M_INVALID_PARAM")

    run(tmp_path, work)


def test_a_fault_of_ours_is_told_without_what_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(conn: object) -> None:
        raise ValueError("the password is tea at four")

    async def work(home: HomeHere) -> None:
        monkeypatch.setattr(home.home.db, "read", fault)
        status, answer = await home.request("GET", "/health?secret")
        assert (status, answer["errcode"]) == (500, "M_UNKNOWN")
        (line,) = faults(home)
        assert (line["kind"], line["route"]) == ("ValueError", "/health")
        assert any("fault" in place for place in line["trace"])
        assert "tea" not in str(home.log) + str(answer)
        assert "secret" not in str(home.log)

    run(tmp_path, work)


def test_a_full_disk_stops_writing_and_not_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(home: HomeHere) -> None:
        await home.register("alice")
        token = (await home.login("alice", "A")).token

        async def full(work: object) -> None:
            raise StoreUnwritable("database or disk is full")

        monkeypatch.setattr(home.home.db, "write", full)
        status, answer = await home.request("PUT", f"{V3}/devices/A", {"display_name": "x"}, token)
        assert (status, answer["errcode"]) == (503, "M_UNKNOWN")
        await home.must("GET", f"{V3}/devices", token=token)
        assert [line["detail"] for line in home.log if line["event"] == "unwritable"] == ["database or disk is full"]

    run(tmp_path, work)


def test_a_full_database_is_told_by_health_until_it_can_be_written_again(tmp_path: Path) -> None:
    async def work(home: HomeHere) -> None:
        await home.register("alice")
        token = (await home.login("alice", "A")).token

        def limit(pages: int) -> Any:
            return lambda conn: conn.execute(f"PRAGMA max_page_count = {pages}").fetchone()

        def fill(conn: Any) -> None:
            for number in range(2_000):
                conn.execute("INSERT INTO users VALUES (?, ?, 0, 0, 0)", (f"@{number}:x", "x" * 1_000))

        await home.home.db.write(limit(1))  # as many as there are
        with pytest.raises(StoreUnwritable):
            await home.home.db.write(fill)
        assert (await home.request("GET", "/health")) == (503, {"status": "unwritable"})
        await home.must("GET", f"{V3}/devices", token=token)
        await home.home.db.write(limit(1_000_000))
        assert (await home.must("GET", "/health")) == {"status": "ok"}
        await home.login("alice", "B", PASSWORD)

    run(tmp_path, work)


def test_a_slow_body_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "BODY_SECONDS", 0.05)

    async def work(home: HomeHere) -> None:
        sent: list[Any] = []

        async def receive() -> Any:
            if not sent:
                sent.append(None)
                return {"type": "http.request", "body": b"{", "more_body": True}
            await asyncio.Event().wait()

        answered: list[Any] = []

        async def send(message: Any) -> None:
            answered.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "raw_path": f"{V3}/login".encode(),
            "query_string": b"",
            "headers": [],
            "client": ("192.0.2.1", 1),
        }
        await home._door(scope, receive, send)
        assert answered[0]["status"] == 408

    run(tmp_path, work)


def test_where_clients_and_servers_find_the_home(tmp_path: Path) -> None:
    async def work(home: HomeHere) -> None:
        found = await home.must("GET", "/.well-known/matrix/client")
        assert found == {"m.homeserver": {"base_url": "https://matrix.home.example"}}
        assert await home.must("GET", "/.well-known/matrix/server") == {"m.server": "matrix.home.example:443"}
        assert "v1.2" in (await home.must("GET", "/_matrix/client/versions"))["versions"]

    run(tmp_path, work, public_url="https://matrix.home.example", federation_name="matrix.home.example:443")


def test_a_home_that_says_nothing_is_found_by_its_name(tmp_path: Path) -> None:
    async def work(home: HomeHere) -> None:
        for kind in ("client", "server"):
            status, answer = await home.request("GET", f"/.well-known/matrix/{kind}")
            assert (status, answer["errcode"]) == (404, "M_NOT_FOUND")

    run(tmp_path, work)
