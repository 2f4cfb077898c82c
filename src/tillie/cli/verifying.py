"""Comparing fingerprints: ours to be scanned or read out, theirs to be compared, and links that hold them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping

from tillie.account import Account, KnownKey
from tillie.cli import links, show
from tillie.errors import NotTrusted, UsageError
from tillie.model import Address, Device, Trust
from tillie.trust.fingerprint import fingerprint, normalise
from tillie.wire.display import printable

_KINDS = {"openpgp": "OpenPGP key", "esession": "key for sessions"}
_PARAMETER = re.compile(r"omemo-sid-([0-9]{1,10})=([0-9a-fA-F]{64})")


def uri_of(devices: Iterable[Device]) -> str:
    """An "xmpp:" link with the fingerprints of one account's devices, as clients put it into QR codes."""
    known = list(devices)
    pairs = [f"omemo-sid-{device.id}={fingerprint(device.key).replace(' ', '')}" for device in known]
    return links.write(known[0].address, ";".join(pairs))


def fingerprints_in(uri: str, whose: Address) -> dict[int, str]:
    """The fingerprints in such a link, by device id. Raises `UsageError` if it is none, or somebody else's."""
    link = links.read(uri)
    found = {int(number): normalise(digits) for number, digits in _PARAMETER.findall(link.query)} if link else {}
    if link is None or not found:
        raise UsageError(
            "That is not a link with fingerprints.", hint="It looks like xmpp:bob@example.net?omemo-sid-..."
        )
    link.require_of(whose)
    return found


def match(keys: list[KnownKey], typed: str, wanted: Mapping[int, str]) -> list[KnownKey]:
    """The keys that have these fingerprints. Raises `NotTrusted` when one differs: then nothing is verified."""
    if typed:
        digits = normalise(typed)
        found = [key for key in keys if key.fingerprint == digits]
        if not found:
            raise NotTrusted(
                "No known key has that fingerprint.",
                hint="Ask your contact again. If it still differs, distrust the key: somebody may sit between you.",
            )
        return found
    # OMEMO devices only: whoever makes an OpenPGP key can give it any id.
    by_id = {key.device.id: key for key in keys if key.scheme == "omemo"}
    for number, digits in wanted.items():
        if number in by_id and by_id[number].fingerprint != digits:
            raise NotTrusted(
                f"Device {number} shows another key than the link says.",
                devices=(by_id[number].device,),
                hint=f"Nothing was verified. Until you know why: tillie trust distrust ADDRESS {number}",
            )
    found = [by_id[number] for number in wanted if number in by_id]
    if not found:
        raise NotTrusted("None of the devices in that link is known here.", hint="See 'tillie devices ADDRESS'.")
    return found


def ask(ours: Account, whose: Address, keys: list[KnownKey]) -> int:
    """Show both sides and ask about each key. How many are still open."""
    if whose != ours.address:
        _show_own(ours, whose, keys)
    show.line(f"{whose} must see exactly this. Compare it face to face or on the telephone, not in this chat.")
    still_open = 0
    for key in keys:
        label = f' "{printable(key.device.label, 60)}"' if key.device.label else ""
        kind = _KINDS.get(key.scheme) or f"Device {key.device.id}"
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
    if mine is not None and "omemo" in kinds:
        show.line(f"Your own key, for {whose} to compare or to scan (device {mine.id}):")
        show.line(f"  {fingerprint(mine.key)}")
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
