"""What a server refuses to publish: told once, tried again ever more rarely, at once when there is something new."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from support.ends import ALICE, BUNDLES, START
from support.wire import Wire
from tillie.engine import LONGEST_PAUSE, TICK_INTERVAL, Engine
from tillie.errors import NetworkError, Rejected, Unreachable
from tillie.model import Done, Notice, Publication, Publish, State
from tillie.schemes.omemo import Omemo
from tillie.store import MemoryStore

LONG = 4 * 3_600


class Unwilling(Wire):
    """It publishes nothing as long as it has a reason."""

    def __init__(self, why: NetworkError | None) -> None:
        super().__init__({})
        self.why = why
        self.asked = 0

    async def publish(self, publication: Publication) -> None:
        self.asked += publication.node == BUNDLES  # a list that does not name us is wanted anew at each tick
        if self.why is not None:
            raise self.why
        await super().publish(publication)


class Ticking:
    """An engine with something to publish, whose clock goes from tick to tick."""

    def __init__(self, why: NetworkError | None) -> None:
        self.now = START
        self.network = Unwilling(why)
        self.notices: list[Notice] = []
        store = MemoryStore(ALICE, clock=lambda: self.now)
        self.engine = Engine(store, self.network, Omemo(ALICE), clock=lambda: self.now, notice=self.notices.append)

    async def tick(self) -> int:
        """After the usual time; how often the network was asked."""
        self.now += TICK_INTERVAL
        before = self.network.asked
        await self.engine.tick()
        return self.network.asked - before

    async def want(self) -> int:
        """Something new is to be published; how often the network was asked."""
        before = self.network.asked

        def step(s: State) -> Done[None]:
            return Done(None, (Publish("omemo", "bundle"),))

        await self.engine.drive(step)
        return self.network.asked - before


def test_what_is_refused_is_told_once_and_tried_ever_more_rarely_up_to_an_hour() -> None:
    async def scenario() -> None:
        alice = Ticking(Rejected("It is not to its taste.", hint="Bring another."))
        await alice.engine.start()
        asked = [await alice.tick() for _ in range(int(LONG / TICK_INTERVAL))]
        when = [number for number, times in enumerate(asked, 1) if times]
        pauses = [(later - earlier) * TICK_INTERVAL for earlier, later in pairwise(when)]
        assert pauses == sorted(pauses)
        assert (min(pauses), max(pauses)) == (TICK_INTERVAL, LONGEST_PAUSE)
        told = [each.text for each in alice.notices]
        assert told == ["not sent yet: The server answered with an error. It is not to its taste. Bring another."]

    asyncio.run(scenario())


def test_a_new_request_is_tried_at_once_and_what_is_taken_at_last_is_gone() -> None:
    async def scenario() -> None:
        alice = Ticking(Rejected())
        await alice.engine.start()
        for _ in range(10):
            await alice.tick()
        assert await alice.want() == 1
        assert await alice.tick() == 1, "and its pauses are short again"
        alice.network.why = None
        for _ in range(int(LONGEST_PAUSE / TICK_INTERVAL)):
            await alice.tick()
        assert await alice.engine.outbox() == []
        alice.network.why = Rejected()
        alice.notices.clear()
        await alice.want()
        assert len(alice.notices) == 1, "it is told again, after it was mended"

    asyncio.run(scenario())


def test_a_server_that_is_away_is_asked_at_every_tick_and_told_of_once() -> None:
    async def scenario() -> None:
        alice = Ticking(Unreachable())
        await alice.engine.start()
        assert [await alice.tick() for _ in range(10)] == [1] * 10
        assert [each.text for each in alice.notices] == ["not sent yet: The server can't be reached."]

    asyncio.run(scenario())
