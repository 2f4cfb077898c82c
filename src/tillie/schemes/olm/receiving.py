"""What an arrived Olm message opens with (Matrix specification 1.19, "m.olm.v1.curve25519-aes-sha2").

"If the message is a pre-key message, first look for a session that it matches; if none, a new one is made." A pre-key
message that matches a session and does not open with it is altered or old, and never begins a second one. Here nothing
is stored: whoever has checked what was inside calls `keep`.
"""

from __future__ import annotations

from typing import NamedTuple

from tillie.errors import NoSession, Undecryptable
from tillie.model import State, Time
from tillie.schemes.olm import keys, sessions
from tillie.schemes.olm.content import PRE_KEY, Message, one_time_key_of
from tillie.schemes.olm.records import Half, Own, Session
from tillie.schemes.olm.sessions import Peer


class Received(NamedTuple):
    """A message that opened: the session as it is now, what was inside, and our key that began it, if it is new."""

    session: Session
    plaintext: bytes
    half: Half | None = None

    def __repr__(self) -> str:
        return f"Received({self.session}, new={self.half is not None})"


class Replayed(Exception):
    """A session that began with a fallback key, and was dropped since, would begin again."""


def receive(s: State, own: Own, peer: Peer, message: Message, now: Time) -> Received:
    """Open one message, writing nothing. Raises `Malformed`, `Undecryptable`, `NoSession`, `Replayed`."""
    if message.type != PRE_KEY:
        return _with_any(s, own, peer, message, now)
    session_id = sessions.id_of(message)
    for session in sessions.every(s, peer):
        if session.id == session_id:
            return Received(*sessions.decrypt(own, session, message, now))
    half = keys.find(s, one_time_key_of(message.body))
    if half is None:
        raise Undecryptable("it begins with a key that is not ours any more")
    if half.fallback and keys.has_begun(s, half, session_id):
        raise Replayed
    return Received(*sessions.answer(own, half, peer, message, b"", now), half)


def _with_any(s: State, own: Own, peer: Peer, message: Message, now: Time) -> Received:
    failure: Undecryptable | None = None
    for session in sessions.every(s, peer):
        try:
            return Received(*sessions.decrypt(own, session, message, now))
        except Undecryptable as error:
            failure = error
    raise failure or NoSession("there is no session with this device")


def keep(s: State, peer: Peer, received: Received, ed25519: bytes) -> None:
    """What was inside is right: keep the session, which sends from now on, and use up the key that began it.

    Raises `Undecryptable` where a fallback key began too many.
    """
    if received.half is not None:
        keys.use(s, received.half, received.session.id)
    session = received.session
    sessions.adopt(s, peer, session if session.key else session._replace(key=ed25519))
