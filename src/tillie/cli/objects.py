"""`tillie seal --to ADDRESS < in > out` and `tillie open < in > out`: any bytes, offline (OpenPGP)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tillie.cli import exits, files, show
from tillie.cli.accounts import Network
from tillie.cli.options import AccountOption, PassphraseFile, contact_on_xmpp
from tillie.errors import UsageError

if TYPE_CHECKING:
    from tillie.account import Account
    from tillie.schemes.openpgp import OpenedObject

MAX_SEALED = 8 << 20  # bytes of a sealed object; what is in it has fewer (schemes.openpgp.objects)

InputArgument = Annotated[Path, typer.Argument(metavar="[FILE|-]", help="Standard input if left out.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there; a file that is there is kept.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]


def register(app: typer.Typer) -> None:
    app.command()(seal)
    app.command("open")(open_)


def seal(
    file: InputArgument = Path("-"),
    to: Annotated[list[str] | None, typer.Option(metavar="ADDRESS", help="Whom for; may be given again.")] = None,
    output: OutputOption = None,
    force: ForceOption = False,
    report: Annotated[bool, typer.Option("--report", help="Show what became of each key, on standard error.")] = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Seal anything, offline. For people whose OpenPGP keys are known here, and for yourself; signed by you.

    Example: tillie seal --to bob@example.net < plan.pdf > plan.sealed
    """
    from tillie.cli import unlock
    from tillie.cli.messages import show_report
    from tillie.schemes.openpgp.objects import MAX_OBJECT_BYTES

    people = tuple(contact_on_xmpp(each) for each in to or ())
    if not people:
        raise UsageError("It must be for somebody.", hint="Name them: --to bob@example.net")
    files.check_output(output, force=force, binary=True)
    data = files.read(file, MAX_OBJECT_BYTES)
    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        sealed = ours.seal_object(data, people)
    files.write(output, sealed.message)
    done = sum(each.sealed for each in sealed.report)
    show.note(f"Sealed for {done} key{'s' * (done != 1)} and your own.")
    if report:
        files.on_stderr(lambda: show_report(sealed.report, in_full=True))
    else:
        show_report(sealed.report, in_full=False)


def open_(
    file: InputArgument = Path("-"),
    output: OutputOption = None,
    force: ForceOption = False,
    json: Annotated[
        bool, typer.Option("--json", help="Who sealed it, as one line of JSON on standard error (docs/cli.md).")
    ] = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Open what 'tillie seal' made, offline. The content to standard output, who sealed it to standard error.

    Exit code 3: it opened, but you have not decided to trust the key that signed it, or distrust it. The content is
    written all the same, except for a distrusted key.
    """
    from tillie.cli import unlock

    files.check_output(output, force=force)
    message = files.read(file, MAX_SEALED)
    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        opened = ours.open_object(message)
        if json:
            show.note(_as_json(opened))
        else:
            _tell(ours, opened)
    if opened.trust.value == "distrusted":
        raise typer.Exit(exits.DECISION)
    files.write(output, opened.data)
    if not opened.trust.allows_sending:
        raise typer.Exit(exits.DECISION)


def _tell(ours: Account, opened: OpenedObject) -> None:
    from tillie.trust.fingerprint import fingerprint
    from tillie.wire.display import printable

    whose = opened.device.address
    who = "you" if whose == ours.address else printable(whose)
    show.note(f"Sealed by {who}, {show.clock(opened.time)}, with a key that is {opened.trust.value}:")
    show.note(f"  {fingerprint(opened.device.key)}")
    for each in opened.notes:
        show.note(f"  note: {printable(each)}")
    if opened.trust.value == "distrusted":
        show.note(show.paint("You distrust this key: nothing is written.", "bold red", sys.stderr))
    elif not opened.trust.allows_sending:
        show.note(f"Anybody may have made this key. Compare it: tillie verify {whose}")


def _as_json(opened: OpenedObject) -> str:
    from json import dumps

    from tillie.trust.fingerprint import fingerprint
    from tillie.wire.time import format_datetime

    found: dict[str, Any] = {
        "from": opened.device.address,
        "fingerprint": fingerprint(opened.device.key),
        "trust": opened.trust.value,
        "time": format_datetime(opened.time),
        "bytes": len(opened.data),
        "notes": list(opened.notes),
    }
    return dumps(found)
