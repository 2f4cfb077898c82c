"""Our own device: identity, signed and one-time prekeys, and their life (XEP-0384 sections "Key Exchange", "Bundles",
"Business Rules")."""

from __future__ import annotations

from tillie.crypto import agree, sign
from tillie.crypto.random import random_index
from tillie.directory.omemo import MAX_ID, Bundle
from tillie.model import State, Time
from tillie.schemes import moments
from tillie.schemes.omemo import records
from tillie.schemes.omemo.records import Own, SignedPrekey

PREKEYS = 100  # "SHOULD always contain around 100 PreKeys"
ROTATION = 7 * 86_400.0  # seconds; "once a week to once a month", and the old one is kept for as long again
SIGNED_KEPT = 4 * ROTATION  # for one who sends but never catches up; what waits for her may still use the old one
ID_GAP = 1_000  # left after a roll-back, whose lost ids may be in a bundle that somebody still holds


def load(s: State) -> Own | None:
    data = s.get(records.key("own"))
    return records.decode_own(data) if data is not None else None


def new_device_id(taken: frozenset[int]) -> int:
    """A random id 1 .. 2**31 - 1 that the account does not list yet."""
    while True:
        device_id = 1 + random_index(MAX_ID)
        if device_id not in taken:
            return device_id


def create(s: State, device_id: int, seed: bytes, now: Time) -> Own:
    """Generate what a device needs around its identity seed: a signed prekey and PREKEYS one-time prekeys."""
    identity = sign.public_of(seed)
    own = Own(device_id, seed, identity, sign.private_to_curve(seed), 1, 0, now)
    own = _add_signed(s, own, now)
    return add_prekeys(s, own, PREKEYS)


def take_restored(s: State) -> bytes:
    """The identity out of a backup, once, for the device that is made now; empty if there is none."""
    data = s.get(records.key("restored"))
    s.put(records.key("restored"), None)
    return records.decode_seed(data) if data else b""


def add_prekeys(s: State, own: Own, count: int) -> Own:
    """Generate prekeys under ids that were never used. Returns, and stores, the device with its next id."""
    for number in range(own.next_prekey, own.next_prekey + count):
        s.put(records.of_number("prekey", number), records.encode_pair(*agree.generate()))
    own = own._replace(next_prekey=own.next_prekey + count)
    s.put(records.key("own"), records.encode_own(own))
    return own


def bundle(s: State, own: Own) -> Bundle:
    signed = signed_prekey(s, own.signed_prekey)
    if signed is None:
        raise LookupError("the current signed prekey is not in the store")
    prekeys = {int(k.name): records.decode_pair(data)[1] for k, data in s.scan(records.key("prekey"))}
    return Bundle(own.identity, own.signed_prekey, signed.public, signed.signature, prekeys)


def signed_prekey(s: State, number: int) -> SignedPrekey | None:
    data = s.get(records.of_number("signed", number))
    return records.decode_signed(data) if data is not None else None


def prekey(s: State, number: int) -> bytes | None:
    """The private half of an unused prekey, or of one used in this catch-up."""
    data = s.get(records.of_number("prekey", number)) or s.get(records.of_number("used", number))
    return records.decode_pair(data)[0] if data is not None else None


def use_prekey(s: State, own: Own, number: int) -> None:
    """A session was made with this prekey, in this transaction: it must never be used again.

    While catching up it stays readable until catch-up ends, since another sender may have picked it from the same
    bundle ("SHOULD postpone deletion of the private key ... until after the catch-up is completed").
    """
    name = records.of_number("prekey", number)
    data = s.get(name)
    if data is None:
        return
    s.put(name, None)
    if catching_up(s):
        s.put(records.of_number("used", number), data)
    add_prekeys(s, own, 1)


def catching_up(s: State) -> bool:
    return s.get(records.key("catch-up")) is not None


def begin_catch_up(s: State, now: Time) -> None:
    s.put(records.key("catch-up"), moments.encode_time(now))


def end_catch_up(s: State, now: Time) -> None:
    """All that was sealed while we were away has been read: used prekeys go, and retired signed ones that are due."""
    s.put(records.key("catch-up"), None)
    for name, _ in list(s.scan(records.key("used"))):
        s.put(name, None)
    _drop_signed(s, now, ROTATION)


def rotate(s: State, own: Own, now: Time) -> bool:
    """Replace the signed prekey when it is due, drop retired ones that are overdue. True if the bundle changed."""
    current = signed_prekey(s, own.signed_prekey)
    due = current is None or now - current.created >= ROTATION
    if due:
        if current is not None:
            s.put(records.of_number("signed", own.signed_prekey), records.encode_signed(current._replace(retired=now)))
        _add_signed(s, own, now)
    if not catching_up(s):
        _drop_signed(s, now, SIGNED_KEPT)
    return due


def _drop_signed(s: State, now: Time, age: float) -> None:
    for name, data in list(s.scan(records.key("signed"))):
        retired = records.decode_signed(data).retired
        if retired and now - retired >= age:
            s.put(name, None)


def renew_prekeys(s: State, own: Own) -> None:
    """After a roll-back: which prekeys were used is not known any more, so all are replaced, under higher ids."""
    for name, _ in list(s.scan(records.key("prekey"))):
        s.put(name, None)
    add_prekeys(s, own._replace(next_prekey=own.next_prekey + ID_GAP), PREKEYS)


def _add_signed(s: State, own: Own, now: Time) -> Own:
    private, public = agree.generate()
    own = own._replace(signed_prekey=own.signed_prekey + 1)
    signed = SignedPrekey(private, public, sign.sign(own.seed, public), now, 0.0)
    s.put(records.of_number("signed", own.signed_prekey), records.encode_signed(signed))
    s.put(records.key("own"), records.encode_own(own))
    return own
