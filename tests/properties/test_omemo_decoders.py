"""Every decoder of OMEMO and of its records: arbitrary bytes raise a PeerError or nothing, and what was encoded
comes back."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.fuzz import DECODERS, mutate, try_one
from tillie.crypto import sign
from tillie.directory import omemo as directory
from tillie.directory.omemo import MAX_DEVICES, MAX_ID, MAX_LABEL
from tillie.errors import StoreTooNew
from tillie.model import Address, Done, Trust
from tillie.schemes import moments
from tillie.schemes.omemo import element, messages, records
from tillie.schemes.omemo.ratchet import OurChain, Ratchet, TheirChain
from tillie.store import Committed, MemoryStore
from tillie.trust import decisions
from tillie.wire import xml

names = pytest.mark.parametrize("name", DECODERS)
ids = st.integers(1, MAX_ID)
uint32 = st.integers(0, 2**32 - 1)
key32 = st.binary(min_size=32, max_size=32).filter(lambda key: key != bytes(32))
canonical = st.integers(0, 2**255 - 20).map(lambda number: number.to_bytes(32, "little"))
times = st.floats(0, 1e11)
labels = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"))


@names
@given(st.binary(max_size=600))
def test_arbitrary_bytes(name: str, data: bytes) -> None:
    assert try_one(name, data) == ""


@names
@given(st.integers(0, 2**32))
def test_honest_bytes_with_a_few_changes(name: str, seed: int) -> None:
    random = Random(seed)
    for honest in DECODERS[name][1]:
        assert try_one(name, mutate(honest, random)) == ""


@names
def test_honest_bytes(name: str) -> None:
    decode, honest = DECODERS[name]
    for data in honest:
        assert decode(data)


# -- on the wire ----------------------------------------------------------------------------------------------------


@given(uint32, uint32, canonical, st.integers(1, 8), st.binary(min_size=16, max_size=16), ids, ids, canonical)
def test_messages_come_back(
    n: int, pn: int, ratchet_key: bytes, blocks: int, mac: bytes, prekey: int, signed_prekey: int, ephemeral: bytes
) -> None:
    signed = messages.encode_unauthenticated(n, pn, ratchet_key, bytes(16 * blocks))
    expected = (n, pn, ratchet_key, bytes(16 * blocks), mac, signed)
    assert messages.decode(messages.encode(mac, signed)) == expected
    identity = sign.public_of(ephemeral)
    data = messages.encode_key_exchange(prekey, signed_prekey, identity, ephemeral, mac, signed)
    assert messages.decode_key_exchange(data) == (prekey, signed_prekey, identity, ephemeral, expected)
    assert len(data) <= messages.MAX_KEY_BYTES


@given(
    ids,
    st.dictionaries(ids, st.tuples(st.booleans(), st.binary(max_size=messages.MAX_KEY_BYTES)), min_size=1, max_size=8),
    st.none() | st.binary(max_size=300),
    st.data(),
)
def test_elements_come_back(
    sid: int, keys: dict[int, tuple[bool, bytes]], payload: bytes | None, data: st.DataObject
) -> None:
    mine = data.draw(st.sampled_from(sorted(keys)))
    address = Address("bob@b.example")
    encoded = element.encode(sid, [(address, [element.Key(rid, *rest) for rid, rest in keys.items()])], payload)
    assert element.decode(encoded, address, mine) == (sid, element.Key(mine, *keys[mine]), payload)
    assert element.decode(encoded, Address("eve@e.example"), mine) == (sid, None, payload)


@given(st.dictionaries(ids, labels.filter(lambda text: 0 < len(text) <= MAX_LABEL), max_size=20))
def test_device_lists_come_back(devices: dict[int, str]) -> None:
    seed = bytes(32)
    listed = [directory.ListedDevice(n, text, sign.sign(seed, text.encode())) for n, text in devices.items()]
    read = directory.parse_devices(directory.encode_devices(listed))
    assert list(read) == listed
    assert [directory.label_of(device, sign.public_of(seed)) for device in read] == list(devices.values())


@given(st.dictionaries(ids, canonical, min_size=1, max_size=20), ids, canonical)
def test_bundles_come_back(prekeys: dict[int, bytes], signed_id: int, signed: bytes) -> None:
    bundle = directory.Bundle(sign.public_of(bytes(32)), signed_id, signed, sign.sign(bytes(32), signed), prekeys)
    encoded = directory.encode_bundle(bundle)
    assert directory.parse_bundle(encoded) == bundle
    xml.parse(encoded)


# -- in the store ---------------------------------------------------------------------------------------------------

devices = st.builds(
    records.KnownDevice, ids, st.booleans(), key32 | st.just(b""), labels.filter(lambda t: len(t) <= MAX_LABEL),
    st.binary(max_size=64), st.booleans(),
)  # fmt: skip
sessions = st.builds(
    records.Session, key32, key32, st.booleans(), st.booleans(), ids, ids,
    st.builds(
        Ratchet, key32, st.builds(OurChain, key32, key32, key32 | st.just(b""), uint32),
        st.builds(TheirChain, key32 | st.just(b""), key32 | st.just(b""), uint32), uint32,
    ),
    times, uint32, uint32, uint32, st.booleans(),
)  # fmt: skip


@given(sessions)
def test_sessions_come_back_in_a_kilobyte(session: records.Session) -> None:
    data = records.encode_session(session)
    assert records.decode_session(data) == session
    assert records.identity_in(data) == session.identity
    assert len(data) < 1_000


@given(times, st.booleans(), st.lists(devices, max_size=MAX_DEVICES // 8, unique_by=lambda device: device.id))
def test_lists_of_known_devices_come_back(at: float, found: bool, known: list[records.KnownDevice]) -> None:
    stored = records.DeviceList(at, found, tuple(known))
    assert records.decode_devices(records.encode_devices(stored)) == stored


@given(st.dictionaries(ids, times), st.lists(times, max_size=9), times, st.text(max_size=40))
def test_small_records_come_back(broken: dict[int, float], fights: list[float], at: float, why: str) -> None:
    assert records.decode_broken(records.encode_broken(broken)) == broken
    assert moments.decode_times(moments.encode_times(tuple(fights))) == tuple(fights)
    assert moments.decode_time(moments.encode_time(at)) == at
    prospect = records.Prospect(at, bytes(32), 1, bytes(32), 2, bytes(32), why)
    assert records.decode_prospect(records.encode_prospect(prospect)) == prospect


def test_records_of_a_newer_version_are_refused_by_name() -> None:
    newer = bytes((records.VERSION + 1,)) + bytes(400)
    decoders = (
        records.decode_own, records.decode_signed, records.decode_pair, records.decode_devices, records.decode_session,
        records.decode_skipped, records.decode_prospect, records.decode_broken, moments.decode_times,
        moments.decode_time, records.identity_in,
    )  # fmt: skip
    for decode in decoders:
        with pytest.raises(StoreTooNew, match="version 2"):
            decode(newer)


@given(st.lists(st.tuples(key32, st.sampled_from(Trust), times), max_size=12))
def test_decisions_come_back(made: list[tuple[bytes, Trust, float]]) -> None:
    store, address = MemoryStore(Address("a@a.example")), Address("b@b.example")
    expected: dict[bytes, Trust] = {}
    for key, trust, at in made:
        store.run(lambda s, key=key, trust=trust, at=at: Done(decisions.decide(s, address, key, trust, at)))  # type: ignore[misc]
        expected[key] = trust
    out = store.run(lambda s: Done(decisions.load(s, address)))
    assert isinstance(out, Committed)
    kept = {key: trust for key, trust in expected.items() if trust is not Trust.UNDECIDED}
    assert {key: decision.trust for key, decision in out.value.items()} == kept
