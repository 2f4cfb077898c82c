"""What a stanza hides: its children as the text m of XEP-0200 (sections 4 to 6), and back.

XEP-0200 hides "that part of the content that would normally be ignored by the intermediate servers", and puts it back
in place of <c/>: m is a sequence of elements in the context of a stanza, where `jabber:client` is declared already. So
<body> needs no declaration, and what comes without one belongs there.

Which elements may be hidden: `envelope.policy`, as for every scheme, and on top of it what XEP-0200 itself says
(`RULES`). Elements that only servers may send are dropped when they come hidden, and named.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from lxml import etree

from tillie.envelope import policy
from tillie.envelope.policy import Place, Rule
from tillie.errors import Malformed, SessionBroken, TooLarge, UsageError
from tillie.model import Content
from tillie.schemes.esession import content as element
from tillie.wire import flat, xml

CLIENT = "jabber:client"
KINDS = ("message", "presence", "iq")
PADDED = 64  # the length of m is a multiple of so many octets: "MAY still disguise the length of m"
MAX_TEXT_BYTES = element.MAX_DATA_BYTES
MAX_CONTENT_BYTES = 2 * MAX_TEXT_BYTES  # after each child got its own declarations

RULES = (
    Rule(CLIENT, ("thread",), Place.BESIDE, "XEP-0200: names the session before anything is opened"),
    Rule(CLIENT, ("message", "presence", "iq"), Place.NEITHER, "RFC 6120: a stanza is in no other"),
    Rule("http://jabber.org/protocol/caps", (), Place.INSIDE, "XEP-0200: hides it; the peer is nobody's server"),
    Rule(element.NAMESPACE, (), Place.NEITHER, "XEP-0200: one <c/> in a stanza"),
    Rule(
        "http://www.xmpp.org/extensions/xep-0116.html#ns-init", (), Place.NEITHER, "XEP-0116: no session in a session"
    ),
)
_BY_TAG = {f"{{{rule.namespace}}}{name}": rule.place for rule in RULES for name in rule.names}
_BY_NAMESPACE = {rule.namespace: rule.place for rule in RULES if not rule.names}

_OPENING, _CLOSING = b"<message xmlns='jabber:client'>", b"</message>"
_XML_SPACE = " \t\r\n"
_DECLARED = re.compile(rb"<([A-Za-z_][A-Za-z0-9_.-]*) xmlns=(?:'jabber:client'|\"jabber:client\")")
# One element without children, as Tillie, slixmpp and Gajim write them. `flat` says what its pieces leave out.
_VALUE = flat.VALUE.replace("'", "\"'")
_FLAT = re.compile(
    f"[{_XML_SPACE}]*+<({flat.NAME})( xmlns=['\"]({flat.NAMESPACE})['\"])?+"
    f"(?: (?!xmlns=){flat.NAME}=(?:'{_VALUE}'|\"{_VALUE}\"))?+(?: ?/>|>{flat.TEXT}</\\1>)"
)
_ATTRIBUTE = re.compile(f" ({flat.NAME})=(?:'({_VALUE})'|\"({_VALUE})\")")
_STANZA = re.compile(
    f"(<({'|'.join(KINDS)}) xmlns=(?:'{CLIENT}'|\"{CLIENT}\")"
    f"((?: (?!xmlns=){flat.NAME}=(?:'{_VALUE}'|\"{_VALUE}\"))*+)>)(.*)</\\2>",
    re.DOTALL,
)


class Hidden(NamedTuple):
    """What a stanza hid: its children, each with its own declaration, and the names of those that were dropped."""

    content: Content
    dropped: tuple[str, ...] = ()


class Divided(NamedTuple):
    """A stanza of ours in two: m, and the stanza around the place where <c/> goes."""

    before: bytes
    text: bytes
    after: bytes

    def __repr__(self) -> str:
        return f"Divided({len(self.text)} bytes to hide)"


class Outside(NamedTuple):
    """What is written around the children of a stanza: its kind, its attributes, the whole tag, and the children."""

    kind: str
    attributes: dict[str, str]
    tag: str
    children: str


def place_of(tag: str) -> Place:
    """Where the child of a stanza with this tag (`{namespace}name`) belongs in a session."""
    place = _BY_TAG.get(tag) or _BY_NAMESPACE.get(tag[1:].partition("}")[0])
    return place or policy.place_of(tag)


def may_be_inside(tag: str) -> bool:
    """Whether the child of a stanza with this tag may be hidden, and read from what was hidden."""
    return place_of(tag) in (Place.INSIDE, Place.BOTH)


def encode(content: Content) -> bytes:
    """m for these children of a stanza, filled up with spaces; b"" for none.

    Raises `UsageError` for what is not XML or must not be hidden, and `TooLarge`.
    """
    text = _encode_flat(content.data)
    if text is None:
        text = _encode_tree(content)
    return _padded(text)


def decode(text: bytes) -> Hidden:
    """The children of a stanza that m stands for.

    Raises `SessionBroken`: "If the parser returns an XML format error then Bob MUST terminate the encrypted session".
    """
    return _decode_flat(text) or _decode_tree(text)


def divide(stanza: bytes) -> Divided:
    """Take apart a whole plain stanza of ours: m for all that may be hidden, and what stays around it, in plain.

    Raises `UsageError` for what is no stanza, or holds what can't be sent in a session, and `TooLarge`.
    """
    return _divide_flat(stanza) or _divide_tree(stanza)


def outside(stanza: bytes) -> Outside | None:
    """The outside of a stanza as Tillie and slixmpp write it; None for all else. Its children are not looked at."""
    try:
        found = _STANZA.fullmatch(stanza.decode()) if len(stanza) <= xml.MAX_STANZA_BYTES else None
    except UnicodeDecodeError:
        return None
    if found is None:
        return None
    written = _ATTRIBUTE.findall(found[3])
    attributes = {name: single or double for name, single, double in written}
    return Outside(found[2], attributes, found[1], found[4]) if len(attributes) == len(written) else None


def _divide_flat(stanza: bytes) -> Divided | None:
    """A short cut for children without children: a third of what a tree costs, with the same meaning."""
    around = outside(stanza)
    found = _read_flat(around.children.encode()) if around else None
    if around is None or found is None:
        return None
    hidden: list[str] = []
    beside = [around.tag]
    for data, tag, _ in found:
        place = place_of(tag)
        if place is Place.NEITHER:
            return None
        (hidden if place is Place.INSIDE else beside).append(data.lstrip())
    text = _DECLARED.sub(rb"<\1", "".join(hidden).encode())
    return Divided("".join(beside).encode(), _padded(text), f"</{around.kind}>".encode())


def _divide_tree(stanza: bytes) -> Divided:
    try:
        root = xml.parse(stanza)
    except Malformed as error:
        raise UsageError(error.detail) from None
    if root.tag not in {f"{{{CLIENT}}}{kind}" for kind in KINDS} or root.prefix is not None:
        raise UsageError("That is not a stanza.")
    if _has_text(root):
        raise UsageError("There is text between the children of the stanza.")
    hidden = []
    for child in list(root):
        place = place_of(child.tag)
        if place is Place.NEITHER:
            raise UsageError(f"{policy.name_of(child.tag)} can't be sent in a session.")
        if place is Place.INSIDE:
            hidden.append(_written(child))
            root.remove(child)
    outside = xml.serialise(root)
    name = etree.QName(root).localname.encode()
    before = outside[:-2] + b">" if outside.endswith(b"/>") and not len(root) else outside[: -len(name) - 3]
    return Divided(before, _padded(b"".join(hidden)), b"</" + name + b">")


# -- m --------------------------------------------------------------------------------------------------------------


def _encode_flat(data: bytes) -> bytes | None:
    """m of children without children, if all of them may be hidden."""
    found = _read_flat(data)
    if found is None or not all(namespace and may_be_inside(tag) for _, tag, namespace in found):
        return None
    return _DECLARED.sub(rb"<\1", data.strip(b" \t\r\n"))


def _encode_tree(content: Content) -> bytes:
    children = policy.parse_own(content)
    for child in children:
        if not may_be_inside(child.tag):
            raise UsageError(f"{policy.name_of(child.tag)} must not be hidden: it is for servers.")
    return b"".join(map(_written, children))


def _written(child: etree._Element) -> bytes:
    """A child of a stanza in the context of `jabber:client`."""
    if None not in child.nsmap and any(not inner.tag.startswith("{") for inner in child.iter()):
        # The declaration around it would take that element in.
        raise UsageError(f"{policy.name_of(child.tag)} holds an element without a namespace.")
    data = xml.serialise(child)
    return _DECLARED.sub(rb"<\1", data, count=1) if _DECLARED.match(data) else data


def _padded(text: bytes) -> bytes:
    if len(text) > MAX_TEXT_BYTES:
        raise TooLarge(f"The stanza has {len(text)} bytes to hide; {MAX_TEXT_BYTES} is the most.")
    return text + b" " * min(-len(text) % PADDED, MAX_TEXT_BYTES - len(text))


def _decode_flat(text: bytes) -> Hidden | None:
    """A short cut for children without children: a fifth of what a tree costs.

    It takes only what `_decode_tree` takes too, with the same meaning (a property test holds both against each other).
    """
    found = _read_flat(text)
    if found is None or not all(may_be_inside(tag) for _, tag, _ in found):
        return None
    parts = [data.lstrip() if namespace else _declared(data.lstrip(), tag) for data, tag, namespace in found]
    return Hidden(Content("".join(parts).encode()))


def _declared(data: str, tag: str) -> str:
    name = 1 + len(tag) - len(CLIENT) - 2
    return f"{data[:name]} xmlns='{CLIENT}'{data[name:]}"


def _read_flat(text: bytes) -> list[tuple[str, str, bool]] | None:
    """The elements of a text of flat ones: bytes as text, tag, and whether each declares its namespace itself."""
    if len(text) > MAX_TEXT_BYTES:
        return None
    try:
        rest = text.decode().rstrip(_XML_SPACE)
    except UnicodeDecodeError:
        return None
    found: list[tuple[str, str, bool]] = []
    at = 0
    while at < len(rest):
        one = _FLAT.match(rest, at)
        if one is None or len(found) == flat.MAX_FLAT:
            return None
        name, declared, namespace = one.groups()
        if declared and declared[7] != declared[-1]:
            return None
        found.append((one[0], f"{{{namespace or CLIENT}}}{name}", bool(declared)))
        at = one.end()
    return found


def _decode_tree(text: bytes) -> Hidden:
    if len(text) > MAX_TEXT_BYTES:
        raise SessionBroken("what it hides is too long")
    try:
        # A text that closes the wrapper leaves a second root behind it, or a tag without its pair: refused both.
        root = xml.parse(_OPENING + text + _CLOSING)
    except Malformed:
        raise SessionBroken("what it hides is not XML") from None
    if _has_text(root):
        raise SessionBroken("it hides text without an element")
    parts, size, dropped = [], 0, []
    for child in root:
        if not may_be_inside(child.tag):
            dropped.append(policy.name_of(child.tag))
            continue
        parts.append(xml.serialise(child))
        size += len(parts[-1])
        if size > MAX_CONTENT_BYTES:
            raise SessionBroken("what it hides is too long")
    return Hidden(Content(b"".join(parts)), tuple(dropped))


def _has_text(root: etree._Element) -> bool:
    texts = [root.text, *(child.tail for child in root)]
    return any(text and text.strip(_XML_SPACE) for text in texts)
