"""What all of `nodes` stands on: an engine, a service, what a node should be like, and what a service's no means."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import msgspec

from tillie.crypto.random import random_bytes
from tillie.engine import Engine, Step
from tillie.errors import Rejected
from tillie.model import Address, Done, Key, State, Time
from tillie.nodes.service import Service
from tillie.nodes.workers import Workers
from tillie.pubsub import records
from tillie.pubsub.items import Node
from tillie.pubsub.statements import NS

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is in all (0: nobody knows)."""

ACCESS, PUBLISH, TYPE = "pubsub#access_model", "pubsub#publish_model", "pubsub#type"
PERSIST, MAX_ITEMS = "pubsub#persist_items", "pubsub#max_items"
WHITELIST, PUBLISHERS = "whitelist", "publishers"
NAME_BYTES = 15  # of a random name: 20 characters that tell nothing
PRECONDITION = "precondition-not-met"  # XEP-0060 section 7.1.5
REFUSALS = frozenset({"forbidden", "not-allowed", "not-authorized", "registration-required"})


def silent(what: str, done: int, total: int) -> None:
    """A `Progress` that nobody sees."""


class Ground(NamedTuple):
    engine: Engine
    service: Service
    workers: Workers
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep

    @property
    def account(self) -> Address:
        return self.engine.account

    def now(self) -> Time:
        return self.engine.now()

    async def step(self, step: Step[T]) -> T:
        """Run a step of one transaction, and send what it entails."""
        return await self.engine.drive(step)

    async def read(self, look: Callable[[State], T]) -> T:
        return await self.engine.drive(lambda s: Done(look(s)))

    async def write(self, change: Callable[[State], None]) -> None:
        def step(s: State) -> Done[None]:
            change(s)
            return Done(None)

        await self.engine.drive(step)


def random_name() -> str:
    """A name for a node or an item that says nothing of what is in it (XEP-0473 section "Security Considerations")."""
    return random_bytes(NAME_BYTES).hex()


# -- what a node should be like -------------------------------------------------------------------------------------


class Wanted(msgspec.Struct, frozen=True, array_like=True):
    """How we configured a node, so that a change by anybody else is noticed when we publish: "" is not our business."""

    access: str = ""
    publish: str = ""


_wanted = records.decoder(Wanted, "node configuration")


def wanted(s: State, node: Node) -> Wanted | None:
    """What a node should be like; None if it was not configured here."""
    data = s.get(_place(node))
    return None if data is None else _wanted(data)


def want(s: State, node: Node, options: Mapping[str, str] | None) -> None:
    """Remember the options that matter to who may read and write; None forgets."""
    if options is None:
        s.put(_place(node), None)
        return
    before = wanted(s, node) or Wanted()
    record = Wanted(options.get(ACCESS, before.access), options.get(PUBLISH, before.publish))
    s.put(_place(node), records.encode(record))


def _place(node: Node) -> Key:
    return Key("nodes", "wanted", records.name_of(node))


def options_for(*, sealed: bool, access: str, publish: str, max_items: str) -> dict[str, str]:
    """Options of a new node. XEP-0473: 'The "pubsub#type" of an encrypted item is always "urn:xmpp:openpgp:pubsub:0",
    thus no information is leaked on the content of the node'."""
    options = {ACCESS: access, PUBLISH: publish, PERSIST: "true", MAX_ITEMS: max_items}
    return {**options, TYPE: NS} if sealed else options


# -- what a service's no means --------------------------------------------------------------------------------------

READING, WRITING, OWNING, MAKING = "read", "publish at", "change", "make"
_REFUSED = {
    READING: ("you are not among those who may read it.", "Ask its owner to share it with you."),
    WRITING: ("you are not among those who may publish there.", "Ask its owner to share it with you as a publisher."),
    OWNING: ("only an owner of the node may do that.", ""),
    MAKING: (
        "the service does not let you make nodes.",
        "Your own account is a service, too; at others, its operator lets people make nodes.",
    ),
}


@contextmanager
def explained(doing: str, node: Node) -> Iterator[None]:
    """What a service's error means for what is being done."""
    try:
        yield
    except Rejected as error:
        why, hint = _reason(error, doing)
        shown = f"{node.name!r} at {node.service}" if node.name else f"a node at {node.service}"
        raise Rejected(f"It can't {doing} {shown}: {why}", condition=error.condition, hint=hint) from error


def _reason(error: Rejected, doing: str) -> tuple[str, str]:
    if is_precondition(error):
        return (
            "the node is not configured as it was, so nothing was published: somebody may have opened it to others.",
            "Its owner looks at it, and closes it, with 'tillie pubsub node configure'.",
        )
    if error.condition in REFUSALS:
        return _REFUSED[doing]
    if error.condition == "conflict" and doing == MAKING:
        return "there is one already.", "'tillie pubsub node convert' makes an existing node private."
    if error.condition == "item-not-found":
        return "the service knows no such node or item, or does not show it to you.", ""
    return (error.detail or error.condition), error.hint


def is_precondition(error: Rejected) -> bool:
    return PRECONDITION in (error.condition, error.detail)
