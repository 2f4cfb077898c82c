"""What each side checks and draws to open a negotiation: the responder at message 1, the initiator at message 2
(XEP-0116 sections 4.3 to 4.5)."""

from __future__ import annotations

from typing import NamedTuple

from tillie.crypto import ctr, modp
from tillie.crypto.ctr import BLOCK, BLOCK_BITS
from tillie.errors import BadKey, Malformed, NegotiationFailed
from tillie.model import Time
from tillie.schemes.esession import channel, keys, messages, parameters
from tillie.schemes.esession.channel import Channel
from tillie.schemes.esession.keys import Pair
from tillie.schemes.esession.messages import Answer, Reader
from tillie.schemes.esession.parameters import NOT_ACCEPTABLE, NOT_IMPLEMENTED, Asked, Parameters
from tillie.schemes.esession.profile import Profile
from tillie.schemes.esession.settings import Draw, Settings, Shield
from tillie.schemes.esession.sigma import Context
from tillie.schemes.esession.states import Answering, Offering
from tillie.wire import forms
from tillie.wire.forms import Form

NONCE = 16  # octets of ours
_GAJIM_NONCE = 8
_HE = 32  # octets: He is SHA-256 whatever hash is negotiated
_HALF = 1 << (BLOCK_BITS - 1)


def nonce_size(profile: Profile) -> int:
    """Octets of our nonces."""
    return _GAJIM_NONCE if profile.draws_like_gajim else NONCE


def exponent(profile: Profile, group: modp.Group, draw: Draw) -> int:
    """A new secret exponent."""
    if not profile.draws_like_gajim:
        return modp.private(group, draw=draw)
    least, most = 1 << (2 * BLOCK_BITS - 1), group.prime - 1
    return int.from_bytes(draw(group.size), "big") % (most - least) + least


# -- the responder's side of message 1 --------------------------------------------------------------------------------


class Accepted(NamedTuple):
    """Message 1 as the responder took it, and what he drew for message 2. `commitment` is He or e."""

    asked: Asked
    chosen: Parameters
    nonce_a: bytes
    nonce_b: bytes
    counter: int  # C_A
    commitment: bytes
    exponent: int  # y
    public: int  # d

    @property
    def group(self) -> modp.Group:
        return modp.GROUPS[self.chosen.group]

    @property
    def answer(self) -> Answer:
        return Answer(self.nonce_a, self.nonce_b, self.counter, self.public)


def accept_offer(settings: Settings, form: Form, draw: Draw) -> Accepted:
    """Reads and checks message 1, chooses, and draws N_B, C_A and y. All before a single exponentiation."""
    reader = messages.answers(form)
    reader.expect("form")
    asked = parameters.read_offer(form)
    if asked.three and not _answers_three(settings):
        # "he SHOULD return a <feature-not-implemented/> error specifying the 'dhkeys' field"
        raise NegotiationFailed("Three messages are not for us.", condition=NOT_IMPLEMENTED, fields=("dhkeys",))
    if not asked.three and form.get("dhkeys"):
        raise NegotiationFailed(
            "That is neither three messages nor four.", condition=NOT_ACCEPTABLE, fields=("dhkeys",)
        )
    chosen = parameters.choose(asked, settings)
    nonce_a = reader.nonce()
    commitment = _commitment(reader, asked, chosen)
    profile = settings.profile
    nonce_b = draw(nonce_size(profile))
    counter = int.from_bytes(draw(BLOCK), "big")
    if not profile.draws_like_gajim and counter % _HALF < 1 << (BLOCK_BITS - 8):
        # Neither C_A nor C_B begins with a zero octet: peers disagree on how such a counter is written.
        counter |= 1 << (BLOCK_BITS - 8)
    group = modp.GROUPS[chosen.group]
    y = exponent(profile, group, draw)
    if nonce_b == nonce_a:
        raise NegotiationFailed("The nonce of the other side is ours.")
    return Accepted(asked, chosen, nonce_a, nonce_b, counter, commitment, y, modp.public(group, y))


def _answers_three(settings: Settings) -> bool:
    """With three messages the responder shows his key first, to whoever asks."""
    return settings.three_message and settings.shield is Shield.THEIRS


def _commitment(reader: Reader, asked: Asked, chosen: Parameters) -> bytes:
    """He of the chosen group; or the octets of e, in range, with three messages."""
    place = asked.groups.index(str(chosen.group))
    if not asked.three:
        return reader.many("dhhashes", _HE, _HE, count=len(asked.groups))[place]
    values = reader.many("dhkeys", 1, _LARGEST, count=len(asked.groups))
    group = modp.GROUPS[chosen.group]
    try:
        modp.check(group, keys.from_mpi(values[place], max_bytes=group.size))
    except (BadKey, Malformed) as error:
        raise NegotiationFailed(error.detail, condition=NOT_IMPLEMENTED) from None
    return values[place]


_LARGEST = max(group.size for group in modp.GROUPS.values())


def answering(
    settings: Settings, accepted: Accepted, form_b: Form, *, counter_b: bytes = b"", key: bytes = b""
) -> Answering:
    """The responder's state after message 2; the last two with three messages."""
    return Answering(
        settings.profile.name,
        accepted.chosen,
        accepted.asked.form.xml,
        form_b.xml,
        accepted.nonce_a,
        accepted.nonce_b,
        ctr.octets(accepted.counter),
        keys.mpi(accepted.exponent),
        keys.mpi(accepted.public),
        accepted.commitment,
        counter_b,
        key,
    )


# -- the initiator's side of message 2 --------------------------------------------------------------------------------


class Answered(NamedTuple):
    """Message 2 as the initiator took it. `counter` is C_A, `public` is d."""

    chosen: Parameters
    nonce_b: bytes
    counter: int
    public: int
    exponent: int  # x of the chosen group
    e: int

    @property
    def group(self) -> modp.Group:
        return modp.GROUPS[self.chosen.group]

    @property
    def counter_b(self) -> int:
        return other_counter(self.counter)


def check_answer(offering: Offering, form: Form) -> Answered:
    """Reads and checks message 2. All failures are "not-acceptable", with the fields."""
    reader = messages.answers(form)
    reader.expect("submit")
    asked = parameters.read_offer(forms.parse(offering.form))
    chosen = parameters.check_answer(asked._replace(three=offering.three), form)
    reader.echo(offering.nonce)
    nonce_b = reader.nonce()
    if nonce_b == offering.nonce:
        raise reader.failed("The nonce of the other side is ours.", "my_nonce")
    counter = reader.counter()
    group = modp.GROUPS[chosen.group]
    (public,) = reader.integers("dhkeys", group.size, 1)
    try:
        modp.check(group, public)
    except BadKey as error:
        raise reader.failed(error.detail, "dhkeys") from None
    x, e = next((x, e) for number, x, e in offering.exponents if number == chosen.group)
    if keys.mpi(public) == e:  # "Bob MUST NOT return Alice's values of N_A and e in these fields"
        raise reader.failed("The Diffie-Hellman value of the other side is ours.", "dhkeys")
    return Answered(chosen, nonce_b, counter, public, int.from_bytes(x, "big"), int.from_bytes(e, "big"))


def other_counter(counter: int) -> int:
    """C_B = C_A XOR 2^(n-1)."""
    return counter ^ _HALF


def channel_of(
    context: Context, out: Pair, into: Pair, counter_out: int, counter_in: int, private: bytes, peer: int, now: Time
) -> Channel:
    """The channel that a negotiation opens; `private` has the octets of our exponent."""
    chosen = context.parameters
    return channel.begin(
        out=out,
        into=into,
        counter_out=counter_out,
        counter_in=counter_in,
        group=chosen.group,
        private=int.from_bytes(private, "big"),
        peer=peer,
        now=now,
        profile=context.profile,
        cipher=chosen.cipher,
        hash_name=chosen.hash,
        compress=chosen.compress,
        rekey_freq=chosen.rekey_freq,
    )
