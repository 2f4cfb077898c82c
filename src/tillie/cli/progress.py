"""How far long work is: a bar on standard error, if that is a terminal, gone when the work is done; else nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]

PATIENCE = 0.5  # seconds of work before there is a bar


@contextmanager
def shown(*, also_with_results: bool = False) -> Iterator[Progress]:
    """A `nodes.Progress`. Where results go to a terminal as they come, they are progress enough, and a bar would stand
    in their way, unless the caller says that none come before the end."""
    if not sys.stderr.isatty() or (sys.stdout.isatty() and not also_with_results):
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    # rich would take over stdout, too, and results would end on the terminal instead of in their file.
    with Bar(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", visible=False, total=None)
        began = time.monotonic()

        def tell(what: str, done: int, total: int) -> None:
            late = time.monotonic() - began > PATIENCE
            bar.update(task, description=what, completed=done, total=total or None, visible=late)

        yield tell
