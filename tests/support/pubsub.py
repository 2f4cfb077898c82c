"""What tests of private pubsub share: a state that is a dictionary, people, a node, messages that were opened."""

from __future__ import annotations

from collections.abc import Iterable

from tillie.model import Address, Content, Device, Envelope, Key, Kind, Opened, Stanza, State, Time, Trust
from tillie.pubsub import hearing, sealing, secrets
from tillie.pubsub.hearing import Heard
from tillie.pubsub.items import Item, Node, Reading
from tillie.pubsub.sealing import Work
from tillie.pubsub.secrets import Secret

JULIET, ROMEO, NURSE, TYBALT = (
    Address(f"{name}@{domain}")
    for name, domain in (
        ("juliet", "capulet.test"),
        ("romeo", "montague.test"),
        ("nurse", "capulet.test"),
        ("tybalt", "capulet.test"),
    )
)
SERVICE = Address("pubsub.capulet.test")
BLOG = Node(JULIET, "a private blog")  # on her own account (PEP)
SHELF = Node(SERVICE, "shelf")  # on a service of its own
NOW = 1_780_000_000.0
VALUE = "ZSRD5lK9mz-5VHNyu2N1XLiJZ8I87jkv85ceZkVrOGA"  # the one of XEP-0473's example
ENTRY = b'<entry xmlns="http://www.w3.org/2005/Atom"><title>Soliloquy</title></entry>'


class Records(dict[Key, bytes]):
    """A `State` that is a dictionary."""

    def put(self, key: Key, value: bytes | None, /) -> None:
        if value is None:
            self.pop(key, None)
        else:
            self[key] = value

    def scan(self, prefix: Key, /) -> Iterable[tuple[Key, bytes]]:
        found = [each for each in self.items() if each[0][:2] == prefix[:2] and each[0].name.startswith(prefix.name)]
        return sorted(found)


def key_of(person: Address) -> bytes:
    """The fingerprint of a person's certificate."""
    return person.encode().ljust(20, b".")[:20]


def say(
    s: State,
    account: Address,
    sender: Address,
    *elements: bytes,
    now: Time = NOW,
    trust: Trust = Trust.TRUSTED,
    key: bytes = b"",
    scheme: str = "openpgp",
    to: Address | None = None,
) -> Heard:
    """`sender` says these elements to `account` in a message that was opened (`to` somebody else: a copy of it)."""
    device = Device(sender, 1, key or key_of(sender))
    envelope = Envelope(Content(b"".join(elements)), sender=sender, time=now)
    opened = Opened(Kind.OPENED, scheme, device, trust, envelope, now)
    return hearing.heard(s, account, opened, Stanza("message", Address(f"{sender}/x"), to or account), now)


def shared(
    id: str = "one",
    value: str = VALUE,
    *,
    node: Node = BLOG,
    stamp: str = "2026-05-28T20:00:00Z",
    more: str = "",
) -> bytes:
    """`<shared-secret>` as somebody else may write it."""
    return (
        f"<shared-secret xmlns='urn:xmpp:openpgp:pubsub:0' jid='{node.service}' node='{node.name}' id='{id}'"
        f" timestamp='{stamp}' {more}>{value}</shared-secret>"
    ).encode()


def revoke(id: str = "one", *, node: Node = BLOG, inside: str = "") -> bytes:
    return (
        f"<revoke xmlns='urn:xmpp:openpgp:pubsub:0' jid='{node.service}' node='{node.name}' id='{id}'>{inside}</revoke>"
    ).encode()


def own_node(s: State, node: Node = BLOG) -> Secret:
    """Juliet's node, with its first secret."""
    return secrets.make(s, node, JULIET, NOW - 100)


def opened(s: State, node: Node, item: Item, now: Time = NOW, *, live: bool = False) -> Reading:
    """An item, read."""
    found = sealing.read(s, node, item, now, live=live)
    return sealing.finish(s, found, sealing.attempt(found), now) if isinstance(found, Work) else found
