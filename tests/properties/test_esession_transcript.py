"""Transcripts: what verifies under published keys, and forged ones that verify as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.channels import NOW, pair
from tillie.errors import UsageError
from tillie.schemes.esession import channel, content, text, transcript
from tillie.schemes.esession.channel import Channel
from tillie.schemes.esession.transcript import Entry, Keys, Standing, Transcript
from tillie.wire import xml

ALICE, BOB = "alice@example.org/pda", "bob@example.com/laptop"
TAG = f"{{{content.NAMESPACE}}}c"
WORDS = ["<body>I never liked Mallory.</body>", "<body>Neither did I.</body>", "<body>Meet at 8?</body>"]


class Said(NamedTuple):
    """A whole session: its transcript, the words of each stanza, and the ends as they were at the beginning."""

    file: Transcript
    words: list[str | None]
    ends: tuple[Channel, Channel]


def stanza(sender: str, element: bytes) -> Entry:
    to = BOB if sender == ALICE else ALICE
    outer = f"<message xmlns='jabber:client' to='{to}'><thread>t</thread>".encode()
    return Entry(sender, (outer + element + b"</message>").decode())


def session(*, leftover: bool = True, rekey: bool = True) -> Said:
    """They talk, re-key, talk, and end it."""
    alice, bob = ends = pair()
    header = transcript.header_of(alice, ALICE, BOB, "t")
    lines: list[Entry | Keys] = [Entry(ALICE, "<message xmlns='jabber:client'><feature xmlns='urn:f'/></message>")]
    words: list[str | None] = [None]
    for turn in range(6):
        said = WORDS[turn % 3]
        alice, element = channel.seal(alice, _hidden(said), rekey=rekey and turn in (2, 3), now=NOW)
        bob, _ = channel.open(bob, element, now=NOW)
        lines.append(stanza(ALICE, element))
        bob, element = channel.seal(bob, _hidden(said), now=NOW)
        alice, _ = channel.open(alice, element, now=NOW)
        lines.append(stanza(BOB, element))
        words += [said, said]
    alice, element = channel.terminate(alice, b"<x xmlns='urn:end'/>", now=NOW)
    bob, _ = channel.open(bob, element, now=NOW)
    lines.append(stanza(ALICE, element))
    element = channel.acknowledge(bob, b"<x xmlns='urn:end'/>", now=NOW)
    alice, _ = channel.open(alice, element, now=NOW)
    lines.append(stanza(BOB, element))
    words += ["<x xmlns='urn:end'/>"] * 2
    if leftover:
        lines.append(transcript.keys_of(channel.leftover(alice)))
    return Said(Transcript(header, tuple(lines)), words, ends)


def _hidden(said: str) -> bytes:
    return said.encode() + b" " * (-len(said) % text.PADDED)


def opened(file: Transcript, ends: tuple[Channel, Channel]) -> list[bytes]:
    """What the parties read in the encrypted stanzas: they have the cipher's keys."""
    readers = {ALICE: ends[1], BOB: ends[0]}
    read = []
    for entry in file.stanzas:
        found = [child for child in xml.parse(entry.stanza.encode()) if child.tag == TAG]
        if found:
            readers[entry.sender], incoming = channel.open(readers[entry.sender], xml.serialise(found[0]), now=NOW)
            read.append(incoming.plaintext or b"")
    return read


def test_everything_verifies_once_the_keys_are_known() -> None:
    said = session()
    findings = transcript.verify(said.file)
    assert [finding.standing for finding in findings] == [Standing.CLEAR] + [Standing.VERIFIES] * 14
    assert len({finding.key for finding in findings}) > 4
    assert transcript.read(transcript.write(said.file)) == said.file


def test_the_session_itself_publishes_all_but_the_last_key_of_one_side() -> None:
    """What Bob sent after the last re-key only Alice could give away: she may send nothing after his answer."""
    standing = [finding.standing for finding in transcript.verify(session(leftover=False).file)]
    assert standing.count(Standing.UNKNOWN) == 4
    assert set(standing[1:14:2]) == {Standing.VERIFIES}


def test_a_forged_transcript_verifies_as_well() -> None:
    said = session()
    forged = transcript.forge(said.file, {1: "<body>I adore Mallory, and always did, whatever anybody says.</body>"})
    assert forged != said.file
    real, false = transcript.verify(said.file), transcript.verify(forged)
    assert [(one.standing, one.key) for one in real] == [(one.standing, one.key) for one in false]


def test_who_knows_what_was_said_chooses_what_the_parties_read() -> None:
    said = session()
    number, new = 3, "<body>I did.</body>"
    forged = transcript.forge(said.file, {number: new}, known={number: said.words[number] or ""})
    assert all(one.standing is not Standing.UNKNOWN for one in transcript.verify(forged))
    # The parties' own keys open it, here up to the first re-key.
    before = Transcript(forged.header, forged.lines[:5])
    assert opened(before, said.ends)[number - 1].rstrip() == new.encode()


@pytest.mark.parametrize("words", ["<body>longer: " + "x" * 300 + "</body>", None])
def test_later_stanzas_follow_when_counters_move(words: str | None) -> None:
    said = session(rekey=False)
    forged = transcript.forge(said.file, {1: words, 5: "<body>short</body>"})
    findings = transcript.verify(forged)
    assert len(findings) == 15 - (words is None)
    assert {one.standing for one in findings[1:]} == {Standing.VERIFIES}
    unchanged = [one.stanza for one in said.file.stanzas if one.sender == BOB]
    assert [one.stanza for one in forged.stanzas if one.sender == BOB] == unchanged


def test_a_key_that_was_not_published_is_needed() -> None:
    said = session(leftover=False)
    numbers = [one.number for one in transcript.verify(said.file) if one.standing is Standing.UNKNOWN]
    with pytest.raises(UsageError):
        transcript.forge(said.file, {numbers[0]: "<body>x</body>"})
    with pytest.raises(UsageError, match="counter"):
        transcript.forge(said.file, {2: None})  # Bob's later stanzas move
    assert transcript.forge(said.file, {2: "<body>x</body>"})


def test_altered_stanzas_do_not_verify() -> None:
    said = session()
    entry = said.file.stanzas[3]
    altered = Entry(entry.sender, entry.stanza.replace("<data>", "<data>AAAA", 1))
    lines = tuple(altered if one is entry else one for one in said.file.lines)
    assert transcript.verify(Transcript(said.file.header, lines))[3].standing is Standing.UNKNOWN


@pytest.mark.parametrize(
    ("replace", "known"),
    [
        ({99: "x"}, {}),
        ({0: "x"}, {}),  # in clear
        ({1: ""}, {}),
        ({1: "<body>longer than all that is known</body>"}, {1: "<body>x</body>"}),
        ({1: "x"}, {1: "x" * 200}),
    ],
)
def test_what_can_not_be_forged_is_said(replace: dict[int, str], known: dict[int, str]) -> None:
    said = session()
    with pytest.raises(UsageError):
        transcript.forge(said.file, replace, known=known)


def test_a_stanza_that_only_changed_keys_stays() -> None:
    alice, bob = pair()
    header = transcript.header_of(alice, ALICE, BOB, "t")
    after, element = channel.seal(alice, None, rekey=True, now=NOW)
    file = Transcript(header, (stanza(ALICE, element), transcript.keys_of([alice.km])))
    assert transcript.verify(file)[0].standing is Standing.VERIFIES
    with pytest.raises(UsageError):
        transcript.forge(file, {0: "<body/>"})
    assert after.km != bob.km


FILE = transcript.write(session().file)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"\n",
        lambda data: data.replace(b'"version":1', b'"version":2'),
        lambda data: data.replace(b"tillie esession", b"something else"),
        lambda data: data.replace(b"sha256", b"md5"),
        lambda data: data.replace(b"aes128-ctr", b"rc4"),
        lambda data: data.replace(b'"strict"', b'"lax"'),
        lambda data: data.replace(b'"from":"alice', b'"from":"carol', 1),
        lambda data: data.replace(b'"from"', b'"by"', 1),
        lambda data: data.partition(b"\n")[2],
        lambda data: data + b"{}\n",
        lambda data: data + b'{"keys":["AAAA"],"x":"y"}\n',
        lambda data: (
            data + b'{"from":"' + ALICE.encode() + b'","stanza":"' + b"x" * transcript.MAX_LINE_BYTES + b'"}\n'
        ),
        lambda data: data + b'{"keys":[]}\n' * transcript.MAX_ENTRIES,
        lambda data: data + b"\xff\n",
    ],
)
def test_what_is_no_transcript_is_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(UsageError):
        transcript.read(change(FILE))


@pytest.mark.parametrize("broken", ["<message", "<message xmlns='jabber:client'><c xmlns='%s'/></message>", "\ud800"])
def test_broken_stanzas_are_refused(broken: str) -> None:
    file = session().file
    entry = Entry(ALICE, broken.replace("%s", content.NAMESPACE))
    with pytest.raises(UsageError):
        transcript.verify(Transcript(file.header, (entry,)))


def test_no_more_keys_than_may_be_tried() -> None:
    file = session().file
    keys = transcript.keys_of(number.to_bytes(32, "big") for number in range(transcript.MAX_KEYS + 1))
    with pytest.raises(UsageError):
        transcript.verify(Transcript(file.header, (keys,)))


@given(st.data())
def test_no_file_breaks_the_reader(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(FILE)))
    piece = data.draw(st.binary(max_size=6) | st.sampled_from([b"\n", b"}", b'"', b"[]", b"<", b"null", b"\\u0000"]))
    altered = FILE[:at] + piece + FILE[at + data.draw(st.integers(0, 12)) :]
    try:
        transcript.verify(transcript.read(altered))
    except UsageError:
        pass
