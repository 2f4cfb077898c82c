"""Sessions as they lie in the store: loading, saving, finding, ending them, and what a program may see of them.

What is live is found by its thread, which is unique in a store: an offer with a thread that is taken is ignored. What
is over keeps no secret; it stays for a while, so that a person can be told why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from tillie.model import Address, Changed, Device, State, Time, Trust
from tillie.schemes.esession import records, tables
from tillie.schemes.esession.records import Moment, Record, Threads
from tillie.schemes.esession.tables import (
    ACTIVE,
    ANSWERED,
    ASKED,
    BROKEN,
    CONCLUDED,
    ENDED,
    ENDING,
    FAILED,
    NONE,
    OFFERED,
    OPEN,
    OVER,
    PENDING,
    STATES,
)
from tillie.trust import associations, decisions, strings

# fmt: off
__all__ = [
    "ACTIVE", "ANSWERED", "ASKED", "BROKEN", "CONCLUDED", "ENDED", "ENDING", "FAILED", "OFFERED",
    "OPEN", "OVER", "PENDING", "STATES",
]  # the states are looked for here
# fmt: on

INITIATOR, RESPONDER, GIVEN = "initiator", "responder", "given"

MAX_PAST = 100  # sessions that are over and still shown, the newest
PAST_LIFE = 7 * 86_400.0
BEAT_LIFE = 86_400.0
_ID_BITS = 31


class Session(NamedTuple):
    """One session, for showing. `trust` is what was decided of the peer's key, by a person or when something was sent;
    `known` that a secret retained from an earlier session with the same client was found; `verifiable` that comparing
    the strings verifies. `why` says why it failed, broke or ended, `instead` is the thread of the one that replaced it.
    """

    thread: str
    own: Address
    peer: Address
    role: str
    state: str
    string: str
    string_name: str
    string_digest: bytes
    verifiable: bool
    trust: Trust
    known: bool
    key: bytes
    association: bytes
    petname: str
    profile: str
    parameters: dict[str, str]
    stanzas: tuple[str, ...]
    started: Time
    sent: int
    received: int
    rekeys: int
    why: str
    instead: str
    wants_end: bool

    @property
    def active(self) -> bool:
        return self.state == ACTIVE

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def device(self) -> Device:
        return device(self.peer, self.key)


def device(peer: Address, key: bytes) -> Device:
    """The other end as the pipeline knows it: its id is for showing alone."""
    number = int.from_bytes(key[1:5], "big") >> (32 - _ID_BITS)
    return Device(peer.bare, number, key)


# -- in the store ---------------------------------------------------------------------------------------------------


def load(s: State, thread: str) -> Record | None:
    """The live session of a thread."""
    data = s.get(records.key("session", thread))
    return records.decode(data, Record) if data is not None else None


def load_past(s: State, thread: str) -> Record | None:
    data = s.get(records.key("past", thread))
    return records.decode(data, Record) if data is not None else None


def live(s: State) -> Iterator[Record]:
    """All sessions and negotiations that are not over."""
    for _, data in list(s.scan(records.key("session"))):
        yield records.decode(data, Record)


def past(s: State) -> Iterator[Record]:
    for _, data in list(s.scan(records.key("past"))):
        yield records.decode(data, Record)


def save(s: State, record: Record) -> None:
    """Keep a live session, as it is after a step that did not change its state or its peer."""
    s.put(records.key("session", record.thread), records.encode(record))


def amend(s: State, record: Record) -> None:
    """Keep what is known of a session, whether it goes on or is over."""
    s.put(records.key("past" if record.state in OVER else "session", record.thread), records.encode(record))


def enter(s: State, record: Record, state: str, now: Time, **more: object) -> tuple[Record, Changed]:
    """Keep a live session in another state, or of another resource of its peer."""
    before = load(s, record.thread)
    tables.require_change(before.state if before is not None else NONE, state)
    if before is not None and before.state in OPEN:
        _unlist(s, before)
    record = msgspec.structs.replace(record, state=state, changed=now, **more)
    save(s, record)
    if state in OPEN:
        threads = _listed(s, record.peer)
        s.put(records.key("open", record.peer), records.encode(Threads((*threads, record.thread))))
    return record, changed(record)


def finish(s: State, record: Record, state: str, why: str, now: Time, *, instead: str = "") -> Changed:
    """A session is over: its secrets go, what it was and why it ended stays for a while."""
    tables.require_change(record.state, state)
    if record.state in OPEN:
        _unlist(s, record)
    s.put(records.key("session", record.thread), None)
    over = msgspec.structs.replace(
        record, state=state, why=why, changed=now, step=b"", channel=b"", instead=instead, wants_end=False
    )
    s.put(records.key("past", record.thread), records.encode(over))
    return changed(record)


def forget_old(s: State, now: Time) -> None:
    """Drop what is over for long, and the oldest beyond MAX_PAST."""
    rows = sorted(past(s), key=lambda each: each.changed, reverse=True)
    for place, record in enumerate(rows):
        if place >= MAX_PAST or now - record.changed > PAST_LIFE:
            s.put(records.key("past", record.thread), None)


def open_with(s: State, peer: Address, own: Address | None = None) -> Record | None:
    """The newest active session with a full JID, or with any resource of a bare one; one of `own` is preferred."""
    if peer.resource:
        threads = list(_listed(s, peer))
    else:
        found = s.scan(records.key("open", f"{peer}/"))
        threads = [thread for _, data in found for thread in records.decode(data, Threads).threads]
    best: Record | None = None
    for thread in threads:
        record = load(s, thread)
        if record is None or record.state != ACTIVE:
            continue
        if best is None or _rank(record, own) >= _rank(best, own):
            best = record
    return best


def listed(s: State, peer: Address) -> list[Record]:
    """The open sessions with a full JID, the newest last."""
    found = (load(s, thread) for thread in _listed(s, peer))
    return [record for record in found if record is not None]


def reload(s: State, record: Record) -> Record:
    """A live session as it is now in the store."""
    newest = load(s, record.thread)
    assert newest is not None
    return newest


def changed(record: Record) -> Changed:
    return Changed(records.SCHEME, record.thread)


def _rank(record: Record, own: Address | None) -> tuple[bool, Time]:
    return record.own == own, record.started


def _listed(s: State, peer: str) -> tuple[str, ...]:
    data = s.get(records.key("open", peer))
    return records.decode(data, Threads).threads if data is not None else ()


def _unlist(s: State, record: Record) -> None:
    left = tuple(thread for thread in _listed(s, record.peer) if thread != record.thread)
    s.put(records.key("open", record.peer), records.encode(Threads(left)) if left else None)


# -- whose connection is there --------------------------------------------------------------------------------------


def beat(s: State, own: Address, now: Time) -> None:
    s.put(records.key("alive", own), records.encode(Moment(now)))


def forget_beats(s: State, now: Time) -> None:
    """Drop those of connections that are long gone: many servers give each one another resource."""
    for key, data in list(s.scan(records.key("alive"))):
        if now - records.decode(data, Moment).at > BEAT_LIFE:
            s.put(key, None)


def last_beat(s: State, own: str) -> Time:
    data = s.get(records.key("alive", own))
    return records.decode(data, Moment).at if data is not None else 0.0


def is_verifiable(record: Record) -> bool:
    """Whether comparing its string verifies the other end: the old kind of string can be made to fit."""
    return bool(record.string) and strings.verifies(record.string_name)


# -- to show --------------------------------------------------------------------------------------------------------


def view(s: State, record: Record) -> Session:
    peer = Address(record.peer)
    decided = decisions.load(s, peer.bare).get(record.key) if record.key else None
    return Session(
        record.thread, Address(record.own), peer, record.role, record.state,
        record.string, record.string_name, record.string_digest, is_verifiable(record),
        decided.trust if decided else Trust.UNDECIDED, record.known, record.key, record.chain,
        associations.load(s, record.key).petname if record.key else "",
        record.profile, dict(record.parameters), record.stanzas, record.started,
        record.sent, record.received, record.rekeys, record.why, record.instead, record.wants_end,
    )  # fmt: skip
