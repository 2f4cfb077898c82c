"""What tests of a conversation share, whichever implementation is at which end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import pytest
from lxml import etree

from support.our_device import OurDevice
from support.pep import NS, PepServer
from support.twomemo_peer import TwomemoPeer

ALICE, BOB, CAROL = "alice@a.example", "bob@b.example", "carol@c.example"
MAX_DELIVERIES = 20  # of automatic answers to answers; an honest pair needs three at most

KEY_PATH = f"{{{NS}}}header/{{{NS}}}keys/{{{NS}}}key"
both_directions = pytest.mark.parametrize("first", [OurDevice, TwomemoPeer], ids=["ours-first", "twomemo-first"])


class End(Protocol):
    """A device at one end of a conversation: `OurDevice` or `TwomemoPeer`."""

    address: str
    device_id: int

    def learn_devices(self, address: str) -> None: ...
    def encrypt(self, to: str, plaintext: bytes) -> bytes: ...
    def decrypt(self, sender: str, element: bytes) -> bytes | None: ...


MakeEnd = Callable[[PepServer, str], End]


def other(first: MakeEnd) -> MakeEnd:
    return TwomemoPeer if first is OurDevice else OurDevice


def introduce(*ends: End) -> None:
    """Everybody hears of everybody's devices."""
    for end in ends:
        for address in {met.address for met in ends}:
            end.learn_devices(address)


def tell(sender: End, receiver: End, text: bytes) -> None:
    """One message, sent and read."""
    assert receiver.decrypt(sender.address, sender.encrypt(receiver.address, text)) == text


def deliver(server: PepServer, *ends: End) -> int:
    """Deliver what was sent automatically until nobody answers any more; how many messages that were."""
    for count in range(MAX_DELIVERIES):
        sent = [(end, message) for end in ends for message in server.messages_to(end.address)]
        if not sent:
            return count
        for end, message in sent:
            assert end.decrypt(message.sender, message.element) is None
    raise AssertionError("two devices answer each other for ever")


def converse(server: PepServer, one: End, two: End, turns: int = 3) -> None:
    """Messages both ways, all of which must be read."""
    for turn in range(turns):
        tell(one, two, b"from one, %d" % turn)
        deliver(server, one, two)
        tell(two, one, b"from two, %d" % turn)
        deliver(server, one, two)


def is_key_exchange(element: bytes) -> bool:
    return any(key.get("kex") in ("true", "1") for key in etree.fromstring(element).iterfind(KEY_PATH))


def rids(element: bytes) -> set[int]:
    """The devices that an element has a key for."""
    return {int(key.get("rid", "0")) for key in etree.fromstring(element).iterfind(KEY_PATH)}
