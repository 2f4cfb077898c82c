"""What a store is: transactions over records, an outbox and an inbox (docs/design.md, "The store is the truth")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

from tillie.errors import TooLarge
from tillie.model import Address, Changed, Done, Effect, Need, Notice, Publish, Send, State

T = TypeVar("T")
Step = Callable[[State], Done[T] | Need]

EFFECTS_MAX = 1 << 16
"""Durable effects of one step. A row's id is the generation of its commit times this, plus its place in that commit."""


class Outgoing(NamedTuple):
    """One row of the outbox: what the network must still send or publish. `created` is in Unix seconds."""

    id: int
    effect: Send | Publish
    created: float


class Committed(NamedTuple, Generic[T]):
    """A step that was committed: its value, its effects, and beside each effect its row in outbox or inbox.

    A `Notice` and a `Changed` are not durable: they have None for a row.
    """

    value: T
    effects: tuple[Effect, ...]
    ids: tuple[int | None, ...]


class Store(Protocol):
    """The records of one account, and what waits to go out or to be read.

    `rolled_back` says that the store was found to be older than it should be: no session in it may be used for sending
    until a step given to `accept_roll_back` was committed. Every method may raise `StoreDamaged` or `StoreUnwritable`.
    """

    @property
    def account(self) -> Address: ...

    @property
    def rolled_back(self) -> bool: ...

    def run(self, step: Step[T], /) -> Committed[T] | Need:
        """Run one step in one transaction, alone among all threads and processes.

        `Done`: records, outbox (`Send`, `Publish`) and inbox (`Deliver`) are committed together, durably, before this
        returns. `Need`, or any exception: nothing happened. A step must not call the store it runs in.
        """

    def accept_roll_back(self, step: Step[T], /) -> Committed[T] | Need:
        """`run`, and in the same commit `rolled_back` becomes False. The step makes every scheme renew its sessions."""

    def outbox(self) -> list[Outgoing]:
        """What must be sent, oldest first. A newer `Publish` of the same scheme and what has replaced the older."""

    def sent(self, *ids: int) -> None:
        """Remove rows of the outbox that the server has acknowledged. Ids that are gone are ignored."""

    def inbox(self) -> list[tuple[int, bytes]]:
        """What was opened and waits for the program, oldest first."""

    def acknowledge(self, *ids: int) -> None:
        """Remove rows of the inbox that the program has taken over. Ids that are gone are ignored."""

    def close(self) -> None:
        """Close it. Closing twice is fine; anything else on a closed store raises `UsageError`."""


def number(effects: tuple[Effect, ...], generation: int) -> tuple[int | None, ...]:
    """Row ids for the effects of the commit that makes `generation`. No id is ever used twice, as no generation is."""
    if len(effects) > EFFECTS_MAX:
        raise TooLarge(f"a step may have at most {EFFECTS_MAX} effects")
    first = generation * EFFECTS_MAX
    return tuple(
        None if isinstance(effect, (Notice, Changed)) else first + place for place, effect in enumerate(effects)
    )


__all__ = ["EFFECTS_MAX", "Committed", "Outgoing", "Step", "Store", "number"]
