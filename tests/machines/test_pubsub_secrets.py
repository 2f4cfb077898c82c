"""Shared secrets that others send: whose word counts, and what a stranger can't do (issue: bad input, B41)."""

from __future__ import annotations

import time

import pytest

from support.pubsub import (
    BLOG,
    JULIET,
    NOW,
    NURSE,
    ROMEO,
    SERVICE,
    SHELF,
    TYBALT,
    VALUE,
    Records,
    key_of,
    own_node,
    revoke,
    say,
    shared,
)
from tillie.envelope.profile import MAX_AHEAD
from tillie.errors import NotTrusted, TooLarge, UsageError
from tillie.model import Address, Notice, Trust
from tillie.pubsub import hearing, secrets, statements
from tillie.pubsub.items import Node
from tillie.pubsub.statements import Reason
from tillie.trust import decisions
from tillie.wire.time import format_datetime

OTHER = VALUE[::-1]


# -- the first secret of a node -------------------------------------------------------------------------------------


def test_the_account_of_a_pep_node_owns_it() -> None:
    s = Records()
    heard = say(s, ROMEO, JULIET, shared())
    assert heard.consumed
    assert not heard.effects
    found = secrets.newest(s, BLOG)
    assert found is not None
    assert (found.id, found.value, found.sender, found.made_here) == ("one", VALUE, JULIET, False)
    assert secrets.known(s, BLOG).authority == JULIET
    assert secrets.nodes(s) == (BLOG,)


def test_a_first_secret_from_a_stranger_waits_and_a_person_is_told() -> None:
    s = Records()
    heard = say(s, ROMEO, TYBALT, shared(node=SHELF))
    assert heard.consumed
    assert secrets.newest(s, SHELF) is None
    assert secrets.find(s, SHELF, "one") is None
    (notice,) = heard.effects
    assert isinstance(notice, Notice)
    assert "tillie pubsub secret accept" in notice.text
    assert [(node, each.sender, each.id) for node, each in hearing.pending(s)] == [(SHELF, TYBALT, "one")]


def test_a_stranger_is_none_when_the_service_says_who_owns_the_node() -> None:
    s = Records()
    say(s, ROMEO, TYBALT, shared("bad", OTHER, node=SHELF))
    say(s, ROMEO, JULIET, shared(node=SHELF), now=NOW + 1)
    assert hearing.learn_owners(s, SHELF, ROMEO, [JULIET], NOW + 2).value == 1
    found = secrets.newest(s, SHELF)
    assert found is not None
    assert found.id == "one"
    assert [each.sender for _, each in hearing.pending(s, SHELF)] == [TYBALT]
    say(s, ROMEO, JULIET, shared("two", node=SHELF, stamp="2026-05-28T20:01:00Z"))
    assert [secret.id for secret in secrets.secrets(s, SHELF)] == ["two", "one"]


def test_a_person_accepts_or_refuses() -> None:
    s = Records()
    say(s, ROMEO, TYBALT, shared(node=SHELF), shared("two", OTHER, node=SHELF), revoke(node=SHELF))
    assert hearing.refuse(s, SHELF, TYBALT) == 3
    with pytest.raises(UsageError, match="waits"):
        hearing.accept(s, SHELF, ROMEO, TYBALT, NOW)
    say(s, ROMEO, TYBALT, shared(node=SHELF), shared("two", OTHER, node=SHELF), revoke(node=SHELF))
    assert hearing.accept(s, SHELF, ROMEO, TYBALT, NOW).value == 3
    found = secrets.newest(s, SHELF)
    assert found is not None
    assert found.id == "two"
    assert not hearing.pending(s)
    assert not any(count.pending for count in map(hearing._counted, (s, s), (TYBALT, "")))


def test_another_device_of_ours_is_believed_but_not_against_the_owners() -> None:
    s = Records()
    say(s, ROMEO, ROMEO, shared(node=SHELF))
    assert secrets.known(s, SHELF).authority == ROMEO
    s = Records()
    hearing.learn_owners(s, SHELF, ROMEO, [JULIET], NOW)
    say(s, ROMEO, ROMEO, shared(node=SHELF))
    assert secrets.newest(s, SHELF) is None
    assert len(hearing.pending(s, SHELF)) == 1


# -- later ones -----------------------------------------------------------------------------------------------------


def test_only_who_sent_the_first_secret_sends_and_revokes_later_ones() -> None:
    s = Records()
    say(s, ROMEO, JULIET, shared())
    before = dict(s)
    for element in (shared("two", OTHER), revoke(), shared("one", OTHER)):
        heard = say(s, ROMEO, TYBALT, element)
        assert "come from juliet@capulet.test" in heard.notes[0]
        assert len(heard.effects) == 1
    assert {key: s.get(key) for key in before} == before
    assert {key.kind for key in s.keys() - before.keys()} == {"pending", "from"}


def test_a_person_may_move_a_node_to_its_new_owner() -> None:
    s = Records()
    say(s, ROMEO, JULIET, shared(node=SHELF))
    hearing.accept(s, SHELF, ROMEO, JULIET, NOW)
    say(s, ROMEO, NURSE, shared("new", OTHER, node=SHELF))
    hearing.accept(s, SHELF, ROMEO, NURSE, NOW + 5)
    found = secrets.newest(s, SHELF)
    assert found is not None
    assert (found.id, found.sender) == ("new", NURSE)
    assert secrets.find(s, SHELF, "one") is not None  # it still opens what it sealed
    say(s, ROMEO, JULIET, shared("late", node=SHELF, stamp="2026-05-28T20:10:00Z"))
    found = secrets.newest(s, SHELF)
    assert found is not None
    assert found.id == "new"


def test_a_node_that_was_accepted_seals_with_no_older_secret_of_another() -> None:
    s = Records()
    say(s, ROMEO, JULIET, shared(node=SHELF))
    hearing.accept(s, SHELF, ROMEO, JULIET, NOW)
    say(s, ROMEO, NURSE, shared("new", OTHER, node=SHELF, stamp="2026-05-28T19:00:00Z"))
    hearing.accept(s, SHELF, ROMEO, NURSE, NOW + 5)
    found = secrets.newest(s, SHELF)
    assert found is not None
    assert found.id == "new"
    say(s, ROMEO, NURSE, revoke("new", node=SHELF))
    assert secrets.newest(s, SHELF) is None


# -- under which key, in which message ------------------------------------------------------------------------------


@pytest.mark.parametrize("trust", [Trust.UNDECIDED, Trust.DISTRUSTED])
def test_a_key_that_nobody_trusts_changes_nothing(trust: Trust) -> None:
    s = Records()
    say(s, ROMEO, JULIET, shared())
    before = secrets.secrets(s, BLOG)
    heard = say(s, ROMEO, JULIET, shared("two", OTHER), revoke(), trust=trust, key=b"k" * 20)
    assert "do not trust" in heard.notes[0]
    assert secrets.secrets(s, BLOG) == before
    with pytest.raises(NotTrusted) as caught:
        hearing.accept(s, BLOG, ROMEO, JULIET, NOW)
    assert [device.key for device in caught.value.devices] == [b"k" * 20]  # type: ignore[attr-defined]
    decisions.decide(s, JULIET, b"k" * 20, Trust.VERIFIED, NOW)
    assert hearing.learn_owners(s, BLOG, ROMEO, [JULIET], NOW).value == 2
    assert [(each.id, each.revoked) for each in secrets.secrets(s, BLOG)] == [("two", False), ("one", True)]


def test_what_one_key_said_is_not_replaced_by_what_another_says() -> None:
    s = Records()
    say(s, ROMEO, TYBALT, shared(node=SHELF))
    say(s, ROMEO, TYBALT, shared("one", OTHER, node=SHELF), trust=Trust.UNDECIDED, key=b"k" * 20)
    hearing.accept(s, SHELF, ROMEO, TYBALT, NOW)
    found = secrets.newest(s, SHELF)
    assert found is not None
    assert found.value == VALUE


def test_a_key_that_was_distrusted_since_is_not_accepted() -> None:
    s = Records()
    say(s, ROMEO, TYBALT, shared(node=SHELF))
    decisions.decide(s, TYBALT, key_of(TYBALT), Trust.DISTRUSTED, NOW)
    with pytest.raises(NotTrusted):
        hearing.accept(s, SHELF, ROMEO, TYBALT, NOW)
    assert hearing.learn_owners(s, SHELF, ROMEO, [TYBALT], NOW).value == 0


@pytest.mark.parametrize("scheme", ["omemo", "", "olm"])
def test_the_same_elements_in_another_scheme_change_nothing(scheme: str) -> None:
    s = Records()
    heard = say(s, ROMEO, JULIET, shared(), revoke(), scheme=scheme)
    assert not s
    assert heard.content.data == shared() + revoke()
    assert not heard.consumed


# -- what a secret may be -------------------------------------------------------------------------------------------


def test_white_space_around_the_secret_is_not_part_of_it() -> None:
    s = Records()
    say(s, ROMEO, JULIET, shared(value=f"\n    {VALUE}\t \r\n  "))
    found = secrets.newest(s, BLOG)
    assert found is not None
    assert found.value == VALUE


@pytest.mark.parametrize(
    ("length", "taken"),
    [(0, False), (statements.MIN_VALUE - 1, False), (statements.MIN_VALUE, True), (statements.MAX_VALUE, True),
     (statements.MAX_VALUE + 1, False)],
)  # fmt: skip
def test_the_length_of_a_secret(length: int, taken: bool) -> None:
    s = Records()
    say(s, ROMEO, JULIET, shared(value="x" * length))
    assert (secrets.newest(s, BLOG) is not None) is taken


@pytest.mark.parametrize(
    "element",
    [
        shared(value="with\nline feeds inside it"),
        shared(value="sixteen \x85 control characters"),
        shared(value="<b>sixteen characters</b>"),
        shared(id=""),
        shared(id="x" * (statements.MAX_ID + 1)),
        shared(id="with space"),
        shared(id="caf\u00e9"),
        shared(stamp="yesterday"),
        shared(stamp="1998-12-31T00:00:00Z"),
        shared(stamp=""),
        shared(more="revoked='perhaps'"),
        shared(more=f"type='{'t' * (statements.MAX_TYPE + 1)}'"),
        shared(node=Node(Address("not an address@@"), "x")),
        shared(node=Node(Address("juliet@capulet.test/resource"), "x")),
        shared(node=Node(JULIET, "")),
        shared(node=Node(JULIET, "x" * (statements.MAX_NODE_NAME + 1))),
        shared().replace(b"jid=", b"jdi="),
        revoke(id=""),
        revoke(node=Node(JULIET, "")),
    ],
)
def test_what_breaks_a_limit_is_ignored_with_a_note(element: bytes) -> None:
    s = Records()
    heard = say(s, ROMEO, JULIET, element)
    assert heard.consumed
    assert len(heard.notes) == 1
    assert "Ignored" in heard.notes[0]
    assert not s


def test_an_id_and_a_node_at_their_limits_are_taken() -> None:
    s = Records()
    node = Node(JULIET, "x" * statements.MAX_NODE_NAME)
    say(s, ROMEO, JULIET, shared("i" * statements.MAX_ID, node=node, more=f"type='{'t' * statements.MAX_TYPE}'"))
    assert secrets.newest(s, node) is not None


def test_one_bad_element_does_not_cost_the_others() -> None:
    s = Records()
    heard = say(s, ROMEO, JULIET, shared("a"), shared("", "x"), shared("b", OTHER), revoke("a"))
    assert heard.consumed
    assert [(each.id, each.revoked) for each in secrets.secrets(s, BLOG)] == [("b", False), ("a", True)]


def test_the_rest_of_a_message_is_for_the_person() -> None:
    s = Records()
    body = b"<body xmlns='jabber:client'>Here is my key.</body>"
    heard = say(s, ROMEO, JULIET, body, shared())
    assert not heard.consumed
    assert b"Here is my key." in heard.content.data
    assert VALUE.encode() not in heard.content.data


# -- one id, two secrets; revocations in any order ------------------------------------------------------------------


def test_two_secrets_with_one_id() -> None:
    s = Records()
    say(s, ROMEO, JULIET, shared())
    heard = say(s, ROMEO, JULIET, shared("one", OTHER))
    assert "refused" in heard.notes[0]
    assert len(heard.effects) == 1
    assert [each.value for each in secrets.secrets(s, BLOG)] == [VALUE]
    assert not say(s, ROMEO, JULIET, shared()).effects


def test_a_revoked_secret_is_never_active_again() -> None:
    s = Records()
    say(s, ROMEO, JULIET, shared())
    say(s, ROMEO, JULIET, shared(more="revoked='true'"), now=NOW + 1)
    found = secrets.find(s, BLOG, "one")
    assert found is not None
    assert (found.revoked, found.revoked_at) == (True, NOW + 1)
    for more in ("", "revoked='false'"):
        say(s, ROMEO, JULIET, shared(more=more), now=NOW + 2)
        assert secrets.find(s, BLOG, "one") == found
        assert secrets.newest(s, BLOG) is None


def test_a_revocation_may_come_before_its_secret() -> None:
    s = Records()
    say(s, ROMEO, JULIET, revoke(inside="<reason xml:lang='en'>lost a telephone</reason>"))
    assert secrets.newest(s, BLOG) is None
    heard = say(s, ROMEO, JULIET, shared())
    assert "revoked" in heard.notes[0]
    found = secrets.find(s, BLOG, "one")
    assert found is not None
    assert found.revoked
    assert found.reasons == (Reason("lost a telephone", "en"),)
    assert secrets.newest(s, BLOG) is None
    assert secrets.known(s, BLOG).revocations == 0


def test_revocations_of_unknown_secrets_are_bounded() -> None:
    s = Records()
    for at in range(hearing.MAX_REVOCATIONS):
        say(s, ROMEO, JULIET, revoke(f"r{at}"))
    assert secrets.known(s, BLOG).revocations == hearing.MAX_REVOCATIONS
    heard = say(s, ROMEO, JULIET, revoke("more"))
    assert "ignored" in heard.notes[0]
    say(s, ROMEO, JULIET, shared("r0"))
    found = secrets.find(s, BLOG, "r0")
    assert found is not None
    assert found.revoked


def test_reasons_beyond_a_limit_are_cut_and_the_revocation_holds() -> None:
    s = Records()
    many = "".join(f"<reason xml:lang='l{n}'>{'w' * 2_000}</reason>" for n in range(50))
    say(s, ROMEO, JULIET, shared(), revoke(inside=many + "<reason xml:lang='l0'>another</reason>"))
    found = secrets.find(s, BLOG, "one")
    assert found is not None
    assert found.revoked
    assert len(found.reasons) == statements.MAX_REASONS
    assert all(len(reason.text) == statements.MAX_REASON for reason in found.reasons)


# -- which one is the newest ----------------------------------------------------------------------------------------


def test_the_newest_by_its_time_seals_in_whatever_order_they_come() -> None:
    s = Records()
    for minute in (3, 1, 4, 2):
        say(s, ROMEO, JULIET, shared(f"m{minute}", stamp=f"2026-05-28T20:0{minute}:00Z"))
    assert [each.id for each in secrets.secrets(s, BLOG)] == ["m4", "m3", "m2", "m1"]
    for newest, gone in (("m4", "m1"), ("m3", "m4"), ("m2", "m3")):
        say(s, ROMEO, JULIET, revoke(gone))
        found = secrets.newest(s, BLOG)
        assert found is not None
        assert found.id == newest
    say(s, ROMEO, JULIET, revoke("m2"))
    assert secrets.newest(s, BLOG) is None


def test_a_time_in_the_future() -> None:
    s = Records()
    say(s, ROMEO, JULIET, shared("far", stamp=format_datetime(NOW + MAX_AHEAD + 1)))
    assert not s
    say(s, ROMEO, JULIET, shared("ahead", stamp=format_datetime(NOW + MAX_AHEAD)))
    found = secrets.newest(s, BLOG)
    assert found is not None
    assert (found.id, found.since) == ("ahead", NOW)
    # Its maker's clock was put right, and it made another.
    say(s, ROMEO, JULIET, shared("later", OTHER, stamp=format_datetime(NOW + 60)), now=NOW + 61)
    found = secrets.newest(s, BLOG)
    assert found is not None
    assert found.id == "later"


def test_what_we_make_is_newer_than_all_there_is() -> None:
    s = Records()
    own_node(s)
    say(s, JULIET, JULIET, shared("other-device", stamp=format_datetime(NOW + 3_600)))
    made = secrets.make(s, BLOG, JULIET, NOW + 1)
    assert made.at == NOW + 3_601
    assert secrets.newest(s, BLOG) == made
    assert max(secrets.secrets(s, BLOG), key=lambda each: each.at) == made  # for others, too


# -- made here ------------------------------------------------------------------------------------------------------


def test_what_we_make() -> None:
    s = Records()
    made = {own_node(s, Node(JULIET, f"n{n}")) for n in range(20)}
    assert len({secret.value for secret in made}) == len({secret.id for secret in made}) == 20
    for secret in made:
        assert len(secret.id) == 22
        assert len(secret.value) >= 43
        assert secrets.is_random(secret.value)
        assert secret.value not in repr(secret)
        assert secret.at == int(secret.at)


def test_secrets_of_somebody_elses_node_are_not_ours_to_make_or_revoke() -> None:
    s = Records()
    say(s, ROMEO, JULIET, shared())
    for call in (
        lambda: secrets.make(s, BLOG, ROMEO, NOW),
        lambda: secrets.revoke(s, BLOG, ROMEO, "one", NOW),
        lambda: secrets.rotate(s, BLOG, ROMEO, NOW),
    ):
        with pytest.raises(UsageError, match="come from juliet"):
            call()


def test_rotation_revokes_all_and_makes_one() -> None:
    s = Records()
    for _ in range(3):
        secrets.make(s, BLOG, JULIET, NOW)
    fresh = secrets.rotate(s, BLOG, JULIET, NOW + 1, [Reason("changed the locks")])
    found = secrets.secrets(s, BLOG)
    assert [each.revoked for each in found] == [False, True, True, True]
    assert found[0] == fresh == secrets.newest(s, BLOG)
    assert all(each.reasons == (Reason("changed the locks"),) for each in found[1:])


def test_reasons_of_ours_keep_to_the_rules() -> None:
    s = Records()
    made = own_node(s)
    for reasons in (
        [Reason("a", "en"), Reason("b", "en")],
        [Reason("x" * (statements.MAX_REASON + 1))],
        [Reason("x", str(n)) for n in range(statements.MAX_REASONS + 1)],
    ):
        with pytest.raises(UsageError):
            secrets.revoke(s, BLOG, JULIET, made.id, NOW, reasons)
    with pytest.raises(UsageError, match="no secret"):
        secrets.revoke(s, BLOG, JULIET, "unknown", NOW)
    assert secrets.newest(s, BLOG) == made


@pytest.mark.parametrize("node", [Node(JULIET, ""), Node(JULIET, "x" * 5_000), Node(Address(f"{JULIET}/x"), "n")])
def test_a_node_that_can_have_no_secrets(node: Node) -> None:
    with pytest.raises(UsageError):
        secrets.make(Records(), node, JULIET, NOW)


# -- ten thousand ---------------------------------------------------------------------------------------------------


def test_ten_thousand_secrets_are_refused_and_slow_nothing_down() -> None:
    s = Records()
    started = time.perf_counter()
    for at in range(10_000):
        heard = say(s, ROMEO, JULIET, shared(f"s{at}", stamp="2026-05-28T20:00:00Z"))
        assert bool(heard.effects) is (at >= secrets.MAX_SECRETS)
    took = time.perf_counter() - started
    assert secrets.known(s, BLOG).secrets == secrets.MAX_SECRETS
    assert len(s) == secrets.MAX_SECRETS + 2
    assert took < 30, f"{took:.1f} s"  # some 2 s here: far from quadratic
    with pytest.raises(TooLarge):
        secrets.make(s, BLOG, JULIET, NOW)


def test_one_message_with_too_many() -> None:
    s = Records()
    elements = [revoke(f"{n}") for n in range(statements.MAX_STATEMENTS + 1)]
    heard = say(s, ROMEO, JULIET, *elements)
    assert any("Only" in note for note in heard.notes)
    assert secrets.known(s, BLOG).revocations == statements.MAX_STATEMENTS


def test_one_person_fills_the_store_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "MAX_HELD", 5)
    s = Records()
    for at in range(8):
        say(s, ROMEO, JULIET, shared(node=Node(JULIET, f"n{at}")))
    assert sum(1 for key in s if key.kind == "secret") == 5
    say(s, ROMEO, NURSE, shared(node=Node(NURSE, "hers")))
    assert secrets.newest(s, Node(NURSE, "hers")) is not None


def test_what_waits_is_bounded_for_each_sender_and_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "MAX_PENDING", 5)
    monkeypatch.setattr(hearing, "MAX_PENDING_IN_ALL", 8)
    s = Records()
    for at in range(7):
        heard = say(s, ROMEO, TYBALT, shared(f"t{at}", node=SHELF))
        assert ("not kept" in heard.notes[0]) is (at >= 5)
    for at in range(7):
        heard = say(s, ROMEO, NURSE, shared(f"n{at}", node=SHELF))
        assert ("not kept" in heard.notes[0]) is (at >= 3)
    hearing.refuse(s, SHELF, TYBALT)
    assert "not kept" not in say(s, ROMEO, NURSE, shared("again", node=SHELF)).notes[0]


# -- backup ---------------------------------------------------------------------------------------------------------


def test_a_backup_brings_back_secrets_authorities_and_what_waits() -> None:
    s = Records()
    made = own_node(s)
    say(s, JULIET, ROMEO, shared(node=Node(ROMEO, "his")))
    say(s, JULIET, TYBALT, shared(node=SHELF), revoke("x", node=SHELF))
    restored = Records(dict(secrets.copied(s)))
    assert secrets.newest(restored, BLOG) == made
    assert secrets.known(restored, Node(ROMEO, "his")).authority == ROMEO
    assert hearing.pending(restored) == hearing.pending(s)
    assert set(restored) == set(s)


def test_secrets_are_not_printed() -> None:
    s = Records()
    say(s, ROMEO, JULIET, shared())
    say(s, ROMEO, TYBALT, shared(node=SHELF))
    statement = hearing.pending(s)[0][1].statement(SHELF)
    for each in (secrets.newest(s, BLOG), hearing.pending(s), statement, say(s, ROMEO, JULIET, shared("two"))):
        assert VALUE not in repr(each)
    assert SERVICE in repr(statement)
