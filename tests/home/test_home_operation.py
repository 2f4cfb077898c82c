"""A home as an operator has it: a process that starts, is told things by signals, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from support.certificates import make_certificates
from support.homes import PASSWORD, PrivateHome, home_here
from tillie.errors import StoreUnwritable, UsageError
from tillie.home import door, serving
from tillie.home.config import Config, Listen, load
from tillie.home.database import Database
from tillie.home.log import Log
from tillie.home.service import load_signer, write_signing_key

V3 = "/_matrix/client/v3"
WAIT = 10.0


@pytest.fixture(scope="module")
def home() -> Iterator[PrivateHome]:
    with PrivateHome() as running:
        running.register("alice")
        yield running


def until(done: Any) -> None:
    deadline = time.monotonic() + WAIT
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def raw(home: PrivateHome, data: bytes) -> bytes:
    """What the home answers to these bytes, until it hangs up."""
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", home.port), timeout=WAIT) as plain,
        home.certificates.ssl_context().wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        try:
            tls.sendall(data)
            while part := tls.recv(65_536):
                answer += part
        except (ConnectionError, ssl.SSLError):
            pass
    return answer


# -- one home, running ----------------------------------------------------------------------------------------------


def test_its_log_is_json_and_names_no_user(home: PrivateHome) -> None:
    token = home.login("alice", "LOG").token
    home.must("GET", f"{V3}/devices/LOG?secret=1", token=token)
    until(lambda: any(line.get("route") == f"{V3}/devices/{{device_id}}" for line in home.log))
    assert home.log[0]["event"] == "listening"
    text = home.log_file.read_text()
    for secret in (token, "secret", "alice", "LOG", PASSWORD):
        assert secret not in text


def test_what_nobody_caught_is_in_the_log_without_what_it_said() -> None:
    lines = BytesIO()

    async def fails() -> None:
        raise ValueError("tea at four")

    async def main() -> None:
        serving._keep_quiet(Log(lines))
        task: Any = asyncio.create_task(fails())
        await asyncio.wait([task])
        del task
        gc.collect()
        asyncio.get_running_loop().call_exception_handler({"message": "An odd thing\ntea at four"})
        logging.getLogger("asyncio").warning("Another one\ntea at four %s", "tea")

    asyncio.run(main())
    found = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(each["event"], each.get("kind"), each.get("detail")) for each in found] == [
        ("fault", "ValueError", None),
        ("library", None, "An odd thing"),
        ("library", None, "Another one"),
    ]
    assert "tea" not in lines.getvalue().decode()


def test_it_takes_little_memory(home: PrivateHome) -> None:
    assert home.process is not None
    status = Path(f"/proc/{home.process.pid}/status").read_text()
    assert int(status.partition("VmRSS:")[2].split()[0]) < 80 * 1024


def test_a_second_one_on_the_same_database_is_refused(home: PrivateHome) -> None:
    done = home.command("serve", "--config", str(home.config_file))
    assert (done.returncode, done.stdout) == (2, "")
    assert "Another 'tillie home serve' runs" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_account_is_added_while_it_runs(home: PrivateHome) -> None:
    given = ("--password-file", "-", "--config", str(home.config_file))
    done = home.command("adduser", "carol", *given, said="carols password\n")
    assert (done.returncode, done.stdout) == (0, f"@carol:{home.name} is made.\n")
    assert home.login("carol", "C", "carols password").user == f"@carol:{home.name}"


def test_what_is_no_http_is_hung_up_on(home: PrivateHome) -> None:
    assert raw(home, b"\x00\x01\x02\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert home.request("GET", "/health")[0] == 200


def test_a_head_that_does_not_end_is_hung_up_on(home: PrivateHome) -> None:
    line = b"X-More: " + b"x" * 1_000 + b"\r\n"
    assert raw(home, b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + line * 400) == b""
    assert home.request("GET", "/health")[0] == 200


@contextlib.asynccontextmanager
async def served(folder: Path) -> AsyncIterator[int]:
    """A home in this process, on a plain socket; its port."""
    async with home_here(folder) as here:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving_it = asyncio.create_task(serving.serve(here.home, [listener], [None]))
            await asyncio.sleep(0)
            try:
                async with asyncio.timeout(WAIT):
                    yield listener.getsockname()[1]
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                await serving_it


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """One answer: its status, and its head in lower case."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    return int(head.split()[1]), head


UPLOAD = f"POST {V3}/keys/upload HTTP/1.1\r\nHost: localhost\r\n".encode()
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_a_head_or_the_rest_of_a_body_that_comes_too_slowly_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, where nobody has to wait for it."""
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(door, "LINGER_SECONDS", 0.2)

    async def hung_up(port: int, data: bytes, drip: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        answer = asyncio.ensure_future(reader.read())
        while not answer.done():
            writer.write(drip)
            await asyncio.wait([answer], timeout=0.02)
        writer.close()
        try:
            return answer.result()
        except ConnectionError:
            return b""

    async def main() -> None:
        async with served(tmp_path) as port:
            assert await hung_up(port, b"", b"") == b""
            assert await hung_up(port, b"GET /health HTTP/1.1\r\n", b"X: y\r\n") == b""
            assert await hung_up(port, b"", b"\r\n") == b""
            for length in (door.MAX_DROPPED, 99_999_999):
                head = UPLOAD + b"Content-Length: %d\r\n\r\n" % length
                assert b"M_MISSING_TOKEN" in await hung_up(port, head, b" ")

    asyncio.run(main())


@pytest.mark.parametrize("length", [10, door.MAX_DROPPED])
@pytest.mark.parametrize("is_late", [False, True])
def test_a_request_that_is_refused_costs_the_next_one_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, is_late: bool
) -> None:
    """Its body, which nobody reads, comes with it or behind the answer; the next request right then or later."""
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.2)

    async def main() -> None:
        async with served(tmp_path) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for behind in (HEALTH, b""):
                head = UPLOAD + b"Content-Length: %d\r\n\r\n" % length
                writer.write(head if is_late else head + b"x" * length)
                status, head = await answer_of(reader)
                assert (status, b"connection: close" in head) == (401, False)
                writer.write(b"x" * length * is_late + behind)
                if not behind:
                    await asyncio.sleep(0.4)  # longer than a head may take: the connection is idle, not slow
                    writer.write(HEALTH)
                assert (await answer_of(reader))[0] == 200
            writer.close()

    asyncio.run(main())


def test_the_keep_alive_of_a_refused_request_does_not_end_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "KEEP_ALIVE_SECONDS", 0.1)

    async def main() -> None:
        async with served(tmp_path) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(UPLOAD + b"Content-Length: 10\r\n\r\n")
            assert (await answer_of(reader))[0] == 401
            login = f"POST {V3}/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n".encode()
            writer.write(b"x" * 10 + login)
            await asyncio.sleep(0.3)
            writer.write(b"{}")
            assert (await answer_of(reader))[0] == 400
            assert await reader.read() == b""  # and then it ends, being idle
            writer.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: %d" % (door.MAX_DROPPED + 1), b"x" * (door.MAX_DROPPED + 1)),
        (b"Content-Length: 8000000", b"x" * 8_000_000),
        (b"Transfer-Encoding: chunked", b"1\r\nx\r\n0\r\n\r\n"),
        (b"Content-Length: 10\r\nExpect: 100-continue", b""),
    ],
    ids=["edge", "long", "chunked", "expected"],
)
def test_a_long_body_that_nobody_reads_ends_the_connection_and_the_answer_says_so(
    tmp_path: Path, framing: bytes, body: bytes
) -> None:
    async def main() -> None:
        async with served(tmp_path) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(UPLOAD + framing + b"\r\n\r\n")
            await asyncio.sleep(0.1)  # the answer is there before the body
            writer.write(body)
            await writer.drain()
            status, head = await answer_of(reader)
            assert (status, b"connection: close" in head) == (401, True)
            if not body:
                writer.write_eof()
            assert await reader.read() == b""
            writer.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "first",
    [
        f"POST {V3}/login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        f"POST {V3}/login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n0\r\nX: ",
        f"GET {V3}/sync?timeout=20000&since=TOKEN HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ALICE\r\n\r\n"
        "GET / HTTP/1.1\r\n",
    ],
    ids=["trailers", "one trailer", "behind a long poll"],
)
def test_what_is_kept_of_heads_is_bounded_wherever_they_come(home: PrivateHome, first: str) -> None:
    token = home.login("alice", "HEADS").token
    since = home.must("GET", f"{V3}/sync", token=token)["next_batch"]
    data = first.replace("TOKEN", since).replace("ALICE", token).encode()
    assert raw(home, data + (b"X-More: " + b"x" * 1_000 + b"\r\n") * 20_000) == b""
    assert home.request("GET", "/health")[0] == 200


@pytest.mark.parametrize("framing", ["length", "chunked", "announced"])
def test_a_huge_body_is_refused(home: PrivateHome, framing: str) -> None:
    head = f"POST {V3}/login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode()
    size = 2 << 20
    if framing == "length":
        answer = raw(home, head + b"Content-Length: %d\r\n\r\n" % size + b" " * size)
    elif framing == "chunked":
        answer = raw(home, head + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n" % size + b" " * size)
    else:
        answer = raw(home, head + b"Content-Length: %d\r\n\r\n" % size)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"M_TOO_LARGE" in answer


def test_bad_input_makes_no_fault(home: PrivateHome) -> None:
    for body in (b"", b"\xff", b"[" * 50_000, b'{"a":' * 9_000, b"\xef\xbb\xbf{}", b'{"type":"\\ud800"}'):
        status, answer = home.request("POST", f"{V3}/login", body)
        assert (status, answer["errcode"]) == (400, "M_NOT_JSON")
    assert not [line for line in home.log if line["event"] == "fault"]


def test_a_new_certificate_is_taken_at_a_signal_and_a_broken_one_is_not(home: PrivateHome, tmp_path: Path) -> None:
    assert home.process is not None
    made = make_certificates(tmp_path)
    other = made.ssl_context()

    def is_shown() -> bool:
        with socket.create_connection(("127.0.0.1", home.port), timeout=WAIT) as plain:
            try:
                with other.wrap_socket(plain, server_hostname="localhost"):
                    return True
            except ssl.SSLCertVerificationError:
                return False

    kept = [(file, file.read_bytes()) for file in (home.certificates.host, home.certificates.key)]
    try:
        home.certificates.host.write_text("broken")
        home.process.send_signal(signal.SIGHUP)
        until(lambda: any(line["event"] == "certificates_not_loaded" for line in home.log))
        assert home.request("GET", "/health")[0] == 200
        shutil.copy(made.host, home.certificates.host)
        shutil.copy(made.key, home.certificates.key)
        assert not is_shown()
        home.process.send_signal(signal.SIGHUP)
        until(is_shown)
    finally:
        for file, content in kept:
            file.write_bytes(content)
        home.process.send_signal(signal.SIGHUP)
        until(lambda: not is_shown())


# -- its end --------------------------------------------------------------------------------------------------------


def test_it_ends_in_order_while_somebody_waits_and_starts_again_on_what_was_there() -> None:
    with PrivateHome() as home:
        home.register("alice")
        token = home.login("alice", "A").token
        since = home.must("GET", f"{V3}/sync", token=token)["next_batch"]
        answers: list[Any] = []
        waiting = threading.Thread(
            target=lambda: answers.append(home.request("GET", f"{V3}/sync?since={since}&timeout=25000", token=token))
        )
        waiting.start()
        time.sleep(0.3)  # so that it waits there; if it did not yet, it is answered all the same
        began = time.monotonic()
        assert home.stop() == 0
        waiting.join(WAIT)
        assert time.monotonic() - began < WAIT
        assert answers[0][0] == 200
        assert home.log[-1]["event"] == "stopped"
        home.start()
        home.wait()
        assert home.must("GET", f"{V3}/account/whoami", token=token)["device_id"] == "A"


def test_after_a_kill_what_was_answered_is_there() -> None:
    with PrivateHome() as home:
        home.register("alice")
        token = home.login("alice", "A").token
        home.restart(kill=True)
        assert home.must("GET", f"{V3}/account/whoami", token=token)["device_id"] == "A"


# -- what keeps it from starting ------------------------------------------------------------------------------------


def config(folder: Path, **more: Any) -> Config:
    return Config(server_name="home.example", folder=str(folder), **more)


def test_the_signing_key_is_its_owners_alone(tmp_path: Path) -> None:
    write_signing_key(tmp_path / "signing.key")
    assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600
    signer = load_signer(config(tmp_path))
    assert signer.key_id.startswith("ed25519:a_")
    assert signer.seed.hex() not in repr(signer)
    with pytest.raises(FileExistsError):
        write_signing_key(tmp_path / "signing.key")


def test_the_database_is_its_owners_alone(tmp_path: Path) -> None:
    database = Database(tmp_path / "home.db")
    found = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.glob("home.db*")}
    assert found == {"home.db": 0o600, "home.db-wal": 0o600, "home.db-shm": 0o600}
    asyncio.run(database.close())


@pytest.mark.parametrize("text", ["", "ed25519 a_1", "rsa a_1 AAAA", "ed25519 a-1 " + "A" * 43, "ed25519 a_1 AAAA"])
def test_what_is_no_signing_key_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "signing.key").write_text(text)
    with pytest.raises(UsageError, match=r"signing\.key"):
        load_signer(config(tmp_path))


def test_a_signing_key_of_synapse_is_read(tmp_path: Path) -> None:
    (tmp_path / "signing.key").write_text("ed25519 a_OmAP YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0\n")
    assert load_signer(config(tmp_path)).key_id == "ed25519:a_OmAP"


@pytest.mark.parametrize(
    "text",
    [
        "server_name = ",
        "",
        'server_name = "no name"',
        'server_name = "a.example"\nunknown = 1',
        'server_name = "a.example"\nregistration = "yes"',
        'server_name = "a.example"\nproxies = ["nonsense"]',
        'server_name = "a.example"\n[limits.claims]\nper_second = 1\nburst = 0',
        'server_name = "a.example"\n[limits.claims]\nper_second = -1\nburst = 1',
        'server_name = "a.example"\n[federation]\nallow = ["10.0.0.1/8"]',
        'server_name = "a.example"\n[federation]\ntimeout = 0',
        'server_name = "a.example"\n[federation]\nlongest_retry = inf',
        'server_name = "a.example"\n[limits.claims]\nper_second = inf\nburst = 1',
        'server_name = "a.example"\nlisten = []',
        'server_name = "a.example"\n[[listen]]\nport = -1',
        'server_name = "a.example"\n[[listen]]\nport = 65536',
        'server_name = "a.example" # \xff',
    ],
)
def test_a_configuration_that_is_wrong_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "home.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"home\.toml"):
        load(tmp_path / "home.toml")


def test_a_taken_port_and_a_missing_certificate_are_named(tmp_path: Path) -> None:
    write_signing_key(tmp_path / "signing.key")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="Can't listen"):
        serving.run(config(tmp_path, listen=(Listen(port=taken.getsockname()[1], tls=False),)))
    with pytest.raises(UsageError, match="tls_certificate"):
        serving.run(config(tmp_path, listen=(Listen(port=0),)))
    given = {"tls_certificate": "none.crt", "tls_key": "none.key"}
    with pytest.raises(UsageError, match="can't be loaded"):
        serving.run(config(tmp_path, listen=(Listen(port=0),), **given))


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "home.db").write_bytes(b"x" * 4_096)
    with pytest.raises(StoreUnwritable, match=r"home\.db"):
        Database(tmp_path / "home.db")
    with pytest.raises(StoreUnwritable, match=r"nowhere"):
        Database(tmp_path / "nowhere" / "home.db")


@pytest.mark.skipif(shutil.which("unshare") is None or os.getuid() != 0, reason="mounts nothing read-only here")
def test_a_read_only_disk_is_named(tmp_path: Path) -> None:
    """Nobody stops root by permissions: a read-only mount does, in a mount namespace of its own."""
    folder = tmp_path / "home"
    with PrivateHome() as home:
        home.stop()
        shutil.copytree(home.folder, folder)
        script = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
        serve = [sys.executable, "-m", "tillie.cli", "home", "serve", "--config", str(folder / "home.toml")]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", str(folder), *serve],
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    if "mount:" in done.stderr:
        pytest.skip("this machine lets nobody mount")
    assert done.returncode == 5
    assert "read-only" in done.stderr.lower()
    assert "Traceback" not in done.stderr
