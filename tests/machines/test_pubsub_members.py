"""Who must be sent what: sharing, taking access back, and interruptions between any two messages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.pubsub import BLOG, JULIET, NOW, NURSE, ROMEO, SHELF, TYBALT, Records, own_node, say, shared
from tillie.errors import TooLarge, UsageError
from tillie.model import Address
from tillie.pubsub import members, secrets
from tillie.pubsub.members import Errand, Role
from tillie.pubsub.statements import Reason

PEOPLE = (ROMEO, NURSE, TYBALT)


def send_all(s: Records, theirs: dict[Address, Records] | None = None, *, only: int = 1_000) -> list[Errand]:
    """Send what is due, at most `only` of it, and let the members hear it."""
    errands = list(members.due(s, BLOG, JULIET))[:only]
    for errand in errands:
        assert members.is_due(s, BLOG, errand)
        members.sent(s, BLOG, errand, NOW)
        assert not members.is_due(s, BLOG, errand)
        if theirs is not None:
            say(theirs[errand.to], errand.to, JULIET, errand.element)
    return errands


def test_a_new_member_gets_the_newest_first_and_all_earlier_ones_marked_revoked() -> None:
    s, hers = Records(), Records()
    made = [own_node(s), secrets.rotate(s, BLOG, JULIET, NOW), secrets.make(s, BLOG, JULIET, NOW)]
    members.add(s, BLOG, NURSE, Role.READER, NOW)
    errands = send_all(s, {NURSE: hers})
    assert [errand.secret for errand in errands] == [secret.id for secret in reversed(made)]
    assert [b"revoked='true'" in errand.element for errand in errands] == [False, True, True]
    assert [(each.value, each.revoked) for each in secrets.secrets(hers, BLOG)] == [
        (made[2].value, False), (made[1].value, True), (made[0].value, True),
    ]  # fmt: skip
    assert members.due(s, BLOG, JULIET) == ()


def test_taking_access_back() -> None:
    s = Records()
    theirs = {person: Records() for person in PEOPLE}
    first = own_node(s)
    for person in PEOPLE:
        members.add(s, BLOG, person, Role.PUBLISHER, NOW)
    send_all(s, theirs)
    members.remove(s, BLOG, NURSE, NOW + 10)
    second = secrets.rotate(s, BLOG, JULIET, NOW + 10, [Reason("The nurse has left.")])
    errands = send_all(s, theirs)
    assert [(e.to, e.secret, e.revokes) for e in errands] == [
        (NURSE, first.id, True), (ROMEO, first.id, True), (TYBALT, first.id, True),
        (ROMEO, second.id, False), (TYBALT, second.id, False),
    ]  # fmt: skip
    assert b"The nurse has left." in errands[0].element
    assert secrets.newest(theirs[NURSE], BLOG) is None
    assert secrets.find(theirs[NURSE], BLOG, second.id) is None
    for person in (ROMEO, TYBALT):
        found = secrets.newest(theirs[person], BLOG)
        assert found is not None
        assert found.value == second.value
    assert members.shared_with(s, BLOG, first.id) == (NURSE, ROMEO, TYBALT)
    assert members.shared_with(s, BLOG, second.id) == (ROMEO, TYBALT)
    (nurse,) = [each for each in members.members(s, BLOG) if each.removed]
    assert (nurse.address, nurse.removed) == (NURSE, NOW + 10)


def test_a_member_who_comes_back_gets_what_she_has_not() -> None:
    s, hers = Records(), Records()
    own_node(s)
    members.add(s, BLOG, NURSE, Role.READER, NOW)
    send_all(s, {NURSE: hers})
    members.remove(s, BLOG, NURSE, NOW + 1)
    secrets.rotate(s, BLOG, JULIET, NOW + 1)
    send_all(s, {NURSE: hers})
    fresh = secrets.rotate(s, BLOG, JULIET, NOW + 2)
    again = members.add(s, BLOG, NURSE, Role.PUBLISHER, NOW + 3)
    assert (again.removed, again.since, again.role) == (None, NOW + 3, Role.PUBLISHER)
    assert next(errand.secret for errand in send_all(s, {NURSE: hers})) == fresh.id
    assert len(secrets.secrets(hers, BLOG)) == 3
    found = secrets.newest(hers, BLOG)
    assert found is not None
    assert found.id == fresh.id


def test_an_errand_that_is_overtaken_is_none_any_more() -> None:
    s = Records()
    own_node(s)
    members.add(s, BLOG, NURSE, Role.READER, NOW)
    (stale,) = members.due(s, BLOG, JULIET)
    assert members.is_due(s, BLOG, stale)
    secrets.rotate(s, BLOG, JULIET, NOW)
    assert not members.is_due(s, BLOG, stale)  # it would share a revoked secret as an active one
    newer = members.due(s, BLOG, JULIET)
    members.remove(s, BLOG, NURSE, NOW)
    assert not any(members.is_due(s, BLOG, errand) for errand in newer)
    assert members.due(s, BLOG, JULIET) == ()
    assert not members.is_due(s, BLOG, stale._replace(to=ROMEO))
    assert not members.is_due(s, BLOG, stale._replace(secret="gone"))


def test_what_was_sent_as_active_just_before_a_rotation_is_revoked_after_it() -> None:
    s = Records()
    first = own_node(s)
    members.add(s, BLOG, NURSE, Role.READER, NOW)
    (errand,) = members.due(s, BLOG, JULIET)
    secrets.rotate(s, BLOG, JULIET, NOW)
    members.sent(s, BLOG, errand, NOW)  # by somebody who did not look
    assert next((e.secret, e.revokes) for e in members.due(s, BLOG, JULIET)) == (first.id, True)


def test_nothing_is_due_for_a_node_of_somebody_else() -> None:
    s = Records()
    own_node(s, SHELF)
    members.add(s, SHELF, NURSE, Role.READER, NOW)
    assert members.due(s, SHELF, ROMEO) == ()
    assert len(members.due(s, SHELF, JULIET)) == 1


def test_roles_and_people_who_have_none() -> None:
    s = Records()
    members.add(s, BLOG, Address(f"{NURSE}/phone"), Role.READER, NOW)
    member = members.add(s, BLOG, NURSE, Role.PUBLISHER, NOW + 5)
    assert members.members(s, BLOG) == (member,)
    assert (member.role, member.since) == (Role.PUBLISHER, NOW)
    assert members.find(s, BLOG, ROMEO) is None
    with pytest.raises(UsageError):
        members.remove(s, BLOG, ROMEO, NOW)
    members.remove(s, BLOG, NURSE, NOW)
    with pytest.raises(UsageError):
        members.remove(s, BLOG, NURSE, NOW)


def test_members_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MAX_MEMBERS", 2)
    s = Records()
    members.add(s, BLOG, ROMEO, Role.READER, NOW)
    members.add(s, BLOG, NURSE, Role.READER, NOW)
    members.add(s, BLOG, NURSE, Role.PUBLISHER, NOW)
    with pytest.raises(TooLarge):
        members.add(s, BLOG, TYBALT, Role.READER, NOW)


# -- another device of the owner ------------------------------------------------------------------------------------


def another_device(s: Records) -> Records:
    """A second device of Juliet's, with a backup of the first."""
    return Records(dict(secrets.copied(s)))


def send_copies(s: Records, tablet: Records) -> None:
    """Send what is due; the other device gets a copy of every message."""
    for errand in members.due(s, BLOG, JULIET):
        members.sent(s, BLOG, errand, NOW)
        say(tablet, JULIET, JULIET, errand.element, to=errand.to)


def shared_node(*people: Address) -> tuple[Records, Records]:
    s = Records()
    own_node(s)
    for person in people:
        members.add(s, BLOG, person, Role.PUBLISHER, NOW)
    send_all(s)
    return s, another_device(s)


def test_two_devices_send_nothing_twice_and_revoke_what_either_sent() -> None:
    s, tablet = shared_node(ROMEO)
    assert members.due(tablet, BLOG, JULIET) == ()
    second = secrets.rotate(s, BLOG, JULIET, NOW + 10)
    send_copies(s, tablet)
    assert members.due(tablet, BLOG, JULIET) == ()
    third = secrets.rotate(tablet, BLOG, JULIET, NOW + 20)
    assert [(e.to, e.secret, e.revokes) for e in members.due(tablet, BLOG, JULIET)] == [
        (ROMEO, second.id, True), (ROMEO, third.id, False),
    ]  # fmt: skip


def test_whom_one_device_removed_gets_nothing_from_the_other() -> None:
    s, tablet = shared_node(ROMEO, NURSE)
    members.remove(s, BLOG, NURSE, NOW + 10)
    secrets.rotate(s, BLOG, JULIET, NOW + 10)
    send_copies(s, tablet)
    assert members.uncertain(tablet, BLOG, JULIET) == (NURSE,)
    assert members.due(tablet, BLOG, JULIET) == ()
    fresh = secrets.rotate(tablet, BLOG, JULIET, NOW + 20)
    assert [e.to for e in members.due(tablet, BLOG, JULIET) if e.secret == fresh.id] == [ROMEO]
    members.add(tablet, BLOG, NURSE, Role.READER, NOW + 30)  # a person decides
    assert members.uncertain(tablet, BLOG, JULIET) == ()
    assert NURSE in [e.to for e in members.due(tablet, BLOG, JULIET) if e.secret == fresh.id]


def test_whom_one_device_told_of_a_revocation_is_not_told_again() -> None:
    s, tablet = shared_node(ROMEO)
    (secret,) = secrets.secrets(s, BLOG)
    secrets.revoke(s, BLOG, JULIET, secret.id, NOW + 1)
    send_copies(s, tablet)
    assert members.due(tablet, BLOG, JULIET) == ()
    say(tablet, JULIET, JULIET, secrets.shared_element(BLOG, secret), to=ROMEO)  # an old copy, late
    assert members.due(tablet, BLOG, JULIET) == ()


def test_only_our_own_copies_say_who_was_told() -> None:
    s = Records()
    say(s, ROMEO, JULIET, shared(), to=NURSE)
    say(s, ROMEO, TYBALT, shared("two"), to=NURSE)
    assert members.shared_with(s, BLOG, "one") == members.shared_with(s, BLOG, "two") == ()


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(PEOPLE)),
        st.tuples(st.just("remove"), st.sampled_from(PEOPLE)),
        st.tuples(st.just("make"), st.none()),
        st.tuples(st.just("send"), st.integers(0, 4)),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(_steps)
def test_whatever_happens_in_between_everybody_ends_with_what_she_should_have(steps: list[tuple[str, object]]) -> None:
    s = Records()
    theirs = {person: Records() for person in PEOPLE}
    own_node(s)
    count: dict[tuple[Address, str, bool], int] = {}

    def note(errands: list[Errand]) -> None:
        for errand in errands:
            key = (errand.to, errand.secret, errand.revokes)
            count[key] = count.get(key, 0) + 1

    for at, (what, whom) in enumerate(steps):
        now = NOW + at
        if what == "add" and isinstance(whom, Address):
            members.add(s, BLOG, whom, Role.READER, now)
        elif what == "remove" and isinstance(whom, Address):
            member = members.find(s, BLOG, whom)
            if member and member.removed is None:
                members.remove(s, BLOG, whom, now)
                secrets.rotate(s, BLOG, JULIET, now)
        elif what == "make":
            secrets.make(s, BLOG, JULIET, now)
        elif isinstance(whom, int):
            note(send_all(s, theirs, only=whom))
    due = members.due(s, BLOG, JULIET)
    for person in PEOPLE:
        assert members.due(s, BLOG, JULIET, only=person) == tuple(errand for errand in due if errand.to == person)
    note(send_all(s, theirs))
    assert members.due(s, BLOG, JULIET) == ()
    assert set(count.values()) <= {1}  # nothing was ever sent twice
    newest = secrets.newest(s, BLOG)
    for member in members.members(s, BLOG):
        hers = theirs[member.address]
        found = secrets.newest(hers, BLOG)
        if member.removed is None:
            assert {each.id for each in secrets.secrets(hers, BLOG)} == {each.id for each in secrets.secrets(s, BLOG)}
            assert newest is not None
            assert found is not None
            assert found.id == newest.id
        else:
            assert found is None
