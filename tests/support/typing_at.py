"""A command in a process of its own, on a terminal: what it shows is awaited, what a person types is typed."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest

SECONDS = 60.0
# Who starts the tests in the background has them, and all that they start, ignore Ctrl-C.
AS_AT_A_TERMINAL = ("env", "--default-signal=INT")
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """`tillie` on a pseudo-terminal, as a context: it is killed at the end if it still runs."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.shown = ""
        self._seen = 0
        self._master, end = pty.openpty()
        surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "200"}
        # Not pty.fork(): this process has threads, and whatever lock they hold stays locked in a forked copy.
        self._process = subprocess.Popen(
            [*AS_AT_A_TERMINAL, sys.executable, "-m", "tillie.cli", *arguments],
            stdin=end, stdout=end, stderr=end, env={**surroundings, **environment}, start_new_session=True,
        )  # fmt: skip
        os.close(end)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def expect(self, text: str) -> str:
        """Wait until this is shown, behind what was expected before; the rest of its line, colours left out."""
        deadline = time.monotonic() + SECONDS
        while (found := self.shown.find(text, self._seen)) < 0 or "\n" not in self.shown[found:] + "\n" * (
            text.endswith(": ")
        ):
            if not self._read(deadline):
                pytest.fail(f"it does not show {text!r}, but: {self.shown}")
        self._seen = found + len(text)
        return self.shown[self._seen :].partition("\n")[0].strip()

    def type(self, line: str) -> None:
        os.write(self._master, line.encode())

    def interrupt(self) -> None:
        """Ctrl-C: the terminal is not the process's controlling one, so that the byte would do nothing."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Wait until it ends; its exit code."""
        deadline = time.monotonic() + SECONDS
        while self._read(deadline):
            pass
        return self._process.wait(SECONDS)

    def _read(self, deadline: float) -> bool:
        """Take in what is shown; False when there is no more, or no more time."""
        if not select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._master, 4096)
        except OSError:  # the other end is closed
            return False
        self.shown += _COLOURS.sub("", data.decode(errors="replace")).replace("\r", "")
        return bool(data)
