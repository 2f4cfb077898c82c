"""The nouns of Tillie, as frozen dataclasses and small Protocols (docs/design.md, "The nouns").

Those that are made for every message or device are NamedTuples: as immutable, and made in a third of the time.

Bytes that cross a seam are UTF-8 XML, or JSON on Matrix, serialised once. Times are Unix seconds, UTC, and
always an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, NamedTuple, Protocol, TypeVar

Time = float
T_co = TypeVar("T_co", covariant=True)


class Address(str):
    """A normalised bare or full JID (RFC 7622), or a Matrix user id. Make one with `wire.address.parse`, which
    normalises and checks.

    Equality of two addresses is equality of the strings, because both are normalised. Only a Matrix user id begins with
    "@"; a slash in one is a letter like others.
    """

    __slots__ = ()

    @property
    def is_matrix(self) -> bool:
        return self.startswith("@")

    @property
    def bare(self) -> Address:
        if self.is_matrix:
            return self
        bare, slash, _ = self.partition("/")
        return Address(bare) if slash else self

    @property
    def resource(self) -> str:
        return "" if self.is_matrix else self.partition("/")[2]

    @property
    def domain(self) -> str:
        """The server's name: of a Matrix user id, what follows the first colon, a port included."""
        if self.is_matrix:
            return self.partition(":")[2]
        return self.partition("/")[0].rpartition("@")[2]


FINGERPRINT_BYTES = 20  # of an OpenPGP certificate (version 4)
SESSION_KEY_BYTES = (17, 33)  # of an encrypted session's other end: a chain of retained secrets, or a public key


class Device(NamedTuple):
    """One end of a conversation.

    `address` is bare. OMEMO: `id` is 1 .. 2**31-1, `key` the public identity key in Ed25519 form (32 bytes), `label`
    only ever one that it signed. OpenPGP: `key` is the fingerprint of a certificate (20 bytes), `id` its last 31 bits,
    which are for showing, never for choosing: they can be forged. Encrypted sessions: `key` is "R" and the name of a
    chain of retained secrets, or "K" and the fingerprint of a public key. Matrix: `key` is the device's Ed25519 key,
    `label` its device id, which that key signed, and `id` the last 31 bits of its hash (`olm_id`).
    """

    address: Address
    id: int
    key: bytes
    label: str = ""

    @property
    def is_openpgp(self) -> bool:
        return len(self.key) == FINGERPRINT_BYTES

    @property
    def is_session(self) -> bool:
        return len(self.key) in SESSION_KEY_BYTES

    @property
    def name(self) -> str:
        """What a person calls it: "device 1279662985", or "key 0123456789ABCDEF" of OpenPGP: as much of a fingerprint
        as names a key among known ones. It verifies none. The other end of encrypted sessions is a "client"."""
        if self.address.is_matrix:
            return f"device {self.label}" if self.label else "every device"
        if self.is_session:
            return f"client {self.key[1:9].hex().upper()}"
        return f"key {self.key[:8].hex().upper()}" if self.is_openpgp else f"device {self.id}"


class Trust(Enum):
    """What a person, or the policy on her behalf, thinks of one key."""

    UNDECIDED = "undecided"
    TRUSTED = "trusted"  # by policy: first use, or blind before verification
    VERIFIED = "verified"  # by a person who compared fingerprints
    DISTRUSTED = "distrusted"

    @property
    def allows_sending(self) -> bool:
        return self in (Trust.TRUSTED, Trust.VERIFIED)


# -- content, envelope, sealed, opened ------------------------------------------------------------------------------


class Content(NamedTuple):
    """What a person means to say: the child elements of a stanza, serialised one after the other, each with its own
    namespace declaration; on Matrix an object of two members, an event's `type` and `content`. Never yet on the
    wire."""

    data: bytes

    def __repr__(self) -> str:
        return f"Content({len(self.data)} bytes)"  # plaintext never reaches a log by accident


class Envelope(NamedTuple):
    """Content and the affixes protected with it (XEP-0420 section 3). `sender` is <from/>, `to` is <to/>.

    `iq` is Tillie's own affix (type, id): XEP-0420 binds an IQ to neither.
    """

    content: Content
    sender: Address | None = None
    to: Address | None = None
    time: Time | None = None
    iq: tuple[str, str] | None = None


class DeviceReport(NamedTuple):
    """What became of one device in one send: `sealed`, or skipped and `why`."""

    device: Device
    sealed: bool
    why: str = ""


class Target(NamedTuple):
    """Whom a message is for: the recipient as addressed, the trusted devices that get a key, own ones included, what is
    already known of devices that get none, and further recipients (an item may be for several people)."""

    address: Address
    devices: tuple[Device, ...]
    skipped: tuple[DeviceReport, ...] = ()
    also: tuple[Address, ...] = ()

    @property
    def recipients(self) -> tuple[Address, ...]:
        return (self.address, *self.also)


class Way(NamedTuple):
    """How a sealed element of a session must travel: to this full JID, in this thread, only from our end of the session
    (`sender`, full), and not after `until`: a stanza of a conversation that is over would come in nobody's order."""

    to: Address
    thread: str
    sender: Address
    until: Time


class Sealed(NamedTuple):
    """The protected element for the wire, and a report with one line for each device that was considered. `way` is set
    by schemes whose sessions belong to one resource; `keep` is False where both sides agreed that no history is kept.
    """

    element: bytes
    scheme: str
    report: tuple[DeviceReport, ...]
    way: Way | None = None
    keep: bool = True


@dataclass(frozen=True, slots=True)
class Stanza:
    """The plain outside of a sealed element, as the network knows it.

    `kind` is message, presence or iq, or "to-device" on Matrix, where `type` is the event's and the rest is not used;
    on XMPP `type` and `id` are its attributes (for messages, `id` is the origin-id if there is
    one). `stamp` is the server's delay stamp, None if it came live. `siblings` are the other children, serialised.
    `via` says how it came: live, carbon, archive or offline; carbons and archive results have been checked already.
    """

    kind: str
    sender: Address
    to: Address
    type: str = ""
    id: str = ""
    stamp: Time | None = None
    siblings: tuple[bytes, ...] = ()
    via: str = "live"


@dataclass(frozen=True, slots=True)
class Arrived:
    """A sealed element that came from the network, as bytes, with the stanza around it. `scheme` is the name of the
    one that can open it; "" is the account's first."""

    element: bytes
    stanza: Stanza
    scheme: str = ""


class Kind(Enum):
    """What kind of thing a received element was (N12)."""

    OPENED = "opened"
    EMPTY = "empty"  # only moved keys; nothing to show
    DUPLICATE = "duplicate"  # opened before; nothing to show
    NOT_FOR_US = "not for us"  # sealed, but not for this device
    NO_SESSION = "no session"
    TAMPERED = "tampered"  # forged, altered, or its key is gone
    REFUSED = "refused"  # opened, but the envelope does not fit the stanza
    MALFORMED = "malformed"


class Opened(NamedTuple):
    """What one received element turned out to be.

    `content` and `envelope` are None unless `kind` is OPENED. `device` is the sender's (None if unknown), `trust` what
    we think of its key now. `notes` are findings a person or program may want: discarded elements, a delay stamp that
    can't be true, an IQ without binding. `error` says why for the kinds that failed.
    """

    kind: Kind
    scheme: str
    device: Device | None = None
    trust: Trust = Trust.UNDECIDED
    envelope: Envelope | None = None
    time: Time | None = None
    notes: tuple[str, ...] = ()
    error: str = ""

    @property
    def content(self) -> Content | None:
        return self.envelope.content if self.envelope else None


# -- state: one open transaction ------------------------------------------------------------------------------------


class Key(NamedTuple):
    """The key of one record: the scheme (or "trust", "history" ...) that owns it, its kind, and a name."""

    scheme: str
    kind: str
    name: str


class State(Protocol):
    """One open transaction over versioned records of one account."""

    def get(self, key: Key, /) -> bytes | None: ...

    def put(self, key: Key, value: bytes | None, /) -> None:
        """Write a record, or delete it with None. Deleting what is not there is fine."""

    def scan(self, prefix: Key, /) -> Iterable[tuple[Key, bytes]]:
        """The records of this scheme and kind whose name starts with `prefix.name`, sorted by name (as UTF-8)."""


# -- what a step returns --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """A finished stanza for the outbox: the network sends exactly these bytes, again and again until acknowledged.

    `sender`, a full JID, says that only the connection with this resource may send it; after `until` it is dropped.
    """

    stanza: bytes
    id: str  # the stanza's id, by which a server's echo is recognised
    sender: str = ""
    until: Time = 0.0  # 0: never


@dataclass(frozen=True, slots=True)
class Publish:
    """Something of ours must be published. `what` is the scheme's own name for it (OMEMO: "bundle", "devices"); the
    bytes are made when it is sent, by `schemes.Scheme.publication`, so that the newest state goes out and a later
    request replaces one that still waits."""

    scheme: str
    what: str


class Deliver(NamedTuple):
    """Something opened for the program: it stays in the inbox until the program acknowledges it."""

    message: bytes  # as `pipeline.encode_delivery` wrote it

    def __repr__(self) -> str:
        return f"Deliver({len(self.message)} bytes)"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person should hear: `about` a contact or the account, in one sentence. Not durable."""

    about: Address
    text: str


@dataclass(frozen=True, slots=True)
class Changed:
    """Something of a scheme changed that a program may follow, a session for example; the store says what it is now.
    Not durable."""

    scheme: str
    name: str


Effect = Send | Publish | Deliver | Notice | Changed


class Done(NamedTuple, Generic[T_co]):
    """Commit. The effects enter outbox and inbox in that same commit."""

    value: T_co
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask the network for a published item; `item` "" means the newest. Answered with `Fetched`.

    On Matrix `node` is KEYS_QUERY, which is answered with the devices of this user, or KEYS_CLAIM with the wanted
    devices in `item`, as a JSON array (see `directory.matrix`)."""

    address: Address
    node: str
    item: str = ""


@dataclass(frozen=True, slots=True)
class Decide:
    """Ask a person about the keys of these devices. Answered with `Decided`; or not, and then the step fails."""

    devices: tuple[Device, ...]
    changed: bool = False  # an address among them was verified before


Ask = Fetch | Decide


@dataclass(frozen=True, slots=True)
class Need:
    """Roll back, answer, learn, call again."""

    asks: tuple[Ask, ...]


NO_PAYLOAD = "no-payload"  # the `error` of a notification that says only that something changed

# -- facts to learn -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer to a `Fetch`, or a notification that nobody asked for (`pushed`).

    `payload` is the item's payload element, None if there is none; `error` then says why ("item-not-found", ...).
    """

    address: Address
    node: str
    item: str
    payload: bytes | None
    error: str = ""
    pushed: bool = False


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision on one key of one address."""

    address: Address
    key: bytes
    trust: Trust


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Catching up with offline messages and archives began (`ended` False) or ended."""

    ended: bool


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The store was found to be older than it should be: no session may be used for sending any more."""


Fact = Fetched | Decided | CatchUp | RolledBack


@dataclass(frozen=True, slots=True)
class Publication:
    """What to publish at our own account: PEP node, item id, payload, and the node options that must hold."""

    node: str
    item: str
    payload: bytes
    options: tuple[tuple[str, str], ...] = field(default=())
