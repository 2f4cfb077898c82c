"""Where a server is, by its name (Matrix specification 1.19, server-server API, "Resolving server names").

A name leads to a host, whose name the certificate must have, a port, and the Host header. Steps 1 to 6 of the
specification are `resolve`, top down.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tillie.home.federation import addresses
from tillie.wire import matrix

DEFAULT_PORT = 8448
MAX_WELL_KNOWN_BYTES = 50 << 10
MAX_CACHED = 10_000
DAY = 86_400.0
DEFAULT_SECONDS = DAY  # "a sensible default"
LONGEST_SECONDS = 2 * DAY  # "cached for no longer than 48 hours"
SHORTEST_SECONDS = 60.0  # whatever a server says, it is not asked again for each request
FIRST_ERROR_SECONDS = 60.0
LONGEST_ERROR_SECONDS = 3_600.0  # "errors ... for up to an hour", "with exponential backoff"
SERVICES = ("_matrix-fed._tcp", "_matrix._tcp")  # the second is deprecated

_MAX_AGE = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?(\d{1,9})")
_NO_STORE = re.compile(r"(?:^|[,\s])no-(?:store|cache)\b")


class Target(NamedTuple):
    """One host of an SRV record."""

    host: str
    port: int


class Route(NamedTuple):
    """How a server is reached. `host`: whose certificate is checked (an IPv6 literal without brackets); `header`: the
    Host header; `targets`: where to connect instead of `host` and `port`, in order, if SRV records say so."""

    host: str
    port: int
    header: str
    targets: tuple[Target, ...] = ()


class WellKnown(NamedTuple):
    """An answer to a .well-known request: status, Cache-Control, and the body."""

    status: int
    cache_control: str
    body: bytes


class _Cached(NamedTuple):
    delegated: str  # "" for none
    until: float
    failures: int


FetchWellKnown = Callable[[str], Awaitable[WellKnown | None]]  # of a host; None: not reached
FindServices = Callable[[str], Awaitable[tuple[Target, ...]]]  # the SRV records of a name, best first


class Names:
    """Finds servers, and remembers what their .well-known said."""

    def __init__(self, well_known: FetchWellKnown, services: FindServices, clock: Callable[[], float]) -> None:
        self._fetch = well_known
        self._services = services
        self._clock = clock
        self._cache: dict[str, _Cached] = {}
        self._fetching: dict[str, asyncio.Task[_Cached]] = {}

    async def resolve(self, server: str) -> Route:
        """The way to a server. `server` is a valid server name."""
        host, port = split(server)
        if addresses.literal(host) is not None or port is not None:  # 1, 2
            return Route(_bare(host), port or DEFAULT_PORT, server)
        delegated = await self._delegated(host)
        if not delegated:
            return await self._by_services(host)  # 4, 5, 6
        host, port = split(delegated)
        if addresses.literal(host) is not None or port is not None:  # 3.1, 3.2
            return Route(_bare(host), port or DEFAULT_PORT, delegated)
        return await self._by_services(host)  # 3.3, 3.4, 3.5

    async def _by_services(self, host: str) -> Route:
        for service in SERVICES:
            if targets := await self._services(f"{service}.{host}"):
                return Route(host, targets[0].port, host, targets)
        return Route(host, DEFAULT_PORT, host)

    async def close(self) -> None:
        for task in self._fetching.values():
            task.cancel()
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)

    async def _delegated(self, host: str) -> str:
        found = self._cache.pop(host, None)
        if found is not None:
            self._cache[host] = found
        if found is None or found.until <= self._clock():
            if host not in self._fetching:
                task = asyncio.create_task(self._ask(host, found.failures if found else 0))
                self._fetching[host] = task
                task.add_done_callback(lambda _: self._fetching.pop(host, None))
            # Whoever waits no longer leaves the answer to the next one.
            found = await asyncio.shield(self._fetching[host])
        return found.delegated

    async def _ask(self, host: str, failures: int) -> _Cached:
        found = self._read(await self._fetch(host), failures)
        self._cache.pop(host, None)
        self._cache[host] = found
        if len(self._cache) > MAX_CACHED:
            del self._cache[next(iter(self._cache))]
        return found

    def _read(self, answer: WellKnown | None, failures: int) -> _Cached:
        now = self._clock()
        delegated = read_well_known(answer.body) if answer is not None and answer.status == 200 else ""
        if not delegated or answer is None:
            wait = min(FIRST_ERROR_SECONDS * 2 ** min(failures, 16), LONGEST_ERROR_SECONDS)
            return _Cached("", now + wait, failures + 1)
        return _Cached(delegated, now + lifetime(answer.cache_control), 0)


def split(server: str) -> tuple[str, int | None]:
    """(host, port) of a valid server name; an IPv6 host keeps its brackets."""
    host, colon, port = server.rpartition(":")
    if not colon or host.startswith("[") != host.endswith("]") or port.endswith("]"):
        return server, None
    return host, int(port)


def _bare(host: str) -> str:
    return host.removeprefix("[").removesuffix("]")


def read_well_known(body: bytes) -> str:
    """The `m.server` of a .well-known/matrix/server, whatever its content type; "" if it has no valid one."""
    if len(body) > MAX_WELL_KNOWN_BYTES:
        return ""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    name = found.get("m.server") if isinstance(found, dict) else None
    return name if isinstance(name, str) and matrix.is_server_name(name) else ""


def lifetime(cache_control: str) -> float:
    """How many seconds a .well-known is kept, by its Cache-Control header."""
    text = cache_control.lower()
    if _NO_STORE.search(text):
        return SHORTEST_SECONDS
    found = _MAX_AGE.search(text)
    return max(SHORTEST_SECONDS, min(float(found[1]), LONGEST_SECONDS)) if found else DEFAULT_SECONDS
