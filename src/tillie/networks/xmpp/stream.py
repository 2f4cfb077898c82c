"""An XML stream parser that refuses what XMPP restricts (RFC 6120 section 11.1), and how slixmpp comes to use it.

slixmpp's own parser reads DOCTYPE and entities, knows no limits, logs what it can't parse and sends it back to the
server. `harden(client)` replaces it. On a violation the stream is closed with a stream error that says which rule was
broken and nothing else, and the client's event `stream_violation` is called with the typed error.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from slixmpp.stanza import Message, Presence

from tillie.errors import Malformed
from tillie.wire.xml import StrictFeed

# A server's own stanzas (rosters, archive pages, item lists) are larger than what users may send each other; a sealed
# element has the tighter limit of wire.xml besides.
MAX_STREAM_STANZA_BYTES = 2 * 1024 * 1024
NAMESPACE = "urn:ietf:params:xml:ns:xmpp-streams"


class StreamViolation(Malformed):
    """The server sent something that has no place in an XMPP stream.

    `condition` is the stream error of RFC 6120 section 4.9.3.
    """

    def __init__(self, condition: str, detail: str) -> None:
        super().__init__(detail)
        self.condition = condition


class StrictParser:
    """What slixmpp wants of an `ET.XMLPullParser`; but `feed` raises `StreamViolation`, and builds nothing then."""

    def __init__(self) -> None:
        self._guard = StrictFeed(max_stanza_bytes=MAX_STREAM_STANZA_BYTES)
        # `encoding` here decides, whatever the stream declares: RFC 6120 section 11.6 allows UTF-8 only.
        self._parser = ET.XMLPullParser(("start", "end"), _parser=ET.XMLParser(encoding="utf-8"))
        # Newer expats hold back what looks unfinished, against tokens in tiny chunks. The guard passes whole tags only,
        # and a stanza must not wait for the next one.
        self._flush: Callable[[], None] = getattr(self._parser, "flush", lambda: None)
        self._events: deque[tuple[str, ET.Element]] = deque()

    def feed(self, data: bytes | str) -> None:
        try:
            whole = self._guard.feed(data.encode() if isinstance(data, str) else data)
        except Malformed as refusal:
            raise StreamViolation("bad-format", refusal.detail) from None
        if not whole or (self._guard.depth <= 1 and whole.isspace()):
            return  # white space between stanzas keeps connections alive; in the parser it would only gather
        try:
            self._parser.feed(whole)
            self._flush()
            self._events.extend(self._parser.read_events())  # type: ignore[arg-type]
        except (ET.ParseError, ValueError):
            # `from None`: the parser's message may quote the bytes.
            raise StreamViolation("not-well-formed", "The stream is not well-formed XML.") from None

    def read_events(self) -> Iterator[tuple[str, ET.Element]]:
        while self._events:
            yield self._events.popleft()


def harden(client: Any) -> None:
    """Give this slixmpp client the strict parser; calling it again changes nothing.

    Stanzas that arrive before the login is through are dropped: whoever sits on the wire may put them before TLS.
    """
    if getattr(client, "_tillie_hardened", False):
        return
    client._tillie_hardened = True
    inherited: Callable[[bytes], None] = client.data_received
    init_parser: Callable[[], None] = client.init_parser

    def init_strict_parser() -> None:
        init_parser()
        client.parser = StrictParser()

    def data_received(data: bytes) -> None:
        if client.parser is None:  # closed, or a violation: slixmpp would write the bytes into its log
            return
        try:
            inherited(data)
        except StreamViolation as violation:
            _close(client, violation)

    def only_after_login(stanza: Any) -> Any:
        if isinstance(stanza, (Message, Presence)) and not client.authenticated and not client.is_component:
            return None
        return stanza

    client.init_parser, client.data_received = init_strict_parser, data_received
    if client.parser is not None:
        client.init_parser()
    client.add_filter("in", only_after_login)


def _close(client: Any, violation: StreamViolation) -> None:
    client.parser = None
    client.disconnect_reason = str(violation)
    if client.transport is not None:
        stanza = f"<stream:error><{violation.condition} xmlns='{NAMESPACE}'/></stream:error>"
        client.transport.write((stanza + "</stream:stream>").encode())
        client.transport.close()
    client.event("stream_violation", violation)
