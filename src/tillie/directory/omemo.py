"""Device lists and bundles of OMEMO 2 (XEP-0384 0.9.1, sections "Device list" and "Bundles").

Both are checked as they are read: ids in range and unique, keys of the right length and on the curve, signatures
valid. One bad device never costs the others: `ListedDevice` keeps what it says, and the label counts only once
`label_of` has seen the identity key.
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from lxml import etree

from tillie.crypto import agree, sign
from tillie.errors import BadSignature, Malformed
from tillie.wire import base64, xml

NAMESPACE = "urn:xmpp:omemo:2"
MAX_ID = 2**31 - 1
MAX_DEVICES = 256  # one account's; 187 have been seen in the wild
MAX_PREKEYS = 500
MAX_LABEL = 200  # "RECOMMENDED to keep the length of the label under 53 Unicode code points"
MAX_BUNDLE_BYTES = 65_536

_NS = f"{{{NAMESPACE}}}"
_PK = _NS + "pk"
# Lines of 32 bytes in Base64, in the one spelling that `wire.base64` takes.
_CODED_LINES = re.compile("(?:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=\n)++")
_CODED_LINE = 45


class ListedDevice(NamedTuple):
    """One <device>: its id, and label and signature as published (not yet checked; empty where there is none)."""

    id: int
    label: str = ""
    labelsig: bytes = b""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What it takes to start a session: identity key (Ed25519 form), signed prekey, one-time prekeys by id."""

    identity: bytes
    signed_prekey_id: int
    signed_prekey: bytes
    signature: bytes
    prekeys: Mapping[int, bytes]


def parse_devices(payload: bytes) -> tuple[ListedDevice, ...]:
    """A <devices> element. An id that comes twice counts once; an invalid id costs the whole list (Malformed)."""
    root = xml.parse(payload)
    if root.tag != _NS + "devices":
        raise Malformed("a device list has the wrong element")
    if len(root) > MAX_DEVICES:
        raise Malformed(f"a device list has {len(root)} devices; at most {MAX_DEVICES} are read")
    devices: dict[int, ListedDevice] = {}
    for child in root:
        if child.tag != _NS + "device":
            continue
        device_id = parse_id(child.get("id"))
        devices.setdefault(device_id, ListedDevice(device_id, *_label(child)))
    return tuple(devices.values())


def encode_devices(devices: Iterable[ListedDevice]) -> bytes:
    parts = [f"<devices xmlns='{NAMESPACE}'>".encode()]
    for device in devices:
        label = b""
        if device.label and device.labelsig:
            label = b" label=%s labelsig='%s'" % (
                xml.attribute(device.label),
                base64.encode(device.labelsig).encode(),
            )
        parts.append(b"<device id='%d'%s/>" % (device.id, label))
    parts.append(b"</devices>")
    return b"".join(parts)


def label_of(device: ListedDevice, identity: bytes) -> str:
    """The label, if the identity key signed it; else "" ("MUST be ignored if ... the signature does not pass")."""
    if not device.label or not device.labelsig:
        return ""
    try:
        sign.verify(identity, device.label.encode(), device.labelsig)
    except BadSignature:
        return ""
    return device.label


def parse_bundle(payload: bytes) -> Bundle:
    """A <bundle> element, all of it checked. Raises Malformed, BadKey or BadSignature."""
    root = xml.parse(payload, max_bytes=MAX_BUNDLE_BYTES)
    if root.tag != _NS + "bundle":
        raise Malformed("a bundle has the wrong element")
    signed_element = _only(root, "spk")
    identity = base64.decode(xml.text_of(_only(root, "ik")), max_bytes=sign.KEY)
    signed = agree.check(base64.decode(xml.text_of(signed_element), max_bytes=agree.KEY))
    signature = base64.decode(xml.text_of(_only(root, "spks")), max_bytes=sign.SIGNATURE)
    prekeys = _prekeys(_only(root, "prekeys"))
    sign.public_to_curve(identity)  # BadKey unless it is a point of the main subgroup
    sign.verify(identity, signed, signature)
    return Bundle(identity, parse_id(signed_element.get("id")), signed, signature, prekeys)


def encode_bundle(bundle: Bundle) -> bytes:
    keys = b"".join(b"<pk id='%d'>%s</pk>" % (n, _b64(key)) for n, key in bundle.prekeys.items())
    return b"<bundle xmlns='%s'><spk id='%d'>%s</spk><spks>%s</spks><ik>%s</ik><prekeys>%s</prekeys></bundle>" % (
        NAMESPACE.encode(),
        bundle.signed_prekey_id,
        _b64(bundle.signed_prekey),
        _b64(bundle.signature),
        _b64(bundle.identity),
        keys,
    )


def parse_id(text: str | None) -> int:
    """A device or key id: 1 .. 2**31 - 1, in ASCII digits without a leading zero."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 10 or text[0] == "0":
        raise Malformed("an id is not a positive number")
    number = int(text)
    if number > MAX_ID:
        raise Malformed("an id is larger than 2^31 - 1")
    return number


def _prekeys(element: etree._Element) -> dict[int, bytes]:
    if len(element) > MAX_PREKEYS:
        raise Malformed(f"a bundle has more than {MAX_PREKEYS} prekeys")
    children = [child for child in element if child.tag == _PK]
    if not children:
        raise Malformed("a bundle has no prekeys")
    ids = [parse_id(child.get("id")) for child in children]
    if len(set(ids)) != len(ids):
        raise Malformed("a bundle has two prekeys with one id")
    coded = [xml.text_of(child) for child in children]
    # One look at all of them: a bundle is read before every first message.
    lines = "".join(f"{text}\n" for text in coded)
    if len(lines) == len(coded) * _CODED_LINE and _CODED_LINES.fullmatch(lines):
        keys = [a2b_base64(text) for text in coded]
    else:
        keys = [base64.decode(text, max_bytes=agree.KEY) for text in coded]
    return dict(zip(ids, map(agree.check, keys), strict=True))


def _only(parent: etree._Element, name: str) -> etree._Element:
    found = parent.findall(_NS + name)
    if len(found) != 1:
        raise Malformed(f"a bundle has {len(found)} <{name}> elements instead of one")
    return found[0]


def _label(element: etree._Element) -> tuple[str, bytes]:
    label, signature = element.get("label"), element.get("labelsig")
    if not label or not signature or len(label) > MAX_LABEL:
        return "", b""
    try:
        return label, base64.decode(signature, max_bytes=sign.SIGNATURE)
    except Malformed:
        return "", b""  # "The label attribute MUST be ignored": the device itself stays


def _b64(data: bytes) -> bytes:
    return base64.encode(data).encode()
