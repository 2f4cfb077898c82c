"""A private node from its first day to the change of locks, with the whole of Tillie, on four pubsub services."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support.ejabberd import ejabberd
from support.prosody import HOSTS, new_account
from support.residents import Resident, at_home
from support.servers import stored
from support.services import JULIET, node, prosody_with_component, server
from support.xmpp import until
from tillie.errors import Rejected, UsageError
from tillie.pubsub.checking import Verdict
from tillie.pubsub.items import ItemKind, Node, Reading
from tillie.pubsub.members import Role

__all__ = ["ejabberd", "node", "prosody_with_component", "server"]

ENTRY = "<entry xmlns='http://www.w3.org/2005/Atom'><title>{}</title></entry>"


class Family:
    """Juliet, who owns nodes; her nurse; Romeo, on another host. Each has a key, and reads what comes."""

    def __init__(self, server: Any) -> None:
        nurse, romeo = new_account(server, "nurse"), new_account(server, "romeo", HOSTS[1])
        self.juliet, self.nurse, self.romeo = self.all = [Resident(server, jid) for jid in (JULIET, nurse, romeo)]

    async def heard(self, node: Node) -> None:
        """Everybody has what she was sent. On her own account Juliet is believed; of a component's node nobody but its
        owner gets to know who owns it, on neither server, so that a person has to say whom she believes."""
        for each in self.all:
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


def entry(title: str) -> bytes:
    return ENTRY.format(title).encode()


def titles(readings: list[Reading]) -> list[str]:
    """Title of each item that was read, and what kind of thing each other one is; sorted, as orders differ."""
    return sorted(
        (reading.payload or b"").decode().partition("<title>")[2].partition("<")[0] or reading.kind.value
        for reading in readings
    )


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
        await on.heard(node)
        await romeo.publish(node, entry("soliloquy two"))
        with pytest.raises(Rejected):
            await nurse.publish(node, entry("not hers to write"))
        both = ["soliloquy one", "soliloquy two"]
        for each in on.all:
            assert titles(await each.read(node)) == both

        removed = await juliet.remove(node, on.nurse.address)
        assert removed.problems == ()
        await on.heard(node)
        assert (await juliet.publish(node, entry("soliloquy three"))).secret not in ("", first.secret)
        with pytest.raises(Rejected):
            await on.nurse.read(node)
        for each in (on.juliet, on.romeo):
            assert titles(await each.read(node)) == sorted([*both, "soliloquy three"])
        # The service changes its mind. Then she reads what she could read before, and nothing new.
        await on.juliet.connection.service.affiliate(node, {on.nurse.address: "member"})
        readings = await on.nurse.read(node)
        assert titles(readings) == ["no secret", *both]
        secrets = [secret.value.encode() for secret in await juliet.secrets(node)]
        assert len(secrets) == 2
        await until(lambda: any(first.id.encode() in data for data in stored(server)))  # ejabberd writes later
        seen = stored(server)
        for hidden in (b"soliloquy", *secrets):
            assert not any(hidden in data for data in seen)

    play(server, scenario)


def test_an_item_is_signed_checked_and_retracted(server: Any, node: Node) -> None:
    async def scenario(on: Family) -> None:
        await on.juliet.nodes.create(node)
        await on.juliet.nodes.share(node, on.romeo.address)
        await on.heard(node)
        published = await on.juliet.nodes.publish(node, entry("signed"), "one", sign=True)
        assert not published.unsigned
        for each in (on.juliet, on.romeo):
            checked = await each.nodes.check(node, "one")
            assert [report.verdict for report in checked.reports] == [Verdict.VALID_TRUSTED]
            assert [report.signer for report in checked.reports] == [on.juliet.address]
        await on.juliet.nodes.retract(node, "one")
        assert await on.romeo.read(node) == []

    play(server, scenario)


def test_only_the_owner_makes_a_place_for_attachments(server: Any, node: Node) -> None:
    async def scenario(on: Family) -> None:
        await on.juliet.nodes.create(node)
        await on.juliet.nodes.share(node, on.romeo.address, role=Role.PUBLISHER)
        await on.heard(node)
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
        await on.heard(node)
        await on.juliet.nodes.publish(node, entry("for Romeo"), "one", encrypt_for=[on.romeo.address])
        for _ in range(2):  # it opens once, and is kept
            (reading,) = await on.romeo.read(node)
            assert titles([reading]) == ["for Romeo"]
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
        await on.heard(node)
        watch = on.romeo.nodes.watch(node)
        coming = asyncio.ensure_future(anext(watch))
        await on.romeo.settled()
        await on.juliet.nodes.publish(node, entry("news"))
        assert titles([await asyncio.wait_for(coming, 15)]) == ["news"]
        await watch.aclose()

    play(server, scenario)
