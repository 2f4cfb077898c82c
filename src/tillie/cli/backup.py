"""`tillie backup FILE` and `tillie restore FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tillie.cli import exits, files, show
from tillie.cli.options import AccountOption, KeyFrom, PassphraseFile, PasswordFile
from tillie.errors import StoreDamaged, UsageError

BackupPassphraseFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Its first line is the passphrase of the backup.")
]


def register(app: typer.Typer) -> None:
    app.command()(backup)
    app.command()(restore)


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")],
    with_password: Annotated[
        bool, typer.Option("--with-password", help="Put the account's password into it, too.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    backup_passphrase_file: BackupPassphraseFile = None,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Write an account into one sealed file. Identity, OpenPGP keys, secrets of nodes, trust, history, settings.

    Sessions are not in it: two copies of one would break both. A restored device begins new ones. Of a Matrix account
    it holds trust, history and settings: a device there can't be copied.
    """
    import time

    from tillie.cli import unlock
    from tillie.store import backup as container

    files.check_output(file, force=force)
    with unlock.account(account, passphrase_file) as ours:
        records = ours.copy(with_password=with_password)
        secret = _new_passphrase(backup_passphrase_file)
        mine = ours.own_device()
        words: container.Words = {
            "account": str(ours.address),
            "device": (mine.label if mine.address.is_matrix else mine.id) if mine else None,
            "made": int(time.time()),
        }
        files.write(file, container.write(records, words, secret))
    show.line(f"{ours.address} is backed up in {file}.")
    show.note("Without its passphrase nobody can open it, you neither.")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup that 'tillie backup' wrote.")],
    key: Annotated[KeyFrom, typer.Option(help="Where the new store's key is kept.")] = KeyFrom.AUTO,
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds the store's key, for services; made if it is not there.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    password_file: PasswordFile = None,
    backup_passphrase_file: BackupPassphraseFile = None,
) -> None:
    """Bring an account back from a backup. It is a new device with the same identity.

    Your contacts see the fingerprint that they know; on Matrix a new one, which they must compare. What was sent to the
    old device alone can't be read here.
    """
    from tillie.cli import setup, unlock
    from tillie.store import backup as container
    from tillie.wire import address as addresses
    from tillie.wire.display import printable

    sealed = files.read(file, container.BACKUP_MAX)
    if backup_passphrase_file is not None:
        secret = unlock.first_line(backup_passphrase_file)
    else:
        secret = unlock.ask("Passphrase of the backup: ", UsageError("Nobody to ask.", hint="--backup-passphrase-file"))
    records, words = container.read(sealed, secret)
    account = words.get("account")
    if not isinstance(account, str):
        raise StoreDamaged("The backup does not say whose it is.")
    address = addresses.parse_bare(account)
    keys = setup.Keys(key, key_file, passphrase_file)
    device = setup.restored_account(address, records, keys, password_file=password_file)
    if device is None:
        show.line(f"{address} is restored, but could not log in yet.")
        show.note("Its new device is made at the next connection: 'tillie devices'.")
        raise typer.Exit(exits.NETWORK)
    identity = "a new fingerprint" if address.is_matrix else "the identity of before"
    show.line(f"{address} is restored: this is {device.name}, with {identity}.")
    if words.get("device"):
        old = printable(str(words["device"]), 40)
        show.note(f"It takes the place of device {old}. If that one is gone for good, take it off your list:")
        show.note(f"  tillie devices remove {old}")
    if address.is_matrix:
        show.note("Your contacts must compare the new fingerprint ('tillie devices' shows it).")
    else:
        show.note("If the old machine still runs, remove the account there: two copies of one identity confuse people.")


def _new_passphrase(file: Path | None) -> str:
    from tillie.cli import unlock

    if file is not None:
        return unlock.first_line(file)
    show.note("The backup gets a passphrase of its own. Write it down where the backup is not.")
    return unlock.ask_twice("Passphrase of the backup", UsageError("Nobody to ask.", hint="--backup-passphrase-file"))
