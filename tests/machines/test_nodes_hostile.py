"""Private nodes where the service, or a member, is hostile: what each can do, what is noticed, what they can't."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.people import BLOG, JULIET, NURSE, PUBSUB, ROMEO, TYBALT, House, Person, at_home, entry, texts, until
from tillie.errors import Rejected, Unreachable, UsageError
from tillie.model import Address, Content
from tillie.nodes import Notification
from tillie.nodes.ground import explained
from tillie.pipeline import Policy
from tillie.pubsub import secrets
from tillie.pubsub.items import Item, ItemKind, Node, Reading
from tillie.pubsub.members import Role
from tillie.pubsub.secrets import Secret
from tillie.pubsub.statements import NS


async def three(house: House) -> tuple[Person, Person, Person]:
    """Juliet's blog with her nurse as reader and Romeo as publisher, and two items, which the nurse has read."""
    juliet, nurse, romeo = [await house.person(name) for name in (JULIET, NURSE, ROMEO)]
    await juliet.nodes.create(BLOG)
    await juliet.nodes.share(BLOG, NURSE)
    await juliet.nodes.share(BLOG, ROMEO, role=Role.PUBLISHER)
    await house.heard()
    await juliet.nodes.publish(BLOG, entry("one"), "1")
    await romeo.nodes.publish(BLOG, entry("two"), "2")
    assert texts(await nurse.read(BLOG)) == ["two", "one"]
    house.clock.now += 60
    return juliet, nurse, romeo


def only(readings: list[Reading], item_id: str) -> Reading:
    (found,) = [reading for reading in readings if reading.item.id == item_id]
    return found


# -- the service ------------------------------------------------------------------------------------------------------


def test_items_put_under_each_others_ids_are_noticed() -> None:
    async def scenario(house: House) -> None:
        _, nurse, _ = await three(house)
        items = house.pubsub.nodes[BLOG].items
        items["1"], items["2"] = items["2"]._replace(id="1"), items["1"]._replace(id="2")
        for reading in await nurse.read(BLOG):
            assert any("under the id" in note for note in reading.notes), reading.notes

    at_home(scenario)


def test_an_item_moved_to_another_node_does_not_open() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse, _ = await three(house)
        other = await juliet.nodes.create(Node(JULIET, "d3e4f5"))
        await juliet.nodes.share(other, NURSE)
        await house.heard()
        house.pubsub.nodes[other].items["1"] = house.pubsub.nodes[BLOG].items["1"]
        (reading,) = await nurse.read(other)
        assert reading.kind is ItemKind.NO_SECRET
        elsewhere = Node(PUBSUB, BLOG.name)  # a node of the same name at another service
        house.pubsub.make(elsewhere, JULIET, {}).items["1"] = house.pubsub.nodes[BLOG].items["1"]
        assert [reading.kind for reading in await nurse.read(elsewhere)] == [ItemKind.NO_SECRET]

    at_home(scenario)


def test_an_older_version_that_comes_back_is_noticed() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse, _ = await three(house)
        items = house.pubsub.nodes[BLOG].items
        old = items["1"]
        await juliet.nodes.publish(BLOG, entry("one, corrected"), "1")
        assert only(await nurse.read(BLOG), "1").notes == ()
        items["1"] = old
        for person in (nurse, juliet):
            assert any("older version" in note for note in only(await person.read(BLOG), "1").notes)

    at_home(scenario)


def test_what_a_removed_publisher_writes_is_rejected() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse, romeo = await three(house)
        await juliet.nodes.remove(BLOG, ROMEO)
        house.pubsub.nodes[BLOG].affiliations[ROMEO] = "publisher"  # the service lets him in again
        await romeo.nodes._ground.write(lambda s: _unrevoked(s, romeo))
        house.clock.now += 60
        later = await romeo.nodes.publish(BLOG, entry("I was here"))
        assert only(await juliet.read(BLOG), later.id).kind is ItemKind.REJECTED
        assert only(await juliet.read(BLOG), "2").kind is ItemKind.OPENED  # what he wrote before stays
        # The service says that Juliet herself wrote it: then it is only late, and that is said.
        items = house.pubsub.nodes[BLOG].items
        items[later.id] = items[later.id]._replace(publisher=JULIET)
        await house.heard()
        for person in (juliet, nurse):
            assert any("after its secret was revoked" in note for note in only(await person.read(BLOG), later.id).notes)
        # In clear it counts as little.
        clear = await romeo.nodes.publish(BLOG, entry("in clear"), encrypt=False, access="")
        assert only(await juliet.read(BLOG), clear.id).kind is ItemKind.REJECTED

    at_home(scenario)


def _unrevoked(s: Any, person: Person) -> None:
    """Romeo's client does not obey: the old secret seals on."""
    old = secrets.secrets(s, BLOG)[0]
    secrets.keep(s, BLOG, Secret(*[getattr(old, name) for name in old.__struct_fields__[:7]]))
    secrets.choose(s, BLOG, secrets.known(s, BLOG))


def test_an_old_key_to_new_doors_is_noticed_as_it_comes() -> None:
    async def scenario(house: House) -> None:
        juliet, _, romeo = await three(house)
        await juliet.nodes.remove(BLOG, ROMEO)
        tybalt = await house.person(TYBALT)
        await juliet.nodes.share(BLOG, TYBALT)  # his secrets came revoked: he can't know when that was
        await romeo.nodes._ground.write(lambda s: _unrevoked(s, romeo))
        await house.heard()
        watched = tybalt.nodes.watch(BLOG)
        coming = asyncio.ensure_future(anext(watched))
        await until(lambda: TYBALT in house.pubsub.nodes[BLOG].subscribers)
        house.pubsub.nodes[BLOG].affiliations[ROMEO] = "publisher"
        await romeo.nodes.publish(BLOG, entry("I was here"))
        reading = await coming
        assert any("after its secret was revoked" in note for note in reading.notes)
        assert not any(reading.notes for reading in await tybalt.read(BLOG, "1", "2"))
        await watched.aclose()

    at_home(scenario)


def test_an_item_seen_before_the_locks_were_changed_stays_without_a_word() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse, _ = await three(house)
        await juliet.nodes.publish(BLOG, entry("not read by the nurse before"), "3")
        house.clock.now += 10
        await juliet.nodes.rotate(BLOG)
        await house.heard()
        assert [reading.notes for reading in await juliet.read(BLOG)] == [()] * 3
        told = {reading.item.id: reading.notes for reading in await nurse.read(BLOG)}
        assert told["1"] == told["2"] == ()
        assert told["3"] != ()  # she can't know that it is older, and is told so

    at_home(scenario)


GARBAGE = (
    b"",
    b"<",
    b"\xff\xfe",
    b"<encrypted xmlns='urn:xmpp:openpgp:pubsub:0'/>",
    b"<encrypted xmlns='urn:xmpp:openpgp:pubsub:0' key=''>QQ==</encrypted>",
    b"<encrypted xmlns='urn:xmpp:openpgp:pubsub:0' key='unknown'>QQ==</encrypted>",
    b"<encrypted xmlns='urn:xmpp:pte:0'/>",
    b"<encrypted xmlns='urn:xmpp:pte:0' by='@' type='urn:xmpp:omemo:2'><a xmlns='u'/></encrypted>",
    b"<encrypted xmlns='urn:xmpp:pte:0' by='juliet@capulet.test' type='urn:x'><a xmlns='u'/></encrypted>",
    b"<encrypted xmlns='urn:xmpp:pte:0' by='juliet@capulet.test' type='urn:xmpp:omemo:2'>"
    b"<encrypted xmlns='urn:xmpp:omemo:2'/></encrypted>",
    b"<!DOCTYPE a [<!ENTITY b 'c'>]><a xmlns='u'>&b;</a>",
    b"<a xmlns='u'>" * 100 + b"</a>" * 100,
    b"<a xmlns='u'>" + b"x" * 600_000 + b"</a>",
)


def test_garbage_costs_only_itself() -> None:
    async def scenario(house: House) -> None:
        _, nurse, _ = await three(house)
        node = house.pubsub.nodes[BLOG]
        key = (await nurse.nodes.secrets(BLOG))[0].id.encode()
        named = [
            b"<encrypted xmlns='urn:xmpp:openpgp:pubsub:0' key='%s'>%s</encrypted>" % (key, data)
            for data in (b"", b"QQ==", b"!", b"<a/>", b"A" * 4_000)
        ]
        for number, payload in enumerate((*GARBAGE, *named)):
            node.items[f"g{number}"] = Item(f"g{number}", payload, JULIET)
        readings = await nurse.read(BLOG)
        assert len(readings) == 2 + len(GARBAGE) + len(named)
        for reading in readings:
            if reading.item.id in ("1", "2"):
                assert reading.kind is ItemKind.OPENED
            else:
                assert reading.kind not in (ItemKind.OPENED,)
                assert reading.kind is ItemKind.CLEAR or reading.error

    at_home(scenario)


@given(st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=80)), max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_a_service_answers_is_read_as_something(answers: list[tuple[str, bytes]]) -> None:
    async def scenario(house: House) -> None:
        juliet = await house.person(JULIET, key=False)
        node = house.pubsub.make(BLOG, JULIET, {})
        for number, (name, data) in enumerate(answers):
            payload = b"<encrypted xmlns='urn:xmpp:openpgp:pubsub:0' key='k'>" + data + b"</encrypted>"
            node.items[f"{name}{number}"] = Item(f"{name}{number}", data if number % 2 else payload)
        assert len(await juliet.read(BLOG)) == len(answers)

    at_home(scenario)


class Lying:
    """A service that answers otherwise than it should."""

    def __init__(self, service: Any, **lies: Any) -> None:
        self._service = service
        self.__dict__.update(lies)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)


def lie(person: Person, **lies: Any) -> None:
    service = Lying(person.connection.service, **lies)
    person.nodes._ground = person.nodes._ground._replace(service=service)


def test_a_service_that_says_somebody_else_owns_the_node_changes_nothing() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse, tybalt = [await house.person(name) for name in (JULIET, NURSE, TYBALT)]
        node = await juliet.nodes.create(Node(PUBSUB, ""))
        await juliet.nodes.share(node, NURSE)
        await house.heard()

        async def owners(node: Node) -> frozenset[Address]:
            return frozenset({TYBALT})

        lie(tybalt, owners=owners, affiliations=_nobody, affiliate=_done)
        lie(nurse, owners=owners)
        await tybalt.make_secret(node)
        await tybalt.nodes.share(node, NURSE)
        await house.heard()
        assert {secret.sender for secret in await nurse.nodes.secrets(node)} == {JULIET}  # she was the first
        published = await juliet.nodes.publish(node, entry("still hers"))
        assert texts([await nurse.nodes.get(node, published.id)]) == ["still hers"]

    at_home(scenario)


async def _nobody(node: Node) -> dict[Address, str]:
    return {}


async def _done(*_: object) -> None:
    return None


def test_a_service_that_drops_and_fails_in_the_middle() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse, _ = await three(house)
        whole = house.pubsub.nodes[BLOG]

        async def items(node: Node, *, ids: Iterable[str] = (), limit: int | None = None) -> AsyncIterator[list[Item]]:
            yield [whole.items["2"]]
            yield []
            raise Unreachable("the connection is gone")

        lie(nurse, items=items)
        readings = nurse.nodes.items(BLOG)
        assert texts([await anext(readings)]) == ["two"]  # what came before is not lost
        with pytest.raises(Unreachable):
            await anext(readings)

        async def publish(*_: object) -> str:
            raise Unreachable("the connection is gone")

        lie(juliet, publish=publish)
        with pytest.raises(Unreachable):
            await juliet.nodes.publish(BLOG, entry("lost"))

    at_home(scenario)


def test_a_notification_of_another_node_or_with_another_item_is_not_taken_for_ours() -> None:
    async def scenario(house: House) -> None:
        _, nurse, _ = await three(house)
        whole = house.pubsub.nodes[BLOG]
        other = Node(JULIET, "another")

        async def notifications(node: Node) -> AsyncIterator[Notification]:
            yield Notification(other, (whole.items["1"],))
            yield Notification(BLOG, (Item("gone", b""),))
            yield Notification(BLOG, (Item("1", b""),))

        async def items(node: Node, *, ids: Iterable[str] = (), limit: int | None = None) -> AsyncIterator[list[Item]]:
            if "gone" in ids:
                raise Rejected(condition="item-not-found")
            yield [whole.items["2"], whole.items["1"]]

        lie(nurse, notifications=notifications, items=items)
        assert texts([reading async for reading in nurse.nodes.watch(BLOG)]) == ["one"]

    at_home(scenario)


def test_a_first_secret_of_a_stranger_asks_no_service_twice() -> None:
    async def scenario(house: House) -> None:
        nurse, tybalt = await house.person(NURSE), await house.person(TYBALT)
        node = Node(PUBSUB, "made-up")
        await send(tybalt, NURSE, shared(node, "id-of-it", "x" * 64))
        asked: list[Node] = []

        async def owners(node: Node) -> frozenset[Address]:
            asked.append(node)
            raise Rejected(condition="item-not-found")

        lie(nurse, owners=owners)
        await house.heard()
        await house.heard()
        assert asked == [node]
        assert len(await nurse.nodes.pending()) == 1
        assert await nurse.nodes.secrets(node) == ()
        assert await nurse.nodes.refuse(node, TYBALT) == 1
        assert await nurse.nodes.pending() == ()

    at_home(scenario)


def test_who_is_not_trusted_makes_us_ask_nobody() -> None:
    async def scenario(house: House) -> None:
        nurse, tybalt = await house.person(NURSE, policy=Policy.MANUAL), await house.person(TYBALT)
        asked: list[Node] = []

        async def owners(node: Node) -> frozenset[Address]:
            asked.append(node)
            return frozenset({TYBALT})

        lie(nurse, owners=owners)
        node = Node(Address("tells.tybalt.test"), "when-she-is-online")
        await send(tybalt, NURSE, shared(node, "id-of-it", "x" * 64))
        await house.heard()
        assert asked == []
        assert len(await nurse.nodes.pending(node)) == 1

    at_home(scenario)


# -- a member ---------------------------------------------------------------------------------------------------------


def shared(node: Node, id: str, value: str) -> bytes:
    return (
        f"<shared-secret xmlns='{NS}' jid='{node.service}' node='{node.name}' id='{id}' "
        f"timestamp='2026-09-21T13:24:31Z'>{value}</shared-secret>"
    ).encode()


async def send(sender: Person, to: Address, element: bytes, *, scheme: str = "openpgp") -> None:
    await sender.engine.send(to, Content(element), scheme=scheme)


def test_a_member_can_not_change_the_locks() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse, romeo = await three(house)
        before = await nurse.nodes.secrets(BLOG)
        revoke = f"<revoke xmlns='{NS}' jid='{JULIET}' node='{BLOG.name}' id='{before[0].id}'/>".encode()
        for element in (shared(BLOG, "romeos", "r" * 64), shared(BLOG, before[0].id, "r" * 64), revoke):
            for scheme in ("openpgp", "omemo"):
                await send(romeo, NURSE, element, scheme=scheme)
                await send(romeo, JULIET, element, scheme=scheme)
        await house.heard()
        assert await nurse.nodes.secrets(BLOG) == before
        assert (await juliet.nodes.secrets(BLOG))[0].id == before[0].id
        assert nurse.notices
        with pytest.raises(UsageError):
            await juliet.nodes.accept(BLOG, TYBALT)

    at_home(scenario)


def test_a_secret_in_clear_is_not_believed() -> None:
    async def scenario(house: House) -> None:
        nurse, juliet = await house.person(NURSE), await house.person(JULIET)
        stanza = b"<message xmlns='jabber:client' to='%s' type='chat' id='m'>%s</message>" % (
            NURSE.encode(), shared(BLOG, "clear", "c" * 64),
        )  # fmt: skip
        house.server.route(juliet.connection, stanza)
        await house.heard()
        assert await nurse.nodes.secrets(BLOG) == ()
        assert await nurse.nodes.pending() == ()

    at_home(scenario)


def test_what_a_service_refuses_is_said_in_words() -> None:
    said = []
    for condition, detail in (
        ("forbidden", ""),
        ("not-allowed", ""),
        ("item-not-found", ""),
        ("conflict", "precondition-not-met"),
        ("precondition-not-met", ""),
        ("internal-server-error", "it is broken"),
        ("internal-server-error", ""),
    ):
        with pytest.raises(Rejected) as caught, explained("publish at", BLOG):
            raise Rejected(detail, condition=condition)
        assert caught.value.condition == condition
        said.append(str(caught.value))
    assert len(set(said)) == 5
    assert all(BLOG.name in line for line in said)
    assert "it is broken" in said[5]
    assert "internal-server-error" in said[6]
