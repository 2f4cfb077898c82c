"""Statements: one for each change, whatever happens between; and the proof of a lie."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.home_inside import DRAFT, SERVER, Inside, InsideDevice, home_inside
from tillie.crypto import sign
from tillie.directory import statements
from tillie.directory.matrix import DRAFT2015, V1, Profile, read_device_keys, write_device_keys
from tillie.directory.signed import sign_object, verify_object
from tillie.errors import Malformed
from tillie.home import honesty, lists
from tillie.home.federation.remote import Answer
from tillie.home.honesty import Audit
from tillie.model import Address
from tillie.wire import canonical
from tillie.wire.canonical import Object

FAR = "far.test"
EVE = Address(f"@eve:{FAR}")
SEED, PUBLIC = sign.generate()
KEY_ID = "ed25519:far"


class Far:
    """Another home, which says what a test wants it to say, in place of `home.federation`."""

    def __init__(self) -> None:
        self.answer = Answer({}, {})

    async def query(self, server: str, users: Collection[str], seconds: float) -> Answer:
        return self.answer

    async def signing_keys(self, server: str, seconds: float) -> Mapping[str, bytes]:
        return {KEY_ID: PUBLIC}

    def wake(self, server: str) -> None:
        pass

    async def stop(self) -> None:
        pass


def _devices(*names: str, profile: Profile = V1) -> Object:
    """Eve's devices, as her own home signs them in the draft."""
    valid = (1.0, 2.0) if profile.dated else None
    found = {}
    for name in names:
        seed, public = sign.generate()
        value = write_device_keys(profile, EVE, name, sign.public_to_curve(public), seed, valid=valid)
        found[name] = sign_object(value, FAR, KEY_ID, SEED)
    return found


def _said(sequence: int, devices: Object, seed: bytes = SEED) -> Object:
    return statements.make(EVE, sequence, 1.0, devices, FAR, KEY_ID, seed)


def _audit(inside: Inside, user: str, *saved: Object) -> Audit:
    return inside.home.db.read(lambda conn: honesty.audit(conn, inside.home.signer, Address(user), saved))


async def _know_far(inside: Inside) -> None:
    keys = json.dumps({KEY_ID: statements.base64.encode_unpadded(PUBLIC)}).encode()
    await inside.home.db.write(
        lambda conn: conn.execute("INSERT INTO servers (server, keys) VALUES (?, ?)", (FAR, keys))
    )


async def _ask(inside: Inside, who: InsideDevice, devices: Object, statement: Object | None) -> Any:
    far = Far()
    far.answer = Answer({EVE: devices}, {EVE: statement} if statement else {})
    inside.home.federation = far  # type: ignore[assignment]
    return await who.query(EVE)


def test_every_change_has_one_statement_also_across_a_restart(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            bob = await inside.device("bob", "B")
            seen = []
            for _ in range(3):
                bob.seed = sign.generate()[0]
                await bob.upload()
                seen.append((await bob.query(bob.user))[statements.MEMBER][bob.user])
            assert [each["sequence"] for each in seen] == sorted({each["sequence"] for each in seen})
        async with home_inside(tmp_path) as inside:
            bob.inside = inside
            inside.now += 100
            assert (await bob.query(bob.user))[statements.MEMBER][bob.user] == seen[-1]
            found = _audit(inside, bob.user, *seen)
            assert (found.is_stating, found.lies, found.refused) == (True, (), ())

    asyncio.run(run())


def test_sequences_grow_over_a_database_that_was_lost(tmp_path: Path) -> None:
    async def run() -> None:
        sequences = []
        for life in ("first", "second"):
            (tmp_path / life).mkdir()
            async with home_inside(tmp_path / life) as inside:
                inside.now += len(sequences)
                bob = await inside.device("bob", "B")
                await bob.upload()
                found = inside.home.db.read(lambda conn, user=bob.user: lists.sequence_of(conn, user))
                assert found is not None
                sequences.append(found)
        assert sequences[0] < sequences[1]

    asyncio.run(run())


def test_a_lie_is_proved_by_what_two_people_were_told(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann = await inside.device("ann", "A")
            await _know_far(inside)
            honest, lying = _devices("E"), _devices("E", "SPY")
            answer = await _ask(inside, ann, honest, _said(7, honest))
            told = answer[statements.MEMBER][EVE]
            for server, key in ((FAR, PUBLIC), (SERVER, inside.home.signer.public)):
                verify_object(told, server, KEY_ID if server == FAR else "ed25519:a_1", key)
            assert _audit(inside, EVE).lies == ()
            saved = honesty.read_saved(json.dumps({statements.MEMBER: {EVE: _said(7, lying)}}).encode(), EVE)
            found = _audit(inside, EVE, *saved, _said(8, lying), _said(7, honest))
            assert [[each.hash for each in pair] for pair in found.lies] == [
                [statements.map_hash(honest), statements.map_hash(lying)]
            ]
            forged = _audit(inside, EVE, _said(7, lying, sign.generate()[0]), {"user_id": "@x:y"})
            assert forged.lies == ()
            assert len(forged.refused) == 2

    asyncio.run(run())


def test_a_lie_to_this_home_is_found_in_what_it_remembers(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann = await inside.device("ann", "A")
            for devices in (_devices("E"), _devices("E", "SPY")):
                await _ask(inside, ann, devices, _said(7, devices))
            assert len(_audit(inside, EVE).lies) == 1

    asyncio.run(run())


def test_a_home_that_does_not_sign_is_recorded_as_such(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann = await inside.device("ann", "A")
            assert _audit(inside, EVE).is_stating is None
            devices = _devices("E")
            answer = await _ask(inside, ann, devices, None)
            assert (list(answer["device_keys"][EVE]), answer[statements.MEMBER]) == (["E"], {})
            assert _audit(inside, EVE).is_stating is False
            await _ask(inside, ann, devices, _said(1, devices))
            await _ask(inside, ann, devices, None)
            assert _audit(inside, EVE).is_stating is True

    asyncio.run(run())


def test_a_statement_on_other_devices_is_kept_and_not_passed_on(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann = await inside.device("ann", "A")
            answer = await _ask(inside, ann, _devices("E"), _said(7, _devices("OTHER")))
            assert (list(answer["device_keys"][EVE]), answer[statements.MEMBER]) == (["E"], {})
            assert len(_audit(inside, EVE).seen) == 1

    asyncio.run(run())


def test_one_bad_remote_device_costs_no_other(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann = await inside.device("ann", "A")
            devices = {**_devices("E"), "F": {"keys": {"x": 1.5}}, "G": "text", "H": None}
            answer = await _ask(inside, ann, devices, {"sequence": "x"})
            assert list(answer["device_keys"][EVE]) == ["E"]

    asyncio.run(run())


@pytest.mark.parametrize(
    "change",
    [
        {"signatures": []},
        {"signatures": {FAR: 7}},
        {"signatures": {FAR: [KEY_ID]}},
        {"signatures": None},
        {"unsigned": 0.5},
        {"unsigned": "x" * statements.MAX_BYTES},
        {"time": 10**400},
        {"time": True},
        {"sequence": 2**63},
    ],
)
def test_a_bad_statement_costs_no_devices(tmp_path: Path, change: Object) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann = await inside.device("ann", "A")
            devices = _devices("E")
            answer = await _ask(inside, ann, devices, {**_said(7, devices), **change})
            assert (list(answer["device_keys"][EVE]), answer[statements.MEMBER]) == (["E"], {})
            assert _audit(inside, EVE).seen == ()
            assert len(_audit(inside, EVE, canonical.parse(b"{}"), {**_said(7, devices), **change}).refused) == 2

    asyncio.run(run())


def test_one_good_signature_is_enough_and_what_stands_in_our_place_is_not_looked_at(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann = await inside.device("ann", "A")
            devices = _devices("E")
            statement = _said(7, devices)
            statement["signatures"] = {FAR: {"ed25519:unknown": 7, **statement["signatures"][FAR]}, SERVER: 7}
            told = (await _ask(inside, ann, devices, statement))[statements.MEMBER][EVE]
            verify_object(told, SERVER, "ed25519:a_1", inside.home.signer.public)

    asyncio.run(run())


def test_devices_too_deep_for_a_statement_cost_no_answer(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann = await inside.device("ann", "A")
            devices = _devices("E")
            statement = _said(7, devices)
            deep: Object = {}
            for _ in range(canonical.MAX_DEPTH - 2):
                deep = {"x": deep}
            answer = await _ask(inside, ann, {**devices, "DEEP": {"keys": deep}}, statement)
            assert (sorted(answer["device_keys"][EVE]), answer[statements.MEMBER]) == (["DEEP", "E"], {})

    asyncio.run(run())


def test_in_the_draft_both_homes_sign(tmp_path: Path) -> None:
    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            ann = await inside.device("ann", "A", DRAFT2015)
            devices = _devices("E", "F", profile=DRAFT2015)
            devices["F"]["signatures"].pop(FAR)
            devices["V1"] = _devices("V1")["V1"]
            devices["NONE"] = sign_object(
                {"user_id": EVE, "device_id": "NONE", "algorithms": [], "keys": {}}, FAR, KEY_ID, SEED
            )
            shown = (await _ask(inside, ann, devices, None))["device_keys"][EVE]
            assert sorted(shown) == ["E", "NONE"], "what its home did not sign, and the other profile's, is not shown"
            for device in shown.values():
                verify_object(device, FAR, KEY_ID, PUBLIC)
                verify_object(device, SERVER, "ed25519:a_1", inside.home.signer.public)
            assert read_device_keys(shown["E"], EVE, "E", DRAFT2015).is_able
            ben = await inside.device("ben", "B", V1)
            shown = (await _ask(inside, ben, devices, None))["device_keys"][EVE]
            assert list(shown) == ["V1"], f"{DRAFT} is another profile"

    asyncio.run(run())


def test_what_others_saved_is_read(tmp_path: Path) -> None:
    one, two = _said(1, _devices("E")), _said(2, {})
    lines = b"\n".join(map(canonical.encode, (one, {statements.MEMBER: {EVE: two, "@x:y": one}}, {"user_id": "@x:y"})))
    assert honesty.read_saved(lines, EVE) == [one, two]
    assert honesty.read_saved(canonical.encode(one), EVE) == [one]
    for bad in (b"[]", b"{", b'{"a": 1}\n7', b"\xff"):
        with pytest.raises(Malformed):
            honesty.read_saved(bad, EVE)


def test_only_the_newest_statements_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(honesty, "MAX_STATEMENTS", 3)

    async def run() -> None:
        async with home_inside(tmp_path) as inside:
            for sequence in range(1, 6):
                said = statements.read(_said(sequence, {}), EVE)
                await inside.home.db.write(lambda conn, said=said: honesty.record(conn, said, 0))
            assert [each.sequence for each in _audit(inside, EVE).seen] == [3, 4, 5]

    asyncio.run(run())
