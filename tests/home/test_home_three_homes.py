"""Device lists of three homes: updates are lost, repeated, delayed and reordered between them, one loses its database,
and when that is over, each shows what is true (needs: stale device lists over federation)."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.home_inside import CLIENT, InsideDevice
from support.homes_apart import Faults, Wire, homes_apart
from tillie.home.federation.followed import BELIEVED_MS

NAMES = ("a.test", "b.test", "c.test")
ACTIONS = 40
FAULTS = Faults(lost=0.15, answer_lost=0.15, late=0.2)
WORSE = FAULTS._replace(swallowed=0.2)


class World:
    """One user on each home; her first device asks for the others' lists, further ones come and go."""

    def __init__(self, wire: Wire, seed: int) -> None:
        self.wire = wire
        self.random = random.Random(seed)
        self.first: dict[str, InsideDevice] = {}
        self.more: dict[str, list[InsideDevice]] = {}
        self.made = 0

    async def settle(self, name: str) -> None:
        self.first[name], self.more[name] = await self.new_device(name), []

    async def new_device(self, name: str) -> InsideDevice:
        self.made += 1
        device = await self.wire.homes[name].device("ann", f"D{self.made}")
        await device.upload()
        return device

    async def act(self) -> None:
        """Something happens somewhere."""
        self.wire.pass_time(0.5)
        name = self.random.choice(NAMES)
        match self.random.randrange(4):
            case 0 | 1:
                self.more[name].append(await self.new_device(name))
            case 2 if self.more[name]:
                gone = self.more[name].pop(self.random.randrange(len(self.more[name])))
                await gone.must("POST", f"{CLIENT}/logout")
            case 3:
                await self.wire.bring_late(self.random.randrange(4))
            case _:
                await self.seen_from(name)
        await asyncio.sleep(self.random.choice((0, 0, 0.002)))

    async def seen_from(self, name: str) -> dict[str, Any]:
        """{user: {device: keys}} as that home shows it."""
        answer = await self.first[name].query(*(each.user for each in self.first.values()))
        assert answer["failures"] == {}
        shown: dict[str, Any] = answer["device_keys"]
        return shown

    async def check(self) -> None:
        truth = {
            self.first[name].user: {each.id: each.device_keys() for each in (self.first[name], *self.more[name])}
            for name in NAMES
        }
        for name in NAMES:
            shown = await self.seen_from(name)
            assert {user: set(devices) for user, devices in shown.items()} == {
                user: set(devices) for user, devices in truth.items()
            }, f"as {name} shows it"
            for user, devices in truth.items():
                for device, keys in devices.items():
                    assert shown[user][device]["keys"] == keys["keys"]


async def _world(wire: Wire, seed: int) -> World:
    world = World(wire, seed)
    for name in NAMES:
        await world.settle(name)
    for name in NAMES:
        await world.seen_from(name)
    return world


@pytest.mark.parametrize("seed", range(3))
def test_lists_converge_as_soon_as_the_wire_is_whole_again(tmp_path: Path, seed: int) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, *NAMES, seed=seed) as wire:
            world = await _world(wire, seed)
            wire.faults = FAULTS
            for _ in range(ACTIONS):
                await world.act()
            await wire.heal()
            await world.check()

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(3))
def test_lists_converge_after_a_database_was_lost(tmp_path: Path, seed: int) -> None:
    """Also with updates that were answered and lost: then a list may be wrong as long as it is believed, no longer."""

    async def run() -> None:
        async with homes_apart(tmp_path, *NAMES, seed=seed) as wire:
            world = await _world(wire, seed)
            wire.faults = WORSE
            for _ in range(ACTIONS // 2):
                await world.act()
            await wire.stop("b.test")
            (tmp_path / "wiped").mkdir()
            wire.pass_time(5)
            await wire.start("b.test", tmp_path / "wiped")
            await world.settle("b.test")
            for _ in range(ACTIONS // 2):
                await world.act()
            await wire.heal()
            wire.pass_time(BELIEVED_MS / 1000 + 1)
            await world.check()

    asyncio.run(run())


def test_an_update_is_applied_and_what_was_asked_for_once_is_believed(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, *NAMES) as wire:
            world = await _world(wire, 0)
            await wire.quiet()
            world.more["b.test"].append(await world.new_device("b.test"))
            await wire.quiet()
            kept = "SELECT json, is_stale FROM remote_lists WHERE user_id = ?"
            user = world.first["b.test"].user
            json, is_stale = wire.homes["a.test"].home.db.read(lambda conn: conn.execute(kept, (user,)).fetchone())
            assert not is_stale
            assert set(msgspec.json.decode(json)) == {world.first["b.test"].id, world.more["b.test"][0].id}
            await world.check()
            wire.requests.clear()
            await world.check()
            assert wire.requests == []
            wire.pass_time(BELIEVED_MS / 1000)
            await world.check()
            assert len(wire.requests) == len(NAMES) * 2, "each home asks both others again"

    asyncio.run(run())


def test_an_update_that_was_lost_is_found_by_the_next_and_who_watches_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, *NAMES) as wire:
            world = await _world(wire, 0)
            await wire.quiet()
            since = (await world.first["a.test"].sync())["next_batch"]
            wire.faults = Faults(swallowed=1.0)
            world.more["b.test"].append(await world.new_device("b.test"))
            await wire.quiet()
            wire.faults = Faults()
            world.more["b.test"].append(await world.new_device("b.test"))
            await wire.quiet()
            await world.check()
            told = await world.first["a.test"].sync(since)
            assert world.first["b.test"].user in told["device_lists"]["changed"]

    asyncio.run(run())
