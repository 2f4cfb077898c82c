"""The home's configuration, a TOML file. Paths in it are relative to it."""

from __future__ import annotations

import ipaddress
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from tillie.errors import UsageError
from tillie.wire import matrix

_Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to listen. With `tls`, with the configured certificate; else behind a proxy that has one."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8448
    tls: bool = True


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many a second on average, and at most so many at once."""

    per_second: Annotated[float, msgspec.Meta(ge=0, le=1e9)]
    burst: Annotated[int, msgspec.Meta(ge=1)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one user, or one other server, may ask for."""

    claims: Rate = Rate(20, 400)  # one-time keys given to one user
    claims_server: Rate = Rate(200, 4_000)  # ... to one other server
    uploads: Rate = Rate(5, 50)
    queries: Rate = Rate(20, 200)
    messages: Rate = Rate(50, 500)
    logins: Rate = Rate(0.2, 10)  # attempts on one user from one address; from there on anybody, ten times as many
    registrations: Rate = Rate(0.05, 5)  # from one address
    requests_server: Rate = Rate(200, 2_000)  # of one other server


class Federation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How other servers are met. `allow` names networks (CIDR) that are private and may be spoken to all the same; else
    nobody can have this home ask machines behind its firewall. `ca_file`: trust these authorities beside the usual."""

    enabled: bool = True
    allow: tuple[str, ...] = ()
    ca_file: str = ""
    timeout: _Positive = 10.0  # seconds for a query or a claim
    forget_after_days: _Positive = 7.0  # what could not be delivered until then is dropped
    first_retry: _Positive = 1.0  # seconds
    longest_retry: _Positive = 3_600.0


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that an operator decides."""

    server_name: str
    listen: Annotated[tuple[Listen, ...], msgspec.Meta(min_length=1)] = (Listen(),)
    database: str = "home.db"
    signing_key: str = "signing.key"
    tls_certificate: str = ""
    tls_key: str = ""
    public_url: str = ""  # where clients find this home, for .well-known/matrix/client
    federation_name: str = ""  # host:port for .well-known/matrix/server
    registration: bool = False
    proxies: tuple[str, ...] = ()  # networks (CIDR) whose X-Forwarded-For is believed
    log_requests: bool = True
    limits: Limits = Limits()
    federation: Federation = Federation()
    folder: str = "."  # of the file; set by `load`

    def path(self, name: str) -> Path:
        return Path(self.folder) / name


def load(file: Path) -> Config:
    """Read a configuration. Raises `UsageError`, which says what is wrong and where."""
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8.") from None
    except OSError as error:
        raise UsageError(
            f"{file}: {error.strerror}.", hint="'tillie home init SERVER_NAME' makes a configuration."
        ) from None
    try:
        found = msgspec.convert({**tomllib.loads(text), "folder": str(file.resolve().parent)}, Config)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{file}: {error}.") from None
    for network in (*found.proxies, *found.federation.allow):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise UsageError(f"{file}: '{network}' is not a network, such as 10.0.0.0/8.") from None
    if not matrix.is_server_name(found.server_name):
        raise UsageError(f"{file}: '{found.server_name}' is not a server's name.")
    return found
