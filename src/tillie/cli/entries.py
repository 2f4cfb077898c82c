"""Texts as items: Atom entries (RFC 4287) as microblogs have them (XEP-0277), written from a text and shown as one."""

from __future__ import annotations

from tillie.errors import Malformed
from tillie.model import Address, Time
from tillie.pubsub.items import Node
from tillie.wire import xml
from tillie.wire.time import format_datetime

ATOM = "http://www.w3.org/2005/Atom"
_ENTRY, _TITLE, _CONTENT, _SUMMARY = (f"{{{ATOM}}}{name}" for name in ("entry", "title", "content", "summary"))


def entry(text: str, title: str, author: Address, node: Node, item_id: str, now: Time) -> bytes:
    """An entry with this text. Without a title the text itself is the title, as XEP-0277 has it for short ones."""
    when = format_datetime(int(now)).encode()
    uri = f"xmpp:{node.service}?;node={node.name};item={item_id}"
    body = b"<content type='text'>%s</content>" % xml.escape(text) if title else b""
    return b"".join((
        b"<entry xmlns='%s'>" % ATOM.encode(),
        b"<title type='text'>%s</title>" % xml.escape(title or text),
        body,
        b"<id>%s</id><published>%s</published><updated>%s</updated>" % (xml.escape(uri), when, when),
        b"<author><name>%s</name><uri>%s</uri></author>" % (
            xml.escape(author.partition("@")[0]), xml.escape(f"xmpp:{author}"),
        ),
        b"</entry>",
    ))  # fmt: skip


def text_of(payload: bytes) -> str:
    """What a person reads of a payload: title and text of an entry; of anything else the XML. Not yet printable."""
    try:
        root = xml.parse(payload, max_bytes=len(payload))
    except Malformed:
        return payload.decode(errors="replace")
    if root.tag != _ENTRY:
        return payload.decode(errors="replace")
    found = [_inner(child) for name in (_TITLE, _SUMMARY, _CONTENT) for child in root.iterchildren(name)]
    return "\n".join(dict.fromkeys(text for text in found if text))


def _inner(element: xml.Element) -> str:
    """All text in an element, XHTML's too."""
    return "".join(str(part) for part in element.itertext()).strip()
