"""What commands print: plain lines when piped, a little colour on a terminal, nothing of a peer's that steers it.

Results go to stdout, everything about them (notes, questions, errors) to stderr, so that a pipe gets results alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from tillie.errors import TillieError
from tillie.model import Time
from tillie.wire.display import printable

MAX_TEXT = 200_000  # characters of one message that are shown; a sealed one has fewer
NARROW = 40  # columns; below that words are broken anyway
_INDENT = "  "


def line(text: str = "") -> None:
    """One line of a result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def sentence(text: str) -> None:
    """A sentence of a result; on a terminal as many lines as it takes, broken between words."""
    line(_wrapped(text, sys.stdout))


def note(text: str) -> None:
    """One line about a result; on a terminal as many as it takes."""
    sys.stderr.write(_wrapped(text, sys.stderr) + "\n")
    sys.stderr.flush()


def _wrapped(text: str, stream: Any) -> str:
    import shutil
    import textwrap

    width = shutil.get_terminal_size().columns
    if len(text) <= width or "\x1b" in text or width < NARROW or not stream.isatty():
        return text
    indent = text[: len(text) - len(text.lstrip(" "))] + _INDENT
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def as_json(value: Any) -> None:
    """One line of JSON, all ASCII: whatever is in it, a terminal and a line reader take it."""
    line(json.dumps(value, separators=(", ", ": ")))


def failure(error: TillieError) -> None:
    """What happened and what to do next. Texts in an error may be a peer's."""
    text = _wrapped(f"error: {printable(str(error))}", sys.stderr)
    note(paint("error:", "bold red", sys.stderr) + text.removeprefix("error:"))
    if error.hint:
        note(f"{_INDENT}{printable(error.hint)}")


def text_lines(text: str) -> list[str]:
    """A message's text for a terminal, line by line."""
    return [printable(part, MAX_TEXT) for part in text.splitlines()] or [""]


def clock(moment: Time | None) -> str:
    """Local date and time, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment)) if moment is not None else "????-??-?? ??:??"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they need to be. Cells must be printable already."""
    from rich.cells import cell_len

    grid = [list(headings), *(list(row) for row in rows)]
    widths = [max(cell_len(row[column]) for row in grid) for column in range(len(headings))]
    for number, row in enumerate(grid):
        cells = [cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        text = "  ".join(cells).rstrip()
        line(paint(text, "bold") if number == 0 else text)


def paint(text: str, style: str, stream: Any = None) -> str:
    """The text in a style of rich, where the stream is a terminal that wants colour; else as it is."""
    stream = sys.stdout if stream is None else stream
    if not has_colour(stream):
        return text
    from rich.style import Style

    return Style.parse(style).render(text)


def has_colour(stream: Any) -> bool:
    import os

    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def is_conversation() -> bool:
    """Whether somebody is there to be asked: questions go to stderr, answers come from stdin."""
    return sys.stdin.isatty() and sys.stderr.isatty()
