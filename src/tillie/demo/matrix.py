"""`tillie demo matrix`: two homes that federate, a sealed message each way in both profiles, and a home that lies.

Alice and Carol have accounts at one home, Bob, Dave and Erin at the other. Alice and Bob publish keys as Matrix has
them today, Carol and Dave as its first draft for encryption had them (2015). At the end everything that both homes hold
is searched for every text that was said, and for every private key.
"""

from __future__ import annotations

import asyncio
import json as jsons
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from tillie.account import MatrixSettings
from tillie.demo import liar, people, performance
from tillie.demo.home import PrivateHome
from tillie.demo.homes import PASSWORD, TwoHomes, rows
from tillie.demo.people import READ_SECONDS, Player
from tillie.demo.performance import NotAsWritten
from tillie.demo.places import Place
from tillie.demo.stage import Stage
from tillie.directory.matrix import DRAFT2015, V1, Profile
from tillie.model import Address, Done, Need, Trust
from tillie.networks.matrix import api, records
from tillie.schemes.olm import own

TEA = 'Shall we have tea at four, under the "old" balcony? <3'
YES = "At four, gladly & without thy cousin Tybalt."
ANTIQUE = "This is sealed as they sealed in the year of the first draft."
ANTIQUE_YES = "And read as they read then; the key was not signed, thou canst deny it all."

_LOOK_SECONDS = 0.02


class Person(Player):
    """Somebody with an account at a home, and what she sent to it."""

    def __init__(self, name: str, home: PrivateHome, profile: Profile, place: Place, folder: Path) -> None:
        super().__init__(name, Address(f"@{name.lower()}:{home.name}"), place, folder / name.lower())
        self.home = home
        self.profile = profile
        self.sent: list[bytes] = []
        matrix = MatrixSettings(homeserver=home.base_url, profile=profile.name)
        self.account.change(replace(self.account.settings, ca_file=home.ca_file, matrix=matrix))

    async def arrive(self) -> None:
        """Get an account, log in, and upload device and one-time keys."""
        await asyncio.to_thread(self.home.register, self.address.partition(":")[0][1:], PASSWORD)
        await self.log_in()

    async def say(self, to: Person, text: str) -> bytes:
        """Send a text; the request that carried it."""
        sent = await self.client.send(to.address, text)
        if not sent.arrived:
            raise NotAsWritten(f"The home did not take the message of {self.name}.")
        return sent.sealed.element

    async def reads(self, text: str) -> str:
        """Wait for a message that says this; what it said, as it was opened."""
        return await people.read(self.name, self.client.engine, text)

    def secrets(self) -> Iterator[bytes]:
        """The private halves of the device's own keys."""
        found = self.account.store.run(lambda s: Done(own.load(s)))
        if not isinstance(found, Need) and found.value is not None:
            yield from (found.value.seed, found.value.curve_private)

    async def own_view(self) -> dict[str, Any]:
        """What her home tells her of her own devices, with the statement that it signs."""
        found = self.account.store.run(lambda s: Done(records.load_login(s)))
        if isinstance(found, Need) or found.value is None:
            raise NotAsWritten(f"{self.name} is not logged in.")
        async with api.open_session(self.home.ca_file) as http:
            asked = api.Api(http, self.home.base_url, found.value.token)
            return dict(await asked.query_keys(self.profile.path, self.address))


class Homes:
    """The play."""

    search = "nothing that was said, and no private key, is in the data and logs of either home"
    sought = "every text above and every private key"

    def __init__(self, place: TwoHomes, stage: Stage, folder: Path) -> None:
        self.place = place
        self.stage = stage
        self.folder = folder
        self._people: list[Person] = []
        self._said: list[str] = []

    async def play(self) -> None:
        step = self.stage.step
        with step("two homes start, which know each other by name alone"):
            await self.place.open()
            self.stage.server(self.place.name, self.place.version)
        with step("Alice and Bob get accounts, one at each home, and upload signed keys"):
            alice = await self._newcomer("Alice", self.place.alices, V1)
            bob = await self._newcomer("Bob", self.place.bobs, V1)
            self._tell_of_keys(bob)
        await self._exchange(alice, bob, TEA, YES)
        with step("Alice and Bob compare fingerprints"):
            await self._verify(alice, bob)
        with step("Carol and Dave upload keys as the draft of 2015 has them: one-time keys unsigned"):
            carol = await self._newcomer("Carol", self.place.alices, DRAFT2015)
            dave = await self._newcomer("Dave", self.place.bobs, DRAFT2015)
            self._tell_of_keys(dave)
        await self._exchange(carol, dave, ANTIQUE, ANTIQUE_YES)
        await self._lie(alice)

    async def _newcomer(self, name: str, home: PrivateHome, profile: Profile) -> Person:
        person = Person(name, home, profile, self.place, self.folder)
        self._people.append(person)
        await person.arrive()
        return person

    def _tell_of_keys(self, person: Person) -> None:
        query = "SELECT count(*) FROM one_time_keys WHERE user_id = ?"
        ((keys,),) = rows(person.home, query, person.address)
        self.stage.remark(f"The home of {person.name} has {keys} one-time keys to give away, each once.")

    # -- a message each way -----------------------------------------------------------------------------------------

    async def _exchange(self, first: Person, second: Person, text: str, reply: str) -> None:
        """`second` is away at first, so that her home has to keep what is sealed."""
        with self.stage.step(
            f"{second.name} is away; {first.name} asks for keys across homes, claims one and writes;"
            f" {second.name} comes back and reads"
        ):
            await second.leave()
            request = await self._say(first, second, text)
            kept = await self._kept(request)
            await second.log_in()
            self._show(first, text, request, kept, second, await second.reads(text))
        with self.stage.step(f"{second.name} answers, {first.name} reads"):
            request = await self._say(second, first, reply)
            self._show(second, reply, request, [], first, await first.reads(reply))

    async def _say(self, author: Person, to: Person, text: str) -> bytes:
        self._said.append(text)
        return await author.say(to, text)

    async def _kept(self, request: bytes) -> list[tuple[str, str]]:
        """Where the other home keeps the message, once it has it."""
        body = sealed_body(request)
        deadline = time.monotonic() + READ_SECONDS
        while not (kept := self.place.archived(body)):
            if time.monotonic() >= deadline:
                raise NotAsWritten("The other home did not get the message.")
            await asyncio.sleep(_LOOK_SECONDS)
        return kept

    def _show(
        self, author: Person, text: str, request: bytes, kept: list[tuple[str, str]], reader: Person, got: str
    ) -> None:
        readable = jsons.dumps(jsons.loads(request), indent=1).encode()
        self.stage.exchange(author.name, text, readable, kept, [(reader.name, got)], keeper="its database")

    async def _verify(self, one: Person, other: Person) -> None:
        """What people do over the telephone: each reads out a fingerprint, the other compares it."""
        for ours, theirs in ((one, other), (other, one)):
            mine = theirs.client.device()
            known = [key for key in await ours.client.devices(theirs.address) if key.device == mine]
            if not known:
                raise NotAsWritten(f"{ours.name} sees another key than {theirs.name} has.")
            ours.account.decide(theirs.address, mine.key, Trust.VERIFIED)
            self.stage.remark(f"{theirs.name}'s fingerprint, the same on both sides: {known[0].fingerprint}")

    # -- a home that lies -------------------------------------------------------------------------------------------

    async def _lie(self, alice: Person) -> None:
        step, bobs = self.stage.step, self.place.bobs
        with step("Erin gets an account at Bob's home, and keeps what it says of her devices"):
            erin = await self._newcomer("Erin", bobs, V1)
            device = erin.client.device()
            saved = self.folder / "erins-view.json"
            saved.write_text(jsons.dumps(await erin.own_view()))
            await erin.leave()
        with step("the operator of Bob's home gives her device another key, in secret, and Alice is shown that one"):
            await asyncio.to_thread(bobs.stop)
            false_key = liar.swap_device(bobs, erin.address, device.label)
            bobs.start()
            await asyncio.to_thread(bobs.wait)
            shown = [key.device.key for key in await alice.client.devices(erin.address)]
            if shown != [false_key]:
                raise NotAsWritten("The home did not lie as it is written.")
        with step("what Alice's home has seen proves nothing yet: it was told one story"):
            await self._audit(erin, lies=0)
        with step("beside what Erin kept it proves the lie: one sequence, two lists, both signed by Bob's home"):
            await self._audit(erin, saved, lies=1)

    async def _audit(self, user: Person, *saved: Path, lies: int) -> None:
        """`tillie home audit`, as the operator of Alice's home runs it."""
        report = await asyncio.to_thread(self.place.alices.audit, user.address, *saved)
        if len(report["lies"]) != lies:
            raise NotAsWritten(f"The audit found {len(report['lies'])} lies, not {lies}.")
        for pair in report["lies"]:
            told = zip(("Alice's home", "Erin"), pair, strict=True)
            self.stage.columns([(f"{user.home.name} told {whom}", _lines(said)) for whom, said in told])

    # -- the end ----------------------------------------------------------------------------------------------------

    def said(self) -> list[str]:
        return self._said

    def secrets(self) -> list[str | bytes]:
        return [key for person in self._people for key in person.secrets()]

    async def close(self) -> None:
        for person in self._people:
            await person.leave()
            person.account.store.close()


def sealed_body(request: bytes) -> bytes:
    """The ciphertext in a to-device request, in Base64."""
    for devices in jsons.loads(request)["messages"].values():
        for content in devices.values():
            for sealed in content["ciphertext"].values():
                return str(sealed["body"]).encode()
    raise NotAsWritten("The request holds nothing sealed.")


def _lines(statement: dict[str, Any]) -> list[str]:
    return [f"{name}: {statement[name]}" for name in ("user_id", "sequence", "devices_sha256")]


def run(*, json: bool = False) -> bool:
    """Perform it for people, or for a program with `json`; whether all went well."""
    place = TwoHomes()
    return performance.run(lambda _, stage, folder: Homes(place, stage, folder), place, json=json, chosen=True)
