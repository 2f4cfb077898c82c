"""The commands, put together, and the one handler for everything that goes wrong."""

from __future__ import annotations

import logging
import os
import sys
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
from tillie.errors import TillieError

EPILOG = """
Examples: tillie account add alice@example.org · tillie send bob@example.net "Tea at four?" · echo text | tillie send
bob@example.net - · tillie listen --json · tillie verify bob@example.net
"""

app = typer.Typer(
    name="tillie",
    help="Sealed messages between people, on the XMPP accounts they have.",
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
    """Run one command line; the exit code. Whatever goes wrong is one or two lines on stderr, never a traceback."""
    # Libraries that log a failure would write it to stderr, beside what we say about it, for want of a handler.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        return int(_command()(list(arguments), prog_name="tillie", standalone_mode=False) or exits.OK)
    except TillieError as error:
        show.failure(error)
        return exits.code_of(error)
    except typer.TyperException as error:
        return _usage(error)
    except (typer.Abort, KeyboardInterrupt):
        show.note("Interrupted.")
        return exits.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has had enough. Python would complain when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.FAILED
    except Exception as error:
        if os.environ.get("TILLIE_DEBUG"):
            raise
        return _fault(error)


def _usage(error: typer.TyperException) -> int:
    show_itself = getattr(error, "show", None)
    if show_itself is not None:
        show_itself()
    else:
        show.note(f"error: {error.format_message()}")
    return exits.USAGE


def _fault(error: Exception) -> int:
    """A fault of ours: where it was, not what it said, since that may quote a message."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else "unknown place"
    show.note(f"error: This is a fault in Tillie ({type(error).__name__} at {place}). Please report it.")
    show.note("  TILLIE_DEBUG=1 shows all of it, which may include the text of messages.")
    return exits.FAILED
