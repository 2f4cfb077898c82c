"""What an arrived <key> does (XEP-0384 section "Receiving a message" and "Business Rules").

Crossed first messages. Two devices that write to each other for the first time at once each initiate a session.
XEP-0384 says that a key exchange replaces the session there is; if both sides obeyed, each would drop the session that
the other keeps. Here nothing is dropped: both sessions stay for receiving, marked as crossed. While our own session is
unconfirmed it stays the one that sends, because a peer that obeys the letter has replaced its own by it. Two ends that
both keep everything must still end on one: whoever sends on the session with the smaller ephemeral key changes over as
soon as the peer is seen to know of both. Whoever sends on the other one stays, and changes over only to a peer that
still uses the smaller one CROSSING seconds later, as one that obeys the letter does.
"""

from __future__ import annotations

from typing import NamedTuple

from tillie.errors import BadKey, Undecryptable
from tillie.model import Address, State, Time
from tillie.schemes.omemo import contacts, messages, own, payload, ratchet, sessions, x3dh
from tillie.schemes.omemo.messages import KeyExchange
from tillie.schemes.omemo.records import Own, Session
from tillie.schemes.omemo.sessions import Got
from tillie.schemes.omemo.version import Version

CROSSING = 60.0  # seconds


class Received(NamedTuple):
    """What one <key> turned out to be: the sender's identity key, the secret, and what must follow.

    `answer` asks for an empty message on the session that sends; `used_prekey` says that the bundle changed.
    """

    identity: bytes
    secret: bytes
    answer: bool = False
    used_prekey: bool = False

    def __repr__(self) -> str:
        return f"Received(answer={self.answer}, used_prekey={self.used_prekey})"


def receive(
    version: Version, s: State, device: Own, address: Address, sid: int, kex: bool, data: bytes, now: Time
) -> Received | None:
    """Open one <key>. None: there is no session. Raises Malformed, BadKey, Undecryptable, and then wrote nothing."""
    if not kex:
        opened = sessions.decrypt_with_any(version, s, device, address, sid, messages.decode(data))
        if opened is None:
            return None
        got, replaced = opened
        received = Received(got.session.identity, got.secret, got.heartbeat)
        if replaced:
            _settle_crossing(s, address, sid, got, now, sure=True)
        return received
    exchange = messages.decode_key_exchange(data)
    contacts.refuse_own_identity(device, exchange.identity)
    known = _known_exchange(version, s, device, address, sid, exchange, now)
    return known or _new_exchange(version, s, device, address, sid, exchange, now)


def _known_exchange(
    version: Version, s: State, device: Own, address: Address, sid: int, exchange: KeyExchange, now: Time
) -> Received | None:
    """ "same ek": the key exchange that made a session we have, repeated until our answer arrives."""
    current = sessions.load(s, address, sid)
    for session in (*([current] if current else ()), *sessions.load_old(s, address, sid)):
        if session.ephemeral != exchange.ephemeral:
            continue
        if session.identity != exchange.identity or session.initiated:
            raise BadKey("a key exchange repeats a known one under another identity key")
        got = sessions.decrypt(version, s, device, address, sid, session, exchange.message)
        if session is current:
            sessions.save(s, address, sid, got.session)
        else:
            sessions.save_old(s, address, sid, got.session)
            _settle_crossing(s, address, sid, got, now, sure=False)
        return Received(session.identity, got.secret, got.heartbeat)
    return None


def _new_exchange(
    version: Version, s: State, device: Own, address: Address, sid: int, exchange: KeyExchange, now: Time
) -> Received:
    signed = own.signed_prekey(s, exchange.signed_prekey_id)
    once = own.prekey(s, exchange.prekey_id)
    if signed is None or once is None:
        raise Undecryptable("a key exchange uses a prekey that is not ours any more")
    secret = x3dh.accept(version, device.curve_private, signed.private, once, exchange.identity, exchange.ephemeral)
    fresh = Session(
        exchange.identity, exchange.ephemeral, False, True, exchange.prekey_id, exchange.signed_prekey_id,
        ratchet.answer(secret, signed.private, signed.public), now,
    )  # fmt: skip
    got = sessions.decrypt(version, s, device, address, sid, fresh, exchange.message)
    # Only now, after a decryption that worked, is the prekey used up: a forged exchange must not drain it.
    own.use_prekey(s, device, exchange.prekey_id)
    current = sessions.load(s, address, sid)
    if current is not None and _crosses(current, got.session):
        sessions.save(s, address, sid, current._replace(crossed=True))
        sessions.save_old(s, address, sid, got.session._replace(crossed=True))
        _settle_crossing(s, address, sid, got, now, sure=False)
    else:
        sessions.begin(s, address, sid, got.session)
    contacts.clear_broken(s, address, sid)
    return Received(exchange.identity, got.secret, answer=True, used_prekey=True)


def _crosses(current: Session, fresh: Session) -> bool:
    return current.initiated and not current.confirmed and current.identity == fresh.identity


def _settle_crossing(s: State, address: Address, sid: int, got: Got, now: Time, *, sure: bool) -> None:
    """A message opened with a session that does not send. If it crossed with the one that does, decide which stays.

    `sure`: the peer does not repeat the key exchange, so it has heard us on that session.
    """
    current = sessions.load(s, address, sid)
    old = sessions.find_old(s, address, sid, got.session.ephemeral)
    if current is None or old is None or not (current.crossed and old.crossed):
        return
    # On a session of the peer's, an empty message answers our key exchange: the peer has heard of both.
    knows = sure or got.secret == payload.EMPTY_SECRET or not (current.initiated and not current.confirmed)
    waited = now - max(current.created, old.created) >= CROSSING
    if waited or (knows and old.ephemeral > current.ephemeral):
        sessions.replace(s, address, sid, old._replace(created=now))
