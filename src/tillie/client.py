"""An account at work on a network: send, listen, devices. It chooses network and scheme, so that a program only says
whom and what. Used from one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

import msgspec

from tillie import pipeline
from tillie.account import Account
from tillie.crypto.random import random_bytes
from tillie.directory import openpgp as openpgp_nodes
from tillie.directory.matrix import KEYS_QUERY, PROFILES
from tillie.engine import DecisionMaker, Engine
from tillie.errors import NoRecipients, Rejected, Unreachable, UsageError
from tillie.known import KnownKey
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
    Publication,
    Publish,
    Sealed,
    Send,
    State,
)
from tillie.networks import Options
from tillie.pipeline import Delivery
from tillie.schemes.esession import ESession
from tillie.schemes.openpgp import backup as key_backup
from tillie.sessions import Answer, Sessions
from tillie.wire import canonical, stanza, xml

if TYPE_CHECKING:
    from tillie.networks.matrix.connection import MatrixConnection
    from tillie.nodes import Nodes
    from tillie.nodes.service import Service

T = TypeVar("T")

SEND_SECONDS = 15.0  # how long `Client.send` waits for the server to have the message
PUBLISH_SECONDS = 3.0  # ... to have our keys: it was asked already
CATCH_UP_SECONDS = 60.0  # how long `Client.settle` waits for messages that came while we were away
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

    @property
    def service(self) -> Service: ...

    @property
    def sessions(self) -> Sessions: ...

    async def caught_up(self, seconds: float) -> bool: ...

    async def close(self) -> None: ...


async def connect(
    account: Account,
    password: str,
    *,
    listening: bool = False,
    decide: DecisionMaker | None = None,
    notice: Callable[[Notice], None] = lambda _: None,
) -> Client:
    """Log in, over XMPP or to a Matrix homeserver, and announce our device if it is new.

    `listening` reads what waited at the server, and shows us as available on XMPP, so that messages come here as they
    are sent. Raises `Unreachable`, `AuthenticationFailed`, ...
    """
    settings, options = account.settings, options_of(account, listening, decide, notice)
    # Either takes its time to load.
    if account.address.is_matrix:
        from tillie.networks.matrix import connection as matrix
        from tillie.networks.matrix.login import Login

        homeserver, profile = settings.matrix.homeserver, PROFILES[settings.matrix.profile]
        at_home = Login(account.address, password, homeserver, profile, settings.ca_file, settings.label)
        return Client(account, await matrix.connect(at_home, account.store, options))

    from tillie.networks.xmpp import connection as xmpp

    login = xmpp.Login(account.address, password, settings.server, settings.direct_tls, settings.ca_file)
    return Client(account, await xmpp.connect(login, account.store, options))


def options_of(
    account: Account, listening: bool, decide: DecisionMaker | None, notice: Callable[[Notice], None]
) -> Options:
    """An account's settings, as every network takes them."""
    settings = account.settings
    return Options(
        listening, account.policy, decide, notice, settings.label, settings.history,
        answer=Answer(settings.sessions.answer), sessions=account.session_settings(),
    )  # fmt: skip


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
        self._nodes: Nodes | None = None

    @property
    def nodes(self) -> Nodes:
        """Private pubsub."""
        if self._nodes is None:
            from tillie.nodes import Nodes  # most programs need none

            self._nodes = Nodes(self.engine, self._connection.service)
        return self._nodes

    @property
    def sessions(self) -> Sessions:
        """Encrypted sessions of the account: those of this connection, and a look at those of others."""
        return self._connection.sessions

    async def settle(self, wait: float = CATCH_UP_SECONDS) -> int:
        """Take in what came while we were away, secrets of nodes among it, and believe of them what may be believed
        (see `nodes.Nodes.settle`). For a connection that listens."""
        await self._connection.caught_up(wait)
        return 0 if self.account.address.is_matrix else await self.nodes.settle()

    async def close(self) -> None:
        """Leave the network; sessions of this connection are ended first. The store stays open: it belongs to whoever
        opened it."""
        if self._nodes is not None:
            await self._nodes.close()
        await self._connection.close()

    def device(self) -> Device:
        """Our own device, which exists once we are connected."""
        device = self.account.own_device()
        if device is None:
            raise UsageError("This account has no device yet.")
        return device

    # -- sending ----------------------------------------------------------------------------------------------------

    async def send(self, to: Address, text: str, *, scheme: str = "", wait: float = SEND_SECONDS) -> Sent:
        """Seal a text for everybody it is for and send it. It is never lost once this returns; `arrived` tells whether
        the server had it within `wait` seconds. `scheme` is "omemo", "openpgp" or "esession", or "olm" on Matrix, ""
        the usual one. Raises NotTrusted, NoRecipients, OptedOut, ...

        "esession": in the open session with them, of this or another program of the account; else one is started, which
        raises `NegotiationFailed`, and ends when this connection does.

        The device lists are asked for first: somebody who does not share presence with us, or whose change came while
        we were away, may have a device that we have not heard of.
        """
        chosen = self.engine.scheme_named(scheme)
        pipeline.require_network(chosen, to)
        if chosen.name == ESession.name:
            return await self._send_in_session(to, text, wait)
        failed = await self._refresh(to, self.account.address, node=self._list_node(chosen.name))
        message_id = random_bytes(12).hex()
        try:
            content = text_content(text, to)
            sealed = await self.engine.send(to, content, message_id=message_id, scheme=chosen.name)
        except NoRecipients as error:
            if failed.get(to) and not to.is_matrix:  # there the report says it already
                raise NoRecipients(f"{error.detail} The answer of {to.domain} was: {failed[to]}.") from None
            raise
        return Sent(message_id, sealed, await self._until_sent(message_id, wait))

    async def _send_in_session(self, to: Address, text: str, wait: float) -> Sent:
        session = await self.sessions.with_peer(to) or await self.sessions.start(to)
        message_id = random_bytes(12).hex()
        sealed = await self.sessions.send(session.peer, text_content(text), message_id=message_id)
        return Sent(message_id, sealed, await self._until_sent(message_id, wait))

    async def _until_sent(self, message_id: str, wait: float) -> bool:
        return await self._until_gone(lambda effect: isinstance(effect, Send) and effect.id == message_id, wait)

    async def _until_gone(self, waits: Callable[[Send | Publish], bool], wait: float) -> bool:
        """Whether nothing like this is in the outbox any more, within so many seconds."""
        deadline = asyncio.get_running_loop().time() + wait
        while any(waits(row.effect) for row in await self.engine.outbox()):
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return True

    # -- receiving --------------------------------------------------------------------------------------------------

    async def listen(self) -> AsyncIterator[tuple[int, Delivery]]:
        """What was opened, first what waits in the inbox. Acknowledge each row when it was shown: what is not
        acknowledged is handed out again by the next `listen`."""
        seen: set[int] = set()
        while True:
            rows = await self.engine.inbox()
            for row, delivery in rows:
                if delivery.scheme == ESession.name and delivery.stanza != "message":
                    await self.engine.acknowledge(row)  # for a program that waited for it, not for a person
                elif row not in seen:
                    seen.add(row)
                    yield row, delivery
            seen &= {row for row, _ in rows}
            await asyncio.sleep(LISTEN_SECONDS)

    async def acknowledge(self, row: int) -> None:
        await self.engine.acknowledge(row)

    # -- devices ----------------------------------------------------------------------------------------------------

    async def devices(self, address: Address) -> list[KnownKey]:
        """One account's devices, freshly asked for, with their keys and why one can't be reached; then its OpenPGP
        keys. Raises `Rejected` where a user of Matrix can't be asked about, and nothing is known."""
        problem = (await self._refresh(address))[address]
        considered = await self.engine.drive(lambda s: self._consider(s, address))
        why = {(report.device.address, report.device.id): report.why for report in considered}
        if not address.is_matrix:
            await self.refresh_openpgp(address)
        keys = self.account.keys(address)
        if problem and not keys and address.is_matrix:
            raise Rejected(f"The devices of {address} can't be had: {problem}.", condition=problem)
        usual = self.engine.scheme.name
        return [
            replace(key, why=why.get((key.device.address, key.device.id), key.why)) if key.scheme == usual else key
            for key in keys
        ]

    async def refresh_openpgp(self, address: Address) -> str:
        """Ask for somebody's OpenPGP keys; why that failed, "" if it did not. None at all is no failure, and nobody has
        any on Matrix."""
        if address.is_matrix:
            return ""
        problem = (await self._refresh(address, node=openpgp_nodes.LIST_NODE))[address]
        await self.engine.drive(lambda s: self._known_certificates(s, address))
        return problem

    def _known_certificates(self, s: State, address: Address) -> Done[None] | Need:
        found = self.account.openpgp.certificates(s, address, self.account.clock())
        return found if isinstance(found, Need) else Done(None)

    def _list_node(self, scheme: str) -> str:
        if self.account.address.is_matrix:
            return KEYS_QUERY
        is_openpgp = scheme == self.account.openpgp.name
        return openpgp_nodes.LIST_NODE if is_openpgp else self.account.omemo.version.devices_node

    async def _refresh(self, *addresses: Address, node: str = "") -> dict[Address, str]:
        """Ask for lists of devices, or of keys; what went wrong, by address."""
        unique = list(dict.fromkeys(addresses))
        node = node or self._list_node(self.engine.scheme.name)
        return dict(zip(unique, await asyncio.gather(*(self._ask_for(each, node) for each in unique)), strict=True))

    async def _ask_for(self, address: Address, node: str) -> str:
        ask = Fetch(address, node)
        try:
            fact = await self.engine.network.fetch(ask)
        except Rejected as error:
            fact = Fetched(ask.address, ask.node, ask.item, None, error.condition)
        except Unreachable as error:
            return error.detail  # what is known may still be good enough; if not, the send says so
        await self.engine.learn(fact)
        return "" if fact.error == "item-not-found" else fact.error

    def _consider(self, s: State, address: Address) -> Done[tuple[DeviceReport, ...]] | Need:
        found = self.engine.scheme.devices(s, address, self.account.clock())
        return found if isinstance(found, Need) else Done(found[1])

    async def unlist(self, device_id: int | str) -> bool:
        """Take one of our own devices off the list that our contacts read (XEP-0384 section "Announcing support"), so
        that nobody seals for it any more; False if it is not there. A device that still runs announces itself again.

        On Matrix it is logged out and deleted at the homeserver; `device_id` may be its name there."""
        account = self.account.address
        if account.is_matrix:
            return await self._delete_device(device_id)
        await self._refresh(account)
        publication = await self.engine.drive(
            lambda s: Done(self.account.omemo.list_without(s, int(device_id), self.account.clock()))
        )
        if publication is not None:
            await self.engine.network.publish(publication)
            await self._refresh(account)
        return publication is not None

    async def _delete_device(self, device_id: int | str) -> bool:
        connection = cast("MatrixConnection", self._connection)
        known = await self.devices(self.account.address)
        names = {key.device.id: key.device.label for key in known}
        name = names.get(device_id, "") if isinstance(device_id, int) else device_id
        deleted = bool(name) and await connection.remove_device(name)
        if deleted and name != self.device().label:
            await self._refresh(self.account.address)
        return deleted

    # -- our OpenPGP keys -------------------------------------------------------------------------------------------

    async def generate_key(self, *, another: bool = False) -> Device:
        """Make an OpenPGP key and announce it; see `announced` for whether the server has it.

        Raises `UsageError` if the account has one already, here or elsewhere, unless `another` is wanted: contacts
        would seal for both, and each of them would read only half of what is written here.
        """
        await self._require_key_list()
        if not another:
            self._require_no_key()
        openpgp = self.account.openpgp
        return await self.engine.drive(lambda s: openpgp.generate(s, self.account.clock()))

    async def _require_key_list(self) -> None:
        if self.account.address.is_matrix:
            raise UsageError("Matrix accounts have no OpenPGP keys.", hint="They need an XMPP account.")
        problem = await self.refresh_openpgp(self.account.address)
        if problem:
            raise Rejected(f"It does not tell which OpenPGP keys this account announces: {problem}.", condition=problem)

    def _require_no_key(self) -> None:
        known = [key for key in self.account.keys(self.account.address) if key.info is not None and key.listed]
        if any(key.this for key in known):
            raise UsageError("This account has an OpenPGP key here already.", hint="A second one needs --another.")
        if known:
            raise UsageError(
                f"This account announces an OpenPGP key that is not here: {known[0].fingerprint}.",
                hint="Bring it here with 'tillie keys restore' or 'tillie keys import FILE'. Only if it is lost for "
                "good: 'tillie keys generate --another', then 'tillie keys retract FINGERPRINT'.",
            )

    async def import_keys(self, data: bytes, passphrase: str = "") -> tuple[Device, ...]:
        """Take in the OpenPGP keys that GnuPG or another program exported, and announce them. Raises `UsageError`."""
        await self._require_key_list()
        openpgp = self.account.openpgp
        return await self.engine.drive(lambda s: openpgp.import_keys(s, data, passphrase, self.account.clock()))

    async def announce_keys(self) -> tuple[Device, ...]:
        """Publish our OpenPGP keys, and the list that names them, again. Raises `UsageError` if there is none."""
        await self._require_key_list()
        keys = [
            key for key in self.account.keys(self.account.address) if key.this and key.info and not key.info.revoked
        ]
        if not keys:
            raise UsageError("This account has no OpenPGP key here.", hint="'tillie keys generate' makes one.")
        for key in keys:
            step = partial(self.account.openpgp.announce, fingerprint=key.device.key, now=self.account.clock())
            await self.engine.drive(step)
        return tuple(key.device for key in keys)

    async def revoke_key(self, fingerprint: bytes) -> None:
        """Revoke an OpenPGP key of ours for good, publish that, and take it off the list."""
        openpgp = self.account.openpgp
        await self.engine.drive(lambda s: openpgp.revoke(s, fingerprint, self.account.clock()))

    async def retract_key(self, fingerprint: bytes) -> None:
        """Take an OpenPGP key off our list without revoking it: one that is here, or one that another device left."""
        openpgp = self.account.openpgp
        await self.engine.drive(lambda s: openpgp.retract(s, fingerprint, self.account.clock()))

    async def announced(self, wait: float = PUBLISH_SECONDS) -> bool:
        """Whether the server has all of our keys that was to be published (OpenPGP, or on Matrix this device's), within
        so many seconds; else it goes out at a later connection."""
        name = self.engine.scheme.name if self.account.address.is_matrix else self.account.openpgp.name
        return await self._until_gone(lambda effect: isinstance(effect, Publish) and effect.scheme == name, wait)

    async def back_up_keys(self) -> str:
        """Keep our OpenPGP keys at our own server, sealed, in a node that only we may read (XEP-0373 section
        "Synchronizing the Secret Key with a Private PEP Node"). The code that opens them, of 24 characters: nobody else
        has it."""
        openpgp = self.account.openpgp
        code = openpgp.new_code()
        payload = await self.engine.drive(lambda s: Done(openpgp.backup(s, code)))
        node, item = openpgp_nodes.SECRET_NODE, openpgp_nodes.LIST_ITEM
        await self.engine.network.publish(Publication(node, item, payload, key_backup.OPTIONS))
        return code

    async def find_key_backup(self) -> bytes:
        """What `back_up_keys` left at our own server, here or on another device. Raises `UsageError` if nothing did."""
        ask = Fetch(self.account.address, openpgp_nodes.SECRET_NODE)
        try:
            found = await self.engine.network.fetch(ask)
        except Rejected as error:
            found = Fetched(ask.address, ask.node, "", None, error.condition)
        if found.payload is None:
            raise UsageError(
                "There is no backup of OpenPGP keys at your server.",
                hint="'tillie keys backup' makes one, where the keys are.",
            )
        return found.payload

    async def restore_keys(self, payload: bytes, code: str) -> tuple[Device, ...]:
        """Take in the keys of what `find_key_backup` found, and announce them. Raises `UsageError`: a wrong code."""
        openpgp = self.account.openpgp
        return await self.engine.drive(lambda s: openpgp.restore(s, payload, code, self.account.clock()))


# -- texts ----------------------------------------------------------------------------------------------------------

_BODY = "{jabber:client}body"
_MESSAGE = "m.room.message"


def text_content(text: str, to: Address | None = None) -> Content:
    """A text as the content of a message: to an XMPP address, or none that is known yet, as RFC 6121 section 5.2.3 has
    it, on Matrix as an event of type m.room.message (client-server API, "m.text")."""
    if to is not None and to.is_matrix:
        return Content(canonical.encode({"type": _MESSAGE, "content": {"msgtype": "m.text", "body": text}}))
    return Content(stanza.body(text))


def text_of(content: str) -> str:
    """The text in a message's content; "" if it has none (a receipt, a chat state, an event that is no message)."""
    if content.startswith("{"):
        return _text_of_event(content)
    bodies = [child for child in xml.parse_fragment(content.encode()) if child.tag == _BODY]
    return xml.text_of(bodies[0]) if bodies else ""


class _Body(msgspec.Struct):
    body: str = ""


class _Event(msgspec.Struct):
    type: str = ""
    content: _Body = msgspec.field(default_factory=_Body)


_event = msgspec.json.Decoder(_Event)


def _text_of_event(text: str) -> str:
    """Not by `canonical`: what is sealed need not be canonical, and a client may put fractions beside the text."""
    try:
        event = _event.decode(text)
    except msgspec.MsgspecError:
        return ""
    return event.content.body if event.type == _MESSAGE else ""
