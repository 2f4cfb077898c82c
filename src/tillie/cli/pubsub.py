"""`tillie pubsub set | get | list | delete | watch`, and the groups `node`, `secret` and `signature` beside them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tillie.cli import exits, files, pubsub_nodes, pubsub_secrets, pubsub_signatures, show
from tillie.cli.options import AccountOption, JsonOption, PassphraseFile, contact_on_xmpp
from tillie.cli.places import NodeArgument, ServiceOption, place, run, service_of
from tillie.errors import UsageError

if TYPE_CHECKING:
    from tillie.client import Client
    from tillie.nodes import Published
    from tillie.pubsub.items import Node, Reading

group = typer.Typer(no_args_is_help=True, help="Private nodes: blogs, calendars, lists; sealed, shared, signed.")

ITEM_BYTES = 15  # of a random item id
SETTLE_SECONDS = 2.0  # between two looks at secrets that came while we watch
_CAN_T_BE_READ = ("tampered", "rejected", "malformed", "no secret", "not for us")

ItemArgument = Annotated[str, typer.Argument(metavar="ITEM", help="The item's id.")]


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="pubsub")


pubsub_nodes.register(group)
pubsub_secrets.register(group)
pubsub_signatures.register(group)


# -- set ------------------------------------------------------------------------------------------------------------


@group.command("set")
def set_(
    node: NodeArgument,
    file: Annotated[Path, typer.Argument(metavar="[FILE|-]", help="The payload: one XML element.")] = Path("-"),
    text: Annotated[str | None, typer.Option(metavar="TEXT|-", help="A text instead, as a blog entry (Atom).")] = None,
    title: Annotated[str, typer.Option(metavar="TEXT", help="The title of that entry.")] = "",
    item: Annotated[str, typer.Option("--id", metavar="ITEM", help="The item's id; a random one if left out.")] = "",
    encrypt: Annotated[bool, typer.Option("--encrypt", help="Seal it with the node's secret, or do nothing.")] = False,
    encrypt_for: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="Seal it for this person only; may be given again.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="In clear, though the node has secrets.")] = False,
    sign: Annotated[bool, typer.Option("--sign", help="Attach a signature by your OpenPGP key.")] = False,
    any_access: Annotated[
        bool, typer.Option("--any-access", help="Whoever the service lets in: do not insist on a closed node.")
    ] = False,
    service: ServiceOption = "",
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Publish an item. At a node that has secrets it is sealed, unless you say --clear.

    Examples: tillie pubsub set blog --text "Home again." --sign · tillie pubsub set calendar event.xml
    """
    at = service_of(service)
    people = tuple(contact_on_xmpp(each) for each in encrypt_for or ())
    if clear and (encrypt or people):
        raise UsageError("It can't be sealed and in clear at once.")
    if encrypt and people:
        raise UsageError("--encrypt-for seals it already, for these people alone.", hint="Leave --encrypt out.")
    if title and text is None:
        raise UsageError("A title belongs to a text.", hint="Give --text.")
    given = _payload(file, text)

    async def work(client: Client) -> Published:
        where = place(client, node, at)
        item_id = item or _random_id()
        payload = given if text is None else _entry(client, given.decode(), title, where, item_id)
        return await client.nodes.publish(
            where, payload, item_id,
            encrypt=True if encrypt else False if clear else None, encrypt_for=people, sign=sign,
            access="" if any_access else None,
        )  # fmt: skip

    from_stdin = text == "-" or (text is None and str(file) == "-")
    published = run(account, passphrase_file, work, ask=not from_stdin)
    if json:
        show.as_json(_published_as_json(published))
    else:
        show.line(published.id)
        show.note(_how(published))
    if published.unsigned is not None:
        show.note("It is published, but not signed:")
        show.failure(published.unsigned)
        raise typer.Exit(exits.code_of(published.unsigned))


def _payload(file: Path, text: str | None) -> bytes:
    """The payload, or the text for one, before anything is asked of the network."""
    from tillie.pubsub.sealing import MAX_PAYLOAD

    if text is None:
        data = files.read(file, MAX_PAYLOAD).strip()
        if not data.startswith(b"<"):
            raise UsageError("A payload is one XML element.", hint="For a text give --text TEXT, or --text -.")
        return data
    if str(file) != "-":
        raise UsageError("Give a file or a text, not both.")
    data = files.read(Path("-"), MAX_PAYLOAD) if text == "-" else text.encode(errors="replace")
    if not data.strip():
        raise UsageError("There is nothing to publish: the text is empty.")
    try:
        data.decode()
    except UnicodeDecodeError:
        raise UsageError("The text is not UTF-8.") from None
    return data.removesuffix(b"\n")


def _entry(client: Client, text: str, title: str, node: Node, item_id: str) -> bytes:
    from tillie.cli.entries import entry

    return entry(text, title, client.account.address, node, item_id, client.account.clock())


def _random_id() -> str:
    from tillie.crypto.random import random_bytes

    return random_bytes(ITEM_BYTES).hex()


def _how(published: Published) -> str:
    signed = ", signed" if published.signed else ""
    if published.in_clear:
        return f"Published in clear{signed}: the service, and whoever it lets in, can read it."
    if published.secret:
        return f"Published, sealed for whoever has the node's secret{signed}."
    done = sum(each.sealed for each in published.report)
    return f"Published, sealed for {done} device{'s' * (done != 1)}{signed}."


def _published_as_json(published: Published) -> dict[str, Any]:
    from tillie.cli.messages import report_as_json

    return {
        "service": published.node.service,
        "node": published.node.name,
        "id": published.id,
        "in_clear": published.in_clear,
        "secret": published.secret,
        "devices": [report_as_json(each) for each in published.report],
        "signed": published.signed,
        "error": str(published.unsigned) if published.unsigned else "",
    }


# -- get and list -----------------------------------------------------------------------------------------------------


@group.command()
def get(
    node: NodeArgument,
    items: Annotated[list[str] | None, typer.Argument(metavar="[ITEM]...", help="These; all if left out.")] = None,
    last: Annotated[int, typer.Option(min=0, help="So many, the newest; 0: all.")] = 0,
    xml: Annotated[bool, typer.Option("--xml", help="The payloads alone, as they are.")] = False,
    service: ServiceOption = "",
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Read items, opened. What can't be opened is told; for an item that was named that is exit code 8."""
    at = service_of(service)
    wanted = tuple(dict.fromkeys(items or ()))

    async def work(client: Client) -> tuple[int, int]:
        where = place(client, node, at)
        found = bad = 0
        async for reading in _readings(client, where, wanted, last):
            found += 1
            bad += reading.kind.value in _CAN_T_BE_READ
            _show_reading(where, reading, json=json, xml=xml)
        return found, bad

    found, bad = run(account, passphrase_file, work)
    if found < len(wanted):
        raise UsageError(f"{len(wanted) - found} of the items are not there.", hint=f"See 'tillie pubsub list {node}'.")
    if not found and not json and not xml:
        show.note("The node has no items.")
    if wanted and bad:
        raise typer.Exit(exits.PEER)


async def _readings(client: Client, node: Node, ids: tuple[str, ...], last: int) -> AsyncIterator[Reading]:
    from tillie.cli import progress

    with progress.shown() as bar:
        coming = client.nodes.items(node, ids, limit=last or None, progress=bar)
        async with contextlib.aclosing(coming):
            async for reading in coming:
                yield reading


@group.command("list")
def list_(
    node: NodeArgument,
    last: Annotated[int, typer.Option(min=0, help="So many, the newest; 0: all.")] = 0,
    service: ServiceOption = "",
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show the items of a node, a line for each. Its id, what it is, who published it, how it begins."""
    at = service_of(service)

    async def work(client: Client) -> list[tuple[str, str, str, str]]:
        where = place(client, node, at)
        rows = []
        async for reading in _readings(client, where, (), last):
            if json:
                show.as_json({**reading_as_json(where, reading), "payload": None, "text": None})
            else:
                rows.append(_row(reading))
        return rows

    rows = run(account, passphrase_file, work)
    if rows:
        show.table(("item", "", "publisher", ""), rows)
    elif not json:
        show.note("The node has no items.")


SHOWN_ID, SHOWN_LINE = 36, 40  # characters


def _row(reading: Reading) -> tuple[str, str, str, str]:
    from tillie.cli.entries import text_of
    from tillie.wire.display import printable

    text = text_of(reading.payload) if reading.payload is not None else reading.error
    first = printable(text.partition("\n")[0], SHOWN_LINE)
    flag = "!" if reading.notes else ""
    kind = "sealed" if reading.kind.value == "opened" else reading.kind.value
    return printable(reading.item.id, SHOWN_ID), kind + flag, printable(reading.item.publisher or "?"), first


def _show_reading(node: Node, reading: Reading, *, json: bool, xml: bool) -> None:
    from tillie.cli.entries import text_of
    from tillie.wire.display import printable

    if json:
        show.as_json(reading_as_json(node, reading))
        return
    if xml:
        if reading.payload is None:
            show.note(f"{printable(reading.item.id)} can't be read: {printable(reading.error)}")
        else:
            files.write_line(reading.payload)
        _show_notes(reading)
        return
    who = f"  {printable(reading.item.publisher)}" if reading.item.publisher else ""
    show.line(f"{show.paint(printable(reading.item.id), 'bold')}{who}{_mark(reading)}")
    if reading.payload is None:
        why = f": {printable(reading.error)}" if reading.error not in ("", reading.kind.value) else ""
        show.sentence(f"  ({reading.kind.value}{why})")
    else:
        for part in show.text_lines(text_of(reading.payload)):
            show.line(f"  {part}")
    _show_notes(reading)


def _mark(reading: Reading) -> str:
    from tillie.wire.display import printable

    if reading.kind.value == "clear":
        return show.paint("  [in clear]", "yellow")
    if reading.by is not None and reading.payload is not None:
        return f"  [for a few, by {printable(reading.by.address)}, device {reading.by.id}]"
    return ""


def _show_notes(reading: Reading) -> None:
    from tillie.wire.display import printable

    for each in reading.notes:
        show.note(show.paint(f"  note: {printable(each)}", "yellow", sys.stderr))


def reading_as_json(node: Node, reading: Reading) -> dict[str, Any]:
    from tillie.cli.entries import text_of
    from tillie.trust.fingerprint import fingerprint

    payload = reading.payload
    by = reading.by
    return {
        "service": node.service,
        "node": node.name,
        "id": reading.item.id,
        "kind": reading.kind.value,
        "publisher": reading.item.publisher,
        "secret": reading.secret,
        "by": by.address if by else None,
        "fingerprint": fingerprint(by.key) if by and by.key else "",
        "payload": payload.decode(errors="replace") if payload is not None else None,
        "text": text_of(payload) if payload is not None else None,
        "notes": list(reading.notes),
        "error": reading.error,
    }


# -- watch and delete -------------------------------------------------------------------------------------------------


@group.command()
def watch(
    node: NodeArgument,
    count: Annotated[int, typer.Option(min=0, help="Leave after so many items; 0: never.")] = 0,
    xml: Annotated[bool, typer.Option("--xml", help="The payloads alone, as they are.")] = False,
    service: ServiceOption = "",
    json: JsonOption = False,
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show items as they are published, opened. Ctrl-C leaves."""
    at = service_of(service)

    async def work(client: Client) -> None:
        where = place(client, node, at)
        settling = asyncio.ensure_future(_go_on_settling(client))
        coming = client.nodes.watch(where)
        shown = 0
        show.note(f"Watching {where.name} at {where.service}. Ctrl-C leaves.")
        try:
            async with contextlib.aclosing(coming):
                async for reading in coming:
                    _show_reading(where, reading, json=json, xml=xml)
                    shown += 1
                    if shown == count:
                        return
        finally:
            settling.cancel()

    run(account, passphrase_file, work)


async def _go_on_settling(client: Client) -> None:
    """Secrets may come at any time, and wait until it is known who owns their node."""
    while True:
        await asyncio.sleep(SETTLE_SECONDS)
        await client.nodes.settle()


@group.command()
def delete(
    node: NodeArgument,
    items: Annotated[list[str], typer.Argument(metavar="ITEM...", help="The ids of items.")],
    service: ServiceOption = "",
    account: AccountOption = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Take items off a node, with what is attached to them. Who has read one has it."""
    at = service_of(service)

    async def work(client: Client) -> None:
        for item in dict.fromkeys(items):
            await client.nodes.retract(place(client, node, at), item)
            show.line(item)

    run(account, passphrase_file, work, settle=False)
