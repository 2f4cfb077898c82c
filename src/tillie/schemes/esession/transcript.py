"""Transcripts of encrypted sessions, and forged ones (XEP-0200 section 8, XEP-0210 section "Repudiability").

A transcript is a file of JSON lines: what went over the wire, as whoever stood at the wire could write it down. One
`Header`, then an `Entry` for each stanza, in order, and `Keys` for MAC keys that somebody gave away besides.

    {"transcript":"tillie esession","version":1,"thread":"..","parties":["a@x/1","b@y/2"],"profile":"strict",
     "cipher":"aes128-ctr","hash":"sha256","counters":["4b5f..","cb5f.."]}
    {"from":"a@x/1","stanza":"<message ..><c xmlns='http://www.xmpp.org/extensions/xep-0200.html#ns'>..</c></message>"}
    {"keys":["b64"]}

The counters are those of the first encrypted stanza of each party. They are no secret: the negotiation says them in
clear. `verify` finds, for each stanza, the published key under which it verifies; `forge` makes a transcript that says
something else and verifies as well.

**Why nobody can tell which is real.** A stanza is bound to its words by HMAC alone. To check one, a verifier needs the
MAC key, and who has that key can make the same HMAC of any other words; while the session went on only the two parties
had it, afterwards everybody does, because they publish it (`<old/>`). No stanza is signed. A stanza under a key that
was not published proves nothing to others either: whoever shows them the key shows that he could have made it.
The ciphertext that `forge` puts in is as random as a real one to everybody without the cipher's key, and the MAC over
it is the right one: the two transcripts come from the same distribution, and no test can separate them.

**What a forger can choose.** Counter mode XORs a key stream. If she knows what was said, she knows the key stream of
that stanza, and can put any words of no more than that length in its place (`known`): even to the parties, who have the
cipher's key, it opens as what she wrote. If she does not know it, she can only put random octets there: a third person,
without the cipher's key, sees no difference, and the parties would open noise. But the cipher's key is not published,
and the MAC key does not tell which it is. So whoever shows words and says that they were in it can't prove that: she
may as well show a cipher's key of her own making, and random octets that open as her words under that.

She can also take stanzas out. Where that, or another number of blocks, moves the counters of later stanzas of the same
party, these are MACed anew, so their keys must have been published too; the same length always works.

**What this does not deny.** A server that wrote down what it saw is a witness of its own; and that two people had a
session is not hidden at all.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Annotated, NamedTuple

import msgspec

from tillie.crypto import ctr
from tillie.crypto.kdf import HASHES, equal, hmac_by
from tillie.crypto.modp import Draw
from tillie.crypto.random import random_bytes
from tillie.errors import Malformed, UsageError
from tillie.schemes.esession import content, text
from tillie.schemes.esession.channel import Channel
from tillie.schemes.esession.content import Protected
from tillie.schemes.esession.profile import PROFILES
from tillie.wire import base64, xml

MAGIC = "tillie esession"
VERSION = 1
MAX_ENTRIES = 10_000
MAX_KEYS = 1_000  # each stanza may have to be tried with each of them
MAX_LINE_BYTES = 2 * xml.MAX_STANZA_BYTES

_TAG = f"{{{content.NAMESPACE}}}c"
_SPAN = re.compile(rb"<c xmlns=(['\"])" + re.escape(content.NAMESPACE.encode()) + rb"\1>.*?</c>", re.DOTALL)
_Counter = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line: whose session it was, and how its stanzas are MACed. `counters` are in hex, 16 octets, in the
    order of `parties`."""

    thread: str
    parties: tuple[str, str]
    counters: tuple[_Counter, _Counter]
    profile: str = "strict"
    cipher: str = "aes128-ctr"
    hash: str = "sha256"
    version: int = VERSION
    transcript: str = MAGIC


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"sender": "from"}):
    """One stanza as it was on the wire, and which party sent it. It may have no encrypted content."""

    sender: str
    stanza: str


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """MAC keys, in Base64, that somebody gave away outside the session: `channel.leftover` when it is over."""

    keys: tuple[str, ...]


class Transcript(NamedTuple):
    """A session as it was written down. The number of a stanza is its place in `stanzas`, from 0."""

    header: Header
    lines: tuple[Entry | Keys, ...]

    @property
    def stanzas(self) -> tuple[Entry, ...]:
        return tuple(line for line in self.lines if isinstance(line, Entry))


class Standing(Enum):
    """What a stanza of a transcript proves to somebody who was not there."""

    CLEAR = "clear"  # nothing was encrypted
    UNKNOWN = (
        "unknown"  # no published key verifies it: only a party could say whether it is real, and nobody must believe
    )
    VERIFIES = "verifies"  # as everything does that anybody makes with the published key


class Finding(NamedTuple):
    """What `verify` says of one stanza: the published key that verifies it, and the octets it hides."""

    number: int
    sender: str
    standing: Standing
    key: bytes = b""
    hidden: int = 0

    def __repr__(self) -> str:
        return f"Finding({self.number}, {self.sender!r}, {self.standing.value})"


# -- the file -------------------------------------------------------------------------------------------------------

_encode = msgspec.json.Encoder().encode
_decode_header = msgspec.json.Decoder(Header).decode
_decode_line = msgspec.json.Decoder(dict[str, str | tuple[str, ...]]).decode


def header_of(channel: Channel, own: str, peer: str, thread: str) -> Header:
    """The header for a session whose channel has not carried a stanza yet; we are the first of the parties."""
    return Header(
        thread,
        (own, peer),
        (channel.counter_out.hex(), channel.counter_in.hex()),
        channel.profile_name,
        channel.cipher,
        channel.hash,
    )


def line(what: Header | Entry | Keys) -> bytes:
    """One line of the file, with its end: a recorder appends them as they come."""
    return _encode(what) + b"\n"


def keys_of(octets: Iterable[bytes]) -> Keys:
    """MAC keys as a line has them."""
    return Keys(tuple(b64encode(key).decode() for key in octets))


def write(transcript: Transcript) -> bytes:
    """The whole file."""
    return b"".join(map(line, (transcript.header, *transcript.lines)))


def read(data: bytes) -> Transcript:
    """A file as a person gave it to us. Raises `UsageError`."""
    rows = data.splitlines()
    if not 1 <= len(rows) <= MAX_ENTRIES + 1 or max(map(len, rows)) > MAX_LINE_BYTES:
        raise UsageError("The file is not a transcript, or too long.")
    try:
        header = _decode_header(rows[0])
        lines = tuple(_line(row) for row in rows[1:])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UsageError("The file is not a transcript.") from None
    if header.transcript != MAGIC:
        raise UsageError("The file is not a transcript.")
    if header.version != VERSION:
        raise UsageError(f"The transcript has version {header.version}; this version of Tillie reads {VERSION}.")
    if header.profile not in PROFILES or header.cipher not in ctr.CIPHERS or header.hash not in HASHES:
        raise UsageError("The transcript has an algorithm that is not known.")
    if any(isinstance(one, Entry) and one.sender not in header.parties for one in lines):
        raise UsageError("The transcript has a stanza of somebody else.")
    return Transcript(header, lines)


def _line(row: bytes) -> Entry | Keys:
    fields = _decode_line(row)  # decides by what is there: a union of two structs would need a tag on each line
    return msgspec.convert(fields, Keys) if "keys" in fields else msgspec.convert(fields, Entry)


# -- verifying ------------------------------------------------------------------------------------------------------


class _Sealed(NamedTuple):
    """A stanza with encrypted content: which, whose, what, its counter, and the key that verifies it, or b""."""

    number: int
    entry: Entry
    protected: Protected
    counter: int
    key: bytes


def published(transcript: Transcript) -> tuple[bytes, ...]:
    """The MAC keys that everybody knows who has the transcript. Raises `UsageError`."""
    keys: dict[bytes, None] = {}
    for one in transcript.lines:
        if isinstance(one, Keys):
            keys.update((_octets(coded), None) for coded in one.keys)
        else:
            got = _protected(one)
            keys.update((key, None) for key in (got.old if got else ()))
    if len(keys) > MAX_KEYS:
        raise UsageError(f"The transcript has more than {MAX_KEYS} keys.")
    return tuple(keys)


def verify(transcript: Transcript) -> tuple[Finding, ...]:
    """For each stanza, whether a published key verifies it. Raises `UsageError` for a file with broken stanzas."""
    sealed = {one.number: one for one in _sealed(transcript)}
    findings = []
    for number, entry in enumerate(transcript.stanzas):
        if number not in sealed:
            findings.append(Finding(number, entry.sender, Standing.CLEAR))
            continue
        one = sealed[number]
        standing = Standing.VERIFIES if one.key else Standing.UNKNOWN
        findings.append(Finding(number, entry.sender, standing, one.key, len(one.protected.data or b"")))
    return tuple(findings)


def _sealed(transcript: Transcript) -> list[_Sealed]:
    header, keys = transcript.header, published(transcript)
    counters = {party: int(counter, 16) for party, counter in zip(header.parties, header.counters, strict=True)}
    latest: dict[str, bytes] = {}
    found = []
    for number, entry in enumerate(transcript.stanzas):
        got = _protected(entry)
        if got is None:
            continue
        sender, counter = entry.sender, counters[entry.sender]
        # Most stanzas have the key of the one before.
        candidates = (latest[sender], *keys) if sender in latest else keys
        key = next((key for key in candidates if _fits(header, key, got, counter)), b"")
        if key:
            latest[sender] = key
        found.append(_Sealed(number, entry, got, counter, key))
        counters[sender] = _after(header, counter, got.data)
    return found


def _after(header: Header, counter: int, data: bytes | None) -> int:
    return ctr.advance(counter, 1 if data is None else ctr.blocks(header.cipher, len(data)))


def _fits(header: Header, key: bytes, got: Protected, counter: int) -> bool:
    return any(equal(mac, got.mac) for mac in _macs(header, key, got.covered, counter))


def _macs(header: Header, key: bytes, covered: bytes, counter: int) -> tuple[bytes, bytes]:
    """With the counter in minimal octets, and in all of a block's, as Gajim wants it."""
    written = PROFILES[header.profile].minimal(counter), counter.to_bytes(ctr.BLOCK, "big")
    return hmac_by(header.hash, key, covered + written[0]), hmac_by(header.hash, key, covered + written[1])


def _protected(entry: Entry) -> Protected | None:
    try:
        root = xml.parse(entry.stanza.encode())
        found = [child for child in root if child.tag == _TAG]
        if len(found) > 1:
            raise Malformed("It has encrypted content twice.")
        return content.parse(xml.serialise(found[0])) if found else None
    except (Malformed, UnicodeEncodeError) as error:
        reason = error.detail if isinstance(error, Malformed) else "It is not text."
        raise UsageError(f"A stanza of the transcript can't be read. {reason}") from None


def _octets(coded: str) -> bytes:
    try:
        return base64.decode(coded, max_bytes=content.MAX_MAC_BYTES)
    except Malformed:
        raise UsageError("A key of the transcript can't be read.") from None


# -- forging --------------------------------------------------------------------------------------------------------


def forge(
    transcript: Transcript,
    replace: Mapping[int, str | bytes | None],
    *,
    known: Mapping[int, str | bytes] | None = None,
    draw: Draw = random_bytes,
) -> Transcript:
    """Another transcript that verifies as well: other words in the stanzas of `replace`, by number; None takes one out.

    Words are the hidden children of the stanza (`<body>..</body>`). `known` holds what such a stanza really hid, as far
    as the forger knows: then the new words fit the cipher's key as well, and are no longer than the old. Without it
    they become random octets, as many as before if that is enough, and say what the forger says they do (see above).

    Raises `UsageError` where a key that is needed was not published, and for words that do not fit.
    """
    known = known or {}
    sealed = {one.number: one for one in _sealed(transcript)}
    for number in replace:
        if number not in sealed:
            raise UsageError(f"There is no encrypted stanza number {number}.")
        if not sealed[number].key:
            raise UsageError(f"The key of stanza number {number} was not published.")
        if sealed[number].protected.data is None and replace[number] is not None:
            raise UsageError(f"Stanza number {number} hid no words: it only changed keys.")
    header = transcript.header
    counters = {party: int(counter, 16) for party, counter in zip(header.parties, header.counters, strict=True)}
    lines: list[Entry | Keys] = []
    number = -1
    for one in transcript.lines:
        number += isinstance(one, Entry)
        if isinstance(one, Keys) or number not in sealed:
            lines.append(one)
            continue
        if number in replace and replace[number] is None:
            continue
        data = sealed[number].protected.data
        if number in replace and data is not None:
            data = _other(data, replace[number], known.get(number), draw)
        counter = counters[one.sender]
        lines.append(_again(header, sealed[number], data, counter))
        counters[one.sender] = _after(header, counter, data)
    return Transcript(header, tuple(lines))


def _other(data: bytes, words: str | bytes | None, known: str | bytes | None, draw: Draw) -> bytes:
    """The ciphertext to put in the place of `data`."""
    new = _as_bytes(words)
    if not new:
        raise UsageError("A stanza can't hide no words at all.")
    if known is None:
        return draw(max(len(data), len(new) + -len(new) % text.PADDED))
    old = _as_bytes(known)
    if len(old) > len(data):
        raise UsageError("What the stanza is known to have hidden is longer than what it hid.")
    if len(new) > len(old):
        raise UsageError(
            f"The words are too long: {len(old)} bytes are known of this stanza, and they have {len(new)}."
        )
    new += b" " * (len(old) - len(new))
    # What stands behind the known words stays as it is: it may be more than what fills a stanza up.
    return bytes(a ^ b ^ c for a, b, c in zip(data, old, new, strict=False)) + data[len(old) :]


def _as_bytes(words: str | bytes | None) -> bytes:
    return words.encode() if isinstance(words, str) else words or b""


def _again(header: Header, one: _Sealed, data: bytes | None, counter: int) -> Entry:
    """The same stanza around other ciphertext, or at another counter, under the same key."""
    if data == one.protected.data and counter == one.counter:
        return one.entry
    if not one.key:
        raise UsageError(
            f"Stanza number {one.number} would have another counter, and its key was not published. "
            "Words of the same length, or of which the old ones are known, change no counter."
        )
    stanza = one.entry.stanza.encode()
    span = _SPAN.search(stanza)
    if span is None:
        raise UsageError(f"Stanza number {one.number} is written in a way that can't be changed.")
    element = span[0]
    if data is not None and data != one.protected.data:
        coded = b64encode(data)
        element = re.sub(rb"<data>[^<]*</data>", lambda _: b"<data>" + coded + b"</data>", element, count=1)
    covered = content.parse(element).covered
    # The sender's own way of writing the counter is the one that verified.
    minimal = hmac_by(header.hash, one.key, one.protected.covered + PROFILES[header.profile].minimal(one.counter))
    mac = _macs(header, one.key, covered, counter)[not equal(minimal, one.protected.mac)]
    coded_mac = b64encode(mac)
    element = re.sub(rb"<mac>[^<]*</mac>", lambda _: b"<mac>" + coded_mac + b"</mac>", element, count=1)
    return Entry(one.entry.sender, (stanza[: span.start()] + element + stanza[span.end() :]).decode())
