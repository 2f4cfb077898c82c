"""Bad input in its OMEMO form: for each, the right kind or a typed error, the same bytes in the store as before, no
plaintext out, and the good copy still opens.

The name of each case begins with the number it has in the project's list of bad inputs (docs/functionality.md). B11,
B13, B15 and B20 are conversations: see test_omemo_prekeys, test_omemo_trust and test_omemo_conversation. B23 to B25
live with engine and store.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest
from lxml import etree

from support.ends import ALICE, BOB, BUNDLES, CAROL, DEVICES, NS, End, Letter, World, changed, pair, talking
from tillie import pipeline
from tillie.crypto import sign
from tillie.directory import omemo as directory
from tillie.directory.omemo import MAX_DEVICES, MAX_ID, MAX_PREKEYS
from tillie.envelope import codec
from tillie.errors import Malformed, NoRecipients, PeerError
from tillie.model import Address, Content, Done, Envelope, Fetched, Kind, Target, Trust
from tillie.schemes.omemo import element, messages
from tillie.schemes.omemo.omemo_pb2 import OMEMOAuthenticatedMessage, OMEMOKeyExchange, OMEMOMessage
from tillie.trust import decisions
from tillie.wire import xml

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
LOW_ORDER = {
    "zero": 0,
    "one": 1,
    "order 8": 325606250916557431795983626356110631294008115727848805560023387167927233504,
    "order 8, other": 39382357235489614581723060781553021112529911719440698176882885853963445705823,
    "p-1": P - 1,
}
NOT_CANONICAL = {"p": P, "p+1": P + 1, "top bit": 2**255 + 9, "2^256-1": 2**256 - 1}
# The Edwards y-coordinates of small order, and one that is not on the curve.
BAD_ED = {
    "identity": 1,
    "order 2": P - 1,
    "order 4": 0,
    "order 8": 2707385501144840649318225287225658788936804267575313519463743609750303021402,
    "not on the curve": 2,
    "not canonical": P + 1,
    "2^256-1": 2**256 - 1,
}
NOTHING: frozenset[str] = frozenset()
MARKED = frozenset({"broken", "inbox"})  # the one record that a failure may write, and the report to the program
CONSUMED = frozenset({"session", "seen", "inbox", "skipped"})


def point(number: int) -> bytes:
    return number.to_bytes(32, "little")


# -- changing what is on the wire -----------------------------------------------------------------------------------


def own_key(root: etree._Element, letter: Letter) -> etree._Element:
    (found,) = (key for key in root.iter(f"{{{NS}}}key") if key.get("rid") == str(letter.to.id))
    return found


def with_text(letter: Letter, change: Callable[[str], str]) -> Letter:
    """The letter with the text of its <key> changed."""

    def apply(root: etree._Element) -> None:
        key = own_key(root, letter)
        key.text = change(key.text or "")

    return letter.altered(apply)


def with_data(letter: Letter, change: Callable[[bytes], bytes]) -> Letter:
    return with_text(letter, lambda text: b64encode(change(b64decode(text))).decode())


def with_inner(letter: Letter, **fields: object) -> Letter:
    """Fields of the OMEMOMessage changed; its MAC stays."""

    def change(data: bytes) -> bytes:
        outer = (OMEMOKeyExchange if letter.is_key_exchange else OMEMOAuthenticatedMessage).FromString(data)
        holder = outer.message if letter.is_key_exchange else outer
        inner = OMEMOMessage.FromString(holder.message)
        for name, value in fields.items():
            setattr(inner, name, value)
        holder.message = inner.SerializeToString()
        return outer.SerializeToString()

    return with_data(letter, change)


def with_exchange(letter: Letter, **fields: object) -> Letter:
    def change(data: bytes) -> bytes:
        outer = OMEMOKeyExchange.FromString(data)
        for name, value in fields.items():
            setattr(outer, name, value)
        return outer.SerializePartialToString()

    return with_data(letter, change)


def without(letter: Letter, field: str) -> Letter:
    def change(data: bytes) -> bytes:
        outer = (OMEMOKeyExchange if letter.is_key_exchange else OMEMOAuthenticatedMessage).FromString(data)
        outer.ClearField(field)
        return outer.SerializePartialToString()

    return with_data(letter, change)


def with_mac(letter: Letter, change: Callable[[bytes], bytes]) -> Letter:
    def apply(data: bytes) -> bytes:
        outer = OMEMOAuthenticatedMessage.FromString(data)
        outer.mac = change(outer.mac)
        return outer.SerializeToString()

    return with_data(letter, apply)


def with_payload(letter: Letter, change: Callable[[bytes], bytes]) -> Letter:
    def apply(root: etree._Element) -> None:
        payload = root[1]
        payload.text = b64encode(change(b64decode(payload.text or ""))).decode()

    return letter.altered(apply)


def with_attribute(letter: Letter, name: str, value: str | None) -> Letter:
    def apply(root: etree._Element) -> None:
        target = root[0] if name == "sid" else own_key(root, letter)
        if value is None:
            del target.attrib[name]
        else:
            target.set(name, value)

    return letter.altered(apply)


def with_bytes(letter: Letter, old: bytes, new: bytes) -> Letter:
    assert old in letter.element
    return letter.with_element(letter.element.replace(old, new))


# -- the table ------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """`exchange`: the letter that is changed is a key exchange. `kind`: what it must turn out to be."""

    name: str
    change: Callable[[Letter], Letter]
    kind: Kind = Kind.MALFORMED
    may_change: frozenset[str] = NOTHING
    exchange: bool = False


def keys_and_handshake() -> Iterator[Case]:
    tampered = (Kind.TAMPERED, MARKED)
    for name, number in LOW_ORDER.items():
        bad = point(number)
        yield Case(f"B1 {name} as ratchet key", lambda x, b=bad: with_inner(x, dh_pub=b))  # type: ignore[misc]
        yield Case(f"B1 {name} as ephemeral key", lambda x, b=bad: with_exchange(x, ek=b), exchange=True)  # type: ignore[misc]
        yield Case(f"B1 {name} as first ratchet key", lambda x, b=bad: with_inner(x, dh_pub=b), exchange=True)  # type: ignore[misc]
    for name, number in NOT_CANONICAL.items():
        bad = point(number)
        yield Case(f"B2 {name} as ratchet key", lambda x, b=bad: with_inner(x, dh_pub=b))  # type: ignore[misc]
        yield Case(f"B2 {name} as ephemeral key", lambda x, b=bad: with_exchange(x, ek=b), exchange=True)  # type: ignore[misc]
    for name, number in BAD_ED.items():
        bad = point(number)
        yield Case(f"B3 {name} as identity key", lambda x, b=bad: with_exchange(x, ik=b), exchange=True)  # type: ignore[misc]
    for size in (0, 3, 31, 33, 64):
        bad = bytes((5,)) * size
        yield Case(f"B5 identity key of {size}", lambda x, b=bad: with_exchange(x, ik=b), exchange=True)  # type: ignore[misc]
        yield Case(f"B5 ephemeral key of {size}", lambda x, b=bad: with_exchange(x, ek=b), exchange=True)  # type: ignore[misc]
        yield Case(f"B5 ratchet key of {size}", lambda x, b=bad: with_inner(x, dh_pub=b))  # type: ignore[misc]
    yield Case("B6 sign bit of the identity key", flip_sign_bit, *tampered, exchange=True)
    for name, change in BASE64.items():
        yield Case(f"B7 {name}", lambda x, c=change: with_text(x, c))  # type: ignore[misc]
    for text in IDS:
        yield Case(f"B9 sid {text[:12]!r}", lambda x, t=text: with_attribute(x, "sid", t))  # type: ignore[misc]
    yield Case("B9 no sid", lambda x: with_attribute(x, "sid", None))
    yield Case("B10 no prekey id", lambda x: without(x, "pk_id"), exchange=True)
    yield Case("B10 prekey id 0", lambda x: with_exchange(x, pk_id=0), exchange=True)
    yield Case("B10 prekey id 2^31", lambda x: with_exchange(x, pk_id=2**31), exchange=True)
    yield Case("B10 unknown prekey", lambda x: with_exchange(x, pk_id=77_777), *tampered, exchange=True)
    yield Case("B10 unknown signed prekey", lambda x: with_exchange(x, spk_id=9), *tampered, exchange=True)
    yield Case("B12 another identity key", another_identity, *tampered, exchange=True)
    yield Case("B12 our own identity key", lambda x: with_exchange(x, ik=x.to.device.key), exchange=True)


def flip_sign_bit(letter: Letter) -> Letter:
    def change(data: bytes) -> bytes:
        outer = OMEMOKeyExchange.FromString(data)
        outer.ik = outer.ik[:31] + bytes((outer.ik[31] ^ 0x80,))
        return outer.SerializeToString()

    return with_data(letter, change)


def another_identity(letter: Letter) -> Letter:
    return with_exchange(letter, ik=sign.public_of(b"\x07" * 32))


BASE64: dict[str, Callable[[str], str]] = {
    "a Python literal": lambda text: f"b'{text}'",
    "no padding": lambda text: text.rstrip("=") + ("A" if not text.endswith("=") else ""),
    "padding too many": lambda text: text + "=",
    "white space inside": lambda text: text[:20] + "\n" + text[20:],
    "the URL alphabet": lambda text: "-_" + text[2:],
    "digits of another script": lambda text: "\u0661" + text[1:],
    "trailing bits": lambda text: text[:-4] + "AB==",
    "nothing": lambda _: "",
    "too long": lambda text: text + "AAAA" * messages.MAX_KEY_BYTES,
}
IDS = ("0", "-1", str(2**31), str(2**32), str(10**30), "\u0661", "1 ", "+1", "01", "", "0x1", "1e3")


def ratchet_and_ciphertext() -> Iterator[Case]:
    tampered = (Kind.TAMPERED, MARKED)
    for jump in (1001, 2**31, 2**32 - 1):
        yield Case(f"B14 counter {jump}", lambda x, n=jump: with_inner(x, n=n), *tampered)  # type: ignore[misc]
    yield Case("B14 counter 2^64-1", lambda x: with_data(x, long_counter))
    for size in (0, 1, 15, 17, 32):
        yield Case(f"B16 MAC of {size}", lambda x, n=size: with_mac(x, lambda mac: (mac + mac)[:n]))  # type: ignore[misc]
    yield Case("B16 no MAC", lambda x: without(x, "mac"))
    yield Case("B16 MAC of zeros", lambda x: with_mac(x, lambda mac: bytes(16)), *tampered)
    yield Case("B17 the older namespace", lambda x: with_bytes(x, NS.encode(), b"eu.siacs.conversations.axolotl"))
    yield Case("B17 a version byte before it", lambda x: with_data(x, lambda data: b"\x33" + data))
    for size in (0, 8, 12, 15, 17):
        yield Case(f"B18 payload of {size}", lambda x, n=size: with_payload(x, lambda p: p[:n]), Kind.TAMPERED)  # type: ignore[misc]
        yield Case(f"B18 key ciphertext of {size}", lambda x, n=size: with_inner(x, ciphertext=bytes(n)))  # type: ignore[misc]
    yield Case("B18 key ciphertext too long", lambda x: with_inner(x, ciphertext=bytes(messages.MAX_CIPHERTEXT + 16)))
    yield Case("B19 an unknown field", lambda x: with_data(x, lambda data: data + b"\x78\x01"))
    yield Case("B19 a repeated field", lambda x: with_data(x, lambda data: data + b"\x0a\x10" + bytes(16)))
    yield Case("B19 an over-long varint", lambda x: with_data(x, over_long))
    yield Case("B19 trailing bytes", lambda x: with_data(x, lambda data: data + b"\x00"))
    yield Case("B19 truncated", lambda x: with_data(x, lambda data: data[:-1]))
    yield Case("B19 fields in another order", lambda x: with_data(x, lambda data: data[18:] + data[:18]))
    yield Case("B19 a key exchange under kex=false", lambda x: with_attribute(x, "kex", "false"), exchange=True)
    yield Case("B19 a message under kex=true", lambda x: with_attribute(x, "kex", "true"))
    yield Case("B19 kex is maybe", lambda x: with_attribute(x, "kex", "maybe"))
    yield Case("B26 payload of 0 bytes", lambda x: with_payload(x, lambda p: b""), Kind.TAMPERED)
    yield Case("B26 a block less", lambda x: with_payload(x, lambda p: p[:-16]), Kind.TAMPERED)
    yield Case(
        "B26 payload at the limit", lambda x: with_payload(x, lambda p: bytes(element.MAX_PAYLOAD_BYTES)), Kind.TAMPERED
    )
    yield Case("B26 payload over the limit", lambda x: with_payload(x, lambda p: bytes(element.MAX_PAYLOAD_BYTES + 1)))
    yield Case(
        "B26 over the stanza cap", lambda x: with_bytes(x, b"</header>", b" " * xml.MAX_STANZA_BYTES + b"</header>")
    )


def long_counter(data: bytes) -> bytes:
    outer = OMEMOAuthenticatedMessage.FromString(data)
    assert outer.message[0] == 0x08
    outer.message = b"\x08" + b"\xff" * 9 + b"\x01" + outer.message[2:]
    return outer.SerializeToString()


def over_long(data: bytes) -> bytes:
    assert data[:2] == b"\x0a\x10"
    return b"\x0a\x90\x00" + data[2:]


def stanzas() -> Iterator[Case]:
    def twice(letter: Letter, name: str) -> Letter:
        def apply(root: etree._Element) -> None:
            (found,) = root.findall(f"{{{NS}}}{name}")
            root.append(etree.fromstring(etree.tostring(found)))

        return letter.altered(apply)

    def remove(letter: Letter, name: str) -> Letter:
        def apply(root: etree._Element) -> None:
            for found in list(root.iter(f"{{{NS}}}{name}")):
                parent = found.getparent()
                assert parent is not None
                parent.remove(found)

        return letter.altered(apply)

    def key_twice(root: etree._Element) -> None:
        group = root[0][0]
        group.append(etree.fromstring(etree.tostring(group[0])))

    inside = b"<encrypted xmlns='urn:xmpp:omemo:2'/>"
    older = b"<encrypted xmlns='eu.siacs.conversations.axolotl'><header sid='1'/></encrypted>"
    yield Case("B34 two headers", lambda x: twice(x, "header"))
    yield Case("B34 two payloads", lambda x: twice(x, "payload"))
    yield Case("B34 two keys for one device", lambda x: x.altered(key_twice))
    yield Case("B34 one inside the other", lambda x: with_bytes(x, b"</encrypted>", inside + b"</encrypted>"))
    yield Case("B34 two elements as one", lambda x: x.with_element(x.element + inside))
    yield Case("B34 the older one first", lambda x: x.with_element(older + x.element))
    yield Case("B34 no header", lambda x: remove(x, "header"))
    yield Case("B34 no payload", lambda x: remove(x, "payload"), Kind.TAMPERED)
    yield Case("B34 no keys", lambda x: remove(x, "keys"), Kind.NOT_FOR_US)
    yield Case("B34 keys for nobody", lambda x: with_attribute(x, "rid", "1"), Kind.NOT_FOR_US)
    yield Case("B34 keys under another address", lambda x: with_bytes(x, b"bob@b", b"eve@b"), Kind.NOT_FOR_US)
    yield Case("B34 text in the payload's place", lambda x: with_bytes(x, b"<payload>", b"<payload><x/>"))
    yield Case("B34 too many keys", many_keys)


def many_keys(letter: Letter) -> Letter:
    key = b"<key rid='1'>AA==</key>" * (element.MAX_KEYS + 1)
    return with_bytes(letter, b"</header>", b"<keys jid='eve@e.example'>" + key + b"</keys></header>")


CASES = [*keys_and_handshake(), *ratchet_and_ciphertext(), *stanzas()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_element(case: Case) -> None:
    world, alice, bob = pair() if case.exchange else talking()
    tablet = End(world, BOB)
    world.push_lists()
    alice.say(BOB, "the good copy")
    (letter,) = world.take(bob)
    assert letter.is_key_exchange is case.exchange
    bad = case.change(letter)
    assert bad.element != letter.element
    before = bob.dump()
    opened = bob.read(bad)
    assert opened.kind is case.kind, opened
    assert opened.content is None
    assert changed(before, bob.dump()) <= case.may_change
    assert all(not pipeline.decode_delivery(message).content for _, message in bob.store.inbox()[len(before[2]) :])
    assert not world.take(alice), "nobody is answered"
    assert bob.read(letter).kind is Kind.OPENED, "the key was not burned"
    assert bob.read_texts == ["the good copy"]
    world.settle()
    assert tablet.read_texts == ["the good copy"], "other devices are unaffected"


@pytest.mark.parametrize("exchange", [False, True])
def test_b16_a_bit_flip_at_every_byte(exchange: bool) -> None:
    """Whatever byte of key or payload is touched, nothing opens and nothing but the mark is written."""
    world, alice, bob = pair() if exchange else talking()
    alice.say(BOB, "the good copy")
    (letter,) = world.take(bob)
    before = bob.dump()
    root = etree.fromstring(letter.element)
    lengths = len(b64decode(own_key(root, letter).text or "")), len(b64decode(root[1].text or ""))

    def flip(at: int) -> Callable[[bytes], bytes]:
        return lambda data: data[:at] + bytes((data[at] ^ (1 << at % 8),)) + data[at + 1 :]

    bad = [with_data(letter, flip(at)) for at in range(lengths[0])]
    bad += [with_payload(letter, flip(at)) for at in range(lengths[1])]
    for each in bad:
        opened = bob.read(each)
        assert opened.kind in (Kind.TAMPERED, Kind.MALFORMED)
        assert opened.content is None
    assert changed(before, bob.dump()) <= MARKED
    assert bob.read(letter).kind is Kind.OPENED


def test_b6_the_same_curve_key_under_another_sign_is_another_key() -> None:
    """A peer may present the negative of its identity key: same Curve25519 form, same fingerprint. No trust follows."""
    negated = sign.public_of(bytes(32))
    other = negated[:31] + bytes((negated[31] ^ 0x80,))
    assert sign.public_to_curve(negated) == sign.public_to_curve(other)
    _, alice, bob = talking()

    alice.trust(bob, Trust.VERIFIED)
    flipped = bob.device.key[:31] + bytes((bob.device.key[31] ^ 0x80,))
    of = alice.run(lambda s: Done(decisions.of(s, alice.policy, BOB, flipped)))
    assert of is Trust.UNDECIDED


def test_b12_a_message_reflected_to_its_sender() -> None:
    world, alice, bob = talking()
    alice.say(BOB, "mine")
    (letter,) = world.take(bob)

    def readdress(root: etree._Element) -> None:
        root[0].set("sid", str(bob.id))
        root[0][0].set("jid", ALICE)
        own_key(root, letter).set("rid", str(alice.id))

    reflected = replace(letter.altered(readdress), to=alice).with_stanza(sender=Address(f"{BOB}/x"), to=ALICE)
    before = alice.dump()
    opened = alice.read(reflected)
    assert opened.kind is Kind.TAMPERED
    assert changed(before, alice.dump()) <= MARKED
    assert not alice.read_texts


# -- bundles and lists ----------------------------------------------------------------------------------------------


def bundle_xml(bundle: directory.Bundle, **changes: object) -> bytes:
    return directory.encode_bundle(replace(bundle, **changes))  # type: ignore[arg-type]


def signed(seed: bytes, public: bytes) -> dict[str, bytes]:
    return {"signed_prekey": public, "signature": sign.sign(seed, public)}


def plus_l(signature: bytes) -> bytes:
    number = int.from_bytes(signature[32:], "little") + L
    return signature[:32] + number.to_bytes(32, "little")


SEED = b"\x11" * 32
GOOD = directory.Bundle(sign.public_of(SEED), 1, point(9), sign.sign(SEED, point(9)), {1: point(9), 2: point(10)})


def bad_bundles() -> Iterator[tuple[str, bytes]]:
    good = directory.encode_bundle(GOOD)
    for name, number in NOT_CANONICAL.items():
        yield f"B2 {name} as signed prekey", bundle_xml(GOOD, **signed(SEED, point(number)))
        yield f"B2 {name} as prekey", bundle_xml(GOOD, prekeys={1: point(number)})
    for name, number in BAD_ED.items():
        yield f"B3 {name} as identity key", bundle_xml(GOOD, identity=point(number))
    yield "B4 malleable signature", bundle_xml(GOOD, signature=plus_l(GOOD.signature))
    for size in (0, 3, 31, 33, 64):
        bad = b"\x05" * size
        yield f"B5 identity key of {size}", bundle_xml(GOOD, identity=bad)
        yield f"B5 signed prekey of {size}", bundle_xml(GOOD, **signed(SEED, bad))
        yield f"B5 prekey of {size}", bundle_xml(GOOD, prekeys={1: bad})
        yield f"B5 signature of {size}", bundle_xml(GOOD, signature=bad)
    flipped = GOOD.identity[:31] + bytes((GOOD.identity[31] ^ 0x80,))
    yield "B6 sign bit of the identity key", bundle_xml(GOOD, identity=flipped)
    for name, change in BASE64.items():
        text = b64encode(GOOD.identity).decode()
        yield f"B7 {name}", good.replace(text.encode(), xml.escape(change(text)))
    yield "B8 a wrong signature", bundle_xml(GOOD, signature=bytes(64))
    yield "B8 signed by another device", bundle_xml(GOOD, signature=sign.sign(bytes(32), point(9)))
    yield "B8 the signature of another key", bundle_xml(GOOD, signature=sign.sign(SEED, point(10)))
    yield "B9 no prekeys", bundle_xml(GOOD, prekeys={})
    yield "B9 too many prekeys", bundle_xml(GOOD, prekeys={n: point(9) for n in range(1, MAX_PREKEYS + 2)})
    yield "B9 two prekeys of one id", good.replace(b"id='2'", b"id='1'")
    for text in IDS:
        yield f"B9 prekey id {text[:12]!r}", good.replace(b"<pk id='2'", b"<pk id='%b'" % text.encode())
        yield f"B9 signed prekey id {text[:12]!r}", good.replace(b"<spk id='1'", b"<spk id='%b'" % text.encode())
    yield "B9 no identity key", good.replace(b"ik>", b"no>")
    yield "B9 two identity keys", good.replace(b"<prekeys>", b"<ik>AA==</ik><prekeys>")
    yield "B9 no bundle at all", b"<bundle xmlns='urn:xmpp:omemo:2'/>"
    yield "B9 another element", b"<devices xmlns='urn:xmpp:omemo:2'/>"
    yield "B26 too large", good.replace(b"<prekeys>", b"<prekeys>" + b" " * directory.MAX_BUNDLE_BYTES)


BAD_BUNDLES = dict(bad_bundles())


@pytest.mark.parametrize("name", BAD_BUNDLES)
def test_bad_bundle(name: str) -> None:
    """It is refused by a typed error, costs no other device, and is asked for again later, not at once."""
    payload = BAD_BUNDLES[name]
    with pytest.raises(PeerError):
        directory.parse_bundle(payload)
    world = World()
    alice, bob, bad = End(world, ALICE), End(world, BOB), End(world, BOB)
    world.items[BOB, BUNDLES, str(bad.id)] = payload
    sealed = alice.say(BOB, "hello")
    assert {r.device.id: r.sealed for r in sealed.report} == {bob.id: True, bad.id: False}
    assert changed_kinds(alice, bad) <= {"bundle"}
    world.settle()
    assert bob.read_texts == ["hello"]
    assert not bad.read_texts


def changed_kinds(end: End, about: End) -> set[str]:
    """Kinds of the records that name this device."""
    return {key.kind for key in end.dump()[0] if key.name.startswith(f"{about.address}/{about.id}")}


def test_the_good_bundle_is_good() -> None:
    """The cases above fail for their own reason."""
    assert directory.parse_bundle(directory.encode_bundle(GOOD)) == GOOD
    most = replace(GOOD, prekeys={n: point(9) for n in range(1, MAX_PREKEYS + 1)})
    assert directory.parse_bundle(directory.encode_bundle(most)) == most


@pytest.mark.parametrize("field", ["signed prekey", "prekey"])
@pytest.mark.parametrize("name", LOW_ORDER)
def test_b1_low_order_points_in_a_bundle_start_no_session(name: str, field: str) -> None:
    """They are canonical and may be signed; the agreement finds them."""
    bad = point(LOW_ORDER[name])
    payload = bundle_xml(GOOD, **(signed(SEED, bad) if field == "signed prekey" else {"prekeys": {1: bad}}))
    world, alice, bob = pair()
    world.items[BOB, BUNDLES, str(bob.id)] = payload
    with pytest.raises(NoRecipients):
        alice.say(BOB, "hello")
    assert not alice.kinds("session")
    assert not world.flying


def devices_xml(*ids: object) -> bytes:
    return b"<devices xmlns='urn:xmpp:omemo:2'>%b</devices>" % b"".join(
        b"<device id='%b'/>" % str(i).encode() for i in ids
    )


@pytest.mark.parametrize("text", IDS)
def test_b9_a_list_with_a_bad_id(text: str) -> None:
    with pytest.raises(Malformed):
        directory.parse_devices(devices_xml(5, text))


@pytest.mark.parametrize(
    ("count", "good"), [(0, True), (187, True), (MAX_DEVICES, True), (MAX_DEVICES + 1, False), (5_000, False)]
)
def test_b31_lists_of_many_devices(count: int, good: bool) -> None:
    payload = devices_xml(*range(1, count + 1))
    if good:
        assert len(directory.parse_devices(payload)) == count
    else:
        with pytest.raises(Malformed):
            directory.parse_devices(payload)


def test_b31_an_id_that_comes_twice_counts_once_and_the_largest_is_fine() -> None:
    assert [d.id for d in directory.parse_devices(devices_xml(7, MAX_ID, 7))] == [7, MAX_ID]


def test_b31_a_list_beyond_the_limit_leaves_the_known_one() -> None:

    world, alice, bob = talking()
    alice.learn(Fetched(BOB, DEVICES, "", devices_xml(*range(1, 5_000)), pushed=True))
    alice.say(BOB, "goes on")
    world.settle()
    assert bob.read_texts == ["goes on"]


@pytest.mark.parametrize("signature", ["malleable", "zeros"])
def test_b4_a_label_with_a_bad_signature_is_no_label(signature: str) -> None:
    good = sign.sign(SEED, b"label")
    bad = plus_l(good) if signature == "malleable" else bytes(64)
    assert directory.label_of(directory.ListedDevice(1, "label", good), GOOD.identity) == "label"
    assert directory.label_of(directory.ListedDevice(1, "label", bad), GOOD.identity) == ""


# -- what stands beside and inside the sealed element ---------------------------------------------------------------

BODY = b"<body xmlns='jabber:client'>sealed</body>"


@pytest.mark.parametrize(
    "sibling",
    [
        b"<body xmlns='jabber:client'>in the clear</body>",
        b"<replace xmlns='urn:xmpp:message-correct:0' id='m1'/>",
        b"<reactions xmlns='urn:xmpp:reactions:0' id='m1'><reaction>x</reaction></reactions>",
        b"<subject xmlns='jabber:client'>in the clear</subject>",
    ],
)
def test_b35_content_beside_the_sealed_element_is_dropped_and_reported(sibling: bytes) -> None:
    world, alice, bob = talking()
    alice.say_xml(BOB, BODY)
    opened = bob.read(world.take(bob)[0].with_stanza(siblings=(sibling,)))
    assert opened.kind is Kind.OPENED
    assert opened.content is not None
    assert b"clear" not in opened.content.data
    assert bob.read_texts == ["sealed"]
    assert any(note.startswith("Dropped from the plain part") for note in opened.notes)


def sealed_as(world: World, alice: End, bob: End, plaintext: bytes) -> Letter:
    """What a modified client could seal: any bytes as the envelope."""
    alice.say(BOB, "for its stanza")
    (letter,) = world.take(bob)
    target = Target(BOB, (bob.device,))
    sealed = alice.run(lambda s: alice.scheme.seal(s, plaintext, target, world.now))
    return letter.with_element(sealed.element)


def envelope(**changes: object) -> bytes:
    affixes: dict[str, object] = {"sender": ALICE, "time": None} | changes
    return codec.encode(Envelope(Content(BODY), **affixes), bytes)  # type: ignore[arg-type]


REFUSED: dict[str, Callable[[World], bytes]] = {
    "B36 from somebody else": lambda w: envelope(sender=CAROL),
    "B36 from a look-alike resource": lambda w: envelope(sender=Address(f"{ALICE}/other")),
    "B36 to somebody else": lambda w: envelope(to=CAROL),
    "B36 from the far future": lambda w: envelope(time=w.now + 10 * 86_400),
    "B36 sealed long ago": lambda w: envelope(time=w.now - 90 * 86_400),
    "B36 no padding": lambda w: envelope().partition(b"<rpad>")[0] + b"</envelope>",
    "B36 two senders": lambda w: envelope().replace(b"<rpad>", b"<from jid='carol@c.example'/><rpad>"),
    "B36 no content": lambda w: b"<envelope xmlns='urn:xmpp:sce:1'><rpad/></envelope>",
    "B36 an IQ's envelope": lambda w: envelope(iq=("get", "1")),
    "B36 a time that is none": lambda w: envelope().replace(b"<rpad>", b"<time stamp='today'/><rpad>"),
    "B26 an envelope of 0 bytes": lambda w: b"",
    "B32 a DOCTYPE inside": lambda w: b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + envelope(),
    "B33 nested inside": lambda w: envelope().replace(BODY, b"<x xmlns='x'>" * 200 + b"</x>" * 200),
    "not UTF-8": lambda w: b"\xff" * 32,
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_envelope_that_does_not_fit_is_refused_and_its_key_is_used_up(name: str) -> None:
    world, alice, bob = talking()
    letter = sealed_as(world, alice, bob, REFUSED[name](world))
    before = bob.dump()
    opened = bob.read(letter)
    assert opened.kind is Kind.REFUSED, opened
    assert opened.content is None
    assert opened.error
    assert changed(before, bob.dump()) <= CONSUMED
    assert not bob.read_texts
    (_, message) = bob.store.inbox()[-1]
    assert pipeline.decode_delivery(message).content == ""
    assert bob.read(letter).kind is Kind.DUPLICATE
    alice.say(BOB, "the session goes on")
    world.settle()
    assert bob.read_texts == ["the session goes on"]


def test_b36_a_message_under_another_name_is_refused() -> None:
    """Carol can't pass on what Alice sealed for Bob as hers: the envelope names Alice, and the session is Alice's."""
    world, alice, bob = talking()
    alice.say(BOB, "mine")
    (letter,) = world.take(bob)
    before = bob.dump()
    assert bob.read(letter.with_stanza(sender=Address(f"{CAROL}/x"))).kind is Kind.NO_SESSION
    assert changed(before, bob.dump()) <= {"repair", "inbox"}
    assert bob.read(letter).kind is Kind.OPENED


@pytest.mark.parametrize(
    "server_only",
    [b"<delay xmlns='urn:xmpp:delay' stamp='2001-01-01T00:00:00Z'/>", b"<store xmlns='urn:xmpp:hints'/>"],
)
def test_b36_elements_of_servers_inside_are_discarded_and_the_rest_is_delivered(server_only: bytes) -> None:
    world, alice, bob = talking()
    letter = sealed_as(world, alice, bob, envelope().replace(BODY, BODY + server_only))
    opened = bob.read(letter)
    assert opened.kind is Kind.OPENED
    assert opened.content is not None
    assert b"urn:xmpp:delay" not in opened.content.data
    assert b"hints" not in opened.content.data
    assert any("Discarded" in note for note in opened.notes)


def test_declarations_copied_to_every_child_do_not_grow_without_bound() -> None:
    """A long namespace on <content> and thousands of children that use it: each is serialised with its own copy."""
    world, alice, bob = talking()
    children = b"<n:a/>" * 5_000
    content = b"<content xmlns:n='urn:%b'>" % (b"x" * 60_000) + children + b"</content>"
    plaintext = envelope().replace(b"<content>" + BODY + b"</content>", content)
    opened = bob.read(sealed_as(world, alice, bob, plaintext))
    assert opened.kind is Kind.REFUSED
