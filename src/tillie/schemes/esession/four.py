"""The negotiation with four messages: SIGMA-R with a commitment (XEP-0116 section 4, XEP-0217), in steps.

    A -> B   1  offer.offer       options, N_A, He for each group
    B -> A   2  offer.answer      choices, N_B, d, C_A
    A -> B   3  four.conclude     e, hashes of retained secrets, ID_A, M_A
    B -> A   4  four.accept       which retained secret, ID_B, M_B              then A's `finish`

Each step takes the state before it and returns the next; that state holds all secrets of the attempt. They serve three
messages too (module `three`), where the offer asked for that. Every failure is NegotiationFailed.
"""

from __future__ import annotations

from collections.abc import Sequence

from tillie.crypto import ctr, modp
from tillie.crypto.kdf import HASHES, equal, hash_by, sha256
from tillie.crypto.random import random_bytes
from tillie.errors import BadKey, Malformed, NegotiationFailed
from tillie.model import Address, Time
from tillie.schemes.esession import keys, messages, opening, sigma, three
from tillie.schemes.esession.channel import Channel
from tillie.schemes.esession.identity import PublicIdentity
from tillie.schemes.esession.keys import NEW_RETAINED_SECRET, SHARED_RETAINED_SECRET, from_mpi, mpi
from tillie.schemes.esession.parameters import Parameters
from tillie.schemes.esession.profile import PROFILES, TRIALS, Profile
from tillie.schemes.esession.settings import MAX_SECRETS, Draw, Parties, Secret, Settings
from tillie.schemes.esession.sigma import Context, Revealed, Said, failed
from tillie.schemes.esession.states import Answering, Concluding, Established, Offering
from tillie.trust import strings
from tillie.trust.strings import ShortString
from tillie.wire import forms
from tillie.wire.forms import Form

__all__ = ["Concluding", "Established", "accept", "conclude", "finish"]

_FEWEST_FILLERS, _FILLER_CHOICES = 2, 3


# -- message 3 ------------------------------------------------------------------------------------------------------


def conclude(
    offering: Offering,
    settings: Settings,
    parties: Parties,
    form: Form,
    secrets: Sequence[Secret],
    *,
    now: Time,
    draw: Draw = random_bytes,
) -> tuple[Concluding | Established, Form]:
    """Message 3, from message 2 (XEP-0116 sections 4.6 to 4.8). With three messages the session is established by it.

    `secrets` are those retained with the peer's clients, the last used first. Conditions: "not-acceptable" with fields
    (chosen what was not offered, d out of range); with three messages also "feature-not-implemented".
    """
    answered = opening.check_answer(offering, form)
    if offering.three:
        return three.conclude(offering, settings, form, answered, now)
    chosen = answered.chosen
    context = Context(PROFILES[offering.profile], chosen)
    profile = context.profile
    key = keys.shared_key(chosen.hash, modp.shared(answered.group, answered.exponent, answered.public))
    sigma_keys = keys.derive(profile, chosen.cipher, chosen.hash, key)

    hashes = _name_secrets(context, offering.nonce, secrets, draw)
    plain = messages.write_conclusion(profile.layout, answered.nonce_b, answered.e, hashes)
    form_a, form_b = (forms.normal(x, profile.dialect) for x in (offering.form, form))
    said = Said(answered.nonce_b, offering.nonce, answered.e, (form_a, forms.normal(plain, profile.dialect)))
    proof = sigma.prove(context, sigma_keys.ks_a, said, chosen.init_pubkey, settings.identity)
    hidden = sigma.hide(context, sigma_keys.initiator, answered.counter, proof)
    sent = messages.prove(plain, hidden.identity, hidden.mac)
    string = _string(context, parties.own, parties.peer, form_a, form_b, answered.e, hidden.mac)
    after = Concluding(
        profile.name,
        chosen,
        form.xml,
        offering.nonce,
        answered.nonce_b,
        ctr.octets(hidden.counter),
        ctr.octets(answered.counter_b),
        mpi(answered.exponent),
        mpi(answered.public),
        key,
        string.text,
        string.digest,
    )
    return after, sent


def _name_secrets(context: Context, nonce: bytes, secrets: Sequence[Secret], draw: Draw) -> list[bytes]:
    """rshashes: the hash of each retained secret under this negotiation's nonce, among a few random values.

    "to make it difficult for an active attacker to discover if she has communicated with Bob before or how many clients
    Bob has used". No order, so that nobody learns which is which.
    """
    hashes = [context.hmac(nonce, secret.value) for secret in secrets[:MAX_SECRETS]]
    size = HASHES[context.parameters.hash]
    if context.profile.draws_like_gajim:
        return hashes or [draw(size)]
    hashes += [draw(size) for _ in range(_FEWEST_FILLERS + draw(1)[0] % _FILLER_CHOICES)]
    return sorted(hashes, key=lambda _: draw(8))


def _string(
    context: Context, initiator: Address, responder: Address, form_a: bytes, form_b: bytes, e: int, m_a: bytes
) -> ShortString:
    if context.parameters.string == strings.TILLIE:
        return strings.short_string(initiator, responder, form_a, form_b, mpi(e))
    return strings.sas28x5(m_a, form_b, context.parameters.hash, pad=context.profile.pads_string)


# -- message 4 ------------------------------------------------------------------------------------------------------


def accept(
    answering: Answering,
    settings: Settings,
    parties: Parties,
    form: Form,
    secrets: Sequence[Secret],
    *,
    now: Time,
    draw: Draw = random_bytes,
) -> tuple[Established, Form | None]:
    """Message 4, from message 3 (XEP-0116 sections 4.9 to 4.12). With three messages there is none.

    Finds out which profile the peer follows. `secrets` are all that may be shared with the peer, those of its bare JID
    first: it may be somebody we know under another. All failures are "feature-not-implemented", and look alike.
    """
    if answering.parameters.three:
        return three.accept(answering, settings, form, now), None
    chosen = answering.parameters
    reader = messages.proofs(form)
    reader.expect("result")
    reader.echo(answering.nonce_b)
    e = _open_commitment(reader, answering)
    hashes = reader.many("rshashes", HASHES[chosen.hash], HASHES[chosen.hash])
    proof = reader.proof(HASHES[chosen.hash])
    key = keys.shared_key(chosen.hash, modp.shared(modp.GROUPS[chosen.group], _integer(answering.exponent), e))
    profile, form_a, revealed, peer_key = _try_profiles(answering, settings, form, e, key, proof)
    context = Context(profile, chosen)
    sigma.check_shield(settings, chosen.resp_pubkey, peer_key)

    used = _find_secret(context, answering.nonce_a, secrets, hashes)
    key = _mixed(chosen, key, used, settings)
    sigma_keys = keys.derive(profile, chosen.cipher, chosen.hash, key)
    size = HASHES[chosen.hash]
    srshash = context.hmac(used.value, SHARED_RETAINED_SECRET) if used else draw(size)
    plain = messages.write_acceptance(profile.layout, answering.nonce_a, srshash)
    form_b = messages.normal(answering.form_b, profile.dialect)
    d = _integer(answering.public)
    said = Said(answering.nonce_a, answering.nonce_b, d, (form_b, forms.normal(plain, profile.dialect)))
    own_proof = sigma.prove(context, sigma_keys.ks_b, said, chosen.resp_pubkey, settings.identity)
    counter_b = opening.other_counter(_integer(answering.counter))
    hidden = sigma.hide(context, sigma_keys.responder, counter_b, own_proof)
    sent = messages.prove(plain, hidden.identity, hidden.mac)
    string = _string(context, parties.peer, parties.own, form_a, form_b, e, proof[1])
    opened = opening.channel_of(
        context,
        sigma_keys.responder,
        sigma_keys.initiator,
        hidden.counter,
        revealed.counter,
        answering.exponent,
        e,
        now,
    )
    return _established(opened, context, used, key, string, peer_key), sent


def _integer(octets: bytes) -> int:
    return int.from_bytes(octets, "big")


def _open_commitment(reader: messages.Reader, answering: Answering) -> int:
    """e, if it is what message 1 committed to, and in range."""
    group = modp.GROUPS[answering.parameters.group]
    octets = reader.octets("dhkeys", 1, group.size)
    if octets == answering.public:
        raise failed("The Diffie-Hellman value of the other side is ours.")
    if not equal(sha256(octets), answering.commitment):
        raise failed("The Diffie-Hellman value is not the one that was committed to.")
    try:
        return modp.check(group, from_mpi(octets, max_bytes=group.size))
    except (BadKey, Malformed) as error:
        raise failed(error.detail) from None


def _try_profiles(
    answering: Answering,
    settings: Settings,
    form: Form,
    e: int,
    key: bytes,
    proof: tuple[bytes, bytes],
) -> tuple[Profile, bytes, Revealed, PublicIdentity | None]:
    """The first profile under which M_A and what is in ID_A verify, and formA in its normal form.

    At most `MAX_TRIALS`, of a few HMACs each. The peer learns nothing from it: no profile's keys tell anything of
    another's, and the answer is yes or one no.
    """
    chosen = answering.parameters
    configured = PROFILES[answering.profile]
    counter = _integer(answering.counter)
    failure = failed("The MAC of the other side's proof does not verify.")
    for profile in TRIALS if configured in TRIALS else (configured,):
        context = Context(profile, chosen)
        sigma_keys = keys.derive(profile, chosen.cipher, chosen.hash, key)
        if not sigma.fits(context, sigma_keys.km_a, counter, *proof):
            continue
        form_a = messages.normal(answering.form_a, profile.dialect)
        form_a2 = forms.normal(form, profile.dialect, without=messages.UNMACED)
        said = Said(answering.nonce_b, answering.nonce_a, e, (form_a, form_a2))
        try:
            revealed = sigma.reveal(context, sigma_keys.initiator, counter, *proof)
            peer_key = sigma.verify(
                context, sigma_keys.ks_a, said, chosen.init_pubkey, revealed.proof, settings.known_keys
            )
        except NegotiationFailed as error:
            failure = error
            continue
        return profile, form_a, revealed, peer_key
    raise failure


def _find_secret(context: Context, nonce: bytes, secrets: Sequence[Secret], hashes: Sequence[bytes]) -> Secret | None:
    """SRS: the first of our secrets that the peer named."""
    named = frozenset(hashes)
    return next((secret for secret in secrets if context.hmac(nonce, secret.value) in named), None)


def _mixed(chosen: Parameters, key: bytes, used: Secret | None, settings: Settings) -> bytes:
    """K = HASH(K | SRS | OSS)."""
    return hash_by(chosen.hash, key + (used.value if used else b"") + settings.other_octets)


def _established(
    opened: Channel,
    context: Context,
    used: Secret | None,
    key: bytes,
    string: ShortString,
    peer_key: PublicIdentity | None,
) -> Established:
    return Established(
        channel=opened,
        profile=context.profile.name,
        parameters=context.parameters,
        peer_key=peer_key,
        used=used,
        new_secret=context.hmac(key, NEW_RETAINED_SECRET),
        string=string.text,
        string_digest=string.digest,
    )


# -- after message 4 ------------------------------------------------------------------------------------------------


def finish(
    concluding: Concluding,
    settings: Settings,
    form: Form,
    secrets: Sequence[Secret],
    *,
    now: Time,
) -> Established:
    """The session, from message 4 (XEP-0116 section 4.13). `secrets` are those that `conclude` was given.

    All failures are "feature-not-implemented", and look alike.
    """
    chosen = concluding.parameters
    context = Context(PROFILES[concluding.profile], chosen)
    profile = context.profile
    reader = messages.proofs(form)
    reader.expect("result", accept=False)
    reader.echo(concluding.nonce_a)
    srshash = reader.octets("srshash", HASHES[chosen.hash], HASHES[chosen.hash])
    proof = reader.proof(HASHES[chosen.hash])
    used = None
    for secret in secrets[:MAX_SECRETS]:
        if equal(context.hmac(secret.value, SHARED_RETAINED_SECRET), srshash):
            used = secret
    key = _mixed(chosen, concluding.key, used, settings)
    sigma_keys = keys.derive(profile, chosen.cipher, chosen.hash, key)
    revealed = sigma.reveal(context, sigma_keys.responder, _integer(concluding.counter_b), *proof)
    form_b = forms.normal(concluding.form_b, profile.dialect)
    form_b2 = forms.normal(form, profile.dialect, without=messages.UNMACED)
    said = Said(concluding.nonce_a, concluding.nonce_b, _integer(concluding.peer), (form_b, form_b2))
    peer_key = sigma.verify(context, sigma_keys.ks_b, said, chosen.resp_pubkey, revealed.proof, settings.known_keys)
    opened = opening.channel_of(
        context,
        sigma_keys.initiator,
        sigma_keys.responder,
        _integer(concluding.counter_a),
        revealed.counter,
        concluding.exponent,
        _integer(concluding.peer),
        now,
    )
    string = ShortString(concluding.string, concluding.string_digest)
    return _established(opened, context, used, key, string, peer_key)
