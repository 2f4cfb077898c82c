"""Secrets and sealed items as XEP-0473 prints them and as Libervia writes them; ours in the eyes of Sequoia.

Provenance: XEP-0473 version 0.1.1, sections "Transmit Shared Secret" and "Revocation and Shared Secret Rotation";
pubsub_secrets.json, in its first line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pysequoia
import pytest
from lxml import etree

from support.pubsub import BLOG, ENTRY, JULIET, ROMEO, Records, opened, own_node, say
from tillie.model import Address
from tillie.pubsub import sealing, secrets, statements
from tillie.pubsub.items import Item, ItemKind, Node
from tillie.pubsub.sealing import Work
from tillie.pubsub.statements import Reason, Revoked, Shared
from tillie.wire import base64, xml

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "pubsub_secrets.json").read_text(encoding="utf-8"))
GARDEN = Node(JULIET, "secret/garden")
NOW = 1_795_500_000.0

XEP_NODE = Node(Address("pubsub.capulet.lit"), "123abc")
XEP_SHARED = b"""
  <shared-secret
    xmlns='urn:xmpp:openpgp:pubsub:0'
    jid='pubsub.capulet.lit'
    node='123abc'
    id='1234-abcd-5678-efgh'
    timestamp='2022-10-10T13:24:31Z'
    type='http://www.w3.org/2005/Atom'
    >
    ZSRD5lK9mz-5VHNyu2N1XLiJZ8I87jkv85ceZkVrOGA
  </shared-secret>
"""
XEP_REVOKE = b"""
  <revoke xmlns='urn:xmpp:openpgp:pubsub:0' jid='pubsub.capulet.lit' node='123abc' id='1234-abcd-5678-efgh'>
    <reason>Revoked access from an entity</reason>
  </revoke>
"""


def test_the_examples_of_the_xep() -> None:
    assert statements.parse(xml.parse(XEP_SHARED), NOW) == Shared(
        XEP_NODE,
        "1234-abcd-5678-efgh",
        "ZSRD5lK9mz-5VHNyu2N1XLiJZ8I87jkv85ceZkVrOGA",
        1_665_408_271.0,
        type="http://www.w3.org/2005/Atom",
    )
    reasons = (Reason("Revoked access from an entity"),)
    assert statements.parse(xml.parse(XEP_REVOKE), NOW) == Revoked(XEP_NODE, "1234-abcd-5678-efgh", reasons)


@pytest.mark.parametrize("vector", VECTORS["items"])
def test_libervias_items_open_also_after_it_has_revoked_their_secret(vector: dict[str, str]) -> None:
    s = Records()
    say(s, ROMEO, JULIET, VECTORS["share"].encode(), now=NOW)
    item = Item("title", vector["sealed"].encode(), JULIET)
    work = sealing.read(s, GARDEN, item, NOW)
    assert isinstance(work, Work)
    assert work.slow  # GnuPG's default count
    reading = sealing.finish(s, work, sealing.attempt(work), NOW)
    assert (reading.kind, reading.notes) == (ItemKind.OPENED, ())
    assert reading.payload == vector["payload"].encode()
    say(s, ROMEO, JULIET, VECTORS["revoke"].encode(), now=NOW + 1)
    assert secrets.newest(s, GARDEN) is None
    assert opened(s, GARDEN, item, NOW + 2) == reading


def test_libervia_reads_a_share_as_we_write_it() -> None:
    """Letter by letter as its own, but for the values."""
    s = Records()
    own_node(s, GARDEN)
    (secret,) = secrets.secrets(s, GARDEN)
    theirs, ours = etree.fromstring(VECTORS["share"]), etree.fromstring(secrets.shared_element(GARDEN, secret))
    assert list(ours.attrib) == list(theirs.attrib)
    assert (ours.tag, ours.get("jid"), ours.get("node")) == (theirs.tag, theirs.get("jid"), theirs.get("node"))
    assert len(ours.get("timestamp", "")) == len(theirs.get("timestamp", ""))
    assert ours.text == secret.value
    assert secrets.revoke_element(GARDEN, "CGCi3AvLXpQfqic988Dgkh").decode() == VECTORS["revoke"]


def test_sequoia_opens_what_we_seal() -> None:
    s = Records()
    secret = own_node(s)
    coded = etree.fromstring(sealing.seal(s, BLOG, ENTRY)).text or ""
    message = base64.decode(coded, max_bytes=10_000)
    assert bytes(pysequoia.decrypt(message, passwords=[secret.value]).bytes) == ENTRY
