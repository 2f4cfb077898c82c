"""OpenPGP for XMPP as one of Tillie's schemes: what `pipeline` calls (XEP-0373; XEP-0374 for messages).

Pure: every method reads and writes the `State` passed to it and nothing else. Trust is asked above, in the pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tillie.crypto import openpgp
from tillie.crypto.kdf import sha256
from tillie.crypto.openpgp import Certificate, SecretKey
from tillie.crypto.random import random_bytes
from tillie.directory import openpgp as directory
from tillie.envelope.policy import BODY
from tillie.errors import BadKey, NoRecipients, NoSession, PeerError, Refused, TooLarge, UsageError
from tillie.model import (
    NO_PAYLOAD,
    Address,
    Arrived,
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
    RolledBack,
    Sealed,
    Stanza,
    State,
    Target,
    Time,
)
from tillie.schemes import Outcome, Unwrapped, moments
from tillie.schemes.openpgp import announcing, backup, contacts, content, element, keys, objects, opening, records
from tillie.schemes.openpgp.content import Form
from tillie.schemes.openpgp.objects import OpenedObject, SealedObject
from tillie.schemes.openpgp.opening import Unread
from tillie.trust.decisions import Policy

MAX_PLAINTEXT = 131_072  # bytes of content element; in base64 it still fits a stanza of 256 KiB
MAX_SEEN = 20_000  # records of what was opened, the newest; two for each message

_ONLY = {Form.SIGN: "It was signed, but not encrypted.", Form.CRYPT: "It was encrypted, but nobody signed it."}


class OpenedContent(NamedTuple):
    """A content element that opened, of whatever form, and who signed it (None for <crypt>)."""

    form: Form
    device: Device | None
    envelope: Envelope
    time: Time
    notes: tuple[str, ...]


class KeyInfo(NamedTuple):
    """One key of somebody, for showing. `why` says why nothing is sealed for it, "" if it may be; `held` that its
    private half lies here, `active` that it signs."""

    fingerprint: bytes
    created: Time | None
    expires: Time | None
    revoked: bool
    why: str
    announced: bool
    held: bool = False
    active: bool = False
    user_ids: tuple[str, ...] = ()


class OpenPgp:
    """One account's OpenPGP. `account` is its bare address; with `generate`, an account that announces no key yet gets
    one at its first connection."""

    name = records.SCHEME
    title = "OpenPGP for XMPP"
    namespace = directory.NAMESPACE
    tags: tuple[str, ...] = (element.TAG,)
    fallback = "This message is sealed with OpenPGP; this client can't show it."
    beside = frozenset({BODY})
    long_lived = True
    watched = frozenset({directory.LIST_NODE})

    def __init__(self, account: Address, *, generate: bool = False) -> None:
        self.account = account
        self._generate = generate

    # -- our keys ---------------------------------------------------------------------------------------------------

    def prepare(self, s: State, now: Time) -> Done[Device | None] | Need:
        """The key that signs. None is made unless the account wants one and announces none: that of another device may
        be in a backup, and contacts would seal for two."""
        mine = keys.active(s, now)
        if mine is not None:
            keys.vouch(s, self.account, mine.certificate.fingerprint, now)
            # A store that was restored may be from before its key was published.
            unpublished = [each for each in keys.held(s) if each.is_wanted and not each.own.published]
            effects = tuple(announcing.publish_key(each.certificate.fingerprint) for each in unpublished)
            return Done(self._device(mine.certificate), effects)
        if not self._generate or keys.held(s):
            return Done(None)
        known = contacts.load(s, self.account)
        if known is None or not contacts.is_fresh(known, now):
            return Need((Fetch(self.account, directory.LIST_NODE),))
        if not known.read:
            return Done(None, (Notice(self.account, "its list of OpenPGP keys can't be read, so no key was made"),))
        if known.keys:
            text = "it has an OpenPGP key on another device: restore the backup of it, or generate one more"
            return Done(None, (Notice(self.account, text),))
        done = self.generate(s, now)
        return Done(done.value, done.effects)

    def own_device(self, s: State, now: Time) -> Device | None:
        mine = keys.active(s, now)
        return self._device(mine.certificate) if mine else None

    def own_keys(self, s: State) -> tuple[SecretKey, ...]:
        """All our key pairs, the active one first."""
        return tuple(each.key for each in keys.held(s))

    def generate(self, s: State, now: Time) -> Done[Device]:
        """Make a key pair; it is the active one from now on, and is announced."""
        return self._add(s, openpgp.generate(keys.user_id(self.account)), now)

    def import_keys(self, s: State, data: bytes, passphrase: str, now: Time) -> Done[tuple[Device, ...]]:
        """Take in the key pairs that GnuPG or another program exported; they get our user id, and are announced. Raises
        `UsageError`."""
        return self._add_all(s, keys.read_import(data, passphrase), now)

    def revoke(self, s: State, fingerprint: bytes, now: Time) -> Done[None]:
        """Revoke a key of ours for good: that is published, and it leaves the list. The next key is active, or none.
        What was sealed for it still opens."""
        keys.revoke(s, fingerprint)
        return Done(None, (announcing.publish_key(fingerprint),))

    def retract(self, s: State, fingerprint: bytes, now: Time) -> Done[None]:
        """Take a key off our list: one of ours, which stays here, or one that another device left there."""
        keys.retract(s, fingerprint)
        return Done(None, (announcing.publish_list(s, now),))

    def announce(self, s: State, fingerprint: bytes, now: Time) -> Done[None]:
        """Announce a key of ours, again or after `retract`."""
        held = keys.load(s, fingerprint)
        if held is None or held.certificate.revoked:
            raise UsageError(f"This account has no key {keys.shown(fingerprint)} that could be announced.")
        keys.save(s, held.key, held.own._replace(announced=True))
        return Done(None, (announcing.publish_key(fingerprint),))

    def activate(self, s: State, fingerprint: bytes, now: Time) -> Done[Device]:
        """Sign with this key of ours from now on. Raises `UsageError`."""
        held = keys.activate(s, fingerprint, now)
        return Done(self._device(held.certificate))

    def forget(self, s: State, fingerprint: bytes, now: Time) -> Done[None]:
        """Drop a key pair of ours for good, and take it off the list. What was sealed for it can't be opened again."""
        keys.forget(s, fingerprint)
        return Done(None, (announcing.publish_list(s, now),))

    def _add(self, s: State, key: SecretKey, now: Time) -> Done[Device]:
        done = self._add_all(s, (key,), now)
        return Done(done.value[0], done.effects)

    def _add_all(self, s: State, found: Iterable[SecretKey], now: Time) -> Done[tuple[Device, ...]]:
        effects: list[Effect] = []
        devices: list[Device] = []
        for key in reversed(list(found)):  # so that the first one is active in the end
            before = keys.load(s, key.fingerprint)
            added = keys.add(s, key, self.account, now)
            if added.is_wanted or (added.certificate.revoked and before is not None and before.is_wanted):
                effects.append(announcing.publish_key(key.fingerprint))
            devices.append(self._device(added.certificate))
        return Done(tuple(reversed(devices)), tuple(effects))

    # -- backup -----------------------------------------------------------------------------------------------------

    def new_code(self) -> str:
        return backup.new_code()

    def backup(self, s: State, code: str) -> bytes:
        """The payload of the secret-key node: all our keys under a code. Slow, on purpose."""
        return backup.seal(self.own_keys(s), code)

    def publish_backup(self, s: State, payload: bytes) -> Done[None]:
        """Publish what `backup` made at our own server, in a node that only we may read."""
        return Done(None, (announcing.publish_backup(s, payload),))

    def restore(self, s: State, payload: bytes, code: str, now: Time) -> Done[tuple[Device, ...]]:
        """Take in the keys of a backup, in addition to what is here, and announce them. Raises `UsageError`, and then
        nothing has changed. Whoever calls this has fetched `payload` from our own account, and from nobody else."""
        return self._add_all(s, backup.open(payload, code), now)

    def copied(self, s: State) -> Iterator[tuple[Key, bytes]]:
        """The records that a backup file of the account must hold."""
        yield from s.scan(records.key("own"))
        yield from s.scan(records.key("active"))

    # -- sending ----------------------------------------------------------------------------------------------------

    def devices(self, s: State, to: Address, now: Time) -> tuple[tuple[Device, ...], tuple[DeviceReport, ...]] | Need:
        """Every key that the contact announces, and our own that we don't hold: "all keys MUST be used for encryption"
        (XEP-0374 section "Choosing Public Keys"), if they are usable and, which the pipeline asks, trusted."""
        keys.require(s, self.account, now)
        held = self._held_prints(s)
        bare = to.bare
        accounts = (self.account,) if bare == self.account else (bare, self.account)
        asks = tuple(ask for address in accounts for ask in self._missing(s, address, held, now))
        if asks:
            return Need(asks)
        able: list[Device] = []
        unable: list[DeviceReport] = []
        for address in accounts:
            for found in contacts.prospects(s, address, now):
                if address == self.account and found.fingerprint in held:
                    continue
                device = keys.device(address, found.fingerprint)
                if found.why:
                    unable.append(DeviceReport(device, False, found.why))
                else:
                    able.append(device)
        if bare != self.account and not any(device.address == bare for device in able):
            raise NoRecipients(f"{opening.why_none(s, bare, now)}.")
        return tuple(able), tuple(unable)

    def _missing(self, s: State, address: Address, held: frozenset[bytes], now: Time) -> tuple[Fetch, ...]:
        return contacts.missing(s, address, now, held=held if address == self.account else frozenset())

    def wrap(self, envelope: Envelope, to: Target) -> bytes:
        """A <signcrypt>: "Only <signcrypt/> MUST be used for the IM use case" (XEP-0374)."""
        if envelope.iq is not None:
            raise UsageError("An IQ can't be sealed with OpenPGP: nothing would bind it to its type and id.")
        if envelope.time is None:
            raise UsageError("What OpenPGP seals has a time.")
        return content.encode(Form.SIGNCRYPT, envelope.content, to.recipients, envelope.time, random_bytes)

    def unwrap(self, plaintext: bytes, around: Stanza, now: Time) -> Unwrapped:
        decoded = content.decode(plaintext)
        if decoded.form is not Form.SIGNCRYPT:
            raise Refused("What is signed and encrypted says that it is not.")
        return content.verify(decoded, around, self.account, now)

    def blocked(self, s: State, to: Address) -> bool:
        return False

    def seal(self, s: State, plaintext: bytes, to: Target, now: Time) -> Done[Sealed]:
        """Sign with our active key, and encrypt for it and the devices of `to`, all of them trusted. One that fails is
        reported and costs no other."""
        if len(plaintext) > MAX_PLAINTEXT:
            raise TooLarge(f"The message has {len(plaintext)} bytes; at most {MAX_PLAINTEXT} can be sealed.")
        mine = keys.require(s, self.account, now)
        report, able = self._recipients(s, to.devices, now)
        try:
            message = openpgp.signcrypt(plaintext, mine.key, [mine.certificate, *able.values()])
        except BadKey as error:
            bad = opening.refused(list(able.values()))
            able = {device: each for device, each in able.items() if each.fingerprint not in bad}
            report = [each if each.device in able or not each.sealed else _unsealed(each, error) for each in report]
            message = openpgp.signcrypt(plaintext, mine.key, [mine.certificate, *able.values()])
        readers = {device.address for device in able} | {self.account}
        for recipient in to.recipients:
            if recipient.bare not in readers:
                raise NoRecipients(f"No key of {recipient.bare} can be used.")
        # An archive gives us our own messages back, and our own key opens them.
        s.put(_seen(message), moments.encode_time(now))
        return Done(Sealed(element.encode(message), self.name, (*report, *to.skipped)))

    def _recipients(
        self, s: State, devices: Iterable[Device], now: Time
    ) -> tuple[list[DeviceReport], dict[Device, Certificate]]:
        report: list[DeviceReport] = []
        able: dict[Device, Certificate] = {}
        for device in devices:
            found = contacts.prospect(s, device.address, device.key, now)
            if found.certificate is None or found.why:
                report.append(DeviceReport(device, False, found.why))
            else:
                able[device] = found.certificate
                report.append(DeviceReport(device, True))
        return report, able

    # -- receiving --------------------------------------------------------------------------------------------------

    def open(self, s: State, got: Arrived, now: Time) -> Done[Outcome] | Need:
        """Open an <openpgp> of a message: what it was, and the bytes of its <signcrypt>.

        Raises Malformed, Undecryptable, BadSignature, Refused. What does not fit its stanza is not remembered as
        opened: the good copy of it may still come.
        """
        around = got.stanza
        sender = around.sender.bare
        if around.type in ("groupchat", "error") and around.kind == "message":
            # In a room nothing says whose keys to ask for; an error holds what somebody else sent.
            raise Refused("An OpenPGP message came inside an error, or through a room.")
        message = element.decode(got.element)
        if s.get(_seen(message)) is not None:
            return Done(Outcome(Kind.DUPLICATE, Device(sender, 0, b"")))
        found = opening.read(s, self.account, message, sender, now)
        if isinstance(found, Need):
            return found
        if isinstance(found, Unread):
            kind = Kind.NO_SESSION if found.for_us else Kind.NOT_FOR_US
            return Done(Outcome(kind, Device(sender, 0, b""), error=found.why))
        device = keys.device(sender, found.signer) if found.signer else Device(sender, 0, b"")
        ours = bool(found.signer) and keys.load(s, found.signer) is not None
        # By its plaintext, too: a server can put what was signed into another packet, but can't change it.
        names = (_seen(message), _seen(found.signer + found.plaintext))
        if s.get(names[1]) is not None:
            return Done(Outcome(Kind.DUPLICATE, device, ours=ours))
        if found.form is not Form.SIGNCRYPT:
            return Done(Outcome(Kind.REFUSED, device, error=_ONLY[found.form], ours=ours))
        if self._fits(found.plaintext, around, now):
            for name in names:
                s.put(name, moments.encode_time(now))
        return Done(Outcome(Kind.OPENED, device, found.plaintext, ours=ours))

    def _fits(self, plaintext: bytes, around: Stanza, now: Time) -> bool:
        try:
            self.unwrap(plaintext, around, now)
        except PeerError:
            return False
        return True

    def heard(self, s: State, address: Address, content: Content) -> None:
        """Nothing that a contact says changes OpenPGP itself."""

    # -- content elements, for other profiles than messages -----------------------------------------------------------

    def seal_content(self, s: State, form: Form, what: Content, to: Target, now: Time) -> Done[Sealed]:
        """An <openpgp> of any form, for whoever defines a profile of XEP-0373. `to` holds devices that are trusted."""
        plaintext = content.encode(form, what, to.recipients, now, random_bytes)
        if form is Form.SIGNCRYPT:
            return self.seal(s, plaintext, to, now)
        mine = keys.require(s, self.account, now)
        if form is Form.SIGN:
            return Done(Sealed(element.encode(openpgp.sign(plaintext, mine.key)), self.name, ()))
        report, able = self._recipients(s, to.devices, now)
        message = openpgp.crypt(plaintext, [mine.certificate, *able.values()])
        return Done(Sealed(element.encode(message), self.name, (*report, *to.skipped)))

    def open_content(self, s: State, got: Arrived, now: Time) -> Done[OpenedContent] | Need:
        """Open an <openpgp> of any form, checked against its stanza; trust, and repeats, are the caller's to check.

        Raises Malformed, Undecryptable, BadSignature, Refused, and NoSession where the sender has no key.
        """
        sender = got.stanza.sender.bare
        found = opening.read(s, self.account, element.decode(got.element), sender, now)
        if isinstance(found, Need):
            return found
        if isinstance(found, Unread):
            raise NoSession(found.why)
        decoded = content.decode(found.plaintext)
        if decoded.form is not found.form:
            raise Refused("An OpenPGP content element is not made as it says.")
        envelope, time, notes = content.verify(decoded, got.stanza, self.account, now)
        device = keys.device(sender, found.signer) if found.signer else None
        return Done(OpenedContent(found.form, device, envelope, time, notes))

    def seal_object(
        self, s: State, policy: Policy, data: bytes, to: Sequence[Address], now: Time
    ) -> Done[SealedObject]:
        """Any bytes as a sealed object, for keys that are known here. See `objects`."""
        return objects.seal(s, self.account, policy, data, to, now)

    def open_object(self, s: State, policy: Policy, message: bytes, now: Time) -> Done[OpenedObject]:
        return objects.open(s, self.account, policy, message, now)

    # -- for signatures of other things (XEP-0476) --------------------------------------------------------------------

    def certificates(self, s: State, address: Address, now: Time) -> tuple[Certificate, ...] | Need:
        """The certificates that may have signed for an address: announced, known, and of it; for our own, ours."""
        return opening.certificates(s, self.account, address.bare, now)

    def sign(self, s: State, data: bytes) -> tuple[bytes, bytes]:
        """A detached signature by our active key, and its fingerprint. Raises `UsageError` if there is none."""
        for held in keys.held(s):
            try:
                return openpgp.sign_detached(data, held.key), held.certificate.fingerprint
            except UsageError:
                continue  # revoked or expired
        raise UsageError("This account has no OpenPGP key that can sign.", hint=keys.GENERATE)

    def device_of(self, certificate: Certificate, address: Address) -> Device:
        return keys.device_of(certificate, address.bare)

    # -- learning -----------------------------------------------------------------------------------------------------

    def learn(self, s: State, fact: Fact, now: Time) -> Done[None]:
        """Take in a list, a certificate, a roll-back. Other facts are not for OpenPGP: an event of the secret-key node,
        whoever sent it, changes nothing."""
        if isinstance(fact, RolledBack):
            contacts.expire_all(s)
            announcing.want_rechecks(s)
        elif isinstance(fact, Fetched) and fact.node == directory.LIST_NODE:
            return Done(None, self._learn_list(s, fact, now))
        elif isinstance(fact, Fetched):
            fingerprint = directory.fingerprint_in(fact.node)
            if fingerprint is not None:
                return Done(None, self._learn_certificate(s, fact, fingerprint, now))
        return Done(None)

    def _learn_list(self, s: State, fact: Fetched, now: Time) -> tuple[Effect, ...]:
        if fact.error == NO_PAYLOAD:
            # "MUST be prepared that PubSub notifications may be without the payload"
            contacts.expire(s, fact.address, now)
            s.put(records.key("refresh", fact.address), moments.encode_time(now))
            return ()
        notices = contacts.learn_list(s, fact, now)
        s.put(records.key("refresh", fact.address), None)
        known = contacts.load(s, fact.address)
        if fact.address != self.account or known is None or known.at != now:
            return notices
        return (*notices, *announcing.again(s, self.account, now))

    def _learn_certificate(self, s: State, fact: Fetched, fingerprint: bytes, now: Time) -> tuple[Effect, ...]:
        if fact.address == self.account and keys.load(s, fingerprint) is not None:
            return announcing.learn_own(s, fact, fingerprint, now)
        return contacts.learn_certificate(s, fact, fingerprint, now)

    def publication(self, s: State, what: str, now: Time) -> Done[Publication | None] | Need:
        return announcing.publication(s, self.account, what, now)

    def published(self, s: State, what: str, now: Time) -> Done[None]:
        return announcing.published(s, self.account, what, now)

    def tick(self, s: State, now: Time) -> Done[None] | Need:
        """Lists that changed, keys to look up after a roll-back, a due announcement, what is too old to keep."""
        asks = [Fetch(Address(name.name), directory.LIST_NODE) for name, _ in s.scan(records.key("refresh"))]
        asks += announcing.rechecks(s, self.account, now)
        if asks:
            return Need(tuple(asks))
        effects = announcing.again(s, self.account, now) if s.get(records.key("fight")) is not None else ()
        moments.keep_newest(s, records.key("seen"), MAX_SEEN)
        return Done(None, effects)

    def reset(self, s: State, address: Address, device_id: int | None, now: Time) -> Done[int]:
        """OpenPGP has no sessions."""
        return Done(0)

    # -- showing ------------------------------------------------------------------------------------------------------

    def keys(self, s: State, address: Address, now: Time) -> list[KeyInfo]:
        """All that is known here of an account's keys; ours, and what else we announce, for our own address."""
        known = contacts.load(s, address)
        listed = {key.fingerprint for key in known.keys} if known else set()
        held = keys.held(s) if address == self.account else ()
        active = keys.active(s, now)
        found = []
        for mine in held:
            why, print = mine.certificate.why_unusable(now), mine.certificate.fingerprint
            info = _info(print, mine.certificate, why, announced=print in listed)
            found.append(info._replace(held=True, active=mine == active))
        ours = {each.fingerprint for each in found}
        for each in contacts.prospects(s, address, now):
            if each.fingerprint not in ours:
                found.append(_info(each.fingerprint, each.certificate, each.why, announced=True))
        return found

    def _held_prints(self, s: State) -> frozenset[bytes]:
        return frozenset(each.certificate.fingerprint for each in keys.held(s))

    def _device(self, certificate: Certificate) -> Device:
        return keys.device_of(certificate, self.account)


def _info(fingerprint: bytes, known: Certificate | None, why: str, *, announced: bool) -> KeyInfo:
    if known is None:
        return KeyInfo(fingerprint, None, None, False, why, announced)
    about = (known.created, known.expires, known.revoked, why, announced)
    return KeyInfo(fingerprint, *about, user_ids=known.user_ids)


def _seen(data: bytes) -> Key:
    return records.key("seen", sha256(data).hex()[:32])


def _unsealed(report: DeviceReport, error: PeerError) -> DeviceReport:
    return report._replace(sealed=False, why=error.detail)
