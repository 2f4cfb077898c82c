"""The client-server API of a homeserver (Matrix specification 1.19): one method an endpoint.

Every answer is bounded before it is read. No redirect is followed with the token, which goes to this one host and
nowhere else; it is in no log, exception or representation.
"""

from __future__ import annotations

import asyncio
import errno
import json
import math
import os
import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from tillie.errors import AuthenticationFailed, NetworkError, PasswordNeeded, Rejected, Unreachable, UsageError
from tillie.model import Address
from tillie.networks.matrix import answers
from tillie.wire.canonical import Object
from tillie.wire.display import printable

CLIENT = "/_matrix/client/v3"
TIMEOUT = 30.0  # seconds for one request, connecting and TLS included
CONNECT_TIMEOUT = 15.0
REMOTE_MS = 10_000  # how long our homeserver may wait for another one: "10 seconds is the recommended default"
MAX_ANSWER = 1 << 20  # bytes
MAX_DEVICE_MAP = 16 << 20  # of a user with very many devices
MAX_SYNC = 32 << 20  # a hundred messages of 64 KiB, written in any way JSON allows
LONGEST_WAIT = 30.0  # seconds that we wait in one request because the homeserver asked for it
DEFAULT_WAIT = 1.0  # ... where it does not say how long
SHORTEST_WAIT = 0.2  # ... where it says that we need not: else it could have us ask again and again, without end
MAX_SHOWN = 200  # characters of a homeserver's own words
PASSWORD = "m.login.password"

# Everything but to-device messages and what belongs to keys stays at the homeserver.
_FILTER = json.dumps(
    {
        "room": {"rooms": [], "timeline": {"limit": 0}},
        "presence": {"types": []},
        "account_data": {"types": []},
    },
    separators=(",", ":"),
)


class Refusal(Rejected):
    """The server answered with an error.

    `condition` is the Matrix error code; `status` tells whether the same request can ever be taken.
    """

    def __init__(self, status: int, condition: str, detail: str, answer: Mapping[str, Any]) -> None:
        super().__init__(detail, condition=condition)
        self.status = status
        self.answer = answer

    @property
    def may_pass(self) -> bool:
        """Whether it is the homeserver's trouble, so that a repeat makes sense."""
        return self.status >= 500 or self.status in (404, 405, 408, 429)


class LoggedOut(AuthenticationFailed):
    """This device was logged out at its homeserver.

    `soft`: it is still there, and we may log in to it again.
    """

    def __init__(self, detail: str, *, soft: bool) -> None:
        super().__init__(detail)
        self.soft = soft


def tls(ca_file: str) -> ssl.SSLContext:
    """Certificates and host names are always checked; `ca_file` is a PEM file of the only authority that is trusted
    then. Raises `UsageError`."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"The file of authorities '{ca_file}' can't be read: {error}.") from None


def open_session(ca_file: str) -> aiohttp.ClientSession:
    """What the requests of one connection go through: no cookies, no compression, no log."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls(ca_file)),
        cookie_jar=aiohttp.DummyCookieJar(),
        # A small answer could unpack to a very large one.
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
    )


class Api:
    """One homeserver at `base` (a URL without a slash at its end), as whoever holds `token`.

    Raises `Unreachable`; `LoggedOut` where the token is not valid; `Refusal` for every other error that the homeserver
    answers with.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        base: str,
        token: str = "",
        *,
        told: Callable[[str], None] = lambda _: None,
        longest_wait: float = LONGEST_WAIT,
    ) -> None:
        self.base = base
        self.token = token
        self._http = http
        self._told = told
        self._longest_wait = longest_wait

    def __repr__(self) -> str:
        return f"Api({self.base!r})"

    # -- who we are -------------------------------------------------------------------------------------------------

    async def versions(self) -> Object:
        """GET /versions."""
        return await self._ask("GET", "/_matrix/client/versions", with_token=False)

    async def log_in(self, user: Address, password: str, device: str, name: str) -> Object:
        """POST /login: {user_id, device_id, access_token}. The device is made if it is not there."""
        body: Object = {
            "type": PASSWORD,
            "identifier": {"type": "m.id.user", "user": str(user)},
            "password": password,
            "device_id": device,
        }
        if name:
            body["initial_device_display_name"] = name
        return await self._ask("POST", f"{CLIENT}/login", _json(body), with_token=False)

    async def log_out(self) -> None:
        """POST /logout: this device and its keys are gone."""
        await self._ask("POST", f"{CLIENT}/logout", b"{}")

    async def whoami(self) -> Object:
        """GET /account/whoami: {user_id, device_id}."""
        return await self._ask("GET", f"{CLIENT}/account/whoami")

    async def delete_device(self, user: Address, device: str, password: str) -> None:
        """DELETE /devices/{id}, with the password by user-interactive authentication. Raises `PasswordNeeded` if that
        is wanted and there is none."""
        path = f"{CLIENT}/devices/{_part(device)}"
        try:
            await self._ask("DELETE", path, b"{}", interactive=True)
        except Refusal as error:
            session = error.answer.get("session")
            if error.status != 401 or not isinstance(session, str):
                raise
            if not password:
                raise PasswordNeeded from None
            stage = {"type": PASSWORD, "identifier": {"type": "m.id.user", "user": str(user)}, "password": password}
            await self._ask("DELETE", path, _json({"auth": {**stage, "session": session}}), interactive=True)

    # -- keys -------------------------------------------------------------------------------------------------------

    async def upload_keys(self, base: str, body: bytes, device: str = "") -> Object:
        """POST /keys/upload below `base`, the profile's path; `device` in the path, where the profile has it there."""
        return await self._ask("POST", f"{base}/keys/upload" + (f"/{_part(device)}" if device else ""), body)

    async def query_keys(self, base: str, user: Address) -> Object:
        """POST /keys/query, for all devices of one user."""
        body = _json({"device_keys": {str(user): []}, "timeout": REMOTE_MS})
        return await self._ask("POST", f"{base}/keys/query", body, max_bytes=MAX_DEVICE_MAP)

    async def claim_keys(self, base: str, user: Address, devices: Mapping[str, str]) -> Object:
        """POST /keys/claim, one key of an algorithm for each device of one user."""
        body = _json({"one_time_keys": {str(user): dict(devices)}, "timeout": REMOTE_MS})
        return await self._ask("POST", f"{base}/keys/claim", body, max_bytes=MAX_DEVICE_MAP)

    # -- messages ---------------------------------------------------------------------------------------------------

    async def send_to_device(self, type: str, transaction: str, body: bytes) -> None:
        """PUT /sendToDevice: the same transaction again is the same message."""
        await self._ask("PUT", f"{CLIENT}/sendToDevice/{_part(type)}/{_part(transaction)}", body)

    async def sync(self, since: str, wait: float) -> Object:
        """GET /sync: what came after `since`, at once or within `wait` seconds."""
        query = f"filter={_part(_FILTER)}&timeout={int(wait * 1000)}" + (f"&since={_part(since)}" if since else "")
        return await self._ask("GET", f"{CLIENT}/sync?{query}", max_bytes=MAX_SYNC, seconds=TIMEOUT + wait)

    # -- one request ------------------------------------------------------------------------------------------------

    async def _ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        *,
        with_token: bool = True,
        interactive: bool = False,
        max_bytes: int = MAX_ANSWER,
        seconds: float = TIMEOUT,
    ) -> Object:
        waited = 0.0
        while True:
            status, headers, data = await self._request(method, target, body, with_token, max_bytes, seconds)
            if status == 429:
                pause = max(SHORTEST_WAIT, _pause(headers, data))
                if waited + pause <= self._longest_wait:
                    if not waited:
                        self._told(f"the homeserver asks us to wait {math.ceil(pause)} s")
                    waited += pause
                    await asyncio.sleep(pause)
                    continue
            if status == 200:
                return answers.parse(data)
            raise _refusal(status, data, interactive=interactive)

    async def _request(
        self, method: str, target: str, body: bytes | None, with_token: bool, max_bytes: int, seconds: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        for is_last in (False, True):
            try:
                return await self._once(method, target, body, with_token, max_bytes, seconds)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                # It may have closed a connection that was idle as we began to write. A repeat is harmless: uploads and
                # messages are the same ones again, and a claim that was answered after all costs one key.
                if is_last or not _was_closed(error):
                    raise unreachable(error) from None
        raise AssertionError  # the second attempt has returned or raised

    async def _once(
        self, method: str, target: str, body: bytes | None, with_token: bool, max_bytes: int, seconds: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"Authorization": f"Bearer {self.token}"} if with_token else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        async with self._http.request(
            method,
            URL(self.base + target, encoded=True),
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_TIMEOUT),
        ) as response:
            return response.status, response.headers, await read(response, max_bytes)


def _was_closed(error: Exception) -> bool:
    """Whether there was a connection, and its other end had closed it."""
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return True
    return isinstance(error, OSError) and error.errno in (errno.ECONNRESET, errno.EPIPE)


async def read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The body of an answer. Raises `Unreachable` if it is longer."""
    parts = bytearray()
    async for part in response.content.iter_any():
        parts += part
        if len(parts) > max_bytes:
            raise Unreachable(f"Its answer is longer than {max_bytes} bytes.")
    return bytes(parts)


def unreachable(error: Exception) -> Unreachable:
    """Why there was no answer, in words that hold nothing of the request."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", "")
        return Unreachable(
            f"Its certificate is not to be trusted{f': {reason}' if reason else ''}.",
            hint="Check the server's name, or --ca-file.",
        )
    if isinstance(error, TimeoutError):
        return Unreachable("It did not answer in time.")
    if isinstance(error, OSError) and error.strerror:
        # Of several addresses that were tried, the text would quote each exception.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        return Unreachable(f"{printable(reason, MAX_SHOWN)}.")
    return Unreachable("The connection broke, or what came over it is not HTTP.")


def _refusal(status: int, data: bytes, *, interactive: bool) -> NetworkError:
    try:
        answer = answers.parse(data)
    except Rejected:
        answer = {}
    code, words = answer.get("errcode"), answer.get("error")
    code = printable(code, MAX_SHOWN) if isinstance(code, str) else ""
    detail = f"{printable(words, MAX_SHOWN).rstrip('.')}." if isinstance(words, str) and words else ""
    if not answer and status >= 500:
        return Unreachable(f"Something before it answers for it (status {status}).")
    if 300 <= status < 400:
        return Unreachable("It sends us elsewhere, and a token is not taken there.", hint="Check --homeserver.")
    if status == 401 and not interactive:
        return LoggedOut(detail, soft=answer.get("soft_logout") is True)
    return Refusal(status, code or f"status-{status}", detail or f"{code or f'Status {status}'}.", answer)


def _pause(headers: Mapping[str, str], data: bytes) -> float:
    """How many seconds we are asked to wait: Retry-After, or what older homeservers write."""
    after = headers.get("Retry-After", "")
    if after.isascii() and after.isdigit():
        return float(after[:9])
    try:
        milliseconds = answers.parse(data).get("retry_after_ms")
    except Rejected:
        milliseconds = None
    return max(0, milliseconds) / 1000 if type(milliseconds) is int else DEFAULT_WAIT


def _part(text: str) -> str:
    """One part of a path or query, percent-encoded here: yarl would put "@" and ":" back, and "/" can be in a user's
    or device's id."""
    return quote(text, safe="")


def _json(value: Object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
