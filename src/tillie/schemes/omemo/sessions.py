"""Sessions in the store: the one that sends, those that were replaced, and the keys of messages that have not come.

Everything here authenticates first and writes afterwards; an error leaves the store as it was.
"""

from __future__ import annotations

from typing import NamedTuple

from tillie.crypto import agree
from tillie.errors import Undecryptable
from tillie.model import Address, Key, State, Time
from tillie.schemes.omemo import messages, ratchet, records, x3dh
from tillie.schemes.omemo.messages import RatchetMessage
from tillie.schemes.omemo.ratchet import HEARTBEAT_AT, MAX_SKIP, SkippedKey
from tillie.schemes.omemo.records import Own, Prospect, Session
from tillie.schemes.omemo.version import Version

MAX_OLD = 4  # replaced sessions kept for receiving, per device
MAX_TURNS = 64  # a skipped key is given up when the peer has changed its ratchet key this often since


class Got(NamedTuple):
    """A message that opened: its secret, the session as it is now, and whether a heartbeat is due."""

    secret: bytes
    session: Session
    heartbeat: bool

    def __repr__(self) -> str:
        return f"Got(session={self.session}, heartbeat={self.heartbeat})"


def load(s: State, address: Address, device_id: int) -> Session | None:
    data = s.get(records.of_device("session", address, device_id))
    return records.decode_session(data) if data is not None else None


def save(s: State, address: Address, device_id: int, session: Session) -> None:
    s.put(records.of_device("session", address, device_id), records.encode_session(session))


def load_old(s: State, address: Address, device_id: int) -> list[Session]:
    """The replaced sessions, newest first."""
    found = [records.decode_session(data) for _, data in s.scan(_prefix("old", address, device_id))]
    return sorted(found, key=lambda session: session.created, reverse=True)


def save_old(s: State, address: Address, device_id: int, session: Session) -> None:
    s.put(records.of_session("old", address, device_id, session.ephemeral), records.encode_session(session))
    for surplus in load_old(s, address, device_id)[MAX_OLD:]:
        _forget_old(s, address, device_id, surplus)


def retire(s: State, address: Address, device_id: int) -> None:
    """Stop sending with the current session; it stays for receiving."""
    current = load(s, address, device_id)
    if current is not None:
        s.put(records.of_device("session", address, device_id), None)
        save_old(s, address, device_id, current)


def stop_sending(s: State) -> None:
    """After a roll-back: no session, replaced ones included, goes on with its sending chain, whose next message keys
    may be used up. Should one ever send again, it begins with a fresh ratchet key."""
    for name, data in list(s.scan(records.key("old"))):
        session = records.decode_session(data)
        silent = session.ratchet._replace(ours=session.ratchet.ours._replace(key=b""))
        s.put(name, records.encode_session(session._replace(ratchet=silent)))


def find_old(s: State, address: Address, device_id: int, ephemeral: bytes) -> Session | None:
    """The replaced session with this ephemeral key."""
    data = s.get(records.of_session("old", address, device_id, ephemeral))
    return records.decode_session(data) if data is not None else None


def replace(s: State, address: Address, device_id: int, session: Session) -> None:
    """Send with `session` from now on; the one so far stays for receiving."""
    s.put(records.of_session("old", address, device_id, session.ephemeral), None)
    retire(s, address, device_id)
    save(s, address, device_id, session)


def begin(s: State, address: Address, device_id: int, session: Session) -> None:
    """Send with a new session, which was not begun by chance: no earlier crossing brings an old one back."""
    replace(s, address, device_id, session)
    for old in load_old(s, address, device_id):
        if old.crossed:
            save_old(s, address, device_id, old._replace(crossed=False))


# -- beginnings -----------------------------------------------------------------------------------------------------


def initiate(version: Version, own: Own, prospect: Prospect, now: Time) -> Session:
    """Our side of X3DH with a checked bundle."""
    ephemeral_private, ephemeral = agree.generate()
    secret = x3dh.initiate(
        version, own.curve_private, ephemeral_private, prospect.identity, prospect.signed_prekey, prospect.prekey
    )
    state = ratchet.begin(version, secret, prospect.signed_prekey)
    return Session(prospect.identity, ephemeral, True, False, prospect.prekey_id, prospect.signed_prekey_id, state, now)


# -- messages -------------------------------------------------------------------------------------------------------


def encrypt(version: Version, own: Own, session: Session, secret: bytes) -> tuple[Session, bool, bytes]:
    """(next session, kex, bytes for <key>). While unconfirmed, every message repeats the key exchange."""
    state, mac, signed = ratchet.encrypt(version, session.ratchet, _ad(own, session), secret)
    session = session._replace(ratchet=state)
    if session.confirmed:
        return session, False, messages.encode(mac, signed)
    return (
        session,
        True,
        messages.encode_key_exchange(
            session.prekey_id, session.signed_prekey_id, own.identity, session.ephemeral, mac, signed
        ),
    )


def decrypt(
    version: Version, s: State, own: Own, address: Address, device_id: int, session: Session, message: RatchetMessage
) -> Got:
    """Open a message with this session and keep its skipped keys. The caller saves the session that comes back."""
    if session.skipped:
        name = _skipped_key(address, device_id, session, message.ratchet_key, message.n)
        stored = s.get(name)
        if stored is not None:
            secret = ratchet.open_with(version, records.decode_skipped(stored)[0], _ad(own, session), message)
            s.put(name, None)
            return Got(secret, session._replace(skipped=session.skipped - 1, confirmed=True), False)
    before = session.ratchet
    state, secret, skipped = ratchet.decrypt(version, before, _ad(own, session), message)
    turned = state.theirs.public != before.theirs.public
    session = session._replace(ratchet=state, confirmed=True, turns=session.turns + turned)
    if skipped:
        session = _keep_skipped(s, address, device_id, session, skipped)
    elif turned and session.skipped:
        session = _drop_stale(s, address, device_id, session)
    # "the first message for a given ratchet key with a counter of 53 or higher"
    heartbeat = message.n >= HEARTBEAT_AT and (turned or before.theirs.n <= HEARTBEAT_AT)
    return Got(secret, session, heartbeat)


def decrypt_with_any(
    version: Version, s: State, own: Own, address: Address, device_id: int, message: RatchetMessage
) -> tuple[Got, bool] | None:
    """(what opened, whether with a replaced session), saved. None where there is no session at all."""
    current = load(s, address, device_id)
    failure: Undecryptable | None = None
    if current is not None:
        try:
            got = decrypt(version, s, own, address, device_id, current, message)
            save(s, address, device_id, got.session)
            return got, False
        except Undecryptable as error:
            failure = error
    for old in load_old(s, address, device_id):
        try:
            got = decrypt(version, s, own, address, device_id, old, message)
        except Undecryptable as error:
            failure = failure or error
            continue
        save_old(s, address, device_id, got.session)
        return got, True
    if failure is not None:
        raise failure
    return None


def _ad(own: Own, session: Session) -> bytes:
    """AD = Encode(IK_A) || Encode(IK_B), Alice being the one who initiated."""
    return own.identity + session.identity if session.initiated else session.identity + own.identity


# -- skipped keys ---------------------------------------------------------------------------------------------------


def _keep_skipped(s: State, address: Address, device_id: int, session: Session, skipped: list[SkippedKey]) -> Session:
    skipped = skipped[-MAX_SKIP:]
    surplus = session.skipped + len(skipped) - MAX_SKIP
    if surplus > 0:  # "keys for that session are discarded on a FIFO basis"
        session = _drop_skipped(s, address, device_id, session, surplus)
    number = session.next_skipped
    for number, key in enumerate(skipped, session.next_skipped):
        name = _skipped_key(address, device_id, session, key.public, key.n)
        s.put(name, records.encode_skipped(key.key, number, session.turns))
    return session._replace(skipped=session.skipped + len(skipped), next_skipped=number + 1)


def _drop_skipped(s: State, address: Address, device_id: int, session: Session, count: int) -> Session:
    rows = sorted((records.decode_skipped(data)[1], name) for name, data in _skipped(s, address, device_id, session))
    for _, name in rows[:count]:
        s.put(name, None)
    return session._replace(skipped=len(rows) - min(count, len(rows)))


def _drop_stale(s: State, address: Address, device_id: int, session: Session) -> Session:
    rows = _skipped(s, address, device_id, session)
    stale = [name for name, data in rows if session.turns - records.decode_skipped(data)[2] > MAX_TURNS]
    for name in stale:
        s.put(name, None)
    return session._replace(skipped=len(rows) - len(stale))


def _forget_old(s: State, address: Address, device_id: int, session: Session) -> None:
    for name, _ in _skipped(s, address, device_id, session):
        s.put(name, None)
    s.put(records.of_session("old", address, device_id, session.ephemeral), None)


def _skipped(s: State, address: Address, device_id: int, session: Session) -> list[tuple[Key, bytes]]:
    return list(s.scan(records.of_session("skipped", address, device_id, session.ephemeral, "/")))


def _skipped_key(address: Address, device_id: int, session: Session, public: bytes, n: int) -> Key:
    return records.of_session("skipped", address, device_id, session.ephemeral, f"/{public.hex()}/{n}")


def _prefix(kind: str, address: Address, device_id: int) -> Key:
    return records.key(kind, f"{address}/{device_id}/")
