"""Nodes themselves: make, convert, configure, delete (XEP-0060 section 8; XEP-0473 "Encrypting Pubsub Item")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tillie.errors import Malformed, NetworkError, UsageError
from tillie.model import Address, Done, State
from tillie.nodes import attaching, sharing
from tillie.nodes.ground import (
    ACCESS,
    MAKING,
    OWNING,
    PUBLISH,
    READING,
    TYPE,
    WHITELIST,
    Ground,
    Progress,
    explained,
    options_for,
    random_name,
    silent,
    want,
)
from tillie.pubsub import hearing, sealing, targeted
from tillie.pubsub.items import Node
from tillie.pubsub.statements import NS

MAX_NAMED = 1_000  # ids of items in clear that a conversion names
ACCESS_MODELS = frozenset({"open", "presence", "roster", "authorize", WHITELIST})


class Converted(NamedTuple):
    """An existing node is private now. `in_clear` are ids of items that stay as they are, `more` how many others do;
    `readers` who was on the service's list before and has no secret yet."""

    node: Node
    secret: str
    in_clear: tuple[str, ...]
    more: int = 0
    readers: tuple[Address, ...] = ()


async def create(
    g: Ground, node: Node, *, encrypted: bool, type: str, access: str, publish: str, max_items: str
) -> Node:
    """A new node, with its first secret if its items are to be sealed. A name is chosen at random if there is none."""
    _require_access(access)
    node = node if node.name else Node(node.service, random_name())
    options = options_for(sealed=encrypted, access=access, publish=publish, max_items=max_items)
    with explained(MAKING, node):
        node = Node(node.service, await g.service.create(node, options))

    def step(s: State) -> None:
        want(s, node, options)
        if encrypted:
            sharing.start(s, node, g.account, g.now(), type=type)

    await g.write(step)
    await sharing.deliver(g, node, silent)
    return node


async def convert(g: Ground, node: Node, *, type: str, access: str, progress: Progress) -> Converted:
    """Make an existing node private: first nobody else may read it, then it gets a secret. What is there stays in
    clear, for whoever has read it has it: publish it anew, or retract it."""
    _require_access(access)
    await sharing.require_authority(g, node)
    with explained(OWNING, node):
        listed = await g.service.affiliations(node)
        await g.service.configure(node, {ACCESS: access, TYPE: NS})

    def step(s: State) -> Done[str]:
        want(s, node, {ACCESS: access})
        learned = hearing.learn_owners(s, node, g.account, (g.account,), g.now())
        return Done(sharing.start(s, node, g.account, g.now(), type=type), learned.effects)

    secret = await g.step(step)
    await sharing.deliver(g, node, silent)
    in_clear, more = await _in_clear(g, node, progress)
    known = {one.address for one in await sharing.people(g, node) if one.member}
    readers = tuple(sorted(who for who, role in listed.items() if role in ("member", "publisher") and who not in known))
    return Converted(node, secret, in_clear, more, readers)


async def _in_clear(g: Ground, node: Node, progress: Progress) -> tuple[tuple[str, ...], int]:
    found: list[str] = []
    more = seen = 0
    with explained(READING, node):
        async for page in g.service.items(node):
            for item in page:
                if _is_sealed(item.payload):
                    continue
                more += len(found) >= MAX_NAMED
                found += [item.id] if len(found) < MAX_NAMED else []
            seen += len(page)
            progress("looking for items in clear", seen, 0)
    return tuple(found), more


async def configure(g: Ground, node: Node, options: Mapping[str, str]) -> dict[str, str]:
    """Change options of a node, its attachment nodes following, and give all as they are then."""
    if ACCESS in options:
        _require_access(options[ACCESS])
    with explained(OWNING, node):
        if options:
            await g.service.configure(node, options)
        holds = await g.service.configuration(node)
    if {ACCESS, PUBLISH} & options.keys():
        await g.write(lambda s: want(s, node, options))
    if ACCESS in options:
        for other in await attaching.nodes_of(g, node):
            try:
                await g.service.configure(other, {ACCESS: options[ACCESS]})
            except NetworkError:
                continue  # it is somebody else's, or gone: it never was ours to keep in step
    return holds


async def delete(g: Ground, node: Node) -> None:
    """Delete a node at its service. Its secrets stay: copies of its items may be anywhere, and open with nothing
    else."""
    others = await attaching.nodes_of(g, node)
    with explained(OWNING, node):
        await g.service.delete(node)
    await g.write(lambda s: want(s, node, None))
    for other in others:
        try:
            await g.service.delete(other)
        except NetworkError:
            continue  # its service has done it already, or it is somebody else's


def _is_sealed(payload: bytes) -> bool:
    try:
        return sealing.secret_of(payload) is not None or targeted.is_targeted(payload)
    except Malformed:
        return False


def _require_access(access: str) -> None:
    if access not in ACCESS_MODELS:
        raise UsageError(f"{access!r} is no access model; there are {', '.join(sorted(ACCESS_MODELS))}.")
