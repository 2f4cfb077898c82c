"""Sealed objects, offline: any bytes for people whose keys are known here, as XEP-0210 wished for (`tillie seal` and
`tillie open`).

A binary OpenPGP message with a <signcrypt> in it (XEP-0373), whose payload is

    <object xmlns='urn:tillie:object:0'>Base64</object>
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tillie.crypto import openpgp
from tillie.crypto.openpgp import Certificate
from tillie.crypto.random import random_bytes
from tillie.envelope import profile
from tillie.errors import BadSignature, Malformed, NoRecipients, NotTrusted, Refused, TooLarge, UsageError
from tillie.model import Address, Content, Device, DeviceReport, Done, Stanza, State, Time, Trust
from tillie.schemes.openpgp import contacts, content, keys, opening, records
from tillie.schemes.openpgp.content import Form
from tillie.trust import decisions
from tillie.trust.decisions import Judgement, Policy
from tillie.wire import base64, xml

NAMESPACE = "urn:tillie:object:0"
MAX_OBJECT_BYTES = 2 << 20
_TAG = f"{{{NAMESPACE}}}object"
_MAX_CONTENT = (MAX_OBJECT_BYTES + 2) // 3 * 4 + 65_536
WAITS = "waits for your decision"


class SealedObject(NamedTuple):
    """A binary OpenPGP message, and what became of each key of the people it is for."""

    message: bytes
    report: tuple[DeviceReport, ...]


class OpenedObject(NamedTuple):
    """What was in a sealed object, who signed it, what we think of that key, and when it was sealed."""

    data: bytes
    device: Device
    trust: Trust
    time: Time
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"OpenedObject({len(self.data)} bytes, {self.device})"


def seal(
    s: State, account: Address, policy: Policy, data: bytes, to: Sequence[Address], now: Time
) -> Done[SealedObject]:
    """Seal bytes for these people and ourselves. Raises `TooLarge`, `NotTrusted`, `NoRecipients`; `UsageError` where no
    key of somebody is known here."""
    if len(data) > MAX_OBJECT_BYTES:
        raise TooLarge(f"It has {len(data)} bytes; {MAX_OBJECT_BYTES} is the most that can be sealed.")
    mine = keys.require(s, account, now)
    held = {each.certificate.fingerprint for each in keys.held(s)}
    recipients = tuple(dict.fromkeys(each.bare for each in to))
    if not recipients:
        raise NoRecipients("It must be for somebody.")
    certificates: dict[Device, Certificate] = {}
    unable: list[DeviceReport] = []
    for address in dict.fromkeys((*recipients, account)):
        found = [each for each in contacts.prospects(s, address, now) if each.fingerprint not in held]
        if not found and address != account:
            raise UsageError(f"No OpenPGP key of {address} is known here.", hint=_fetch_first(address))
        for each in found:
            device = keys.device(address, each.fingerprint)
            if each.certificate is None or each.why:
                unable.append(DeviceReport(device, False, each.why))
            else:
                certificates[device] = each.certificate
    judged = decisions.judge(s, policy.strict, certificates, now)
    _require_everybody(recipients, account, judged, unable)
    unable += (DeviceReport(device, False, "distrusted") for device in judged.distrusted)
    unable += (DeviceReport(device, False, WAITS) for device in judged.undecided)
    inside = content.encode(
        Form.SIGNCRYPT, _as_content(data), recipients, now, random_bytes, max_bytes=_MAX_CONTENT
    )  # fmt: skip
    readers = [mine.certificate, *(certificates[device] for device in judged.trusted)]
    message = openpgp.signcrypt(inside, mine.key, readers)
    return Done(SealedObject(message, (*(DeviceReport(device, True) for device in judged.trusted), *unable)))


def _require_everybody(
    recipients: Iterable[Address], account: Address, judged: Judgement, unable: list[DeviceReport]
) -> None:
    readers = {device.address for device in judged.trusted} | {account}
    for address in recipients:
        if address in readers:
            continue
        waiting = tuple(device for device in judged.undecided if device.address == address)
        if waiting:
            raise NotTrusted(f"{address}: {', '.join(keys.shown(device.key) for device in waiting)}", devices=waiting)
        reasons = [f"{keys.shown(each.device.key)}: {each.why}" for each in unable if each.device.address == address]
        reasons += [f"{keys.shown(each.key)}: distrusted" for each in judged.distrusted if each.address == address]
        raise NoRecipients(f"{address} has no OpenPGP key that could be used ({'; '.join(reasons)}).")


def open(s: State, account: Address, policy: Policy, message: bytes, now: Time) -> Done[OpenedObject]:
    """Open a sealed object with the keys known here. Raises Malformed, Undecryptable, BadSignature, Refused;
    `UsageError` if it is not for us."""
    wanted = openpgp.recipients(message)
    if not wanted:
        raise Malformed("it is not an encrypted OpenPGP message")
    if not opening.is_for_us(s, wanted):
        raise UsageError("It is not sealed for a key of this account.")
    owners = _owners(s, account)
    secrets = [each.key for each in keys.held(s)]
    try:
        opened = openpgp.open_signcrypt(
            message, secrets, [certificate for certificate, _ in owners.values()], max_bytes=_MAX_CONTENT
        )
    except BadSignature as error:
        raise BadSignature(error.detail, hint=_fetch_first("ADDRESS")) from None
    fingerprint = opened.signers[0]
    device = keys.device(owners[fingerprint][1], fingerprint)
    ours = keys.load(s, fingerprint) is not None
    trust = Trust.VERIFIED if ours else decisions.of(s, policy.strict, device.address, fingerprint)
    decoded = content.decode(opened.plaintext, max_bytes=_MAX_CONTENT)
    if decoded.form is not Form.SIGNCRYPT:
        raise Refused("What is signed and encrypted says that it is not.")
    if account not in decoded.to and not ours:
        raise Refused("It was sealed for somebody else.")
    undated = Stanza("message", device.address, account, via="file")
    time, notes = profile.check_time(decoded.time, undated, now)
    return Done(OpenedObject(_from_content(decoded.content), device, trust, time, tuple(notes)))


def _owners(s: State, account: Address) -> dict[bytes, tuple[Certificate, Address]]:
    """Everybody's certificates that are known here, by fingerprint, each with an address that announces it."""
    owners: dict[bytes, tuple[Certificate, Address]] = {}
    for name, _ in s.scan(records.key("list")):
        address = Address(name.name)
        for each in contacts.certificates(s, address):
            owners.setdefault(each.fingerprint, (each, address))
    for held in keys.held(s):
        owners[held.certificate.fingerprint] = (held.certificate, account)
    return owners


def _as_content(data: bytes) -> Content:
    return Content(f"<object xmlns='{NAMESPACE}'>{base64.encode(data)}</object>".encode())


def _from_content(found: Content) -> bytes:
    children = xml.parse_fragment(found.data, max_bytes=_MAX_CONTENT)
    if len(children) != 1 or children[0].tag != _TAG:
        raise Malformed("what was sealed is not an object")
    return base64.decode(xml.text_of(children[0]), max_bytes=MAX_OBJECT_BYTES)


def _fetch_first(address: str) -> str:
    return f"When you are online, 'tillie keys list {address} --scheme openpgp' looks it up."
