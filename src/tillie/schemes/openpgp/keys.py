"""Our own OpenPGP keys: made, imported, announced, revoked (XEP-0373 section "Announcing and Discovering Public Keys
via PEP"). Private keys lie in the store and nowhere else, without a passphrase of their own."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from tillie.crypto import openpgp
from tillie.crypto.openpgp import Certificate, SecretKey
from tillie.errors import PeerError, UsageError
from tillie.model import Address, Device, State, Time, Trust
from tillie.schemes.openpgp import records
from tillie.schemes.openpgp.records import Own
from tillie.trust import decisions

MAX_OWN = 16  # key pairs of one account

_ACTIVE, _OWN = records.key("active"), records.key("own")
GENERATE = "'tillie keys generate --scheme openpgp' makes one."


class Held(NamedTuple):
    """One of our key pairs, and what the store knows about it."""

    key: SecretKey
    own: Own

    @property
    def certificate(self) -> Certificate:
        return self.key.certificate

    @property
    def is_wanted(self) -> bool:
        """Whether it belongs into our list."""
        return self.own.announced and not self.certificate.revoked


def user_id(account: Address) -> str:
    """XEP-0373 section "OpenPGP User IDs"."""
    return f"xmpp:{account}"


def device_of(certificate: Certificate, address: Address) -> Device:
    """A certificate as one end of a conversation; its id is for showing."""
    return device(address, certificate.fingerprint)


def device(address: Address, fingerprint: bytes) -> Device:
    return Device(address, int.from_bytes(fingerprint[-4:], "big") & 0x7FFFFFFF, fingerprint)


def shown(fingerprint: bytes) -> str:
    """A fingerprint as people know it: upper case, without spaces."""
    return fingerprint.hex().upper()


# -- the store ------------------------------------------------------------------------------------------------------


def held(s: State) -> tuple[Held, ...]:
    """All our key pairs: the active one first, then the newest, revoked ones last."""
    return _in_order(s.get(_ACTIVE), tuple(data for _, data in s.scan(_OWN)))


@lru_cache(8)
def _in_order(marked: bytes | None, rows: tuple[bytes, ...]) -> tuple[Held, ...]:
    active = records.decode_bytes(marked, "active key") if marked is not None else b""
    found = [_held(row) for row in rows]
    found.sort(key=lambda each: (each.certificate.revoked, each.certificate.fingerprint != active, -each.own.added))
    return tuple(found)


def load(s: State, fingerprint: bytes) -> Held | None:
    data = s.get(records.of_own("own", fingerprint))
    return _held(data) if data is not None else None


@lru_cache(32)
def _held(data: bytes) -> Held:
    own = records.decode_own(data)
    (key,) = openpgp.parse_secret_keys(own.secret)
    return Held(key, own)


def save(s: State, key: SecretKey, own: Own) -> None:
    s.put(records.of_own("own", key.certificate.fingerprint), records.encode_own(own._replace(secret=key.data)))


def active(s: State, now: Time) -> Held | None:
    """The key pair that signs, and that others seal for; None if there is none that may be used now."""
    return next((each for each in held(s) if not each.certificate.why_unusable(now)), None)


def require(s: State, account: Address, now: Time) -> Held:
    """As `active`. Raises `UsageError` that says what to do."""
    found = active(s, now)
    if found is not None:
        vouch(s, account, found.certificate.fingerprint, now)
        return found
    reasons = [f"{shown(each.certificate.fingerprint)} {each.certificate.why_unusable(now)}" for each in held(s)]
    why = f" that can be used ({'; '.join(reasons)})" if reasons else ""
    raise UsageError(f"This account has no OpenPGP key{why}.", hint=GENERATE)


def vouch(s: State, account: Address, fingerprint: bytes, now: Time) -> None:
    """Make a key of ours the first use of one: else a policy of first use would trust, and seal all that we ever send
    for, whichever key our server announces for us beside it."""
    if fingerprint not in decisions.load(s, account):
        decisions.decide(s, account, fingerprint, Trust.TRUSTED, now)


# -- how they come and go -------------------------------------------------------------------------------------------


def add(s: State, key: SecretKey, account: Address, now: Time) -> Held:
    """Take in a key pair, with the user id of this account: new, or joined with what we have of it.

    It is active and announced from now on, unless it was revoked or has expired: then it only opens old messages.
    Raises `UsageError` if there are too many.
    """
    fingerprint = key.certificate.fingerprint
    known = load(s, fingerprint)
    if known is not None and known.certificate.revoked:
        return known
    if known is None and sum(1 for _ in s.scan(_OWN)) >= MAX_OWN:
        raise UsageError(f"An account has at most {MAX_OWN} OpenPGP keys.")
    if not key.certificate.names(account) and not key.certificate.revoked:
        key = openpgp.add_user_id(key, user_id(account))
    usable = not key.certificate.why_unusable(now)
    own = Own(usable, known.own.added if known else now, 0.0, b"")
    save(s, key, own)
    if usable:
        s.put(_ACTIVE, records.encode_bytes(fingerprint))
        s.put(records.of_own("unwanted", fingerprint), None)
        vouch(s, account, fingerprint, now)
    return Held(key, own)


def revoke(s: State, fingerprint: bytes) -> Held:
    """Revoke a key pair of ours for good. It still opens what was sealed for it. Raises `UsageError`."""
    known = _require(s, fingerprint)
    if known.certificate.revoked:
        return known
    revoked = Held(openpgp.revoke(known.key), known.own._replace(published=0.0))
    save(s, *revoked)
    return revoked


def join(s: State, fingerprint: bytes, certificate: Certificate) -> bool:
    """Take in a revocation that another client of ours published. True if there was one that we didn't know: a server
    can't invent it, and could otherwise undo it by giving us an older store."""
    known = load(s, fingerprint)
    if known is None or known.certificate.revoked or not certificate.revoked:
        return False
    save(s, openpgp.with_certificate(known.key, certificate), known.own)
    return True


def activate(s: State, fingerprint: bytes, now: Time) -> Held:
    """Make a key pair of ours the one that signs. Raises `UsageError`."""
    known = _require(s, fingerprint)
    why = known.certificate.why_unusable(now)
    if why:
        raise UsageError(f"The key {shown(fingerprint)} can't be used: {why}.")
    s.put(_ACTIVE, records.encode_bytes(fingerprint))
    return known


def retract(s: State, fingerprint: bytes) -> None:
    """Announce a key no more; ours stays here, and opens what was sealed for it."""
    known = load(s, fingerprint)
    if known is not None:
        save(s, known.key, known.own._replace(announced=False))
    else:
        s.put(records.of_own("unwanted", fingerprint), records.encode_bytes(b""))


def forget(s: State, fingerprint: bytes) -> None:
    """Drop a key pair of ours. What was sealed for it can't be opened here any more. Raises `UsageError`."""
    _require(s, fingerprint)
    s.put(records.of_own("own", fingerprint), None)
    s.put(records.of_own("recheck", fingerprint), None)
    s.put(records.of_own("unwanted", fingerprint), records.encode_bytes(b""))


def mark_published(s: State, fingerprint: bytes, now: Time) -> None:
    known = load(s, fingerprint)
    if known is not None:
        save(s, known.key, known.own._replace(published=now))


def _require(s: State, fingerprint: bytes) -> Held:
    known = load(s, fingerprint)
    if known is None:
        raise UsageError(f"This account does not hold the key {shown(fingerprint)}.")
    return known


def read_import(data: bytes, passphrase: str) -> tuple[SecretKey, ...]:
    """The key pairs in an export of GnuPG or another program. Raises `UsageError`: the person gave the file."""
    try:
        found = openpgp.import_secret_keys(data, passphrase)
    except PeerError as error:
        raise UsageError(f"There is no OpenPGP key pair that can be used: {error.detail}.") from None
    if not found:
        raise UsageError("There is no OpenPGP key pair in it.")
    return found
