"""A private Synapse on loopback: free ports, a scratch folder, SQLite, TLS between servers with its checks on.

Synapse is a peer of the tests and the figures only, in an environment of its own (`scripts/setup dev synapse` makes
it). The server's name holds a port ("localhost:28448"), so no DNS record and no .well-known is looked up.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pytest

from support.certificates import HOST, Certificates, certificates, make_certificates
from support.matrix_api import CLIENT, call, must, password_login
from tillie.demo import processes

__all__ = ["Login", "PrivateSynapse", "certificates", "synapse", "unavailable"]

START_SECONDS = 90.0
STOP_SECONDS = 15.0
POLL = 0.05
PASSWORD = "only for tests"
KEY_ID = "ed25519:a_test"

# Next to the environment that the tests run in, because Synapse (AGPL) is no dependency of anything of ours.
PROGRAM = Path(sys.prefix) / "synapse" / "bin" / "synapse_homeserver"

# By default answers to /sync are cached for two minutes: a client that starts again without its token would be told old
# news. Waiting between attempts to reach another server is cut from minutes to a second.
_CONFIG = """\
server_name: "{name}"
public_baseurl: "{base_url}/"
listeners:
  - {{port: {port}, bind_addresses: ["127.0.0.1"], type: http, tls: false, resources: [{{names: [client]}}]}}
  - port: {federation_port}
    bind_addresses: ["127.0.0.1"]
    type: http
    tls: true
    resources: [{{names: [federation]}}]
tls_certificate_path: "{certificates.host}"
tls_private_key_path: "{certificates.key}"
federation_custom_ca_list: ["{certificates.ca}"]
ip_range_blacklist: []
federation_ip_range_blacklist: []
trusted_key_servers: []
database: {{name: sqlite3, args: {{database: "{folder}/homeserver.db"}}}}
media_store_path: "{folder}/media"
pid_file: "{folder}/pid"
log_config: "{folder}/log.yaml"
signing_key_path: "{folder}/signing.key"
registration_shared_secret: "{secret}"
macaroon_secret_key: "{secret}"
form_secret: "{secret}"
report_stats: false
bcrypt_rounds: 4
caches: {{sync_response_cache_duration: 0s}}
federation:
  destination_min_retry_interval: 1s
  destination_retry_multiplier: 1
  destination_max_retry_interval: 2s
  max_short_retries: 1
  max_long_retry_delay: 1s
  client_timeout: 5s
rc_login:
  address: {{per_second: 100000, burst_count: 100000}}
  account: {{per_second: 100000, burst_count: 100000}}
  failed_attempts: {{per_second: 100000, burst_count: 100000}}
rc_federation: {{window_size: 1000, sleep_limit: 100000, sleep_delay: 1, reject_limit: 100000, concurrent: 50}}
{options}
"""

_LOG = """\
version: 1
formatters: {{plain: {{format: "%(asctime)s %(levelname)s %(name)s %(message)s"}}}}
handlers: {{file: {{class: logging.FileHandler, filename: "{log_file}", formatter: plain}}}}
root: {{level: {level}, handlers: [file]}}
disable_existing_loggers: false
"""


def unavailable() -> str:
    """Why no private Synapse can be started here, in one sentence; empty if one can."""
    return "" if PROGRAM.exists() else "Synapse is not installed (make interop installs it)"


class Login(NamedTuple):
    """One logged-in device."""

    user: str
    device: str
    token: str


class PrivateSynapse:
    """A Synapse on 127.0.0.1: `base_url` for clients (plain HTTP), TLS for other servers.

    Several servers that are given the same `certificates` federate. `name` is what the server is called if something
    else stands before it; `options` are further lines of its configuration (YAML). Starting takes seconds: `start` all,
    then `wait` for each. What it wrote is there until the `with` block ends.
    """

    ca_file = ""  # clients come over plain HTTP

    def __init__(
        self, certificates: Certificates | None = None, *, name: str = "", options: str = "", level: str = "INFO"
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tillie-synapse-"))
        self.certificates = certificates or make_certificates(self.folder)
        self.port, self.federation_port = processes.free_ports(2)
        self.name = name or f"{HOST}:{self.federation_port}"
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.log_file = self.folder / "synapse.log"
        self.seed = secrets.token_bytes(32)  # of the key that it signs with, as `KEY_ID`
        self.process: subprocess.Popen[bytes] | None = None
        self._secret = secrets.token_hex(16)
        self._write(options, level)

    @property
    def version(self) -> str:
        base, tls = f"https://{HOST}:{self.federation_port}", self.certificates.ssl_context()
        return str(must(base, "GET", "/_matrix/federation/v1/version", tls=tls)["server"]["version"])

    # -- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> PrivateSynapse:
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

    def start(self) -> None:
        """Start on the data that is there; `wait` returns when it answers."""
        with (self.folder / "console.log").open("ab") as console:
            self.process = subprocess.Popen(
                [str(PROGRAM), "--config-path", str(self.folder / "homeserver.yaml")],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Returns when it answers clients."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            ended = self.process is None or self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                said = (self.folder / "console.log").read_text("utf-8", "replace")[-1000:]
                raise RuntimeError(f"Synapse {'stopped' if ended else 'did not answer'}: {said}")
            with contextlib.suppress(OSError):
                self.request("GET", "/_matrix/client/versions")
                return
            time.sleep(POLL)

    def stop(self, *, kill: bool = False) -> None:
        """Stop the process, in order or (`kill`) at once; what it stored stays for the next `start`."""
        process, self.process = self.process, None
        processes.stop(process, STOP_SECONDS, kill=kill)

    def close(self) -> None:
        """Stop, and remove all that it wrote."""
        self.stop(kill=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- accounts -----------------------------------------------------------------------------------------------------

    def register(self, localpart: str, password: str = PASSWORD) -> str:
        """A new account; its user id. Its first device is removed again."""
        path = "/_synapse/admin/v1/register"
        nonce = must(self.base_url, "GET", path)["nonce"]
        said = "\0".join([nonce, localpart, password, "notadmin"]).encode()
        mac = hmac.digest(self._secret.encode(), said, hashlib.sha1).hex()
        body = {"nonce": nonce, "username": localpart, "password": password, "admin": False, "mac": mac}
        made = must(self.base_url, "POST", path, body)
        must(self.base_url, "POST", f"{CLIENT}/logout", {}, made["access_token"])
        return str(made["user_id"])

    def login(self, localpart: str, device: str, password: str = PASSWORD) -> Login:
        made = must(self.base_url, "POST", f"{CLIENT}/login", password_login(localpart, password, device))
        return Login(made["user_id"], made["device_id"], made["access_token"])

    # -- requests -----------------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, body: object = None, token: str = "") -> tuple[int, Any]:
        """One request of a client; the status and the JSON of the answer."""
        return call(self.base_url, method, path, body, token)

    # -- files --------------------------------------------------------------------------------------------------------

    def _write(self, options: str, level: str) -> None:
        config = _CONFIG.format(
            name=self.name,
            base_url=self.base_url,
            port=self.port,
            federation_port=self.federation_port,
            certificates=self.certificates,
            folder=self.folder,
            secret=self._secret,
            options=options,
        )
        (self.folder / "homeserver.yaml").write_text(config)
        (self.folder / "log.yaml").write_text(_LOG.format(log_file=self.log_file, level=level))
        algorithm, _, version = KEY_ID.partition(":")
        seed = base64.b64encode(self.seed).decode().rstrip("=")
        (self.folder / "signing.key").write_text(f"{algorithm} {version} {seed}\n")


@pytest.fixture(scope="module")
def synapse(certificates: Certificates) -> Iterator[PrivateSynapse]:
    """A running Synapse, or the test is skipped with the reason."""
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    with PrivateSynapse(certificates) as server:
        yield server
