"""A Libervia backend of its own for the heavy tests: its own home, its own D-Bus, any number of profiles.

Libervia and its commands are programs of the system's Python, so they run with the system's `PATH`. Everything lives in
one scratch folder; the bus is a socket in it, without the services that would start a second backend.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from support.prosody import HOSTS, require_prosody
from tillie.demo.prosody import PrivateProsody

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

# Only an administrator of Prosody's pubsub component may make nodes there.
SERVICE = f"pubsub.{HOSTS[0]}"
CREATORS = (f"juliet@{HOSTS[0]}", f"tillie@{HOSTS[0]}")

_PUBSUB = """\
Component "{service}" "pubsub"
  autocreate_on_publish = true
  expose_publisher = true
  admins = {{ {admins} }}
"""

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
{options}
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


def unavailable() -> str:
    """Why Libervia can't run here, in one sentence; empty if it can."""
    for program in ("libervia-backend", "libervia-cli", "dbus-daemon"):
        if not shutil.which(program, path=SYSTEM_PATH):
            return f"{program} is not installed"
    missing = _missing_modules()
    return f"Libervia needs these Python packages of the system: {', '.join(missing)}" if missing else ""


class PrivateLibervia:
    """A Libervia backend for the accounts of `hosts` ({"capulet.test": port on 127.0.0.1}), started by `with`.

    It checks no certificate: it can't be given an authority of our own. `options` are further lines of its
    configuration; with "log_level = DEBUG" the log has what is sealed.
    """

    def __init__(self, hosts: Mapping[str, int], *, options: str = "") -> None:
        self._hosts = dict(hosts)
        self._options = options
        self._folder: Path | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._jids: dict[str, str] = {}

    # -- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> PrivateLibervia:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start bus and backend; returns when the backend takes commands. Both end with the calling thread."""
        # Sockets live in it: their paths must stay under 108 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="tillie-libervia-", dir="/tmp"))
        try:
            for place in ("data", "work"):
                (self.folder / place).mkdir()
            hosts = {host: {"host": "127.0.0.1", "port": port} for host, port in self._hosts.items()}
            (self.folder / ".libervia.conf").write_text(
                _CONFIG.format(folder=self.folder, hosts=json.dumps(hosts), options=self._options)
            )
            (self.folder / "bus.conf").write_text(_BUS.format(socket=self.folder / "bus"))
            self._spawn("bus.log", "dbus-daemon", f"--config-file={self.folder}/bus.conf", "--nofork", "--nosyslog")
            self._wait(lambda: (self.folder / "bus").exists(), "the bus")
            self._spawn("backend.log", "libervia-backend", "fg")
            self._wait(lambda: READY in self.log, "the backend")
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
            for home in self.keyring("").glob("*"):
                subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], env=self._environment(), check=False)
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None
        self._jids.clear()

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

    def add_profile(self, name: str, jid: str, password: str) -> None:
        """Make a profile for the account and connect it; its OpenPGP key and OMEMO device are then announced."""
        self.calls(
            ("profileCreate", [name, "", ""]),
            ("profileStartSession", ["", name]),
            ("setParam", ["JabberID", jid, "Connection", -1, name]),
            ("setParam", ["Password", password, "Connection", -1, name]),
            ("setParam", ["check_certificate", "false", "Connection", -1, name]),
            ("connect", [name, "", {}]),
        )
        self._jids[name] = jid

    def befriend(self, profile: str, jid: str) -> None:
        """Ask for the contact's presence and allow it ours; the other end does the same."""
        self.calls(("addContact", [jid, profile]), ("subscription", ["subscribed", jid, profile]))

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
        """The bodies that the profile has from a bare JID, in the order of arrival."""
        [history] = self.calls(("historyGet", [sender, self._jids[profile], 100, True, {}, profile]))
        return [next(iter(message[4].values()), "") for message in history]

    def secrets(self, profile: str, service: str, node: str) -> dict[str, dict[str, Any]]:
        """The secrets that the profile holds for the node, by id: key, timestamp, origin, revoked, shared_with."""
        try:
            [listed] = self.calls(("psSecretsList", [service, node, profile]))
        except LiberviaError as error:
            if "NotFound" in str(error):
                return {}
            raise
        return {secret["id"]: secret for secret in json.loads(listed)}

    def wait(self, ready: Callable[[], object], what: str) -> None:
        """Return when `ready` gives something true; what comes in messages comes a little later."""
        self._wait(ready, what, WAIT_SECONDS)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _spawn(self, log: str, *command: str) -> None:
        with (self.folder / log).open("wb") as output:
            process = subprocess.Popen(
                # If we are killed, they end, too.
                ["setpriv", "--pdeathsig", "TERM", *command],
                cwd=self.folder / "work",
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": SYSTEM_PATH,
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.folder}/bus",
        }

    def _wait(self, ready: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if any(process.poll() is not None for process in self._processes):
                raise LiberviaError(f"Libervia or its bus stopped: {self.log[-1000:]}")
            if time.monotonic() > deadline:
                raise LiberviaError(f"{what} did not come: {self.log[-1000:]}")
            time.sleep(POLL)


def _missing_modules() -> list[str]:
    find = "import importlib.util, sys; print(*[n for n in sys.argv[1:] if importlib.util.find_spec(n) is None])"
    found = subprocess.run(
        [SYSTEM_PYTHON, "-c", find, *MODULES],
        capture_output=True,
        encoding="utf-8",
        env={"PATH": SYSTEM_PATH},
        check=False,
    )
    return found.stdout.split()


def _without_notice(text: str) -> str:
    """The text without the notice about a missing progress bar that every command prints."""
    return text.partition("\n--\n")[2] if text.startswith("ProgressBar not available") else text


@pytest.fixture(scope="module")
def pubsub_prosody() -> Iterator[PrivateProsody]:
    """A Prosody with `HOSTS` and the pubsub component `SERVICE`, on which `CREATORS` may make nodes."""
    require_prosody()
    admins = "; ".join(f'"{jid}"' for jid in CREATORS)
    server = PrivateProsody(HOSTS, options=_PUBSUB.format(service=SERVICE, admins=admins))
    asyncio.run(server.__aenter__())
    try:
        yield server
    finally:
        asyncio.run(server.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def libervia(pubsub_prosody: PrivateProsody) -> Iterator[PrivateLibervia]:
    """A running Libervia for the accounts of `pubsub_prosody`, or the test is skipped with the reason."""
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    with PrivateLibervia(dict.fromkeys(HOSTS, pubsub_prosody.port)) as running:
        yield running
