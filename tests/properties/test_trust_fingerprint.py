"""Fingerprints as they are shown and typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillie.errors import UsageError
from tillie.model import Address, Device
from tillie.trust.fingerprint import SHORTEST_PREFIX, fingerprint, normalise, normalise_for, of, of_key, prefix

BOB = Address("@bob:montague.example")
BOB_ON_XMPP = Address("bob@montague.example")
PRINTS = st.binary(min_size=20, max_size=20)


@given(PRINTS, st.sampled_from([" ", ":", "", "\n", "  "]), st.booleans())
def test_an_openpgp_fingerprint_is_read_back_however_it_is_typed(key: bytes, between: str, lower: bool) -> None:
    shown = fingerprint(key)
    assert len(shown) == 49
    typed = shown.lower() if lower else shown
    assert normalise(typed.replace(" ", between)) == shown


@given(PRINTS, st.integers(SHORTEST_PREFIX, 40))
def test_a_beginning_names_a_key(key: bytes, length: int) -> None:
    digits = key.hex()[:length]
    assert prefix(digits) == prefix(f"0x{digits}") == digits.upper()
    assert key.hex().upper().startswith(prefix(digits))


@given(st.text(max_size=80))
def test_what_is_none_is_a_usage_error(typed: str) -> None:
    for read in (normalise, prefix):
        try:
            assert len(read(typed)) >= SHORTEST_PREFIX
        except UsageError:
            pass


@pytest.mark.parametrize("length", [SHORTEST_PREFIX - 1, 65, 8, 0])
def test_short_ids_and_too_much_are_refused(length: int) -> None:
    with pytest.raises(UsageError):
        prefix("A" * length)


@pytest.mark.parametrize("length", [16, 39, 41, 63, 65])
def test_a_part_verifies_nothing(length: int) -> None:
    with pytest.raises(UsageError):
        normalise("A" * length)


# -- on Matrix ------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32), st.sampled_from(["", " ", "  ", "\n"]))
def test_a_matrix_fingerprint_is_read_back_however_it_is_typed(key: bytes, between: str) -> None:
    shown = of_key(BOB, key)
    assert [len(group) for group in shown.split(" ")] == [4] * 10 + [3]
    assert normalise_for(BOB, shown.replace(" ", between)) == shown
    assert of(Device(BOB, 1, key, "JLAFKJWSCS")) == shown


def test_one_key_is_shown_as_its_network_has_it() -> None:
    key = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert of_key(BOB, key) == "11qY AYKx CrfV S/7T yWQH Og7h cvPa piMl rwIa aPcH URo"
    assert of(Device(BOB_ON_XMPP, 1, key)) == fingerprint(key)
    assert of(Device(BOB, 1, b"")) == of(Device(BOB_ON_XMPP, 1, b"")) == ""


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHUR",  # a part of it
        "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo1",
        "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",  # the URL's alphabet
        "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURp",  # another spelling of the same key
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "\ud800",
    ],
)
def test_what_is_no_matrix_fingerprint_is_a_usage_error(typed: str) -> None:
    with pytest.raises(UsageError):
        normalise_for(BOB, typed)


def test_elsewhere_a_fingerprint_is_read_as_before() -> None:
    assert normalise_for(BOB_ON_XMPP, "A" * 64) == normalise("A" * 64)
