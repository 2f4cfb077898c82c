"""A thousand claims at once while keys are uploaded, and the home is killed half-way, again and again: no key is handed
out twice, no acknowledged upload is lost, no claim is answered without a key while one remains."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import aiohttp

from support.certificates import Certificates, certificates
from support.homes import Login, PrivateHome
from tillie.crypto.random import random_bytes
from tillie.directory import matrix
from tillie.directory.matrix import SIGNED_CURVE25519, V1
from tillie.model import Address
from tillie.wire import base64

__all__ = ["certificates"]

CLAIMS = 1_000
KILLED_AT = (125, 250, 375, 500, 625, 750, 875)  # keys given
VICTIMS = 4
STOCK = 370  # keys of each victim from the start: more than all claims together, answered or not
UPLOADED = 5  # keys in each upload that races
CONNECTIONS = 64
UNLIMITED = "{ per_second = 1e6, burst = 1_000_000 }"
LIMITS = f"claims = {UNLIMITED}\nuploads = {UNLIMITED}"


class Race:
    """People who claim, devices that upload, and what both know about the keys: {key: its id}."""

    def __init__(self, home: PrivateHome, claimant: Login, victims: list[Login]) -> None:
        self.home, self.claimant, self.victims = home, claimant, victims
        self.sent: set[str] = set()  # in uploads, answered or not
        self.acknowledged: set[str] = set()
        self.given: list[str] = []
        self.empty = 0  # claims that were answered without a key
        self.unknown = 0  # claims that nobody knows the outcome of
        self.seeds = {victim.user: random_bytes(32) for victim in victims}
        self.numbers = dict.fromkeys(self.seeds, 0)
        self.is_killed_at = 0  # keys given
        self.is_time = asyncio.Event()

    async def run(self, claims: int) -> None:
        """So many claims at once, while every victim uploads as fast as it can."""
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, ssl=self.home.certificates.ssl_context())
        async with aiohttp.ClientSession(connector=connector) as session:
            uploads = [asyncio.create_task(self.upload_on(session, victim)) for victim in self.victims]
            try:
                claiming = (self.claim(session, self.victims[n % VICTIMS]) for n in range(claims))
                await asyncio.gather(*claiming)
            finally:
                for each in uploads:
                    each.cancel()
                await asyncio.gather(*uploads, return_exceptions=True)

    async def claim(self, session: aiohttp.ClientSession, victim: Login) -> None:
        body = {"one_time_keys": {victim.user: {victim.device: SIGNED_CURVE25519}}}
        try:
            answer = await self.post(session, self.claimant, "claim", body)
        except aiohttp.ClientError:
            self.unknown += 1
            return
        device = answer["one_time_keys"].get(victim.user, {}).get(victim.device)
        if device:
            self.given += [each["key"] for each in device.values()]
        else:
            self.empty += 1
        if len(self.given) == self.is_killed_at:
            self.is_time.set()

    async def upload_on(self, session: aiohttp.ClientSession, victim: Login) -> None:
        try:
            while True:
                await self.upload(session, victim, UPLOADED)
        except aiohttp.ClientError:
            pass  # the home is gone; what this upload held may be there, or not

    async def upload(self, session: aiohttp.ClientSession, victim: Login, number: int) -> None:
        keys = dict(self.new_key(victim) for _ in range(number))
        texts = {each["key"] for each in keys.values()}
        self.sent |= texts
        await self.post(session, victim, "upload", {"one_time_keys": keys})
        self.acknowledged |= texts

    def new_key(self, victim: Login) -> tuple[str, Any]:
        self.numbers[victim.user] += 1
        name = f"{SIGNED_CURVE25519}:{base64.encode_unpadded(self.numbers[victim.user].to_bytes(8, 'big'))}"
        seed = self.seeds[victim.user]
        public = random_bytes(31) + b"\1"  # nobody has its private half; the top bit of a key's last byte is 0
        return name, matrix.write_one_time_key(V1, Address(victim.user), victim.device, public, seed)

    async def post(self, session: aiohttp.ClientSession, who: Login, verb: str, body: object) -> Any:
        headers = {"Authorization": f"Bearer {who.token}"}
        url = f"{self.home.base_url}/_matrix/client/v3/keys/{verb}"
        async with session.post(url, json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def run_and_kill(self, at: int) -> None:
        """All claims that are left, until so many keys are given."""
        self.is_killed_at, self.is_time = at, asyncio.Event()
        running = asyncio.create_task(self.run(CLAIMS - len(self.given)))
        await self.is_time.wait()
        self.home.stop(kill=True)
        await running


def burnt(home: PrivateHome) -> set[str]:
    """The keys that the home has handed out, or meant to."""
    with closing(sqlite3.connect(home.database)) as connection:
        return {base64.encode_unpadded(key) for (key,) in connection.execute("SELECT public FROM issued_keys")}


def waiting(home: PrivateHome) -> set[str]:
    with closing(sqlite3.connect(home.database)) as connection:
        return {base64.encode_unpadded(key) for (key,) in connection.execute("SELECT public FROM one_time_keys")}


async def stocked(race: Race) -> None:
    connector = aiohttp.TCPConnector(ssl=race.home.certificates.ssl_context())
    async with aiohttp.ClientSession(connector=connector) as session:
        for victim in race.victims:
            await race.upload(session, victim, STOCK)


def person(home: PrivateHome, name: str) -> Login:
    home.register(name)
    return home.login(name, "DEVICE")


def test_a_home_that_is_killed_among_a_thousand_claims_hands_no_key_out_twice_and_loses_none(
    certificates: Certificates,
) -> None:
    with PrivateHome(certificates, limits=LIMITS) as home:
        race = Race(home, person(home, "claimant"), [person(home, f"victim{n}") for n in range(VICTIMS)])
        asyncio.run(stocked(race))
        for at in KILLED_AT:
            before = race.unknown
            asyncio.run(race.run_and_kill(at))
            assert race.unknown > before, "the home was killed too late"
            home.start()
            home.wait()
        lost = race.unknown
        asyncio.run(race.run(CLAIMS - len(race.given)))

        assert race.unknown == lost
        assert race.empty == 0
        assert len(race.given) == CLAIMS
        assert len(set(race.given)) == CLAIMS
        assert set(race.given) <= race.sent
        assert race.acknowledged <= burnt(home) | waiting(home)
        assert not burnt(home) & waiting(home)
        assert len(burnt(home) - set(race.given)) <= lost
