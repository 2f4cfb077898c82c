"""The life of our one-time and fallback keys (Matrix specification 1.19, "One-time and fallback keys").

A key is made under an id that was never used, in a transaction that ends before the upload begins; what is uploaded is
read from the store, so that an upload that is repeated after a crash has the same keys under the same ids. A one-time
key is gone with the transaction that saves the session it began. A fallback key is replaced once it was used, and after
a week; the old one is kept for an hour, and replays of the sessions that it began are remembered as long as it is.
"""

from __future__ import annotations

import msgspec

from tillie.crypto import agree
from tillie.directory import matrix
from tillie.directory.matrix import Profile
from tillie.errors import Undecryptable
from tillie.model import Address, State, Time
from tillie.schemes import moments
from tillie.schemes.olm import own as own_device
from tillie.schemes.olm import records
from tillie.schemes.olm.records import Half, Own, Upload
from tillie.wire import base64
from tillie.wire.canonical import Object

GOAL = 50  # one-time keys that the home should have
TOP_UP_BELOW = GOAL // 2
MAX_KEPT = 1_000  # private halves: a home that loses keys, or hands them out for nothing, must not fill the store
TOP_UPS = 20  # in TOP_UP_WINDOW seconds: no home can make us publish for ever by counting wrong
TOP_UP_WINDOW = 600.0
FALLBACK_AGE = 7 * 86_400.0
GRACE = 3_600.0  # "such as after an hour since the first message"
MAX_CATCH_UP = 7 * 86_400.0  # a retired key does not wait longer than that for a catch-up that never ends
MAX_BEGUN = 1_024  # sessions that begin with one fallback key
ID_GAP = 1_000_000  # left after a roll-back, whose lost ids the home may still know


# -- making and publishing ------------------------------------------------------------------------------------------


def generate(s: State, own: Own, count: int, now: Time, *, fallback: bool = False) -> Own:
    """Make keys under ids that were never used. Returns, and stores, the device with its next id."""
    for number in range(own.next_key, own.next_key + count):
        private, public = agree.generate()
        half = Half(number, private, public, now, fallback)
        s.put(records.key("fallback" if fallback else "fresh", public.hex()), records.encode_half(half))
    own = msgspec.structs.replace(own, next_key=own.next_key + count)
    own_device.save(s, own)
    return own


def key_id(number: int) -> str:
    """The id of a key: 8 bytes in unpadded Base64, as other clients write it."""
    return base64.encode_unpadded(number.to_bytes(8))


def top_up(s: State, own: Own, count: int, now: Time) -> bool:
    """The home has `count` one-time keys: make more if that is too few. True if there is something to publish."""
    waiting = len(fresh(s))
    if count + waiting >= TOP_UP_BELOW:
        return False
    place = records.key("top-ups")
    recent = tuple(at for at in moments.decode_times(s.get(place)) if 0 <= now - at < TOP_UP_WINDOW)
    if len(recent) >= TOP_UPS:
        return False
    s.put(place, moments.encode_times((*recent, now)))
    generate(s, own, GOAL - max(0, count) - waiting, now)
    return True


def upload(s: State, own: Own, user: Address, profile: Profile) -> Object:
    """The body of keys/upload: what the home may not have yet. Empty if it has all."""
    body: Object = {}
    announced = own_device.announced(s)
    if announced:
        body["device_keys"] = own_device.device_keys(own, user, profile)
    waiting = fresh(s)
    if waiting:
        body["one_time_keys"] = _written(own, user, profile, waiting)
    current = current_fallback(s)
    if current is not None and (announced or not current.uploaded):
        body["fallback_keys"] = _written(own, user, profile, [current])
    s.put(records.key("uploading"), records.encode_upload(Upload(own.next_key, announced)))
    return body


def published(s: State) -> None:
    """The home has what `upload` made last; what was made since waits for the next upload."""
    data = s.get(records.key("uploading"))
    if data is None:
        return
    s.put(records.key("uploading"), None)
    done = records.decode_upload(data)
    for half in fresh(s):
        if half.number < done.below:
            s.put(records.key("fresh", half.public.hex()), None)
            s.put(records.key("one-time", half.public.hex()), records.encode_half(half))
    current = current_fallback(s)
    if current is not None and current.number < done.below:
        _save_fallback(s, msgspec.structs.replace(current, uploaded=True))
    if done.announced == own_device.announced(s):
        s.put(records.key("announcing"), None)


def _written(own: Own, user: Address, profile: Profile, halves: list[Half]) -> Object:
    return {
        f"{profile.one_time}:{key_id(half.number)}": matrix.write_one_time_key(
            profile, user, own.device, half.public, own.seed, fallback=half.fallback
        )
        for half in halves
    }


# -- using ----------------------------------------------------------------------------------------------------------


def find(s: State, public: bytes) -> Half | None:
    """Our key with this public half, if we still have it. One that was never acknowledged by the home may be out all
    the same: an answer can be lost."""
    name = public.hex()
    for kind in ("one-time", "fresh", "fallback"):
        data = s.get(records.key(kind, name))
        if data is not None:
            return records.decode_half(data)
    return None


def use(s: State, half: Half, session_id: bytes) -> None:
    """A session began with this key, in this transaction. Raises `Undecryptable` where a fallback key has begun as many
    as can be remembered."""
    name = half.public.hex()
    if not half.fallback:
        s.put(records.key("fresh", name), None)
        s.put(records.key("one-time", name), None)
        return
    begun = records.key("begun", f"{half.number:020d}/")
    if sum(1 for _ in s.scan(begun)) >= MAX_BEGUN:
        raise Undecryptable("too many sessions began with one fallback key")
    s.put(begun._replace(name=begun.name + session_id.hex()), bytes((records.VERSION,)))
    _save_fallback(s, msgspec.structs.replace(half, used=True))


def has_begun(s: State, half: Half, session_id: bytes) -> bool:
    """Whether this session began with this fallback key before: then its first message is a replay. The session itself
    may be gone."""
    return s.get(records.key("begun", f"{half.number:020d}/{session_id.hex()}")) is not None


# -- replacing and forgetting ---------------------------------------------------------------------------------------


def fresh(s: State) -> list[Half]:
    """One-time keys that the home may not have yet, oldest first."""
    return _sorted(s, "fresh")


def fallbacks(s: State) -> list[Half]:
    return _sorted(s, "fallback")


def current_fallback(s: State) -> Half | None:
    return next((half for half in fallbacks(s) if not half.retired), None)


def note_fallback_used(s: State) -> None:
    """The home has handed out the fallback key that it has."""
    current = current_fallback(s)
    if current is not None and current.uploaded:
        _save_fallback(s, msgspec.structs.replace(current, used=True))


def rotate_fallback(s: State, own: Own, now: Time) -> bool:
    """Replace the fallback key if it was used or is old, but not while the one before has its grace: "at most two" are
    kept. True if there is one to publish."""
    halves = fallbacks(s)
    current = next((half for half in halves if not half.retired), None)
    if current is not None and not current.used and 0 <= now - current.created < FALLBACK_AGE:
        return False
    if any(half.retired for half in halves):
        return False
    if current is not None:
        _save_fallback(s, msgspec.structs.replace(current, retired=now))
    generate(s, own, 1, now, fallback=True)
    return True


def forget(s: State, now: Time) -> None:
    """Drop retired fallback keys after their grace, and the oldest one-time keys beyond `MAX_KEPT`."""
    limit = MAX_CATCH_UP if own_device.catching_up(s) else GRACE
    for half in fallbacks(s):
        if half.retired and not 0 <= now - half.retired < limit:
            _forget_fallback(s, half)
    for half in _sorted(s, "one-time")[: -MAX_KEPT or None]:
        s.put(records.key("one-time", half.public.hex()), None)


def renew(s: State, own: Own, profile: Profile, now: Time) -> Own:
    """After a roll-back: which keys were used is not known any more, so all are replaced, under higher ids."""
    records.delete_all(s, "fresh", "one-time", "fallback", "begun", "uploading")
    own = generate(s, msgspec.structs.replace(own, next_key=own.next_key + ID_GAP), GOAL, now)
    return generate(s, own, 1, now, fallback=True) if profile.fallback else own


def _forget_fallback(s: State, half: Half) -> None:
    s.put(records.key("fallback", half.public.hex()), None)
    for name, _ in list(s.scan(records.key("begun", f"{half.number:020d}/"))):
        s.put(name, None)


def _save_fallback(s: State, half: Half) -> None:
    s.put(records.key("fallback", half.public.hex()), records.encode_half(half))


def _sorted(s: State, kind: str) -> list[Half]:
    halves = [records.decode_half(data) for _, data in s.scan(records.key(kind))]
    return sorted(halves, key=lambda half: half.number)
