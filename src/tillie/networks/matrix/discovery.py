"""Where a homeserver's client API is (Matrix specification 1.19, client-server API, "Server Discovery").

What a person wrote down is taken as it is. Else the server's own name is asked, over TLS: .well-known/matrix/client,
and where there is none, the server itself. No password or token is sent before `versions` was answered there.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from tillie.errors import NetworkError, Rejected, Unreachable, UsageError
from tillie.networks.matrix import answers
from tillie.networks.matrix.api import CONNECT_TIMEOUT, TIMEOUT, Api, read, unreachable

MAX_WELL_KNOWN = 51_200  # bytes
MAX_REDIRECTS = 5
WELL_KNOWN = "/.well-known/matrix/client"
_HINT = "Name it: --homeserver https://HOST"


async def find(http: aiohttp.ClientSession, server: str, given: str = "") -> str:
    """The base URL of a server name's client API; `given` is a person's own word for it. Raises `UsageError` for one
    that is not safe, `Unreachable`, `Rejected`."""
    base = base_url(given) if given else await _ask_server(http, server) or f"https://{server}"
    try:
        versions = (await Api(http, base).versions()).get("versions")
    except NetworkError as error:
        if not given and "hint" not in vars(error):  # one of its own says more
            error.hint = _HINT
        raise
    if not isinstance(versions, list) or not any(isinstance(each, str) for each in versions):
        raise Rejected("What answers there is no Matrix homeserver.", condition="M_UNRECOGNIZED", hint=_HINT)
    return base


def base_url(text: str) -> str:
    """A base URL as it is used: without a slash at its end. Plain HTTP is for this machine only: a password is sent
    there. Raises `UsageError`."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("https", "http") or not host or "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(f"'{text}' is not the URL of a homeserver.", hint="Write https://HOST or https://HOST:PORT.")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError("The URL of a homeserver has plain letters only.", hint="Write https://HOST.")
    if parts.scheme == "http" and not _is_this_machine(host):
        raise UsageError("Passwords are not sent without TLS.", hint="Write https://HOST.")
    return text.rstrip("/")


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _ask_server(http: aiohttp.ClientSession, server: str) -> str:
    """What the server's own website says; "" if it says nothing, or can't be asked: its name itself may answer."""
    host = server if server.endswith("]") else server.rpartition(":")[0] or server
    try:
        status, data = await _get(http, f"https://{host}{WELL_KNOWN}")
    except Unreachable:
        return ""
    if status != 200:
        return ""
    try:
        told = answers.text(answers.child(answers.parse(data), "m.homeserver"), "base_url")
        base = base_url(told)
    except (Rejected, UsageError):
        raise Rejected(f"{host} names no valid homeserver.", condition="M_BAD_JSON", hint=_HINT) from None
    if not base.startswith("https:"):
        raise Rejected(f"{host} names a homeserver without TLS.", condition="M_BAD_JSON", hint=_HINT)
    return base


async def _get(http: aiohttp.ClientSession, url: str) -> tuple[int, bytes]:
    """One page, over TLS all the way. It is read by anybody: no token goes with it."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT, sock_connect=CONNECT_TIMEOUT)
    try:
        for _ in range(MAX_REDIRECTS + 1):
            async with http.get(URL(url, encoded=True), allow_redirects=False, timeout=timeout) as response:
                if not 300 <= response.status < 400:
                    return response.status, await read(response, MAX_WELL_KNOWN)
                target = URL(url).join(URL(response.headers.get("Location", "")))
            if target.scheme != "https":
                raise Unreachable("It sends us away from TLS.")
            url = str(target)
    except ValueError:
        raise Unreachable("It sends us to something that is no URL.") from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise unreachable(error) from None
    raise Unreachable("It sends us round in circles.")
