"""Encrypted sessions as one of Tillie's schemes: what `pipeline` calls (XEP-0116, XEP-0200).

Pure: every method reads and writes the `State` passed to it and nothing else. `negotiating` has the steps from message
1 to an open session, `traffic` those of an open one; `sessions` finds and keeps them.

A session belongs to one full JID of ours. All processes of an account see it in the store, and any of them may seal for
it; what they seal goes out through the connection with that resource alone, in the order of sealing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import msgspec

from tillie.crypto.random import random_bytes
from tillie.errors import Malformed, NoRecipients, SessionEnded, UsageError
from tillie.model import (
    Address,
    Arrived,
    Content,
    Decide,
    Device,
    DeviceReport,
    Done,
    Effect,
    Envelope,
    Fact,
    Need,
    Publication,
    RolledBack,
    Sealed,
    Send,
    Stanza,
    State,
    Target,
    Time,
    Trust,
    Way,
)
from tillie.negotiation import threads
from tillie.negotiation.threads import Thread
from tillie.schemes import Outcome, Unwrapped
from tillie.schemes.esession import arriving, content, negotiating, own, records, retained, sessions, text, traffic
from tillie.schemes.esession import channel as channels
from tillie.schemes.esession.channel import Channel
from tillie.schemes.esession.records import Record
from tillie.schemes.esession.sessions import ACTIVE, ASKED, ENDED, ENDING, GIVEN, OPEN, PENDING, Session
from tillie.schemes.esession.settings import STANZAS, Settings
from tillie.trust import associations, decisions
from tillie.trust.decisions import Policy
from tillie.wire import address as addresses
from tillie.wire import xml
from tillie.wire.forms import Field
from tillie.wire.stanza import LIVE_HINTS

OWNER_LIFE = 120.0  # seconds after which a connection that says nothing is gone, and its sessions with it
_FEATURE = b"urn:xmpp:ssn"
_THREAD = "{jabber:client}thread"


def nobody(address: Address) -> bool:
    """The default of `ESession.answers`: an answer tells that we are there."""
    return False


def anybody(address: Address) -> bool:
    """The default of `ESession.asks`."""
    return True


class ESession:
    """One account's encrypted sessions. `account` is its bare address; `settings` are offered and accepted, and
    `settings_of` may give others for some peers (their addresses are bare).

    `own` is our full JID on this connection, None while there is none. `answers` says whether somebody's offer may be
    answered at once, which tells that we are there; of the others, `asks` says whose waits for a person. The rest is
    not answered at all.
    """

    name = records.SCHEME
    title = "Encrypted Session"
    namespace = content.NAMESPACE
    tags: tuple[str, ...] = (arriving.CONTENT_TAG, arriving.FEATURE_TAG, arriving.INIT_TAG)
    fallback = ""
    # What Gajim writes beside a <c/> is in `body`.
    beside = frozenset({"<thread> (jabber:client)", "<body> (jabber:client)", "<error> (jabber:client)"})
    long_lived = False
    watched: frozenset[str] = frozenset()

    def __init__(
        self,
        account: Address,
        settings: Settings | None = None,
        *,
        settings_of: Callable[[Address], Settings] | None = None,
        answers: Callable[[Address], bool] = nobody,
        asks: Callable[[Address], bool] = anybody,
    ) -> None:
        self.account = account
        self.settings = settings or Settings()
        self.settings_of = settings_of
        self.own: Address | None = None
        self.answers = answers
        self.asks = asks

    def _settings(self, s: State, peer: Address) -> Settings:
        """What holds for a peer, with the code that we have with it, if any."""
        found = self.settings_of(peer.bare) if self.settings_of else self.settings
        code = own.code(s, peer.bare)
        return replace(found, other_secret=code) if code else found

    # -- beginning ----------------------------------------------------------------------------------------------------

    def start(self, s: State, to: Address, now: Time, *, thread: str = "", automatic: bool = False) -> Done[str]:
        """Offer a session to a full JID, or to whichever client answers for a bare one; its thread is returned.

        `automatic`: no person asked for it. Then it is refused, with `UsageError`, once so many attempts failed today:
        each is one guess at the short string.
        """
        mine = negotiating.require_own(self.own)
        if to == mine or to == self.account:
            raise UsageError("A session is with somebody else.")
        if automatic and negotiating.too_many(s, to, now):
            raise UsageError(f"So many attempts with {to.bare} failed today that a person must begin the next one.")
        thread = thread or threads.new()
        if sessions.load(s, thread) or sessions.load_past(s, thread):
            raise UsageError("There is, or was, a session with this thread.")
        return Done(thread, negotiating.start(s, self._settings(s, to), mine, to, thread, now))

    def accept(self, s: State, thread: str, now: Time) -> Done[None]:
        """A person says yes to an offer that waits. Raises `SessionEnded`, `UsageError`."""
        record = self._waiting(s, thread)
        return Done(None, negotiating.answer(s, self._settings(s, record.bare), record, now))

    def decline(self, s: State, thread: str, reason: str, now: Time) -> Done[None]:
        """A person says no to an offer that waits; who offered is told. Raises `SessionEnded`, `UsageError`."""
        record = self._waiting(s, thread)
        send = negotiating.rejection(record, reason, now)
        return Done(None, (send, sessions.finish(s, record, ENDED, "declined", now)))

    def _waiting(self, s: State, thread: str) -> Record:
        record = self._live(s, thread)
        if record.state != ASKED:
            raise UsageError("Nobody waits for an answer there.")
        return record

    def install(
        self, s: State, channel: Channel, own: Address, peer: Address, thread: str, stanzas: Iterable[str], now: Time
    ) -> Done[None]:
        """XEP-0200 alone: a session with keys that come from elsewhere (`channel.begin`). Its peer is whoever has them;
        nothing else says who that is. Raises `UsageError`."""
        kinds = tuple(stanzas)
        if not own.resource or not peer.resource or not kinds or not set(kinds) <= set(STANZAS):
            raise UsageError("A session is between two full JIDs, and for message, presence or iq.")
        if sessions.load(s, threads.check(thread)):
            raise UsageError("There is a session with this thread.")
        record = Record(
            thread, str(own), str(peer), GIVEN, ACTIVE, now, now, profile=channel.profile_name, stanzas=kinds
        )
        _, changed = sessions.enter(s, record, ACTIVE, now, channel=channels.encode(channel))
        return Done(None, (changed,))

    # -- an open one --------------------------------------------------------------------------------------------------

    def rekey(self, s: State, thread: str, now: Time) -> Done[None]:
        """New keys, in an empty stanza: who learns today's can't read what is said later. Raises `SessionEnded`;
        `UsageError` where the profile or the agreed frequency forbids it now."""
        return Done(None, traffic.rekey(s, self._live(s, thread), now))

    def renegotiate(self, s: State, thread: str, fields: Iterable[Field], now: Time) -> Done[None]:
        """Ask the peer to change `logging` or `disclosure` (XEP-0155 section 6). Raises as `rekey`."""
        return Done(None, traffic.renegotiate(s, self._live(s, thread), fields, now))

    def move(self, s: State, thread: str, resource: str, now: Time) -> Done[None]:
        """Ask to go on with another resource of ours, which has the same store (XEP-0155 section 5). Nothing can be
        sent until the peer follows. Raises `SessionEnded`, `UsageError`."""
        return Done(None, traffic.move(s, self._live(s, thread), resource, now))

    def end(self, s: State, thread: str, now: Time) -> Done[None]:
        """End a session; the acknowledgement is awaited in the state "ending". A negotiation is given up. Raises
        `SessionEnded`."""
        record = self._live(s, thread)
        if record.state == ENDING:
            return Done(None)
        if record.state == ASKED:
            return self.decline(s, thread, "", now)
        if record.state in PENDING:
            told = negotiating.tell(record, "not-acceptable", (), b"", now) if Address(record.peer).resource else ()
            return Done(None, (*told, *negotiating.give_up(s, record, "given up", now)))
        return Done(None, traffic.end(s, record, now))

    def abandon(self, s: State, thread: str, why: str, now: Time) -> Done[None]:
        """Drop a session with its secrets; the peer is not told. Raises `SessionEnded` if it is over already."""
        return Done(None, self._abandon(s, self._live(s, thread), why, now))

    def _abandon(self, s: State, record: Record, why: str, now: Time) -> tuple[Effect, ...]:
        if record.state in PENDING:
            return negotiating.give_up(s, record, why, now)
        return (sessions.finish(s, record, ENDED, why, now),)

    def peer_left(self, s: State, peer: Address, now: Time) -> Done[None]:
        """A full JID is not available any more: "all open ESessions MUST be terminated before they go offline", so that
        whoever comes back has forgotten."""
        effects: list[Effect] = []
        for record in sessions.live(s):
            if record.peer == peer:
                effects += self._abandon(s, record, "the other side went offline", now)
        return Done(None, tuple(effects))

    # -- who it is ----------------------------------------------------------------------------------------------------

    def confirm(self, s: State, thread: str, same: bool, now: Time) -> Done[None]:
        """A person compared the strings: the same string verifies the peer's client, for as long as its chain of
        retained secrets or its public key goes on. Different ones: somebody is in the middle, and the session ends.

        Raises `UsageError` where there is no string, or one that verifies nobody.
        """
        record = sessions.load(s, thread) or sessions.load_past(s, thread)
        if record is None or not record.string:
            raise UsageError("This session has no string to compare.")
        if not same:
            return Done(None, self._strings_differ(s, record, now))
        if not sessions.is_verifiable(record):
            raise UsageError(
                "That string is of the old kind (sas28x5): whoever is in the middle can make both sides see the same.",
                hint="Verify with a client that knows the new kind, or compare the fingerprints of public keys.",
            )
        if not record.key:
            raise UsageError("The other client keeps nothing by which it could be known again.")
        record, findings = traffic.believe(s, record, now)  # nobody sees a string whose MACs did not verify
        sessions.amend(s, record)
        decisions.decide(s, record.bare, record.key, Trust.VERIFIED, now)
        return Done(None, (*findings, sessions.changed(record)))

    def _strings_differ(self, s: State, record: Record, now: Time) -> tuple[Effect, ...]:
        if record.key:
            decisions.decide(s, record.bare, record.key, Trust.DISTRUSTED, now)
        if record.chain:
            retained.forget(s, record.chain)
        if sessions.load(s, record.thread) is None:
            return (sessions.changed(record),)
        return traffic.broken(s, record, "the strings differ: somebody is in the middle", now).effects

    def name_peer(self, s: State, thread: str, petname: str, now: Time) -> Done[None]:
        """Give the peer's client a petname; "" takes it away. Raises `UsageError`."""
        record = sessions.load(s, thread) or sessions.load_past(s, thread)
        if record is None or not record.key:
            raise UsageError("There is nobody to be named in this session.")
        effects: tuple[Effect, ...] = ()
        if not associations.load(s, record.key).seen:  # it has not spoken yet
            found = associations.saw(s, record.key, record.bare, now)
            effects = negotiating.notices(record.bare, found)
        associations.name(s, record.key, petname)
        return Done(None, (*effects, sessions.changed(record)))

    # -- showing ------------------------------------------------------------------------------------------------------

    def sessions(self, s: State) -> tuple[Session, ...]:
        """All sessions that are not over, and those that were, for a while; the newest last."""
        found = [*sessions.past(s), *sessions.live(s)]
        return tuple(sessions.view(s, record) for record in sorted(found, key=lambda each: each.started))

    def session(self, s: State, thread: str) -> Session | None:
        record = sessions.load(s, thread) or sessions.load_past(s, thread)
        return sessions.view(s, record) if record is not None else None

    def with_peer(self, s: State, address: Address) -> Session | None:
        """The newest active session with a full JID, or with any resource of a bare one."""
        record = sessions.open_with(s, address, self.own)
        return sessions.view(s, record) if record is not None else None

    def failures(self, s: State, address: Address, now: Time) -> int:
        """How many attempts with somebody failed today behind the second message."""
        return negotiating.failures(s, address, now)

    # -- what the pipeline calls --------------------------------------------------------------------------------------

    def prepare(self, s: State, now: Time) -> Done[Device | None] | Need:
        """Sessions are made when they are wanted."""
        return Done(None)

    def devices(self, s: State, to: Address, now: Time) -> tuple[tuple[Device, ...], tuple[DeviceReport, ...]] | Need:
        """The one client at the other end of the session. Raises `SessionEnded` if there is none."""
        record = self._open(s, to)
        return (sessions.device(Address(record.peer), record.key),), ()

    def blocked(self, s: State, to: Address) -> bool:
        return False

    def wrap(self, envelope: Envelope, to: Target) -> bytes:
        """The children of a stanza, as XEP-0200 hides them: there is no envelope around them."""
        if to.also:
            raise UsageError("A session is with one client; nobody else can read it.")
        if envelope.to is not None:
            raise UsageError("A session is with one client, not with a room.")
        if _FEATURE in envelope.content.data:
            raise UsageError("Negotiations inside a session are its own.")
        return text.encode(envelope.content)

    def unwrap(self, plaintext: bytes, around: Stanza, now: Time) -> Unwrapped:
        """XEP-0200 seals neither a time nor the type and id of an IQ: what is known is when it came, in its order."""
        hidden = text.decode(plaintext)
        notes = tuple(f"Dropped from what was sealed: {name}." for name in hidden.dropped)
        return Unwrapped(Envelope(hidden.content), now, notes)

    def seal(self, s: State, plaintext: bytes, to: Target, now: Time) -> Done[Sealed]:
        """The next <c/> of the session with `to`, for a message. Raises `SessionEnded`, `UsageError`, `TooLarge`."""
        record = self._open(s, to.address)
        traffic.require_settled(record)
        self._require_kind(record, "message")
        record, element = traffic.seal(s, record, plaintext, now)
        return Done(self._sealed(record, element, to.skipped, now))

    def _sealed(self, record: Record, element: bytes, skipped: tuple[DeviceReport, ...], now: Time) -> Sealed:
        peer = Address(record.peer)
        report = (DeviceReport(sessions.device(peer, record.key), True), *skipped)
        way = Way(peer, record.thread, Address(record.own), now + traffic.STANZA_LIFE)
        return Sealed(element, self.name, report, way, keep=record.logging != "mustnot")

    def seal_stanza(self, s: State, stanza: bytes, now: Time, *, policy: Policy = Policy.BLIND) -> Done[Sealed] | Need:
        """Seal a whole stanza of ours to a full JID, message, presence or iq, and send it in its turn: what may be
        hidden goes into a <c/>, the rest stays around it. Trust is asked as for every send, of `policy`.

        Raises `SessionEnded`, `UsageError`, `TooLarge`, `NoRecipients`.
        """
        kind, to_whom, stanza = _own_stanza(stanza)
        to = addresses.parse(to_whom)
        if not to.resource:
            raise UsageError("A stanza of a session goes to a full JID.")
        record = self._open(s, to)
        traffic.require_settled(record)
        self._require_kind(record, kind)
        device = sessions.device(to, record.key)
        judged = decisions.judge(s, policy, (device,), now)
        if judged.undecided:
            return Need((Decide(judged.undecided, judged.changed),))
        if judged.distrusted:
            raise NoRecipients(f"{to} is distrusted.")
        divided = text.divide(stanza)
        if _FEATURE in divided.text:
            raise UsageError("Negotiations inside a session are its own.")
        record, element = traffic.seal(s, record, divided.text or None, now)
        around = (threads.write(Thread(record.thread)), LIVE_HINTS) if kind == "message" else ()
        whole = b"".join((divided.before, element, *around, divided.after))
        # A name of its own in the outbox: the id of an answer was chosen by who asked, and may be there already.
        send = Send(whole, random_bytes(12).hex(), record.own, now + traffic.STANZA_LIFE)
        return Done(self._sealed(record, element, (), now), (send,))

    def _require_kind(self, record: Record, kind: str) -> None:
        if kind not in record.stanzas:
            raise UsageError(f"This session was agreed on for {', '.join(record.stanzas)}, not for {kind}.")

    def open(self, s: State, got: Arrived, now: Time) -> Done[Outcome] | Need:
        """A <c/>, a <feature/>, an <init/>, or an error that answers one of ours: see `arriving`."""
        here = arriving.Here(self.own, lambda: self._settings(s, got.stanza.sender), self.answers, self.asks)
        return arriving.open(s, here, got, now)

    def heard(self, s: State, address: Address, content: Content) -> None:
        """Nothing that a contact says changes sessions."""

    def learn(self, s: State, fact: Fact, now: Time) -> Done[None]:
        """A roll-back: every session is dropped, because its next stanza might use a counter for the second time."""
        if not isinstance(fact, RolledBack):
            return Done(None)
        effects: list[Effect] = []
        for record in sessions.live(s):
            if Address(record.peer).resource and record.state != ASKED:
                effects += negotiating.tell(record, "not-acceptable", (), b"", now)
            effects += self._abandon(s, record, "an old copy of the store was found", now)
        return Done(None, tuple(effects))

    def publication(self, s: State, what: str, now: Time) -> Done[Publication | None] | Need:
        """Sessions publish nothing."""
        return Done(None)

    def published(self, s: State, what: str, now: Time) -> Done[None]:
        return Done(None)

    def beat(self, s: State, own: Address, now: Time) -> Done[None]:
        """Our connection with this full JID is there; call it every half minute. Does what is due, too."""
        sessions.beat(s, own, now)
        return self.tick(s, now)

    def tick(self, s: State, now: Time) -> Done[None]:
        """What waited too long is given up, sessions of connections that are gone go, new keys are reported, old ones
        and old records dropped."""
        effects: list[Effect] = []
        for record in sessions.live(s):
            effects += self._look_after(s, record, now)
        retained.expire(s, now)
        negotiating.forget_failures(s, now)
        sessions.forget_old(s, now)
        sessions.forget_beats(s, now)
        return Done(None, tuple(effects))

    def _look_after(self, s: State, record: Record, now: Time) -> tuple[Effect, ...]:
        if now - record.changed > negotiating.LIFE.get(record.state, now):
            return self._too_late(s, record, now)
        # A clock that was set back makes nobody old; who never said anything is as old as the session.
        seen = max(sessions.last_beat(s, record.own), record.started)
        if now - seen > OWNER_LIFE and record.role != GIVEN:
            return self._abandon(s, record, "our connection is gone", now)
        if record.state not in OPEN:
            return ()
        channel = channels.decode(record.channel)
        newer = channels.expire(channel, now)
        if newer is not channel:
            record = msgspec.structs.replace(record, channel=channels.encode(newer))
            sessions.save(s, record)
        return traffic.report_keys(s, record, now)

    def _too_late(self, s: State, record: Record, now: Time) -> tuple[Effect, ...]:
        told: tuple[Effect, ...] = ()
        if record.state in (sessions.ANSWERED, sessions.CONCLUDED, ENDING):
            # It may not have heard of the end, and believe that the session goes on.
            told = negotiating.tell(record, "not-acceptable", (), b"", now)
        if record.state == ENDING:
            over = sessions.finish(s, record, ENDED, "ended, but the other side did not acknowledge it", now)
            return (*told, over)
        return (*told, *negotiating.give_up(s, record, "there was no answer in time", now))

    def reset(self, s: State, address: Address, device_id: int | None, now: Time) -> Done[int]:
        """Drop the sessions with somebody, those that are negotiated too; how many they were."""
        found = [each for each in sessions.live(s) if each.bare == address.bare]
        if device_id is not None:
            found = [each for each in found if sessions.device(Address(each.peer), each.key).id == device_id]
        effects: list[Effect] = []
        for record in found:
            effects += self._abandon(s, record, "reset", now)
        return Done(len(found), tuple(effects))

    # -- small things -------------------------------------------------------------------------------------------------

    def _live(self, s: State, thread: str) -> Record:
        record = sessions.load(s, thread)
        if record is None:
            raise SessionEnded()
        return record

    def _open(self, s: State, to: Address) -> Record:
        record = sessions.open_with(s, to, self.own)
        if record is None:
            raise SessionEnded(f"There is none with {to}.")
        return record


def _own_stanza(stanza: bytes) -> tuple[str, str, bytes]:
    """The kind of a stanza that a program made, to whom it is, and the stanza with an id, and without a thread: the
    session's own names it. Raises `UsageError`."""
    around = text.outside(stanza) if b"thread" not in stanza else None
    if around is not None and around.attributes.get("id"):
        return around.kind, around.attributes.get("to", ""), stanza
    try:
        root = xml.parse(stanza)
    except Malformed as error:
        raise UsageError(error.detail) from None
    kind, to = str(root.tag).rpartition("}")[2], root.get("to", "")
    threads_of_its_own = root.findall(_THREAD)
    if root.get("id") and not threads_of_its_own:
        return kind, to, stanza
    for thread in threads_of_its_own:
        root.remove(thread)
    if not root.get("id"):
        root.set("id", random_bytes(12).hex())
    return kind, to, xml.serialise(root)
