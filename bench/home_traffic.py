"""What the users of a server ask of it, as requests that are ready to be sent, and what must be true of the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle, islice
from typing import Any, NamedTuple

import msgspec

from bench.home_load import Answer, request
from tillie.crypto.random import random_bytes
from tillie.directory import matrix
from tillie.directory.matrix import OLM, SIGNED_CURVE25519, V1
from tillie.model import Address
from tillie.wire import base64

CLIENT = "/_matrix/client/v3"
KEYS = 50  # one-time keys in one upload
SEALED = 256  # bytes of an Olm message of 200 bytes

Traffic = Callable[[int], Sequence[bytes]]
Check = Callable[[Sequence[Answer]], None]

_numbers = count()


class Login(NamedTuple):
    """A device of a user, logged in."""

    user: str
    device: str
    token: str


# -- requests -------------------------------------------------------------------------------------------------------


def ask(token: str, method: str, path: str, body: object) -> bytes:
    return request(method, f"{CLIENT}/{path}", token, msgspec.json.encode(body))


def one_time_keys(login: Login, seed: bytes, number: int) -> dict[str, object]:
    """Signed one-time keys by name, in their order; the private halves are nobody's."""
    user = Address(login.user)
    return {
        f"{SIGNED_CURVE25519}:{key_id()}": matrix.write_one_time_key(V1, user, login.device, public_key(), seed)
        for _ in range(number)
    }


def public_key() -> bytes:
    """Of Curve25519, and nobody's; the top bit of its last byte is 0."""
    return random_bytes(31) + b"\1"


def key_id() -> str:
    """As vodozemac names keys: eight bytes of a counter."""
    return base64.encode_unpadded(next(_numbers).to_bytes(8, "big"))


def first_upload(login: Login) -> bytes:
    """A new device's keys, and its first one-time keys."""
    seed = random_bytes(32)
    device_keys = matrix.write_device_keys(V1, Address(login.user), login.device, public_key(), seed)
    body = {"device_keys": device_keys, "one_time_keys": one_time_keys(login, seed, KEYS)}
    return ask(login.token, "POST", "keys/upload", body)


class Crowd:
    """The users of one server, who ask for each other's keys and write to each other, one after the other."""

    def __init__(self, people: Sequence[Login]) -> None:
        self.people = people
        self._turns = cycle(range(len(people)))

    def claims(self, number: int) -> Sequence[bytes]:
        """Claims of one key each, of one victim after the other."""
        return [self._claim(at, self.people[at]) for at in islice(self._turns, number)]

    def claims_of(self, victims: Sequence[Login]) -> Sequence[bytes]:
        """Claims of one key each, of these."""
        return [self._claim(at, victim) for at, victim in zip(self._turns, victims, strict=False)]

    def queries(self, users: int, number: int) -> Sequence[bytes]:
        """Queries for the devices of so many users each."""
        return [
            self._ask(at, "POST", "keys/query", {"device_keys": {each.user: [] for each in self._others(at, users)}})
            for at in islice(self._turns, number)
        ]

    def messages(self, devices: int, number: int) -> Sequence[bytes]:
        """Messages to so many devices each, every one with a ciphertext of its own."""
        return [
            self._ask(
                at,
                "PUT",
                f"sendToDevice/m.room.encrypted/{next(_numbers)}",
                {"messages": {each.user: {each.device: sealed()} for each in self._others(at, devices)}},
            )
            for at in islice(self._turns, number)
        ]

    def _claim(self, at: int, victim: Login) -> bytes:
        body = {"one_time_keys": {victim.user: {victim.device: SIGNED_CURVE25519}}, "timeout": 10_000}
        return self._ask(at, "POST", "keys/claim", body)

    def _others(self, at: int, number: int) -> Iterator[Login]:
        return (self.people[(at + 1 + n) % len(self.people)] for n in range(number))

    def _ask(self, at: int, method: str, path: str, body: object) -> bytes:
        return ask(self.people[(at * 7 + 3) % len(self.people)].token, method, path, body)


def sealed() -> dict[str, object]:
    """What `m.room.encrypted` holds."""
    key, body = (base64.encode_unpadded(random_bytes(size)) for size in (32, SEALED))
    return {"algorithm": OLM, "sender_key": key, "ciphertext": {key: {"type": 1, "body": body}}}


# -- answers --------------------------------------------------------------------------------------------------------


def values(answers: Sequence[Answer]) -> Iterator[dict[str, Any]]:
    """The JSON of answers, none of which may be an error."""
    for answer in answers:
        if answer.status != 200:
            raise RuntimeError(f"a server answered {answer.status} {answer.body[:300]!r}")
        yield msgspec.json.decode(answer.body)


def all_answered(answers: Sequence[Answer]) -> None:
    for _ in values(answers):
        pass


class KeysGiven:
    """Every claim gives a key, none is given twice: in these figures a key always remains."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, answers: Sequence[Answer]) -> None:
        for value in values(answers):
            keys = [
                key["key"]
                for user in value["one_time_keys"].values()
                for device in user.values()
                for key in device.values()
            ]
            if len(keys) != 1:
                raise RuntimeError(f"a claim of a key that is there was answered with {len(keys)}")
            if keys[0] in self.seen:
                raise RuntimeError("a one-time key was given twice")
            self.seen.add(keys[0])


class DevicesFound:
    """Every query is answered with devices of each of so many users."""

    def __init__(self, users: int) -> None:
        self.users = users

    def __call__(self, answers: Sequence[Answer]) -> None:
        for value in values(answers):
            if len(value["device_keys"]) != self.users or not all(value["device_keys"].values()):
                raise RuntimeError(f"a query was not answered with {self.users} users")


def keys_counted(answers: Sequence[Answer]) -> None:
    """Every first upload is taken whole."""
    for value in values(answers):
        if value["one_time_key_counts"].get(SIGNED_CURVE25519) != KEYS:
            raise RuntimeError(f"an upload was not taken: {value}")
