"""`tillie home init | serve | adduser | audit`: a home of one's own, for operators."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
import typer.main

from tillie.cli import exits, show
from tillie.cli.options import JsonOption
from tillie.errors import Malformed, UsageError

if TYPE_CHECKING:
    from tillie.home.config import Config
    from tillie.home.honesty import Audit

CONFIG = "home.toml"
FEDERATION_PORT = 8448  # where other servers look if nothing tells them more
EXTRA = ("starlette", "uvicorn", "uvloop", "httptools")
SELF_SIGNED_DAYS = 365
MAX_SAVED = 16 << 20  # bytes of a file with statements

app = typer.Typer(help="Run a home for keys: a federated Matrix server of device keys.", no_args_is_help=True)

ConfigOption: TypeAlias = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="The home's configuration.")
]

_TOML = """\
# The configuration of a home for keys (docs/home.md). Paths are relative to this file.

# What user ids end with: @alice:{server}. It can't be changed later.
server_name = "{server}"

database = "home.db"
signing_key = "signing.key" # proves to other servers that it is you: keep a copy, show it to nobody

# May anybody register? If not, 'tillie home adduser NAME' makes accounts.
registration = false

# The certificate for TLS, in PEM. SIGHUP makes the home read it again.
{certificate}

# Where clients and other servers find this home, if that is not {server} itself.
# public_url = "https://matrix.example.org"
# federation_name = "matrix.example.org:443"

# Networks of proxies in front whose X-Forwarded-For is believed.
# proxies = ["127.0.0.1/32"]

[[listen]]
host = "{host}"
port = {port}
tls = true

# [limits.claims] # one-time keys given to one user
# per_second = 20
# burst = 400

# [federation]
# allow = ["10.0.0.0/8"] # private networks that other servers may be in
# ca_file = "authority.crt" # trusted beside the usual ones
"""


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="home")


def alone() -> Callable[..., Any]:
    """These commands, built without any other."""
    root = typer.Typer(name="tillie", add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    register(root)
    return typer.main.get_command(root)


@app.command()
def init(
    server_name: Annotated[str, typer.Argument(metavar="SERVER_NAME", help="What user ids end with: example.org.")],
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Where its files go.")] = Path("."),
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65_535, help="Where it listens; 0: any free port. If left out, the port in SERVER_NAME, or 8448."
        ),
    ] = None,
    self_signed: Annotated[
        bool,
        typer.Option("--self-signed", help="Make a certificate to try it out, on this machine alone, for a year."),
    ] = False,
) -> None:
    """Make the configuration and signing key of a new home."""
    with _extra():
        from tillie.home.service import write_signing_key
    from tillie.wire import matrix

    if not matrix.is_server_name(server_name):
        raise UsageError(f"'{server_name}' is not a server's name.", hint="A name looks like example.org.")
    config = folder / CONFIG
    if config.exists():
        raise UsageError(f"{config} is there already.", hint="Another --folder makes another home.")
    certificate = '# tls_certificate = "fullchain.pem"\n# tls_key = "privkey.pem"'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "signing.key").exists():
            write_signing_key(folder / "signing.key")
        if self_signed:
            certificate = _self_signed(server_name, folder)
        host = "127.0.0.1" if self_signed else "0.0.0.0"
        at = _port_in(server_name) if port is None else port
        config.write_text(_TOML.format(server=server_name, host=host, port=at, certificate=certificate))
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: {error.strerror}.") from None
    show.line(f"{config} is made, and the signing key beside it.")
    if not self_signed:
        show.note(f"Next, name the certificate of {server_name} in it (tls_certificate, tls_key).")
    show.note("To make an account, and to run it:")
    for command in ("adduser NAME", "serve"):
        show.note(f"  tillie home {command} -c {config}")


@app.command()
def serve(config: ConfigOption = Path(CONFIG)) -> None:
    """Run the home until it is told to stop (SIGTERM, Ctrl-C)."""
    with _extra():
        from tillie.home import serving
    serving.run(_load(config))


@app.command()
def adduser(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The part before the colon: alice.")],
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its first line is the password ('-': standard input).")
    ] = None,
    config: ConfigOption = Path(CONFIG),
) -> None:
    """Make an account, also while the home runs."""
    with _extra():
        from tillie.home import accounts, routes_accounts
        from tillie.home.database import Database
    import time

    from tillie.cli import unlock
    from tillie.crypto import pwhash
    from tillie.wire import matrix

    found = _load(config)
    localpart, _, server = name.removeprefix("@").partition(":")
    if server not in ("", found.server_name):
        raise UsageError(f"This is the home of {found.server_name}, not of {server}.", hint="The name alone will do.")
    user = matrix.new_user_id(localpart, found.server_name)
    if password_file is not None:
        password = unlock.first_line(password_file)
    else:
        password = unlock.ask_twice(
            f"Password for {user}",
            UsageError("There is nobody to ask for a password.", hint="--password-file gives it."),
        )
    if not routes_accounts.MIN_PASSWORD <= len(password) <= routes_accounts.MAX_PASSWORD:
        raise UsageError(f"A password has {routes_accounts.MIN_PASSWORD} to {routes_accounts.MAX_PASSWORD} characters.")

    async def add() -> bool:
        database = Database(found.path(found.database))
        try:
            hashed = pwhash.hash(password)
            return await database.write(lambda conn: accounts.add_user(conn, user, hashed, int(time.time() * 1000)))
        finally:
            await database.close()

    if not asyncio.run(add()):
        raise UsageError(f"{user} is there already.")
    show.line(f"{user} is made.")


@app.command()
def audit(
    user: Annotated[str, typer.Argument(metavar="USER", help="Anybody's id: @bob:example.net.")],
    saved: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="FILE", help="Statements that others kept, such as an answer of keys/query."),
    ] = None,
    config: ConfigOption = Path(CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Show what a user's home said of the user's devices, and prove it where it lied."""
    with _extra():
        from tillie.home import honesty
        from tillie.home.database import Database
        from tillie.home.service import load_signer
    from tillie.cli import files
    from tillie.wire import matrix

    found, address = _load(config), matrix.parse_user_id(user)
    statements = []
    for file in saved or ():
        try:
            statements += honesty.read_saved(files.read(file, MAX_SAVED), address)
        except Malformed as error:
            raise UsageError(f"{file}: {error.detail}.") from None

    async def look() -> Audit:
        database = Database(found.path(found.database))
        try:
            return database.read(lambda conn: honesty.audit(conn, load_signer(found), address, statements))
        finally:
            await database.close()

    done = asyncio.run(look())
    if as_json:
        show.as_json(_as_json(done))
    else:
        _draw(done)
    if done.lies:
        raise typer.Exit(exits.PEER)


def _draw(done: Audit) -> None:
    for each in done.seen:
        show.line(f"{show.clock(each.time)}  {each.sequence}  {each.hash.hex()[:16]}")
    for reason in done.refused:
        show.note(f"A saved statement does not count: {reason}")
    if done.lies:
        for first, second in done.lies:
            show.line(f"A lie: of sequence {first.sequence}, {done.server} signed both {first.hash.hex()}")
            show.line(f"and {second.hash.hex()}. --json shows both statements: whoever has the key can check them.")
    elif done.is_stating:
        show.sentence(f"{len(done.seen)} statements of {done.server} on {done.user}; none contradicts another.")
    elif done.is_stating is None:
        show.sentence(f"This home has never asked {done.server} for the devices of {done.user}.")
    else:
        show.sentence(f"{done.server} signs no statements on its users' devices: its honesty can't be checked.")


def _as_json(done: Audit) -> dict[str, Any]:
    return {
        "user": done.user,
        "server": done.server,
        "signs": done.is_stating,
        "statements": [each.source for each in done.seen],
        "refused": list(done.refused),
        "lies": [[first.source, second.source] for first, second in done.lies],
    }


def _port_in(server_name: str) -> int:
    """Where others look for a server of this name."""
    host, _, port = server_name.rpartition(":")
    return int(port) if host and port.isdigit() else FEDERATION_PORT


def _load(file: Path) -> Config:
    with _extra():
        from tillie.home.config import load
    return load(file)


def _self_signed(server_name: str, folder: Path) -> str:
    from datetime import UTC, datetime, timedelta

    from tillie.demo.certificates import write_certificates

    # An IPv6 address is in brackets there, and full of colons.
    host = server_name[1:].partition("]")[0] if server_name.startswith("[") else server_name.partition(":")[0]
    valid = timedelta(days=SELF_SIGNED_DAYS)
    write_certificates([host], folder / "authority.crt", folder / "host.crt", folder / "host.key", valid=valid)
    show.note(f"Clients must trust {folder / 'authority.crt'}: for a try-out only, other homes do not.")
    show.note(f"The certificate ends on {datetime.now(UTC) + valid:%Y-%m-%d}, and nothing renews it.")
    return 'tls_certificate = "host.crt"\ntls_key = "host.key"'


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    """What a home needs is not installed with Tillie unless it is asked for."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise UsageError("A home needs more packages.", hint="pip install 'tillie[home]'") from None
