"""Items that a service, or somebody who had access, plays tricks with (issue: bad input, B41)."""

from __future__ import annotations

import re

import pytest

from support.pubsub import (
    BLOG,
    ENTRY,
    JULIET,
    NOW,
    NURSE,
    ROMEO,
    SERVICE,
    SHELF,
    VALUE,
    Records,
    opened,
    own_node,
    revoke,
    say,
    shared,
)
from tillie.crypto import password
from tillie.crypto.packets import SEIPD, split
from tillie.errors import Undecryptable, UsageError
from tillie.pubsub import hearing, members, sealing, secrets
from tillie.pubsub.items import Item, ItemKind, Node, Reading
from tillie.pubsub.members import Role
from tillie.pubsub.sealing import Work
from tillie.pubsub.secrets import Secret

OTHER = ENTRY.replace(b"Soliloquy", b"Balcony")


def sealed(secret: Secret, payload: bytes = ENTRY, *, stretch: bool = False) -> bytes:
    """An item as another client of somebody who has the secret writes it."""
    coded = sealing.base64.encode(password.seal(payload, secret.value, stretch=stretch))
    return f"<encrypted xmlns='{secrets.statements.NS}' key='{secret.id}'>{coded}</encrypted>".encode()


def test_an_item_is_read_by_whoever_has_the_secret() -> None:
    s, his = Records(), Records()
    secret = own_node(s)
    item = Item("i", sealing.seal(s, BLOG, ENTRY), JULIET)
    assert opened(his, BLOG, item).kind is ItemKind.NO_SECRET
    say(his, ROMEO, JULIET, secrets.shared_element(BLOG, secret))
    reading = opened(his, BLOG, item)
    assert (reading.kind, reading.payload, reading.secret, reading.notes) == (ItemKind.OPENED, ENTRY, secret.id, ())
    assert opened(his, BLOG, item) == reading


def test_an_item_without_a_secret_names_the_one_that_is_missing() -> None:
    s = Records()
    reading = opened(Records(), BLOG, Item("i", sealed(own_node(s))))
    assert secrets.newest(s, BLOG) is not None
    assert reading.secret == own_node_id(s)
    assert reading.secret in reading.error


def own_node_id(s: Records) -> str:
    newest = secrets.newest(s, BLOG)
    assert newest is not None
    return newest.id


# -- nothing is published in clear that was to be sealed ------------------------------------------------------------


def test_without_a_usable_secret_nothing_is_sealed_and_a_person_hears_what_to_do() -> None:
    s = Records()
    with pytest.raises(UsageError, match="not published") as caught:
        sealing.seal(s, BLOG, ENTRY)
    assert "tillie pubsub node create" in caught.value.hint
    say(s, ROMEO, NURSE, shared(node=SHELF))
    with pytest.raises(UsageError, match="not decided") as caught:
        sealing.seal(s, SHELF, ENTRY)
    assert caught.value.hint == hearing.ACCEPT_HINT
    say(s, ROMEO, JULIET, shared(), revoke())
    with pytest.raises(UsageError, match="revoked") as caught:
        sealing.seal(s, BLOG, ENTRY)
    assert JULIET in caught.value.hint


def test_only_the_newest_secret_that_is_not_revoked_seals() -> None:
    s = Records()
    own_node(s)
    second = secrets.make(s, BLOG, JULIET, NOW)
    assert sealing.secret_of(sealing.seal(s, BLOG, ENTRY)) == second.id
    third = secrets.rotate(s, BLOG, JULIET, NOW)
    assert sealing.secret_of(sealing.seal(s, BLOG, ENTRY)) == third.id
    assert opened(s, BLOG, Item("i", sealed(second)), NOW - 50).kind is ItemKind.OPENED  # archives still open


# -- moved, copied, replayed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", [Node(JULIET, "another"), Node(SERVICE, BLOG.name), Node(ROMEO, BLOG.name)])
def test_an_item_that_was_moved_to_another_node_or_service_does_not_open(elsewhere: Node) -> None:
    s = Records()
    item = Item("i", sealed(own_node(s)))
    assert opened(s, elsewhere, item).kind is ItemKind.NO_SECRET
    say(s, JULIET, elsewhere.service, shared(own_node_id(s), node=elsewhere))
    secrets_there = [each.id for each in secrets.secrets(s, elsewhere)]
    assert opened(s, elsewhere, item).kind is (ItemKind.TAMPERED if secrets_there else ItemKind.NO_SECRET)


def test_a_secret_of_another_node_opens_nothing_even_under_its_id() -> None:
    s = Records()
    own_node(s)
    say(s, JULIET, ROMEO, shared(own_node_id(s), node=Node(ROMEO, BLOG.name)))
    reading = opened(s, Node(ROMEO, BLOG.name), Item("i", sealing.seal(s, BLOG, ENTRY)))
    assert reading.kind is ItemKind.TAMPERED
    assert reading.payload is None


def test_the_same_item_under_another_id_is_said_at_both() -> None:
    s = Records()
    payload = sealed(own_node(s))
    assert opened(s, BLOG, Item("first", payload)).notes == ()
    reading = opened(s, BLOG, Item("copy", payload))
    assert reading.kind is ItemKind.OPENED
    assert "under the id first" in reading.notes[0]
    assert opened(s, BLOG, Item("copy", payload)).notes == reading.notes
    assert "under the id copy" in opened(s, BLOG, Item("first", payload)).notes[0]


def test_a_copy_is_found_though_the_service_frames_it_anew() -> None:
    s = Records()
    secret = own_node(s)
    payload = sealed(secret)
    opened(s, BLOG, Item("first", payload))
    _, coded = sealing._parse(payload) or ("", b"")
    skesk, body = split(sealing.base64.decode(coded, max_bytes=10_000))
    framed = bytes((0x80 | skesk.tag << 2, len(skesk.body))) + skesk.body
    framed += bytes((0xC0 | SEIPD, 255)) + len(body.body).to_bytes(4, "big") + body.body
    again = re.sub(rb">[^<]*<", b">" + sealing.base64.encode(framed).encode() + b"<", payload)
    assert again != payload
    assert "under the id first" in opened(s, BLOG, Item("copy", again)).notes[0]


def test_the_same_words_twice_are_no_copy() -> None:
    s = Records()
    own_node(s)
    for at in range(3):
        assert opened(s, BLOG, Item(f"{at}", sealing.seal(s, BLOG, ENTRY))).notes == ()


def test_an_older_version_that_comes_back_is_said() -> None:
    s = Records()
    secret = own_node(s)
    versions = [sealed(secret, ENTRY.replace(b"Soliloquy", f"v{n}".encode())) for n in range(sealing.MAX_VERSIONS + 2)]
    for at, version in enumerate(versions):
        assert opened(s, BLOG, Item("i", version), NOW + at).notes == ()
    reading = opened(s, BLOG, Item("i", versions[2]), NOW + 1_000)
    assert reading.kind is ItemKind.OPENED
    assert "older version" in reading.notes[0]
    assert opened(s, BLOG, Item("i", versions[-1]), NOW + 1_001).notes == ()
    assert "older version" in opened(s, BLOG, Item("i", versions[-2]), NOW + 1_002).notes[0]
    # What is remembered is bounded: the very first versions are forgotten, and nothing of them is left.
    assert sum(1 for key in s if key.kind == "seen") == sealing.MAX_VERSIONS + 1
    assert opened(s, BLOG, Item("i", versions[0]), NOW + 1_003).notes == ()


def test_a_retracted_item_is_forgotten() -> None:
    s = Records()
    secret = own_node(s)
    before = dict(s)
    for payload in (sealed(secret), sealed(secret, stretch=True)):
        opened(s, BLOG, Item("i", payload))
    assert any(key.kind == "kept" for key in s)
    sealing.forget(s, BLOG, "i")
    sealing.forget(s, BLOG, "never seen")
    assert s == before


# -- revoked secrets ------------------------------------------------------------------------------------------------


def test_an_item_newly_seen_under_a_revoked_secret_is_said() -> None:
    s = Records()
    secret = own_node(s)
    seen, unseen = (Item(name, sealed(secret)) for name in ("seen", "unseen"))
    assert opened(s, BLOG, seen).notes == ()
    secrets.rotate(s, BLOG, JULIET, NOW + 10)
    assert opened(s, BLOG, seen, NOW + 20).notes == ()
    for later in (20, 30):  # said every time
        assert "revoked" in opened(s, BLOG, unseen, NOW + later).notes[0]


def test_an_archive_under_secrets_that_came_revoked_is_not_suspicious_but_a_new_item_is() -> None:
    s, hers = Records(), Records()
    secret = own_node(s)
    archived, fresh = Item("a", sealed(secret)), Item("b", sealed(secret))
    say(hers, NURSE, JULIET, secrets.shared_element(BLOG, secret, revoked=True))
    assert opened(hers, BLOG, archived).notes == ()
    assert "revoked" in opened(hers, BLOG, fresh, NOW + 1, live=True).notes[0]
    assert "revoked" in opened(hers, BLOG, fresh, NOW + 2).notes[0]


# -- removed members ------------------------------------------------------------------------------------------------


def test_what_a_removed_publisher_adds_later_is_rejected() -> None:
    s = Records()
    secret = own_node(s)
    members.add(s, BLOG, ROMEO, Role.PUBLISHER, NOW)
    old, clear = Item("old", sealed(secret), ROMEO), Item("clear", OTHER, ROMEO)
    assert opened(s, BLOG, old, NOW + 1).kind is ItemKind.OPENED
    assert opened(s, BLOG, clear, NOW + 1).kind is ItemKind.CLEAR
    members.remove(s, BLOG, ROMEO, NOW + 10)
    secrets.rotate(s, BLOG, JULIET, NOW + 10)
    assert opened(s, BLOG, old, NOW + 20).kind is ItemKind.OPENED
    assert opened(s, BLOG, clear, NOW + 20).kind is ItemKind.CLEAR
    for payload in (sealed(secret), OTHER):
        reading = opened(s, BLOG, Item("new", payload, ROMEO), NOW + 20)
        assert (reading.kind, reading.payload) == (ItemKind.REJECTED, None)
        assert ROMEO in reading.error
    assert opened(s, BLOG, Item("new", sealed(secret), ROMEO), NOW + 30).kind is ItemKind.REJECTED  # not only once
    assert opened(s, BLOG, Item("hers", sealing.seal(s, BLOG, ENTRY), JULIET), NOW + 30).kind is ItemKind.OPENED


def test_who_comes_back_is_read_again() -> None:
    s = Records()
    secret = own_node(s)
    members.add(s, BLOG, ROMEO, Role.PUBLISHER, NOW)
    members.remove(s, BLOG, ROMEO, NOW + 10)
    item = Item("i", sealed(secret), ROMEO)
    assert opened(s, BLOG, item, NOW + 20).kind is ItemKind.REJECTED
    members.add(s, BLOG, ROMEO, Role.PUBLISHER, NOW + 30)
    assert opened(s, BLOG, item, NOW + 40).kind is ItemKind.OPENED


# -- slow items -----------------------------------------------------------------------------------------------------


def test_a_slow_item_is_work_once_and_then_kept() -> None:
    s = Records()
    secret = own_node(s)
    item = Item("i", sealed(secret, stretch=True))
    work = sealing.read(s, BLOG, item, NOW)
    assert isinstance(work, Work)
    assert work.slow
    assert secret.value not in repr(work)
    plaintext = password.open(work.message, work.password, max_bytes=sealing.MAX_OPENED)
    reading = sealing.finish(s, work, plaintext, NOW)
    assert (reading.kind, reading.payload) == (ItemKind.OPENED, ENTRY)
    assert sealing.read(s, BLOG, item, NOW + 1) == reading
    assert sealing.read(s, BLOG, item._replace(id="copy"), NOW + 1) != reading
    secrets.rotate(s, BLOG, JULIET, NOW)
    # What is kept answers for its own secret only: nobody can dress it up as sealed by the new one.
    newest = secrets.newest(s, BLOG)
    assert newest is not None
    forged = item.payload.replace(secret.id.encode(), newest.id.encode())
    assert isinstance(sealing.read(s, BLOG, Item("i", forged), NOW), Work)


def test_slow_work_that_fails_leaves_no_trace() -> None:
    s = Records()
    secret = own_node(s)
    work = sealing.read(s, BLOG, Item("i", sealed(secret, stretch=True)), NOW)
    assert isinstance(work, Work)
    before = dict(s)
    reading = sealing.finish(s, work, Undecryptable("the password is wrong, or it was altered"), NOW)
    assert (reading.kind, reading.payload) == (ItemKind.TAMPERED, None)
    assert s == before


# -- our own, and attachments ---------------------------------------------------------------------------------------


def test_what_we_published_is_remembered_at_once() -> None:
    s = Records()
    secret = own_node(s)
    payload = sealed(secret)
    sealing.published(s, BLOG, "mine", payload, NOW)
    secrets.rotate(s, BLOG, JULIET, NOW + 10)
    assert opened(s, BLOG, Item("mine", payload), NOW + 20).notes == ()
    assert "under the id mine" in opened(s, BLOG, Item("theirs", payload), NOW + 20).notes[1]
    before = dict(s)
    sealing.published(s, BLOG, "clear", ENTRY, NOW)
    assert s == before


def test_an_attachment_is_sealed_with_the_secrets_of_its_item() -> None:
    s = Records()
    secret = own_node(s)
    attachments = Node(JULIET, "urn:xmpp:pubsub-attachments:1/xmpp:juliet@capulet.test?;node=a;item=b")
    item = Item(ROMEO, sealed(secret), ROMEO)
    assert opened(s, attachments, item).kind is ItemKind.NO_SECRET
    reading = sealing.read(s, attachments, item, NOW, under=BLOG)
    assert isinstance(reading, Reading)
    assert reading.kind is ItemKind.OPENED
    members.add(s, BLOG, ROMEO, Role.PUBLISHER, NOW)
    members.remove(s, BLOG, ROMEO, NOW + 1)
    late = sealing.read(s, attachments, Item("x", sealed(secret), ROMEO), NOW + 2, under=BLOG)
    assert isinstance(late, Reading)
    assert late.kind is ItemKind.REJECTED


def test_a_readers_note_tells_no_secret() -> None:
    s = Records()
    secret = own_node(s)
    payload = sealed(secret)
    opened(s, BLOG, Item("\x1b[2Jfirst", payload))
    reading = opened(s, BLOG, Item("copy", payload))
    assert "\x1b" not in reading.notes[0]
    assert secret.value not in repr(reading)
    assert VALUE not in repr(s.keys())
