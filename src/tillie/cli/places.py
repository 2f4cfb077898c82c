"""Nodes as they are typed, and what a command does at one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import typer

from tillie.cli import links
from tillie.cli.accounts import Network
from tillie.errors import InvalidAddress, UsageError
from tillie.model import Address
from tillie.wire import address as addresses

if TYPE_CHECKING:
    from tillie.cli.terminal import Lines
    from tillie.client import Client
    from tillie.pubsub.items import Node

T = TypeVar("T")

MAX_NAME = 1_023  # characters: RFC 7622's limit for a part of an address, and more than any service takes

NodeArgument: TypeAlias = Annotated[str, typer.Argument(metavar="NODE", help="The node's name.")]
ServiceOption: TypeAlias = Annotated[
    str,
    typer.Option(metavar="ADDRESS", help="Where: somebody's address, or a pubsub service; your own if left out."),
]


def service_of(text: str) -> Address | None:
    """A service as a person typed it; None for our own account. Raises `InvalidAddress`."""
    if not text:
        return None
    hint = "A service looks like bob@example.net or pubsub.example.net."
    try:
        found = addresses.parse_bare(links.address_in(text))
    except InvalidAddress as error:
        raise InvalidAddress(f"'{text}': {error.detail}", hint=hint) from None
    if found.is_matrix:
        raise UsageError(f"{found} is on Matrix, where there are no nodes.", hint=hint)
    return found


def place(client: Client, name: str, service: Address | None) -> Node:
    """The node that was named. Raises `UsageError`."""
    from tillie.pubsub.items import Node

    if not name or len(name) > MAX_NAME:
        raise UsageError(f"The name of a node has 1 to {MAX_NAME} characters.")
    return Node(service or client.account.address, name)


def run(
    account: str | None,
    passphrase_file: Path | None,
    work: Callable[[Client], Awaitable[T]],
    *,
    settle: bool = True,
    ask: bool = True,
) -> T:
    """Log in and do the work. With `settle` what came while we were away is taken in first: the secrets of a node may
    be among it."""
    from tillie.cli import online, unlock

    async def all_of_it(client: Client, _: Lines) -> T:
        if settle:
            await client.settle()
        return await work(client)

    with unlock.account(account, passphrase_file, Network.XMPP) as ours:
        return online.run(ours, unlock.password(ours), all_of_it, listening=settle, ask=ask)
