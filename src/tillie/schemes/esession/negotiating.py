"""The way to a session, as it lies in the store: messages 1 to 4, what a person may have to say to it, and all that can
go wrong (XEP-0116 sections 4 to 6, XEP-0155).

`offer`, `four` and `three` compute forms; here is what is kept between them, whom they go to, and what is counted. An
attempt that fails leaves nothing behind but the reason: "both entities MUST discard" all that was learned in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from tillie.crypto.random import random_bytes
from tillie.errors import Malformed, NegotiationFailed, PeerError, StoreDamaged, UsageError
from tillie.model import Address, Effect, Notice, Send, State, Time, Trust
from tillie.negotiation import element as wire
from tillie.negotiation import options
from tillie.negotiation import session as moves
from tillie.schemes.esession import channel as channels
from tillie.schemes.esession import four, identity, offer, records, retained, sessions
from tillie.schemes.esession.records import Failures, Record
from tillie.schemes.esession.sessions import (
    ACTIVE,
    ANSWERED,
    ASKED,
    CONCLUDED,
    ENDING,
    FAILED,
    INITIATOR,
    OFFERED,
    RESPONDER,
)
from tillie.schemes.esession.settings import Parties, Settings
from tillie.schemes.esession.states import Answering, Concluding, Established, Offering
from tillie.trust import decisions
from tillie.wire import forms, stanza, xml
from tillie.wire.forms import Field, Form

# Seconds that a state lasts at most. A person may have to decide on an offer; the steps after it are computed at once.
LIFE = {OFFERED: 300.0, ASKED: 600.0, ANSWERED: 120.0, CONCLUDED: 120.0, ENDING: 30.0}
MAX_PENDING = 32  # negotiations that others began, at once: each costs an exponentiation and a record
MAX_PENDING_OF_ONE = 4  # ... by one bare address
MAX_ECHO = 65_536  # bytes of a form that an error repeats
MAX_OF_ONE = 32  # sessions and negotiations with one bare address
MAX_RETRIES = 3  # automatic ones, for each peer and day, after attempts that failed behind message 2
DAY = 86_400.0
CROSSED = "both began at once; the other attempt goes on"

T = TypeVar("T", bound=msgspec.Struct)
Effects = tuple[Effect, ...]


# -- message 1 ------------------------------------------------------------------------------------------------------


def start(s: State, settings: Settings, own: Address, to: Address, thread: str, now: Time) -> Effects:
    """Message 1: what we offer, to a bare JID or one resource."""
    offering, form = offer.offer(settings)
    record = Record(thread, str(own), str(to), INITIATOR, OFFERED, now, now, step=_pack(offering))
    return _go(s, record, OFFERED, wire.feature(form), now, amp=True)


def asked(s: State, own: Address, peer: Address, thread: str, form: Form, now: Time) -> tuple[Record, Effects]:
    """An offer that waits: for `answer` at once, or for a person."""
    record = Record(thread, str(own), str(peer), RESPONDER, ASKED, now, now, step=form.xml)
    record, changed = sessions.enter(s, record, ASKED, now)
    return record, (changed,)


def crossing(s: State, own: Address, peer: Address) -> Record | None:
    """An offer of ours that this peer has not answered: it may have made its own before it saw ours."""
    for record in sessions.live(s):
        if record.state == OFFERED and record.own == own and record.peer in (peer, peer.bare):
            return record
    return None


def ours_goes_on(own: Address, peer: Address) -> bool:
    """Which of two offers that crossed goes on: that of the lower full JID. Both ends know both JIDs."""
    return str(own) < str(peer)


def may_take(s: State, peer: Address, *, waits: bool) -> bool:
    """Whether one more negotiation that `peer` began may be kept: one that waits for a person, so that strangers crowd
    out only each other, or one that is answered at once."""
    live = list(sessions.live(s))
    pending = [each for each in live if each.role == RESPONDER and each.state == (ASKED if waits else ANSWERED)]
    of_one = [each for each in live if each.bare == peer.bare]
    return (
        len(pending) < MAX_PENDING
        and sum(each.state in (ASKED, ANSWERED) for each in of_one) < MAX_PENDING_OF_ONE
        and len(of_one) < MAX_OF_ONE
    )


# -- messages 2 to 4 ------------------------------------------------------------------------------------------------


def answer(s: State, settings: Settings, record: Record, now: Time) -> Effects:
    """Message 2, to an offer that came."""
    asked = forms.parse(record.step)
    try:
        answering, form = offer.answer(settings, asked)
    except PeerError as error:
        return fail(s, record, error, now, echo=wire.feature(asked))
    record = msgspec.structs.replace(record, step=_pack(answering))
    return _go(s, record, ANSWERED, wire.feature(form), now)


def conclude(
    s: State, settings: Settings, record: Record, peer: Address, form: Form, echo: bytes, now: Time
) -> Effects:
    """Message 2 came: message 3. From here on the session is with the resource that answered."""
    record = msgspec.structs.replace(record, peer=str(peer))
    secrets = retained.secrets(s, peer.bare, now)
    try:
        after, message = four.conclude(_step(record, Offering), settings, _parties(record), form, secrets, now=now)
    except PeerError as error:
        return fail(s, record, error, now, echo=echo, counted=True)
    if isinstance(after, Established):  # with three messages, this is the last
        return (told(record, wire.feature(message), now), *_open(s, record, after, now, proven=True)[1])
    record = msgspec.structs.replace(record, step=_pack(after))
    return _go(s, record, CONCLUDED, wire.feature(message), now)


def accept(s: State, settings: Settings, record: Record, form: Form, echo: bytes, now: Time) -> Effects:
    """Message 3 came: message 4, and the session is open."""
    peer = Address(record.peer)
    secrets = retained.all_secrets(s, peer.bare, now)
    try:
        done, message = four.accept(_step(record, Answering), settings, _parties(record), form, secrets, now=now)
    except PeerError as error:
        return fail(s, record, error, now, echo=echo, counted=True)
    record, effects = _open(s, record, done, now, proven=False)
    return effects if message is None else (told(record, wire.init(message), now), *effects)


def finish(s: State, settings: Settings, record: Record, form: Form, echo: bytes, now: Time) -> Effects:
    """Message 4 came: the session is open."""
    secrets = retained.secrets(s, Address(record.peer).bare, now)
    try:
        done = four.finish(_step(record, Concluding), settings, form, secrets, now=now)
    except PeerError as error:
        return fail(s, record, error, now, echo=echo, counted=True)
    return _open(s, record, done, now, proven=True)[1]


def _open(s: State, record: Record, done: Established, now: Time, *, proven: bool) -> tuple[Record, Effects]:
    peer = Address(record.peer)
    public = identity.fingerprint(done.peer_key.key_value) if done.peer_key else b""
    proven = proven or (done.used is None and bool(public))
    kept = retained.retain(s, done.used, done.new_secret, public, peer, now, proven=proven)
    values = msgspec.structs.asdict(done.parameters)
    record, changed = sessions.enter(
        s, record, ACTIVE, now,
        step=b"", channel=channels.encode(done.channel), key=kept.key, chain=kept.chain, public=public, proven=proven,
        known=kept.known, string=done.string, string_name=done.string_name, string_digest=done.string_digest,
        profile=done.profile, stanzas=done.parameters.stanzas, logging=done.parameters.logging,
        parameters=tuple((name, _shown(value)) for name, value in values.items()),
    )  # fmt: skip
    if proven:
        forgive(s, peer, kept.key)
    return record, (changed, *notices(peer, kept.findings))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def notices(peer: Address, findings: Iterable[str]) -> tuple[Notice, ...]:
    return tuple(Notice(peer.bare, each) for each in findings)


# -- failing --------------------------------------------------------------------------------------------------------


def fail(s: State, record: Record, error: PeerError, now: Time, *, echo: bytes = b"", counted: bool = False) -> Effects:
    """An attempt came to nothing: its secrets go, the peer is told what XEP-0116 has it told, and a person why."""
    condition, fields = "not-acceptable", tuple[str, ...]()
    if isinstance(error, NegotiationFailed):
        condition, fields = error.condition, error.fields
    why = error.detail or str(error)
    effects = give_up(s, record, why, now, counted=counted)
    return (*tell(record, condition, fields, echo, now), *effects) if condition else effects


def give_up(s: State, record: Record, why: str, now: Time, *, counted: bool = False) -> Effects:
    """As `fail`, but the peer is told nothing."""
    peer = record.bare
    changed = sessions.finish(s, record, FAILED, why, now)
    text = f"no encrypted session: {why}"
    if counted or record.state in (ANSWERED, CONCLUDED):
        count = _count(s, peer, now)
        text += f" (attempt {count} today that failed behind the second message)"
    return (changed, Notice(peer, text))


def refuse(own: Address, peer: Address, thread: str, error: PeerError, echo: bytes, now: Time) -> tuple[Send, ...]:
    """The answer to what is no offer. Nothing is kept of it."""
    condition = error.condition if isinstance(error, NegotiationFailed) else "not-acceptable"
    return (message(own, peer, thread, wire.error(condition, (), _echo(echo)), now, kind="error"),) if condition else ()


def _echo(element: bytes) -> bytes:
    """What an error repeats of what it answers: nothing that could break our own stream, or fill it."""
    try:
        xml.parse(element, max_bytes=MAX_ECHO)
    except Malformed:
        return b""
    return element


def tell(record: Record, condition: str, fields: Iterable[str], echo: bytes, now: Time) -> tuple[Send, ...]:
    """The error that the peer gets (XEP-0155 section 4.3, XEP-0116); none without a condition."""
    if not condition:
        return ()
    own, peer = Address(record.own), Address(record.peer)
    return (message(own, peer, record.thread, wire.error(condition, fields, _echo(echo)), now, kind="error"),)


def failures(s: State, peer: Address, now: Time) -> int:
    """How many attempts with a bare address failed behind message 2 today."""
    data = s.get(records.key("failures", peer.bare))
    found = records.decode(data, Failures) if data is not None else Failures(0, 0)
    return found.count if found.day == int(now // DAY) else 0


def _count(s: State, peer: Address, now: Time) -> int:
    count = failures(s, peer, now) + 1
    s.put(records.key("failures", peer.bare), records.encode(Failures(int(now // DAY), count)))
    return count


def forget_failures(s: State, now: Time) -> None:
    """Those of other days count no more."""
    for key, data in list(s.scan(records.key("failures"))):
        if records.decode(data, Failures).day != int(now // DAY):
            s.put(key, None)


def forgive(s: State, peer: Address, key: bytes) -> None:
    """A client that was verified has shown that it is there: what failed before was no guess at its string."""
    decision = decisions.load(s, peer.bare).get(key)
    if decision is not None and decision.trust is Trust.VERIFIED:
        s.put(records.key("failures", peer.bare), None)


def too_many(s: State, peer: Address, now: Time) -> bool:
    """Whether nothing is tried automatically any more today. Each attempt is one guess of a short string."""
    return failures(s, peer, now) > MAX_RETRIES


# -- messages -------------------------------------------------------------------------------------------------------


def told(record: Record, child: bytes, now: Time, *, life: float = LIFE[ANSWERED]) -> Send:
    """A message within a session or its negotiation."""
    return message(Address(record.own), Address(record.peer), record.thread, child, now, life=life)


def message(
    own: Address,
    peer: Address,
    thread: str,
    child: bytes,
    now: Time,
    *,
    kind: str = "normal",
    amp: bool = False,
    life: float = LIFE[ANSWERED],
) -> Send:
    """A message of a negotiation: from this resource of ours alone, and not for later."""
    message_id = random_bytes(12).hex()
    plain = (wire.DROP_IF_STORED,) if amp else ()
    data = stanza.session_message(peer, message_id, child, thread, kind=kind, plain=plain)
    return Send(data, message_id, str(own), now + life)


def rejection(record: Record, reason: str, now: Time) -> Send:
    """A person's no to an offer (XEP-0155 section 4.3)."""
    own, peer = Address(record.own), Address(record.peer)
    _, form = moves.asked(own, peer, record.thread, forms.parse(record.step)).reject(reason)
    return told(record, wire.feature(form), now)


def cancellation(own: Address, peer: Address, thread: str, now: Time) -> Send:
    """To a client that answered after another one of the same person (XEP-0155 section 4.4)."""
    fields = (
        Field("FORM_TYPE", values=(options.SSN,)), Field("accept", values=("0",)),
        Field("reason", values=("Another client was the first to answer.",)),
    )  # fmt: skip
    return message(own, peer, thread, wire.feature(forms.write("result", fields)), now)


def _go(s: State, record: Record, state: str, child: bytes, now: Time, *, amp: bool = False) -> Effects:
    send = message(Address(record.own), Address(record.peer), record.thread, child, now, amp=amp)
    _, changed = sessions.enter(s, record, state, now, message_id=send.id)
    return (send, changed)


def _parties(record: Record) -> Parties:
    return Parties(Address(record.own), Address(record.peer), record.thread)


def _pack(step: msgspec.Struct) -> bytes:
    return msgspec.msgpack.encode(step)


def _step(record: Record, what: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(record.step, type=what)
    except msgspec.DecodeError:
        raise StoreDamaged("A negotiation can't be read.") from None


def require_own(own: Address | None) -> Address:
    if own is None:
        raise UsageError("There is no connection that a session could belong to.")
    return own
