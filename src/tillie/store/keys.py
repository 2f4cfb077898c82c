"""Where the raw 32-byte key of a store comes from: a keyring, a passphrase, a file, a systemd credential.

With a passphrase the key itself is random, and lies sealed under the passphrase in NAME.key beside the store (see
`passphrase`): so the passphrase can be changed without writing the store anew, and Argon2id, the slow part, runs once
for each opening. Without NAME.key nobody can open the store; copy both or neither.

Every function raises `StoreLocked` if it can't give the key that the store was made with, and says why in its `detail`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tillie.crypto.random import random_bytes
from tillie.errors import StoreDamaged, StoreLocked, StoreUnwritable, UsageError
from tillie.model import Address
from tillie.store.generation import sync_folder
from tillie.store.passphrase import RECOMMENDED, Cost, lock, unlock

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

KEY_SIZE = 32
MAGIC = b"TILLIEKY"
FILE_MAX = 4096  # bytes that are read of any file that should hold a key
SERVICE = "tillie"

# Named one by one: a keyring is trusted because it is known to be the system's, not because it is not known to be bad.
# What else can be installed includes ones that write plain text, or forget everything.
SAFE_KEYRINGS = frozenset(
    (
        "keyring.backends.SecretService",
        "keyring.backends.libsecret",
        "keyring.backends.kwallet",
        "keyring.backends.macOS",
        "keyring.backends.Windows",
    )
)
_NO_KEYRING = "Give a passphrase, or a key file, instead."


# -- the system's keyring -------------------------------------------------------------------------------------------


def from_keyring(account: Address, *, create: bool = False, ring: KeyringBackend | None = None) -> bytes:
    """The key of this account in the system's keyring, made there now if `create` and there is none.

    `ring` is one to use instead of the one that the library `keyring` chooses. Only `SAFE_KEYRINGS` are used.
    """
    from keyring.errors import KeyringError

    ring = _safe(ring)
    try:
        stored = ring.get_password(SERVICE, account)
        if stored is None and create:
            ring.set_password(SERVICE, account, random_bytes(KEY_SIZE).hex())
            # Read again: of two processes that both made one, both go on with the one that stayed.
            stored = ring.get_password(SERVICE, account)
    except KeyringError as error:
        # Only its kind: nobody promises that its text quotes no password.
        raise StoreLocked(f"The keyring refused ({type(error).__name__}).", hint=_NO_KEYRING) from None
    if stored is None:
        raise StoreLocked(f"The keyring has no key for {account}.")
    return _parse(stored.encode(), "The keyring's entry")


def forget(account: Address, *, ring: KeyringBackend | None = None) -> None:
    """Remove the key of this account from the system's keyring, if it is there. Its store can't be opened any more."""
    from keyring.errors import KeyringError, PasswordDeleteError

    try:
        _safe(ring).delete_password(SERVICE, account)
    except PasswordDeleteError:
        return
    except KeyringError as error:
        raise StoreLocked(f"The keyring refused ({type(error).__name__}).") from None


def _safe(ring: KeyringBackend | None) -> KeyringBackend:
    """`ring` (or the library's choice) if it is safe, or the first safe one of a chain."""
    if ring is None:
        import keyring

        ring = keyring.get_keyring()
    name = type(ring).__module__
    if name in SAFE_KEYRINGS:
        return ring
    if name == "keyring.backends.chainer":
        for each in getattr(ring, "backends", ()):
            if type(each).__module__ in SAFE_KEYRINGS:
                chosen: KeyringBackend = each
                return chosen
    raise StoreLocked(f"There is no safe keyring here, only {name}.", hint=_NO_KEYRING)


# -- a passphrase ---------------------------------------------------------------------------------------------------


def key_file(store: Path) -> Path:
    """NAME.key beside the store NAME."""
    return store.with_name(store.name + ".key")


def from_passphrase(store: Path, passphrase: str, *, create: bool = False, cost: Cost = RECOMMENDED) -> bytes:
    """The key in NAME.key, which is made now if `create` and neither it nor the store is there.

    Takes about a fifth of a second and 64 MiB at the recommended cost. Raises `StoreLocked`, `StoreDamaged`,
    `StoreTooNew`, `StoreUnwritable`, or `UsageError` for an unusable passphrase.
    """
    path = key_file(store)
    if not path.exists():
        if store.exists():
            raise StoreLocked(f"{path} is missing, without which no passphrase opens the store.")
        if not create:
            raise StoreLocked(f"There is no {path}.")
        _put(path, lock(passphrase, random_bytes(KEY_SIZE), MAGIC, cost=cost), replace=False)
    return _unlock(path, passphrase)


def change_passphrase(store: Path, old: str, new: str, *, cost: Cost = RECOMMENDED) -> None:
    """Seal the same key under another passphrase. A copy of the old NAME.key still opens with the old one."""
    path = key_file(store)
    _put(path, lock(new, _unlock(path, old), MAGIC, cost=cost), replace=True)


def _unlock(path: Path, passphrase: str) -> bytes:
    key = unlock(passphrase, _read(path), MAGIC)
    if len(key) != KEY_SIZE:
        raise StoreDamaged(f"{path} holds no key.")
    return key


def _put(path: Path, content: bytes, *, replace: bool) -> None:
    """Write a file whole or not at all; without `replace`, one that somebody else has just made stays."""
    draft = path.with_name(f"{path.name}.{random_bytes(8).hex()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(fd)
            if replace:
                os.replace(draft, path)
            else:
                with suppress(FileExistsError):
                    os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreUnwritable(f"{path}: {error.strerror}.") from error


# -- files and credentials ------------------------------------------------------------------------------------------


def from_file(path: Path) -> bytes:
    """The key in a file: 32 bytes, or 64 hexadecimal digits and perhaps a line end. Keep it readable for you alone."""
    return _parse(_read(path), str(path))


def from_credential(name: str, environment: Mapping[str, str] = os.environ) -> bytes:
    """The key in a systemd credential (systemd.exec(5), LoadCredential=), in one of the forms of `from_file`."""
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise StoreLocked("There are no credentials: CREDENTIALS_DIRECTORY is not set.")
    if not name or "/" in name or name in (".", ".."):
        raise UsageError("The name of a credential is the name of a file.")
    return from_file(Path(folder) / name)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAX + 1)
    except OSError as error:
        raise StoreLocked(f"{path}: {error.strerror}.") from error
    if len(content) > FILE_MAX:
        raise StoreDamaged(f"{path} is too long for a key.")
    return content


def _parse(content: bytes, what: str) -> bytes:
    """A key as 32 raw bytes or as 64 hexadecimal digits, and nothing of it in the error."""
    if len(content) == KEY_SIZE:
        return content
    digits = content.rstrip(b"\r\n")
    if len(digits) == 2 * KEY_SIZE and all(each in b"0123456789abcdefABCDEF" for each in digits):
        return bytes.fromhex(digits.decode())
    raise StoreLocked(f"{what} is no key: it should be 32 bytes or 64 hexadecimal digits.")


__all__ = [
    "SAFE_KEYRINGS",
    "change_passphrase",
    "forget",
    "from_credential",
    "from_file",
    "from_keyring",
    "from_passphrase",
    "key_file",
]
