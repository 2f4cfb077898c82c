"""Targeted items (XEP-0477) between three accounts: opened once, kept, copied, moved, put where they don't belong."""

from __future__ import annotations

import re

import pytest

from support.ends import ALICE, BOB, CAROL, End, World
from tillie import pipeline
from tillie.errors import Malformed, PeerError
from tillie.model import Address, Content, Done, Need, Sealed, State, Trust
from tillie.pubsub import targeted
from tillie.pubsub.items import Item, ItemKind, Node, Reading
from tillie.trust.decisions import Policy
from tillie.wire import xml

NODE = Node(ALICE, "blog")
ENTRY = b'<entry xmlns="http://www.w3.org/2005/Atom"><title>For you</title></entry>'


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def alice(world: World) -> End:
    return End(world, ALICE)


@pytest.fixture
def bob(world: World) -> End:
    return End(world, BOB)


def write(end: End, *readers: Address, clear: bytes = ENTRY, item_id: str = "x1") -> Item:
    """An item for some people, as it is published."""
    to, *also = readers

    def step(s: State) -> Done[Sealed] | Need:
        return pipeline.seal(s, end.scheme, end.policy, Content(clear), to, end.now, also=tuple(also))

    sealed = end.run(step)
    return Item(item_id, targeted.encode(end.address, targeted.OMEMO2, sealed.element), end.address)


def read(end: End, item: Item, node: Node = NODE) -> Reading:
    try:
        return end.run(lambda s: targeted.read(s, end.scheme, end.policy, node, item, end.now))
    except PeerError as error:
        return targeted.failed(item, error)


def change(item: Item, old: bytes, new: bytes) -> Item:
    assert old in item.payload
    return item._replace(payload=item.payload.replace(old, new, 1))


# -- the way of an item ---------------------------------------------------------------------------------------------


def test_its_readers_read_it_and_nobody_else(world: World, alice: End, bob: End) -> None:
    carol, dora = End(world, CAROL), End(world, Address("dora@d.example"))
    item = write(alice, BOB, CAROL)
    for reader in (bob, carol):
        reading = read(reader, item)
        assert (reading.kind, reading.payload, reading.notes) == (ItemKind.OPENED, ENTRY, ())
        assert reading.by == alice.device._replace(label="")
    assert read(dora, item).kind is ItemKind.NOT_FOR_US
    assert ENTRY not in item.payload


def test_our_own_other_device_reads_it(world: World, alice: End, bob: End) -> None:
    tablet = End(world, ALICE)
    world.push_lists()
    assert read(tablet, write(alice, BOB)).payload == ENTRY


def test_there_is_no_recipient_in_the_envelope(alice: End, bob: End) -> None:
    """Libervia has no `to` to compare it with, and refuses it."""
    seen = []
    unwrap = bob.scheme.unwrap
    bob.scheme.unwrap = lambda plaintext, *rest: (seen.append(plaintext), unwrap(plaintext, *rest))[1]  # type: ignore[method-assign]
    assert read(bob, write(alice, BOB)).kind is ItemKind.OPENED
    (envelope,) = seen
    names = {child.tag.rpartition("}")[2] for child in xml.parse(envelope)}
    assert names == {"content", "rpad", "time", "from"}


def test_it_is_kept_because_it_opens_only_once(alice: End, bob: End) -> None:
    item = write(alice, BOB)
    first = read(bob, item)
    assert read(bob, item) == first
    # The service may write it anew.
    quoted = item._replace(payload=item.payload.replace(b"'", b'"'))
    reordered = item._replace(payload=re.sub(rb"(<key)( rid='[0-9]+')( kex='true')", rb"\1\3\2", item.payload))
    for other in (quoted, reordered):
        assert other != item
        assert read(bob, other).payload == ENTRY


def test_what_is_kept_is_kept_for_its_writer_only(alice: End, bob: End) -> None:
    item = write(alice, BOB)
    read(bob, item)
    assert read(bob, change(item, b"by='alice@a.example'", b"by='carol@c.example'")).payload is None


def test_our_own_item_is_kept_when_it_is_published(alice: End, bob: End) -> None:
    item = write(alice, BOB)
    assert read(alice, item).kind is ItemKind.NOT_FOR_US
    alice.run(lambda s: Done(targeted.published(s, NODE, item.id, item.payload, ENTRY, alice.device, alice.now)))
    reading = read(alice, item)
    assert (reading.kind, reading.payload, reading.by, reading.notes) == (ItemKind.OPENED, ENTRY, alice.device, ())


def test_a_new_version_is_opened_anew(alice: End, bob: End) -> None:
    newer = ENTRY.replace(b"For you", b"For us")
    first = write(alice, BOB)
    alice.world.pass_time(60)
    second = write(alice, BOB, clear=newer)
    for items in ((first, second, first, second), (second, first)):
        readings = [read(bob, item) for item in items]
        assert [reading.payload for reading in readings] == [ENTRY if item is first else newer for item in items]
    assert read(bob, first).notes == (targeted.OLDER,)
    assert read(bob, second).notes == ()


def test_an_older_version_is_one_whatever_was_opened_first(alice: End, bob: End) -> None:
    older = write(alice, BOB)
    alice.world.pass_time(60)
    assert read(bob, write(alice, BOB)).notes == ()
    assert read(bob, older).notes == (targeted.OLDER,)


def test_a_retracted_item_is_forgotten(alice: End, bob: End) -> None:
    items = [write(alice, BOB), write(alice, BOB)]
    assert all(read(bob, item).kind is ItemKind.OPENED for item in items)
    kept = read(bob, write(alice, BOB, item_id="x10"))
    assert bob.run(lambda s: Done(targeted.forget(s, NODE, "x1"))) == 2
    reading = read(bob, items[0])
    assert (reading.kind, reading.payload, reading.error) == (ItemKind.TAMPERED, None, targeted.NOT_KEPT)
    assert read(bob, kept.item).kind is ItemKind.OPENED


# -- what a service may do with it ----------------------------------------------------------------------------------


def test_a_copy_under_another_id_is_rejected(alice: End, bob: End) -> None:
    item = write(alice, BOB)
    read(bob, item)
    copies = [read(bob, item._replace(id="x2")), read(bob, item, Node(ALICE, "other"))]
    for copy in copies:
        assert (copy.kind, copy.payload) == (ItemKind.REJECTED, None)
        assert copy.error == "It is a copy of item 'x1' of node 'blog'."


def test_a_message_is_not_an_item(alice: End, bob: End) -> None:
    alice.say(BOB, "not for your blog")
    (letter,) = alice.world.take(bob)
    item = Item("x1", targeted.encode(ALICE, targeted.OMEMO2, letter.element), ALICE)
    reading = read(bob, item)
    assert (reading.kind, reading.payload, reading.error) == (ItemKind.REJECTED, None, targeted.NOT_AN_ITEM)
    bob.read(letter)
    assert bob.read_texts == ["not for your blog"]  # nothing was used up


def test_under_another_name_it_does_not_open(world: World, alice: End, bob: End) -> None:
    carol = End(world, CAROL)
    assert read(carol, write(alice, CAROL, item_id="x0")).kind is ItemKind.OPENED  # Carol has a session with Alice
    item = write(alice, BOB)
    assert read(bob, change(item, b"by='alice@a.example'", b"by='carol@c.example'")).payload is None
    assert read(bob, item).payload == ENTRY  # nothing was used up


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
def test_an_altered_item_does_not_open_and_the_good_one_does(alice: End, bob: End, at: float) -> None:
    item = write(alice, BOB)
    root = xml.parse(item.payload)
    payload = next(element for element in root.iter() if element.tag.endswith("}payload"))
    text = payload.text or ""
    place = int(len(text) * at)
    payload.text = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
    assert read(bob, item._replace(payload=xml.serialise(root))).kind is ItemKind.TAMPERED
    assert read(bob, item).payload == ENTRY


def test_the_service_names_another_publisher(alice: End, bob: End) -> None:
    (note,) = read(bob, write(alice, BOB)._replace(publisher=CAROL)).notes
    assert note == "The service says that carol@c.example published it, and alice@a.example sealed it."


def test_an_untrusted_key_is_said(world: World, alice: End) -> None:
    bob = End(world, BOB, policy=Policy.MANUAL)
    item = write(alice, BOB)
    assert read(bob, item).notes == (targeted.NOT_TRUSTED,)
    bob.trust(alice, Trust.VERIFIED)
    assert read(bob, item).notes == ()


# -- bad input ------------------------------------------------------------------------------------------------------

SEALED = b"<encrypted xmlns='urn:xmpp:omemo:2'/>"
BAD = {
    "nothing": b"",
    "no XML": b"x",
    "another element": ENTRY,
    "no by": b"<encrypted xmlns='urn:xmpp:pte:0' type='urn:xmpp:omemo:2'>" + SEALED + b"</encrypted>",
    "by is full": targeted.encode(ALICE, targeted.OMEMO2, SEALED).replace(b"a.example", b"a.example/x"),
    "by is no address": targeted.encode(ALICE, targeted.OMEMO2, SEALED).replace(b"a.example", b"@"),
    "no type": targeted.encode(ALICE, "", SEALED),
    "a long type": targeted.encode(ALICE, "x" * (targeted.MAX_TYPE + 1), SEALED),
    "nothing inside": targeted.encode(ALICE, targeted.OMEMO2, b""),
    "two inside": targeted.encode(ALICE, targeted.OMEMO2, SEALED + SEALED),
}


@pytest.mark.parametrize("payload", BAD.values(), ids=BAD)
def test_bad_payloads(payload: bytes) -> None:
    with pytest.raises(Malformed):
        targeted.parse(payload)


def test_what_is_targeted() -> None:
    assert targeted.is_targeted(targeted.encode(ALICE, targeted.OMEMO2, SEALED))
    assert not targeted.is_targeted(ENTRY)
    assert not targeted.is_targeted(ENTRY.replace(b"For you", b"urn:xmpp:pte:0"))


@pytest.mark.parametrize(
    ("namespace", "sealed"),
    [("eu.siacs.conversations.axolotl", SEALED), ("urn:xmpp:omemo:2", ENTRY), ("urn:xmpp:openpgp:0", SEALED)],
)
def test_other_ways_to_seal(alice: End, bob: End, namespace: str, sealed: bytes) -> None:
    reading = read(bob, Item("x1", targeted.encode(ALICE, namespace, sealed), ALICE))
    assert (reading.kind, reading.payload) == (ItemKind.MALFORMED, None)


def test_two_elements_in_one_item(alice: End, bob: End) -> None:
    item = write(alice, BOB, clear=ENTRY + ENTRY)
    assert read(bob, item).kind is ItemKind.MALFORMED


def test_an_id_as_long_as_allowed_and_one_longer(alice: End, bob: End) -> None:
    item = write(alice, BOB)
    assert read(bob, item._replace(id="x" * (targeted.MAX_ITEM_ID + 1))).kind is ItemKind.MALFORMED
    assert read(bob, item._replace(id="x" * targeted.MAX_ITEM_ID)).payload == ENTRY


def test_records_show_nothing_in_a_repr(alice: End, bob: End) -> None:
    reading = read(bob, write(alice, BOB))
    assert "For you" not in repr(reading)
    assert "For you" not in repr(targeted._Kept(ENTRY, ALICE, 1, b"", 0.0))
