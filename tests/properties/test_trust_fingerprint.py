"""Fingerprints as they are shown and typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillie.errors import UsageError
from tillie.trust.fingerprint import SHORTEST_PREFIX, fingerprint, normalise, prefix

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
