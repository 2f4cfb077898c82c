"""Whether an event that opened is from whom it says, and for us (Matrix specification 1.19, "Validation of incoming
decrypted events", "Verification of the sending user for incoming events"), and where it belongs.

Nothing is stored here. A device that is not known, and a list that does not fit, are asked for once before anything is
refused.
"""

from __future__ import annotations

from typing import NamedTuple

from tillie.directory import matrix
from tillie.directory.matrix import DeviceKeys, Profile
from tillie.errors import NoSession, Refused
from tillie.model import Address, Device, Fetch, Need, State, Time
from tillie.schemes.olm import binding, contacts, payload
from tillie.schemes.olm.binding import Match
from tillie.schemes.olm.payload import Payload
from tillie.schemes.olm.records import DeviceList, KnownDevice, Own
from tillie.schemes.olm.sessions import Peer


class Sender(NamedTuple):
    """The device that sealed an event, proved; `binds`: its signed keys say that it sends room_id and fingerprint."""

    device: Device
    binds: bool
    notes: tuple[str, ...] = ()


class Checked(NamedTuple):
    """An event that is from `device` and for us, written to `recipients`."""

    device: Device
    recipients: tuple[Address, ...]
    notes: tuple[str, ...]


def check(
    s: State, own: Own, account: Address, profile: Profile, peer: Peer, bound: bytes, said: Payload, now: Time
) -> Checked | Need:
    """All checks of an opened event. `bound` is the Ed25519 key that its session was made with, empty for a new one.
    Raises a PeerError: the event must be discarded."""
    payload.check(said, peer.user, own, account, strict=profile.signed)
    recipients = payload.recipients_of(said, account)
    if account not in recipients and peer.user != account:
        raise Refused("it was written to somebody else")
    known = contacts.load(s, peer.user)
    sender = _sender(s, peer, known, bound, said, profile, now)
    if isinstance(sender, Need):
        return sender
    if sender.binds and not profile.signed:
        payload.check(said, peer.user, own, account, strict=True)
    if (sender.binds or profile.servers_sign) and None in (said.room_id, said.fingerprint):
        raise Refused("it does not say to which conversation and devices it belongs")
    place = _place(s, own, peer, known, recipients, said, now)
    if isinstance(place, Need):
        return place
    return Checked(sender.device, recipients, sender.notes + place)


def _sender(
    s: State, peer: Peer, known: DeviceList | None, bound: bytes, said: Payload, profile: Profile, now: Time
) -> Sender | Need:
    """Whose the Curve25519 key is that sealed the event, by signed device keys (checks 2, 5 and 6)."""
    listed = known.by_curve(peer.curve25519) if known is not None else None
    if listed is None and not bound and not contacts.is_just_read(s, peer.user, known, now):
        return Need((Fetch(peer.user, matrix.KEYS_QUERY),))
    word = _own_word(said, peer, profile)
    claimed = payload.sender_key(said)
    gone = _gone(known, peer) if listed is None else None
    shown: KnownDevice | DeviceKeys | None = listed or word or gone
    key = shown.ed25519 if shown is not None else bound
    if not key:
        raise NoSession("its sender has no such device")
    if claimed not in (None, key) or (word is not None and word.ed25519 != key) or bound not in (b"", key):
        raise Refused("it was sealed with another key than its device's")
    if listed is not None:
        return Sender(matrix.device_of(peer.user, listed.id, key), listed.binds)
    device_id = word.device if word is not None else gone.id if gone is not None else ""
    if known is not None and known.by_id(device_id) is not None:
        raise Refused("its user's list shows other keys for this device")
    binds = word.binds if word is not None else gone is not None and gone.binds
    note = "The device that sent this is not on its user's list."
    return Sender(matrix.device_of(peer.user, device_id, key), binds, (note,))


def _gone(known: DeviceList | None, peer: Peer) -> KnownDevice | None:
    return next((each for each in known.gone if each.curve25519 == peer.curve25519), None) if known else None


def _own_word(said: Payload, peer: Peer, profile: Profile) -> DeviceKeys | None:
    """The sender's own device keys, if it sent them, checked against the key that sealed the event."""
    if not said.sender_device_keys:
        return None
    word = payload.device_keys(bytes(said.sender_device_keys), peer.user, profile)
    if word.curve25519 != peer.curve25519:
        raise Refused("its sender's device keys are those of another device")
    return word


def _place(
    s: State,
    own: Own,
    peer: Peer,
    senders: DeviceList | None,
    recipients: tuple[Address, ...],
    said: Payload,
    now: Time,
) -> tuple[str, ...] | Need:
    """That the event belongs to this conversation and these devices; what a person should know of it."""
    if said.room_id not in (None, payload.room_of((peer.user, *recipients))):
        raise Refused("it belongs to another conversation")
    if said.fingerprint is None:
        return ()
    users = [user for user in recipients if user != peer.user]
    known = [*[contacts.load(s, user) for user in users], senders]
    lists = tuple([each or DeviceList(0.0) for each in known])
    match = binding.match(said.fingerprint, lists, (peer.curve25519, own.curve25519), now)
    if match is Match.NOW:
        return ()
    if match is Match.BEFORE:
        return ("It was sealed for an earlier list of devices.",)
    if match is Match.WITHOUT:
        return ("Its sender did not know of a device on their own list, which is new, or hidden from them.",)
    looked_up = tuple(zip((*users, peer.user), known, strict=True))
    old = (user for user, each in looked_up if not contacts.is_just_read(s, user, each, now))
    asks = tuple(Fetch(user, matrix.KEYS_QUERY) for user in old)
    if asks:
        return Need(asks)
    for user, each in looked_up:
        if each is not None and each.error:
            raise Refused(f"which devices take part can't be checked: the list of {user} can't be had ({each.error})")
    raise Refused("its sender sees other devices in this conversation than we do")
