"""What the store knows of devices and keys, one row each, without asking anybody."""

from __future__ import annotations

from dataclasses import dataclass

from tillie.directory.matrix import device_of, olm_id
from tillie.model import FINGERPRINT_BYTES, SESSION_KEY_BYTES, Address, Device, Key, State, Time, Trust
from tillie.pipeline import Policy
from tillie.schemes.esession import own as own_session_key
from tillie.schemes.esession import records as session_records
from tillie.schemes.esession import sessions as encrypted_sessions
from tillie.schemes.olm import contacts as olm_contacts
from tillie.schemes.olm import own as own_olm_device
from tillie.schemes.olm import records as olm_records
from tillie.schemes.olm import sessions as olm_sessions
from tillie.schemes.omemo import Omemo, contacts, records, sessions
from tillie.schemes.openpgp import KeyInfo, OpenPgp
from tillie.schemes.openpgp import keys as openpgp_keys
from tillie.schemes.openpgp import records as openpgp_records
from tillie.trust import associations, decisions, fingerprint


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One device of a contact, or of ours, and what is thought of its key; or one OpenPGP key.

    `key` is empty while its bundle was not fetched. `decided` says that a decision is kept, a person's or the policy's;
    else `trust` is what the policy would say now. `why` says why nothing can be sealed for it. An OMEMO device with id
    0 is a key that was decided on and that no device shows any more. `this`: its private half lies here. `info` is
    what an OpenPGP certificate says. `petname` is what the other end of encrypted sessions is called here.
    """

    device: Device
    trust: Trust
    decided: bool = False
    listed: bool = True
    session: bool = False
    this: bool = False
    why: str = ""
    scheme: str = Omemo.name
    info: KeyInfo | None = None
    petname: str = ""

    @property
    def fingerprint(self) -> str:
        return fingerprint.of(self.device)

    @property
    def is_gone(self) -> bool:
        """Whether it was decided on and nobody shows it any more."""
        return not self.listed and not self.device.id


def known_addresses(s: State, account: Address) -> list[Address]:
    names = {Address(key.name) for key, _ in s.scan(records.key("devices"))}
    names |= {Address(key.name) for key, _ in s.scan(openpgp_records.key("list"))}
    names |= {Address(key.name) for key, _ in s.scan(olm_records.key("devices"))}
    names |= {Address(key.name) for key, _ in s.scan(Key("trust", "keys", ""))}
    names |= {address for each in associations.all_of(s) for address in each.addresses}
    return [account, *sorted(names - {account})]


def known_devices(s: State, scheme: Omemo, policy: Policy, address: Address) -> list[KnownKey]:
    """The OMEMO devices of one account as the records have them, then keys that were decided on and are gone."""
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
    others = (FINGERPRINT_BYTES, *SESSION_KEY_BYTES)
    gone = [(key, each.trust) for key, each in decided.items() if key not in shown_keys and len(key) not in others]
    return rows + [KnownKey(Device(address, 0, key), trust, True, False) for key, trust in gone]


def known_olm_devices(s: State, account: Address, policy: Policy, address: Address) -> list[KnownKey]:
    """The Matrix devices of one user as they were last published, then keys that were decided on and are gone."""
    scheme = olm_records.SCHEME
    mine = own_olm_device.load(s) if address == account else None
    rows: list[KnownKey] = []
    if mine is not None:
        ours = device_of(account, mine.device, mine.ed25519)
        rows.append(KnownKey(ours, Trust.VERIFIED, True, this=True, scheme=scheme))
    known = olm_contacts.load(s, address)
    decided = decisions.load(s, address)
    for each in known.devices if known else ():
        if mine is not None and each.id == mine.device:
            continue
        trust = decisions.of(s, policy, address, each.ed25519)
        session = olm_sessions.current(s, olm_sessions.Peer(address, each.curve25519)) is not None
        device = device_of(address, each.id, each.ed25519)
        why = "" if each.able else "it can't be written to by Olm"
        rows.append(KnownKey(device, trust, each.ed25519 in decided, session=session, why=why, scheme=scheme))
    for device_id, why in known.bad if known else ():
        rows.append(
            KnownKey(Device(address, olm_id(device_id), b"", device_id), Trust.UNDECIDED, why=why, scheme=scheme)
        )
    shown = {row.device.key for row in rows}
    gone = [(key, each.trust) for key, each in decided.items() if key not in shown]
    return rows + [KnownKey(Device(address, 0, key), trust, True, False, scheme=scheme) for key, trust in gone]


def known_openpgp_keys(s: State, scheme: OpenPgp, policy: Policy, address: Address, now: Time) -> list[KnownKey]:
    """The OpenPGP keys of one account: ours that lie here, those that it announces, those that were decided on."""
    rows: list[KnownKey] = []
    decided = decisions.load(s, address)
    for info in scheme.keys(s, address, now):
        key = info.fingerprint
        trust = Trust.VERIFIED if info.held else decisions.of(s, policy.strict, address, key)
        rows.append(
            KnownKey(
                openpgp_keys.device(address, key), trust, info.held or key in decided, info.announced,
                this=info.held, why=info.why, scheme=scheme.name, info=info,
            )
        )  # fmt: skip
    shown = {row.device.key for row in rows}
    gone = [(key, each.trust) for key, each in decided.items() if key not in shown and len(key) == FINGERPRINT_BYTES]
    return rows + [KnownKey(Device(address, 0, key), trust, True, False, scheme=scheme.name) for key, trust in gone]


def known_session_keys(s: State, account: Address, address: Address) -> list[KnownKey]:
    """The other ends of encrypted sessions that one account was seen with; of ours, the public key that we give."""
    scheme = session_records.SCHEME
    mine = own_session_key.load(s) if address == account else None
    rows = []
    if mine is not None:
        key = encrypted_sessions.device(account, own_session_key.trust_key(mine))
        rows.append(KnownKey(key, Trust.VERIFIED, True, this=True, scheme=scheme))
    decided = decisions.load(s, address)
    for each in associations.under(s, address):
        trust = decided[each.key].trust if each.key in decided else Trust.UNDECIDED
        shown = encrypted_sessions.device(address, each.key)
        rows.append(KnownKey(shown, trust, each.key in decided, scheme=scheme, petname=each.petname))
    return rows
