"""Pubsub services as one account reaches them (XEP-0060), its own PEP (XEP-0163) among them, on slixmpp.

What a service says is checked here for its form and its bounds; what to believe of it is decided above.
"""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Iterable, Mapping
from types import MappingProxyType
from typing import Any
from weakref import WeakSet

from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

from tillie.errors import InvalidAddress, Rejected
from tillie.model import Address
from tillie.networks.xmpp import paging
from tillie.networks.xmpp.elements import CLIENT, form, form_fields, one_from_bytes
from tillie.networks.xmpp.incoming import EVENT, MAX_ID
from tillie.networks.xmpp.network import (
    LARGE_NUMBERS,
    NODE_CONFIG,
    OPTION_REFUSED,
    OWNER,
    PUBLISH_OPTIONS,
    PUBSUB,
    XmppNetwork,
)
from tillie.networks.xmpp.notifications import Watch, read
from tillie.nodes.service import Notification
from tillie.pubsub.items import Item, Node
from tillie.wire import address

log = logging.getLogger(__name__)

DISCO_INFO, DISCO_ITEMS = "http://jabber.org/protocol/disco#info", "http://jabber.org/protocol/disco#items"
META_DATA = PUBSUB + "#meta-data"
AUTO_CREATE, ATTACHMENTS = PUBSUB + "#auto-create", "urn:xmpp:pubsub-attachments:1"
MAX_AFFILIATIONS = 10_000  # read of one node
MAX_NODES = 10_000  # read of one service
MAX_NAME = 3_071  # characters of a node's name: those of attachment nodes hold the name of another
ACCESS, MAX_ITEMS = "pubsub#access_model", "pubsub#max_items"
# A node without these would show or take what it must not: where a service refuses them, nothing is made.
REQUIRED = frozenset({ACCESS, "pubsub#publish_model"})
NO_OPTIONS: Mapping[str, str] = MappingProxyType({})
GONE = frozenset({"none", "outcast"})  # affiliations of somebody who may not read any more

_HANDLER = "Tillie pubsub events"


class XmppService:
    """Implements `nodes.Service`. `close` it when the client is done with."""

    def __init__(self, network: XmppNetwork) -> None:
        self._client: Any = network.client
        self._network = network
        self.account = address.parse_bare(str(self._client.requested_jid.bare))
        self._features: dict[Address, frozenset[str]] = {}
        self._watches: dict[Node, WeakSet[Watch]] = {}
        matcher = MatchXPath(f"{{{CLIENT}}}message/{{{EVENT}}}event")
        self._client.register_handler(Callback(_HANDLER, matcher, self._event))

    def close(self) -> None:
        """Hear nothing more."""
        self._client.remove_handler(_HANDLER)

    # -- nodes --------------------------------------------------------------------------------------------------------

    async def create(self, node: Node, options: Mapping[str, str]) -> str:
        """XEP-0060 section 8.1.3. Where the service refuses options that are not REQUIRED, it does without. Raises
        `Rejected` ("conflict": the node exists), and if the access model is then not what was asked for."""
        name, left_out = await self._create(node, options)
        made = Node(node.service, name)
        for option in left_out.items():
            await self._configure_if_possible(made, dict([option]))
        try:
            await self._require_access(made, options)
        except Rejected:
            await self.delete(made)
            raise
        return name

    async def _create(self, node: Node, options: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        refused: Rejected | None = None
        for chosen in _variants(options):
            payload = ET.Element(f"{{{PUBSUB}}}pubsub")
            ET.SubElement(payload, f"{{{PUBSUB}}}create", {"node": node.name} if node.name else {})
            if chosen:
                ET.SubElement(payload, f"{{{PUBSUB}}}configure").append(form(NODE_CONFIG, chosen.items()))
            try:
                answer = await self._ask("set", node.service, payload)
            except Rejected as refusal:
                if refusal.condition not in OPTION_REFUSED or refusal.condition == "conflict":
                    raise
                refused = refusal
                continue
            created = answer.find(f"{{{PUBSUB}}}pubsub/{{{PUBSUB}}}create")
            name = node.name or ("" if created is None else created.get("node", ""))
            if not name or len(name) > MAX_NAME:
                raise Rejected("the service did not say how it named the node", condition="undefined-condition")
            return name, {key: value for key, value in options.items() if key not in chosen}
        raise refused or Rejected()

    async def configure(self, node: Node, options: Mapping[str, str]) -> None:
        """XEP-0060 section 8.2. What the service refuses is left out, unless it is REQUIRED; raises `Rejected` too if
        the access model is then not what was asked for."""
        refused: Rejected | None = None
        for chosen in _variants(options):
            try:
                await self._configure(node, chosen)
            except Rejected as refusal:
                if refusal.condition not in OPTION_REFUSED:
                    raise
                refused = refusal
                continue
            for option in options.items():
                if option[0] not in chosen:
                    await self._configure_if_possible(node, dict([option]))
            return await self._require_access(node, options)
        raise refused or Rejected()

    async def _configure(self, node: Node, options: Mapping[str, str]) -> None:
        payload = ET.Element(f"{{{OWNER}}}pubsub")
        configure = ET.SubElement(payload, f"{{{OWNER}}}configure", {"node": node.name})
        configure.append(form(NODE_CONFIG, options.items()))
        await self._ask("set", node.service, payload)

    async def _configure_if_possible(self, node: Node, options: Mapping[str, str]) -> None:
        for chosen in _variants(options):
            try:
                return await self._configure(node, chosen)
            except Rejected:
                continue

    async def _require_access(self, node: Node, options: Mapping[str, str]) -> None:
        """Some services say yes to options that they leave out: who may read is looked at once more."""
        wanted = options.get(ACCESS)
        if not wanted:
            return
        holds = (await self.configuration(node)).get(ACCESS, wanted)
        if holds != wanted:
            raise Rejected(f"it says yes to the access model {wanted} and uses {holds}", condition="not-acceptable")

    async def configuration(self, node: Node) -> dict[str, str]:
        """XEP-0060 section 8.2.1."""
        payload = ET.Element(f"{{{OWNER}}}pubsub")
        ET.SubElement(payload, f"{{{OWNER}}}configure", {"node": node.name})
        answer = await self._ask("get", node.service, payload)
        configure = answer.find(f"{{{OWNER}}}pubsub/{{{OWNER}}}configure")
        fields = {} if configure is None else form_fields(configure)
        return {name: values[0] if values else "" for name, values in fields.items() if name != "FORM_TYPE"}

    async def delete(self, node: Node) -> None:
        """XEP-0060 section 8.4."""
        payload = ET.Element(f"{{{OWNER}}}pubsub")
        ET.SubElement(payload, f"{{{OWNER}}}delete", {"node": node.name})
        await self._ask("set", node.service, payload)

    async def nodes(self, service: Address) -> list[str]:
        """XEP-0060 section 5.2; at most MAX_NODES."""
        found: dict[str, None] = {}
        async for item in self._disco_items(service, ""):
            name = item.get("node", "")
            if name and len(name) <= MAX_NAME and item.get("jid") == service:
                found[name] = None
            if len(found) == MAX_NODES:
                break
        return list(found)

    # -- people -------------------------------------------------------------------------------------------------------

    async def affiliations(self, node: Node) -> dict[Address, str]:
        """XEP-0060 section 8.9.1; at most MAX_AFFILIATIONS."""
        return await self._affiliations(node, OWNER)

    async def _affiliations(self, node: Node, namespace: str) -> dict[Address, str]:
        payload = ET.Element(f"{{{namespace}}}pubsub")
        ET.SubElement(payload, f"{{{namespace}}}affiliations", {"node": node.name})
        answer = await self._ask("get", node.service, payload)
        listed = answer.findall(f"{{{namespace}}}pubsub/{{{namespace}}}affiliations/{{{namespace}}}affiliation")
        found: dict[Address, str] = {}
        for one in listed[:MAX_AFFILIATIONS]:
            who = bare_address(one.get("jid", str(self.account) if namespace == PUBSUB else ""))
            if who is not None and one.get("node", node.name) == node.name:
                found[who] = one.get("affiliation", "none")
        return found

    async def affiliate(self, node: Node, changes: Mapping[Address, str]) -> None:
        """XEP-0060 section 8.9.2. Who may not read any more is unsubscribed before (section 8.8.2): Prosody 0.12 goes
        on sending items to subscribers that have lost their affiliation, and answers forbidden, having taken it away.
        """
        gone = frozenset(who for who, affiliation in changes.items() if affiliation in GONE)
        await self._unsubscribe_others(node, gone)
        try:
            await self._affiliate(node, changes)
        except Rejected:
            # Somebody may have subscribed again in between; a second time they can't.
            await self._unsubscribe_others(node, gone)
            if not gone or not await self._hold(node, changes):
                raise

    async def _affiliate(self, node: Node, changes: Mapping[Address, str]) -> None:
        payload = ET.Element(f"{{{OWNER}}}pubsub")
        affiliations = ET.SubElement(payload, f"{{{OWNER}}}affiliations", {"node": node.name})
        for who, affiliation in changes.items():
            ET.SubElement(affiliations, f"{{{OWNER}}}affiliation", {"jid": who, "affiliation": affiliation})
        if changes:
            await self._ask("set", node.service, payload)

    async def _hold(self, node: Node, changes: Mapping[Address, str]) -> bool:
        held = await self.affiliations(node)
        return all(held.get(who, "none") == affiliation for who, affiliation in changes.items())

    async def _unsubscribe_others(self, node: Node, gone: frozenset[Address]) -> None:
        if not gone:
            return
        for jid in await self._subscribers(node) or gone:
            if bare_address(jid) not in gone:
                continue
            payload = ET.Element(f"{{{OWNER}}}pubsub")
            subscriptions = ET.SubElement(payload, f"{{{OWNER}}}subscriptions", {"node": node.name})
            ET.SubElement(subscriptions, f"{{{OWNER}}}subscription", {"jid": jid, "subscription": "none"})
            try:
                await self._ask("set", node.service, payload)
            except Rejected as refusal:  # mostly because they are not subscribed
                log.info("%s is not unsubscribed from a node: %s", jid, refusal.condition)

    async def _subscribers(self, node: Node) -> frozenset[str]:
        """XEP-0060 section 8.8.1. Empty where there is no such list, as in ejabberd's PEP, which unsubscribes others
        all the same."""
        payload = ET.Element(f"{{{OWNER}}}pubsub")
        ET.SubElement(payload, f"{{{OWNER}}}subscriptions", {"node": node.name})
        try:
            answer = await self._ask("get", node.service, payload)
        except Rejected:
            return frozenset()
        path = f"{{{OWNER}}}pubsub/{{{OWNER}}}subscriptions/{{{OWNER}}}subscription"
        return frozenset(one.get("jid", "") for one in answer.findall(path)[:MAX_AFFILIATIONS])

    async def owners(self, node: Node) -> frozenset[Address]:
        """The account for PEP; else the owners by the affiliations, if we may see them; else ourselves, if the service
        says that we own the node (section 5.7); else those of the node's meta-data (section 5.4)."""
        if "@" in node.service:
            return frozenset({node.service})
        for namespace in (OWNER, PUBSUB):
            try:
                listed = await self._affiliations(node, namespace)
            except Rejected:
                continue
            owners = frozenset(who for who, affiliation in listed.items() if affiliation == "owner")
            if owners:
                return owners
        try:
            fields = await self._meta_data(node)
        except Rejected:
            return frozenset()
        named = fields.get("pubsub#owner") or fields.get("pubsub#creator") or []
        return frozenset(who for who in map(bare_address, named[:MAX_AFFILIATIONS]) if who is not None)

    async def _meta_data(self, node: Node) -> dict[str, list[str]]:
        query = ET.Element(f"{{{DISCO_INFO}}}query", {"node": node.name})
        answer = await self._ask("get", node.service, query)
        found = answer.find(f"{{{DISCO_INFO}}}query")
        fields = {} if found is None else form_fields(found)
        return fields if fields.get("FORM_TYPE") == [META_DATA] else {}

    # -- items --------------------------------------------------------------------------------------------------------

    async def publish(self, node: Node, item: Item, options: Mapping[str, str] = NO_OPTIONS) -> str:
        """XEP-0060 section 7.1, with publish-options (section 7.1.5): one that does not hold raises `Rejected`
        ("precondition-not-met"), and nothing is published; one that the service does not know is left out. A node that
        is missing at a service is not made by this."""
        if await self._would_be_made(node):
            raise Rejected(f"{node.service} has no node {node.name!r}", condition="item-not-found")
        variants = [dict(options)]
        if ACCESS in options and len(options) > 1:
            variants.append({ACCESS: options[ACCESS]})
        for chosen in variants if options else []:
            try:
                return await self._publish(node, item, chosen)
            except Rejected as refusal:
                if refusal.condition not in OPTION_REFUSED or refusal.detail == "precondition-not-met":
                    raise
        if options and node.service == self.account:
            await self._make_sure(node, options)
        return await self._publish(node, item, {})

    async def _would_be_made(self, node: Node) -> bool:
        """Whether a node is missing, and its service makes one for whoever publishes there (section 7.1.4): one that
        she then owns, and that those who should read may not. For attachments XEP-0470 wants the service to do it."""
        if "@" in node.service:
            return False  # PEP does so for its account alone
        features = await self._features_of(node.service)
        if AUTO_CREATE not in features or ATTACHMENTS in features:
            return False
        try:
            await self._ask("get", node.service, ET.Element(f"{{{DISCO_INFO}}}query", {"node": node.name}))
        except Rejected as refusal:
            return refusal.condition == "item-not-found"
        return False

    async def _make_sure(self, node: Node, options: Mapping[str, str]) -> None:
        """Our own PEP would make a missing node by itself, one that all contacts can read."""
        try:
            await self.create(node, options)
        except Rejected as refusal:
            if refusal.condition != "conflict":
                raise
            await self._require_access(node, options)

    async def _publish(self, node: Node, item: Item, options: Mapping[str, str]) -> str:
        payload = ET.Element(f"{{{PUBSUB}}}pubsub")
        publish = ET.SubElement(payload, f"{{{PUBSUB}}}publish", {"node": node.name})
        entry = ET.SubElement(publish, f"{{{PUBSUB}}}item", {"id": item.id} if item.id else {})
        if item.payload:
            entry.append(one_from_bytes(item.payload))
        if options:
            ET.SubElement(payload, f"{{{PUBSUB}}}publish-options").append(form(PUBLISH_OPTIONS, options.items()))
        answer = await self._ask("set", node.service, payload)
        told = answer.find(f"{{{PUBSUB}}}pubsub/{{{PUBSUB}}}publish/{{{PUBSUB}}}item")
        return item.id or ("" if told is None else told.get("id", "")[:MAX_ID])

    async def retract(self, node: Node, item_id: str) -> None:
        """XEP-0060 section 7.2; others are notified."""
        payload = ET.Element(f"{{{PUBSUB}}}pubsub")
        retract = ET.SubElement(payload, f"{{{PUBSUB}}}retract", {"node": node.name, "notify": "true"})
        ET.SubElement(retract, f"{{{PUBSUB}}}item", {"id": item_id})
        await self._ask("set", node.service, payload)

    async def items(
        self, node: Node, *, ids: Iterable[str] = (), limit: int | None = None
    ) -> AsyncIterator[list[Item]]:
        """XEP-0060 section 6.5, newest first where the service knows.

        By pages (XEP-0059) where it can. Where it can't, the ids are asked for first (section 5.5) and the items by
        their ids, so that no answer is larger than a stream may carry; a service that does not list them is asked for
        all at once.
        """
        wanted = list(dict.fromkeys(ids))
        source = paging.Source(self._network, self.account, node)
        if wanted:
            pages = source.by_ids(wanted[:limit])
        elif paging.FEATURES & await self._features_of(node.service):
            pages = source.by_pages(limit)
        elif limit is not None and await source.fit(limit):
            pages = source.newest(limit)
        else:
            pages = source.by_ids(await self._ids(node, limit), or_newest=limit)
        async for page in pages:
            yield page

    async def _ids(self, node: Node, limit: int | None) -> list[str]:
        try:
            return [item.get("name", "") async for item in self._disco_items(node.service, node.name)][:limit]
        except Rejected:
            return []

    async def _features_of(self, service: Address) -> frozenset[str]:
        if service not in self._features:
            try:
                answer = await self._ask("get", service, ET.Element(f"{{{DISCO_INFO}}}query"))
            except Rejected:
                return frozenset()
            features = answer.findall(f"{{{DISCO_INFO}}}query/{{{DISCO_INFO}}}feature")
            self._features[service] = frozenset(feature.get("var", "") for feature in features)
        return self._features[service]

    async def _disco_items(self, service: Address, node: str) -> AsyncIterator[ET.Element]:
        query = ET.Element(f"{{{DISCO_ITEMS}}}query", {"node": node} if node else {})
        pages = await self._features_of(service) & paging.FEATURES
        async for page in paging.disco_items(self._network, self.account, service, query, by_pages=bool(pages)):
            for item in page:
                yield item

    # -- what is told -------------------------------------------------------------------------------------------------

    async def subscribe(self, node: Node) -> None:
        """XEP-0060 section 6.1; for PEP our interest is told with our presence, too (XEP-0163 section 4.3.2)."""
        if "@" in node.service:
            self._client.plugin["xep_0163"].add_interest(node.name)
            # Else a program that only looks in would be shown as available.
            seen = self._client.client_roster.last_status is not None
            await self._client.plugin["xep_0115"].update_caps(broadcast=seen)
        if node.service == self.account:
            return
        payload = ET.Element(f"{{{PUBSUB}}}pubsub")
        attributes = {"node": node.name, "jid": str(self.account)}
        ET.SubElement(payload, f"{{{PUBSUB}}}subscribe", attributes)
        await self._ask("set", node.service, payload)

    def notifications(self, node: Node) -> AsyncIterator[Notification]:
        """XEP-0060 section 7.1.2. Begins with this call, ends with `aclose` or when nobody holds it any more."""
        watch = Watch()
        self._watches.setdefault(node, WeakSet()).add(watch)
        return watch

    def _event(self, message: Any) -> None:
        notification = read(message.xml, self.account)
        if notification is None:
            return
        for watch in list(self._watches.get(notification.node, ())):
            watch.put(notification)

    async def _ask(self, type_: str, service: Address, payload: ET.Element) -> ET.Element:
        return await self._network.ask(type_, None if service == self.account else service, payload)


def bare_address(text: str) -> Address | None:
    """The bare address that a service names; None if it is none."""
    try:
        return address.parse(text).bare
    except InvalidAddress:
        return None


def _variants(options: Mapping[str, str]) -> Iterable[dict[str, str]]:
    """What to ask for: all options, then other large numbers for "max", then only what is REQUIRED."""
    yield dict(options)
    if options.get(MAX_ITEMS) == LARGE_NUMBERS[0]:
        for number in LARGE_NUMBERS[1:]:
            yield {**options, MAX_ITEMS: number}
    required = {name: value for name, value in options.items() if name in REQUIRED}
    if len(required) not in (0, len(options)):
        yield required
