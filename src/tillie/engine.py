"""The one loop: transaction, step, commit, outbox, answers to Needs through a `Network` of three methods.

A step is a pure function of an open transaction. It ends in `Done`, which was committed together with its effects
before anybody sees it, or in `Need`, which was rolled back; then the needs are answered, learned in transactions of
their own, and the step runs again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

from tillie import pipeline
from tillie.crypto.random import random_bytes
from tillie.errors import KeyChanged, NetworkError, NoProgress, NoSession, NotTrusted, PeerError, Rejected, UsageError
from tillie.model import (
    Address,
    Arrived,
    Ask,
    CatchUp,
    Changed,
    Content,
    Decide,
    Decided,
    Deliver,
    Device,
    Done,
    Effect,
    Fact,
    Fetch,
    Fetched,
    Kind,
    Need,
    Notice,
    Opened,
    Publication,
    Publish,
    RolledBack,
    Sealed,
    Send,
    State,
    Time,
)
from tillie.pipeline import Delivery, Policy
from tillie.schemes import Scheme
from tillie.store import Committed, MemoryStore, Outgoing, Store

T = TypeVar("T")

MAX_ROUNDS = 8  # a send needs lists, then bundles, then a decision
MAX_PARALLEL = 16  # fetches under way at once
TICK_INTERVAL = 300.0  # seconds between two looks at what is due
LONGEST_PAUSE = 3_600.0  # ... between two attempts at what the server refuses to publish

Step = Callable[[State], "Done[T] | Need"]
DecisionMaker = Callable[[Decide], Awaitable[Sequence[Decided]]]


class Network(Protocol):
    """What carries sealed elements. A call that can't be made raises `Unreachable`; a server's error is `Rejected`."""

    async def send(self, item: Send) -> None:
        """Put a finished stanza on the wire. Later, when the server is known to have it, call `Engine.acknowledged`.
        `Rejected` says that the server will never take it."""

    async def fetch(self, ask: Fetch) -> Fetched: ...

    async def publish(self, publication: Publication) -> None:
        """Publish at our own account, and make sure that the node has these options."""


class Received(NamedTuple):
    """What one element turned out to be; `inbox` is the row to acknowledge, None if nothing waits there."""

    opened: Opened
    inbox: int | None = None


class Engine:
    """One account at work. All methods may be called from several tasks at once.

    `schemes` are the account's, by name; the first is the one that is meant where none is named.
    """

    def __init__(
        self,
        store: Store,
        network: Network,
        *schemes: Scheme,
        policy: Policy = Policy.BLIND,
        decide: DecisionMaker | None = None,
        notice: Callable[[Notice], None] = lambda _: None,
        clock: Callable[[], Time] = time.time,
        history: bool = False,
    ) -> None:
        self.store = store
        self.network = network
        self.schemes: dict[str, Scheme] = {scheme.name: scheme for scheme in schemes}
        self.policy = policy
        self.history = history
        self._decide = decide
        self.own: Address | None = None  # our full JID, set by the network as long as we are online
        self._notice = notice
        self.tap: Callable[[Send | Arrived], None] = lambda _: None  # sealed stanzas in the order of the wire
        self._followers: list[Callable[[Changed], None]] = []
        self._clock = clock
        # The store runs on a thread of its own, so that a commit never holds up the event loop.
        self._thread = None if isinstance(store, MemoryStore) else ThreadPoolExecutor(1, thread_name_prefix="store")
        self._closed = False
        self._fetches: dict[Fetch, asyncio.Task[Fetched]] = {}
        self._slots = asyncio.Semaphore(MAX_PARALLEL)
        # Stanza id -> outbox row, None once the server is known to have it; and those that have left the outbox then.
        self._on_the_wire: dict[str, int | None] = {}
        self._gone: set[str] = set()
        self._refused: dict[str, Rejected | None] = {}  # by the id of a message that `send` is at
        self._sending = asyncio.Lock()
        self._publishing = False
        self._look_again = False
        self._tried: dict[int, Time] = {}  # outbox rows that could not be published, until the first tick after a time
        self._complaint = ""  # the last that was told, as long as it holds

    @property
    def account(self) -> Address:
        return self.store.account

    @property
    def scheme(self) -> Scheme:
        return next(iter(self.schemes.values()))

    def scheme_named(self, name: str) -> Scheme:
        """The scheme of this name, "" for the first. Raises `UsageError`."""
        if not name:
            return self.scheme
        if name not in self.schemes:
            raise UsageError(f"This account does not use {name}; it uses {', '.join(self.schemes)}.")
        return self.schemes[name]

    def now(self) -> Time:
        """The time by this engine's clock."""
        return self._clock()

    def add(self, scheme: Scheme) -> None:
        """Use one more scheme; before `start`."""
        self.schemes[scheme.name] = scheme

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def drive(self, step: Step[T]) -> T:
        """Run a step until it is done, answering what it needs. Its effects are committed, then flushed."""
        committed = await self._drive(step)
        await self.flush()
        return committed.value

    async def _drive(self, step: Step[T]) -> Committed[T]:
        asked: tuple[Ask, ...] = ()
        for _ in range(MAX_ROUNDS):
            out = await self._run(step)
            if isinstance(out, Committed):
                return out
            if out.asks == asked:
                break
            asked = out.asks
            for fact in await self._answer(asked):
                await self._learn(fact)
        raise NoProgress(", ".join(_describe(ask) for ask in asked))

    async def _run(self, step: Step[T]) -> Committed[T] | Need:
        if self.store.rolled_back:
            # Before anything is sent: message keys that the old copy would use next may have been used.
            self._tell(await self._on_store(self._renew))
        out = await self._on_store(lambda: self.store.run(step))
        if isinstance(out, Committed):
            self._tell(out.effects)
        return out

    def _renew(self) -> tuple[Effect, ...]:
        if not self.store.rolled_back:
            return ()  # another task was first
        renewed = self.store.accept_roll_back(self._learning(RolledBack()))
        return renewed.effects if isinstance(renewed, Committed) else ()

    async def _on_store(self, call: Callable[[], T]) -> T:
        if self._closed:
            raise UsageError("The store is closed.")
        if self._thread is None:
            return call()
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _answer(self, asks: tuple[Ask, ...]) -> list[Fact]:
        fetches = [self._fetch(ask) for ask in asks if isinstance(ask, Fetch)]
        facts: list[Fact] = list(await asyncio.gather(*fetches))
        for ask in asks:
            if isinstance(ask, Decide):
                facts += await self._ask_person(ask)
        return facts

    async def _fetch(self, ask: Fetch) -> Fetched:
        """One fetch for all who ask at once."""
        task = self._fetches.get(ask)
        if task is None:
            task = self._fetches[ask] = asyncio.create_task(self._fetch_now(ask))
            task.add_done_callback(lambda _: self._fetches.pop(ask, None))
        return await asyncio.shield(task)

    async def _fetch_now(self, ask: Fetch) -> Fetched:
        async with self._slots:
            try:
                return await self.network.fetch(ask)
            except Rejected as error:
                return Fetched(ask.address, ask.node, ask.item, None, error.condition)

    async def _ask_person(self, ask: Decide) -> Sequence[Decided]:
        decided = await self._decide(ask) if self._decide else ()
        missing = {(d.address, d.key) for d in ask.devices} - {(d.address, d.key) for d in decided}
        if missing:
            names = ", ".join(f"{device.address} {device.name}" for device in ask.devices)
            raise (KeyChanged if ask.changed else NotTrusted)(names, devices=ask.devices)
        return decided

    # -- what programs call -----------------------------------------------------------------------------------------

    async def start(self, *, catching_up: bool = False) -> Device | None:
        """After login: make and announce our devices if there are none, renew after a roll-back, do what is due.
        Returns the first scheme's device.

        `catching_up`: what waits for us is read next, and keys that it may need are kept until `catch_up` ended.
        """
        devices = [await self._prepare(scheme) for scheme in self.schemes.values()]
        if catching_up:
            await self._learn(CatchUp(ended=False))
        self._on_the_wire.clear()
        await self.tick()
        return devices[0] if devices else None

    async def _prepare(self, scheme: Scheme) -> Device | None:
        return (await self._drive(lambda s: scheme.prepare(s, self._clock()))).value

    async def send(
        self,
        to: Address,
        content: Content,
        *,
        type: str = "chat",
        message_id: str = "",
        plain: tuple[bytes, ...] = (),
        scheme: str = "",
    ) -> Sealed:
        """Seal content and hand it to the network. When this returns, the message is in the store's outbox: it survives
        a crash and is sent, the same bytes, until the server has it. Raises NotTrusted, NoRecipients, ..., and
        `Rejected` if the server said at once that it will never take it."""
        message_id = message_id or random_bytes(12).hex()
        chosen = self.scheme_named(scheme)
        self._refused[message_id] = None
        try:
            sealed = await self.drive(
                lambda s: pipeline.send(
                    s, chosen, self.policy, content, to, message_id, self._clock(),
                    type=type, plain=plain, remember=self.history,
                )
            )  # fmt: skip
        finally:
            refusal = self._refused.pop(message_id)
        if refusal is not None:
            raise refusal
        return sealed

    async def seal(
        self,
        to: Address,
        content: Content,
        *,
        also: tuple[Address, ...] = (),
        iq: tuple[str, str] | None = None,
        scheme: str = "",
    ) -> Sealed:
        """Seal content for what the caller sends (an IQ, a presence, an item): it does not enter the outbox."""
        chosen = self.scheme_named(scheme)
        return await self.drive(
            lambda s: pipeline.seal(s, chosen, self.policy, content, to, self._clock(), also=also, iq=iq)
        )

    async def receive(self, got: Arrived) -> Received:
        """Open what came, after fetching what that needs. What it was is the return value, whatever the other client
        did; only the store can raise.

        When this returns, a message for the program is in the inbox, and the network may acknowledge it.
        """
        received = await self.receive_now(got)
        if received is not None:
            return received
        scheme = self.scheme_named(got.scheme)
        try:
            return self._received(await self._drive(self._opening(scheme, got)))
        except PeerError as error:
            return Received(pipeline.failed(scheme, got, error))
        except (NoProgress, NetworkError) as error:
            return Received(pipeline.failed(scheme, got, NoSession(f"its key could not be fetched: {error.detail}")))

    async def receive_now(self, got: Arrived) -> Received | None:
        """As `receive`; None if something must be fetched first, and nothing has happened."""
        self.tap(got)
        scheme = self.scheme_named(got.scheme)
        try:
            out = await self._run(self._opening(scheme, got))
        except PeerError as error:
            return Received(pipeline.failed(scheme, got, error))
        return None if isinstance(out, Need) else self._received(out)

    def _opening(self, scheme: Scheme, got: Arrived) -> Step[Opened]:
        return lambda s: pipeline.open(s, scheme, self.policy, got, self._clock(), remember=self.history)

    def _received(self, out: Committed[Opened]) -> Received:
        row = next((id for id, effect in zip(out.ids, out.effects, strict=True) if isinstance(effect, Deliver)), None)
        return Received(out.value, row)

    async def after_receiving(self, opened: Opened) -> None:
        """What a received message entails on the network: answers, a fresh bundle, a repair."""
        if opened.kind is Kind.NO_SESSION or opened.kind is Kind.TAMPERED:
            await self.tick()
        else:
            await self.flush()

    async def learn(self, fact: Fact) -> None:
        await self._learn(fact)
        await self.flush()

    async def _learn(self, fact: Fact) -> None:
        await self._run(self._learning(fact))

    def _learning(self, fact: Fact) -> Step[None]:
        return lambda s: pipeline.learn_all(s, self.schemes.values(), fact, self._clock())

    async def catch_up(self, *, ended: bool) -> None:
        await self.learn(CatchUp(ended))

    async def tick(self) -> None:
        """Rotation, repairs and refreshes that are due, and another try for what the outbox holds."""
        self._tried = {row: until for row, until in self._tried.items() if until > self._clock()}
        for scheme in self.schemes.values():
            await self._tick(scheme)
        await self.flush()

    async def _tick(self, scheme: Scheme) -> None:
        await self._drive(lambda s: scheme.tick(s, self._clock()))

    # -- inbox and outbox -------------------------------------------------------------------------------------------

    async def inbox(self) -> list[tuple[int, Delivery]]:
        """What was opened and not yet acknowledged by the program, oldest first."""
        rows = await self._on_store(self.store.inbox)
        return [(row, pipeline.decode_delivery(message)) for row, message in rows]

    async def acknowledge(self, *rows: int) -> None:
        await self._on_store(lambda: self.store.acknowledge(*rows))

    async def outbox(self) -> list[Outgoing]:
        return await self._on_store(self.store.outbox)

    async def flush(self) -> None:
        """Hand the outbox to the network: messages in their order, then what is to be published. What can't go out now
        stays there; it is not an error. No message waits for a server that is slow or unwilling to publish."""
        if not await self._flush_sends():
            return
        self._look_again = True
        if self._publishing:
            return  # whoever publishes now looks at the outbox again before it ends
        self._publishing = True
        try:
            while self._look_again:
                self._look_again = False
                await self._publish_all()
        finally:
            self._publishing = False

    async def flush_bound(self) -> None:
        """Hand over what only our resource may send: another process of this account may have sealed it. The rest of
        what it sealed it sends itself."""
        await self._flush_sends(bound=True)

    async def _flush_sends(self, *, bound: bool = False) -> bool:
        async with self._sending:
            # Not sooner: a flush that looked at the outbox before they left it must not send them a second time. A
            # stanza of a session that comes twice ends it.
            while self._gone:
                self._on_the_wire.pop(self._gone.pop(), None)
            for item in await self.outbox():
                if not isinstance(item.effect, Send) or (bound and not item.effect.sender):
                    continue
                if not await self._is_ours_to_send(item.id, item.effect):
                    continue
                if not await self._try(self._flush_send(item.id, item.effect)):
                    return False
        return True

    async def _publish_all(self) -> None:
        for row in await self.outbox():
            if isinstance(row.effect, Publish) and row.id not in self._tried:
                self._tried[row.id] = 0.0
                await self._try(self._flush_publish(row, row.effect))
                self._look_again = True

    async def _try(self, work: Awaitable[None]) -> bool:
        try:
            await work
        except NetworkError as error:
            complaint = f"not sent yet: {error} {error.hint if isinstance(error, Rejected) else ''}".strip()
            if complaint != self._complaint:
                self._complaint = complaint
                self._notice(Notice(self.account, complaint))
            return False
        self._complaint = ""
        return True

    async def _is_ours_to_send(self, row: int, item: Send) -> bool:
        """What belongs to a session is for the connection with its resource, and for a while only."""
        if item.until and item.until < self._clock():
            await self._on_store(lambda: self.store.sent(row))
            return False
        return not item.sender or item.sender == self.own

    async def _flush_send(self, row: int, item: Send) -> None:
        if item.id in self._on_the_wire:
            return
        self._on_the_wire[item.id] = row
        self.tap(item)
        try:
            await self.network.send(item)
        except Rejected as error:
            # It would hold up everything behind it, for ever.
            self._on_the_wire.pop(item.id, None)
            await self._on_store(lambda: self.store.sent(row))
            if item.id in self._refused:
                self._refused[item.id] = error
            else:
                self._notice(Notice(self.account, f"not sent: {error}"))
        except NetworkError:
            self._on_the_wire.pop(item.id, None)
            raise

    async def _flush_publish(self, row: Outgoing, item: Publish) -> None:
        scheme = self.schemes.get(item.scheme)
        if scheme is None:
            return  # this program does not use it now; one that does will publish
        try:
            publication = await self._drive(lambda s: scheme.publication(s, item.what, self._clock()))
        except NoProgress as error:
            raise Rejected(error.detail) from error
        if publication.value is not None:
            try:
                await self.network.publish(publication.value)
            except Rejected:
                # It may be for good: each pause is as long as all before. Another request for it is tried at once.
                self._tried[row.id] = self._clock() + min(max(0.0, self._clock() - row.created), LONGEST_PAUSE)
                raise
            await self._run(lambda s: scheme.published(s, item.what, self._clock()))
        await self._on_store(lambda: self.store.sent(row.id))

    async def acknowledged(self, *ids: str) -> None:
        """The server has the stanzas with these ids: they need not be sent again."""
        rows = {id: row for id in ids if (row := self._on_the_wire.get(id)) is not None}
        if rows:
            self._on_the_wire.update(dict.fromkeys(rows))
            await self._on_store(lambda: self.store.sent(*rows.values()))
            self._gone.update(rows)

    def disconnected(self) -> None:
        """The connection is gone: what was not acknowledged goes out again, the same bytes, at the next flush."""
        self._on_the_wire.clear()
        self._gone.clear()
        self._tried.clear()

    def follow(self, callback: Callable[[Changed], None]) -> Callable[[], None]:
        """Call back with every `Changed` of a step, after its commit; what is returned ends that."""
        self._followers.append(callback)
        return lambda: self._followers.remove(callback)

    async def close(self) -> None:
        if self._closed:
            return
        await self._on_store(self.store.close)
        self._closed = True
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    def _tell(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, Notice):
                self._notice(effect)
            elif isinstance(effect, Changed):
                for callback in tuple(self._followers):
                    callback(effect)


def _describe(ask: Ask) -> str:
    if isinstance(ask, Fetch):
        return f"{ask.node} {ask.item} of {ask.address}"
    return f"decisions on {len(ask.devices)} keys"
