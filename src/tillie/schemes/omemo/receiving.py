"""What an arrived <key> does (XEP-0384 section "Receiving a message" and "Business Rules").

Crossed first messages. Two devices that write to each other for the first time at once each initiate a session.
XEP-0384 says that a key exchange replaces the session there is; if both sides obeyed, each would drop the session that
the other keeps. Here nothing is dropped: a replaced session stays for receiving. While our own session is unconfirmed
it stays the one that sends, because a peer that obeys the letter has replaced its own by it. Two ends that both keep
everything must still end on one: the session with the larger ephemeral key wins, and the loser gives way when an empty
message on the winner's session answers its own key exchange, or when the peer still uses that session CROSSING seconds
later.
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
    if current is not None and current.initiated and not current.confirmed and not _gives_way(current, got):
        sessions.save_old(s, address, sid, got.session)
    else:
        sessions.replace(s, address, sid, got.session)
    contacts.clear_broken(s, address, sid)
    return Received(exchange.identity, got.secret, answer=True, used_prekey=True)


def _settle_crossing(s: State, address: Address, sid: int, got: Got, now: Time, *, sure: bool) -> None:
    """A message opened with a session that does not send. If it crossed with our unconfirmed one, decide which stays.

    `sure`: the peer does not repeat the key exchange any more, so it has heard us on that session.
    """
    current = sessions.load(s, address, sid)
    session = got.session
    if current is None or not current.initiated or current.confirmed or session.initiated:
        return
    if session.created < current.created:
        return  # replaced on purpose by our newer one; a late message does not bring it back
    if sure or _gives_way(current, got) or now - session.created >= CROSSING:
        sessions.replace(s, address, sid, session)


def _gives_way(current: Session, got: Got) -> bool:
    """An empty message on the session with the larger ephemeral key: the peer has heard of both and keeps its own."""
    return got.secret == payload.EMPTY_SECRET and got.session.ephemeral > current.ephemeral
