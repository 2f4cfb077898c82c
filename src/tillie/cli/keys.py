"""`tillie keys list | generate | import | publish | revoke | retract | backup | restore`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tillie.cli import exits, files, show
from tillie.cli.accounts import Network
from tillie.cli.options import AccountOption, JsonOption, PassphraseFile, SchemeName
from tillie.errors import PassphraseNeeded, UsageError

if TYPE_CHECKING:
    from tillie.account import Account
    from tillie.cli.terminal import Lines
    from tillie.client import Client
    from tillie.known import KnownKey
    from tillie.model import Device

MAX_IMPORT = 4 << 20  # bytes of an export; armoured, with photographs in it
ATTEMPTS = 3  # at a passphrase or a code that is typed

group = typer.Typer(no_args_is_help=True, help="Your keys and other people's.")

SchemeOption = Annotated[SchemeName, typer.Option(help="Which kind of key.")]
KeyArgument = Annotated[
    str,
    typer.Argument(metavar="FINGERPRINT", help="The key's fingerprint, or its first 16 digits ('tillie keys list')."),
]


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="keys")


# -- list -----------------------------------------------------------------------------------------------------------


@group.command("list")
def list_(
    address: Annotated[str | None, typer.Argument(metavar="[ADDRESS]", help="Whose; yours if nobody is named.")] = None,
    scheme: Annotated[SchemeName | None, typer.Option(help="Only keys of this kind.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Only what is known here; ask no server.")] = False,
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show somebody's keys, of every kind. With what their certificates say, and what you think of them."""
    from tillie.cli.devices import keys_of

    target, mine, found = keys_of(address, account, passphrase_file, offline=offline)
    keys = [key for key in found if scheme is None or key.scheme == scheme.value]
    if json:
        for key in keys:
            show.as_json(key_as_json(key))
        return
    for key in keys:
        _show_key(key)
    if not keys:
        show.note(f"No key of {target} is known.")
    wants_openpgp = scheme in (None, SchemeName.OPENPGP) and not target.is_matrix
    if mine and wants_openpgp and not any(key.scheme == "openpgp" and key.this for key in keys):
        show.note(
            "There is no OpenPGP key here: 'tillie keys generate' makes one, 'tillie keys restore' brings it back."
        )


def _show_key(key: KnownKey) -> None:
    from tillie.cli.devices import name_of, state_of, trust_of
    from tillie.wire.display import printable

    show.line(
        show.paint(key.fingerprint or (f"({key.device.name})" if key.device.key else "(no key known yet)"), "bold")
    )
    kinds = {"omemo": f"OMEMO, device {key.device.id or '-'}", "olm": f"Matrix, device {name_of(key)}"}
    show.line("  " + " · ".join(filter(None, (kinds.get(key.scheme), state_of(key), trust_of(key)))))
    if key.info is not None and key.info.created is not None:
        until = f", expires {show.clock(key.info.expires)}" if key.info.expires is not None else ""
        show.line(f"  made {show.clock(key.info.created)}{until}")
        for user_id in key.info.user_ids:
            show.line(f"  {printable(user_id, 100)}")


def key_as_json(key: KnownKey) -> dict[str, Any]:
    from tillie.cli.devices import key_as_json as device_as_json
    from tillie.wire.time import format_datetime

    info = key.info
    return {
        **device_as_json(key),
        "active": info.active if info else False,
        "created": format_datetime(info.created) if info and info.created is not None else None,
        "expires": format_datetime(info.expires) if info and info.expires is not None else None,
        "revoked": info.revoked if info else False,
        "user_ids": list(info.user_ids) if info else [],
    }


# -- made and taken in ----------------------------------------------------------------------------------------------


@group.command()
def generate(
    scheme: SchemeOption = SchemeName.OPENPGP,
    another: Annotated[bool, typer.Option("--another", help="Though the account has a key of this kind.")] = False,
    rsa: Annotated[
        bool, typer.Option("--rsa", help="With --scheme esession: RSA, for programs that know no Ed25519.")
    ] = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make an OpenPGP key for this account and announce it. Its private half stays in this machine's encrypted store.

    One key serves all your devices: make it on one, 'tillie keys backup' there, 'tillie keys restore' on the others.

    --scheme esession makes a key that shows in encrypted sessions who you are. Nobody else gets to see it.
    """
    from tillie.cli import online, unlock

    if rsa and scheme is not SchemeName.ESESSION:
        raise UsageError("Only a key for sessions can be an RSA key.", hint="Add --scheme esession.")
    if scheme is SchemeName.ESESSION:
        _generate_for_sessions(account, passphrase_file, rsa=rsa, another=another)
        return
    _require_openpgp(scheme, "An OMEMO key is made by itself, one on each device.")

    async def work(client: Client, _: Lines) -> tuple[tuple[Device, ...], bool]:
        device = await client.generate_key(another=another)
        return (device,), await client.announced()

    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        made, announced = online.run(ours, unlock.password(ours), work, ask=False)
        _tell(ours, made, "is made")
    show.note(
        "If this machine is lost, so is the key, and what was sealed for it: make a backup with 'tillie keys backup'."
    )
    _end(announced)


def _generate_for_sessions(account: str | None, passphrase_file: Path | None, *, rsa: bool, another: bool) -> None:
    from tillie.cli import unlock
    from tillie.trust.fingerprint import fingerprint

    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        made = ours.make_session_key(rsa=rsa, another=another)
        show.line(f"The key of {ours.address} for encrypted sessions is made:")
        show.line(f"  {fingerprint(made.key)}")
    show.note("It is shown, sealed, to whom you have a session with, and published nowhere. 'tillie backup' keeps it.")


@group.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE|-", help="What 'gpg --export-secret-keys' wrote.")],
    key_passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its first line is the passphrase that protects the key.")
    ] = None,
    scheme: SchemeOption = SchemeName.OPENPGP,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Take in an OpenPGP key that you have, and announce it. It gets the user id xmpp:YOUR-ADDRESS, and signs.

    Example: gpg --export-secret-keys me@example.org | tillie keys import -
    """
    from tillie.cli import online, unlock

    _require_openpgp(scheme, "An OMEMO key is never taken from one device to another.")
    data = files.read(file, MAX_IMPORT)

    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        passphrase = _key_passphrase(data, key_passphrase_file)

        async def work(client: Client, _: Lines) -> tuple[tuple[Device, ...], bool]:
            devices = await client.import_keys(data, passphrase)
            return devices, await client.announced()

        taken, announced = online.run(ours, unlock.password(ours), work, ask=False)
        _tell(ours, taken, "is taken in")
    show.note("'tillie keys backup' keeps a sealed copy at your server, for your other devices.")
    _end(announced)


def _key_passphrase(data: bytes, file: Path | None) -> str:
    """The passphrase of an exported key, "" if it has none. Nothing of it is kept: the store is encrypted itself."""
    from tillie.cli import unlock
    from tillie.schemes.openpgp import keys

    if file is not None:
        return unlock.first_line(file)
    try:
        keys.read_import(data, "")
        return ""
    except PassphraseNeeded:
        pass
    nobody = PassphraseNeeded(hint="Give --key-passphrase-file.")
    return _ask("Passphrase of the OpenPGP key: ", nobody, lambda typed: keys.read_import(data, typed))


# -- announced and taken back -----------------------------------------------------------------------------------------


@group.command()
def publish(
    scheme: SchemeOption = SchemeName.OPENPGP, account: AccountOption = None, passphrase_file: PassphraseFile = None
) -> None:
    """Publish your keys again. For when another program took them off the list, or the server lost them."""
    from tillie.cli import online, unlock

    async def work(client: Client, _: Lines) -> tuple[tuple[Device, ...], bool]:
        devices = await client.announce_keys()
        return devices, await client.announced()

    _require_openpgp(scheme, "OMEMO keys are published at each connection, if they are not.")
    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        devices, announced = online.run(ours, unlock.password(ours), work, ask=False)
        _tell(ours, devices, "is published")
    _end(announced)


@group.command()
def revoke(
    fingerprint: KeyArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    scheme: SchemeOption = SchemeName.OPENPGP,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Revoke an OpenPGP key of yours for good. Nobody seals for it any more, and its signatures stop counting.

    For a key that was stolen or is given up. What was sealed for it can still be read here.
    """
    from tillie.cli import online, unlock

    _require_openpgp(scheme, "An OMEMO key can't be revoked; 'tillie devices remove' takes its device off the list.")
    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        key = _own_key(ours, fingerprint)
        if not key.this:
            raise UsageError(
                "That key is not here, and only its private half can revoke it.",
                hint="Restore it first ('tillie keys restore'), or take it off your list: 'tillie keys retract'.",
            )
        show.note(f"This revokes {key.fingerprint} for good.")
        confirm("Revoke it?", yes)

        async def work(client: Client, _: Lines) -> bool:
            await client.revoke_key(key.device.key)
            return await client.announced()

        announced = online.run(ours, unlock.password(ours), work, ask=False)
        left = [other for other in ours.keys(ours.address) if other.info and other.info.active]
    show.line(f"{key.fingerprint} is revoked.")
    if left:
        show.note(f"From now on {left[0].fingerprint} signs.")
    else:
        show.note("This account has no other OpenPGP key here: 'tillie keys generate' makes one.")
    show.note("The backup at your server still holds the key as it was: 'tillie keys backup' makes a new one.")
    _end(announced)


@group.command()
def retract(fingerprint: KeyArgument, account: AccountOption = None, passphrase_file: PassphraseFile = None) -> None:
    """Take an OpenPGP key off your list, unrevoked. One that is lost, or that you keep for old messages."""
    from tillie.cli import online, unlock

    with unlock.account(account, passphrase_file, Network.XMPP) as ours:

        async def work(client: Client, _: Lines) -> tuple[KnownKey, bool]:
            await client.refresh_openpgp(ours.address)
            key = _own_key(ours, fingerprint)
            await client.retract_key(key.device.key)
            return key, await client.announced()

        key, announced = online.run(ours, unlock.password(ours), work, ask=False)
    show.line(f"{key.fingerprint} is off your list.")
    _end(announced)


def _own_key(ours: Account, typed: str) -> KnownKey:
    from tillie.trust.fingerprint import prefix

    wanted = prefix(typed)
    found = [
        key
        for key in ours.keys(ours.address)
        if key.scheme == "openpgp" and key.device.key.hex().upper().startswith(wanted)
    ]
    if len(found) != 1:
        which = "Several OpenPGP keys of yours begin" if found else "No OpenPGP key of yours begins"
        raise UsageError(f"{which} with {wanted}.", hint="See 'tillie keys list'.")
    return found[0]


# -- backup ---------------------------------------------------------------------------------------------------------


@group.command()
def backup(
    scheme: SchemeOption = SchemeName.OPENPGP, account: AccountOption = None, passphrase_file: PassphraseFile = None
) -> None:
    """Keep a sealed copy of your OpenPGP keys at your server. The code that opens it is printed, once.

    With the code, 'tillie keys restore' brings them to another device of yours. A new backup replaces the one before
    and its code. ('tillie backup FILE' writes everything, trust and history too, into a file.)
    """
    from tillie.cli import online, unlock

    async def work(client: Client, _: Lines) -> str:
        return await client.back_up_keys()

    _require_openpgp(scheme, "An OMEMO key is never taken from one device to another.")
    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        if not any(key.this and key.info for key in ours.keys(ours.address)):
            raise UsageError("There is no OpenPGP key here to back up.", hint="'tillie keys generate' makes one.")
        show.note("Sealing the keys under a new code ...")
        code = online.run(ours, unlock.password(ours), work, ask=False)
    show.note("Your OpenPGP keys are at your server, sealed. This code opens them:")
    show.note("")
    show.line(f"    {show.paint(code, 'bold')}" if sys.stdout.isatty() else code)
    show.note("")
    show.note(
        "Write it down now, on paper, and keep it where your devices are not. It is kept nowhere and not shown again."
    )
    show.note("Whoever has it and your account can read and sign in your name.")


@group.command()
def restore(
    code_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Its first line is the backup code.")] = None,
    scheme: SchemeOption = SchemeName.OPENPGP,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Bring your OpenPGP keys here from that copy. The code of 'tillie keys backup' opens it."""
    from tillie.cli import online, unlock
    from tillie.schemes.openpgp import backup as key_backup

    _require_openpgp(scheme, "An OMEMO key is never taken from one device to another.")
    given = unlock.first_line(code_file) if code_file is not None else ""

    async def find(client: Client, _: Lines) -> bytes:
        return await client.find_key_backup()

    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        password = unlock.password(ours)
        payload = online.run(ours, password, find, ask=False)
        nobody = UsageError("A code opens the backup.", hint="Give --code-file.")
        code = given or _ask("Backup code: ", nobody, lambda typed: key_backup.open(payload, typed))

        async def work(client: Client, _: Lines) -> tuple[tuple[Device, ...], bool]:
            devices = await client.restore_keys(payload, code)
            return devices, await client.announced()

        devices, announced = online.run(ours, password, work, ask=False)
        _tell(ours, devices, "is here")
    _end(announced)


# -- shared ---------------------------------------------------------------------------------------------------------


def _require_openpgp(scheme: SchemeName, why_not_omemo: str) -> None:
    if scheme is SchemeName.OMEMO:
        raise UsageError(why_not_omemo)
    if scheme is SchemeName.OLM:
        raise UsageError("A Matrix device makes its keys by itself, and publishes them at each connection.")
    if scheme is SchemeName.ESESSION:
        raise UsageError(
            "A key for sessions is on this machine alone, and published nowhere.",
            hint="'tillie keys generate --scheme esession --another' replaces it; 'tillie backup FILE' keeps it.",
        )


def _ask(question: str, nobody: UsageError, check: Callable[[str], object]) -> str:
    """A secret that is typed, and typed again if `check` refuses it with a `UsageError`."""
    from tillie.cli import unlock

    for attempt in range(1, ATTEMPTS + 1):
        typed = unlock.ask(question, nobody)
        try:
            check(typed)
            return typed
        except UsageError as error:
            if attempt == ATTEMPTS:
                raise
            show.note(f"{error.detail or error} Again, please.")
    raise AssertionError("unreachable")


def confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not show.is_conversation():
        raise UsageError("There is nobody to ask.", hint="Give --yes if you mean it.")
    typer.confirm(question, abort=True, err=True)


def _tell(ours: Account, devices: tuple[Device, ...], what: str) -> None:
    from tillie.trust.fingerprint import fingerprint

    for device in devices:
        show.line(f"The OpenPGP key of {ours.address} {what}:")
        show.line(f"  {fingerprint(device.key)}")


def _end(announced: bool) -> None:
    if not announced:
        show.note("The server does not have it yet. It goes out with the next connection.")
        raise typer.Exit(exits.QUEUED)
