"""Opening an account's store: where its key comes from, and the secrets that a person types or a service is given.

Nothing secret is ever an argument or an environment variable: others on the machine could read it there.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tillie import store as stores
from tillie.account import Account
from tillie.cli import accounts, show
from tillie.cli.accounts import Entry, Network
from tillie.crypto.random import random_bytes
from tillie.errors import AuthenticationFailed, StoreLocked, StoreUnwritable, UsageError
from tillie.model import Address
from tillie.store import keys

MAX_SECRET_BYTES = 4_096
ATTEMPTS = 3  # at a passphrase that is typed
KEY_CREDENTIAL, PASSPHRASE_CREDENTIAL, PASSWORD_CREDENTIAL = "tillie.key", "tillie.passphrase", "tillie.password"
_NOBODY = "There is nobody to ask: standard input is no terminal."


@contextlib.contextmanager
def account(wanted: str | None, passphrase_file: Path | None, network: Network | None = None) -> Iterator[Account]:
    """The account that was asked for, or the one on this network, with its store open. Raises the `StoreError`s."""
    entry = accounts.choose(wanted, network)
    key = _key(entry, passphrase_file)
    store = stores.open(entry.store, Address(entry.address), key)
    try:
        yield Account(store)
    finally:
        store.close()


def _key(entry: Entry, passphrase_file: Path | None) -> bytes:
    if not entry.store.exists():
        raise StoreLocked(f"{entry.store} is gone.", hint="Restore a backup, or remove the account and add it again.")
    if entry.key == "keyring":
        return keys.from_keyring(Address(entry.address))
    if entry.key == "file":
        return keys.from_file(Path(entry.key_file))
    if entry.key == "credential":
        return keys.from_credential(KEY_CREDENTIAL)
    given = first_line(passphrase_file) if passphrase_file else credential(PASSPHRASE_CREDENTIAL)
    return keys.from_passphrase(entry.store, given) if given else _ask_passphrase(entry)


def _ask_passphrase(entry: Entry) -> bytes:
    for attempt in range(1, ATTEMPTS + 1):
        typed = ask(
            f"Passphrase of the store of {entry.address}: ", StoreLocked(_NOBODY, hint="Give --passphrase-file.")
        )
        try:
            return keys.from_passphrase(entry.store, typed)
        except (StoreLocked, UsageError) as error:
            if attempt == ATTEMPTS:
                raise
            show.note(f"{error.detail} Again, please.")
    raise AssertionError("unreachable")


# -- making a key ---------------------------------------------------------------------------------------------------


def source(wanted: str, address: Address, key_file: Path | None, passphrase_file: Path | None) -> str:
    """Where a new store's key will come from, if "auto" was wanted: what was given, else what is safest here."""
    if wanted != "auto":
        return wanted
    if key_file is not None:
        return "file"
    if passphrase_file is not None or credential(PASSPHRASE_CREDENTIAL):
        return "passphrase"
    if _has_credential(KEY_CREDENTIAL):
        return "credential"
    try:
        keys.from_keyring(address, create=True)
    except StoreLocked:
        return "passphrase"
    return "keyring"


def make_key(entry: Entry, passphrase_file: Path | None) -> bytes:
    """The key of a store that is not there yet."""
    if entry.key == "keyring":
        return keys.from_keyring(Address(entry.address), create=True)
    if entry.key == "file":
        _make_key_file(Path(entry.key_file))
        return keys.from_file(Path(entry.key_file))
    if entry.key == "credential":
        return keys.from_credential(KEY_CREDENTIAL)
    given = first_line(passphrase_file) if passphrase_file else credential(PASSPHRASE_CREDENTIAL)
    if not given:
        show.note("A passphrase protects keys and messages on this machine. It is asked for each time.")
        given = ask_twice("New passphrase", UsageError(_NOBODY, hint="Give --passphrase-file or --key-file."))
    return keys.from_passphrase(entry.store, given, create=True)


def _make_key_file(path: Path) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise StoreUnwritable(f"{path} can't be made: {error.strerror}.") from None
    with os.fdopen(fd, "w") as file:
        file.write(random_bytes(keys.KEY_SIZE).hex() + "\n")
    show.note(f"Made {path}. Whoever has it and the store can read your messages.")


def change_passphrase(wanted: str | None, old_file: Path | None, new_file: Path | None) -> str:
    """Seal an account's key under another passphrase; the account's address."""
    entry = accounts.choose(wanted)
    if entry.key != "passphrase":
        raise UsageError(f"The store of {entry.address} has no passphrase: its key comes from a {entry.key}.")
    nobody = UsageError(_NOBODY, hint="Give --passphrase-file and --new-passphrase-file.")
    old = first_line(old_file) if old_file else ask("Old passphrase: ", nobody)
    keys.from_passphrase(entry.store, old)  # a wrong one is told before the new one is asked
    new = first_line(new_file) if new_file else ask_twice("New passphrase", nobody)
    keys.change_passphrase(entry.store, old, new)
    return entry.address


def forget(entry: Entry) -> None:
    """Take the key of an account's store out of the keyring."""
    if entry.key == "keyring":
        with contextlib.suppress(StoreLocked):
            keys.forget(Address(entry.address))


# -- secrets --------------------------------------------------------------------------------------------------------


def password(ours: Account) -> str:
    """The account's password at its server: out of the store, a credential, or asked for. "" if there is none and a
    homeserver has not asked for it again."""
    given = ours.password() or credential(PASSWORD_CREDENTIAL)
    return given if given or ours.is_logged_in() else ask_password(ours.address, "'tillie account password' keeps it.")


def new_password(address: Address, password_file: Path | None) -> str:
    """A password that the store does not have: from a file, a credential, or asked for."""
    if password_file is not None:
        return first_line(password_file)
    return credential(PASSWORD_CREDENTIAL) or ask_password(address, "Give --password-file.")


def ask_password(address: Address, hint: str) -> str:
    """Ask for the password of an account; `hint` says what to do where there is nobody to ask."""
    return ask(f"Password of {address}: ", AuthenticationFailed(_NOBODY, hint=hint))


def ask(question: str, otherwise: Exception) -> str:
    """Ask at the terminal, without an echo; raise `otherwise` where there is none."""
    if not show.is_conversation():
        raise otherwise
    return getpass.getpass(question, sys.stderr)


def ask_twice(question: str, otherwise: Exception) -> str:
    """Ask for a new secret until it was typed twice alike."""
    while True:
        first = ask(f"{question}: ", otherwise)
        if not first:
            show.note("It can't be empty.")
        elif ask("Once more: ", otherwise) == first:
            return first
        else:
            show.note("They differ. Again, please.")


def first_line(path: Path) -> str:
    """The first line of a file, or of standard input ("-")."""
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.readline(MAX_SECRET_BYTES + 1)
        else:
            with path.open("rb") as file:
                data = file.readline(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}.") from None
    try:
        secret = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        secret = ""  # the error would quote it
    if not secret or len(data) > MAX_SECRET_BYTES:
        raise UsageError(f"{path} does not begin with a line of text of 1 to {MAX_SECRET_BYTES} bytes.")
    return secret


def credential(name: str) -> str:
    """A systemd credential of this service (systemd.exec(5), LoadCredential=); "" if it has none of that name."""
    return first_line(_credentials() / name) if _has_credential(name) else ""


def _has_credential(name: str) -> bool:
    return bool(os.environ.get("CREDENTIALS_DIRECTORY")) and (_credentials() / name).is_file()


def _credentials() -> Path:
    return Path(os.environ["CREDENTIALS_DIRECTORY"])
