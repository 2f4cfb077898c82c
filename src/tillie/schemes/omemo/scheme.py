"""OMEMO 2 as one of Tillie's schemes: what `pipeline` calls (XEP-0384 0.9.1).

Pure: every method reads and writes the `State` passed to it and nothing else. Trust is asked above, in the pipeline;
the one thing sent without it are empty messages, as the XEP allows.
"""

from __future__ import annotations

from enum import Enum

from tillie.crypto import sign
from tillie.crypto.kdf import sha256
from tillie.crypto.random import random_bytes
from tillie.directory import omemo as directory
from tillie.envelope import codec, profile
from tillie.errors import BadKey, NoRecipients, PeerError, TooLarge, Undecryptable
from tillie.model import (
    NO_PAYLOAD,
    Address,
    Arrived,
    CatchUp,
    Content,
    Device,
    DeviceReport,
    Done,
    Effect,
    Envelope,
    Fact,
    Fetch,
    Fetched,
    Key,
    Kind,
    Need,
    Notice,
    Publication,
    Publish,
    RolledBack,
    Sealed,
    Send,
    Stanza,
    State,
    Target,
    Time,
)
from tillie.schemes import Outcome, Unwrapped, moments
from tillie.schemes.omemo import contacts, element, own, payload, receiving, records, sessions
from tillie.schemes.omemo.receiving import Received
from tillie.schemes.omemo.records import DeviceList, KnownDevice, Own, Session
from tillie.schemes.omemo.version import OMEMO2, Version
from tillie.wire import stanza, xml

MAX_PLAINTEXT = 131_072  # bytes of envelope; in base64 it still fits a stanza of 256 KiB beside 300 devices
MAX_SEEN = 20_000  # messages remembered as opened, the newest
JUST_READ = 10.0  # seconds; our own list must be as new as that when it is written

_NODE_OPTIONS = (("pubsub#access_model", "open"), ("pubsub#persist_items", "true"))


class Repair(Enum):
    """Whether a session that fails is answered at once. "Clients MUST NOT react to decryption errors by initiating new
    sessions automatically and without user interaction": MANUAL obeys, AUTOMATIC is for bots that nobody watches."""

    MANUAL = "manual"
    AUTOMATIC = "automatic"


class Omemo:
    """One account's OMEMO 2. `account` is its bare address, `label` what other devices may show for this one."""

    name = "omemo"
    title = "OMEMO"
    namespace = OMEMO2.namespace
    tags: tuple[str, ...] = (f"{{{OMEMO2.namespace}}}encrypted",)
    fallback = ""  # XEP-0384 asks for none
    beside: frozenset[str] = frozenset()
    long_lived = False
    watched = frozenset({OMEMO2.devices_node})

    def __init__(self, account: Address, *, label: str = "", repair: Repair = Repair.MANUAL) -> None:
        self.account = account
        self.label = label[: directory.MAX_LABEL]
        self.repair = repair
        self.version: Version = OMEMO2

    # -- our device -------------------------------------------------------------------------------------------------

    def prepare(self, s: State, now: Time, *, seed: bytes | None = None) -> Done[Device] | Need:
        """Make sure that this account has a device here; a new one is announced.

        "Before publishing a freshly generated device id for the first time, a device MUST check whether that device id
        already exists": the own list is needed first. `seed` is a restored identity; without it one is generated.
        """
        mine = own.load(s)
        if mine is not None:
            return Done(self._own_device(mine))
        known = contacts.load(s, self.account)
        if not contacts.is_fresh(known, now):
            return Need((Fetch(self.account, self.version.devices_node),))
        taken = frozenset(device.id for device in known.devices) if known else frozenset()
        identity = seed or own.take_restored(s) or random_bytes(sign.KEY)
        mine = own.create(s, own.new_device_id(taken), identity, now)
        s.put(records.key("announcing"), moments.encode_time(now))
        return Done(self._own_device(mine), (self._publish("bundle"), self._publish("devices")))

    def own_device(self, s: State) -> Device | None:
        mine = own.load(s)
        return self._own_device(mine) if mine else None

    def publication(self, s: State, what: str, now: Time) -> Done[Publication | None] | Need:
        """The newest bundle or device list of ours, for the wire."""
        mine = own.load(s)
        if mine is None:
            return Done(None)
        if what == "devices":
            return self._own_list(s, mine, now)
        bundle = directory.encode_bundle(own.bundle(s, mine))
        options = (*_NODE_OPTIONS, ("pubsub#max_items", "max"))
        return Done(Publication(self.version.bundles_node, str(mine.device_id), bundle, options))

    def _own_list(self, s: State, mine: Own, now: Time) -> Done[Publication | None] | Need:
        """Read, modify, write: another device may have joined the list since we saw it (N6)."""
        known = contacts.load(s, self.account)
        if known is None or not 0 <= now - known.at < JUST_READ:
            return Need((Fetch(self.account, self.version.devices_node),))
        s.put(records.key("announcing"), None)
        labelsig = sign.sign(mine.seed, self.label.encode()) if self.label else b""
        listed = _listed(known, without=mine.device_id)
        return Done(self._list_of([*listed, directory.ListedDevice(mine.device_id, self.label, labelsig)]))

    def list_without(self, s: State, device_id: int, now: Time) -> Publication | None:
        """Our list without one device; None if it is not on it. The list must have been fetched just before."""
        known = contacts.load(s, self.account)
        listed = known.by_id(device_id) if known else None
        if known is None or listed is None or not listed.listed:
            return None
        mine = own.load(s)
        if mine is not None and mine.device_id == device_id:
            # We are leaving: hearing of it must not make us announce ourselves again.
            s.put(records.key("announcing"), moments.encode_time(now))
        return self._list_of(_listed(known, without=device_id))

    def _list_of(self, devices: list[directory.ListedDevice]) -> Publication:
        return Publication(self.version.devices_node, "current", directory.encode_devices(devices), _NODE_OPTIONS)

    def published(self, s: State, what: str, now: Time) -> Done[None]:
        return Done(None)

    # -- sending ----------------------------------------------------------------------------------------------------

    def devices(self, s: State, to: Address, now: Time) -> tuple[tuple[Device, ...], tuple[DeviceReport, ...]] | Need:
        """The devices that a message to `to` should reach, our own other ones included, and those it can't and why."""
        mine = self._mine(s)
        bare = to.bare
        accounts = (bare,) if bare == self.account else (bare, self.account)
        asks: list[Fetch] = []
        able: list[Device] = []
        unable: list[DeviceReport] = []
        for address in accounts:
            known = contacts.load(s, address)
            if known is None or not contacts.is_fresh(known, now):
                asks.append(Fetch(address, self.version.devices_node))
                continue
            broken = contacts.broken(s, address)
            for device in known.devices:
                if device.listed and not (device.id == mine.device_id and address == self.account):
                    self._consider(s, address, device, device.id in broken, now, asks, able, unable)
        if asks:
            return Need(tuple(asks))
        return tuple(able), tuple(unable)

    def _consider(
        self,
        s: State,
        address: Address,
        device: KnownDevice,
        broken: bool,
        now: Time,
        asks: list[Fetch],
        able: list[Device],
        unable: list[DeviceReport],
    ) -> None:
        data = s.get(records.of_device("session", address, device.id))
        if data is not None and not (broken and _is_due(records.decode_session(data), now)):
            # Trust is asked of the key that the session was made with, whatever a list or bundle says meanwhile.
            able.append(_device(address, device, records.identity_in(data)))
            return
        sessions.retire(s, address, device.id)
        prospect = contacts.prospect(s, address, device.id, now)
        if prospect is None:
            asks.append(Fetch(address, self.version.bundles_node, str(device.id)))
        elif prospect.error:
            unable.append(DeviceReport(_device(address, device), False, prospect.error))
        else:
            able.append(_device(address, device, prospect.identity))

    def wrap(self, envelope: Envelope, to: Target) -> bytes:
        return codec.encode(envelope, random_bytes)

    def unwrap(self, plaintext: bytes, around: Stanza, now: Time) -> Unwrapped:
        decoded = codec.decode(plaintext)
        return Unwrapped(decoded.envelope, *profile.verify(decoded, around, profile.OMEMO2, now))

    def seal(self, s: State, plaintext: bytes, to: Target, now: Time) -> Done[Sealed]:
        """Encrypt for the devices of `to`, all of them trusted. One that fails is reported and costs no other."""
        if len(plaintext) > MAX_PLAINTEXT:
            raise TooLarge(f"The message has {len(plaintext)} bytes; at most {MAX_PLAINTEXT} can be sealed.")
        mine = self._mine(s)
        secret, ciphertext = payload.seal(self.version, plaintext)
        keys: dict[Address, list[element.Key]] = {}
        report = []
        for device in to.devices:
            try:
                key = self._seal_key(s, mine, device, secret, now)
            except PeerError as error:
                report.append(DeviceReport(device, False, error.detail))
                continue
            keys.setdefault(device.address, []).append(key)
            report.append(DeviceReport(device, True))
        for recipient in to.recipients:
            if recipient.bare not in keys:
                raise NoRecipients(f"No device of {recipient.bare} can read it.")
        sealed = element.encode(mine.device_id, list(keys.items()), ciphertext)
        return Done(Sealed(sealed, self.name, (*report, *to.skipped)))

    def _seal_key(self, s: State, mine: Own, device: Device, secret: bytes, now: Time) -> element.Key:
        session = sessions.load(s, device.address, device.id)
        if session is None:
            session = self._begin(s, mine, device.address, device.id, now)
        if session.identity != device.key:
            raise BadKey("its session belongs to another identity key than the one that is trusted")
        session, kex, data = sessions.encrypt(self.version, mine, session, secret)
        sessions.save(s, device.address, device.id, session)
        return element.Key(device.id, kex, data)

    def _begin(self, s: State, mine: Own, address: Address, device_id: int, now: Time) -> Session:
        prospect = contacts.prospect(s, address, device_id, now)
        if prospect is None or prospect.error:
            raise Undecryptable(prospect.error if prospect else "its bundle was used up")
        session = sessions.initiate(self.version, mine, prospect, now)
        contacts.take_prospect(s, address, device_id)
        contacts.clear_broken(s, address, device_id)
        sessions.begin(s, address, device_id, session)
        return session

    # -- receiving --------------------------------------------------------------------------------------------------

    def open(self, s: State, got: Arrived, now: Time) -> Done[Outcome]:
        """Open an <encrypted>: what it was, and the envelope's bytes if it had any.

        Raises Malformed, BadKey, or Undecryptable (a payload that was altered: its key stays for the good copy); the
        transaction must then be rolled back. A session that fails is marked, in a record of its own.
        """
        mine = self._mine(s)
        sender = got.stanza.sender.bare
        encrypted = element.decode(got.element, self.account, mine.device_id)
        if encrypted.key is None:
            return self._nothing(Kind.NOT_FOR_US, sender, encrypted.sid)
        seen = self._seen_key(sender, encrypted.sid, encrypted.key.data)
        if s.get(seen) is not None:
            return self._nothing(Kind.DUPLICATE, sender, encrypted.sid)
        _, kex, data = encrypted.key
        try:
            received = receiving.receive(self.version, s, mine, sender, encrypted.sid, kex, data, now)
        except Undecryptable as error:
            return self._failed(s, sender, encrypted.sid, error, now)
        if received is None:
            return self._no_session(s, sender, encrypted.sid, now)
        plaintext = None
        if encrypted.payload is not None:
            plaintext = payload.open(self.version, received.secret, encrypted.payload)
        elif received.secret != payload.EMPTY_SECRET:
            # "the <payload> element must be present unless an empty OMEMO message is sent": a server that strips it
            # must not burn the key of the good copy, nor make a message look like one that carries nothing.
            raise Undecryptable("the payload is missing")
        s.put(seen, moments.encode_time(now))
        device, effects = self._follow(s, mine, sender, encrypted.sid, received, now)
        kind = Kind.EMPTY if plaintext is None else Kind.OPENED
        return Done(Outcome(kind, device, plaintext), effects)

    def _follow(
        self, s: State, mine: Own, sender: Address, sid: int, received: Received, now: Time
    ) -> tuple[Device, tuple[Effect, ...]]:
        """Whose message it was, and what it entails: an empty answer, a fresh bundle, a look at the device list."""
        effects: list[Effect] = []
        known = contacts.load(s, sender)
        listed = known.by_id(sid) if known else None
        if listed is None or listed.identity != received.identity:
            current = sessions.load(s, sender, sid)
            if current is not None and current.identity == received.identity:
                effects += contacts.learn_identity(s, mine, sender, sid, received.identity, now)
        if listed is None or not listed.listed:
            # "When a client receives a message from a device id that is not on the device list, it SHOULD try to
            # retrieve that user's devices node"
            s.put(records.key("refresh", sender), moments.encode_time(now))
        if received.answer:
            effects += self._empty(s, mine, sender, sid)
        if received.used_prekey:
            effects.append(self._publish("bundle"))
        return _device(sender, listed or KnownDevice(sid, False), received.identity), tuple(effects)

    def _empty(self, s: State, mine: Own, address: Address, device_id: int) -> list[Send]:
        """An empty message: it answers a key exchange, moves the ratchet on, and carries nothing. It goes out on the
        session that sends, and not at all where that was put away: a rolled-back session would repeat message keys."""
        session = sessions.load(s, address, device_id)
        if session is None:
            return []
        session, kex, data = sessions.encrypt(self.version, mine, session, payload.EMPTY_SECRET)
        sessions.save(s, address, device_id, session)
        sealed = element.encode(mine.device_id, [(address, [element.Key(device_id, kex, data)])], None)
        message_id = random_bytes(12).hex()
        encryption = stanza.encryption(self.namespace, self.title)
        return [Send(stanza.message(address, message_id, sealed, encryption, kind="chat"), message_id)]

    def _failed(self, s: State, sender: Address, sid: int, error: Undecryptable, now: Time) -> Done[Outcome]:
        known = contacts.load(s, sender)
        if known is not None and known.by_id(sid) is not None:
            contacts.mark_broken(s, sender, sid, now)
            if self.repair is Repair.AUTOMATIC:
                contacts.want_repair(s, sender, sid, now)
        notice = Notice(sender, f"a message of device {sid} could not be opened: {error.detail}")
        return self._nothing(Kind.TAMPERED, sender, sid, error.detail, notice)

    def _no_session(self, s: State, sender: Address, sid: int, now: Time) -> Done[Outcome]:
        """ "clients SHOULD create a session with that device and notify it ... by responding with an empty message"."""
        contacts.want_repair(s, sender, sid, now)
        notice = Notice(sender, f"a message of device {sid} was lost: there is no session with it")
        return self._nothing(Kind.NO_SESSION, sender, sid, "there is no session with this device", notice)

    def _nothing(self, kind: Kind, sender: Address, sid: int, error: str = "", *effects: Effect) -> Done[Outcome]:
        return Done(Outcome(kind, Device(sender, sid, b""), error=error), effects)

    # -- learning ---------------------------------------------------------------------------------------------------

    def learn(self, s: State, fact: Fact, now: Time) -> Done[None]:
        """Take in a list, a bundle, the beginning or end of catch-up, a roll-back. Other facts are not for OMEMO."""
        if isinstance(fact, Fetched):
            return Done(None, self._learn_fetched(s, fact, now))
        if isinstance(fact, CatchUp):
            if fact.ended:
                own.end_catch_up(s, now)
            else:
                own.begin_catch_up(s, now)
        elif isinstance(fact, RolledBack):
            return Done(None, self._roll_back(s))
        return Done(None)

    def _learn_fetched(self, s: State, fact: Fetched, now: Time) -> tuple[Effect, ...]:
        if fact.node == self.version.bundles_node:
            mine = own.load(s)
            return tuple(contacts.learn_bundle(s, mine, fact, now)) if mine else ()
        if fact.node != self.version.devices_node:
            return ()
        if fact.error == NO_PAYLOAD:
            s.put(records.key("refresh", fact.address), moments.encode_time(now))
            return ()
        known, notices = contacts.learn_list(s, fact, now)
        s.put(records.key("refresh", fact.address), None)
        if known.at != now or fact.address != self.account or own.load(s) is None:
            return notices  # nothing was read, or it is not our list
        return (*notices, *self._announce_again(s, now))

    def _announce_again(self, s: State, now: Time) -> tuple[Effect, ...]:
        """ "If they have been removed, they MUST reannounce themselves" - but two clients that fight over a list must
        not publish for ever."""
        mine = self._mine(s)
        known = contacts.load(s, self.account)
        listed = known.by_id(mine.device_id) if known else None
        if (listed is not None and listed.listed) or s.get(records.key("announcing")) is not None:
            return ()
        notice = moments.announced_too_often(s, records.key("fight"), self.account, "this device", now)
        if notice is not None:
            return (notice,)
        s.put(records.key("announcing"), moments.encode_time(now))
        return (self._publish("devices"),)

    def _roll_back(self, s: State) -> tuple[Effect, ...]:
        """The store is older than it was: message keys that it would use next may be used up. Nothing sends with an
        old session any more, bundles that were kept are fetched again, and our prekeys get new ids."""
        for name, _ in list(s.scan(records.key("session"))):
            address, _, device_id = name.name.rpartition("/")
            sessions.retire(s, Address(address), int(device_id))
        sessions.stop_sending(s)
        for name, _ in list(s.scan(records.key("bundle"))):
            s.put(name, None)  # its one prekey may have begun a session already
        mine = own.load(s)
        if mine is None:
            return ()
        own.renew_prekeys(s, mine)
        return (self._publish("bundle"), Notice(self.account, "an old copy of the store was found: new sessions begin"))

    # -- now and then -----------------------------------------------------------------------------------------------

    def tick(self, s: State, now: Time) -> Done[None] | Need:
        """Rotation, due repairs, lists to fetch again, what is too old to keep. Call it at start and every few minutes,
        and after a message whose session was missing."""
        mine = own.load(s)
        if mine is None:
            return Done(None)
        asks = [Fetch(Address(k.name), self.version.devices_node) for k, _ in s.scan(records.key("refresh"))]
        repairs = [k.name.rpartition("/") for k, _ in s.scan(records.key("repair"))]
        due = [(Address(address), int(device_id)) for address, _, device_id in repairs]
        asks += [
            Fetch(address, self.version.bundles_node, str(device_id))
            for address, device_id in due
            if contacts.prospect(s, address, device_id, now) is None
        ]
        if asks:
            return Need(tuple(asks))
        effects: list[Effect] = [effect for target in due for effect in self._make_repair(s, mine, *target, now)]
        if own.rotate(s, self._mine(s), now):
            effects.append(self._publish("bundle"))
        if s.get(records.key("fight")) is not None:
            effects += self._announce_again(s, now)
        moments.keep_newest(s, records.key("seen"), MAX_SEEN)
        contacts.forget_stale(s, now)
        return Done(None, tuple(effects))

    def _make_repair(self, s: State, mine: Own, address: Address, device_id: int, now: Time) -> list[Effect]:
        s.put(records.of_device("repair", address, device_id), None)
        try:
            self._begin(s, mine, address, device_id, now)
        except PeerError as error:
            return [Notice(address, f"no new session with device {device_id}: {error.detail}")]
        s.put(records.of_device("repaired", address, device_id), moments.encode_time(now))
        return [*self._empty(s, mine, address, device_id)]

    def reset(self, s: State, address: Address, device_id: int | None, now: Time) -> Done[int]:
        """A person replaces sessions: all of an account or one device's. The next message begins anew; the number of
        sessions that were put away is returned. Also lifts an opt-out."""
        s.put(records.key("opt-out", address), None)
        count = 0
        for name, _ in list(s.scan(records.key("session", f"{address}/"))):
            found = int(name.name.rpartition("/")[2])
            if device_id in (None, found):
                sessions.retire(s, address, found)
                contacts.take_prospect(s, address, found)
                count += 1
        return Done(count)

    # -- opting out -------------------------------------------------------------------------------------------------

    def heard(self, s: State, address: Address, content: Content) -> None:
        """What a contact's content means for OMEMO itself. With <opt-out/>, "the client MUST block all outgoing message
        until the user has confirmed"; anything else said under encryption lifts it ("any party MAY revert")."""
        if address == self.account:
            return
        name = records.key("opt-out", address)
        if b"opt-out" in content.data and any(
            child.tag == f"{{{self.namespace}}}opt-out" for child in xml.parse_fragment(content.data)
        ):
            s.put(name, moments.encode_time(0.0))
        elif s.get(name) is not None:
            s.put(name, None)

    def blocked(self, s: State, to: Address) -> bool:
        return s.get(records.key("opt-out", to)) is not None

    # -- small things -----------------------------------------------------------------------------------------------

    def _mine(self, s: State) -> Own:
        mine = own.load(s)
        if mine is None:
            raise LookupError("prepare() has not been called: there is no device yet")
        return mine

    def _own_device(self, mine: Own) -> Device:
        return Device(self.account, mine.device_id, mine.identity, self.label)

    def _publish(self, what: str) -> Publish:
        return Publish(self.name, what)

    @staticmethod
    def _seen_key(address: Address, device_id: int, data: bytes) -> Key:
        return records.key("seen", f"{address}/{device_id}/{sha256(data)[:16].hex()}")


def _device(address: Address, device: KnownDevice, identity: bytes = b"") -> Device:
    """The device under the key that it really used; its label counts only if that very key signed it."""
    key = identity or device.identity
    return Device(address, device.id, key, device.label if device.signed and key == device.identity else "")


def _listed(known: DeviceList, *, without: int) -> list[directory.ListedDevice]:
    return [
        directory.ListedDevice(device.id, device.label, device.labelsig)
        for device in known.devices
        if device.listed and device.id != without
    ]


def _is_due(session: Session, now: Time) -> bool:
    """A session that failed is replaced at the next send, but not again and again while old failures still arrive."""
    return now - session.created >= contacts.REPAIR_INTERVAL
