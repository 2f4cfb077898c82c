"""The steps of messages 1 and 2, which three and four messages share (XEP-0116 sections 4.3 to 4.5)."""

from __future__ import annotations

from tillie.crypto import modp
from tillie.crypto.kdf import sha256
from tillie.crypto.random import random_bytes
from tillie.errors import UsageError
from tillie.schemes.esession import messages, opening, three
from tillie.schemes.esession.keys import mpi
from tillie.schemes.esession.settings import Draw, Settings, Shield
from tillie.schemes.esession.states import Answering, Concluding, Established, Offering
from tillie.wire.forms import Form

__all__ = ["Answering", "Concluding", "Established", "Offering", "answer", "offer"]


def offer(settings: Settings, *, draw: Draw = random_bytes) -> tuple[Offering, Form]:
    """Message 1 (XEP-0116 section 4.3): our options, a nonce, and for each group a commitment to e.

    With three messages, where settings shield our key and allow it, e itself. UsageError without a backend for groups.
    """
    if not modp.backend():
        raise UsageError("Encrypted sessions need gmpy2, or a cryptography that still has classic Diffie-Hellman.")
    profile = settings.profile
    three_messages = settings.three_message and settings.shield is Shield.OURS
    nonce = draw(opening.nonce_size(profile))
    exponents = [(number, opening.exponent(profile, modp.GROUPS[number], draw)) for number in settings.groups]
    values = [mpi(modp.public(modp.GROUPS[number], x)) for number, x in exponents]
    sent = values if three_messages else [sha256(value) for value in values]
    form = messages.write_offer(settings, nonce, sent, three=three_messages)
    kept = tuple((number, mpi(x), e) for (number, x), e in zip(exponents, values, strict=True))
    return Offering(profile.name, three_messages, form.xml, nonce, kept), form


def answer(settings: Settings, form: Form, *, draw: Draw = random_bytes) -> tuple[Answering, Form]:
    """Message 2, from message 1 (XEP-0116 sections 4.4 and 4.5).

    NegotiationFailed: "not-acceptable" with fields, or "feature-not-implemented" (`dhkeys`: three messages are not
    for us; or required fields that nobody here knows).
    """
    accepted = opening.accept_offer(settings, form, draw)
    if accepted.asked.three:
        return three.answer(settings, accepted)
    sent = messages.write_answer(accepted.asked, accepted.chosen, accepted.answer)
    return opening.answering(settings, accepted, sent), sent
