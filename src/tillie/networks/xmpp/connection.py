"""One account, logged in to its XMPP server and kept there: a slixmpp client with the plugins, for `client`.

Certificates and host names are checked, over STARTTLS or direct TLS; there is no way to turn that off.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import slixmpp
from slixmpp.stanza import StreamFeatures

from tillie.engine import Engine
from tillie.errors import AuthenticationFailed, NetworkError, Unreachable, UsageError
from tillie.model import Address, Notice
from tillie.networks import USUAL, Options
from tillie.networks.xmpp.core import MODULE, NAME, Core
from tillie.networks.xmpp.service import XmppService
from tillie.networks.xmpp.stream import StreamViolation
from tillie.pubsub import signing, statements, targeted
from tillie.schemes.omemo.version import OMEMO2
from tillie.sessions import Sessions
from tillie.store import Store

TIMEOUT = 30.0  # seconds for a login, DNS and TLS included
READY_TIMEOUT = 90.0  # seconds until our device is announced
CLOSE_TIMEOUT = 3.0
_STARTTLS = "{urn:ietf:params:xml:ns:xmpp-tls}starttls"
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 120.0  # seconds between two attempts to come back


@dataclass(frozen=True, slots=True)
class Login:
    """Where and as whom. `server` is "" (found by DNS) or "host:port", `ca_file` a PEM file of the only authority that
    is trusted then."""

    address: Address
    password: str = field(repr=False)
    server: str = ""
    direct_tls: bool = False
    ca_file: str = ""

    @property
    def host_and_port(self) -> tuple[str, int] | None:
        if not self.server:
            return None
        host, colon, port = self.server.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
            raise UsageError(f"'{self.server}' is not a server: write host:port.")
        return host, int(port)


class Connection:
    """An account's engine on a network that is logged in. It comes back by itself when the connection breaks."""

    def __init__(self, login: Login, store: Store, options: Options) -> None:
        self._login = login
        self._listening = options.listening
        self._closing = False
        self._outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # When we gave up before it failed, nobody asks for the reason.
        self._outcome.add_done_callback(lambda outcome: outcome.cancelled() or outcome.exception())
        self._returning: asyncio.Task[None] | None = None
        self._caught_up = asyncio.Event()
        self._pause = FIRST_PAUSE
        self._refusal = Unreachable()  # of the last way that was tried; there may be several
        self._client: Any = self._make_client()
        self.core = self._use(store, options)

    def _use(self, store: Store, options: Options) -> Core:
        """What is opened waits in the inbox: whoever uses this connection acknowledges it."""
        shared = {
            "store": store,
            "policy": options.policy.value,
            "decide": options.decide,
            "history": options.history,
            "auto_acknowledge": False,
            "catch_up": options.listening,
        }
        client = self._client
        client.register_plugin(NAME, shared, module=MODULE)
        own = {"label": options.label, "repair": options.repair.value}
        negotiating = {"settings": options.sessions, "answer": options.answer.value}
        # In this order: OMEMO is what is meant where no scheme is named.
        for plugin, config in (("xep_0384", own), ("xep_0374", {}), ("xep_0116", negotiating)):
            client.register_plugin(plugin, config, module=f"tillie.networks.xmpp.{plugin}")
        for event in ("omemo_failed", "openpgp_failed", "esession_unreadable"):
            client.add_event_handler(event, lambda stanza: _tell_of_failure(stanza, options.notice))
        client.add_event_handler("omemo_notice", options.notice)
        core: Core = client.plugin[NAME]
        return core

    @property
    def engine(self) -> Engine:
        return self.core.engine

    @property
    def service(self) -> XmppService:
        return self.core.service

    @property
    def sessions(self) -> Sessions:
        sessions: Sessions = self._client.plugin["xep_0116"].sessions
        return sessions

    async def caught_up(self, seconds: float) -> bool:
        """Whether, within so many seconds, all is processed that came before we logged in; only if we listen."""
        try:
            async with asyncio.timeout(seconds):
                await self._caught_up.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Log out. The store stays open: it belongs to whoever opened it."""
        self._closing = True
        if self._returning is not None:
            self._returning.cancel()
        client = self._client
        if client.transport is not None:
            if self.core.network.online:
                await client.plugin["xep_0116"].end_all()
                client.send_presence(ptype="unavailable") if self._listening else None
            try:
                await asyncio.wait_for(client.disconnect(CLOSE_TIMEOUT / 2), CLOSE_TIMEOUT)
            except TimeoutError:
                client.abort()
        client.cancel_connection_attempt()
        self.core.stop()
        if client._run_out_filters is not None:
            client._run_out_filters.cancel()

    # -- the client ---------------------------------------------------------------------------------------------------

    def _make_client(self) -> Any:
        client: Any = slixmpp.ClientXMPP(self._login.address, self._login.password, ssl_context=self._tls())
        client.enable_direct_tls = self._login.direct_tls or not self._login.server
        client.enable_starttls = not self._login.direct_tls
        client.enable_plaintext = False
        # Who may see her presence is a person's decision, made in her usual client; slixmpp would accept everybody.
        client.auto_authorize, client.auto_subscribe = None, False
        client.add_filter("in", self._require_tls)
        client.add_event_handler("session_bind", self._advertise)
        client.add_event_handler("omemo_ready", self._ready)
        client.add_event_handler("omemo_caught_up", lambda _: self._caught_up.set())
        client.add_event_handler("session_resumed", self._online)
        client.add_event_handler("failed_auth", lambda _: self._fail(AuthenticationFailed()))
        client.add_event_handler("failed_all_auth", lambda _: self._fail(AuthenticationFailed()))
        client.add_event_handler(
            "no_auth", lambda _: self._fail(AuthenticationFailed("It offers no way that is safe."))
        )
        client.add_event_handler("connection_failed", self._refused)
        client.add_event_handler("reconnect_delay", lambda _: self._fail(self._refusal))
        client.add_event_handler("omemo_not_ready", self._fail)
        client.add_event_handler("ssl_invalid_chain", self._untrusted)
        client.add_event_handler("stream_violation", self._violated)
        client.add_event_handler("disconnected", self._disconnected)
        return client

    def _advertise(self, _: object) -> None:
        """What this program does with pubsub, too, though without slixmpp's help."""
        for feature in (statements.NS, *signing.FEATURES, targeted.FEATURE, OMEMO2.namespace):
            self._client.plugin["xep_0030"].add_feature(feature)

    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._login.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"The file of authorities '{self._login.ca_file}' can't be read: {error}.") from None

    async def log_in(self) -> None:
        """Returns when the engine is ready. Raises `AuthenticationFailed`, `Unreachable`, or what the store raises."""
        self._dial()
        try:
            async with asyncio.timeout(TIMEOUT):
                while not self.core.network.online and not self._outcome.done():
                    await asyncio.wait([self._outcome], timeout=0.02)
            async with asyncio.timeout(READY_TIMEOUT):
                await self._outcome
        except TimeoutError:
            raise Unreachable("The server did not answer in time.") from None

    def _dial(self) -> None:
        place = self._login.host_and_port
        if place is None:
            self._client.connect()
        else:
            self._client.connect(*place)

    # -- what happens -------------------------------------------------------------------------------------------------

    def _ready(self, _: object) -> None:
        if self._listening:
            self._client.send_presence()
        self._online(None)
        if not self._outcome.done():
            self._outcome.set_result(None)

    def _online(self, _: object) -> None:
        self._pause = FIRST_PAUSE

    def _fail(self, error: Exception) -> None:
        if not self._outcome.done():
            self._client.cancel_connection_attempt()
            self._outcome.set_exception(error)

    def _require_tls(self, stanza: Any) -> Any:
        # Whoever takes STARTTLS out of the offer would be spoken to in plain, by ANONYMOUS for example.
        offered = not isinstance(stanza, StreamFeatures) or stanza.xml.find(_STARTTLS) is not None
        if offered or self._client.transport.get_extra_info("ssl_object") is not None:
            return stanza
        self._fail(Unreachable("It offers no encrypted connection (TLS)."))
        self._client.abort()
        return None

    def _refused(self, why: object) -> None:
        self._refusal = _refusal(why)

    def _untrusted(self, error: object) -> None:
        self._fail(_refusal(error))
        self._client.abort()

    def _violated(self, error: StreamViolation) -> None:
        self._fail(Unreachable(error.detail))

    def _disconnected(self, why: object) -> None:
        self._fail(_refusal(why))
        wanted = not self._closing and self._outcome.done() and self._outcome.exception() is None
        if wanted and (self._returning is None or self._returning.done()):
            self._returning = asyncio.ensure_future(self._come_back())

    async def _come_back(self) -> None:
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._dial()


async def connect(login: Login, store: Store, options: Options = USUAL) -> Connection:
    """Log in and make the engine ready. `options.listening` sends presence: offline messages come, others may see us.

    What is opened waits in the engine's inbox until the program acknowledges it. Raises `AuthenticationFailed`,
    `Unreachable`, `UsageError`, and what the store raises.
    """
    connection = Connection(login, store, options)
    try:
        await connection.log_in()
    except BaseException:
        await connection.close()
        raise
    return connection


def _tell_of_failure(stanza: Any, notice: Callable[[Notice], None]) -> None:
    """What changed nothing, not even the inbox, is told at once: nobody finds it there."""
    if stanza.row is None:
        about = Address(stanza.delivery.address)
        notice(Notice(about, f"a message can't be read: {stanza.delivery.error or stanza.delivery.kind}"))


def _refusal(why: object) -> Unreachable:
    if isinstance(why, ssl.SSLCertVerificationError):
        return Unreachable(
            f"Its certificate is not to be trusted: {why.verify_message}.",
            hint="Check the server's name, or --ca-file.",
        )
    if isinstance(why, (OSError, NetworkError)):
        return Unreachable(f"{str(why).rstrip('.')}.")
    return Unreachable(f"{why.rstrip('.')}." if isinstance(why, str) and why else "")
