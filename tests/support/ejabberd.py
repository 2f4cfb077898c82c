"""A private ejabberd on loopback for the heavy tests: a free port, a scratch folder, real TLS, no Erlang distribution.

`ejabberdctl` insists on the system's user and folders and names its node, which starts the port mapper epmd on all
interfaces. So `erl` is started directly, and without a name; its shell reads from our pipe and ends when we end.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.prosody import HOSTS, PASSWORD
from tillie.demo.certificates import write_certificates

START_SECONDS = 60.0
STOP_SECONDS = 15.0
POLL = 0.05
STARTED = "Start accepting TCP connections at 127.0.0.1:{port} for ejabberd_c2s"

_CONFIG = """\
loglevel: info
hosts: [{hosts}]
certfiles: ["{folder}/server.pem"]
listen:
  - {{port: {port}, ip: "127.0.0.1", module: ejabberd_c2s, access: all, starttls_required: true}}
auth_method: internal
auth_password_format: scram
modules:
  mod_caps: {{}}
  mod_carboncopy: {{}}
  mod_disco: {{}}
  mod_mam: {{default: always}}
  mod_offline: {{}}
  mod_ping: {{}}
  mod_pubsub: {{plugins: [flat, pep]}}
  mod_roster: {{}}
  mod_stream_mgmt: {{}}
"""

_numbers = itertools.count(1)


def unavailable() -> str:
    """Why no private ejabberd can be started here, in one sentence; empty if one can."""
    if not shutil.which("erl") or _libraries() is None:
        return "ejabberd is not installed"
    if os.geteuid() == 0 and _plain_user() is None:
        return "there is no plain user (ejabberd or nobody) to run ejabberd as"
    return ""


class PrivateEjabberd:
    """An ejabberd for `HOSTS` on 127.0.0.1:`port` with STARTTLS. It does not run as root."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tillie-ejabberd-", dir="/tmp"))
        self.ca_file = self.folder / "ca.crt"
        self.log_file = self.folder / "ejabberd.log"
        self.console_file = self.folder / "console.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    def ssl_context(self) -> ssl.SSLContext:
        """Certificate and host name checks on, this authority the only one trusted."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    @property
    def version(self) -> str:
        found = re.search(r"ejabberd (\S+) is started", self.log_file.read_text("utf-8", "replace"))
        return found[1] if found else ""

    def add_user(self, jid: str, password: str) -> None:
        """Create the account, through the Erlang shell; returns when ejabberd has it."""
        user, _, host = jid.partition("@")
        done = f"registered {user} {host}"
        self._evaluate(
            f'ok = ejabberd_auth:try_register(<<"{user}">>, <<"{host}">>, <<"{password}">>),'
            f' io:format("~s ~s ~s~n", ["registered", "{user}", "{host}"]).'
        )
        self._wait_for(self.console_file, done)

    def start(self) -> None:
        """Returns when the port takes connections."""
        self._prepare()
        user = _plain_user() if os.geteuid() == 0 else None
        with self.console_file.open("wb") as console:
            self._process = subprocess.Popen(
                [shutil.which("erl") or "erl", "-mnesia", "dir", f'"{self.folder}/data"', "-s", "ejabberd"],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                extra_groups=[] if user else None,
            )
        self._wait_for(self.log_file, STARTED.format(port=self.port))

    def stop(self) -> None:
        """Stop the process and remove all that it wrote."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(b"init:stop().\n")
                process.stdin.flush()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _prepare(self) -> None:
        certificate, key = self.folder / "server.crt", self.folder / "server.key"
        write_certificates(HOSTS, self.ca_file, certificate, key)
        pem, config = self.folder / "server.pem", self.folder / "ejabberd.yml"
        pem.touch(mode=0o600)
        pem.write_bytes(certificate.read_bytes() + key.read_bytes())
        config.write_text(_CONFIG.format(hosts=", ".join(HOSTS), folder=self.folder, port=self.port))
        user = _plain_user() if os.geteuid() == 0 else None
        if user:
            for path in (self.folder, pem, config):
                os.chown(path, user.pw_uid, user.pw_gid)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "TERM": "dumb",
            "ERL_LIBS": str(_libraries()),
            "ERL_CRASH_DUMP": f"{self.folder}/crash.dump",
            "EJABBERD_CONFIG_PATH": f"{self.folder}/ejabberd.yml",
            "EJABBERD_LOG_PATH": str(self.log_file),
        }

    def _evaluate(self, expression: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(expression.encode() + b"\n")
        self._process.stdin.flush()

    def _wait_for(self, file: Path, text: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not file.exists() or text not in file.read_text("utf-8", "replace"):
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                said = self.console_file.read_text("utf-8", "replace")[-1000:]
                raise RuntimeError(f"ejabberd {'stopped' if ended else 'did not answer'}: {said}")
            time.sleep(POLL)


def new_account(server: PrivateEjabberd, name: str, host: str = HOSTS[0]) -> str:
    """A fresh account `nameN@host` with the password `PASSWORD`; its bare JID."""
    jid = f"{name}{next(_numbers)}@{host}"
    server.add_user(jid, PASSWORD)
    return jid


@pytest.fixture(scope="module")
def ejabberd() -> Iterator[PrivateEjabberd]:
    """A running ejabberd with the two hosts of `HOSTS`, or the test is skipped with the reason."""
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    server = PrivateEjabberd()
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _libraries() -> Path | None:
    """The folder whose children are Erlang applications, ejabberd among them."""
    found = sorted(Path("/usr/lib").glob("*/ejabberd-*/ebin/ejabberd.beam"))
    return found[-1].parents[2] if found else None


def _plain_user() -> pwd.struct_passwd | None:
    for name in ("ejabberd", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None
