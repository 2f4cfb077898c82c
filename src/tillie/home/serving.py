"""A home as a process: sockets, TLS, signals, one home a database, and patience with slow clients that ends.

SIGTERM and SIGINT: no new connections, long polls end, what is being answered is finished, the queues stay in the
database. SIGHUP: the TLS certificate is read again. uvicorn with uvloop and httptools took the
least time for a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import resource
import signal
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tillie.errors import StoreUnwritable, UsageError
from tillie.home.app import app
from tillie.home.config import Config, Listen
from tillie.home.database import Database
from tillie.home.door import Door
from tillie.home.log import Log
from tillie.home.service import Home, load_signer

HEAD_SECONDS = 15.0  # for a request's first line and headers
MAX_HEAD_BYTES = 64 << 10
KEEP_ALIVE_SECONDS = 30
GRACE_SECONDS = 10
BACKLOG = 1024


def run(config: Config) -> None:
    """Serve until a signal ends it. Raises `UsageError`, `StoreError`."""
    signer = load_signer(config)
    with only_one(config):
        sockets = [_socket(listen) for listen in config.listen]
        servers_tls = [_load_tls(config) if listen.tls else None for listen in config.listen]
        database = Database(config.path(config.database))
        _raise_open_files()

        async def main() -> None:
            home = Home(config, database, signer)
            await serve(home, sockets, servers_tls)

        uvloop.run(main())


async def serve(home: Home, sockets: list[socket.socket], tls: list[ssl.SSLContext | None]) -> None:
    """Serve on these sockets, each with its TLS, until SIGTERM or SIGINT."""
    _keep_quiet(home.log)
    door = app(home)
    servers = [_Server(door, context) for context in tls]
    loop = asyncio.get_running_loop()

    def stop() -> None:
        home.begin_stop()
        for server in servers:
            server.force_exit = server.should_exit
            server.should_exit = True

    def reload() -> None:
        try:
            _load_tls(home.config)  # into one of its own first: a broken file changes nothing
            for context in tls:
                if context is not None:
                    _load_certificate(context, home.config)
            home.log.event("certificates_loaded")
        except UsageError as error:
            home.log.event("certificates_not_loaded", detail=error.detail)

    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    await home.start()
    try:
        for each, context in zip(sockets, tls, strict=True):
            host, port = each.getsockname()[:2]
            home.log.event("listening", server=home.server, host=host, port=port, tls=context is not None)
        await asyncio.gather(*(server.serve([each]) for server, each in zip(servers, sockets, strict=True)))
    finally:
        await home.stop()
        home.log.event("stopped")


@contextlib.contextmanager
def only_one(config: Config) -> Iterator[None]:
    """Nobody else serves this database meanwhile. Raises `UsageError`."""
    path = config.path(f"{config.database}.lock")
    try:
        file = path.open("ab")
    except OSError as error:
        raise StoreUnwritable(f"{path}: {error.strerror}.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"Another 'tillie home serve' runs on {config.path(config.database)}.") from None
        yield


class _Server(uvicorn.Server):
    """A server on one socket; signals are ours."""

    def __init__(self, door: Door, tls: ssl.SSLContext | None) -> None:
        config = uvicorn.Config(
            door,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
            backlog=BACKLOG,
        )
        config.load()
        config.ssl = tls
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """HTTP with ends to it: uvicorn waits for a request's head as long as it takes, and keeps all of it, of what is
    pipelined behind a request and of trailers, too.

    The body's size and time are bounded where it is read (`answers.body_bytes`); the rest of one that was answered
    before it was read is dropped here, and the next request on the connection is as good as any.
    """

    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0  # that came since the last byte of a body, or of the head before
    _is_in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._head_bytes > MAX_HEAD_BYTES:
            self.transport.abort()
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._timer is None and (self.cycle.response_complete if self._is_in_body else self._head_bytes):
            self._await_head()

    def on_headers_complete(self) -> None:
        self._is_in_body = True
        self._head_bytes = 0
        self._forget_timer()
        self._unset_keepalive_if_required()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_body = False
        self._head_bytes = 0
        super().on_message_complete()
        if self._timer is not None:  # it was the rest of a body that nobody wants: the next request may take its time
            self._forget_timer()
            self.timeout_keep_alive_task = self.loop.call_later(KEEP_ALIVE_SECONDS, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Warnings(logging.Handler):
    """What libraries warn of, as lines of our log: the message without what was put into it (asyncio puts that into
    further lines of the message)."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.event("library", name=record.name, level=record.levelname, detail=_first_line(record.msg))


def _first_line(message: object) -> str:
    return str(message).partition("\n")[0][:200]


def _keep_quiet(log: Log) -> None:
    """Whatever else is said in this process, and what nobody caught, goes to our log, too, and quotes nobody there."""

    def uncaught(_: object, context: dict[str, Any]) -> None:
        if "exception" in context:
            log.fault(context["exception"])
        else:
            log.event("library", name="asyncio", level="ERROR", detail=_first_line(context["message"]))

    asyncio.get_running_loop().set_exception_handler(uncaught)
    for name in ("uvicorn", "asyncio", "aiohttp"):
        logger = logging.getLogger(name)
        logger.handlers = [_Warnings(log)]
        logger.propagate = False


def _socket(listen: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    try:
        return socket.create_server((listen.host, listen.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(f"Can't listen on {listen.host} port {listen.port}: {error.strerror}.") from None


def _load_tls(config: Config) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, config)
    return context


def _load_certificate(context: ssl.SSLContext, config: Config) -> None:
    if not config.tls_certificate or not config.tls_key:
        raise UsageError(
            "A listener with TLS needs tls_certificate and tls_key in the configuration.",
            hint="Behind a proxy that has a certificate, write tls = false.",
        )
    try:
        context.load_cert_chain(config.path(config.tls_certificate), config.path(config.tls_key))
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"The certificate or its key can't be loaded: {error.strerror or error}.") from None


def _raise_open_files() -> None:
    """As many connections as the system lets one process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
