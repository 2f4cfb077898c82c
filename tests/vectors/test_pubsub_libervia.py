"""Signatures and names of attachment nodes as Libervia made them, and the example of XEP-0475.

Provenance: pubsub_libervia.json, in its first line. The accounts and keys were made for it.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tillie.crypto import openpgp
from tillie.model import Address, Done, State, Trust
from tillie.pubsub import attachments, checking, signing
from tillie.pubsub.checking import Checked, Verdict
from tillie.pubsub.items import Item, Node
from tillie.store import Committed, MemoryStore
from tillie.wire import c14n, xml

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "pubsub_libervia.json").read_text(encoding="utf-8"))
ITEMS = VECTORS["items"]
JULIET = Address("juliet@capulet.test")
NOW = 1_795_500_000.0

# XEP-0475 version 0.1.0, examples 1 and 2. Neither has a namespace; what is signed has two (docs/spec-notes.md).
BEFORE = b"""
    <sign-data>
      <to jid='juliet@capulet.lit' />
      <time stamp='2022-10-16T18:39:03Z' />
      <signer>juliet@capulet.lit</signer>
      <item>
        <entry xmlns='http://www.w3.org/2005/Atom'>
          <author>
            <name>Juliet Capulet</name>
            <uri>xmpp:juliet@capulet.lit</uri>
          </author>
          <title type='text'>She is so pretty! </title>
          <published>2022-10-16T18:39:02Z</published>
        </entry>
      </item>
    </sign-data>
"""
AFTER = (
    b'<sign-data><to jid="juliet@capulet.lit"></to><time stamp="2022-10-16T18:39:03Z"></time><signer>juliet@capulet.li'
    b't</signer><item><entry xmlns="http://www.w3.org/2005/Atom"><author><name>Juliet Capulet</name><uri>xmpp:juliet@c'
    b'apulet.lit</uri></author><title type="text">She is so pretty!</title><published>2022-10-16T18:39:02Z</published>'
    b"</entry></item></sign-data>"
)


def check(vector: dict[str, Any], payload: str | None = None, **changes: Any) -> Checked:
    node = Node(Address(vector["service"]), vector["node"])
    attached = attachments.read(Item(str(JULIET), vector["attachments"].encode(), JULIET))
    certificates = {JULIET: (openpgp.parse_certificate(base64.b64decode(vector["certificate"])),)}
    item = Item(vector["item"], b"", JULIET)
    clear = (payload or vector["payload"]).encode()
    found = checking.found_in([attached])

    def step(s: State) -> Done[Checked]:
        there = node._replace(**changes)
        return Done(checking.check(s, there, item, clear, found, certificates, lambda *_: Trust.VERIFIED, NOW))

    out = MemoryStore(JULIET).run(step)
    assert isinstance(out, Committed)
    return out.value


def test_canonical_form_of_the_example() -> None:
    assert c14n.canonical(xml.parse(BEFORE)) == AFTER


def test_signed_form_byte_for_byte() -> None:
    vector = ITEMS[0]
    node = Node(Address(vector["service"]), vector["node"])
    made = signing.parse(attachments.parse(vector["attachments"].encode())[0].xml)
    form = signing.signed_form(node, vector["payload"].encode(), made.statement)
    assert form == VECTORS["signed_form"].encode()


@pytest.mark.parametrize("vector", ITEMS, ids=[vector["item"] for vector in ITEMS])
def test_signature(vector: dict[str, Any]) -> None:
    checked = check(vector)
    assert checked.summary is Verdict.VALID_TRUSTED
    (report,) = checked.reports
    assert report.signer == JULIET
    assert report.trust is Trust.VERIFIED
    assert not report.notes


@pytest.mark.parametrize("vector", ITEMS, ids=[vector["item"] for vector in ITEMS])
def test_signature_of_another_version(vector: dict[str, Any]) -> None:
    for payload in (vector["payload"].replace("h", "H", 1), vector["payload"].replace("xmlns='", "x='' xmlns='", 1)):
        assert check(vector, payload).summary is Verdict.INVALID


def test_signature_at_another_service() -> None:
    assert check(ITEMS[0], service=Address("pubsub.capulet.test")).summary is Verdict.INVALID


def test_the_node_is_not_signed() -> None:
    """docs/attacks.md says so; should that change, this test says it."""
    assert check(ITEMS[0], name="another/node").summary is Verdict.VALID_TRUSTED


@pytest.mark.parametrize("vector", ITEMS, ids=[vector["item"] for vector in ITEMS])
def test_attachment_node(vector: dict[str, Any]) -> None:
    node = Node(Address(vector["service"]), vector["node"])
    there = attachments.node_for(node, vector["item"])
    # As it stands in Libervia's request; "'" is quoted in the URI.
    assert there == Node(node.service, vector["attachment_node"])
    assert attachments.target_of(there) == (node, vector["item"])


def test_other_attachments_are_kept() -> None:
    """Libervia wrote a reaction beside the signature; taking the signature away leaves it."""
    children = attachments.parse(ITEMS[2]["attachments"].encode())
    left = attachments.parse(attachments.replace(children, signing.SIGNATURE))
    assert [child.tag for child in left] == [child.tag for child in children if child.tag != signing.SIGNATURE]
    assert attachments.REACTIONS in {child.tag for child in left}
