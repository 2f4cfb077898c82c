"""Secrets on their way: whole messages, sealed, opened, kept or not, on the pipeline."""

from __future__ import annotations

import pytest

from support import ends
from support.openpgp import ALICE, BOB, PgpEnd, PgpWorld, pair
from support.pubsub import VALUE, revoke, shared
from tillie import history, pipeline
from tillie.model import Done, Kind, Stanza, State, Trust
from tillie.pubsub import hearing, members, secrets
from tillie.pubsub.items import Node
from tillie.pubsub.members import Role
from tillie.pubsub.secrets import Secret
from tillie.store import Committed
from tillie.wire.time import format_datetime

BLOG = Node(ALICE, "a private blog")
BODY = b"<body xmlns='jabber:client'>Here is my key.</body>"


def met() -> tuple[PgpWorld, PgpEnd, PgpEnd]:
    """Alice and Bob, who have written to each other."""
    world, alice, bob = pair()
    bob.say(ALICE, "hello")
    alice.say(BOB, "hello")
    world.settle()
    for end in (alice, bob):
        end.store.acknowledge(*(row for row, _ in end.store.inbox()))
        end.read_texts.clear()
    return world, alice, bob


def known(end: PgpEnd, node: Node = BLOG) -> tuple[Secret, ...]:
    return end.run(lambda s: Done(secrets.secrets(s, node)))


def history_of(end: PgpEnd) -> list[history.Entry]:
    return end.run(lambda s: Done(list(history.read(s, ALICE))))


def test_a_share_is_no_message_for_the_person() -> None:
    world, alice, bob = met()

    def share(s: State) -> Done[None]:
        secrets.make(s, BLOG, ALICE, world.now)
        members.add(s, BLOG, BOB, Role.READER, world.now)
        return Done(None)

    alice.run(share)
    for errand in alice.run(lambda s: Done(members.due(s, BLOG, ALICE))):
        alice.say_xml(errand.to, errand.element)
    (letter,) = world.take(bob)
    out = bob.store.run(
        lambda s: pipeline.open(s, bob.scheme, bob.policy, letter.arrived, world.now, remember=True)
    )  # fmt: skip
    assert isinstance(out, Committed)
    opened = out.value
    assert (opened.kind, opened.content) == (Kind.EMPTY, None)
    assert "came" in opened.notes[-1]
    assert bob.store.inbox() == []
    assert history_of(bob) == []
    assert [secret.value for secret in known(bob)] == [secret.value for secret in known(alice)]
    assert VALUE.encode() not in b"".join(world.sent)


def test_what_stands_beside_a_secret_is_delivered_without_it() -> None:
    world, alice, bob = met()
    alice.say_xml(BOB, BODY + shared(node=BLOG))
    (letter,) = world.take(bob)
    out = bob.store.run(
        lambda s: pipeline.open(s, bob.scheme, bob.policy, letter.arrived, world.now, remember=True)
    )  # fmt: skip
    assert isinstance(out, Committed)
    assert out.value.kind is Kind.OPENED
    assert out.value.content is not None
    ((_, message),) = bob.store.inbox()
    for where in (message, history_of(bob)[0].content.encode(), out.value.content.data):
        assert b"Here is my key." in where
        assert VALUE.encode() not in where
    assert [secret.value for secret in known(bob)] == [VALUE]


def test_a_key_that_is_not_trusted_tells_nothing() -> None:
    world, alice, bob = met()
    bob.trust(ALICE, alice.device.key, Trust.DISTRUSTED)
    alice.say_xml(BOB, shared(node=BLOG))
    world.settle()
    assert known(bob) == ()
    assert any("tillie pubsub secret accept" in text for text in bob.notices)
    bob.trust(ALICE, alice.device.key, Trust.VERIFIED)
    accepted = bob.run(lambda s: hearing.accept(s, BLOG, BOB, ALICE, world.now))
    assert accepted == 1
    assert [secret.value for secret in known(bob)] == [VALUE]


def test_a_second_device_of_ours_learns_from_our_own_copies() -> None:
    world, alice, _ = met()
    tablet = PgpEnd(world, ALICE)
    there = tablet.run(lambda s: tablet.scheme.generate(s, world.now))
    world.push(ALICE)
    alice.trust(ALICE, there.key, Trust.VERIFIED)
    tablet.trust(ALICE, alice.device.key, Trust.VERIFIED)
    made = alice.run(lambda s: Done(secrets.make(s, BLOG, ALICE, world.now)))
    alice.say_xml(BOB, secrets.shared_element(BLOG, made))
    world.settle()
    assert [secret.value for secret in known(tablet)] == [made.value]
    world.now += 60
    fresh = tablet.run(lambda s: Done(secrets.rotate(s, BLOG, ALICE, world.now)))
    tablet.say_xml(BOB, secrets.revoke_element(BLOG, made.id))
    tablet.say_xml(BOB, secrets.shared_element(BLOG, fresh))
    world.settle()
    assert [(secret.id, secret.revoked) for secret in known(alice)] == [(fresh.id, False), (made.id, True)]


def test_a_message_that_comes_twice_is_believed_once() -> None:
    world, alice, bob = met()
    alice.say_xml(BOB, shared(node=BLOG))
    (letter,) = world.take(bob)
    assert bob.read(letter).kind is Kind.EMPTY
    alice.say_xml(BOB, revoke(node=BLOG))
    world.settle()
    assert bob.read(letter).kind is Kind.DUPLICATE
    assert [secret.revoked for secret in known(bob)] == [True]


def test_the_same_elements_in_an_omemo_message_change_nothing() -> None:
    world, alice, bob = ends.talking()
    node = Node(ends.ALICE, BLOG.name)
    stamp = format_datetime(world.now)
    for content in (shared(node=node, stamp=stamp), revoke(node=node), BODY + shared(node=node, stamp=stamp)):
        alice.say_xml(ends.BOB, content)
        (opened,) = world.settle()
        assert opened.kind is Kind.OPENED
    assert not any(key.scheme == "pubsub" for key in bob.dump()[0])


@pytest.mark.parametrize("where", [{"type": "groupchat"}, {"kind": "iq", "type": "set"}, {"kind": "presence"}])
def test_only_a_message_to_us_tells_of_secrets(where: dict[str, str]) -> None:
    world, alice, bob = met()
    alice.say_xml(BOB, shared(node=BLOG))
    (letter,) = world.take(bob)
    bob.read(letter.with_stanza(**where))
    assert known(bob) == ()


def test_a_stanza_beside_says_nothing_in_clear() -> None:
    """Libervia believes a `<shared-secret>` in clear. Here the reader of stanzas never gives one to anybody."""
    world, alice, bob = met()
    alice.say(BOB, "hello")
    (letter,) = world.take(bob)
    opened = bob.read(letter.with_stanza(siblings=(shared(node=BLOG), revoke(node=BLOG))))
    assert opened.kind is Kind.OPENED
    assert any("shared-secret" in note for note in opened.notes)
    assert known(bob) == ()
    assert isinstance(letter.arrived.stanza, Stanza)
