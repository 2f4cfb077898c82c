"""A new account on this machine: its folder, its store's key, and a first login that proves the password."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tillie import client as clients
from tillie import store as stores
from tillie.account import Account, Settings, fill
from tillie.cli import accounts, online, show, unlock
from tillie.cli.accounts import Entry, Network
from tillie.cli.options import KeyFrom
from tillie.cli.terminal import Lines
from tillie.client import Client
from tillie.errors import AuthenticationFailed, NetworkError, Rejected, StoreError, TillieError
from tillie.model import Address, Device, Key
from tillie.trust import fingerprint


@dataclass(frozen=True, slots=True)
class Keys:
    """Where the key of a new store is to come from."""

    source: KeyFrom = KeyFrom.AUTO
    key_file: Path | None = None
    passphrase_file: Path | None = None

    def entry(self, address: Address) -> Entry:
        """The account's entry in the list. Raises `UsageError` if the account is here already."""
        accounts.require_new(address)
        chosen = unlock.source(self.source.value, address, self.key_file, self.passphrase_file)
        path = self.key_file.absolute() if self.key_file is not None and chosen == "file" else None
        return accounts.new(address, chosen, str(path) if path else "")


def new_account(
    address: Address, settings: Settings, keys: Keys, *, password_file: Path | None, keep_password: bool
) -> Device:
    """Make the store, log in, publish our keys; nothing stays if that fails. Our device."""
    settings = msgspec.structs.replace(
        settings, server=clients.server_address(settings.server, direct_tls=settings.direct_tls)
    )
    entry = keys.entry(address)
    password = unlock.new_password(address, password_file)
    with _new_store(entry, keys) as account:
        account.change(settings)
        device = online.run(account, password, _our_device, ask=False)
        if keep_password:
            account.keep_password(password)
        accounts.add(entry)
        return device


def restored_account(
    address: Address, records: list[tuple[Key, bytes]], keys: Keys, *, password_file: Path | None
) -> Device | None:
    """Make the store out of a backup, and log in if that can be done now. Our new device, None if it must wait."""
    entry = keys.entry(address)
    with _new_store(entry, keys) as account:
        fill(account.store, records)
        accounts.add(entry)
        account = Account(account.store)  # with the restored settings
        try:
            password = unlock.new_password(address, password_file) if password_file else unlock.password(account)
            device = online.run(account, password, _our_device, ask=False)
        except (AuthenticationFailed, NetworkError) as error:
            show.failure(error)
            return None
        account.keep_password(password)
        return device


def leave(entry: Entry, passphrase_file: Path | None) -> None:
    """Take this device off the account's list, on Matrix log it out, if that can be done now; say so if not."""

    async def work(client: Client, _: Lines) -> None:
        device = client.account.own_device()
        if device is not None:
            await client.unlist(device.label if device.address.is_matrix else device.id)
        await client.refresh_openpgp(client.account.address)

    try:
        with unlock.account(entry.address, passphrase_file) as account:
            online.run(account, unlock.password(account), work, ask=False)
            if any(key.info and key.this and key.listed for key in account.keys(account.address)):
                show.note("Its OpenPGP key stays on the account's list: other devices of yours may have it.")
    except (NetworkError, StoreError) as error:
        if entry.network is Network.MATRIX and _is_gone(error):
            show.note("The homeserver has removed this device already.")
            return
        show.failure(error)
        show.note("The device stays on the account's list; 'tillie devices remove' on another one takes it off.")


def _is_gone(error: TillieError) -> bool:
    from tillie.networks.matrix.api import LoggedOut

    return isinstance(error, LoggedOut) and not error.soft


@contextlib.contextmanager
def _new_store(entry: Entry, keys: Keys) -> Iterator[Account]:
    """A new store in its folder; both are removed unless the account gets into the list."""
    accounts.make_folder(entry)
    try:
        store = stores.open(entry.store, Address(entry.address), unlock.make_key(entry, keys.passphrase_file))
        try:
            yield Account(store)
        finally:
            store.close()
    finally:
        if not accounts.has(entry):
            accounts.discard(entry)
            unlock.forget(entry)


async def _our_device(client: Client, _: Lines) -> Device:
    device = client.device()
    if client.account.address.is_matrix and not await client.announced():
        await client.unlist(device.label)
        raise Rejected(
            "It did not take this device's keys.",
            hint="An account has one --profile, that of its other devices. Only a 'tillie home' knows draft2015.",
        )
    return device


def fingerprint_of(device: Device) -> str:
    return fingerprint.of(device)
