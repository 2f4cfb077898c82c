"""A slixmpp program with the plugin, as a test sees it: log in, say, read, cut the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import slixmpp

from support.prosody import PASSWORD
from tillie.demo.prosody import PrivateProsody
from tillie.model import Address, Sealed
from tillie.store import MemoryStore

SECONDS = 15.0  # until a test gives up


class Bot(slixmpp.ClientXMPP):
    """One device. What it opens comes out of `read`, what fails lies in `failed`, notices in `notices`.

    `plugins` are registered in this order; all get the same `options`.
    """

    def __init__(
        self,
        server: PrivateProsody,
        jid: str,
        *,
        presence: bool = True,
        plugins: tuple[str, ...] = ("xep_0384",),
        **options: Any,
    ) -> None:
        super().__init__(jid, PASSWORD, ssl_context=server.ssl_context())
        self.enable_direct_tls = False
        self.prosody = server
        self.opened: asyncio.Queue[Any] = asyncio.Queue()
        self.failed: list[Any] = []
        self.notices: list[str] = []
        self.errors: list[BaseException] = []
        self.events: list[str] = []
        self.store = options.setdefault("store", MemoryStore(Address(jid)))
        for plugin in plugins:
            self.register_plugin(plugin, options, module=f"tillie.networks.xmpp.{plugin}")
        self.core: Any = self.plugin["tillie"]
        self.omemo: Any = self.plugin.get("xep_0384", None)
        self._seal_with: Any = self.plugin[plugins[0]]
        for scheme in ("omemo", "openpgp"):
            self.add_event_handler(f"{scheme}_message", self.opened.put_nowait)
            self.add_event_handler(f"{scheme}_failed", self.failed.append)
        self.add_event_handler("esession_message", self.opened.put_nowait)
        for event in ("esession_unreadable", "esession_refused"):
            self.add_event_handler(event, self.failed.append)
        scheme = next(iter(self.core.engine.schemes))
        self._caught_up = f"{scheme}_caught_up"
        self.add_event_handler(f"{scheme}_notice", lambda notice: self.notices.append(notice.text))
        for event in ("session_resumed", "session_start", self._caught_up):
            self.add_event_handler(event, lambda _, event=event: self.events.append(event))
        if presence:
            self.add_event_handler(f"{scheme}_ready", lambda _: self.send_presence())

    def exception(self, exception: BaseException) -> None:
        self.errors.append(exception)

    async def start(self) -> None:
        caught_up = asyncio.ensure_future(self.wait_until(self._caught_up, SECONDS))
        self.connect("127.0.0.1", self.prosody.port)
        await caught_up

    async def stop(self) -> None:
        if self.transport is not None:
            await self.disconnect(1.0)
        self.cancel_connection_attempt()
        if self._run_out_filters is not None:
            self._run_out_filters.cancel()
        await self.core.close()

    async def come_back(self, event: str = "session_resumed") -> None:
        """Connect again after a cut, and wait until the stream is resumed (or, with another event, begun anew)."""
        back = asyncio.ensure_future(self.wait_until(event, SECONDS))
        self.connect("127.0.0.1", self.prosody.port)
        await back

    async def cut(self) -> None:
        """Let the TCP connection break, without a word to the server."""
        gone = asyncio.ensure_future(self.wait_until("disconnected", SECONDS))
        self.transport.abort()
        await gone

    async def say(self, to: str, text: str) -> Sealed:
        sealed: Sealed = await self._seal_with.send_sealed(self.make_message(to, text, mtype="chat"))
        return sealed

    async def read(self) -> str:
        """The next message's text."""
        return str((await self.read_stanza())["body"])

    async def read_stanza(self) -> Any:
        return await asyncio.wait_for(self.opened.get(), SECONDS)

    async def settled(self) -> None:
        """Everything that the server has for us has arrived, and is committed."""
        await self.plugin["xep_0199"].ping(slixmpp.JID(self.boundjid.host))
        await self.core.receiver.drained()
        await self.plugin["xep_0199"].ping(slixmpp.JID(self.boundjid.host))

    async def nothing_more(self) -> None:
        await self.settled()
        assert self.opened.empty()
        assert self.failed == []
        assert self.errors == []


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that only events can make true."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110  there is no event for what a store holds
            await asyncio.sleep(0.01)


class Startable(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@asynccontextmanager
async def online(*bots: Startable) -> AsyncIterator[None]:
    """Programs that are logged in and ready, and gone afterwards."""
    try:
        for bot in bots:
            await bot.start()
        yield
    finally:
        for bot in bots:
            await bot.stop()
