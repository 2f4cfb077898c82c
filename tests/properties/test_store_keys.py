"""Where a store's key comes from: the right key, or a typed error that quotes nothing secret."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError

from support.children import fork, wait
from support.store import ALICE, BOB
from tillie.errors import StoreDamaged, StoreLocked, StoreTooNew, StoreUnwritable, UsageError
from tillie.store import keys
from tillie.store.passphrase import ITERATIONS_MAX, LANES_MAX, MEMORY_MAX, WORK_MAX, Cost, lock, unlock

CHEAP = Cost(memory=64, iterations=1, lanes=1)
KEY = bytes(range(32))


def ring(module: str = "keyring.backends.SecretService") -> KeyringBackend:
    """A keyring in a dict that says it comes from `module`."""
    entries: dict[tuple[str, str], str] = {}

    class Fake:
        __module__ = module

        def get_password(self, service: str, name: str) -> str | None:
            return entries.get((service, name))

        def set_password(self, service: str, name: str, password: str) -> None:
            entries[service, name] = password

        def delete_password(self, service: str, name: str) -> None:
            if entries.pop((service, name), None) is None:
                raise PasswordDeleteError

    fake: KeyringBackend = Fake()  # type: ignore[assignment]
    return fake


# -- the keyring ----------------------------------------------------------------------------------------------------


def test_the_keyring_keeps_one_key_for_each_account() -> None:
    safe = ring()
    with pytest.raises(StoreLocked):
        keys.from_keyring(ALICE, ring=safe)
    key = keys.from_keyring(ALICE, create=True, ring=safe)
    assert len(key) == 32
    assert keys.from_keyring(ALICE, create=True, ring=safe) == keys.from_keyring(ALICE, ring=safe) == key
    assert keys.from_keyring(BOB, create=True, ring=safe) != key
    keys.forget(ALICE, ring=safe)
    keys.forget(ALICE, ring=safe)
    with pytest.raises(StoreLocked):
        keys.from_keyring(ALICE, ring=safe)


@pytest.mark.parametrize(
    "module",
    [
        "keyring.backends.null",
        "keyring.backends.fail",
        "keyrings.alt.file",
        "keyrings.alt.Gnome",
        "keyring.backend",
        "x",
    ],
)
def test_only_known_keyrings_are_used(module: str) -> None:
    unsafe = ring(module)
    with pytest.raises(StoreLocked, match=module):
        keys.from_keyring(ALICE, create=True, ring=unsafe)
    assert unsafe.get_password(keys.SERVICE, ALICE) is None


def test_the_safe_one_of_a_chain_is_used() -> None:
    chain, safe, unsafe = ring("keyring.backends.chainer"), ring("keyring.backends.kwallet"), ring("keyrings.alt.file")
    chain.backends = [unsafe, safe]  # type: ignore[attr-defined]
    keys.from_keyring(ALICE, create=True, ring=chain)
    assert safe.get_password(keys.SERVICE, ALICE)
    assert unsafe.get_password(keys.SERVICE, ALICE) is None
    chain.backends = [unsafe]  # type: ignore[attr-defined]
    with pytest.raises(StoreLocked):
        keys.from_keyring(ALICE, ring=chain)


def test_this_machine_has_no_keyring_in_tests() -> None:
    with pytest.raises(StoreLocked) as caught:
        keys.from_keyring(ALICE)
    assert caught.value.hint


def test_a_keyring_that_refuses_is_not_quoted() -> None:
    class Refusing:
        __module__ = "keyring.backends.SecretService"

        def get_password(self, service: str, name: str) -> str:
            raise KeyringLocked("the password is hunter2")

    with pytest.raises(StoreLocked) as caught:
        keys.from_keyring(ALICE, ring=Refusing())  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)


# -- a passphrase ---------------------------------------------------------------------------------------------------


def test_a_passphrase_gives_the_same_key_every_time(tmp_path: Path) -> None:
    store = tmp_path / "folder" / "store.db"
    with pytest.raises(StoreLocked):
        keys.from_passphrase(store, "correct horse")
    key = keys.from_passphrase(store, "correct horse", create=True, cost=CHEAP)
    assert keys.from_passphrase(store, "correct horse") == key
    assert keys.from_passphrase(store, "correct horse", create=True) == key
    assert [each.name for each in store.parent.iterdir()] == ["store.db.key"]
    assert stat.S_IMODE(keys.key_file(store).stat().st_mode) == 0o600
    assert stat.S_IMODE(store.parent.stat().st_mode) == 0o700
    with pytest.raises(StoreLocked, match="passphrase is wrong"):
        keys.from_passphrase(store, "wrong horse")


def test_the_form_of_a_letter_does_not_matter(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    key = keys.from_passphrase(store, "caf\u00e9", create=True, cost=CHEAP)
    assert keys.from_passphrase(store, "cafe\u0301") == key


def test_a_passphrase_can_change_and_the_key_stays(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    key = keys.from_passphrase(store, "old", create=True, cost=CHEAP)
    with pytest.raises(StoreLocked):
        keys.change_passphrase(store, "wrong", "new", cost=CHEAP)
    assert keys.from_passphrase(store, "old") == key
    keys.change_passphrase(store, "old", "new", cost=CHEAP)
    assert keys.from_passphrase(store, "new") == key
    with pytest.raises(StoreLocked):
        keys.from_passphrase(store, "old")
    assert [each.name for each in tmp_path.iterdir()] == ["store.db.key"]


def test_no_new_key_is_made_for_an_old_store(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    store.write_bytes(b"something")
    with pytest.raises(StoreLocked, match="missing"):
        keys.from_passphrase(store, "a", create=True, cost=CHEAP)
    assert not keys.key_file(store).exists()


def test_processes_that_make_a_key_at_once_get_the_same(tmp_path: Path) -> None:
    store = tmp_path / "store.db"

    def make(number: int) -> None:
        key = keys.from_passphrase(store, "a", create=True, cost=CHEAP)
        (tmp_path / f"out{number}").write_bytes(key)

    children = [fork(lambda number=number: make(number)) for number in range(4)]  # type: ignore[misc]
    assert [wait(pid) for pid in children] == [0] * 4
    assert len({each.read_bytes() for each in tmp_path.glob("out*")}) == 1
    assert len(list(tmp_path.glob("store.db.key*"))) == 1


@pytest.mark.parametrize("passphrase", ["", "x" * 1025, "\ud800"])
def test_unusable_passphrases(tmp_path: Path, passphrase: str) -> None:
    with pytest.raises(UsageError) as caught:
        keys.from_passphrase(tmp_path / "store.db", passphrase, create=True, cost=CHEAP)
    assert "xxx" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert not list(tmp_path.iterdir())


def test_the_longest_passphrase_works(tmp_path: Path) -> None:
    keys.from_passphrase(tmp_path / "store.db", "x" * 1024, create=True, cost=CHEAP)


def test_a_key_file_that_can_t_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnwritable):
        keys.from_passphrase(tmp_path / "file" / "store.db", "a", create=True, cost=CHEAP)


# -- the sealed form ------------------------------------------------------------------------------------------------

MAGIC = b"TILLIEKY"


def test_every_altered_byte_is_found() -> None:
    locked = lock("a", b"secret", MAGIC, cost=CHEAP)
    assert unlock("a", locked, MAGIC) == b"secret"
    for place in range(len(locked)):
        altered = bytearray(locked)
        altered[place] ^= 1
        with pytest.raises((StoreDamaged, StoreLocked, StoreTooNew)):
            unlock("a", bytes(altered), MAGIC)
        with pytest.raises(StoreDamaged):
            unlock("a", locked[:place], MAGIC)
    with pytest.raises(StoreDamaged):
        unlock("a", locked + b"x", MAGIC)


def test_a_wrong_passphrase_fails_on_an_empty_one_too() -> None:
    locked = lock("a", b"", MAGIC, cost=CHEAP)
    assert unlock("a", locked, MAGIC) == b""
    with pytest.raises(StoreLocked):
        unlock("b", locked, MAGIC)


def test_a_file_of_another_kind_or_version() -> None:
    locked = lock("a", b"", MAGIC, cost=CHEAP)
    with pytest.raises(StoreDamaged, match="another kind"):
        unlock("a", locked, b"TILLIEBK")
    with pytest.raises(StoreTooNew, match="version 2"):
        unlock("a", locked[:8] + b"\x02" + locked[9:], MAGIC)


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (Cost(MEMORY_MAX, 4, 4), Cost(MEMORY_MAX + 1, 1, 4)),
        (Cost(1 << 16, ITERATIONS_MAX, 4), Cost(1 << 10, ITERATIONS_MAX + 1, 4)),
        (Cost(1 << 16, 3, LANES_MAX), Cost(1 << 16, 3, LANES_MAX + 1)),
        (Cost(8, 1, 1), Cost(7, 1, 1)),
        (Cost(WORK_MAX >> 2, 4, 1), Cost(WORK_MAX >> 2, 5, 1)),
        (Cost(64, 1, 1), Cost(64, 0, 1)),
        (Cost(64, 1, 1), Cost(64, 1, 0)),
        (Cost(64, 1, 1), Cost(0xFFFFFFFF, 0xFFFFFFFF, 255)),
    ],
)
def test_what_a_file_may_ask_for_is_bounded(inside: Cost, outside: Cost) -> None:
    assert inside.is_bearable()
    assert not outside.is_bearable()
    with pytest.raises(UsageError):
        lock("a", b"", MAGIC, cost=outside)
    locked = lock("a", b"", MAGIC, cost=CHEAP)
    asking = outside.memory.to_bytes(4, "big") + outside.iterations.to_bytes(4, "big") + bytes([outside.lanes])
    with pytest.raises(StoreDamaged, match="more work"):
        unlock("a", locked[:9] + asking + locked[18:], MAGIC)


# -- files and credentials ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [KEY, KEY.hex().encode(), KEY.hex().upper().encode() + b"\n", KEY.hex().encode() + b"\r\n"]
)
def test_a_key_in_a_file_or_credential(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    assert keys.from_file(tmp_path / "key") == KEY
    assert keys.from_credential("key", {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == KEY


@pytest.mark.parametrize(
    "content", [b"", KEY[:31], KEY + b"\n", KEY.hex().encode()[:-1], KEY.hex().encode() + b"0", b"g" * 64, b"\xff" * 64]
)
def test_what_is_no_key(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(StoreLocked) as caught:
        keys.from_file(tmp_path / "key")
    assert KEY.hex()[40:50] not in str(caught.value)


def test_files_that_can_t_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(StoreLocked):
            keys.from_file(path)
    (tmp_path / "long").write_bytes(bytes(5000))
    with pytest.raises(StoreDamaged):
        keys.from_file(tmp_path / "long")


def test_credentials_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreLocked):
        keys.from_credential("key")
    with pytest.raises(StoreLocked):
        keys.from_credential("key", {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    for name in ("", ".", "..", "../key", "/etc/passwd"):
        with pytest.raises(UsageError):
            keys.from_credential(name, {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_nothing_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = keys.from_passphrase(tmp_path / "store.db", "correct horse", create=True, cost=CHEAP)
    entry = keys.from_keyring(ALICE, create=True, ring=ring())
    for secret in ("correct horse", key.hex(), entry.hex()):
        assert secret not in caplog.text
    assert os.environ.get("CREDENTIALS_DIRECTORY") is None
