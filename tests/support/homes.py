"""A private `tillie home` on loopback: a process of its own, TLS by throw-away certificates, a free port; and one in
the test's own process, without a socket.

`localhost:PORT` is a private home's name, so that homes find each other without DNS; those that share `certificates`
federate.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from support.certificates import HOST, Certificates, make_certificates
from tillie.home.app import app
from tillie.home.config import Config, Limits, Rate
from tillie.home.database import Database
from tillie.home.log import Log
from tillie.home.service import Home, load_signer, write_signing_key

PASSWORD = "only for tests"
START_SECONDS = 20.0
STOP_SECONDS = 15.0
REQUEST_SECONDS = 30.0
POLL = 0.02

_CONFIG = """\
server_name = "{name}"
registration = true
tls_certificate = "{certificates.host}"
tls_key = "{certificates.key}"
{options}
[[listen]]
port = {port}

[federation]
allow = ["127.0.0.0/8", "::1/128"]
ca_file = "{certificates.ca}"
first_retry = 0.05
longest_retry = 0.5
{federation}
[limits]
logins = {{per_second = 10000, burst = 10000}}
registrations = {{per_second = 10000, burst = 10000}}
{limits}
"""


def _environment() -> dict[str, str]:
    """The modules that the tests run with, for another process, too."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


# For tests that are not about limits.
GENEROUS = Limits(logins=Rate(1e4, 10_000), registrations=Rate(1e4, 10_000))


class Login(NamedTuple):
    """One logged-in device."""

    user: str
    device: str
    token: str


class PrivateHome:
    """A running home, as a context manager. `options`, `federation` and `limits` are further lines of its
    configuration, at the top and in these tables."""

    def __init__(
        self,
        certificates: Certificates | None = None,
        *,
        name: str = "",
        options: str = "",
        federation: str = "",
        limits: str = "",
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tillie-home-"))
        self.certificates = certificates or make_certificates(self.folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.name = name or f"{HOST}:{self.port}"
        self.base_url = f"https://{HOST}:{self.port}"
        self.log_file = self.folder / "home.log"
        self.config_file = self.folder / "home.toml"
        self.process: subprocess.Popen[bytes] | None = None
        self._tls = self.certificates.ssl_context()
        self.command("init", self.name, "--folder", str(self.folder)).check_returncode()
        self.config_file.write_text(
            _CONFIG.format(
                name=self.name,
                port=self.port,
                certificates=self.certificates,
                options=options,
                federation=federation,
                limits=limits,
            )
        )

    @property
    def ca_file(self) -> str:
        return str(self.certificates.ca)

    @property
    def database(self) -> Path:
        return self.folder / "home.db"

    @property
    def log(self) -> list[dict[str, Any]]:
        """All that it logged so far."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    # -- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> PrivateHome:
        try:
            self.start()
            self.wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Another `tillie home` command, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "tillie.cli", "home", *arguments],
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            env=_environment(),
            **options,
        )

    def start(self) -> None:
        """Start on what is there; `wait` returns when it answers."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tillie.cli", "home", "serve", "--config", str(self.config_file)],
                stdin=subprocess.DEVNULL,
                env=_environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            ended = self.process is None or self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                said = self.log_file.read_text("utf-8", "replace")[-1000:]
                raise RuntimeError(f"the home {'stopped' if ended else 'did not answer'}: {said}")
            with contextlib.suppress(OSError):
                self.request("GET", "/health")
                return
            time.sleep(POLL)

    def stop(self, *, kill: bool = False) -> int:
        """Stop the process, in order or (`kill`) at once; what it stored stays. Its exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def restart(self, *, kill: bool = False) -> None:
        self.stop(kill=kill)
        self.start()
        self.wait()

    def close(self) -> None:
        """Stop, and remove all that it wrote."""
        try:
            self.stop(kill=True)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- accounts and requests ----------------------------------------------------------------------------------------

    def register(self, localpart: str, password: str = PASSWORD) -> str:
        """A new account without a device; its user id."""
        body = {"username": localpart, "password": password, "inhibit_login": True, "auth": {"type": "m.login.dummy"}}
        return str(self.must("POST", "/_matrix/client/v3/register", body)["user_id"])

    def login(self, localpart: str, device: str, password: str = PASSWORD) -> Login:
        identifier = {"type": "m.id.user", "user": localpart}
        body = {"type": "m.login.password", "identifier": identifier, "password": password, "device_id": device}
        made = self.must("POST", "/_matrix/client/v3/login", body)
        return Login(made["user_id"], made["device_id"], made["access_token"])

    def request(
        self, method: str, path: str, body: object = None, token: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """One request; status and JSON of the answer. `body` bytes are sent as they are."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.base_url + path, data, headers or {}, method=method)
        if token:
            asked.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(asked, timeout=REQUEST_SECONDS, context=self._tls) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def must(self, method: str, path: str, body: object = None, token: str = "") -> Any:
        status, answer = self.request(method, path, body, token)
        if status != 200:
            raise RuntimeError(f"the home answered {path} with {status} {answer}")
        return answer


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class HomeHere:
    """A home in this process: requests are handed to its door. `home_here` makes one."""

    def __init__(self, home: Home, log: BytesIO) -> None:
        self.home = home
        self._door = app(home)
        self._log = log

    @property
    def log(self) -> list[dict[str, Any]]:
        self.home.log.flush()
        return [json.loads(line) for line in self._log.getvalue().splitlines()]

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        token: str = "",
        headers: dict[str, str] | None = None,
        *,
        client: str = "192.0.2.1",
    ) -> tuple[int, Any]:
        """As `PrivateHome.request`."""
        status, _, answer = await self.full(method, path, body, token, headers, client=client)
        return status, answer

    async def full(
        self,
        method: str,
        path: str,
        body: object = None,
        token: str = "",
        headers: dict[str, str] | None = None,
        *,
        client: str = "192.0.2.1",
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of the answer."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        given = {**(headers or {}), **({"authorization": f"Bearer {token}"} if token else {})}
        raw, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": raw,
            "raw_path": raw.encode("latin-1"),
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
            "client": (client, 1),
        }
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._door(scope, receive, send)
        answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], answered, json.loads(b"".join(each.get("body", b"") for each in sent[1:]))

    async def must(self, method: str, path: str, body: object = None, token: str = "") -> Any:
        status, answer = await self.request(method, path, body, token)
        assert status == 200, (path, status, answer)
        return answer

    async def register(self, localpart: str, password: str = PASSWORD) -> str:
        body = {"username": localpart, "password": password, "inhibit_login": True, "auth": {"type": "m.login.dummy"}}
        return str((await self.must("POST", "/_matrix/client/v3/register", body))["user_id"])

    async def login(self, localpart: str, device: str, password: str = PASSWORD) -> Login:
        identifier = {"type": "m.id.user", "user": localpart}
        body = {"type": "m.login.password", "identifier": identifier, "password": password, "device_id": device}
        made = await self.must("POST", "/_matrix/client/v3/login", body)
        return Login(made["user_id"], made["device_id"], made["access_token"])


@contextlib.asynccontextmanager
async def home_here(folder: Path, *, clock: Any = None, **config: Any) -> AsyncIterator[HomeHere]:
    """A home of the name "home.example", on what is in the folder, if anything; `config` are fields of
    `home.config.Config`."""
    given: dict[str, Any] = {"server_name": "home.example", "registration": True, "limits": GENEROUS, **config}
    settings = Config(**given, folder=str(folder))
    with contextlib.suppress(FileExistsError):
        write_signing_key(settings.path(settings.signing_key))
    log = BytesIO()
    database = Database(settings.path(settings.database))
    home = Home(settings, database, load_signer(settings), clock=clock or time.time, log=Log(log))
    await home.start()
    try:
        yield HomeHere(home, log)
    finally:
        await home.stop()
