"""Envelopes printed in XEP-0420 and XEP-0384.

Provenance: XEP-0420 version 0.5.0 (2026-06-23), sections "Affix Elements" and "Use Cases"; XEP-0384 version 0.9.0,
section "SCE Profile". What the XEPs abbreviate ("[...]", "...") is left as printed; the PNG of the IQ answer is cut.
"""

from __future__ import annotations

import pytest

from tillie.envelope import codec, profile
from tillie.errors import Refused
from tillie.model import Address, Stanza

NOW = 1_075_007_200.0

MESSAGE = b"""<envelope xmlns='urn:xmpp:sce:1'>
  <content>
    <body xmlns='jabber:client'>[...]</body>
    <x xmlns='jabber:x:oob'>
      <url>https://en.wikipedia.org/wiki/Fight_Club#Plot</url>
    </x>
  </content>
</envelope>"""
REQUEST = b"""<envelope xmlns='urn:xmpp:sce:1'>
  <content>
    <data xmlns='urn:xmpp:bob'
        cid='sha1+8f35fef110ffc5df08d579a50083ff9308fb6242@bob.xmpp.org'/>
  </content>
  <from jid='doctor@shakespeare.lit/pda'/>
  <to jid='ladymacbeth@shakespear.lit/castle'/>
</envelope>
"""
AFFIXES = b"""<envelope xmlns='urn:xmpp:sce:1'><content/>
<time stamp='2004-01-25T06:05:00+01:00'/>
<to jid='missioncontrol@houston.nasa.gov'/>
<from jid='opportunity@mars.planet'/>
<rpad>C1DHN9HK-9A25tSmwK4hU!Jji9%GKYK^syIlHJT9TnI4</rpad>
</envelope>"""
OMEMO = b"""<envelope xmlns='urn:xmpp:sce:1'>
  <content>
    <body xmlns='jabber:client'>
     Hello World!
    </body>
  </content>
  <rpad>...</rpad>
  <from jid='romeo@montague.lit'/>
</envelope>"""


def stanza(kind: str, sender: str, to: str, type: str = "") -> Stanza:
    return Stanza(kind, Address(sender), Address(to), type, "get-data-1")


def test_affixes() -> None:
    decoded = codec.decode(AFFIXES)
    assert decoded.affixes == {"time", "to", "from", "rpad"}
    assert decoded.envelope.time == 1_075_007_100.0
    assert decoded.envelope.to == "missioncontrol@houston.nasa.gov"
    assert decoded.envelope.sender == "opportunity@mars.planet"
    assert decoded.envelope.content.data == b""
    around = stanza("message", "opportunity@mars.planet/rover", "missioncontrol@houston.nasa.gov/desk", "chat")
    assert profile.verify(decoded, around, profile.OMEMO2, NOW) == (1_075_007_100.0, ())


def test_message() -> None:
    decoded = codec.decode(MESSAGE)
    assert decoded.affixes == frozenset()
    assert decoded.discarded == ()
    assert b"Fight_Club#Plot" in decoded.envelope.content.data
    with pytest.raises(Refused, match="rpad"):  # good XEP-0420, but not enough for the profile of XEP-0384
        profile.verify(decoded, stanza("message", "a@b", "c@d"), profile.OMEMO2, NOW)


def test_the_request_of_the_iq_example_misspells_its_recipient() -> None:
    """The XEP seals "ladymacbeth@shakespear.lit" and sends to "shakespeare.lit"; a receiver has to refuse that."""
    decoded = codec.decode(REQUEST)
    around = stanza("iq", "doctor@shakespeare.lit/pda", "ladymacbeth@shakespeare.lit/castle", "get")
    unpadded = profile.Profile("test", {}, {})
    with pytest.raises(Refused, match="to"):
        profile.verify(decoded, around, unpadded, NOW)
    repaired = codec.decode(REQUEST.replace(b"shakespear.lit", b"shakespeare.lit"))
    assert profile.verify(repaired, around, unpadded, NOW).notes == (
        "This IQ is bound to neither its type nor its id.",
    )


def test_omemo() -> None:
    decoded = codec.decode(OMEMO)
    around = stanza("message", "romeo@montague.lit/balcony", "juliet@capulet.lit", "chat")
    assert profile.verify(decoded, around, profile.OMEMO2, NOW) == (NOW, ())
