"""What we know of users' devices: the lists as they are learned, and the keys that were claimed of them (Matrix
specification 1.19, "Tracking the device list for a user", "Claiming one-time keys")."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tillie.directory import matrix
from tillie.directory.matrix import OLM, DeviceKeys, Profile
from tillie.errors import Malformed, PeerError
from tillie.model import Address, Fetch, Fetched, Notice, State, Time
from tillie.schemes import moments
from tillie.schemes.olm import records
from tillie.schemes.olm.own import CLOCKS
from tillie.schemes.olm.records import Claimed, DeviceList, KnownDevice, Past
from tillie.wire import canonical
from tillie.wire import matrix as names

LIST_MAX_AGE = 300.0  # seconds; a home tells of changes only where users share a room, or if it is one of ours
JUST_READ = 2.0  # seconds; what was read since then is not asked for again
CLAIM_MAX_AGE = 3_600.0
RETRY = 60.0  # seconds until something that could not be had is asked for again
MAX_PAST = 8  # earlier lists that are remembered
MAX_GONE = 64  # devices that were on a list once
MAX_STRANGERS = 64  # lists of users with whom we have no session: whoever writes to us chooses whom we look up
PAST_KEPT = 7 * 86_400.0  # seconds; as long, a message may be on its way that was sealed for an earlier list
MAX_CLAIM = matrix.MAX_DEVICES * 4_096  # bytes of an answer to a claim


# -- device lists ---------------------------------------------------------------------------------------------------


def load(s: State, user: Address) -> DeviceList | None:
    data = s.get(records.key("devices", user))
    return records.decode_devices(data) if data is not None else None


def is_fresh(s: State, user: Address, known: DeviceList | None, now: Time) -> bool:
    """Whether a message may be sealed for this list."""
    if known is None:
        return False
    if 0 <= now - known.tried < RETRY and known.error:
        return True  # it can't be had now: the last one must do
    return 0 <= now - known.at < LIST_MAX_AGE and stale_since(s, user) <= known.at


def is_just_read(s: State, user: Address, known: DeviceList | None, now: Time) -> bool:
    """Whether asking again would tell nothing new: it was asked for a moment ago, and after the last change."""
    return known is not None and 0 <= now - known.tried < JUST_READ and stale_since(s, user) <= known.tried


def stale_since(s: State, user: Address) -> Time:
    data = s.get(records.key("stale", user))
    return moments.decode_time(data) if data is not None else 0.0


def mark_stale(s: State, user: Address, now: Time) -> None:
    """The home says that this list changed. Lists that we do not have are not fetched for that."""
    if load(s, user) is not None:
        s.put(records.key("stale", user), moments.encode_time(now))


def due(s: State, now: Time) -> list[Fetch]:
    """Lists to fetch because they changed."""
    found = []
    for name, _ in s.scan(records.key("stale")):
        user = Address(name.name)
        if not is_just_read(s, user, load(s, user), now):
            found.append(Fetch(user, matrix.KEYS_QUERY))
    return found


def learn_list(s: State, fact: Fetched, profile: Profile, now: Time) -> tuple[Notice, ...]:
    """Take in a user's devices. What can't be read leaves the known list as it is."""
    before = load(s, fact.address) or DeviceList(0.0)
    if fact.payload is None:
        return _keep(s, fact.address, msgspec.structs.replace(before, tried=now, error=fact.error or "no answer"), ())
    try:
        good, bad = matrix.parse_device_map(fact.payload, fact.address, profile)
    except Malformed as error:
        failed = msgspec.structs.replace(before, tried=now, error=error.detail)
        return _keep(s, fact.address, failed, (f"the list of devices can't be read ({error.detail})",))
    if not 0 <= now - stale_since(s, fact.address) < JUST_READ:
        # Else this answer may be older than the change: it serves, and is asked for once more.
        s.put(records.key("stale", fact.address), None)
    devices = tuple(_reduced(each) for each in good)
    known = DeviceList(now, now, "", devices, tuple((_name(device), why) for device, why in bad))
    since = before.since if before.at and _same(before, known) else now
    known = msgspec.structs.replace(known, past=_past(before, known, now), gone=_gone(before, known), since=since)
    return _keep(s, fact.address, known, _changed(before, known))


def _keep(s: State, user: Address, known: DeviceList, complaints: Iterable[str]) -> tuple[Notice, ...]:
    s.put(records.key("devices", user), records.encode_devices(known))
    return tuple(Notice(user, complaint) for complaint in complaints)


def _reduced(keys: DeviceKeys) -> KnownDevice:
    valid = keys.valid or (0.0, 0.0)
    return KnownDevice(keys.device, keys.curve25519, keys.ed25519, keys.is_able, keys.binds, valid)


def _name(device: str) -> str:
    """A device id that may be shown."""
    return device if names.is_device_id(device) else "(without a valid name)"


def _same(before: DeviceList, known: DeviceList) -> bool:
    return set(before.keys) == set(known.keys)


def _past(before: DeviceList, known: DeviceList, now: Time) -> tuple[Past, ...]:
    """Who took part before. A list that only lost its place in time is no other list."""
    kept = tuple(each for each in before.past if 0 <= now - each.until < PAST_KEPT and each.keys != known.keys)
    if before.at and not _same(before, known):
        kept = (*kept, Past(now, before.keys))
    return kept[-MAX_PAST:]


def _gone(before: DeviceList, known: DeviceList) -> tuple[KnownDevice, ...]:
    """Devices that are not on the list any more: what they sealed before may still come."""
    here = {device.curve25519 for device in known.devices}
    gone = (device for device in (*before.gone, *before.devices) if device.able and device.curve25519 not in here)
    return tuple(dict.fromkeys(gone))[-MAX_GONE:]


def _changed(before: DeviceList, known: DeviceList) -> list[str]:
    """ "A changed key for a known device id": whatever was decided on the old one says nothing of the new one."""
    complaints = []
    for device in known.devices:
        old = before.by_id(device.id)
        if old is not None and (old.ed25519, old.curve25519) != (device.ed25519, device.curve25519):
            complaints.append(f"device {device.id} has new keys")
    return complaints


def why_unable(device: KnownDevice, profile: Profile, now: Time) -> str:
    """Why nothing can be sealed for this device, "" if it can."""
    if not device.curve25519:
        return "it has published no keys"
    if not device.able:
        return "it does not speak Olm"
    if profile.dated and not device.valid[0] - CLOCKS <= now < device.valid[1] + CLOCKS:
        return "its keys are expired, or not valid yet"
    return ""


def forget_lists(s: State, account: Address) -> None:
    """Drop what was read longest ago of users with whom there is no session. It is asked for again when needed."""
    read = [Address(name.name) for name, _ in s.scan(records.key("devices"))]
    if len(read) <= MAX_STRANGERS:
        return
    talking = {records.device_in(name)[0] for name, _ in s.scan(records.key("session"))} | {account}
    strangers = [(known.tried, user) for user in read if user not in talking and (known := load(s, user)) is not None]
    for _, user in sorted(strangers)[:-MAX_STRANGERS]:
        s.put(records.key("devices", user), None)
        s.put(records.key("stale", user), None)


# -- claimed keys ---------------------------------------------------------------------------------------------------


def claim(user: Address, devices: Iterable[str]) -> Fetch:
    """Ask for one key of each of these devices."""
    return Fetch(user, matrix.KEYS_CLAIM, canonical.encode(sorted(devices)).decode())


def learn_claim(s: State, fact: Fetched, profile: Profile, now: Time) -> None:
    """Check what a claim gave for each device, and keep it, or why there is none: one bad key costs no other device."""
    known = load(s, fact.address)
    wanted = canonical.parse(fact.item.encode())
    answers: dict[str, bytes] = {}
    failure = fact.error
    if fact.payload is not None:
        try:
            answers = canonical.split_object(fact.payload, max_bytes=MAX_CLAIM)
        except Malformed as error:
            failure = error.detail
    if known is None:
        return
    for name in wanted:
        device = known.by_id(name)
        if device is not None and device.able:
            claimed = _claimed(fact.address, device, answers.get(name), failure, profile, now)
            s.put(records.of_device("claim", fact.address, device.curve25519), records.encode_claimed(claimed))


def _claimed(
    user: Address, device: KnownDevice, answer: bytes | None, failure: str, profile: Profile, now: Time
) -> Claimed:
    if answer is None:
        return Claimed(now, device.ed25519, error=failure or "it has no one-time key left")
    keys = DeviceKeys(user, device.id, device.curve25519, device.ed25519, (OLM,), {})
    try:
        found = matrix.read_one_time_key(canonical.parse(answer), keys, profile)
    except PeerError as error:
        return Claimed(now, device.ed25519, error=error.detail)
    return Claimed(now, device.ed25519, found.key)


def claimed(s: State, user: Address, device: KnownDevice, now: Time) -> Claimed | None:
    """The key that waits for this device, or why there is none; None if it must be claimed."""
    data = s.get(records.of_device("claim", user, device.curve25519))
    if data is None:
        return None
    found = records.decode_claimed(data)
    limit = RETRY if found.error else CLAIM_MAX_AGE
    return found if 0 <= now - found.at < limit and found.ed25519 == device.ed25519 else None


def take_claimed(s: State, user: Address, curve25519: bytes) -> None:
    """Used up: it must not begin a second session."""
    s.put(records.of_device("claim", user, curve25519), None)


def forget_claims(s: State, now: Time) -> None:
    for name, data in list(s.scan(records.key("claim"))):
        if not 0 <= now - records.decode_claimed(data).at < CLAIM_MAX_AGE:
            s.put(name, None)
