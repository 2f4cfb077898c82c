"""Where a demo takes place: a private Prosody, or a network inside this process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tillie import __version__
from tillie.account import Account
from tillie.client import Client
from tillie.demo import plaintext
from tillie.demo.prosody import PrivateProsody
from tillie.model import Address
from tillie.networks import Options
from tillie.networks.local import LocalServer
from tillie.networks.xmpp.connection import Login
from tillie.networks.xmpp.connection import connect as xmpp_connect

ALICE, BOB = Address("alice@capulet.example"), Address("bob@montague.example")
_PASSWORD = "only for the demo"


class Place(Protocol):
    """A server with accounts for the people of a play, and everything it has seen."""

    name: str

    @property
    def version(self) -> str: ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def connect(self, account: Account, options: Options | None = None) -> Client:
        """Log in; without `options` as the account's settings say."""
        ...

    def seen(self) -> Iterator[tuple[str, bytes]]:
        """All that the server holds: data, archives, logs."""

    def archived(self, payload: bytes) -> list[tuple[str, str]]:
        """Where in its archives the server keeps this payload, each with a few lines around it."""

    def published(self, payload: bytes) -> list[tuple[str, str]]:
        """The same for its pubsub nodes."""


class OnProsody:
    """A private Prosody with the hosts of these people. Everything goes through its ports, with TLS."""

    name = "Prosody"

    def __init__(
        self,
        people: Sequence[Address] = (ALICE, BOB),
        *,
        options: str = "",
        modules: Mapping[str, str] | None = None,
        contacts: bool = False,
    ) -> None:
        """`options` and `modules` are for Prosody; with `contacts` these people see each other's presence."""
        hosts = tuple(dict.fromkeys(person.domain for person in people))
        accounts = {str(person): _PASSWORD for person in people}
        self._server = PrivateProsody(hosts, accounts, options=options, modules=modules, contacts=contacts)
        self._version = ""

    @property
    def version(self) -> str:
        return self._version

    async def open(self) -> None:
        await self._server.__aenter__()
        self._version = self._server.version

    async def close(self) -> None:
        await self._server.__aexit__(None, None, None)

    async def connect(self, account: Account, options: Options | None = None) -> Client:
        login = Login(account.address, _PASSWORD, f"127.0.0.1:{self._server.port}", False, str(self._server.ca_file))
        connection = await xmpp_connect(login, account.store, options or _usual(account))
        return Client(account, connection)

    def seen(self) -> Iterator[tuple[str, bytes]]:
        # The whole folder: data of all hosts, archives, log, console. The stores of the people are elsewhere.
        return plaintext.files(self._server.folder)

    def archived(self, payload: bytes) -> list[tuple[str, str]]:
        return self._kept(payload, lambda folder: folder == "archive")

    def published(self, payload: bytes) -> list[tuple[str, str]]:
        return self._kept(payload, lambda folder: folder.startswith("pep_"))

    def _kept(self, payload: bytes, wanted: Callable[[str], bool]) -> list[tuple[str, str]]:
        found = []
        for name, data in plaintext.files(self._server.data_folder):
            if any(map(wanted, Path(name).parts)) and payload in data:
                readable = re.sub(r"%([0-9a-f]{2})", lambda code: chr(int(code[1], 16)), name)
                found.append((readable, _lines_around(data, payload)))
        return found


class InProcess:
    """Where Prosody is not to be had. The server is a few lists; what it saw is everything that crossed it."""

    name = "in-process"
    version = __version__

    def __init__(self) -> None:
        self._server = LocalServer()

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def connect(self, account: Account, options: Options | None = None) -> Client:
        connection = await self._server.connect(account.address, account.store, options or _usual(account))
        return Client(account, connection)

    def seen(self) -> Iterator[tuple[str, bytes]]:
        for number, data in enumerate(self._server.traffic):
            yield f"traffic {number}", data
        for number, entry in enumerate(self._server.archive):
            yield f"archive {number}", entry.stanza
        for (address, node), items in self._server.items.items():
            yield f"{node} of {address}", b"".join(items.values())
        for number, data in enumerate(self._server.pubsub.seen):
            yield f"published {number}", data
        for place, made in self._server.pubsub.nodes.items():
            settings = [*made.options.items(), *made.affiliations.items()]
            yield f"node {place.name} of {place.service}", repr((place, settings)).encode()

    def archived(self, payload: bytes) -> list[tuple[str, str]]:
        found = [number for number, entry in enumerate(self._server.archive) if payload in entry.stanza]
        return [(f"message {number}", f"<payload>{payload.decode()}</payload>") for number in found]

    def published(self, payload: bytes) -> list[tuple[str, str]]:
        return [
            (f"item {id} of node {place.name}", item.payload.decode())
            for place, made in self._server.pubsub.nodes.items()
            for id, item in made.items.items()
            if payload in item.payload
        ]


def _usual(account: Account) -> Options:
    return Options(history=account.settings.history)


def _lines_around(data: bytes, payload: bytes) -> str:
    """The line of a file that holds the payload, and the one behind it."""
    at = data.index(payload)
    start = data.rfind(b"\n", 0, at) + 1
    end = at
    for _ in range(2):
        end = data.find(b"\n", end + 1)
        if end < 0:
            end = len(data)
    return data[start:end].decode(errors="replace").replace("\t", "")


def choose(people: Sequence[Address] = (ALICE, BOB)) -> Place:
    """A Prosody if one can be started here."""
    return OnProsody(people) if PrivateProsody.available() else InProcess()
