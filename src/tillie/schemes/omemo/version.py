"""What tells one version of OMEMO from another: names and labels, as data. The older axolotl version joins as a second
`Version` with a codec of its own; X3DH and the ratchet stay."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Version:
    namespace: str
    devices_node: str
    bundles_node: str
    x3dh_info: bytes
    root_info: bytes
    message_info: bytes
    payload_info: bytes


OMEMO2 = Version(
    namespace="urn:xmpp:omemo:2",
    devices_node="urn:xmpp:omemo:2:devices",
    bundles_node="urn:xmpp:omemo:2:bundles",
    x3dh_info=b"OMEMO X3DH",
    root_info=b"OMEMO Root Chain",
    message_info=b"OMEMO Message Key Material",
    payload_info=b"OMEMO Payload",
)
