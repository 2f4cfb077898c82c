"""Whose word counts for the secrets of a node (XEP-0473), and what waits until somebody has decided that.

XEP-0473 section "Security Considerations": "the receiving client MUST ensure that the signing sender is the same as the
one for all known shared secrets of this pubsub node (usually a node owner)". So a node has one *authority*. The first
to be believed becomes it: an owner of the node (for PEP the account itself, else as `learn_owners` was told), another
device of ours, or whom a person accepts. What anybody else says, or somebody under a key that nobody trusts, changes
nothing: it waits, within limits, and a person is told. No secret in clear, or in an OMEMO message, is ever believed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from tillie.errors import Malformed, NotTrusted, UsageError
from tillie.model import Address, Content, Device, Done, Effect, Key, Kind, Notice, Opened, Stanza, State, Time
from tillie.pubsub import members, records, secrets, statements
from tillie.pubsub.items import Node
from tillie.pubsub.secrets import shown
from tillie.pubsub.statements import Reason, Revoked, Shared, Statement
from tillie.trust import decisions

MAX_REVOCATIONS = 1_000  # of one node, of secrets that have not come
MAX_HELD = 10_000  # secrets and revocations of nodes of one other person
MAX_PENDING = 1_000  # statements of one sender that wait for a decision
MAX_PENDING_IN_ALL = 5_000
MAX_OWNERS = 100  # of one node, that are remembered
ACCEPT_HINT = "'tillie pubsub secret accept' decides."
_SCHEME = "openpgp"


class _Early(msgspec.Struct, frozen=True, array_like=True):
    """A revocation that came before its secret."""

    at: Time
    sender: str
    reasons: tuple[Reason, ...]


class Pending(msgspec.Struct, frozen=True, array_like=True):
    """What somebody said who may not be the one to say it. `key` is the fingerprint that signed it, `trusted` what was
    thought of it then; `value` is None in a revocation."""

    sender: str
    key: bytes
    trusted: bool
    heard: Time
    id: str
    value: str | None = None
    at: Time = 0.0
    revoked: bool = False
    type: str = ""
    reasons: tuple[Reason, ...] = ()

    def __repr__(self) -> str:
        return f"Pending({self.id!r}, sender={self.sender!r}, trusted={self.trusted})"

    def statement(self, node: Node) -> Statement:
        if self.value is None:
            return Revoked(node, self.id, self.reasons)
        return Shared(node, self.id, self.value, self.at, self.revoked, self.type)


class _Count(msgspec.Struct, frozen=True, array_like=True):
    held: int = 0
    pending: int = 0


class Heard(NamedTuple):
    """What is left of a message for a person, findings, and effects."""

    content: Content
    notes: tuple[str, ...] = ()
    effects: tuple[Effect, ...] = ()
    found: bool = False  # there were secrets or revocations in it

    @property
    def consumed(self) -> bool:
        """Whether nothing is left: it was no message for the person."""
        return self.found and not self.content.data


_early = records.decoder(_Early, "revocation")
_pending = records.decoder(Pending, "pending secret")
_count = records.decoder(_Count, "count")


# -- heard ----------------------------------------------------------------------------------------------------------


def heard(s: State, account: Address, opened: Opened, around: Stanza, now: Time) -> Heard:
    """Take the secrets and revocations out of an opened OpenPGP message and believe those that may be believed.

    XEP-0473 knows no other way for them: what stands in another message is left in it, and means nothing.
    """
    content = opened.content or Content(b"")
    if opened.kind is not Kind.OPENED or opened.scheme != _SCHEME or opened.device is None:
        return Heard(content)
    if around.kind != "message" or around.type in ("groupchat", "error"):
        return Heard(content)
    found, rest = statements.split(content)
    if not found:
        return Heard(content)
    notes: list[str] = []
    effects: list[Effect] = []
    if len(found) > statements.MAX_STATEMENTS:
        notes.append(f"Only {statements.MAX_STATEMENTS} of {len(found)} secrets in one message were read.")
    for element in found[: statements.MAX_STATEMENTS]:
        try:
            statement = statements.parse(element, now)
        except Malformed as error:
            notes.append(f"Ignored what was said of a node: {error.detail}")
            continue
        text, told = _hear(s, account, opened.device, opened.trust.allows_sending, statement, now)
        if not told and opened.device.address == account != around.to.bare:
            # Another device of ours told somebody: what she has must be revoked when it is, and not be sent again.
            revoked = isinstance(statement, Revoked) or statement.revoked
            members.mark(s, statement.node, around.to.bare, statement.id, revoked, now)
        notes.append(text)
        if told:
            effects.append(Notice(opened.device.address, text))
    return Heard(rest, tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(effects)), True)


def _hear(
    s: State, account: Address, device: Device, trusted: bool, statement: Statement, now: Time
) -> tuple[str, bool]:
    """What became of a statement, and whether a person should be told now."""
    node, sender = statement.node, device.address
    found = secrets.known(s, node)
    doubt = _doubt(found, account, node, sender)
    if not trusted:
        doubt = f"{sender} says something of the secrets of {shown(node)} with a key that you do not trust yet"
    if not doubt:
        return _believe(s, account, sender, statement, now)
    if not _wait(s, node, statement, sender, device.key, trusted, now):
        return f"{doubt}. Too much waits already: it is not kept.", True
    return f"{doubt}. Nothing was changed; {ACCEPT_HINT}", True


def _doubt(found: secrets.Known, account: Address, node: Node, sender: Address) -> str:
    """Why the word of `sender` does not count for this node; "" if it does."""
    if found.authority:
        if sender == found.authority:
            return ""
        return f"{sender} says something of the secrets of {shown(node)}, which come from {found.authority}"
    if sender == node.service or (found.owners is not None and sender in found.owners):
        return ""
    if sender == account and found.owners is None:
        return ""  # another device of ours, under a key that is trusted
    return f"{sender} shares a secret of {shown(node)}, but is not known to own that node"


def _believe(s: State, account: Address, sender: str, statement: Statement, now: Time) -> tuple[str, bool]:
    """Take in a statement of the node's authority, or of who becomes it."""
    node = statement.node
    found = secrets.known(s, node)
    if found.authority != sender:
        found = msgspec.structs.replace(found, authority=sender)
        secrets.write(s, node, found)
    secret = secrets.find(s, node, statement.id)
    if isinstance(statement, Revoked):
        return _believe_revoked(s, account, sender, statement, secret, now)
    if secret is None:
        return _believe_new(s, account, sender, statement, found, now)
    if secret.value != statement.value:
        return f"{sender} shares another secret of {shown(node)} under an id that is taken: refused.", True
    if statement.revoked and not secret.revoked:
        secrets.mark_revoked(s, node, secret, now)
        return f"A secret of {shown(node)} is revoked.", False
    return f"A secret of {shown(node)} was known already.", False


def _believe_new(
    s: State, account: Address, sender: str, statement: Shared, found: secrets.Known, now: Time
) -> tuple[str, bool]:
    node = statement.node
    if found.secrets >= secrets.MAX_SECRETS:
        return f"{shown(node)} has {secrets.MAX_SECRETS} secrets already: one more was refused.", True
    data = s.get(records.key("revocation", node, statement.id))
    if data is None and not _hold(s, account, sender):
        return f"{sender} shares more than {MAX_HELD} secrets: one more was refused.", True
    revoked, revocations = statement.revoked, found.revocations
    reasons: tuple[Reason, ...] = ()
    if data is not None:
        early = _early(data)
        s.put(records.key("revocation", node, statement.id), None)
        revocations -= 1
        if early.sender == sender:
            revoked, reasons = True, early.reasons
    secret = secrets.Secret(
        statement.id, statement.value, statement.at, min(statement.at, now), sender, statement.type,
        revoked=revoked, reasons=reasons, heard=now,
    )  # fmt: skip
    secrets.keep(s, node, secret)
    first = secrets.newest(s, node) if found.newest else None
    leads = not revoked and (first is None or first.sender != sender or secrets.age(secret) > secrets.age(first))
    secrets.write(s, node, msgspec.structs.replace(
        found, newest=secret.id if leads else found.newest, secrets=found.secrets + 1, revocations=revocations,
        type=statement.type or found.type,
    ))  # fmt: skip
    return f"A secret of {shown(node)} came{' (revoked)' if revoked else ''}.", False


def _believe_revoked(
    s: State, account: Address, sender: str, statement: Revoked, secret: secrets.Secret | None, now: Time
) -> tuple[str, bool]:
    node = statement.node
    if secret is not None:
        if not secret.revoked:
            secrets.mark_revoked(s, node, secret, now, statement.reasons)
        return f"A secret of {shown(node)} is revoked.", False
    place = records.key("revocation", node, statement.id)
    if s.get(place) is not None:
        return f"A secret of {shown(node)}, which has not come, is revoked.", False
    found = secrets.known(s, node)
    if found.revocations >= MAX_REVOCATIONS or not _hold(s, account, sender):
        return f"{sender} revokes too many unknown secrets of {shown(node)}: one more was ignored.", True
    s.put(place, records.encode(_Early(now, sender, statement.reasons)))
    secrets.write(s, node, msgspec.structs.replace(found, revocations=found.revocations + 1))
    return f"A secret of {shown(node)}, which has not come, is revoked.", False


# -- pending --------------------------------------------------------------------------------------------------------


def pending(s: State, node: Node | None = None) -> tuple[tuple[Node, Pending], ...]:
    """What waits for a decision or for a node's owners to be known: of one node, or of all."""
    prefix = Key(records.SCHEME, "pending", "") if node is None else records.below("pending", node)
    return tuple((records.parts_of(key)[0], _pending(data)) for key, data in s.scan(prefix))


def learn_owners(s: State, node: Node, account: Address, owners: Iterable[Address], now: Time) -> Done[int]:
    """Take in who owns a node, by its service's word; what that makes believable is believed. Returns how much was."""
    kept = tuple(sorted({owner.bare for owner in owners}))[:MAX_OWNERS]
    if kept:
        secrets.write(s, node, msgspec.structs.replace(secrets.known(s, node), owners=kept))
    count = 0
    effects: list[Effect] = []
    for key, each in _waiting(s, node):
        sender = Address(each.sender)
        if not _is_trusted(s, each) or _doubt(secrets.known(s, node), account, node, sender):
            continue
        _forget(s, key, each)
        text, told = _believe(s, account, sender, each.statement(node), now)
        count += 1
        if told:
            effects.append(Notice(sender, text))
    return Done(count, tuple(effects))


def accept(s: State, node: Node, account: Address, sender: Address, now: Time) -> Done[int]:
    """A person's decision: the secrets of this node come from `sender`. What waits of it is believed; how much was.

    Secrets of an earlier authority still open what they sealed. Raises `UsageError` if nothing waits, `NotTrusted`
    if all that waits came with keys that nobody trusts: that is another decision, to be made first.
    """
    waiting = [(key, each) for key, each in _waiting(s, node) if each.sender == sender]
    if not waiting:
        raise UsageError(f"No secret of {shown(node)} from {sender} waits for a decision.")
    trusted = [(key, each) for key, each in waiting if _is_trusted(s, each)]
    if not trusted:
        keys = dict.fromkeys(each.key for _, each in waiting)
        raise NotTrusted(f"{sender}.", devices=tuple(Device(sender, _number(key), key) for key in keys))
    secrets.choose(s, node, msgspec.structs.replace(secrets.known(s, node), authority=sender))
    effects: list[Effect] = []
    for key, each in trusted:
        _forget(s, key, each)
        text, told = _believe(s, account, sender, each.statement(node), now)
        if told:
            effects.append(Notice(sender, text))
    return Done(len(trusted), tuple(effects))


def refuse(s: State, node: Node, sender: Address) -> int:
    """A person's decision: forget what waits of `sender` for this node. Returns how much did."""
    waiting = [(key, each) for key, each in _waiting(s, node) if each.sender == sender]
    for key, each in waiting:
        _forget(s, key, each)
    return len(waiting)


def _waiting(s: State, node: Node) -> list[tuple[Key, Pending]]:
    """As they were heard; revocations hold in any order."""
    found = [(key, _pending(data)) for key, data in s.scan(records.below("pending", node))]
    return sorted(found, key=lambda each: each[1].heard)


def _is_trusted(s: State, each: Pending) -> bool:
    """Whether the key that signed it is trusted now: as it was then, unless somebody has decided since."""
    decision = decisions.load(s, Address(each.sender)).get(each.key)
    return each.trusted if decision is None else decision.trust.allows_sending


def _number(key: bytes) -> int:
    return int.from_bytes(key[-4:], "big") & 0x7FFFFFFF


def _wait(s: State, node: Node, statement: Statement, sender: Address, key: bytes, trusted: bool, now: Time) -> bool:
    """Keep a statement as pending; whether there was room. The key is part of its name: what a server's key says under
    somebody's name never replaces what her own key said."""
    what = "shared" if isinstance(statement, Shared) else "revoked"
    place = records.key("pending", node, sender, key.hex(), what, statement.id)
    if s.get(place) is not None:
        return True
    mine, all_ = _counted(s, sender), _counted(s, "")
    if mine.pending >= MAX_PENDING or all_.pending >= MAX_PENDING_IN_ALL:
        return False
    each = Pending(sender, key, trusted, now, statement.id)
    if isinstance(statement, Shared):
        each = msgspec.structs.replace(
            each, value=statement.value, at=statement.at, revoked=statement.revoked, type=statement.type
        )
    else:
        each = msgspec.structs.replace(each, reasons=statement.reasons)
    s.put(place, records.encode(each))
    _count_pending(s, sender, 1)
    return True


def _forget(s: State, key: Key, each: Pending) -> None:
    s.put(key, None)
    _count_pending(s, each.sender, -1)


def _counted(s: State, sender: str) -> _Count:
    data = s.get(Key(records.SCHEME, "from", sender))
    return _Count() if data is None else _count(data)


def _hold(s: State, account: Address, sender: str) -> bool:
    """Count one more record of a sender; False if she has too many. Ours are not counted."""
    if sender == account:
        return True
    count = _counted(s, sender)
    if count.held >= MAX_HELD:
        return False
    s.put(Key(records.SCHEME, "from", sender), records.encode(msgspec.structs.replace(count, held=count.held + 1)))
    return True


def _count_pending(s: State, sender: str, change: int) -> None:
    for each in (sender, ""):
        count = _counted(s, each)
        changed = msgspec.structs.replace(count, pending=max(0, count.pending + change))
        s.put(Key(records.SCHEME, "from", each), records.encode(changed))
