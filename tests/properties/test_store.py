"""What holds for every store, in memory or in a file (tillie.store.contract)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from support.store import ALICE, KINDS, everything, key, make, read, write
from tillie.errors import TooLarge, UsageError
from tillie.model import Deliver, Done, Fetch, Key, Need, Notice, Publish, Send, State
from tillie.store import EFFECTS_MAX, Committed, Store

NEED = Need((Fetch(ALICE, "node"),))


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = make(request.param, tmp_path)
    yield made
    made.close()


def test_a_step_sees_what_it_wrote_and_the_next_one_too(store: Store) -> None:
    def step(state: State) -> Done[tuple[bytes | None, ...]]:
        before = state.get(key("bob"))
        state.put(key("bob"), b"1")
        state.put(key("carol"), b"2")
        return Done((before, state.get(key("bob"))))

    out = store.run(step)
    assert isinstance(out, Committed)
    assert out.value == (None, b"1")
    assert out.effects == ()
    assert out.ids == ()
    assert read(store, key("bob"), key("carol"), key("dave")) == [b"1", b"2", None]


def test_none_deletes_and_deleting_nothing_is_fine(store: Store) -> None:
    store.run(write({key("bob"): b"1"}))
    store.run(write({key("bob"): None, key("nobody"): None}))
    assert read(store, key("bob")) == [None]
    assert everything(store, "omemo", "session") == []
    store.run(write({key("bob"): b""}))
    assert read(store, key("bob")) == [b""]


def test_a_need_leaves_nothing_behind(store: Store) -> None:
    def step(state: State) -> Need:
        state.put(key("bob"), b"1")
        return NEED

    assert store.run(step) is NEED
    assert read(store, key("bob")) == [None]


def test_an_exception_leaves_nothing_behind_and_the_store_usable(store: Store) -> None:
    store.run(write({key("bob"): b"old"}))

    def step(state: State) -> Done[None]:
        state.put(key("bob"), b"new")
        state.put(key("carol"), b"1")
        raise KeyError("no")

    with pytest.raises(KeyError):
        store.run(step)
    assert read(store, key("bob"), key("carol")) == [b"old", None]


def test_scan_has_prefix_order_and_the_step_s_own_changes(store: Store) -> None:
    names = ["b", "a", "a/1", "a/10", "a/2", "aé", "a\U0001f600", "a\uffff", "A", "", "a\0b"]
    store.run(
        write({key(name): name.encode() for name in names} | {key("a/1", "prekey"): b"", key("a", scheme="x"): b""})
    )

    def step(state: State) -> Done[list[str]]:
        state.put(key("a/2"), None)
        state.put(key("a/3"), b"new")
        state.put(key("a/1"), b"changed")
        return Done([f"{each.name}={value!r}" for each, value in state.scan(Key("omemo", "session", "a/"))])

    out = store.run(step)
    assert isinstance(out, Committed)
    assert out.value == ["a/1=b'changed'", "a/10=b'a/10'", "a/3=b'new'"]
    found = [each.name for each, _ in everything(store, "omemo", "session", "a")]
    expected = [name for name in [*names, "a/3"] if name.startswith("a") and name != "a/2"]
    assert found == sorted(expected, key=str.encode)
    assert next(each for each, _ in everything(store, "omemo", "session")) == key("")
    assert everything(store, "omemo", "session", "zzz") == everything(store, "omemo", "none") == []


def test_a_scan_shows_the_moment_it_was_made(store: Store) -> None:
    store.run(write({key(str(n)): b"" for n in range(3)}))

    def step(state: State) -> Done[int]:
        seen = 0
        for each, _ in state.scan(key("")):
            seen += 1
            state.put(each, None)
            assert state.get(each) is None
            state.put(key(each.name + "x"), b"")
        return Done(seen)

    out = store.run(step)
    assert isinstance(out, Committed)
    assert out.value == 3
    assert [each.name for each, _ in everything(store, "omemo", "session")] == ["0x", "1x", "2x"]


def test_effects_enter_outbox_and_inbox_in_order_and_leave_by_id(store: Store) -> None:
    effects = (Send(b"<a/>", "1"), Notice(ALICE, "hear"), Deliver(b"hello"), Publish("omemo", "bundle"))
    out = store.run(write({}, *effects))
    assert isinstance(out, Committed)
    assert out.effects == effects
    send, notice, deliver, publish = out.ids
    assert notice is None
    assert send is not None
    assert deliver is not None
    assert publish is not None
    assert [(row.id, row.effect) for row in store.outbox()] == [(send, effects[0]), (publish, effects[3])]
    assert all(row.created > 1.7e9 for row in store.outbox())
    assert store.inbox() == [(deliver, b"hello")]
    store.sent(deliver)  # another box's id
    store.acknowledge(send, publish)
    assert len(store.outbox()) == 2
    assert len(store.inbox()) == 1
    store.sent(send, publish, 12345)
    store.sent(send)
    store.acknowledge(deliver)
    store.acknowledge()
    assert store.outbox() == []
    assert store.inbox() == []


def test_a_newer_publish_replaces_the_older_under_a_new_id(store: Store) -> None:
    first = store.run(write({}, Publish("omemo", "bundle"), Publish("omemo", "devices")))
    second = store.run(write({}, Publish("omemo", "bundle"), Publish("other", "bundle")))
    assert isinstance(first, Committed)
    assert isinstance(second, Committed)
    assert [row.effect for row in store.outbox()] == [
        Publish("omemo", "devices"),
        Publish("omemo", "bundle"),
        Publish("other", "bundle"),
    ]
    assert first.ids[0] is not None
    store.sent(first.ids[0])  # whoever was publishing the older one is done
    assert [row.id for row in store.outbox()] == [first.ids[1], *second.ids]


def test_a_publish_twice_in_one_step_is_one_row(store: Store) -> None:
    out = store.run(write({}, Publish("omemo", "bundle"), Publish("omemo", "bundle")))
    assert isinstance(out, Committed)
    assert [row.id for row in store.outbox()] == [out.ids[1]]


def test_ids_are_never_used_twice(store: Store) -> None:
    seen: set[int] = set()
    for n in range(20):
        out = store.run(write({key("n"): bytes([n])}, Send(b"<a/>", str(n)), Deliver(b"m")))
        assert isinstance(out, Committed)
        ids = {each for each in out.ids if each is not None}
        assert len(ids) == 2
        assert not ids & seen
        seen |= ids
        store.sent(*ids)
        store.acknowledge(*ids)


def test_the_number_of_effects_is_bounded(store: Store) -> None:
    store.run(write({}, *[Notice(ALICE, "")] * EFFECTS_MAX))
    with pytest.raises(TooLarge):
        store.run(write({key("bob"): b"1"}, *[Notice(ALICE, "")] * (EFFECTS_MAX + 1)))
    assert read(store, key("bob")) == [None]


def test_a_step_must_not_call_its_store(store: Store) -> None:
    def nested(state: State) -> Done[None]:
        state.put(key("bob"), b"1")
        store.run(write({key("carol"): b"1"}))
        return Done(None)

    for step in (nested, lambda state: store.sent(1), lambda state: store.outbox()):
        with pytest.raises(UsageError):
            store.run(step)
    assert read(store, key("bob"), key("carol")) == [None, None]


def test_threads_run_one_after_the_other(store: Store) -> None:
    def count(state: State) -> Done[None]:
        state.put(key("n"), str(int(state.get(key("n")) or 0) + 1).encode())
        return Done(None, (Send(b"<a/>", "x"),))

    threads = [Thread(target=lambda: [store.run(count) for _ in range(50)]) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert read(store, key("n")) == [b"200"]
    assert len(store.outbox()) == 200


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(UsageError):
        store.run(write({}))
    with pytest.raises(UsageError):
        store.outbox()


def test_a_store_shows_no_values(store: Store) -> None:
    store.run(write({key("bob"): b"very secret"}, Send(b"very secret", "1"), Deliver(b"very secret")))
    assert "secret" not in repr(store)
    assert repr(bytes(range(32)))[2:-1] not in repr(store)
    assert ALICE in repr(store)


def test_accepting_a_roll_back_is_a_step_like_any_other(store: Store) -> None:
    assert not store.rolled_back
    out = store.accept_roll_back(write({key("bob"): b"1"}, Send(b"<a/>", "1")))
    assert isinstance(out, Committed)
    assert read(store, key("bob")) == [b"1"]
    assert len(store.outbox()) == 1
    assert not store.rolled_back
