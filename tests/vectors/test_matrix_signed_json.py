"""Canonical JSON, unpadded Base64, signed JSON and fingerprints against published values.

Provenance: Matrix specification 1.19, appendices, "Unpadded Base64", "Canonical JSON" ("Examples"), "Cryptographic Test
Vectors", whose seed is printed there with a last letter (1 instead of 0) that no strict encoder writes. The input with
1e10 is left out: by the text of the same section a number has no exponent. The signed request is made with the seed of
those vectors; the fingerprint by hand, with sha256sum, over keys of the specification's examples.
"""

from __future__ import annotations

import pytest

from tillie.crypto import sign
from tillie.directory import matrix
from tillie.directory.signed import sign_object, signature_of, verify_object
from tillie.errors import BadSignature, Malformed
from tillie.wire import base64, canonical

SEED = base64.decode_unpadded("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0", size=32)
PUBLIC = base64.decode_unpadded("XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI", size=32)

BASE64 = ["", "Zg", "Zm8", "Zm9v", "Zm9vYg", "Zm9vYmE", "Zm9vYmFy"]

CANONICAL = [
    ("{}", "{}"),
    ('{ "one": 1, "two": "Two" }', '{"one":1,"two":"Two"}'),
    ('{ "b": "2", "a": "1" }', '{"a":"1","b":"2"}'),
    ('{ "本": 2, "日": 1 }', '{"日":1,"本":2}'),
    ('{ "a": "日本語" }', '{"a":"日本語"}'),
    ('{ "a": "\\u65E5" }', '{"a":"日"}'),
    ('{ "a": null }', '{"a":null}'),
    (
        '{"auth":{"success":true,"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":'
        '[{"medium":"email","address":"john.doe@example.org"},{"medium":"msisdn","address":"123456789"}]}}}',
        '{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":'
        '[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}',
    ),
    # Sorted by code point, not by UTF-16 code unit; all but the named escapes are raw, or lower-case \u00xx.
    ('{"\\ud800\\udc00": 1, "\\uffff": 2}', '{"\uffff":2,"\U00010000":1}'),
    ('["\\u0007\\u0008\\u0009\\u000A\\u000c\\u000d\\"\\\\\\/\\u007F"]', '["\\u0007\\b\\t\\n\\f\\r\\"\\\\/\x7f"]'),
]

SIGNED = [
    ({}, "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"),
    (
        {"one": 1, "two": "Two"},
        "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
    ),
    (
        {
            "method": "GET",
            "uri": "/_matrix/federation/v1/user/devices/%40alice%3Adestination.hs.example.com",
            "origin": "domain",
            "destination": "destination.hs.example.com",
        },
        "XaCbXcisReF6FBhnaFBpqZWDIjq7RddfYJbqTQV825gxexWVNiOESMrnCuNRbvtro7J0Nze20MYK2l/8Oa1wCQ",
    ),
]


@pytest.mark.parametrize("coded", BASE64)
def test_base64(coded: str) -> None:
    data = b"foobar"[: BASE64.index(coded)]
    assert base64.encode_unpadded(data) == coded
    assert base64.decode_unpadded(coded, size=len(data)) == data
    assert base64.decode_unpadded(coded + "=" * (-len(coded) % 4), size=len(data)) == data


@pytest.mark.parametrize("coded", ["Zh", "Zg=", "Zm8==", "Zm9v=", " Zg", "Zg\n", "Z g", "Zm9-", "Z", "Zg==Zg"])
def test_base64_has_one_spelling(coded: str) -> None:
    with pytest.raises(Malformed):
        base64.decode_unpadded_most(coded, max_bytes=9)


@pytest.mark.parametrize(("text", "expected"), CANONICAL)
def test_canonical(text: str, expected: str) -> None:
    assert canonical.encode(canonical.parse(text.encode())).decode() == expected


@pytest.mark.parametrize(
    "text", ['{"a":-0}', '{"a":1e10}', '{"a":1.0}', '{"a":1,"a":1}', '"\\ud800"', "9007199254740992"]
)
def test_what_has_two_readings_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        canonical.parse(text.encode())


def test_the_largest_integers() -> None:
    assert canonical.encode(canonical.parse(b"[9007199254740991,-9007199254740991]")) == (
        b"[9007199254740991,-9007199254740991]"
    )


@pytest.mark.parametrize(("value", "signature"), SIGNED)
def test_signed(value: canonical.Object, signature: str) -> None:
    assert sign.public_of(SEED) == PUBLIC
    signed = sign_object(value, "domain", "ed25519:1", SEED)
    assert signed["signatures"] == {"domain": {"ed25519:1": signature}}
    verify_object({**signed, "unsigned": {"age": 1}}, "domain", "ed25519:1", PUBLIC)
    with pytest.raises(BadSignature):
        verify_object({**signed, "more": 1}, "domain", "ed25519:1", PUBLIC)
    with pytest.raises(BadSignature):
        signature_of(signed, "domain", "ed25519:2")


def test_only_members_at_the_top_are_left_out_of_what_is_signed() -> None:
    signed = sign_object({"inner": {"unsigned": 1}}, "domain", "ed25519:1", SEED)
    with pytest.raises(BadSignature):
        verify_object({**signed, "inner": {"unsigned": 2}}, "domain", "ed25519:1", PUBLIC)


def test_fingerprint() -> None:
    keys = ["3C5BFWi2Y8MaVvjM8M22DBmh24PmgR0nPvJOIArzgyI", "06UzBknVHFMwgi7AVloY7ylC+xhOhEX4PkNge14Grl8"]
    raw = [base64.decode_unpadded(key, size=32) for key in keys]
    assert matrix.fingerprint(raw) == "WafwBnn9BpsQEqbSp7CUn+9OZKh6MiuCTQWSBiTY8dw"
    assert matrix.fingerprint([*reversed(raw), raw[0]]) == matrix.fingerprint(raw)
