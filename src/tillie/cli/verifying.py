"""Comparing fingerprints: ours to be scanned or read out, theirs to be compared, and links that hold them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote

from tillie.account import Account
from tillie.cli import links, show
from tillie.errors import NotTrusted, UsageError
from tillie.known import KnownKey
from tillie.model import Address, Device, Trust
from tillie.trust import fingerprint
from tillie.wire.display import printable

_KINDS = {"openpgp": "OpenPGP key", "esession": "key for sessions"}
_OMEMO = re.compile(r"omemo-sid-([0-9]{1,10})=([0-9a-fA-F]{64})")
# "Custom query parameters can be specified using the Common Namespaced Identifier format": a device's id, a colon, and
# its Ed25519 key in unpadded Base64.
_MATRIX = "org.tillie.device"


def uri_of(devices: Iterable[Device]) -> str:
    """A link with the fingerprints of one account's devices: "xmpp:" as clients put it into QR codes, or "matrix:"."""
    known = [(device, fingerprint.of(device).replace(" ", "")) for device in devices]
    address = known[0][0].address
    if address.is_matrix:
        return links.write(
            address, "&".join(f"{_MATRIX}={quote(f'{each.label}:{key}', safe='')}" for each, key in known)
        )
    return links.write(address, ";".join(f"omemo-sid-{each.id}={digits}" for each, digits in known))


def fingerprints_in(uri: str, whose: Address) -> dict[str, str]:
    """The fingerprints in such a link, by device id. Raises `UsageError` if it is none, or somebody else's."""
    link = links.read(uri)
    pairs: list[tuple[str, str]] = []
    if link is not None:
        pairs = _pairs_of_matrix(link.query) if whose.is_matrix else _OMEMO.findall(link.query)
    if link is None or not pairs:
        like = f"matrix:u/bob:example.net?{_MATRIX}=..." if whose.is_matrix else "xmpp:bob@example.net?omemo-sid-..."
        raise UsageError("That is not a link with fingerprints.", hint=f"It looks like {like}")
    link.require_of(whose)
    return {device: fingerprint.normalise_for(whose, key) for device, key in pairs}


def _pairs_of_matrix(query: str) -> list[tuple[str, str]]:
    values = [
        unquote(value) for name, _, value in (each.partition("=") for each in query.split("&")) if name == _MATRIX
    ]
    return [(device, key) for device, _, key in (value.rpartition(":") for value in values)]


def id_of(key: KnownKey) -> str:
    """What a device is called in links and as an argument; "" if it has no id that can be relied on: whoever makes an
    OpenPGP key can give it any."""
    if key.scheme == "olm":
        return key.device.label
    return str(key.device.id) if key.scheme == "omemo" else ""


def match(whose: Address, keys: list[KnownKey], typed: str, wanted: Mapping[str, str]) -> list[KnownKey]:
    """The keys that have these fingerprints. Raises `NotTrusted` when one differs: then nothing is verified."""
    if typed:
        shown = fingerprint.normalise_for(whose, typed)
        found = [key for key in keys if key.fingerprint == shown]
        if not found:
            raise NotTrusted(
                "No known key has that fingerprint.",
                hint="Ask your contact again. If it still differs, distrust the key: somebody may sit between you.",
            )
        return found
    by_id = {id_of(key): key for key in keys if id_of(key)}
    for device, shown in wanted.items():
        if device in by_id and by_id[device].fingerprint != shown:
            raise NotTrusted(
                f"Device {device} shows another key than the link says.",
                devices=(by_id[device].device,),
                hint=f"Nothing was verified. Until you know why: tillie trust distrust {whose} {device}",
            )
    found = [by_id[device] for device in wanted if device in by_id]
    if not found:
        raise NotTrusted("None of the devices in that link is known here.", hint=f"See 'tillie devices {whose}'.")
    return found


def ask(ours: Account, whose: Address, keys: list[KnownKey]) -> int:
    """Show both sides and ask about each key. How many are still open."""
    if whose != ours.address:
        _show_own(ours, whose, keys)
    show.sentence(f"{whose} must see exactly this. Compare it face to face or on the telephone, not in this chat.")
    still_open = 0
    for key in keys:
        label = f' "{printable(key.device.label, 60)}"' if key.device.label and key.scheme != "olm" else ""
        kind = _KINDS.get(key.scheme) or f"Device {printable(id_of(key))}"
        show.line()
        show.line(f"{kind[:1].upper()}{kind[1:]}{label}, now {key.trust.value}:")
        show.line(f"  {show.paint(key.fingerprint, 'bold')}")
        answer = _question()
        if answer is not None:
            ours.decide(whose, key.device.key, answer)
            show.line(f"  {kind[:1].upper()}{kind[1:]} is {answer.value} now.")
        elif key.trust is not Trust.VERIFIED:
            still_open += 1
    return still_open


def _show_own(ours: Account, whose: Address, keys: list[KnownKey]) -> None:
    """Our fingerprints, of each kind of key that is compared."""
    kinds = {key.scheme for key in keys}
    mine = ours.own_device()
    if mine is not None and not kinds.isdisjoint(("omemo", "olm")):
        show.sentence(f"Your own key, for {whose} to compare or to scan ({printable(mine.name)}):")
        show.line(f"  {fingerprint.of(mine)}")
        show.line()
        links.show_code(uri_of([mine]))
    for key in ours.keys(ours.address):
        if key.scheme in kinds and (key.info.active if key.info else key.scheme == "esession"):
            show.line(f"Your own {_KINDS[key.scheme]}:")
            show.line(f"  {key.fingerprint}")


def _question() -> Trust | None:
    while True:
        sys.stderr.write("Is it the same? [y]es; [n]o, distrust it; Enter: decide later: ")
        sys.stderr.flush()
        answer = sys.stdin.readline().strip().lower()
        if not answer:
            return None
        if answer in ("y", "yes"):
            return Trust.VERIFIED
        if answer in ("n", "no"):
            return Trust.DISTRUSTED
