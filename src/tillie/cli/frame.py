"""The one handler for everything that goes wrong in a command."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from tillie.cli import exits, show
from tillie.errors import TillieError


def run(command: Callable[[], Callable[..., Any]], arguments: Sequence[str]) -> int:
    """Run one command line with what `command` builds; the exit code.

    Whatever goes wrong is one or two lines on stderr, never a traceback.
    """
    # Libraries that log a failure would write it to stderr, beside what we say about it, for want of a handler.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        return int(command()(list(arguments), prog_name="tillie", standalone_mode=False) or exits.OK)
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
