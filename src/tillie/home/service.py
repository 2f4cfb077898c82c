"""A home at work: what its parts share, and how it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import Request

from tillie.crypto import sign
from tillie.crypto.random import random_bytes
from tillie.directory.signed import ED25519, sign_object
from tillie.errors import InvalidAddress, Malformed, UsageError
from tillie.home import accounts, limits
from tillie.home.accounts import Who
from tillie.home.answers import Refused, too_many
from tillie.home.config import Config
from tillie.home.database import Database
from tillie.home.interactive import Interactive
from tillie.home.limits import Buckets
from tillie.home.lists import Change
from tillie.home.log import Log
from tillie.home.maps import Maps
from tillie.home.passwords import Passwords
from tillie.wire import base64, matrix
from tillie.wire.canonical import Object

if TYPE_CHECKING:
    from tillie.home.federation.federation import Federation

__all__ = ["Home", "Signer", "Waiters", "Who", "load_signer", "write_signing_key"]

T = TypeVar("T")

_BEARER = b"bearer "
_VERSION = re.compile(r"[A-Za-z0-9_]{1,64}")


@dataclass(frozen=True, slots=True)
class Signer:
    """The home's own signing key. `key_id` is "ed25519:<version>"."""

    server: str
    key_id: str
    seed: bytes

    def __repr__(self) -> str:
        return f"Signer({self.server!r}, {self.key_id!r})"

    @property
    def public(self) -> bytes:
        return sign.public_of(self.seed)

    def sign(self, value: Object) -> Object:
        return sign_object(value, self.server, self.key_id, self.seed)


def load_signer(config: Config) -> Signer:
    """The signing key from its file: "ed25519 VERSION BASE64", as Synapse keeps it, too. Raises `UsageError`."""
    file = config.path(config.signing_key)
    try:
        words = file.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The signing key can't be read from {file}: {type(error).__name__}.") from None
    if len(words) != 3 or words[0] != ED25519 or not _VERSION.fullmatch(words[1]):
        raise UsageError(f"{file} does not hold one signing key: ed25519, a version, base64.")
    try:
        seed = base64.decode_unpadded(words[2], size=sign.KEY)
    except Malformed:
        raise UsageError(f"The key in {file} is not 32 bytes of base64.") from None
    return Signer(config.server_name, f"{ED25519}:{words[1]}", seed)


def write_signing_key(file: Path) -> None:
    """A new key in a new file that its owner alone can read. Raises `FileExistsError`."""
    seed, version = random_bytes(sign.KEY), f"a_{random_bytes(3).hex()}"
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(f"{ED25519} {version} {base64.encode_unpadded(seed)}\n")


class Waiters:
    """Long polls, by local user: `wake` ends those of a user."""

    def __init__(self) -> None:
        self._events: dict[str, asyncio.Event] = {}
        self._counts: dict[str, int] = {}

    def wake(self, *users: str) -> None:
        for user in users:
            if user in self._events:
                self._events[user].set()
                self._events[user] = asyncio.Event()

    def wake_all(self) -> None:
        self.wake(*self._events)

    def event(self, user: str) -> asyncio.Event:
        """Set at the next `wake` of this user. Take it before looking whether there is something, and give it back
        with `leave`."""
        self._counts[user] = self._counts.get(user, 0) + 1
        return self._events.setdefault(user, asyncio.Event())

    def leave(self, user: str) -> None:
        self._counts[user] -= 1
        if not self._counts[user]:
            del self._counts[user], self._events[user]


class Home:
    """One home. Made on the event loop that it runs on."""

    def __init__(
        self,
        config: Config,
        db: Database,
        signer: Signer,
        *,
        clock: Callable[[], float] = time.time,
        log: Log | None = None,
    ) -> None:
        self.config = config
        self.server = config.server_name
        self.db = db
        self.signer = signer
        self.clock = clock
        self.log = log or Log(requests=config.log_requests)
        self.waiters = Waiters()
        self.maps = Maps(db, signer)
        self.federation: Federation | None = None
        self.limits = Buckets(config.limits, clock)
        self.interactive = Interactive(clock)
        self.passwords = Passwords()
        self.is_stopping = False  # long polls end, and no new one begins
        self._proxies = tuple(ipaddress.ip_network(each) for each in config.proxies)

    async def start(self) -> None:
        """What runs beside the requests."""
        if self.config.federation.enabled:
            from tillie.home.federation.federation import Federation

            self.federation = Federation(self)
            self.federation.start()

    def begin_stop(self) -> None:
        """Let long polls end; what is being answered goes on."""
        self.is_stopping = True
        self.waiters.wake_all()

    async def stop(self) -> None:
        """End, once nothing is being answered any more; what waits for other servers stays in the database."""
        self.begin_stop()
        if self.federation is not None:
            await self.federation.stop()
        self.passwords.close()
        await self.db.close()
        self.log.flush()

    def tell(self, change: Change | None) -> None:
        """A change of a device list is committed."""
        if change is not None:
            self.wake(change.users, change.servers)

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return int(self.clock() * 1000)

    def wake(self, users: Iterable[str], servers: Iterable[str] = ()) -> None:
        """Something was committed for these local users, and for these servers."""
        self.waiters.wake(*users)
        if self.federation is not None:
            for server in servers:
                self.federation.wake(server)

    def is_local(self, user: str) -> bool:
        return user.partition(":")[2] == self.server

    def by_server(self, wanted: Mapping[str, T]) -> tuple[dict[str, T], dict[str, dict[str, T]]]:
        """What is for users of this home, and for others by their server. Who can't be anybody is in neither."""
        local: dict[str, T] = {}
        remote: dict[str, dict[str, T]] = {}
        for user, each in wanted.items():
            if self.is_local(user):
                local[user] = each
                continue
            with contextlib.suppress(InvalidAddress):
                server = matrix.parse_user_id(user).partition(":")[2]
                remote.setdefault(server, {})[user] = each
        return local, remote

    async def who(self, request: Request) -> Who:
        """Whose access token this is. Raises `Refused`: M_MISSING_TOKEN, M_UNKNOWN_TOKEN."""
        token = _bearer(request)
        if token is None:
            raise Refused(401, "M_MISSING_TOKEN", "The request has no access token.")
        found = self.db.read(lambda conn: accounts.who(conn, token, self.server))
        if found is None:
            raise Refused(401, "M_UNKNOWN_TOKEN", "Nobody is logged in with this access token.")
        return found

    def limit(self, kind: str, who: str, amount: int = 1) -> None:
        """Raises `Refused`, M_LIMIT_EXCEEDED, where somebody asks too often (`limits.Buckets.take`)."""
        wait = self.limits.take(kind, who, amount)
        if wait:
            raise too_many(wait)

    def address(self, request: Request) -> str:
        """Where a request came from, for limits: what `limits.network_of` makes of the address. The header
        X-Forwarded-For counts only as far as the configured proxies wrote it."""
        found = request.client.host if request.client else ""
        forwarded = request.headers.getlist("x-forwarded-for") if self._proxies else []
        names = [each.strip() for each in ",".join(forwarded).split(",")]
        while names and self._is_proxy(found):
            found = names.pop() or found
        return limits.network_of(found)

    def _is_proxy(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._proxies)


def _bearer(request: Request) -> str | None:
    for name, value in request.scope["headers"]:
        if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            token: bytes = value[len(_BEARER) :].strip()
            return token.decode("ascii", "replace") if len(token) <= accounts.MAX_TOKEN else None
    return None
