"""A process killed at any place leaves a store that holds whole steps only, and all that returned (issue: kill -9)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from support.children import die, fork, wait
from support.store import everything, key, read, reopen
from tillie.model import Deliver, Done, Publish, Send, State
from tillie.store import Committed, SqlStore
from tillie.store import generation as generation_module
from tillie.store import sql as sql_module

STEPS = 3


def _step(number: int) -> Callable[[State], Done[None]]:
    def step(state: State) -> Done[None]:
        name = str(number).encode()
        state.put(key("session"), name)
        state.put(key("key"), name)
        state.put(key(f"prekey {number}"), b"used")
        return Done(None, (Send(name, str(number)), Deliver(name), Publish("omemo", "bundle")))

    return step


def _work(path: Path, told: int) -> None:
    """Steps 1 .. STEPS, each told to the pipe `told` as soon as it returned; then the first leaves outbox and inbox."""
    store = reopen(path)
    first: tuple[int | None, ...] = ()
    for number in range(1, STEPS + 1):
        out = store.run(_step(number))
        assert isinstance(out, Committed)
        first = first or out.ids
        os.write(told, bytes([number]))
    assert first[0] is not None
    assert first[1] is not None
    store.sent(first[0])
    store.acknowledge(first[1])
    os.write(told, b"x")
    store.close()


def _check(path: Path, told: bytes) -> None:
    store = reopen(path)
    assert not store.rolled_back
    session, other = read(store, key("session"), key("key"))
    done = int(session or 0)
    assert session == other, "half a step"
    assert done >= max((each for each in told if each <= STEPS), default=0), "a step that returned is lost"
    assert [each.name for each, _ in everything(store, "omemo", "session", "prekey")] == [
        f"prekey {number}" for number in range(1, done + 1)
    ]
    sends = [int(row.effect.id) for row in store.outbox() if isinstance(row.effect, Send)]
    delivered = [int(message) for _, message in store.inbox()]
    for waiting in (sends, delivered):
        assert waiting == list(range(1, done + 1)) or (done == STEPS and waiting == list(range(2, done + 1)))
        assert b"x" not in told or waiting[0] == 2
    assert sum(isinstance(row.effect, Publish) for row in store.outbox()) == (done > 0)
    store.run(_step(done + 1))  # and it goes on
    assert read(store, key("session")) == [str(done + 1).encode()]
    store.close()


def _dying(place: int) -> None:
    """Kill this process before its `place`-th statement or touch of the side file, counted from now."""
    left = [place]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            die()

    connect = sql_module.connect

    def traced(path: Path, secret: bytes) -> object:
        connection = connect(path, secret)
        connection.set_trace_callback(lambda _: count())
        return connection

    def touching(call: Callable[..., object]) -> Callable[..., object]:
        def touch(*arguments: object) -> object:
            count()
            return call(*arguments)

        return touch

    sql_module.connect = traced  # type: ignore[assignment]
    for name in ("open", "pwrite", "ftruncate", "fsync"):
        setattr(generation_module.os, name, touching(getattr(os, name)))


def _run_until(path: Path, place: int) -> tuple[int, bytes]:
    reading, writing = os.pipe()

    def child() -> None:
        _dying(place)
        _work(path, writing)

    pid = fork(child)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    return wait(pid), told


@pytest.mark.parametrize("fresh", [True, False], ids=["new file", "old file"])
def test_killed_at_every_place(tmp_path: Path, fresh: bool) -> None:
    place, ended = 0, -signal.SIGKILL
    while ended == -signal.SIGKILL:
        place += 1
        path = tmp_path / str(place) / "store.db"
        if not fresh:
            reopen(path).close()
        ended, told = _run_until(path, place)
        _check(path, told)
    assert ended == 0
    assert place > 40, "the places were not counted"


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """From outside, wherever it happens to be: between system calls too."""
    for moment in range(12):
        path = tmp_path / str(moment) / "store.db"
        reading, writing = os.pipe()

        def endless(path: Path = path, writing: int = writing) -> None:
            store: SqlStore = reopen(path)
            number = 0
            while True:
                number += 1
                store.run(_step(number))
                os.write(writing, bytes([number % 256]))

        pid = fork(endless)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            count = len(pipe.read(1 + 7 * moment))
            os.kill(pid, signal.SIGKILL)
            count += len(pipe.read())
        assert wait(pid) == -signal.SIGKILL
        store = reopen(path)
        assert not store.rolled_back
        session, other = read(store, key("session"), key("key"))
        assert session == other
        done = int(session or 0)
        assert done >= count
        assert [int(message) for _, message in store.inbox()] == list(range(1, done + 1))
        store.close()
