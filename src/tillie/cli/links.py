"""`xmpp:` links that hold what two people compare, and the codes to scan that show them."""

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


class Link(NamedTuple):
    """Whose it is, as it was written, and what it holds."""

    jid: str
    query: str

    def require_of(self, whose: Address) -> None:
        """Raises `UsageError` for somebody else's."""
        if addresses.parse(self.jid).bare != whose:
            raise UsageError(f"That link is of {printable(self.jid)}, not of {whose}.")


def write(address: Address, query: str) -> str:
    return f"xmpp:{quote(address, safe='@')}?{query}"


def read(text: str) -> Link | None:
    """A link as somebody scanned or pasted it; None if it is none."""
    scheme, colon, rest = text.strip()[:MAX_LINK].partition(":")
    jid, _, query = rest.partition("?")
    return Link(unquote(jid), query) if colon and scheme.lower() == "xmpp" else None


def show_code(link: str) -> None:
    """A link, and on a terminal the code to scan."""
    import segno

    if sys.stdout.isatty():
        segno.make(link, error="m").terminal(compact=True)
    show.line(f"  {link}")
    show.line()
