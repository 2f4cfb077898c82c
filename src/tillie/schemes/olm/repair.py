"""New sessions in place of broken ones (Matrix specification 1.19, "Recovering from undecryptable messages").

"The client should establish a new session with the sender of the message and send m.dummy. ... should not create a new
session with another device if it has already created one for that device in the past 1 hour." The hour is counted from
the last attempt, whatever came of it, and it survives a restart.
"""

from __future__ import annotations

from tillie.model import State, Time
from tillie.schemes import moments
from tillie.schemes.olm import contacts, records
from tillie.schemes.olm.sessions import Peer

INTERVAL = 3_600.0  # seconds
MAX_WAITING = 64  # devices


def want(s: State, peer: Peer, now: Time) -> bool:
    """Something of a device could not be opened: replace its session. False if that is not to be done: for junk under
    the keys of nobody we know, or if it was tried less than an hour ago."""
    known = contacts.load(s, peer.user)
    device = known.by_curve(peer.curve25519) if known is not None else None
    if device is None or not device.able:
        return False
    tried = s.get(records.of_device("repaired", *peer))
    if tried is not None and 0 <= now - moments.decode_time(tried) < INTERVAL:
        return False
    name = records.of_device("repair", *peer)
    if s.get(name) is None and sum(1 for _ in s.scan(records.key("repair"))) >= MAX_WAITING:
        return False
    s.put(name, moments.encode_time(now))
    return True


def waiting(s: State) -> list[Peer]:
    return [Peer(*records.device_in(name)) for name, _ in s.scan(records.key("repair"))]


def tried(s: State, peer: Peer, now: Time) -> None:
    s.put(records.of_device("repair", *peer), None)
    s.put(records.of_device("repaired", *peer), moments.encode_time(now))


def forget(s: State, now: Time) -> None:
    """Times of attempts that bound nothing any more."""
    for name, data in list(s.scan(records.key("repaired"))):
        if not 0 <= now - moments.decode_time(data) < INTERVAL:
            s.put(name, None)
