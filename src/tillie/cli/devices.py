"""`tillie devices [ADDRESS]` and `tillie devices reset ADDRESS [DEVICE]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tillie.cli import show
from tillie.cli.accounts import network_of
from tillie.cli.options import AccountOption, JsonOption, PassphraseFile, contact
from tillie.directory import matrix
from tillie.errors import UsageError
from tillie.wire.display import printable

if TYPE_CHECKING:
    from pathlib import Path

    from tillie.cli.terminal import Lines
    from tillie.client import Client
    from tillie.known import KnownKey
    from tillie.model import Address


class _ShowUnlessNamed(TyperGroup):
    """`tillie devices bob@example.net` is short for `tillie devices show bob@example.net`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["show", *args]
        return super().parse_args(ctx, args)


group = typer.Typer(cls=_ShowUnlessNamed, help="Somebody's devices, or yours: 'tillie devices [ADDRESS]'.")


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="devices")


@group.command("show")
def show_(
    address: Annotated[str | None, typer.Argument(metavar="[ADDRESS]", help="Whose; yours if nobody is named.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Only what is known here; ask no server.")] = False,
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Which devices somebody has, what you think of their keys, and why one can't be reached."""
    target, _, keys = keys_of(address, account, passphrase_file, offline=offline)
    listed = [key for key in keys if not key.is_gone and key.scheme != "esession"]
    if json:
        for key in listed:
            show.as_json(key_as_json(key))
    elif listed:
        show_keys(listed)
    elif offline:
        show.note(f"No device of {target} is known.")
    else:
        what = "has published keys" if target.is_matrix else "reads OMEMO 2, and no OpenPGP key"
        show.note(f"{target} has no device that {what}.")


def keys_of(
    address: str | None, account: str | None, passphrase_file: Path | None, *, offline: bool
) -> tuple[Address, bool, list[KnownKey]]:
    """Whose keys are meant, whether that is us, and the keys: freshly asked for, or as they are known here."""
    from tillie.cli import online, unlock

    whose = contact(address) if address else None
    with unlock.account(account, passphrase_file, network_of(whose) if whose else None) as ours:
        target = whose or ours.address

        async def work(client: Client, _: Lines) -> list[KnownKey]:
            return await client.devices(target)

        found = ours.keys(target) if offline else online.run(ours, unlock.password(ours), work, ask=False)
        return target, target == ours.address, found


@group.command()
def reset(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Whose sessions.")],
    device: Annotated[
        str | None, typer.Argument(metavar="[DEVICE]", help="One device's id; all of them if left out.")
    ] = None,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Begin new sessions with somebody's devices, when messages can't be read any more. Trust stays as it is.

    The next message you send makes the new sessions. Also goes on after a contact asked for no encryption.
    """
    from tillie.cli import unlock

    whose = contact(address)
    device_id = _number_of(whose, device) if device is not None else None
    with unlock.account(account, passphrase_file, network_of(whose)) as ours:
        count = ours.reset(whose, device_id)
    if count:
        show.line(f"{count} session{'s' * (count != 1)} put away. Your next message begins anew.")
    else:
        show.line("There was no session; your next message begins one.")


def _number_of(whose: Address, device: str) -> int:
    """The number of a device that was named by its id. Raises `UsageError`."""
    if whose.is_matrix:
        return matrix.olm_id(device)
    if not device.isascii() or not device.isdigit():
        raise UsageError(f"'{device}' is not the id of a device.", hint=f"See 'tillie devices {whose}'.")
    return int(device)


@group.command()
def remove(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The id of a device of yours ('tillie devices').")],
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Take a device of yours that is lost or gone off your list: your contacts stop sealing for it.

    Its key is distrusted here as well. On XMPP a device that still runs announces itself again: remove the account
    there. On Matrix it is logged out, whatever program it runs.
    """
    from tillie.cli import online, unlock
    from tillie.model import Trust

    with unlock.account(account, passphrase_file) as ours:
        number = _number_of(ours.address, device)
        mine = ours.own_device()
        if mine is not None and mine.id == number:
            raise UsageError("That is this device.", hint=f"Remove it with 'tillie account remove {ours.address}'.")

        async def work(client: Client, _: Lines) -> bool:
            if not ours.address.is_matrix:
                return await client.unlist(number)
            # A homeserver deletes also what is not there.
            listed = [key.device.label for key in await client.devices(ours.address)]
            return device in listed and await client.unlist(device)

        usual = ours.schemes[0].name
        known = ours.keys(ours.address)
        keys = [k.device.key for k in known if k.scheme == usual and k.device.id == number and k.device.key]
        found = online.run(ours, unlock.password(ours), work, ask=False)
        if mine is not None:
            # A restored account shares its key with the device it comes from: that key is ours.
            for key in keys:
                if key != mine.key:
                    ours.decide(ours.address, key, Trust.DISTRUSTED)
    if not found:
        raise UsageError(f"Device {printable(device)} is not on your list.", hint="See 'tillie devices'.")
    show.line(f"Device {printable(device)} is off your list.")


def show_keys(keys: list[KnownKey]) -> None:
    """A table, and under it the fingerprints, which are too long for one."""
    rows = [(name_of(key), trust_of(key), state_of(key), printable(_label_of(key), 40)) for key in keys]
    shown = 4 if any(key.scheme != "olm" for key in keys) else 3  # a Matrix device's label is its id
    show.table(("device", "trust", "state", "label")[:shown], [row[:shown] for row in rows])
    show.line()
    for key in keys:
        if key.fingerprint:  # an OpenPGP key's begins with its name
            show.line(f"{name_of(key) if key.scheme in ('omemo', 'olm') else '':>10}  {key.fingerprint}")


def _label_of(key: KnownKey) -> str:
    return key.petname or (key.device.label if key.scheme != "olm" else "")


def name_of(key: KnownKey) -> str:
    """What a key is called in lists and as an argument: the device's id, or the first 16 digits of its fingerprint."""
    if key.scheme == "olm":
        return printable(key.device.label, 40) or "-"
    if key.scheme == "openpgp":
        return key.fingerprint.replace(" ", "")[:16]
    if key.scheme == "esession":
        return key.device.name.partition(" ")[2]
    return str(key.device.id) if key.device.id else "-"


def trust_of(key: KnownKey) -> str:
    here = "this device" if key.scheme in ("omemo", "olm") else "yours, here"
    return here if key.this else key.trust.value if key.device.key else "no key yet"


def state_of(key: KnownKey) -> str:
    if key.is_gone:
        return "no device shows this key any more"
    if key.scheme == "openpgp":
        return _openpgp_state(key)
    if key.scheme == "esession":
        return "for sessions" if key.this else "in sessions"
    if key.this:
        return ""
    if key.why:
        return f"can't be reached: {printable(key.why)}"
    if not key.listed:
        return "not announced any more"
    return "session" if key.session else "no session yet"


def _openpgp_state(key: KnownKey) -> str:
    active = ", signs" if key.info and key.info.active else ""
    if key.why:
        return f"OpenPGP, can't be used: {printable(key.why)}"
    return f"OpenPGP{active}{'' if key.listed else ', not announced'}"


def _id_of(key: KnownKey) -> int | str | None:
    """A device's id as its network has it; None for a key that no device shows any more, and for other keys."""
    ids: dict[str, int | str] = {"omemo": key.device.id, "olm": key.device.label}
    return ids.get(key.scheme) or None


def key_as_json(key: KnownKey) -> dict[str, Any]:
    return {
        "address": key.device.address,
        "scheme": key.scheme,
        "device": _id_of(key),
        "fingerprint": key.fingerprint,
        "label": key.device.label if key.scheme != "olm" else "",
        "petname": key.petname,
        "trust": key.trust.value,
        "decided": key.decided,
        "listed": key.listed,
        "session": key.session,
        "this": key.this,
        "why": key.why,
    }
