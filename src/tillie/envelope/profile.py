"""Profiles of XEP-0420, and the check of an opened envelope against the stanza that carried it.

**Time.** XEP-0420: a client checks "whether the difference between the timestamp and the sending time derived from the
stanza itself lays within a reasonable margin", and on a mismatch must "alert the user/reject the stanza". Tillie tells
the user early and rejects late, because a rejected message is lost: its key is used up.

- More than `MAX_AHEAD` after now: refused. It can't have been sealed yet. Less, but more than `TIME_MARGIN`: a note.
- More than `MAX_DELAY` before it was sent: refused. Less, but more than `TIME_MARGIN`: a note. Clients, ours among
  them, seal a message when it is written and send it when there is a connection, so days may lie between the two.
- "Sent" is the server's delay stamp, if that can be true; now, if the message came live. What comes from offline
  storage or an archive without such a stamp was sent at no known time, and is not refused as late: no server may
  make messages vanish by forgetting to stamp them. (Replays are found by the ratchet, not here.)
- The time inside wins over the stamp. A stamp before the message was sealed, or after now, can't be true: a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from tillie.envelope.codec import Decoded
from tillie.errors import Refused
from tillie.model import Address, Envelope, Stanza, Time

TIME_MARGIN: Time = 600.0  # seconds that clocks may differ without a word
MAX_AHEAD: Time = 86_400.0  # more than any wrong time zone
MAX_DELAY: Time = 30 * 86_400.0
EARLIEST: Time = 915_148_800.0  # 1999: when XMPP began; also keeps absurd dates away from whoever shows them

UNSTAMPED_IS_LIVE = frozenset({"live", "carbon"})


class Use(Enum):
    """How a profile uses an affix (RFC 2119)."""

    MUST = "must"
    SHOULD = "should"
    MAY = "may"


@dataclass(frozen=True, slots=True)
class Profile:
    """How one scheme uses the affixes "rpad", "time", "to" and "from", in a chat and in a group chat."""

    name: str
    chat: Mapping[str, Use]
    group: Mapping[str, Use]


# XEP-0384 section "SCE Profile".
OMEMO2 = Profile(
    "urn:xmpp:omemo:2",
    chat={"rpad": Use.MUST, "from": Use.SHOULD, "time": Use.MAY, "to": Use.MAY},
    group={"rpad": Use.MUST, "from": Use.SHOULD, "time": Use.MAY, "to": Use.MUST},
)


class Verified(NamedTuple):
    """When a message was sealed, as far as can be known, and what a person may want to know about it."""

    time: Time
    notes: tuple[str, ...]


def verify(decoded: Decoded, stanza: Stanza, profile: Profile, now: Time, *, author: Address | None = None) -> Verified:
    """Check an opened envelope against the stanza that carried it (XEP-0420 section "Receiving").

    `author` is the account whose device sealed it, for a stanza whose sender hides it (a room's occupant). Raises
    `Refused` if an affix that the profile requires is missing, if any affix does not fit, or if the time can't be.
    """
    envelope = decoded.envelope
    group = stanza.kind == "message" and stanza.type == "groupchat"
    if stanza.type == "error" and stanza.kind != "iq":
        # What comes back in an error is what somebody sent, under the name of the one it was sent to.
        raise Refused("A sealed element came inside an error.")
    notes = [f"Discarded from the sealed content: {name}." for name in decoded.discarded]
    notes += [f"Ignored an unknown affix: {name}." for name in decoded.unknown]
    for affix, use in (profile.group if group else profile.chat).items():
        if affix in decoded.affixes or use is Use.MAY:
            continue
        if use is Use.MUST:
            raise Refused(f"The envelope has no <{affix}/>.")
        notes.append(f"The envelope has no <{affix}/>.")
    if envelope.sender is not None:
        _match("from", envelope.sender, stanza.sender if author is None else author)
    if envelope.to is not None:
        # In a group chat the recipient is the room, and the room is who sends us its messages.
        _match("to", envelope.to, stanza.sender.bare if group else stanza.to)
    notes += _check_iq(envelope, stanza)
    time, time_notes = check_time(envelope.time, stanza, now)
    return Verified(time, (*notes, *time_notes))


def _match(affix: str, inside: Address, outside: Address) -> None:
    """XEP-0420's table wants bare addresses, its IQ examples have full ones: a resource inside must match too."""
    if inside != (outside if "/" in inside else outside.bare):
        raise Refused(f"The address in <{affix}/> is not the stanza's.")


def _check_iq(envelope: Envelope, stanza: Stanza) -> list[str]:
    """XEP-0420 binds an IQ to neither its type nor its id: a server could swap two answers, or make a get a set."""
    if stanza.kind == "iq":
        if envelope.iq is None:
            return ["This IQ is bound to neither its type nor its id."]
        if envelope.iq != (stanza.type, stanza.id):
            raise Refused("It was sealed as another IQ.")
    elif envelope.iq is not None:
        raise Refused("It was sealed as an IQ.")
    return []


def check_time(inside: Time | None, stanza: Stanza, now: Time) -> tuple[Time, list[str]]:
    """When it was sealed, as far as can be known, and notes. Raises `Refused` where the time inside can't be."""
    notes = []
    stamp = stanza.stamp
    if stamp is not None and not max(EARLIEST, (inside or EARLIEST) - TIME_MARGIN) <= stamp <= now + TIME_MARGIN:
        notes.append("The server's delay stamp can't be true.")
        stamp = None
    if inside is None:
        return (now if stamp is None else min(stamp, now)), notes
    if inside < EARLIEST:
        raise Refused("Its time is before there was XMPP.")
    if inside > now + MAX_AHEAD:
        raise Refused("Its time is in the future.")
    if inside > now + TIME_MARGIN:
        notes.append("The sender's clock is ahead of ours.")
    sent = stamp
    if stanza.stamp is None and stanza.via in UNSTAMPED_IS_LIVE:
        sent = now
    if sent is not None:
        if sent - inside > MAX_DELAY:
            raise Refused("It was sealed long before it was sent.")
        if sent - inside > TIME_MARGIN:
            notes.append(f"It was sealed {_duration(sent - inside)} before it was sent.")
    return inside, notes


def _duration(seconds: Time) -> str:
    for unit, length in (("days", 86_400.0), ("hours", 3_600.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 60:.0f} minutes"
