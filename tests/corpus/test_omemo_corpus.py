"""Inputs that once broke a decoder, one file each in a folder named like the decoder (see support/fuzz.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.fuzz import CORPUS, DECODERS, try_one
from tillie.envelope import codec
from tillie.errors import Malformed

FILES = sorted(path for name in DECODERS for path in (CORPUS / name).glob("*") if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_stays_mended(path: Path) -> None:
    assert try_one(path.parent.name, path.read_bytes()) == ""


def test_there_is_something_to_replay() -> None:
    assert FILES


def test_groups_of_keys_are_counted_even_if_empty() -> None:
    """The finding `groups`: 15,000 foreign addresses to normalise, more than a second for one stanza."""
    with pytest.raises(Malformed, match="more than"):
        DECODERS["element"][0]((CORPUS / "element" / "groups").read_bytes())


def test_what_is_opened_stays_small() -> None:
    """The finding `declarations`: 12 kB that unfolded to megabytes, since each child got its own declarations."""
    with pytest.raises(Malformed, match="content is longer"):
        codec.decode((CORPUS / "envelope" / "declarations").read_bytes())
