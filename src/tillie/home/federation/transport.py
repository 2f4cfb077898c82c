"""Requests to other homeservers: found by name, over TLS, signed, and answered in bounded time and size."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from pycares import SRVRecordData
from yarl import URL

from tillie.home.federation import addresses, x_matrix
from tillie.home.federation.names import MAX_CACHED, MAX_WELL_KNOWN_BYTES, Names, Route, Target, WellKnown
from tillie.wire import matrix
from tillie.wire.canonical import Object

if TYPE_CHECKING:
    from tillie.home.service import Home

MAX_ANSWER_BYTES = 16 << 20  # of a query for many users
MAX_ERROR_BYTES = 64 << 10
MAX_REDIRECTS = 5
MAX_TARGETS = 4  # SRV records that are tried
MAX_CONNECTIONS = 200
MAX_CONNECTIONS_TO_ONE = 8
IDLE_SECONDS = 20.0  # less than servers keep an idle connection open, else a request could meet its end
USER_AGENT = "Tillie"


class Failed(Exception):
    """Another server did not do what was asked: not reached (`status` 0), or it answered with an error."""

    def __init__(self, status: int, errcode: str = "", message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(status, errcode)
        self.status = status
        self.errcode = errcode
        self.message = message
        self.retry_after = retry_after


class Transport:
    """The client side of federation, made on the event loop."""

    def __init__(self, home: Home) -> None:
        config = home.config.federation
        self._signer = home.signer
        self._resolver = _Resolver(addresses.networks(config.allow))
        context = ssl.create_default_context()
        if config.ca_file:
            context.load_verify_locations(home.config.path(config.ca_file))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=MAX_CONNECTIONS,
                limit_per_host=MAX_CONNECTIONS_TO_ONE,
                keepalive_timeout=IDLE_SECONDS,
                ssl=context,
                resolver=self._resolver,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # a few bytes on the wire stay a few bytes
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        )
        self._timeout = config.timeout
        self.names = Names(self._well_known, self._resolver.services, home.clock)

    async def close(self) -> None:
        await self.names.close()
        await self._session.close()
        await self._resolver.close()

    async def signed(
        self, server: str, method: str, uri: str, content: Object | None = None, *, seconds: float | None = None
    ) -> Object:
        """A signed request; `uri` is its target, percent-encoded, as it is signed and sent. Raises `Failed`."""
        headers = {"Authorization": x_matrix.header(self._signer, server, method, uri, content)}
        return await self._request(server, method, uri, headers, content, seconds or self._timeout)

    async def plain(self, server: str, uri: str) -> bytes:
        """GET without a signature, for the keys by which signatures are verified: two servers would ask each other for
        ever. Raises `Failed`."""
        return await self._answer(server, "GET", uri, {}, b"", self._timeout)

    async def _request(
        self, server: str, method: str, uri: str, headers: dict[str, str], content: Object | None, seconds: float
    ) -> Object:
        body = b""
        if content is not None:
            headers["Content-Type"] = "application/json"
            body = msgspec.json.encode(content)  # not canonical: around what users nest as deep as they may is more
        try:
            found = msgspec.json.decode(await self._answer(server, method, uri, headers, body, seconds))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Failed(502, "M_NOT_JSON", "The server's answer is not JSON.") from None
        if not isinstance(found, dict):
            raise Failed(502, "M_BAD_JSON", "The server's answer is not an object.")
        return found

    async def _answer(
        self, server: str, method: str, uri: str, headers: dict[str, str], body: bytes, seconds: float
    ) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                route = await self.names.resolve(server)
                self._resolver.direct(route)
                url = URL(f"https://{_in_url(route.host)}:{route.port}{uri}", encoded=True)
                async with self._open(method, url, {**headers, "Host": route.header}, body) as response:
                    if response.status == 200:
                        return await _read(response, MAX_ANSWER_BYTES)
                    raise _error(response, await _read(response, MAX_ERROR_BYTES))
        except TimeoutError:
            raise Failed(0, "", "The server did not answer in time.") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Failed(0, "", f"The server can't be reached ({type(error).__name__}).") from None

    def _open(self, method: str, url: URL, headers: dict[str, str], body: bytes) -> Any:
        """Start a request, unless to an address that nobody may send us to; the resolver looks at those of names."""
        self._resolver.check(url.host or "")
        return self._session.request(method, url, headers=headers, data=body or None, allow_redirects=False)

    async def _well_known(self, host: str) -> WellKnown | None:
        """GET /.well-known/matrix/server, following a few redirects to other https addresses."""
        url = f"https://{host}/.well-known/matrix/server"
        try:
            async with asyncio.timeout(self._timeout / 2):  # so that time is left for the server itself
                for _ in range(MAX_REDIRECTS + 1):
                    async with self._open("GET", URL(url, encoded=True), {}, b"") as response:
                        if response.status not in (301, 302, 303, 307, 308):
                            body = await _read(response, MAX_WELL_KNOWN_BYTES)
                            return WellKnown(response.status, response.headers.get("Cache-Control", ""), body)
                        url = urljoin(url, response.headers.get("Location", ""))
                    if urlsplit(url).scheme != "https":
                        return None
        except (aiohttp.ClientError, OSError, ValueError, Failed):
            pass  # a server without .well-known is found without it
        return None


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise Failed(502, "M_NOT_JSON", "The server's answer is compressed.")
    parts, size = [], 0
    async for part in response.content.iter_chunked(1 << 16):
        size += len(part)
        if size > max_bytes:
            raise Failed(502, "M_TOO_LARGE", "The server's answer is too long.")
        parts.append(part)
    return b"".join(parts)


class _Error(msgspec.Struct):
    errcode: str = "M_UNKNOWN"
    error: str = ""
    retry_after_ms: float | None = None


def _error(response: aiohttp.ClientResponse, body: bytes) -> Failed:
    """An error as an exception. What the server says of it is cut, it may end on somebody's screen."""
    try:
        said = msgspec.json.decode(body, type=_Error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = _Error()
    wait = said.retry_after_ms / 1000 if said.retry_after_ms is not None else None
    if (header := response.headers.get("Retry-After", "")).isdecimal() and len(header) < 9:
        wait = float(header)
    return Failed(response.status, _printable(said.errcode[:60]), _printable(said.error[:200]), retry_after=wait)


def _printable(text: str) -> str:
    return "".join(each for each in text if each.isprintable())


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class Refusal(OSError):
    """An address that no other server may send us to."""


class _Resolver(AbstractResolver):
    """Names to addresses, those only that a home may speak to; what was checked is what is connected to."""

    def __init__(self, allowed: Iterable[addresses.Network]) -> None:
        self._allowed = tuple(allowed)
        self._inner = aiohttp.DefaultResolver()
        self._dns = _Dns()
        self._targets: dict[tuple[str, int], tuple[Target, ...]] = {}

    def direct(self, route: Route) -> None:
        """Connect to a route's targets from now on, instead of its own host and port."""
        self._targets.pop((route.host, route.port), None)
        if route.targets:
            self._targets[route.host, route.port] = route.targets[:MAX_TARGETS]
            if len(self._targets) > MAX_CACHED:
                del self._targets[next(iter(self._targets))]

    def check(self, host: str) -> None:
        """Raises `Refusal` for an address that is written out and may not be spoken to, or that only some programs read
        as one: it would be connected to without a look at what it means."""
        address = addresses.literal(host)
        if address is None and addresses.is_ambiguous(host):
            raise Refusal("this is neither a name nor an address")
        if address is not None and not addresses.may_speak_to(address, self._allowed):
            raise Refusal("this address may not be spoken to")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found: list[ResolveResult] = []
        for target in self._targets.get((host, port), (Target(host, port),)):
            try:
                found += await self._inner.resolve(target.host, target.port, family)
            except OSError:
                continue
        good = []
        for each in found:
            address = addresses.literal(each["host"].partition("%")[0])
            if address is not None and addresses.may_speak_to(address, self._allowed):
                good.append(each)
        if not good:
            raise Refusal("no address of this name may be spoken to" if found else "this name has no address")
        return good

    async def services(self, name: str) -> tuple[Target, ...]:
        """The SRV records of a name, best first."""
        return await self._dns.services(name)

    async def close(self) -> None:
        await self._inner.close()
        await self._dns.close()


class _Record(NamedTuple):
    priority: int
    weight: int
    target: Target


class _Dns:
    """SRV look-ups, by aiodns."""

    def __init__(self) -> None:
        import aiodns  # only a home that federates needs it

        self._aiodns = aiodns
        self._resolver = aiodns.DNSResolver()

    async def services(self, name: str) -> tuple[Target, ...]:
        try:
            answer = (await self._resolver.query_dns(name, "SRV")).answer
        except (self._aiodns.error.DNSError, ValueError):
            return ()
        records = []
        for each in answer:
            found = each.data
            if isinstance(found, SRVRecordData):
                records.append(_Record(found.priority, found.weight, Target(found.target.rstrip("."), found.port)))
        usable = [each for each in records if each.target.host and matrix.is_server_name(each.target.host)]
        usable.sort(key=lambda each: (each.priority, -each.weight))
        return tuple(each.target for each in usable)

    async def close(self) -> None:
        await self._resolver.close()
