"""What Tillie's plugins share in one slixmpp client: one store, engine, connection and way in, whatever the schemes.

The first plugin that needs it makes it, from its own options; the others find it. A program may also make it itself:
`client.register_plugin("tillie", {"store": path, "key": key}, module="tillie.networks.xmpp.core")`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from slixmpp.plugins import BasePlugin
from slixmpp.plugins.base import register_plugin

from tillie import sessions
from tillie import store as stores
from tillie.engine import TICK_INTERVAL, Engine
from tillie.errors import NetworkError, StoreMismatch, TillieError, UsageError
from tillie.model import Address, Notice
from tillie.networks.xmpp import catch_up
from tillie.networks.xmpp.acknowledgements import Handled
from tillie.networks.xmpp.catch_up import Archive, Position
from tillie.networks.xmpp.elements import one_from_bytes
from tillie.networks.xmpp.network import TIMEOUT, XmppNetwork
from tillie.networks.xmpp.receiver import Receiver
from tillie.networks.xmpp.service import XmppService
from tillie.networks.xmpp.stream import harden
from tillie.pipeline import Policy
from tillie.schemes import Scheme
from tillie.store import Store
from tillie.wire import address

if TYPE_CHECKING:
    from tillie.nodes import Nodes

log = logging.getLogger(__name__)

NAME, MODULE = "tillie", __name__
OPTIONS: dict[str, Any] = {
    "store": "memory",  # or the path of a file, or an open store
    "key": b"",  # the file's raw 32-byte key, see tillie.store.keys
    "policy": Policy.BLIND.value,
    "decide": None,  # async: model.Decide -> sequence of model.Decided
    "history": False,
    "catch_up": True,
    "auto_acknowledge": True,  # take a message out of the inbox when its handlers have returned
    "timeout": TIMEOUT,
}


class Core(BasePlugin):
    """One client's account at work. Events about the whole account are called once for each scheme in use, so that a
    program listens to those of the scheme that it knows."""

    name = NAME
    description = "Tillie"
    dependencies: ClassVar[set[str]] = {
        "xep_0004", "xep_0030", "xep_0060", "xep_0115", "xep_0163", "xep_0198", "xep_0199", "xep_0280",
    }  # fmt: skip
    default_config: ClassVar[dict[str, Any]] = OPTIONS

    def plugin_init(self) -> None:
        client: Any = self.xmpp
        harden(client)
        self.account = address.parse_bare(str(client.requested_jid.bare))
        self.network = XmppNetwork(client, timeout=self.timeout)
        self.engine = Engine(
            self._open_store(),
            self.network,
            policy=Policy(self.policy),
            decide=self.decide,
            notice=self.notice,
            history=self.history,
        )
        self.network.engine = self.engine
        self.archive = Archive(self.network.ask)
        self.receiver = Receiver(
            client, self.engine, Handled(client), self.archive.queries, self.notice, acknowledge=self.auto_acknowledge
        )
        self.service = XmppService(self.network)
        self.users: set[str] = set()  # the plugins that need us
        self._nodes: Nodes | None = None
        self._own: Address | None = None  # our full JID on the last connection
        self._work: asyncio.Task[None] | None = None
        self._ticking: asyncio.Task[None] | None = None
        client.add_event_handler("session_start", self._session_start)
        client.add_event_handler("session_resumed", self._session_resumed)
        client.add_event_handler("disconnected", self._disconnected)
        client.add_event_handler("session_end", self._session_ended)

    def plugin_end(self) -> None:
        client = self.xmpp
        client.del_event_handler("session_start", self._session_start)
        client.del_event_handler("session_resumed", self._session_resumed)
        client.del_event_handler("disconnected", self._disconnected)
        client.del_event_handler("session_end", self._session_ended)
        sessions.bind(self.engine, None)
        self.receiver.stop()
        self.service.close()
        self._stop_working()

    def session_bind(self, jid: object) -> None:
        # Before the first presence, so that the server sends lists as they change (XEP-0163 section 4.3.2).
        for scheme in self.engine.schemes.values():
            self._tell_interest(scheme)

    def _tell_interest(self, scheme: Scheme) -> None:
        for node in sorted(scheme.watched):
            self.xmpp.plugin["xep_0163"].add_interest(node)

    def _open_store(self) -> Store:
        self._owns_store = True
        if self.store == "memory":
            return stores.MemoryStore(self.account)
        if isinstance(self.store, (str,)) or hasattr(self.store, "__fspath__"):
            return stores.open(self.store, self.account, self.key)
        self._owns_store = False
        opened: Store = self.store
        if opened.account != self.account:
            raise StoreMismatch(f"It belongs to {opened.account}, not to {self.account}.")
        return opened

    # -- what the plugins call ----------------------------------------------------------------------------------------

    def use(self, scheme: Scheme) -> None:
        """One more scheme, before the session starts."""
        self.engine.add(scheme)
        self.receiver.schemes_changed()
        if self.xmpp.session_bind_event.is_set():
            self._tell_interest(scheme)

    def leave(self, plugin: BasePlugin, scheme: Scheme | None = None) -> None:
        """A plugin, and its scheme if it has one, are not used any more. With the last one everything stops."""
        self.users.discard(plugin.name)
        if scheme is not None and self.engine.schemes.pop(scheme.name, None) is not None:
            self.receiver.schemes_changed()
        if not self.users:
            self._disable(NAME)

    def stop(self) -> None:
        """Stop working. The client should be disconnected; the store stays open."""
        for name in (*sorted(self.users), NAME):
            self._disable(name)

    def _disable(self, plugin: str) -> None:
        client: Any = self.xmpp
        client.plugin.disable(plugin)

    async def close(self) -> None:
        """Stop working, and close the store unless the program opened it."""
        self.stop()
        if self._nodes is not None:
            await self._nodes.close()
        if self._owns_store:
            await self.engine.close()

    @property
    def nodes(self) -> Nodes:
        """Private pubsub."""
        if self._nodes is None:
            from tillie.nodes import Nodes  # most programs need none

            self._nodes = Nodes(self.engine, self.service)
        return self._nodes

    def require(self, options: Mapping[str, Any]) -> None:
        """A later plugin came with options of its own. Raises `UsageError` if they are not ours."""
        for name, value in options.items():
            if self.config[name] != value:
                raise UsageError(f"The plugins of one client share one '{name}', and another plugin has set it.")

    # -- sessions -----------------------------------------------------------------------------------------------------

    def _session_start(self, _: object) -> None:
        self._restart(self._begin)

    def _session_resumed(self, _: object) -> None:
        self._restart(self._go_on)

    def _disconnected(self, _: object) -> None:
        self._stop_working()

    def _session_ended(self, _: object) -> None:
        """For good: it can't be resumed. What belonged to this resource goes nowhere any more."""
        sessions.bind(self.engine, None)

    def _stop_working(self) -> None:
        for task in (self._work, self._ticking):
            if task is not None:
                task.cancel()

    def _restart(self, work: Callable[[], Awaitable[None]]) -> None:
        self._stop_working()
        self._work = asyncio.ensure_future(self._guarded(work))
        self._ticking = asyncio.ensure_future(self._tick())

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001  a task of ours has no caller: the program hears of it
            self.notice(Notice(self.account, f"not ready: {error}"))
            client: Any = self.xmpp
            self._tell("not_ready", error)
            if not isinstance(error, TillieError):
                client.exception(error)

    async def _begin(self) -> None:
        """After login: our devices, then what came while we were away, then the end of catching up."""
        if str(self.xmpp.boundjid.bare) != self.account:
            raise StoreMismatch(f"The server knows us as {self.xmpp.boundjid.bare}, not as {self.account}.")
        own = address.parse(str(self.xmpp.boundjid.full))
        await sessions.begin(self.engine, own, before=self._own)
        self._own = own
        self.receiver.catching_up = True
        await self.network.told()
        self.engine.disconnected()  # what the old session did not acknowledge goes out again
        await self._ask_for_carbons()
        position = await self._position()
        await self.engine.start(catching_up=self.catch_up)
        await self.receiver.start()
        self._tell("ready", self.engine)
        if self.catch_up:
            await self._catch_up(position)
        await self.network.wait_for_all()
        await self.receiver.drained()
        if self.catch_up:  # else another process of this account may be at it, and need what would be deleted now
            await self.engine.catch_up(ended=True)
        self._tell("caught_up", self.engine)

    async def _go_on(self) -> None:
        await self.receiver.start()
        # slixmpp sends again what it had sent. What it had only queued is lost there, and still in our outbox.
        await self.network.told()
        self.engine.disconnected()
        await self.engine.flush()

    async def _ask_for_carbons(self) -> None:
        try:
            await self.network.ask("set", None, one_from_bytes(b"<enable xmlns='urn:xmpp:carbons:2'/>"))
        except NetworkError:
            log.info("the server does not copy messages to our other devices (XEP-0280)")

    async def _position(self) -> Position | None:
        """Where to go on in the archive; None if there is none, or nothing in it that this device could open."""
        position = await self.engine.drive(catch_up.loading)
        if position is not None:
            return position
        # A new device: what is in the archive already was not sealed for it. Without `catch_up` too: what comes after
        # its first login must be there for a later one that listens.
        try:
            self.receiver.archive_id = await self.archive.newest()
        except NetworkError:
            log.info("the server has no archive (XEP-0313)")
            return None
        await self.receiver.save_position()
        return None

    async def _catch_up(self, position: Position | None) -> None:
        """Only when the archive was read to its end do live messages move the position."""

        async def processed(last: str) -> None:
            await self.receiver.drained()
            self.receiver.archive_id = last
            await self.receiver.save_position()

        try:
            if position is not None:
                await self.archive.pages(position, processed)
        except NetworkError as error:
            self.notice(Notice(self.account, f"the archive could not be read to its end: {error}"))
        else:
            self.receiver.catching_up = False

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_INTERVAL)
            try:
                await self.engine.tick()
            except NetworkError as error:
                self.notice(Notice(self.account, str(error)))

    def notice(self, notice: Notice) -> None:
        """Something a person should hear."""
        self._tell("notice", notice)

    def _tell(self, what: str, data: object) -> None:
        for scheme in self.engine.schemes:
            self.xmpp.event(f"{scheme}_{what}", data)


def core_of(plugin: BasePlugin) -> Core:
    """The core of a plugin's client, made with the plugin's options if it is the first."""
    client: Any = plugin.xmpp
    given = {name: value for name, value in plugin.config.items() if name in OPTIONS and value != OPTIONS[name]}
    made = not client.plugin.enabled(NAME)
    if made:
        client.register_plugin(NAME, given, module=MODULE)
    core: Core = client.plugin[NAME]
    if not made:
        core.require(given)
    core.users.add(plugin.name)
    return core


def bring(plugin: BasePlugin, name: str) -> Any:
    """Another plugin of ours that this one needs, registered with this one's options if it was not."""
    client: Any = plugin.xmpp
    if not client.plugin.enabled(name):
        own = {key: value for key, value in plugin.config.items() if key not in OPTIONS}
        client.register_plugin(name, own, module=f"tillie.networks.xmpp.{name}")
    return client.plugin[name]


register_plugin(Core)
