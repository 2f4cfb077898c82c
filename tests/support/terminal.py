"""`tillie` as people use it: command lines, what they print, and how they end; over a network in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tillie.account import Account
from tillie.cli import main, online
from tillie.client import Client, options_of
from tillie.networks.local import LocalServer

PASSWORD = "only for tests"

ALICE, BOB = "alice@capulet.example", "bob@montague.example"


@dataclass(frozen=True)
class Outcome:
    """How one command line ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Person:
    """Somebody at a machine of her own, with an account on the server."""

    def __init__(self, world: World, name: str, address: str, machine: str = "") -> None:
        self.world = world
        self.address = address
        self.home = world.folder / (machine or name)
        self.home.mkdir(exist_ok=True)
        self.password_file = self.home / "password"
        self.password_file.write_text(PASSWORD + "\n")

    def add_account(self, *options: str) -> Outcome:
        given = ("--password-file", str(self.password_file), "--key-file", str(self.home / "key"))
        return self("account", "add", self.address, *given, *options)

    def __call__(self, *arguments: str, stdin: str = "", answers: str | None = None) -> Outcome:
        """Run a command line here. `answers` are typed at a terminal, `stdin` comes from a pipe."""
        return self.world.run(self.home, arguments, stdin=stdin, answers=answers)


class World:
    """A server in this process, and people with machines."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.server = LocalServer()
        self._patch = patch
        self._capture = capture
        self.refuse: Callable[[], None] = lambda: None  # called at each login; raises what a network would
        patch.setattr(online, "connect", self._connect)

    def person(self, name: str, address: str, machine: str = "") -> Person:
        person = Person(self, name, address, machine)
        assert person.add_account().code == 0
        return person

    async def _connect(self, account: Account, password: str, **options: Any) -> Client:
        self.refuse()
        assert password == PASSWORD
        connection = await self.server.connect(account.address, account.store, options_of(account, **options))
        return Client(account, connection)

    def run(self, home: Path, arguments: tuple[str, ...], *, stdin: str, answers: str | None) -> Outcome:
        """Standard input is a real file, because commands read it through its descriptor."""
        self._patch.setenv("TILLIE_HOME", str(home / "tillie"))
        typed = self.folder / "typed"
        typed.write_text(stdin if answers is None else answers)
        self._patch.setattr(sys, "stdin", typed.open())
        self._patch.setattr("tillie.cli.show.is_conversation", lambda: answers is not None)
        self._capture.readouterr()
        code = main(arguments)
        out, err = self._capture.readouterr()
        return Outcome(code, out, err)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    return World(tmp_path, monkeypatch, capsys)


@pytest.fixture
def alice(world: World) -> Person:
    return world.person("alice", ALICE)


@pytest.fixture
def bob(world: World) -> Person:
    return world.person("bob", BOB)
