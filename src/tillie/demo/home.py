"""A private `tillie home` on loopback: a process of its own, a free port, a scratch folder, real TLS.

Its name holds the port ("localhost:28448"), so other homes need neither DNS nor .well-known to find it. It is an
ordinary home in all but its limits on registering and logging in, which its few people would meet.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from tillie.cli import exits
from tillie.demo import processes
from tillie.demo.certificates import write_certificates
from tillie.errors import Rejected, Unreachable, UsageError

HOST = "localhost"
START_SECONDS = 30.0
STOP_SECONDS = 15.0  # it gives what it is at 10
REQUEST_SECONDS = 30.0
POLL = 0.02
MAX_SAID = 1_000  # characters of a log, at its end

_CONFIG = """\
server_name = "{name}"
tls_certificate = "{certificates.host}"
tls_key = "{certificates.key}"
registration = true

[[listen]]
port = {port}

[federation]
allow = ["127.0.0.0/8", "::1/128"]
ca_file = "{certificates.ca}"

[limits]
logins = {{ per_second = 1000, burst = 1000 }}
registrations = {{ per_second = 1000, burst = 1000 }}
"""


class Certificates(NamedTuple):
    """PEM files: a throw-away authority, and a certificate for `HOST` with its key, which all homes show."""

    ca: Path
    host: Path
    key: Path

    def ssl_context(self) -> ssl.SSLContext:
        """Certificate and host name checks on, this authority the only one trusted."""
        return ssl.create_default_context(cafile=str(self.ca))


def make_certificates(folder: Path) -> Certificates:
    """New ones in a folder that is there."""
    made = Certificates(folder / "ca.crt", folder / "host.crt", folder / "host.key")
    write_certificates([HOST], *made)
    return made


class PrivateHome:
    """A home in `folder`, which is made, on 127.0.0.1. What it wrote stays there for the next `start`. Homes with the
    same certificates federate."""

    def __init__(self, folder: Path, certificates: Certificates, name: str = "") -> None:
        self.folder = folder
        self.certificates = certificates
        (self.port,) = processes.free_ports(1)
        self.name = name or f"{HOST}:{self.port}"
        self.base_url = f"https://{HOST}:{self.port}"
        self.config_file = folder / "home.toml"
        self.database = folder / "home.db"
        self.log_file = folder / "home.log"
        self.process: subprocess.Popen[bytes] | None = None
        # What the environment says of proxies is not for loopback.
        tls = urllib.request.HTTPSHandler(context=certificates.ssl_context())
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), tls)

    def make(self) -> None:
        """Make its configuration and signing key. Raises `UsageError`."""
        self._must("init", self.name, "--folder", str(self.folder))
        self.config_file.write_text(self.config())

    def config(self) -> str:
        """What its configuration says."""
        return _CONFIG.format(name=self.name, port=self.port, certificates=self.certificates)

    @property
    def ca_file(self) -> str:
        return str(self.certificates.ca)

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it on what is there; `wait` returns when it answers."""
        with self.log_file.open("ab") as log:
            # Its own session: a Ctrl-C in the terminal reaches us first, and we stop it in order.
            self.process = subprocess.Popen(
                _line("serve", "--config", str(self.config_file)),
                stdin=subprocess.DEVNULL,
                env=_environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Returns when it answers. Raises `Unreachable`."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            ended = self.process is None or self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                said = self.log_file.read_text("utf-8", "replace")[-MAX_SAID:]
                raise Unreachable(f"The home {'ended' if ended else 'does not answer'}: {said}")
            with contextlib.suppress(OSError):
                self.request("GET", "/health")
                return
            time.sleep(POLL)

    def stop(self, *, kill: bool = False) -> int:
        """Stop it, in order or at once (`kill`); its exit code."""
        process, self.process = self.process, None
        return processes.stop(process, STOP_SECONDS, kill=kill)

    # -- what people and its operator do ------------------------------------------------------------------------------

    def register(self, localpart: str, password: str) -> str:
        """A new account without a device; its user id. Raises `Rejected`."""
        body = {"username": localpart, "password": password, "inhibit_login": True, "auth": {"type": "m.login.dummy"}}
        status, answer = self.request("POST", "/_matrix/client/v3/register", body)
        if status != 200:
            raise Rejected(f"The home makes no account {localpart}: {status} {answer}.")
        return str(answer["user_id"])

    def request(
        self, method: str, path: str, body: object = None, token: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """One request; status and JSON of the answer. `body` bytes are sent as they are. Raises `OSError`."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.base_url + path, data, headers or {}, method=method)
        if token:
            asked.add_header("Authorization", f"Bearer {token}")
        try:
            with self._opener.open(asked, timeout=REQUEST_SECONDS) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def audit(self, user: str, *saved: Path) -> dict[str, Any]:
        """What `tillie home audit` reports of a user's home, with statements that others saved in files."""
        more = [word for file in saved for word in ("--with", str(file))]
        out = self._must("audit", user, "--config", str(self.config_file), "--json", *more)
        return dict(json.loads(out))

    def command(self, *words: str, said: str = "") -> subprocess.CompletedProcess[str]:
        """Another `tillie home` command, to its end; `said` is its standard input."""
        return subprocess.run(
            _line(*words), input=said, capture_output=True, text=True, timeout=REQUEST_SECONDS, env=_environment()
        )

    def _must(self, *words: str) -> str:
        done = self.command(*words)
        if done.returncode not in (exits.OK, exits.PEER):
            raise UsageError(f"tillie home {words[0]} failed: {done.stderr.strip()}")
        return done.stdout


def _line(*words: str) -> list[str]:
    return [sys.executable, "-m", "tillie.cli", "home", *words]


def _environment() -> dict[str, str]:
    """The modules that this program runs with, for another process, too."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
