"""JSON at the door: bodies read strictly, errors as Matrix has them (client-server API, "Standard error response")."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tillie.errors import Malformed
from tillie.wire import canonical

T = TypeVar("T")

MAX_BODY_BYTES = 1 << 20  # unless the endpoint says otherwise
BODY_SECONDS = 30.0  # for all of it: who sends a byte now and then holds nothing up for ever
_IS_READ = "tillie.body_is_read"  # in the scope of a request
# "Web Browser Clients": every answer to a client.
_HEADERS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE, OPTIONS"),
    (b"access-control-allow-headers", b"X-Requested-With, Content-Type, Authorization"),
    (b"content-type", b"application/json"),
)


def _plain(value: object) -> str:
    """An address is a string of a kind of its own."""
    if isinstance(value, str):
        return str(value)
    raise TypeError(type(value))


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


class Refused(Exception):
    """A request that is answered with an error: HTTP status, `errcode`, a sentence, and further members."""

    def __init__(self, status: int, errcode: str, error: str, **more: Any) -> None:
        super().__init__(errcode, error)
        self.status = status
        self.body = {"errcode": errcode, "error": error, **more}

    def response(self) -> Response:
        headers = {}
        if "retry_after_ms" in self.body:
            headers["Retry-After"] = str(-(-self.body["retry_after_ms"] // 1000))
        return answer(self.body, self.status, headers)


class _Json(Response):
    """With headers that are ready as bytes: to make them anew takes as long as to look a token up."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        self.raw_headers = [*_HEADERS, (b"content-length", b"%d" % len(self.body))]
        if headers:
            self.headers.update(headers)


def answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return _Json(_encode(value), status, headers)


def too_many(seconds: float) -> Refused:
    """The answer to somebody who asks too often."""
    return Refused(429, "M_LIMIT_EXCEEDED", "Too many requests.", retry_after_ms=int(seconds * 1000) + 1)


async def body_bytes(request: Request, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """The request's body. Raises `Refused`: M_TOO_LARGE, before the rest is read; M_UNKNOWN (408) for a slow one. Who
    does not call it answers before the body is read (`unread`)."""
    if _announced(request) > max_bytes:
        raise _too_large(max_bytes)
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                parts.append(part)
    except ClientDisconnect:
        raise Refused(400, "M_NOT_JSON", "The request ended early.") from None
    except TimeoutError:
        raise Refused(408, "M_UNKNOWN", "The request took too long to arrive.") from None
    request.scope[_IS_READ] = True
    return b"".join(parts)


def unread(request: Request) -> float:
    """How many bytes of a request's body were not read, at most; infinite where only its end will tell, or where it may
    never come."""
    if _IS_READ in request.scope:
        return 0
    if "transfer-encoding" in request.headers or "expect" in request.headers:
        return math.inf
    return _announced(request)


def _announced(request: Request) -> int:
    """How long a request says that its body is."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


async def body(request: Request, decoder: msgspec.json.Decoder[T], max_bytes: int = MAX_BODY_BYTES) -> T:
    """The body, as a typed value. Raises `Refused`: M_TOO_LARGE, M_NOT_JSON, M_BAD_JSON.

    Of a member that comes twice the last one counts here; what is signed is looked at by `canonical.parse`, which
    refuses it.
    """
    data = await body_bytes(request, max_bytes)
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise Refused(400, "M_BAD_JSON", f"The request does not have the right members: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused(400, "M_NOT_JSON", "The request is not valid JSON.") from None


async def strict_body(
    request: Request, max_bytes: int = MAX_BODY_BYTES, *, may_be_empty: bool = False
) -> canonical.Object:
    """The body as an object that could be signed; no body at all as {} where that `may_be_empty`. Raises `Refused`."""
    data = await body_bytes(request, max_bytes)
    if may_be_empty and not data:
        return {}
    try:
        value = canonical.parse(data, max_bytes=max_bytes)
    except Malformed as error:
        raise Refused(400, "M_NOT_JSON", error.detail) from None
    if not isinstance(value, dict):
        raise Refused(400, "M_BAD_JSON", "The request is not an object.")
    return value


def _too_large(max_bytes: int) -> Refused:
    return Refused(413, "M_TOO_LARGE", f"A request to this endpoint has at most {max_bytes} bytes.")
