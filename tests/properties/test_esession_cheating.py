"""A peer who cheats under its own keys: all of its MACs verify, and what they cover is wrong."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from support.negotiating import FAST, NOW, Negotiation
from tillie.crypto import modp
from tillie.errors import NegotiationFailed
from tillie.schemes.esession import four, messages, sigma
from tillie.schemes.esession.identity import ED25519, Ed25519Identity, RsaIdentity
from tillie.schemes.esession.keys import mpi
from tillie.schemes.esession.settings import Shield
from tillie.wire import forms
from tillie.wire.forms import Field, Form

NOT_IMPLEMENTED = "feature-not-implemented"


def refused(negotiation: Negotiation, *, three: bool = False) -> str:
    """Why a negotiation failed; the peer must have been told nothing of it."""
    with pytest.raises(NegotiationFailed) as caught:
        (negotiation.run_three if three else negotiation.run)()
    assert (caught.value.condition, caught.value.fields) == (NOT_IMPLEMENTED, ())
    return caught.value.detail


def test_the_commitment_holds() -> None:
    """Alice opens another e than she committed to, and does everything else right. This is what a search for a short
    string would need."""
    negotiation = Negotiation()
    second = negotiation.until_answered()
    group = modp.GROUPS[14]
    x = modp.private(group)
    exponents = ((14, mpi(x), mpi(modp.public(group, x))),)
    assert negotiation.offering is not None
    assert negotiation.answering is not None
    a, b = negotiation.parties
    cheating = msgspec.structs.replace(negotiation.offering, exponents=exponents)
    _, third = four.conclude(cheating, FAST, a, second, (), now=NOW)
    with pytest.raises(NegotiationFailed, match="committed") as caught:
        four.accept(negotiation.answering, FAST, b, third, (), now=NOW)
    assert (caught.value.condition, caught.value.fields) == (NOT_IMPLEMENTED, ())


def test_the_nonce_of_message_3_must_be_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    write = messages.write_conclusion
    monkeypatch.setattr(
        messages, "write_conclusion", lambda layout, nonce, e, hashes: write(layout, bytes(16), e, hashes)
    )
    assert "nonce" in refused(Negotiation())


def test_the_nonce_of_message_4_must_be_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    write = messages.write_acceptance
    monkeypatch.setattr(messages, "write_acceptance", lambda layout, nonce, srshash: write(layout, bytes(16), srshash))
    assert "nonce" in refused(Negotiation())


def test_hashes_of_secrets_have_the_length_of_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    write = messages.write_conclusion
    for wrong in (b"", bytes(31), bytes(33)):
        monkeypatch.setattr(
            messages, "write_conclusion", lambda layout, nonce, e, _, wrong=wrong: write(layout, nonce, e, [wrong])
        )
        assert "rshashes" in refused(Negotiation())


def test_a_key_of_another_kind_than_was_agreed_on() -> None:
    """He says Ed25519, and signs with RSA; the signature itself is good."""
    real = RsaIdentity.generate()

    class Liar:
        algorithms = (ED25519,)
        key_value = real.key_value

        def sign(self, data: bytes) -> bytes:
            return real.sign(data)

    alice = replace(FAST, identity=Ed25519Identity.generate(), own_key=("key",), peer_key=("key",))
    bob = replace(FAST, identity=Liar(), own_key=("key",), peer_key=("key",))
    assert "algorithm" in refused(Negotiation(alice, bob))


@pytest.mark.parametrize(("agreed", "given"), [("hash", "key"), ("key", "hash")])
def test_another_way_to_give_a_key_than_was_agreed_on(agreed: str, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """She gives a key where its hash was agreed on, or the reverse."""
    ours, theirs = Ed25519Identity.generate(), Ed25519Identity.generate()
    prove = sigma.prove
    monkeypatch.setattr(
        sigma, "prove", lambda context, ks, said, way, identity: prove(context, ks, said, given, identity)
    )
    alice = replace(FAST, identity=ours, own_key=(agreed,), peer_key=(agreed,), known_keys=(theirs.key_value,))
    bob = replace(FAST, identity=theirs, own_key=(agreed,), peer_key=(agreed,), known_keys=(ours.key_value,))
    assert "as agreed" in refused(Negotiation(alice, bob))


def test_a_session_of_one_stanza_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With three messages message 3 may end the session at once ("object encryption"): not here."""
    ours, theirs = Ed25519Identity.generate(), Ed25519Identity.generate()
    write = messages.write_conclusion

    def ending(layout: messages.Layout, nonce: bytes, e: int | None, hashes: list[bytes]) -> Form:
        form = write(layout, nonce, e, hashes)
        return forms.write(form.type, (*form.fields, Field("terminate", "", ("1",))))

    monkeypatch.setattr(messages, "write_conclusion", ending)
    bob = replace(FAST, identity=theirs, own_key=("key",), peer_key=("key",), three_message=True)
    alice = replace(bob, identity=ours, shield=Shield.OURS, known_keys=(theirs.key_value,))
    assert "one stanza" in refused(Negotiation(alice, bob), three=True)


def test_a_proof_for_another_offer() -> None:
    """Bob was shown another message 1 than Alice sent, and both are told so by their MACs, whoever changed it."""

    def change(form: Form) -> Form:
        fields = [one._replace(options=("aes128-ctr",)) if one.var == "crypt_algs" else one for one in form.fields]
        return forms.write(form.type, fields)

    assert "verify" in refused(Negotiation(changes={1: change}))
