"""Items of private nodes (XEP-0473) as other OpenPGP programs open and write them: GnuPG, and Sequoia's library."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import NamedTuple

import pysequoia
import pytest

from support.gnupg import GnuPG, gnupg
from support.pubsub import BLOG, ENTRY, JULIET, NOW, Records, opened, own_node
from tillie.pubsub import sealing
from tillie.pubsub.items import Item, ItemKind
from tillie.pubsub.sealing import Work
from tillie.wire import xml

__all__ = ["gnupg"]

# Other scripts, both quotation marks, line ends: whatever a rewrite on the way could lose.
PAYLOADS = (ENTRY, "<x xmlns='urn:example:x' a='\"'>l'été \u2014 \U0001f339\n \t&lt;\\</x>".encode())


class Program(NamedTuple):
    """Another program that opens and seals messages under a password."""

    open: Callable[[bytes, str], bytes]
    seal: Callable[[bytes, str], bytes]


@pytest.fixture(params=["gnupg", "sequoia"])
def program(request: pytest.FixtureRequest) -> Program:
    if request.param == "sequoia":
        return Program(
            lambda message, secret: pysequoia.decrypt(message, passwords=[secret]).bytes,
            lambda data, secret: pysequoia.encrypt(data, passwords=[secret], armor=False),
        )
    gpg: GnuPG = request.getfixturevalue("gnupg")
    return Program(lambda message, secret: gpg.open(message, secret).plaintext, gpg.seal_with_password)


@pytest.mark.parametrize("payload", PAYLOADS, ids=["entry", "text"])
def test_another_program_opens_our_item(program: Program, payload: bytes) -> None:
    state = Records()
    secret = own_node(state)
    element = xml.parse(sealing.seal(state, BLOG, payload))
    assert element.get("key") == secret.id
    plaintext = xml.parse(program.open(b64decode(element.text or ""), secret.value))
    written = xml.parse(payload)
    assert (plaintext.tag, dict(plaintext.attrib)) == (written.tag, dict(written.attrib))
    assert [(e.tag, e.text) for e in plaintext.iter()] == [(e.tag, e.text) for e in written.iter()]


@pytest.mark.parametrize("payload", PAYLOADS, ids=["entry", "text"])
def test_we_open_an_item_of_another_program(program: Program, payload: bytes) -> None:
    """Its count is huge, so this is work for another process; the result is kept."""
    state = Records()
    secret = own_node(state)
    message = b64encode(program.seal(payload, secret.value)).decode()
    sealed = f"<encrypted xmlns='urn:xmpp:openpgp:pubsub:0' key='{secret.id}'>{message}</encrypted>".encode()
    item = Item("one", sealed, JULIET)
    work = sealing.look(state, BLOG, item, NOW)
    assert isinstance(work, Work)
    assert work.slow
    reading = opened(state, BLOG, item)
    assert (reading.kind, reading.payload) == (ItemKind.OPENED, payload)
    assert sealing.look(state, BLOG, item, NOW) == reading
