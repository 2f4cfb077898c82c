"""What is sealed for people, both ways with Libervia: messages (XEP-0373, XEP-0374), and items for a few (XEP-0477)."""

from __future__ import annotations

import contextlib
from html import escape
from itertools import count

import pytest

from support.beside_libervia import (
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
from support.libervia import WAIT_SECONDS, LiberviaError
from tillie.client import text_of
from tillie.pipeline import Delivery
from tillie.pubsub.items import ItemKind, Node

__all__ = ["libervia", "pair", "pubsub_prosody"]

pytestmark = pytest.mark.heavy

TEXTS = ("wherefore art thou", "caf\xe9 \U0001f511, 'one' and \"two\" \\ <b>&amp;")


def test_messages_pass_both_ways(pair: Pair) -> None:
    async def story() -> None:
        for text in TEXTS:
            sent = await pair.client.send(JULIET, text, scheme="openpgp")
            assert sent.arrived
            assert [report.sealed for report in sent.sealed.report] == [True]
            await pair.until(lambda text=text: _came(pair, text), f"our message {text!r}")
        for text in TEXTS:
            await pair.cli("message send", "-e", SESSION, TILLIE, stdin=text)
            [delivery] = await pair.until(pair.deliveries, "her message")
            assert (text_of(delivery.content), delivery.scheme, delivery.address) == (text, "openpgp", JULIET)
            assert delivery.is_trusted

    pair.run(story())


async def _came(pair: Pair, text: str) -> bool:
    return text in await pair.messages()


@pytest.fixture(scope="module")
def friends(pair: Pair) -> Pair:
    pair.run(pair.befriend())
    return pair


@pytest.mark.parametrize("text", TEXTS)
def test_she_reads_an_item_for_her_alone(friends: Pair, text: str) -> None:
    pair = friends
    text = escape(text)

    async def story() -> None:
        node = await pair.nodes.create(Node(COMPONENT, ""), encrypted=False, access="open")
        item = await pair.nodes.publish(node, entry(text), encrypt_for=[JULIET])
        assert JULIET in {report.device.address for report in item.report if report.sealed}
        assert await pair.gets(node, item.id) == {item.id: canonical(entry(text))}
        again = await pair.nodes.get(node, item.id)
        assert (again.kind, canonical(again.payload or b"")) == (ItemKind.OPENED, canonical(entry(text)))

    pair.run(story())


def test_we_read_an_item_for_us_alone(friends: Pair) -> None:
    pair = friends

    async def story() -> None:
        node = Node(COMPONENT, "for-tillie")
        await pair.at("pubsub node create", node, "-f", "access_model", "open")
        title = "caf\xe9 'one' \"two\" \U0001f511"
        item = await pair.blog(node, title, "--encrypt-for", TILLIE)
        reading = await pair.nodes.get(node, item)
        assert reading.kind is ItemKind.OPENED
        assert reading.by is not None
        assert reading.by.address == JULIET
        assert title.encode() in (reading.payload or b"")
        assert await pair.nodes.get(node, item) == reading  # its key opens once, and it is kept

    pair.run(story())


def test_a_new_key_of_ours_is_taken_and_the_old_one_given_up(friends: Pair) -> None:
    """Libervia asks for a list of keys once, and hears of later ones from notifications alone: they carry the list."""
    pair = friends

    numbers = count()

    async def taken() -> bool:
        await pair.client.send(JULIET, f"under the new key, {next(numbers)}", scheme="openpgp")
        return any("new key" in message for message in await pair.messages())

    async def answered() -> Delivery | None:
        # Until it has heard that the old key is off the list, Libervia's GnuPG refuses to seal for a revoked one.
        with contextlib.suppress(LiberviaError):
            await pair.cli("message send", "-e", SESSION, TILLIE, stdin="for the new key")
        return next(iter(await pair.deliveries()), None)

    async def story() -> None:
        [old] = [key for key in pair.client.account.keys(TILLIE) if key.info and key.this]
        await pair.client.generate_key(another=True)
        await pair.until(taken, "a message under the new key")
        await pair.client.revoke_key(old.device.key)
        assert await pair.client.announced(WAIT_SECONDS)
        delivery = await pair.until(answered, "her message")
        assert text_of(delivery.content) == "for the new key"
        assert delivery.is_trusted

    pair.run(story())
