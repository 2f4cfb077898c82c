"""Signatures and other attachments: by several people, in clear and sealed, and what a service may do to them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.people import BLOG, JULIET, NURSE, PUBSUB, ROMEO, TYBALT, House, at_home, entry, texts
from tillie.errors import UsageError
from tillie.model import Trust
from tillie.pubsub import attachments, signing
from tillie.pubsub.attachments import node_for
from tillie.pubsub.checking import Verdict
from tillie.pubsub.items import Item, Node
from tillie.pubsub.members import Role
from tillie.trust import decisions

both = pytest.mark.parametrize("does_attachments", [False, True])


@both
def test_signed_by_several_sealed(does_attachments: bool) -> None:
    async def scenario(house: House) -> None:
        juliet, nurse, romeo = [await house.person(name) for name in (JULIET, NURSE, ROMEO)]
        await juliet.nodes.create(BLOG)
        await juliet.nodes.share(BLOG, NURSE)
        await juliet.nodes.share(BLOG, ROMEO, role=Role.PUBLISHER)
        await house.heard()
        published = await juliet.nodes.publish(BLOG, entry("signed"), sign=True)
        assert published.signed
        assert published.unsigned is None
        assert texts([await romeo.nodes.sign(BLOG, published.id)]) == ["signed"]
        await nurse.nodes.sign(BLOG, published.id)  # a reader may attach, too
        for person in (juliet, nurse, romeo):
            checked = await person.nodes.check(BLOG, published.id)
            assert checked.summary is Verdict.VALID_TRUSTED, checked
            assert {report.signer for report in checked.reports} == {JULIET, NURSE, ROMEO}
        place = house.pubsub.nodes[node_for(BLOG, published.id)]
        assert place.options["pubsub#access_model"] == "whitelist"
        assert not any(b"signer" in item.payload for item in place.items.values())

    at_home(scenario, attachments=does_attachments)


@both
def test_signed_in_clear(does_attachments: bool) -> None:
    async def scenario(house: House) -> None:
        juliet, romeo = await house.person(JULIET), await house.person(ROMEO)
        await juliet.nodes.create(BLOG, encrypted=False, access="open")
        published = await juliet.nodes.publish(BLOG, entry("for all"), sign=True)
        checked = await romeo.nodes.check(BLOG, published.id)
        assert checked.summary is Verdict.VALID_TRUSTED
        await romeo.nodes.sign(BLOG, published.id)
        assert {report.signer for report in (await juliet.nodes.check(BLOG, published.id)).reports} == {JULIET, ROMEO}

    at_home(scenario, attachments=does_attachments)


def test_an_untrusted_key_is_said() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse = await house.person(JULIET), await house.person(NURSE)
        await juliet.nodes.create(BLOG)
        await juliet.nodes.share(BLOG, NURSE)
        await house.heard()
        published = await juliet.nodes.publish(BLOG, entry("signed"), sign=True)
        fingerprint = (await nurse.nodes.check(BLOG, published.id)).reports[0].fingerprint
        await nurse.nodes._ground.write(lambda s: decisions.decide(s, JULIET, fingerprint, Trust.DISTRUSTED, 1.0))
        assert (await nurse.nodes.check(BLOG, published.id)).summary is Verdict.VALID_UNTRUSTED

    at_home(scenario)


def test_without_a_key_nothing_is_published() -> None:
    async def scenario(house: House) -> None:
        juliet = await house.person(JULIET, key=False)
        house.pubsub.make(BLOG, JULIET, {})
        with pytest.raises(UsageError):
            await juliet.nodes.publish(BLOG, entry("unsigned"), encrypt=False, sign=True)
        assert house.pubsub.seen == []

    at_home(scenario)


def test_a_signature_of_a_sealed_item_is_never_in_clear() -> None:
    async def scenario(house: House) -> None:
        juliet, romeo = await house.person(JULIET), await house.person(ROMEO)
        await juliet.nodes.create(BLOG, encrypted=False, access="open")
        with pytest.raises(UsageError, match="no secret of its node"):
            await juliet.nodes.publish(BLOG, entry("for Romeo"), encrypt_for=(ROMEO,), sign=True)
        assert house.pubsub.seen == []
        published = await juliet.nodes.publish(BLOG, entry("for Romeo"), encrypt_for=(ROMEO,))
        with pytest.raises(UsageError, match="no secret of its node"):
            await romeo.nodes.sign(BLOG, published.id)
        assert len(house.pubsub.seen) == 1
        await juliet.nodes.sign(BLOG, published.id, encrypt=False)  # she says so
        assert (await romeo.nodes.check(BLOG, published.id)).summary is Verdict.VALID_TRUSTED

    at_home(scenario)


def test_what_others_attached_by_another_client_is_kept() -> None:
    async def scenario(house: House) -> None:
        juliet = await house.person(JULIET)
        await juliet.nodes.create(BLOG)
        published = await juliet.nodes.publish(BLOG, entry("signed"))
        await juliet.nodes.allow_attachments(BLOG, published.id)
        unknown = b"<bookmark xmlns='urn:example:bookmark' page='7'/>"
        place = node_for(BLOG, published.id)
        house.pubsub.nodes[place].items[JULIET] = Item(JULIET, attachments.encode([unknown]), JULIET)
        await juliet.nodes.sign(BLOG, published.id)
        house.clock.now += 5
        await juliet.nodes.sign(BLOG, published.id)
        await juliet.nodes.attach(
            BLOG,
            published.id,
            lambda before: attachments.replace(before, attachments.NOTICED, attachments.noticed(1e9)),
        )
        (mine,) = (await juliet.nodes.attachments(BLOG, published.id)).attached
        assert mine.sealed
        assert [child.tag for child in mine.children] == [
            "{urn:example:bookmark}bookmark",
            signing.SIGNATURE,
            attachments.NOTICED,
        ]

    at_home(scenario)


def test_what_can_not_be_opened_is_not_written_over() -> None:
    async def scenario(house: House) -> None:
        juliet = await house.person(JULIET)
        await juliet.nodes.create(BLOG)
        published = await juliet.nodes.publish(BLOG, entry("signed"), sign=True)
        place = house.pubsub.nodes[node_for(BLOG, published.id)]
        kept = place.items[JULIET]._replace(payload=place.items[JULIET].payload.replace(b"key='", b"key='x"))
        place.items[JULIET] = kept
        with pytest.raises(UsageError, match="its secret"):
            await juliet.nodes.sign(BLOG, published.id)
        assert place.items[JULIET] == kept
        there = await juliet.nodes.attachments(BLOG, published.id)
        assert there.attached == ()
        assert len(there.unreadable) == 1

    at_home(scenario)


def test_no_place_for_attachments() -> None:
    async def scenario(house: House) -> None:
        juliet, romeo = await house.person(JULIET), await house.person(ROMEO)
        await juliet.nodes.create(BLOG)
        await juliet.nodes.share(BLOG, ROMEO, role=Role.PUBLISHER)
        await house.heard()
        published = await romeo.nodes.publish(BLOG, entry("by Romeo"), sign=True)
        assert not published.signed
        assert (
            published.unsigned is not None
        )  # the item is there, the signature could not be attached, and that is said
        assert texts(await juliet.read(BLOG)) == ["by Romeo"]
        assert (await juliet.nodes.check(BLOG, published.id)).summary is None
        await juliet.nodes.allow_attachments(BLOG, published.id)
        await romeo.nodes.sign(BLOG, published.id)
        assert (await juliet.nodes.check(BLOG, published.id)).summary is Verdict.VALID_TRUSTED

    at_home(scenario)


@both
def test_the_list_of_an_attachment_node_is_kept_in_step(does_attachments: bool) -> None:
    async def scenario(house: House) -> None:
        juliet, _, romeo = [await house.person(name) for name in (JULIET, NURSE, ROMEO)]
        await juliet.nodes.create(BLOG)
        await juliet.nodes.share(BLOG, NURSE)
        published = await juliet.nodes.publish(BLOG, entry("signed"), sign=True)
        await juliet.nodes.share(BLOG, ROMEO)
        await house.heard()
        await romeo.nodes.sign(BLOG, published.id)
        house.clock.now += 10
        removed = await juliet.nodes.remove(BLOG, NURSE)
        assert removed.problems == ()
        place = house.pubsub.nodes[node_for(BLOG, published.id)]
        assert not place.may_read(NURSE)
        assert place.may_read(ROMEO)
        await juliet.nodes.retract(BLOG, published.id)
        assert does_attachments or node_for(BLOG, published.id) not in house.pubsub.nodes
        await juliet.nodes.publish(BLOG, entry("another"), sign=True)
        await juliet.nodes.delete(BLOG)
        assert not [node for node in house.pubsub.nodes if node.service == JULIET and "another" in node.name]

    at_home(scenario, attachments=does_attachments)


def test_the_access_of_an_attachment_node_is_kept_in_step() -> None:
    async def scenario(house: House) -> None:
        juliet = await house.person(JULIET)
        await juliet.nodes.create(BLOG, access="open")
        published = await juliet.nodes.publish(BLOG, entry("signed"), sign=True)
        place = house.pubsub.nodes[node_for(BLOG, published.id)]
        assert place.options["pubsub#access_model"] == "open"
        await juliet.nodes.configure(BLOG, {"pubsub#access_model": "whitelist"})
        assert place.options["pubsub#access_model"] == "whitelist"
        house.pubsub.nodes[BLOG].affiliations[TYBALT] = "outcast"
        another = await juliet.nodes.publish(BLOG, entry("signed, too"), sign=True)
        assert house.pubsub.nodes[node_for(BLOG, another.id)].affiliations[TYBALT] == "outcast"

    at_home(scenario)


def test_only_the_owner_makes_an_attachment_node() -> None:
    async def scenario(house: House) -> None:
        juliet, romeo = await house.person(JULIET), await house.person(ROMEO)
        blog = await juliet.nodes.create(Node(PUBSUB, ""))
        await juliet.nodes.share(blog, ROMEO, role=Role.PUBLISHER)
        await house.heard()
        published = await romeo.nodes.publish(blog, entry("by Romeo"))
        assert not await romeo.nodes.allow_attachments(blog, published.id)  # this service would let him
        with pytest.raises(UsageError, match="no place for attachments"):
            await romeo.nodes.sign(blog, published.id)
        assert node_for(blog, published.id) not in house.pubsub.nodes
        assert await juliet.nodes.allow_attachments(blog, published.id)
        assert await juliet.nodes.allow_attachments(blog, published.id)
        await romeo.nodes.sign(blog, published.id)

    at_home(scenario)


# -- a hostile service ------------------------------------------------------------------------------------------------


def test_signatures_do_not_move_between_versions_items_and_people() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse, tybalt = [await house.person(name) for name in (JULIET, NURSE, TYBALT)]
        await juliet.nodes.create(BLOG)
        for member in (NURSE, TYBALT):
            await juliet.nodes.share(BLOG, member, role=Role.PUBLISHER)
        await house.heard()
        node = house.pubsub.nodes[BLOG]
        first = await juliet.nodes.publish(BLOG, entry("I come at nine"), sign=True)
        second = await juliet.nodes.publish(BLOG, entry("I come at ten"))
        await juliet.nodes.allow_attachments(BLOG, second.id)
        places = [house.pubsub.nodes[node_for(BLOG, published.id)] for published in (first, second)]

        async def verdict(published: Any) -> Any:
            return (await nurse.nodes.check(BLOG, published.id)).summary

        assert await verdict(first) is Verdict.VALID_TRUSTED
        # The signature of one item at another.
        places[1].items[JULIET] = places[0].items[JULIET]
        assert await verdict(second) is Verdict.INVALID
        # A member who has the secret writes another text over a signed item.
        await tybalt.nodes.publish(BLOG, entry("I come at midnight"), first.id)
        node.items[first.id] = node.items[first.id]._replace(publisher=JULIET)
        assert await verdict(first) is Verdict.INVALID
        # He attaches a signature of his own in her name.
        tybalts = await tybalt.nodes.publish(BLOG, entry("I love another"), sign=False)
        await juliet.nodes.allow_attachments(BLOG, tybalts.id)
        await tybalt.nodes.sign(BLOG, tybalts.id)
        place = house.pubsub.nodes[node_for(BLOG, tybalts.id)]
        place.items[JULIET] = Item(JULIET, place.items.pop(TYBALT).payload, JULIET)
        node.items[tybalts.id] = node.items[tybalts.id]._replace(publisher=JULIET)
        checked = await nurse.nodes.check(BLOG, tybalts.id)
        assert [report.signer for report in checked.reports] == [TYBALT]
        assert any("attached under the address of" in note for note in checked.reports[0].notes)

    at_home(scenario)


def test_what_somebody_else_attached_is_not_taken_for_ours() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse = await house.person(JULIET), await house.person(NURSE)
        await juliet.nodes.create(BLOG)
        await juliet.nodes.share(BLOG, NURSE)
        await house.heard()
        published = await juliet.nodes.publish(BLOG, entry("signed"))
        await juliet.nodes.allow_attachments(BLOG, published.id)
        await nurse.nodes.attach(
            BLOG, published.id, lambda _: attachments.encode([b"<mine xmlns='urn:example:nurse'/>"])
        )
        place = house.pubsub.nodes[node_for(BLOG, published.id)]
        service: Any = juliet.connection.service
        honest = service.items

        async def items(node: Node, *, ids: Any = (), limit: Any = None) -> AsyncIterator[list[Item]]:
            async for page in honest(node):
                yield page  # all, whatever was asked for

        service.items = items
        await juliet.nodes.sign(BLOG, published.id)
        service.items = honest
        there = {one.author: one.children for one in (await juliet.nodes.attachments(BLOG, published.id)).attached}
        assert [child.tag for child in there[JULIET]] == [signing.SIGNATURE]
        assert set(place.items) == {JULIET, NURSE}

    at_home(scenario)


def test_garbage_beside_a_signature_costs_nothing() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse = await house.person(JULIET), await house.person(NURSE)
        await juliet.nodes.create(BLOG)
        await juliet.nodes.share(BLOG, NURSE)
        await house.heard()
        published = await juliet.nodes.publish(BLOG, entry("signed"), sign=True)
        place = house.pubsub.nodes[node_for(BLOG, published.id)]
        for number, payload in enumerate((b"", b"<", b"<a xmlns='u'/>", b"<attachments xmlns='urn:x'/>", b"\xff" * 99)):
            place.items[f"g{number}@x.test"] = Item(f"g{number}@x.test", payload)
        place.items["not an address/@"] = place.items[JULIET]._replace(id="not an address/@")
        checked = await nurse.nodes.check(BLOG, published.id)
        assert checked.summary is Verdict.VALID_TRUSTED
        assert len(checked.reports) == 1
        del house.pubsub.nodes[node_for(BLOG, published.id)]  # the service hides them all
        assert (await nurse.nodes.check(BLOG, published.id)).summary is None

    at_home(scenario)


def test_an_item_that_does_not_open_has_nothing_to_sign() -> None:
    async def scenario(house: House) -> None:
        juliet, tybalt = await house.person(JULIET), await house.person(TYBALT)
        await juliet.nodes.create(BLOG)
        published = await juliet.nodes.publish(BLOG, entry("signed"), sign=True)
        house.pubsub.nodes[BLOG].affiliations[TYBALT] = "publisher"
        for call in (tybalt.nodes.sign(BLOG, published.id), tybalt.nodes.check(BLOG, published.id)):
            with pytest.raises(UsageError, match="can't be read"):
                await call

    at_home(scenario)


def test_the_node_of_an_attachment_is_no_other_nodes() -> None:
    assert node_for(BLOG, "a;item=b") != node_for(Node(BLOG.service, BLOG.name + ";item=a"), "b")
