"""A private Prosody on loopback: free ports, a scratch folder, real TLS from a throw-away authority.

It never runs as root, touches no other Prosody, and is gone when its `async with` block ends. Nothing here is fit for
a server that others should reach.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import hashlib
import hmac
import os
import pwd
import re
import secrets
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tillie.demo import processes
from tillie.demo.certificates import write_certificates
from tillie.errors import Unreachable, UsageError

START_SECONDS = 20.0
STOP_SECONDS = 5.0
PORT_ATTEMPTS = 3
SCRAM_ITERATIONS = 4096  # these accounts live for minutes
HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")

_CONFIG = """\
pidfile = "{folder}/prosody.pid"
data_path = "{folder}/data"
plugin_paths = {{ "{folder}/modules" }}
certificates = "{folder}/certificates"
ssl = {{ certificate = "{folder}/certificates/server.crt", key = "{folder}/certificates/server.key" }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {port} }}
c2s_direct_tls_ports = {{ {direct_tls_port} }}
http_ports = {{}}
https_ports = {{}}
log = {{ {{ levels = {{ min = "info" }}, to = "file", filename = "{folder}/prosody.log" }} }}
modules_enabled = {{
  "roster"; "saslauth"; "tls"; "disco"; "presence"; "message"; "iq"; "pep"; "carbons"; "mam"; "offline"; "register";
  "ping"; "private"; "vcard4"; "vcard_legacy"; "blocklist"; "smacks"; "time"; "version";
  {modules}
}}
modules_disabled = {{ "s2s"; "s2s_auth_certs"; "posix" }}
storage = "internal"
archive_expires_after = "never"
default_archive_policy = true
authentication = "internal_hashed"
allow_registration = false
c2s_require_encryption = true
smacks_hibernation_time = 300
{options}
{hosts}
"""


class PrivateProsody:
    """A Prosody for the hosts in `hosts`, started by `async with`, on 127.0.0.1 only.

    `port` takes STARTTLS, `direct_tls_port` direct TLS; a client trusts it with `ca_file`. Two hosts of one process
    reach each other without federation. `options` are further lines of the configuration (Lua), `modules` the sources
    of modules of our own, by name. With `contacts` the accounts are each other's contacts.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        accounts: Mapping[str, str] | None = None,
        *,
        options: str = "",
        modules: Mapping[str, str] | None = None,
        contacts: bool = False,
    ) -> None:
        for host in hosts:
            if not HOST.fullmatch(host):
                raise UsageError(f"'{host}' is not a plain host name")
        self.hosts = tuple(hosts)
        self.port = 0
        self.direct_tls_port = 0
        self._accounts = dict(accounts or {})
        self._options = options
        self._modules = dict(modules or {})
        self._contacts = contacts
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    # -- is it to be had? ---------------------------------------------------------------------------------------------

    @staticmethod
    def unavailable() -> str:
        """Why no private Prosody can be started here, in one sentence; empty if one can."""
        if not _binary():
            return "Prosody is not installed"
        if os.geteuid() == 0 and not _plain_user():
            return "there is no plain user (prosody or nobody) to run Prosody as"
        return ""

    @classmethod
    def available(cls) -> bool:
        return not cls.unavailable()

    # -- where things are ---------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        if self._folder is None:
            raise UsageError("the private Prosody is not running")
        return self._folder

    @property
    def ca_file(self) -> Path:
        """The certificate of the throw-away authority, PEM."""
        return self.folder / "ca.crt"

    @property
    def data_folder(self) -> Path:
        """Everything the server stores: accounts, archives, offline messages, PEP nodes."""
        return self.folder / "data"

    @property
    def log_file(self) -> Path:
        return self.folder / "prosody.log"

    @property
    def version(self) -> str:
        """The version that Prosody wrote into its log; empty if it did not."""
        # `prosody --version` would start a second server with the system's configuration.
        found = re.search(r"Prosody version (\S+)", self.log_file.read_text("utf-8", "replace"))
        return found[1] if found else ""

    def ssl_context(self) -> ssl.SSLContext:
        """Certificate and host name checks on, this authority the only one trusted."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    # -- accounts -----------------------------------------------------------------------------------------------------

    def add_user(self, jid: str, password: str) -> None:
        """Create the account, or change its password, by writing Prosody's account file (RFC 5802 stored keys)."""
        local, _, host = jid.partition("@")
        if host not in self.hosts or not local:
            raise UsageError(f"'{jid}' is not an account of this server")
        salt = secrets.token_hex(16)
        salted = hashlib.pbkdf2_hmac("sha1", password.encode(), salt.encode(), SCRAM_ITERATIONS)
        stored = hashlib.sha1(hmac.digest(salted, b"Client Key", "sha1")).hexdigest()
        server = hmac.digest(salted, b"Server Key", "sha1").hex()
        record = (
            f'["salt"] = "{salt}"; ["iteration_count"] = {SCRAM_ITERATIONS};'
            f' ["stored_key"] = "{stored}"; ["server_key"] = "{server}";'
        )
        self._record(host, "accounts", local, record)

    def befriend(self, jid: str, contacts: Sequence[str]) -> None:
        """Make these the only contacts of an account, both ways as far as it knows (RFC 6121 section 2.1). For accounts
        that are not online."""
        local, _, host = jid.partition("@")
        lines = [f'["{contact}"] = {{ ["subscription"] = "both"; ["groups"] = {{}}; }};' for contact in contacts]
        self._record(host, "roster", local, '[false] = { ["version"] = 1; }; ' + " ".join(lines))

    def _record(self, host: str, kind: str, local: str, record: str) -> None:
        """A file as Prosody's data manager reads it."""
        place = self.data_folder / _encoded(host) / kind
        place.mkdir(parents=True, exist_ok=True)
        file = place / f"{_encoded(local)}.dat"
        file.write_text(f"return {{ {record} }};\n")
        self._give_away(self.data_folder, place.parent, place, file)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> PrivateProsody:
        reason = self.unavailable()
        if reason:
            raise Unreachable(reason)
        self._folder = _scratch_folder()
        atexit.register(self._destroy)
        try:
            self._prepare()
            await self._start_on_free_ports()
        except BaseException:
            self._destroy()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._destroy()

    async def start(self) -> None:
        """Start on the data that is there; returns when the server takes connections."""
        if self._process is not None:
            return
        self._configure()
        self._process = self._spawn()
        try:
            await self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def _spawn(self) -> subprocess.Popen[bytes]:
        user = _plain_user() if os.geteuid() == 0 else None
        with (self.folder / "console.log").open("ab") as console:
            # Its own session: a Ctrl-C in the terminal reaches us first, and we stop it in order.
            return subprocess.Popen(
                [_binary(), "-F", "--config", str(self.folder / "prosody.cfg.lua")],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                extra_groups=[] if user else None,
            )

    def stop(self) -> None:
        """Stop the process; data, ports and certificates stay for the next `start`."""
        process, self._process = self._process, None
        processes.stop(process, STOP_SECONDS)

    def _destroy(self) -> None:
        self.stop()
        atexit.unregister(self._destroy)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _prepare(self) -> None:
        certificates, modules = self.folder / "certificates", self.folder / "modules"
        for place in (certificates, modules, self.data_folder):
            place.mkdir(mode=0o700)
        sources = [modules / f"mod_{name}.lua" for name in self._modules]
        for file, source in zip(sources, self._modules.values(), strict=True):
            file.write_text(source)
        self.ca_file.touch(mode=0o644)
        written = write_certificates(self.hosts, self.ca_file, certificates / "server.crt", certificates / "server.key")
        self._give_away(self.folder, certificates, modules, self.data_folder, self.ca_file, *written, *sources)
        for jid, password in self._accounts.items():
            self.add_user(jid, password)
            if self._contacts:
                self.befriend(jid, [other for other in self._accounts if other != jid])

    def _configure(self) -> None:
        file = self.folder / "prosody.cfg.lua"
        file.write_text(
            _CONFIG.format(
                folder=self.folder,
                port=self.port,
                direct_tls_port=self.direct_tls_port,
                options=self._options,
                modules=" ".join(f'"{name}";' for name in self._modules),
                hosts="\n".join(f'VirtualHost "{host}"' for host in self.hosts),
            )
        )
        self._give_away(file)

    def _give_away(self, *paths: Path) -> None:
        user = _plain_user() if os.geteuid() == 0 else None
        if user:
            for path in paths:
                os.chown(path, user.pw_uid, user.pw_gid)

    async def _start_on_free_ports(self) -> None:
        # Between our look and Prosody's bind somebody else may take a port: then try others.
        for attempt in range(PORT_ATTEMPTS):
            self.port, self.direct_tls_port = processes.free_ports(2)
            try:
                return await self.start()
            except Unreachable:
                if attempt == PORT_ATTEMPTS - 1 or "Failed to open server port" not in self._complaints():
                    raise
        raise AssertionError("unreachable")

    async def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        pending = [self.port, self.direct_tls_port]
        while pending:
            if self._process is None or self._process.poll() is not None:
                raise Unreachable(f"Prosody stopped at once. {self._complaints()}")
            if time.monotonic() > deadline:
                raise Unreachable(f"Prosody did not open port {pending[0]}. {self._complaints()}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", pending[0])
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            pending.pop(0)

    def _complaints(self) -> str:
        said = []
        for name in ("prosody.log", "console.log"):
            with contextlib.suppress(OSError):
                lines = (self.folder / name).read_text("utf-8", "replace").splitlines()
                said += [line for line in lines if "error" in line or name == "console.log"]
        return " / ".join(said[-4:])


def _binary() -> str:
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin"
    return shutil.which("prosody", path=path) or ""


def _plain_user() -> pwd.struct_passwd | None:
    for name in ("prosody", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


def _scratch_folder() -> Path:
    """A new folder that the plain user can reach: as root, one whose parents everybody may enter."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        path = Path(parent).resolve()
        if os.geteuid() != 0 or all(p.stat().st_mode & 0o001 for p in (path, *path.parents)):
            return Path(tempfile.mkdtemp(prefix="tillie-prosody-", dir=path))
    raise Unreachable("there is no folder for temporary files that a plain user may enter")


def _encoded(name: str) -> str:
    """A file name as Prosody's data manager writes it: %xx for all but ASCII letters and digits."""
    return "".join(chr(b) if chr(b).isascii() and chr(b).isalnum() else f"%{b:02x}" for b in name.encode())
