"""An account at work: it chooses account, network and scheme, so that a program only says whom and what.

`Account` is what the store alone can answer: settings, keys, trust, history, a copy for a backup. `Client` is an
account with a network: send, listen, devices. Both are used from one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import msgspec

from tillie import history
from tillie.crypto.random import random_bytes
from tillie.directory import omemo as directory
from tillie.engine import DecisionMaker, Engine
from tillie.errors import NoProgress, NoRecipients, Rejected, StoreTooNew, Unreachable, UsageError
from tillie.model import (
    Address,
    Content,
    Device,
    DeviceReport,
    Done,
    Fetch,
    Fetched,
    Key,
    Need,
    Notice,
    Publication,
    Sealed,
    Send,
    State,
    Time,
    Trust,
)
from tillie.pipeline import Delivery, Policy
from tillie.schemes.omemo import Omemo, contacts, records, sessions
from tillie.schemes.omemo import own as own_device
from tillie.store import Committed, Store
from tillie.trust import decisions
from tillie.trust.fingerprint import fingerprint
from tillie.wire import xml

T = TypeVar("T")

SEND_SECONDS = 15.0  # how long `Client.send` waits for the server to have the message
_LOOK_SECONDS = 0.02  # between two looks at the outbox meanwhile
STARTTLS_PORT, DIRECT_TLS_PORT = 5222, 5223
LISTEN_SECONDS = 0.5  # between two looks at the inbox: another process of this account may have filled it

SETTINGS_VERSION = 1
_SETTINGS = Key("client", "settings", "")
_PASSWORD = Key("client", "password", "")
_RESTORED = records.key("restored")
_NODE_OPTIONS = (("pubsub#access_model", "open"), ("pubsub#persist_items", "true"))


class Settings(msgspec.Struct, frozen=True):
    """What an account remembers, inside its store.

    `server` is "" (found by DNS) or "host:port" (see `server_address`), `ca_file` a PEM file of the only authority
    that is trusted then. `label` is what other devices may call this one, `history` whether messages are kept.
    """

    policy: str = Policy.BLIND.value
    server: str = ""
    direct_tls: bool = False
    ca_file: str = ""
    label: str = ""
    history: bool = True


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One device of a contact, or of ours, and what is thought of its key.

    `key` is empty while its bundle was not fetched. `decided` says that a decision is kept, a person's or the policy's;
    else `trust` is what the policy would say now. `why` says why nothing can be sealed for it. A device with id 0 is a
    key that was decided on and that no device shows any more.
    """

    device: Device
    trust: Trust
    decided: bool = False
    listed: bool = True
    session: bool = False
    this: bool = False
    why: str = ""

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.device.key) if self.device.key else ""


@dataclass(frozen=True, slots=True)
class Sent:
    """One message: sealed, with its report for each device, and whether the server has it (else it is queued)."""

    id: str
    sealed: Sealed
    arrived: bool


class Account:
    """One account and its store, without a network."""

    def __init__(self, store: Store, *, clock: Callable[[], Time] = time.time) -> None:
        self.store = store
        self.address = store.account
        self.clock = clock
        self.settings = self._load_settings()
        self.scheme = Omemo(self.address, label=self.settings.label)

    @property
    def policy(self) -> Policy:
        return Policy(self.settings.policy)

    # -- settings ---------------------------------------------------------------------------------------------------

    def _load_settings(self) -> Settings:
        data = self._run(lambda s: s.get(_SETTINGS))
        return decode_settings(data) if data else Settings()

    def change(self, settings: Settings) -> None:
        """Keep other settings, for this object and for later ones."""
        self._run(lambda s: s.put(_SETTINGS, encode_settings(settings)))
        self.settings = settings

    def password(self) -> str:
        """The password that was kept in the store; "" if it was not."""
        data = self._run(lambda s: s.get(_PASSWORD))
        return data[1:].decode() if data else ""

    def keep_password(self, password: str) -> None:
        """Keep it in the store, which is encrypted; "" forgets it."""
        data = bytes((SETTINGS_VERSION,)) + password.encode() if password else None
        self._run(lambda s: s.put(_PASSWORD, data))

    def own_device(self) -> Device | None:
        """Our device here; None before the first connection."""
        return self._run(self.scheme.own_device)

    # -- keys and trust ---------------------------------------------------------------------------------------------

    def addresses(self) -> list[Address]:
        """Everybody whose devices are known or whose keys were decided on, we among them."""
        return self._run(lambda s: known_addresses(s, self.address))

    def keys(self, address: Address) -> list[KnownKey]:
        """What is known of one account's devices, without asking anybody."""
        return self._run(lambda s: known_keys(s, self.scheme, self.policy, address))

    def decide(self, address: Address, key: bytes, trust: Trust) -> None:
        """Keep a person's decision on one key of one address; UNDECIDED takes it back."""
        self._run(lambda s: decisions.decide(s, address, key, trust, self.clock()))

    def reset(self, address: Address, device_id: int | None = None) -> int:
        """Put sessions away, so that the next message begins new ones; how many. Also lifts an opt-out."""
        out = self.store.run(lambda s: self.scheme.reset(s, address, device_id, self.clock()))
        return _value(out)

    # -- history ----------------------------------------------------------------------------------------------------

    def history(self, address: Address, limit: int | None = None) -> list[history.Entry]:
        """The last `limit` messages with a bare address, oldest first."""
        entries = self._run(lambda s: list(history.read(s, address)))
        return entries if limit is None else entries[max(0, len(entries) - limit) :]

    # -- backup -----------------------------------------------------------------------------------------------------

    def copy(self, *, with_password: bool = False) -> list[tuple[Key, bytes]]:
        """What a backup holds (N2): the identity seed, trust, history, settings; no sessions, no one-time keys."""
        return self._run(lambda s: list(_copied(s, self.address, with_password)))

    def _run(self, read: Callable[[State], T]) -> T:
        return _value(self.store.run(lambda s: Done(read(s))))


# -- what a backup holds --------------------------------------------------------------------------------------------


def _copied(s: State, account: Address, with_password: bool) -> Iterable[tuple[Key, bytes]]:
    mine = own_device.load(s)
    if mine is not None:
        yield _RESTORED, records.encode_seed(mine.seed)
    keys = [_SETTINGS, *([_PASSWORD] if with_password else []), *([_RESTORED] if mine is None else [])]
    yield from ((key, data) for key in keys if (data := s.get(key)) is not None)
    yield from s.scan(Key("trust", "keys", ""))
    for address in known_addresses(s, account):
        yield from s.scan(Key("history", address, ""))


def fill(store: Store, copied: Iterable[tuple[Key, bytes]]) -> None:
    """Put a backup's records into a new store. Its device is made at the first connection: the same identity, a new
    id. Raises `UsageError` if the account has a device here, or the backup holds anything else."""
    found = list(copied)
    for key, _ in found:
        if key not in (_RESTORED, _SETTINGS, _PASSWORD) and key.scheme != "history" and key[:2] != ("trust", "keys"):
            raise UsageError(f"The backup holds something that does not belong into one: {key.scheme} {key.kind}.")

    def step(s: State) -> Done[None]:
        if own_device.load(s) is not None:
            raise UsageError("This account has a device here already.")
        for key, data in found:
            s.put(key, data)
        return Done(None)

    store.run(step)


def encode_settings(settings: Settings) -> bytes:
    return bytes((SETTINGS_VERSION,)) + msgspec.json.encode(settings)


def decode_settings(data: bytes) -> Settings:
    if data[0] != SETTINGS_VERSION:
        raise StoreTooNew(f"the settings have version {data[0]}; this version of Tillie reads {SETTINGS_VERSION}.")
    return msgspec.json.decode(data[1:], type=Settings)


# -- what is known of keys ------------------------------------------------------------------------------------------


def known_addresses(s: State, account: Address) -> list[Address]:
    names = {Address(key.name) for key, _ in s.scan(records.key("devices"))}
    names |= {Address(key.name) for key, _ in s.scan(Key("trust", "keys", ""))}
    return [account, *sorted(names - {account})]


def known_keys(s: State, scheme: Omemo, policy: Policy, address: Address) -> list[KnownKey]:
    """The devices of one account as the records have them, then keys that were decided on and are gone."""
    rows: list[KnownKey] = []
    mine = scheme.own_device(s) if address == scheme.account else None
    if mine is not None:
        rows.append(KnownKey(mine, Trust.VERIFIED, True, True, False, True))
    known = contacts.load(s, address)
    decided = decisions.load(s, address)
    for device in known.devices if known else ():
        if mine is not None and device.id == mine.id:
            continue
        session = sessions.load(s, address, device.id)
        # The key that a send would use (see `Omemo.devices`).
        key = session.identity if session else device.identity
        trust = decisions.of(s, policy, address, key) if key else Trust.UNDECIDED
        label = device.label if device.signed else ""
        shown = Device(address, device.id, key, label)
        rows.append(KnownKey(shown, trust, key in decided, device.listed, session is not None))
    shown_keys = {row.device.key for row in rows}
    gone = [(key, each.trust) for key, each in decided.items() if key not in shown_keys]
    return rows + [KnownKey(Device(address, 0, key), trust, True, False) for key, trust in gone]


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
        ask = Fetch(address, self.account.scheme.version.devices_node)
        try:
            fact = await self.engine.network.fetch(ask)
        except Rejected as error:
            fact = Fetched(ask.address, ask.node, ask.item, None, error.condition)
        except Unreachable as error:
            return error.detail  # what is known may still be good enough; if not, the send says so
        await self.engine.learn(fact)
        return "" if fact.error == "item-not-found" else fact.error

    def _consider(self, s: State, address: Address) -> Done[tuple[DeviceReport, ...]] | Need:
        found = self.account.scheme.devices(s, address, self.account.clock())
        return found if isinstance(found, Need) else Done(found[1])

    async def unlist(self, device_id: int) -> bool:
        """Take one of our own devices off the list that our contacts read (XEP-0384 section "Announcing support"), so
        that nobody seals for it any more; False if it is not there. A device that still runs announces itself again."""
        account = self.account.address
        await self._refresh(account)
        publication = await self.engine.drive(lambda s: Done(self._list_without(s, device_id)))
        if publication is not None:
            await self.engine.network.publish(publication)
            await self._refresh(account)
        return publication is not None

    def _list_without(self, s: State, device_id: int) -> Publication | None:
        known = contacts.load(s, self.account.address)
        listed = [device for device in (known.devices if known else ()) if device.listed]
        if all(device.id != device_id for device in listed):
            return None
        mine = self.account.scheme.own_device(s)
        if mine is not None and mine.id == device_id:
            # We are leaving: hearing of it must not make us announce ourselves again.
            s.put(records.key("announcing"), records.encode_time(self.account.clock()))
        rest = [directory.ListedDevice(d.id, d.label, d.labelsig) for d in listed if d.id != device_id]
        node = self.account.scheme.version.devices_node
        return Publication(node, "current", directory.encode_devices(rest), _NODE_OPTIONS)


# -- texts ----------------------------------------------------------------------------------------------------------

_BODY = "{jabber:client}body"


def text_content(text: str) -> Content:
    """A text as the content of a message (RFC 6121 section 5.2.3)."""
    return Content(b"<body xmlns='jabber:client'>" + xml.escape(text) + b"</body>")


def text_of(content: str) -> str:
    """The text in a message's content; "" if it has none (a receipt, a chat state)."""
    bodies = [child for child in xml.parse_fragment(content.encode()) if child.tag == _BODY]
    return xml.text_of(bodies[0]) if bodies else ""


def _value(out: Committed[T] | Need) -> T:
    if isinstance(out, Need):
        raise NoProgress("this step must not need anything")
    return out.value
