"""The accounts on this machine: a folder for each, and one small file that lists them.

    TILLIE_HOME, else XDG_DATA_HOME/tillie, else ~/.local/share/tillie       (0700)
      accounts.json      version, and for each account its address, folder, and where the store's key comes from
      <folder>/store     the encrypted store; beside it what the store keeps there

Everything else about an account, its password too, is inside its store.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from enum import Enum
from pathlib import Path
from urllib.parse import quote

import msgspec

from tillie.errors import StoreDamaged, StoreTooNew, StoreUnwritable, UsageError
from tillie.model import Address
from tillie.wire import address as addresses

VERSION = 1
MAX_FOLDER_NAME = 120  # characters; a longer address gets a folder named after its hash
_LIST = "accounts.json"
ON_MATRIX = "send, listen, chat, history, devices, trust, verify, keys list, backup"


class Network(Enum):
    """What carries an account's messages; its addresses show which."""

    XMPP = "XMPP"
    MATRIX = "Matrix"

    @property
    def article(self) -> str:
        return "a" if self is Network.MATRIX else "an"

    @property
    def example(self) -> str:
        return "@you:example.org" if self is Network.MATRIX else "you@example.org"


def network_of(address: Address) -> Network:
    return Network.MATRIX if address.is_matrix else Network.XMPP


class Entry(msgspec.Struct, frozen=True):
    """One account in the list. `key` says where its store's key comes from: keyring, passphrase, credential, or
    file (`key_file`)."""

    address: str
    folder: str
    key: str
    key_file: str = ""

    @property
    def store(self) -> Path:
        return home() / self.folder / "store"

    @property
    def network(self) -> Network:
        return network_of(Address(self.address))


class _List(msgspec.Struct):
    accounts: list[Entry]
    version: int = VERSION


def home() -> Path:
    """The folder of all accounts; it need not exist."""
    given = os.environ.get("TILLIE_HOME")
    if given:
        return Path(given)
    data = os.environ.get("XDG_DATA_HOME")
    # The XDG Base Directory Specification: a path that is not absolute is to be ignored.
    root = Path(data) if data and os.path.isabs(data) else Path.home() / ".local" / "share"
    return root / "tillie"


def load() -> list[Entry]:
    """The accounts, in the order in which they were added."""
    path = home() / _LIST
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreUnwritable(f"{path} can't be read: {error.strerror}.") from None
    try:
        found = msgspec.json.decode(data, type=_List)
    except msgspec.DecodeError:
        raise StoreDamaged(
            f"{path} is not a list of accounts.", hint="Move it away and add the accounts again."
        ) from None
    if found.version != VERSION:
        raise StoreTooNew(f"{path} has version {found.version}; this version of Tillie reads {VERSION}.")
    return found.accounts


def choose(wanted: str | None, network: Network | None = None) -> Entry:
    """The account that was asked for, or the only one; where a command needs one on a `network`, the only one there.
    Raises `UsageError`."""
    entries = load()
    if not entries:
        example = f"tillie account add {(network or Network.XMPP).example}"
        raise UsageError("There is no account here yet.", hint=f"Add one: {example}")
    if wanted is not None:
        return _named(entries, wanted, network)
    fitting = [entry for entry in entries if network in (None, entry.network)]
    if len(fitting) == 1:
        return fitting[0]
    if network is not None and not fitting:
        on_matrix = f" On Matrix there are: {ON_MATRIX}." if network is Network.XMPP else ""
        raise UsageError(
            f"That needs {network.article} {network.value} account, and there is none here.{on_matrix}",
            hint=f"Add one: tillie account add {network.example}",
        )
    names = ", ".join(entry.address for entry in fitting)
    raise UsageError(f"There are several accounts: {names}.", hint="Say which one with --account ADDRESS.")


def _named(entries: list[Entry], wanted: str, network: Network | None) -> Entry:
    address = addresses.parse_bare(wanted)
    found = next((entry for entry in entries if entry.address == address), None)
    if found is None:
        raise UsageError(f"There is no account {address} here.", hint="See 'tillie account list'.")
    if network not in (None, found.network):
        raise UsageError(
            f"That needs {network.article} {network.value} account; {address} is one on {found.network.value}.",
            hint=f"On Matrix there are: {ON_MATRIX}." if network is Network.XMPP else "",
        )
    return found


def has(entry: Entry) -> bool:
    return any(other.address == entry.address for other in load())


def require_new(address: Address) -> None:
    """Raises `UsageError` if the account is here already."""
    if any(entry.address == address for entry in load()):
        raise UsageError(f"The account {address} is here already.", hint="See 'tillie account list'.")


def new(address: Address, key: str, key_file: str = "") -> Entry:
    """The entry that an account gets."""
    name = quote(address, safe="@+")
    if len(name) > MAX_FOLDER_NAME:
        name = hashlib.sha256(address.encode()).hexdigest()
    return Entry(str(address), name, key, key_file)


def make_folder(entry: Entry) -> None:
    """The folder for an account's store, for its owner alone; what a failed attempt left there is removed."""
    try:
        home().mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(home(), 0o700)
        shutil.rmtree(entry.store.parent, ignore_errors=True)
        entry.store.parent.mkdir(mode=0o700)
    except OSError as error:
        raise StoreUnwritable(f"{entry.store.parent} can't be made: {error.strerror}.") from None


def add(entry: Entry) -> None:
    _save([*load(), entry])


def remove(entry: Entry) -> None:
    """Take an account from the list, then delete its folder: keys, trust and history are gone."""
    _save([other for other in load() if other.address != entry.address])
    discard(entry)


def discard(entry: Entry) -> None:
    """Delete an account's folder."""
    shutil.rmtree(entry.store.parent, ignore_errors=True)


def _save(entries: list[Entry]) -> None:
    path = home() / _LIST
    new = path.with_suffix(".new")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(_List(entries))) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as error:
        raise StoreUnwritable(f"{path} can't be written: {error.strerror}.") from None
