"""The commands, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import typer
import typer.main

from tillie.cli import (
    account,
    backup,
    demo,
    devices,
    exits,
    frame,
    home,
    keys,
    messages,
    objects,
    pubsub,
    session,
    show,
    trust,
    verify,
)

EPILOG = """
Examples: tillie account add alice@example.org · tillie send bob@example.net "Tea at four?" · echo text | tillie send
bob@example.net - · tillie listen --json · tillie verify bob@example.net
"""

app = typer.Typer(
    name="tillie",
    help="Sealed messages between people, on the XMPP and Matrix accounts they have.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _tillie(version: bool = typer.Option(False, "--version", "-V", help="Print the version.", is_eager=True)) -> None:
    if version:
        from tillie import __version__

        show.line(f"tillie {__version__}")
        raise typer.Exit(exits.OK)


account.register(app)
messages.register(app)
devices.register(app)
session.register(app)
verify.register(app)
trust.register(app)
keys.register(app)
objects.register(app)
pubsub.register(app)
backup.register(app)
home.register(app)
demo.register(app)


@cache
def _command() -> Callable[..., Any]:
    """All commands, built: that takes a tenth of a second, and a program may call `main` again and again."""
    return typer.main.get_command(app)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    return frame.run(_command, arguments)
