"""An XML stream parser that refuses what XMPP restricts (RFC 6120 section 11.1), and how slixmpp comes to use it.

slixmpp's own parser reads DOCTYPE and entities, knows no limits, logs what it can't parse and sends it back to the
server. `harden(client)` replaces it. On a violation the stream is closed with a stream error that says which rule was
broken and nothing else, and the client's event `stream_violation` is called with the typed error.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

from slixmpp.stanza import Message, Presence

from tillie.errors import Malformed

# A server's own stanzas (rosters, archive pages, item lists) are larger than what users may send each other; a sealed
# element has the tighter limits of wire.xml besides.
MAX_STREAM_STANZA_BYTES = 2 * 1024 * 1024
MAX_STREAM_ELEMENTS = 65_536  # of one stanza
MAX_STREAM_DEPTH = 100  # the stream's root included
MAX_STREAM_ATTRIBUTES = 512  # of one element

_WHOLE_TAG = re.compile(rb"<(?![!?])(?:[^<>\"']++|\"[^<\"]*+\"|'[^<']*+')*+>")
_QUOTED = re.compile(rb"\"[^\"]*\"|'[^']*'")
_CDATA_OPEN, _CDATA_CLOSE = b"<![CDATA[", b"]]>"
_SPACE = b" \t\r\n"


class _In(Enum):
    TEXT = 0
    FRESH = 1  # just behind "<"
    MARKED = 2  # behind "<!": a CDATA section, or refused
    DECLARATION = 3  # behind "<?" at the very start
    TAG = 4
    DOUBLE = 5
    SINGLE = 6
    CDATA = 7


# What ends each of these states, and "<", which may be in none of them.
_ENDS = {_In.TAG: re.compile(rb"[<>\"']"), _In.DOUBLE: re.compile(rb"[<\"]"), _In.SINGLE: re.compile(rb"[<']")}


class StreamViolation(Malformed):
    """The server sent something that has no place in an XMPP stream.

    `condition` is the stream error of RFC 6120 section 4.9.3.
    """

    def __init__(self, condition: str, detail: str) -> None:
        super().__init__(detail)
        self.condition = condition


class Tokens:
    """Cuts a byte stream into whole tags, and counts: the parser behind it never waits for the end of one.

    A parser that re-reads an unfinished tag with each chunk takes quadratic time for a huge tag in tiny chunks (expat
    before 2.6 does). Here every byte is looked at once.
    """

    def __init__(self) -> None:
        self._state = _In.TEXT
        self._held: list[bytes] = []  # the beginning of an unfinished tag
        self._tail = b""  # the last bytes of what is held: enough to see "/>", "<![CDATA[" and "]]>"
        self._closing = False
        self._quotes = 0
        self._depth = 0
        self._elements = 0
        self._read = 0  # bytes of the chunks before
        self._begin = 0  # where the stanza began
        self._started = False

    def feed(self, chunk: bytes) -> bytes:
        """The whole tokens up to here, to be parsed. Raises `StreamViolation`."""
        passed: list[bytes] = []
        position = start = 0  # chunk[start:] has not been passed on yet
        while position < len(chunk):
            if self._state is _In.TEXT:
                end = chunk.find(b"<", position)
                end = len(chunk) if end < 0 else end
                if self._depth <= 1:
                    self._between(chunk[position:end])
                    start = end
                    self._begin = self._read + end
                position = self._open(chunk, end)
            else:
                position = self._step(chunk, position)
            if self._state is _In.TEXT:  # a token ended here
                self._bound(position)
                passed += [*self._held, chunk[start:position]]
                self._held.clear()
                start = position
        if start < len(chunk):
            self._held.append(chunk[start:])
        self._bound(len(chunk))
        self._read += len(chunk)
        return b"".join(passed)

    def _open(self, chunk: bytes, position: int) -> int:
        """A tag begins here, or the chunk ends. A whole one is taken at once; the position behind what was taken."""
        if position == len(chunk):
            return position
        whole = _WHOLE_TAG.match(chunk, position)
        if whole is None:
            self._state, self._tail = _In.FRESH, b"<"
            return position + 1
        end = whole.end()
        self._closing, self._started = chunk[position + 1 : position + 2] == b"/", True
        if (
            end - position > MAX_STREAM_ATTRIBUTES * len("a=''")
            and len(_QUOTED.findall(whole[0])) > MAX_STREAM_ATTRIBUTES
        ):
            raise _too_many_attributes()
        self._end_tag(chunk[end - 2 : end - 1] == b"/")
        return end

    def _step(self, chunk: bytes, position: int) -> int:
        """Go on inside markup; the position behind what was understood."""
        if self._state is _In.FRESH:
            return self._first(chunk, position)
        if self._state is _In.MARKED:
            return self._marked(chunk, position)
        if self._state in (_In.CDATA, _In.DECLARATION):
            return self._until(chunk, position, _CDATA_CLOSE if self._state is _In.CDATA else b"?>")
        found = _ENDS[self._state].search(chunk, position)
        if found is None:
            self._tail = chunk[-1:]
            return len(chunk)
        at, what = found.start(), found[0]
        if what == b"<":
            raise StreamViolation("not-well-formed", "There is a '<' inside a tag.")
        if self._state is _In.TAG and what == b">":
            self._end_tag((chunk[at - 1 : at] if at else self._tail) == b"/")
        elif self._state is _In.TAG:
            self._state = _In.DOUBLE if what == b'"' else _In.SINGLE
            self._quotes += 1
            if self._quotes > MAX_STREAM_ATTRIBUTES:
                raise _too_many_attributes()
        else:
            self._state = _In.TAG
        self._tail = what
        return at + 1

    def _first(self, chunk: bytes, position: int) -> int:
        first = chunk[position : position + 1]
        if first == b"!" and self._depth > 1:
            self._state, self._tail = _In.MARKED, b"<!"
            return position + 1
        if first == b"?" and not self._started:
            self._state, self._tail = _In.DECLARATION, b""
        elif first in (b"!", b"?"):
            raise StreamViolation("restricted-xml", "The stream has a DOCTYPE, a comment or a processing instruction.")
        elif first in b"<>\"'= \t\r\n":
            raise StreamViolation("not-well-formed", "A tag has no name.")
        else:
            self._state, self._tail = _In.TAG, first
            self._closing, self._quotes = first == b"/", 0
        self._started = True
        return position + 1

    def _marked(self, chunk: bytes, position: int) -> int:
        take = len(_CDATA_OPEN) - len(self._tail)
        self._tail += chunk[position : position + take]
        if not _CDATA_OPEN.startswith(self._tail):
            raise StreamViolation("restricted-xml", "The stream has a DOCTYPE, an entity or a comment.")
        if self._tail == _CDATA_OPEN:
            self._state, self._tail = _In.CDATA, b""
        return min(position + take, len(chunk))

    def _until(self, chunk: bytes, position: int, mark: bytes) -> int:
        # The mark may be split over chunks: look at the last bytes of the one before too.
        seen = len(self._tail)
        at = (self._tail + chunk[position : position + len(mark)]).find(mark)
        end = position + at - seen + len(mark) if at >= 0 else -1
        if at < 0:
            at = chunk.find(mark, position)
            end = at + len(mark) if at >= 0 else -1
        if end >= 0:
            self._state = _In.TEXT
            return end
        self._tail = (self._tail + chunk[max(position, len(chunk) - len(mark)) :])[-(len(mark) - 1) :]
        return len(chunk)

    def _end_tag(self, empty: bool) -> None:
        self._state = _In.TEXT
        if self._closing:
            self._depth -= 1
        else:
            self._elements += 1
            if self._depth >= MAX_STREAM_DEPTH:
                raise StreamViolation("policy-violation", f"A stanza is nested deeper than {MAX_STREAM_DEPTH}.")
            if self._elements > MAX_STREAM_ELEMENTS:
                raise StreamViolation("policy-violation", f"A stanza has more than {MAX_STREAM_ELEMENTS} elements.")
            self._depth += 0 if empty else 1
        if self._depth <= 1:
            self._elements = 0

    def _between(self, text: bytes) -> None:
        # White space between stanzas keeps connections alive; it is not passed on, lest it gather in the parser.
        if text and text.strip(_SPACE):
            raise StreamViolation("not-well-formed", "There is text between the stanzas.")

    def _bound(self, position: int) -> None:
        if self._read + position - self._begin > MAX_STREAM_STANZA_BYTES:
            raise StreamViolation("policy-violation", f"A stanza is longer than {MAX_STREAM_STANZA_BYTES} bytes.")


def _too_many_attributes() -> StreamViolation:
    return StreamViolation("policy-violation", f"A tag has more than {MAX_STREAM_ATTRIBUTES} attributes.")


class StrictParser:
    """What slixmpp wants of an `ET.XMLPullParser`; but `feed` raises `StreamViolation`, and builds nothing then."""

    def __init__(self) -> None:
        self._tokens = Tokens()
        # `encoding` in the parser, not in the declaration, decides: RFC 6120 section 11.6 allows UTF-8 only.
        self._parser = ET.XMLPullParser(("start", "end"), _parser=ET.XMLParser(encoding="utf-8"))
        self._events: deque[tuple[str, ET.Element]] = deque()

    def feed(self, data: bytes | str) -> None:
        whole = self._tokens.feed(data.encode() if isinstance(data, str) else data)
        if not whole:
            return
        try:
            self._parser.feed(whole)
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
        stanza = f"<stream:error><{violation.condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
        client.transport.write((stanza + "</stream:stream>").encode())
        client.transport.close()
    client.event("stream_violation", violation)
