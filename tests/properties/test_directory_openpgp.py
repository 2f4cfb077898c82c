"""Codecs of announced OpenPGP keys: what they write they read, and what is broken is Malformed or passed over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillie.directory import openpgp as directory
from tillie.directory.openpgp import Announced
from tillie.errors import Malformed
from tillie.wire import base64

ONE, TWO = bytes(range(20)), bytes(range(20, 40))
DATE = 1_516_000_000.0
fingerprints = st.binary(min_size=20, max_size=20)


def entry(fingerprint: str = ONE.hex().upper(), date: str = "2018-03-01T15:26:12Z") -> str:
    return f"<pubkey-metadata v4-fingerprint='{fingerprint}' date='{date}'/>"


def listed(*entries: str) -> bytes:
    return f"<public-keys-list xmlns='{directory.NAMESPACE}'>{''.join(entries)}</public-keys-list>".encode()


@given(st.dictionaries(fingerprints, st.integers(0, 4_000_000_000), max_size=directory.MAX_KEYS))
def test_a_list_is_read_as_it_was_written(keys: dict[bytes, int]) -> None:
    announced = tuple(Announced(fingerprint, float(at)) for fingerprint, at in keys.items())
    assert directory.parse_list(directory.encode_list(announced)) == announced


@given(st.binary(min_size=1, max_size=300))
def test_keys_and_backups_are_read_as_they_were_written(data: bytes) -> None:
    assert directory.parse_key(directory.encode_key(data)) == data
    assert directory.parse_backup(directory.encode_backup(data)) == data


@given(fingerprints)
def test_the_name_of_a_data_node(fingerprint: bytes) -> None:
    node = directory.key_node(fingerprint)
    assert node.removeprefix("urn:xmpp:openpgp:0:public-keys:") == fingerprint.hex().upper()
    assert directory.fingerprint_in(node) == fingerprint


@pytest.mark.parametrize(
    "node", ["", directory.LIST_NODE, directory.SECRET_NODE, directory.LIST_NODE + ":ab", "x:" + "A" * 40]
)
def test_other_nodes_hold_no_key(node: str) -> None:
    assert directory.fingerprint_in(node) is None


def test_the_list_of_the_specification() -> None:
    text = b"""
        <public-keys-list xmlns='urn:xmpp:openpgp:0'>
          <pubkey-metadata v4-fingerprint='1357B01865B2503C18453D208CAC2A9678548E35' date='2018-03-01T15:26:12Z'/>
          <pubkey-metadata v4-fingerprint='67819B343B2AB70DED9320872C6464AF2A8E4C02' date='1953-05-16T12:00:00Z'/>
        </public-keys-list>"""
    first, second = directory.parse_list(text)
    assert first == Announced(bytes.fromhex("1357B01865B2503C18453D208CAC2A9678548E35"), 1_519_917_972.0)
    assert second.at == directory.UNKNOWN_DATE  # before 1970: nobody had such a key


@pytest.mark.parametrize("date", ["", "yesterday", "2018-03-01", "2018-02-30T00:00:00Z", "2018-03-01T15:26:12"])
def test_a_malformed_date_costs_only_the_date(date: str) -> None:
    assert directory.parse_list(listed(entry(date=date))) == (Announced(ONE, directory.UNKNOWN_DATE),)


@pytest.mark.parametrize("fingerprint", ["", "12", "0" * 39, "0" * 64, "G" * 40, "0" * 41])
def test_a_malformed_fingerprint_costs_no_other_key(fingerprint: str) -> None:
    (found,) = directory.parse_list(listed(entry(fingerprint), entry()))
    assert found.fingerprint == ONE


def test_a_key_that_comes_twice_counts_once_with_its_newest_date() -> None:
    text = listed(
        entry(date="2018-03-01T15:26:12Z"), entry(TWO.hex()), entry(date="2019-03-01T15:26:12Z"), entry(date="?")
    )
    first, second = directory.parse_list(text)
    assert first == Announced(ONE, 1_551_453_972.0)
    assert second.fingerprint == TWO  # in lower case, too


def test_the_number_of_keys() -> None:
    keys = [Announced(number.to_bytes(20, "big"), DATE) for number in range(directory.MAX_KEYS + 1)]
    assert len(directory.parse_list(directory.encode_list(keys[:-1]))) == directory.MAX_KEYS
    with pytest.raises(Malformed):
        directory.parse_list(directory.encode_list(keys))


def test_the_number_of_entries() -> None:
    assert len(directory.parse_list(listed(*[entry()] * directory.MAX_LIST_ELEMENTS))) == 1
    with pytest.raises(Malformed):
        directory.parse_list(listed(*[entry()] * (directory.MAX_LIST_ELEMENTS + 1)))
    with pytest.raises(Malformed):
        directory.parse_list(listed(*[entry(f"{number:040X}") for number in range(10_000)]))


def test_the_size_of_a_certificate() -> None:
    largest = bytes(directory.MAX_CERTIFICATE_BYTES)
    assert directory.parse_key(directory.encode_key(largest)) == largest
    with pytest.raises(Malformed):
        directory.parse_key(directory.encode_key(largest + b"\0"))


def test_the_size_of_a_backup() -> None:
    largest = bytes(directory.MAX_BACKUP_BYTES)
    assert directory.parse_backup(directory.encode_backup(largest)) == largest
    with pytest.raises(Malformed):
        directory.parse_backup(directory.encode_backup(largest + b"\0"))


def test_wrapped_lines_are_read() -> None:
    data = bytes(range(200))
    coded = base64.encode(data)
    lines = "\n  ".join(coded[start : start + 64] for start in range(0, len(coded), 64))
    wrapped = f"<pubkey xmlns='{directory.NAMESPACE}'>\n<data>\n  {lines}\n</data></pubkey>".encode()
    assert directory.parse_key(wrapped) == data


@pytest.mark.parametrize(
    "payload",
    [
        b"<pubkey xmlns='urn:xmpp:openpgp:0'/>",
        b"<pubkey xmlns='urn:xmpp:openpgp:0'><data/></pubkey>",
        b"<pubkey xmlns='urn:xmpp:openpgp:0'><data>QQ==</data><data>QQ==</data></pubkey>",
        b"<pubkey xmlns='urn:xmpp:openpgp:0'><data>Q!==</data></pubkey>",
        b"<pubkey xmlns='urn:xmpp:openpgp:0'><data><x/></data></pubkey>",
        b"<pubkey xmlns='urn:xmpp:openpgp:1'><data>QQ==</data></pubkey>",
        b"<pubkey xmlns='urn:xmpp:openpgp:0'><data>-----BEGIN PGP PUBLIC KEY BLOCK-----</data></pubkey>",
    ],
)
def test_keys_that_are_refused(payload: bytes) -> None:
    with pytest.raises(Malformed):
        directory.parse_key(payload)


MADE = directory.encode_list([Announced(ONE, DATE)]), directory.encode_key(ONE), directory.encode_backup(ONE)


@given(st.sampled_from(MADE), st.integers(0, 200), st.binary(max_size=8), st.integers(0, 8))
def test_altered_bytes_are_read_or_malformed(made: bytes, at: int, put: bytes, cut: int) -> None:
    data = made[:at] + put + made[at + cut :]
    for parse in (directory.parse_list, directory.parse_key, directory.parse_backup):
        try:
            parse(data)
        except Malformed:
            pass
