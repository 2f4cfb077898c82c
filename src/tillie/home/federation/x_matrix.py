"""Signed requests between homeservers (Matrix specification 1.19, server-server API, "Request Authentication").

Nothing in a signed request says when it was made: whoever sees one can send it again. So a repeated claim takes another
key, and rates are limited by server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from tillie.crypto import sign
from tillie.errors import Malformed
from tillie.wire import base64, matrix

if TYPE_CHECKING:
    from tillie.home.service import Signer

SCHEME = "X-Matrix"
MAX_HEADER = 4_096  # characters
MAX_HEADERS = 8

# RFC 9110 section 11.2: name=value, the value a token or a quoted string. Matrix also has ":" in an unquoted value.
_PARAMETER = re.compile(
    r"""[ \t]*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*"""
    r"""(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[!#$%&'*+.^_`|~0-9A-Za-z:/=\[\]-]+))[ \t]*(?:,|$)"""
)
_ESCAPED = re.compile(r"\\(.)")


class Credentials(NamedTuple):
    """What one Authorization header says. `destination` is "" where it is left out, as before version 1.3."""

    origin: str
    destination: str
    key_id: str
    signature: bytes


def parse(header: str) -> Credentials:
    """One Authorization header. Raises `Malformed`."""
    scheme, _, text = header.partition(" ")
    if len(header) > MAX_HEADER or scheme.lower() != SCHEME.lower():
        raise Malformed("the Authorization header is not X-Matrix")
    found = _parameters(text)
    origin, destination, key_id = found.get("origin", ""), found.get("destination", ""), found.get("key", "")
    if not matrix.is_server_name(origin):
        raise Malformed("the origin of a request is not a server's name")
    if not key_id.startswith("ed25519:"):
        raise Malformed("a request is not signed with an Ed25519 key")
    # The list of parameters calls it "signature", the example beside it and every server "sig".
    written = {found[name] for name in ("sig", "signature") if name in found}
    if len(written) != 1:
        raise Malformed("a request has no signature, or two")
    return Credentials(origin, destination, key_id, base64.decode_unpadded(written.pop(), size=sign.SIGNATURE))


def _parameters(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        each = _PARAMETER.match(text, at)
        if each is None or each["name"].lower() in found:
            raise Malformed("the Authorization header can't be read")
        value = each["token"] if each["quoted"] is None else _ESCAPED.sub(r"\1", each["quoted"])
        found[each["name"].lower()] = value
        at = each.end()
    return found


def parse_all(headers: Iterable[str]) -> tuple[Credentials, ...]:
    """All X-Matrix headers of a request, one for each key that signed it: at least one, all of one origin. Raises
    `Malformed`."""
    ours = [each for each in headers if each[: len(SCHEME) + 1].lower() == f"{SCHEME} ".lower()]
    if not ours or len(ours) > MAX_HEADERS:
        raise Malformed("a request has no X-Matrix header, or too many")
    found = tuple(map(parse, ours))
    if len({(each.origin, each.destination) for each in found}) != 1:
        raise Malformed("the X-Matrix headers of a request do not agree")
    return found


def signed_bytes(method: str, uri: str, origin: str, destination: str, content: object = None) -> bytes:
    """What is signed. `uri` is the request's target as it is on the wire, from /_matrix on, with the query; `content`
    the body, None if there is none.

    Not strictly canonical JSON: servers sign fractions in what their users send, and what is checked here is the
    parsed value that is worked on. Raises `Malformed` for what nobody can sign.
    """
    value: dict[str, Any] = {"method": method, "uri": uri, "origin": origin, "destination": destination}
    if content is not None:
        value["content"] = content
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True).encode()
    except (ValueError, TypeError, RecursionError):
        raise Malformed("a request can't be signed") from None


def header(signer: Signer, destination: str, method: str, uri: str, content: object = None) -> str:
    """The Authorization header of a request of ours."""
    signature = sign.sign(signer.seed, signed_bytes(method, uri, signer.server, destination, content))
    return (
        f'{SCHEME} origin="{signer.server}",destination="{destination}",'
        f'key="{signer.key_id}",sig="{base64.encode_unpadded(signature)}"'
    )


def verify(credentials: Credentials, public: bytes, method: str, uri: str, destination: str, content: object) -> None:
    """Check one header by the key that it names. `destination` is our own name, which is signed also where the header
    leaves it out. Raises `BadSignature`, `Malformed`."""
    if credentials.destination not in ("", destination):
        raise Malformed("a request is for another server")
    message = signed_bytes(method, uri, credentials.origin, destination, content)
    sign.verify(public, message, credentials.signature)
