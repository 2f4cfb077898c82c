"""Names on Matrix: user ids, server names, device and key ids (Matrix specification 1.19, appendices, "Identifier
Grammar").

Unlike JIDs they are never normalised: two that differ in a letter's case are two people.
"""

from __future__ import annotations

import re

from tillie.errors import InvalidAddress, Malformed
from tillie.model import Address

MAX_USER_ID_BYTES = 255
MAX_SERVER_NAME = 230  # "SHOULD be less than or equal to 230 characters"
MAX_ID = 255  # characters of a device or key id; the specification has no grammar for either

_LOCALPART = re.compile(r"[a-z0-9._=/+-]+")  # of a user id that may be made today
_HISTORICAL = re.compile(r"[!-9;-~]+")  # "U+0021 to U+007E", which is what other servers may still have
_SERVER = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[0-9A-Za-z.-]{1,255}))(?::(?P<port>[0-9]{1,5}))?")
_DEVICE = re.compile(r"[!-~]{1,255}")
_KEY_ID = re.compile(r"[A-Za-z0-9+/=._~-]{1,255}")


def parse_user_id(text: str) -> Address:
    """A user id, of anybody anywhere: `@localpart:server`. Raises `InvalidAddress`."""
    local, colon, server = text[1:].partition(":")
    if not text.startswith("@") or not colon:
        raise InvalidAddress("A Matrix address looks like @name:server.")
    if len(text.encode(errors="replace")) > MAX_USER_ID_BYTES:
        raise InvalidAddress("It is too long.")
    if not _HISTORICAL.fullmatch(local):
        raise InvalidAddress("The part before the colon has characters that are not allowed.")
    if not is_server_name(server):
        raise InvalidAddress("The part behind the colon is not a server's name.")
    return Address(text)


def new_user_id(localpart: str, server: str) -> Address:
    """A user id that may be made today, by the strict grammar. Raises `InvalidAddress`."""
    if not _LOCALPART.fullmatch(localpart):
        raise InvalidAddress("A name has lower-case letters, digits and . _ = / + - only.")
    return parse_user_id(f"@{localpart}:{server}")


def is_server_name(text: str) -> bool:
    """Whether this is the name of a homeserver: a host, or an IP address, perhaps with a port."""
    found = _SERVER.fullmatch(text)
    return found is not None and len(text) <= MAX_SERVER_NAME and int(found["port"] or 1) in range(1, 65_536)


def is_device_id(text: object) -> bool:
    """Whether this can be a device's id: printable, and not "*", which means all devices."""
    return isinstance(text, str) and text != "*" and _DEVICE.fullmatch(text) is not None


def split_key_id(text: object) -> tuple[str, str]:
    """(algorithm, id) of "algorithm:id". Raises `Malformed`."""
    algorithm, colon, key_id = text.partition(":") if isinstance(text, str) else ("", "", "")
    if not algorithm or not colon or not key_id:
        raise Malformed("the name of a key is not algorithm:id")
    return algorithm, key_id


def is_key_id(text: str) -> bool:
    """Whether this can be the id of a one-time key."""
    return _KEY_ID.fullmatch(text) is not None
