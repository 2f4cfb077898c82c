"""`tillie pubsub signature sign | check` (XEP-0475, XEP-0476)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tillie.cli import exits, show
from tillie.cli.options import AccountOption, JsonOption, PassphraseFile, contact_on_xmpp
from tillie.cli.places import NodeArgument, ServiceOption, place, run, service_of

if TYPE_CHECKING:
    from tillie.client import Client
    from tillie.pubsub.checking import Checked, SignatureReport
    from tillie.pubsub.items import Reading

signatures = typer.Typer(no_args_is_help=True, help="Sign items, and check who signed one.")

ItemArgument = Annotated[str, typer.Argument(metavar="ITEM", help="The item's id.")]


def register(group: typer.Typer) -> None:
    group.add_typer(signatures, name="signature")


@signatures.command()
def sign(
    node: NodeArgument,
    item: ItemArgument,
    also: Annotated[
        list[str] | None, typer.Option("--with", metavar="ADDRESS", help="Who signs it, too; may be given again.")
    ] = None,
    service: ServiceOption = "",
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Sign an item as it is now, with your OpenPGP key. Yours, or somebody else's; what was signed is shown."""
    from tillie.cli.entries import text_of

    at = service_of(service)
    others = tuple(contact_on_xmpp(each) for each in also or ())

    async def work(client: Client) -> Reading:
        return await client.nodes.sign(place(client, node, at), item, also=others)

    reading = run(account, passphrase_file, work)
    show.line(f"Signed {item}:")
    for part in show.text_lines(text_of(reading.payload or b"")):
        show.line(f"  {part}")
    show.note("The signature says that you certify this version of the item. It does not say that you wrote it.")


@signatures.command()
def check(
    node: NodeArgument,
    item: ItemArgument,
    service: ServiceOption = "",
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Check all signatures of an item. Each signer for herself.

    Exit code 0: valid, by a key that you trust. 3: valid, but you do not trust the key. 8: not signed, or not valid.
    """
    at = service_of(service)

    async def work(client: Client) -> Checked:
        return await client.nodes.check(place(client, node, at), item)

    checked = run(account, passphrase_file, work)
    if json:
        show.as_json(_as_json(node, item, checked))
    else:
        _tell(checked)
    raise typer.Exit(_code(checked))


def _tell(checked: Checked) -> None:
    from tillie.trust.fingerprint import fingerprint
    from tillie.wire.display import printable

    if checked.summary is None:
        show.line("Nobody signed it.")
    for one in checked.reports:
        when = f", {show.clock(one.time)}" if one.time is not None else ""
        show.line(f"{show.paint(printable(one.signer), 'bold')}: {_verdict(one)}{when}")
        if one.fingerprint:
            show.line(f"  {fingerprint(one.fingerprint)}")
        if one.error:
            show.line(f"  {printable(one.error)}")
        for each in one.notes:
            show.line(f"  note: {printable(each)}")
    for each in checked.notes:
        show.note(f"note: {printable(each)}")


def _verdict(one: SignatureReport) -> str:
    styles = {"VALID_TRUSTED": "green", "VALID_UNTRUSTED": "yellow", "INVALID": "bold red"}
    return show.paint(one.verdict.value, styles.get(one.verdict.name, "yellow"))


def _as_json(node: str, item: str, checked: Checked) -> dict[str, Any]:
    from tillie.trust.fingerprint import fingerprint
    from tillie.wire.time import format_datetime

    return {
        "node": node,
        "id": item,
        "summary": checked.summary.name.lower() if checked.summary else None,
        "signatures": [
            {
                "signer": one.signer,
                "verdict": one.verdict.name.lower(),
                "fingerprint": fingerprint(one.fingerprint) if one.fingerprint else "",
                "trust": one.trust.value,
                "time": format_datetime(one.time) if one.time is not None else None,
                "attached_by": one.author,
                "disputed": one.disputed,
                "notes": list(one.notes),
                "error": one.error,
            }
            for one in checked.reports
        ],
        "notes": list(checked.notes),
    }


def _code(checked: Checked) -> int:
    if checked.summary is None or not checked.summary.is_valid:
        return exits.PEER
    return exits.OK if checked.summary.name == "VALID_TRUSTED" else exits.DECISION
