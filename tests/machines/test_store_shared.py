"""Several processes on one file: their steps run one after the other, none is lost, and nobody cries wolf."""

from __future__ import annotations

from pathlib import Path

from support.children import die, fork, wait
from support.store import key, read, reopen
from tillie.model import Done, Send, State

ROUNDS = 200


def _count(state: State) -> Done[None]:
    # Two records that must always agree, and a read that a cache could spoil.
    number = int(state.get(key("n")) or 0)
    assert int(state.get(key("m")) or 0) == number
    state.put(key("n"), str(number + 1).encode())
    state.put(key("m"), str(number + 1).encode())
    return Done(None, (Send(b"<a/>", str(number)),))


def _counting(path: Path) -> None:
    store = reopen(path)
    for _ in range(ROUNDS):
        store.run(_count)
    assert not store.rolled_back
    store.close()


def test_two_processes_lose_no_update(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    children = [fork(lambda: _counting(path)) for _ in range(2)]
    assert [wait(pid) for pid in children] == [0, 0]
    store = reopen(path)
    assert read(store, key("n")) == [str(2 * ROUNDS).encode()]
    assert [row.effect for row in store.outbox()] == [Send(b"<a/>", str(number)) for number in range(2 * ROUNDS)]
    assert not store.rolled_back
    store.close()


def test_opening_while_another_writes_is_never_a_roll_back(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    reopen(path).close()

    def opening() -> None:
        for _ in range(60):
            store = reopen(path)
            assert not store.rolled_back
            store.run(_count)
            store.close()

    children = [fork(lambda: _counting(path)), fork(opening)]
    assert [wait(pid) for pid in children] == [0, 0]


def test_many_processes_make_one_store(tmp_path: Path) -> None:
    for attempt in range(5):
        path = tmp_path / str(attempt) / "store.db"

        def make(path: Path = path) -> None:
            store = reopen(path)
            assert not store.rolled_back
            store.run(_count)
            store.close()

        children = [fork(make) for _ in range(4)]
        assert [wait(pid) for pid in children] == [0] * 4
        store = reopen(path)
        assert read(store, key("n")) == [b"4"]
        assert not store.rolled_back
        store.close()


def test_a_process_killed_inside_its_step_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "store.db"

    def dying(state: State) -> Done[None]:
        _count(state)
        die()
        return Done(None)

    pid = fork(lambda: (reopen(path).run(dying), None)[1])
    assert wait(pid) < 0
    store = reopen(path)
    store.run(_count)
    assert read(store, key("n")) == [b"1"]
    store.close()
