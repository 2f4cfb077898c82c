"""Two accounts at one server: Tillie's, logged in as the command line does it, and Juliet's, in Libervia.

Libervia's commands run in a thread, so that our end goes on answering meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from support.libervia import (
    CREATORS,
    POLL,
    SERVICE,
    WAIT_SECONDS,
    LiberviaError,
    PrivateLibervia,
    libervia,
    pubsub_prosody,
)
from support.prosody import PASSWORD
from tillie.account import Account
from tillie.client import Client, options_of, text_of
from tillie.demo.prosody import PrivateProsody
from tillie.model import Address
from tillie.networks.xmpp import connection as xmpp
from tillie.nodes import Nodes
from tillie.pipeline import Delivery
from tillie.pubsub.items import Node
from tillie.store import MemoryStore

__all__ = ["Pair", "libervia", "pair", "pubsub_prosody"]

T = TypeVar("T")

JULIET, TILLIE = (Address(jid) for jid in CREATORS)
PROFILE = "juliet"
COMPONENT = Address(SERVICE)
ATOM = "http://www.w3.org/2005/Atom"
HARD = "\u201cit&apos;s&quot; \xfc"  # for an attribute
SESSION = "OXIM"  # Libervia's name of a conversation by XEP-0374


class Pair:
    """`client` and its `nodes` are ours; what has "she" in its description runs Libervia's commands for Juliet.

    `heard` are all messages that came to us, as slixmpp has them.
    """

    def __init__(self, libervia: PrivateLibervia, server: PrivateProsody) -> None:
        self.libervia = libervia
        self.server = server
        self.heard: list[Any] = []
        self.notices: list[str] = []
        self._runner = asyncio.Runner()

    # -- life ---------------------------------------------------------------------------------------------------------

    def run(self, story: Coroutine[Any, Any, T]) -> T:
        """Run something on the loop on which we are logged in."""
        return self._runner.run(story)

    async def begin(self) -> None:
        """Both have an account and announce an OpenPGP key and an OMEMO device; neither sees the other's presence."""
        for jid in (JULIET, TILLIE):
            self.server.add_user(jid, PASSWORD)
        await asyncio.to_thread(self.libervia.add_profile, PROFILE, JULIET, PASSWORD)
        account = Account(MemoryStore(TILLIE))
        options = options_of(account, True, None, lambda notice: self.notices.append(notice.text))
        login = xmpp.Login(TILLIE, PASSWORD, f"127.0.0.1:{self.server.port}", ca_file=str(self.server.ca_file))
        connection = await xmpp.connect(login, account.store, options)
        self.client = Client(account, connection)
        self._xmpp = connection.core.xmpp
        self._xmpp.add_filter("in", self._listen)
        await self.client.generate_key()
        assert await self.client.announced(WAIT_SECONDS)

    async def befriend(self) -> None:
        """From now on each sees the other's presence: only then Libervia shows its OMEMO keys, and hears of ours."""
        await asyncio.to_thread(self.libervia.befriend, PROFILE, TILLIE)
        for kind in ("subscribe", "subscribed"):
            self._xmpp.send_presence(pto=JULIET, ptype=kind)
        await self.until(self._sees_her, "her presence")

    async def _sees_her(self) -> bool:
        return bool(self._xmpp.client_roster[JULIET].resources)

    def end(self) -> None:
        if hasattr(self, "client"):
            self.run(self.client.close())
        self._runner.close()

    def _listen(self, stanza: Any) -> Any:
        if stanza.name == "message":
            self.heard.append(stanza.xml)
        return stanza

    # -- our end ------------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> Nodes:
        return self.client.nodes

    async def deliveries(self) -> list[Delivery]:
        """The texts that wait in our inbox; it is empty then. What has none is left out: amid a conversation Libervia
        seals OMEMO's own empty messages into messages of OpenPGP."""
        found = await self.client.engine.inbox()
        for row, _ in found:
            await self.client.acknowledge(row)
        return [delivery for _, delivery in found if text_of(delivery.content)]

    async def until(self, ready: Callable[[], Awaitable[T | None]], what: str) -> T:
        """What `ready` gives as soon as it is something true."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while not (found := await ready()):  # noqa: ASYNC110  Libervia tells of nothing
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise LiberviaError(f"{what} did not come: {self.libervia.log[-1000:]}") from None
        return found

    # -- Libervia's end -----------------------------------------------------------------------------------------------

    async def cli(self, *command: str, stdin: str | None = None) -> str:
        """One of Juliet's commands: `cli("message send", "-e", ...)`."""
        words, *arguments = command
        return await asyncio.to_thread(self.libervia.cli, *words.split(), "-p", PROFILE, *arguments, stdin=stdin)

    async def at(self, words: str, node: Node, *arguments: str, stdin: str | None = None) -> str:
        """One of her commands at a node."""
        return await self.cli(words, "-s", node.service, "-n", node.name, *arguments, stdin=stdin)

    async def blog(self, node: Node, title: str, *options: str) -> str:
        """She publishes a blog entry; its id."""
        said = await self.at("blog set", node, "-T", title, *options, stdin="text")
        return said.strip().split()[-1]

    async def gets(self, node: Node, *ids: str) -> dict[str, str]:
        """What she reads of all items, or of some: the payloads in canonical form, by id. One that should open and
        does not raises `LiberviaError`; one under a secret that she does not have is as it came."""
        chosen = [word for each in ids for word in ("-i", each)]
        shown = await self.at("pubsub get", node, *chosen, "-C", "-O", "xml-raw")
        return {item.get("id", ""): canonical(item[0]) for item in ET.fromstring(f"<all>{shown}</all>")}

    async def secrets(self, node: Node) -> dict[str, dict[str, Any]]:
        return await asyncio.to_thread(self.libervia.secrets, PROFILE, node.service, node.name)

    async def messages(self) -> list[str]:
        """The bodies that she has from us."""
        return await asyncio.to_thread(self.libervia.messages, PROFILE, TILLIE)

    async def signatures(self, node: Node, item_id: str) -> dict[str, dict[str, Any]]:
        """The signatures that she sees at an item, by who attached them."""
        found = json.loads(await self.at("pubsub attachments get", node, "-i", item_id, "-O", "json"))
        return {one["from"]: one["signature"] for one in found if "signature" in one}

    async def forget(self) -> None:
        """She forgets what Libervia has cached of nodes: it checks signatures of what it knows, whatever is there."""
        await asyncio.to_thread(self.libervia.calls, ("psCacheReset", []))

    async def finds_valid(self, node: Node, item_id: str, signature: dict[str, Any]) -> bool:
        """Whether a signature is valid, says she."""
        said = await self.at("pubsub signature check", node, "-i", item_id, json.dumps(signature), "-O", "json")
        return bool(json.loads(said)["validated"])


def canonical(element: bytes | ET.Element) -> str:
    """The same text for the same element, whatever its prefixes, quotes and references."""
    data = element.decode() if isinstance(element, bytes) else ET.tostring(element, "unicode")
    return ET.canonicalize(data, rewrite_prefixes=True)


def entry(text: str) -> bytes:
    """A blog entry; `text` is XML."""
    link = f"<link rel='self' title='{HARD}' href='https://example.org/?a=1&amp;b=2'/>"
    return f"<entry xmlns='{ATOM}' xml:lang='en'><title type=\"text\">{text}</title>{link}</entry>".encode()


@pytest.fixture(scope="module")
def pair(libervia: PrivateLibervia, pubsub_prosody: PrivateProsody) -> Iterator[Pair]:
    made = Pair(libervia, pubsub_prosody)
    try:
        made.run(made.begin())
        yield made
    finally:
        made.end()
