"""Whether an item's signatures hold, and what that means (XEP-0475 section "Signature Validation", XEP-0476).

**What a valid signature says**: its signer certified this version of the payload for this service at that time. It does
not say that she wrote it, nor first, nor that this is the newest version, nor under which id, nor at which node of the
service it belongs, nor anything of white space around its texts. What the store remembers of earlier checks is told:
the same statement at another item, and a version older than one that the same signer signed later.

**Who may spoil it.** Whoever may write to the attachment node can attach a wrong signature, also one that names
somebody else as its signer, to make a good item look forged. So each signature is reported, but the summary leaves out
what is wrong where its signer did not put it, and strangers beside a signer whose key is trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from hashlib import sha256
from typing import NamedTuple

from tillie.crypto import openpgp, packets
from tillie.crypto.certificates import Certificate
from tillie.envelope.profile import MAX_DELAY, TIME_MARGIN
from tillie.errors import BadSignature, Malformed
from tillie.model import Address, State, Time, Trust
from tillie.pubsub import signed, signing
from tillie.pubsub.attachments import Attached
from tillie.pubsub.items import Item, Node
from tillie.pubsub.signing import Signature

MAX_SIGNATURES = 256  # that are checked at one item
MAX_OF_AUTHOR = 8
MAX_PACKETS = 8  # OpenPGP signatures in one <sign>: Libervia writes one for each of its keys

CAVEAT = "A signature certifies this version of the item. It does not prove who wrote it, or that it is the newest."
SPACE = "White space in this item can be changed without breaking a signature."
MORE = f"There are more than {MAX_SIGNATURES} signatures; the others were not checked."


class Verdict(Enum):
    """What one signature is worth, or all of them together."""

    VALID_TRUSTED = "valid, by a trusted key"
    VALID_UNTRUSTED = "valid, but not by a trusted key: it may be forged"
    INVALID = "not valid: the item is probably forged or was changed"
    UNKNOWN_KEY = "can't be checked: no key of the signer is known"
    UNSUPPORTED = "can't be checked: it is of an unknown kind"
    MISSING = "named as a signer, but has not signed"

    @property
    def is_valid(self) -> bool:
        return self in (Verdict.VALID_TRUSTED, Verdict.VALID_UNTRUSTED)


class Found(NamedTuple):
    """A `<signature>` as it was found: under whose address, published by whom (by the service's word), serialised."""

    author: Address
    publisher: Address | None
    element: bytes


class SignatureReport(NamedTuple):
    """What one signature turned out to be. `fingerprint` is that of the signer's certificate (20 bytes), b"" unless it
    is valid; `time` is the signer's word; `author` is under whose address it was attached, None if it is MISSING."""

    signer: Address
    verdict: Verdict
    author: Address | None
    fingerprint: bytes = b""
    time: Time | None = None
    trust: Trust = Trust.UNDECIDED
    notes: tuple[str, ...] = ()
    error: str = ""
    disputed: bool = False  # it was not its signer who attached it, as far as can be known


class Checked(NamedTuple):
    """All signatures of one item, and what they amount to: None if it is not signed."""

    summary: Verdict | None
    reports: tuple[SignatureReport, ...] = ()
    notes: tuple[str, ...] = ()


class _Checking(NamedTuple):
    s: State
    node: Node
    item: Item
    form: bytes  # `signing.item_form`, b"" if the payload has none
    why: str  # it has none
    certificates: Mapping[Address, Sequence[Certificate]]
    trust: Callable[[Address, bytes], Trust]
    now: Time
    published: Time | None


def found_in(attached: Iterable[Attached]) -> tuple[Found, ...]:
    """The signatures among what people attached to an item, MAX_OF_AUTHOR of each at most."""
    return tuple(
        Found(one.author, one.publisher, element)
        for one in attached
        for element in one.find(signing.SIGNATURE)[:MAX_OF_AUTHOR]
    )


def signers_of(found: Sequence[Found]) -> tuple[Address, ...]:
    """Whose certificates `check` wants: everybody who is named as a signer, MAX_SIGNATURES at most."""
    signers: dict[Address, None] = {}
    for one in found[:MAX_SIGNATURES]:
        try:
            signers.update(dict.fromkeys(signing.parse(one.element).statement.signers))
        except Malformed:
            pass  # `check` reports it
    return tuple(signers)[:MAX_SIGNATURES]


def check(
    s: State,
    node: Node,
    item: Item,
    payload: bytes,
    found: Sequence[Found],
    certificates: Mapping[Address, Sequence[Certificate]],
    trust: Callable[[Address, bytes], Trust],
    now: Time,
    *,
    published: Time | None = None,
) -> Checked:
    """Check an item's signatures: one report or more for each, and one for each signer who is named and has not signed.

    `payload` is the item's in clear, `certificates` what each signer announced, `trust` what we think of a key
    (fingerprint) of an address, `published` when the item was published, if anybody knows. Valid signatures are
    remembered.
    """
    form, why = b"", ""
    try:
        form = signing.item_form(payload)
    except Malformed as error:
        why = error.detail
    at = _Checking(s, node, item, form, why, certificates, trust, now, published)
    reports: list[SignatureReport] = []
    named: dict[Address, set[Address]] = {}  # signer of a valid signature -> whom her statement names
    for one in found[:MAX_SIGNATURES]:
        reports += _check_one(at, one, named)
    signed_by = {report.signer for report in reports if report.verdict.is_valid or not report.disputed}
    missing = {signer: None for others in named.values() for signer in sorted(others) if signer not in signed_by}
    reports += [SignatureReport(signer, Verdict.MISSING, None) for signer in missing]
    notes = []
    if any(report.verdict.is_valid for report in reports):
        notes.append(CAVEAT)
        notes += [SPACE] if signing.loses_space(payload) else []
    notes += [MORE] if len(found) > MAX_SIGNATURES else []
    return Checked(_summary(reports, named, item.publisher), tuple(reports), tuple(notes))


def _check_one(at: _Checking, one: Found, named: dict[Address, set[Address]]) -> list[SignatureReport]:
    try:
        signature = signing.parse(one.element)
    except Malformed as error:
        disputed = one.publisher not in (None, one.author)
        return [SignatureReport(one.author, Verdict.INVALID, one.author, error=error.detail, disputed=disputed)]
    if not signature.signature:
        return [_report(at, one, signature, _claimed(one, signature), Verdict.UNSUPPORTED)]
    if at.why:
        return [_report(at, one, signature, _claimed(one, signature), Verdict.INVALID, error=at.why)]
    data = signing.with_item(at.node, at.form, signature.statement)
    try:
        pieces = [packets.encode(packet) for packet in packets.split(signature.signature, limit=MAX_PACKETS)]
        reports = [_judge(at, one, signature, piece, data) for piece in pieces]
    except Malformed as error:
        return [_report(at, one, signature, _claimed(one, signature), Verdict.INVALID, error=error.detail)]
    for report in reports:
        if report.verdict.is_valid:  # else it is not known who names these signers
            named.setdefault(report.signer, set()).update(signature.statement.signers)
    return reports


def _claimed(one: Found, signature: Signature) -> Address:
    """Who made a signature, if it says the truth: each signer attaches her own."""
    signers = signature.statement.signers
    return one.author if one.author in signers else signers[0]


def _judge(at: _Checking, one: Found, signature: Signature, piece: bytes, data: bytes) -> SignatureReport:
    """One OpenPGP signature. Raises `Malformed`."""
    issuer = openpgp.issuer(piece)
    claimed = _claimed(one, signature)
    held = {signer: _certificates(at, signer) for signer in (claimed, *signature.statement.signers)}
    for signer, certificates in held.items():
        for certificate in certificates:
            if not certificate.has_key(issuer):
                continue
            try:
                openpgp.verify_detached(piece, data, (certificate,))
            except BadSignature:
                why = "Its key was revoked." if certificate.revoked else "It does not fit this version of the item."
                return _report(at, one, signature, signer, Verdict.INVALID, error=why)
            return _valid(at, one, signature, signer, certificate, data)
    if one.author not in signature.statement.signers:
        claimed = next((signer for signer, certificates in held.items() if not certificates), claimed)
    if not held[claimed]:
        return _report(at, one, signature, claimed, Verdict.UNKNOWN_KEY)
    error = f"It is by a key that is not known to be the signer's ({issuer.hex().upper()})."
    return _report(at, one, signature, claimed, Verdict.INVALID, error=error)


def _certificates(at: _Checking, signer: Address) -> tuple[Certificate, ...]:
    """XEP-0373: a key counts for an address only with a user id of it, whoever announced it."""
    return tuple(each for each in at.certificates.get(signer, ()) if each.names(signer))


def _valid(
    at: _Checking, one: Found, signature: Signature, signer: Address, certificate: Certificate, data: bytes
) -> SignatureReport:
    trust = at.trust(signer, certificate.fingerprint)
    verdict = Verdict.VALID_TRUSTED if trust.allows_sending else Verdict.VALID_UNTRUSTED
    made = signed.Made(signer, signature.statement.time, sha256(data).digest())
    notes = signed.remember(at.s, at.node, at.item.id, made)
    if trust is Trust.DISTRUSTED:
        notes += ("You distrust its key.",)
    report = _report(at, one, signature, signer, verdict)
    return report._replace(fingerprint=certificate.fingerprint, trust=trust, notes=report.notes + notes)


def _report(
    at: _Checking, one: Found, signature: Signature, signer: Address, verdict: Verdict, *, error: str = ""
) -> SignatureReport:
    time = signature.statement.time
    notes = []
    if at.item.publisher not in (None, signer):
        notes.append(f"The service says that {at.item.publisher} published the item.")
    if one.author != signer:
        notes.append(f"It is attached under the address of {one.author}, not the signer's.")
    if one.publisher not in (None, signer):
        notes.append(f"The service says that {one.publisher} attached it.")
    if time > at.now + TIME_MARGIN:
        notes.append("Its time is in the future.")
    if at.published is not None and time < at.published - MAX_DELAY:
        notes.append("It was made long before the item was published.")
    if signature.ignored:
        notes.append("It has further elements that the signature does not cover.")
    disputed = one.author != signer or one.publisher not in (None, signer)
    return SignatureReport(
        signer, verdict, one.author, time=time, notes=tuple(notes), error=error, disputed=disputed
    )  # fmt: skip


# -- the summary ----------------------------------------------------------------------------------------------------

_BEST_FIRST = (
    Verdict.VALID_TRUSTED,
    Verdict.VALID_UNTRUSTED,
    Verdict.UNKNOWN_KEY,
    Verdict.UNSUPPORTED,
    Verdict.INVALID,
    Verdict.MISSING,
)


def _summary(
    reports: Sequence[SignatureReport], named: Mapping[Address, set[Address]], publisher: Address | None
) -> Verdict | None:
    """XEP-0475 section "Implementation Notes": one that does not validate makes the item "probably spoofed", one key
    without trust makes it "unreliable", and only else it is signed. For the signers that count; see the module."""
    signers: dict[Address, Verdict] = {}
    for report in sorted(reports, key=lambda report: report.disputed):
        before = signers.get(report.signer)
        if report.disputed and report.verdict is Verdict.INVALID and signers:
            continue
        # Who signed this version has signed it: an older signature of hers beside it takes nothing away.
        if before is None or _BEST_FIRST.index(report.verdict) < _BEST_FIRST.index(before):
            signers[report.signer] = report.verdict
    trusted = {signer for signer, verdict in signers.items() if verdict is Verdict.VALID_TRUSTED}
    if trusted:
        expected = trusted.union({publisher}, *(named.get(signer, set()) for signer in trusted))
        signers = {signer: verdict for signer, verdict in signers.items() if signer in expected}
    verdicts = set(signers.values())
    if not verdicts or Verdict.INVALID in verdicts:
        return Verdict.INVALID if verdicts else None
    if verdicts == {Verdict.VALID_TRUSTED}:
        return Verdict.VALID_TRUSTED
    if any(verdict.is_valid for verdict in verdicts):
        return Verdict.VALID_UNTRUSTED
    return Verdict.UNKNOWN_KEY if Verdict.UNKNOWN_KEY in verdicts else Verdict.UNSUPPORTED
