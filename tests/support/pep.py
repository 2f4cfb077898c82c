"""A PEP server that is a dict.

Both sides of a test share one `PepServer`, which holds device lists and bundles as the bytes that a real server would
hold, and the `<encrypted>` elements that a device sent by itself (empty messages). So only bytes pass between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from tillie.model import Address, Fetch, Fetched

NS = "urn:xmpp:omemo:2"
DEVICES_NODE = "urn:xmpp:omemo:2:devices"
BUNDLES_NODE = "urn:xmpp:omemo:2:bundles"
DEVICES_ITEM = "current"


class Sent(NamedTuple):
    """An `<encrypted>` element on its way, as bytes, from one bare JID to another."""

    sender: str
    to: str
    element: bytes


@dataclass
class PepServer:
    """What a server keeps: PEP items as (address, node, item) -> payload bytes, and messages sent through it."""

    items: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    messages: list[Sent] = field(default_factory=list)

    def publish(self, address: str, node: str, item: str, payload: bytes) -> None:
        self.items[address, node, item] = payload

    def retract(self, address: str, node: str, item: str) -> None:
        self.items.pop((address, node, item), None)

    def fetch(self, ask: Fetch) -> Fetched:
        """The answer to our engine's question, as an XMPP network would give it."""
        item = ask.item or (DEVICES_ITEM if ask.node == DEVICES_NODE else "")
        payload = self.items.get((ask.address, ask.node, item))
        return Fetched(ask.address, ask.node, item, payload, "" if payload is not None else "item-not-found")

    def device_list(self, address: str) -> Fetched:
        """The device list of an address, as a PEP notification."""
        payload = self.items.get((address, DEVICES_NODE, DEVICES_ITEM))
        return Fetched(Address(address), DEVICES_NODE, DEVICES_ITEM, payload, pushed=True)

    def messages_to(self, address: str) -> list[Sent]:
        """Take the messages to an address out of the queue."""
        taken = [sent for sent in self.messages if sent.to == address]
        self.messages = [sent for sent in self.messages if sent.to != address]
        return taken
