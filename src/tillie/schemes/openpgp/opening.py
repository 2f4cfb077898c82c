"""What an arrived OpenPGP message is: decrypted, and its signature checked against the keys that we hold for its sender
(XEP-0373 section "Verification of <openpgp/> Content")."""

from __future__ import annotations

from typing import NamedTuple

from tillie.crypto import openpgp
from tillie.crypto.openpgp import Certificate
from tillie.crypto.random import random_bytes
from tillie.directory import openpgp as directory
from tillie.errors import BadSignature, PeerError
from tillie.model import Address, Fetch, Need, State, Time
from tillie.schemes.openpgp import contacts, keys
from tillie.schemes.openpgp.content import MAX_CONTENT_BYTES, Form

_HIDDEN = bytes(8)  # the key id of a recipient that is not named
_PROBE = 16


class Read(NamedTuple):
    """A message that opened: how it was made, the content element in it, and the fingerprint of the certificate that
    signed it, "" if none did."""

    form: Form
    plaintext: bytes
    signer: bytes

    def __repr__(self) -> str:
        return f"Read({self.form})"


class Unread(NamedTuple):
    """A message that is not for any of our keys, or whose sender has no key that could be looked at: why."""

    for_us: bool
    why: str


def certificates(s: State, account: Address, address: Address, now: Time) -> tuple[Certificate, ...] | Need:
    """The certificates that may have signed for an address: announced, known, and of that address. Ours, too, for our
    own address, announced or not."""
    held = keys.held(s) if address == account else ()
    ours = {each.certificate.fingerprint: each.certificate for each in held}
    asks = contacts.missing(s, address, now, held=frozenset(ours))
    if asks:
        return Need(asks)
    return (*ours.values(), *(c for c in contacts.certificates(s, address) if c.fingerprint not in ours))


def read(
    s: State, account: Address, message: bytes, sender: Address, now: Time, *, max_bytes: int = MAX_CONTENT_BYTES
) -> Read | Unread | Need:
    """Open a message of this sender. Raises Malformed, BadSignature, Undecryptable."""
    wanted = openpgp.recipients(message)
    if wanted and not is_for_us(s, wanted):
        return Unread(False, "it is not sealed for a key of this account")
    senders = certificates(s, account, sender, now)
    if isinstance(senders, Need):
        return senders
    if not senders:
        return Unread(True, why_none(s, sender, now))
    try:
        if not wanted:
            return Read(Form.SIGN, *_signed(openpgp.open_sign(message, senders, max_bytes=max_bytes)))
        secrets = [each.key for each in keys.held(s)]
        return Read(Form.SIGNCRYPT, *_signed(openpgp.open_signcrypt(message, secrets, senders, max_bytes=max_bytes)))
    except BadSignature as error:
        if contacts.may_recheck(s, sender, now):
            return Need((Fetch(sender, directory.LIST_NODE),))  # perhaps by a key that was announced a moment ago
        unsigned = _unsigned(s, message, max_bytes) if wanted else None
        if unsigned is not None:
            return unsigned
        raise BadSignature(f"{error.detail}{_complaints(senders, now)}") from None


def is_for_us(s: State, wanted: tuple[bytes, ...]) -> bool:
    if _HIDDEN in wanted:
        return True
    return any(not openpgp.reads(each.key).isdisjoint(wanted) for each in keys.held(s))


def _signed(opened: openpgp.Message) -> tuple[bytes, bytes]:
    return opened.plaintext, opened.signers[0]


def _unsigned(s: State, message: bytes, max_bytes: int) -> Read | None:
    """A message that nobody signed, not one whose signature is wrong."""
    try:
        opened = openpgp.open_crypt(message, [each.key for each in keys.held(s)], max_bytes=max_bytes)
    except PeerError:
        return None
    return Read(Form.CRYPT, opened.plaintext, b"")


def why_none(s: State, sender: Address, now: Time) -> str:
    """Why nothing can be checked against the keys of an account, or sealed for them."""
    known = contacts.load(s, sender)
    if known is None or not known.read:
        return f"{sender}: its list of OpenPGP keys can't be fetched"
    reasons = [f"{keys.shown(each.fingerprint)}: {each.why}" for each in contacts.prospects(s, sender, now)]
    return f"{sender} announces no OpenPGP key" + (f" that could be used ({'; '.join(reasons)})" if reasons else "")


def _complaints(senders: tuple[Certificate, ...], now: Time) -> str:
    found = [(each, each.why_unusable(now)) for each in senders]
    told = [f"{keys.shown(each.fingerprint)} is unusable: {why}" for each, why in found if why]
    return f" ({'; '.join(told)})" if told else ""


def refused(recipients: list[Certificate]) -> set[bytes]:
    """Which of these the library will not encrypt to, after it refused all of them together."""
    bad = set()
    for each in recipients:
        try:
            openpgp.crypt(random_bytes(_PROBE), [each])
        except PeerError:
            bad.add(each.fingerprint)
    return bad
