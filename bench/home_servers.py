"""The servers of the figures, each one process on a core of its own: ours, Synapse, and the floor of claims.

All of them speak plain HTTP on loopback and get the same requests.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Self

from msgspec.json import encode

from bench import home_floor, home_load
from bench.durable import FOLDER
from bench.home_load import SERVER_CORE
from bench.home_traffic import KEYS, Login, all_answered, ask, first_upload, keys_counted, one_time_keys, values
from support.synapse import PrivateSynapse
from tillie.crypto.random import random_bytes
from tillie.demo import processes
from tillie.directory.matrix import SIGNED_CURVE25519
from tillie.home import accounts
from tillie.home.config import Limits
from tillie.home.service import write_signing_key
from tillie.model import Address

START_SECONDS = 20.0
STOP_SECONDS = 10.0
POLL = 0.02
LOG = "server.log"
DEVICE = "DEVICE"


class Server(ABC):
    """What a figure needs of a server; it runs until the `with` block ends. Its users' ids end with `name`."""

    name: str
    port: int

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...

    @property
    @abstractmethod
    def pid(self) -> int: ...

    @abstractmethod
    def logins(self, number: int) -> Sequence[Login]:
        """New users with a device each, without keys."""

    @abstractmethod
    def join(self, number: int) -> Sequence[Login]:
        """The same, whose keys were uploaded."""

    @abstractmethod
    def stock(self, login: Login, number: int) -> None:
        """Give a device so many more one-time keys."""


_numbers = count()


def localparts(number: int) -> list[str]:
    """Names that nobody has had yet."""
    return [f"user{next(_numbers):06d}" for _ in range(number)]


def _with_keys(server: Server, number: int) -> Sequence[Login]:
    made = server.logins(number)
    keys_counted(home_load.send(server.port, [first_upload(each) for each in made]).answers)
    return made


# -- ours -----------------------------------------------------------------------------------------------------------

CONFIG = """
server_name = "home.example"
listen = [{{port = {port}, tls = false}}]

[federation]
enabled = false

[limits]
"""
UNLIMITED = "{ per_second = 1e9, burst = 1_000_000_000 }"


SERVE = (sys.executable, "-m", "tillie.cli", "home", "serve", "--config")


class Ours(Server):
    """`tillie home serve` with limits that nobody meets. Users are written into its database, as `adduser` does,
    because passwords are slow on purpose; so are keys and messages where a figure begins with many.
    """

    name = "home.example"

    def __init__(self) -> None:
        FOLDER.mkdir(exist_ok=True)
        self.folder = tempfile.TemporaryDirectory(dir=FOLDER, prefix="home-")
        folder = Path(self.folder.name)
        (self.port,) = processes.free_ports(1)
        limits = "".join(f"{name} = {UNLIMITED}\n" for name in Limits.__struct_fields__)
        (folder / "home.toml").write_text(CONFIG.format(port=self.port) + limits)
        write_signing_key(folder / "signing.key")
        self.process = start([*SERVE, str(folder / "home.toml")], folder)
        wait(self.process, self.port)
        self.database = home_floor.connect(str(folder / "home.db"))

    def __exit__(self, *_: object) -> None:
        self.database.close()
        processes.stop(self.process, STOP_SECONDS)
        self.folder.cleanup()

    @property
    def pid(self) -> int:
        return self.process.pid

    def logins(self, number: int) -> Sequence[Login]:
        users = [Address(f"@{name}:{self.name}") for name in localparts(number)]
        made = [Login(user, DEVICE, accounts.new_token(user)) for user in users]
        with home_floor.transaction(self.database):
            for user, device, token in made:
                self._insert("users", user_id=user, password_hash="", created_ts=0)
                self._insert("devices", user_id=user, device_id=device, created_ts=0)
                digest = sha256(token.encode()).digest()
                self._insert("tokens", user_id=user, token_hash=digest, device_id=device, created_ts=0)
        return made

    def join(self, number: int) -> Sequence[Login]:
        return _with_keys(self, number)

    def stock(self, login: Login, number: int) -> None:
        keys = one_time_keys(login, random_bytes(32), number)
        with home_floor.transaction(self.database):
            for name, key in keys.items():
                self.insert_key(login.user, name.partition(":")[2], encode(key))

    def insert_key(self, user: str, key_id: str, json: bytes) -> None:
        """One more one-time key of a user's device."""
        self._insert(
            "one_time_keys",
            user_id=user,
            device_id=DEVICE,
            algorithm=SIGNED_CURVE25519,
            position=next(_numbers),
            key_id=key_id,
            public=random_bytes(32),
            json=json,
        )

    def insert_messages(self, login: Login, events: Iterable[bytes]) -> None:
        """Messages that wait for a device that has none."""
        number = 0
        with home_floor.transaction(self.database):
            for number, event in enumerate(events, 1):
                self._insert("messages", user_id=login.user, device_id=login.device, position=number, json=event)
            self.database.execute("UPDATE devices SET next_message = ? WHERE user_id = ?", (number + 1, login.user))

    def _insert(self, table: str, **row: object) -> None:
        marks = ", ".join("?" * len(row))
        self.database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))


# -- Synapse --------------------------------------------------------------------------------------------------------


class Synapse(Server):
    """The peer, with SQLite; whoever wants an account gets one, and nobody is slowed down."""

    OPTIONS = """
enable_registration: true
enable_registration_without_verification: true
rc_registration: {per_second: 100000, burst_count: 100000}
"""

    def __init__(self) -> None:
        self.server = PrivateSynapse(options=self.OPTIONS, level="WARNING")
        self.name, self.port = self.server.name, self.server.port
        with home_load.pinned(SERVER_CORE):
            self.server.__enter__()

    def __exit__(self, *_: object) -> None:
        self.server.close()

    @property
    def pid(self) -> int:
        assert self.server.process is not None
        return self.server.process.pid

    def logins(self, number: int) -> Sequence[Login]:
        kind = {"password": "only for figures", "device_id": DEVICE, "auth": {"type": "m.login.dummy"}}
        requests = [ask("", "POST", "register", {**kind, "username": name}) for name in localparts(number)]
        made = values(home_load.send(self.port, requests).answers)
        return [Login(each["user_id"], each["device_id"], each["access_token"]) for each in made]

    def join(self, number: int) -> Sequence[Login]:
        return _with_keys(self, number)

    def stock(self, login: Login, number: int) -> None:
        body = {"one_time_keys": one_time_keys(login, random_bytes(32), number)}
        all_answered(home_load.send(self.port, [ask(login.token, "POST", "keys/upload", body)]).answers)


# -- the floor ------------------------------------------------------------------------------------------------------

UVICORN = (sys.executable, "-m", "uvicorn", "--no-access-log", "--log-level", "warning")


class Floor(Server):
    """The floor of claims. It has no way to upload anything: users and keys are written into its database."""

    name = "floor.example"

    def __init__(self) -> None:
        FOLDER.mkdir(exist_ok=True)
        self.folder = tempfile.TemporaryDirectory(dir=FOLDER, prefix="floor-")
        path = str(Path(self.folder.name) / "floor.db")
        self.database = home_floor.connect(path)
        self.database.executescript(home_floor.SCHEMA)
        (self.port,) = processes.free_ports(1)
        self.process = start(
            [*UVICORN, "--port", str(self.port), "--factory", "bench.home_floor:application"],
            Path(self.folder.name),
            {home_floor.DATABASE: path},
        )
        wait(self.process, self.port)

    def __exit__(self, *_: object) -> None:
        processes.stop(self.process, STOP_SECONDS)
        self.database.close()
        self.folder.cleanup()

    @property
    def pid(self) -> int:
        return self.process.pid

    def logins(self, number: int) -> Sequence[Login]:
        made = [Login(f"@{name}:{self.name}", DEVICE, random_bytes(32).hex()) for name in localparts(number)]
        with home_floor.transaction(self.database):
            for login in made:
                home_floor.add_token(self.database, *login)
        return made

    def join(self, number: int) -> Sequence[Login]:
        made = self.logins(number)
        for login in made:
            self.stock(login, KEYS)
        return made

    def stock(self, login: Login, number: int) -> None:
        keys = one_time_keys(login, random_bytes(32), number)
        with home_floor.transaction(self.database):
            home_floor.add_keys(self.database, login.user, login.device, keys)


# -- processes ------------------------------------------------------------------------------------------------------


def start(command: Sequence[str], folder: Path, environment: Mapping[str, str] = {}) -> subprocess.Popen[bytes]:
    """A process on the servers' core, with the project's packages, that writes its log into a folder."""
    root = Path(__file__).parent.parent
    with home_load.pinned(SERVER_CORE), (folder / LOG).open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root / "src"), **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait(process: subprocess.Popen[bytes], port: int) -> None:
    """Returns when something listens on the port."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(POLL)
    processes.stop(process, STOP_SECONDS)
    raise RuntimeError(f"{process.args!r} does not listen")
