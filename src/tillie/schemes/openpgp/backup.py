"""The backup of our secret keys and its code (XEP-0373 section "Synchronizing the Secret Key with a Private PEP Node").

"The whole backup code including the dashes is directly used as a string to encrypt the concatenated transferable keys".
"""

from __future__ import annotations

from collections.abc import Iterable

from tillie.crypto import openpgp, password
from tillie.crypto.openpgp import SecretKey
from tillie.crypto.random import random_index
from tillie.directory import openpgp as directory
from tillie.errors import PeerError, TooLarge, Undecryptable, UsageError

ALPHABET = "123456789ABCDEFGHIJKLMNPQRSTUVWXYZ"  # "without 'O' and '0'"
GROUPS, GROUP = 6, 4
OPTIONS = (
    ("pubsub#access_model", "whitelist"),
    ("pubsub#persist_items", "true"),
    ("pubsub#max_items", "1"),
    ("pubsub#send_last_published_item", "never"),
)

_SEPARATORS = str.maketrans("", "", " -\t\r\n\u2010\u2011\u2012\u2013\u2014")


def new_code() -> str:
    """A random code of 122 bits, such as TWNK-KD5Y-MT3T-E1GS-DRDB-KVTW."""
    return _grouped("".join(ALPHABET[random_index(len(ALPHABET))] for _ in range(GROUPS * GROUP)))


def read_code(typed: str) -> str:
    """A code as a person typed it, in the form of `new_code`. Raises `UsageError`."""
    text = typed.translate(_SEPARATORS).upper()
    if len(text) != GROUPS * GROUP or not set(text) <= set(ALPHABET):
        raise UsageError(
            f"A backup code has {GROUPS * GROUP} letters and digits, in groups of {GROUP}.",
            hint="It has neither the letter O nor a zero.",
        )
    return _grouped(text)


def _grouped(text: str) -> str:
    return "-".join(text[start : start + GROUP] for start in range(0, GROUPS * GROUP, GROUP))


def seal(keys: Iterable[SecretKey], code: str) -> bytes:
    """The payload of the secret-key node: these keys under a code. Takes a quarter of a second, on purpose: a code is
    all that keeps a server from the keys. Raises `TooLarge`."""
    together = b"".join(key.data for key in keys)
    if not together:
        raise UsageError("There is no OpenPGP key to back up.")
    message = password.seal(together, read_code(code), stretch=True)
    if len(message) > directory.MAX_BACKUP_BYTES:
        raise TooLarge(f"The keys take {len(message)} bytes; a backup has at most {directory.MAX_BACKUP_BYTES}.")
    return directory.encode_backup(message)


def open(payload: bytes, code: str) -> tuple[SecretKey, ...]:
    """The keys in the payload of the secret-key node. Raises `UsageError`, also for a wrong code."""
    code = read_code(code)
    try:
        message = directory.parse_backup(payload)
        together = password.open(message, code, max_bytes=directory.MAX_BACKUP_BYTES)
        return openpgp.parse_secret_keys(together)
    except Undecryptable:
        raise UsageError("The backup does not open with this code.") from None
    except PeerError as error:
        raise UsageError(f"The backup can't be read: {error.detail}.") from None
