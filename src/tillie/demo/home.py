"""A private `tillie home` on loopback: a process of its own, a free port, a scratch folder, real TLS.

Its name holds the port ("localhost:28448"), so other homes need neither DNS nor .well-known to find it. It is an
ordinary home in all but its limits on registering and logging in, which its few people would meet.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from tillie.cli import exits
from tillie.demo.certificates import write_certificates
from tillie.errors import Rejected, Unreachable, UsageError

HOST = "localhost"
START_SECONDS = 30.0
STOP_SECONDS = 10.0
COMMAND_SECONDS = 30.0
POLL = 0.02

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

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        self.folder = folder
        self.certificates = certificates
        self.port = _free_port()
        self.name = f"{HOST}:{self.port}"
        self.base_url = f"https://{self.name}"
        self.config_file = folder / "home.toml"
        self.database = folder / "home.db"
        self.log_file = folder / "home.log"
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Make its configuration and signing key. Raises `UsageError`."""
        self._command("init", self.name, "--folder", str(self.folder))
        config = _CONFIG.format(name=self.name, port=self.port, certificates=self.certificates)
        self.config_file.write_text(config)

    @property
    def ca_file(self) -> str:
        return str(self.certificates.ca)

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it on what is there; `wait` returns when it answers."""
        with self.log_file.open("ab") as log:
            # Its own session: a Ctrl-C in the terminal reaches us first, and we stop it in order.
            self._process = subprocess.Popen(
                self._line("serve", "--config", str(self.config_file)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Returns when it answers. Raises `Unreachable`."""
        tls = self.certificates.ssl_context()
        deadline = time.monotonic() + START_SECONDS
        while True:
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                said = self.log_file.read_text("utf-8", "replace")[-500:]
                raise Unreachable(f"The home {'ended' if ended else 'does not answer'}: {said}")
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.base_url}/health", timeout=START_SECONDS, context=tls),
            ):
                return
            time.sleep(POLL)

    def stop(self) -> None:
        """Stop it, in order."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    # -- what people and its operator do ------------------------------------------------------------------------------

    def register(self, localpart: str, password: str) -> str:
        """A new account; its user id. Raises `Rejected`."""
        body = {"username": localpart, "password": password, "inhibit_login": True, "auth": {"type": "m.login.dummy"}}
        request = urllib.request.Request(f"{self.base_url}/_matrix/client/v3/register", json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=COMMAND_SECONDS, context=self.certificates.ssl_context()):
                return f"@{localpart}:{self.name}"
        except urllib.error.HTTPError as error:
            with error:
                raise Rejected(f"The home makes no account {localpart}: {error.code}.") from None

    def audit(self, user: str, *saved: Path) -> dict[str, Any]:
        """What `tillie home audit` reports of a user's home, with statements that others saved in files."""
        more = [word for file in saved for word in ("--with", str(file))]
        out = self._command("audit", user, "--config", str(self.config_file), "--json", *more)
        return dict(json.loads(out))

    def _line(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "tillie.cli", "home", *words]

    def _command(self, *words: str) -> str:
        done = subprocess.run(
            self._line(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_SECONDS
        )
        if done.returncode not in (exits.OK, exits.PEER):
            raise UsageError(f"tillie home {words[0]} failed: {done.stderr.strip()}")
        return done.stdout


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
