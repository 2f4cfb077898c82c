"""XEP-0384 (OMEMO Encryption, `urn:xmpp:omemo:2`) as a slixmpp plugin on Tillie's engine and store.

    client.register_plugin("xep_0384", {"store": path, "key": key}, module="tillie.networks.xmpp.xep_0384")

Options, methods and events are in docs/xmpp.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from slixmpp.plugins import BasePlugin
from slixmpp.plugins.base import register_plugin
from slixmpp.stanza import Iq, Message, Presence

from tillie import store as stores
from tillie.engine import TICK_INTERVAL, Engine
from tillie.envelope import policy as sealing
from tillie.errors import NetworkError, StoreMismatch, TillieError, UsageError
from tillie.model import Address, Content, Notice, Sealed
from tillie.networks.xmpp import catch_up, xep_0380, xep_0420
from tillie.networks.xmpp.acknowledgements import Handled
from tillie.networks.xmpp.catch_up import Archive, Position
from tillie.networks.xmpp.elements import children, from_bytes, one_from_bytes
from tillie.networks.xmpp.network import TIMEOUT, XmppNetwork, message_of
from tillie.networks.xmpp.opened import OpenedIq, OpenedMessage
from tillie.networks.xmpp.receiver import Receiver
from tillie.networks.xmpp.stream import harden
from tillie.pipeline import Policy
from tillie.schemes.omemo import Omemo, Repair
from tillie.store import Store
from tillie.wire import address, stanza

log = logging.getLogger(__name__)

_CLASS_OF_IQ: Any = Iq
# What stanza.message puts beside the sealed element itself.
_OURS = frozenset({"{urn:xmpp:hints}store", "{urn:xmpp:sid:0}origin-id", "{urn:xmpp:eme:0}encryption"})


class XEP_0384(BasePlugin):
    """OMEMO 2 for one client. `engine` is open to programs that want more than stanzas."""

    name = "xep_0384"
    description = "XEP-0384: OMEMO Encryption"
    dependencies: ClassVar[set[str]] = {
        "xep_0004", "xep_0030", "xep_0060", "xep_0115", "xep_0163", "xep_0198", "xep_0199", "xep_0280", "xep_0380",
        "xep_0420",
    }  # fmt: skip
    default_config: ClassVar[dict[str, Any]] = {
        "store": "memory",  # or the path of a file, or an open store
        "key": b"",  # the file's raw 32-byte key, see tillie.store.keys
        "policy": Policy.BLIND.value,
        "repair": Repair.MANUAL.value,
        "label": "",
        "decide": None,  # async: model.Decide -> sequence of model.Decided
        "history": False,
        "catch_up": True,
        "auto_acknowledge": True,  # take a message out of the inbox when its handlers have returned
        "timeout": TIMEOUT,
    }

    def plugin_init(self) -> None:
        client: Any = self.xmpp
        harden(client)
        self.account = address.parse_bare(str(client.requested_jid.bare))
        self.scheme = Omemo(self.account, label=self.label, repair=Repair(self.repair))
        self.network = XmppNetwork(client, timeout=self.timeout)
        self.engine = Engine(
            self._open_store(),
            self.network,
            self.scheme,
            policy=Policy(self.policy),
            decide=self.decide,
            notice=self._notice,
            history=self.history,
        )
        self.network.engine = self.engine
        self.archive = Archive(self.network.ask)
        self.receiver = Receiver(
            client,
            self.engine,
            Handled(client),
            self.archive.queries,
            frozenset({self.scheme.version.devices_node}),
            acknowledge=self.auto_acknowledge,
        )
        self._work: asyncio.Task[None] | None = None
        self._ticking: asyncio.Task[None] | None = None
        client.add_event_handler("session_start", self._session_start)
        client.add_event_handler("session_resumed", self._session_resumed)
        client.add_event_handler("disconnected", self._disconnected)

    def plugin_end(self) -> None:
        client = self.xmpp
        client.del_event_handler("session_start", self._session_start)
        client.del_event_handler("session_resumed", self._session_resumed)
        client.del_event_handler("disconnected", self._disconnected)
        self.receiver.stop()
        for task in (self._work, self._ticking):
            if task is not None:
                task.cancel()

    def session_bind(self, jid: object) -> None:
        # Before the first presence, so that the server sends device lists as they change (XEP-0163 section 4.3.2).
        self.xmpp.plugin["xep_0163"].add_interest(self.scheme.version.devices_node)

    async def close(self) -> None:
        """Stop working, and close the store unless the program opened it. The client should be disconnected."""
        client: Any = self.xmpp
        client.plugin.disable(self.name)
        if self._owns_store:
            await self.engine.close()

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

    # -- sessions -----------------------------------------------------------------------------------------------------

    def _session_start(self, _: object) -> None:
        self._restart(self._begin)

    def _session_resumed(self, _: object) -> None:
        self._restart(self._go_on)

    def _disconnected(self, _: object) -> None:
        for task in (self._work, self._ticking):
            if task is not None:
                task.cancel()

    def _restart(self, work: Callable[[], Awaitable[None]]) -> None:
        if self._work is not None:
            self._work.cancel()
        self._work = asyncio.ensure_future(self._guarded(work))
        if self._ticking is not None:
            self._ticking.cancel()
        self._ticking = asyncio.ensure_future(self._tick())

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001  a task of ours has no caller: the program hears of it
            self._notice(Notice(self.account, f"not ready: {error}"))
            client: Any = self.xmpp
            client.event("omemo_not_ready", error)
            if not isinstance(error, TillieError):
                client.exception(error)

    async def _begin(self) -> None:
        """After login: our device, then what came while we were away, then the end of catching up."""
        if str(self.xmpp.boundjid.bare) != self.account:
            raise StoreMismatch(f"The server knows us as {self.xmpp.boundjid.bare}, not as {self.account}.")
        self.receiver.catching_up = True
        await self.network.told()
        self.engine.disconnected()  # what the old session did not acknowledge goes out again
        await self._ask_for_carbons()
        position = await self._position()
        await self.engine.start(catching_up=self.catch_up)
        await self.receiver.start()
        self.xmpp.event("omemo_ready", self.engine)
        if self.catch_up:
            await self._catch_up(position)
        await self.network.wait_for_all()
        await self.receiver.drained()
        if self.catch_up:  # else another process of this account may be at it, and need what would be deleted now
            await self.engine.catch_up(ended=True)
        self.xmpp.event("omemo_caught_up", self.engine)

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
            self._notice(Notice(self.account, f"the archive could not be read to its end: {error}"))
        else:
            self.receiver.catching_up = False

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_INTERVAL)
            try:
                await self.engine.tick()
            except NetworkError as error:
                self._notice(Notice(self.account, str(error)))

    def _notice(self, notice: Notice) -> None:
        self.xmpp.event("omemo_notice", notice)

    # -- what programs call -------------------------------------------------------------------------------------------

    async def send_sealed(self, message: Message) -> Sealed:
        """Seal the message's children and put the message into the outbox: it survives a crash, and is sent until the
        server has it. The report says for which devices it was sealed. Raises NotTrusted, NoRecipients, ..."""
        to, content, plain = self._split(message)
        return await self.engine.send(to, content, type=message["type"], message_id=message["id"], plain=plain)

    async def encrypt_message(self, message: Message) -> tuple[Message, Sealed]:
        """The sealed stanza for a message, for a program that sends by itself. It does not enter the outbox."""
        to, content, plain = self._split(message)
        sealed = await self.engine.seal(to, content)
        element = stanza.message(
            to,
            message["id"] or self.xmpp.new_id(),
            sealed.element,
            stanza.encryption(self.scheme.namespace, xep_0380.NAMES[self.scheme.namespace]),
            kind=message["type"],
            plain=plain,
        )
        return message_of(self.xmpp, element), sealed

    async def encrypt_presence(self, presence: Presence) -> tuple[Presence, Sealed]:
        """A sealed directed presence. What servers route and filter by stays in plain (XEP-0420)."""
        return await self._encrypt_in_place(presence, None)

    async def encrypt_iq(self, iq: Iq) -> tuple[Iq, Sealed]:
        """A sealed IQ, bound to its type and id."""
        return await self._encrypt_in_place(iq, (iq["type"], iq["id"]))

    async def send_sealed_iq(self, iq: Iq) -> OpenedIq:
        """Send a sealed request and open the answer. Raises `IqError` for a plain error, `Refused` if a result came in
        plain or does not open."""
        sealed: Any = (await self.encrypt_iq(iq))[0]
        answer = await sealed.send(timeout=self.timeout)
        return await self.receiver.open_answer(answer)

    async def send_sealed_reply(self, reply: Iq) -> Sealed:
        """Send a sealed result or error to a sealed request (`request.reply()`, with what you add)."""
        sealed: Any
        sealed, report = await self.encrypt_iq(_CLASS_OF_IQ(self.xmpp, reply.xml, recv=True))
        sealed.send()
        return report

    async def acknowledge(self, message: OpenedMessage) -> None:
        """The program has taken the message over: it leaves the inbox."""
        if message.row is not None:
            await self.engine.acknowledge(message.row)

    def _split(self, message: Message) -> tuple[Address, Content, tuple[bytes, ...]]:
        if message["type"] in ("groupchat", "error"):
            raise UsageError("group chat and errors can't be sealed yet")
        content, plain = sealing.split_outgoing(Content(children(message.xml)))
        kept = [data for data in plain if from_bytes(data)[0].tag not in _OURS]
        return address.parse(str(message["to"])), content, tuple(kept)

    async def _encrypt_in_place(self, stanza: Any, iq: tuple[str, str] | None) -> tuple[Any, Sealed]:
        if not stanza["to"]:
            raise UsageError("a sealed stanza needs a recipient")
        content, plain = sealing.split_outgoing(Content(children(stanza.xml)))
        sealed = await self.engine.seal(address.parse(str(stanza["to"])), content, iq=iq)
        for child in list(stanza.xml):
            stanza.xml.remove(child)
        for data in (sealed.element, *plain):
            stanza.xml.append(one_from_bytes(data))
        return type(stanza)(self.xmpp, stanza.xml, recv=True), sealed


register_plugin(xep_0380.XEP_0380)
register_plugin(xep_0420.XEP_0420)
register_plugin(XEP_0384)
