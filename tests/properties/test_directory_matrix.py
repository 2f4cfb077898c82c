"""Device maps, claimed keys and strict JSON, whatever a home answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillie.crypto import agree, sign
from tillie.directory import matrix
from tillie.directory.matrix import DRAFT2015, V1, DeviceKeys
from tillie.errors import BadKey, BadSignature, Malformed, PeerError
from tillie.model import Address
from tillie.wire import canonical

USER = Address("@alice:a.example")
SEED = bytes(range(32))
CURVE = agree.public_of(bytes(range(1, 33)))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
DEVICE = matrix.write_device_keys(V1, USER, "D", CURVE, SEED)
NAMES = sorted(DEVICE)


@given(JSON)
def test_any_json_is_read_or_malformed(value: Any) -> None:
    data = json.dumps(value).encode()
    try:
        parsed = canonical.parse(data)
    except Malformed:
        return
    assert canonical.parse(canonical.encode(parsed)) == parsed


@given(JSON)
def test_spaces_and_escapes_make_no_difference(value: Any) -> None:
    forms = [
        json.dumps(value, ensure_ascii=False, separators=(",", ":")),
        json.dumps(value, ensure_ascii=False),
        json.dumps(value, separators=(",", ":")),
    ]
    assert len({_outcome(form.encode("utf-8", "surrogatepass")) for form in forms}) == 1


def _outcome(data: bytes) -> str:
    try:
        return repr(canonical.parse(data))
    except Malformed:
        return "malformed"


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_malformed(data: bytes) -> None:
    for read in (canonical.parse, canonical.parse_object, lambda data: canonical.split_object(data, max_bytes=1_000)):
        try:
            read(data)
        except Malformed:
            continue


@given(st.sampled_from(NAMES), JSON)
def test_a_changed_member_never_verifies(name: str, value: Any) -> None:
    changed = {**DEVICE, name: value}
    if changed == DEVICE:
        return
    with pytest.raises(PeerError):
        matrix.read_device_keys(canonical.parse(json.dumps(changed).encode()), USER, "D", V1)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=6))
def test_no_device_costs_another_one(others: dict[str, Any]) -> None:
    payload = json.dumps({**others, "D": DEVICE}).encode()
    good, bad = matrix.parse_device_map(payload, USER, V1)
    assert [each.device for each in good] == ["D"]
    assert {device for device, _ in bad} == set(others) - {"D"}


@given(JSON)
def test_any_answer_to_a_claim(answer: Any) -> None:
    device = DeviceKeys(USER, "D", CURVE, sign.public_of(SEED), (matrix.OLM,), {})
    for profile in (V1, DRAFT2015):
        with pytest.raises((Malformed, BadKey, BadSignature)):
            matrix.read_one_time_key(answer, device, profile)


@pytest.mark.parametrize("profile", [V1, DRAFT2015], ids=lambda profile: profile.name)
def test_a_good_device_and_key_are_read(profile: matrix.Profile) -> None:
    written = matrix.write_device_keys(profile, USER, "D", CURVE, SEED, valid=(1.0, 2.0))
    device = matrix.read_device_keys(written, USER, "D", profile)
    assert (device.curve25519, device.ed25519, device.binds, device.is_able) == (
        CURVE,
        sign.public_of(SEED),
        True,
        True,
    )
    assert device.valid == ((1.0, 2.0) if profile.dated else None)
    key = matrix.write_one_time_key(profile, USER, "D", CURVE, SEED)
    assert matrix.read_one_time_key({f"{profile.one_time}:A": key}, device, profile).key == CURVE
    other = DRAFT2015 if profile is V1 else V1
    with pytest.raises(Malformed):  # never a fallback from one profile to the other
        matrix.read_one_time_key({f"{profile.one_time}:A": key}, device, other)


@pytest.mark.parametrize(("user", "device"), [("@bob:a.example", "D"), (USER, "E")])
def test_a_device_under_another_name(user: str, device: str) -> None:
    with pytest.raises(Malformed):
        matrix.read_device_keys(DEVICE, Address(user), device, V1)


def test_as_many_devices_as_are_read() -> None:
    many = {str(number): 1 for number in range(matrix.MAX_DEVICES)}
    assert len(matrix.read_device_map(many, USER, V1)[1]) == matrix.MAX_DEVICES
    with pytest.raises(Malformed):
        matrix.read_device_map({**many, "one more": 1}, USER, V1)


def test_a_large_device_costs_no_other() -> None:
    room = matrix.MAX_DEVICE_BYTES
    payload = json.dumps({"D": DEVICE, "E": "x" * room}).encode()
    good, bad = matrix.parse_device_map(payload, USER, V1)
    assert ([each.device for each in good], [device for device, _ in bad]) == (["D"], ["E"])


@pytest.mark.parametrize(
    "key", [bytes(32), b"\x01" + bytes(31), bytes([255]) * 32, CURVE[:31] + bytes([CURVE[31] | 128])]
)
def test_keys_that_are_not_safe(key: bytes) -> None:
    with pytest.raises(BadKey):
        matrix.check_curve(key)


def test_depth_and_size_of_json() -> None:
    deep = b"[" * canonical.MAX_DEPTH + b"]" * canonical.MAX_DEPTH
    canonical.parse(deep)
    with pytest.raises(Malformed):
        canonical.parse(b"[" + deep + b"]")
    canonical.parse(b'"aa"', max_bytes=4)
    with pytest.raises(Malformed):
        canonical.parse(b'"aaa"', max_bytes=4)
