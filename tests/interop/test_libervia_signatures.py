"""Signatures (XEP-0475, XEP-0476) with Libervia: each side validates the other's, and finds what was changed."""

from __future__ import annotations

from typing import Any

import pytest

from support.beside_libervia import (
    COMPONENT,
    JULIET,
    TILLIE,
    Pair,
    entry,
    libervia,
    pair,
    pubsub_prosody,
)
from tillie.model import Address
from tillie.pubsub.checking import Verdict
from tillie.pubsub.items import Node
from tillie.pubsub.members import Role

__all__ = ["libervia", "pair", "pubsub_prosody"]

pytestmark = pytest.mark.heavy

TITLE = "caf\xe9 'one' \"two\" \U0001f511 \xa0"


async def verdicts(pair: Pair, node: Node, item_id: str) -> dict[Address, Verdict]:
    """What we find, by signer."""
    return {report.signer: report.verdict for report in (await pair.nodes.check(node, item_id)).reports}


async def her_verdicts(pair: Pair, node: Node, item_id: str) -> dict[str, bool]:
    """What she finds, by who attached a signature."""
    await pair.forget()
    found = await pair.signatures(node, item_id)
    return {author: await pair.finds_valid(node, item_id, signature) for author, signature in found.items()}


@pytest.mark.parametrize("service", [TILLIE, COMPONENT])
def test_an_item_in_clear_of_ours(pair: Pair, service: Address) -> None:
    async def story() -> None:
        node = await pair.nodes.create(Node(service, ""), encrypted=False, access="open")
        item = await pair.nodes.publish(node, entry(TITLE), encrypt=False, sign=True)
        assert item.signed
        assert await her_verdicts(pair, node, item.id) == {TILLIE: True}
        await pair.at("pubsub signature sign", node, "-i", item.id)
        both = {TILLIE: Verdict.VALID_TRUSTED, JULIET: Verdict.VALID_TRUSTED}
        assert await verdicts(pair, node, item.id) == both
        assert await her_verdicts(pair, node, item.id) == {TILLIE: True, JULIET: True}
        await pair.nodes.publish(node, entry("changed"), item.id, encrypt=False)
        assert await verdicts(pair, node, item.id) == dict.fromkeys(both, Verdict.INVALID)
        assert await her_verdicts(pair, node, item.id) == {TILLIE: False, JULIET: False}

    pair.run(story())


def test_a_sealed_item_of_ours(pair: Pair) -> None:
    """Signed by us in clear, as Libervia reads no sealed attachment; and by her."""

    async def story() -> None:
        node = await pair.nodes.create(Node(COMPONENT, ""))
        item = await pair.nodes.publish(node, entry(TITLE))
        await pair.nodes.share(node, JULIET, role=Role.PUBLISHER)
        await pair.until(lambda: pair.secrets(node), "the secret")
        await pair.nodes.sign(node, item.id)
        assert await pair.signatures(node, item.id) == {}
        assert await verdicts(pair, node, item.id) == {TILLIE: Verdict.VALID_TRUSTED}
        await pair.nodes.sign(node, item.id, encrypt=False)
        await pair.at("pubsub signature sign", node, "-i", item.id)
        assert await her_verdicts(pair, node, item.id) == {TILLIE: True, JULIET: True}
        assert await verdicts(pair, node, item.id) == {TILLIE: Verdict.VALID_TRUSTED, JULIET: Verdict.VALID_TRUSTED}

    pair.run(story())


def test_a_sealed_item_of_hers(pair: Pair) -> None:
    async def story() -> None:
        node = Node(COMPONENT, "signed")
        await pair.at("pubsub node create", node, "-f", "access_model", "whitelist", "-f", "max_items", "100")
        await pair.at("pubsub node affiliations set", node, "-a", TILLIE, "publisher")
        item = await pair.blog(node, "Hers", "-e", "-X")
        other = await pair.blog(node, "Hers \xe9", "-e", "-X")
        await pair.at("pubsub secret share", node, TILLIE)
        await pair.until(lambda: believed(pair, node), "her secret")
        for each in (item, other):
            assert await verdicts(pair, node, each) == {JULIET: Verdict.VALID_TRUSTED}
        # Signed later, such an item is signed as Libervia shows it, damaged: a fault of this version.
        await pair.at("pubsub signature sign", node, "-i", other)
        assert await verdicts(pair, node, other) == {JULIET: Verdict.INVALID}
        await pair.nodes.sign(node, item, encrypt=False)
        assert await her_verdicts(pair, node, item) == {TILLIE: True, JULIET: True}
        payload = (await pair.nodes.get(node, item)).payload or b""
        await pair.nodes.publish(node, payload.replace(b"Hers", b"Mine"), item)
        assert await verdicts(pair, node, item) == {TILLIE: Verdict.INVALID, JULIET: Verdict.INVALID}
        assert await her_verdicts(pair, node, item) == {TILLIE: False, JULIET: False}

    pair.run(story())


async def believed(pair: Pair, node: Node) -> Any:
    """The secrets of her node, believed by our decision: the component does not tell who owns it."""
    if await pair.nodes.pending(node):
        await pair.nodes.accept(node, JULIET)
    return await pair.nodes.secrets(node)
