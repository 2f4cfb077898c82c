"""pubsub.signing (XEP-0475, XEP-0476): the element, the signed form, and garbage for both."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillie.errors import Malformed, PeerError, UsageError
from tillie.model import Address
from tillie.pubsub import signing
from tillie.pubsub.items import Node
from tillie.pubsub.signing import Signature, Statement

JULIET, ROMEO = Address("juliet@capulet.lit"), Address("romeo@montague.lit")
NODE = Node(JULIET, "blog")
STAMP = "2022-10-16T18:39:03Z"
STATEMENT = Statement(STAMP, (JULIET,))
ENTRY = b"<entry xmlns='http://www.w3.org/2005/Atom'><title>Hi</title></entry>"
VALUE = b"\xc2\x01\x04"
GOOD = signing.encode(Signature(STATEMENT, VALUE))


def element(inner: bytes) -> bytes:
    return b"<signature xmlns='urn:xmpp:pubsub-signing:0'>" + inner + b"</signature>"


TIME = b"<time stamp='2022-10-16T18:39:03Z'/>"
SIGNER = b"<signer>juliet@capulet.lit</signer>"
SIGN = b"<sign xmlns='urn:xmpp:pubsub-signing:openpgp:0'>wgEE</sign>"


# -- the element ----------------------------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=700), st.lists(st.sampled_from([JULIET, ROMEO]), min_size=1, unique=True))
def test_there_and_back(value: bytes, signers: list[Address]) -> None:
    made = Signature(Statement(STAMP, tuple(signers)), value)
    assert signing.parse(signing.encode(made)) == made


def test_the_example_of_the_openpgp_profile() -> None:
    """XEP-0476 version 0.1.0, its example with a shorter signature."""
    assert signing.parse(element(TIME + b"\n  " + SIGNER + SIGN)) == Signature(STATEMENT, VALUE)


def test_the_example_of_the_framework_is_of_an_unknown_profile() -> None:
    """XEP-0475 version 0.1.0, example 3. Its own attribute `timestamp` is XEP-0470's, of any attachment."""
    other = b"<example-signature xmlns='https://example.org/signature'>x</example-signature>"
    got = signing.parse(element(TIME + SIGNER + other).replace(b">", b" timestamp='2022-10-16T18:39:04Z'>", 1))
    assert got == Signature(STATEMENT, b"", ("{https://example.org/signature}example-signature",))


BAD = {
    "no time": SIGNER + SIGN,
    "two times": TIME + TIME + SIGNER + SIGN,
    "time without stamp": b"<time/>" + SIGNER + SIGN,
    "no time at all": b"<time stamp='now'/>" + SIGNER + SIGN,
    "a long stamp": b"<time stamp='2022-10-16T18:39:03.%sZ'/>" % (b"0" * 40) + SIGNER + SIGN,
    "no signer": TIME + SIGN,
    "a signer twice": TIME + SIGNER + SIGNER + SIGN,
    "an empty signer": TIME + b"<signer/>" + SIGN,
    "a signer in an attribute": TIME + b"<signer jid='juliet@capulet.lit'/>" + SIGN,
    "a full address": TIME + b"<signer>juliet@capulet.lit/x</signer>" + SIGN,
    "not in normal form": TIME + b"<signer>Juliet@capulet.lit</signer>" + SIGN,
    "a signer with children": TIME + b"<signer><b/>juliet@capulet.lit</signer>" + SIGN,
    "two signatures": TIME + SIGNER + SIGN + SIGN,
    "an empty signature": TIME + SIGNER + b"<sign xmlns='urn:xmpp:pubsub-signing:openpgp:0'/>",
    "no Base64": TIME + SIGNER + SIGN.replace(b"wgEE", b"wgE"),
    "a signature with children": TIME + SIGNER + SIGN.replace(b"wgEE", b"<b/>wgEE"),
    "armour": TIME + SIGNER + SIGN.replace(b"wgEE", b"-----BEGIN PGP SIGNATURE-----"),
}


@pytest.mark.parametrize("inner", BAD.values(), ids=BAD)
def test_bad_elements(inner: bytes) -> None:
    with pytest.raises(Malformed):
        signing.parse(element(inner))


@pytest.mark.parametrize(
    "data", [b"", b"x", ENTRY, b"<signature/>", b"<signature xmlns='urn:xmpp:pubsub-signature:0'/>"]
)
def test_what_is_no_signature_element(data: bytes) -> None:
    with pytest.raises(Malformed):
        signing.parse(data)


def test_limits_on_both_sides() -> None:
    signers = [Address(f"a{number}@b.example") for number in range(signing.MAX_SIGNERS + 1)]
    assert len(signing.statement(signers[0], 0.0, also=signers[1:-1]).signers) == signing.MAX_SIGNERS
    with pytest.raises(UsageError):
        signing.statement(signers[0], 0.0, also=signers[1:])
    signing.parse(signing.encode(Signature(Statement(STAMP, tuple(signers[:-1])), VALUE)))
    with pytest.raises(Malformed):
        signing.parse(signing.encode(Signature(Statement(STAMP, tuple(signers)), VALUE)))
    signing.parse(signing.encode(Signature(STATEMENT, bytes(signing.MAX_SIGNATURE))))
    with pytest.raises(Malformed):
        signing.parse(signing.encode(Signature(STATEMENT, bytes(signing.MAX_SIGNATURE + 1))))


@given(st.binary(max_size=100) | st.just(GOOD), st.data())
def test_garbage_is_refused_by_name(payload: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(payload)))
    junk = data.draw(st.binary(max_size=5))
    for broken in (payload, payload[:cut], payload[:cut] + junk + payload[cut:]):
        try:
            signing.parse(broken)
        except PeerError:
            pass


# -- the signed form ------------------------------------------------------------------------------------------------


def form(payload: bytes = ENTRY, statement: Statement = STATEMENT, node: Node = NODE) -> bytes:
    return signing.signed_form(node, payload, statement)


def test_the_signed_form() -> None:
    assert form() == (
        b'<sign-data xmlns="urn:xmpp:pubsub-signing:0"><to jid="juliet@capulet.lit"></to>'
        b'<time stamp="2022-10-16T18:39:03Z"></time><signer>juliet@capulet.lit</signer>'
        b'<item xmlns="http://jabber.org/protocol/pubsub"><entry xmlns="http://www.w3.org/2005/Atom">'
        b"<title>Hi</title></entry></item></sign-data>"
    )


@pytest.mark.parametrize(
    "same",
    [
        ENTRY.replace(b"'", b'"'),
        ENTRY.replace(b">Hi<", b">  Hi\n<"),
        ENTRY.replace(b"<title>", b"\n  <title>"),
        ENTRY.replace(b"Hi", b"&#72;<![CDATA[i]]>"),
        b"<entry xmlns='http://www.w3.org/2005/Atom'><title xmlns='http://www.w3.org/2005/Atom'>Hi</title></entry>",
    ],
)
def test_what_does_not_change_it(same: bytes) -> None:
    assert form(same) == form()


@pytest.mark.parametrize(
    "other",
    [
        form(ENTRY.replace(b"Hi", b"Ho")),
        form(ENTRY.replace(b"<title>", b"<title type='text'>")),
        form(ENTRY.replace(b"<title>", b"<title xmlns=''>")),
        form(ENTRY.replace(b"2005", b"2006")),
        form(statement=Statement("2022-10-16T18:39:04Z", (JULIET,))),
        form(statement=Statement("2022-10-16T18:39:03+00:00", (JULIET,))),
        form(statement=Statement(STAMP, (ROMEO,))),
        form(statement=Statement(STAMP, (JULIET, ROMEO))),
        form(statement=Statement(STAMP, (ROMEO, JULIET))),
        form(node=Node(ROMEO, "blog")),
    ],
)
def test_what_changes_it(other: bytes) -> None:
    assert other != form()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"<entry/>",  # it would fall into the namespace of <item/>
        b"<p:entry xmlns:p='urn:p'><b/></p:entry>",
        ENTRY + ENTRY,
        ENTRY + b"</item><item>",
        b"<!DOCTYPE x>" + ENTRY,
        ENTRY.replace(b"Hi", b"<!-- x -->"),
        b"<e xmlns='u' xmlns:p='u' p:a='1'/>",
    ],
)
def test_payloads_that_have_no_signed_form(payload: bytes) -> None:
    with pytest.raises(Malformed):
        form(payload)


def test_why_a_payload_without_a_namespace_has_none() -> None:
    with pytest.raises(Malformed, match="without a namespace"):
        form(b"<entry/>")


def test_seconds_only() -> None:
    """Libervia writes the time anew, in whole seconds, before it checks."""
    assert signing.statement(JULIET, 1_665_945_543.9) == STATEMENT
    assert signing.statement(Address("juliet@capulet.lit/x"), 1_665_945_543.0).signers == (JULIET,)


def test_it_is_one_line_of_base64() -> None:
    value = bytes(range(256)) * 2
    assert b">" + base64.b64encode(value) + b"</sign>" in signing.encode(Signature(STATEMENT, value))
