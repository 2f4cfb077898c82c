"""`tillie demo session`: two people agree on an encrypted session through a server that would rather read it.

Alice and Bob are online, each with a store of her or his own. They negotiate, compare their strings, talk, change keys
and end; the next time their clients know each other. All of it goes through the hands of Mallory, who runs the server:
first she only watches, then she tries everything that she can. At the end all that the server holds, and all that she
saw, is searched for what was said and for the keys.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tillie.client import text_content, text_of
from tillie.demo import grinding, mallory, middle, performance
from tillie.demo.mallory import Once, Swap, is_sealed
from tillie.demo.middle import Doing, WatchedPlace
from tillie.demo.people import Player
from tillie.demo.performance import NotAsWritten
from tillie.demo.places import ALICE, BOB, Place
from tillie.demo.stage import Stage
from tillie.errors import NegotiationFailed, NotTrusted, Unreachable
from tillie.model import Address, Done, Notice, State, Trust
from tillie.networks import Options
from tillie.pipeline import Delivery
from tillie.schemes.esession import channel, records
from tillie.schemes.esession.records import Chain, Record
from tillie.schemes.esession.sessions import ACTIVE, BROKEN, ENDED, FAILED, Session
from tillie.schemes.esession.settings import Settings
from tillie.sessions import Sessions
from tillie.trust import strings

WAIT_SECONDS = 15.0  # until something must have happened
MESSAGES = 4  # of a negotiation
_LOOK_SECONDS = 0.02

HELLO = "Hark! Is the nurse abroad? Then speak, for none but thee shall hear it."
ANSWER = 'She sleeps. "Speak on," said I, & blew the candle out. <3'
STATUS = "In the orchard, under the pomegranate tree."
NEW_KEYS = "Our locks are changed, and still I find thy door."
NEVER = "This line stays at home: it was never sealed for a stranger."
ALTERED = "Bring the silver ring and not the golden one."
REPEATED = "Send the ladder up once."
DROPPED = "Do not come before midnight."
AFTER_DROPPED = "Come at the stroke of one instead."
GOES_ON = "They say that we have parted. We have not."
OVERHEARD = "Alice to Bob, or so both of them believe."


class Person(Player):
    """Somebody who has sessions. `told` is what she was told in passing."""

    def __init__(self, name: str, address: Address, place: Place, folder: Path) -> None:
        super().__init__(name, address, place, folder)
        self.told: list[str] = []

    @property
    def sessions(self) -> Sessions:
        return self.client.sessions

    @property
    def own(self) -> Address:
        """Her full JID."""
        own = self.client.engine.own
        if own is None:
            raise Unreachable(f"{self.name} is offline.")
        return own

    async def arrive(self) -> None:
        options = Options(notice=self._hear, sessions=Settings(rekey_frequency=1))
        await self.log_in(options)

    def _hear(self, notice: Notice) -> None:
        self.told.append(notice.text)

    async def say(self, session: Session, text: str) -> None:
        await self.sessions.send(session.peer, text_content(text))

    async def until(self, what: Callable[[Session], bool], otherwise: str) -> Session:
        """Wait for a session of which this can be said; the newest first."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            for session in reversed(await self.sessions.all()):
                if what(session):
                    return session
            await asyncio.sleep(_LOOK_SECONDS)
        raise NotAsWritten(f"{self.name}: {otherwise}")

    async def gets(self, kind: str) -> Delivery:
        """Wait for a stanza of this kind that came in a session."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            for row, delivery in await self.client.engine.inbox():
                if delivery.stanza == kind and delivery.scheme == records.SCHEME and delivery.content:
                    await self.client.engine.acknowledge(row)
                    return delivery
            await asyncio.sleep(_LOOK_SECONDS)
        raise NotAsWritten(f"{self.name} got no {kind} in {WAIT_SECONDS:.0f} seconds.")

    async def reads(self, text: str) -> str:
        """Wait for the next message, which must say this."""
        got = text_of((await self.gets("message")).content)
        if got != text:
            raise NotAsWritten(f"{self.name} read something else than what was written.")
        return got

    async def has_read_nothing(self) -> None:
        if any(delivery.content for _, delivery in await self.client.engine.inbox()):
            raise NotAsWritten(f"{self.name} read what was altered, repeated or out of its order.")

    async def keys(self) -> set[bytes]:
        """What opens or continues her sessions, as it is now."""
        return await self.client.engine.drive(lambda s: Done(set(_keys(s))))


def _keys(s: State) -> Iterator[bytes]:
    """Not the keys of MACs: those are published when they are spent, so that anybody could have made the stanzas."""
    for _, data in s.scan(records.key("session")):
        kept = records.decode(data, Record).channel
        if kept:
            open_session = channel.decode(kept)
            yield open_session.kc
            for keys in open_session.sets:
                yield keys.kc
                yield keys.x
    for _, data in s.scan(records.key("chain")):
        chain = records.decode(data, Chain)
        yield chain.secret
        yield chain.previous


class Rendezvous:
    """The play."""

    search = "nothing that was said, and no key, is in the server's data and logs, or was seen by the man in the middle"
    sought = "every text above, and every key of the sessions"

    def __init__(self, place: WatchedPlace, stage: Stage, folder: Path) -> None:
        self.place = place
        self.stage = stage
        self.alice = Person("Alice", ALICE, place, folder / "alice")
        self.bob = Person("Bob", BOB, place, folder / "bob")
        self._said: list[str] = []
        self._secrets: set[bytes] = set()

    async def play(self) -> None:
        step = self.stage.step
        with step(f"{self.place.name} starts, with a man in the middle"):
            await self.place.open()
            self.stage.server(self.place.name, self.place.version)
        with step("Alice and Bob come online"):
            await self.alice.arrive()
            await self.bob.arrive()
        with step("Alice asks Bob for a session, and they agree on keys"):
            session = await self._meet(known=False)
        with step("they read their strings to each other, and they are the same"):
            await self._compare(session)
        with step("Alice writes, Bob reads; Bob answers, Alice reads"):
            await self._exchange(self.alice, self.bob, session, HELLO)
            await self._exchange(self.bob, self.alice, session, ANSWER)
        with step("a question of Alice's client to Bob's, and the answer (IQ); Bob's status (presence)"):
            await self._question()
            await self._presence()
        with step("new keys, and Alice writes under them"):
            await self._rekey(session)
        with step("they end the session, and the next one knows who it is"):
            await self._end(session)
            await self._end(await self._meet(known=True))
        await self._attacks()
        with step(f"the old string of XEP-0116, cut to {grinding.SHOWN} characters, is forged"):
            await asyncio.to_thread(self._forge)
        with step("the same attack finds nothing to choose in ours"):
            await asyncio.to_thread(self._forge_ours)

    async def _attacks(self) -> None:
        step = self.stage.step
        with step("Mallory answers Alice as Bob, and asks Bob as Alice: both are told, and nothing is sent"):
            await self._swap()
        with step("she alters a proof on its way: there is no session, and the attempt is counted"):
            await self._spoil_negotiation()
        with step("she alters one bit of a message: the session is over, and both see why"):
            await self._spoil(mallory.alter, ALTERED)
        with step("she repeats a message: the same"):
            await self._spoil(mallory.repeat, REPEATED, read=[REPEATED])
        with step("she drops a message: the next one shows it"):
            await self._spoil(mallory.drop, DROPPED, AFTER_DROPPED)
        with step("she says in the clear that the session is over: it goes on"):
            await self._end_in_clear()

    # -- as it should be ----------------------------------------------------------------------------------------------

    async def _meet(self, *, known: bool) -> Session:
        """A session, begun by Alice, with nobody in between. `known`: both have met before, and compared strings."""
        passed = len(self.place.middle.seen)
        session = await self.alice.sessions.start(BOB)
        theirs = await self._bobs(session)
        if session.string != theirs.string or session.known is not known or theirs.known is not known:
            raise NotAsWritten("Alice and Bob don't agree on the session.")
        if known and {session.trust, theirs.trust} != {Trust.VERIFIED}:
            raise NotAsWritten("The session is not verified, though the one before it was.")
        await self._note_keys()
        if not known:
            self._show(session, theirs)
            stanzas = [each for each in self.place.middle.seen[passed:] if b"<thread" in each]
            size = sum(map(len, stanzas))
            self.stage.remark(
                f"The server saw {len(stanzas)} stanzas, {size:,} bytes, and no key can be had from them."
            )
            if len(stanzas) != MESSAGES:
                raise NotAsWritten("A negotiation has four messages.")
        return session

    async def _bobs(self, session: Session) -> Session:
        """Bob's end of Alice's session."""
        return await self.bob.until(lambda each: each.thread == session.thread and each.active, "There is no session.")

    async def _note_keys(self) -> None:
        self._secrets |= await self.alice.keys() | await self.bob.keys()

    async def _compare(self, session: Session) -> None:
        for person in (self.alice, self.bob):
            await person.sessions.confirm(session.thread, same=True)
        mine, theirs = [await person.sessions.get(session.thread) for person in (self.alice, self.bob)]
        self._show(mine, theirs)

    async def _exchange(self, author: Person, reader: Person, session: Session, text: str) -> None:
        self._said.append(text)
        await author.say(await author.sessions.get(session.thread), text)
        got = await reader.reads(text)
        self.stage.exchange(author.name, text, self._seen_last(author), [], [(reader.name, got)])

    def _seen_last(self, author: Person) -> bytes:
        """The newest sealed stanza of hers, as it passed the server."""
        found = [stanza for stanza in self.place.middle.seen if is_sealed(stanza, author.own)]
        if not found:
            raise NotAsWritten(f"Nothing sealed of {author.name} passed the server.")
        return found[-1]

    async def _question(self) -> None:
        features = await self.place.ask(self.alice.client, self.bob.client)
        stanza, answer = self._seen_last(self.alice), self._seen_last(self.bob)
        if not features or not stanza.startswith(b"<iq") or not answer.startswith(b"<iq"):
            raise NotAsWritten("The question was not sealed, or not the answer.")
        got = f"{len(features)} features, {features[0]} first"
        self.stage.exchange(
            "Alice's client", "What can thy client do?", stanza, [], [("Alice's client", got)], verb="asked"
        )

    async def _presence(self) -> None:
        self._said.append(STATUS)
        shown = await self.place.tell(self.bob.client, self.alice.client, STATUS)
        if shown != STATUS:
            raise NotAsWritten("Alice sees another status than Bob's.")
        stanza = self._seen_last(self.bob)
        if not stanza.startswith(b"<presence"):
            raise NotAsWritten("Bob's status was not sealed.")
        self.stage.exchange("Bob", STATUS, stanza, [], [("Alice", shown)], verb="let Alice see")

    async def _rekey(self, session: Session) -> None:
        await self.alice.sessions.rekey(session.thread)
        await self._note_keys()
        await self._exchange(self.alice, self.bob, session, NEW_KEYS)
        await self._note_keys()
        rekeyed = await self.alice.sessions.get(session.thread)
        if not rekeyed.rekeys:
            raise NotAsWritten("The keys are the old ones.")

    async def _end(self, session: Session) -> None:
        ended = await self.alice.sessions.end(session.thread)
        theirs = await self.bob.until(lambda each: each.thread == session.thread and each.over, "It does not end.")
        if (ended.state, theirs.state) != (ENDED, ENDED):
            raise NotAsWritten(f"The session did not end in order: {ended.why}; {theirs.why}.")

    # -- as Mallory would have it -------------------------------------------------------------------------------------

    async def _swap(self) -> None:
        people = (self.alice, self.bob)
        passed = len(self.place.middle.seen)
        for person in people:
            person.told.clear()
        swap = await Swap.between(self.place.middle, self.alice.own, self.bob.own)
        try:
            session = await self.alice.sessions.start(BOB)
            theirs = await self.bob.until(lambda each: each.active, "Mallory did not ask.")
            if session.string == theirs.string:  # once in 481,890,304 plays
                raise NotAsWritten("The strings are the same, with a man in the middle.")
            refusals = [
                await self._refuses(person, mine) for person, mine in zip(people, (session, theirs), strict=True)
            ]
            self._show(session, theirs, *refusals)
            if any(map(is_sealed, self.place.middle.seen[passed:])):
                raise NotAsWritten("Something was sent into the session with Mallory.")
            for person, mine in zip(people, (session, theirs), strict=True):
                await person.sessions.confirm(mine.thread, same=False)
        finally:
            await swap.close()

    async def _refuses(self, person: Person, session: Session) -> list[str]:
        """Nothing may go to somebody who is not who was verified; what is said to the person."""
        if session.known or session.trust is Trust.VERIFIED:
            raise NotAsWritten(f"{person.name} takes Mallory for somebody she knows.")
        if not person.told:
            raise NotAsWritten(f"{person.name} was told nothing.")
        self._said.append(NEVER)
        try:
            await person.say(session, NEVER)
        except NotTrusted as error:
            return [*(f"! {text}" for text in dict.fromkeys(person.told)), "", f"> {NEVER}", f"! {error}"]
        raise NotAsWritten(f"{person.name} could write to Mallory.")

    async def _spoil(self, trick: Doing, *texts: str, read: Sequence[str] = ()) -> None:
        """A session in which the first message meets a trick of Mallory's."""
        session = await self._meet(known=True)
        self._said += texts
        self.place.middle.doing = Once(self.place.middle, trick)
        for text in texts:
            await self.alice.say(session, text)
        for text in read:
            await self.bob.reads(text)
        mine, theirs = [
            await person.until(lambda each: each.thread == session.thread and each.over, "The session goes on.")
            for person in (self.alice, self.bob)
        ]
        if (mine.state, theirs.state) != (BROKEN, BROKEN):
            raise NotAsWritten("Mallory's trick was not noticed.")
        await self.bob.has_read_nothing()
        wrote, got = [f"> {text}" for text in texts], [f"< {text}" for text in read] or ["(nothing came)"]
        self.stage.columns(
            [("Alice sees", [*wrote, *_screen(mine, "Bob")]), ("Bob sees", [*got, *_screen(theirs, "Alice")])]
        )

    async def _end_in_clear(self) -> None:
        session = await self._meet(known=True)
        self.bob.told.clear()
        self.place.middle.give(mallory.end_in_clear(session))
        await self._exchange(self.alice, self.bob, session, GOES_ON)
        theirs = await self.bob.sessions.get(session.thread)
        if theirs.state != ACTIVE or not self.bob.told:
            raise NotAsWritten("Bob believed it, or was not told.")
        self._show(await self.alice.sessions.get(session.thread), theirs, (), [f"! {text}" for text in self.bob.told])
        await self._end(session)

    async def _spoil_negotiation(self) -> None:
        self.place.middle.doing = mallory.Proof(self.place.middle)
        try:
            await self.alice.sessions.start(BOB)
        except NegotiationFailed as error:
            self.alice.told.append(str(error))
        else:
            raise NotAsWritten("Nobody noticed that a proof was altered.")
        theirs = await self.bob.until(lambda each: each.state == FAILED, "The attempt did not fail.")
        counted = [person.account.failed_sessions(other) for person, other in ((self.alice, BOB), (self.bob, ALICE))]
        if counted != [1, 1]:
            raise NotAsWritten("The attempt was not counted.")
        (mine,) = (each for each in await self.alice.sessions.all() if each.thread == theirs.thread)
        note = "! attempts that failed today: 1"
        self._show(mine, theirs, [note], [note])

    def _forge(self) -> None:
        n = grinding.SHOWN
        forged = grinding.forge(self.alice.own, self.bob.own, text_content(OVERHEARD).data, now=time.time())
        if not forged.succeeded or forged.overheard != forged.read:
            raise NotAsWritten("The old string could not be forged.")
        alice, bob = (f"string: {'.' * (len(seen) - n)}{seen[-n:]}" for seen in (forged.alice, forged.bob))
        read = text_of(forged.overheard.decode())
        self.stage.columns([("Alice sees", [alice]), ("Mallory reads", [read]), ("Bob sees", [bob])])
        self.stage.remark(f"{forged.tries:,} tries in {forged.seconds:.1f} s, on one core.")
        self.stage.remark(f"All five characters would take about {forged.whole_seconds / 60:,.0f} minutes like this.")
        self.stage.remark("So in Tillie the old string verifies nobody.")

    def _forge_ours(self) -> None:
        seen, tried = grinding.strings_of_ours(self.alice.own, self.bob.own, now=time.time())
        if len(tried) != 1 or seen in tried:
            raise NotAsWritten("Mallory could choose Bob's string.")
        self.stage.columns([("Alice sees", [f"string: {seen}"]), ("Bob sees", [f"string: {min(tried)}"])])
        self.stage.remark(f"Mallory made {grinding.OURS_TRIED} third messages, and Bob's string is the same with each:")
        self.stage.remark("all that enters ours is fixed before she knows Alice's. One attempt fits by chance once in")
        self.stage.remark(f"{len(strings.DIGITS) ** strings.LENGTH:,}, and each that fails is counted and shown.")

    # -- what is shown ------------------------------------------------------------------------------------------------

    def _show(self, alices: Session, bobs: Session, alice: Sequence[str] = (), bob: Sequence[str] = ()) -> None:
        """Both screens side by side, each with further lines."""
        self.stage.columns(
            [("Alice sees", [*_screen(alices, "Bob"), *alice]), ("Bob sees", [*_screen(bobs, "Alice"), *bob])]
        )

    # -- what performing it asks for ----------------------------------------------------------------------------------

    def said(self) -> list[str]:
        return self._said

    def secrets(self) -> list[str | bytes]:
        return [key for key in self._secrets if key]

    async def close(self) -> None:
        for person in (self.alice, self.bob):
            await person.leave()
            person.account.store.close()


def _screen(session: Session, peer: str) -> list[str]:
    """What a person sees of a session."""
    if session.over:
        return [f"session with {session.peer.bare}: {session.state}", session.why]
    if session.trust is Trust.VERIFIED:
        who = f"{peer}, verified" + (" (known from before)" if session.known else "")
    else:
        who = "not verified: compare this string"
    return [f"session with {session.peer.bare}: {session.state}", f"string: {session.string}", who]


def run(*, json: bool = False, place: WatchedPlace | None = None, author: type[Rendezvous] = Rendezvous) -> bool:
    """Perform it for people, or for a program with `json`; whether all went well."""
    where = place or middle.choose()

    def write(_: Place, stage: Stage, folder: Path) -> Rendezvous:
        return author(where, stage, folder)

    return performance.run(write, where, json=json, chosen=place is None)
