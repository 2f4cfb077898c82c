"""Items sealed for a few people (XEP-0477), with OMEMO 2.

    <encrypted xmlns='urn:xmpp:pte:0' by='ADDRESS' type='urn:xmpp:omemo:2'> <encrypted xmlns='urn:xmpp:omemo:2'>..

A message key opens once, so what was opened is kept in the store, in the transaction that opened it (XEP-0477 section
"Business Rules" leaves that to clients). For the same reason our own items are kept when they are published: nothing
seals them for the device that wrote them.

    targeted    <node>/<item>/<version>     an opened item: its payload, by which device, when it was sealed
    target-at   <service>//<version>        which item that sealed element was opened as

<version> is the hash of the sealed element in canonical form, for a service may write it with other quotes: an item
that was changed meanwhile is another version, and is opened anew.

Seal the content (one element) with `Engine.seal`, scheme omemo, the first reader as `to`, the others as `also`: then
the envelope has no <to/>, which Libervia would refuse, and <from/> is the writer, which must be `by`. Nothing binds it
to a node or an id, nor to being an item at all: who keeps the node can move it, or put a message there that was sealed
for a chat. So what belongs into a chat is not an item.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

import msgspec

from tillie.errors import InvalidAddress, Malformed, NoSession, PeerError, Refused
from tillie.model import Address, Arrived, Device, Done, Key, Kind, Need, Stanza, State, Time
from tillie.pubsub import records
from tillie.pubsub.items import Item, ItemKind, Node, Reading
from tillie.schemes import Scheme
from tillie.trust import decisions
from tillie.trust.decisions import Policy
from tillie.wire import address, c14n, xml
from tillie.wire.display import printable

NS = "urn:xmpp:pte:0"
FEATURE = NS
OMEMO2 = "urn:xmpp:omemo:2"  # the only one that anybody uses here
ENCRYPTED = f"{{{NS}}}encrypted"

MAX_TYPE = 1_024  # characters
MAX_ITEM_ID = 1_024  # of an item that is opened and kept
MAX_SHOWN = 100  # of a name in a sentence

_KINDS = {
    Kind.NOT_FOR_US: ItemKind.NOT_FOR_US,
    Kind.NO_SESSION: ItemKind.NOT_FOR_US,
    Kind.REFUSED: ItemKind.REJECTED,
    Kind.MALFORMED: ItemKind.MALFORMED,
    Kind.EMPTY: ItemKind.MALFORMED,
}
_KIND_OF_ERROR: dict[type[PeerError], ItemKind] = {
    Malformed: ItemKind.MALFORMED,
    Refused: ItemKind.REJECTED,
    NoSession: ItemKind.NOT_FOR_US,
}
_CHAT = "{jabber:client}"
NOT_AN_ITEM = "It is a message of a chat, which somebody put here."
NOT_TRUSTED = "The key that sealed it is not trusted."
OLDER = "An older version: a newer one of this item was opened before."
NOT_KEPT = "It was opened before, and what it said was not kept here."


class Targeted(NamedTuple):
    """What a targeted item says in clear: who sealed it, in which way, and the sealed element, with its tag."""

    by: Address
    namespace: str
    sealed: bytes
    tag: str

    @property
    def version(self) -> str:
        """The hash of the sealed element and of who is said to have sealed it, in hex. Raises `Malformed`."""
        return sha256(self.by.encode() + b" " + c14n.canonical(xml.parse(self.sealed))).hexdigest()


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """An opened item, or one of ours. `key` is that of the device that sealed it, `at` is when, by its word."""

    payload: bytes
    address: str
    device: int
    key: bytes
    at: Time
    notes: tuple[str, ...] = ()
    ours: bool = False

    def __repr__(self) -> str:
        return f"_Kept({len(self.payload)} bytes)"


_decode_kept = records.decoder(_Kept, "targeted item")
_decode_place = records.decoder(tuple[str, str], "targeted item")


# -- the element ----------------------------------------------------------------------------------------------------


def encode(by: Address, namespace: str, sealed: bytes) -> bytes:
    """The payload of a targeted item, around a sealed element that brings its own namespace."""
    return b"<encrypted xmlns='%s' by=%s type=%s>%s</encrypted>" % (
        NS.encode(), xml.attribute(by.bare), xml.attribute(namespace), sealed,
    )  # fmt: skip


def is_targeted(payload: bytes) -> bool:
    """Whether a payload is a targeted item's. Raises `Malformed`."""
    return NS.encode() in payload and xml.parse(payload).tag == ENCRYPTED


def parse(payload: bytes) -> Targeted:
    """What a targeted item says in clear. Raises `Malformed`."""
    root = xml.parse(payload)
    if root.tag != ENCRYPTED:
        raise Malformed("It is not a targeted item.")
    try:
        by = address.parse_bare(root.get("by", ""))
    except InvalidAddress:
        raise Malformed("A targeted item does not say who sealed it.") from None
    namespace = root.get("type", "")
    if not namespace or len(namespace) > MAX_TYPE:
        raise Malformed("A targeted item does not say how it is sealed.")
    if len(root) != 1:
        raise Malformed("A targeted item does not hold one sealed element.")
    return Targeted(by, namespace, xml.serialise(root[0]), root[0].tag)


# -- opening --------------------------------------------------------------------------------------------------------


def read(s: State, scheme: Scheme, trust: Policy, node: Node, item: Item, now: Time) -> Done[Reading] | Need:
    """Open a targeted item, or give what was opened before. A step of one transaction: what it opens is kept in it.

    Raises a PeerError where nothing may change; then `failed` says what the item was.
    """
    targeted = parse(item.payload)
    if len(item.id) > MAX_ITEM_ID:
        raise Malformed(f"The id of a targeted item has more than {MAX_ITEM_ID} characters.")
    if (targeted.namespace, targeted.tag) != (scheme.namespace, scheme.tags[0]):
        raise Malformed("A targeted item is sealed in a way that is not known here.")
    version = targeted.version
    kept = s.get(records.key("targeted", node, item.id, version))
    if kept is not None:
        return Done(_reading(s, trust, node, item, _decode_kept(kept)))
    around = Stanza("message", targeted.by, scheme.account, via="archive")
    done = scheme.open(s, Arrived(targeted.sealed, around, scheme.name), now)
    if isinstance(done, Need):
        return done
    got = done.value
    if got.kind is Kind.DUPLICATE:
        reading = _duplicate(s, node, item, version)
    elif got.plaintext is None:
        error = got.error or got.kind.value
        reading = Reading(item, _KINDS.get(got.kind, ItemKind.TAMPERED), by=got.device, error=error)
    else:
        # What does not fit raises, and nothing is used up: else whoever keeps the node could name another writer in
        # `by`, or put a message here that is still under way, and the good copy would open no more.
        opened = _unwrap(scheme, got.plaintext, got.device, around, now)
        _keep(s, node, item.id, version, opened)
        reading = _reading(s, trust, node, item, opened)
    return Done(reading, done.effects)


def failed(item: Item, error: PeerError) -> Reading:
    """What an item was, when opening it raised: nothing was changed."""
    return Reading(item, _KIND_OF_ERROR.get(type(error), ItemKind.TAMPERED), error=error.detail)


def _unwrap(scheme: Scheme, plaintext: bytes, device: Device, around: Stanza, now: Time) -> _Kept:
    envelope, sealed_at, notes = scheme.unwrap(plaintext, around, now)
    elements = xml.parse_fragment(envelope.content.data)
    if len(elements) != 1:
        raise Malformed("A targeted item does not hold one element.")
    if elements[0].tag.startswith(_CHAT):
        raise Refused(NOT_AN_ITEM)
    return _Kept(xml.serialise(elements[0]), str(device.address), device.id, device.key, sealed_at, notes)


def _duplicate(s: State, node: Node, item: Item, version: str) -> Reading:
    """It opened before, and not as this item: who keeps the node copied it, or what it said was forgotten here."""
    place = s.get(_where(node, version))
    if place is None:
        return Reading(item, ItemKind.TAMPERED, error=NOT_KEPT)
    name, item_id = (printable(part, MAX_SHOWN) for part in _decode_place(place))
    return Reading(item, ItemKind.REJECTED, error=f"It is a copy of item {item_id!r} of node {name!r}.")


def _reading(s: State, trust: Policy, node: Node, item: Item, kept: _Kept) -> Reading:
    device = Device(Address(kept.address), kept.device, kept.key)
    notes = list(kept.notes)
    if any(_decode_kept(other).at > kept.at for _, other in s.scan(records.below("targeted", node, item.id))):
        notes.append(OLDER)
    if item.publisher not in (None, device.address):
        notes.append(f"The service says that {item.publisher} published it, and {device.address} sealed it.")
    if not kept.ours and not decisions.of(s, trust, device.address, device.key).allows_sending:
        notes.append(NOT_TRUSTED)
    return Reading(item, ItemKind.OPENED, kept.payload, by=device, notes=tuple(notes))


# -- what is kept ---------------------------------------------------------------------------------------------------


def published(s: State, node: Node, item_id: str, payload: bytes, clear: bytes, device: Device, now: Time) -> None:
    """Keep our own item: `payload` as it was published, `clear` before it was sealed by `device`, which is ours."""
    kept = _Kept(clear, str(device.address), device.id, device.key, now, ours=True)
    _keep(s, node, item_id, parse(payload).version, kept)


def forget(s: State, node: Node, item_id: str) -> int:
    """Forget all versions of an item, as when it was retracted; how many there were. They can't be opened again."""
    found = list(s.scan(records.below("targeted", node, item_id)))
    for key, _ in found:
        version = records.parts_of(key)[1][-1]
        s.put(key, None)
        s.put(_where(node, version), None)
    return len(found)


def _keep(s: State, node: Node, item_id: str, version: str, kept: _Kept) -> None:
    s.put(records.key("targeted", node, item_id, version), records.encode(kept))
    s.put(_where(node, version), records.encode((node.name, item_id)))


def _where(node: Node, version: str) -> Key:
    return records.key("target-at", Node(node.service, ""), version)
