"""Private nodes (XEP-0473) between Tillie and Libervia: each reads, writes, shares, revokes and changes the locks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from support.beside_libervia import (
    ATOM,
    COMPONENT,
    JULIET,
    SESSION,
    TILLIE,
    Pair,
    canonical,
    entry,
    libervia,
    pair,
    pubsub_prosody,
)
from support.libervia import LiberviaError
from tillie.errors import UsageError
from tillie.model import Address
from tillie.pubsub.items import ItemKind, Node, Reading
from tillie.pubsub.members import Role
from tillie.pubsub.statements import Reason

__all__ = ["libervia", "pair", "pubsub_prosody"]

pytestmark = pytest.mark.heavy

HER_TITLE = "caf\xe9 'one' \U0001f511"
CLOSED_TO_HER = "'one' and \"two\""  # in what she seals herself Libervia can't read both kinds of quotes
OPENPGP = "{urn:xmpp:openpgp:0}openpgp"
TEXTS = (
    "plain",
    "caf\xe9 \U0001f511 \u2028 \xa0",
    "'one' and \"two\" and back\\slash &amp; &lt;b&gt;",
    "two\nlines\tand a tab",
)


async def read(pair: Pair, node: Node) -> dict[str, Reading]:
    return {reading.item.id: reading async for reading in pair.nodes.items(node)}


def has(pair: Pair, node: Node, wanted: dict[str, bool]) -> Callable[[], Awaitable[bool]]:
    """Whether Libervia holds these secrets of a node, by id, and whether it knows them as revoked."""

    async def look() -> bool:
        return {id: secret["revoked"] for id, secret in (await pair.secrets(node)).items()} == wanted

    return look


def have(pair: Pair, node: Node, *revoked: bool) -> Callable[[], Awaitable[bool]]:
    """Whether we hold so many secrets of a node, newest first, and whether we know them as revoked."""

    async def look() -> bool:
        await pair.nodes.settle()
        for each in {pending.sender for _, pending in await pair.nodes.pending(node)}:
            await pair.nodes.accept(node, Address(each))  # the component does not tell who owns a node
        return tuple(secret.revoked for secret in await pair.nodes.secrets(node)) == revoked

    return look


async def publish(pair: Pair, node: Node, *texts: str) -> dict[str, str]:
    """We publish an entry for each text; what Libervia should show, by id."""
    expected = {}
    for text in texts:
        item = await pair.nodes.publish(node, entry(text))
        assert item.secret
        expected[item.id] = canonical(entry(text))
    return expected


@pytest.mark.parametrize("service", [TILLIE, COMPONENT])
def test_she_reads_and_writes_at_our_node(pair: Pair, service: Address) -> None:
    async def story() -> None:
        node = await pair.nodes.create(Node(service, ""), type=ATOM)
        expected = await publish(pair, node, "before she came")
        await pair.nodes.rotate(node)
        delivered = await pair.nodes.share(node, JULIET, role=Role.PUBLISHER)
        assert delivered.messages == 2
        first, oldest = await pair.nodes.secrets(node)
        await pair.until(has(pair, node, {oldest.id: True, first.id: False}), "the secrets")
        expected |= await publish(pair, node, *TEXTS)
        assert await pair.gets(node) == expected
        hers = await pair.blog(node, HER_TITLE, "-e")
        reading = await pair.nodes.get(node, hers)
        assert (reading.kind, reading.secret) == (ItemKind.OPENED, first.id)
        assert HER_TITLE.encode() in (reading.payload or b"")
        assert reading.item.publisher == (JULIET if service == COMPONENT else None)  # Prosody's PEP does not tell

        await pair.nodes.rotate(node, reasons=(Reason("rotation"),))
        newest, *others = await pair.nodes.secrets(node)
        gone = {secret.id: True for secret in others}
        await pair.until(has(pair, node, {**gone, newest.id: False}), "the new locks")
        expected |= await publish(pair, node, "after")
        hers = await pair.blog(node, "Hers", "-e")
        shown = await pair.gets(node)
        assert {id: shown[id] for id in expected} == expected
        reading = await pair.nodes.get(node, hers)
        assert (reading.kind, reading.secret, reading.notes) == (ItemKind.OPENED, newest.id, ())

        await pair.nodes.revoke(node, newest.id)
        last, *_ = await pair.nodes.secrets(node)
        await pair.until(has(pair, node, {**gone, newest.id: True, last.id: False}), "another new secret")
        await removed(pair, node, expected)

    pair.run(story())


async def removed(pair: Pair, node: Node, expected: dict[str, str]) -> None:
    """We take Juliet's access back: the next item is closed to her, even where she gets hold of it."""
    held = await pair.secrets(node)
    assert (await pair.nodes.remove(node, JULIET)).problems == ()
    item = await pair.nodes.publish(node, entry("without her"))
    await pair.until(has(pair, node, dict.fromkeys(held, True)), "the revocation")
    if node.service == TILLIE:
        with pytest.raises(LiberviaError, match="forbidden"):
            await pair.gets(node)
        await pair.nodes.configure(node, {"pubsub#access_model": "open"})
    # As an administrator of the component, or anybody at our own service now, she gets all that is there.
    shown = await pair.gets(node)
    assert f'key="{item.secret}"' in shown[item.id]
    assert {id: shown[id] for id in expected} == expected


@pytest.mark.parametrize("service", [JULIET, COMPONENT])
def test_we_read_and_write_at_her_node(pair: Pair, service: Address) -> None:
    async def story() -> None:
        node = Node(service, "balcony")
        await made_by_her(pair, node)
        first = await pair.blog(node, HER_TITLE, "-e")
        assert (await pair.nodes.get(node, first)).kind is ItemKind.NO_SECRET
        with pytest.raises(UsageError):
            await pair.nodes.publish(node, entry("never in clear"))
        await pair.at("pubsub secret share", node, TILLIE)
        await pair.until(have(pair, node, False), "her secret")
        reading = await pair.nodes.get(node, first)
        assert reading.kind is ItemKind.OPENED
        assert HER_TITLE.encode() in (reading.payload or b"")
        ours = await publish(pair, node, *TEXTS)

        await pair.at("pubsub secret rotate", node)
        await pair.until(have(pair, node, False, True), "her new secret")
        newest, _ = await pair.nodes.secrets(node)
        ours |= await publish(pair, node, "after")
        second = await pair.blog(node, "Second", "-e")
        shown = await pair.gets(node)
        assert {id: shown[id] for id in ours} == ours
        found = await read(pair, node)
        assert {reading.kind for reading in found.values()} == {ItemKind.OPENED}
        assert (found[second].secret, found[first].notes) == (newest.id, ())

        await pair.at("pubsub secret revoke", node, newest.id)
        await pair.until(have(pair, node, True, True), "her revocation")
        with pytest.raises(UsageError, match="revoked"):
            await pair.nodes.publish(node, entry("under no secret"))

    pair.run(story())


async def made_by_her(pair: Pair, node: Node) -> None:
    """Juliet makes a node where we may publish."""
    options = ("access_model", "whitelist"), ("publish_model", "publishers"), ("max_items", "100")
    await pair.at("pubsub node create", node, *(word for option in options for word in ("-f", *option)))
    await pair.at("pubsub node affiliations set", node, "-a", TILLIE, "publisher")


def test_secrets_that_she_shares_amid_a_conversation(pair: Pair) -> None:
    """Libervia seals the hints of such a message apart: it has two <openpgp>."""

    async def story() -> None:
        await pair.cli("message send", "-e", SESSION, TILLIE, stdin="hello")
        await pair.until(pair.deliveries, "her message")
        pair.heard.clear()
        node = Node(JULIET, "amid")
        await made_by_her(pair, node)
        item = await pair.blog(node, CLOSED_TO_HER, "-e")
        await pair.at("pubsub secret share", node, TILLIE)
        await pair.until(have(pair, node, False), "her secret")
        assert [len(message.findall(OPENPGP)) for message in pair.heard if message.find(OPENPGP) is not None] == [2]
        reading = await pair.nodes.get(node, item)
        assert reading.kind is ItemKind.OPENED
        assert CLOSED_TO_HER.encode() in (reading.payload or b"")
        await pair.at("pubsub secret rotate", node)
        await pair.until(have(pair, node, False, True), "her new secret")
        await pair.cli("encryption stop", TILLIE)
        assert await pair.deliveries() == []

    pair.run(story())
