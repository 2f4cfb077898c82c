"""XML as XMPP restricts it (RFC 6120 section 11.1), parsed within limits and written as bytes.

RFC 6120: "an entity MUST NOT inject into an XML stream any of the following: comments, processing instructions,
internal DTD subsets, external DTD subsets, internal or external entity references with the exception of the
predefined entities". All of them are refused by byte scans, before a parser builds anything: a DOCTYPE of 570 bytes
can unfold into megabytes. The scans do not understand CDATA sections, so `<!` and `<?` are refused inside those as
well; no XMPP software writes them there.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from lxml import etree

from tillie.errors import Malformed, UsageError

MAX_STANZA_BYTES = 524_288  # twice what servers let their users send, as much as servers send each other
MAX_ELEMENTS = 16_384
MAX_DEPTH = 64
MAX_ATTRIBUTES = 512  # of one element, namespace declarations included
XML_NAMESPACE = "http://www.w3.org/XML/1998/namespace"

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
    if b"!" in data and b"<!" in data and data.count(b"<!") != data.count(b"<![CDATA["):
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
    """Text as the content of an element. Raises `UsageError` on characters that XML can't carry (XML 1.0 section 2.2)."""
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
