"""Transcripts: where the store's key comes from, backup and restore, what goes wrong with files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.terminal import ALICE, BOB, Person, World, alice, bob, world
from tillie.cli import exits, unlock
from tillie.errors import Unreachable, UsageError

__all__ = ["alice", "bob", "world"]


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "passphrase"
    path.write_text("correct horse battery staple\n")
    return str(path)


def raises(error: Exception) -> None:
    raise error


def own_key(person: Person) -> tuple[int, str]:
    keys = [json.loads(line) for line in person("devices", "--json", "--offline").lines]
    mine = next(key for key in keys if key["this"])
    return mine["device"], mine["fingerprint"]


# -- keys -----------------------------------------------------------------------------------------------------------


def test_a_passphrase_opens_the_store_and_can_be_changed(world: World, secret: str, tmp_path: Path) -> None:
    alice = Person(world, "alice", ALICE)
    given = ("--password-file", str(alice.password_file), "--passphrase-file", secret)
    assert alice("account", "add", ALICE, *given).code == exits.OK
    assert json.loads(alice("account", "list", "--json").out)["key"] == "passphrase"

    assert alice("history", BOB, "--passphrase-file", secret).code == exits.OK
    nobody = alice("history", BOB)
    assert (nobody.code, "--passphrase-file" in nobody.err) == (exits.STORE, True)
    (tmp_path / "wrong").write_text("wrong\n")
    wrong = alice("history", BOB, "--passphrase-file", str(tmp_path / "wrong"))
    assert (wrong.code, "passphrase is wrong" in wrong.err) == (exits.STORE, True)

    change = ("--passphrase-file", secret, "--new-passphrase-file", str(tmp_path / "wrong"))
    assert alice("account", "passphrase", *change).code == exits.OK
    assert alice("history", BOB, "--passphrase-file", secret).code == exits.STORE
    assert alice("history", BOB, "--passphrase-file", str(tmp_path / "wrong")).code == exits.OK


def test_a_service_has_credentials(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.terminal import PASSWORD

    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "tillie.password").write_text(PASSWORD)
    (tmp_path / "credentials" / "tillie.key").write_bytes(bytes(range(32)))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    alice = Person(world, "alice", ALICE)
    assert alice("account", "add", ALICE, "--no-keep-password").code == exits.OK
    assert json.loads(alice("account", "list", "--json").out)["key"] == "credential"
    assert alice("devices").code == exits.OK
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert alice("devices").code == exits.STORE


def test_a_lost_key_file_is_an_error_of_the_store(alice: Person) -> None:
    (alice.home / "key").unlink()
    assert alice("history", BOB).code == exits.STORE
    (alice.home / "key").write_text("00" * 32)
    wrong = alice("history", BOB)
    assert (wrong.code, "does not open with this key" in wrong.err) == (exits.STORE, True)


def test_the_kept_password_can_be_changed_and_forgotten(alice: Person) -> None:
    assert alice("account", "password", "--password-file", str(alice.password_file)).code == exits.OK
    assert alice("devices").code == exits.OK
    assert alice("account", "password", "--forget").code == exits.OK
    nobody = alice("devices")
    assert (nobody.code, "nobody to ask" in nobody.err) == (exits.NETWORK, True)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\xff\xfe\n", b"x" * (unlock.MAX_SECRET_BYTES + 1)], ids=["none", "empty", "bytes", "long"]
)
def test_what_is_no_line_of_text_is_no_secret(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        unlock.first_line(tmp_path / "secret")
    assert "\\xff" not in str(caught.value)


def test_a_secret_at_the_limit_is_taken(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x" * unlock.MAX_SECRET_BYTES)
    assert len(unlock.first_line(tmp_path / "secret")) == unlock.MAX_SECRET_BYTES
    with pytest.raises(UsageError):
        unlock.first_line(tmp_path / "nothing")


# -- backup ---------------------------------------------------------------------------------------------------------


def test_a_restored_account_keeps_identity_trust_and_history(
    world: World, alice: Person, bob: Person, secret: str
) -> None:
    alice("verify", BOB, answers="y\n")
    alice("send", BOB, "before")
    device, fingerprint = own_key(alice)
    file = str(world.folder / "alice.backup")
    assert alice("backup", file, "--backup-passphrase-file", secret).code == exits.OK
    alice("send", BOB, "after the backup")

    again = Person(world, "alice", ALICE, machine="new laptop")
    given = ("--password-file", str(again.password_file), "--key-file", str(again.home / "key"))
    done = again("restore", file, "--backup-passphrase-file", secret, *given)
    assert done.code == exits.OK, done.err
    assert f"tillie devices remove {device}\n" in done.err
    new_device, new_fingerprint = own_key(again)
    assert new_fingerprint == fingerprint
    assert new_device != device
    assert [line.rpartition("  ")[2] for line in again("history", BOB).lines] == ["before"]
    assert json.loads(again("trust", "list", BOB, "--json").lines[0])["trust"] == "verified"

    # The peer reads the first message after a restore, and answers.
    assert again("send", BOB, "back again").code == exits.OK
    heard = bob("listen", "--count", "3")
    assert [line.rpartition("  ")[2] for line in heard.lines] == ["before", "after the backup", "back again"]
    assert bob("send", ALICE, "welcome").code == exits.OK
    assert again("listen", "--count", "1").out.endswith("welcome\n")


def test_a_backup_holds_no_password_unless_asked(world: World, alice: Person, secret: str) -> None:
    from support.terminal import PASSWORD
    from tillie.store import backup

    passphrase = Path(secret).read_text().strip()
    for option, expected in (((), False), (("--with-password",), True)):
        file = world.folder / f"backup {expected}"
        assert alice("backup", str(file), *option, "--backup-passphrase-file", secret).code == exits.OK
        records, words = backup.read(file.read_bytes(), passphrase)
        assert words["account"] == ALICE
        assert any(PASSWORD.encode() in value for _, value in records) is expected
        assert not {key.kind for key, _ in records} & {"session", "prekey", "signed", "own", "skipped"}
        assert (file.stat().st_mode & 0o777) == 0o600


def test_a_backup_does_not_replace_a_file_unasked(world: World, alice: Person, secret: str) -> None:
    file = world.folder / "precious"
    file.write_text("precious")
    assert alice("backup", str(file), "--backup-passphrase-file", secret).code == exits.USAGE
    assert file.read_text() == "precious"
    assert alice("backup", str(file), "--force", "--backup-passphrase-file", secret).code == exits.OK
    assert alice("backup", str(file / "x"), "--backup-passphrase-file", secret).code == exits.STORE


def test_a_wrong_passphrase_or_file_restores_nothing(world: World, alice: Person, secret: str, tmp_path: Path) -> None:
    file = world.folder / "alice.backup"
    alice("backup", str(file), "--backup-passphrase-file", secret)
    again = Person(world, "alice", ALICE, machine="new laptop")
    (tmp_path / "wrong").write_text("wrong")
    assert again("restore", str(file), "--backup-passphrase-file", str(tmp_path / "wrong")).code == exits.STORE
    assert again("restore", str(tmp_path / "wrong"), "--backup-passphrase-file", secret).code == exits.STORE
    assert again("restore", str(tmp_path / "none"), "--backup-passphrase-file", secret).code == exits.USAGE
    assert again("account", "list").out == ""
    here = alice("restore", str(file), "--backup-passphrase-file", secret)
    assert (here.code, "is here already" in here.err) == (exits.USAGE, True)


def test_restored_without_a_network_the_device_is_made_later(world: World, alice: Person, secret: str) -> None:
    file = str(world.folder / "alice.backup")
    fingerprint = own_key(alice)[1]
    alice("backup", file, "--with-password", "--backup-passphrase-file", secret)
    again = Person(world, "alice", ALICE, machine="new laptop")
    world.refuse = lambda: raises(Unreachable())
    done = again("restore", file, "--backup-passphrase-file", secret, "--key-file", str(again.home / "key"))
    assert done.code == exits.NETWORK
    world.refuse = lambda: None
    assert again("devices").code == exits.OK
    assert own_key(again)[1] == fingerprint


def test_a_second_live_copy_is_noticed(world: World, alice: Person, bob: Person, secret: str) -> None:
    file = str(world.folder / "alice.backup")
    alice("backup", file, "--backup-passphrase-file", secret)
    again = Person(world, "alice", ALICE, machine="new laptop")
    given = ("--password-file", str(again.password_file), "--key-file", str(again.home / "key"))
    assert again("restore", file, "--backup-passphrase-file", secret, *given).code == exits.OK
    old, new = own_key(alice)[0], own_key(again)[0]
    for person, other in ((alice, new), (again, old)):
        done = person("send", BOB, "hello", "--report")
        reported = {line.split()[0]: line for line in done.lines}
        assert "skipped" in reported[str(other)]
        assert "own identity key" in reported[str(other)]
    heard = bob("send", ALICE, "hello").err
    assert "shares its identity key with another device" in heard
    assert heard.endswith(f"Sent: sealed for 2 devices of {ALICE}.\n")
