"""Two private Prosodys, a host on each, that federate on loopback: TLS, and each proves itself by its certificate.

Import the `federation` fixture into a test module to use it.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.prosody import HOSTS, require_prosody
from tillie.demo import processes
from tillie.demo.prosody import PrivateProsody
from tillie.errors import Unreachable

START_ATTEMPTS = 3

# Prosody 0.12 finds other servers by DNS alone, and these are in none. Nothing listens on port 1: direct TLS, which it
# tries first, fails at once, and STARTTLS comes next.
_MODULE = """\
module:set_global()
local service, basic = require "net.resolvers.service", require "net.resolvers.basic"
local ports, by_dns = module:get_option("loopback_ports"), service.new
function service.new(host, name, kind, extra)
    if not ports[host] then return by_dns(host, name, kind, extra) end
    return basic.new("127.0.0.1", name == "xmpp-server" and ports[host] or 1, kind, extra)
end
"""

_OPTIONS = """\
plugin_paths = {{ "{folder}" }}
modules_enabled = {{
  "roster"; "saslauth"; "tls"; "disco"; "presence"; "message"; "iq"; "pep"; "carbons"; "mam"; "offline"; "ping";
  "smacks"; "loopback";
}}
modules_disabled = {{ "posix" }}
s2s_ports = {{ {port} }}
s2s_require_encryption = true
s2s_secure_auth = true
s2s_ssl = {{ cafile = "{folder}/authorities.crt" }}
loopback_ports = {{ {ports} }}
"""


class Federation:
    """The two servers, `self[host]`. Each is a process of its own: one can be stopped while the other goes on."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tillie-federation-", dir="/tmp"))
        self._folder.chmod(0o755)  # Prosody never runs as root
        (self._folder / "mod_loopback.lua").write_text(_MODULE)
        self._authorities.touch()
        ports = dict(zip(HOSTS, processes.free_ports(len(HOSTS)), strict=True))
        known = "; ".join(f'["{host}"] = {port}' for host, port in ports.items())
        self.servers = {
            host: PrivateProsody((host,), options=_OPTIONS.format(folder=self._folder, port=port, ports=known))
            for host, port in ports.items()
        }

    @property
    def _authorities(self) -> Path:
        return self._folder / "authorities.crt"

    def __getitem__(self, host: str) -> PrivateProsody:
        return self.servers[host]

    async def start(self) -> None:
        """Start both; then again, because either's authority is only known when both have begun."""
        for server in self.servers.values():
            await server.__aenter__()
        self._authorities.write_bytes(b"".join(server.ca_file.read_bytes() for server in self.servers.values()))
        self._authorities.chmod(0o644)
        for server in self.servers.values():
            server.stop()
            await server.start()

    async def stop(self) -> None:
        for server in self.servers.values():
            await server.__aexit__(None, None, None)
        shutil.rmtree(self._folder, ignore_errors=True)

    def stored(self) -> list[bytes]:
        """All that the two have written to their disks, file by file."""
        folders = [server.data_folder for server in self.servers.values()]
        return [file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file()]


@pytest.fixture(scope="module")
def federation() -> Iterator[Federation]:
    """Two running servers, `HOSTS`."""
    require_prosody()
    servers = asyncio.run(_started())
    try:
        yield servers
    finally:
        asyncio.run(servers.stop())


async def _started() -> Federation:
    # Between our look and Prosody's bind somebody else may take a port: then try others.
    for attempt in range(START_ATTEMPTS):
        servers = Federation()
        try:
            await servers.start()
            return servers
        except BaseException as error:
            await servers.stop()
            if attempt == START_ATTEMPTS - 1 or not isinstance(error, Unreachable):
                raise
    raise AssertionError("unreachable")
