"""What people attach to an item: `<attachments>` (XEP-0470), in clear or sealed (XEP-0473 section "Business Rules").

Each author has one item at the attachment node of the target item, under her own bare address. A service that knows
XEP-0470 checks that; most do not, so nothing here is anybody's word but the service's, unless it is signed.

Sealed: "the encrypted element MUST be a child of a XEP-0470's <attachments/> element, instead of being the <item/>
payload as usual." What is inside is the whole `<attachments>` element, as any item's payload; one attachment alone is
read as well. XEP-0473 names no secret for attachment nodes: it is the target node's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote_plus, unquote_plus

from tillie.errors import InvalidAddress, Malformed
from tillie.model import Address, Time
from tillie.pubsub.items import Item, Node
from tillie.pubsub.statements import NS as SEALED_NS
from tillie.wire import address, xml
from tillie.wire.time import format_datetime, parse_datetime

NS = "urn:xmpp:pubsub-attachments:1"
SUMMARY_NS = "urn:xmpp:pubsub-attachments:summary:1"
FEATURE = NS  # a service's, "if and only if" it is fully compliant; clients announce nothing

ATTACHMENTS = f"{{{NS}}}attachments"
NOTICED = f"{{{NS}}}noticed"
REACTIONS = f"{{{NS}}}reactions"
SEALED = f"{{{SEALED_NS}}}encrypted"
_REACTION = f"{{{NS}}}reaction"

MAX_CHILDREN = 256  # of one author at one item
# Each child is written with the namespace declarations around it: 200 kB of those would unfold to 50 MB.
MAX_CHILDREN_BYTES = 2 * xml.MAX_STANZA_BYTES
MAX_REACTIONS = 64
MAX_REACTION = 64  # characters: the longest emoji sequences have about 20

_URI = f"{NS}/xmpp:"
IN_CLEAR = "There is something in clear beside the sealed attachments; it is left out."
NOT_THE_AUTHOR = "The service says that somebody else published it."


class Attachment(NamedTuple):
    """One child of `<attachments>`: its tag (`{namespace}name`), and itself, serialised."""

    tag: str
    xml: bytes

    def __repr__(self) -> str:
        return f"Attachment({self.tag!r}, {len(self.xml)} bytes)"


class Attached(NamedTuple):
    """What one author attached to an item. `author` is the attachment item's id, `publisher` who published it by the
    service's word, None if it does not say. `sealed`: it was opened, so its author had the node's secret."""

    author: Address
    publisher: Address | None
    children: tuple[Attachment, ...]
    sealed: bool = False
    notes: tuple[str, ...] = ()

    @property
    def is_disputed(self) -> bool:
        """Whether the service says that somebody else than the author published it: Libervia drops those."""
        return self.publisher is not None and self.publisher != self.author

    def find(self, tag: str) -> tuple[bytes, ...]:
        return tuple(child.xml for child in self.children if child.tag == tag)


# -- names ----------------------------------------------------------------------------------------------------------


def node_for(node: Node, item_id: str) -> Node:
    """The attachment node of an item (XEP-0470 section "Basic Usage"), at the same service.

    The values of the URI (XEP-0060 section 12.21) are quoted as Libervia does: a space becomes "+".
    """
    return Node(node.service, f"{_URI}{node.service.bare}?;node={quote_plus(node.name)};item={quote_plus(item_id)}")


def target_of(node: Node) -> tuple[Node, str]:
    """The node and the id of the item that an attachment node belongs to. Raises `Malformed` if it is none, or one of
    another service: what is attached here speaks of what is here."""
    if not node.name.startswith(_URI):
        raise Malformed("It is not an attachment node.")
    service, found, values = node.name[len(_URI) :].partition("?;node=")
    name, also, item_id = values.partition(";item=")
    try:
        target = Node(address.parse_bare(service), unquote_plus(name, errors="strict"))
        item_id = unquote_plus(item_id, errors="strict")
    except (InvalidAddress, UnicodeDecodeError):
        raise Malformed("The name of an attachment node is not valid.") from None
    # Written again it must be the same: else several nodes would claim one item.
    if not (found and also and target.name and item_id) or node_for(target, item_id) != node:
        raise Malformed("The name of an attachment node is not valid.")
    return target, item_id


def summary_node_for(node: Node) -> Node:
    """The node where a fully compliant service sums up what is attached to all items of a node."""
    return Node(node.service, f"{SUMMARY_NS}/{node.name}")


# -- the element ----------------------------------------------------------------------------------------------------


def parse(payload: bytes) -> tuple[Attachment, ...]:
    """The children of an `<attachments>` element. Raises `Malformed`."""
    return _children(xml.parse(payload))


def _children(root: xml.Element) -> tuple[Attachment, ...]:
    if root.tag != ATTACHMENTS:
        raise Malformed("It is not an <attachments> element.")
    if len(root) > MAX_CHILDREN:
        raise Malformed(f"Somebody attached more than {MAX_CHILDREN} things.")
    found = []
    left = MAX_CHILDREN_BYTES
    for child in root:
        written = xml.serialise(child)
        left -= len(written)
        if left < 0:
            raise Malformed("What somebody attached is too long.")
        found.append(Attachment(child.tag, written))
    return tuple(found)


def encode(children: Iterable[Attachment | bytes]) -> bytes:
    """An `<attachments>` element. Each child brings its own namespace declarations."""
    inner = b"".join(child.xml if isinstance(child, Attachment) else child for child in children)
    return b"<attachments xmlns='%s'>%s</attachments>" % (NS.encode(), inner)


def replace(children: Iterable[Attachment], tag: str, *new: bytes) -> bytes:
    """The `<attachments>` element with all children of this tag replaced by `new` (by none: removed). Everything else
    is kept, what we don't know as well: "his client takes care of keeping the <noticed> element"."""
    return encode((*(child for child in children if child.tag != tag), *new))


def read(item: Item, opened: bytes | None = None) -> Attached:
    """What an item of an attachment node holds; `opened` is what `sealed_in` found, opened.

    Raises `Malformed`, also if the item's id is not a bare address: then nobody can be its author.
    """
    try:
        author = address.parse_bare(item.id)
    except InvalidAddress:
        raise Malformed("An attachment's item id is not its author's address.") from None
    if author != item.id:
        raise Malformed("An attachment's item id is not its author's address in normal form.")
    children = parse(item.payload)
    notes = [NOT_THE_AUTHOR] if item.publisher not in (None, author) else []
    if opened is None:
        return Attached(author, item.publisher, children, notes=tuple(notes))
    if any(child.tag != SEALED for child in children):
        notes.append(IN_CLEAR)
    root = xml.parse(opened)
    inside = _children(root) if root.tag == ATTACHMENTS else (Attachment(root.tag, xml.serialise(root)),)
    return Attached(author, item.publisher, inside, True, tuple(notes))


def sealed_in(payload: bytes) -> bytes | None:
    """The sealed element in an `<attachments>` element, to be opened as an item's payload is; None if it is in clear.
    Raises `Malformed`, also if there are two."""
    found = [child.xml for child in parse(payload) if child.tag == SEALED]
    if len(found) > 1:
        raise Malformed("There are two sealed elements in one <attachments>.")
    return found[0] if found else None


def seal_around(sealed: bytes) -> bytes:
    """The `<attachments>` element to publish, from one that was sealed as an item's payload is."""
    return encode((sealed,))


# -- two simple attachments -----------------------------------------------------------------------------------------


class Reactions(NamedTuple):
    """Emojis that somebody attached, each once; `at` is when, by her own word."""

    emojis: tuple[str, ...]
    at: Time | None = None


def noticed(at: Time) -> bytes:
    """`<noticed>`: "I have seen this" (XEP-0470 section "Noticed Attachment")."""
    return b"<noticed xmlns='%s' timestamp=%s/>" % (NS.encode(), xml.attribute(format_datetime(at)))


def reactions(emojis: Iterable[str], at: Time) -> bytes:
    """`<reactions>` (XEP-0470 section "Reactions Attachment"), each emoji once."""
    inner = b"".join(b"<reaction>%s</reaction>" % xml.escape(emoji) for emoji in dict.fromkeys(emojis))
    return b"<reactions xmlns='%s' timestamp=%s>%s</reactions>" % (
        NS.encode(), xml.attribute(format_datetime(at)), inner,
    )  # fmt: skip


def parse_noticed(element: bytes) -> Time | None:
    """When somebody noticed the item, by her own word; None if she does not say. Raises `Malformed`."""
    root = xml.parse(element)
    if root.tag != NOTICED:
        raise Malformed("It is not a <noticed> element.")
    return _timestamp(root)


def parse_reactions(element: bytes) -> Reactions:
    """What somebody reacted with. Raises `Malformed`."""
    root = xml.parse(element)
    if root.tag != REACTIONS:
        raise Malformed("It is not a <reactions> element.")
    found = [xml.text_of(child).strip() for child in root.iterchildren(_REACTION)]
    if len(found) > MAX_REACTIONS or any(len(emoji) > MAX_REACTION for emoji in found):
        raise Malformed(f"There are more than {MAX_REACTIONS} reactions, or one is no emoji.")
    return Reactions(tuple(dict.fromkeys(emoji for emoji in found if emoji)), _timestamp(root))


def _timestamp(element: xml.Element) -> Time | None:
    """The optional attribute; one that is no time says nothing, and spoils nothing."""
    try:
        return parse_datetime(element.get("timestamp", ""))
    except Malformed:
        return None
