"""<c/>, the channel and what a stanza hides: every byte altered, every limit on both sides, both readers agree."""

from __future__ import annotations

from base64 import b64encode
from random import Random

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.channels import NOW, pair
from tillie.crypto import modp
from tillie.crypto.kdf import hmac_by
from tillie.envelope.policy import Place
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
from tillie.model import Content
from tillie.schemes.esession import channel, content, text
from tillie.schemes.esession.channel import Channel
from tillie.schemes.esession.content import Protected
from tillie.schemes.esession.keys import Pair, mpi
from tillie.schemes.esession.profile import GAJIM, GAJIM_ITSELF, PROFILES, STRICT, SUBSET, Profile
from tillie.wire import xml

NS = content.NAMESPACE.encode()
MAC = b"m" * 32
BODY = b"<body>What fools these mortals be!</body>"
FULL = content.write(content.cover(b"data", new=2, key=b"\x05key", old=(b"o" * 32, b"p" * 16)), MAC)

# -- the element ----------------------------------------------------------------------------------------------------


def both(data: bytes) -> tuple[Protected | None, Protected | str]:
    try:
        plain = content._parse_plain(data)
    except Malformed:
        plain = None
    try:
        return plain, content._parse_tree(data)
    except Malformed:
        return plain, "malformed"


def test_the_short_cut_takes_what_we_write() -> None:
    plain, tree = both(FULL)
    assert plain is not None
    assert plain == tree
    assert (plain.data, plain.new, plain.key, plain.old) == (b"data", 2, b"\x05key", (b"o" * 32, b"p" * 16))
    assert content.write(plain.covered, plain.mac) == FULL


@pytest.mark.parametrize(
    "data",
    [
        FULL.replace(b"'", b'"'),
        FULL.replace(b"><", b">\n  <"),
        FULL.replace(b"<", b"<x:").replace(b"<x:/", b"</x:").replace(b"xmlns", b"xmlns:x"),
        FULL.replace(b"<data>", b"<data xmlns='%s'>" % NS),
    ],
)
def test_the_mac_covers_the_same_in_every_spelling(data: bytes) -> None:
    assert content.parse(data) == content.parse(FULL)


def test_the_order_of_the_sender_is_kept() -> None:
    """The schema has <mac/> and <new/> in another order than the examples."""
    swapped = b"<c xmlns='%s'><key>BWtleQ==</key><mac>%s</mac><new>1</new></c>" % (NS, b64encode(MAC))
    assert content.parse(swapped).covered == b"<key>BWtleQ==</key><new>1</new>"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<data>", b"<data></data><data>"),
        (b"<data>", b"<data>ZGF0YQ==</data><data>"),
        (b"ZGF0YQ==", b""),
        (b"<data>ZGF0YQ==</data>", b"<data/>"),
        (b"ZGF0YQ==", b"ZGF0YQ"),
        (b"ZGF0YQ==", b"ZGF0YR=="),
        (b"ZGF0YQ==", b"ZGF0 YQ=="),
        (b"ZGF0YQ==", b" ZGF0YQ=="),
        (b"ZGF0YQ==", b"ZGF0&#89;Q="),
        (b"ZGF0YQ==", b"<b/>"),
        (b"ZGF0YQ==", b"ZGF0YQ\xc3\xa9"),
        (b"<data>", b"<data x='1'>"),
        (b"<c ", b"<c x='1' "),
        (b"<data>", b"text<data>"),
        (b"<new>2", b"<new>0"),
        (b"<new>2", b"<new>02"),
        (b"<new>2", b"<new>-1"),
        (b"<new>2", b"<new>+2"),
        (b"<new>2", b"<new>100000"),
        (b"<new>2", "<new>２".encode()),
        (b"<new>2</new>", b"<new>2</new><new>2</new>"),
        (b"<new>2</new>", b"<new/>"),
        (b"<key>", b"<key>BWtleQ==</key><key>"),
        (b"<mac>", b"<mac>%s</mac><mac>" % b64encode(MAC)),
        (b"<mac>", b"<old/><mac>"),
        (b"<mac>", b"<other/><mac>"),
        (b"<mac>", b"<mac xmlns='urn:x'>%s</mac><mac>" % b64encode(MAC)),
        (b"</c>", b"<!--x--></c>"),
        (b64encode(MAC), b64encode(b"m" * 15)),
        (b64encode(MAC), b64encode(b"m" * 65)),
        (b64encode(MAC), b""),
        (b"<mac>%s</mac>" % b64encode(MAC), b""),
        (b"xep-0200", b"xep-0201"),
        (b"</c>", b"</c><c/>"),
    ],
)
def test_what_is_no_encrypted_content_is_refused(old: bytes, new: bytes) -> None:
    assert old in FULL
    with pytest.raises(Malformed):
        content.parse(FULL.replace(old, new, 1))


@pytest.mark.parametrize("respell", [lambda data: data, lambda data: data.replace(b"<mac>", b" <mac>")])
def test_the_limits_of_the_element(respell: object) -> None:
    assert callable(respell)

    def read(covered: bytes, mac: bytes = MAC) -> Protected:
        return content.parse(respell(content.write(covered, mac)))

    old = (b"o" * 32,) * content.MAX_OLD
    assert read(content.cover(None, old=old)).old == old
    assert read(content.cover(None, key=b"\1" * content.MAX_KEY_BYTES)).key
    assert read(content.cover(b"x" * content.MAX_DATA_BYTES)).data
    assert read(b"", b"m" * content.MIN_MAC_BYTES).mac
    for covered in (
        content.cover(None, old=(*old, b"o" * 32)),
        content.cover(None, key=b"\1" * (content.MAX_KEY_BYTES + 1)),
        b"<data>" + b64encode(b"x" * (content.MAX_DATA_BYTES + 1)) + b"</data>",
    ):
        with pytest.raises(Malformed):
            read(covered)
    with pytest.raises(TooLarge):
        content.cover(b"x" * (content.MAX_DATA_BYTES + 1))


_pieces = st.sampled_from(
    [
        b"<c xmlns='%s'>" % NS, b'<c xmlns="%s">' % NS, b"</c>", b"<data>", b"</data>", b"ZGF0YQ==", b"<new>1</new>",
        b"<new>0</new>", b"<key>BWtleQ==</key>", b"<old>", b"</old>", b"<mac>", b"</mac>", b64encode(MAC), b" ", b"\n",
        b"<x/>", b"&amp;", b"=", b"\0", b"\xff", b"'",
    ]
)  # fmt: skip


@st.composite
def _altered(draw: st.DrawFn) -> bytes:
    data = content.write(
        content.cover(
            draw(st.none() | st.binary(min_size=1, max_size=20)),
            new=draw(st.integers(0, 3)),
            key=draw(st.binary(max_size=4)),
            old=draw(st.lists(st.binary(min_size=14, max_size=20), max_size=2)),
        ),
        draw(st.binary(min_size=14, max_size=66)),
    )
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(_pieces) + data[at + draw(st.integers(0, 12)) :]
    return data


@given(_altered() | st.lists(_pieces, max_size=12).map(b"".join))
def test_the_short_cut_agrees_with_the_tree(data: bytes) -> None:
    plain, tree = both(data)
    if plain is not None:
        assert plain == tree


# -- the channel ----------------------------------------------------------------------------------------------------


def test_what_one_seals_the_other_opens() -> None:
    alice, bob = pair()
    for turn in range(5):
        alice, element = channel.seal(alice, BODY, now=NOW)
        bob, incoming = channel.open(bob, element, now=NOW)
        assert incoming.plaintext == BODY
        bob, element = channel.seal(bob, None if turn % 2 else BODY * turn, now=NOW)
        alice, incoming = channel.open(alice, element, now=NOW)
        assert incoming.plaintext == (BODY * turn if turn and not turn % 2 else None)


@pytest.mark.parametrize("rekey", [False, True])
def test_no_byte_can_be_altered(rekey: bool) -> None:
    alice, bob = pair()
    bob, element = channel.seal(bob, BODY, rekey=True, now=NOW)
    alice, _ = channel.open(alice, element, now=NOW)
    alice, element = channel.seal(alice, BODY, rekey=rekey, now=NOW)
    assert b"<new>" in element
    assert b"<old>" in element
    record = channel.encode(bob)
    for at in range(len(element)):
        for bit in (0, 1, 5):
            altered = bytearray(element)
            altered[at] ^= 1 << bit
            with pytest.raises((SessionBroken, Malformed)):
                channel.open(bob, bytes(altered), now=NOW)
    assert channel.encode(bob) == record
    assert channel.open(bob, element, now=NOW)[1].plaintext == BODY


@pytest.mark.parametrize("part", [b"<data>", b"<new>", b"<key>", b"<old>"])
def test_no_part_can_be_left_out(part: bytes) -> None:
    alice, bob = pair()
    bob, element = channel.seal(bob, BODY, rekey=True, now=NOW)
    alice, _ = channel.open(alice, element, now=NOW)
    alice, element = channel.seal(alice, BODY, rekey=True, now=NOW)
    start = element.index(part)
    end = element.index(part.replace(b"<", b"</")) + len(part) + 1
    with pytest.raises((SessionBroken, Malformed)):
        channel.open(bob, element[:start] + element[end:], now=NOW)


@pytest.mark.parametrize("first", [None, BODY])
def test_loss_repetition_order_and_reflection_are_noticed(first: bytes | None) -> None:
    alice, bob = pair()
    sent, one = channel.seal(alice, first, now=NOW)
    sent, two = channel.seal(sent, BODY, now=NOW)
    with pytest.raises(SessionBroken):
        channel.open(bob, two, now=NOW)  # the first one lost, or late
    with pytest.raises(SessionBroken):
        channel.open(alice, one, now=NOW)  # reflected to who has not sent it yet ...
    with pytest.raises(SessionBroken):
        channel.open(sent, one, now=NOW)  # ... and to who has
    bob, _ = channel.open(bob, one, now=NOW)
    with pytest.raises(SessionBroken):
        channel.open(bob, one, now=NOW)
    channel.open(bob, two, now=NOW)


def test_both_directions_have_keys_of_their_own() -> None:
    alice, _ = pair()
    same = Pair(alice.kc, alice.km)
    with pytest.raises(UsageError):
        channel.begin(
            out=same, into=same, counter_out=1, counter_in=2, group=1, private=3, peer=4, now=NOW
        )  # fmt: skip


# Gajim does not accept what it sends itself when a counter is short; with us at one end it works.
EVEN = [profile for profile in PROFILES.values() if profile.pads_sent_counter == profile.pads_received_counter]


@pytest.mark.parametrize("profile", [*EVEN, GAJIM], ids=lambda profile: profile.name)
@pytest.mark.parametrize("cipher", ["aes128-ctr", "aes192-ctr", "aes256-ctr", "none"])
@given(random=st.randoms(use_true_random=False), counter=st.sampled_from([0, 1, 255, 256, 2**120, 2**127, 2**128 - 2]))
def test_every_profile_at_every_edge_of_the_counter(
    profile: Profile, cipher: str, random: Random, counter: int
) -> None:
    alice, bob = pair(profile=profile, cipher=cipher, counter=counter)
    if profile is GAJIM:
        bob = msgspec.structs.replace(bob, profile_name=GAJIM_ITSELF.name)
    for _ in range(3):
        length = random.randrange(1, 50)
        alice, element = channel.seal(alice, b"x" * length, now=NOW)
        bob, incoming = channel.open(bob, element, now=NOW)
        assert incoming.plaintext is not None
        assert incoming.plaintext.rstrip(b" ") == b"x" * length
        assert alice.counter_out == bob.counter_in
        bob, element = channel.seal(bob, b"y" * length, now=NOW)
        alice, incoming = channel.open(alice, element, now=NOW)
    moved = int.from_bytes(alice.counter_out, "big") - counter
    assert 3 <= moved % 2**128 <= 12


@pytest.mark.parametrize(
    ("profile", "counter", "written"),
    [
        (STRICT, 5, b"\5"),
        (STRICT, 256, b"\1\0"),
        (STRICT, 0, b""),
        (SUBSET, 5, b"\5"),
        (GAJIM, 5, bytes(15) + b"\5"),
        (GAJIM_ITSELF, 5, b"\5"),
        (GAJIM_ITSELF, 0, b"\0"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_mac_is_of_the_content_and_the_counter(profile: Profile, counter: int, written: bytes) -> None:
    """XEP-0200 section 5: a_mac = HMAC(HASH, KM, m_content | C), C before the data was encrypted."""
    alice, _ = pair(profile=profile, counter=counter)
    got = content.parse(channel.seal(alice, b"x" * 16, now=NOW)[1])
    assert got.covered == b"<data>" + b64encode(got.data or b"") + b"</data>"
    assert got.mac == hmac_by("sha256", alice.km, got.covered + written)


def test_gajim_gets_whole_blocks() -> None:
    """Its cipher keeps the rest of a block's key stream for the next stanza."""
    alice, bob = pair(profile=GAJIM)
    bob = msgspec.structs.replace(bob, profile_name=GAJIM_ITSELF.name)
    for length in (1, 15, 16, 17):
        alice, element = channel.seal(alice, b"x" * length, now=NOW)
        bob, incoming = channel.open(bob, element, now=NOW)
        assert incoming.plaintext == b"x" * length + b" " * (-length % 16)


def test_the_cipher_none_hides_nothing_and_still_verifies() -> None:
    alice, bob = pair(cipher="none")
    after, element = channel.seal(alice, BODY, now=NOW)
    assert b64encode(BODY) in element
    assert int.from_bytes(after.counter_out, "big") == int.from_bytes(alice.counter_out, "big") + 1
    with pytest.raises((SessionBroken, Malformed)):
        channel.open(bob, element.replace(b64encode(BODY), b64encode(BODY.replace(b"fools", b"gods!"))), now=NOW)


def test_compression_is_refused_by_name() -> None:
    alice, bob = pair()
    with pytest.raises(UsageError, match="zlib"):
        channel.begin(
            out=Pair(alice.kc, alice.km), into=Pair(bob.kc, bob.km), counter_out=1, counter_in=2, group=1, private=3,
            peer=4, now=NOW, compress="zlib",
        )  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"cipher": "rc4"},
        {"hash_name": "md5"},
        {"group": 3},
        {"out": Pair(b"k" * 15, b"m" * 32)},
        {"into": Pair(b"k" * 16, b"m" * 31)},
        {"rekey_freq": 0},
        {"rekey_freq": 2**32},
        {"peer": 1},
        {"peer": modp.GROUPS[1].prime - 1},
    ],
)
def test_parameters_that_do_not_fit_are_refused(wrong: dict[str, object]) -> None:
    alice, bob = pair()
    given_: dict[str, object] = {
        "out": Pair(alice.kc, alice.km), "into": Pair(bob.kc, bob.km), "counter_out": 1, "counter_in": 2, "group": 1,
        "private": 3, "peer": 4, "now": NOW,
    }  # fmt: skip
    channel.begin(**given_)  # type: ignore[arg-type]
    with pytest.raises((UsageError, BadKey)):
        channel.begin(**given_ | wrong)  # type: ignore[arg-type]


# -- re-keying ------------------------------------------------------------------------------------------------------


def forge_key(sender: Channel, key: bytes) -> bytes:
    """A stanza with a public value that an honest client would not send, under the keys of the session."""
    covered = content.cover(b"x", key=key)
    return content.write(
        covered, hmac_by("sha256", sender.km, covered + STRICT.minimal(int.from_bytes(sender.counter_out, "big")))
    )


PRIME = modp.GROUPS[1].prime


@pytest.mark.parametrize(
    "key", [b"\0", b"\1", b"\0\5", mpi(PRIME - 1), mpi(PRIME), mpi(PRIME + 1), b"\1" * 97, b"\1" * 1024]
)
def test_a_public_value_that_is_not_safe_ends_the_session(key: bytes) -> None:
    alice, bob = pair()
    with pytest.raises(SessionBroken):
        channel.open(bob, forge_key(alice, key), now=NOW)


def test_a_replayed_public_value_ends_the_session() -> None:
    alice, bob = pair()
    with pytest.raises(SessionBroken):
        channel.open(bob, forge_key(alice, bob.peer), now=NOW)


def test_a_profile_without_rekeying_refuses_it() -> None:
    alice, bob = pair(profile=SUBSET)
    assert not alice.may_rekey
    with pytest.raises(UsageError):
        channel.seal(alice, BODY, rekey=True, now=NOW)
    with pytest.raises(SessionBroken):
        channel.open(bob, forge_key(alice, b"\5"), now=NOW)


def test_keys_that_we_never_sent_can_not_be_acknowledged() -> None:
    alice, bob = pair()
    bob, _ = channel.seal(bob, BODY, rekey=True, now=NOW)
    covered = content.cover(b"x", new=2)
    mac = hmac_by("sha256", alice.km, covered + STRICT.minimal(int.from_bytes(alice.counter_out, "big")))
    with pytest.raises(SessionBroken):
        channel.open(bob, content.write(covered, mac), now=NOW)


@pytest.mark.parametrize("frequency", [1, 2, 5])
def test_rekeys_are_not_more_frequent_than_agreed(frequency: int) -> None:
    alice, bob = pair(rekey_freq=frequency)
    between = 0
    rekeys = 0
    for _ in range(3 * frequency):
        between += 1
        may = alice.may_rekey
        assert may == (between >= frequency)
        alice, element = channel.seal(alice, BODY, rekey=may, now=NOW)
        bob, _ = channel.open(bob, element, now=NOW)
        if may:
            between = 0
            rekeys += 1
            bob, element = channel.seal(bob, None, now=NOW)
            alice, _ = channel.open(alice, element, now=NOW)
            between += 1
    assert rekeys >= 3


def test_more_sets_than_the_limit_are_not_made() -> None:
    alice, bob = pair()
    for _ in range(channel.MAX_SETS - 1):
        alice, element = channel.seal(alice, None, rekey=True, now=NOW)
        bob, _ = channel.open(bob, element, now=NOW)
    assert len(alice.sets) == channel.MAX_SETS
    assert not alice.may_rekey
    with pytest.raises(UsageError):
        channel.seal(alice, None, rekey=True, now=NOW)
    # Time takes the sets, but does not make room: the peer has not told that it knows the newest.
    alice = channel.expire(alice, NOW + channel.OLD_SET_SECONDS)
    assert len(alice.sets) == 1
    assert not alice.may_rekey
    assert bob.answer_due
    bob, element = channel.seal(bob, None, now=NOW)
    assert not bob.answer_due
    alice, _ = channel.open(alice, element, now=NOW)
    assert alice.may_rekey


def test_an_old_set_reads_for_a_minute_and_not_longer() -> None:
    alice, bob = pair()
    alice, _ = channel.seal(alice, BODY, rekey=True, now=NOW)
    bob, element = channel.seal(bob, BODY, now=NOW)  # before he knows
    just = channel.expire(alice, NOW + channel.OLD_SET_SECONDS - 0.1)
    assert channel.open(just, element, now=NOW)[1].plaintext == BODY
    sealed, _ = channel.seal(alice, BODY, now=NOW + channel.OLD_SET_SECONDS)
    for late in (channel.expire(alice, NOW + channel.OLD_SET_SECONDS), sealed):
        assert len(late.sets) == 1
        with pytest.raises(SessionBroken):
            channel.open(late, element, now=NOW)
    opened, _ = channel.open(alice, element, now=NOW + channel.OLD_SET_SECONDS)  # what is there still reads ...
    assert len(opened.sets) == 1  # ... once


def test_a_key_is_changed_before_it_is_used_up() -> None:
    alice, bob = pair()
    near = channel.REKEY_BLOCKS - 1
    alice = msgspec.structs.replace(alice, blocks_out=near)
    alice, element = channel.seal(alice, b"x" * 16, now=NOW)
    assert b"<key>" not in element
    bob, _ = channel.open(bob, element, now=NOW)
    alice, element = channel.seal(alice, b"x" * 16, now=NOW)
    assert b"<key>" in element
    assert alice.blocks_out == 0
    assert channel.open(bob, element, now=NOW)[1].rekeyed


@pytest.mark.parametrize("profile", [SUBSET, GAJIM])
def test_a_key_that_can_not_be_changed_is_not_used_up(profile: Profile) -> None:
    alice, bob = pair(profile=profile)
    full = msgspec.structs.replace(alice, blocks_out=channel.MAX_KEY_BLOCKS - 1)
    after, _ = channel.seal(full, b"x" * 16, now=NOW)
    with pytest.raises(SessionEnded):
        channel.seal(after, b"x", now=NOW)
    bob = msgspec.structs.replace(bob, blocks_in=channel.MAX_KEY_BLOCKS, used_in=alice.km)
    alice, element = channel.seal(alice, b"x", now=NOW)
    with pytest.raises((SessionBroken, SessionEnded)):
        channel.open(bob, element, now=NOW)


# -- the end, and records -------------------------------------------------------------------------------------------


def test_the_end_is_answered_and_publishes_what_it_may() -> None:
    alice, bob = pair()
    alice, element = channel.seal(alice, BODY, now=NOW)
    bob, _ = channel.open(bob, element, now=NOW)
    bob, on_its_way = channel.seal(bob, BODY, now=NOW)
    km_alice, km_bob = alice.km, bob.km
    alice, end = channel.terminate(alice, b"<feature/>", now=NOW)
    assert (alice.kc, alice.km) == (b"", b"")
    for step in (channel.seal, channel.terminate, channel.acknowledge):
        with pytest.raises(SessionEnded):
            step(alice, b"<x/>", now=NOW)  # type: ignore[operator]
    bob, incoming = channel.open(bob, end, now=NOW)
    assert incoming.plaintext == b"<feature/>"
    answer = channel.acknowledge(bob, b"<feature/>", now=NOW)
    with pytest.raises(SessionBroken):
        channel.open(alice, answer, now=NOW)  # something of Bob's was kept back: it shows
    alice, _ = channel.open(alice, on_its_way, now=NOW)
    alice, incoming = channel.open(alice, answer, now=NOW)
    assert incoming.old_keys == (km_alice,)
    assert channel.leftover(alice) == (km_bob,)


def test_a_record_holds_the_channel_and_is_small() -> None:
    """The largest there is: group 18, 64-octet MAC keys, and as many of everything as there may be."""
    group = modp.GROUPS[18]
    alice, _ = pair(hash_name="sha512", cipher="aes256-ctr")
    one = channel.KeySet(b"\xff" * (group.exponent_bits // 8), b"k" * 32, b"m" * 64, NOW)
    largest = msgspec.structs.replace(
        alice,
        group=18,
        peer=b"\xff" * group.size,
        sets=(one,) * channel.MAX_SETS,
        spent=((2**31, b"m" * 64),) * channel.MAX_SPENT,
        published=(b"m" * 64,) * channel.MAX_PUBLISHED,
        used_in=b"m" * 64,
        first=2**31, acknowledged=2**31, received=99_999, exchanged=2**32, blocks_out=2**32, blocks_in=2**32,
    )  # fmt: skip
    record = channel.encode(largest)
    assert channel.decode(record) == largest
    assert len(record) <= channel.MAX_RECORD_BYTES
    with pytest.raises(StoreTooNew):
        channel.decode(b"\x02" + record[1:])
    for damaged in (record[:-1], record[:1], b"\x01\x90"):
        with pytest.raises(StoreDamaged):
            channel.decode(damaged)


def test_nothing_shows_a_key() -> None:
    alice, bob = pair()
    alice, element = channel.seal(alice, BODY, rekey=True, now=NOW)
    _, incoming = channel.open(bob, element, now=NOW)
    shown = repr((alice, alice.sets[0], content.parse(element), incoming, text.divide(b"<iq xmlns='jabber:client'/>")))
    assert "b'" not in shown
    assert 'b"' not in shown


# -- what a stanza hides --------------------------------------------------------------------------------------------

CHAT = Content(b"<body xmlns='jabber:client'>hello</body><active xmlns='http://jabber.org/protocol/chatstates'/>")


def test_children_lose_the_declaration_that_the_stanza_has() -> None:
    hidden = text.encode(CHAT)
    assert hidden.rstrip() == b"<body>hello</body><active xmlns='http://jabber.org/protocol/chatstates'/>"
    assert len(hidden) % text.PADDED == 0
    assert text.decode(hidden) == text.Hidden(CHAT)
    assert text.encode(Content(b"")) == b""


def test_what_gajim_hides_is_read() -> None:
    theirs = b'<body>Hello, Bob!</body><active xmlns="http://jabber.org/protocol/chatstates" />     '
    assert text._decode_flat(theirs) is not None
    kept = xml.parse_fragment(text.decode(theirs).content.data)
    assert [child.tag for child in kept] == ["{jabber:client}body", "{http://jabber.org/protocol/chatstates}active"]


@pytest.mark.parametrize(
    "data",
    [
        b"</message><message>",
        b"</message><message xmlns='jabber:client'>",
        b"<body>",
        b"<body/></message>",
        b"text",
        b"<body/>text",
        b"<!-- --><body/>",
        b"<?x?><body/>",
        b"<!DOCTYPE x><body/>",
        b"<a:b/>",
        b"<body>&x;</body>",
        b"<body>\0</body>",
        b"<body>\xff</body>",
        b"<body>" * 100 + b"</body>" * 100,
        b" " * (text.MAX_TEXT_BYTES + 1),
        b"<p xmlns='%s'>" % (b"u" * 1000) + b"<q/>" * 9 + b"</p",
        b"<x xmlns:a='%s'/>" % (b"u" * 90_000) * 2 + b"<a:x/>",
    ],
)
def test_what_is_not_xml_ends_the_session(data: bytes) -> None:
    with pytest.raises(SessionBroken):
        text.decode(data)


def test_what_only_servers_say_is_dropped_when_hidden() -> None:
    hidden = text.decode(
        b"<body>x</body><thread>y</thread><error/><delay xmlns='urn:xmpp:delay' stamp='x'/><a xmlns=''/>"
    )
    assert [child.tag for child in xml.parse_fragment(hidden.content.data)] == ["{jabber:client}body"]
    assert len(hidden.dropped) == 4


@pytest.mark.parametrize("rule", text.RULES, ids=lambda rule: rule.namespace)
def test_the_rules_of_sessions_come_before_ours(rule: text.Rule) -> None:
    for name in rule.names or ("anything",):
        assert text.place_of(f"{{{rule.namespace}}}{name}") is rule.place
        allowed = rule.place is Place.INSIDE
        element = f"<{name} xmlns='{rule.namespace}'/>".encode()
        assert bool(text.decode(element).dropped) != allowed
        if not allowed:
            with pytest.raises(UsageError):
                text.encode(Content(element))


@pytest.mark.parametrize("data", [b"<body>no namespace</body>", b"<body", b"<a:b xmlns:a='urn:x'><c/></a:b>", b"text"])
def test_content_that_can_not_be_hidden_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError):
        text.encode(Content(data))


def test_a_stanza_is_taken_apart() -> None:
    divided = text.divide(
        b"<message xmlns='jabber:client' to='a@b' type='chat'><thread>t</thread><body>hi</body>"
        b"<amp xmlns='http://jabber.org/protocol/amp'/><x xmlns='urn:u'><y xmlns=''/></x></message>"
    )
    assert divided.text.rstrip() == b'<body>hi</body><x xmlns="urn:u"><y xmlns=""/></x>'
    outside = xml.parse(divided.before + divided.after)
    assert [child.tag for child in outside] == ["{jabber:client}thread", "{http://jabber.org/protocol/amp}amp"]
    assert dict(outside.attrib) == {"to": "a@b", "type": "chat"}
    empty = text.divide(b"<presence xmlns='jabber:client' to='a@b'/>")
    assert empty.text == b""
    assert xml.parse(empty.before + empty.after).get("to") == "a@b"


@pytest.mark.parametrize(
    "stanza",
    [
        b"<message/>",
        b"<x xmlns='jabber:client'/>",
        b"<p:iq xmlns:p='jabber:client'/>",
        b"<iq xmlns='jabber:client'>text</iq>",
        b"<iq xmlns='jabber:client'><c xmlns='%s'/></iq>" % NS,
        b"<iq xmlns='jabber:client'><query xmlns='jabber:iq:roster'/></iq>",
        b"<iq",
    ],
)
def test_what_is_no_stanza_of_a_session_is_refused(stanza: bytes) -> None:
    with pytest.raises(UsageError):
        text.divide(stanza)


_texts = st.sampled_from(
    [
        b"<body>", b"</body>", b"<body/>", b"<body xml:lang='en'>", b"</message>", b"<message>", b"<thread>t</thread>",
        b"<active xmlns='http://jabber.org/protocol/chatstates'/>", b'<x xmlns="urn:u" a="1" />', b"<x xmlns='urn:u\">",
        b"<x xmlns='urn:u' a=\"it's\">", b"</x>", b"<a b='1' xmlns='urn:v'/>", b"<a xmlns='' />", b"hello", b"&amp;",
        b"&#10;", b"\xc3\xa9", b"\xff", b" ", b"\n", b"'", b"<", b"<p:a xmlns:p='urn:p'/>",
    ]
)  # fmt: skip


@given(st.lists(_texts, max_size=8).map(b"".join))
@example(b"<body>a</body><body>b</body> ")
def test_both_readers_of_hidden_text_agree(data: bytes) -> None:
    flat = text._decode_flat(data)
    if flat is None:
        return
    tree = text._decode_tree(data)
    assert flat.dropped == tree.dropped == ()
    ours, theirs = (xml.parse_fragment(hidden.content.data) for hidden in (flat, tree))
    assert list(map(xml.serialise, ours)) == list(map(xml.serialise, theirs))


@given(st.lists(_texts, max_size=8).map(b"".join))
def test_what_is_hidden_comes_back(data: bytes) -> None:
    try:
        given_ = Content(b"".join(xml.serialise(child) for child in xml.parse_fragment(data)))
        hidden = text.encode(given_)
    except (Malformed, UsageError):
        return
    shown = text.decode(hidden)
    assert shown.dropped == ()
    ours, theirs = (xml.parse_fragment(each.data) for each in (given_, shown.content))
    assert [child.tag for child in ours] == [child.tag for child in theirs]
    assert ["".join(child.itertext()) for child in ours] == ["".join(child.itertext()) for child in theirs]
