"""envelope.profile: an opened envelope against the stanza that carried it (B36, B38)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillie.envelope.codec import Decoded
from tillie.envelope.profile import EARLIEST, MAX_AHEAD, MAX_DELAY, OMEMO2, TIME_MARGIN, Profile, Use, Verified, verify
from tillie.errors import Refused
from tillie.model import Address, Content, Envelope, Stanza, Time
from tillie.wire.time import LATEST

NOW = 1_793_534_400.0
ALICE, BOB, MALLORY = Address("alice@example.org"), Address("bob@example.net"), Address("mallory@example.org")
ROOM = Address("room@rooms.example.org")
CHAT = Stanza("message", Address(ALICE + "/phone"), Address(BOB + "/desk"), "chat", "1")
GROUP = Stanza("message", Address(ROOM + "/alice"), Address(BOB + "/desk"), "groupchat", "1")
IQ = Stanza("iq", Address(ALICE + "/phone"), Address(BOB + "/desk"), "get", "1")
FULL = Envelope(Content(b""), sender=ALICE, time=NOW)


def decoded(envelope: Envelope = FULL, *, padded: bool = True, **changes: object) -> Decoded:
    envelope = envelope._replace(**changes)  # type: ignore[arg-type]
    fields = {"from": envelope.sender, "to": envelope.to, "time": envelope.time, "iq": envelope.iq}
    affixes = {name for name, value in fields.items() if value is not None}
    return Decoded(envelope, frozenset(affixes | {"rpad"} if padded else affixes))


def check(decoded: Decoded, stanza: Stanza = CHAT, author: Address | None = None) -> Verified:
    return verify(decoded, stanza, OMEMO2, NOW, author=author)


def test_a_good_message() -> None:
    assert check(decoded()) == (NOW, ())


# -- required, recommended, allowed ---------------------------------------------------------------------------------


def test_what_must_be_there() -> None:
    with pytest.raises(Refused, match="rpad"):
        check(decoded(padded=False))
    with pytest.raises(Refused, match="<to/>"):
        check(decoded(), GROUP, author=ALICE)
    check(decoded(to=ROOM), GROUP, author=ALICE)


def test_what_should_be_there_is_noted_and_what_may_be_is_not() -> None:
    assert check(decoded(sender=None)).notes == ("The envelope has no <from/>.",)
    assert check(decoded(time=None)).notes == ()


@given(st.dictionaries(st.sampled_from(["rpad", "time", "to", "from"]), st.sampled_from(Use)))
def test_required_means_what_the_profile_says(uses: dict[str, Use]) -> None:
    bare = Decoded(Envelope(Content(b"")), frozenset())
    required = [affix for affix, use in uses.items() if use is Use.MUST]
    profile = Profile("test", uses, {})
    if required:
        with pytest.raises(Refused):
            verify(bare, CHAT, profile, NOW)
    else:
        assert len(verify(bare, CHAT, profile, NOW).notes) == list(uses.values()).count(Use.SHOULD)
    assert verify(bare, GROUP, profile, NOW).notes == ()


# -- from and to ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sender", [MALLORY, Address("\u0430lice@example.org"), Address("example.org"), Address(ALICE + "/tablet")]
)
def test_from_that_does_not_match(sender: Address) -> None:
    with pytest.raises(Refused, match="<from/>"):
        check(decoded(sender=sender))


def test_from_with_a_resource_must_match_in_full() -> None:
    check(decoded(sender=Address(ALICE + "/phone")))
    check(decoded(sender=Address(ALICE + "/phone")), IQ)


def test_to_that_does_not_match_is_refused_even_where_none_is_required() -> None:
    check(decoded(to=BOB))
    check(decoded(to=Address(BOB + "/desk")))
    for to in (ALICE, ROOM, Address(BOB + "/other")):
        with pytest.raises(Refused, match="<to/>"):
            check(decoded(to=to))


def test_a_group_message_is_not_a_private_one_and_the_other_way_round() -> None:
    """XEP-0384: <to/> prevents "the server from silently converting a group message into a private message"."""
    group = decoded(to=ROOM)
    with pytest.raises(Refused):
        check(group, CHAT)
    with pytest.raises(Refused):
        check(decoded(to=BOB), GROUP, author=ALICE)
    with pytest.raises(Refused):
        check(group, replace(GROUP, sender=Address("other@rooms.example.org/alice")), author=ALICE)


def test_in_a_room_from_is_compared_with_whose_device_sealed_it() -> None:
    check(decoded(to=ROOM), GROUP, author=ALICE)
    for author in (MALLORY, None):
        with pytest.raises(Refused, match="<from/>"):
            check(decoded(to=ROOM), GROUP, author=author)


def test_what_was_ours_and_comes_back_under_another_name() -> None:
    reflected = replace(CHAT, sender=Address(BOB + "/desk"), to=ALICE)
    with pytest.raises(Refused, match="<from/>"):
        check(decoded(), reflected)
    for kind in ("message", "presence"):
        with pytest.raises(Refused, match="error"):
            check(decoded(sender=None), replace(reflected, kind=kind, type="error"))


def test_a_carbon_of_our_own_message() -> None:
    check(decoded(), replace(CHAT, sender=Address(ALICE + "/tablet"), to=BOB, via="carbon"))


# -- IQs ------------------------------------------------------------------------------------------------------------


def test_an_iq_that_is_bound_to_nothing_is_noted() -> None:
    assert check(decoded(), IQ).notes == ("This IQ is bound to neither its type nor its id.",)


def test_an_iq_is_bound_to_type_and_id() -> None:
    assert check(decoded(iq=("get", "1")), IQ).notes == ()
    for iq in (("set", "1"), ("get", "2"), ("result", "1")):
        with pytest.raises(Refused, match="another IQ"):
            check(decoded(iq=iq), IQ)
    for stanza in (CHAT, replace(CHAT, kind="presence", type="")):
        with pytest.raises(Refused, match="as an IQ"):
            check(decoded(iq=("get", "1")), stanza)


def test_an_error_may_answer_an_iq() -> None:
    check(decoded(iq=("error", "1")), replace(IQ, type="error"))


# -- time -----------------------------------------------------------------------------------------------------------


def times(inside: Time | None, stamp: Time | None = None, via: str = "live") -> Verified:
    return check(decoded(time=inside), replace(CHAT, stamp=stamp, via=via))


@pytest.mark.parametrize("via", ["live", "carbon", "archive", "offline"])
def test_time_ahead_of_ours(via: str) -> None:
    assert times(NOW + TIME_MARGIN, via=via) == (NOW + TIME_MARGIN, ())
    assert times(NOW + TIME_MARGIN + 1, via=via).notes == ("The sender's clock is ahead of ours.",)
    assert times(NOW + MAX_AHEAD, via=via).time == NOW + MAX_AHEAD
    with pytest.raises(Refused, match="future"):
        times(NOW + MAX_AHEAD + 1, via=via)


@pytest.mark.parametrize("via", ["live", "carbon"])
def test_time_long_before_a_live_message_came(via: str) -> None:
    assert times(NOW - TIME_MARGIN, via=via).notes == ()
    assert times(NOW - TIME_MARGIN - 60, via=via).notes == ("It was sealed 11 minutes before it was sent.",)
    assert times(NOW - 3 * 86_400, via=via).notes == ("It was sealed 3 days before it was sent.",)
    assert times(NOW - MAX_DELAY, via=via).time == NOW - MAX_DELAY
    with pytest.raises(Refused, match="long before"):
        times(NOW - MAX_DELAY - 1, via=via)


@pytest.mark.parametrize("via", ["live", "carbon", "archive", "offline"])
def test_time_long_before_the_delay_stamp(via: str) -> None:
    stamp = NOW - 86_400 * 365
    assert times(stamp, stamp, via).notes == ()
    assert times(stamp - 7_200, stamp, via).notes == ("It was sealed 2 hours before it was sent.",)
    with pytest.raises(Refused, match="long before"):
        times(stamp - MAX_DELAY - 1, stamp, via)


@pytest.mark.parametrize("via", ["archive", "offline"])
def test_nothing_is_lost_because_a_server_forgot_its_stamp(via: str) -> None:
    assert times(NOW - 10 * MAX_DELAY, via=via) == (NOW - 10 * MAX_DELAY, ())


FALSE_STAMP = ("The server's delay stamp can't be true.",)


def test_a_stamp_that_can_not_be_true_is_flagged_and_the_time_inside_wins() -> None:
    sealed = NOW - 3_600
    assert times(sealed, sealed - TIME_MARGIN) == (sealed, ())
    assert times(sealed, sealed - TIME_MARGIN - 1) == (sealed, FALSE_STAMP)
    assert times(sealed, sealed - 5 * MAX_DELAY) == (sealed, FALSE_STAMP)
    assert times(NOW, NOW + TIME_MARGIN) == (NOW, ())
    assert times(NOW, NOW + TIME_MARGIN + 1) == (NOW, FALSE_STAMP)
    assert times(None, NOW + TIME_MARGIN + 1) == (NOW, FALSE_STAMP)
    assert times(None, EARLIEST - TIME_MARGIN - 1) == (NOW, FALSE_STAMP)


def test_without_a_time_inside_the_stamp_is_all_there_is() -> None:
    assert times(None) == (NOW, ())
    assert times(None, NOW - 3_600, "offline") == (NOW - 3_600, ())
    assert times(None, NOW + 5) == (NOW, ())


def test_times_before_there_was_xmpp() -> None:
    assert times(EARLIEST, via="archive").time == EARLIEST
    with pytest.raises(Refused):
        times(EARLIEST - 1, via="archive")


@given(st.none() | st.floats(-1e11, LATEST), st.none() | st.floats(-1e11, LATEST), st.sampled_from(["live", "archive"]))
def test_a_time_that_is_reported_can_be_shown(inside: Time | None, stamp: Time | None, via: str) -> None:
    try:
        verified = times(inside, stamp, via)
    except Refused:
        return
    assert EARLIEST - TIME_MARGIN <= verified.time <= NOW + MAX_AHEAD
    if inside is not None:
        assert verified.time == inside


# -- findings of the codec ------------------------------------------------------------------------------------------


def test_findings_are_passed_on() -> None:
    found = decoded()._replace(discarded=("<store> (urn:xmpp:hints)",), unknown=("<x> (urn:x)",))
    assert check(found).notes == (
        "Discarded from the sealed content: <store> (urn:xmpp:hints).",
        "Ignored an unknown affix: <x> (urn:x).",
    )
