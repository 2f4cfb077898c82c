"""Items under a shared secret (XEP-0473 section "Encrypting Pubsub Item"), and what can be known of one that opens.

    <encrypted xmlns='urn:xmpp:openpgp:pubsub:0' key='ID'>BASE64</encrypted>

A secret shows that an item was written by somebody who has it: not by whom, not when, not for which id. So `finish`
compares every item with what was seen before: an item that is new although its secret was revoked, the same sealed
bytes under another id, an older version that came back, an item of somebody who was removed. Only what opened is
remembered, so that a service can't fill the store with what it made up.

Opening costs some microseconds for what Tillie wrote, and up to a second for what others did: `look` says which, and
`read` opens the cheap ones in place. A slow one is the caller's to give to a worker process, and is kept.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

import msgspec
from lxml import etree

from tillie.crypto import password
from tillie.errors import Malformed, PeerError, TooLarge, UsageError
from tillie.model import State, Time
from tillie.pubsub import hearing, members, records, secrets
from tillie.pubsub.items import Item, ItemKind, Node, Reading
from tillie.pubsub.secrets import Secret
from tillie.pubsub.statements import MAX_ID, NS
from tillie.wire import base64, xml
from tillie.wire.display import printable
from tillie.wire.time import format_datetime

MAX_PAYLOAD = 262_144  # bytes of a payload, as it is sealed: servers pass on stanzas of twice that
MAX_OPENED = xml.MAX_STANZA_BYTES  # bytes of what others sealed, unfolded
MAX_SEALED = xml.MAX_STANZA_BYTES  # bytes of a sealed element
MAX_VERSIONS = 32  # of one item, that are remembered
MAX_ITEM_ID = 256  # characters of an item's id that are remembered

ENCRYPTED = f"{{{NS}}}encrypted"
_NS = NS.encode()
_PLAIN = re.compile(
    rb"<encrypted (?:xmlns=(['\"])" + _NS + rb"\1 key=(['\"])([^'\"<>&\t\r\n]+)\2"
    rb"|key=(['\"])([^'\"<>&\t\r\n]+)\4 xmlns=(['\"])" + _NS + rb"\6)>([A-Za-z0-9+/= \t\r\n]*)</encrypted>"
)  # fmt: skip
# What Libervia shows damaged: it puts the bytes through Python's repr. Outside of text and values none of these occurs.
_REWRITTEN = ((b"\\", b"&#92;"), (b"'", b"&#39;"), (b"\n", b"&#10;"), (b"\t", b"&#9;"), (b"\x7f", b"&#127;"))
IN_CLEAR = (
    "It is in clear, and others of this node are sealed: anybody at the service could have written or changed it."
)
_MALFORMED_PAYLOAD = "what it opens to is not one XML element"


class Work(NamedTuple):
    """A sealed item that can be opened: with `crypto.password.open(message, password, max_bytes=MAX_OPENED)`, then
    `finish`. `slow` is work for another process."""

    node: Node
    item: Item
    secret: Secret
    message: bytes
    version: bytes  # as `_version` names it
    slow: bool
    live: bool
    under: Node

    @property
    def password(self) -> str:
        return self.secret.value

    def __repr__(self) -> str:
        return f"Work({self.item!r}, slow={self.slow})"


class _Known(msgspec.Struct, frozen=True, array_like=True):
    """The newest version of an item that was seen, when it first was, and the versions before it."""

    version: bytes
    first: Time
    late: bool = False  # first seen when its secret was known to be revoked
    twin: str = ""  # another id under which it was seen
    older: tuple[bytes, ...] = ()


class _Seen(msgspec.Struct, frozen=True, array_like=True):
    """Under which id a version was first seen, and when."""

    item: str
    first: Time
    late: bool = False


_known = records.decoder(_Known, "item")
_seen = records.decoder(_Seen, "seen item")


# -- out ------------------------------------------------------------------------------------------------------------


def seal(s: State, node: Node, payload: bytes) -> bytes:
    """The `<encrypted>` element for a payload, under the node's newest secret. Raises `UsageError` if there is none
    that may be used: what was to be sealed is never published in clear."""
    secret = secrets.newest(s, node)
    if secret is None:
        raise _no_secret(s, node)
    plaintext = write_payload(payload)
    # XEP-0473 says nothing of stretching. A random secret can't be guessed; a word that a person chose can.
    stretch = not (secret.made_here or secrets.is_random(secret.value))
    message = password.seal(plaintext, secret.value, stretch=stretch)
    return b"<encrypted xmlns='%s' key=%s>%s</encrypted>" % (
        _NS, xml.attribute(secret.id), base64.encode(message).encode(),
    )  # fmt: skip


def _no_secret(s: State, node: Node) -> UsageError:
    known = secrets.known(s, node)
    if hearing.pending(s, node):
        return UsageError(
            "It was not published: whose secrets seal this node is not decided.", hint=hearing.ACCEPT_HINT
        )
    if not known.secrets:
        return UsageError(
            "It was not published: there is no secret to seal it with.",
            hint="The owner of the node makes one with 'tillie pubsub node create' or shares hers with you.",
        )
    return UsageError(
        "It was not published: every secret of this node is revoked.",
        hint=f"{known.authority} must make a new one ('tillie pubsub secret rotate') and share it.",
    )


def write_payload(payload: bytes) -> bytes:
    """A payload element as it is sealed: the same element to any XML parser, written so that Libervia shows it whole.

    That is ASCII with character references, attributes in double quotes, and neither line feed, tab, backslash nor
    apostrophe. Raises `UsageError` if it is not one element, `TooLarge`.
    """
    if len(payload) > MAX_PAYLOAD:
        raise TooLarge(f"A payload has at most {MAX_PAYLOAD} bytes.")
    try:
        element = xml.parse(payload)
    except Malformed as error:
        raise UsageError(f"The payload of an item is one XML element. {error.detail}") from None
    data: bytes = etree.tostring(element, encoding="ascii", with_tail=False)
    if not (payload.isascii() or _is_xml(data)):
        data = xml.serialise(element)  # a name can't be written with references, so that Libervia must do without
    for raw, reference in _REWRITTEN:
        if raw in data:
            data = data.replace(raw, reference)
    if len(data) > MAX_PAYLOAD:
        raise TooLarge(f"A payload has at most {MAX_PAYLOAD} bytes once it is escaped.")
    return data


def _is_xml(data: bytes) -> bool:
    try:
        xml.parse(data, max_bytes=len(data))
    except Malformed:
        return False
    return True


# -- in -------------------------------------------------------------------------------------------------------------


def secret_of(payload: bytes) -> str | None:
    """The id of the secret that a sealed payload names; None if it is not sealed. Raises `Malformed`."""
    found = _parse(payload)
    return found[0] if found else None


def read(
    s: State, node: Node, item: Item, now: Time, *, live: bool = False, under: Node | None = None
) -> Reading | Work:
    """As `look`, but what opens at once is opened at once. Many of them belong into one transaction."""
    found = look(s, node, item, now, live=live, under=under)
    if isinstance(found, Reading) or found.slow:
        return found
    return finish(s, found, attempt(found), now)


def attempt(work: Work) -> bytes | PeerError:
    """Open it here; the error if it does not open."""
    try:
        return password.open(work.message, work.password, max_bytes=MAX_OPENED)
    except PeerError as error:
        return error


def look(
    s: State, node: Node, item: Item, now: Time, *, live: bool = False, under: Node | None = None
) -> Reading | Work:
    """What an item is, or the work that will tell. `live`: the service has told of it just now. `under` is the node
    whose secrets seal it, if that is another: an attachment (XEP-0470) is sealed as the item that it belongs to."""
    under = under or node
    try:
        found = _parse(item.payload)
        if found is None:
            return _clear(s, node, under, item, now)
        id, coded = found
        secret = secrets.find(s, under, id)
        if secret is None:
            shown = printable(id, MAX_ID)
            return Reading(item, ItemKind.NO_SECRET, secret=shown, error=f"We don't have its secret, {shown}.")
        message = base64.decode(coded, max_bytes=MAX_SEALED)
        version = _version(id, message)
        slow = password.work(message) > password.SLOW_WORK
        if slow and (payload := s.get(records.key("kept", node, version.hex()))) is not None:
            return _judge(s, node, under, item, secret, version, payload[1:], live, now)
    except Malformed as error:
        return Reading(item, ItemKind.MALFORMED, error=error.detail)
    return Work(node, item, secret, message, version, slow, live, under)


def finish(s: State, work: Work, result: bytes | PeerError, now: Time) -> Reading:
    """What an item is, from what its work came to. What was slow is kept in the store."""
    node, item, secret = work.node, work.item, work.secret
    if isinstance(result, PeerError):
        kind = ItemKind.MALFORMED if isinstance(result, Malformed) else ItemKind.TAMPERED
        return Reading(item, kind, secret=secret.id, error=result.detail or str(result))
    payload = result.strip(b" \t\r\n")
    try:
        xml.parse(payload, max_bytes=MAX_OPENED)
    except Malformed as error:
        return Reading(item, ItemKind.MALFORMED, secret=secret.id, error=f"{_MALFORMED_PAYLOAD}: {error.detail}")
    reading = _judge(s, node, work.under, item, secret, work.version, payload, work.live, now)
    if work.slow:
        s.put(records.key("kept", node, work.version.hex()), bytes((records.VERSION,)) + payload)
    return reading


def published(s: State, node: Node, item_id: str, sealed: bytes, now: Time) -> None:
    """Remember an item of ours that the service has taken, so that what it makes of it later is noticed."""
    found = _parse(sealed)
    if found:
        _track(s, node, item_id, _version(found[0], base64.decode(found[1], max_bytes=MAX_SEALED)), False, now)


def forget(s: State, node: Node, item_id: str) -> None:
    """Forget what was seen of an item that was retracted."""
    place = records.key("item", node, _name(item_id))
    data = s.get(place)
    if data is None:
        return
    known = _known(data)
    for version in (known.version, *known.older):
        _drop(s, node, item_id, version)
    s.put(place, None)


def _parse(payload: bytes) -> tuple[str, bytes] | None:
    """The id of the secret, and the Base64; None if the payload is not sealed. Raises `Malformed`."""
    if _NS not in payload:
        return None
    if len(payload) > MAX_SEALED:
        raise Malformed(f"A sealed item has more than {MAX_SEALED} bytes.")
    if found := _PLAIN.fullmatch(payload):
        id = found[3] if found[3] is not None else found[5]
        try:
            return id.decode(), found[7]
        except UnicodeDecodeError:
            raise Malformed("The id of a secret is not UTF-8.") from None
    element = xml.parse(payload)
    if element.tag != ENCRYPTED:
        return None
    id_text = element.get("key", "")
    if not id_text:
        raise Malformed("A sealed item does not name its secret.")
    return id_text, xml.text_of(element).encode()


def _clear(s: State, node: Node, under: Node, item: Item, now: Time) -> Reading:
    """An item in clear. Of those who are or were members it is remembered, too, so that a removed one adds none."""
    member = members.find(s, under, item.publisher) if item.publisher else None
    if member is not None:
        first = _track(s, node, item.id, _hash(b"clear" + item.payload), False, now).first
        if member.removed is not None and first >= member.removed:
            return _rejected(item, "", member.removed)
    notes = (IN_CLEAR,) if secrets.known(s, under).secrets else ()
    return Reading(item, ItemKind.CLEAR, item.payload, notes=notes)


# -- what was seen --------------------------------------------------------------------------------------------------


class _Track(NamedTuple):
    first: Time
    late: bool
    twin: str = ""
    newer: Time = 0.0  # when a newer version was seen, if this is not the newest


def _judge(
    s: State, node: Node, under: Node, item: Item, secret: Secret, version: bytes, payload: bytes, live: bool, now: Time
) -> Reading:
    """An item that opened, beside what was seen before."""
    # A secret that came revoked says nothing of when: only what is told as new is late under it.
    late = secret.revoked and (live or 0 < secret.revoked_at <= now)
    track = _track(s, node, item.id, version, late, now)
    member = members.find(s, under, item.publisher) if item.publisher else None
    if member is not None and member.removed is not None and track.first >= member.removed:
        return _rejected(item, secret.id, member.removed)
    notes = []
    if track.late:
        notes.append("It was first seen after its secret was revoked: whoever wrote it may have no access any more.")
    if track.twin:
        notes.append(f"The same sealed item is under the id {printable(track.twin)}, too: one of them is a copy.")
    if track.newer:
        notes.append(f"An older version of this item came back: a newer one was seen {format_datetime(track.newer)}.")
    return Reading(item, ItemKind.OPENED, payload, secret.id, notes=tuple(notes))


def _rejected(item: Item, secret_id: str, removed: Time) -> Reading:
    error = f"{item.publisher} has no access since {format_datetime(removed)}, and this was first seen later."
    return Reading(item, ItemKind.REJECTED, secret=secret_id, error=error)


def _track(s: State, node: Node, item_id: str, version: bytes, late: bool, now: Time) -> _Track:
    """Compare a version of an item with what was seen, and remember it."""
    place = records.key("item", node, _name(item_id))
    data = s.get(place)
    known = _known(data) if data is not None else None
    if known is not None and known.version == version:
        return _Track(known.first, known.late, known.twin)
    data = s.get(records.key("seen", node, version.hex()))
    seen = _seen(data) if data is not None else None
    name = item_id[:MAX_ITEM_ID]
    if known is not None and version in known.older:
        return _Track(seen.first if seen else known.first, bool(seen and seen.late), newer=known.first)
    twin = ""
    if seen is None:
        s.put(records.key("seen", node, version.hex()), records.encode(_Seen(name, now, late)))
    elif seen.item != name:
        twin = seen.item
        _mark_twin(s, node, twin, version, name)
    older: tuple[bytes, ...] = ()
    if known is not None:
        older = (known.version, *known.older)
        for dropped in older[MAX_VERSIONS:]:
            _drop(s, node, item_id, dropped)
        older = older[:MAX_VERSIONS]
    s.put(place, records.encode(_Known(version, now, late, twin, older)))
    return _Track(now, late, twin)


def _mark_twin(s: State, node: Node, item_id: str, version: bytes, twin: str) -> None:
    """Say so at the other id, too: which of them is the copy can't be known."""
    place = records.key("item", node, _name(item_id))
    data = s.get(place)
    if data is not None and (known := _known(data)).version == version and not known.twin:
        s.put(place, records.encode(msgspec.structs.replace(known, twin=twin)))


def _drop(s: State, node: Node, item_id: str, version: bytes) -> None:
    """Forget one version, unless it belongs to another id."""
    place = records.key("seen", node, version.hex())
    data = s.get(place)
    if data is not None and _seen(data).item == item_id[:MAX_ITEM_ID]:
        s.put(place, None)
        s.put(records.key("kept", node, version.hex()), None)


def _version(secret_id: str, message: bytes) -> bytes:
    """A name for sealed bytes. Not of the whole message: its framing can be changed by anybody, the body of its last
    packet by nobody without the secret. With the secret's id: what was kept never answers for another one."""
    return _hash(secret_id.encode() + b"\0" + password.sealed(message))


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:16]


def _name(item_id: str) -> str:
    return _hash(item_id.encode()).hex()
