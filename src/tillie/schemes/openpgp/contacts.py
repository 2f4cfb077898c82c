"""What we know of other people's keys: lists and certificates as they are learned (XEP-0373 sections "Discovering
Public Keys of a User", "Requesting Public Keys", "Receiving notifications about key changes").

A certificate is kept under its address and joined with what is learned later, so that no server can take a revocation
back. That of a key that is not listed any more is kept for that reason only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tillie.crypto import openpgp
from tillie.crypto.openpgp import Certificate
from tillie.directory import openpgp as directory
from tillie.errors import PeerError
from tillie.model import Address, Fetch, Fetched, Notice, State, Time
from tillie.schemes.openpgp import keys, records
from tillie.schemes.openpgp.records import KeyList, Known, Listed

LIST_MAX_AGE = 3_600.0  # seconds; after that a list is fetched again before it is used (contacts without presence)
CERTIFICATE_MAX_AGE = 86_400.0  # likewise, if the list does not say sooner that it changed
RETRY = 300.0  # seconds until something that could not be fetched is asked for again
RECHECK = 60.0  # seconds between two looks at the list of somebody whose signatures don't fit it
MAX_UNLISTED = 64  # certificates of one account that are kept though it lists them no more

ABSENT = frozenset({"item-not-found", "feature-not-implemented", "service-unavailable", "forbidden", "not-allowed"})
NOT_ANNOUNCED = "its fingerprint is not the announced one"
NO_USER_ID = "has no user id xmpp:{}"
NOT_FETCHED = "can't be fetched ({})"


class Prospect(NamedTuple):
    """One announced key: its certificate if we have one, and why nothing may be sealed for it, "" if it may."""

    fingerprint: bytes
    certificate: Certificate | None
    why: str = ""


# -- lists ----------------------------------------------------------------------------------------------------------


def load(s: State, address: Address) -> KeyList | None:
    data = s.get(records.key("list", address))
    return records.decode_list(data) if data is not None else None


def save(s: State, address: Address, known: KeyList) -> None:
    s.put(records.key("list", address), records.encode_list(known))


def is_fresh(known: KeyList | None, now: Time) -> bool:
    return known is not None and 0 <= now - known.at < LIST_MAX_AGE


def learn_list(s: State, fact: Fetched, now: Time) -> tuple[Notice, ...]:
    """Take in a key list, or the news that there is none. What can't be read leaves the known list as it is."""
    before = load(s, fact.address) or KeyList(now - LIST_MAX_AGE, now, False)
    if fact.payload is None:
        if fact.error and fact.error not in ABSENT:
            return _postpone(s, fact.address, before, now, "")
        announced: tuple[directory.Announced, ...] = ()
    else:
        try:
            announced = directory.parse_list(fact.payload)
        except PeerError as error:
            return _postpone(s, fact.address, before, now, f"the list of OpenPGP keys can't be read ({error.detail})")
    save(s, fact.address, KeyList(now, now, True, tuple(Listed(*key) for key in announced)))
    _forget_unlisted(s, fact.address, {key.fingerprint for key in announced})
    return ()


def _postpone(s: State, address: Address, before: KeyList, now: Time, complaint: str) -> tuple[Notice, ...]:
    save(s, address, before._replace(at=now - LIST_MAX_AGE + RETRY, tried=now))
    return (Notice(address, complaint),) if complaint else ()


def expire(s: State, address: Address, now: Time) -> None:
    """The list changed: it is fetched again before it is used."""
    known = load(s, address)
    if known is not None:
        save(s, address, known._replace(at=now - LIST_MAX_AGE))


def expire_all(s: State) -> None:
    """After a roll-back: lists and certificates may be older than what we knew."""
    for name, data in list(s.scan(records.key("list"))):
        s.put(name, records.encode_list(records.decode_list(data)._replace(at=0.0)))
    for name, data in list(s.scan(records.key("certificate"))):
        s.put(name, records.encode_known(records.decode_known(data)._replace(at=0.0)))


def may_recheck(s: State, address: Address, now: Time) -> bool:
    """Whether to look at the list once more, because a signature does not fit it: at most every RECHECK seconds."""
    known = load(s, address)
    return known is None or not 0 <= now - known.tried < RECHECK


# -- certificates ---------------------------------------------------------------------------------------------------


def certificate(s: State, address: Address, fingerprint: bytes) -> Known | None:
    data = s.get(records.of_certificate(address, fingerprint))
    return records.decode_known(data) if data is not None else None


def learn_certificate(s: State, fact: Fetched, fingerprint: bytes, now: Time) -> tuple[Notice, ...]:
    """Take in a certificate that the account lists, or why there is none. One that is already known stays."""
    known = load(s, fact.address)
    listed = known.by_fingerprint(fingerprint) if known else None
    if listed is None:
        return ()
    before = certificate(s, fact.address, fingerprint) or Known(0.0, 0.0)
    data, error = before.data, ""
    try:
        data = _read(fact, fingerprint, before.data).data
    except PeerError as problem:
        error = problem.detail
    name = records.of_certificate(fact.address, fingerprint)
    s.put(name, records.encode_known(Known(now, listed.date, data, error)))
    revoked = (
        bool(before.data)
        and not openpgp.parse_certificate(before.data).revoked
        and openpgp.parse_certificate(data).revoked
    )
    return (Notice(fact.address, f"the OpenPGP key {keys.shown(fingerprint)} was revoked"),) if revoked else ()


def _read(fact: Fetched, fingerprint: bytes, before: bytes) -> Certificate:
    found = read_certificate(fact, fingerprint)
    if not before:
        return found
    try:
        return openpgp.merge(openpgp.parse_certificate(before), found)
    except PeerError:
        # Too much for one certificate: a server may add to it what it likes, and must not win by that.
        return found if found.revoked else openpgp.parse_certificate(before)


def read_certificate(fact: Fetched, fingerprint: bytes) -> Certificate:
    """The certificate in a data node. Raises a PeerError; "its fingerprint is not the announced one" is one."""
    if fact.payload is None:
        raise PeerError(NOT_FETCHED.format(fact.error or "nothing is published"))
    found = openpgp.parse_certificate(directory.parse_key(fact.payload))
    if found.fingerprint != fingerprint:
        raise PeerError(NOT_ANNOUNCED)
    return found


def _forget_unlisted(s: State, address: Address, listed: set[bytes]) -> None:
    """Keep at most MAX_UNLISTED certificates that are not listed: revoked ones first, of those the oldest."""
    rows = []
    for name, data in s.scan(records.key("certificate", f"{address}/")):
        if bytes.fromhex(name.name.rpartition("/")[2]) not in listed:
            known = records.decode_known(data)
            rows.append((not (known.data and openpgp.parse_certificate(known.data).revoked), known.at, name))
    for _, _, name in sorted(rows)[MAX_UNLISTED:]:
        s.put(name, None)


# -- both together --------------------------------------------------------------------------------------------------


def missing(s: State, address: Address, now: Time, *, held: frozenset[bytes] = frozenset()) -> tuple[Fetch, ...]:
    """What must be fetched before this account's keys can be used; nothing for those that we `held` ourselves."""
    known = load(s, address)
    if known is None or not is_fresh(known, now):
        return (Fetch(address, directory.LIST_NODE),)
    return tuple(
        Fetch(address, directory.key_node(key.fingerprint))
        for key in known.keys
        if key.fingerprint not in held and not _is_current(certificate(s, address, key.fingerprint), key, now)
    )


def _is_current(known: Known | None, listed: Listed, now: Time) -> bool:
    if known is None:
        return False
    if known.error:
        return 0 <= now - known.at < RETRY
    return known.date == listed.date and 0 <= now - known.at < CERTIFICATE_MAX_AGE


def prospects(s: State, address: Address, now: Time) -> Iterator[Prospect]:
    """All keys that an account lists, usable or not, as far as they are known here."""
    known = load(s, address)
    for listed in known.keys if known else ():
        yield prospect(s, address, listed.fingerprint, now)


def prospect(s: State, address: Address, fingerprint: bytes, now: Time) -> Prospect:
    known = certificate(s, address, fingerprint)
    if known is None or not known.data:
        return Prospect(fingerprint, None, known.error if known else NOT_FETCHED.format("not tried yet"))
    found = openpgp.parse_certificate(known.data)
    why = found.why_unusable(now)
    if not why and not found.names(address):
        why = NO_USER_ID.format(address)
    return Prospect(fingerprint, found, why)


def certificates(s: State, address: Address) -> tuple[Certificate, ...]:
    """Those of the listed keys that belong to this address, for checking signatures; revoked ones are among them, and
    the check refuses them."""
    known = load(s, address)
    found = (certificate(s, address, key.fingerprint) for key in (known.keys if known else ()))
    parsed = (openpgp.parse_certificate(each.data) for each in found if each is not None and each.data)
    return tuple(each for each in parsed if each.revoked or each.names(address))
