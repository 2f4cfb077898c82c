"""The engine's `Network` on slixmpp: send with acknowledgement, fetch and publish PEP items (XEP-0060, XEP-0163)."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from typing import Any

from slixmpp.exceptions import IqError, IqTimeout
from slixmpp.stanza import Iq, Message, Presence

from tillie.engine import Engine
from tillie.errors import Rejected, Unreachable
from tillie.model import Address, Fetch, Fetched, Publication, Send
from tillie.networks.xmpp.acknowledgements import Acknowledged
from tillie.networks.xmpp.elements import KINDS, SINGLETON, form, one_from_bytes, only, to_bytes

TIMEOUT = 20.0  # seconds; a contact's server that does not answer must not hold up a send for long
PUBSUB, OWNER = "http://jabber.org/protocol/pubsub", "http://jabber.org/protocol/pubsub#owner"
ERRORS = "http://jabber.org/protocol/pubsub#errors"
PUBLISH_OPTIONS, NODE_CONFIG = PUBSUB + "#publish-options", PUBSUB + "#node_config"
# "max" is newer than some servers: these numbers are tried behind it.
LARGE_NUMBERS = ("max", "10000", "1000", "250", "100")
# What servers answer to a publish-option that they don't know or don't allow (ejabberd 23.01: resource-constraint).
OPTION_REFUSED = frozenset(
    {"bad-request", "not-acceptable", "feature-not-implemented", "conflict", "resource-constraint"}
)
_PRIVATE = ("pubsub#access_model", "whitelist")


class XmppNetwork:
    """Carries sealed elements over one slixmpp client. Set `engine` before the first session."""

    def __init__(self, client: Any, *, timeout: float = TIMEOUT) -> None:
        self.engine: Engine | None = None
        self.client = client
        self._timeout = timeout
        self._acknowledged = Acknowledged(client, self._tell)
        self._tasks: set[asyncio.Task[None]] = set()
        self._questions: set[asyncio.Future[Any]] = set()
        client.add_event_handler("disconnected", self._disconnected)

    @property
    def online(self) -> bool:
        return bool(self.client._session_started and self.client.transport is not None)

    # -- sending ------------------------------------------------------------------------------------------------------

    async def send(self, item: Send) -> None:
        """Queue a finished stanza. What a resumed stream sends again by itself is not queued a second time."""
        self._require_connection()
        if item.id in self._acknowledged.pending:
            return
        stanza = stanza_of(self.client, item.stanza)
        stanza.outbox_id = item.id
        self.client.send(stanza)
        self._acknowledged.sent(item.id)

    def _tell(self, ids: tuple[str, ...]) -> None:
        if self.engine is not None:
            task = asyncio.ensure_future(self.engine.acknowledged(*ids))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def told(self) -> None:
        """Returns when the engine has taken in every acknowledgement that has arrived."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    # -- asking -------------------------------------------------------------------------------------------------------

    async def ask(self, type_: str, to: Address | None, payload: ET.Element) -> ET.Element:
        """One IQ and its answer, from the one that was asked and nobody else.

        Raises `Unreachable` if there is no answer in time, `Rejected` on an error.
        """
        self._require_connection()
        iq = self.client.make_iq(itype=type_, ito=to)
        iq.append(payload)
        question = iq.send(timeout=self._timeout)
        self._questions.add(question)
        try:
            answer = await question
        except IqTimeout:
            raise Unreachable(f"{to or 'The server'} did not answer in {self._timeout:.0f} seconds.") from None
        except IqError as error:  # from whomever: an error tells us nothing but that there is no answer
            raise _rejected(error) from None
        finally:
            self._questions.discard(question)
        self._require_sender(answer, to)
        answered: ET.Element = answer.xml
        return answered

    def _disconnected(self, _: object) -> None:
        """No answer will come to what was asked: nobody should wait for it."""
        for question in self._questions:
            if not question.done():
                question.set_exception(Unreachable("The connection broke."))
        self._questions.clear()

    async def wait_for_all(self) -> None:
        """What the server has for us, it has sent before it answers this (RFC 6120 section 10.1)."""
        try:
            await self.ask("get", Address(self.client.boundjid.domain), ET.Element("{urn:xmpp:ping}ping"))
        except Rejected:
            return  # an answer too

    def _require_sender(self, answer: Any, to: Address | None) -> None:
        # slixmpp takes an answer from a few more addresses than were asked, our own server's among them.
        own = self.client.boundjid
        allowed = {str(to)} if to is not None and to != own.bare else {"", own.bare, own.full, own.domain}
        if answer.get_from().full not in allowed:
            raise Rejected("the answer came from somebody else", condition="not-authorized")

    async def fetch(self, ask: Fetch) -> Fetched:
        """The newest item of a PEP node, or the one that is asked for (XEP-0060 section 6.5)."""
        payload = ET.Element(f"{{{PUBSUB}}}pubsub")
        items = ET.SubElement(payload, f"{{{PUBSUB}}}items", {"node": ask.node})
        if ask.item:
            ET.SubElement(items, f"{{{PUBSUB}}}item", {"id": ask.item})
        else:
            items.set("max_items", "1")
        try:
            answer = await self.ask("get", ask.address, payload)
        except Unreachable:
            self._require_connection()  # ours is gone: that is an error of this call, not of the contact's server
            return Fetched(ask.address, ask.node, ask.item, None, "remote-server-timeout")
        found = answer.find(f"{{{PUBSUB}}}pubsub/{{{PUBSUB}}}items")
        listed = [] if found is None or found.get("node") != ask.node else found.findall(f"{{{PUBSUB}}}item")
        # Some servers give more than the newest.
        for item in sorted(listed, key=lambda item: item.get("id") != SINGLETON):
            if len(item) == 1 and (not ask.item or item.get("id") == ask.item):
                return Fetched(ask.address, ask.node, item.get("id", ""), to_bytes(item[0]))
        return Fetched(ask.address, ask.node, ask.item, None, "item-not-found")

    # -- publishing ---------------------------------------------------------------------------------------------------

    async def publish(self, publication: Publication) -> None:
        """Publish one item, and see to it that the node has the options (XEP-0060 section 7.1.5).

        Where the node exists with others ("precondition-not-met"), or the server does not know one of them, the node
        is configured as its owner.
        """
        try:
            await self._publish(publication, with_options=True)
        except Rejected as refusal:
            if refusal.condition not in OPTION_REFUSED:
                raise
            if refusal.detail == "precondition-not-met":
                await self._configure(publication)
                await self._publish(publication, with_options=True)
            elif _PRIVATE in publication.options:
                # Nobody else may see it, not even for the moment until the node is configured.
                await self._create(publication)
                await self._configure(publication)
                await self._publish(publication, with_options=False)
            else:
                await self._publish(publication, with_options=False)
                await self._configure(publication)

    async def _create(self, publication: Publication) -> None:
        payload = ET.Element(f"{{{PUBSUB}}}pubsub")
        ET.SubElement(payload, f"{{{PUBSUB}}}create", {"node": publication.node})
        try:
            await self.ask("set", None, payload)
        except Rejected as refusal:
            if refusal.condition != "conflict":  # it is there
                raise

    async def _publish(self, publication: Publication, *, with_options: bool) -> None:
        payload = ET.Element(f"{{{PUBSUB}}}pubsub")
        publish = ET.SubElement(payload, f"{{{PUBSUB}}}publish", {"node": publication.node})
        item = ET.SubElement(publish, f"{{{PUBSUB}}}item", {"id": publication.item})
        item.append(one_from_bytes(publication.payload))
        if with_options and publication.options:
            options = ET.SubElement(payload, f"{{{PUBSUB}}}publish-options")
            options.append(form(PUBLISH_OPTIONS, publication.options))
        await self.ask("set", None, payload)

    async def _configure(self, publication: Publication) -> None:
        last: Rejected | None = None
        for large in LARGE_NUMBERS:
            options = [(name, large if value == "max" else value) for name, value in publication.options]
            payload = ET.Element(f"{{{OWNER}}}pubsub")
            ET.SubElement(payload, f"{{{OWNER}}}configure", {"node": publication.node}).append(
                form(NODE_CONFIG, options)
            )
            try:
                await self.ask("set", None, payload)
            except Rejected as refusal:
                last = refusal
                if ("pubsub#max_items", "max") in publication.options:
                    continue
                break
            return
        if last is not None:
            raise last

    def _require_connection(self) -> None:
        if not self.online:
            raise Unreachable("There is no connection.")


_CLASSES: dict[str, Any] = {"message": Message, "presence": Presence, "iq": Iq}


def stanza_of(client: Any, stanza: bytes) -> Any:
    """A finished stanza as slixmpp's."""
    element = one_from_bytes(stanza)
    # recv: slixmpp adds an id or origin-id to what it thinks was written here.
    return _CLASSES[KINDS[element.tag]](client, element, recv=True)


def _rejected(error: IqError) -> Rejected:
    """`detail` is the pubsub condition where there is one: it tells apart what RFC 6120 calls by one name."""
    condition = str(error.iq["error"]["condition"] or "undefined-condition")
    stanza = only(error.iq.xml, "{jabber:client}error")
    special = [] if stanza is None else [child.tag for child in stanza if child.tag.startswith(f"{{{ERRORS}}}")]
    return Rejected(special[0].partition("}")[2] if special else condition, condition=condition)
