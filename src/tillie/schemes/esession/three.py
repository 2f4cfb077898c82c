"""The negotiation with three messages: SIGMA-I (XEP-0116 section 4). For a client and a service.

    A -> B   1  options, N_A, e for each group
    B -> A   2  choices, N_B, d, C_A, ID_B, M_B
    A -> B   3  ID_A, M_A

The responder shows his key first, so that the initiator's is shielded from an active attacker. There are no short
strings and no retained secrets; public keys alone tell who is there.
"""

from __future__ import annotations

from tillie.crypto import ctr, modp
from tillie.crypto.kdf import HASHES
from tillie.errors import Malformed
from tillie.model import Time
from tillie.schemes.esession import keys, messages, opening, sigma
from tillie.schemes.esession.opening import Accepted, Answered
from tillie.schemes.esession.profile import PROFILES
from tillie.schemes.esession.settings import Settings
from tillie.schemes.esession.sigma import Context, Said, failed
from tillie.schemes.esession.states import Answering, Established, Offering
from tillie.wire import forms
from tillie.wire.forms import Form


def answer(settings: Settings, accepted: Accepted) -> tuple[Answering, Form]:
    """Message 2. Our profile can't be found by trial here, because we speak first: it is that of the settings."""
    context = Context(settings.profile, accepted.chosen)
    chosen = accepted.chosen
    e = int.from_bytes(accepted.commitment, "big")
    key = keys.shared_key(chosen.hash, modp.shared(accepted.group, accepted.exponent, e))
    sigma_keys = keys.derive(context.profile, chosen.cipher, chosen.hash, key)
    plain = messages.write_answer(accepted.asked, chosen, accepted.answer)
    form_b = forms.normal(plain, context.profile.dialect)
    said = Said(accepted.nonce_a, accepted.nonce_b, accepted.public, (form_b,))
    proof = sigma.prove(context, sigma_keys.ks_b, said, chosen.resp_pubkey, settings.identity)
    hidden = sigma.hide(context, sigma_keys.responder, opening.other_counter(accepted.counter), proof)
    sent = messages.prove(plain, hidden.identity, hidden.mac)
    return opening.answering(settings, accepted, sent, counter_b=ctr.octets(hidden.counter), key=key), sent


def conclude(
    offering: Offering, settings: Settings, form: Form, answered: Answered, now: Time
) -> tuple[Established, Form]:
    """Message 3, from message 2. What does not verify is "feature-not-implemented"."""
    chosen = answered.chosen
    context = Context(PROFILES[offering.profile], chosen)
    dialect = context.profile.dialect
    proof = messages.proofs(form).proof(HASHES[chosen.hash])
    key = keys.shared_key(chosen.hash, modp.shared(answered.group, answered.exponent, answered.public))
    sigma_keys = keys.derive(context.profile, chosen.cipher, chosen.hash, key)
    revealed = sigma.reveal(context, sigma_keys.responder, answered.counter_b, *proof)
    form_b = forms.normal(form, dialect, without=messages.UNMACED)
    said = Said(offering.nonce, answered.nonce_b, answered.public, (form_b,))
    peer_key = sigma.verify(context, sigma_keys.ks_b, said, chosen.resp_pubkey, revealed.proof, settings.known_keys)
    sigma.check_shield(settings, chosen.init_pubkey, peer_key)

    plain = messages.write_conclusion(context.profile.layout, answered.nonce_b, None, ())
    form_a = forms.normal(offering.form, dialect)
    said = Said(answered.nonce_b, offering.nonce, answered.e, (form_a, forms.normal(plain, dialect)))
    own_proof = sigma.prove(context, sigma_keys.ks_a, said, chosen.init_pubkey, settings.identity)
    hidden = sigma.hide(context, sigma_keys.initiator, answered.counter, own_proof)
    sent = messages.prove(plain, hidden.identity, hidden.mac)
    opened = opening.channel_of(
        context,
        sigma_keys.initiator,
        sigma_keys.responder,
        hidden.counter,
        revealed.counter,
        keys.mpi(answered.exponent),
        answered.public,
        now,
    )
    return Established(opened, context.profile.name, context.parameters, peer_key), sent


def accept(answering: Answering, settings: Settings, form: Form, now: Time) -> Established:
    """The session, from message 3. All failures are "feature-not-implemented", and look alike."""
    chosen = answering.parameters
    context = Context(PROFILES[answering.profile], chosen)
    dialect = context.profile.dialect
    reader = messages.proofs(form)
    reader.expect("result")
    reader.echo(answering.nonce_b)
    _refuse_single(form)
    proof = reader.proof(HASHES[chosen.hash])
    sigma_keys = keys.derive(context.profile, chosen.cipher, chosen.hash, answering.key)
    counter, e = (int.from_bytes(octets, "big") for octets in (answering.counter, answering.commitment))
    revealed = sigma.reveal(context, sigma_keys.initiator, counter, *proof)
    form_a = forms.normal(answering.form_a, dialect)
    form_a2 = forms.normal(form, dialect, without=messages.UNMACED)
    said = Said(answering.nonce_b, answering.nonce_a, e, (form_a, form_a2))
    peer_key = sigma.verify(context, sigma_keys.ks_a, said, chosen.init_pubkey, revealed.proof, settings.known_keys)
    opened = opening.channel_of(
        context,
        sigma_keys.responder,
        sigma_keys.initiator,
        int.from_bytes(answering.counter_b, "big"),
        revealed.counter,
        answering.exponent,
        e,
        now,
    )
    return Established(opened, context.profile.name, context.parameters, peer_key)


def _refuse_single(form: Form) -> None:
    """A session that ends with its first stanza, "object encryption", is not there yet, as offline sessions are not."""
    try:
        single = form.boolean("terminate")
    except Malformed:
        single = True
    if single:
        raise failed("A session of one stanza is not for us.")
