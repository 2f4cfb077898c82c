"""Our own device: which it is, its keys, and how it is published."""

from __future__ import annotations

import msgspec

from tillie.crypto import agree, sign
from tillie.crypto.random import random_bytes
from tillie.directory import matrix
from tillie.directory.matrix import Profile
from tillie.errors import StoreMismatch
from tillie.model import Address, State, Time
from tillie.schemes import moments
from tillie.schemes.olm import records
from tillie.schemes.olm.records import Own
from tillie.wire.canonical import Object

VALID = 30 * 86_400.0  # seconds that keys are published as valid, in the profile that dates them
RENEW = 10 * 86_400.0  # seconds before their end when they are published again, the same keys with new dates
CLOCKS = 300.0  # seconds that clocks may differ


def load(s: State) -> Own | None:
    """Our device, if it has keys."""
    own = _read(s)
    return own if own is not None and own.seed else None


def bind(s: State, device_id: str, profile: Profile) -> None:
    """The home has given this device its id: from now on the store belongs to it and to this profile.

    Raises `StoreMismatch` if it belongs to another: a device that changes its id or the way it publishes its keys would
    look to others like one that was tampered with.
    """
    own = _read(s)
    if own is None:
        save(s, Own(device_id, profile.name))
    elif own.device != device_id:
        raise StoreMismatch(f"it is that of device {own.device}, not of {device_id}.")
    elif own.profile != profile.name:
        raise StoreMismatch(f"it is for the profile {own.profile}, not {profile.name}.")


def create(s: State) -> Own | None:
    """Generate the keys of a bound device; None if the store is not bound yet."""
    own = _read(s)
    if own is None or own.seed:
        return own
    seed, ed25519 = sign.generate()
    curve_private, curve25519 = agree.generate()
    made = Own(own.device, own.profile, seed, ed25519, curve_private, curve25519, random_bytes(32))
    save(s, made)
    return made


def save(s: State, own: Own) -> None:
    s.put(records.key("own"), records.encode_own(own))


def announce(s: State, own: Own, profile: Profile, now: Time) -> Own:
    """The home is to get our device keys again, dated anew where the profile has dates."""
    s.put(records.key("announcing"), moments.encode_time(now))
    if profile.dated:
        own = msgspec.structs.replace(own, valid=(float(int(now - CLOCKS)), float(int(now + VALID))))
        save(s, own)
    return own


def device_keys(own: Own, user: Address, profile: Profile) -> Object:
    """Our device keys as they are published, signed. The same bytes for the same record."""
    valid = own.valid if profile.dated else None
    return matrix.write_device_keys(profile, user, own.device, own.curve25519, own.seed, valid=valid)


def announced(s: State) -> Time:
    """Since when the home is to get our device keys, 0.0 if it has them."""
    data = s.get(records.key("announcing"))
    return moments.decode_time(data) if data is not None else 0.0


def is_due(own: Own, profile: Profile, now: Time) -> bool:
    """Whether the dates of our keys are to be renewed."""
    return profile.dated and not own.valid[0] <= now < own.valid[1] - RENEW


def catching_up(s: State) -> bool:
    return s.get(records.key("catch-up")) is not None


def _read(s: State) -> Own | None:
    data = s.get(records.key("own"))
    return records.decode_own(data) if data is not None else None
