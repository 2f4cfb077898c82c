"""The pubsub plugins in slixmpp programs, each alone, on a real Prosody's PEP."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support.prosody import HOSTS, new_account, prosody
from support.xmpp import SECONDS, Bot, online, until
from tillie.crypto.random import random_bytes
from tillie.demo.prosody import PrivateProsody
from tillie.errors import BadSignature, Malformed, UsageError
from tillie.model import Done
from tillie.pubsub import hearing, statements
from tillie.pubsub.checking import Verdict
from tillie.pubsub.items import ItemKind, Node
from tillie.pubsub.members import Role
from tillie.pubsub.statements import Shared

__all__ = ["prosody"]

ENTRY = "<entry xmlns='http://www.w3.org/2005/Atom'><title>Good night, good night!</title></entry>"
OTHER = ENTRY.replace("night", "day")

# What each plugin says that we can, and which others of ours it brings.
PLUGINS = {
    "xep_0373": (set(), set()),
    "xep_0374": ({"urn:xmpp:openpgp:im:0"}, {"xep_0373"}),
    "xep_0470": (set(), {"xep_0373"}),
    "xep_0473": ({"urn:xmpp:openpgp:pubsub:0"}, {"xep_0373"}),
    "xep_0475": (
        {"urn:xmpp:pubsub-signing:0", "urn:xmpp:pubsub-signing:openpgp:0"},
        {"xep_0476", "xep_0470", "xep_0373"},
    ),
    "xep_0476": ({"urn:xmpp:pubsub-signing:openpgp:0"}, {"xep_0373"}),
    "xep_0477": ({"urn:xmpp:pte:0", "urn:xmpp:omemo:2"}, {"xep_0384"}),
}
FEATURES: set[str] = set().union(*(features for features, _ in PLUGINS.values()))


class Scene:
    """Juliet, Romeo and the nurse, each with the same plugins, and keys."""

    def __init__(self, server: PrivateProsody, *plugins: str) -> None:
        options = {"generate": True} if plugins[0] != "xep_0477" else {}
        self.juliet, self.romeo = new_account(server, "juliet"), new_account(server, "romeo", HOSTS[1])
        self.nurse = new_account(server, "nurse")
        self.bots = [Bot(server, jid, plugins=plugins, **options) for jid in (self.juliet, self.romeo, self.nurse)]
        self.a, self.b, self.c = (bot.plugin[plugins[0]] for bot in self.bots)
        self.news = [asyncio.Queue[Any]() for _ in self.bots]
        for bot, news in zip(self.bots, self.news, strict=True):
            bot.add_event_handler("pubsub_secrets", news.put_nowait)

    async def heard(self, number: int) -> tuple[str, ...]:
        """What came of the next message with secrets to one of them."""
        said: tuple[str, ...] = await asyncio.wait_for(self.news[number].get(), SECONDS)
        return said


def play(server: PrivateProsody, scenario: Callable[[Scene], Awaitable[None]], *plugins: str) -> None:
    async def run() -> None:
        scene = Scene(server, *plugins)
        async with online(*scene.bots):
            for bot in scene.bots:
                await until(lambda bot=bot: bot.store.outbox() == [])
            await scenario(scene)
            assert [error for bot in scene.bots for error in bot.errors] == []

    asyncio.run(run())


async def read(plugin: Any, *where: str, **what: Any) -> list[Any]:
    return [reading async for reading in plugin.items(*where, **what)]


async def features_of(bot: Bot) -> set[str]:
    return set((await bot.plugin["xep_0030"].get_info(bot.boundjid, local=True))["features"])


@pytest.mark.parametrize("name", PLUGINS)
def test_each_plugin_alone(prosody: PrivateProsody, name: str) -> None:
    async def scenario() -> None:
        features, brought = PLUGINS[name]
        bot = Bot(prosody, new_account(prosody, "juliet"), plugins=(name,))
        async with online(bot):
            assert await features_of(bot) & FEATURES == features
            assert "urn:xmpp:pubsub-attachments:1" not in await features_of(bot)
            ours = {"tillie", "xep_0384", *PLUGINS}
            assert {plugin for plugin in ours if bot.plugin.enabled(plugin)} == {"tillie", name, *brought}
            for plugin in (name, *brought):
                bot.plugin.disable(plugin)
            assert not bot.plugin.enabled("tillie")
            assert await features_of(bot) & FEATURES == set()

    asyncio.run(scenario())


def test_a_private_blog(prosody: PrivateProsody) -> None:
    async def scenario(on: Scene) -> None:
        node = (await on.a.create(None)).name
        await on.a.publish(None, node, ET.fromstring(ENTRY), "first")
        await on.a.share(None, node, on.romeo, role=Role.PUBLISHER)
        await on.a.share(None, node, on.nurse)
        assert await on.heard(1)
        assert await on.heard(2)
        for reader in (on.a, on.b, on.c):
            (reading,) = await read(reader, on.juliet, node)
            assert (reading.kind, reading.item.id) == (ItemKind.OPENED, "first")
            assert b"Good night, good night!" in reading.payload
        await on.b.publish(on.juliet, node, OTHER.encode(), "second")
        assert b"Good day" in (await on.a.item(None, node, "second")).payload
        assert (await on.a.remove(None, node, on.nurse)).cannot_undo
        await on.heard(1)
        await on.a.publish(None, node, ENTRY.encode(), "third")
        assert (await on.b.item(on.juliet, node, "third")).kind is ItemKind.OPENED
        assert {member.address for member in await on.a.members(None, node)} >= {on.romeo}
        secrets = await on.a.secrets(None, node)
        assert len(secrets) == 2

    play(prosody, scenario, "xep_0473")
    seen = [file.read_bytes() for file in prosody.data_folder.rglob("*") if file.is_file()]
    assert any(b"urn:xmpp:openpgp:pubsub:0" in data for data in seen)
    assert not any(b"Good night" in data or b"Good day" in data for data in seen)


def test_secrets_of_a_stranger_wait_for_a_decision(prosody: PrivateProsody) -> None:
    async def scenario(on: Scene) -> None:
        notices = on.bots[1].notices
        node = (await on.a.create(None)).name
        await on.a.share(None, node, on.romeo)
        await on.heard(1)
        # The nurse tells secrets of Juliet's node.
        shared = Shared(Node(on.a.core.account, node), "forged", random_bytes(32).hex(), 1_700_000_000.0)
        message = on.bots[2].make_message(on.romeo, mtype="chat")
        message.xml.append(ET.fromstring(statements.encode(shared)))
        on.bots[2].register_plugin("xep_0374", module="tillie.networks.xmpp.xep_0374")
        await on.bots[2].plugin["xep_0374"].send_sealed(message)
        await until(lambda: len(waiting(on.b)) == 1)
        assert notices
        assert [(place.name, pending.sender) for place, pending in await on.b.pending()] == [(node, on.nurse)]
        assert await on.b.refuse(on.juliet, node, on.nurse) == 1
        assert await on.b.pending() == ()
        assert [secret.id for secret in await on.b.secrets(on.juliet, node)] != ["forged"]

    def waiting(plugin: Any) -> list[Any]:
        return list(plugin.core.engine.store.run(lambda s: Done(hearing.pending(s))).value)

    play(prosody, scenario, "xep_0473")


def test_rotating_and_watching(prosody: PrivateProsody) -> None:
    async def scenario(on: Scene) -> None:
        node = (await on.a.create(None)).name
        await on.a.share(None, node, on.romeo)
        await on.heard(1)
        watch = on.b.watch(on.juliet, node)
        coming = asyncio.ensure_future(anext(watch))
        await on.bots[1].settled()
        await on.bots[0].settled()
        rotated = await on.a.rotate(None, node)
        assert rotated
        await on.heard(1)
        await asyncio.sleep(0)
        await on.a.publish(None, node, ENTRY.encode(), "after")
        reading = await asyncio.wait_for(coming, SECONDS)
        assert (reading.item.id, reading.kind) == ("after", ItemKind.OPENED)
        await watch.aclose()
        await on.a.retract(None, node, "after")
        assert await read(on.b, on.juliet, node) == []

    play(prosody, scenario, "xep_0473")


def test_nothing_goes_out_in_clear(prosody: PrivateProsody) -> None:
    async def scenario(on: Scene) -> None:
        with pytest.raises(UsageError):
            await on.a.publish(None, "no-secret-here", ENTRY.encode())
        assert "no-secret-here" not in await on.a.nodes.names(on.a.core.account)

    play(prosody, scenario, "xep_0473")


def test_signatures_are_attached_and_checked(prosody: PrivateProsody) -> None:
    async def scenario(on: Scene) -> None:
        node = (await on.a.nodes.create(on.a.place(None, "blog"), encrypted=False, access="open")).name
        await on.a.nodes.publish(on.a.place(None, node), ENTRY.encode(), "first")
        signed = await on.a.sign(None, node, "first")
        assert b"Good night" in signed.payload
        (report,) = (await on.b.check(on.juliet, node, "first")).reports
        assert (report.signer, report.verdict) == (on.juliet, Verdict.VALID_TRUSTED)
        await on.b.sign(on.juliet, node, "first")
        reports = (await on.c.check(on.juliet, node, "first")).reports
        assert {report.signer for report in reports} == {on.juliet, on.romeo}
        await on.a.nodes.publish(on.a.place(None, node), OTHER.encode(), "first")
        reports = (await on.b.check(on.juliet, node, "first")).reports
        assert {report.verdict for report in reports} == {Verdict.INVALID}

    play(prosody, scenario, "xep_0475")


def test_a_signature_that_is_kept_elsewhere(prosody: PrivateProsody) -> None:
    async def scenario(on: Scene) -> None:
        made = await on.a.make_signature(None, "blog", ET.fromstring(ENTRY))
        where = (on.juliet, "blog", ENTRY.encode(), made)
        device = await on.b.verify_signature(*where, signer=on.juliet)
        assert device.address == on.juliet
        for service, payload in ((on.romeo, ENTRY), (on.juliet, OTHER)):
            with pytest.raises(BadSignature):
                await on.b.verify_signature(service, "blog", payload.encode(), made, signer=on.juliet)
        with pytest.raises(Malformed):
            await on.b.verify_signature(*where, signer=on.nurse)
        stranger = f"nobody@{HOSTS[0]}"
        forged = made.replace(on.juliet.encode(), stranger.encode())
        with pytest.raises(UsageError):
            await on.b.verify_signature(on.juliet, "blog", ENTRY.encode(), forged, signer=stranger)

    play(prosody, scenario, "xep_0476")


def test_attachments(prosody: PrivateProsody) -> None:
    async def scenario(on: Scene) -> None:
        node = (await on.a.nodes.create(on.a.place(None, "blog"), encrypted=False, access="open")).name
        await on.a.nodes.publish(on.a.place(None, node), ENTRY.encode(), "first")
        assert await on.a.allow_attachments(None, node, "first")
        where = (on.juliet, node, "first")
        await on.b.set_noticed(*where)
        await on.b.set_reactions(*where, ["\N{HEAVY BLACK HEART}", "\N{ROSE}"])
        await on.b.attach(*where, "{urn:example}mark", ET.fromstring("<mark xmlns='urn:example'/>"))
        (attached,) = (await on.a.attachments(None, node, "first")).attached
        assert attached.author == on.romeo
        assert [child.tag.partition("}")[2] for child in attached.children] == ["noticed", "reactions", "mark"]
        await on.b.set_noticed(*where, noticed=False)
        await on.b.set_reactions(*where, [])
        (attached,) = (await on.a.attachments(None, node, "first")).attached
        assert [child.tag for child in attached.children] == ["{urn:example}mark"]

    play(prosody, scenario, "xep_0470")


def test_items_for_a_few_people(prosody: PrivateProsody) -> None:
    async def scenario(on: Scene) -> None:
        await on.a.nodes.create(on.a.place(None, "blog"), encrypted=False, access="open")
        published = await on.a.publish(None, "blog", ENTRY.encode(), [on.romeo], "for-romeo")
        assert [report.sealed for report in published.report] == [True]
        for _ in range(2):  # it opens once on the wire, and is kept
            assert (await on.b.item(on.juliet, "blog", "for-romeo")).kind is ItemKind.OPENED
            assert (await on.a.item(None, "blog", "for-romeo")).kind is ItemKind.OPENED
        (reading,) = await read(on.c, on.juliet, "blog")
        assert (reading.kind, reading.payload) == (ItemKind.NOT_FOR_US, None)
        with pytest.raises(UsageError):
            await on.a.publish(None, "blog", ENTRY.encode(), [f"nobody@{HOSTS[0]}"], "for-nobody")
        assert [each.item.id for each in await read(on.a, on.juliet, "blog")] == ["for-romeo"]

    play(prosody, scenario, "xep_0477")
