"""The limits of private nodes, on both sides of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from support.people import BLOG, JULIET, NURSE, PUBSUB, ROMEO, TYBALT, House, Person, at_home, entry, texts
from tillie.model import Address, Content
from tillie.nodes import attaching, making, sharing, workers
from tillie.nodes.workers import Workers
from tillie.pubsub import attachments
from tillie.pubsub.attachments import node_for
from tillie.pubsub.items import Item, ItemKind, Node
from tillie.pubsub.members import Role
from tillie.pubsub.statements import NS


def test_workers() -> None:
    assert Workers(1).count == 1
    assert Workers(workers.MAX_WORKERS).count == workers.MAX_WORKERS
    assert Workers(workers.MAX_WORKERS + 1).count == workers.MAX_WORKERS
    assert 1 <= Workers().count <= workers.MAX_WORKERS


@pytest.mark.parametrize("limit", [2, 3])
def test_ids_that_a_conversion_names(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(making, "MAX_NAMED", limit)

    async def scenario(house: House) -> None:
        juliet = await house.person(JULIET)
        await juliet.nodes.create(BLOG, encrypted=False)
        for number in range(3):
            await juliet.nodes.publish(BLOG, entry("x"), f"{number}")
        converted = await juliet.nodes.convert(BLOG)
        assert (len(converted.in_clear), converted.more) == (limit, 3 - limit)

    at_home(scenario)


@pytest.mark.parametrize("limit", [2, 3])
def test_attachments_of_one_item(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(attaching, "MAX_ATTACHED", limit)

    async def scenario(house: House) -> None:
        juliet = await house.person(JULIET)
        await juliet.nodes.create(BLOG, encrypted=False)
        published = await juliet.nodes.publish(BLOG, entry("x"))
        await juliet.nodes.allow_attachments(BLOG, published.id)
        place = house.pubsub.nodes[node_for(BLOG, published.id)]
        for name in (JULIET, NURSE, ROMEO):
            place.items[name] = Item(name, attachments.encode([attachments.noticed(1e9)]), name)
        there = await juliet.nodes.attachments(BLOG, published.id)
        assert (len(there.attached), len(there.unreadable)) == (limit, int(limit < 3))

    at_home(scenario)


@pytest.mark.parametrize("limit", [1, 2])
def test_services_that_are_asked_at_once(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(sharing, "MAX_LOOKUPS", limit)

    async def scenario(house: House) -> None:
        nurse, tybalt = await house.person(NURSE), await house.person(TYBALT)
        for number in range(2):
            secret = (
                f"<shared-secret xmlns='{NS}' jid='{PUBSUB}' node='made-up-{number}' id='i' "
                f"timestamp='2026-09-21T13:24:31Z'>{'x' * 64}</shared-secret>"
            )
            await tybalt.engine.send(NURSE, Content(secret.encode()), scheme="openpgp")
        await nurse.connection.drained()
        await nurse.nodes.settle()
        assert len(nurse.nodes._asked) == limit
        await nurse.nodes.settle()
        assert len(nurse.nodes._asked) == 2

    at_home(scenario)


async def with_romeo(house: House) -> Person:
    juliet, romeo = await house.person(JULIET), await house.person(ROMEO)
    await juliet.nodes.create(BLOG)
    await juliet.nodes.share(BLOG, ROMEO, role=Role.PUBLISHER)
    await house.heard()
    for number in range(3):
        await romeo.nodes.publish(BLOG, entry(f"{number}"))
    house.clock.now += 10
    return juliet


@pytest.mark.parametrize("limit", [2, 3])
def test_items_that_are_looked_at_before_locks_are_changed(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(sharing, "STOCK_ITEMS", limit)

    async def scenario(house: House) -> None:
        juliet = await with_romeo(house)
        await juliet.nodes.remove(BLOG, ROMEO)
        kinds = [reading.kind for reading in await juliet.read(BLOG)]
        assert kinds == [ItemKind.OPENED] * limit + [ItemKind.REJECTED] * (3 - limit)

    at_home(scenario)


def test_a_service_that_does_not_answer_delays_no_lock_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "STOCK_SECONDS", 0.01)

    async def scenario(house: House) -> None:
        juliet = await with_romeo(house)
        before = (await juliet.nodes.secrets(BLOG))[0].id

        async def items(*_: Any, ids: Iterable[str] = (), limit: int | None = None) -> AsyncIterator[list[Item]]:
            await asyncio.get_running_loop().create_future()
            yield []

        service: Any = juliet.connection.service
        service.items = items
        removed = await juliet.nodes.remove(BLOG, ROMEO)
        assert any("took too long" in problem for problem in removed.problems)
        assert removed.secret != before
        assert ROMEO not in house.pubsub.nodes[BLOG].affiliations

    at_home(scenario)


@pytest.mark.parametrize("at_once", [1, 2, 16])
def test_messages_in_one_transaction(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(sharing, "AT_ONCE", at_once)

    async def scenario(house: House) -> None:
        juliet, nurse = await house.person(JULIET), await house.person(NURSE)
        await juliet.nodes.create(BLOG)
        for number in range(3):
            await juliet.nodes.publish(BLOG, entry(f"{number}"))
            house.clock.now += 10
            await juliet.nodes.rotate(BLOG)
        assert (await juliet.nodes.share(BLOG, NURSE)).messages == 4
        await house.heard()
        assert texts(await nurse.read(BLOG)) == ["2", "1", "0"]

    at_home(scenario)


def test_a_name_of_a_node_is_any_text() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse = await house.person(JULIET), await house.person(NURSE)
        for name in ("with space/and/slash", "ünïcode;item=x", "a" * 1_000):
            node = await juliet.nodes.create(Node(Address(JULIET), name))
            published = await juliet.nodes.publish(node, entry("x"), "an id;item=1/2", sign=True)
            assert published.signed
            await juliet.nodes.share(node, NURSE)
            await house.heard()
            assert texts(await nurse.read(node)) == ["x"]
            assert (await nurse.nodes.check(node, published.id)).summary is not None

    at_home(scenario)
