"""Keys, certificates and messages of OpenPGP: what is sealed opens, what strangers add counts for nothing."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pysequoia
import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from hypothesis import given, settings
from hypothesis import strategies as st
from pysequoia import Tsk

from support import fuzz
from tillie.crypto import certificates, openpgp, packets, pkesk, secretkeys, seipd, selfsign
from tillie.crypto.openpgp import Certificate, SecretKey
from tillie.crypto.packets import (
    COMPRESSED,
    LITERAL,
    ONE_PASS,
    PKESK,
    TRUST,
    USER_ID,
    Packet,
    encode,
    split,
)
from tillie.errors import BadKey, BadSignature, Malformed, NoRecipients, PeerError, Undecryptable, UsageError
from tillie.model import Address

NOW = 4_000_000_000.0
TEXT = b"<signcrypt xmlns='urn:xmpp:openpgp:0'/>" * 5


def _joined(*found: Packet) -> bytes:
    return b"".join(map(encode, found))


def _library(certificate: Certificate) -> pysequoia.Cert:
    return pysequoia.Cert.from_bytes(certificate.data)


def _sequoia(user_id: str) -> SecretKey:
    """A key as the library makes it: three parts, and it reads SEIPD version 2."""
    (secret,) = openpgp.parse_secret_keys(bytes(Tsk.generate(user_id, validity_seconds=None)))
    return secret


ME = openpgp.generate("xmpp:juliet@capulet.lit")
HIM = openpgp.generate("xmpp:romeo@montague.lit")
OTHER = _sequoia("xmpp:nurse@capulet.lit")
CERTIFICATE = ME.certificate
MESSAGE = openpgp.signcrypt(TEXT, HIM, [CERTIFICATE])
PARTS = split(CERTIFICATE.data)  # primary key, user id, its signature, subkey, its signature


# -- messages ---------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=3_000))
@settings(max_examples=30)
def test_round_trip(text: bytes) -> None:
    to = [CERTIFICATE, OTHER.certificate]
    sealed = openpgp.signcrypt(text, HIM, to)
    senders = [OTHER.certificate, HIM.certificate]
    for secret in (ME, OTHER):
        assert openpgp.open_signcrypt(sealed, [HIM, secret], senders) == (text, (HIM.fingerprint,))
        assert openpgp.reads(secret) & set(openpgp.recipients(sealed))
    assert openpgp.open_crypt(openpgp.crypt(text, to), [ME]) == (text, ())
    signed = openpgp.sign(text, HIM)
    assert openpgp.open_sign(signed, senders) == (text, (HIM.fingerprint,))
    assert openpgp.recipients(signed) == ()
    signature = openpgp.sign_detached(text, HIM)
    assert openpgp.verify_detached(signature, text, senders) == HIM.certificate
    assert HIM.certificate.has_key(openpgp.issuer(signature))
    assert not OTHER.certificate.has_key(openpgp.issuer(signature))


def test_only_who_it_is_for_and_only_from_whom() -> None:
    with pytest.raises(Undecryptable):
        openpgp.open_signcrypt(MESSAGE, [HIM, OTHER], [HIM.certificate])
    with pytest.raises(Undecryptable):
        openpgp.open_signcrypt(MESSAGE, [], [HIM.certificate])
    for senders in ([], [CERTIFICATE, OTHER.certificate]):
        with pytest.raises(BadSignature):
            openpgp.open_signcrypt(MESSAGE, [ME], senders)
        with pytest.raises(BadSignature):
            openpgp.open_sign(openpgp.sign(TEXT, HIM), senders)
        with pytest.raises(BadSignature):
            openpgp.verify_detached(openpgp.sign_detached(TEXT, HIM), TEXT, senders)
    with pytest.raises(BadSignature):
        openpgp.open_signcrypt(openpgp.crypt(TEXT, [CERTIFICATE]), [ME], [HIM.certificate])
    with pytest.raises(NoRecipients):
        openpgp.signcrypt(TEXT, ME, [])


def test_ours_is_what_gnupg_and_gopenpgp_read() -> None:
    """RFC 4880: session keys of version 3, SEIPD of version 1; as long as nobody asks for more."""
    *session_keys, container = split(openpgp.signcrypt(TEXT, ME, [HIM.certificate, CERTIFICATE, OTHER.certificate]))
    assert [packet.body[0] for packet in session_keys] == [3, 3, 3]
    assert container.body[0] == 1


@pytest.mark.parametrize("cipher_suite", ["Cv25519", "RSA2k", "P256", "P384", "P521"])
def test_keys_of_sequoia(cipher_suite: str) -> None:
    """They are written to with session keys of version 6 and SEIPD of version 2 (RFC 9580)."""
    suite = getattr(pysequoia.CipherSuite, cipher_suite)
    made = Tsk.generate("xmpp:tybalt@capulet.lit", cipher_suite=suite, validity_seconds=None)
    (secret,) = openpgp.parse_secret_keys(bytes(made))
    message = openpgp.signcrypt(TEXT, secret, [secret.certificate])
    first, *_, container = split(message)
    assert (first.body[0], container.body[0]) == (6, 2)
    assert openpgp.open_signcrypt(message, [secret], [secret.certificate]).plaintext == TEXT
    for at in (*range(0, len(message), 11), len(message) - 1):
        _altered(message, at, [secret], [secret.certificate])
    with pytest.raises(PeerError):
        openpgp.open_signcrypt(message[: -16 - 200], [secret], [secret.certificate])


def test_versions_are_not_mixed() -> None:
    """RFC 9580 section 10.3.2.1: a container with AEAD only behind a session key that was made for one."""
    *first, container = split(openpgp.crypt(TEXT, [OTHER.certificate]))
    ((cipher, key),) = pkesk.session_keys([packet.body for packet in first], openpgp._decryption_keys(OTHER.data))
    assert (cipher, container.body[0]) == (0, 2)
    assert seipd.literal(seipd.unseal(container, key, 0), max_bytes=len(TEXT)) == TEXT
    with pytest.raises(Undecryptable):
        seipd.unseal(container, key, 9)
    with pytest.raises(Undecryptable):
        seipd.unseal(split(seipd.seal(key, TEXT))[0], key, 0)


def test_checksum_of_a_session_key() -> None:
    """RFC 4880 section 5.1, with the one algorithm that has no integrity of its own."""
    made = Tsk.generate("xmpp:tybalt@capulet.lit", cipher_suite=pysequoia.CipherSuite.RSA2k, validity_seconds=None)
    key = openpgp._decryption_keys(bytes(made))[-1]
    session = bytes(range(32))
    for error in (0, 1):
        framed = b"\x09" + session + (sum(session) + error).to_bytes(2, "big")
        sealed = pkesk.rsa_key(key).public_key().encrypt(framed, PKCS1v15())
        number = int.from_bytes(sealed, "big")
        mpi = number.bit_length().to_bytes(2, "big") + number.to_bytes(number.bit_length() + 7 >> 3, "big")
        found = list(pkesk.session_keys([b"\x03" + key.key_id + b"\x01" + mpi], [key]))
        assert found == ([] if error else [(9, session)])


def _altered(message: bytes, at: int, secrets: list[SecretKey], senders: list[Certificate]) -> None:
    """One bit flipped: it does not open; unless it is the bit count of an integer, which nothing protects."""
    altered = bytearray(message)
    altered[at] ^= 1
    try:
        assert openpgp.open_signcrypt(bytes(altered), secrets, senders).plaintext == TEXT
        assert at < len(message) - len(split(message)[-1].body)
    except PeerError:
        pass


@pytest.mark.parametrize("bit", range(0, 8, 3))
def test_any_bit_flipped(bit: int) -> None:
    for at in range(len(MESSAGE)):
        altered = bytearray(MESSAGE)
        altered[at] ^= 1 << bit
        try:
            assert openpgp.open_signcrypt(bytes(altered), [ME], [HIM.certificate]).plaintext == TEXT
            assert at < len(MESSAGE) - len(split(MESSAGE)[-1].body)
        except PeerError:
            pass


def test_cut_short_anywhere() -> None:
    for at in range(len(MESSAGE)):
        with pytest.raises(PeerError):
            openpgp.open_signcrypt(MESSAGE[:at], [ME], [HIM.certificate])
    signed, signature = openpgp.sign(TEXT, HIM), openpgp.sign_detached(TEXT, HIM)
    for at in range(len(signed)):
        with pytest.raises(PeerError):
            openpgp.open_sign(signed[:at], [HIM.certificate])
    for at in range(len(signature)):
        with pytest.raises(PeerError):
            openpgp.verify_detached(signature[:at], TEXT, [HIM.certificate])


def test_a_wrong_session_key_tells_nothing() -> None:
    """Padding, checksum, cipher, integrity: whatever is wrong behind the key id, the answer is one."""
    told = set()
    start = len(MESSAGE) - len(split(MESSAGE)[-1].body)
    for at in (*range(16, start - 8, 7), start + 1, start + 30, len(MESSAGE) - 1):
        altered = bytearray(MESSAGE)
        altered[at] ^= 4
        try:
            openpgp.open_signcrypt(bytes(altered), [ME], [HIM.certificate])
        except PeerError as error:
            told.add((type(error), str(error)))
    assert len(told) == 1


SIGNED = openpgp.sign(TEXT, HIM)
SIGNED_DETACHED = openpgp.sign_detached(TEXT, HIM)
DECODERS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "signcrypt": (MESSAGE, lambda data: openpgp.open_signcrypt(data, [ME], [HIM.certificate], max_bytes=1 << 16)),
    "crypt": (openpgp.crypt(TEXT, [CERTIFICATE]), lambda data: openpgp.open_crypt(data, [ME], max_bytes=1 << 16)),
    "sign": (SIGNED, lambda data: openpgp.open_sign(data, [HIM.certificate], max_bytes=1 << 16)),
    "recipients": (MESSAGE, openpgp.recipients),
    "detached": (SIGNED_DETACHED, lambda data: openpgp.verify_detached(data, TEXT, [HIM.certificate])),
    "issuer": (SIGNED_DETACHED, openpgp.issuer),
    "certificate": (OTHER.certificate.data, openpgp.parse_certificate),
    "secret keys": (ME.data, openpgp.parse_secret_keys),
    "merge": (CERTIFICATE.data, lambda data: openpgp.merge(CERTIFICATE, openpgp.parse_certificate(data))),
}


@pytest.mark.parametrize("name", DECODERS)
@given(seed=st.integers())
@settings(max_examples=150)
def test_mutated(name: str, seed: int) -> None:
    data, decode = DECODERS[name]
    try:
        decode(fuzz.mutate(data, Random(seed)))
    except PeerError:
        pass


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.binary(max_size=300))
@settings(max_examples=50)
def test_garbage(name: str, data: bytes) -> None:
    with pytest.raises(PeerError):
        DECODERS[name][1](data)


@pytest.mark.parametrize("name", DECODERS)
def test_armour_is_refused(name: str) -> None:
    data, decode = DECODERS[name]
    with pytest.raises(Malformed, match="binary"):
        decode(pysequoia.armor(data, pysequoia.ArmorKind.Message).encode())


def test_detached_is_one_signature_and_nothing_else() -> None:
    compressed = encode(Packet(COMPRESSED, b"\x00" + SIGNED_DETACHED))
    for wrong in (SIGNED_DETACHED * 2, SIGNED_DETACHED + b"x", compressed, CERTIFICATE.data, SIGNED, b""):
        with pytest.raises(Malformed):
            openpgp.verify_detached(wrong, TEXT, [HIM.certificate])
    (packet,) = split(SIGNED_DETACHED)
    for start in (b"\x04\x01", b"\x03\x00", b"\x06\x00"):  # over text, and of other versions
        with pytest.raises(Malformed):
            openpgp.verify_detached(encode(packet._replace(body=start + packet.body[2:])), TEXT, [HIM.certificate])
    with pytest.raises(Malformed, match="too large"):
        openpgp.issuer(bytes(openpgp.MAX_SIGNATURE + 1))
    with pytest.raises(Malformed, match="binary"):
        openpgp.issuer(bytes(openpgp.MAX_SIGNATURE))


def _to_me(inner: bytes) -> bytes:
    """A message for us whose inside is what a hostile sender likes."""
    *keys, _ = split(MESSAGE)
    ((_, session),) = pkesk.session_keys([packet.body for packet in keys], openpgp._decryption_keys(ME.data))
    return _joined(*keys) + seipd.seal(session, inner)


SIGNED_PARTS = split(SIGNED)


@pytest.mark.parametrize(
    "inner",
    [
        b"",
        SIGNED * 2,
        _joined(*SIGNED_PARTS[:2]),
        _joined(*SIGNED_PARTS[1:]),
        _joined(*SIGNED_PARTS, SIGNED_PARTS[1]),
        _joined(SIGNED_PARTS[0], SIGNED_PARTS[1], SIGNED_PARTS[1], SIGNED_PARTS[2]),
        _joined(SIGNED_PARTS[0], Packet(LITERAL, b"b"), SIGNED_PARTS[2]),
        _joined(SIGNED_PARTS[0], Packet(COMPRESSED, b"\x00" + encode(SIGNED_PARTS[1])), SIGNED_PARTS[2]),
        MESSAGE,
        CERTIFICATE.data,
    ],
)
def test_refused_inside(inner: bytes) -> None:
    assert openpgp.open_signcrypt(_to_me(SIGNED), [ME], [HIM.certificate]).plaintext == TEXT
    with pytest.raises(Malformed):
        openpgp.open_signcrypt(_to_me(inner), [ME], [HIM.certificate])
    with pytest.raises(Malformed):
        openpgp.open_sign(inner, [HIM.certificate])


@pytest.mark.parametrize("count", [seipd.MAX_SIGNATURES, seipd.MAX_SIGNATURES + 1])
def test_signatures_of_a_message_are_bounded(count: int) -> None:
    once, text, signature = SIGNED_PARTS
    outer = Packet(ONE_PASS, once.body[:-1] + b"\x00")
    inner = _joined(*[outer] * (count - 1), once, text, *[signature] * count)
    if count <= seipd.MAX_SIGNATURES:
        assert openpgp.open_sign(inner, [HIM.certificate]).signers == (HIM.fingerprint,)
    else:
        with pytest.raises(Malformed):
            openpgp.open_sign(inner, [HIM.certificate])


def test_session_keys_are_bounded() -> None:
    """Each that is for us, or for nobody by name, costs a key agreement."""
    *_, container = split(MESSAGE)
    hidden = Packet(PKESK, b"\x03" + bytes(8) + split(MESSAGE)[0].body[9:])
    good = split(MESSAGE)[0]._replace(body=hidden.body)
    wrong = hidden._replace(body=hidden.body[:-1] + bytes((hidden.body[-1] ^ 1,)))
    for count, opens in ((pkesk.MAX_HIDDEN - 1, True), (pkesk.MAX_HIDDEN, False)):
        message = _joined(*[wrong] * count, good, container)
        if opens:
            assert openpgp.open_signcrypt(message, [ME], [HIM.certificate]).plaintext == TEXT
        else:
            with pytest.raises(Undecryptable):
                openpgp.open_signcrypt(message, [ME], [HIM.certificate])
    with pytest.raises(Malformed, match="too many"):
        openpgp.recipients(_joined(*[good] * (openpgp.MAX_PKESKS + 8), container))


# -- certificates -----------------------------------------------------------------------------------------------------


def test_generated() -> None:
    assert CERTIFICATE.user_ids == ("xmpp:juliet@capulet.lit",)
    assert (CERTIFICATE.expires, CERTIFICATE.revoked, CERTIFICATE.weak) == (None, False, False)
    assert CERTIFICATE.why_unusable(NOW) == ""
    assert len(CERTIFICATE.fingerprint) == 20
    assert [key.fingerprint[-8:] for key in CERTIFICATE.encryption] == list(openpgp.reads(ME))
    assert openpgp.parse_certificate(CERTIFICATE.data) == CERTIFICATE
    assert openpgp.parse_secret_keys(ME.data) == (ME,)
    assert openpgp.parse_secret_keys(ME.data + OTHER.data) == (ME, OTHER)


@pytest.mark.parametrize(
    ("user_id", "named"),
    [
        ("xmpp:juliet@capulet.lit", True),
        ("xmpp:Juliet@CAPULET.lit", True),
        ("xmpp:juliet@capulet.lit.", True),
        ("xmpp:juliet@capulet.lit/balcony", False),
        ("xmpp:juliet@capulet.lit.evil.example", False),
        ("XMPP <xmpp:juliet@capulet.lit>", False),
        ("juliet@capulet.lit", False),
        ("xmpp:jul\u0456et@capulet.lit", False),  # a Cyrillic letter
        ("xmpp:", False),
    ],
)
def test_names(user_id: str, named: bool) -> None:
    certificate = openpgp.generate(user_id).certificate
    assert certificate.names(Address("juliet@capulet.lit")) is named
    assert certificate.names(Address("juliet@capulet.lit/chamber")) is named


def test_secrets_are_not_shown() -> None:
    shown = f"{ME!r} {ME} {[ME]} {openpgp._decryption_keys(ME.data)}"
    assert ME.fingerprint.hex().upper() in shown
    secrets = [key.secret for key in openpgp._decryption_keys(ME.data)]
    for secret in (ME.data, *secrets):
        assert repr(secret)[2:20] not in shown
        assert secret.hex() not in shown
    assert "wherefore" not in repr(openpgp.Message(b"wherefore", ()))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", Malformed),
        (ME.data, Malformed),  # secret where public is due
        (CERTIFICATE.data + HIM.certificate.data, Malformed),
        (CERTIFICATE.data + b"x", Malformed),
        (_joined(*PARTS[1:]), Malformed),
        (_joined(*PARTS, Packet(LITERAL, b"b\0\0\0\0\0")), Malformed),
        (_joined(*PARTS, split(ME.data)[3]), Malformed),
        (_joined(PARTS[0]._replace(body=b"\x03" + PARTS[0].body[1:]), *PARTS[1:]), BadKey),
        (_joined(*PARTS[:3], PARTS[3]._replace(body=b"\x06" + PARTS[3].body[1:])), BadKey),
        (MESSAGE, Malformed),
    ],
)
def test_not_a_certificate(data: bytes, error: type[PeerError]) -> None:
    with pytest.raises(error):
        openpgp.parse_certificate(data)


def test_version_6_is_refused() -> None:
    made = Tsk.generate("xmpp:juliet@capulet.lit", profile=pysequoia.Profile.RFC9580)
    with pytest.raises(BadKey):
        openpgp.parse_certificate(bytes(made.extract_certificate()))
    with pytest.raises(BadKey):
        openpgp.parse_secret_keys(bytes(made))


def test_cut_short_it_says_less_never_more() -> None:
    whole = OTHER.certificate
    for at in range(len(whole.data)):
        try:
            part = openpgp.parse_certificate(whole.data[:at])
        except PeerError:
            continue
        assert part.fingerprint == whole.fingerprint
        assert set(part.user_ids) <= set(whole.user_ids)
        assert set(part.encryption) <= set(whole.encryption)
        assert openpgp.merge(part, whole) == whole


def test_altered_it_says_nothing_new() -> None:
    whole = OTHER.certificate
    for at in range(0, len(whole.data), 3):
        altered = bytearray(whole.data)
        altered[at] ^= 1 << at % 8
        try:
            found = openpgp.parse_certificate(bytes(altered))
        except PeerError:
            continue
        if found.fingerprint == whole.fingerprint:
            assert set(found.user_ids) <= set(whole.user_ids)
            assert set(found.encryption) <= set(whole.encryption)
        else:
            assert found.why_unusable(NOW)


def test_what_strangers_add_counts_for_nothing() -> None:
    """A server can put any packet into what it hands out."""
    his = split(HIM.certificate.data)
    revocation = bytes(_library(CERTIFICATE).revoke(Tsk.from_bytes(HIM.data).certifier()))
    certified = _library(CERTIFICATE).add_user_id("xmpp:mallory@evil.example", Tsk.from_bytes(HIM.data).certifier())
    for added in (revocation, _joined(*his[1:3]), _joined(*his[3:]), bytes(certified), _joined(*PARTS[:1], *his[1:])):
        start = added if split(added)[0].tag == packets.PUBLIC_KEY else CERTIFICATE.data + added
        found = openpgp.parse_certificate(start)
        assert not found.revoked
        assert set(found.user_ids) <= set(CERTIFICATE.user_ids)
        assert set(found.encryption) <= set(CERTIFICATE.encryption)
        merged = openpgp.merge(CERTIFICATE, found)
        assert merged.why_unusable(NOW) == ""
        assert openpgp.recipients(openpgp.crypt(TEXT, [merged])) == tuple(openpgp.reads(ME))
    assert openpgp.parse_certificate(CERTIFICATE.data + revocation).data == CERTIFICATE.data


def test_a_forged_revocation_in_our_name() -> None:
    (revocation,) = split(bytes(_library(CERTIFICATE).revoke(Tsk.from_bytes(ME.data).certifier())))
    forged = revocation._replace(body=revocation.body[:-1] + bytes((revocation.body[-1] ^ 1,)))
    assert not openpgp.parse_certificate(CERTIFICATE.data + encode(forged)).revoked
    assert openpgp.parse_certificate(CERTIFICATE.data + encode(revocation)).revoked


def test_revoked() -> None:
    with pytest.raises(UsageError):
        openpgp.sign(TEXT, openpgp.revoke(OTHER))
    revoked = openpgp.revoke(ME)
    assert revoked.certificate.why_unusable(NOW) == "revoked"
    assert openpgp.open_signcrypt(MESSAGE, [revoked], [HIM.certificate]).plaintext == TEXT
    with pytest.raises(UsageError):
        openpgp.sign(TEXT, revoked)
    with pytest.raises(BadSignature):
        openpgp.open_sign(openpgp.sign(TEXT, ME), [revoked.certificate])
    for merged in (
        openpgp.merge(CERTIFICATE, revoked.certificate),
        openpgp.merge(revoked.certificate, CERTIFICATE),
        openpgp.with_certificate(ME, revoked.certificate).certificate,
    ):
        assert merged.revoked
    with pytest.raises(BadKey):
        openpgp.merge(CERTIFICATE, HIM.certificate)
    with pytest.raises(BadKey):
        openpgp.with_certificate(ME, HIM.certificate)


def test_expired() -> None:
    """As the library sets it: an expiry of the whole certificate."""
    made = Tsk.generate("xmpp:juliet@capulet.lit", validity_seconds=1_000)
    certificate = openpgp.parse_certificate(bytes(made.extract_certificate()))
    expires = certificate.expires
    assert expires == certificate.created + 1_000
    assert certificate.why_unusable(expires - 1) == ""
    assert certificate.why_unusable(expires) == "expired"


def test_only_a_key_that_never_expires_is_kept_ready_to_sign() -> None:
    """The library's object would sign after the end without complaint."""
    ending = bytes(Tsk.generate("xmpp:juliet@capulet.lit", validity_seconds=1_000))
    assert not openpgp._is_lasting(ending)
    assert openpgp._is_lasting(ME.data)
    (secret,) = openpgp.parse_secret_keys(ending)
    assert openpgp._signer(secret) is not openpgp._signer(secret)
    assert openpgp._signer(ME) is openpgp._signer(ME)


def test_the_newest_binding_counts_unless_it_is_forged() -> None:
    primary, subkey = secretkeys.read(ME.data)
    made = int(CERTIFICATE.created)

    def binding(created: int, seconds: int) -> Packet:
        about = b"\x02\x1b\x0c" + (b"\x05\x09" + seconds.to_bytes(4, "big") if seconds else b"")
        return selfsign._signature(primary, selfsign.SUBKEY_BINDING, about, created, subkey.hashed)

    first, second, third = binding(made, 0), binding(made + 10, 500), binding(made + 20, 0)
    forged = third._replace(body=third.body[:-1] + bytes((third.body[-1] ^ 1,)))
    for signatures, expires in (
        ((first,), None),
        ((first, second), made + 500),
        ((second, first, forged), made + 500),
        ((second, first, third), None),
    ):
        found = openpgp.parse_certificate(_joined(*PARTS[:4], *signatures))
        assert [key.expires for key in found.encryption] == [expires]


def test_no_user_id() -> None:
    made = Tsk.generate(validity_seconds=None)
    assert openpgp.parse_certificate(bytes(made.extract_certificate())).why_unusable(NOW) == "no valid user id"
    bare = openpgp.parse_certificate(encode(PARTS[0]))
    assert bare.why_unusable(NOW)
    with pytest.raises(BadKey):
        openpgp.crypt(TEXT, [bare])


def test_two_user_ids() -> None:
    for secret in (ME, OTHER):
        both = openpgp.add_user_id(secret, "xmpp:j@verona.example")
        assert set(both.certificate.user_ids) == {*secret.certificate.user_ids, "xmpp:j@verona.example"}
        assert both.certificate.encryption == secret.certificate.encryption
        assert openpgp.add_user_id(both, "xmpp:j@verona.example") == both
        assert openpgp.merge(secret.certificate, both.certificate).names(Address("j@verona.example"))
        signed = openpgp.sign(TEXT, both)
        assert openpgp.open_sign(signed, [secret.certificate]).signers == (secret.fingerprint,)
    *_, container = split(openpgp.crypt(TEXT, [openpgp.add_user_id(ME, "xmpp:j@x.example").certificate]))
    assert container.body[0] == 1  # still what GnuPG reads


def test_certificate_size_has_an_edge() -> None:
    room = certificates.MAX_CERTIFICATE - len(CERTIFICATE.data)
    filled = CERTIFICATE.data + encode(Packet(TRUST, bytes(room - 6)))
    assert len(filled) == certificates.MAX_CERTIFICATE
    assert openpgp.parse_certificate(filled) == CERTIFICATE
    with pytest.raises(Malformed, match="too large"):
        openpgp.parse_certificate(CERTIFICATE.data + encode(Packet(TRUST, bytes(room - 5))))


@pytest.mark.parametrize(
    ("more", "limit"),
    [
        (lambda at: [Packet(USER_ID, b"xmpp:%d@x.example" % at)], certificates.MAX_USER_IDS - 1),
        (lambda at: [PARTS[3]._replace(body=PARTS[3].body[:-9] + b"%09d" % at)], certificates.MAX_SUBKEYS - 1),
        (lambda at: [PARTS[4]._replace(body=PARTS[4].body[:-3] + b"%03d" % at)], certificates.MAX_SIGNATURES - 2),
    ],
)
def test_parts_of_a_certificate_are_bounded(more: Callable[[int], list[Packet]], limit: int) -> None:
    for count in (limit, limit + 1):
        data = CERTIFICATE.data + _joined(*[packet for at in range(count) for packet in more(at)])
        if count == limit:
            assert openpgp.parse_certificate(data).encryption == CERTIFICATE.encryption
        else:
            with pytest.raises(BadKey):
                openpgp.parse_certificate(data)


def test_signatures_of_others_do_not_count_towards_the_limit() -> None:
    (stranger,) = split(bytes(_library(CERTIFICATE).revoke(Tsk.from_bytes(HIM.data).certifier())))
    many = CERTIFICATE.data + encode(stranger) * (2 * certificates.MAX_SIGNATURES)
    assert openpgp.parse_certificate(many) == CERTIFICATE


# -- secret keys ------------------------------------------------------------------------------------------------------


def test_secret_keys_are_bounded() -> None:
    assert len(openpgp.parse_secret_keys(ME.data * openpgp.MAX_SECRET_KEYS)) == openpgp.MAX_SECRET_KEYS
    with pytest.raises(Malformed):
        openpgp.parse_secret_keys(ME.data * (openpgp.MAX_SECRET_KEYS + 1))


def test_not_secret_keys() -> None:
    first = split(ME.data)[0]
    damaged = first._replace(body=first.body[:-1] + bytes((first.body[-1] ^ 1,)))
    for wrong in (CERTIFICATE.data, CERTIFICATE.data + ME.data, MESSAGE, encode(damaged), b"", b"\xc5\x00"):
        with pytest.raises(PeerError):
            openpgp.parse_secret_keys(wrong)
    with pytest.raises(UsageError):
        openpgp.import_secret_keys(pysequoia.armor(CERTIFICATE.data, pysequoia.ArmorKind.PublicKey).encode())


def test_import_of_armour() -> None:
    armoured = pysequoia.armor(ME.data, pysequoia.ArmorKind.SecretKey).encode()
    assert openpgp.import_secret_keys(armoured) == (ME,)
    assert openpgp.import_secret_keys(b"\n" + armoured.replace(b"\n", b"\r\n") * 2) == (ME, ME)
    for wrong in (armoured[:-40], armoured.replace(b"\n\n", b"\n"), armoured.replace(b"x", b"*")):
        with pytest.raises((PeerError, UsageError)):
            openpgp.import_secret_keys(wrong)


@given(seed=st.integers())
@settings(max_examples=100)
def test_mutated_imports(seed: int) -> None:
    for data in (ME.data, pysequoia.armor(ME.data, pysequoia.ArmorKind.SecretKey).encode()):
        try:
            openpgp.import_secret_keys(fuzz.mutate(data, Random(seed)), "x")
        except (PeerError, UsageError):
            pass


def test_container_needs_a_session_key() -> None:
    with pytest.raises(Malformed):
        openpgp.recipients(encode(split(MESSAGE)[-1]))
    with pytest.raises(Malformed):
        openpgp.open_signcrypt(_joined(split(MESSAGE)[0], Packet(packets.SED, bytes(60))), [ME], [])
