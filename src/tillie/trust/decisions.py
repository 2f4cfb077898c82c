"""Decisions on keys, by address, and the policies that decide where no person has (N9).

Records: ("trust", "keys", address) -> version, then for each key: 1 byte length, the key
(`model.Device.key`), 1 byte decision, 8 bytes time.
A key is trusted under one address only; nothing but a person's decision ever changes a decision that was made.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from tillie.errors import StoreTooNew
from tillie.model import Address, Device, Key, State, Time, Trust

VERSION = 2  # 1 had no lengths: all its keys have 32 bytes
_ENTRY_1 = struct.Struct(">32sBd")
_VERDICT = struct.Struct(">Bd")
_CODES = {Trust.UNDECIDED: 0, Trust.TRUSTED: 1, Trust.VERIFIED: 2, Trust.DISTRUSTED: 3}
_TRUSTS = {code: trust for trust, code in _CODES.items()}


class Policy(Enum):
    """Who decides on a key that no person has decided on.

    MANUAL: nobody; a send waits. FIRST_USE: the keys that a contact has at the first send are trusted, later ones wait.
    BLIND: new keys are trusted until the first key of the contact was verified; from then on they wait.
    """

    MANUAL = "manual"
    FIRST_USE = "first-use"
    BLIND = "blind-before-verify"

    @property
    def strict(self) -> Policy:
        """What holds for long-lived keys, which read what was sealed for them years ago: a policy never adds one to
        those that a contact had first."""
        return Policy.FIRST_USE if self is Policy.BLIND else self


class Decision(NamedTuple):
    trust: Trust
    at: Time


class Judgement(NamedTuple):
    """The devices of one send, sorted. `changed`: somebody undecided belongs to an address that was verified."""

    trusted: tuple[Device, ...]
    distrusted: tuple[Device, ...]
    undecided: tuple[Device, ...]
    changed: bool


def load(s: State, address: Address) -> MappingProxyType[bytes, Decision]:
    """All decisions on the keys of an address (bare)."""
    return _decode(s.get(Key("trust", "keys", address)) or b"")


def decide(s: State, address: Address, key: bytes, trust: Trust, now: Time) -> None:
    """Keep one decision. UNDECIDED takes it back."""
    decisions = dict(load(s, address))
    decisions[key] = Decision(trust, now)
    if trust is Trust.UNDECIDED:
        del decisions[key]
    s.put(Key("trust", "keys", address), _encode(decisions))


def judge(s: State, policy: Policy, devices: Iterable[Device], now: Time) -> Judgement:
    """Sort the devices of a send by trust. What the policy decides in a person's place is kept, in this transaction."""
    trusted: list[Device] = []
    distrusted: list[Device] = []
    undecided: list[Device] = []
    known: dict[Address, MappingProxyType[bytes, Decision]] = {}
    for device in devices:
        address = device.address
        if address not in known:
            known[address] = load(s, address)
        decision = known[address].get(device.key)
        if decision is None:
            if not _decides(policy, known[address], device.key):
                undecided.append(device)
                continue
            decide(s, address, device.key, Trust.TRUSTED, now)
            trusted.append(device)
        elif decision.trust.allows_sending:
            trusted.append(device)
        else:
            distrusted.append(device)
    changed = any(_is_verified(known[device.address]) for device in undecided)
    return Judgement(tuple(trusted), tuple(distrusted), tuple(undecided), changed)


def of(s: State, policy: Policy, address: Address, key: bytes) -> Trust:
    """What we think of a sender's key now. Writes nothing: a first message decides nothing for the first send."""
    decisions = load(s, address)
    decision = decisions.get(key)
    if decision is not None:
        return decision.trust
    return Trust.TRUSTED if _decides(policy, decisions, key) else Trust.UNDECIDED


def _decides(policy: Policy, decisions: MappingProxyType[bytes, Decision], key: bytes) -> bool:
    """Whether the policy trusts a key that nobody has decided on. Once a person has verified any key of somebody, of
    whatever scheme, no policy speaks for that somebody again; a first use is one for each kind of key."""
    if policy is Policy.MANUAL or _is_verified(decisions):
        return False
    return policy is Policy.BLIND or all(len(other) != len(key) for other in decisions)


def _is_verified(decisions: MappingProxyType[bytes, Decision]) -> bool:
    return any(decision.trust is Trust.VERIFIED for decision in decisions.values())


def _encode(decisions: dict[bytes, Decision]) -> bytes | None:
    if not decisions:
        return None
    entries = (bytes((len(key),)) + key + _VERDICT.pack(_CODES[trust], at) for key, (trust, at) in decisions.items())
    return bytes((VERSION,)) + b"".join(entries)


@lru_cache(1024)
def _decode(data: bytes) -> MappingProxyType[bytes, Decision]:
    if not data:
        return MappingProxyType({})
    if data[0] == 1:
        return MappingProxyType({key: Decision(_TRUSTS[code], at) for key, code, at in _ENTRY_1.iter_unpack(data[1:])})
    if data[0] != VERSION:
        raise StoreTooNew(f"the trust record has version {data[0]}; this version of Tillie reads {VERSION}.")
    return MappingProxyType(dict(_entries(data)))


def _entries(data: bytes) -> Iterator[tuple[bytes, Decision]]:
    at = 1
    while at < len(data):
        key = data[at + 1 : at + 1 + data[at]]
        at += 1 + len(key)
        code, when = _VERDICT.unpack_from(data, at)
        at += _VERDICT.size
        yield key, Decision(_TRUSTS[code], when)
