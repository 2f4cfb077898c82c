"""Bytes from a file or standard input, and to a file or standard output."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tillie.cli import show
from tillie.errors import StoreUnwritable, TooLarge, UsageError

_NO_TERMINAL, _TO_A_FILE = "A terminal can't show it.", "Write it to a file: -o FILE, or > FILE"


def read(path: Path, limit: int) -> bytes:
    """All of a file, or of standard input ("-"). Raises `UsageError`, `TooLarge`."""
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with path.open("rb") as file:
                data = file.read(limit + 1)
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}.") from None
    if len(data) > limit:
        raise TooLarge(f"{'Standard input' if str(path) == '-' else path} has more than {limit} bytes.")
    return data


def check_output(path: Path | None, *, force: bool, binary: bool = False) -> None:
    """Before any work: whether `write` may write there. Raises `UsageError`."""
    if path is None:
        if binary and is_terminal():
            raise UsageError(_NO_TERMINAL, hint=_TO_A_FILE)
    elif os.path.exists(path) and not force:  # pathlib raises where a parent is a file
        raise UsageError(f"{path} is there already.", hint="Choose another name, or replace it with --force.")


def write(path: Path | None, data: bytes) -> None:
    """All of a file, for its owner alone, never half of it; or to standard output."""
    if path is None and is_terminal():
        _show(data)
        return
    if path is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    draft = path.with_name(path.name + ".new")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise StoreUnwritable(f"{path} can't be written: {error.strerror}.") from None


def write_line(data: bytes) -> None:
    """Bytes and a line feed, to standard output."""
    if is_terminal():
        _show(data)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()


def is_terminal() -> bool:
    return sys.stdout.isatty()


def _show(data: bytes) -> None:
    """A text on a terminal, which it must not steer."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise UsageError(_NO_TERMINAL, hint=_TO_A_FILE) from None
    for line in show.text_lines(text):
        show.line(line)


def on_stderr(tell: Callable[[], None]) -> None:
    """Tell what would be a result, where the result is something else."""
    with contextlib.redirect_stdout(sys.stderr):
        tell()
