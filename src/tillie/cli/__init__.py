"""The command line: one file for each group of commands, one way out for every error (docs/cli.md)."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `tillie` with these arguments (those of the process if None); returns the exit code of docs/cli.md."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["--version"], ["-V"]):
        # Answered before typer and rich are loaded: they cost 0.3 s on a slow machine.
        from tillie import __version__

        sys.stdout.write(f"tillie {__version__}\n")
        return 0
    if given[:2] == ["home", "serve"]:
        # A home runs for months: it does without what the other commands load, which is half of its memory.
        from tillie.cli import frame, home

        return frame.run(home.alone, given)
    from tillie.cli.app import run

    return run(given)
