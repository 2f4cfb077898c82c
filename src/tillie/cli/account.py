"""`tillie account add | list | remove | password | passphrase`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tillie.cli import accounts, show
from tillie.cli.options import (
    AccountOption,
    Contact,
    JsonOption,
    KeyFrom,
    MatrixProfileName,
    PassphraseFile,
    PasswordFile,
    PolicyName,
    contact,
)
from tillie.errors import UsageError

if TYPE_CHECKING:
    from tillie.model import Address

group = typer.Typer(no_args_is_help=True, help="The accounts on this machine.")


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="account")


@group.command()
def add(
    address: Contact,
    server: Annotated[str, typer.Option(metavar="HOST[:PORT]", help="XMPP: instead of asking DNS.")] = "",
    direct_tls: Annotated[
        bool, typer.Option("--direct-tls", help="XMPP: TLS from the first byte, no STARTTLS.")
    ] = False,
    homeserver: Annotated[
        str, typer.Option(metavar="URL", help="Matrix: instead of asking the server's website.")
    ] = "",
    profile: Annotated[
        MatrixProfileName | None,
        typer.Option(help="Matrix: which kind of keys to publish, for good; else v1.", show_default=False),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Trust only this authority (PEM) for the server's certificate.")
    ] = None,
    policy: Annotated[PolicyName, typer.Option(help="Who decides on keys that you have not.")] = PolicyName.BLIND,
    label: Annotated[str, typer.Option(help="How your other devices and contacts may call this device.")] = "",
    key: Annotated[KeyFrom, typer.Option(help="Where the store's key is kept.")] = KeyFrom.AUTO,
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds the store's key, for services; made if it is not there.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    password_file: PasswordFile = None,
    keep_password: Annotated[bool, typer.Option(help="Keep the password in the encrypted store.")] = True,
    keep_history: Annotated[bool, typer.Option(help="Keep what was said in the encrypted store.")] = True,
) -> None:
    """Log in, make keys on this machine, and publish the public ones.

    Examples: tillie account add alice@example.org (XMPP) · tillie account add @alice:example.org (Matrix)
    """
    from tillie.account import MatrixSettings, Settings
    from tillie.cli import setup

    whose = contact(address)
    _require_fitting(
        whose, {"--server": server, "--direct-tls": direct_tls}, {"--homeserver": homeserver, "--profile": profile}
    )
    matrix = MatrixSettings(homeserver=homeserver, profile=(profile or MatrixProfileName.V1).value)
    settings = Settings(
        policy=policy.value,
        server=server,
        direct_tls=direct_tls,
        ca_file=str(ca_file.absolute()) if ca_file else "",
        label=label,
        history=keep_history,
        matrix=matrix,
    )
    device = setup.new_account(
        whose,
        settings,
        setup.Keys(key, key_file, passphrase_file),
        password_file=password_file,
        keep_password=keep_password,
    )
    show.line(f"{device.address} is ready: this is {device.name}.")
    show.note("Your fingerprint, for friends to compare ('tillie devices' shows it again):")
    show.note(f"  {setup.fingerprint_of(device)}")


def _require_fitting(address: Address, of_xmpp: dict[str, object], of_matrix: dict[str, object]) -> None:
    """Raises `UsageError` for an option of the other network."""
    wrong = [name for name, given in (of_xmpp if address.is_matrix else of_matrix).items() if given]
    if wrong:
        here, there = ("Matrix", "XMPP") if address.is_matrix else ("XMPP", "Matrix")
        fitting = " and ".join(of_matrix if address.is_matrix else of_xmpp)
        raise UsageError(
            f"{wrong[0]} is for accounts on {there}; {address} is one on {here}.",
            hint=f"For {here} there are {fitting}. An address on {there} looks like "
            f"{'you@example.org' if address.is_matrix else '@you:example.org'}.",
        )


@group.command("list")
def list_(json: JsonOption = False) -> None:
    """The accounts here, and where the keys of their stores come from."""
    entries = accounts.load()
    if json:
        for entry in entries:
            show.as_json({"address": entry.address, "key": entry.key, "store": str(entry.store)})
    elif entries:
        show.table(("account", "key from", "store"), [(e.address, e.key, str(e.store)) for e in entries])
    else:
        show.note("There is no account here yet. Add one: tillie account add you@example.org, or @you:example.org")


@group.command()
def remove(
    address: Contact,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Leave the device on the account's list.")] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Delete an account's keys, trust and history from this machine. The account at the server stays.

    The device is taken off the account's list first, so that nobody seals for it any more.
    """
    from tillie.cli import setup, unlock

    entry = accounts.choose(contact(address))
    if not yes:
        show.note(f"This deletes keys, trust and history of {entry.address} from this machine.")
        show.note("Without a backup ('tillie backup FILE') they are gone for good.")
        typer.confirm("Delete them?", abort=True, err=True)
    if not offline:
        setup.leave(entry, passphrase_file)
    unlock.forget(entry)
    accounts.remove(entry)
    show.line(f"{entry.address} is removed from this machine.")


@group.command()
def password(
    password_file: PasswordFile = None,
    forget: Annotated[bool, typer.Option("--forget", help="Keep none: ask each time.")] = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Keep another password for the account's server, when it was changed there.

    On Matrix the next connection logs in with it, to the same device: also when the device was logged out there.
    """
    from tillie.cli import unlock

    with unlock.account(account, passphrase_file) as ours:
        ours.log_in_anew()
        ours.keep_password("" if forget else unlock.new_password(ours.address, password_file))
        show.line(f"{ours.address}: {'no password is kept' if forget else 'the new password is kept'}.")


@group.command()
def passphrase(
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
    new_passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its first line is the new passphrase.")
    ] = None,
) -> None:
    """Change the passphrase of an account's store."""
    from tillie.cli import unlock

    address = unlock.change_passphrase(account, passphrase_file, new_passphrase_file)
    show.line(f"The store of {address} opens with the new passphrase only.")
