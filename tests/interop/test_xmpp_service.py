"""What is asked of pubsub services, on real ones: Prosody's PEP and component, ejabberd's PEP and component."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from support.ejabberd import ejabberd
from support.prosody import HOSTS, new_account
from support.services import COMPONENT, JULIET, node, prosody_with_component, server
from support.xmpp import Bot, online, until
from tillie.errors import Rejected
from tillie.model import Address
from tillie.networks.xmpp.paging import FIRST_PAGE
from tillie.networks.xmpp.service import XmppService
from tillie.pubsub.items import Item, Node

__all__ = ["ejabberd", "node", "prosody_with_component", "server"]

PRIVATE = {
    "pubsub#access_model": "whitelist",
    "pubsub#publish_model": "publishers",
    "pubsub#persist_items": "true",
    "pubsub#max_items": "max",
    "pubsub#send_last_published_item": "never",
    "pubsub#notify_retract": "true",
}
LARGE = 12  # of 200 kB: more than one answer may hold
REFUSED = {"forbidden", "not-allowed"}  # Prosody's word, and ejabberd's


class Scene:
    """Juliet owns nodes, Romeo is on another host, and so are their services."""

    def __init__(self, server: Any) -> None:
        self.romeo, self.nurse = (Address(new_account(server, *who)) for who in (("romeo", HOSTS[1]), ("nurse",)))
        self.bots = [Bot(server, str(jid)) for jid in (JULIET, self.romeo, self.nurse)]
        self.a, self.b, self.c = (XmppService(bot.core.network) for bot in self.bots)


def play(server: Any, scenario: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        scene = Scene(server)
        async with online(*scene.bots):
            await scenario(scene)
            assert [error for bot in scene.bots for error in bot.errors] == []

    asyncio.run(run())


def entry(number: int | str, size: int = 0) -> Item:
    return Item(f"item-{number}", f"<entry xmlns='urn:example'>{number}{'.' * size}</entry>".encode())


async def read(service: XmppService, node: Node, **what: Any) -> list[str]:
    return [item.id async for page in service.items(node, **what) for item in page]


async def refused(work: Awaitable[Any]) -> str:
    with pytest.raises(Rejected) as refusal:
        await work
    return refusal.value.condition


async def told(watch: AsyncIterator[Any]) -> Any:
    return await asyncio.wait_for(anext(watch), 15)


def test_a_private_node(server: Any, node: Node) -> None:
    async def scenario(on: Scene) -> None:
        assert await on.a.create(node, PRIVATE) == node.name
        assert await refused(on.a.create(node, PRIVATE)) == "conflict"
        configuration = await on.a.configuration(node)
        assert configuration["pubsub#access_model"] == "whitelist"
        assert configuration["pubsub#max_items"] == "max"
        assert node.name in await on.a.nodes(node.service)
        for work in (read(on.b, node), on.b.publish(node, entry(1)), on.b.delete(node), on.b.configuration(node)):
            assert await refused(work) in REFUSED
        assert await on.a.publish(node, entry(1)) == "item-1"
        assert await on.a.publish(node, Item("", entry(2).payload)) != ""
        assert len(await read(on.a, node)) == 2
        await on.a.delete(node)
        assert await refused(read(on.a, node)) == "item-not-found"
        assert await refused(read(on.a, node, ids=["item-1"])) == "item-not-found"
        assert await refused(on.a.affiliations(node)) == "item-not-found"

    play(server, scenario)


def test_a_name_that_the_service_chooses(server: Any, node: Node) -> None:
    async def scenario(on: Scene) -> None:
        names = [await on.a.create(Node(node.service, ""), PRIVATE) for _ in range(2)]
        assert len(set(names)) == 2
        for name in names:
            assert (await on.a.configuration(Node(node.service, name)))["pubsub#access_model"] == "whitelist"

    play(server, scenario)


def test_people_come_and_go(server: Any, node: Node) -> None:
    async def scenario(on: Scene) -> None:
        await on.a.create(node, PRIVATE)
        await on.a.publish(node, entry(1))
        await on.a.affiliate(node, {on.romeo: "publisher", on.nurse: "member"})
        assert await on.a.affiliations(node) == {JULIET: "owner", on.romeo: "publisher", on.nurse: "member"}
        assert await read(on.c, node) == ["item-1"]
        assert await refused(on.c.publish(node, entry(2))) in REFUSED
        await on.b.publish(node, entry(3))
        for reader in (on.a, on.b, on.c):
            assert await reader.owners(node) in ({JULIET}, frozenset())
        assert await on.a.owners(node) == {JULIET}
        assert await refused(on.b.affiliations(node)) in REFUSED
        await on.a.affiliate(node, {on.nurse: "none", on.romeo: "outcast"})
        left = await on.a.affiliations(node)
        assert (left[Address(JULIET)], left.get(on.nurse, "none")) == ("owner", "none")
        for gone in (on.b, on.c):
            assert await refused(read(gone, node)) in REFUSED
        await on.a.affiliate(node, {})

    play(server, scenario)


def test_who_was_removed_hears_nothing_more(server: Any, node: Node) -> None:
    async def scenario(on: Scene) -> None:
        await on.a.create(node, PRIVATE)
        await on.a.affiliate(node, {on.romeo: "publisher", on.nurse: "member"})
        for service in (on.a, on.b, on.c):
            await service.subscribe(node)
            await service.subscribe(node)
        await asyncio.gather(*(bot.settled() for bot in on.bots))
        watches = [service.notifications(node) for service in (on.a, on.b, on.c)]
        await on.a.publish(node, entry(1))
        for watch in watches:
            notification = await told(watch)
            assert (notification.node, [item.id for item in notification.items]) == (node, ["item-1"])
            assert notification.items[0].payload == entry(1).payload
        await on.a.affiliate(node, {on.nurse: "none"})
        await on.b.publish(node, entry(2))
        await on.a.retract(node, "item-1")
        for watch in watches[:2]:
            assert [item.id for item in (await told(watch)).items] == ["item-2"]
        assert (await told(watches[1])).retracted == ("item-1",)
        await on.bots[2].settled()
        await watches[2].aclose()  # type: ignore[attr-defined]
        assert [_ async for _ in watches[2]] == []

    play(server, scenario)


def test_publish_options_hold_or_nothing_is_published(server: Any, node: Node) -> None:
    async def scenario(on: Scene) -> None:
        await on.a.create(node, PRIVATE)
        await on.a.publish(node, entry(1), PRIVATE)
        await on.a.publish(node, entry(2), {**PRIVATE, "pubsub#unheard_of": "1"})
        await on.a.configure(node, {"pubsub#access_model": "open"})
        with pytest.raises(Rejected) as refusal:
            await on.a.publish(node, entry(3), {"pubsub#access_model": "whitelist"})
        assert refusal.value.detail == "precondition-not-met"
        assert sorted(await read(on.a, node)) == ["item-1", "item-2"]

    play(server, scenario)


def test_publishing_makes_no_node_at_a_service(server: Any) -> None:
    """ejabberd's component makes one that belongs to whoever published there first."""

    async def scenario(on: Scene) -> None:
        node = Node(Address(COMPONENT), "never made")
        for work in (on.a.publish(node, entry(1)), on.b.publish(node, entry(1), {"pubsub#access_model": "whitelist"})):
            assert await refused(work) in {"item-not-found", *REFUSED}
        assert await refused(read(on.a, node)) == "item-not-found"

    play(server, scenario)


def test_configuring_leaves_out_what_the_service_does_not_know(server: Any, node: Node) -> None:
    async def scenario(on: Scene) -> None:
        await on.a.create(node, {**PRIVATE, "pubsub#unheard_of": "1"})
        await on.a.configure(node, {"pubsub#unheard_of": "2", "pubsub#access_model": "open"})
        assert (await on.a.configuration(node))["pubsub#access_model"] == "open"
        await on.a.configure(node, {"pubsub#max_items": "max", "pubsub#persist_items": "true"})
        assert await refused(on.a.configure(node, {"pubsub#access_model": "whoever"})) != ""
        other = Node(node.service, f"{node.name}-2")
        assert await refused(on.a.create(other, {"pubsub#access_model": "whoever"})) != ""
        assert other.name not in await on.a.nodes(node.service)

    play(server, scenario)


def test_items_by_pages_by_ids_and_the_newest(server: Any, node: Node) -> None:
    async def scenario(on: Scene) -> None:
        await on.a.create(node, PRIVATE)
        assert await read(on.a, node) == []
        count = 2 * FIRST_PAGE + 1
        for number in range(count):
            await on.a.publish(node, entry(number))
        names = [f"item-{number}" for number in range(count)]
        pages = [page async for page in on.a.items(node)]
        assert sorted(item.id for page in pages for item in page) == sorted(names)
        assert len(pages[0]) == FIRST_PAGE
        by_name = {item.id: item for page in pages for item in page}
        assert by_name["item-3"].payload == entry(3).payload
        assert by_name["item-3"].publisher in (None, JULIET)
        for limit in (1, FIRST_PAGE, FIRST_PAGE + 2):
            assert await read(on.a, node, limit=limit) == names[::-1][:limit]
        assert await read(on.a, node, ids=["item-3", "missing", "item-1", "item-3"]) == ["item-3", "item-1"]
        assert await read(on.a, node, ids=["missing"]) == []
        assert await read(on.a, node, ids=[*(f"no-{n}" for n in range(FIRST_PAGE)), "item-1"]) == ["item-1"]

    play(server, scenario)


def test_large_items_come_in_answers_that_the_stream_carries(server: Any, node: Node) -> None:
    async def scenario(on: Scene) -> None:
        await on.a.create(node, PRIVATE)
        for number in range(LARGE):
            await on.a.publish(node, entry(number, 200_000))
        assert len(await read(on.a, node)) == LARGE
        assert len(await read(on.a, node, limit=LARGE - 1)) == LARGE - 1
        assert on.bots[0].events.count("session_start") == 1

    play(server, scenario)


def test_a_notification_speaks_for_its_sender_only(server: Any, node: Node) -> None:
    async def scenario(on: Scene) -> None:
        await on.a.create(node, PRIVATE)
        watch = on.a.notifications(node)
        event = f"<event xmlns='http://jabber.org/protocol/pubsub#event'><items node='{node.name}'><item id='forged'/>"
        for to in (JULIET, on.bots[0].boundjid.full):
            on.bots[1].send_raw(f"<message to='{to}' type='headline'>{event}</items></event></message>")
        await on.bots[1].settled()
        await on.bots[0].settled()
        await on.a.subscribe(node)
        await on.bots[0].settled()
        await on.a.publish(node, entry(1))
        assert [item.id for item in (await told(watch)).items] == ["item-1"]

    play(server, scenario)


def test_nobody_who_only_looks_in_is_shown_as_available(server: Any) -> None:
    async def run() -> None:
        bot = Bot(server, JULIET, presence=False)
        async with online(bot):
            service = XmppService(bot.core.network)
            sent: list[Any] = []
            bot.add_filter("out", lambda stanza: sent.append(stanza.name) or stanza)
            await service.subscribe(Node(Address(JULIET), "blog"))
            await until(lambda: True)
            assert "presence" not in sent

    asyncio.run(run())
