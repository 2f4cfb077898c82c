"""Who has access to a node, which secrets she was sent, who was removed when (XEP-0473 sections "Transmit Shared
Secret" and "Revocation and Shared Secret Rotation").

What must still be sent is never a list that somebody has to keep right: `due` compares what everybody should have
with what was sent. Whoever sends marks it with `sent` in the transaction that puts the message into the outbox, so
that an interruption between two members, or two messages, is nothing but a shorter list the next time.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import msgspec

from tillie.errors import TooLarge, UsageError
from tillie.model import Address, State, Time
from tillie.pubsub import records, secrets
from tillie.pubsub.items import Node
from tillie.pubsub.secrets import Secret

MAX_MEMBERS = 10_000  # of one node, removed ones included


class Role(Enum):
    """What a member may do, as the node's service knows it too (XEP-0060 section 4.1)."""

    READER = "reader"
    PUBLISHER = "publisher"


class Member(NamedTuple):
    """Somebody who has access to a node, or had it. `removed` is when it was taken back, None while she has it."""

    address: Address
    role: Role
    since: Time
    removed: Time | None = None


class Errand(NamedTuple):
    """One element that somebody must be sent: a secret, or its revocation (`revokes`). `revoked` is whether she knows
    by it that the secret is revoked. One for each message: Libervia reads no more."""

    to: Address
    secret: str
    revokes: bool
    revoked: bool
    element: bytes

    def __repr__(self) -> str:
        return f"Errand({self.to!r}, {self.secret!r}, revokes={self.revokes})"


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """`given` is when access was last given on this device."""

    role: Role
    since: Time
    removed: Time | None = None
    given: Time = 0.0


class _Sent(msgspec.Struct, frozen=True, array_like=True):
    """When a secret was sent to a member, and whether she knows that it is revoked."""

    at: Time
    revoked: bool


_record = records.decoder(_Record, "member")
_sent = records.decoder(_Sent, "sent secret")


def find(s: State, node: Node, address: Address) -> Member | None:
    """Somebody who has access to a node, or had it."""
    data = s.get(records.key("member", node, address))
    if data is None:
        return None
    record = _record(data)
    return Member(address, record.role, record.since, record.removed)


def members(s: State, node: Node) -> tuple[Member, ...]:
    """All who have access to a node or had it, by address."""
    return tuple(
        Member(address, record.role, record.since, record.removed) for address, record in _all_records(s, node)
    )


def add(s: State, node: Node, address: Address, role: Role, now: Time) -> Member:
    """Give access, also again to who was removed, or change a role. The messages that this entails are `due`."""
    before = find(s, node, address.bare)
    if before is None:
        known = secrets.known(s, node)
        if known.members >= MAX_MEMBERS:
            raise TooLarge(f"A node has at most {MAX_MEMBERS} members.")
        secrets.write(s, node, msgspec.structs.replace(known, members=known.members + 1))
    since = before.since if before and before.removed is None else now
    s.put(records.key("member", node, address.bare), records.encode(_Record(role, since, None, now)))
    return Member(address.bare, role, since)


def remove(s: State, node: Node, address: Address, now: Time) -> Member:
    """Take access back: from now on what she publishes is rejected. `secrets.rotate` belongs into the same
    transaction: without it she reads on. Raises `UsageError` if she has no access."""
    before = find(s, node, address.bare)
    if before is None or before.removed is not None:
        raise UsageError(f"{address.bare} has no access to this node.")
    s.put(records.key("member", node, address.bare), records.encode(_Record(before.role, before.since, now)))
    return before._replace(removed=now)


def due(s: State, node: Node, account: Address, *, only: Address | None = None) -> tuple[Errand, ...]:
    """What must still be sent so that every member, or only one, has what she should, in the order in which to send it:
    first the revocations, then the newest secret to everybody, then the older ones.

    XEP-0473: "When access to the shared secret is granted to a new entity, all previously used keys SHOULD be
    transmitted (with their 'revoked' attribute set to "true") along with the currently used shared secret." Who was
    removed is told of revocations of what she has, and nothing else. Nothing is due for a node whose secrets come from
    somebody else: ours would count for nobody. Nor is a secret for those who are `uncertain`.
    """
    if secrets.known(s, node).authority != account:
        return ()
    ours = [secret for secret in secrets.secrets(s, node) if secret.sender == account]
    newest = secrets.newest(s, node)
    sealing = newest.id if newest else ""
    sent = _all_sent(s, node, only)
    doubtful = set(uncertain(s, node, account, only=only))
    revocations: list[Errand] = []
    current: list[Errand] = []
    older: list[Errand] = []
    for address, record in _all_records(s, node, only):
        had = sent.get(address, {})
        for secret in ours:
            if secret.id in had:
                if secret.revoked and not had[secret.id].revoked:
                    revocations.append(_revocation(node, address, secret))
            elif record.removed is None and address not in doubtful:
                (current if secret.id == sealing else older).append(_share(node, address, secret, sealing))
    return (*revocations, *current, *older)


def uncertain(s: State, node: Node, account: Address, *, only: Address | None = None) -> tuple[Address, ...]:
    """Members whom another device of ours may have removed: it has made a secret since they were given access here,
    and was not seen to send it to them. They are sent none until they are given access again."""
    ours = [secret for secret in secrets.secrets(s, node) if secret.sender == account and not secret.made_here]
    if not ours:
        return ()
    last = max(ours, key=secrets.age)
    had = _all_sent(s, node, only)
    return tuple(
        address
        for address, record in _all_records(s, node, only)
        if record.removed is None
        and address != account
        and record.given <= last.heard
        and last.id not in had.get(address, {})
    )


def is_due(s: State, node: Node, errand: Errand) -> bool:
    """Whether an errand of an earlier transaction still is one: she may have been removed, the secret revoked."""
    member, secret = find(s, node, errand.to), secrets.find(s, node, errand.secret)
    if member is None or secret is None:
        return False
    data = s.get(records.key("sent", node, errand.to, errand.secret))
    if errand.revokes:
        return data is not None and not _sent(data).revoked
    current = secret.id == secrets.known(s, node).newest
    return data is None and member.removed is None and errand.revoked is not current


def sent(s: State, node: Node, errand: Errand, now: Time) -> None:
    """The message with this element is in the outbox, or need not be sent; in the transaction that made it so."""
    mark(s, node, errand.to, errand.secret, errand.revoked, now)


def mark(s: State, node: Node, to: Address, secret_id: str, revoked: bool, now: Time) -> None:
    """Somebody was sent a secret, or its revocation. What she knows to be revoked stays so."""
    place = records.key("sent", node, to, secret_id)
    data = s.get(place)
    s.put(place, records.encode(_Sent(now, revoked or (data is not None and _sent(data).revoked))))


def forget_sent(s: State, node: Node, address: Address) -> None:
    """Somebody lost what she was sent: as long as she has access, all of it is due anew."""
    for key, _ in list(s.scan(records.below("sent", node, address.bare))):
        s.put(key, None)


def shared_with(s: State, node: Node, secret_id: str) -> tuple[Address, ...]:
    """To whom a secret was sent, by address."""
    return tuple(address for address, had in sorted(_all_sent(s, node).items()) if secret_id in had)


def held(s: State, node: Node, address: Address | None = None) -> dict[Address, frozenset[str]]:
    """Which secrets everybody was sent, or one person."""
    rest = () if address is None else (address,)
    found: dict[Address, set[str]] = {}
    for key, _ in s.scan(records.below("sent", node, *rest)):
        who, secret_id = records.parts_of(key)[1]
        found.setdefault(Address(who), set()).add(secret_id)
    return {who: frozenset(ids) for who, ids in found.items()}


def _share(node: Node, to: Address, secret: Secret, sealing: str) -> Errand:
    revoked = secret.id != sealing
    return Errand(to, secret.id, False, revoked, secrets.shared_element(node, secret, revoked=revoked))


def _revocation(node: Node, to: Address, secret: Secret) -> Errand:
    return Errand(to, secret.id, True, True, secrets.revoke_element(node, secret.id, secret.reasons))


def _all_records(s: State, node: Node, only: Address | None = None) -> list[tuple[Address, _Record]]:
    if only is not None:
        data = s.get(records.key("member", node, only))
        return [] if data is None else [(only, _record(data))]
    found = s.scan(records.below("member", node))
    return [(Address(records.parts_of(key)[1][0]), _record(data)) for key, data in found]


def _all_sent(s: State, node: Node, only: Address | None = None) -> dict[Address, dict[str, _Sent]]:
    found: dict[Address, dict[str, _Sent]] = {}
    for key, data in s.scan(records.below("sent", node, *(() if only is None else (only,)))):
        address, secret_id = records.parts_of(key)[1]
        found.setdefault(Address(address), {})[secret_id] = _sent(data)
    return found
