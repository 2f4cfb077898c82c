"""Secrets retained from one session for the next (XEP-0116 sections 4.7.3 and 4.8), and the chains that they form.

A chain is one client of somebody, for as long as each session continues it: "entities SHOULD remember whether or not
the whole chain of retained secrets ... has ever been validated". It stands for a trust key: that of the public key that
signed in it, or, as long as none did, one of its own.

XEP-0116: "Bob MUST destroy all his copies of the old retained secret" when he has sent message 4. Then a server that
drops this one message breaks the chain, and a person who is told that each time learns to take no notice. So the secret
before is kept as well, until the peer's first stanza shows that it has the new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tillie.crypto.random import random_bytes
from tillie.model import Address, State, Time, Trust
from tillie.schemes.esession import records
from tillie.schemes.esession.records import Chain
from tillie.schemes.esession.settings import Secret
from tillie.trust import associations, decisions

LIFE = 365 * 86_400.0  # "older than an implementation-defined period of time"
MAX_CHAINS = 16  # of one address: "each of Bob's clients"
MAX_OTHERS = 256  # chains of other addresses that a responder tries
MAX_ADDRESSES = 8  # of one chain
NAME = 16

CHAIN, PUBLIC = b"R", b"K"  # the first octet of a trust key


class Continued(NamedTuple):
    """What a session continues: the chain's name (b"" if nothing is retained), the trust key of the peer, whether it
    was known before, and what a person must hear."""

    chain: bytes
    key: bytes
    known: bool
    findings: tuple[str, ...] = ()


def secrets(s: State, address: Address, now: Time) -> tuple[Secret, ...]:
    """The secrets retained with the clients of a bare address."""
    return tuple(secret for name, chain in _of(s, address, now) for secret in _of_chain(name, chain))


def all_secrets(s: State, address: Address, now: Time) -> tuple[Secret, ...]:
    """Those of an address first, then all others: "since she may simply be using a different JID"."""
    first = secrets(s, address, now)
    rest = [(name, chain) for name, chain in _valid(s, now) if address not in chain.addresses]
    others = (secret for name, chain in rest[:MAX_OTHERS] for secret in _of_chain(name, chain))
    return (*first, *others)


def retain(
    s: State, used: Secret | None, new: bytes, public: bytes, peer: Address, now: Time, *, proven: bool
) -> Continued:
    """Take in what a session that came about leaves: `used` is the secret that both should know, `new` the one to
    retain (b"" if none is), `public` the fingerprint of the key that the peer signed with (b"" if none).

    `proven`: something has verified under keys that `used` entered. It has not where we answered: whoever sits between
    can copy the hashes of secrets from what the true peer sent him, and sign with a key of his own. Such a session can
    be read by nobody but the true peer, so it counts as hers; but nothing is learned from it before `prove`. Nor is
    anything learned from a first session before then, if no public key signed: message 4 may be lost, and a chain that
    only we have would be missed the next time.
    """
    name, before = _used(s, used)
    if before is not None and used is not None and not proven:
        if new:
            _save(s, name, Chain(before.key, new, used.value, before.addresses, now + LIFE, before.shared))
        return Continued(name, before.key, True)
    findings: list[str] = []
    if before is None and _has_lost_one(s, peer, now):
        findings.append("it has lost the secret of the sessions before, or is somebody else")
    if before is None and new:
        name = random_bytes(NAME)
    key = PUBLIC + public if public else before.key if before else CHAIN + name if name else b""
    known = before is not None or bool(associations.load(s, key).seen)
    addresses = before.addresses if before else () if proven else (str(peer.bare),)
    if new:
        _save(s, name, Chain(before.key if before else key, new, b"", addresses, now + LIFE, proven))
    if proven:
        key, more = prove(s, name, key, public, peer, now)
        findings += more
    _keep_newest(s, peer, now)
    return Continued(name, key, known, tuple(findings))


def _has_lost_one(s: State, peer: Address, now: Time) -> bool:
    """Whether a peer that named no secret of ours should have had one. Those that it may never have got go."""
    had = False
    for name, chain in _of(s, peer, now):
        if chain.shared or chain.key in _verified(s, peer):
            had = True
        else:
            forget(s, name)
    return had


def prove(s: State, name: bytes, key: bytes, public: bytes, peer: Address, now: Time) -> tuple[bytes, tuple[str, ...]]:
    """The peer has shown that it has the new secret: the one before goes, and what it said of itself holds. The trust
    key of the session from now on, and what a person must hear."""
    findings: list[str] = []
    chain = _load(s, name)
    before = chain.key if chain else key
    if public:
        key = PUBLIC + public
    elif before[:1] == PUBLIC:
        findings.append("it came without its public key this time")
    if before != key:
        if before[:1] == PUBLIC:
            findings.append("it came with another public key than in the sessions before")
        associations.join(s, before, key, peer.bare, now)
    if chain is not None:
        addresses = dict.fromkeys((str(peer.bare), *chain.addresses))
        _save(s, name, Chain(key, chain.secret, b"", tuple(addresses)[:MAX_ADDRESSES], chain.expires))
    if key:
        findings += associations.saw(s, key, peer.bare, now)
    return key, tuple(findings)


def forget(s: State, name: bytes) -> None:
    s.put(records.key("chain", name.hex()), None)


def expire(s: State, now: Time) -> None:
    for key, data in list(s.scan(records.key("chain"))):
        if records.decode(data, Chain).expires <= now:
            s.put(key, None)


def _used(s: State, used: Secret | None) -> tuple[bytes, Chain | None]:
    return (used.name, _load(s, used.name)) if used is not None else (b"", None)


def _valid(s: State, now: Time) -> Iterator[tuple[bytes, Chain]]:
    for key, data in s.scan(records.key("chain")):
        chain = records.decode(data, Chain)
        if chain.expires > now:
            yield bytes.fromhex(key.name), chain


def _of(s: State, address: Address, now: Time) -> list[tuple[bytes, Chain]]:
    """The chains of an address, the newest first."""
    found = [(name, chain) for name, chain in _valid(s, now) if address.bare in chain.addresses]
    return sorted(found, key=lambda each: each[1].expires, reverse=True)


def _of_chain(name: bytes, chain: Chain) -> tuple[Secret, ...]:
    newest = Secret(name, chain.secret)
    return (newest, Secret(name, chain.previous)) if chain.previous else (newest,)


def _keep_newest(s: State, address: Address, now: Time) -> None:
    """The verified ones stay the longest: else a server could push them out with sessions of its own."""
    verified = _verified(s, address)
    found = sorted(_of(s, address, now), key=lambda each: each[1].key not in verified)
    for name, _ in found[MAX_CHAINS:]:
        forget(s, name)


def _verified(s: State, address: Address) -> set[bytes]:
    decided = decisions.load(s, address.bare)
    return {key for key, decision in decided.items() if decision.trust is Trust.VERIFIED}


def _load(s: State, name: bytes) -> Chain | None:
    data = s.get(records.key("chain", name.hex()))
    return records.decode(data, Chain) if data is not None else None


def _save(s: State, name: bytes, chain: Chain) -> None:
    s.put(records.key("chain", name.hex()), records.encode(chain))
