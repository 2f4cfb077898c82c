"""The way of a message, both ways. Read this file first.

    Content -> Envelope -> Sealed -> stanza -> outbox          seal, send
    stanza -> Sealed -> Opened (sender, trust) -> inbox        open

On XMPP a stanza has room for more beside what is sealed, and content may hold secrets of nodes; what follows from that
is asked of XMPP alone. On Matrix a sealed element is a whole request, or a whole event.

Pure: every function is a step of one open transaction, run by `engine`. The scheme protects bytes and knows devices;
trust is asked here, above it; the envelope (XEP-0420) binds content to the stanza that carries it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tillie import history
from tillie.envelope import policy
from tillie.errors import BadSignature, NoRecipients, NoSession, OptedOut, PeerError, Refused, Undecryptable, UsageError
from tillie.model import (
    Address,
    Arrived,
    Ask,
    Content,
    Decide,
    Decided,
    Deliver,
    Device,
    DeviceReport,
    Done,
    Effect,
    Envelope,
    Fact,
    Kind,
    Need,
    Opened,
    Sealed,
    Send,
    Stanza,
    State,
    Target,
    Time,
    Trust,
)
from tillie.pubsub import hearing
from tillie.schemes import Scheme
from tillie.trust import decisions
from tillie.trust.decisions import Judgement, Policy
from tillie.wire import stanza as stanzas

# What a program is told of even after a crash; the other kinds have nothing to show.
DELIVERED = frozenset({Kind.OPENED, Kind.NO_SESSION, Kind.TAMPERED, Kind.REFUSED})
_KIND_OF_ERROR = {
    Undecryptable: Kind.TAMPERED,
    BadSignature: Kind.TAMPERED,
    NoSession: Kind.NO_SESSION,
    Refused: Kind.REFUSED,
}
WAITING = "waits for your decision"  # why a long-lived key was left out of a send


# -- out ------------------------------------------------------------------------------------------------------------


def seal(
    s: State,
    scheme: Scheme,
    trust: Policy,
    content: Content,
    to: Address,
    now: Time,
    *,
    also: tuple[Address, ...] = (),
    iq: tuple[str, str] | None = None,
    group: bool = False,
) -> Done[Sealed] | Need:
    """Seal content for every trusted device of `to`, of everybody in `also`, and our own other ones.

    Nothing is ever sealed for a key that no person and no policy trusts: an undecided one makes the whole send wait.
    Where keys are long-lived, it is left out and reported instead, if there is another: a server can announce one more.
    """
    for each in (to, *also):
        require_network(scheme, each)
        if scheme.blocked(s, each.bare):
            raise OptedOut(f"{each.bare}.")
    found = _devices(s, scheme, (to, *also), now)
    if isinstance(found, Need):
        return found
    able, unable = found
    judged = decisions.judge(s, _policy_of(scheme, trust), able, now)
    trusted_addresses = {device.address for device in judged.trusted}
    if scheme.long_lived:
        trusted_addresses.add(scheme.account)  # our own key is always among the recipients
    if judged.undecided and not (scheme.long_lived and all(each.bare in trusted_addresses for each in (to, *also))):
        return Need((Decide(judged.undecided, judged.changed),))
    for each in (to, *also):
        if each.bare not in trusted_addresses:
            _refuse_recipient(each, judged, unable)
    unable += tuple(DeviceReport(device, False, "distrusted") for device in judged.distrusted)
    unable += tuple(DeviceReport(device, False, WAITING) for device in judged.undecided)
    envelope = Envelope(content, sender=scheme.account, to=to.bare if group else None, time=now, iq=iq)
    target = Target(to, judged.trusted, unable, also)
    return scheme.seal(s, scheme.wrap(envelope, target), target, now)


def require_network(scheme: Scheme, to: Address) -> None:
    """Raises `UsageError` if an address is on another network than the account."""
    if to.is_matrix != scheme.account.is_matrix:
        raise UsageError(
            f"{to.bare} is on another network than {scheme.account}.",
            hint="Matrix accounts write to @name:server, XMPP accounts to name@server.",
        )


def _policy_of(scheme: Scheme, trust: Policy) -> Policy:
    """The account's policy as it holds for the keys of this scheme."""
    return trust.strict if scheme.long_lived else trust


def _devices(
    s: State, scheme: Scheme, recipients: tuple[Address, ...], now: Time
) -> tuple[tuple[Device, ...], tuple[DeviceReport, ...]] | Need:
    """The devices of all recipients and our own, each once; what any of them needs, asked for at once."""
    if len(recipients) == 1:
        return scheme.devices(s, recipients[0], now)
    asks: dict[Ask, None] = {}
    able: dict[Device, None] = {}
    unable: dict[DeviceReport, None] = {}
    for recipient in recipients:
        found = scheme.devices(s, recipient, now)
        if isinstance(found, Need):
            asks.update(dict.fromkeys(found.asks))
        else:
            able.update(dict.fromkeys(found[0]))
            unable.update(dict.fromkeys(found[1]))
    return Need(tuple(asks)) if asks else (tuple(able), tuple(unable))


def send(
    s: State,
    scheme: Scheme,
    trust: Policy,
    content: Content,
    to: Address,
    message_id: str,
    now: Time,
    *,
    type: str = "chat",
    plain: Iterable[bytes] = (),
    remember: bool = False,
) -> Done[Sealed] | Need:
    """Seal content and put the finished message into the outbox, in one transaction."""
    if not to.is_matrix and policy.holds_sealed(content):
        raise UsageError("It is sealed already, and would be sealed twice.")
    done = seal(s, scheme, trust, content, to, now, group=type == "groupchat")
    if isinstance(done, Need):
        return done
    item = _finished(scheme, done.value, content, to, message_id, type, plain)
    if remember and done.value.keep:
        said = history.Entry(str(to.bare), True, now, content.data.decode(), message_id, scheme=scheme.name)
        history.append(s, said)
    return Done(done.value, (*done.effects, item))


def _finished(
    scheme: Scheme, sealed: Sealed, content: Content, to: Address, message_id: str, type: str, plain: Iterable[bytes]
) -> Send:
    if to.is_matrix:
        return Send(sealed.element, message_id)
    way = sealed.way
    if way is not None:
        message = stanzas.session_message(way.to, message_id, sealed.element, way.thread, kind=type, plain=plain)
        return Send(message, message_id, way.sender, way.until)
    encryption = stanzas.encryption(scheme.namespace, scheme.title)
    if scheme.fallback and policy.has_body(content):
        plain = (stanzas.body(scheme.fallback), *plain)
    return Send(stanzas.message(to, message_id, sealed.element, encryption, kind=type, plain=plain), message_id)


def _refuse_recipient(to: Address, judged: Judgement, unable: tuple[DeviceReport, ...]) -> None:
    """A message that only our own other devices could read is not a message to `to`."""
    reasons = [f"{d.name}: distrusted" for d in judged.distrusted if d.address == to.bare]
    reasons += [f"{r.device.name}: {r.why}" for r in unable if r.device.address == to.bare]
    raise NoRecipients(
        f"{to.bare} has no device that could read it" + (f" ({'; '.join(reasons)})." if reasons else ".")
    )


# -- in -------------------------------------------------------------------------------------------------------------


def open(
    s: State, scheme: Scheme, trust: Policy, got: Arrived, now: Time, *, remember: bool = False
) -> Done[Opened] | Need:
    """Open what arrived and say what it was. Raises a PeerError where nothing may change; see `failed`."""
    done = scheme.open(s, got, now)
    if isinstance(done, Need):
        return done
    kind, device, plaintext, error, ours, keep = done.value
    trusted = Trust.UNDECIDED
    if device.key:
        trusted = decisions.of(s, _policy_of(scheme, trust), device.address, device.key)
    if ours:
        trusted = Trust.VERIFIED  # nobody has to compare the fingerprint of a key that lies here
    effects: tuple[Effect, ...] = done.effects
    if plaintext is None:
        opened = Opened(kind, scheme.name, device, trusted, error=error)
    else:
        opened = _unwrap(device, trusted, plaintext, got.stanza, scheme, now)
        if opened.content is not None and trusted.allows_sending:
            # Else a device that a server slipped in could opt its owner out, or back in.
            scheme.heard(s, device.address, opened.content)
        if not scheme.account.is_matrix:
            opened, told = _take_secrets(s, scheme, opened, got.stanza, now)
            effects += told
    if opened.kind in DELIVERED:
        effects += (Deliver(encode_delivery(opened, got.stanza)),)
    if remember and keep and opened.content is not None:
        _remember(s, scheme, opened, got.stanza)
    return Done(opened, effects)


def _unwrap(device: Device, trusted: Trust, plaintext: bytes, around: Stanza, scheme: Scheme, now: Time) -> Opened:
    """The envelope, checked against its stanza. Its key was authenticated and is used up even if it does not fit."""
    try:
        envelope, time, notes = scheme.unwrap(plaintext, around, now)
    except PeerError as error:
        return Opened(Kind.REFUSED, scheme.name, device, trusted, error=error.detail)
    dropped = policy.filter_siblings(around.siblings)[1] if around.siblings else ()
    if dropped:
        notes += tuple(f"Dropped from the plain part: {name}." for name in dropped if name not in scheme.beside)
    return Opened(Kind.OPENED, scheme.name, device, trusted, envelope, time, notes)


def _take_secrets(
    s: State, scheme: Scheme, opened: Opened, around: Stanza, now: Time
) -> tuple[Opened, tuple[Effect, ...]]:
    """Secrets of pubsub nodes are for us, not for the person: they leave the content, and enter neither inbox nor
    history. A message that held nothing else has nothing to show."""
    found = hearing.heard(s, scheme.account, opened, around, now)
    if not found.found or opened.envelope is None:
        return opened, ()
    notes = opened.notes + found.notes
    if found.consumed:
        return opened._replace(kind=Kind.EMPTY, envelope=None, notes=notes), found.effects
    return opened._replace(envelope=opened.envelope._replace(content=found.content), notes=notes), found.effects


def failed(scheme: Scheme, got: Arrived, error: PeerError) -> Opened:
    """What a received element was, when opening it raised: nothing was changed."""
    kind = _KIND_OF_ERROR.get(type(error), Kind.MALFORMED)
    return Opened(kind, scheme.name, Device(got.stanza.sender.bare, 0, b""), error=error.detail)


def learn(s: State, scheme: Scheme, fact: Fact, now: Time) -> Done[None]:
    """Take in a fact: a person's decision here, everything else in the scheme."""
    if isinstance(fact, Decided):
        decisions.decide(s, fact.address, fact.key, fact.trust, now)
        return Done(None)
    return scheme.learn(s, fact, now)


def learn_all(s: State, schemes: Iterable[Scheme], fact: Fact, now: Time) -> Done[None]:
    """As `learn`, by every scheme of an account, in one transaction."""
    effects: list[Effect] = []
    for scheme in schemes:
        effects += learn(s, scheme, fact, now).effects
    return Done(None, tuple(effects))


def _remember(s: State, scheme: Scheme, opened: Opened, around: Stanza) -> None:
    content, device = opened.content, opened.device
    if content is None or device is None or opened.time is None:
        return
    ours = device.address == scheme.account
    with_whom = _recipient(opened, around).bare if ours else device.address
    entry = history.Entry(
        str(with_whom), ours, opened.time, content.data.decode(), around.id, device.id, opened.trust.value, scheme.name,
        opened.notes, device.label,
    )  # fmt: skip
    history.append(s, entry)


def _recipient(opened: Opened, around: Stanza) -> Address:
    """To whom it was sent: as the stanza says, or on Matrix, where an event is for one device, as the envelope does."""
    inside = opened.envelope.to if opened.envelope and around.to.is_matrix else None
    return inside or around.to


# -- the inbox ------------------------------------------------------------------------------------------------------


class Delivery(msgspec.Struct, frozen=True):
    """One opened message as it waits in the inbox. `address` and `device` are the sender's, `key` its identity key."""

    kind: str
    scheme: str
    address: str
    to: str
    device: int
    key: bytes
    label: str
    trust: str
    time: Time | None
    content: str
    notes: tuple[str, ...]
    error: str
    stanza: str
    type: str
    id: str
    via: str

    def __repr__(self) -> str:
        return f"Delivery(kind={self.kind!r}, address={self.address!r}, device={self.device}, id={self.id!r})"

    @property
    def is_trusted(self) -> bool:
        return Trust(self.trust).allows_sending


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Delivery)


def encode_delivery(opened: Opened, around: Stanza) -> bytes:
    device = opened.device
    content = opened.content
    return _encoder.encode(
        Delivery(
            opened.kind.value,
            opened.scheme,
            str(device.address if device else around.sender.bare),
            str(_recipient(opened, around)),
            device.id if device else 0,
            device.key if device else b"",
            device.label if device else "",
            opened.trust.value,
            opened.time,
            content.data.decode() if content else "",
            opened.notes,
            opened.error,
            around.kind,
            around.type,
            around.id,
            around.via,
        )
    )


def decode_delivery(message: bytes) -> Delivery:
    return _decoder.decode(message)


__all__ = [
    "DELIVERED",
    "Delivery",
    "Policy",
    "decode_delivery",
    "encode_delivery",
    "failed",
    "learn",
    "learn_all",
    "open",
    "require_network",
    "seal",
    "send",
]
