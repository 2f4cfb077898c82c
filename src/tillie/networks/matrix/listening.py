"""Reading what comes, for ever: /sync, open, commit, and only then the next position.

A crash, or an answer that is read again, brings messages a second time; whoever opens them knows that. What waits at
the homeserver is deleted there when a later position comes back, so a position is kept only after everything before it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

from tillie import pipeline
from tillie.engine import Engine, Received
from tillie.errors import AuthenticationFailed, PeerError, TillieError, Unreachable
from tillie.model import Address, Arrived, Done, Effect, Fetched, Kind, Notice, State
from tillie.networks.matrix import records, sync
from tillie.networks.matrix.api import Refusal
from tillie.networks.matrix.network import MatrixNetwork

T = TypeVar("T")

POLL = 30.0  # seconds that the homeserver may hold a request until something comes
SHORTEST_ROUND = 1.0  # an empty answer that comes sooner is not asked for again at once
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 120.0  # seconds between two attempts while the homeserver is away

_WRONG = frozenset({Kind.NO_SESSION, Kind.TAMPERED})  # after these a repair may be due


class Listener:
    """One connection's way in. `caught_up` is set when all is in the store that came before we logged in."""

    def __init__(self, engine: Engine, network: MatrixNetwork, notice: Callable[[Notice], None]) -> None:
        self.caught_up = asyncio.Event()
        self._engine = engine
        self._network = network
        self._notice = notice
        self._position: str | None = None
        self._counts: Fetched | None = None
        self._uploaded = 0
        self._repair: asyncio.Task[None] | None = None
        self._away = False

    async def listen(self) -> None:
        """Until it is cancelled, or our device is gone."""
        pause = FIRST_PAUSE
        try:
            while True:
                try:
                    await self._round()
                except AuthenticationFailed as error:
                    self._say(f"{error} Nothing comes here any more.")
                    return
                except Exception as error:  # noqa: BLE001  a fault of ours must not end this unheard
                    self._say_away(told(error))
                    await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                    pause = min(2 * pause, LONGEST_PAUSE)
                else:
                    pause, self._away = FIRST_PAUSE, False
        finally:
            if self._repair is not None:
                self._repair.cancel()

    async def _round(self) -> None:
        """One answer. Its position counts only if all that it held could be asked for that its messages need."""
        if self._position is None:
            self._position = await self._engine.drive(lambda s: Done(records.load_position(s)))
        begun, since = asyncio.get_running_loop().time(), self._position
        news = await self._ask(since, POLL if self.caught_up.is_set() else 0.0)
        interrupted = self._network.interrupted
        await self._learn(news.facts)
        await self._open_all(news)
        if self._network.interrupted != interrupted:
            raise Unreachable("What came could not be opened without it.")
        if news.position != since:
            await self._engine.drive(partial(_keeping, position=news.position))
            self._position = news.position
        if not self.caught_up.is_set():
            if not news.waiting:
                await self._engine.catch_up(ended=True)
                self.caught_up.set()
        elif not news.waiting and asyncio.get_running_loop().time() - begun < SHORTEST_ROUND:
            await asyncio.sleep(SHORTEST_ROUND)

    async def _ask(self, since: str, wait: float) -> sync.News:
        api, account = self._network.api, self._engine.account
        via = "live" if self.caught_up.is_set() else "offline"
        try:
            answer = await self._network.call(lambda: api.sync(since, wait))
        except Refusal as error:
            if not since or error.status not in (400, 404):
                raise
            # Our position means nothing to it any more: its database is another one. It begins with what it has.
            answer = await self._network.call(lambda: api.sync("", 0.0))
        return sync.read(answer, account, via=via)

    # -- what came ----------------------------------------------------------------------------------------------------

    async def _learn(self, facts: Iterable[Fetched]) -> None:
        """Whose devices changed, and how many of our keys are left, if that is news since our last upload."""
        news = []
        for fact in facts:
            if fact.pushed and fact.address == self._engine.account and fact.payload is not None:
                if fact == self._counts and self._uploaded == self._network.uploaded:
                    continue
                self._counts, self._uploaded = fact, self._network.uploaded
            news.append(fact)
        if news:
            await self._engine.drive(partial(self._learning, facts=news))

    def _learning(self, s: State, *, facts: Iterable[Fetched]) -> Done[None]:
        schemes, now = tuple(self._engine.schemes.values()), self._engine.now()
        effects: list[Effect] = []
        for fact in facts:
            effects += pipeline.learn_all(s, schemes, fact, now).effects
        return Done(None, tuple(effects))

    async def _open_all(self, news: sync.News) -> None:
        """In the order of arrival. Who must be asked about first holds up only what he sent himself."""
        for sender in news.unreadable:
            self._tell(Address(sender or self._engine.account), "it is not a sealed message")
        held: dict[Address, list[Arrived]] = {}
        wrong = False
        for arrived in news.messages:
            sender = arrived.stanza.sender
            if sender in held:
                held[sender].append(arrived)
                continue
            received = await self._guarded(arrived, self._engine.receive_now(arrived))
            if received is None:
                held[sender] = [arrived]
            else:
                wrong |= self._opened(arrived, received)
        wrong |= any(await asyncio.gather(*(self._open_in_order(each) for each in held.values())))
        if wrong:
            self._repair_soon()

    async def _open_in_order(self, messages: Iterable[Arrived]) -> bool:
        return any([self._opened(each, await self._guarded(each, self._engine.receive(each))) for each in messages])

    async def _guarded(self, arrived: Arrived, opening: Awaitable[T]) -> T | Received:
        try:
            return await opening
        except TillieError:
            raise
        except Exception as error:  # noqa: BLE001  a fault of ours in one message must not stop all others
            fault = PeerError(f"it made Tillie fail ({type(error).__name__}).")
            scheme = self._engine.scheme_named(arrived.scheme)
            return Received(pipeline.failed(scheme, arrived, fault))

    def _opened(self, arrived: Arrived, received: Received) -> bool:
        """Whether something is wrong that may be repaired. What entered no inbox is told: nobody finds it there."""
        opened = received.opened
        if received.inbox is None and opened.error:
            self._tell(arrived.stanza.sender, opened.error)
        return opened.kind in _WRONG

    def _repair_soon(self) -> None:
        """New sessions for broken ones, without holding up what comes: other homeservers may be asked."""
        if self._repair is None or self._repair.done():
            self._repair = asyncio.ensure_future(self._tick())

    async def _tick(self) -> None:
        try:
            await self._engine.tick()
        except Exception as error:  # noqa: BLE001  as above
            self._say(told(error))

    def _tell(self, about: Address, why: str) -> None:
        self._notice(Notice(about, f"a message can't be read: {why}"))

    def _say(self, text: str) -> None:
        self._notice(Notice(self._engine.account, text))

    def _say_away(self, why: str) -> None:
        if not self._away:
            self._away = True
            self._say(f"{why} Trying again.")


def told(error: Exception) -> str:
    """What a person is told of it; of a fault of ours only its kind, because its words may quote a message."""
    return str(error) if isinstance(error, TillieError) else f"This is a fault in Tillie ({type(error).__name__})."


def _keeping(s: State, *, position: str) -> Done[None]:
    records.save_position(s, position)
    return Done(None)
