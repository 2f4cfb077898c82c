"""A private `tillie home` on loopback: a process of its own, TLS by throw-away certificates, a free port; and one in
the test's own process, without a socket.

`localhost:PORT` is a private home's name, so that homes find each other without DNS; those that share `certificates`
federate.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from support.certificates import Certificates, make_certificates
from support.matrix_api import password_login
from tillie.demo import home as demo
from tillie.home.app import app
from tillie.home.config import Config, Limits, Rate
from tillie.home.database import Database
from tillie.home.log import Log
from tillie.home.service import Home, load_signer, write_signing_key

PASSWORD = "only for tests"

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


# For tests that are not about limits.
GENEROUS = Limits(logins=Rate(1e4, 10_000), registrations=Rate(1e4, 10_000))


class Login(NamedTuple):
    """One logged-in device."""

    user: str
    device: str
    token: str


class PrivateHome(demo.PrivateHome):
    """A running home with a folder of its own, as a context manager. `options`, `federation` and `limits` are further
    lines of its configuration, at the top and in these tables."""

    def __init__(
        self,
        certificates: Certificates | None = None,
        *,
        name: str = "",
        options: str = "",
        federation: str = "",
        limits: str = "",
    ) -> None:
        folder = Path(tempfile.mkdtemp(prefix="tillie-home-"))
        super().__init__(folder, certificates or make_certificates(folder), name)
        self._more = {"options": options, "federation": federation, "limits": limits}
        self.make()

    def config(self) -> str:
        return _CONFIG.format(name=self.name, port=self.port, certificates=self.certificates, **self._more)

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
        return super().register(localpart, password)

    def login(self, localpart: str, device: str, password: str = PASSWORD) -> Login:
        made = self.must("POST", "/_matrix/client/v3/login", password_login(localpart, password, device))
        return Login(made["user_id"], made["device_id"], made["access_token"])

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
        made = await self.must("POST", "/_matrix/client/v3/login", password_login(localpart, password, device))
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
