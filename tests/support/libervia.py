"""A Libervia backend of its own for the heavy tests: its own home, its own D-Bus, any number of profiles.

Libervia and its commands are programs of the system's Python, so they run with the system's `PATH`. Everything lives in
one scratch folder; the bus is a socket in it, without the services that would start a second backend.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

START_SECONDS = 60.0
STOP_SECONDS = 10.0
COMMAND_SECONDS = 90.0
WAIT_SECONDS = 30.0
POLL = 0.1
READY = "Backend is ready"
SYSTEM_PATH = "/usr/bin:/bin"
SYSTEM_PYTHON = "/usr/bin/python3"
# What a whole answer needs that the packages only recommend.
MODULES = ("dbus", "gpg", "omemo", "oldmemo", "twomemo", "xmlschema")

_BUS = """\
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""

_CONFIG = """\
[DEFAULT]
bridge = dbus
local_dir = {folder}/data
check_certificate = false
hosts_dict = {hosts}
"""

# Calls of the backend's D-Bus interface: [[method, [argument, ...]], ...] on standard input, the answers on output.
_CALLS = """\
import dbus, json, sys
from xml.etree import ElementTree

name, path = "org.libervia.Libervia", "/org/libervia/Libervia/bridge"
backend = dbus.SessionBus().get_object(name, path)
described = ElementTree.fromstring(backend.Introspect(dbus_interface="org.freedesktop.DBus.Introspectable"))
interface_of = {m.get("name"): i.get("name") for i in described.iter("interface") for m in i.iter("method")}
answers = []
for method, arguments in json.load(sys.stdin):
    try:
        answer = backend.get_dbus_method(method, interface_of[method])(*arguments, timeout=80)
    except dbus.exceptions.DBusException as error:
        sys.exit(f"{method}: {error}")
    answers.append(answer)
json.dump(answers, sys.stdout, default=str)
"""


class LiberviaError(RuntimeError):
    """A Libervia command failed; the text is what it said."""


@dataclass(frozen=True)
class Profile:
    """One account in the backend."""

    name: str
    jid: str


def unavailable() -> str:
    """Why Libervia can't run here, in one sentence; empty if it can."""
    for program in ("libervia-backend", "libervia-cli", "dbus-daemon"):
        if not shutil.which(program, path=SYSTEM_PATH):
            return f"{program} is not installed"
    missing = _missing_modules()
    return f"Libervia needs these Python packages of the system: {', '.join(missing)}" if missing else ""


class PrivateLibervia:
    """A Libervia backend for the accounts of `hosts` ({"capulet.test": port on 127.0.0.1}), started by `with`.

    It checks no certificate: its TLS library can't be given an authority of our own. `ca_file` is not needed.
    """

    def __init__(self, hosts: Mapping[str, int]) -> None:
        self._hosts = dict(hosts)
        self._folder: Path | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._profiles: dict[str, Profile] = {}

    # -- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> PrivateLibervia:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start bus and backend; returns when the backend takes commands."""
        # Sockets live in it: their paths must stay under 108 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="tillie-libervia-", dir="/tmp"))
        try:
            for place in ("data", "work"):
                (self.folder / place).mkdir()
            hosts = {host: {"host": "127.0.0.1", "port": port} for host, port in self._hosts.items()}
            (self.folder / ".libervia.conf").write_text(
                _CONFIG.format(folder=self.folder, hosts=json.dumps(hosts))
            )
            (self.folder / "bus.conf").write_text(_BUS.format(socket=self.folder / "bus"))
            bus = self._spawn("bus.log", "dbus-daemon", f"--config-file={self.folder}/bus.conf", "--nofork", "--nosyslog")
            self._wait(lambda: (self.folder / "bus").exists(), "the bus", bus)
            backend = self._spawn("backend.log", "libervia-backend", "fg")
            self._wait(lambda: READY in self.log, "the backend", backend)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all that was started and remove what it wrote."""
        processes, self._processes = self._processes, []
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._folder is not None:
            # Each keyring has a gpg-agent, which would stay.
            for home in self._keyrings():
                subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], env=self._environment(), check=False)
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None
        self._profiles.clear()

    # -- where things are ---------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        if self._folder is None:
            raise LiberviaError("Libervia is not running")
        return self._folder

    @property
    def log(self) -> str:
        """What the backend said so far."""
        with contextlib.suppress(OSError):
            return (self.folder / "backend.log").read_text("utf-8", "replace")
        return ""

    def keyring(self, profile: str) -> Path:
        """The GnuPG home of a profile."""
        return self.folder / "work" / "gnupg-home" / profile

    # -- what it does -------------------------------------------------------------------------------------------------

    def add_profile(self, name: str, jid: str, password: str) -> Profile:
        """Make a profile for the account and connect it; its OpenPGP key and OMEMO device are published afterwards."""
        self.calls(
            ("profileCreate", [name, "", ""]),
            ("profileStartSession", ["", name]),
            ("setParam", ["JabberID", jid, "Connection", -1, name]),
            ("setParam", ["Password", password, "Connection", -1, name]),
            ("setParam", ["check_certificate", "false", "Connection", -1, name]),
            ("connect", [name, "", {}]),
        )
        self._profiles[name] = Profile(name, jid)
        return self._profiles[name]

    def cli(self, *arguments: str, stdin: str | None = None) -> str:
        """Run `libervia-cli ARGUMENTS`; its standard output. Raises LiberviaError with what it said."""
        done = subprocess.run(
            ["libervia-cli", *arguments],
            cwd=self.folder / "work",
            env=self._environment(),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode:
            said = _without_notice(done.stderr) or done.stdout
            raise LiberviaError(f"libervia-cli {' '.join(arguments[:3])}: {done.returncode}: {said.strip()}")
        return done.stdout

    def calls(self, *calls: tuple[str, Sequence[Any]]) -> list[Any]:
        """Call methods of the backend's D-Bus interface, one after the other; their answers."""
        done = subprocess.run(
            [SYSTEM_PYTHON, "-c", _CALLS],
            env=self._environment(),
            input=json.dumps(calls),
            capture_output=True,
            encoding="utf-8",
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode:
            raise LiberviaError(f"{done.stderr.strip()[-500:]}")
        return cast(list[Any], json.loads(done.stdout))

    def messages(self, profile: str, sender: str) -> list[str]:
        """The bodies that `profile` has from `sender`, in the order of arrival."""
        [history] = self.calls(("historyGet", [sender, self._profiles[profile].jid, 100, True, {}, profile]))
        return [next(iter(message[4].values()), "") for message in history]

    def wait_for(self, text: str) -> None:
        """Return when the backend's log has the text."""
        self._wait(lambda: text in self.log, repr(text))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _spawn(self, log: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("wb") as output:
            process = subprocess.Popen(
                # They end with us even if we are killed.
                ["setpriv", "--pdeathsig", "TERM", *command],
                cwd=self.folder / "work",
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": SYSTEM_PATH,
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.folder}/bus",
        }

    def _keyrings(self) -> Iterable[Path]:
        return (self.folder / "work" / "gnupg-home").glob("*")

    def _wait(self, ready: Any, what: str, process: subprocess.Popen[bytes] | None = None) -> None:
        deadline = time.monotonic() + (START_SECONDS if process else WAIT_SECONDS)
        while not ready():
            if process is not None and process.poll() is not None:
                raise LiberviaError(f"{what} stopped: {self.log[-1000:]}")
            if time.monotonic() > deadline:
                raise LiberviaError(f"{what} did not come: {self.log[-1000:]}")
            time.sleep(POLL)


def _missing_modules() -> list[str]:
    find = "import importlib.util, sys; print(*[n for n in sys.argv[1:] if importlib.util.find_spec(n) is None])"
    found = subprocess.run(
        [SYSTEM_PYTHON, "-c", find, *MODULES], capture_output=True, encoding="utf-8", env={"PATH": SYSTEM_PATH}, check=False
    )
    return found.stdout.split()


def _without_notice(text: str) -> str:
    """The text without the notice about a missing progress bar that every command prints."""
    return text.partition("\n--\n")[2] if text.startswith("ProgressBar not available") else text
