"""What is ours in the negotiation of sessions: the public key that we give, and codes agreed on with other people.

identity    ""                the private key (`identity.private_bytes`)
code        <bare address>    the other shared secret of XEP-0116 section 4.4, as both people typed it
"""

from __future__ import annotations

from collections.abc import Iterable

from tillie.errors import StoreTooNew, UsageError
from tillie.model import Address, Key, State
from tillie.schemes.esession import identity, records, settings
from tillie.schemes.esession.identity import Identity
from tillie.schemes.esession.retained import PUBLIC

VERSION = 1
COPIED = frozenset({"identity", "code"})  # kinds of records that belong into a backup


def load(s: State) -> Identity | None:
    """Our key, if there is one."""
    data = s.get(records.key("identity"))
    return identity.from_private_bytes(_body(data)) if data is not None else None


def save(s: State, key: Identity | None) -> None:
    """Keep another key of ours; with None, none."""
    data = bytes((VERSION,)) + identity.private_bytes(key) if key is not None else None
    s.put(records.key("identity"), data)


def trust_key(key: Identity) -> bytes:
    """By which others know a key of ours (`model.Device.key`)."""
    return PUBLIC + identity.fingerprint(key.key_value)


def code(s: State, address: Address) -> str:
    """The code that we have with somebody (bare), "" if none."""
    data = s.get(records.key("code", address))
    return _body(data).decode() if data is not None else ""


def set_code(s: State, address: Address, text: str) -> None:
    """Keep a code with somebody; "" forgets it. Raises `UsageError` if Tillie did not make it."""
    if text and not settings.is_code(text):
        form = f"{settings.CODE_GROUPS} groups of {settings.CODE_GROUP} characters"
        raise UsageError(
            "That is not a code that Tillie made.", hint=f"'tillie session secret ADDRESS' makes one: {form}."
        )
    data = bytes((VERSION,)) + settings.normalise_code(text).encode() if text else None
    s.put(records.key("code", address), data)


def copied(s: State) -> Iterable[tuple[Key, bytes]]:
    """The records that belong into a backup."""
    for kind in sorted(COPIED):
        yield from s.scan(records.key(kind))


def _body(data: bytes) -> bytes:
    if data[0] != VERSION:
        raise StoreTooNew(f"a key of sessions has version {data[0]}; this version of Tillie reads {VERSION}.")
    return data[1:]
