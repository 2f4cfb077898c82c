"""Both stores against a model of what a store is, in any order of steps; the one in a file also reopened, and twice."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from support.store import ALICE, everything, reopen
from tillie.model import Deliver, Done, Effect, Fetch, Key, Need, Notice, Publish, Send, State
from tillie.store import Committed, MemoryStore, Store

_NAMES = st.text(alphabet=st.sampled_from("ab/\u00e9\U0001f600"), max_size=3)
_KEYS = st.builds(Key, st.sampled_from(("omemo", "trust")), st.sampled_from(("session", "key")), _NAMES)
_CHANGES = st.lists(st.tuples(_KEYS, st.none() | st.binary(max_size=8)), max_size=5)
_EFFECTS = st.lists(
    st.builds(Send, st.binary(max_size=4), st.text(max_size=2))
    | st.builds(Publish, st.sampled_from(("omemo", "x")), st.sampled_from(("bundle", "devices")))
    | st.builds(Deliver, st.binary(max_size=4))
    | st.just(Notice(ALICE, "text")),
    max_size=4,
)
_ENDINGS = st.sampled_from(("done", "done", "done", "need", "raise"))


class _Raised(Exception):
    pass


class StoreMachine(RuleBasedStateMachine):
    """Several doors to one store (`stores`), and dicts that say what must be in it."""

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[Key, bytes] = {}
        self.out: dict[int, Effect] = {}
        self.inbox: dict[int, bytes] = {}
        self.used: set[int] = set()
        self.stores: list[Store] = []

    def door(self, number: int) -> Store:
        return self.stores[number % len(self.stores)]

    @rule(door=st.integers(0, 1), changes=_CHANGES, effects=_EFFECTS, ending=_ENDINGS)
    def step(self, door: int, changes: list[tuple[Key, bytes | None]], effects: list[Effect], ending: str) -> None:
        model = dict(self.records)

        def run(state: State) -> Done[int] | Need:
            for each, value in changes:
                assert state.get(each) == model.get(each)
                state.put(each, value)
                model.pop(each, None)
                if value is not None:
                    model[each] = value
                assert state.get(each) == value
                assert list(state.scan(each)) == _scan(model, each)
            if ending == "raise":
                raise _Raised
            return Done(7, tuple(effects)) if ending == "done" else Need((Fetch(ALICE, "n"),))

        try:
            out = self.door(door).run(run)
        except _Raised:
            return
        if isinstance(out, Committed):
            assert out.value == 7
            assert out.effects == tuple(effects)
            self.records = model
            self.remember(out)

    def remember(self, out: Committed[int]) -> None:
        for each, effect in zip(out.ids, out.effects, strict=True):
            if isinstance(effect, Notice):
                assert each is None
                continue
            assert each is not None
            assert each not in self.used
            self.used.add(each)
            if isinstance(effect, Deliver):
                self.inbox[each] = effect.message
            else:
                if isinstance(effect, Publish):
                    self.out = {old: other for old, other in self.out.items() if other != effect}
                self.out[each] = effect

    @rule(door=st.integers(0, 1), data=st.data())
    def acknowledge(self, door: int, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.used)), max_size=3)) if self.used else []
        self.door(door).sent(*ids)
        self.door(door + 1).acknowledge(*ids)
        for each in ids:
            self.out.pop(each, None)
            self.inbox.pop(each, None)

    @invariant()
    def agrees(self) -> None:
        for store in self.stores:
            assert [(row.id, row.effect) for row in store.outbox()] == list(self.out.items())
            assert store.inbox() == list(self.inbox.items())
            for scheme in ("omemo", "trust"):
                for kind in ("session", "key"):
                    assert everything(store, scheme, kind) == _scan(self.records, Key(scheme, kind, ""))
            assert not store.rolled_back

    def teardown(self) -> None:
        for store in self.stores:
            store.close()


def _scan(model: dict[Key, bytes], prefix: Key) -> list[tuple[Key, bytes]]:
    return sorted(
        (
            (each, value)
            for each, value in model.items()
            if each[:2] == prefix[:2] and each.name.startswith(prefix.name)
        ),
        key=lambda row: row[0].name.encode(),
    )


class MemoryMachine(StoreMachine):
    @initialize()
    def make(self) -> None:
        self.stores = [MemoryStore(ALICE)]


class SqlMachine(StoreMachine):
    """Two connections to one file, as two processes would have: neither may ever see the other's past."""

    @initialize()
    def make(self) -> None:
        self.folder = Path(mkdtemp())
        self.stores = [reopen(self.folder / "store.db") for _ in range(2)]

    @rule(door=st.integers(0, 1))
    def close_and_open(self, door: int) -> None:
        self.stores[door].close()
        self.stores[door] = reopen(self.folder / "store.db")

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "folder"):
            rmtree(self.folder)


TestMemoryStore = MemoryMachine.TestCase
TestMemoryStore.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestSqlStore = SqlMachine.TestCase
TestSqlStore.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
