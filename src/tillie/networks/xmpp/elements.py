"""Between slixmpp's elements and the bytes that cross Tillie's seams."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable

from tillie.errors import InvalidAddress, Malformed
from tillie.model import Address
from tillie.wire import address
from tillie.wire import xml as wire

CLIENT = "jabber:client"
DATA = "jabber:x:data"
STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
XML = "http://www.w3.org/XML/1998/namespace"
_MESSAGE, _PRESENCE, _IQ = (f"{{{CLIENT}}}{name}" for name in ("message", "presence", "iq"))
SINGLETON = "current"  # the item id of nodes with one item (XEP-0060 section 12.20)
KINDS = {_MESSAGE: "message", _PRESENCE: "presence", _IQ: "iq"}


def to_bytes(element: ET.Element) -> bytes:
    """One element as UTF-8 XML with the namespace declarations it needs, without the text that follows it."""
    tail, element.tail = element.tail, None
    try:
        data: bytes = ET.tostring(element, encoding="utf-8", xml_declaration=False)
        return data
    finally:
        element.tail = tail


def as_delivered(element: ET.Element) -> bytes:
    """One element as it most likely came over the wire: namespaces are declared as defaults, where they begin.

    For what is signed: the parser forgets prefixes, and canonical XML keeps them.
    """
    parts: list[bytes] = []
    _write(element, "", parts)
    return b"".join(parts)


def _write(element: ET.Element, around: str, parts: list[bytes]) -> None:
    namespace, _, name = element.tag[1:].rpartition("}") if element.tag.startswith("{") else ("", "", element.tag)
    parts.append(b"<%b" % name.encode())
    if namespace != around:
        parts.append(b" xmlns=%b" % wire.attribute(namespace))
    prefixes: dict[str, str] = {}
    for key, value in element.items():
        parts.append(b" %b=%b" % (_attribute_name(key, prefixes), wire.attribute(value)))
    parts += [b" xmlns:%b=%b" % (prefix.encode(), wire.attribute(uri)) for uri, prefix in prefixes.items()]
    if not len(element) and not element.text:
        parts.append(b"/>")
        return
    parts.append(b">" + wire.escape(element.text or ""))
    for child in element:
        _write(child, namespace, parts)
        parts.append(wire.escape(child.tail or ""))
    parts.append(b"</%b>" % name.encode())


def _attribute_name(key: str, prefixes: dict[str, str]) -> bytes:
    if not key.startswith("{"):
        return key.encode()
    uri, _, name = key[1:].rpartition("}")
    prefix = "xml" if uri == XML else prefixes.setdefault(uri, f"n{len(prefixes)}")
    return f"{prefix}:{name}".encode()


def from_bytes(data: bytes) -> list[ET.Element]:
    """The elements of a sequence. Raises `Malformed` on what is not XML, or restricted in XMPP."""
    wire.refuse_restricted(data)
    try:
        return list(ET.fromstring(b"<f>%b</f>" % data))
    except ET.ParseError:
        raise Malformed("The XML is not well-formed.") from None


def one_from_bytes(data: bytes) -> ET.Element:
    """One element. Raises as `from_bytes`, and if there is not exactly one."""
    elements = from_bytes(data)
    if len(elements) != 1:
        raise Malformed("There is not exactly one element.")
    return elements[0]


def children(element: ET.Element) -> bytes:
    """All child elements, serialised one after the other."""
    return b"".join(map(as_delivered, element))


def only(parent: ET.Element, tag: str) -> ET.Element | None:
    """The one child with this tag; None if there is none, or more than one."""
    found = parent.findall(tag)
    return found[0] if len(found) == 1 else None


def address_of(element: ET.Element, name: str, default: Address) -> Address | None:
    """The address in an attribute, normalised; `default` if it is absent, None if it is not an address."""
    text = element.get(name)
    if not text:
        return default
    try:
        return address.parse(text)
    except InvalidAddress:
        return None


def form(form_type: str, fields: Iterable[tuple[str, str]]) -> ET.Element:
    """A submitted data form (XEP-0004)."""
    x = ET.Element("{jabber:x:data}x", {"type": "submit"})
    for name, value in (("FORM_TYPE", form_type), *fields):
        attributes = {"var": name, "type": "hidden"} if name == "FORM_TYPE" else {"var": name}
        field = ET.SubElement(x, "{jabber:x:data}field", attributes)
        ET.SubElement(field, "{jabber:x:data}value").text = value
    return x


def form_fields(parent: ET.Element) -> dict[str, list[str]]:
    """The values of the one data form in an element (XEP-0004), by field; {} if there is none."""
    x = only(parent, f"{{{DATA}}}x")
    fields = [] if x is None else x.findall(f"{{{DATA}}}field")
    return {field.get("var", ""): [value.text or "" for value in field.findall(f"{{{DATA}}}value")] for field in fields}
