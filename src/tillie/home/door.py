"""The home's door: which request goes to whom, and what becomes of errors. An ASGI application.

Paths without ids, which nearly all requests have, are found in a dict; Starlette's router, and its layers of
middleware, would take as long as the rest of a short request. Others are matched before they are unquoted, and unquoted
once: a user's name may hold a slash.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, compile_path
from starlette.types import Message, Receive, Scope, Send

from tillie.errors import StoreUnwritable
from tillie.home.answers import Refused, answer, unread
from tillie.home.log import Log

Handler = Callable[[Request], Awaitable[Response]]

# The same endpoints under the prefix that they had before version 1.1 of the specification, for older clients.
_PREFIX, _OLD_PREFIX = "/_matrix/client/v3/", "/_matrix/client/r0/"

MAX_DROPPED = 64 << 10  # bytes of a body that nobody reads, and the connection goes on
LINGER_SECONDS = 5.0  # for the rest of a longer one, before the connection is closed

_TIMEOUT = 408
_UNRECOGNIZED = "M_UNRECOGNIZED"


class _Path(NamedTuple):
    """What is behind one path. `template` has names in braces in place of ids."""

    template: str
    handlers: dict[str, Handler]


class Door:
    """All routes behind one callable. `Route` is only read: path, methods, endpoint."""

    def __init__(self, routes: Iterable[Route], log: Log) -> None:
        self._log = log
        self._paths: dict[str, _Path] = {}
        for route in routes:
            self._add(route.path, route)
            if route.path.startswith(_PREFIX):
                self._add(_OLD_PREFIX + route.path.removeprefix(_PREFIX), route)
        self._patterns = [(compile_path(path)[0], found) for path, found in self._paths.items() if "{" in path]

    def _add(self, path: str, route: Route) -> None:
        handlers = self._paths.setdefault(path, _Path(path, {})).handlers
        for method in route.methods or ():
            if method in handlers:
                raise ValueError(f"{method} {path} is there twice")
            handlers[method] = route.endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        path = self._find(scope)
        request = Request(scope, receive)
        response = await self._answer(path, request)
        seconds = time.perf_counter() - started
        if unread(request) > MAX_DROPPED or response.status_code == _TIMEOUT:
            await _answer_and_close(response, request, send)
        else:
            await response(scope, receive, send)
        self._log.request(scope["method"], path.template if path else "", response.status_code, seconds)

    def _find(self, scope: Scope) -> _Path | None:
        raw = scope["raw_path"].decode("latin-1")
        if raw in self._paths and "{" not in raw:
            return self._paths[raw]
        for pattern, found in self._patterns:
            match = pattern.match(raw)
            if match:
                scope["path_params"] = match.groupdict()
                return found
        return None

    async def _answer(self, path: _Path | None, request: Request) -> Response:
        method: str = request.scope["method"]
        if method == "OPTIONS":
            return answer({})
        if path is None:
            return Refused(404, _UNRECOGNIZED, "There is no such endpoint.").response()
        handler = path.handlers.get(method)
        if handler is None:
            return Refused(405, _UNRECOGNIZED, "This endpoint has no such method.").response()
        try:
            _unquote(request.scope)
            return await handler(request)
        except Refused as refused:
            return refused.response()
        except StoreUnwritable as error:
            self._log.event("unwritable", route=path.template, detail=error.detail)
            return answer({"errcode": "M_UNKNOWN", "error": "The home can store nothing just now."}, 503)
        except Exception as error:  # noqa: BLE001  a fault of ours ends one request, not the home
            self._log.fault(error, method=method, route=path.template)
            return answer({"errcode": "M_UNKNOWN", "error": "The home made a mistake."}, 500)


async def _answer_and_close(response: Response, request: Request, send: Send) -> None:
    """An answer before the request's end, which is long or does not come: the connection ends with it, as the answer
    says. A client that is still writing finds the answer only if its bytes are taken meanwhile: a connection that is
    closed over them is reset."""

    async def keep_open(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    response.headers["Connection"] = "close"
    await response(request.scope, request.receive, keep_open)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while (await request.receive()).get("more_body", False):
                pass
    await send({"type": "http.response.body"})


def _unquote(scope: Scope) -> None:
    """Raises `Refused` for an id that is not UTF-8."""
    try:
        names = scope.get("path_params", {})
        scope["path_params"] = {name: urllib.parse.unquote(each, errors="strict") for name, each in names.items()}
    except UnicodeDecodeError:
        raise Refused(400, "M_INVALID_PARAM", "The path is not UTF-8.") from None
