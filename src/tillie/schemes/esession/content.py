"""Codec of <c/> (XEP-0200 sections 5 and 6), without keys.

    <c xmlns='http://www.xmpp.org/extensions/xep-0200.html#ns'>
      <data>b64 of the ciphertext</data> <new>1</new> <key>b64 of MPI(e)</key> <old>b64 of a MAC key</old>...
      <mac>b64</mac>
    </c>

What the MAC covers is the normalised content: the children but <mac/>, in the order in which they came, without
namespace declarations and without white space between them. XEP-0200: "Alice MUST normalize the content by removing any
whitespace from the serialized content (i.e. remove all character data from between all elements)". Nothing that the MAC
does not cover may say anything: attributes, foreign elements, and a second spelling of the same Base64 are refused.

An empty <data/> is refused as well. It would move the counter by no block, and the same stanza would verify again.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Sequence
from typing import NamedTuple

from lxml import etree

from tillie.errors import Malformed, TooLarge
from tillie.wire import base64, xml

NAMESPACE = "http://www.xmpp.org/extensions/xep-0200.html#ns"
MAX_DATA_BYTES = 196_608  # of ciphertext; a stanza of 256 KiB can't carry more in Base64
MAX_KEY_BYTES = 1_024  # a public value of group 18
MIN_MAC_BYTES = 16
MAX_MAC_BYTES = 64
MAX_OLD = 32  # <old/> elements of one stanza
MAX_NEW = 99_999

_NS = f"{{{NAMESPACE}}}"
_OPENING = b"<c xmlns='" + NAMESPACE.encode() + b"'>"
_CODED = rb"[A-Za-z0-9+/]++={0,2}+"
_PLAIN = re.compile(
    rb"<c xmlns=(?:'N'|\"N\")>((?:<data>(C)</data>)?+(?:<new>([1-9][0-9]{0,4})</new>)?+(?:<key>(C)</key>)?+"
    rb"((?:<old>C</old>)*+))<mac>(C)</mac></c>".replace(b"N", re.escape(NAMESPACE.encode())).replace(b"C", _CODED)
)
_NUMBER = re.compile(r"[1-9][0-9]{0,4}")
_XML_SPACE = " \t\r\n"


class Protected(NamedTuple):
    """One <c/>. `covered` is the normalised content, which the MAC covers; the rest is what it says.

    `data` is None where nothing was to be hidden, `key` the octets of a new public value or b"", `new` how many such
    values its sender has received since his last stanza, `old` MAC keys that are of no more use.
    """

    covered: bytes
    mac: bytes
    data: bytes | None = None
    key: bytes = b""
    new: int = 0
    old: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        size = "no" if self.data is None else str(len(self.data))
        return f"Protected({size} bytes)"


def cover(data: bytes | None, *, new: int = 0, key: bytes = b"", old: Sequence[bytes] = ()) -> bytes:
    """The normalised content of a <c/> to be sent: what is MACed. Raises `TooLarge`."""
    parts: list[bytes] = []
    if data is not None:
        if len(data) > MAX_DATA_BYTES:
            raise TooLarge(f"The stanza has {len(data)} bytes to hide; {MAX_DATA_BYTES} is the most.")
        parts += b"<data>", b2a_base64(data, newline=False), b"</data>"
    if new:
        parts.append(b"<new>%d</new>" % new)
    if key:
        parts += b"<key>", b2a_base64(key, newline=False), b"</key>"
    for value in old:
        parts += b"<old>", b2a_base64(value, newline=False), b"</old>"
    return b"".join(parts)


def write(covered: bytes, mac: bytes) -> bytes:
    """The <c/> around a normalised content and its MAC."""
    return b"".join((_OPENING, covered, b"<mac>", b2a_base64(mac, newline=False), b"</mac></c>"))


def parse(element: bytes) -> Protected:
    """Read a <c/> from the network. Raises `Malformed`."""
    return _parse_plain(element) or _parse_tree(element)


def _parse_plain(element: bytes) -> Protected | None:
    """A short cut for a <c/> as `write` makes it, and Gajim: a third of what a tree costs.

    It takes only what `_parse_tree` takes too, with the same meaning (a property test holds both against each other).
    """
    found = _PLAIN.fullmatch(element) if len(element) <= xml.MAX_STANZA_BYTES else None
    if found is None:
        return None
    covered, data, new, key, old, mac = found.groups()
    return Protected(
        covered,
        _mac(mac),
        None if data is None else base64.decode(data, max_bytes=MAX_DATA_BYTES),
        b"" if key is None else base64.decode(key, max_bytes=MAX_KEY_BYTES),
        int(new) if new else 0,
        tuple(map(_mac, _bounded(old[5:-6].split(b"</old><old>")))) if old else (),
    )


def _parse_tree(element: bytes) -> Protected:
    root = xml.parse(element)
    if root.tag != _NS + "c":
        raise Malformed("this is not encrypted content of XEP-0200")
    if root.attrib:
        raise Malformed("a <c> has an attribute")
    _refuse_text(root.text)
    covered: list[bytes] = []
    found: dict[str, str] = {}
    old: list[bytes] = []
    for child in root:
        name, text = _child(child)
        if name == "old":
            old.append(text.encode())
            _bounded(old)
        elif name in found:
            raise Malformed(f"a <c> has two <{name}> elements")
        else:
            found[name] = text
        if name != "mac":
            covered.append(f"<{name}>{text}</{name}>".encode())
    if "mac" not in found:
        raise Malformed("a <c> has no MAC")
    return Protected(
        b"".join(covered),
        _mac(found["mac"]),
        base64.decode(found["data"], max_bytes=MAX_DATA_BYTES) if "data" in found else None,
        base64.decode(found["key"], max_bytes=MAX_KEY_BYTES) if "key" in found else b"",
        _number(found["new"]) if "new" in found else 0,
        tuple(map(_mac, old)),
    )


def _child(child: etree._Element) -> tuple[str, str]:
    """The name and the text of a child of <c/>; there is nothing else to it."""
    namespace, _, name = child.tag.rpartition("}")
    if namespace + "}" != _NS or name not in ("data", "new", "key", "old", "mac"):
        raise Malformed("a <c> has an element of another kind")
    _refuse_text(child.tail)
    text = xml.text_of(child)
    if child.attrib or not text or text != text.strip(_XML_SPACE) or not text.isascii() or "<" in text or "&" in text:
        raise Malformed("an element of a <c> is not as XEP-0200 defines it")
    return name, text


def _refuse_text(text: str | None) -> None:
    if text and text.strip(_XML_SPACE):
        raise Malformed("a <c> has text between its elements")


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise Malformed("<new> is not a positive number")
    return int(text)


def _mac(coded: str | bytes) -> bytes:
    value = base64.decode(coded, max_bytes=MAX_MAC_BYTES)
    if len(value) < MIN_MAC_BYTES:
        raise Malformed("a MAC, or the key of one, is too short")
    return value


def _bounded(old: list[bytes]) -> list[bytes]:
    if len(old) > MAX_OLD:
        raise Malformed(f"a <c> has more than {MAX_OLD} old keys")
    return old
