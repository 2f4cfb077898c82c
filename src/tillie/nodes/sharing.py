"""Who may read and write a node: secrets and their messages (XEP-0473), and the service's own list (XEP-0060).

**Order.** To give access: first it is made sure that she can be written to at all, then the service lets her in, then
she becomes a member in our records, and everything she should have is sent. To take it away: first the locks are
changed, here, in one transaction that no service can refuse, nor delay for more than STOCK_SECONDS; then everybody is
told; then the service is asked to keep her out. Each message and the mark that it was sent are one transaction, so
whatever is interrupted is finished by `deliver`, and nothing is sent twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from tillie import pipeline
from tillie.crypto.random import random_bytes
from tillie.errors import NetworkError, NoProgress, Rejected, TillieError, UsageError
from tillie.model import Address, Content, DeviceReport, Done, Effect, Need, State, Time
from tillie.nodes import attaching
from tillie.nodes.ground import (
    ACCESS,
    OWNING,
    PUBLISH,
    PUBLISHERS,
    WHITELIST,
    Ground,
    Progress,
    explained,
    silent,
    want,
)
from tillie.nodes.reading import items
from tillie.pubsub import hearing, members, secrets
from tillie.pubsub.items import Node
from tillie.pubsub.members import Errand, Member, Role
from tillie.pubsub.statements import Reason

SCHEME = "openpgp"
# Of two secrets that come at once Libervia keeps one, if it had none of that node: it looks what it has, then writes.
APART = 2.0  # seconds from the first secret that somebody gets to the others
AT_ONCE = 16  # messages to one member in one transaction
STOCK_ITEMS = 1_000  # the newest, that are looked at before locks are changed
STOCK_SECONDS = 30.0
MEMBER, PUBLISHER, OWNER, OUTCAST, NONE = "member", "publisher", "owner", "outcast", "none"
_MAY_READ = frozenset({MEMBER, PUBLISHER, OWNER})


class Access(NamedTuple):
    """One person at a node. `affiliation` is what the service says she is ("none": not on its list), `member` what our
    records say, None if we never shared anything with her. `has` and `due` count the secrets that she was sent, and
    the messages that she must still be sent."""

    address: Address
    affiliation: str
    member: Member | None
    has: int
    due: int


class Delivered(NamedTuple):
    """What one person was sent: how many messages, for which keys, which were skipped and why; the error that stopped
    it, if one did. What is due is sent by `resume`."""

    address: Address
    messages: int
    report: tuple[DeviceReport, ...] = ()
    error: TillieError | None = None

    @property
    def skipped(self) -> tuple[DeviceReport, ...]:
        return tuple(report for report in self.report if not report.sealed)


class Rotated(NamedTuple):
    """The locks were changed: `secret` is the id of the one that seals from now on. `left_out` are people whom the
    service lets read and who were sent nothing: another device of ours may have let them in, or removed them, or
    somebody else put them on the list. `share` with those who are to have access."""

    secret: str
    delivered: tuple[Delivered, ...]
    left_out: tuple[Address, ...] = ()
    problems: tuple[str, ...] = ()


class Removed(NamedTuple):
    """Access was taken back. `cannot_undo` says plainly what that does not change; `problems` what did not work."""

    address: Address
    secret: str
    delivered: tuple[Delivered, ...]
    cannot_undo: tuple[str, ...]
    problems: tuple[str, ...] = ()
    left_out: tuple[Address, ...] = ()


# -- who --------------------------------------------------------------------------------------------------------------


async def people(g: Ground, node: Node) -> tuple[Access, ...]:
    """Who has access by the service's list and by our records, owners first, then by address."""
    with explained(OWNING, node):
        listed = await g.service.affiliations(node)
    known, due, had = await g.read(lambda s: _known(s, node, g.account))
    addresses = {*listed, *known}
    rows = (
        Access(each, listed.get(each, NONE), known.get(each), had.get(each, 0), due.get(each, 0)) for each in addresses
    )
    return tuple(sorted(rows, key=lambda row: (row.affiliation != OWNER, row.address)))


def _known(
    s: State, node: Node, account: Address
) -> tuple[dict[Address, Member], dict[Address, int], dict[Address, int]]:
    due: dict[Address, int] = {}
    for errand in members.due(s, node, account):
        due[errand.to] = due.get(errand.to, 0) + 1
    had = {address: len(ids) for address, ids in members.held(s, node).items()}
    return {member.address: member for member in members.members(s, node)}, due, had


# -- giving access ----------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """What the service says of a node and its attachment nodes, asked for once for many people."""

    listed: dict[Address, str]
    attached: tuple[Node, ...]


async def share(
    g: Ground, node: Node, address: Address, role: Role, progress: Progress, *, again: bool = False
) -> Delivered:
    """Give one person access. Raises what stands in the way; then nothing has changed, or `resume` goes on."""
    await require_private(g, node)
    address = address.bare
    await _admit(g, node, await _place(g, node, role), address, role, again)
    delivered = await deliver(g, node, progress, only=frozenset({address}))
    result = delivered[0] if delivered else Delivered(address, 0)
    if result.error:
        raise result.error
    return result


async def share_all(
    g: Ground, node: Node, addresses: Iterable[Address], role: Role, progress: Progress, *, again: bool = False
) -> tuple[Delivered, ...]:
    """Give many people access, one after the other; what stands in the way of one is in her report."""
    await require_private(g, node)
    place = await _place(g, node, role)
    results = {address.bare: Delivered(address.bare, 0) for address in addresses}
    for number, address in enumerate(results):
        progress("sharing", number, len(results))
        try:
            await _admit(g, node, place, address, role, again)
        except TillieError as error:
            results[address] = Delivered(address, 0, error=error)
    admitted = frozenset(address for address, result in results.items() if not result.error)
    results |= {one.address: one for one in await deliver(g, node, silent, only=admitted)}
    progress("sharing", len(results), len(results))
    return tuple(results.values())


async def _place(g: Ground, node: Node, role: Role) -> _Place:
    with explained(OWNING, node):
        listed = await g.service.affiliations(node)
        if role is Role.PUBLISHER:
            await _let_publish(g, node)
    return _Place(listed, tuple(await attaching.nodes_of(g, node)))


async def _admit(g: Ground, node: Node, place: _Place, address: Address, role: Role, again: bool) -> None:
    """Let one person in, at the service and in our records; what she should have is due then."""
    if address == g.account:
        raise UsageError("You have access yourself; 'share' is for others.")
    await _require_reachable(g, address)
    affiliation = PUBLISHER if role is Role.PUBLISHER else MEMBER
    if place.listed.get(address) not in (OWNER, affiliation):
        with explained(OWNING, node):
            await g.service.affiliate(node, {address: affiliation})
    await g.step(lambda s: _added(s, node, address, role, g, again))
    await attaching.admit(g, place.attached, address)


def _added(s: State, node: Node, address: Address, role: Role, g: Ground, again: bool) -> Done[None]:
    """A new member. A node that has no secret gets its first; our own other devices are to have it, too."""
    start(s, node, g.account, g.now())
    members.add(s, node, address, role, g.now())
    if again:
        members.forget_sent(s, node, address)
    return Done(None)


def start(s: State, node: Node, account: Address, now: Time, *, type: str = "") -> str:
    """Make sure that a node of ours has a secret that seals; its id. We are a member ourselves: "At least one of the
    encrypted payload SHOULD be encrypted for the sender themselves", so that our other devices get it."""
    if members.find(s, node, account) is None:
        members.add(s, node, account, Role.PUBLISHER, now)
    newest = secrets.newest(s, node)
    return (newest or secrets.make(s, node, account, now, type=type)).id


async def require_authority(g: Ground, node: Node) -> None:
    """Raises `UsageError` unless the secrets of the node are, or may become, ours."""
    authority = await g.read(lambda s: secrets.known(s, node).authority)
    if authority and authority != g.account:
        raise UsageError(
            f"The secrets of this node come from {authority}: members count only on those from there.",
            hint=f"Ask {authority}.",
        )
    if not authority and g.account not in await g.service.owners(node):
        raise UsageError("You do not own this node, so your secrets would count for nobody.")


async def require_private(g: Ground, node: Node) -> None:
    """Raises `UsageError` unless the node has secrets, and they are ours."""
    await require_authority(g, node)
    if not await g.read(lambda s: secrets.known(s, node).secrets):
        raise UsageError(
            "This node has no secret: its items are in clear.", hint="'tillie pubsub node convert' makes it private."
        )


async def _require_reachable(g: Ground, address: Address) -> None:
    """Ask for keys and decisions before anything is changed, by sealing something that is never sent."""
    await g.engine.seal(address, Content(b"<active xmlns='http://jabber.org/protocol/chatstates'/>"), scheme=SCHEME)


async def _let_publish(g: Ground, node: Node) -> None:
    """PEP lets only the account itself publish where the node is not told otherwise."""
    holds = (await g.service.configuration(node)).get(PUBLISH, PUBLISHERS)
    if holds not in (PUBLISHERS, "open"):
        await g.service.configure(node, {PUBLISH: PUBLISHERS})
        await g.write(lambda s: want(s, node, {PUBLISH: PUBLISHERS}))


# -- taking it back ---------------------------------------------------------------------------------------------------


async def remove(g: Ground, node: Node, address: Address, reasons: tuple[Reason, ...], progress: Progress) -> Removed:
    """Take one person's access back: new locks, revocations, the service's list. Goes on where the service fails, and
    says so in `problems`."""
    address = address.bare
    if address == g.account:
        raise UsageError("Your own access can't be taken back; delete the node, or let another owner do it.")
    await require_private(g, node)
    listed = await _listed(g, node)
    problems = await _take_stock(g, node, progress)
    secret, had = await g.step(lambda s: _removed(s, node, address, listed, reasons, g))
    delivered = await deliver(g, node, progress)
    problems += _problems(one for one in delivered if one.address != address)
    if listed.get(address) == OWNER:  # a service could say so to have us give up: the locks are changed all the same
        problems.append(f"The service says that {address} owns this node, too, and lets every owner in.")
    else:
        problems += await _keep_out(g, node, address)
    return Removed(
        address, secret, delivered, _what_stays(address, had), tuple(problems), await _left_out(g, node, listed)
    )


def _removed(
    s: State, node: Node, address: Address, listed: dict[Address, str], reasons: tuple[Reason, ...], g: Ground
) -> Done[tuple[str, int]]:
    now = g.now()
    member = members.find(s, node, address)
    if member is None and listed.get(address) not in _MAY_READ:
        raise UsageError(f"{address} has no access to this node.")
    if member is None:  # another device of ours, or the service, let her in
        members.add(s, node, address, Role.READER, now)
    had = len(members.held(s, node, address).get(address, ()))
    if member is None or member.removed is None:
        members.remove(s, node, address, now)
        start(s, node, g.account, now)
        return Done((secrets.rotate(s, node, g.account, now, reasons).id, had))
    return Done((start(s, node, g.account, now), had))  # once more: the service may have failed the first time


async def _take_stock(g: Ground, node: Node, progress: Progress) -> list[str]:
    """Look at what is there, so that it is known to have been there before the locks were changed: what is first seen
    later is shown as late, or rejected. A service that does not answer holds nothing up."""
    try:
        async with asyncio.timeout(STOCK_SECONDS):
            async for _ in items(g, node, (), STOCK_ITEMS, progress):
                pass
    except (NetworkError, TimeoutError) as error:
        why = str(error) or "it took too long"
        return [f"Items could not be looked at before the locks were changed, and may be shown as later ones: {why}"]
    return []


async def _listed(g: Ground, node: Node) -> dict[Address, str]:
    """The service's list; nobody if it does not tell: then our records alone say who has access."""
    try:
        return await g.service.affiliations(node)
    except NetworkError:
        return {}


def _problems(delivered: Iterable[Delivered]) -> list[str]:
    return [f"{one.address} was not sent all secrets: {one.error}" for one in delivered if one.error]


async def _keep_out(g: Ground, node: Node, address: Address) -> list[str]:
    """The service's part of taking access back. A whitelist keeps out whoever is not on it; else only a ban does."""
    try:
        access = (await g.service.configuration(node)).get(ACCESS, WHITELIST)
        await g.service.affiliate(node, {address: NONE if access == WHITELIST else OUTCAST})
    except NetworkError as error:
        return [
            f"The service did not take {address} off its list, and may go on showing her sealed items, which she can't "
            f"open: {error}"
        ]
    return await attaching.expel(g, node, address)


def _what_stays(address: Address, had: int) -> tuple[str, ...]:
    lines = [f"{address} keeps what was read or copied while there was access."]
    if had:
        them, secrets_ = ("it", "the secret") if had == 1 else ("them", f"the {had} secrets")
        lines.append(
            f"{address} keeps {secrets_} sent before now: whoever gets hold of items that are sealed with {them} can "
            f"open those, {address} too."
        )
    lines += [
        "Items are not sealed anew: to take back what one of them says, retract it, before it is copied.",
        "Who else has access can pass on what they read, and the secrets.",
    ]
    return tuple(lines)


async def rotate(g: Ground, node: Node, reasons: tuple[Reason, ...], progress: Progress) -> Rotated:
    """Revoke all secrets of a node, make a new one, and send it to all members."""
    await require_private(g, node)
    problems = await _take_stock(g, node, progress)

    def step(s: State) -> Done[str]:
        start(s, node, g.account, g.now())
        return Done(secrets.rotate(s, node, g.account, g.now(), reasons).id)

    return await _changed(g, node, await g.step(step), problems, progress)


async def revoke(g: Ground, node: Node, secret_id: str, reasons: tuple[Reason, ...], progress: Progress) -> Rotated:
    """Revoke one secret of a node; if none is left that seals, make a new one."""
    await require_private(g, node)
    problems = await _take_stock(g, node, progress)

    def step(s: State) -> Done[str]:
        secrets.revoke(s, node, g.account, secret_id, g.now(), reasons)
        return Done(start(s, node, g.account, g.now()))

    return await _changed(g, node, await g.step(step), problems, progress)


async def _changed(g: Ground, node: Node, secret: str, problems: list[str], progress: Progress) -> Rotated:
    delivered = await deliver(g, node, progress)
    left_out = await _left_out(g, node, await _listed(g, node))
    return Rotated(secret, delivered, left_out, (*problems, *_problems(delivered)))


async def _left_out(g: Ground, node: Node, listed: dict[Address, str]) -> tuple[Address, ...]:
    def look(s: State) -> set[Address]:
        known = {member.address for member in members.members(s, node)} | {g.account}
        strangers = {who for who, role in listed.items() if role in _MAY_READ and who not in known}
        return strangers.union(members.uncertain(s, node, g.account))

    return tuple(sorted(await g.read(look)))


# -- sending what is due ----------------------------------------------------------------------------------------------


async def deliver(
    g: Ground, node: Node, progress: Progress, *, only: frozenset[Address] | None = None
) -> tuple[Delivered, ...]:
    """Send everybody, or some people, what is due, a few messages in one transaction. One who can't be reached holds
    nobody else up."""
    due, new = await g.read(lambda s: _due(s, node, g.account, only))
    total, done = sum(map(len, due.values())), 0
    sent: dict[Address, Delivered] = {}
    for first in (True, False):
        for address, todo in due.items():
            before = sent.get(address, Delivered(address, 0))
            part = (todo[:1] if first else todo[1:]) if address in new else [] if first else todo
            if not part or before.error:
                continue
            progress("sending secrets", done, total)
            one = await _deliver_to(g, node, address, part)
            sent[address] = one._replace(messages=before.messages + one.messages)
            done += len(part)
        if first and any(not one.error for one in sent.values()):
            await g.pause(APART)
    if total:
        progress("sending secrets", total, total)
    return tuple(sent[address] for address in due)


def _due(
    s: State, node: Node, account: Address, only: frozenset[Address] | None
) -> tuple[dict[Address, list[Errand]], frozenset[Address]]:
    """What is due, by whom it is for; and who has nothing yet and is to have more than one secret."""
    single = next(iter(only)) if only is not None and len(only) == 1 else None
    errands: dict[Address, list[Errand]] = {}
    for errand in members.due(s, node, account, only=single):
        if only is None or errand.to in only:
            errands.setdefault(errand.to, []).append(errand)
    several = [who for who, todo in errands.items() if len(todo) > 1 and who != account]
    return errands, frozenset(who for who in several if not members.held(s, node, who))


async def _deliver_to(g: Ground, node: Node, address: Address, todo: list[Errand]) -> Delivered:
    messages = 0
    report: tuple[DeviceReport, ...] = ()
    try:
        for start_ in range(0, len(todo), AT_ONCE):
            batch = todo[start_ : start_ + AT_ONCE]
            count, report = await g.step(partial(_send, g=g, node=node, batch=batch))
            messages += count
    except (UsageError, NetworkError, NoProgress) as error:
        return Delivered(address, messages, report, error)
    return Delivered(address, messages, report)


def _send(s: State, g: Ground, node: Node, batch: list[Errand]) -> Done[tuple[int, tuple[DeviceReport, ...]]] | Need:
    """The messages of one batch and the marks that they were sent: one transaction."""
    effects: tuple[Effect, ...] = ()
    report: tuple[DeviceReport, ...] = ()
    count = 0
    for errand in batch:
        if not members.is_due(s, node, errand):
            continue
        scheme, now, id = g.engine.scheme_named(SCHEME), g.now(), random_bytes(12).hex()
        done = pipeline.send(s, scheme, g.engine.policy, Content(errand.element), errand.to, id, now)
        if isinstance(done, Need):
            return done
        members.sent(s, node, errand, now)
        effects += done.effects
        report = done.value.report
        count += 1
    return Done((count, report), effects)


# -- what others sent -------------------------------------------------------------------------------------------------

MAX_LOOKUPS = 64  # nodes whose owners are asked for at once: a stranger may name services as he likes


async def settle(g: Ground, asked: set[Node]) -> int:
    """Find out who owns the nodes whose secrets wait. Returns how many waiting statements were believed. `asked` are
    the nodes whose services have answered; it grows."""
    waiting = await g.read(lambda s: {node for node, each in hearing.pending(s) if each.trusted})
    believed = 0
    for node in sorted(waiting - asked)[:MAX_LOOKUPS]:
        try:
            owners = await g.service.owners(node)
        except Rejected:
            owners = frozenset()
        except NetworkError:
            continue
        asked.add(node)
        if owners:
            believed += await _learn(g, node, owners)
    return believed


async def resume(g: Ground) -> tuple[Delivered, ...]:
    """Send what an interruption left due, at all nodes."""
    nodes = await g.read(lambda s: [node for node in secrets.nodes(s) if members.due(s, node, g.account)])
    return tuple([one for node in nodes for one in await deliver(g, node, silent)])


async def _learn(g: Ground, node: Node, owners: frozenset[Address]) -> int:
    return await g.step(lambda s: hearing.learn_owners(s, node, g.account, owners, g.now()))


async def accept(g: Ground, node: Node, sender: Address) -> int:
    return await g.step(lambda s: hearing.accept(s, node, g.account, sender.bare, g.now()))
