"""`tillie pubsub node create | convert | configure | members | delete | list`."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tillie.cli import show
from tillie.cli.options import AccountOption, JsonOption, PassphraseFile
from tillie.cli.places import NodeArgument, ServiceOption, place, run, service_of
from tillie.errors import UsageError

if TYPE_CHECKING:
    from tillie.client import Client
    from tillie.nodes import Access, Converted
    from tillie.pubsub.items import Node

nodes = typer.Typer(no_args_is_help=True, help="Nodes themselves: make, close, look after, delete.")

MAX_SHOWN = 20  # ids of items in clear that are named to a person
_PREFIX = "pubsub#"
# What protocols keep at an account; nobody reads these as a blog.
_MACHINERY = ("urn:xmpp:", "eu.siacs.", "http://jabber.org/protocol/", "storage:")


class AccessName(str, Enum):  # noqa: UP042
    """Access models (XEP-0060 section 4.5), as they are typed."""

    WHITELIST = "whitelist"
    PRESENCE = "presence"
    ROSTER = "roster"
    AUTHORIZE = "authorize"
    OPEN = "open"


AccessOption = Annotated[AccessName, typer.Option("--access", help="Whom the service lets read what is there.")]
TypeOption = Annotated[
    str, typer.Option("--type", metavar="NAMESPACE", help="What its items are; only members get to know.")
]


def register(group: typer.Typer) -> None:
    group.add_typer(nodes, name="node")


# -- made and closed --------------------------------------------------------------------------------------------------


@nodes.command()
def create(
    node: Annotated[str, typer.Argument(metavar="[NODE]", help="Its name; a random one tells nothing.")] = "",
    clear: Annotated[bool, typer.Option("--clear", help="Its items are to be in clear.")] = False,
    access: AccessOption = AccessName.WHITELIST,
    max_items: Annotated[str, typer.Option(metavar="NUMBER|max", help="How many the service keeps.")] = "max",
    kind: TypeOption = "",
    service: ServiceOption = "",
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a private node. It is closed to everybody, its items sealed. 'tillie pubsub secret share' lets people in.

    The service sees the node's name, who has access, when and how much is written; not what. Example:
    tillie pubsub node create blog
    """
    at = service_of(service)
    if max_items != "max" and not (max_items.isascii() and max_items.isdigit() and int(max_items) > 0):
        raise UsageError(f"'{max_items}' is no number of items.", hint="A number from 1, or max.")

    async def work(client: Client) -> Node:
        from tillie.pubsub.items import Node

        where = place(client, node, at) if node else Node(at or client.account.address, "")
        return await client.nodes.create(
            where, encrypted=not clear, type=kind, access=access.value, max_items=max_items
        )

    made = run(account, passphrase_file, work, settle=False)
    if json:
        show.as_json({"service": made.service, "node": made.name, "private": not clear})
        return
    show.line(made.name)
    if clear:
        show.note(f"The node is made at {made.service}. What you publish there is in clear.")
    else:
        show.note(f"The node is made at {made.service}. What you publish there is sealed; nobody else can read it yet.")
        show.note(f"Let people in: tillie pubsub secret share {made.name} ADDRESS")


@nodes.command()
def convert(
    node: NodeArgument,
    access: AccessOption = AccessName.WHITELIST,
    kind: TypeOption = "",
    service: ServiceOption = "",
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make an existing node private. It is closed, and what you publish from now on is sealed.

    What is there already stays in clear, and is named: publish it anew, or delete it.
    """
    from tillie.cli import progress

    at = service_of(service)

    async def work(client: Client) -> Converted:
        with progress.shown(also_with_results=True) as bar:
            return await client.nodes.convert(place(client, node, at), type=kind, access=access.value, progress=bar)

    done = run(account, passphrase_file, work)
    if json:
        show.as_json({
            "service": done.node.service, "node": done.node.name, "secret": done.secret,
            "in_clear": list(done.in_clear), "more": done.more, "readers": list(done.readers),
        })  # fmt: skip
        return
    show.line(f"{done.node.name} is private now: what you publish from now on is sealed.")
    _tell_in_clear(done)
    for reader in done.readers:
        show.note(f"{reader} has access at the service, but no secret: tillie pubsub secret share {node} {reader}")


def _tell_in_clear(done: Converted) -> None:
    from tillie.wire.display import printable

    count = len(done.in_clear) + done.more
    if not count:
        return
    show.note(f"{count} item{'s stay' if count != 1 else ' stays'} in clear. Publish them anew, or delete them:")
    for item in done.in_clear[:MAX_SHOWN]:
        show.note(f"  {printable(item)}")
    if count > MAX_SHOWN:
        show.note(f"  ... and {count - MAX_SHOWN} more ('tillie pubsub list' shows them)")


@nodes.command()
def configure(
    node: NodeArgument,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[OPTION=VALUE]...", help="Such as access_model=whitelist.")
    ] = None,
    service: ServiceOption = "",
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Change options of a node of yours, and show all (XEP-0060)."""
    at = service_of(service)
    changes = dict(map(_option, options or ()))

    async def work(client: Client) -> dict[str, str]:
        return await client.nodes.configure(place(client, node, at), changes)

    holds = run(account, passphrase_file, work, settle=False)
    if json:
        show.as_json(holds)
        return
    from tillie.wire.display import printable

    for name, value in sorted(holds.items()):
        show.line(f"{printable(name.removeprefix(_PREFIX))}={printable(value)}")


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"'{text}' is no option.", hint="It looks like access_model=whitelist.")
    return (name if "#" in name else _PREFIX + name), value


@nodes.command()
def delete(
    node: NodeArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    service: ServiceOption = "",
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Delete a node with all its items. Its secrets stay here: they open copies that anybody kept."""
    from tillie.cli.keys import confirm

    at = service_of(service)
    show.note(f"This deletes {node}{f' at {at}' if at else ''} with all its items.")
    confirm("Delete it?", yes)

    async def work(client: Client) -> None:
        await client.nodes.delete(place(client, node, at))

    run(account, passphrase_file, work, settle=False)
    show.line(f"{node} is deleted.")


# -- shown ------------------------------------------------------------------------------------------------------------


@nodes.command()
def members(
    node: NodeArgument,
    service: ServiceOption = "",
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show who has access to a node of yours. By the service's list, and which secrets each was sent."""
    at = service_of(service)

    async def work(client: Client) -> tuple[Access, ...]:
        return await client.nodes.members(place(client, node, at))

    people = run(account, passphrase_file, work)
    if json:
        for one in people:
            show.as_json(_access_as_json(one))
        return
    from tillie.wire.display import printable

    rows = [
        (printable(one.address), _role(one), printable(one.affiliation), str(one.has), _state(one)) for one in people
    ]
    show.table(("address", "here", "service", "secrets", ""), rows)


def _role(one: Access) -> str:
    return one.member.role.value if one.member is not None and one.member.removed is None else "-"


def _state(one: Access) -> str:
    if one.member is not None and one.member.removed is not None:
        back = "" if one.affiliation in ("none", "outcast") else ", BUT THE SERVICE STILL LISTS HER"
        return f"removed {show.clock(one.member.removed)}{back}"
    if one.due:
        return f"{one.due} messages are due ('secret share' sends them)"
    if one.member is None and one.affiliation != "owner":
        return "no secret was sent from here"
    return ""


def _access_as_json(one: Access) -> dict[str, Any]:
    from tillie.wire.time import format_datetime

    removed = one.member.removed if one.member else None
    return {
        "address": one.address,
        "affiliation": one.affiliation,
        "role": one.member.role.value if one.member and removed is None else None,
        "removed": format_datetime(removed) if removed is not None else None,
        "secrets": one.has,
        "due": one.due,
    }


@nodes.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Also nodes that programs keep there.")] = False,
    service: ServiceOption = "",
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show your nodes. Those that a service shows you, and those anywhere whose secrets you have."""
    at = service_of(service)

    async def work(client: Client) -> list[dict[str, Any]]:
        from tillie.pubsub.items import Node

        place_ = at or client.account.address
        shown = {Node(place_, name) for name in await client.nodes.names(place_)}
        private = {each.node: each for each in client.account.private_nodes()}
        found = shown | {node for node in private if at in (None, node.service)}
        return [
            {
                "service": node.service,
                "node": node.name,
                "shown": node in shown,
                "secrets": len(private[node].secrets) if node in private else 0,
                "from": private[node].authority if node in private else "",
            }
            for node in sorted(found)
            if everything or not node.name.startswith(_MACHINERY) or node in private
        ]

    rows = run(account, passphrase_file, work)
    if json:
        for row in rows:
            show.as_json(row)
    elif rows:
        from tillie.wire.display import printable

        cells = [
            (printable(row["node"], 48), printable(row["service"], 48), f"{row['secrets']}" if row["secrets"] else "-")
            for row in rows
        ]
        show.table(("node", "service", "secrets"), cells)
    else:
        show.note("There is no node. Make one: tillie pubsub node create blog")
