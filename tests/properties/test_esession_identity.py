"""Public keys in negotiations of XEP-0116: given, hashed or absent; RSA and Ed25519; four messages and three."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.negotiating import FAST, Negotiation, fails, talk, with_octets, with_options, with_values, without
from tillie.crypto import rsa, sign
from tillie.errors import BadKey, BadSignature, Malformed, NegotiationFailed, UsageError
from tillie.schemes.esession import identity as identities
from tillie.schemes.esession.identity import (
    ED25519,
    RSA_SHA256,
    RSA_SHA256_MORE,
    Ed25519Identity,
    Identity,
    RsaIdentity,
)
from tillie.schemes.esession.settings import Settings, Shield
from tillie.wire import base64
from tillie.wire.forms import Field, Form, write

NOT_ACCEPTABLE, NOT_IMPLEMENTED = "not-acceptable", "feature-not-implemented"
RSA_A, RSA_B = RsaIdentity.generate(), RsaIdentity.generate()
ED_A, ED_B = Ed25519Identity.generate(), Ed25519Identity.generate()
PAIRS = [pytest.param(RSA_A, RSA_B, id="rsa"), pytest.param(ED_A, ED_B, id="ed25519")]


def giving(identity: Identity, *ways: str, take: tuple[str, ...] = ("key", "none"), **more: object) -> Settings:
    return replace(FAST, identity=identity, own_key=ways or ("key",), peer_key=take, **more)  # type: ignore[arg-type]


# -- four messages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_both_give_keys(a: Identity, b: Identity) -> None:
    ours, theirs = Negotiation(giving(a), giving(b)).run()
    assert ours.peer_key
    assert theirs.peer_key
    assert (ours.peer_key.key_value, theirs.peer_key.key_value) == (b.key_value, a.key_value)
    assert ours.parameters.sign == a.algorithms[0]
    assert ours.verifies  # keys and the string stand side by side
    talk(ours, theirs)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_one_side_gives_a_key(a: Identity, b: Identity) -> None:
    nobody = replace(FAST, peer_key=("key", "none"))
    ours, theirs = Negotiation(giving(a, "key", "none"), nobody).run()
    assert theirs.peer_key
    assert ours.peer_key is None
    ours, theirs = Negotiation(nobody, giving(b, "key", "none")).run()
    assert ours.peer_key
    assert theirs.peer_key is None


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_hashes_of_keys_that_are_known(a: Identity, b: Identity) -> None:
    one = giving(a, "hash", take=("hash",), known_keys=(RSA_A.key_value, b.key_value))
    other = giving(b, "hash", take=("hash",), known_keys=(a.key_value,))
    ours, theirs = Negotiation(one, other).run()
    assert ours.peer_key
    assert ours.peer_key.key_value == b.key_value
    talk(ours, theirs)


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_hash_of_a_key_that_is_not_known_ends_the_negotiation(who: str) -> None:
    one = giving(ED_A, "hash", take=("hash",), known_keys=() if who == "alice" else (ED_B.key_value,))
    other = giving(ED_B, "hash", take=("hash",), known_keys=() if who == "bob" else (ED_A.key_value,))
    with pytest.raises(NegotiationFailed) as caught:
        Negotiation(one, other).run()
    assert (caught.value.condition, caught.value.fields) == (NOT_IMPLEMENTED, ())


def test_keys_of_two_kinds_are_not_mixed() -> None:
    """One algorithm serves both sides. Who asks has promised a key of one kind; who answers can then give none."""
    ours, theirs = Negotiation(giving(RSA_A, take=("key", "none")), giving(ED_B, "key", "none")).run()
    assert theirs.peer_key
    assert ours.peer_key is None
    with pytest.raises(NegotiationFailed) as caught:
        Negotiation(giving(RSA_A, take=("key",)), giving(ED_B, "key", "none")).run()
    assert (caught.value.condition, caught.value.fields) == (NOT_ACCEPTABLE, ("resp_pubkey",))


def test_both_names_of_the_rsa_algorithm() -> None:
    negotiation = Negotiation(giving(RSA_A), giving(RSA_B), changes={1: with_options("sign_algs", RSA_SHA256_MORE)})
    assert negotiation.until_answered().value("sign_algs") == RSA_SHA256_MORE
    assert RSA_SHA256 in RSA_A.algorithms


def test_an_algorithm_that_nobody_knows() -> None:
    error = fails(1, with_options("sign_algs", "urn:dsa"), alice=giving(ED_A), bob=giving(ED_B))
    assert error.condition == NOT_ACCEPTABLE
    error = fails(2, with_values("sign_algs", RSA_SHA256), alice=giving(ED_A), bob=giving(ED_B))
    assert (error.condition, error.fields) == (NOT_ACCEPTABLE, ("sign_algs",))
    error = fails(2, without("sign_algs"), alice=giving(ED_A), bob=giving(ED_B))
    assert error.fields == ("sign_algs",)


def test_another_key_than_the_one_that_signed() -> None:
    """Bob claims Alice's friend's key: the signature does not verify."""

    class Liar:
        algorithms = (ED25519,)
        key_value = ED_A.key_value

        def sign(self, data: bytes) -> bytes:
            return ED_B.sign(data)

    with pytest.raises(NegotiationFailed) as caught:
        Negotiation(giving(ED_A), giving(Liar())).run()
    assert caught.value.condition == NOT_IMPLEMENTED


@pytest.mark.parametrize("number", [3, 4])
@given(st.integers(0, 10_000), st.integers(1, 255))
@settings(max_examples=12, deadline=None)
def test_every_octet_of_a_signed_identity(number: int, place: int, flip: int) -> None:
    def change(octets: bytes) -> bytes:
        at = place % len(octets)
        return octets[:at] + bytes((octets[at] ^ flip,)) + octets[at + 1 :]

    error = fails(number, with_octets("identity", change), alice=giving(ED_A), bob=giving(ED_B))
    assert (error.condition, error.fields) == (NOT_IMPLEMENTED, ())


# -- whose key is shielded --------------------------------------------------------------------------------------------


def test_a_shielded_initiator_gives_no_key_with_four_messages() -> None:
    one = giving(ED_A, "key", "none", shield=Shield.OURS)
    negotiation = Negotiation(one, giving(ED_B))
    _, theirs = negotiation.run()
    assert theirs.peer_key is None
    assert negotiation.sent[1].get("init_pubkey").options == ("none",)  # type: ignore[union-attr]
    with pytest.raises(NegotiationFailed):
        Negotiation(one, giving(ED_B, take=("key",))).run()


def test_a_shielded_responder_gives_his_key_only_to_a_key_that_he_knows() -> None:
    shielded = giving(ED_B, "key", "none", shield=Shield.OURS)
    stranger = replace(FAST, peer_key=("key", "none"))
    ours, _ = Negotiation(stranger, shielded).run()
    assert ours.peer_key is None
    with pytest.raises(NegotiationFailed):  # she has proven a key, but nobody's that he knows
        Negotiation(giving(ED_A), shielded).run()
    ours, _ = Negotiation(giving(ED_A), replace(shielded, known_keys=(ED_A.key_value,))).run()
    assert ours.peer_key
    assert ours.peer_key.key_value == ED_B.key_value


def test_no_message_shows_a_key_to_who_only_listens() -> None:
    negotiation = Negotiation(giving(ED_A), giving(ED_B))
    negotiation.run()
    public = [base64.encode(sign.public_of(one.private)).encode() for one in (ED_A, ED_B)]
    for form in negotiation.sent.values():
        assert not any(key in form.xml for key in public)
        for field in form.fields:
            for value in field.values:
                try:
                    octets = base64.decode(value, max_bytes=1 << 16)
                except Malformed:
                    continue
                assert not any(key in octets for key in public)


# -- three messages ---------------------------------------------------------------------------------------------------


def client(identity: Identity, **more: object) -> Settings:
    return giving(identity, take=("key",), three_message=True, shield=Shield.OURS, **more)


def service(identity: Identity, **more: object) -> Settings:
    return giving(identity, take=("key",), three_message=True, **more)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_three_messages(a: Identity, b: Identity) -> None:
    negotiation = Negotiation(client(a, known_keys=(b.key_value,)), service(b))
    ours, theirs = negotiation.run_three()
    assert ours.peer_key
    assert theirs.peer_key
    assert (ours.peer_key.key_value, theirs.peer_key.key_value) == (b.key_value, a.key_value)
    assert (ours.string, ours.new_secret, ours.used, ours.verifies) == ("", b"", None, False)
    assert sorted(negotiation.sent) == [1, 2, 3]
    assert negotiation.sent[1].get("sas_algs") is None
    assert negotiation.sent[1].get("dhhashes") is None
    talk(ours, theirs)


def test_three_messages_are_not_for_those_who_did_not_allow_them() -> None:
    for bob in (giving(ED_B, take=("key",)), client(ED_B)):
        with pytest.raises(NegotiationFailed) as caught:
            Negotiation(client(ED_A), bob).run_three()
        assert (caught.value.condition, caught.value.fields) == (NOT_IMPLEMENTED, ("dhkeys",))


def test_the_initiator_of_three_messages_shows_her_key_to_nobody_she_does_not_know() -> None:
    with pytest.raises(NegotiationFailed) as caught:
        Negotiation(client(ED_A), service(ED_B)).run_three()
    assert caught.value.condition == NOT_IMPLEMENTED


@pytest.mark.parametrize("ways", [("none",), ("key", "none")])
def test_three_messages_have_no_anonymous_side(ways: tuple[str, ...]) -> None:
    negotiation = Negotiation(
        client(ED_A, known_keys=(ED_B.key_value,)), service(ED_B), changes={1: with_options("init_pubkey", *ways)}
    )
    with pytest.raises(NegotiationFailed):
        negotiation.run_three()


@pytest.mark.parametrize(
    ("number", "var"),
    [
        (1, "dhkeys"),
        (1, "my_nonce"),
        (2, "dhkeys"),
        (2, "counter"),
        (2, "identity"),
        (2, "mac"),
        (2, "nonce"),
        (2, "my_nonce"),
        (3, "nonce"),
        (3, "identity"),
        (3, "mac"),
    ],
)
def test_what_was_altered_in_three_messages(number: int, var: str) -> None:
    negotiation = Negotiation(
        client(ED_A, known_keys=(ED_B.key_value,)),
        service(ED_B),
        changes={number: with_octets(var, lambda octets: octets[:-1] + bytes((octets[-1] ^ 1,)))},
    )
    with pytest.raises(NegotiationFailed) as caught:
        negotiation.run_three()
    assert caught.value.condition in (NOT_ACCEPTABLE, NOT_IMPLEMENTED)


def test_e_that_is_sent_back_in_three_messages() -> None:
    negotiation = Negotiation(client(ED_A), service(ED_B))

    def reflect(form: Form) -> Form:
        return with_values("dhkeys", negotiation.sent[1].value("dhkeys"))(form)

    negotiation.changes[2] = reflect
    with pytest.raises(NegotiationFailed) as caught:
        negotiation.run_three()
    assert (caught.value.condition, caught.value.fields) == (NOT_ACCEPTABLE, ("dhkeys",))


@pytest.mark.parametrize("value", ["AA==", "AQ==", ""])
def test_e_out_of_range_in_three_messages(value: str) -> None:
    negotiation = Negotiation(client(ED_A), service(ED_B), changes={1: with_values("dhkeys", value)})
    with pytest.raises(NegotiationFailed):
        negotiation.run_three()


def test_neither_three_messages_nor_four() -> None:
    def both(form: Form) -> Form:
        return write("form", (*form.fields, Field("dhkeys", "hidden", ("Ag==",))))

    error = fails(1, both)
    assert (error.condition, error.fields) == (NOT_ACCEPTABLE, ("dhkeys",))


# -- keys by themselves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [RSA_A, ED_A], ids=["rsa", "ed25519"])
def test_keys_are_read_as_they_are_written(identity: RsaIdentity | Ed25519Identity) -> None:
    key = identities.parse(identity.key_value)
    assert key.key_value == identity.key_value
    assert len(identities.fingerprint(identity.key_value)) == 32
    key.verify(b"data", identity.sign(b"data"))
    with pytest.raises(BadSignature):
        key.verify(b"other", identity.sign(b"data"))
    assert identities.from_private_bytes(identities.private_bytes(identity)) == identity
    assert "..." in repr(identity)
    for part in (identity.private.hex()[:20], repr(identity.private)[2:12]):
        assert part not in repr(identity)


@pytest.mark.parametrize("identity", [RSA_A, ED_A], ids=["rsa", "ed25519"])
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_key_has_one_spelling(identity: Identity, data: st.DataObject) -> None:
    text = identity.key_value
    at = data.draw(st.integers(0, len(text) - 1))
    changed = data.draw(
        st.sampled_from([text[:at] + b" " + text[at:], text[:at] + text[at + 1 :], text[:at] + b"=" + text[at:]])
    )
    try:
        key = identities.parse(changed)
    except (Malformed, BadKey):
        return
    assert key.key_value == changed != text  # another key, whole in itself


@pytest.mark.parametrize(
    ("modulus", "exponent"),
    [
        ((1 << 2047) - 1, 65537),  # 2047 bits
        ((1 << 8192) + 1, 65537),  # 8193
        (1 << 2047, 65537),  # even
        ((1 << 2047) + 1, 1),
        ((1 << 2047) + 1, 2),
        ((1 << 2047) + 1, 1 << 33 | 1),
    ],
)
def test_weak_rsa_keys(modulus: int, exponent: int) -> None:
    with pytest.raises(BadKey):
        rsa.check(rsa.PublicNumbers(modulus, exponent))


def test_the_least_and_the_most_of_an_rsa_key() -> None:
    rsa.check(rsa.PublicNumbers((1 << 2047) + 1, 3))
    rsa.check(rsa.PublicNumbers((1 << 8191) + 1, (1 << 33) - 1))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<KeyValue></KeyValue>",
        b"<KeyValue><DSAKeyValue></DSAKeyValue></KeyValue>",
        b"<KeyValue><RSAKeyValue><Modulus>AQ==</Modulus><Exponent>AQAB</Exponent></RSAKeyValue></KeyValue>",
        ED_A.key_value + ED_A.key_value,
        ED_A.key_value + b" " * 5_000,
        ED_A.key_value.replace(b"<PublicKey>", b"<PublicKey> "),
    ],
)
def test_what_is_no_key(text: bytes) -> None:
    with pytest.raises((Malformed, BadKey)):
        identities.parse(text)


def test_an_ed25519_key_of_small_order() -> None:
    zero = base64.encode(bytes(32)).encode()
    good = base64.encode(sign.public_of(ED_A.private)).encode()
    with pytest.raises((BadKey, Malformed)):
        identities.parse(ED_A.key_value.replace(good, zero))


@pytest.mark.parametrize("data", [b"", b"dsa\0x", b"rsa\0nonsense", b"rsa"])
def test_private_keys_that_are_none(data: bytes) -> None:
    with pytest.raises(BadKey):
        assert identities.from_private_bytes(data).key_value


def test_a_key_must_be_there_to_be_given() -> None:
    with pytest.raises(UsageError):
        Settings(own_key=("key",))
