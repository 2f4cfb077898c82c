"""A twomemo peer in process: python-omemo's SessionManager with the twomemo backend, on a `PepServer`."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from collections.abc import Coroutine
from typing import Any, TypeVar

import omemo
import twomemo.etree
from twomemo.twomemo import NAMESPACE as NS
from twomemo.twomemo import BundleImpl, Twomemo

from support.pep import BUNDLES_NODE, DEVICES_ITEM, DEVICES_NODE, PepServer, Sent

T = TypeVar("T")

ET.register_namespace("", NS)


class Memory(omemo.Storage):
    """Storage in memory, as python-omemo's own tests have it."""

    def __init__(self) -> None:
        super().__init__(disable_cache=True)
        self._values: dict[str, omemo.JSONType] = {}

    async def _load(self, key: str) -> omemo.Maybe[omemo.JSONType]:
        return omemo.Just(self._values[key]) if key in self._values else omemo.Nothing()

    async def _store(self, key: str, value: omemo.JSONType) -> None:
        self._values[key] = value

    async def _delete(self, key: str) -> None:
        self._values.pop(key, None)

    def snapshot(self) -> dict[str, omemo.JSONType]:
        """All that this device remembers, to go back to with `restore`: a lost or rolled-back device."""
        return dict(self._values)

    def restore(self, snapshot: dict[str, omemo.JSONType]) -> None:
        self._values = dict(snapshot)


def session_manager(server: PepServer, address: str) -> type[omemo.SessionManager]:
    """A SessionManager class that talks to `server` as `address`, and trusts every device."""

    class PeerSessionManager(omemo.SessionManager):
        @staticmethod
        async def _upload_bundle(bundle: omemo.Bundle) -> None:
            assert isinstance(bundle, BundleImpl)
            payload = ET.tostring(twomemo.etree.serialize_bundle(bundle))
            server.publish(bundle.bare_jid, BUNDLES_NODE, str(bundle.device_id), payload)

        @staticmethod
        async def _download_bundle(namespace: str, bare_jid: str, device_id: int) -> omemo.Bundle:
            payload = server.items.get((bare_jid, BUNDLES_NODE, str(device_id)))
            if payload is None:
                raise omemo.BundleNotFound()
            return twomemo.etree.parse_bundle(ET.fromstring(payload), bare_jid, device_id)

        @staticmethod
        async def _delete_bundle(namespace: str, device_id: int) -> None:
            server.retract(address, BUNDLES_NODE, str(device_id))

        @staticmethod
        async def _upload_device_list(namespace: str, device_list: omemo.DeviceList) -> None:
            payload = ET.tostring(twomemo.etree.serialize_device_list(device_list))
            server.publish(address, DEVICES_NODE, DEVICES_ITEM, payload)

        @staticmethod
        async def _download_device_list(namespace: str, bare_jid: str) -> omemo.DeviceList:
            payload = server.items.get((bare_jid, DEVICES_NODE, DEVICES_ITEM))
            return {} if payload is None else twomemo.etree.parse_device_list(ET.fromstring(payload))

        async def _evaluate_custom_trust_level(self, device: omemo.DeviceInformation) -> omemo.TrustLevel:
            return omemo.TrustLevel.TRUSTED

        async def _make_trust_decision(
            self, undecided: frozenset[omemo.DeviceInformation], identifier: str | None
        ) -> None:
            raise AssertionError("every device is trusted already")

        @staticmethod
        async def _send_message(message: omemo.Message, bare_jid: str) -> None:
            server.messages.append(Sent(address, bare_jid, ET.tostring(twomemo.etree.serialize_message(message))))

    return PeerSessionManager


async def create_manager(
    manager: type[omemo.SessionManager], address: str, backend: Twomemo, storage: Memory, label: str | None
) -> omemo.SessionManager:
    """A new device of `address`, announced; its background task, which only rotates the signed prekey, is stopped."""
    created = await manager.create([backend], storage, address, label, "undecided")
    await created.shutdown()
    return created


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits for anything, without an event loop."""
    try:
        work.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    raise RuntimeError("the peer waits for something")


class TwomemoPeer:
    """One twomemo device of `address`, synchronous.

    `encrypt` and `decrypt` take and give plaintext bytes, which for OMEMO 2 are an SCE `<envelope>`; twomemo itself
    neither makes nor reads envelopes. `decrypt` gives None for an empty message. Errors are python-omemo's. The task
    that rotates its signed prekey by the clock is stopped: `rotate_signed_prekey` does it.
    """

    def __init__(self, server: PepServer, address: str, *, label: str | None = None, catching_up: bool = False) -> None:
        self.server = server
        self.address = address
        self.storage = Memory()
        self.backend = Twomemo(self.storage)
        self.manager: omemo.SessionManager = asyncio.run(
            create_manager(session_manager(server, address), address, self.backend, self.storage, label)
        )
        if not catching_up:
            drive(self.manager.after_history_sync())
        own, _ = drive(self.manager.get_own_device_information())
        self.device_id: int = own.device_id
        self.identity_key: bytes = own.identity_key

    def caught_up(self) -> None:
        """The end of catching up: prekeys that were kept are deleted, empty messages that waited are sent."""
        drive(self.manager.after_history_sync())

    def learn_devices(self, address: str) -> None:
        """Fetch the device list of `address`, as after a PEP notification."""
        drive(self.manager.refresh_device_list(NS, address))

    def encrypt(self, to: str, plaintext: bytes) -> bytes:
        """The `<encrypted>` element for every device of `to` and the own other ones."""
        messages, errors = drive(self.manager.encrypt(frozenset({to}), {NS: plaintext}))
        assert not errors, errors
        (message,) = messages
        return ET.tostring(twomemo.etree.serialize_message(message))

    def decrypt(self, sender: str, element: bytes) -> bytes | None:
        """The plaintext of an `<encrypted>` element."""
        message = twomemo.etree.parse_message(ET.fromstring(element), sender)
        plaintext, _, _ = drive(self.manager.decrypt(message))
        return plaintext

    def device_label(self, address: str, device_id: int) -> str | None:
        """The label of a device, if its signature was found to be valid."""
        devices = drive(self.manager.get_device_information(address))
        (device,) = (device for device in devices if device.device_id == device_id)
        return device.label

    def replace_session(self, address: str, device_id: int) -> None:
        """Build a new session in place of the present one; tells the other side by an empty message."""
        devices = drive(self.manager.get_device_information(address))
        (device,) = (device for device in devices if device.device_id == device_id)
        failures = drive(self.manager.replace_sessions(device))
        assert not failures, failures

    def rotate_signed_prekey(self) -> None:
        drive(self.backend.rotate_signed_pre_key())
        self.publish_bundle()

    def publish_bundle(self) -> None:
        bundle = drive(self.backend.get_bundle(self.address, self.device_id))
        payload = ET.tostring(twomemo.etree.serialize_bundle(bundle))
        self.server.publish(self.address, BUNDLES_NODE, str(self.device_id), payload)
