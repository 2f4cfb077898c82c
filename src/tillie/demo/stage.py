"""What the audience sees of the demo: columns side by side on a terminal, plain lines in a pipe, or one report."""

from __future__ import annotations

import contextlib
import json as jsons
import os
import re
import textwrap
import time
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from tillie.errors import TillieError

SHOWN = 14  # characters of a long run of Base64 that are shown
_LONG_RUN = re.compile(r"[A-Za-z0-9+/]{32,}={0,2}")
_WIDTH = 78


class Step(NamedTuple):
    name: str
    ok: bool
    seconds: float


class Stage:
    """Shows steps and exchanges as they happen, and keeps the report."""

    def __init__(self, out: IO[str], errors: IO[str], *, json: bool) -> None:
        self.steps: list[Step] = []
        self.saw_plaintext = False
        self._server = {"name": "", "version": ""}
        self._out = out
        self._errors = errors
        self._json = json
        self._rich = not json and out.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    # -- what happens -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step of the play. An error is shown and kept here, and goes on to whoever plays."""
        started = time.monotonic()
        ok = False
        try:
            yield
            ok = True
        except TillieError as error:
            self._errors.write(f"error: {name}: {error}\n")
            raise
        finally:
            seconds = time.monotonic() - started
            self.steps.append(Step(name, ok, round(seconds, 3)))
            self._print(
                f"{self._paint('ok', 'green') if ok else self._paint('FAILED', 'bold red')}  {name} ({seconds:.1f} s)"
            )

    def server(self, name: str, version: str) -> None:
        self._server = {"name": name, "version": version}
        self.remark(f"The server: {name} {version}".rstrip())

    def remark(self, text: str) -> None:
        self._print(text)

    def exchange(
        self,
        author: str,
        text: str,
        stanza: bytes,
        kept: list[tuple[str, str]],
        read: list[tuple[str, str]],
        *,
        verb: str = "said",
        keeper: str = "its archives",
    ) -> None:
        """One message or item at its three places: what was said, what the server got and keeps, what was read.

        `kept` are the places in the server's data with their lines, none if it keeps nothing; `read` who read it and
        what.
        """
        if self._json:
            return
        saw = shorten(stanza)
        if kept:
            places = ", ".join(name for name, _ in kept)
            saw += ["", f"and keeps in {keeper} ({places}):", *shorten(kept[0][1].encode())]
        columns = [(f"{author} {verb}", [text]), ("the server saw", saw)]
        self.columns([*columns, *((f"{reader} read", [got]) for reader, got in read)])

    def columns(self, columns: list[tuple[str, list[str]]]) -> None:
        """What several people see at one time: a title and lines for each."""
        if self._json:
            return
        if self._rich:
            self._side_by_side(columns)
            return
        for title, lines in columns:
            self._print(f"  {title}:")
            for line in lines:
                self._print(f"    {line}".rstrip())

    def searched(self, what: str, places: int, size: int, found: list[str]) -> None:
        self.saw_plaintext = bool(found)
        self.remark(
            f"Searched {places} files or records of the server, {size:,} bytes, for {what}, plain, escaped,"
            f" in Base64 at any alignment, hexadecimal and UTF-16: {'FOUND' if found else 'nothing'}."
        )

    # -- the end ------------------------------------------------------------------------------------------------------

    @property
    def ok(self) -> bool:
        return bool(self.steps) and all(step.ok for step in self.steps) and not self.saw_plaintext

    def report(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "steps": [step._asdict() for step in self.steps],
            "server_saw_plaintext": self.saw_plaintext,
            "server": self._server,
        }

    def finish(self) -> bool:
        """The verdict, or the report; whether all went well."""
        if self._json:
            self._out.write(jsons.dumps(self.report()) + "\n")
        elif self.ok:
            self._print(
                self._paint("All of it was read by whom it was for, and no word of it by the server.", "bold green")
            )
        else:
            self._print(self._paint("The demo failed; see above.", "bold red"))
        self._out.flush()
        return self.ok

    # -- on the terminal ----------------------------------------------------------------------------------------------

    def _print(self, text: str) -> None:
        if not self._json:
            self._out.write(text + "\n")
            self._out.flush()

    def _paint(self, text: str, style: str) -> str:
        if not self._rich or os.environ.get("NO_COLOR"):
            return text
        from rich.style import Style

        return Style.parse(style).render(text)

    def _side_by_side(self, columns: list[tuple[str, list[str]]]) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.ROUNDED, expand=True, padding=(0, 1))
        for title, _ in columns:
            # The server's column is the wide one: there is most to see, and nothing to read.
            table.add_column(Text(title), ratio=2 if title == "the server saw" else 1, overflow="fold")
        cells = [Text("\n".join(lines), style="dim" if title == "the server saw" else "") for title, lines in columns]
        table.add_row(*cells)
        Console(file=self._out, highlight=False, soft_wrap=False).print(table)


def shorten(stanza: bytes) -> list[str]:
    """The real stanza for the eye: an element a line, long runs of Base64 cut to their beginning and length."""
    text = stanza.decode()
    cut = _LONG_RUN.sub(lambda run: f"{run[0][:SHOWN]}…({len(run[0])} characters)", text)
    lines = cut.replace("><", ">\n<").split("\n")
    return [part for line in lines for part in textwrap.wrap(line, _WIDTH) or [""]]
