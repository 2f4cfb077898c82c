"""Olm as one of Tillie's schemes: what `pipeline` calls (Matrix specification 1.19, "End-to-End Encryption").

Pure: every method reads and writes the `State` passed to it and nothing else. Trust is asked above, in the pipeline;
the one thing sent without it is m.dummy, which has no content.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from tillie.crypto.random import random_bytes
from tillie.directory import matrix
from tillie.directory.matrix import KEY_COUNTS, KEYS_CLAIM, KEYS_QUERY, KEYS_UPLOAD, V1, Profile
from tillie.errors import BadKey, NoRecipients, NoSession, PeerError, Undecryptable
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
from tillie.schemes.olm import binding, contacts, content, keys, opening, payload, receiving, records, repair, sessions
from tillie.schemes.olm import own as own_device
from tillie.schemes.olm.records import DeviceList, KnownDevice, Own, Session
from tillie.schemes.olm.sessions import Peer
from tillie.wire import canonical

MAX_SEEN = 20_000  # messages remembered as opened, the newest
OWN_LIST_AGE = 3_600.0  # seconds after which we look whether our home still shows this device
MAX_COUNTS = 16_384  # bytes of what a home says of our keys


class Olm:
    """One account's Olm. `account` is its user id; a profile is for good, and never mixed with the other."""

    name = "olm"
    title = "Olm"
    namespace = matrix.OLM
    tags: tuple[str, ...] = (content.EVENT,)
    fallback = ""
    beside: frozenset[str] = frozenset()
    long_lived = False
    watched: frozenset[str] = frozenset()

    def __init__(self, account: Address, profile: Profile = V1) -> None:
        self.account = account
        self.profile = profile

    # -- our device -------------------------------------------------------------------------------------------------

    def prepare(self, s: State, now: Time) -> Done[Device | None]:
        """Generate the keys of the device that `own.bind` named, and publish them. None if it has no name yet."""
        if own_device.load(s) is None:
            mine = own_device.create(s)
            if mine is None:
                return Done(None)
            mine = own_device.announce(s, mine, self.profile, now)
            mine = keys.generate(s, mine, keys.GOAL, now)
            if self.profile.fallback:
                keys.rotate_fallback(s, mine, now)
            return Done(self._own_device(mine), (self._publish(),))
        return Done(self.own(s))

    def own(self, s: State) -> Device | None:
        """This device, once it has keys."""
        mine = own_device.load(s)
        return self._own_device(mine) if mine is not None else None

    def known(self, s: State, address: Address) -> list[Device]:
        """The devices with keys that a user is known to have."""
        known = contacts.load(s, address)
        return [_device(address, each) for each in known.devices if each.ed25519] if known is not None else []

    def publication(self, s: State, what: str, now: Time) -> Done[Publication | None]:
        """What the home may not have of our keys, as the body of keys/upload; None if it has all."""
        mine = own_device.load(s)
        body = keys.upload(s, mine, self.account, self.profile) if mine is not None else {}
        return Done(Publication(KEYS_UPLOAD, "", canonical.encode(body)) if body else None)

    def published(self, s: State, what: str, now: Time) -> Done[None]:
        keys.published(s)
        return Done(None)

    # -- sending ----------------------------------------------------------------------------------------------------

    def devices(self, s: State, to: Address, now: Time) -> tuple[tuple[Device, ...], tuple[DeviceReport, ...]] | Need:
        """The devices that a message to `to` should reach, our own other ones included, and those it can't and why."""
        mine = self._mine(s)
        asks: list[Fetch] = []
        able: list[Device] = []
        unable: list[DeviceReport] = []
        for user in dict.fromkeys((to, self.account)):
            known = contacts.load(s, user)
            if known is None or not contacts.is_fresh(s, user, known, now):
                asks.append(Fetch(user, KEYS_QUERY))
                continue
            if known.error:
                unable.append(_bad(user, "", f"the list can't be had: {known.error}"))
            unable += (_bad(user, device, why) for device, why in known.bad)
            others = [each for each in known.devices if user != self.account or each.id != mine.device]
            wanted = self._sort(s, user, others, now, able, unable)
            if wanted:
                asks.append(contacts.claim(user, wanted))
        return Need(tuple(asks)) if asks else (tuple(able), tuple(unable))

    def _sort(
        self,
        s: State,
        user: Address,
        devices: list[KnownDevice],
        now: Time,
        able: list[Device],
        unable: list[DeviceReport],
    ) -> list[str]:
        """Sort one user's devices; returns the ids of those of which a key must be claimed first."""
        wanted = []
        for each in devices:
            device = _device(user, each)
            why = contacts.why_unable(each, self.profile, now)
            data = s.get(records.of_device("session", user, each.curve25519))
            if not why and (data is None or records.ed25519_in(data) != each.ed25519):
                claimed = contacts.claimed(s, user, each, now)
                if claimed is None:
                    wanted.append(each.id)
                    continue
                why = claimed.error
            if why:
                unable.append(DeviceReport(device, False, why))
            else:
                able.append(device)
        return wanted

    def wrap(self, envelope: Envelope, to: Target) -> bytes:
        return payload.wrap(envelope.content)

    def unwrap(self, plaintext: bytes, around: Stanza, now: Time) -> Unwrapped:
        """The envelope; its `to` is whom the sender wrote to. An event says no time: it is that of its arrival."""
        envelope, notes = payload.unwrap(plaintext, around.sender)
        return Unwrapped(envelope, now, notes)

    def blocked(self, s: State, to: Address) -> bool:
        return False

    def heard(self, s: State, address: Address, content: Content) -> None:
        """Olm itself has nothing to hear."""

    def seal(self, s: State, plaintext: bytes, to: Target, now: Time) -> Done[Sealed]:
        """Encrypt for the devices of `to`, all of them trusted. One that fails is reported and costs no other."""
        mine = self._mine(s)
        recipients = payload.check_recipients(to.recipients)
        lists, common = self._common(s, mine, recipients)
        messages: dict[str, dict[str, msgspec.Raw]] = {}
        report = []
        for device in to.devices:
            known = lists[device.address].by_id(device.label)
            try:
                if known is None or known.ed25519 != device.key:
                    raise BadKey("its keys changed while this was sealed")
                sealed = self._seal_for(s, mine, device.address, known, plaintext, common, recipients, now)
            except PeerError as error:
                report.append(DeviceReport(device, False, error.detail))
                continue
            messages.setdefault(str(device.address), {})[device.label] = msgspec.Raw(sealed)
            report.append(DeviceReport(device, True))
        for recipient in recipients:
            if recipient not in messages:
                raise NoRecipients(f"No device of {recipient} can read it.")
        return Done(Sealed(_request(messages), self.name, (*report, *to.skipped)))

    def _common(self, s: State, mine: Own, recipients: tuple[Address, ...]) -> tuple[dict[Address, DeviceList], bytes]:
        """The devices of all who take part, and what is said to each of them alike."""
        lists = {user: contacts.load(s, user) or DeviceList(0.0) for user in (*recipients, self.account)}
        fingerprint = binding.fingerprint(tuple(lists.values()), (mine.curve25519,))
        return lists, payload.common(mine, self.account, recipients, fingerprint)

    def _seal_for(
        self,
        s: State,
        mine: Own,
        user: Address,
        device: KnownDevice,
        event: bytes,
        common: bytes,
        recipients: tuple[Address, ...],
        now: Time,
    ) -> bytes:
        peer = Peer(user, device.curve25519)
        session = sessions.current(s, peer)
        if session is None or session.key != device.ed25519:
            session = self._begin(s, mine, user, device, now)
        word = b"" if session.confirmed else _device_keys(mine, self.account, self.profile)
        plaintext = payload.write(event, common, recipients, user, device.ed25519, word)
        session, type, body = sessions.encrypt(mine, session, plaintext)
        sessions.save(s, peer, session)
        return content.encode(mine.curve25519, device.curve25519, type, body)

    def _begin(self, s: State, mine: Own, user: Address, device: KnownDevice, now: Time) -> Session:
        claimed = contacts.claimed(s, user, device, now)
        if claimed is None or claimed.error:
            raise Undecryptable(claimed.error if claimed is not None else "its key was used up")
        contacts.take_claimed(s, user, device.curve25519)
        session = sessions.initiate(mine, device.ed25519, device.curve25519, claimed.key, now)
        sessions.adopt(s, Peer(user, device.curve25519), session)
        return session

    # -- receiving --------------------------------------------------------------------------------------------------

    def open(self, s: State, got: Arrived, now: Time) -> Done[Outcome] | Need:
        """Open the content of an m.room.encrypted: what it was, and the event if it had any.

        Raises Malformed, BadKey, BadSignature, Refused (an event that fails a check is discarded): the transaction must
        then be rolled back, and is as if it had not come. A session that fails is marked for repair.
        """
        mine = self._mine(s)
        sender = got.stanza.sender
        message = content.decode(got.element, mine.curve25519)
        if message is None:
            return _nothing(Kind.NOT_FOR_US, sender)
        if message.sender_key == mine.curve25519:
            raise BadKey("it shows this device's own key")
        peer = Peer(sender, message.sender_key)
        # Its MAC and what is before it: the same of what is inside a pre-key message and of that alone.
        seen = records.of_device("seen", *peer, f"/{message.body[-16:].hex()}")
        if s.get(seen) is not None:
            return _nothing(Kind.DUPLICATE, sender)
        try:
            received = receiving.receive(s, mine, peer, message, now)
        except receiving.Replayed:
            return _nothing(Kind.DUPLICATE, sender)
        except (Undecryptable, NoSession) as error:
            return self._failed(s, peer, error, now)
        said = payload.read(received.plaintext)
        checked = opening.check(s, mine, self.account, self.profile, peer, received.session.key, said, now)
        if isinstance(checked, Need):
            return checked
        receiving.keep(s, peer, received, checked.device.key)
        s.put(seen, moments.encode_time(now))
        effects = self._after(s, mine, received, now)
        if said.type == payload.DUMMY:
            return Done(Outcome(Kind.EMPTY, checked.device), effects)
        plain = payload.encode_plain(said, checked.recipients[0], checked.notes)
        return Done(Outcome(Kind.OPENED, checked.device, plain), effects)

    def _after(self, s: State, mine: Own, received: receiving.Received, now: Time) -> tuple[Effect, ...]:
        """A fallback key that began a session is replaced as soon as that may be."""
        if received.half is None or not received.half.fallback:
            return ()
        return (self._publish(),) if keys.rotate_fallback(s, mine, now) else ()

    def _failed(self, s: State, peer: Peer, error: PeerError, now: Time) -> Done[Outcome]:
        known = contacts.load(s, peer.user)
        device = known.by_curve(peer.curve25519) if known is not None else None
        repair.want(s, peer, now)
        kind = Kind.NO_SESSION if isinstance(error, NoSession) else Kind.TAMPERED
        name = device.id if device is not None else "that is not known"
        notice = Notice(peer.user, f"a message of device {name} could not be opened: {error.detail}")
        return _nothing(kind, peer.user, error.detail, notice)

    # -- learning ---------------------------------------------------------------------------------------------------

    def learn(self, s: State, fact: Fact, now: Time) -> Done[None]:
        """Take in a list, a claim, counts, catch-up, a roll-back. Other facts are not for Olm."""
        mine = own_device.load(s)
        if mine is None:
            return Done(None)
        if isinstance(fact, Fetched):
            return Done(None, self._learn_fetched(s, mine, fact, now))
        if isinstance(fact, CatchUp):
            s.put(records.key("catch-up"), None if fact.ended else moments.encode_time(now))
        elif isinstance(fact, RolledBack):
            return Done(None, self._roll_back(s, mine, now))
        return Done(None)

    def _learn_fetched(self, s: State, mine: Own, fact: Fetched, now: Time) -> tuple[Effect, ...]:
        if fact.node == KEYS_QUERY and fact.error == NO_PAYLOAD:
            contacts.mark_stale(s, fact.address, now)
        elif fact.node == KEYS_QUERY:
            notices = contacts.learn_list(s, fact, self.profile, now)
            return (*notices, *self._look_at_own(s, mine, now)) if fact.address == self.account else notices
        elif fact.node == KEYS_CLAIM:
            contacts.learn_claim(s, fact, self.profile, now)
        elif fact.node == KEY_COUNTS and fact.address == self.account and fact.payload is not None:
            return self._learn_counts(s, mine, fact.payload, now)
        return ()

    def _learn_counts(self, s: State, mine: Own, told: bytes, now: Time) -> tuple[Effect, ...]:
        try:
            counts = _counts.decode(told) if len(told) <= MAX_COUNTS else None
        except (msgspec.MsgspecError, RecursionError):
            counts = None
        if counts is None:
            return (Notice(self.account, "the home says of our keys what can't be read"),)
        due = keys.top_up(s, mine, counts.counts.get(self.profile.one_time, 0), now)
        if self.profile.fallback and counts.fallback is not None and self.profile.one_time not in counts.fallback:
            keys.note_fallback_used(s)
            due |= keys.rotate_fallback(s, self._mine(s), now)
        return (self._publish(),) if due else ()

    def _look_at_own(self, s: State, mine: Own, now: Time) -> tuple[Effect, ...]:
        """Our home's answer on ourselves: a home that has lost this device gets its keys again, but not for ever."""
        known = contacts.load(s, self.account)
        if known is None or known.error or own_device.announced(s):
            return ()
        shown = known.by_id(mine.device)
        if shown is not None and (shown.ed25519, shown.curve25519) == (mine.ed25519, mine.curve25519):
            return ()
        notice = moments.announced_too_often(s, records.key("fight"), self.account, "this device", now)
        if notice is not None:
            return (notice,)
        own_device.announce(s, mine, self.profile, now)
        return (self._publish(), Notice(self.account, "our home did not show this device's keys: they are sent again"))

    def _roll_back(self, s: State, mine: Own, now: Time) -> tuple[Effect, ...]:
        """The store is older than it was: message keys that it would use next may be used up. No session sends any
        more, claimed keys may have begun one already, and our own keys get new ids."""
        sessions.silence_all(s)
        records.delete_all(s, "claim")
        mine = keys.renew(s, mine, self.profile, now)
        own_device.announce(s, mine, self.profile, now)
        return (self._publish(), Notice(self.account, "an old copy of the store was found: new sessions begin"))

    # -- now and then -----------------------------------------------------------------------------------------------

    def tick(self, s: State, now: Time) -> Done[None] | Need:
        """Lists that changed, due repairs, keys to renew, what is too old to keep. Call it at start and every few
        minutes, and after a message that could not be opened."""
        mine = own_device.load(s)
        if mine is None:
            return Done(None)
        asks = self._asks(s, now)
        if asks:
            return Need(asks)
        effects = [effect for peer in repair.waiting(s) for effect in self._repair(s, mine, peer, now)]
        if own_device.is_due(mine, self.profile, now):
            mine = own_device.announce(s, mine, self.profile, now)
            effects.append(self._publish())
        keys.forget(s, now)
        if self.profile.fallback and keys.rotate_fallback(s, self._mine(s), now):
            effects.append(self._publish())
        moments.keep_newest(s, records.key("seen"), MAX_SEEN)
        contacts.forget_claims(s, now)
        contacts.forget_lists(s, self.account)
        repair.forget(s, now)
        return Done(None, tuple(effects))

    def _asks(self, s: State, now: Time) -> tuple[Fetch, ...]:
        asks = dict.fromkeys(contacts.due(s, now))
        own_list = contacts.load(s, self.account)
        if own_list is None or not 0 <= now - own_list.tried < OWN_LIST_AGE:
            asks[Fetch(self.account, KEYS_QUERY)] = None
        wanted: dict[Address, list[str]] = {}
        for peer in repair.waiting(s):
            known = contacts.load(s, peer.user)
            device = known.by_curve(peer.curve25519) if known is not None else None
            if device is not None and contacts.claimed(s, peer.user, device, now) is None:
                wanted.setdefault(peer.user, []).append(device.id)
        return (*asks, *(contacts.claim(user, ids) for user, ids in wanted.items()))

    def _repair(self, s: State, mine: Own, peer: Peer, now: Time) -> list[Effect]:
        """One attempt: a new session, announced by m.dummy."""
        repair.tried(s, peer, now)
        known = contacts.load(s, peer.user) or DeviceList(0.0)
        device = known.by_curve(peer.curve25519)
        if device is None:
            return []
        try:
            self._begin(s, mine, peer.user, device, now)
        except PeerError as error:
            return [Notice(peer.user, f"no new session with device {device.id}: {error.detail}")]
        recipients = (peer.user,)
        common = self._common(s, mine, recipients)[1]
        sealed = self._seal_for(s, mine, peer.user, device, _DUMMY, common, recipients, now)
        return [Send(_request({str(peer.user): {device.id: msgspec.Raw(sealed)}}), random_bytes(12).hex())]

    def reset(self, s: State, address: Address, device_id: int | None, now: Time) -> Done[int]:
        """A person replaces sessions: all of a user or one device's. The next message begins anew; the number of
        sessions that were put away is returned."""
        known = contacts.load(s, address) or DeviceList(0.0)
        count = 0
        for name, _ in list(s.scan(records.key("session", f"{address}/"))):
            peer = Peer(*records.device_in(name))
            device = known.by_curve(peer.curve25519)
            if device_id is None or (device is not None and matrix.olm_id(device.id) == device_id):
                count += sessions.retire(s, peer)
                contacts.take_claimed(s, *peer)
        return Done(count)

    # -- small things -----------------------------------------------------------------------------------------------

    def _mine(self, s: State) -> Own:
        mine = own_device.load(s)
        if mine is None:
            raise LookupError("prepare() has not been called: there is no device yet")
        return mine

    def _own_device(self, mine: Own) -> Device:
        return matrix.device_of(self.account, mine.device, mine.ed25519)

    def _publish(self) -> Publish:
        return Publish(self.name, "keys")


class _Counts(msgspec.Struct):
    counts: dict[str, int]
    fallback: list[str] | None = None


_counts = msgspec.json.Decoder(_Counts)
_DUMMY = payload.wrap(Content(b'{"type":"m.dummy","content":{}}'))


@lru_cache(8)
def _device_keys(mine: Own, account: Address, profile: Profile) -> bytes:
    return canonical.encode(own_device.device_keys(mine, account, profile))


def _request(messages: dict[str, dict[str, msgspec.Raw]]) -> bytes:
    """The body of PUT /sendToDevice."""
    return msgspec.json.encode({"messages": messages})


def _device(user: Address, device: KnownDevice) -> Device:
    return matrix.device_of(user, device.id, device.ed25519)


def _bad(user: Address, device: str, why: str) -> DeviceReport:
    return DeviceReport(matrix.device_of(user, device, b""), False, why)


def _nothing(kind: Kind, sender: Address, error: str = "", *effects: Effect) -> Done[Outcome]:
    return Done(Outcome(kind, Device(sender, 0, b""), error=error), effects)
