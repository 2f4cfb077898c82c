"""XEP-0200 on keys: what both ends of a session hold, and one step for each stanza. Pure, and usable without a
negotiation (`begin`).

Names. Of the keys, KC is the cipher's and KM the MAC's. *Out* is what we send with: there is one pair of it, ever.
*In* is what we read with. A *set* is one private value x of ours with the in pair that goes with it; `<key/>` carries
the public value of a new set to the peer. Sets are numbered from 0, the set of the negotiation.

**Which keys a stanza has.** Each end tells, by `<new/>`, how many keys of the other it has seen. So a stanza says which
of our sets its sender knew when he sent it, the *acknowledged* one: that set reads it, and all older ones go. Then:

- Our key, number n, sent: K = d^x, with the peer's newest public value d that we have seen. A new set: x, and the
  acceptor's pair of K. Out becomes the initiator's pair of K, for the next stanza.
- Their key, e, received: K = e^x, x of the acknowledged set, which is the one whose public value he had when he made e.
  In becomes the initiator's pair of K *in all sets*: whatever of ours he comes to know, what he sends now is under that
  pair. If the acknowledged set is our newest, out becomes the acceptor's pair of K. If it is not, a key of ours is on
  its way to him. He will read that one before our next stanza, and from then on expects its pair: out stays.

**Both at once.** A sends key a1 while B sends b1. A reads b1: acknowledged is a0, in := init(b1^a0) in both her sets,
out stays init(b0^a1). B does the same, mirrored. A's next stanza says <new>1</new>, is under init(b0^a1); B takes his
set 1 for it, and that set's in pair was replaced when he read a1: it fits. The same holds for any number of keys that
cross, because each end's keys arrive in order, and the last of them replaces what the sets before it expected.

**Invariants** (tests/machines/test_esession_channel.py looks for schedules that break one):
 1. For each stanza that is delivered in order both ends have the same KC, KM and counter, whatever crosses.
 2. No block of key stream is used twice: counters only grow under a key, and each stanza moves them, an empty one too.
 3. A MAC key is published only when nothing that it verifies would be accepted by anybody any more.
 4. Sets that are older than the acknowledged one are gone; others, but the newest, after OLD_SET_SECONDS.
 5. A stanza that fails leaves no trace: `open` returns a new Channel or raises. The caller must then end the session.

**What is published** (XEP-0200 section 7). KM of the peer, once it verified something and is in none of our sets. KM of
ours: when it was replaced by our own key n, once n is acknowledged, because the peer replaced it in all his sets when
he read n. When it was replaced by a key of his, once a key of ours that was sent later is acknowledged: until our next
stanza reaches him, he still holds the set that has it.

**Compression is refused by name.** XEP-0200 wants one context for the whole session and a partial flush, which ends in
the middle of an octet. Whoever reads it must keep the state of zlib's own decompressor, which can't be stored between
two transactions. Compression before encryption also tells lengths apart that depend on secrets.

Counters count blocks mod 2^128, and run on when keys change. `Profile` says how they are written and where they start.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from tillie.crypto import ctr, modp
from tillie.crypto.kdf import HASHES, equal, hmac_by
from tillie.crypto.modp import Draw
from tillie.crypto.random import random_bytes
from tillie.errors import (
    BadKey,
    Malformed,
    SessionBroken,
    SessionEnded,
    StoreDamaged,
    StoreTooNew,
    TooLarge,
    UsageError,
)
from tillie.model import Time
from tillie.schemes.esession import content
from tillie.schemes.esession.keys import Pair, from_mpi, mpi, rekeyed
from tillie.schemes.esession.profile import PROFILES, STRICT, Profile

VERSION = 1
MAX_SETS = 5  # of ours that the peer may not have seen; no further re-key until he answers
OLD_SET_SECONDS = 60.0  # "60 seconds should cover a network round-trip and calculations by a constrained client"
MAX_KEY_BLOCKS = 2**32  # "an entity MUST NOT exchange a total of 2^32 encrypted blocks before it initiates a re-key"
REKEY_BLOCKS = 2**31  # then we re-key by ourselves
MAX_UNANSWERED = content.MAX_NEW  # keys of the peer since our last stanza
MAX_PUBLISHED = 8  # MAC keys that wait to be published; all go with one stanza
MAX_SPENT = 4  # MAC keys of ours that can't be published yet
NEVER = 2**32 - 1  # the largest rekey_freq
MAX_RECORD_BYTES = 3_072


class KeySet(msgspec.Struct, frozen=True, array_like=True):
    """A private value of ours (octets), the pair that reads what the peer sends while it knows that one, and when it
    was made."""

    x: bytes
    kc: bytes
    km: bytes
    made: Time

    def __repr__(self) -> str:
        return f"KeySet(made={self.made})"


class Channel(msgspec.Struct, frozen=True, array_like=True):
    """One end of an encrypted session. Every step returns a new one; only the newest may be used.

    Counters and group elements are octets here, because records hold no larger integers.
    """

    profile_name: str
    cipher: str
    hash: str
    group: int
    rekey_freq: int
    kc: bytes  # ours, for sending; b"" once we ended the session
    km: bytes
    counter_out: bytes
    counter_in: bytes
    sets: tuple[KeySet, ...]  # oldest first
    peer: bytes  # the newest public value of the peer
    first: int = 0  # the number of sets[0]
    acknowledged: int = 0  # the newest set of ours that the peer has used
    received: int = 0  # keys of the peer since our last stanza
    exchanged: int = 0  # stanzas, both ways, since our last re-key
    blocks_out: int = 0  # under the keys of now
    blocks_in: int = 0
    used_in: bytes = b""  # KM that verified the last stanza, if it may verify another
    spent: tuple[tuple[int, bytes], ...] = ()  # KMs of ours that were replaced; publish when this set is acknowledged
    published: tuple[bytes, ...] = ()  # KMs to publish with the next stanza
    ended: bool = False  # we sent the end of the session, and wait for the answer

    def __repr__(self) -> str:
        return f"Channel({self.profile_name}, {self.cipher}, {len(self.sets)} sets)"

    @property
    def profile(self) -> Profile:
        return PROFILES[self.profile_name]

    @property
    def newest(self) -> int:
        """The number of our newest set."""
        return self.first + len(self.sets) - 1

    @property
    def may_rekey(self) -> bool:
        """Whether a re-key may go with the next stanza, by profile, agreed frequency, and how many are on their way."""
        return (
            self.profile.rekeys
            and not self.ended
            and self.rekey_freq != NEVER
            and self.exchanged + 1 >= self.rekey_freq
            and self.newest - self.acknowledged < MAX_SETS - 1
        )

    @property
    def must_rekey(self) -> bool:
        """Whether so much was exchanged under one key that the next stanza re-keys, if it may."""
        return max(self.blocks_out, self.blocks_in) >= REKEY_BLOCKS

    @property
    def answer_due(self) -> bool:
        """Whether the peer waits, for a key of his, to hear that we have it. An empty stanza tells him."""
        return self.received > 0


class Incoming(NamedTuple):
    """What a stanza said: its hidden children (None if there are none), whether the peer re-keyed, and MAC keys that he
    published. XEP-0200: "Entities SHOULD ignore any <old/> elements": only transcripts have a use for them."""

    plaintext: bytes | None
    rekeyed: bool = False
    old_keys: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        size = "nothing" if self.plaintext is None else f"{len(self.plaintext)} bytes"
        return f"Incoming({size}, rekeyed={self.rekeyed})"


def begin(
    *,
    out: Pair,
    into: Pair,
    counter_out: int,
    counter_in: int,
    group: int,
    private: int,
    peer: int,
    now: Time,
    profile: Profile = STRICT,
    cipher: str = "aes128-ctr",
    hash_name: str = "sha256",
    compress: str = "none",
    rekey_freq: int = 1,
) -> Channel:
    """A channel from the parameters of XEP-0200 section 3, negotiated or given by hand.

    `out` and `into` are (KC, KM) of what we send and read, `private` is our x and `peer` the other's public value;
    neither is kept where the profile has no re-keying. Raises `UsageError` for what does not fit together, `BadKey` for
    a public value out of range.
    """
    if compress != "none":
        raise UsageError(f"Compression {compress!r} is not supported: its context can't be stored.")
    if cipher not in ctr.CIPHERS or hash_name not in HASHES or group not in modp.GROUPS:
        raise UsageError("The session has an algorithm that is not known.")
    sizes = profile.cipher_key(cipher, hash_name), profile.hmac_key(hash_name)
    if (len(out.kc), len(out.km)) != sizes or (len(into.kc), len(into.km)) != sizes:
        raise UsageError("A key of the session has the wrong length.")
    if out.km == into.km or (counter_out == counter_in and out.kc == into.kc and cipher != ctr.NONE):
        # A stanza of ours could be sent back to us, or one key stream would serve twice.
        raise UsageError("Both directions of the session have the same keys.")
    if not 0 < rekey_freq <= NEVER:
        raise UsageError("The frequency of re-keying is out of range.")
    if profile.rekeys:
        modp.check(modp.GROUPS[group], peer)
    return Channel(
        profile.name,
        cipher,
        hash_name,
        group,
        rekey_freq,
        out.kc,
        out.km,
        _octets(counter_out),
        _octets(counter_in),
        (KeySet(mpi(private) if profile.rekeys else b"", into.kc, into.km, now),),
        mpi(peer) if profile.rekeys else b"",
    )


def seal(
    channel: Channel, plaintext: bytes | None, *, rekey: bool = False, now: Time, draw: Draw = random_bytes
) -> tuple[Channel, bytes]:
    """A <c/> that hides `plaintext`, if there is any, and the channel after it (XEP-0200 section 5).

    Raises `SessionEnded` after `terminate`, or when the key has no blocks left and can't be changed; `UsageError` for a
    re-key that is not allowed now (`Channel.may_rekey`); `TooLarge`.
    """
    if channel.ended:
        raise SessionEnded()
    channel = expire(channel, now)
    if rekey and not channel.may_rekey:
        raise UsageError("The session can't be re-keyed now.")
    after, covered, mac = _protect(
        channel, plaintext, now, draw, rekey=rekey or (channel.must_rekey and channel.may_rekey)
    )
    return after, content.write(covered, mac)


def terminate(channel: Channel, plaintext: bytes, *, now: Time) -> tuple[Channel, bytes]:
    """The last <c/> that we send, with the form that ends the session (XEP-0200, XEP-0116 section 9).

    The keys for sending are gone from the channel that is returned; it reads what is still on its way, and the answer.
    """
    after, element = seal(channel, plaintext, now=now)
    return msgspec.structs.replace(after, kc=b"", km=b"", spent=(), published=(), ended=True), element


def acknowledge(channel: Channel, plaintext: bytes, *, now: Time) -> bytes:
    """The answer to a verified end: the last <c/> of the session. The channel must then be destroyed.

    We accept nothing after it, so that it publishes the MAC key of what the peer sent as well.
    """
    if channel.ended:
        raise SessionEnded()
    _, covered, mac = _protect(msgspec.structs.replace(channel, published=leftover(channel)), plaintext, now)
    return content.write(covered, mac)


def leftover(channel: Channel) -> tuple[bytes, ...]:
    """The MAC keys of what the peer sent, as far as we may publish them once we accept no further stanza of his: after
    the answer to our end was verified, or in our answer to his."""
    keys = dict.fromkeys(channel.published)
    if channel.used_in:
        keys[channel.used_in] = None
    return tuple(keys)


def open(channel: Channel, element: bytes, *, now: Time) -> tuple[Channel, Incoming]:
    """Verify and decrypt a <c/>, and the channel after it (XEP-0200 section 6).

    Raises `Malformed` for what is no <c/>, and `SessionBroken` for what does not verify here and now: altered, lost,
    repeated, out of order, or our own. In both cases the session is over; the channel given is as it was.
    """
    got = content.parse(element)
    acknowledged = channel.acknowledged + got.new
    if not channel.first <= acknowledged <= channel.newest:
        raise SessionBroken("its key is gone, or never was")
    sets = channel.sets[acknowledged - channel.first :]
    used = sets[0]
    profile, counter = channel.profile, int.from_bytes(channel.counter_in, "big")
    covered = got.covered + _written(profile, counter, padded=profile.pads_received_counter)
    if not equal(hmac_by(channel.hash, used.km, covered), got.mac):
        raise SessionBroken()
    moved, plaintext = 1, None
    if got.data is not None:
        moved = ctr.blocks(channel.cipher, len(got.data))
        plaintext = ctr.apply(channel.cipher, used.kc, profile.start(counter), got.data)
    blocks_in = moved if used.km != channel.used_in else channel.blocks_in + moved
    if blocks_in > MAX_KEY_BLOCKS:
        raise SessionBroken("the other client used one key for too long")
    after = msgspec.structs.replace(
        channel,
        counter_in=_octets(counter + moved),
        sets=sets,
        first=acknowledged,
        acknowledged=acknowledged,
        exchanged=channel.exchanged + 1,
        blocks_in=blocks_in,
        used_in=used.km,
    )
    if got.key:
        after = _accept(after, got.key)
    if got.new or got.key or channel.used_in != used.km:
        after = _publish(after, (channel.used_in, used.km))
    return expire(after, now), Incoming(plaintext, bool(got.key), got.old)


def expire(channel: Channel, now: Time) -> Channel:
    """The channel without sets that are too old. `seal` and `open` do it; an idle session needs it now and then."""
    sets = channel.sets
    gone = 0
    while gone < len(sets) - 1 and now - sets[gone + 1].made >= OLD_SET_SECONDS:
        gone += 1
    return msgspec.structs.replace(channel, sets=sets[gone:], first=channel.first + gone) if gone else channel


# -- records --------------------------------------------------------------------------------------------------------

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Channel).decode


def encode(channel: Channel) -> bytes:
    """A channel as a record: its version, then MessagePack. At most MAX_RECORD_BYTES."""
    return bytes((VERSION,)) + _encode(channel)


def decode(record: bytes) -> Channel:
    """The inverse. Raises `StoreTooNew` or `StoreDamaged`."""
    if record[:1] != bytes((VERSION,)):
        raise StoreTooNew(f"A session has version {record[0]}; this version of Tillie reads {VERSION}.")
    try:
        return _decode(memoryview(record)[1:])
    except msgspec.DecodeError:
        raise StoreDamaged("A session can't be read.") from None


# -- the steps ------------------------------------------------------------------------------------------------------


def _protect(
    channel: Channel, plaintext: bytes | None, now: Time, draw: Draw = random_bytes, *, rekey: bool = False
) -> tuple[Channel, bytes, bytes]:
    """The channel after a stanza, its normalised content, and its MAC."""
    profile, counter = channel.profile, int.from_bytes(channel.counter_out, "big")
    data, moved = None, 1
    if plaintext:
        if profile.pad and len(plaintext) % profile.pad:
            plaintext += b" " * (profile.pad - len(plaintext) % profile.pad)
        if len(plaintext) > content.MAX_DATA_BYTES:
            raise TooLarge(f"The stanza has {len(plaintext)} bytes to hide; {content.MAX_DATA_BYTES} is the most.")
        moved = ctr.blocks(channel.cipher, len(plaintext))
        data = ctr.apply(channel.cipher, channel.kc, profile.start(counter), plaintext)
    if channel.blocks_out + moved > MAX_KEY_BLOCKS:
        raise SessionEnded("Its key was used for as much as is safe.")
    key = b""
    after = msgspec.structs.replace(
        channel,
        counter_out=_octets(counter + moved),
        received=0,
        exchanged=channel.exchanged + 1,
        blocks_out=channel.blocks_out + moved,
        published=(),
    )
    if rekey:
        after, key = _initiate(after, now, draw)
    covered = content.cover(data, new=channel.received, key=key, old=channel.published)
    written = _written(profile, counter, padded=profile.pads_sent_counter)
    return after, covered, hmac_by(channel.hash, channel.km, covered + written)


def _initiate(channel: Channel, now: Time, draw: Draw) -> tuple[Channel, bytes]:
    """A new set, new keys for sending from the next stanza on, and the public value for this one (section 7.2)."""
    group = modp.GROUPS[channel.group]
    x = modp.private(group, draw=draw)
    secret = modp.shared(group, x, int.from_bytes(channel.peer, "big"))
    initiator, acceptor = rekeyed(channel.profile, channel.cipher, channel.hash, secret)
    number = channel.newest + 1
    after = msgspec.structs.replace(
        channel,
        kc=initiator.kc,
        km=initiator.km,
        sets=(*channel.sets, KeySet(mpi(x), acceptor.kc, acceptor.km, now)),
        spent=(*channel.spent, (number, channel.km))[-MAX_SPENT:],
        exchanged=0,
        blocks_out=0,
    )
    return after, mpi(modp.public(group, x))


def _accept(channel: Channel, key: bytes) -> Channel:
    """Take in a new public value of the peer, from a verified stanza (section 7.3). `sets[0]` is acknowledged."""
    if not channel.profile.rekeys:
        raise SessionBroken("the other client re-keyed, which was not agreed on")
    if channel.received >= MAX_UNANSWERED:
        raise SessionBroken("the other client re-keyed too often")
    group = modp.GROUPS[channel.group]
    if key == channel.peer:  # "Alice and Bob MUST ensure that every value of x and y they generate is unique."
        raise SessionBroken("the other client used a key twice")
    try:
        value = from_mpi(key, max_bytes=group.size)
        secret = modp.shared(group, int.from_bytes(channel.sets[0].x, "big"), value)
    except (BadKey, Malformed):
        raise SessionBroken("the other client re-keyed with a value that is not safe") from None
    initiator, acceptor = rekeyed(channel.profile, channel.cipher, channel.hash, secret)
    after = msgspec.structs.replace(
        channel,
        peer=key,
        received=channel.received + 1,
        sets=tuple(KeySet(own.x, initiator.kc, initiator.km, own.made) for own in channel.sets),
    )
    if len(channel.sets) > 1 or channel.ended:
        return after
    return msgspec.structs.replace(
        after,
        kc=acceptor.kc,
        km=acceptor.km,
        blocks_out=0,
        # If nothing was sent under it there is nothing to deny.
        spent=(*after.spent, (channel.newest + 1, channel.km))[-MAX_SPENT:] if channel.blocks_out else after.spent,
    )


def _publish(channel: Channel, read_with: tuple[bytes, ...]) -> Channel:
    """Choose the MAC keys to publish (section 8): the peer's that are in no set, ours that he can't accept any more."""
    keys = dict.fromkeys(channel.published)
    live = {own.km for own in channel.sets}
    keys.update((km, None) for km in read_with if km and km not in live)
    keys.update((km, None) for number, km in channel.spent if number <= channel.acknowledged)
    spent = tuple(entry for entry in channel.spent if entry[0] > channel.acknowledged)
    used_in = channel.used_in if channel.used_in in live else b""  # it is published now, once
    return msgspec.structs.replace(channel, spent=spent, published=tuple(keys)[-MAX_PUBLISHED:], used_in=used_in)


def _octets(counter: int) -> bytes:
    return (counter % (1 << ctr.BLOCK_BITS)).to_bytes(ctr.BLOCK, "big")


def _written(profile: Profile, counter: int, *, padded: bool) -> bytes:
    """A counter as MACs have it."""
    return _octets(counter) if padded else profile.minimal(counter)
