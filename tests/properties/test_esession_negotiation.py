"""Negotiations of XEP-0116: every field of every form wrong in every way, every edge of every number, every octet of
what is MACed. Each must end in `NegotiationFailed` with the condition that the specification names."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.negotiating import (
    FAST,
    NOW,
    Negotiation,
    fails,
    talk,
    with_octets,
    with_options,
    with_values,
    without,
)
from tillie.crypto import modp
from tillie.crypto.kdf import sha256
from tillie.errors import Malformed, NegotiationFailed, UsageError
from tillie.schemes.esession import four, messages, offer
from tillie.schemes.esession.keys import mpi
from tillie.schemes.esession.profile import GAJIM, GAJIM_ITSELF, STRICT, SUBSET
from tillie.schemes.esession.settings import Settings
from tillie.schemes.esession.states import Answering, Concluding, Offering
from tillie.trust.strings import SAS28X5
from tillie.wire import base64, forms
from tillie.wire.forms import Field, Form

GROUP = modp.GROUPS[14]
NOT_ACCEPTABLE, NOT_IMPLEMENTED = "not-acceptable", "feature-not-implemented"
CONDITION = {1: NOT_ACCEPTABLE, 2: NOT_ACCEPTABLE, 3: NOT_IMPLEMENTED, 4: NOT_IMPLEMENTED}
# Without these an offer, or an answer, is as good.
OPTIONAL = {(1, "logging"), (1, "disclosure"), (2, "logging"), (2, "disclosure")}
FIELDS = {
    1: (
        *("FORM_TYPE", "accept", "logging", "disclosure", "security", "modp", "crypt_algs", "hash_algs", "compress"),
        *("stanzas", "init_pubkey", "resp_pubkey", "ver", "rekey_freq", "sas_algs", "my_nonce", "dhhashes"),
    ),
    2: (
        *("FORM_TYPE", "accept", "logging", "disclosure", "security", "modp", "crypt_algs", "hash_algs", "compress"),
        *("stanzas", "init_pubkey", "resp_pubkey", "ver", "rekey_freq", "sas_algs", "my_nonce", "dhkeys", "nonce"),
        "counter",
    ),
    3: ("FORM_TYPE", "accept", "nonce", "dhkeys", "rshashes", "identity", "mac"),
    4: ("FORM_TYPE", "nonce", "srshash", "identity", "mac"),
}
EVERY_FIELD = [(number, var) for number, names in FIELDS.items() for var in names]


def test_the_fields_are_all_of_them() -> None:
    negotiation = Negotiation()
    negotiation.run()
    for number, names in FIELDS.items():
        assert sorted(field.var for field in negotiation.sent[number].fields) == sorted(names)


# -- every field, in every way ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "var"), EVERY_FIELD)
def test_a_field_that_is_missing(number: int, var: str) -> None:
    error = fails(number, without(var))
    if (number, var) not in OPTIONAL:
        assert error.condition == CONDITION[number]
        assert error.fields == ((var,) if number < 3 else ())


@pytest.mark.parametrize(("number", "var"), EVERY_FIELD)
def test_a_field_that_is_there_twice(number: int, var: str) -> None:
    def twice(form: Form) -> Form:
        start = form.xml.index(b'<field var="%b"' % var.encode())
        end = form.xml.index(b"</field>", start) + len(b"</field>")
        return form._replace(xml=form.xml[:end] + form.xml[start:])

    with pytest.raises(Malformed):
        Negotiation(changes={number: twice}).run()


@pytest.mark.parametrize("values", [(), ("",), ("x",), ("x" * 16_384,), ("AAAA", "BBBB"), ("é",), ("1",), ("  ",)])
@pytest.mark.parametrize(("number", "var"), EVERY_FIELD)
def test_a_field_with_wrong_values(number: int, var: str, values: tuple[str, ...]) -> None:
    def change(form: Form) -> Form:
        fields = [
            Field(one.var, "text-multi" if one.options else one.type, values) if one.var == var else one
            for one in form.fields
        ]
        return forms.write(form.type, fields)

    if values == ("1",) and var in ("accept", "rekey_freq"):
        return  # that is what is there, or may be
    with pytest.raises((NegotiationFailed, UsageError)) as caught:  # UsageError: such a form can't even be written
        Negotiation(changes={number: change}).run()
    if isinstance(caught.value, NegotiationFailed):
        assert caught.value.condition in (NOT_ACCEPTABLE, NOT_IMPLEMENTED)
        assert number < 3 or not caught.value.fields


@pytest.mark.parametrize("form_type", ["form", "submit", "result", "cancel"])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_form_of_the_wrong_type(number: int, form_type: str) -> None:
    negotiation = Negotiation(changes={number: lambda form: forms.parse(_retyped(form, form_type))})
    if form_type == {1: "form", 2: "submit", 3: "result", 4: "result"}[number]:
        negotiation.run()
        return
    with pytest.raises((NegotiationFailed, Malformed)):
        negotiation.run()


def _retyped(form: Form, form_type: str) -> bytes:
    return form.xml.replace(b' type="%b">' % form.type.encode(), b' type="%b">' % form_type.encode(), 1)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_declining_form_tells_the_peer_nothing(number: int) -> None:
    error = fails(number, with_values("accept", "0"))
    assert (error.condition, error.fields) == ("", ())


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_field_more_is_covered_by_the_macs(number: int) -> None:
    error = fails(number, lambda form: forms.write(form.type, (*form.fields, Field("more", "", ("x",)))))
    assert error.condition == NOT_IMPLEMENTED


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_order_of_fields_is_covered_by_the_macs(number: int) -> None:
    error = fails(number, lambda form: forms.write(form.type, (form.fields[1], form.fields[0], *form.fields[2:])))
    assert error.condition == NOT_IMPLEMENTED


# -- options --------------------------------------------------------------------------------------------------------

CHOSEN = ("security", "disclosure", "modp", "crypt_algs", "hash_algs", "compress", "ver", "sas_algs", "logging")
KNOWN_ELSEWHERE = {
    "modp": "16",
    "crypt_algs": "aes192-ctr",
    "hash_algs": "sha3-256",
    "sas_algs": SAS28X5,
    "compress": "zlib",
    "security": "c2s",
    "disclosure": "enabled",
    "ver": "1.3",
    "logging": "mustnot",
}


@pytest.mark.parametrize("var", CHOSEN)
def test_an_answer_that_was_not_offered(var: str) -> None:
    error = fails(2, with_values(var, KNOWN_ELSEWHERE[var]))
    assert (error.condition, error.fields) == (NOT_ACCEPTABLE, (var,))


@pytest.mark.parametrize("ways", [("key",), ("hash",), ("none", "key")])
@pytest.mark.parametrize("var", ["init_pubkey", "resp_pubkey"])
def test_an_answer_with_keys_that_were_not_offered(var: str, ways: tuple[str, ...]) -> None:
    error = fails(2, with_values(var, *ways))
    assert error.condition == NOT_ACCEPTABLE
    assert var in error.fields


@pytest.mark.parametrize("stanzas", [("iq", "iq"), ("message", "vcard"), ()])
def test_an_answer_with_wrong_stanzas(stanzas: tuple[str, ...]) -> None:
    def change(form: Form) -> Form:
        fields = [Field("stanzas", "", stanzas) if one.var == "stanzas" else one for one in form.fields]
        return forms.write(form.type, fields)

    error = fails(2, change)
    assert (error.condition, error.fields) == (NOT_ACCEPTABLE, ("stanzas",))


@pytest.mark.parametrize("var", CHOSEN)
def test_an_offer_without_anything_for_us(var: str) -> None:
    error = fails(1, with_options(var, "something-else"))
    assert (error.condition, error.fields) == (NOT_ACCEPTABLE, (var,))


def test_all_impossible_fields_are_named_together() -> None:
    def change(form: Form) -> Form:
        return with_options("ver", "9.9")(with_options("modp", "2")(form))

    assert set(fails(1, change).fields) == {"modp", "ver"}


@pytest.mark.parametrize("var", [*CHOSEN, "stanzas", "init_pubkey"])
def test_an_option_that_is_offered_twice(var: str) -> None:
    def change(form: Form) -> Form:
        options = form.get(var).options  # type: ignore[union-attr]
        return with_options(var, *options, options[0])(form)

    error = fails(1, change)
    assert (error.condition, error.fields) == (NOT_ACCEPTABLE, (var,))


def test_a_required_field_that_nobody_knows() -> None:
    def change(form: Form) -> Form:
        field = Field("quantum", "list-single", options=("yes",), required=True)
        return forms.write(form.type, (*form.fields, field))

    error = fails(1, change)
    assert (error.condition, error.fields) == (NOT_IMPLEMENTED, ("quantum",))


@pytest.mark.parametrize("text", ["0", "-1", "+5", "05", "4294967296", "1e3", "٣", "", " 5", "9" * 400])
@pytest.mark.parametrize("number", [1, 2])
def test_frequencies_of_rekeying_that_are_no_number(number: int, text: str) -> None:
    error = fails(number, with_values("rekey_freq", text))
    assert (error.condition, error.fields) == (NOT_ACCEPTABLE, ("rekey_freq",))


def test_the_larger_frequency_of_rekeying_holds() -> None:
    ours, theirs = Negotiation(replace(FAST, rekey_frequency=7), replace(FAST, rekey_frequency=50)).run()
    assert ours.parameters.rekey_freq == theirs.parameters.rekey_freq == 50
    error = fails(2, with_values("rekey_freq", "99"), alice=replace(FAST, rekey_frequency=100))
    assert error.fields == ("rekey_freq",)


def test_the_first_option_of_the_initiator_that_both_have() -> None:
    ours, _ = Negotiation(
        Settings(groups=(15, 14), ciphers=("aes128-ctr", "aes256-ctr")), Settings(groups=(14, 15))
    ).run()
    assert (ours.parameters.group, ours.parameters.cipher) == (15, "aes128-ctr")


# -- numbers at their edges -------------------------------------------------------------------------------------------

EDGES = (0, 1, GROUP.prime - 1, GROUP.prime, GROUP.prime + 1)


@pytest.mark.parametrize("value", EDGES)
def test_d_out_of_range(value: int) -> None:
    error = fails(2, with_octets("dhkeys", lambda _: mpi(value)))
    assert (error.condition, error.fields) == (NOT_ACCEPTABLE, ("dhkeys",))


@pytest.mark.parametrize("value", EDGES)
def test_e_out_of_range_though_it_was_committed_to(value: int) -> None:
    commitment = base64.encode(sha256(mpi(value)))
    with pytest.raises(NegotiationFailed) as caught:
        Negotiation(
            changes={1: with_values("dhhashes", commitment), 3: with_octets("dhkeys", lambda _: mpi(value))}
        ).run()
    assert (caught.value.condition, caught.value.fields) == (NOT_IMPLEMENTED, ())


@pytest.mark.parametrize("number", [2, 3])
def test_public_values_have_one_spelling(number: int) -> None:
    error = fails(number, with_octets("dhkeys", lambda octets: b"\0" + octets))
    assert error.condition == CONDITION[number]


def test_d_that_is_sent_back_as_e() -> None:
    """Committed to before it was known, by somebody who can see the future."""
    negotiation = Negotiation()
    third = negotiation.until_concluded()
    assert negotiation.answering
    d = negotiation.answering.public
    answering = msgspec.structs.replace(negotiation.answering, commitment=sha256(d))
    with pytest.raises(NegotiationFailed, match="is ours"):
        four.accept(answering, FAST, negotiation.parties[1], with_octets("dhkeys", lambda _: d)(third), (), now=NOW)


def test_e_that_was_not_committed_to() -> None:
    assert fails(3, with_octets("dhkeys", lambda _: mpi(4))).condition == NOT_IMPLEMENTED


@pytest.mark.parametrize(("count", "groups"), [(0, 2), (1, 2), (3, 2), (2, 1)])
def test_as_many_commitments_as_groups(count: int, groups: int) -> None:
    hashes = [base64.encode(bytes([place]) * 32) for place in range(count)]
    alice = Settings(groups=(14, 15)[:groups])
    error = fails(1, with_values("dhhashes", *hashes), alice=alice)
    assert (error.condition, error.fields) == (NOT_ACCEPTABLE, ("dhhashes",))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_commitments_are_sha256(size: int) -> None:
    assert fails(1, with_values("dhhashes", base64.encode(bytes(size)))).fields == ("dhhashes",)


@pytest.mark.parametrize(("size", "good"), [(0, False), (7, False), (8, True), (16, True), (64, True), (65, False)])
@pytest.mark.parametrize("number", [1, 2])
def test_nonces_have_8_to_64_octets(number: int, size: int, good: bool) -> None:
    error = fails(number, with_octets("my_nonce", lambda _: bytes(range(size))))
    # A good one goes through, and is found out by its owner, to whom it comes back.
    named = ("nonce",) if number == 1 and good else () if good else ("my_nonce",)
    assert error.fields == named


def test_a_nonce_that_is_sent_back() -> None:
    def reflect(form: Form) -> Form:
        return with_values("my_nonce", form.value("nonce"))(form)

    error = fails(2, reflect)
    assert (error.condition, error.fields) == (NOT_ACCEPTABLE, ("my_nonce",))


@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_nonce_that_is_not_ours(number: int) -> None:
    error = fails(number, with_octets("nonce", lambda octets: octets[::-1] + b"x"))
    assert error.condition == CONDITION[number]


@pytest.mark.parametrize("octets", [bytes(15), bytes(17), b"\0\0", bytes(14) + b"x"])
def test_counters_have_all_their_bits(octets: bytes) -> None:
    error = fails(2, with_octets("counter", lambda _: octets))
    assert (error.condition, error.fields) == (NOT_ACCEPTABLE, ("counter",))


@pytest.mark.parametrize("counter", [0, 1, 2**127 - 1, 2**127, 2**128 - 2, 2**128 - 1])
def test_counters_wrap(counter: int) -> None:
    """Both ends go on from any counter, also over the end of its bits."""

    class Drawn:
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, size: int) -> bytes:
            self.calls += 1
            return counter.to_bytes(16, "big") if self.calls == 2 else bytes((self.calls,)) * size

    a, b = Negotiation().parties
    for ours, theirs in ((STRICT, STRICT), (SUBSET, SUBSET), (GAJIM, GAJIM_ITSELF), (GAJIM_ITSELF, GAJIM)):
        one, other = (Settings(profile=profile, groups=(14,)) for profile in (ours, theirs))
        offering, first = offer.offer(one)
        answering, second = offer.answer(other, first, draw=Drawn())
        state, third = four.conclude(offering, one, a, second, (), now=NOW)
        done, fourth = four.accept(answering, other, b, third, (), now=NOW)
        assert isinstance(state, Concluding)
        assert fourth is not None
        talk(four.finish(state, one, fourth, (), now=NOW), done)
        assert done.profile == theirs.name


@pytest.mark.parametrize(("count", "good"), [(1, True), (256, True), (257, False)])
def test_at_most_256_hashes_of_secrets(count: int, good: bool) -> None:
    many = [base64.encode(place.to_bytes(32, "big")) for place in range(count)]
    with pytest.raises((NegotiationFailed, UsageError)):
        Negotiation(changes={3: with_values("rshashes", *many)}).run()
    reader = messages.proofs(Form("result", (Field("rshashes", "", tuple(many)),), b""))
    if good:
        assert len(reader.many("rshashes", 32, 32)) == count
    else:
        with pytest.raises(NegotiationFailed):
            reader.many("rshashes", 32, 32)


# -- every octet of what is MACed -------------------------------------------------------------------------------------

MACED = [(1, "my_nonce"), (1, "dhhashes"), (2, "my_nonce"), (2, "nonce"), (2, "counter"), (2, "dhkeys")]
MACED += [(3, var) for var in ("nonce", "dhkeys", "rshashes", "identity", "mac")]
MACED += [(4, var) for var in ("nonce", "srshash", "identity", "mac")]


@given(st.sampled_from(MACED), st.integers(0, 1 << 16), st.integers(1, 255))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_an_octet_that_was_altered(what: tuple[int, str], place: int, flip: int) -> None:
    number, var = what

    def change(octets: bytes) -> bytes:
        at = place % len(octets)
        return octets[:at] + bytes((octets[at] ^ flip,)) + octets[at + 1 :]

    error = fails(number, with_octets(var, change))
    assert error.condition in (NOT_ACCEPTABLE, NOT_IMPLEMENTED)
    if number > 2:
        assert (error.condition, error.fields) == (NOT_IMPLEMENTED, ())


def test_a_step_that_fails_changes_no_state() -> None:
    negotiation = Negotiation()
    third = negotiation.until_concluded()
    before = msgspec.msgpack.encode(negotiation.answering)
    for change in (
        with_octets("mac", lambda octets: octets[::-1]),
        with_octets("identity", lambda octets: octets[::-1]),
    ):
        with pytest.raises(NegotiationFailed):
            four.accept(negotiation.answering, FAST, negotiation.parties[1], change(third), (), now=NOW)  # type: ignore[arg-type]
    assert msgspec.msgpack.encode(negotiation.answering) == before
    assert four.accept(negotiation.answering, FAST, negotiation.parties[1], third, (), now=NOW)  # type: ignore[arg-type]


def test_states_come_back_from_records_and_print_no_secret() -> None:
    negotiation = Negotiation()
    negotiation.run()
    for state, kind in (
        (negotiation.offering, Offering),
        (negotiation.answering, Answering),
        (negotiation.concluding, Concluding),
    ):
        data = msgspec.msgpack.encode(state)
        assert msgspec.msgpack.decode(data, type=kind) == state
        assert repr(state) == f"{kind.__name__}(...)"


def test_replays_and_reflections() -> None:
    """Messages of another negotiation, and one's own."""
    one, two = Negotiation(), Negotiation()
    one.run()
    second = two.until_answered()
    with pytest.raises(NegotiationFailed):
        four.conclude(two.offering, FAST, two.parties[0], one.sent[2], (), now=NOW)  # type: ignore[arg-type]
    with pytest.raises(NegotiationFailed):
        four.conclude(two.offering, FAST, two.parties[0], two.sent[1], (), now=NOW)  # type: ignore[arg-type]
    two.concluding, third = four.conclude(two.offering, FAST, two.parties[0], second, (), now=NOW)  # type: ignore[arg-type,assignment]
    with pytest.raises(NegotiationFailed):
        four.accept(two.answering, FAST, two.parties[1], one.sent[3], (), now=NOW)  # type: ignore[arg-type]
    with pytest.raises(NegotiationFailed):
        four.finish(two.concluding, FAST, one.sent[4], (), now=NOW)  # type: ignore[arg-type]
    with pytest.raises(NegotiationFailed):
        four.finish(two.concluding, FAST, third, (), now=NOW)  # type: ignore[arg-type]
