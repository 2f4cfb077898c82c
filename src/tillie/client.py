"""An account at work on a network: send, listen, devices. It chooses network and scheme, so that a program only says
whom and what. Used from one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from tillie.account import Account, KnownKey
from tillie.crypto.random import random_bytes
from tillie.engine import DecisionMaker, Engine
from tillie.errors import NoRecipients, Rejected, Unreachable, UsageError
from tillie.model import (
    Address,
    Content,
    Device,
    DeviceReport,
    Done,
    Fetch,
    Fetched,
    Need,
    Notice,
    Sealed,
    Send,
    State,
)
from tillie.pipeline import Delivery
from tillie.wire import xml

T = TypeVar("T")

SEND_SECONDS = 15.0  # how long `Client.send` waits for the server to have the message
_LOOK_SECONDS = 0.02  # between two looks at the outbox meanwhile
STARTTLS_PORT, DIRECT_TLS_PORT = 5222, 5223
LISTEN_SECONDS = 0.5  # between two looks at the inbox: another process of this account may have filled it


@dataclass(frozen=True, slots=True)
class Sent:
    """One message: sealed, with its report for each device, and whether the server has it (else it is queued)."""

    id: str
    sealed: Sealed
    arrived: bool


# -- with a network -------------------------------------------------------------------------------------------------


class Connection(Protocol):
    """An account's engine on a network that is logged in."""

    @property
    def engine(self) -> Engine: ...

    async def close(self) -> None: ...


async def connect(
    account: Account,
    password: str,
    *,
    listening: bool = False,
    decide: DecisionMaker | None = None,
    notice: Callable[[Notice], None] = lambda _: None,
) -> Client:
    """Log in over XMPP and announce our device if it is new.

    `listening` reads what waited at the server, and shows us as available, so that messages come here as they are
    sent. Raises `Unreachable`, `AuthenticationFailed`, ...
    """
    from tillie.networks.xmpp import connection as xmpp  # slixmpp takes its time to load

    settings = account.settings
    login = xmpp.Login(account.address, password, settings.server, settings.direct_tls, settings.ca_file)
    connection = await xmpp.connect(
        login,
        account.store,
        listening=listening,
        policy=account.policy,
        label=settings.label,
        history=settings.history,
        decide=decide,
        notice=notice,
    )
    return Client(account, connection)


def server_address(text: str, *, direct_tls: bool = False) -> str:
    """ "host:port" from "host", "host:port" or "[IPv6]:port"; "" from "". Raises `UsageError`."""
    if not text:
        return ""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return f"{text}:{DIRECT_TLS_PORT if direct_tls else STARTTLS_PORT}"
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536 or not host:
        raise UsageError(f"'{text}' is not a server.", hint="A server is HOST or HOST:PORT.")
    return text


class Client:
    """One account at work on a network."""

    def __init__(self, account: Account, connection: Connection) -> None:
        self.account = account
        self._connection = connection
        self.engine = connection.engine

    async def close(self) -> None:
        """Leave the network. The store stays open: it belongs to whoever opened it."""
        await self._connection.close()

    def device(self) -> Device:
        """Our own device, which exists once we are connected."""
        device = self.account.own_device()
        if device is None:
            raise UsageError("This account has no device yet.")
        return device

    # -- sending ----------------------------------------------------------------------------------------------------

    async def send(self, to: Address, text: str, *, wait: float = SEND_SECONDS) -> Sent:
        """Seal a text for everybody it is for and send it. It is never lost once this returns; `arrived` tells whether
        the server had it within `wait` seconds. Raises NotTrusted, NoRecipients, OptedOut, ...

        The device lists are asked for first: somebody who does not share presence with us, or whose change came while
        we were away, may have a device that we have not heard of.
        """
        failed = await self._refresh(to, self.account.address)
        message_id = random_bytes(12).hex()
        try:
            sealed = await self.engine.send(to, text_content(text), message_id=message_id)
        except NoRecipients as error:
            if failed.get(to):
                raise NoRecipients(f"{error.detail} The answer of {to.domain} was: {failed[to]}.") from None
            raise
        return Sent(message_id, sealed, await self._until_sent(message_id, wait))

    async def _until_sent(self, message_id: str, wait: float) -> bool:
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            waiting = {row.effect.id for row in await self.engine.outbox() if isinstance(row.effect, Send)}
            if message_id not in waiting:
                return True
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(_LOOK_SECONDS)

    # -- receiving --------------------------------------------------------------------------------------------------

    async def listen(self) -> AsyncIterator[tuple[int, Delivery]]:
        """What was opened, first what waits in the inbox. Acknowledge each row when it was shown: what is not
        acknowledged is handed out again by the next `listen`."""
        seen: set[int] = set()
        while True:
            rows = await self.engine.inbox()
            for row, delivery in rows:
                if row not in seen:
                    seen.add(row)
                    yield row, delivery
            seen &= {row for row, _ in rows}
            await asyncio.sleep(LISTEN_SECONDS)

    async def acknowledge(self, row: int) -> None:
        await self.engine.acknowledge(row)

    # -- devices ----------------------------------------------------------------------------------------------------

    async def devices(self, address: Address) -> list[KnownKey]:
        """One account's devices, freshly asked for, with their keys and why one can't be reached."""
        await self._refresh(address)
        considered = await self.engine.drive(lambda s: self._consider(s, address))
        why = {(report.device.address, report.device.id): report.why for report in considered}
        keys = self.account.keys(address)
        return [replace(key, why=why.get((key.device.address, key.device.id), "")) for key in keys]

    async def _refresh(self, *addresses: Address) -> dict[Address, str]:
        """Ask for device lists; what went wrong, by address."""
        unique = list(dict.fromkeys(addresses))
        return dict(zip(unique, await asyncio.gather(*map(self._ask_for_list, unique)), strict=True))

    async def _ask_for_list(self, address: Address) -> str:
        ask = Fetch(address, self.account.omemo.version.devices_node)
        try:
            fact = await self.engine.network.fetch(ask)
        except Rejected as error:
            fact = Fetched(ask.address, ask.node, ask.item, None, error.condition)
        except Unreachable as error:
            return error.detail  # what is known may still be good enough; if not, the send says so
        await self.engine.learn(fact)
        return "" if fact.error == "item-not-found" else fact.error

    def _consider(self, s: State, address: Address) -> Done[tuple[DeviceReport, ...]] | Need:
        found = self.account.omemo.devices(s, address, self.account.clock())
        return found if isinstance(found, Need) else Done(found[1])

    async def unlist(self, device_id: int) -> bool:
        """Take one of our own devices off the list that our contacts read (XEP-0384 section "Announcing support"), so
        that nobody seals for it any more; False if it is not there. A device that still runs announces itself again."""
        account = self.account.address
        await self._refresh(account)
        publication = await self.engine.drive(
            lambda s: Done(self.account.omemo.list_without(s, device_id, self.account.clock()))
        )
        if publication is not None:
            await self.engine.network.publish(publication)
            await self._refresh(account)
        return publication is not None


# -- texts ----------------------------------------------------------------------------------------------------------

_BODY = "{jabber:client}body"


def text_content(text: str) -> Content:
    """A text as the content of a message (RFC 6121 section 5.2.3)."""
    return Content(b"<body xmlns='jabber:client'>" + xml.escape(text) + b"</body>")


def text_of(content: str) -> str:
    """The text in a message's content; "" if it has none (a receipt, a chat state)."""
    bodies = [child for child in xml.parse_fragment(content.encode()) if child.tag == _BODY]
    return xml.text_of(bodies[0]) if bodies else ""
