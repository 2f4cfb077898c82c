"""Sessions with other devices: in the store, and in vodozemac.

"A client should send with the session that it last received and decrypted a message with"; one that never received
counts from its beginning. So two devices that each begin one at once end on one of the two as soon as one answers.
vodozemac works on an object that is loaded for one step; it is saved only after everything in that step was right.

Loading decrypts and parses what is stored, which takes as long as opening several messages. So the object that was
saved last is kept beside its pickle, and serves for exactly that pickle again, once: whatever becomes of the step, what
is in the store decides.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import vodozemac
from vodozemac import AnyOlmMessage

from tillie.errors import BadKey, StoreDamaged, Undecryptable
from tillie.model import Address, Key, State, Time
from tillie.schemes.olm import pickled, records
from tillie.schemes.olm.content import Message
from tillie.schemes.olm.records import Half, Own, Session
from tillie.wire import base64

MAX_OLD = 4  # sessions with one device that are kept for receiving, beside the one that sends
MAX_LIVE = 256  # objects that are kept; some 10 kB each
_ID = 32


class Peer(NamedTuple):
    """The other end: a user, and a device's Curve25519 key."""

    user: Address
    curve25519: bytes


# -- in the store ---------------------------------------------------------------------------------------------------


def current(s: State, peer: Peer) -> Session | None:
    data = s.get(records.of_device("session", *peer))
    return records.decode_session(data) if data is not None else None


def old(s: State, peer: Peer) -> list[Session]:
    """The others, newest first."""
    found = [records.decode_session(data) for _, data in s.scan(records.of_device("old", *peer, "/"))]
    return sorted(found, key=lambda session: session.at, reverse=True)


def every(s: State, peer: Peer) -> Iterator[Session]:
    """All sessions with a device, the one that sends first; the others are read only if that one does not do."""
    newest = current(s, peer)
    if newest is not None:
        yield newest
    yield from old(s, peer)


def save(s: State, peer: Peer, session: Session) -> None:
    s.put(records.of_device("session", *peer), records.encode_session(session))


def adopt(s: State, peer: Peer, session: Session) -> None:
    """Send with this session from now on, if it may send at all; the one so far stays for receiving."""
    if session.silent:
        _save_old(s, peer, session)
        return
    place = records.of_device("session", *peer)
    data = s.get(place)
    if data is None or records.id_in(data) != session.id:
        s.put(_old_key(peer, session), None)
        if data is not None:
            _save_old(s, peer, records.decode_session(data))
    s.put(place, records.encode_session(session))


def retire(s: State, peer: Peer, *, silent: bool = False) -> bool:
    """Stop sending with the current session. `silent`: for ever, since its next message keys may be used up."""
    before = current(s, peer)
    if before is None:
        return False
    s.put(records.of_device("session", *peer), None)
    _save_old(s, peer, before._replace(silent=before.silent or silent))
    return True


def silence_all(s: State) -> None:
    """After a roll-back no session sends any more."""
    for name, _ in list(s.scan(records.key("session"))):
        retire(s, Peer(*records.device_in(name)))
    for name, data in list(s.scan(records.key("old"))):
        s.put(name, records.encode_session(records.decode_session(data)._replace(silent=True)))


def _save_old(s: State, peer: Peer, session: Session) -> None:
    s.put(_old_key(peer, session), records.encode_session(session))
    for surplus in old(s, peer)[MAX_OLD:]:
        s.put(_old_key(peer, surplus), None)


def _old_key(peer: Peer, session: Session) -> Key:
    return records.of_device("old", *peer, f"/{session.id.hex()}")


# -- beginnings -----------------------------------------------------------------------------------------------------


def initiate(own: Own, ed25519: bytes, curve25519: bytes, one_time: bytes, now: Time) -> Session:
    """Our side of a new session with a claimed key. Raises `BadKey`."""
    # An account without keys of its own: only its identity takes part in what we begin.
    ours = pickled.account(own)
    try:
        theirs = vodozemac.Curve25519PublicKey.from_bytes(curve25519)
        made = ours.create_outbound_session(theirs, vodozemac.Curve25519PublicKey.from_bytes(one_time))
    except (vodozemac.SessionCreationException, vodozemac.KeyException):
        raise BadKey("no session can begin with this key") from None  # vodozemac's texts show the key
    session_id = _id(made.session_id)
    return Session(ed25519, session_id, now, False, False, _pickled(own, session_id, made))


def answer(own: Own, half: Half, peer: Peer, message: Message, ed25519: bytes, now: Time) -> tuple[Session, bytes]:
    """The other side: a session that begins with a pre-key message for one of our keys, and what it says. Nothing is
    stored. Raises `Undecryptable`."""
    try:
        parsed = AnyOlmMessage.from_parts(message.type, message.body).to_pre_key()
        if parsed is None:
            raise Undecryptable("it begins no session")
        theirs = vodozemac.Curve25519PublicKey.from_bytes(peer.curve25519)
        made, plaintext = pickled.account(own, half).create_inbound_session(theirs, parsed)
    except (vodozemac.SessionCreationException, vodozemac.DecodeException, vodozemac.KeyException):
        raise Undecryptable("no session begins with it") from None
    session_id = _id(made.session_id)
    return Session(ed25519, session_id, now, True, False, _pickled(own, session_id, made)), plaintext


def id_of(message: Message) -> bytes:
    """The id of the session that a pre-key message belongs to, 32 bytes. Raises `Undecryptable`."""
    try:
        parsed = AnyOlmMessage.from_parts(message.type, message.body).to_pre_key()
    except vodozemac.DecodeException:
        raise Undecryptable("it is not an Olm message") from None
    if parsed is None:
        raise Undecryptable("it is not an Olm message")
    return _id(parsed.session_id())


# -- messages -------------------------------------------------------------------------------------------------------


def encrypt(own: Own, session: Session, plaintext: bytes) -> tuple[Session, int, bytes]:
    """(next session, type, body). A session is `confirmed` once it has received: until then each message begins it."""
    olm = _load(own, session)
    type, body = olm.encrypt(plaintext).to_parts()
    pickle = _pickled(own, session.id, olm)
    return Session(session.key, session.id, session.at, session.confirmed, session.silent, pickle), type, body


def decrypt(own: Own, session: Session, message: Message, now: Time) -> tuple[Session, bytes]:
    """(next session, plaintext). Nothing is stored. Raises `Undecryptable`."""
    olm = _load(own, session)
    try:
        plaintext = olm.decrypt(AnyOlmMessage.from_parts(message.type, message.body))
    except (vodozemac.OlmDecryptionException, vodozemac.DecodeException):
        raise Undecryptable("it was altered, or opened before, or too many before it are missing") from None
    pickle = _pickled(own, session.id, olm)
    return Session(session.key, session.id, now, True, session.silent, pickle), plaintext


_live: OrderedDict[tuple[bytes, bytes], tuple[str, vodozemac.Session]] = OrderedDict()


def _load(own: Own, session: Session) -> vodozemac.Session:
    live = _live.pop((own.pickle_key, session.id), None)
    if live is not None and live[0] == session.pickle:
        return live[1]
    try:
        return vodozemac.Session.from_pickle(session.pickle, own.pickle_key)
    except vodozemac.PickleException:
        raise StoreDamaged("a session can't be read.") from None


def _pickled(own: Own, session_id: bytes, olm: vodozemac.Session) -> str:
    pickle = olm.pickle(own.pickle_key)
    _live[own.pickle_key, session_id] = pickle, olm
    if len(_live) > MAX_LIVE:
        _live.popitem(last=False)
    return pickle


def _id(text: str) -> bytes:
    return base64.decode_unpadded(text, size=_ID)
