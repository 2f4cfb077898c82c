"""The file of a store: who may open it, what a damaged, foreign, newer or older one says (B25, B63)."""

from __future__ import annotations

import os
import resource
import shutil
import stat
from pathlib import Path

import pytest

import tillie.store
from support.children import fork, wait
from support.store import ALICE, BOB, STORE_KEY, key, read, reopen, write
from tillie.errors import (
    StoreDamaged,
    StoreError,
    StoreLocked,
    StoreMismatch,
    StoreTooNew,
    StoreUnwritable,
    UsageError,
)
from tillie.model import Deliver, Done, Fetch, Need, Send, State
from tillie.store import Committed
from tillie.store.schema import PAGE, VERSION, connect, translated

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with some content, closed."""
    path = tmp_path / "folder" / "store.db"
    store = reopen(path)
    store.run(write({key(str(n)): os.urandom(900) for n in range(50)}, Send(b"<a/>", "1"), Deliver(b"hello")))
    store.close()
    return path


def side(path: Path) -> Path:
    return path.with_name(path.name + ".generation")


def contents(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.parent.iterdir()}


# -- who may open it ------------------------------------------------------------------------------------------------


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        path = tmp_path / "a" / "b" / "store.db"
        store = reopen(path)
        store.run(write({key("bob"): b"1"}))
        files = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
        store.close()
    finally:
        os.umask(old)
    assert files == {f"store.db{end}": 0o600 for end in ("", "-wal", "-shm", ".generation")}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_nothing_is_legible_on_the_disk(path: Path) -> None:
    store = reopen(path)
    secret = b"a very secret sentence"
    store.run(write({key("alice-to-bob"): secret}, Send(secret, "an-id"), Deliver(secret)))
    disk = b"".join(contents(path).values())
    store.close()
    disk += b"".join(contents(path).values())
    for each in (secret, b"alice", b"an-id", b"records", b"SQLite format", STORE_KEY, STORE_KEY.hex().encode()):
        assert each not in disk


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_the_key_has_32_bytes(tmp_path: Path, size: int) -> None:
    with pytest.raises(UsageError):
        tillie.store.open(tmp_path / "store.db", ALICE, bytes(size))
    assert not list(tmp_path.iterdir())


def test_another_key_is_refused(path: Path) -> None:
    before = contents(path)
    with pytest.raises(StoreLocked) as caught:
        tillie.store.open(path, ALICE, b"x" * 32)
    assert (b"x" * 32).hex() not in str(caught.value) + repr(caught.value.__context__)
    assert contents(path) == before


def test_what_never_was_a_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_bytes(b"Dear Bob, " * 1000)
    with pytest.raises(StoreLocked):
        reopen(path)
    assert path.read_bytes() == b"Dear Bob, " * 1000


def test_sqlcipher_writes_nothing_to_the_terminal(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StoreLocked):
        tillie.store.open(path, ALICE, b"x" * 32)
    assert capfd.readouterr() == ("", "")


def test_another_account_is_refused(path: Path) -> None:
    with pytest.raises(StoreMismatch, match=r"alice@example\.org"):
        tillie.store.open(path, BOB, STORE_KEY)


def test_another_device_is_refused(path: Path) -> None:
    reopen(path, device=7).close()
    reopen(path, device=7).close()
    reopen(path).close()
    with pytest.raises(StoreMismatch, match="device 7"):
        reopen(path, device=8)


# -- damaged, newer, unwritable -------------------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_damaged(path: Path) -> None:
    whole = path.read_bytes()
    for size in (1, 15, 16, 1000, PAGE - 1, PAGE, PAGE + 1, len(whole) // 2, len(whole) - PAGE):
        path.write_bytes(whole[:size])
        with pytest.raises(StoreDamaged):
            reopen(path)


def test_a_flipped_bit_is_found_when_it_is_read(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    for page in range(1, len(whole) // PAGE):
        whole[page * PAGE + 1000] ^= 1
    path.write_bytes(whole)
    with pytest.raises(StoreDamaged):
        reopen(path)


@pytest.mark.parametrize("damage", ["bit", "cut"])
def test_a_damaged_page_fails_the_step_that_needs_it(path: Path, damage: str) -> None:
    whole = bytearray(path.read_bytes())
    whole[-1000] ^= 1  # the newest page of records
    path.write_bytes(whole if damage == "bit" else whole[:-1])
    store = reopen(path)
    with pytest.raises(StoreDamaged):
        read(store, *[key(str(n)) for n in range(50)])
    store.close()


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    connection = connect(path, STORE_KEY)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    before = contents(path)
    with pytest.raises(StoreTooNew):
        reopen(path)
    assert contents(path) == before


def test_a_full_disk_fails_the_step_and_the_store_stays_usable(path: Path) -> None:
    store = reopen(path)
    assert store._connection is not None
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages + 3}").fetchall()
    with pytest.raises(StoreUnwritable):
        store.run(write({key("big"): os.urandom(100_000), key("0"): b"changed"}, Send(b"<b/>", "2")))
    assert read(store, key("big")) == [None]
    assert len(read(store, key("0"))[0] or b"") == 900
    assert len(store.outbox()) == 1
    store.run(write({key("1"): b"small"}))
    assert read(store, key("1")) == [b"small"]
    store.close()


def test_a_write_that_the_system_refuses(path: Path) -> None:
    """The system's own limit on the size of files stands for a full disk: here in the middle of a real commit."""

    def child() -> None:
        store = reopen(path)
        store.run(write({key("small"): b"1"}))
        soft = path.with_name(path.name + "-wal").stat().st_size + 20_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))
        with pytest.raises(StoreUnwritable):
            store.run(write({key("big"): os.urandom(100_000), key("small"): b"2"}, Send(b"<b/>", "2")))
        assert read(store, key("small"), key("big")) == [b"1", None]
        assert len(store.outbox()) == 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.run(write({key("small"): b"3"}))
        store.close()

    assert wait(fork(child)) == 0
    store = reopen(path)
    assert not store.rolled_back
    assert read(store, key("small"), key("big")) == [b"3", None]
    store.close()


@pytest.mark.parametrize("what", ["folder", "file", "new file"])
def test_read_only(path: Path, what: str) -> None:
    """Permissions bind nobody who is root, so the child becomes another user first."""
    for each in (path.parent, *path.parent.iterdir()):
        if os.geteuid() == 0:
            os.chown(each, NOBODY, NOBODY)
    if what == "file":
        path.chmod(0o400)
    else:
        path.parent.chmod(0o500)
    os.chdir(path.parent)  # the folders above belong to somebody else

    def child() -> None:
        if os.geteuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        with pytest.raises(StoreUnwritable):
            reopen(Path("other.db" if what == "new file" else path.name))

    try:
        assert wait(fork(child)) == 0
    finally:
        os.chdir("/")
        path.parent.chmod(0o700)


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "store.db").mkdir()
    with pytest.raises(StoreUnwritable):
        reopen(tmp_path / "store.db")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnwritable):
        reopen(tmp_path / "file" / "store.db")


def test_every_system_error_is_one_of_ours() -> None:
    with pytest.raises(StoreError), translated():
        raise PermissionError(13, "Permission denied")


# -- rolled back ----------------------------------------------------------------------------------------------------


def _copy(path: Path, to: str) -> None:
    shutil.copy(path, path.with_name(to))


def _restore(path: Path, of: str) -> None:
    shutil.copy(path.with_name(of), path)


def test_a_store_one_step_old_is_found_until_it_is_accepted(path: Path) -> None:
    _copy(path, "copy")
    store = reopen(path)
    newest = store.run(write({key("0"): b"a message key was used"}, Send(b"<b/>", "2")))
    store.close()
    _restore(path, "copy")
    for _ in range(3):  # it stays marked, whatever else is written
        store = reopen(path)
        assert store.rolled_back
        out = store.run(write({key("x"): b""}, Send(b"<c/>", "3")))
        assert isinstance(out, Committed)
        assert isinstance(newest, Committed)
        assert out.ids[0] is not None
        assert newest.ids[0] is not None
        assert out.ids[0] > newest.ids[0]
        store.close()
    store = reopen(path)
    store.accept_roll_back(write({key("0"): None}))
    assert not store.rolled_back
    store.close()
    store = reopen(path)
    assert not store.rolled_back
    assert read(store, key("0")) == [None]
    store.close()


def test_accepting_fails_with_its_step(path: Path) -> None:
    side(path).unlink()
    store = reopen(path)

    def failing(state: State) -> Done[None]:
        state.put(key("0"), None)
        raise KeyError

    with pytest.raises(KeyError):
        store.accept_roll_back(failing)
    assert store.rolled_back
    store.accept_roll_back(lambda state: Need((Fetch(ALICE, "node"),)))
    assert store.rolled_back
    store.close()
    store = reopen(path)
    assert store.rolled_back
    store.close()


@pytest.mark.parametrize("left", [None, b"", b"1234567", b"123456789", b"\xff" * 7 + b"\x00" * 1000])
def test_a_lost_or_damaged_side_file_counts_as_a_roll_back_once(path: Path, left: bytes | None) -> None:
    if left is None:
        side(path).unlink()
    else:
        side(path).write_bytes(left)
    store = reopen(path)
    assert store.rolled_back
    store.accept_roll_back(write({}))
    store.close()
    assert len(side(path).read_bytes()) == 8
    store = reopen(path)
    assert not store.rolled_back
    store.close()


def test_a_side_file_that_lags_behind_is_no_alarm(path: Path) -> None:
    shutil.copy(side(path), path.with_name("side copy"))
    store = reopen(path)
    for n in range(5):
        store.run(write({key("n"): bytes([n])}))
    store.close()
    shutil.copy(path.with_name("side copy"), side(path))
    store = reopen(path)
    assert not store.rolled_back
    store.run(write({key("n"): b"x"}))
    store.close()
    assert side(path).read_bytes() > path.with_name("side copy").read_bytes()


def test_steps_that_write_nothing_leave_the_generation(path: Path) -> None:
    before = side(path).read_bytes()
    store = reopen(path)
    read(store, key("0"))
    store.run(lambda state: Need((Fetch(ALICE, "node"),)))
    store.sent(*[row.id for row in store.outbox()])
    store.acknowledge(*[each for each, _ in store.inbox()])
    store.close()
    assert side(path).read_bytes() == before
    store = reopen(path)
    assert not store.rolled_back
    assert store.outbox() == []
    assert store.inbox() == []
    store.close()


def test_a_new_database_beside_an_old_side_file_is_new(path: Path) -> None:
    store = reopen(path)
    old = [row.id for row in store.outbox()]
    store.close()
    path.unlink()
    store = reopen(path)
    assert not store.rolled_back
    assert store.outbox() == []
    out = store.run(write({}, Send(b"<a/>", "1")))
    assert isinstance(out, Committed)
    assert out.ids[0] is not None
    assert out.ids[0] > max(old)
    store.close()
    store = reopen(path)
    assert not store.rolled_back
    store.close()
