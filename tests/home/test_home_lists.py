"""Changes of device lists: numbered, and told to the servers that asked, in the same commit."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from support.home_inside import CLIENT, Inside, home_inside
from tillie.home import accounts, lists
from tillie.model import Address

FAR = "far.test"


def _queued(inside: Inside, server: str = FAR) -> list[Any]:
    rows = inside.home.db.read(
        lambda conn: conn.execute("SELECT json FROM outgoing WHERE server = ? ORDER BY position", (server,)).fetchall()
    )
    return [msgspec.json.decode(json)["content"] for (json,) in rows]


def test_a_server_that_asked_is_told_of_every_change_in_a_chain(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            home = inside.home
            bob = await inside.device("bob", "B")
            await home.db.write(lambda conn: lists.serve(conn, bob.user, FAR, home.now() + 1000))
            await home.db.write(lambda conn: lists.serve(conn, bob.user, "late.test", home.now()))
            await bob.upload()
            await bob.must("PUT", f"{CLIENT}/devices/B", {"display_name": "secret name"})
            await inside.device("bob", "C")
            change = await home.db.write(lambda conn: accounts.remove_devices(conn, bob.user, ["B", "C"], home.now()))
            told = _queued(inside)
            assert [each["device_id"] for each in told] == ["B", "B", "C", "B", "C"]
            assert [each.get("deleted", False) for each in told] == [False, False, False, True, True]
            assert [each["prev_id"] for each in told[1:]] == [[each["stream_id"]] for each in told[:-1]]
            assert told[0]["keys"] == bob.device_keys()
            assert "secret name" not in str(told)
            assert change is not None
            assert (change.sequence, change.servers) == (told[-1]["stream_id"], {FAR})
            assert _queued(inside, "late.test") == [], "who asked long ago is told no more"

    asyncio.run(run())


def test_a_change_that_is_undone_is_told_to_nobody(tmp_path: Path) -> None:
    class Undone(Exception):
        pass

    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            home = inside.home
            bob = await inside.device("bob", "B")
            await home.db.write(lambda conn: lists.serve(conn, bob.user, FAR, home.now() + 1000))

            def step(conn: Any) -> None:
                lists.changed(conn, bob.user, ["B"], home.now())
                raise Undone

            before = home.db.read(lambda conn: lists.of(conn, bob.user))
            try:
                await home.db.write(step)
            except Undone:
                pass
            assert home.db.read(lambda conn: lists.of(conn, bob.user)) == before
            assert _queued(inside) == []

    asyncio.run(run())


def test_numbers_follow_the_clock_and_never_stand_still(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            sequences = []
            for moved in (0, 0, 5, -100):
                inside.now += moved
                now = inside.home.now()
                change = await inside.home.db.write(lambda conn, now=now: lists.changed(conn, bob.user, ["B"], now))
                sequences.append(change.sequence)
            assert sequences == sorted(set(sequences))
            assert sequences[2] == (inside.now + 100) * 1000

    asyncio.run(run())


def test_messages_for_other_servers_are_queued_with_the_request(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            eve = Address(f"@eve:{FAR}")
            for _ in range(2):
                assert await bob.send("t", {eve: {"E": {"n": 1}}, "@x:bad server": {"X": {}}}) == (200, {})
            (told,) = _queued(inside)
            assert told["messages"] == {eve: {"E": {"n": 1}}}
            assert (told["sender"], told["type"], len(told["message_id"])) == (bob.user, "m.test", 32)

    asyncio.run(run())
