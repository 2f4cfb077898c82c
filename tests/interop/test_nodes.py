"""A private node from its first day to the change of locks, with the whole of Tillie, on four pubsub services."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support.ejabberd import ejabberd
from support.people import entry, texts
from support.prosody import HOSTS, new_account
from support.residents import Resident, at_home
from support.servers import stored
from support.services import JULIET, node, prosody_with_component, server
from support.xmpp import SECONDS, until
from tillie.errors import Rejected, UsageError
from tillie.pubsub import attachments
from tillie.pubsub.attachments import node_for
from tillie.pubsub.checking import Verdict
from tillie.pubsub.items import ItemKind, Node
from tillie.pubsub.members import Role

__all__ = ["ejabberd", "node", "prosody_with_component", "server"]


class Family:
    """Juliet, who owns nodes; her nurse; Romeo, on another host. Each has a key, and reads what comes."""

    def __init__(self, server: Any) -> None:
        nurse, romeo = new_account(server, "nurse"), new_account(server, "romeo", HOSTS[1])
        self.juliet, self.nurse, self.romeo = self.all = [Resident(server, jid) for jid in (JULIET, nurse, romeo)]

    async def heard(self, node: Node, *members: Resident) -> None:
        """These have the newest secret. On her own account Juliet is believed; of a component's node nobody but its
        owner gets to know who owns it, on neither server, so that a person has to say whom she believes."""
        newest = (await self.juliet.nodes.secrets(node))[0].id
        for each in members:
            async with asyncio.timeout(SECONDS):
                while newest not in [secret.id for secret in await each.nodes.secrets(node)]:
                    await each.settled()
                    waiting = [pending for _, pending in await each.nodes.pending(node)]
                    assert {pending.sender for pending in waiting} <= (set() if node.service == JULIET else {JULIET})
                    if waiting:
                        assert await each.nodes.accept(node, self.juliet.address) == len(waiting)


def play(server: Any, scenario: Callable[[Family], Awaitable[None]]) -> None:
    async def run() -> None:
        family = Family(server)
        async with at_home(*family.all):
            for each in family.all:
                await each.make_key()
            await scenario(family)

    asyncio.run(run())


def test_from_the_first_day_to_the_change_of_locks(server: Any, node: Node) -> None:
    async def scenario(on: Family) -> None:
        juliet, nurse, romeo = on.juliet.nodes, on.nurse.nodes, on.romeo.nodes
        await juliet.create(node)
        assert (await juliet.configure(node))["pubsub#access_model"] == "whitelist"
        first = await juliet.publish(node, entry("soliloquy one"))
        assert not first.in_clear
        with pytest.raises(Rejected):
            await on.nurse.read(node)
        assert (await juliet.share(node, on.nurse.address)).messages == 1
        await juliet.share(node, on.romeo.address, role=Role.PUBLISHER)
        await on.heard(node, on.nurse, on.romeo)
        await romeo.publish(node, entry("soliloquy two"))
        with pytest.raises(Rejected):
            await nurse.publish(node, entry("not hers to write"))
        both = ["soliloquy one", "soliloquy two"]
        for each in on.all:
            assert sorted(texts(await each.read(node))) == both

        removed = await juliet.remove(node, on.nurse.address)
        assert (removed.problems, removed.left_out) == ((), ())
        await on.heard(node, on.romeo)
        assert (await juliet.publish(node, entry("soliloquy three"))).secret not in ("", first.secret)
        with pytest.raises(Rejected):
            await on.nurse.read(node)
        for each in (on.juliet, on.romeo):
            assert sorted(texts(await each.read(node))) == sorted([*both, "soliloquy three"])
        assert {one.address: one.affiliation for one in await juliet.members(node)} == {
            on.juliet.address: "owner",
            on.nurse.address: "none",
            on.romeo.address: "publisher",
        }
        # The service changes its mind. Then she reads what she could read before, and nothing new.
        await on.juliet.connection.service.affiliate(node, {on.nurse.address: "member"})
        readings = await on.nurse.read(node)
        assert sorted(texts(readings)) == ["no secret", *both]
        secrets = [secret.value.encode() for secret in await juliet.secrets(node)]
        assert len(secrets) == 2
        await until(lambda: any(first.id.encode() in data for data in stored(server)))  # ejabberd writes later
        seen = stored(server)
        for hidden in (b"soliloquy", *secrets):
            assert not any(hidden in data for data in seen)

    play(server, scenario)


def test_a_signed_item(server: Any, node: Node) -> None:
    async def scenario(on: Family) -> None:
        await on.juliet.nodes.create(node)
        for each in (on.nurse, on.romeo):
            await on.juliet.nodes.share(node, each.address)
        await on.heard(node, on.nurse, on.romeo)
        published = await on.juliet.nodes.publish(node, entry("signed"), "one", sign=True)
        assert published.signed, published.unsigned
        await on.romeo.nodes.sign(node, "one")
        for each in on.all:
            checked = await each.nodes.check(node, "one")
            assert checked.summary is Verdict.VALID_TRUSTED, checked
            assert {report.signer for report in checked.reports} == {on.juliet.address, on.romeo.address}
        await on.juliet.nodes.remove(node, on.nurse.address)
        with pytest.raises(Rejected):
            [page async for page in on.nurse.nodes.service.items(node_for(node, "one"))]
        await on.juliet.nodes.retract(node, "one")
        assert await on.romeo.read(node) == []
        await on.juliet.nodes.delete(node)
        assert not [name for name in await on.juliet.nodes.names(node.service) if node.name in name]

    play(server, scenario)


def test_only_the_owner_makes_a_place_for_attachments(server: Any, node: Node) -> None:
    async def scenario(on: Family) -> None:
        await on.juliet.nodes.create(node)
        await on.juliet.nodes.share(node, on.romeo.address, role=Role.PUBLISHER)
        await on.heard(node, on.romeo)
        await on.romeo.nodes.publish(node, entry("his"), "one")
        with pytest.raises((UsageError, Rejected)):  # Prosody tells only its owner what is missing
            await on.romeo.nodes.sign(node, "one")
        assert await on.juliet.nodes.allow_attachments(node, "one")
        await on.romeo.nodes.sign(node, "one")
        checked = await on.juliet.nodes.check(node, "one")
        assert [(report.verdict, report.signer) for report in checked.reports] == [
            (Verdict.VALID_TRUSTED, on.romeo.address)
        ]

    play(server, scenario)


def test_an_item_for_one_person_alone(server: Any, node: Node) -> None:
    async def scenario(on: Family) -> None:
        await on.juliet.nodes.create(node)
        for each in (on.nurse, on.romeo):
            await on.juliet.nodes.share(node, each.address)
        await on.heard(node, on.nurse, on.romeo)
        await on.juliet.nodes.publish(node, entry("for Romeo"), "one", encrypt_for=[on.romeo.address])
        for _ in range(2):  # it opens once, and is kept
            (reading,) = await on.romeo.read(node)
            assert texts([reading]) == ["for Romeo"]
            assert reading.by is not None
            assert reading.by.address == JULIET
        (reading,) = await on.nurse.read(node)
        assert reading.kind is ItemKind.NOT_FOR_US
        assert not any(b"for Romeo" in data for data in stored(server))

    play(server, scenario)


def test_watching(server: Any, node: Node) -> None:
    async def scenario(on: Family) -> None:
        await on.juliet.nodes.create(node)
        await on.juliet.nodes.share(node, on.romeo.address)
        await on.heard(node, on.romeo)
        watch = on.romeo.nodes.watch(node)
        coming = asyncio.ensure_future(anext(watch))
        await on.romeo.settled()
        await on.juliet.nodes.publish(node, entry("news"))
        assert texts([await asyncio.wait_for(coming, 15)]) == ["news"]
        await watch.aclose()

    play(server, scenario)


def test_attaching(server: Any, node: Node) -> None:
    async def scenario(on: Family) -> None:
        await on.juliet.nodes.create(node)
        await on.juliet.nodes.share(node, on.nurse.address)
        await on.heard(node, on.nurse)
        await on.juliet.nodes.publish(node, entry("now"), "one")
        await on.juliet.nodes.allow_attachments(node, "one")
        for each in (on.juliet, on.nurse):
            await each.nodes.attach(
                node, "one", lambda old: attachments.replace(old, attachments.NOTICED, attachments.noticed(1e9))
            )
        there = await on.juliet.nodes.attachments(node, "one")
        assert {one.author for one in there.attached} == {on.juliet.address, on.nurse.address}
        assert all(one.sealed for one in there.attached)

    play(server, scenario)


def test_a_node_that_somebody_opened_takes_nothing(server: Any, node: Node) -> None:
    async def scenario(on: Family) -> None:
        await on.juliet.nodes.create(node)
        await on.juliet.nodes.share(node, on.romeo.address, role=Role.PUBLISHER)
        await on.heard(node, on.romeo)
        await on.juliet.nodes.service.configure(node, {"pubsub#access_model": "open"})
        for each in (on.juliet, on.romeo):
            with pytest.raises(Rejected, match="somebody may have opened it"):
                await each.nodes.publish(node, entry("x"))
        assert await on.juliet.read(node) == []

    play(server, scenario)


def test_a_long_archive_at_a_node_whose_name_the_service_chose(server: Any, node: Node) -> None:
    async def scenario(on: Family) -> None:
        made = await on.juliet.nodes.create(Node(node.service, ""))
        for number in range(30):
            await on.juliet.nodes.publish(made, entry(str(number)))
        await on.juliet.nodes.share(made, on.nurse.address)
        await on.heard(made, on.nurse)
        assert sorted(texts(await on.nurse.read(made)), key=int) == [str(number) for number in range(30)]

    play(server, scenario)
