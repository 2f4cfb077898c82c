"""`tillie trust list | name | distrust | policy`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from tillie.cli import show
from tillie.cli.accounts import Network, network_of
from tillie.cli.options import (
    AccountOption,
    Contact,
    DeviceArgument,
    JsonOption,
    PassphraseFile,
    PolicyName,
    contact,
    contact_on_xmpp,
)
from tillie.errors import UsageError
from tillie.model import Trust

if TYPE_CHECKING:
    from tillie.account import Account
    from tillie.cli.terminal import Lines
    from tillie.client import Client
    from tillie.known import KnownKey
    from tillie.model import Address

MAX_ID_DIGITS = 10  # of an OMEMO device's id

group = typer.Typer(no_args_is_help=True, help="What you think of people's keys.")


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="trust")


@group.command("list")
def list_(
    address: Annotated[
        str | None, typer.Argument(metavar="[ADDRESS]", help="Whose keys; everybody's if left out.")
    ] = None,
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """The keys that are known here, and what you think of each."""
    from tillie.cli import unlock
    from tillie.cli.devices import key_as_json, show_keys

    wanted = contact(address) if address else None
    with unlock.account(account, passphrase_file, network_of(wanted) if wanted else None) as ours:
        for whose in [wanted] if wanted else ours.addresses():
            keys = [key for key in ours.keys(whose) if key.device.key]
            if json:
                for key in keys:
                    show.as_json(key_as_json(key))
            elif keys:
                show.line(show.paint(whose, "bold"))
                show_keys(keys)
                show.line()
            elif address:
                show.note(f"No key of {whose} is known yet: 'tillie devices {whose}' asks for them.")
        if not json:
            show.note(f"Policy for keys that nobody decided on: {ours.settings.policy}.")


@group.command()
def name(
    address: Contact,
    petname: Annotated[str, typer.Argument(metavar="NAME", help="What you call them; '' takes the name away.")],
    client: Annotated[
        str | None, typer.Argument(metavar="[CLIENT]", help="One of several, as 'tillie trust list' shows it.")
    ] = None,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Give the other end of encrypted sessions a name of your own. It belongs to the key, not to the address.

    Whoever comes under the same address with another key does not get the name. Example: tillie trust name
    bob@example.net Bobby
    """
    from tillie.cli import unlock
    from tillie.cli.devices import name_of
    from tillie.wire.display import printable

    whose = contact_on_xmpp(address)
    is_meant = _meant(whose, client)
    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        keys = [key for key in ours.keys(whose) if key.scheme == "esession" and not key.this and is_meant(key)]
        if not keys:
            raise UsageError(
                f"There was no encrypted session with {whose} yet.", hint=f"Begin one: tillie session start {whose}"
            )
        if len(keys) > 1:
            names = ", ".join(name_of(key) for key in keys)
            raise UsageError(f"There were sessions with several clients of {whose}: {names}.", hint="Name one.")
        ours.name_key(keys[0].device.key, petname)
    show.line(f"{whose} is {printable(petname)} now." if petname else f"{whose} has no name of yours now.")


@group.command()
def distrust(
    address: Contact,
    device: DeviceArgument = None,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Never seal for a key again: a lost telephone, or one that is not your contact's."""
    from tillie.cli import unlock
    from tillie.cli.devices import name_of
    from tillie.wire.display import printable

    whose = contact(address)
    with unlock.account(account, passphrase_file, network_of(whose)) as ours:
        keys = known_keys(ours, whose, device)
        if device is None and len(keys) > 1:
            names = ", ".join(name_of(key) for key in keys)
            raise UsageError(f"{whose} has several devices: {names}.", hint="Name the one you mean.")
        for key in keys:
            ours.decide(whose, key.device.key, Trust.DISTRUSTED)
    show.line(f"{_capital(printable(keys[0].device.name))} of {whose} gets nothing more from this account.")


@group.command()
def policy(
    name: Annotated[PolicyName | None, typer.Argument(metavar="[POLICY]", help="Change it to this.")] = None,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Who decides on keys that you have not decided on: manual, first-use or blind-before-verify.

    manual: nobody; every new key waits for you. first-use: the keys at the first message are taken, later ones wait.
    blind-before-verify: new keys are taken until you verify one of that contact's; from then on they wait.
    """
    import msgspec

    from tillie.cli import unlock

    with unlock.account(account, passphrase_file) as ours:
        if name is not None:
            ours.change(msgspec.structs.replace(ours.settings, policy=name.value))
        show.line(ours.settings.policy)


def known_keys(
    ours: Account, whose: Address, device: str | None, *, revoked: bool = True, ask_network: bool = True
) -> list[KnownKey]:
    """Keys of somebody's devices and OpenPGP keys, those that lie here left out; asked of the network where none is
    known, if that may be. `device` names one: a device's id, or an OpenPGP fingerprint."""
    from tillie.cli import online, unlock

    async def work(client: Client, _: Lines) -> list[KnownKey]:
        return await client.devices(whose)

    is_meant = _meant(whose, device)

    def is_usable(key: KnownKey) -> bool:
        counts = revoked or key.info is None or not key.info.revoked
        return bool(key.device.key) and counts and not key.this and not key.is_gone and is_meant(key)

    def usable(keys: list[KnownKey]) -> list[KnownKey]:
        return list(filter(is_usable, keys))

    keys = usable(ours.keys(whose))
    if not keys and ask_network:
        keys = usable(online.run(ours, unlock.password(ours), work, ask=False))
    if not keys and ask_network:
        which = f"{device} of {whose}" if device else f"a device of {whose}"
        raise UsageError(f"No key of {which} is known.", hint=f"See 'tillie devices {whose}'.")
    return keys


def _meant(whose: Address, device: str | None) -> Callable[[KnownKey], bool]:
    """Whether a key is the one that was typed. Devices of OMEMO and on Matrix have ids that can be typed: those of
    other keys can be forged."""
    from tillie.trust import fingerprint

    if device is None:
        return lambda key: True
    if whose.is_matrix:
        return lambda key: key.device.label == device
    if device.isascii() and device.isdigit() and len(device) <= MAX_ID_DIGITS:
        return lambda key: key.scheme == "omemo" and key.device.id == int(device)
    wanted = fingerprint.prefix(device)
    return lambda key: key.scheme != "omemo" and _digits_of(key).startswith(wanted)


def _digits_of(key: KnownKey) -> str:
    """By which a key of OpenPGP, or the other end of sessions, is named."""
    return (key.device.key[1:] if key.device.is_session else key.device.key).hex().upper()


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
