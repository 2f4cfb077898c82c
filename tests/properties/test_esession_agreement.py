"""What a negotiation of XEP-0116 comes to: profiles, algorithms, retained and other secrets, the short string."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from support.negotiating import (
    ALICE,
    BOB,
    FAST,
    NOW,
    Negotiation,
    fails,
    talk,
    with_options,
)
from tillie.crypto import modp
from tillie.crypto.kdf import sha256
from tillie.errors import NegotiationFailed, UsageError
from tillie.model import Address
from tillie.schemes.esession import four, offer
from tillie.schemes.esession.profile import GAJIM, MAX_TRIALS, STRICT, SUBSET, TRIALS, Profile
from tillie.schemes.esession.settings import Secret, Settings, is_code, new_code, normalise_code
from tillie.trust import strings
from tillie.trust.strings import SAS28X5, TILLIE
from tillie.wire import base64, forms
from tillie.wire.forms import Form

NOT_ACCEPTABLE, NOT_IMPLEMENTED = "not-acceptable", "feature-not-implemented"


# -- profiles -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", TRIALS, ids=lambda profile: profile.name)
def test_the_profile_of_the_initiator_is_found(profile: object) -> None:
    ours, theirs = Negotiation(replace(FAST, profile=profile)).run()  # type: ignore[arg-type]
    talk(ours, theirs)
    # Where no element is empty, and the whole key is the named one, two readings are the same.
    same = {"strict+empty-tags": "strict", "subset+empty-tags": "subset"}
    assert theirs.profile == same.get(ours.profile, ours.profile)


def test_there_are_no_more_trials_than_that() -> None:
    assert len(TRIALS) == MAX_TRIALS
    assert len({profile.name for profile in TRIALS}) == MAX_TRIALS


def test_the_normal_form_is_found_where_it_matters() -> None:
    """An initiator who marks a field required, in each of the two spellings of an empty element."""

    def mark(form: Form) -> Form:
        fields = [one._replace(required=one.var == "logging") for one in form.fields]
        return forms.write(form.type, fields)

    for name in ("strict", "strict+empty-tags"):
        profile = next(one for one in TRIALS if one.name == name)
        negotiation = Negotiation(replace(FAST, profile=profile))
        a, b = negotiation.parties
        offering, first = offer.offer(negotiation.alice)
        marked = mark(first)
        offering = msgspec.structs.replace(offering, form=marked.xml)
        answering, second = offer.answer(FAST, marked)
        _, third = four.conclude(offering, negotiation.alice, a, second, (), now=NOW)
        theirs, _ = four.accept(answering, FAST, b, third, (), now=NOW)
        assert theirs.profile == name


@pytest.mark.parametrize("profile", [SUBSET, GAJIM], ids=lambda profile: profile.name)
def test_peers_that_have_only_the_old_string_are_served_and_never_verified(profile: object) -> None:
    for done in Negotiation(replace(FAST, profile=profile)).run():  # type: ignore[arg-type]
        assert (done.string_name, done.verifies) == (SAS28X5, False)


def test_the_old_string_is_refused_from_who_could_choose() -> None:
    error = fails(1, with_options("sas_algs", SAS28X5))
    assert (error.condition, error.fields) == (NOT_ACCEPTABLE, ("sas_algs",))


def test_ours_is_chosen_wherever_it_is_offered() -> None:
    legacy = replace(FAST, legacy=True, strings=(SAS28X5, TILLIE))
    ours, _ = Negotiation(legacy, FAST).run()
    assert ours.string_name == TILLIE
    ours, theirs = Negotiation(legacy, replace(legacy, strings=(SAS28X5,))).run()
    assert (ours.string_name, ours.verifies, theirs.verifies) == (SAS28X5, False, False)
    assert ours.string == theirs.string
    assert len(ours.string) == 5


# -- what a negotiation comes to --------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [STRICT, SUBSET, GAJIM], ids=lambda profile: profile.name)
@pytest.mark.parametrize("logging", ["may", "mustnot"])
def test_logging_means_the_same_in_every_spelling(profile: Profile, logging: str) -> None:
    """XEP-0155 has may and mustnot, XEP-0217 `otr` true and false."""
    both = replace(FAST, logging=(logging,))
    negotiation = Negotiation(replace(both, profile=profile), both)
    ours, theirs = negotiation.run()
    assert ours.parameters.logging == theirs.parameters.logging == logging
    wanted = {"may": "false", "mustnot": "true"}[logging] if profile is SUBSET else logging
    assert negotiation.sent[2].value("otr" if profile is SUBSET else "logging") == wanted


def test_both_ends_agree() -> None:
    ours, theirs = Negotiation().run()
    assert ours.string == theirs.string
    assert ours.string_digest == theirs.string_digest
    assert len(ours.string) == 6
    assert ours.verifies
    assert ours.new_secret == theirs.new_secret
    assert ours.parameters == theirs.parameters
    talk(ours, theirs)


@pytest.mark.parametrize("hash_name", ["sha256", "sha384", "sha512", "sha3-256", "sha3-512"])
@pytest.mark.parametrize("cipher", ["aes128-ctr", "aes192-ctr", "aes256-ctr"])
def test_all_hashes_and_ciphers(hash_name: str, cipher: str) -> None:
    both = replace(FAST, hashes=(hash_name,), ciphers=(cipher,))
    talk(*Negotiation(both, both).run())


def test_a_session_without_a_cipher_is_legacy() -> None:
    both = replace(FAST, ciphers=("none",), legacy=True)
    talk(*Negotiation(both, both).run())


@pytest.mark.parametrize("number", sorted(modp.GROUPS))
def test_all_groups(number: int) -> None:
    both = Settings(groups=(number,), legacy=True)
    ours, theirs = Negotiation(both, both).run()
    assert ours.parameters.group == number
    talk(ours, theirs)


# -- retained and other secrets ---------------------------------------------------------------------------------------


def secret(number: int) -> Secret:
    return Secret(b"association %d" % number, sha256(b"secret %d" % number))


def test_a_retained_secret_is_found_and_replaced() -> None:
    ours, theirs = Negotiation(alice_secrets=[secret(1), secret(2)], bob_secrets=[secret(3), secret(2)]).run()
    assert ours.used == theirs.used == secret(2)
    kept = Secret(b"next", ours.new_secret)
    ours, theirs = Negotiation(alice_secrets=[kept], bob_secrets=[kept]).run()
    assert ours.used == theirs.used == kept
    assert ours.new_secret != kept.value
    talk(ours, theirs)


@pytest.mark.parametrize(("alice", "bob"), [((), (1,)), ((1,), ()), ((1,), (2,))])
def test_no_retained_secret_in_common(alice: tuple[int, ...], bob: tuple[int, ...]) -> None:
    ours, theirs = Negotiation(alice_secrets=[*map(secret, alice)], bob_secrets=[*map(secret, bob)]).run()
    assert ours.used is None
    assert theirs.used is None
    talk(ours, theirs)


def test_nobody_sees_how_many_secrets_there_are_or_whether_one_was_found() -> None:
    """The hashes are among two to four random values, in no order; message 4 looks the same with and without one."""
    counts, places, sizes = set(), set(), set()
    for _ in range(40):
        negotiation = Negotiation(alice_secrets=[secret(1)], bob_secrets=[secret(1)])
        negotiation.run()
        hashes = negotiation.sent[3].values("rshashes")
        nonce = base64.decode(negotiation.sent[2].value("nonce"), max_bytes=64)
        named = base64.encode(__import__("hmac").digest(nonce, secret(1).value, "sha256"))
        counts.add(len(hashes))
        places.add(hashes.index(named))
        sizes.add(len(negotiation.sent[4].xml))
    assert counts == {3, 4, 5}
    assert {0, 1, 2} <= places
    unknown = Negotiation()
    unknown.run()
    assert sizes == {len(unknown.sent[4].xml)}


def test_two_addresses_of_one_person_are_recognised_and_not_linkable_on_the_wire() -> None:
    """Alice comes back under another address. Bob's client knows her by the retained secret; whoever records both
    negotiations finds no value in common but what every negotiation of this program has."""
    kept = secret(7)
    other = Address("nobody@elsewhere.example/x")
    first = Negotiation(alice_secrets=[kept], bob_secrets=[kept])
    done = first.run()[1]
    assert done.used == kept
    kept = Secret(kept.name, done.new_secret)  # each secret serves once
    second = Negotiation(alice_secrets=[kept], bob_secrets=[secret(1), kept], initiator=other)
    assert second.run()[1].used == kept
    strangers = Negotiation(initiator=Address("stranger@third.example/y"))
    strangers.run()

    def values(negotiation: Negotiation) -> set[str]:
        return {value for form in negotiation.sent.values() for field in form.fields for value in field.values}

    def constant(negotiation: Negotiation) -> set[str]:
        return values(negotiation) & values(strangers)

    assert values(first) & values(second) == constant(first) == constant(second)
    assert not any(len(value) > 16 for value in constant(first))
    assert all(name not in form.xml for form in second.sent.values() for name in (b"alice", b"nobody", b"association"))


def test_other_secrets_must_be_the_same() -> None:
    code = new_code()
    one = replace(FAST, other_secret=code)
    ours, theirs = Negotiation(one, replace(FAST, other_secret=code.lower().replace("-", " "))).run()
    talk(ours, theirs)
    with pytest.raises(NegotiationFailed) as caught:
        Negotiation(one, replace(FAST, other_secret=new_code())).run()
    assert caught.value.condition == NOT_IMPLEMENTED


def test_codes_have_eighty_bits_and_passwords_are_legacy() -> None:
    code = new_code()
    assert is_code(code)
    assert is_code(normalise_code(code.lower()))
    assert 34**16 > 2**80
    assert len({new_code() for _ in range(50)}) == 50
    for bad in ("", "hunter2", "AAAA-AAAA-AAAA-AAAA", code[:-1], code + "A", code.replace(code[0], "0")):
        assert not is_code(bad)
    with pytest.raises(UsageError):
        replace(FAST, other_secret="hunter2")
    legacy = replace(FAST, other_secret="hunter2", legacy=True)
    assert legacy.warnings
    assert not FAST.warnings
    talk(*Negotiation(legacy, legacy).run())


# -- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": (1,)},
        {"groups": (14, 5)},
        {"ciphers": ("none",)},
        {"strings": (SAS28X5,)},
    ],
)
def test_what_only_legacy_allows(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Settings(**changes)  # type: ignore[arg-type]
    Settings(**changes, legacy=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": ()},
        {"groups": (14, 14)},
        {"groups": (3,)},
        {"groups": (4,)},
        {"hashes": ("sha1",)},
        {"hashes": ("md5",)},
        {"ciphers": ("rc4",)},
        {"compress": ("zlib",)},
        {"stanzas": ("vcard",)},
        {"rekey_frequency": 0},
        {"rekey_frequency": 2**32},
        {"own_key": ("key",)},
        {"three_message": True},
    ],
)
def test_what_nothing_allows(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Settings(**changes, legacy=True)  # type: ignore[arg-type]


def test_without_a_backend_there_are_no_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = offer.offer(FAST)
    monkeypatch.setattr(modp, "backend", lambda: "")
    with pytest.raises(UsageError):
        offer.offer(FAST)
    with pytest.raises(NegotiationFailed) as caught:
        offer.answer(FAST, first)
    assert caught.value.fields == ("modp",)


# -- the short string -------------------------------------------------------------------------------------------------


def test_each_input_changes_the_string() -> None:
    inputs = (ALICE, BOB, b"<a>", b"<b>", b"e")
    whole = strings.short_string(*inputs)
    others: list[tuple[object, ...]] = [
        (*inputs[:place], type(one)(one + one[:1]), *inputs[place + 1 :])  # type: ignore[operator]
        for place, one in enumerate(inputs)
    ]
    others += [(BOB, ALICE, *inputs[2:]), (ALICE, BOB, b"<a", b"><b>", b"e"), (ALICE, BOB, b"<b>", b"<a>", b"e")]
    digests = {strings.short_string(*other).digest for other in others}  # type: ignore[arg-type]
    assert len(digests) == len(others)
    assert whole.digest not in digests
    assert len(whole.text) == 6
    assert set(whole.text) <= set(strings.DIGITS)


def test_the_string_is_what_the_documentation_says() -> None:
    """Computed here once more, from the words of docs/esession.md."""
    parts = [b"tillie-base28x6", b"alice@example.org/pda", b"bob@example.com/laptop", b"A", b"B", b"\x07"]
    digest = sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts))
    number = int.from_bytes(digest[:8], "big")
    digits = ""
    for _ in range(6):
        digits = "acdefghikmopqruvwxy123456789"[number % 28] + digits
        number //= 28
    assert strings.short_string(ALICE, BOB, b"A", b"B", b"\x07") == (digits, digest)


def test_nothing_of_messages_3_and_4_but_e_enters_the_string() -> None:
    """Bob's string with other hashes of secrets in message 3, which whoever holds the keys can choose, is the same."""
    negotiation = Negotiation(alice_secrets=[secret(1)])
    second = negotiation.until_answered()
    assert negotiation.offering is not None
    assert negotiation.answering is not None
    texts = set()
    for secrets in ([], [secret(1)], [secret(2), secret(3)]):
        _, third = four.conclude(negotiation.offering, FAST, negotiation.parties[0], second, secrets, now=NOW)
        done, _ = four.accept(negotiation.answering, FAST, negotiation.parties[1], third, (), now=NOW)
        texts.add(done.string)
    assert len(texts) == 1


def test_a_man_in_the_middle_is_seen() -> None:
    """He negotiates with both in the other's name. Both sessions work, and the strings differ."""
    with_alice, _ = Negotiation().run()
    _, with_bob = Negotiation().run()
    assert with_alice.string_digest != with_bob.string_digest


def test_sas28x5_with_and_without_its_leading_digits() -> None:
    found = {}
    for number in range(400):
        m_a = sha256(b"%d" % number)
        padded, bare = (strings.sas28x5(m_a, b"form", "sha256", pad=pad).text for pad in (True, False))
        assert len(padded) == 5
        assert padded.lstrip("a") == bare.lstrip("a")
        found[len(bare)] = number
    assert min(found) < 5
