"""Shared secrets of nodes (XEP-0473): which are known, which one seals, those that are made here.

A revoked secret is never active again, whatever comes later, in whatever order. A secret never changes its value, and
opens nothing at another node. Whose word counts for the secrets of a node is decided in `hearing`.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator

import msgspec

from tillie.crypto.random import random_bytes
from tillie.errors import TooLarge, UsageError
from tillie.model import Address, Key, State, Time
from tillie.pubsub import records, statements
from tillie.pubsub.items import Node
from tillie.pubsub.statements import Reason, Revoked, Shared
from tillie.wire.display import printable
from tillie.wire.time import LATEST

MAX_SECRETS = 1_000  # of one node

SECRET_BYTES = 48  # 64 characters; XEP-0473 recommends 32, Libervia's has 86
ID_BYTES = 16
_BASE64URL = re.compile("[A-Za-z0-9_-]{43,}")
_DIFFERENT = 16
MAX_SHOWN = 100  # characters of a name in a sentence
COPIED = ("node", "secret", "revocation", "pending", "from", "member", "sent")


class Secret(msgspec.Struct, frozen=True, array_like=True):
    """One shared secret. `at` is when it was made, by its maker's word, `since` no later than when we heard of it:
    a wrong clock must not make a secret the newest for ever. `revoked_at` is when we learned of the revocation, 0 if
    it came revoked, `heard` when it came here or was made."""

    id: str
    value: str
    at: Time
    since: Time
    sender: str
    type: str = ""
    made_here: bool = False
    revoked: bool = False
    revoked_at: Time = 0.0
    reasons: tuple[Reason, ...] = ()
    heard: Time = 0.0

    def __repr__(self) -> str:
        return f"Secret({self.id!r}, at={self.at}, sender={self.sender!r}, revoked={self.revoked})"


class Known(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one node. `owners` is None until somebody told; `newest` the id of the secret that seals."""

    authority: str = ""
    owners: tuple[str, ...] | None = None
    newest: str = ""
    secrets: int = 0
    revocations: int = 0
    type: str = ""
    members: int = 0


_secret = records.decoder(Secret, "shared secret")
_known = records.decoder(Known, "node")


# -- what is known --------------------------------------------------------------------------------------------------


def known(s: State, node: Node) -> Known:
    data = s.get(records.key("node", node))
    return Known() if data is None else _known(data)


def find(s: State, node: Node, id: str) -> Secret | None:
    """The secret of this service, node and id: one of another node never opens anything here."""
    data = s.get(records.key("secret", node, id))
    return None if data is None else _secret(data)


def secrets(s: State, node: Node) -> tuple[Secret, ...]:
    """All secrets of a node, newest first."""
    found = (_secret(data) for _, data in s.scan(records.below("secret", node)))
    return tuple(sorted(found, key=age, reverse=True))


def newest(s: State, node: Node) -> Secret | None:
    """The secret that seals new items: XEP-0473: "Entities MUST always use the most recently generated shared secret
    to encrypt new items", "A revoked key MUST NOT be used to encrypt new items"."""
    id = known(s, node).newest
    return find(s, node, id) if id else None


def nodes(s: State) -> tuple[Node, ...]:
    """The nodes of which something is known, by service and name."""
    return tuple(records.parts_of(key)[0] for key, _ in s.scan(Key(records.SCHEME, "node", "")))


def age(secret: Secret) -> tuple[Time, Time, str]:
    return secret.since, secret.at, secret.id


def is_random(value: str) -> bool:
    """Whether a secret looks like 256 random bits or more, written as base64url: then it needs no stretching.

    It can't be known. But 43 random characters of 64 have fewer than 16 different ones once in ten thousand million
    times, and what a person types repeated, padded or spelled out mostly does."""
    return bool(_BASE64URL.fullmatch(value)) and len(set(value)) >= _DIFFERENT


# -- made here ------------------------------------------------------------------------------------------------------


def make(s: State, node: Node, account: Address, now: Time, *, type: str = "") -> Secret:
    """A new secret of a node that is ours to share secrets of; from now on it seals. It is not sent to anybody yet:
    see `members.due`. Raises `UsageError` if the node's secrets come from somebody else."""
    before = _own(s, statements.check_node(node), account)
    if before.secrets >= MAX_SECRETS:
        raise TooLarge(f"A node has at most {MAX_SECRETS} secrets.", hint="Make a new node, and share that.")
    if len(type) > statements.MAX_TYPE:
        raise UsageError(f"The type of a node has at most {statements.MAX_TYPE} characters.")
    at = float(int(now))
    if last := max((secret.at for secret in secrets(s, node)), default=None):
        # Others choose the newest by its time, and their clock may have been ahead. Libervia reads whole seconds.
        at = max(at, min(float(int(last)) + 1, LATEST - 1))
    id, value = (urlsafe_b64encode(random_bytes(n)).rstrip(b"=").decode() for n in (ID_BYTES, SECRET_BYTES))
    secret = Secret(id, value, at, at, account, type or before.type, made_here=True, heard=now)
    keep(s, node, secret)
    write(s, node, msgspec.structs.replace(
        before, authority=account, newest=id, secrets=before.secrets + 1, type=secret.type,
    ))  # fmt: skip
    return secret


def revoke(s: State, node: Node, account: Address, id: str, now: Time, reasons: Iterable[Reason] = ()) -> Secret:
    """Revoke one secret of ours. Whom it was sent to must be told: see `members.due`. Raises `UsageError`."""
    _own(s, node, account)
    secret = find(s, node, id)
    if secret is None:
        raise UsageError(f"The node has no secret {printable(id, MAX_SHOWN)}.")
    return mark_revoked(s, node, secret, now, statements.check_reasons(reasons))


def rotate(s: State, node: Node, account: Address, now: Time, reasons: Iterable[Reason] = ()) -> Secret:
    """Revoke every secret of the node that is not, and make a new one."""
    reasons = statements.check_reasons(reasons)
    _own(s, node, account)
    for secret in reversed(secrets(s, node)):  # the newest last: which one seals is chosen anew only once
        mark_revoked(s, node, secret, now, reasons)
    return make(s, node, account, now)


def _own(s: State, node: Node, account: Address) -> Known:
    found = known(s, node)
    if found.authority and found.authority != account:
        raise UsageError(
            f"The secrets of this node come from {found.authority}.",
            hint=f"Members count only on those from there. Ask {found.authority} to change the locks.",
        )
    return found


def shared_element(node: Node, secret: Secret, *, revoked: bool = False) -> bytes:
    """`<shared-secret>` for whoever may have it (one in a message: Libervia reads only the first)."""
    said = Shared(node, secret.id, secret.value, secret.at, secret.revoked or revoked, secret.type)
    return statements.encode(said)


def revoke_element(node: Node, id: str, reasons: Iterable[Reason] = ()) -> bytes:
    """`<revoke>` for whoever has the secret."""
    return statements.encode(Revoked(node, id, tuple(reasons)))


def mark_revoked(s: State, node: Node, secret: Secret, now: Time, reasons: tuple[Reason, ...] = ()) -> Secret:
    if secret.revoked:
        return secret
    revoked = msgspec.structs.replace(secret, revoked=True, revoked_at=now, reasons=reasons)
    keep(s, node, revoked)
    found = known(s, node)
    if found.newest == secret.id:
        choose(s, node, found)
    return revoked


def choose(s: State, node: Node, found: Known) -> None:
    """Write the node with its newest secret chosen anew."""
    usable = (each.id for each in secrets(s, node) if not each.revoked and each.sender == found.authority)
    write(s, node, msgspec.structs.replace(found, newest=next(usable, "")))


# -- records --------------------------------------------------------------------------------------------------------


def copied(s: State) -> Iterator[tuple[Key, bytes]]:
    """The records that a backup of the account must hold: secrets, authorities, members. What was seen of items is
    not among them: it would be old where it is restored."""
    for kind in COPIED:
        yield from s.scan(Key(records.SCHEME, kind, ""))


def write(s: State, node: Node, record: Known) -> None:
    s.put(records.key("node", node), records.encode(record))


def keep(s: State, node: Node, secret: Secret) -> None:
    s.put(records.key("secret", node, secret.id), records.encode(secret))


def shown(node: Node) -> str:
    """A node in a sentence, safe to show."""
    return f"the node {printable(node.name, MAX_SHOWN)} at {node.service}"
