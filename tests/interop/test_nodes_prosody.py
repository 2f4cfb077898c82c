"""Private nodes between people on real servers: Prosody's PEP and pubsub component, ejabberd's PEP and component."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from support.ejabberd import ejabberd
from support.people import entry, texts
from support.prosody import HOSTS, PASSWORD, new_account, require_prosody
from support.xmpp import Bot, online
from tillie.demo.prosody import PrivateProsody
from tillie.errors import Rejected
from tillie.model import Address
from tillie.nodes import Nodes
from tillie.pubsub import attachments
from tillie.pubsub.attachments import node_for
from tillie.pubsub.checking import Verdict
from tillie.pubsub.items import ItemKind, Node, Reading
from tillie.pubsub.members import Role

__all__ = ["ejabberd"]

JULIET = f"juliet@{HOSTS[0]}"
COMPONENT = f"pubsub.{HOSTS[0]}"
# On Prosody's component only admins make nodes.
OPTIONS = f'Component "{COMPONENT}" "pubsub"\n  expose_publisher = true\n  admins = {{ "{JULIET}" }}\n'
PLUGINS = ("xep_0384", "xep_0374")


@pytest.fixture(scope="module")
def with_component() -> Iterator[PrivateProsody]:
    require_prosody()
    server = PrivateProsody(HOSTS, {JULIET: PASSWORD}, options=OPTIONS)
    asyncio.run(server.__aenter__())
    try:
        yield server
    finally:
        asyncio.run(server.__aexit__(None, None, None))


@pytest.fixture(params=["prosody", pytest.param("ejabberd", marks=pytest.mark.heavy)])
def server(request: pytest.FixtureRequest) -> Any:
    if request.param == "prosody":
        return request.getfixturevalue("with_component")
    started = request.getfixturevalue("ejabberd")
    with contextlib.suppress(RuntimeError):  # it is there already
        started.add_user(JULIET, PASSWORD)
    return started


@pytest.fixture(params=[JULIET, COMPONENT], ids=["pep", "component"])
def service(request: pytest.FixtureRequest) -> Address:
    return Address(request.param)


class Person:
    def __init__(self, server: Any, jid: str) -> None:
        self.address = Address(jid)
        self.bot = Bot(server, jid, plugins=PLUGINS)
        self.nodes: Nodes = self.bot.core.nodes

    async def ready(self) -> None:
        engine = self.bot.core.engine
        scheme = engine.scheme_named("openpgp")
        await engine.drive(lambda s: scheme.generate(s, engine.now()))
        await engine.flush()

    async def heard(self) -> None:
        await self.bot.settled()
        await self.nodes.settle()

    async def read(self, node: Node) -> list[Reading]:
        return [reading async for reading in self.nodes.items(node)]


class Scene:
    """Juliet owns the node; her nurse is on the same host, Romeo on another."""

    def __init__(self, server: Any) -> None:
        self.juliet = Person(server, JULIET)
        self.nurse = Person(server, new_account(server, "nurse"))
        self.romeo = Person(server, new_account(server, "romeo", HOSTS[1]))
        self.people = (self.juliet, self.nurse, self.romeo)

    async def heard(self) -> None:
        for _ in range(2):
            for person in self.people:
                await person.heard()
        for person in self.people:
            for node, each in await person.nodes.pending():
                assert node.service == COMPONENT  # Prosody's component tells nobody but the owner who that is
                await person.nodes.accept(node, Address(each.sender))


def play(server: Any, scenario: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        scene = Scene(server)
        async with online(*(person.bot for person in scene.people)):
            for person in scene.people:
                await person.ready()
            await scenario(scene)
            assert [error for person in scene.people for error in person.bot.errors] == []

    asyncio.run(run())


def test_a_blog_from_the_first_item_to_changed_locks(server: Any, service: Address) -> None:
    async def scenario(on: Scene) -> None:
        juliet, nurse, romeo = on.people
        blog = await juliet.nodes.create(Node(service, ""))
        signed = await juliet.nodes.publish(blog, entry("one"), sign=True)
        assert signed.signed, signed.unsigned
        await juliet.nodes.share(blog, nurse.address)
        await juliet.nodes.share(blog, romeo.address, role=Role.PUBLISHER)
        await on.heard()
        assert texts(await nurse.read(blog)) == ["one"]
        with pytest.raises(Rejected):
            await nurse.nodes.publish(blog, entry("not hers to write"))
        await romeo.nodes.publish(blog, entry("two"))
        assert sorted(texts(await juliet.read(blog))) == ["one", "two"]
        await romeo.nodes.sign(blog, signed.id)
        checked = await nurse.nodes.check(blog, signed.id)
        assert checked.summary is Verdict.VALID_TRUSTED, checked
        assert {report.signer for report in checked.reports} == {juliet.address, romeo.address}

        for_romeo = await juliet.nodes.publish(blog, entry("for Romeo"), encrypt_for=(romeo.address,))
        assert texts([await romeo.nodes.get(blog, for_romeo.id)]) == ["for Romeo"]
        assert (await nurse.nodes.get(blog, for_romeo.id)).kind is ItemKind.NOT_FOR_US

        removed = await juliet.nodes.remove(blog, nurse.address)
        assert removed.problems == ()
        assert removed.left_out == ()
        await on.heard()
        three = await juliet.nodes.publish(blog, entry("three"))
        with pytest.raises(Rejected):
            await nurse.read(blog)
        with pytest.raises(Rejected):
            [page async for page in nurse.nodes.service.items(node_for(blog, signed.id))]
        assert texts([await romeo.nodes.get(blog, three.id)]) == ["three"]
        assert {one.address: one.affiliation for one in await juliet.nodes.members(blog)} == {
            juliet.address: "owner",
            nurse.address: "none",
            romeo.address: "publisher",
        }
        await juliet.nodes.delete(blog)
        assert not [name for name in await juliet.nodes.names(service) if blog.name in name]

    play(server, scenario)


def test_a_node_that_somebody_opened_takes_nothing(server: Any, service: Address) -> None:
    async def scenario(on: Scene) -> None:
        juliet, _, romeo = on.people
        blog = await juliet.nodes.create(Node(service, ""))
        await juliet.nodes.share(blog, romeo.address, role=Role.PUBLISHER)
        await on.heard()
        await juliet.nodes.service.configure(blog, {"pubsub#access_model": "open"})
        for person in (juliet, romeo):
            with pytest.raises(Rejected, match="somebody may have opened it"):
                await person.nodes.publish(blog, entry("x"))
        assert await juliet.read(blog) == []

    play(server, scenario)


def test_watching_and_attaching(server: Any, service: Address) -> None:
    async def scenario(on: Scene) -> None:
        juliet, nurse, _ = on.people
        blog = await juliet.nodes.create(Node(service, ""))
        await juliet.nodes.share(blog, nurse.address)
        await on.heard()
        watched = nurse.nodes.watch(blog)
        coming = asyncio.ensure_future(anext(watched))
        await nurse.bot.settled()
        published = await juliet.nodes.publish(blog, entry("now"))
        assert texts([await asyncio.wait_for(coming, 15)]) == ["now"]
        await watched.aclose()
        await juliet.nodes.allow_attachments(blog, published.id)
        for person in (juliet, nurse):
            await person.nodes.attach(
                blog, published.id, lambda old: attachments.replace(old, attachments.NOTICED, attachments.noticed(1e9))
            )
        there = await juliet.nodes.attachments(blog, published.id)
        assert {one.author for one in there.attached} == {juliet.address, nurse.address}
        assert all(one.sealed for one in there.attached)
        await juliet.nodes.delete(blog)

    play(server, scenario)


def test_a_long_archive(server: Any, service: Address) -> None:
    async def scenario(on: Scene) -> None:
        juliet, nurse, _ = on.people
        blog = await juliet.nodes.create(Node(service, ""))
        for number in range(30):
            await juliet.nodes.publish(blog, entry(str(number)))
        await juliet.nodes.share(blog, nurse.address)
        await on.heard()
        assert sorted(texts(await nurse.read(blog)), key=int) == [str(number) for number in range(30)]
        await juliet.nodes.delete(blog)

    play(server, scenario)
