"""XML as XMPP restricts it (RFC 6120 section 11.1), parsed within limits and written as bytes.

RFC 6120: "an entity MUST NOT inject into an XML stream any of the following: comments, processing instructions,
internal DTD subsets, external DTD subsets, internal or external entity references with the exception of the
predefined entities". All of them are refused by byte scans, before a parser builds anything: a DOCTYPE of 570 bytes
can unfold into megabytes. The scans do not understand CDATA sections, so `<!` and `<?` are refused inside those as
well; no XMPP software writes them there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from lxml import etree

from tillie.errors import Malformed, UsageError

MAX_STANZA_BYTES = 524_288  # twice what servers let their users send, as much as servers send each other
MAX_ELEMENTS = 16_384
MAX_DEPTH = 64
MAX_ATTRIBUTES = 512  # of one element, namespace declarations included
MAX_DECLARATION_BYTES = 200

Element: TypeAlias = etree._Element

_PARSER = etree.XMLParser(
    encoding="utf-8",  # forced: whatever the bytes claim to be
    resolve_entities=False,
    load_dtd=False,
    no_network=True,
    huge_tree=False,  # libxml2's own limits stay: depth 256, text 10 MB
    recover=False,
)
_TOO_DEEP = etree.XPath("/*" * (MAX_DEPTH + 1))
_IN_TAG = re.compile(rb"(?:[^>\"']|\"[^\"]*\"|'[^']*')*+")
_QUOTED = re.compile(rb"\"[^\"]*\"|'[^']*'")
# What XML 1.0 section 2.2 (Char) leaves out.
_NOT_XML = "\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff"
_TEXT_SPECIAL = re.compile(f"[<>&\r{_NOT_XML}]")
_ATTRIBUTE_SPECIAL = re.compile(f"[<>&'\"\t\n\r{_NOT_XML}]")
_WHOLE_TAG = re.compile(rb"<[^<>\"'!?][^<>\"']*+(?:\"[^\"<]*+\"[^<>\"']*+|'[^'<]*+'[^<>\"']*+)*+>")
_TAG_MARK = re.compile(rb"[<>\"']")
_CDATA = b"<![CDATA["
_DECLARATION = re.compile(
    rb"<\?xml[ \t\r\n]+version[ \t\r\n]*=[ \t\r\n]*(?:'1\.0'|\"1\.0\")"
    rb"(?:[ \t\r\n]+encoding[ \t\r\n]*=[ \t\r\n]*(?i:'utf-8'|\"utf-8\"))?"
    rb"(?:[ \t\r\n]+standalone[ \t\r\n]*=[ \t\r\n]*(?:'(?:yes|no)'|\"(?:yes|no)\"))?[ \t\r\n]*\?>"
)
_ESCAPES = {
    "<": "&lt;",
    ">": "&gt;",
    "&": "&amp;",
    "'": "&apos;",
    '"': "&quot;",
    "\t": "&#9;",  # a parser turns raw white space in an attribute into spaces
    "\n": "&#10;",
    "\r": "&#13;",  # a parser turns a raw one into a line feed
}


def parse(data: bytes, *, max_bytes: int = MAX_STANZA_BYTES) -> Element:
    """One XML element from untrusted UTF-8 bytes (RFC 6120 section 11.1).

    White space around it is allowed. The element has neither comments nor processing instructions nor entities in
    it. Raises `Malformed` for everything else, and beyond the limits of this module.
    """
    refuse_restricted(data, max_bytes=max_bytes)
    try:
        root = etree.fromstring(data, _PARSER)
    except (etree.XMLSyntaxError, ValueError):
        # `from None`: the parser's message quotes the bytes, and they may be somebody's plaintext.
        raise Malformed("The XML is not well-formed.") from None
    if data.count(b"<") > 2 * MAX_DEPTH and _TOO_DEEP(root):
        raise Malformed(f"The XML is nested deeper than {MAX_DEPTH} elements.")
    return root


def parse_fragment(data: bytes, *, max_bytes: int = MAX_STANZA_BYTES) -> list[Element]:
    """The elements of a sequence of elements, such as the children of a stanza. Between them only white space.

    Each must bring its own namespace declarations. Raises as `parse` does.
    """
    # Data that closes the wrapper leaves a second root behind it, or a tag without its pair: refused in both cases.
    root = parse(b"<f>" + data + b"</f>", max_bytes=max_bytes + 7)
    children = list(root)
    if _is_text(root.text) or any(_is_text(child.tail) for child in children):
        raise Malformed("There is text between the elements.")
    return children


def refuse_restricted(data: bytes, *, max_bytes: int = MAX_STANZA_BYTES) -> None:
    """Refuse, by scanning bytes alone, what RFC 6120 section 11.1 restricts and what exceeds a limit."""
    if len(data) > max_bytes:
        raise Malformed(f"The XML is longer than {max_bytes} bytes.")
    if b"\0" in data or data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise Malformed("The XML is not plain UTF-8.")
    if b"?" in data and b"<?" in data:
        raise Malformed("The XML has a declaration or a processing instruction.")
    if b"!" in data and b"<!" in data and data.count(b"<!") != data.count(_CDATA):
        raise Malformed("The XML has a DOCTYPE, an entity or a comment.")
    if data.count(b"<") > 2 * MAX_ELEMENTS:
        raise Malformed(f"The XML has more than {MAX_ELEMENTS} elements.")
    if data.count(b"=") > MAX_ATTRIBUTES:
        _refuse_many_attributes(data)


def _refuse_many_attributes(data: bytes) -> None:
    for piece in data.split(b"<"):
        if piece.count(b"=") <= MAX_ATTRIBUTES:
            continue
        tag = _IN_TAG.match(piece)
        if tag and len(_QUOTED.findall(tag[0])) > MAX_ATTRIBUTES:
            raise Malformed(f"An element has more than {MAX_ATTRIBUTES} attributes.")


def serialise(element: Element) -> bytes:
    """An element as UTF-8, with every namespace declaration that it needs, without the text that follows it."""
    data: bytes = etree.tostring(element, encoding="UTF-8", with_tail=False)
    return data


def text_of(element: Element) -> str:
    """The text of an element that may hold nothing but text; "" if it is empty. Raises `Malformed` on children."""
    if len(element):
        raise Malformed("An element has children where only text may be.")
    return element.text or ""


def escape(text: str) -> bytes:
    """Text as the content of an element. Raises `UsageError` on what XML 1.0 section 2.2 can't carry."""
    if _TEXT_SPECIAL.search(text):
        text = _TEXT_SPECIAL.sub(_escaped, text)
    return text.encode()


def attribute(text: str) -> bytes:
    """Text as the value of an attribute, with its quotation marks. Raises as `escape` does."""
    if _ATTRIBUTE_SPECIAL.search(text):
        text = _ATTRIBUTE_SPECIAL.sub(_escaped, text)
    return b"'" + text.encode() + b"'"


def _escaped(found: re.Match[str]) -> str:
    try:
        return _ESCAPES[found[0]]
    except KeyError:
        raise UsageError(f"XML can't carry the character U+{ord(found[0]):04X}.") from None


def _is_text(text: str | None) -> bool:
    return text is not None and bool(text.strip(" \t\r\n"))


class StrictFeed:
    """A guard before the parser of an XMPP stream (RFC 6120 sections 4 and 11); one for each stream header.

    `feed` takes bytes as they come from the connection and returns those that the parser may see: whole tags only,
    so that one huge tag in tiny chunks costs the parser no more than linear time. It raises `Malformed` on what
    RFC 6120 section 11.1 restricts, on NUL and byte order marks, and beyond the limits of this module for each
    stanza: bytes, elements, depth, attributes of one element. One XML declaration may start the stream, if it claims
    UTF-8 or nothing. What is not well-formed in other ways is left to the parser.
    """

    def __init__(self, *, max_stanza_bytes: int = MAX_STANZA_BYTES) -> None:
        self._max = max_stanza_bytes
        self._state: Callable[[bytes, int, bytearray], int] = self._text
        self._fresh = True  # nothing came yet but, perhaps, the "<" of a declaration
        self._depth = 0  # open elements, the stream's root included
        self._size = 0  # bytes since the last stanza ended
        self._elements = 0  # since the last stanza ended
        self._held = bytearray()  # what is not complete yet, from its "<"
        self._quote = b""  # the quotation mark that ends the attribute value we are in
        self._quotes = 0  # attribute values begun in this tag
        self._tail = b""  # the last bytes of CDATA, maybe the start of its end

    @property
    def depth(self) -> int:
        """How many elements are open in what was returned, the stream's root included: 1 between stanzas."""
        return self._depth

    def feed(self, chunk: bytes) -> bytes:
        """The bytes that became safe to parse with this chunk. Raises `Malformed`; then the connection must end."""
        if b"\0" in chunk or (self._fresh and not self._held and chunk[:1] not in b"< \t\r\n"):
            raise Malformed("The stream is not XML in plain UTF-8.")
        out = bytearray()
        at = 0
        while at < len(chunk):
            start = at
            at = self._state(chunk, at, out)
            self._size += at - start
            if self._size > self._max:
                raise Malformed(f"A stanza is longer than {self._max} bytes.")
            if self._depth == 1 and self._state == self._text:
                self._size = self._elements = 0
        return bytes(out)

    def _text(self, chunk: bytes, at: int, out: bytearray) -> int:
        end = chunk.find(b"<", at)
        text = chunk[at : end if end >= 0 else len(chunk)]
        if text:
            self._fresh = False
            if self._depth <= 1 and text.strip(b" \t\r\n"):
                raise Malformed("There is text between the stanzas.")
            if self._depth == 1:
                self._size -= len(text)  # keep-alives belong to no stanza
            out += text
        if end < 0:
            return len(chunk)
        if found := _WHOLE_TAG.match(chunk, end):
            self._fresh = False
            tag = found[0]
            if tag.count(b"=") > MAX_ATTRIBUTES and len(_QUOTED.findall(tag)) > MAX_ATTRIBUTES:
                raise Malformed(f"An element has more than {MAX_ATTRIBUTES} attributes.")
            self._pass_tag(tag, out)
            return found.end()
        self._held += b"<"
        self._state = self._opening
        return end + 1

    def _opening(self, chunk: bytes, at: int, out: bytearray) -> int:
        """The byte behind "<" says what this is."""
        kind = chunk[at : at + 1]
        if kind == b"?" and not self._fresh:
            raise Malformed("The stream has a processing instruction.")
        self._fresh = False
        self._quotes = 0
        self._state = {b"?": self._declaration, b"!": self._cdata_start}.get(kind, self._tag)
        return at

    def _tag(self, chunk: bytes, at: int, out: bytearray) -> int:
        if self._quote:
            end = chunk.find(self._quote, at) + 1
        else:
            found = _TAG_MARK.search(chunk, at)
            end = found.end() if found else 0
        if not end:
            self._held += chunk[at:]
            return len(chunk)
        self._held += chunk[at:end]
        mark = chunk[end - 1 : end]
        if self._quote:
            self._quote = b""
        elif mark == b">":
            self._pass_tag(self._release(), out)
        elif mark == b"<":
            raise Malformed("The stream is not well-formed.")
        else:
            self._quote = mark
            self._quotes += 1
            if self._quotes > MAX_ATTRIBUTES:
                raise Malformed(f"An element has more than {MAX_ATTRIBUTES} attributes.")
        return end

    def _pass_tag(self, tag: bytes, out: bytearray) -> None:
        if tag.startswith(b"</"):
            self._depth -= 1
        else:
            self._elements += 1
            if self._elements > MAX_ELEMENTS:
                raise Malformed(f"A stanza has more than {MAX_ELEMENTS} elements.")
            if self._depth > MAX_DEPTH:
                raise Malformed(f"A stanza is nested deeper than {MAX_DEPTH} elements.")
            if not tag.endswith(b"/>"):
                self._depth += 1
        out += tag

    def _declaration(self, chunk: bytes, at: int, out: bytearray) -> int:
        end = chunk.find(b">", at) + 1 or len(chunk)
        self._held += chunk[at:end]
        if len(self._held) > MAX_DECLARATION_BYTES:
            raise Malformed("The stream has a processing instruction.")
        if self._held.endswith(b">"):
            declaration = self._release()
            if not _DECLARATION.fullmatch(declaration):
                raise Malformed("The stream is not XML 1.0 in UTF-8.")
            out += declaration
        return end

    def _cdata_start(self, chunk: bytes, at: int, out: bytearray) -> int:
        self._held += chunk[at : at + 1]
        if not _CDATA.startswith(self._held) or self._depth <= 1:
            raise Malformed("The stream has a DOCTYPE, an entity or a comment.")
        if len(self._held) == len(_CDATA):
            out += self._release()
            self._state = self._cdata
            self._tail = b""
        return at + 1

    def _cdata(self, chunk: bytes, at: int, out: bytearray) -> int:
        across = (self._tail + chunk[at : at + 2]).find(b"]]>")
        end = at + across + 3 - len(self._tail) if across >= 0 else chunk.find(b"]]>", at) + 3
        if across < 0 and end < 3:
            end = len(chunk)
            self._tail = (self._tail + chunk[max(at, end - 2) :])[-2:]
        else:
            self._state = self._text
        out += chunk[at:end]
        return end

    def _release(self) -> bytes:
        held = bytes(self._held)
        self._held.clear()
        self._state = self._text
        return held
