"""What services hand out, in any form: notifications, pages and elements are read strictly, and never without end."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from tillie.errors import Rejected, TooLarge
from tillie.model import Address
from tillie.networks.xmpp.elements import as_delivered, form, form_fields
from tillie.networks.xmpp.incoming import EVENT, MAX_ID
from tillie.networks.xmpp.network import PUBSUB
from tillie.networks.xmpp.notifications import MAX_REMEMBERED, MAX_WAITING, Watch, read
from tillie.networks.xmpp.paging import FIRST_PAGE, LARGEST_PAGE, RSM, Source, disco_items
from tillie.nodes.service import Notification
from tillie.pubsub.items import Item, Node

JULIET, SERVICE = Address("juliet@capulet.test"), Address("pubsub.capulet.test")
NODE = Node(SERVICE, "blog")
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"), max_size=8)
NAMES = st.sampled_from(["a", "b-1", "c.d", "{urn:x}a", "{urn:y}b"])


@st.composite
def elements(draw: st.DrawFn, depth: int = 3) -> ET.Element:
    element = ET.Element(draw(NAMES), draw(st.dictionaries(NAMES, TEXT, max_size=2)))
    element.text, element.tail = draw(TEXT), draw(TEXT)
    for _ in range(draw(st.integers(0, 2)) if depth else 0):
        element.append(draw(elements(depth - 1)))
    return element


@given(elements())
def test_an_element_is_written_as_it_was_read(element: ET.Element) -> None:
    element.tail = None
    written = as_delivered(element)
    assert ET.canonicalize(written.decode(), rewrite_prefixes=True) == ET.canonicalize(
        ET.tostring(element, encoding="unicode"), rewrite_prefixes=True
    )


def test_default_namespaces_stay_what_they_were() -> None:
    # A signature over canonical XML covers the prefixes.
    delivered = "<entry xmlns='http://www.w3.org/2005/Atom' xml:lang='it'><t>é &amp;</t><x xmlns='urn:x'/></entry>"
    assert etree.tostring(etree.fromstring(as_delivered(ET.fromstring(delivered))), method="c14n2") == etree.tostring(
        etree.fromstring(delivered), method="c14n2"
    )


def event(inside: str, sender: str = SERVICE, type_: str = "headline", node: str = "blog") -> ET.Element:
    from_ = f" from='{sender}'" if sender else ""
    return ET.fromstring(
        f"<message xmlns='jabber:client'{from_} type='{type_}'><event xmlns='{EVENT}'>"
        f"<items node='{node}'>{inside}</items></event></message>"
    )


def test_a_notification() -> None:
    found = read(
        event(
            "<item id='1' publisher='Juliet@Capulet.test/x'><a xmlns='urn:x'/></item><item id='2'/><retract id='3'/>"
        ),
        JULIET,
    )
    assert found is not None
    assert found == Notification(NODE, (Item("1", b"<a xmlns='urn:x'/>", JULIET), Item("2", b"")), ("3",))
    own = read(event("<item id='1'/>", sender=""), JULIET)
    assert own is not None
    assert own.node == Node(JULIET, "blog")


@pytest.mark.parametrize(
    "message",
    [
        event("<item id='1'/>", sender="romeo@montague.test/phone"),
        event("<item id='1'/>", sender="@"),
        event("<item id='1'/>", type_="error"),
        event("<item id='1'/>", type_="groupchat"),
        event("<item id='1'/>", node=""),
        ET.fromstring(f"<message xmlns='jabber:client'><event xmlns='{EVENT}'/></message>"),
        ET.fromstring(f"<message xmlns='jabber:client'><event xmlns='{EVENT}'><purge node='blog'/></event></message>"),
        ET.fromstring("<message xmlns='jabber:client'/>"),
    ],
)
def test_what_is_no_notification(message: ET.Element) -> None:
    assert read(message, JULIET) is None


def test_items_that_can_not_be_named() -> None:
    longest, too_long = "x" * MAX_ID, "x" * (MAX_ID + 1)
    inside = f"<item/><item id=''/><item id='{too_long}'/><item id='{longest}'/><retract/><retract id='{too_long}'/>"
    found = read(event(inside), JULIET)
    assert found is not None
    assert ([item.id for item in found.items], found.retracted) == ([longest], ())


def test_two_payloads_are_none_and_an_odd_publisher_is_nobody() -> None:
    found = read(event("<item id='1' publisher='@@'><a xmlns='urn:x'/><b xmlns='urn:x'/></item>"), JULIET)
    assert found is not None
    assert found.items == (Item("1", b"", None),)


def test_who_is_told_twice_hears_it_once() -> None:
    async def scenario() -> None:
        watch = Watch()
        first, second = Item("1", b"<a/>"), Item("1", b"<b/>")
        for item in (first, first, second, second, first):
            watch.put(Notification(NODE, (item,)))
        watch.put(Notification(NODE, (), ("1",)))
        watch.put(Notification(NODE, (first,)))
        for _ in range(2):
            watch.put(Notification(NODE, (Item("2", b""),)))  # says only that something changed
        await watch.aclose()
        heard = [notification async for notification in watch]
        assert [n.items[0] if n.items else n.retracted for n in heard] == [
            first, second, first, ("1",), first, Item("2", b""), Item("2", b""),
        ]  # fmt: skip
        assert [_ async for _ in watch] == []

    asyncio.run(scenario())


def test_notifications_that_nobody_reads_are_bounded() -> None:
    async def scenario() -> None:
        watch = Watch()
        for number in range(MAX_WAITING):
            watch.put(Notification(NODE, (Item(str(number), b"<a/>"),)))
        assert (await anext(watch)).items[0].id == "0"
        for number in range(3):
            watch.put(Notification(NODE, (Item(f"more-{number}", b"<a/>"),)))
        for _ in range(MAX_WAITING):
            await anext(watch)
        with pytest.raises(TooLarge):
            await anext(watch)
        assert len(watch._told) == MAX_REMEMBERED

    asyncio.run(scenario())


class Service:
    """A service with `count` items of `size` bytes. It pages as XEP-0059 says, or as `last` says."""

    def __init__(self, count: int, *, size: int = 10, last: str | None = None) -> None:
        self.names = [f"i{number}" for number in range(count)]
        self.size, self.last = size, last
        self.asked: list[int] = []

    async def ask(self, type_: str, to: Address | None, payload: ET.Element) -> ET.Element:
        items = payload.find(f"{{{PUBSUB}}}items")
        assert items is not None
        ids = [item.get("id", "") for item in items]
        size = int(payload.findtext(f"{{{RSM}}}set/{{{RSM}}}max") or items.get("max_items") or len(self.names))
        after = payload.findtext(f"{{{RSM}}}set/{{{RSM}}}after")
        start = self.names.index(after) + 1 if after in self.names else 0
        names = [name for name in ids if name in self.names] if ids else self.names[start : start + size]
        if ids and not names:
            raise Rejected("item-not-found", condition="item-not-found")
        self.asked.append(len(ids) or size)
        answer = "".join(f"<item id='{name}'><a xmlns='urn:x'>{'.' * self.size}</a></item>" for name in names)
        last = self.last if self.last is not None else names[-1] if names else ""
        return ET.fromstring(
            f"<iq xmlns='jabber:client'><pubsub xmlns='{PUBSUB}'><items node='blog'>{answer}</items>"
            f"<set xmlns='{RSM}'><last>{last}</last></set></pubsub></iq>"
        )


async def all_of(pages: Any) -> list[str]:
    return [item.id async for page in pages for item in page]


def source(service: Service) -> Source:
    return Source(service, JULIET, NODE)  # type: ignore[arg-type]


def test_pages() -> None:
    async def scenario() -> None:
        service = Service(300)
        assert await all_of(source(service).by_pages(None)) == service.names
        assert service.asked == [FIRST_PAGE, *[LARGEST_PAGE] * 4]
        for limit in (1, FIRST_PAGE, FIRST_PAGE + 1, 299, 300, 301):
            assert await all_of(source(service).by_pages(limit)) == service.names[:limit]
        assert await all_of(source(Service(0)).by_pages(None)) == []
        large = Service(20, size=300_000)
        assert await all_of(source(large).by_ids(large.names)) == large.names
        assert large.asked[1:] == [3, 3, 3, 3, 1]
        assert await all_of(source(Service(3)).newest(2)) == ["i1", "i0"]
        with pytest.raises(Rejected):
            await all_of(source(service).by_ids(["missing"]))
        assert await all_of(source(service).by_ids(["missing", "gone"])) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("last", ["i3", ""])
def test_a_service_that_turns_in_circles(last: str) -> None:
    async def scenario() -> None:
        service = Service(5, last=last)
        assert len(await asyncio.wait_for(all_of(source(service).by_pages(None)), 5)) <= 10

    asyncio.run(scenario())


def test_lists_by_pages() -> None:
    class Listing:
        async def ask(self, type_: str, to: Address | None, query: ET.Element) -> ET.Element:
            after = query.findtext(f"{{{RSM}}}set/{{{RSM}}}after") or "0"
            number = int(after) + 1
            item = f"<item jid='{SERVICE}' node='n{number}'/>" if number < 4 else ""
            paging = f"<set xmlns='{RSM}'><last>{number}</last></set>"
            return ET.fromstring(f"<iq xmlns='jabber:client'><query xmlns='urn:list'>{item}{paging}</query></iq>")

    async def names(*, by_pages: bool) -> list[str | None]:
        query = ET.Element("{urn:list}query")
        network: Any = Listing()
        pages = disco_items(network, JULIET, SERVICE, query, by_pages=by_pages)
        return [item.get("node") async for page in pages for item in page]

    assert asyncio.run(names(by_pages=True)) == ["n1", "n2", "n3"]
    assert asyncio.run(names(by_pages=False)) == ["n1"]


def test_fields_of_a_form() -> None:
    parent = ET.Element("query")
    assert form_fields(parent) == {}
    parent.append(form("urn:form", [("a", "1"), ("b", "")]))
    assert form_fields(parent) == {"FORM_TYPE": ["urn:form"], "a": ["1"], "b": [""]}
    parent.append(form("urn:other", []))
    assert form_fields(parent) == {}
