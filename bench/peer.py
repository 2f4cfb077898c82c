"""The peer: python-omemo's SessionManager with twomemo, storage in memory, as fast as it can be driven.

Its storage is the one in memory of its own tests. It gets what helps it: coroutines are stepped without an event loop,
every device is trusted without a question, its log is off, and it gets the envelope ready made. Each job is
measured twice: whole, from bytes to bytes with twomemo's own XML helpers, as Tillie is; and bare, without any XML,
which is less work than Tillie does.
"""

from __future__ import annotations

import asyncio
import logging
import xml.etree.ElementTree as ET
from functools import partial
from typing import Any

import omemo
import twomemo.etree
from twomemo.twomemo import Twomemo

from bench.measure import Operation, Side
from bench.pairs import ALICE, BOB, Pair, envelope_bytes
from support.pep import BUNDLES_NODE, DEVICES_ITEM, DEVICES_NODE, NS, PepServer
from support.twomemo_peer import Memory, TwomemoPeer, create_manager, drive, session_manager

PREKEYS = 100
NEW_DEVICES = 3

logging.getLogger("omemo").setLevel(logging.ERROR)


def _publish_device(server: PepServer, device_id: int) -> None:
    """A device of Bob's that only has a bundle."""
    backend = Twomemo(Memory())
    drive(backend.generate_pre_keys(PREKEYS))
    bundle = drive(backend.get_bundle(BOB, device_id))
    server.publish(BOB, BUNDLES_NODE, str(device_id), ET.tostring(twomemo.etree.serialize_bundle(bundle)))


def _bare(manager: type[omemo.SessionManager]) -> type[omemo.SessionManager]:
    """The same without XML: nothing is uploaded, there is no list yet."""

    async def nothing(*ignored: object) -> None: ...

    async def no_devices(namespace: str, bare_jid: str) -> omemo.DeviceList:
        return {}

    uploads = dict.fromkeys(("_upload_bundle", "_upload_device_list"), staticmethod(nothing))
    return type("BareManager", (manager,), {**uploads, "_download_device_list": staticmethod(no_devices)})


def new_devices(*, bare: bool) -> Side:
    """An identity, 100 prekeys, bundle and device list."""
    loop = asyncio.new_event_loop()

    def create(manager: type[omemo.SessionManager]) -> omemo.SessionManager:
        storage = Memory()
        return loop.run_until_complete(create_manager(manager, ALICE, Twomemo(storage), storage, None))

    def prepare(count: int) -> list[Operation]:
        managers = [session_manager(PepServer(), ALICE) for _ in range(count)]
        return [partial(create, _bare(manager) if bare else manager) for manager in managers]

    return Side(prepare, NEW_DEVICES)


class PeerPair(Pair):
    """Alice and Bob on twomemo; Bob has `devices` devices, and only the first of them can open."""

    def __init__(self, devices: int = 1) -> None:
        self.server = PepServer()
        self.alice = TwomemoPeer(self.server, ALICE)
        self.bob = TwomemoPeer(self.server, BOB)
        self.ends = (self.alice, self.bob)
        self.others = [self.bob.device_id % 2**30 + number for number in range(1, devices)]
        for device_id in self.others:
            _publish_device(self.server, device_id)
        devices_element = ET.Element(f"{{{NS}}}devices")
        for device_id in (self.bob.device_id, *self.others):
            ET.SubElement(devices_element, f"{{{NS}}}device", id=str(device_id))
        self.server.publish(BOB, DEVICES_NODE, DEVICES_ITEM, ET.tostring(devices_element))
        self.alice.learn_devices(BOB)
        self.bob.learn_devices(ALICE)
        self.fresh = [end.storage.snapshot() for end in self.ends]
        self.published = dict(self.server.items)

    def forget(self) -> None:
        """Back to before the first message: devices known, no bundle fetched, no session."""
        for end, fresh in zip(self.ends, self.fresh, strict=True):
            end.storage.restore(fresh)
        self.server.items = dict(self.published)
        self.server.messages.clear()

    def meet(self) -> None:
        self.open(1, self.seal(0, self.message()))
        self.open(0, self.seal(1, self.message()))
        for device_id in self.others:  # what the answer of each would do
            drive(self.alice.storage.store(f"/{NS}/{BOB}/{device_id}/confirmed", True))

    def message(self) -> bytes:
        return envelope_bytes()

    def seal(self, sender: int, message: bytes) -> bytes:
        return ET.tostring(twomemo.etree.serialize_message(self.seal_bare(sender, message)))

    def open(self, receiver: int, sealed: bytes) -> bytes | None:
        return self.open_bare(receiver, twomemo.etree.parse_message(ET.fromstring(sealed), (ALICE, BOB)[1 - receiver]))

    def seal_bare(self, sender: int, message: bytes) -> omemo.Message:
        to = (ALICE, BOB)[1 - sender]
        messages, errors = drive(self.ends[sender].manager.encrypt(frozenset({to}), {NS: message}))
        if errors or len(messages) != 1:
            raise RuntimeError(f"the peer did not encrypt: {errors}")
        return next(iter(messages))

    def open_bare(self, receiver: int, sealed: omemo.Message) -> bytes | None:
        return drive(self.ends[receiver].manager.decrypt(sealed))[0]


class BarePeerPair(PeerPair):
    """The same without XML: what is sealed stays an object of the peer's, bundles are read and never written."""

    def __init__(self, devices: int = 1) -> None:
        super().__init__(devices)
        bundles = {
            (owner, item): twomemo.etree.parse_bundle(ET.fromstring(payload), owner, int(item))
            for (owner, node, item), payload in self.server.items.items()
            if node == BUNDLES_NODE
        }

        async def download(namespace: str, bare_jid: str, device_id: int) -> omemo.Bundle:
            return bundles[bare_jid, str(device_id)]

        async def nothing(*ignored: object) -> None:
            pass

        for end in self.ends:
            for name, instead in (
                ("_download_bundle", download),
                ("_upload_bundle", nothing),
                ("_send_message", nothing),
            ):
                setattr(end.manager, name, instead)

    def seal(self, sender: int, message: bytes) -> Any:
        return self.seal_bare(sender, message)

    def open(self, receiver: int, sealed: Any) -> bytes | None:
        return self.open_bare(receiver, sealed)
