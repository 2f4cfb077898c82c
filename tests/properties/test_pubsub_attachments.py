"""pubsub.attachments (XEP-0470): names, what is kept, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillie.errors import Malformed, PeerError
from tillie.model import Address
from tillie.pubsub import attachments
from tillie.pubsub.attachments import NOTICED, REACTIONS, Reactions
from tillie.pubsub.items import Item, Node
from tillie.wire import xml

JULIET, ROMEO = Address("juliet@capulet.lit"), Address("romeo@montague.lit")
BLOG = Node(JULIET, "urn:xmpp:microblog:0")
NS = b"urn:xmpp:pubsub-attachments:1"
AT = 1_657_541_244.0
XML_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)
# XEP-0470, example 2, in its namespace.
EXAMPLE = (
    "<attachments xmlns='urn:xmpp:pubsub-attachments:1'><noticed timestamp='2022-07-11T12:07:24Z'/>"
    "<reactions timestamp='2022-07-11T12:07:48Z'><reaction>👷</reaction><reaction>🔨</reaction></reactions>"
    "</attachments>"
).encode()
SEALED = b"<encrypted xmlns='urn:xmpp:openpgp:pubsub:0' key='k'>AAAA</encrypted>"


def attached(*children: bytes) -> bytes:
    return b"<attachments xmlns='%s'>%s</attachments>" % (NS, b"".join(children))


# -- names ----------------------------------------------------------------------------------------------------------


def test_the_name_in_the_specification() -> None:
    assert attachments.node_for(BLOG, "balcony-restoration-afd1") == Node(
        JULIET,
        "urn:xmpp:pubsub-attachments:1/xmpp:juliet@capulet.lit?"
        ";node=urn%3Axmpp%3Amicroblog%3A0;item=balcony-restoration-afd1",
    )
    assert attachments.summary_node_for(BLOG).name == "urn:xmpp:pubsub-attachments:summary:1/urn:xmpp:microblog:0"


@given(XML_TEXT, XML_TEXT)
def test_names_lead_back(name: str, item_id: str) -> None:
    node = Node(Address("pubsub.capulet.lit"), name)
    assert attachments.target_of(attachments.node_for(node, item_id)) == (node, item_id)


@given(XML_TEXT, XML_TEXT, XML_TEXT, XML_TEXT)
def test_no_two_items_share_a_node(name: str, item_id: str, other: str, other_id: str) -> None:
    same = attachments.node_for(Node(JULIET, name), item_id) == attachments.node_for(Node(JULIET, other), other_id)
    assert same == ((name, item_id) == (other, other_id))


@pytest.mark.parametrize(
    "name",
    [
        "urn:xmpp:microblog:0",
        "urn:xmpp:pubsub-attachments:1/",
        "urn:xmpp:pubsub-attachments:1/xmpp:juliet@capulet.lit",
        "urn:xmpp:pubsub-attachments:1/xmpp:juliet@capulet.lit?;node=a",
        "urn:xmpp:pubsub-attachments:1/xmpp:juliet@capulet.lit?;node=;item=b",
        "urn:xmpp:pubsub-attachments:1/xmpp:juliet@capulet.lit?;node=a;item=",
        "urn:xmpp:pubsub-attachments:1/xmpp:juliet@capulet.lit?;item=b;node=a",
        "urn:xmpp:pubsub-attachments:1/xmpp:juliet@capulet.lit?;node=a;item=b;item=c",
        "urn:xmpp:pubsub-attachments:1/xmpp:juliet@capulet.lit?;node=a%20b;item=c",  # "+" is how a space is written
        "urn:xmpp:pubsub-attachments:1/xmpp:juliet@capulet.lit?;node=%61;item=c",
        "urn:xmpp:pubsub-attachments:1/xmpp:juliet@capulet.lit?;node=%ff;item=c",
        "urn:xmpp:pubsub-attachments:1/xmpp:Juliet@capulet.lit?;node=a;item=c",
        "urn:xmpp:pubsub-attachments:1/xmpp:juliet@capulet.lit/x?;node=a;item=c",
        "urn:xmpp:pubsub-attachments:1/xmpp:romeo@montague.lit?;node=a;item=c",  # at Juliet's service
    ],
)
def test_names_that_lead_nowhere(name: str) -> None:
    with pytest.raises(Malformed):
        attachments.target_of(Node(JULIET, name))


# -- what is attached -----------------------------------------------------------------------------------------------


def test_the_example() -> None:
    found = attachments.read(Item(ROMEO, EXAMPLE, ROMEO))
    assert (found.author, found.is_disputed, found.sealed, found.notes) == (ROMEO, False, False, ())
    (noticed,), (reactions,) = found.find(NOTICED), found.find(REACTIONS)
    assert attachments.parse_noticed(noticed) == AT
    assert attachments.parse_reactions(reactions) == Reactions(("👷", "🔨"), AT + 24)


@given(st.lists(XML_TEXT.filter(lambda text: text == text.strip()), max_size=5))
def test_reactions_there_and_back(emojis: list[str]) -> None:
    written = attachments.reactions(emojis, AT)
    assert attachments.parse_reactions(written) == Reactions(tuple(dict.fromkeys(emojis)), AT)
    assert attachments.parse_noticed(attachments.noticed(AT)) == AT


def test_unknown_children_are_kept() -> None:
    unknown = b"<rated xmlns='urn:example' stars='5'><why>x</why></rated>"
    children = attachments.parse(attached(attachments.noticed(AT), unknown, attachments.reactions("👷", AT)))
    changed = attachments.parse(attachments.replace(children, REACTIONS, attachments.reactions("🔨", AT)))
    assert {child.tag for child in changed} == {NOTICED, "{urn:example}rated", REACTIONS}
    kept = next(xml.parse(child.xml) for child in changed if child.tag == "{urn:example}rated")
    assert (kept.get("stars"), kept[0].tag, kept[0].text) == ("5", "{urn:example}why", "x")
    assert attachments.parse(attachments.replace(changed, REACTIONS)) == tuple(
        child for child in changed if child.tag != REACTIONS
    )


def test_somebody_else_published_it() -> None:
    assert attachments.read(Item(ROMEO, EXAMPLE, JULIET)).is_disputed
    assert attachments.read(Item(ROMEO, EXAMPLE, JULIET)).notes == (attachments.NOT_THE_AUTHOR,)
    assert not attachments.read(Item(ROMEO, EXAMPLE)).is_disputed  # many services don't say


@pytest.mark.parametrize("item_id", ["", "Romeo@montague.lit", "romeo@montague.lit/orchard", "a b@c.d"])
def test_ids_that_are_no_author(item_id: str) -> None:
    with pytest.raises(Malformed):
        attachments.read(Item(item_id, EXAMPLE))


@pytest.mark.parametrize("payload", [b"", b"<attachments/>", b"<noticed xmlns='%s'/>" % NS, b"x", attached(b"<a")])
def test_what_is_no_attachments_element(payload: bytes) -> None:
    with pytest.raises(Malformed):
        attachments.parse(payload)


def test_as_many_as_allowed_and_one_more() -> None:
    attachments.parse(attached(b"<a/>" * attachments.MAX_CHILDREN))
    with pytest.raises(Malformed):
        attachments.parse(attached(b"<a/>" * (attachments.MAX_CHILDREN + 1)))
    many = [str(number) for number in range(attachments.MAX_REACTIONS + 1)]
    attachments.parse_reactions(attachments.reactions(many[1:], AT))
    attachments.parse_reactions(attachments.reactions(["x" * attachments.MAX_REACTION], AT))
    for emojis in (many, ["x" * (attachments.MAX_REACTION + 1)]):
        with pytest.raises(Malformed):
            attachments.parse_reactions(attachments.reactions(emojis, AT))


def test_declarations_that_would_be_written_at_every_child() -> None:
    def declaring(size: int) -> bytes:
        return attached(b"<a/>" * attachments.MAX_CHILDREN).replace(
            b" xmlns", b" xmlns:p='%s' xmlns" % (b"u" * size), 1
        )

    attachments.parse(declaring(3_500))
    with pytest.raises(Malformed):
        attachments.parse(declaring(4_500))


def test_a_time_that_is_none_spoils_nothing() -> None:
    assert attachments.parse_noticed(b"<noticed xmlns='%s' timestamp='yesterday'/>" % NS) is None
    assert attachments.parse_noticed(b"<noticed xmlns='%s'/>" % NS) is None


# -- sealed ---------------------------------------------------------------------------------------------------------


def test_sealed_attachments() -> None:
    payload = attachments.seal_around(SEALED)
    sealed = attachments.sealed_in(payload)
    assert sealed is not None
    assert xml.parse(sealed).get("key") == "k"
    assert attachments.sealed_in(EXAMPLE) is None
    found = attachments.read(Item(ROMEO, payload), EXAMPLE)
    assert found.sealed
    assert {child.tag for child in found.children} == {NOTICED, REACTIONS}


def test_one_attachment_alone_may_be_sealed() -> None:
    found = attachments.read(Item(ROMEO, attachments.seal_around(SEALED)), attachments.noticed(AT))
    assert [child.tag for child in found.children] == [NOTICED]


def test_what_the_service_puts_beside_is_left_out() -> None:
    payload = attached(SEALED, attachments.noticed(AT))
    found = attachments.read(Item(ROMEO, payload), attached(attachments.reactions("👷", AT)))
    assert [child.tag for child in found.children] == [REACTIONS]
    assert found.notes == (attachments.IN_CLEAR,)


def test_two_sealed_elements_are_refused() -> None:
    with pytest.raises(Malformed):
        attachments.sealed_in(attached(SEALED, SEALED))


@given(st.binary(max_size=200) | st.sampled_from([EXAMPLE, attached(SEALED)]), st.data())
def test_garbage_is_refused_by_name(payload: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(payload)))
    for broken in (payload, payload[:cut], payload[:cut] + b"\x00" + payload[cut:]):
        for decode in (
            attachments.parse,
            attachments.sealed_in,
            attachments.parse_reactions,
            attachments.parse_noticed,
        ):
            try:
                decode(broken)
            except PeerError:
                pass
