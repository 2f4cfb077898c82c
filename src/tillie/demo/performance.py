"""Performing a play: at its place, in a folder of its own, with the search through the server's data at the end."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from tillie.demo import plaintext
from tillie.demo.places import InProcess, Place
from tillie.demo.stage import Stage
from tillie.errors import TillieError


class NotAsWritten(TillieError):
    """The play did not go as it is written."""


class Play(Protocol):
    """What is performed. `search` names its last check but one, and `sought` says what that looks for."""

    search: str
    sought: str

    async def play(self) -> None: ...

    def said(self) -> Sequence[str]:
        """Every text that the server may not know."""

    def secrets(self) -> Sequence[str | bytes]:
        """Every key that the server may not have, as it could be written down."""

    async def close(self) -> None: ...


Author = Callable[[Place, Stage, Path], Play]
"""Writes a play for a place, with a folder for the stores of its people."""


def run(author: Author, place: Place, *, json: bool, chosen: bool) -> bool:
    """Perform it for people, or for a program with `json`; whether all went well. `chosen`: nobody asked for this
    place."""
    stage = Stage(sys.stdout, sys.stderr, json=json)
    if isinstance(place, InProcess) and chosen:
        stage.remark("Prosody can't be started here, so the server is a stand-in inside this process.")
    with _ended_in_order():
        asyncio.run(_perform(author, stage, place))
    return stage.finish()


async def _perform(author: Author, stage: Stage, place: Place) -> None:
    """Play, search the server, clean up. `stage` keeps what came of it.

    Each step tells the stage of its own failure. The server is searched after a failure too: what it got until then
    must be sealed all the same.
    """
    with _folder() as folder:
        play = author(place, stage, folder)
        try:
            with contextlib.suppress(TillieError):
                await play.play()
            with contextlib.suppress(TillieError), stage.step(play.search):
                _search(stage, place, play)
        finally:
            with contextlib.suppress(TillieError), stage.step("all is cleaned up"):
                try:
                    await play.close()
                finally:
                    await place.close()


def _search(stage: Stage, place: Place, play: Play) -> None:
    seen = list(place.seen())
    clear, keys = plaintext.find(play.said(), seen), plaintext.find(play.secrets(), seen)
    stage.searched(play.sought, len(seen), sum(len(data) for _, data in seen), clear + keys)
    if clear:
        raise NotAsWritten(f"Plaintext lies in {', '.join(clear)}.")
    if keys:
        raise NotAsWritten(f"A secret key lies in {', '.join(keys)}.")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tillie-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """A demo that is told to end, or loses its terminal, still stops its server and removes its files.

    As if somebody had pressed Ctrl-C: then asyncio cancels the play. An exception out of the handler itself could end
    up in a finaliser or a callback of some library, and be lost there.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(signal.SIGINT, signal.default_int_handler)]
    before += [signal.signal(each, _interrupt) for each in signals[1:]]
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


def _interrupt(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)
