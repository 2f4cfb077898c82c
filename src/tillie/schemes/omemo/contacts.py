"""What we know of other devices: lists and bundles as they are learned, and which of them need a new session
(XEP-0384 sections "Discovering peer support", "Building a session", "Business Rules")."""

from __future__ import annotations

from typing import NamedTuple

from tillie.crypto.random import random_index
from tillie.directory import omemo as directory
from tillie.errors import BadKey, Malformed, PeerError
from tillie.model import Address, Fetched, Notice, State, Time
from tillie.schemes import moments
from tillie.schemes.omemo import records
from tillie.schemes.omemo.records import DeviceList, KnownDevice, Own, Prospect

LIST_MAX_AGE = 3_600.0  # seconds; after that a list is fetched again before a send (contacts without presence)
BUNDLE_MAX_AGE = 3_600.0
RETRY = 300.0  # seconds until something that could not be fetched is asked for again
REPAIR_INTERVAL = 300.0  # "at most one repair message per device per 5 minutes"
MAX_REPAIRS = 64  # devices of one account that may wait for a repair: a stranger can invent device ids
MAX_UNLISTED = 64  # devices of one account that wrote to us without being listed

_ABSENT = frozenset({"item-not-found", "feature-not-implemented", "service-unavailable", "forbidden", "not-allowed"})


class Learned(NamedTuple):
    """The list after a fact, and what a person should hear about it."""

    known: DeviceList
    notices: tuple[Notice, ...] = ()


def load(s: State, address: Address) -> DeviceList | None:
    data = s.get(records.key("devices", address))
    return records.decode_devices(data) if data is not None else None


def save(s: State, address: Address, known: DeviceList) -> None:
    s.put(records.key("devices", address), records.encode_devices(known))


def is_fresh(known: DeviceList | None, now: Time) -> bool:
    return known is not None and 0 <= now - known.at < LIST_MAX_AGE


# -- device lists ---------------------------------------------------------------------------------------------------


def learn_list(s: State, fact: Fetched, now: Time) -> Learned:
    """Take in a device list, or the news that there is none. What can't be read leaves the known list as it is."""
    before = load(s, fact.address) or DeviceList(now - LIST_MAX_AGE, False, ())
    if fact.payload is None:
        if fact.error and fact.error not in _ABSENT:
            return _postpone(s, fact.address, before, now, "")
        listed: tuple[directory.ListedDevice, ...] = ()
    else:
        try:
            listed = directory.parse_devices(fact.payload)
        except PeerError as error:
            return _postpone(s, fact.address, before, now, f"the device list can't be read ({error.detail})")
    known = DeviceList(now, fact.payload is not None, _merge(before, listed))
    save(s, fact.address, known)
    return Learned(known)


def _merge(before: DeviceList, listed: tuple[directory.ListedDevice, ...]) -> tuple[KnownDevice, ...]:
    ids = {device.id for device in listed}
    merged = [_update(before.by_id(device.id), device) for device in listed]
    gone = [device._replace(listed=False) for device in before.devices if device.id not in ids and device.identity]
    return (*merged, *gone[-MAX_UNLISTED:])


def _update(before: KnownDevice | None, listed: directory.ListedDevice) -> KnownDevice:
    if before is None:
        return KnownDevice(listed.id, True, b"", listed.label, listed.labelsig)
    if (listed.label, listed.labelsig) == (before.label, before.labelsig):
        return before._replace(listed=True)
    signed = bool(before.identity) and directory.label_of(listed, before.identity) != ""
    return KnownDevice(listed.id, True, before.identity, listed.label, listed.labelsig, signed)


def _postpone(s: State, address: Address, before: DeviceList, now: Time, complaint: str) -> Learned:
    known = before._replace(at=now - LIST_MAX_AGE + RETRY)
    save(s, address, known)
    return Learned(known, (Notice(address, complaint),) if complaint else ())


# -- identity keys --------------------------------------------------------------------------------------------------


def learn_identity(s: State, own: Own, address: Address, device_id: int, identity: bytes, now: Time) -> list[Notice]:
    """Remember the identity key that a device showed, in a checked bundle or in a message that opened."""
    known = load(s, address) or DeviceList(now - LIST_MAX_AGE, False, ())
    device = known.by_id(device_id) or KnownDevice(device_id, False)
    if device.identity == identity:
        return []
    if not device.listed and sum(not other.listed for other in known.devices) >= MAX_UNLISTED:
        raise Malformed(f"more than {MAX_UNLISTED} unlisted devices of one account")
    notices = []
    if device.identity:
        notices.append(Notice(address, f"device {device_id} has a new identity key"))
    if any(other.identity == identity and other.id != device_id and other.listed for other in known.devices):
        notices.append(Notice(address, f"device {device_id} shares its identity key with another device"))
    signed = directory.label_of(directory.ListedDevice(device_id, device.label, device.labelsig), identity) != ""
    save(s, address, known.with_device(device._replace(identity=identity, signed=signed)))
    return notices


def refuse_own_identity(own: Own, identity: bytes) -> None:
    """A key exchange or bundle with our own identity key: a reflection, or a second live copy of this device."""
    if identity == own.identity:
        raise BadKey("it shows this device's own identity key")


# -- bundles --------------------------------------------------------------------------------------------------------


def learn_bundle(s: State, own: Own, fact: Fetched, now: Time) -> list[Notice]:
    """Check a fetched bundle and keep what one session needs of it; or keep why there is none."""
    try:
        device_id = directory.parse_id(fact.item)
    except Malformed:
        return []
    notices: list[Notice] = []
    try:
        if fact.payload is None:
            raise Malformed(fact.error or "no bundle is published")
        bundle = directory.parse_bundle(fact.payload)
        notices = _notice_copy(s, own, fact.address, device_id, bundle.identity, now)
        refuse_own_identity(own, bundle.identity)
        notices = learn_identity(s, own, fact.address, device_id, bundle.identity, now)
        # "A random pk entry is selected"
        prekey_id, prekey = list(bundle.prekeys.items())[random_index(len(bundle.prekeys))]
        prospect = Prospect(now, bundle.identity, bundle.signed_prekey_id, bundle.signed_prekey, prekey_id, prekey)
    except PeerError as error:
        prospect = Prospect(now, error=error.detail)
    s.put(records.of_device("bundle", fact.address, device_id), records.encode_prospect(prospect))
    return notices


def _notice_copy(s: State, own: Own, address: Address, device_id: int, identity: bytes, now: Time) -> list[Notice]:
    """A device with our own identity key is a copy of this one: an older one that was restored from, or a live one
    whose messages look like ours. Said once for each (N2)."""
    if identity != own.identity:
        return []
    known = load(s, address)
    device = known.by_id(device_id) if known else None
    if device is not None and device.identity == identity:
        return []
    learn_identity(s, own, address, device_id, identity, now)
    return [Notice(address, f"device {device_id} has this device's own identity key: it is a copy, restored or live")]


def prospect(s: State, address: Address, device_id: int, now: Time) -> Prospect | None:
    """The bundle that waits for this device, or why there is none; None if it must be fetched."""
    data = s.get(records.of_device("bundle", address, device_id))
    if data is None:
        return None
    found = records.decode_prospect(data)
    limit = RETRY if found.error else BUNDLE_MAX_AGE
    return found if 0 <= now - found.at < limit else None


def forget_stale(s: State, now: Time) -> None:
    """Drop bundles that are too old to use, and times of repairs that bound nothing any more."""
    for name, data in list(s.scan(records.key("bundle"))):
        if not 0 <= now - records.decode_prospect(data).at < BUNDLE_MAX_AGE:
            s.put(name, None)
    for name, data in list(s.scan(records.key("repaired"))):
        if not 0 <= now - moments.decode_time(data) < REPAIR_INTERVAL:
            s.put(name, None)


def take_prospect(s: State, address: Address, device_id: int) -> None:
    """Used up: its prekey must not start a second session."""
    s.put(records.of_device("bundle", address, device_id), None)


# -- broken sessions ------------------------------------------------------------------------------------------------


def broken(s: State, address: Address) -> dict[int, float]:
    """Devices of this account whose session failed to open something, and when."""
    return records.decode_broken(s.get(records.key("broken", address)))


def mark_broken(s: State, address: Address, device_id: int, now: Time) -> None:
    """The user's next send to this device carries a new key exchange. The session itself is not touched: a forged
    message must not change it, so the mark has a record of its own."""
    marked = broken(s, address)
    if device_id not in marked and len(marked) < directory.MAX_DEVICES:
        s.put(records.key("broken", address), records.encode_broken({**marked, device_id: now}))


def clear_broken(s: State, address: Address, device_id: int) -> None:
    marked = broken(s, address)
    if marked.pop(device_id, None) is not None:
        s.put(records.key("broken", address), records.encode_broken(marked) if marked else None)


def want_repair(s: State, address: Address, device_id: int, now: Time) -> bool:
    """Ask for a new session, announced by an empty message; False if one was made less than REPAIR_INTERVAL ago,
    or too many wait."""
    done = s.get(records.of_device("repaired", address, device_id))
    if done is not None and 0 <= now - moments.decode_time(done) < REPAIR_INTERVAL:
        return False
    name = records.of_device("repair", address, device_id)
    if s.get(name) is None and sum(1 for _ in s.scan(records.key("repair", f"{address}/"))) >= MAX_REPAIRS:
        return False
    s.put(name, moments.encode_time(now))
    return True
