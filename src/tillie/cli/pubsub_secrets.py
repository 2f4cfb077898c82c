"""`tillie pubsub secret list | share | revoke | rotate | accept`: the keys of the house, and who has a copy."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tillie.cli import exits, show
from tillie.cli.accounts import Network
from tillie.cli.options import AccountOption, JsonOption, PassphraseFile, contact_on_xmpp
from tillie.cli.places import NodeArgument, ServiceOption, place, run, service_of
from tillie.errors import UsageError

if TYPE_CHECKING:
    from tillie.account import PrivateNode
    from tillie.client import Client
    from tillie.model import Address
    from tillie.nodes import Delivered, Removed, Rotated
    from tillie.pubsub.hearing import Pending
    from tillie.pubsub.items import Node
    from tillie.pubsub.secrets import Secret

secrets = typer.Typer(no_args_is_help=True, help="Who can open a node: share its secrets, change the locks.")

ReasonOption = Annotated[str, typer.Option(metavar="TEXT", help="Why; everybody who had the secret is told.")]


def register(group: typer.Typer) -> None:
    group.add_typer(secrets, name="secret")


# -- list -------------------------------------------------------------------------------------------------------------


@secrets.command("list")
def list_(
    node: Annotated[str, typer.Argument(metavar="[NODE]", help="Of one node; of all if left out.")] = "",
    offline: Annotated[bool, typer.Option("--offline", help="Only what is known here; ask no server.")] = False,
    service: ServiceOption = "",
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show of which nodes secrets are here. Which of them seals, who was sent each, what waits for a decision.

    The secrets themselves are never shown.
    """
    from tillie.cli import unlock

    at = service_of(service)
    if offline:
        with unlock.account(account, passphrase_file, Network.XMPP) as ours:
            found = ours.private_nodes()
    else:

        async def work(client: Client) -> list[PrivateNode]:
            return client.account.private_nodes()

        found = run(account, passphrase_file, work)
    wanted = [
        each for each in found if (not node or each.node.name == node) and (at is None or each.node.service == at)
    ]
    for each in wanted:
        if json:
            _as_json(each)
        else:
            _show(each)
    if not wanted and not json:
        show.note("No secret of a node is here. One that you make has one: tillie pubsub node create NAME")


def _show(one: PrivateNode) -> None:
    from tillie.wire.display import printable

    show.line(show.paint(f"{printable(one.node.name)} at {printable(one.node.service)}", "bold"))
    if one.authority:
        show.line(f"  secrets come from {printable(one.authority)}")
    for secret in one.secrets:
        people = ", ".join(printable(each) for each in one.sent_to.get(secret.id, ()) if each != one.authority)
        show.line(f"  {printable(secret.id, 40)}  {show.clock(secret.at)}  {_state(one, secret)}")
        if people:
            show.line(f"    sent to {people}")
        for reason in secret.reasons:
            show.line(f"    reason: {printable(reason.text)}")
    for each in one.pending:
        _show_pending(one.node, each)


def _show_pending(node: Node, each: Pending) -> None:
    from tillie.trust.fingerprint import fingerprint
    from tillie.wire.display import printable

    what = "a secret" if each.value is not None else "a revocation"
    trust = "" if each.trusted else ", under a key that you do not trust"
    show.line(f"  WAITS: {what} from {printable(each.sender)}{trust}")
    show.line(f"    {fingerprint(each.key)}")
    show.line(f"    tillie pubsub secret accept {printable(node.name)} {each.sender} --service {node.service}")


def _state(one: PrivateNode, secret: Secret) -> str:
    if secret.id == one.newest:
        return "seals"
    if not secret.revoked:
        return "opens"
    when = f" {show.clock(secret.revoked_at)}" if secret.revoked_at else ""
    return f"revoked{when}"


def _as_json(one: PrivateNode) -> None:
    from tillie.trust.fingerprint import fingerprint
    from tillie.wire.time import format_datetime

    where = {"service": one.node.service, "node": one.node.name}
    for secret in one.secrets:
        show.as_json({
            **where, "id": secret.id, "state": "revoked" if secret.revoked else "known",
            "seals": secret.id == one.newest, "time": format_datetime(secret.at), "from": secret.sender,
            "reasons": [reason.text for reason in secret.reasons], "sent_to": list(one.sent_to.get(secret.id, ())),
        })  # fmt: skip
    for each in one.pending:
        show.as_json({
            **where, "id": each.id, "state": "pending", "seals": False,
            "time": format_datetime(each.at) if each.at else None, "from": each.sender,
            "reasons": [reason.text for reason in each.reasons], "sent_to": [],
            "fingerprint": fingerprint(each.key), "trusted": each.trusted, "revokes": each.value is None,
        })  # fmt: skip


# -- share ------------------------------------------------------------------------------------------------------------


@secrets.command()
def share(
    node: NodeArgument,
    people: Annotated[
        list[str] | None, typer.Argument(metavar="[ADDRESS]...", help="Whom to let in; else send what is still due.")
    ] = None,
    publisher: Annotated[bool, typer.Option("--publisher", help="They may write there, too.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Send all of it anew, to somebody who lost it.")] = False,
    service: ServiceOption = "",
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Let people into a node. At the service, and with its secrets, sealed for their OpenPGP keys.

    They can read all that is there, old items too. Example: tillie pubsub secret share blog nurse@example.org
    """
    from tillie.cli import progress

    at = service_of(service)
    wanted = tuple(dict.fromkeys(contact_on_xmpp(each) for each in people or ()))
    if again and not wanted:
        raise UsageError("--again needs the address of who lost it.")

    async def work(client: Client) -> tuple[Delivered, ...]:
        from tillie.pubsub.members import Role

        where = place(client, node, at)
        role = Role.PUBLISHER if publisher else Role.READER
        with progress.shown(also_with_results=True) as bar:
            if not wanted:
                return await client.nodes.resume(where, progress=bar)
            if len(wanted) == 1:
                return (await client.nodes.share(where, wanted[0], role=role, again=again),)
            return await client.nodes.share_all(where, wanted, role=role, again=again, progress=bar)

    delivered = run(account, passphrase_file, work)
    _tell_delivered(delivered, json=json, word="publisher" if publisher else "reader" if wanted else "")
    if not delivered and not json:
        show.note("Nothing is due: everybody has what they should.")
    _end(delivered)


def _tell_delivered(delivered: tuple[Delivered, ...], *, json: bool, word: str = "") -> None:
    from tillie.cli.messages import report_as_json

    for one in delivered:
        if json:
            show.as_json({
                "address": one.address, "messages": one.messages, "error": str(one.error) if one.error else "",
                "devices": [report_as_json(each) for each in one.report],
            })  # fmt: skip
        elif one.error is None:
            role = f" is a {word} now:" if word else ":"
            sent = f"{one.messages} message{'s' * (one.messages != 1)} with secrets sent"
            show.line(f"{one.address}{role} {sent if one.messages else 'has all secrets already'}.")
            _tell_skipped(one)
        else:
            show.note(f"{one.address} was not sent all of it ({one.messages} messages went out):")
            show.failure(one.error)


def _tell_skipped(one: Delivered) -> None:
    from tillie.wire.display import printable

    for each in one.skipped:
        show.note(f"  not for {each.device.name} of {each.device.address}: {printable(each.why)}")


def _end(delivered: tuple[Delivered, ...]) -> None:
    errors = [one.error for one in delivered if one.error is not None]
    if errors:
        raise typer.Exit(exits.code_of(errors[0]))


# -- revoke and rotate ------------------------------------------------------------------------------------------------


@secrets.command()
def revoke(
    node: NodeArgument,
    address: Annotated[str, typer.Argument(metavar="[ADDRESS]", help="Whose access to take back.")] = "",
    secret: Annotated[str, typer.Option(metavar="ID", help="Instead: one secret ('tillie pubsub secret list').")] = "",
    reason: ReasonOption = "",
    service: ServiceOption = "",
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Take somebody's access back. The locks are changed, everybody else is told, the service shuts her out.

    What that can't undo is said plainly. Example: tillie pubsub secret revoke blog nurse@example.org
    """
    from tillie.cli import progress

    at = service_of(service)
    if bool(address) == bool(secret):
        raise UsageError("Name a person, or a secret with --secret ID.")
    whom = contact_on_xmpp(address) if address else None

    async def work(client: Client) -> tuple[Removed | Rotated, Address]:
        where = place(client, node, at)
        with progress.shown(also_with_results=True) as bar:
            if whom is None:
                done = await client.nodes.revoke(where, secret, reasons=_reasons(reason), progress=bar)
                return done, client.account.address
            removed = await client.nodes.remove(where, whom, reasons=_reasons(reason), progress=bar)
            return removed, client.account.address

    done, mine = run(account, passphrase_file, work)
    if json:
        show.as_json(_changed_as_json(done))
    else:
        show.line(f"{whom} has no access to {node} any more." if whom else f"The secret {secret} is revoked.")
        _tell_changed(done, mine)
    _end_changed(done)


@secrets.command()
def rotate(
    node: NodeArgument,
    reason: ReasonOption = "",
    service: ServiceOption = "",
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Change the locks. All secrets are revoked, a new one is made, and everybody who has access gets it."""
    from tillie.cli import progress

    at = service_of(service)

    async def work(client: Client) -> tuple[Rotated, Address]:
        with progress.shown(also_with_results=True) as bar:
            done = await client.nodes.rotate(place(client, node, at), reasons=_reasons(reason), progress=bar)
        return done, client.account.address

    done, mine = run(account, passphrase_file, work)
    if json:
        show.as_json(_changed_as_json(done))
    else:
        show.line(f"The locks of {node} are changed.")
        _tell_changed(done, mine)
    _end_changed(done)


def _reasons(text: str) -> tuple[Any, ...]:
    from tillie.pubsub.statements import Reason

    return (Reason(text),) if text else ()


def _tell_changed(done: Removed | Rotated, mine: Address) -> None:
    """Who has the new secret, what did not work, and what no change of locks undoes."""
    from tillie.wire.display import printable

    told = [one for one in done.delivered if one.error is None and one.messages]
    # Our other devices got it, too; who was removed was told that the old ones are revoked.
    others = [one.address for one in told if one.address not in (mine, getattr(done, "address", None))]
    show.line(f"New items are sealed with {done.secret}, sent to {', '.join(others) or 'nobody else'}.")
    for one in told:
        _tell_skipped(one)
    for problem in done.problems:
        show.note(show.paint(f"It did not all work: {printable(problem)}", "bold red", sys.stderr))
    for each in done.left_out:
        show.note(f"{each} may read at the service, and was never sent a secret from here.")
    cannot_undo: tuple[str, ...] = getattr(done, "cannot_undo", ())
    if cannot_undo:
        show.line("What this can't undo:")
        for sentence in cannot_undo:
            show.sentence(f"- {printable(sentence)}")


def _changed_as_json(done: Removed | Rotated) -> dict[str, Any]:
    return {
        "secret": done.secret,
        "sent_to": [one.address for one in done.delivered if one.error is None],
        "failed": {one.address: str(one.error) for one in done.delivered if one.error is not None},
        "problems": list(done.problems),
        "left_out": list(done.left_out),
        "cannot_undo": list(getattr(done, "cannot_undo", ())),
    }


def _end_changed(done: Removed | Rotated) -> None:
    _end(done.delivered)
    if done.problems:
        raise typer.Exit(exits.NETWORK)


# -- accept -----------------------------------------------------------------------------------------------------------


@secrets.command()
def accept(
    node: NodeArgument,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Whose secrets to believe.")],
    refuse: Annotated[bool, typer.Option("--refuse", help="Forget what waits of this person instead.")] = False,
    service: ServiceOption = "",
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Decide whose secrets count for a node. For where the service does not tell who owns it.

    From then on only what this person says of the node's secrets counts.
    """
    at = service_of(service)
    sender = contact_on_xmpp(address)

    async def work(client: Client) -> int:
        where = place(client, node, at)
        if refuse:
            return await client.nodes.refuse(where, sender)
        return await client.nodes.accept(where, sender)

    count = run(account, passphrase_file, work)
    if refuse:
        show.line(f"Forgot {count} of what {sender} said of {node}.")
    else:
        show.line(f"The secrets of {node} come from {sender}: {count} taken in.")
