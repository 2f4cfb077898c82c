"""XMPP addresses (RFC 7622), normalised once, where they enter; Matrix user ids, which are only checked.

Comparing addresses that are not normalised is how a message of `Alice@EXAMPLE.org` is taken for a stranger's, or a
stranger's for hers. Look-alikes from other scripts stay different addresses: they are valid, and never equal.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from functools import lru_cache

from tillie.errors import InvalidAddress
from tillie.model import Address
from tillie.wire import matrix

MAX_PART_BYTES = 1_023  # RFC 7622 sections 3.2 to 3.4, each part
MAX_ADDRESS_CHARACTERS = 3 * MAX_PART_BYTES + 2
_CACHED = 1_024

# What normalises to itself: lower-case ASCII, and no label with "--", which could be an A-label.
_PLAIN = re.compile(
    r"(?:[a-z0-9!#$%()*+,.;=?\[\]^_`{|}~\\-]{1,1023}@)?"
    r"(?:(?!-)[a-z0-9-]{1,63}(?<!-)\.){0,14}(?=[a-z0-9-]*[a-z])(?!-)[a-z0-9-]{1,63}(?<!-)"
    r"(?:/[ -~]{1,1023})?"
)
# RFC 7622 section 3.3.1.
_NOT_IN_LOCALPART = frozenset("\"&'/:<>@")
_DOTS = re.compile("[.\u3002]")


@lru_cache(maxsize=_CACHED)
def parse(text: str) -> Address:
    """The normalised address of any JID, bare or full (RFC 7622 section 3), or a Matrix user id, which begins with "@",
    as no JID does. Raises `InvalidAddress`."""
    if text.startswith("@"):
        return matrix.parse_user_id(text)
    if len(text) > MAX_ADDRESS_CHARACTERS:
        raise InvalidAddress("It is too long.")
    if _PLAIN.fullmatch(text) and "--" not in text.partition("/")[0]:
        return Address(text)
    # RFC 7622 section 3.1: the first slash ends the bare address, the first "@" before it ends the localpart; a
    # resource may hold both characters.
    bare, slash, resource = text.partition("/")
    local, at, domain = bare.partition("@") if "@" in bare else ("", "", bare)
    address = _domain(domain)
    if at:
        address = f"{_localpart(local)}@{address}"
    if slash:
        address = f"{address}/{_resource(resource)}"
    return Address(address)


def parse_bare(text: str) -> Address:
    """The normalised address of a bare JID (RFC 7622 section 3), or a Matrix user id. Raises `InvalidAddress`, also if
    it has a resource."""
    address = parse(text)
    if address.resource:
        raise InvalidAddress("It has a resource (the part behind the slash), and must not.")
    return address


def _localpart(text: str) -> str:
    """RFC 7622 section 3.3: PRECIS profile UsernameCaseMapped, without eight characters."""
    local = _enforce("UsernameCaseMapped", text)
    # After the mapping: a full-width "@" becomes a plain one.
    if not _NOT_IN_LOCALPART.isdisjoint(local):
        raise InvalidAddress("Its first part has a character that is not allowed there.")
    return local


def _resource(text: str) -> str:
    """RFC 7622 section 3.4: PRECIS profile OpaqueString."""
    return _enforce("OpaqueString", text)


def _enforce(profile: str, text: str) -> str:
    import precis_i18n  # here, because importing it takes 35 ms and most addresses are plain

    try:
        enforce = precis_i18n.get_profile(profile).enforce
        mapped: str = enforce(text)
        stable = enforce(mapped) == mapped  # RFC 8264 section 7: what does not settle is not an address
    except UnicodeError:
        raise InvalidAddress("It has characters that are not allowed.") from None
    if not stable:
        raise InvalidAddress("It has characters that are not allowed.")
    return _bounded(mapped)


def _domain(text: str) -> str:
    """RFC 7622 section 3.2: an IP literal, or a domain name of U-labels (IDNA2008)."""
    if text.startswith("[") and text.endswith("]"):
        try:
            if "%" in text:
                raise ValueError
            return f"[{ipaddress.IPv6Address(text[1:-1])}]"
        except ValueError:
            raise InvalidAddress("Its IP address is not valid.") from None
    mapped = unicodedata.normalize("NFC", "".join(map(_narrow, text)).lower())
    # Section 3.2: a final dot "MUST be stripped".
    labels = _DOTS.split(mapped)
    if len(labels) > 1 and not labels[-1]:
        labels.pop()
    if labels[-1].isdigit():
        return _ipv4(".".join(labels))
    return _bounded(".".join(map(_label, labels)))


def _ipv4(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise InvalidAddress("Its domain ends in a number, but is not an IP address.") from None


def _label(label: str) -> str:
    import idna  # here, because importing it takes 24 ms and most addresses are plain

    try:
        if label.startswith("xn--") and len(label) > 63:
            raise idna.IDNAError
        unicode_label = idna.ulabel(label)
        idna.alabel(unicode_label)  # no longer than 63 bytes in ASCII either
    except (idna.IDNAError, UnicodeError):
        raise InvalidAddress("Its domain is not valid.") from None
    return unicode_label


def _narrow(character: str) -> str:
    """Full-width and half-width characters mapped to their plain forms (RFC 7622 section 3.2.1)."""
    if character < "\u3000":
        return character
    kind, _, codes = unicodedata.decomposition(character).partition(" ")
    return "".join(chr(int(code, 16)) for code in codes.split()) if kind in ("<wide>", "<narrow>") else character


def _bounded(part: str) -> str:
    if not part or len(part.encode()) > MAX_PART_BYTES:
        raise InvalidAddress(f"Each of its parts has 1 to {MAX_PART_BYTES} bytes.")
    return part
