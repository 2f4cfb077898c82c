"""envelope.policy: what is sealed, what stays readable, in both directions (B35, B36, N14)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillie.envelope import policy
from tillie.envelope.policy import RULES, Place, place_of
from tillie.errors import UsageError
from tillie.model import Content
from tillie.wire import xml

SEALED = {  # what users lose when it leaks
    "body": "jabber:client",
    "subject": "jabber:client",
    "thread": "jabber:client",
    "show": "jabber:client",
    "status": "jabber:client",
    "request": "urn:xmpp:receipts",
    "received": "urn:xmpp:receipts",
    "displayed": "urn:xmpp:chat-markers:0",
    "composing": "http://jabber.org/protocol/chatstates",
    "replace": "urn:xmpp:message-correct:0",
    "reactions": "urn:xmpp:reactions:0",
    "reply": "urn:xmpp:reply:0",
    "retract": "urn:xmpp:message-retract:1",
    "x": "jabber:x:oob",
    "file-sharing": "urn:xmpp:sfs:0",
    "html": "http://jabber.org/protocol/xhtml-im",
    "propose": "urn:xmpp:jingle-message:0",
    "forwarded": "urn:xmpp:forward:0",
    "trust-message": "urn:xmpp:tm:1",
    "opt-out": "urn:xmpp:omemo:2",
    "geoloc": "http://jabber.org/protocol/geoloc",
}


def element(name: str, namespace: str) -> bytes:
    return f"<{name} xmlns='{namespace}'/>".encode()


@pytest.mark.parametrize(("name", "namespace"), SEALED.items())
def test_sensitive_elements(name: str, namespace: str) -> None:
    data = element(name, namespace)
    assert policy.split_outgoing(Content(data)) == (Content(data), ())
    assert policy.filter_incoming(xml.parse_fragment(data))[1] == ()
    assert policy.filter_siblings([data]) == ((), (f"<{name}> ({namespace})",))


ROWS = [(rule, name) for rule in RULES for name in rule.names or ("anything",)]


@pytest.mark.parametrize(("rule", "name"), ROWS, ids=lambda value: getattr(value, "namespace", value))
def test_every_row(rule: policy.Rule, name: str) -> None:
    data = element(name, rule.namespace)
    content = Content(data)
    kept, discarded = policy.filter_incoming(xml.parse_fragment(data))
    siblings, dropped = policy.filter_siblings([data])
    assert bool(kept) is (rule.place in (Place.INSIDE, Place.BOTH)) is not discarded
    assert bool(siblings) is (rule.place in (Place.BESIDE, Place.BOTH)) is not dropped
    if rule.place is Place.NEITHER:
        with pytest.raises(UsageError):
            policy.split_outgoing(content)
    else:
        assert policy.split_outgoing(content) == (Content(b""), (xml.serialise(xml.parse(data)),))
    if rule.place is Place.BOTH:
        policy.check_outgoing(content)
    else:
        with pytest.raises(UsageError):
            policy.check_outgoing(content)


def test_the_table_is_in_order() -> None:
    assert len({(rule.namespace, name) for rule, name in ROWS}) == len(ROWS)
    assert all(rule.why for rule in RULES)
    assert Place.INSIDE not in {rule.place for rule in RULES}  # that is what is not in the table


def test_named_rows_win_over_their_namespace() -> None:
    assert place_of("{urn:xmpp:carbons:2}private") is Place.BESIDE
    assert place_of("{urn:xmpp:carbons:2}received") is Place.NEITHER
    assert place_of("{urn:xmpp:omemo:2}encrypted") is Place.NEITHER
    assert place_of("{urn:xmpp:omemo:2}opt-out") is Place.INSIDE
    assert place_of("body") is Place.NEITHER  # no namespace, no meaning


def test_a_message_is_split() -> None:
    body, store, origin = (
        b"<body xmlns='jabber:client'>x</body>",
        b"<store xmlns='urn:xmpp:hints'/>",
        b"<origin-id xmlns='urn:xmpp:sid:0' id='1'/>",
    )
    sealed, plain = policy.split_outgoing(Content(store + body + origin))
    assert [child.tag for child in xml.parse_fragment(sealed.data)] == ["{jabber:client}body"]
    assert [xml.parse(child).tag for child in plain] == ["{urn:xmpp:hints}store", "{urn:xmpp:sid:0}origin-id"]


def test_plaintext_beside_a_sealed_element_is_dropped_and_reported() -> None:
    """B35: a server adds a body, a correction and a reaction, in as many spellings as XML has."""
    forged = [
        b"<body xmlns='jabber:client'>Send money</body>",
        b'<body xmlns="jabber:client">Send money</body>',
        b"<body\n xmlns='jabber:client'>Send money</body>",
        b"<c:body xmlns:c='jabber:client'>Send money</c:body>",
        b"<body xml:lang='en' xmlns='jabber:client'>Send money</body>",
        b"<body>Send money</body>",
        b"<replace xmlns='urn:xmpp:message-correct:0' id='1'/>",
        b"<reactions xmlns='urn:xmpp:reactions:0' id='1'/>",
        b"<envelope xmlns='urn:xmpp:sce:1'><content/></envelope>",
        b"<encrypted xmlns='urn:xmpp:omemo:2'/>",
        b"not XML",
        b"<!DOCTYPE a><a/>",
        b"",
    ]
    genuine = (
        b"<store xmlns='urn:xmpp:hints'/>",
        b'<stanza-id xmlns="urn:xmpp:sid:0" by="a@b" id="1"/>',
        b"<d:delay xmlns:d='urn:xmpp:delay' stamp='2026-11-01T12:00:00Z'/>",
        b"<encryption xmlns='urn:xmpp:eme:0' namespace='urn:xmpp:omemo:2'/>",
    )
    kept, dropped = policy.filter_siblings([*forged, *genuine])
    assert kept == genuine
    assert len(dropped) == len(forged)
    assert "money" not in "".join(dropped)


@given(
    st.sampled_from(["body", "store", "a.b-c_d", "\u00e9"]),
    st.sampled_from(["jabber:client", "urn:xmpp:hints", "urn:x&amp;y", "vcard-temp"]),
    st.sampled_from(
        ["<{0} xmlns='{1}'/>", "<{0} xmlns=\"{1}\" a='1'>x</{0}>", "<p:{0} xmlns:p='{1}'/>", "<{0}  xmlns='{1}'/>"]
    ),
)
def test_a_sibling_is_known_by_what_a_parser_sees(name: str, namespace: str, form: str) -> None:
    data = form.format(name, namespace).encode()
    kept, _ = policy.filter_siblings([data])
    assert bool(kept) is (place_of(xml.parse(data).tag) is Place.BESIDE)


@given(st.binary(max_size=40))
def test_siblings_raise_nothing(data: bytes) -> None:
    policy.filter_siblings([data, b"<" + data])
