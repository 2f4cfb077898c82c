"""Signed requests and the keys they are verified by (server-server API, "Request Authentication" and "Retrieving server
keys")."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.home_inside import NOW
from support.homes_apart import Wire, homes_apart, knock
from tillie.crypto import sign
from tillie.directory.signed import sign_object
from tillie.errors import BadKey, BadSignature, Malformed
from tillie.home.federation import x_matrix
from tillie.home.federation.keyring import (
    LONGEST_MS,
    MAX_KEYS,
    MAX_STRANGERS,
    REFETCH_SECONDS,
    Keys,
    merged,
    read_keys,
)
from tillie.home.service import Signer
from tillie.wire import base64

SEED = b64decode("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1=")  # of the appendices; its last bits are not zero
US = "destination.hs.example.com"
DOMAIN = Signer("domain", "ed25519:1", SEED)
# Made with the signing key of the specification's appendices, by canonicaljson and signedjson.
VECTORS = [
    (
        "POST",
        "/_matrix/federation/v1/user/keys/claim",
        {"one_time_keys": {f"@alice:{US}": {"JLAFKJWSCS": "signed_curve25519"}}},
        "MQoxJBU8Lq6Ekif81UcxKoS/C2xmdRFBtMi4rhpQ5pqBl5NNFfSY3bsfnFH1J2uKTmi6lPCTnh++5T+D+XskDQ",
    ),
    (
        "GET",
        f"/_matrix/federation/v1/user/devices/%40alice%3A{US}",
        None,
        "XaCbXcisReF6FBhnaFBpqZWDIjq7RddfYJbqTQV825gxexWVNiOESMrnCuNRbvtro7J0Nze20MYK2l/8Oa1wCQ",
    ),
]
SIGNATURE = VECTORS[0][3]


@pytest.mark.parametrize(("method", "uri", "content", "signature"), VECTORS)
def test_a_request_is_signed_as_others_sign_it(method: str, uri: str, content: Any, signature: str) -> None:
    made = x_matrix.header(DOMAIN, US, method, uri, content)
    assert made == f'X-Matrix origin="domain",destination="{US}",key="ed25519:1",sig="{signature}"'
    x_matrix.verify(x_matrix.parse(made), DOMAIN.public, method, uri, US, content)
    for changed in ((method, uri + "x", US, content), ("PUT", uri, US, content), (method, uri, US, {"other": 1})):
        with pytest.raises(BadSignature):
            x_matrix.verify(x_matrix.parse(made), DOMAIN.public, *changed)
    with pytest.raises(Malformed):
        x_matrix.verify(x_matrix.parse(made), DOMAIN.public, method, uri, "another.test", content)


@pytest.mark.parametrize(
    "text",
    [
        f'X-Matrix origin=domain,destination={US},key="ed25519:1",sig="{SIGNATURE}"',
        f'x-matrix origin=domain,destination="{US}",key=ed25519:1,signature="{SIGNATURE}"',
        f'X-Matrix  sig="{SIGNATURE}" , KEY="ed25519:1",\tOrigin="do\\main", destination={US}, more="a\\"b,c"',
        f'X-Matrix origin="domain",destination="{US}",key="ed25519:1",sig="{SIGNATURE}",signature="{SIGNATURE}"',
    ],
)
def test_headers_are_read_in_all_their_forms(text: str) -> None:
    found = x_matrix.parse(text)
    assert found == ("domain", US, "ed25519:1", base64.decode_unpadded(SIGNATURE, size=64))


BAD_HEADERS = [
    "",
    "X-Matrix",
    "X-Matrix ",
    "Bearer token",
    f'X-Matrix origin="domain",key="ed25519:1",sig="{SIGNATURE}',
    f'X-Matrix origin="dom ain",key="ed25519:1",sig="{SIGNATURE}"',
    f'X-Matrix origin="domain",key="rsa:1",sig="{SIGNATURE}"',
    'X-Matrix origin="domain",key="ed25519:1",sig="short"',
    'X-Matrix origin="domain",key="ed25519:1"',
    f'X-Matrix origin="domain",origin="domain",key="ed25519:1",sig="{SIGNATURE}"',
    f'X-Matrix origin="domain",key="ed25519:1",sig="{SIGNATURE}",signature="{"A" * 86}"',
    f'X-Matrix origin="domain",key="ed25519:1",sig="{SIGNATURE}",more="{"x" * x_matrix.MAX_HEADER}"',
    "X-Matrix ,,,,",
    "X-Matrix é=1",
]


@pytest.mark.parametrize("text", BAD_HEADERS)
def test_what_is_no_header_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        x_matrix.parse(text)


@given(st.text(max_size=200))
def test_no_header_is_more_than_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        x_matrix.parse(f'X-Matrix origin="domain",key="ed25519:1",{text},sig=bad')


def test_several_headers_are_of_one_origin() -> None:
    one, other = (x_matrix.header(Signer(name, "ed25519:1", SEED), US, "GET", "/") for name in ("domain", "else"))
    assert len(x_matrix.parse_all([one, "Bearer x", one])) == 2
    for headers in ([], ["Bearer x"], [one, other], [one] * (x_matrix.MAX_HEADERS + 1)):
        with pytest.raises(Malformed):
            x_matrix.parse_all(headers)


# -- at the door ----------------------------------------------------------------------------------------------------

A, B = "a.test", "b.test"
QUERY = "/_matrix/federation/v1/user/keys/query"
BODY = {"device_keys": {f"@bob:{B}": []}}


async def _status(wire: Wire, headers: Any, body: bytes = json.dumps(BODY).encode(), uri: str = QUERY) -> int:
    status, answer = await knock(wire.homes[B], "POST", uri, headers, body)
    assert status == 200 or json.loads(answer)["errcode"]
    return status


def test_only_signed_requests_are_answered(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            signer = wire.homes[A].home.signer
            good = x_matrix.header(signer, B, "POST", QUERY, BODY)
            assert await _status(wire, {"Authorization": good}) == 200
            assert await _status(wire, {"Authorization": good.replace(f'destination="{B}",', "")}) == 200
            stale = x_matrix.header(Signer(A, "ed25519:9", signer.seed), B, "POST", QUERY, BODY)
            assert await _status(wire, [("Authorization", stale), ("Authorization", good)]) == 200
            for bad in BAD_HEADERS:
                assert await _status(wire, {"Authorization": bad}) == 401, bad
            refused = [
                x_matrix.header(signer, "other.test", "POST", QUERY, BODY),
                x_matrix.header(Signer(A, "ed25519:1", SEED), B, "POST", QUERY, BODY),
                x_matrix.header(Signer("nobody.test", "ed25519:1", SEED), B, "POST", QUERY, BODY),
                stale,
            ]
            for each in refused:
                assert await _status(wire, {"Authorization": each}) == 401
            assert await _status(wire, {}) == 401
            assert await _status(wire, {"Authorization": good}, b'{"device_keys":{}}') == 401
            assert await _status(wire, {"Authorization": good}, b"{") == 400
            assert await _status(wire, {"Authorization": good}, b'{"a":' * 100_000) == 400
            assert await _status(wire, {"Authorization": good}, uri=QUERY + "?x=1") == 401

    asyncio.run(run())


# -- keys -----------------------------------------------------------------------------------------------------------


def _answer(seed: bytes = SEED, server: str = "domain", **changes: Any) -> bytes:
    value = {
        "server_name": server,
        "valid_until_ts": 5_000,
        "old_verify_keys": {"ed25519:old": {"expired_ts": 1, "key": base64.encode_unpadded(b"\1" * 32)}},
        "verify_keys": {"ed25519:1": {"key": base64.encode_unpadded(sign.public_of(seed))}},
        **changes,
    }
    return json.dumps(sign_object(value, server, "ed25519:1", seed)).encode()


def test_keys_are_read_once_they_are_signed_by_one_of_them() -> None:
    assert read_keys(_answer(), "domain", 0) == Keys({"ed25519:1": DOMAIN.public}, 5_000)
    assert read_keys(_answer(valid_until_ts=LONGEST_MS * 2), "domain", 7).valid_until_ts == LONGEST_MS + 7
    good = {"key": base64.encode_unpadded(DOMAIN.public)}
    weak = {"key": base64.encode_unpadded(b"\1" + bytes(31))}
    found = read_keys(
        _answer(verify_keys={"ed25519:1": good, "ed25519:weak": weak, "rsa:1": good, "x": 7}), "domain", 0
    )
    assert list(found.keys) == ["ed25519:1"]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        _answer(server="other"),
        _answer(valid_until_ts="never"),
        _answer(valid_until_ts=True),
        _answer(verify_keys={}),
        _answer(verify_keys=[]),
        _answer(verify_keys={"ed25519:1": {"key": base64.encode_unpadded(b"\1" + bytes(31))}}),
        _answer(verify_keys={"ed25519:1": {"key": base64.encode_unpadded(sign.public_of(b"\2" * 32))}}),
        _answer(verify_keys={f"ed25519:{number}": {} for number in range(MAX_KEYS + 1)}),
        _answer().replace(b'"signatures"', b'"no_signatures"'),
    ],
)
def test_keys_that_are_not_a_servers_own_are_refused(answer: bytes) -> None:
    with pytest.raises((Malformed, BadSignature, BadKey)):
        read_keys(answer, "domain", 0)


def test_a_key_that_changes_under_its_id_is_not_believed_while_the_first_is_valid() -> None:
    known, fetched = Keys({"1": b"a"}, 10), Keys({"1": b"b", "2": b"c"}, 20)
    assert merged(known, fetched, 9) == Keys({"1": b"a", "2": b"c"}, 10), "for no longer than it was said to be valid"
    assert merged(known, fetched, 10) == fetched
    assert merged(known, Keys({"1": b"a", "2": b"c"}, 20), 9) == Keys({"1": b"a", "2": b"c"}, 20)
    assert merged(known, Keys({"2": b"c"}, 20), 9) == Keys({"2": b"c"}, 20), "it was given up"


def test_keys_are_fetched_when_they_are_needed_and_seldom(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            asked = lambda: sum("/key/v2/" in path for *_, path, _ in wire.requests)  # noqa: E731
            for _ in range(3):
                assert (await wire.ask(A, B, "POST", QUERY, BODY))[0] == 200
            assert asked() == 1
            for _ in range(3):
                assert (await wire.ask(A, B, "POST", QUERY, BODY, key_id="ed25519:new"))[0] == 401
            assert asked() == 1, "at most once a minute"
            wire.pass_time(REFETCH_SECONDS)
            assert (await wire.ask(A, B, "POST", QUERY, BODY, key_id="ed25519:new"))[0] == 401
            assert asked() == 2
            wire.pass_time(LONGEST_MS / 1000)
            assert (await wire.ask(A, B, "POST", QUERY, BODY))[0] == 200
            assert asked() == 3, "expired"
            wire.pass_time(LONGEST_MS / 1000)
            wire.answers[A] = (500, {})
            assert (await wire.ask(A, B, "POST", QUERY, BODY))[0] == 401, "expired, and there is no other"

    asyncio.run(run())


def test_a_clock_that_goes_back_keeps_no_server_out(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            wire.homes[B].now += 10 * LONGEST_MS
            assert (await wire.ask(A, B, "POST", QUERY, BODY))[0] == 401, "our key looks expired"
            wire.homes[B].now = wire.now
            assert (await wire.ask(A, B, "POST", QUERY, BODY))[0] == 200

    asyncio.run(run())


def test_invented_origins_keep_nobody_out_and_of_nobody_is_a_body_read(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A, B) as wire:
            assert (await wire.ask(A, B, "POST", QUERY, BODY))[0] == 200
            federation = wire.homes[B].home.federation
            assert federation is not None
            carry, hanging = federation.transport._answer, set[str]()

            async def hang(server: str, *given: Any) -> bytes:
                if server == A:
                    return await carry(server, *given)
                hanging.add(server)
                await asyncio.Event().wait()
                raise AssertionError

            federation.transport._answer = hang  # type: ignore[method-assign]
            signers = [Signer(f"x{number}.test", "ed25519:1", SEED) for number in range(MAX_STRANGERS + 1)]
            headers = [{"Authorization": x_matrix.header(each, B, "POST", QUERY, BODY)} for each in signers]
            asking = [asyncio.create_task(_status(wire, each, b"{")) for each in headers]
            await wire.until(lambda: len(hanging) == MAX_STRANGERS)
            assert (await wire.ask(A, B, "POST", QUERY, BODY, key_id="ed25519:new"))[0] == 401
            wire.pass_time(LONGEST_MS / 1000)
            assert (await wire.ask(A, B, "POST", QUERY, BODY))[0] == 200, "its keys had to be fetched again"
            assert len(hanging) == MAX_STRANGERS
            for task in list(federation.keyring._fetching.values()):
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            wire.answers["nobody.test"] = (404, {})
            nobody = x_matrix.header(Signer("nobody.test", "ed25519:1", SEED), B, "POST", QUERY, BODY)
            federation.transport._answer = carry  # type: ignore[method-assign]
            assert await _status(wire, {"Authorization": nobody}, b"{") == 401

    asyncio.run(run())


def test_our_own_key_is_signed_and_valid_for_hours(tmp_path: Path) -> None:
    async def run() -> None:
        async with homes_apart(tmp_path, A) as wire:
            for passed in (0, 80_000, 200_000):
                wire.pass_time(passed)
                status, answer = await knock(wire.homes[A], "GET", "/_matrix/key/v2/server", {})
                assert status == 200
                now = wire.homes[A].home.now()
                found = read_keys(answer, A, now)
                assert found.keys == {"ed25519:1": wire.homes[A].home.signer.public}
                assert found.valid_until_ts > now + 3_600_000
            assert now > NOW

    asyncio.run(run())
