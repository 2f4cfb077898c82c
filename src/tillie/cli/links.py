"""Links that hold what two people compare, `xmpp:` and `matrix:`, and the codes to scan that show them."""

from __future__ import annotations

import sys
from typing import NamedTuple
from urllib.parse import quote, unquote

from tillie.cli import show
from tillie.errors import UsageError
from tillie.model import Address
from tillie.wire import address as addresses
from tillie.wire.display import printable

MAX_LINK = 8_192  # characters
_XMPP = "xmpp:"
_MATRIX = "matrix:u/"  # Matrix specification 1.19, appendices, "Matrix URI scheme"
_MATRIX_TO = "https://matrix.to/#/"


class Link(NamedTuple):
    """Whose it is, as it was written, and what it holds."""

    address: str
    query: str

    def require_of(self, whose: Address) -> None:
        """Raises `UsageError` for somebody else's."""
        if addresses.parse(self.address).bare != whose:
            raise UsageError(f"That link is of {printable(self.address)}, not of {whose}.")


def write(address: Address, query: str) -> str:
    """The link of an address: `xmpp:bob@example.net?QUERY`, or `matrix:u/bob:example.net?QUERY`."""
    if address.is_matrix:
        return f"{_MATRIX}{quote(address[1:], safe=':')}?{query}"
    return f"{_XMPP}{quote(address, safe='@')}?{query}"


def read(text: str) -> Link | None:
    """A link as somebody scanned or pasted it; None if it is none."""
    text = text.strip()[:MAX_LINK]
    for start, sigil in ((_XMPP, ""), (_MATRIX, "@"), (_MATRIX_TO, "")):
        if text[: len(start)].lower() == start:
            address, _, query = text[len(start) :].partition("?")
            return Link(sigil + unquote(address), query)
    return None


def address_in(text: str) -> str:
    """The address in a link; what is no link, as it is."""
    link = read(text)
    return link.address if link is not None else text


def show_code(link: str) -> None:
    """A link, and on a terminal the code to scan."""
    import segno

    if sys.stdout.isatty():
        segno.make(link, error="m").terminal(compact=True)
    show.line(f"  {link}")
    show.line()
