"""What a home says of a user's devices, so that its lies can be proved.

Beside a device map a home signs (user, sequence, time, hash of the whole map). The sequence grows with every change of
the map, so that two statements with one sequence and different hashes, both signed by one home, prove that it showed
different devices to different people. docs/matrix.md has the argument, and what it can't show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tillie.directory.signed import sign_object, verify_by_any
from tillie.errors import Malformed
from tillie.model import Address
from tillie.wire import base64, canonical, matrix
from tillie.wire.canonical import Object

MEMBER = "org.tillie.statements"  # beside `device_keys` in an answer to a query: {user id: statement}
MAX_BYTES = 8_192  # of one statement, with all signatures


class Statement(NamedTuple):
    """One home's word on the devices that a user has. `time` in seconds; `source` is the object as it was signed."""

    user: Address
    sequence: int
    time: float
    hash: bytes
    source: Object

    def contradicts(self, other: Statement) -> bool:
        """Whether no honest home makes both: one sequence, two device maps."""
        return self.user == other.user and self.sequence == other.sequence and self.hash != other.hash


def map_hash(devices: Mapping[str, Any]) -> bytes:
    """The hash of a device map (32 bytes): SHA-256 of {device id: device keys} in canonical JSON, without signatures
    and `unsigned`, which homes add to. Devices without keys don't count: one profile shows them, the other does not."""
    stated = {
        name: {member: value for member, value in each.items() if member not in ("signatures", "unsigned")}
        for name, each in devices.items()
        if isinstance(each, dict) and each.get("keys")
    }
    return hashlib.sha256(canonical.encode(stated)).digest()


def unsigned(user: Address, sequence: int, time: float, devices: Mapping[str, Any]) -> Statement:
    """A statement before it is signed."""
    digest, milliseconds = map_hash(devices), int(time * 1000)
    source: Object = {
        "user_id": str(user),
        "sequence": sequence,
        "time": milliseconds,
        "devices_sha256": base64.encode_unpadded(digest),
    }
    return Statement(user, sequence, milliseconds / 1000, digest, source)


def make(
    user: Address, sequence: int, time: float, devices: Mapping[str, Any], server: str, key_id: str, seed: bytes
) -> Object:
    """A statement, signed by the home `server` with `key_id` ("ed25519:...")."""
    return sign_object(unsigned(user, sequence, time, devices).source, server, key_id, seed)


def read(value: object, user: Address) -> Statement:
    """A statement as it is on the wire, its signatures not looked at. Raises `Malformed`."""
    if not isinstance(value, dict) or value.get("user_id") != user:
        raise Malformed("a statement is not an object, or of another user")
    if len(canonical.encode(value)) > MAX_BYTES:  # also what is not signed must be fit to be kept and passed on
        raise Malformed("a statement is too large")
    sequence, time = value.get("sequence"), value.get("time")
    if type(sequence) is not int or type(time) is not int or sequence < 0:
        raise Malformed("a statement has no sequence or no time")
    digest = base64.decode_unpadded(value.get("devices_sha256"), size=32)
    return Statement(matrix.parse_user_id(value["user_id"]), sequence, time / 1000, digest, value)


def verify(statement: Statement, server: str, keys: Mapping[str, bytes]) -> None:
    """Check that a home signed it, with one of its `keys` ({"ed25519:...": 32 bytes}). Raises `BadSignature`,
    `Malformed`."""
    verify_by_any(statement.source, server, keys)


def lies(statements: Iterable[Statement]) -> tuple[tuple[Statement, Statement], ...]:
    """Pairs of statements of one home about one user that contradict each other, by sequence."""
    first: dict[tuple[Address, int], Statement] = {}
    found = []
    for each in statements:
        other = first.setdefault((each.user, each.sequence), each)
        if other.contradicts(each):
            found.append((other, each))
    return tuple(sorted(found, key=lambda pair: pair[0].sequence))
