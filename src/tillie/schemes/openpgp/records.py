"""What OpenPGP keeps in the store: the keys of its records, and their bytes. Every record starts with its version.

own          <fingerprint>             a key pair of ours: private key, whether it is announced and was published
active       ""                        the fingerprint of the one that signs
list         <address>                 the keys that an account announces
certificate  <address>/<fingerprint>   one of their certificates, or why there is none
refresh      <address>                 the list is to be fetched again: something changed
seen         <hash>                    what was opened: by the bytes of the message, and by what was in it
announcing   ""                        our list is about to be published
unwanted     <fingerprint>             a key that is to be taken off our list
recheck      <fingerprint>             whether a key of ours was revoked elsewhere is to be looked up
fight        ""                        when we announced our keys again, newest last
backup       ""                        a sealed backup of our keys that is to be published
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from tillie.errors import StoreTooNew
from tillie.model import Address, Key

VERSION = 1
SCHEME = "openpgp"
_CACHED_LISTS = 256


def key(kind: str, name: str = "") -> Key:
    return Key(SCHEME, kind, name)


def of_own(kind: str, fingerprint: bytes) -> Key:
    return Key(SCHEME, kind, fingerprint.hex())


def of_certificate(address: Address, fingerprint: bytes) -> Key:
    return Key(SCHEME, "certificate", f"{address}/{fingerprint.hex()}")


def _check_version(data: bytes, what: str) -> None:
    if data[0] != VERSION:
        raise StoreTooNew(f"the {what} record has version {data[0]}; this version of Tillie reads {VERSION}.")


# -- our own keys ---------------------------------------------------------------------------------------------------

_OWN = struct.Struct(">BBdd")


class Own(NamedTuple):
    """A key pair of ours. `announced`: it belongs into our list. `published` is when its certificate was last given to
    the server, 0 if never, or not since it changed. `added` is when it came here. `secret` is the whole key."""

    announced: bool
    added: float
    published: float
    secret: bytes

    def __repr__(self) -> str:
        return f"Own(announced={self.announced}, added={self.added}, published={self.published})"


def encode_own(own: Own) -> bytes:
    return _OWN.pack(VERSION, own.announced, own.added, own.published) + own.secret


def decode_own(data: bytes) -> Own:
    _check_version(data, "OpenPGP key")
    _, announced, added, published = _OWN.unpack_from(data)
    return Own(bool(announced), added, published, data[_OWN.size :])


# -- keys of others -------------------------------------------------------------------------------------------------

_LIST = struct.Struct(">BBdd")
_ENTRY = struct.Struct(">20sd")


class Listed(NamedTuple):
    """One announced key: its fingerprint, and the date that the list gives it."""

    fingerprint: bytes
    date: float


class KeyList(NamedTuple):
    """The keys that an account announces. `at` is when that was last heard, `tried` when it was last asked, `read`
    whether the list, or the news that there is none, was ever read."""

    at: float
    tried: float
    read: bool
    keys: tuple[Listed, ...] = ()

    def by_fingerprint(self, fingerprint: bytes) -> Listed | None:
        return next((key for key in self.keys if key.fingerprint == fingerprint), None)


def encode_list(known: KeyList) -> bytes:
    return _LIST.pack(VERSION, known.read, known.at, known.tried) + b"".join(_ENTRY.pack(*key) for key in known.keys)


@lru_cache(_CACHED_LISTS)
def decode_list(data: bytes) -> KeyList:
    _check_version(data, "key list")
    _, read, at, tried = _LIST.unpack_from(data)
    return KeyList(at, tried, bool(read), tuple(map(Listed._make, _ENTRY.iter_unpack(data[_LIST.size :]))))


_KNOWN = struct.Struct(">BddH")


class Known(NamedTuple):
    """A certificate as it was last fetched, `at` that time and `date` what the list said then; `data` is empty if there
    never was a good one. `error` says why the last fetch brought none."""

    at: float
    date: float
    data: bytes = b""
    error: str = ""


def encode_known(known: Known) -> bytes:
    error = known.error.encode()[:255]
    return _KNOWN.pack(VERSION, known.at, known.date, len(error)) + error + known.data


@lru_cache(_CACHED_LISTS)
def decode_known(data: bytes) -> Known:
    _check_version(data, "certificate")
    _, at, date, length = _KNOWN.unpack_from(data)
    end = _KNOWN.size + length
    return Known(at, date, data[end:], data[_KNOWN.size : end].decode(errors="replace"))


# -- small things ---------------------------------------------------------------------------------------------------


def encode_bytes(data: bytes) -> bytes:
    return bytes((VERSION,)) + data


def decode_bytes(data: bytes, what: str) -> bytes:
    _check_version(data, what)
    return data[1:]
