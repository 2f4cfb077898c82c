"""The Matrix network against a homeserver that answers anything: what is asked, and what is believed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.answering import Answering, Break, api_at, closed, reset
from tillie.directory.matrix import DRAFT2015, KEY_COUNTS, KEYS_CLAIM, KEYS_QUERY, KEYS_UPLOAD, V1
from tillie.errors import NetworkError, Rejected, Unreachable, UsageError
from tillie.model import Address, Fetch, Publication, Send
from tillie.networks.matrix import answers, api, discovery, sync
from tillie.networks.matrix.api import Api, LoggedOut, Refusal
from tillie.networks.matrix.network import MatrixNetwork
from tillie.wire import canonical

ALICE, BOB = Address("@alice:a.test"), Address("@bob/b:b.test:8448")
TOKEN = "syt_only_for_tests"


def run(work: Callable[[Answering, Api, list[str]], Awaitable[None]], *, longest_wait: float = 30.0) -> None:
    async def all_of_it() -> None:
        async with Answering().serving() as server, api_at(server, TOKEN, longest_wait=longest_wait) as (client, told):
            await work(server, client, told)

    asyncio.run(all_of_it())


# -- requests -------------------------------------------------------------------------------------------------------


def test_what_is_in_a_path_is_encoded_once() -> None:
    async def scenario(server: Answering, client: Api, _: list[str]) -> None:
        server.says(200)
        await client.delete_device(ALICE, "A/B:%", "")
        await client.send_to_device("m.room.encrypted", "t@1", b'{"messages":{}}')
        assert [asked.target for asked in server.asked] == [
            "/_matrix/client/v3/devices/A%2FB%3A%25",
            "/_matrix/client/v3/sendToDevice/m.room.encrypted/t%401",
        ]
        assert {asked.token for asked in server.asked} == {TOKEN}
        assert server.asked[1].body == b'{"messages":{}}'

    run(scenario)


def test_passwords_go_without_a_token_and_a_token_goes_to_no_other_host() -> None:
    async def scenario(server: Answering, client: Api, _: list[str]) -> None:
        async with Answering().serving() as other:
            other.says(200)
            server.says(200)
            await client.log_in(ALICE, "secret", "DEVICE", "")
            server.answers.clear()
            server.says(307, b"", {"Location": f"{other.base}/_matrix/client/v3/account/whoami"})
            with pytest.raises(Unreachable):
                await client.whoami()
            assert [asked.token for asked in server.asked] == ["", TOKEN]
            assert other.asked == []

    run(scenario)


@pytest.mark.parametrize("broken", [closed, reset])
def test_a_connection_that_ended_while_it_was_idle_costs_nothing(broken: Break) -> None:
    async def scenario(server: Answering, client: Api, _: list[str]) -> None:
        server.says(200)
        await client.upload_keys(V1.path, b"{}")
        server.breaks = [broken]
        await client.upload_keys(V1.path, b"{}")
        assert len(server.asked) == 3
        server.breaks = [broken, broken]
        with pytest.raises(Unreachable):
            await client.upload_keys(V1.path, b"{}")
        assert len(server.asked) == 5

    run(scenario)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, b"<html>", Rejected),
        (200, b"[]", Rejected),
        (200, b'{"a":1,"a":2}', Rejected),
        (400, b'{"errcode":"M_BAD_JSON","error":"\\u001b[2Jno"}', Refusal),
        (404, b"nothing here", Refusal),
        (500, b'{"errcode":"M_UNKNOWN"}', Refusal),
        (502, b"<html>bad gateway</html>", Unreachable),
        (401, b'{"errcode":"M_UNKNOWN_TOKEN","error":"gone"}', LoggedOut),
    ],
)
def test_an_error_is_one_of_ours_and_shows_no_token(status: int, body: bytes, error: type[Exception]) -> None:
    async def scenario(server: Answering, client: Api, _: list[str]) -> None:
        server.says(status, body)
        with pytest.raises(error) as raised:
            await client.whoami()
        shown = f"{raised.value} {raised.value!r} {client!r}"
        assert TOKEN not in shown
        assert "\x1b" not in shown

    run(scenario)


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [({"Retry-After": "0"}, b"{}", 1), ({}, b'{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":10}', 1)],
)
def test_a_homeserver_that_asks_us_to_wait_is_waited_for(headers: dict[str, str], body: bytes, seconds: int) -> None:
    async def scenario(server: Answering, client: Api, told: list[str]) -> None:
        server.says(429, body, headers)
        server.says(200, b'{"user_id":"@alice:a.test"}')
        assert await client.whoami() == {"user_id": ALICE}
        assert told == [f"the homeserver asks us to wait {seconds} s"]
        assert len(server.asked) == 2

    run(scenario)


def test_nobody_is_waited_for_without_end() -> None:
    async def scenario(server: Answering, client: Api, told: list[str]) -> None:
        server.says(429, b'{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":51}')
        with pytest.raises(Refusal) as raised:
            await client.whoami()
        assert raised.value.may_pass
        assert raised.value.condition == "M_LIMIT_EXCEEDED"
        assert told == []

    run(scenario, longest_wait=0.05)


def test_a_homeserver_that_says_again_and_again_that_we_need_not_wait_is_given_up() -> None:
    async def scenario(server: Answering, client: Api, told: list[str]) -> None:
        server.says(429, b"{}", {"Retry-After": "0"})
        with pytest.raises(Refusal):
            await client.whoami()
        assert (len(server.asked), len(told)) == (4, 1)

    run(scenario, longest_wait=3 * api.SHORTEST_WAIT + 0.01)


def test_an_answer_is_read_up_to_its_limit() -> None:
    async def scenario(server: Answering, client: Api, _: list[str]) -> None:
        filling = b'{"a":"' + b"x" * (api.MAX_ANSWER - 8) + b'"}'
        server.says(200, filling)
        assert len((await client.whoami())["a"]) == api.MAX_ANSWER - 8
        server.answers.clear()
        server.says(200, filling + b" ")
        with pytest.raises(Unreachable):
            await client.whoami()

    run(scenario)


def test_a_device_is_deleted_with_the_password() -> None:
    async def scenario(server: Answering, client: Api, _: list[str]) -> None:
        server.says(401, b'{"flows":[{"stages":["m.login.password"]}],"params":{},"session":"s1"}')
        server.says(200)
        await client.delete_device(ALICE, "OLD", "secret")
        auth = json.loads(server.asked[1].body)["auth"]
        assert (auth["session"], auth["password"], auth["identifier"]["user"]) == ("s1", "secret", ALICE)

    run(scenario)


# -- finding it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["https://a.test", "https://a.test:8448/", "http://localhost:8008", "http://[::1]:80"])
def test_base_urls_that_are_taken(text: str) -> None:
    assert discovery.base_url(text) == text.rstrip("/")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.test",
        "http://a.test",
        "ftp://a.test",
        "https://u:p@a.test",
        "https://a.test?x",
        "https://a.t\n",
        "https://[a",
        "https://a:99999999",
    ],
)
def test_base_urls_that_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        discovery.base_url(text)


def test_what_is_no_homeserver_is_not_logged_in_to() -> None:
    async def scenario(server: Answering, client: Api, _: list[str]) -> None:
        server.says(200, b'{"versions":["v1.1"]}')
        assert await discovery.find(client._http, "a.test", server.base + "/") == server.base
        server.answers.clear()
        server.says(200, b'{"versions":[]}')
        with pytest.raises(Rejected):
            await discovery.find(client._http, "a.test", server.base)
        assert {asked.token for asked in server.asked} == {""}

    run(scenario)


# -- the directory --------------------------------------------------------------------------------------------------


def test_one_bad_device_costs_no_other() -> None:
    devices = b'{"GOOD":{"n":1},"TWICE":{"n":1,"n":2},"FRACTION":{"n":[1.5]},"LARGE":{"n":99999999999999999999}}'

    async def scenario(server: Answering, client: Api, _: list[str]) -> None:
        server.says(200, b'{"device_keys":{"%s":%s,"@eve:a.test":{"E":{}}}}' % (BOB.encode(), devices))
        found = await MatrixNetwork(client, V1).fetch(Fetch(BOB, KEYS_QUERY))
        assert canonical.parse(found.payload or b"") == {
            "GOOD": {"n": 1}, "TWICE": None, "FRACTION": None, "LARGE": None
        }  # fmt: skip
        assert json.loads(server.asked[0].body) == {"device_keys": {BOB: []}, "timeout": 10_000}

    run(scenario)


@pytest.mark.parametrize("body", [b"{}", b'{"device_keys":[]}', b'{"device_keys":{"@bob/b:b.test:8448":3}}'])
def test_an_answer_without_the_user_is_an_empty_map(body: bytes) -> None:
    async def scenario(server: Answering, client: Api, _: list[str]) -> None:
        server.says(200, body)
        assert (await MatrixNetwork(client, V1).fetch(Fetch(BOB, KEYS_QUERY))).payload == b"{}"

    run(scenario)


@pytest.mark.parametrize(
    ("failure", "error"), [(b'{"errcode":"M_X"}', "M_X"), (b'{"errcode":"\\u001b"}', "remote-server-timeout")]
)
def test_another_homeserver_that_fails_is_no_empty_list(failure: bytes, error: str) -> None:
    async def scenario(server: Answering, client: Api, _: list[str]) -> None:
        server.says(200, b'{"device_keys":{},"failures":{"b.test:8448":%s}}' % failure)
        found = await MatrixNetwork(client, V1).fetch(Fetch(BOB, KEYS_QUERY))
        assert (found.payload, found.error) == (None, error)

    run(scenario)


@pytest.mark.parametrize(("profile", "algorithm"), [(V1, "signed_curve25519"), (DRAFT2015, "curve25519")])
def test_profiles_claim_and_publish_in_their_own_place(profile: Any, algorithm: str) -> None:
    async def scenario(server: Answering, client: Api, _: list[str]) -> None:
        server.says(200, b'{"one_time_keys":{"%s":{"D":{"x:1":"k"}}}}' % BOB.encode())
        network = MatrixNetwork(client, profile)
        network.device = "D/1"
        found = await network.fetch(Fetch(BOB, KEYS_CLAIM, '["D","E"]'))
        assert found.payload == b'{"D":{"x:1":"k"}}'
        await network.publish(Publication(KEYS_UPLOAD, "", b'{"device_keys":{}}'))
        claim, upload = server.asked
        assert json.loads(claim.body)["one_time_keys"] == {BOB: {"D": algorithm, "E": algorithm}}
        in_path = "/D%2F1" if profile is DRAFT2015 else ""
        assert (claim.target, upload.target) == (profile.path + "/keys/claim", profile.path + "/keys/upload" + in_path)
        with pytest.raises(UsageError):
            await network.fetch(Fetch(BOB, "eu.siacs.conversations.axolotl.devicelist"))
        with pytest.raises(UsageError):
            await network.publish(Publication("node", "", b""))

    run(scenario)


@pytest.mark.parametrize(("status", "error"), [(413, Refusal), (400, Refusal), (500, Unreachable), (429, Unreachable)])
def test_only_what_will_never_be_taken_is_given_up(status: int, error: type[Exception]) -> None:
    async def scenario(server: Answering, client: Api, _: list[str]) -> None:
        server.says(status, b'{"errcode":"M_X"}', {"Retry-After": "60"})
        with pytest.raises(error):
            await MatrixNetwork(client, V1).send(Send(b"{}", "t1"))

    run(scenario)


def test_what_something_before_the_homeserver_answers_gives_nothing_up() -> None:
    async def scenario(server: Answering, client: Api, _: list[str]) -> None:
        server.says(200, b"<html>welcome to the railway's network</html>")
        network = MatrixNetwork(client, V1)
        with pytest.raises(Unreachable):
            await network.send(Send(b"{}", "t1"))
        with pytest.raises(Unreachable):
            await network.publish(Publication(KEYS_UPLOAD, "", b"{}"))
        assert network.failed.is_set()
        assert network.uploaded == 0

    run(scenario)


@pytest.mark.parametrize(("status", "error"), [(429, Unreachable), (503, Unreachable), (500, Refusal), (400, Refusal)])
def test_a_homeserver_that_asks_for_another_time_has_not_answered(status: int, error: type[NetworkError]) -> None:
    async def scenario(server: Answering, client: Api, _: list[str]) -> None:
        server.says(status, b'{"errcode":"M_X"}', {"Retry-After": "60"})
        network = MatrixNetwork(client, V1)
        with pytest.raises(error):
            await network.fetch(Fetch(BOB, KEYS_QUERY))
        assert network.interrupted == (error is Unreachable)

    run(scenario)


@pytest.mark.parametrize(("status", "error"), [(400, Rejected), (403, Rejected), (503, Unreachable)])
def test_keys_that_are_not_taken_are_told_with_what_to_do(status: int, error: type[NetworkError]) -> None:
    async def scenario(server: Answering, client: Api, _: list[str]) -> None:
        server.says(status, b'{"errcode":"M_X","error":"One time key signed_curve25519:A already exists"}')
        with pytest.raises(error) as raised:
            await MatrixNetwork(client, V1).publish(Publication(KEYS_UPLOAD, "", b"{}"))
        assert "already exists" in str(raised.value)
        assert ("tillie backup" in raised.value.hint) == (error is Rejected)

    run(scenario)


# -- what /sync says ------------------------------------------------------------------------------------------------


def event(n: Any, *, sender: Any = "@bob:b.test", type: Any = "m.room.encrypted") -> dict[str, Any]:
    return {"sender": sender, "type": type, "content": n}


def synced(**members: Any) -> sync.News:
    return sync.read(answers.parse(json.dumps({"next_batch": "s1", **members}).encode()), ALICE)


def test_only_sound_sealed_messages_are_opened_in_order() -> None:
    events = [
        event({"n": 1}), event({"n": 2}, type="m.room_key"), event({"n": 1.5}), event([]), event({"n": 3}, sender=7),
        event({"n": 4}, sender="bob@b.test"), "junk", None, event({"n": 5}), event({"n": 1}),
    ]  # fmt: skip
    news = synced(to_device={"events": events})
    assert [each.element for each in news.messages] == [b'{"n":1}', b'{"n":5}', b'{"n":1}']
    assert news.waiting == len(events)
    assert news.unreadable == ("@bob:b.test", "@bob:b.test", "", "bob@b.test")
    first, _, again = news.messages
    assert first == again  # the same again has the same id
    assert (first.scheme, first.stanza.kind, first.stanza.to) == ("olm", "to-device", ALICE)


def test_a_message_is_read_up_to_its_limit() -> None:
    fits, over = ({"n": "x" * (sync.MAX_CONTENT - 8 + more)} for more in (0, 1))
    news = synced(to_device={"events": [event(fits), event(over)]})
    assert [len(each.element) for each in news.messages] == [sync.MAX_CONTENT]
    assert len(news.unreadable) == 1


def test_lists_and_counts_are_facts() -> None:
    news = synced(
        device_lists={"changed": ["@bob:b.test", "bob", 3, "@bob:b.test"], "left": ["@eve:e.test"]},
        device_one_time_keys_count={"signed_curve25519": 4, "x": -1, "y": True, "z": "1"},
        device_unused_fallback_key_types=["signed_curve25519", 1],
    )
    bob, eve, counts = news.facts
    assert (bob.address, bob.node, bob.payload, bob.pushed) == ("@bob:b.test", KEYS_QUERY, None, True)
    assert eve.address == "@eve:e.test"
    assert (counts.address, counts.node) == (ALICE, KEY_COUNTS)
    assert canonical.parse(counts.payload or b"") == {
        "counts": {"signed_curve25519": 4}, "fallback": ["signed_curve25519"]
    }  # fmt: skip
    assert synced().facts == ()
    assert canonical.parse(synced(device_unused_fallback_key_types=[]).facts[0].payload or b"") == {
        "counts": {}, "fallback": []
    }  # fmt: skip


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
_NAMES = ("next_batch", "to_device", "device_lists", "device_one_time_keys_count", "device_unused_fallback_key_types")


@given(st.dictionaries(st.sampled_from(_NAMES), _json | st.fixed_dictionaries({"events": st.lists(_json, max_size=3)})))
def test_no_answer_to_sync_is_worse_than_refused(answer: dict[str, Any]) -> None:
    try:
        sync.read(answers.parse(json.dumps(answer).encode()), ALICE)
    except Rejected:
        assert not isinstance(answer.get("next_batch"), str) or len(answer["next_batch"]) not in range(1, 7)


@given(st.binary(max_size=64) | st.text(max_size=64).map(str.encode))
def test_any_bytes_are_an_object_or_refused(data: bytes) -> None:
    try:
        assert isinstance(answers.parse(data), dict)
    except Rejected:
        pass


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(Rejected):
        answers.parse(b'{"a":' * 100_000)
