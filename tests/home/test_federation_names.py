"""Where servers are, and where a home does not go (server-server API, "Resolving server names")."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillie.home.federation import addresses, names
from tillie.home.federation.names import Names, Route, Target, WellKnown

DELEGATED = {
    "plain.test": None,
    "ip.test": "10.1.2.3",
    "ip-port.test": "[::1]:99",
    "port.test": "host.test:99",
    "host.test": "host.test",
    "srv.test": "srv-host.test",
    "bad.test": "not a name",
}
SERVICES = {
    "_matrix-fed._tcp.srv-host.test": (Target("target.test", 7),),
    "_matrix-fed._tcp.new.test": (Target("new-target.test", 8), Target("second.test", 9)),
    "_matrix._tcp.old.test": (Target("old-target.test", 10),),
}


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[str] = []
        self.cache_control = ""
        self.names = Names(self.well_known, self.services, lambda: self.now)

    async def well_known(self, host: str) -> WellKnown | None:
        self.asked.append(host)
        name = DELEGATED.get(host)
        return WellKnown(200, self.cache_control, f'{{"m.server":"{name}"}}'.encode()) if name else None

    async def services(self, name: str) -> tuple[Target, ...]:
        return SERVICES.get(name, ())

    def resolve(self, server: str) -> Route:
        return asyncio.run(self.names.resolve(server))


@pytest.mark.parametrize(
    ("server", "route"),
    [
        ("1.2.3.4", Route("1.2.3.4", 8448, "1.2.3.4")),
        ("1.2.3.4:5", Route("1.2.3.4", 5, "1.2.3.4:5")),
        ("[2001:db8::1]", Route("2001:db8::1", 8448, "[2001:db8::1]")),
        ("[2001:db8::1]:5", Route("2001:db8::1", 5, "[2001:db8::1]:5")),
        ("plain.test:5", Route("plain.test", 5, "plain.test:5")),
        ("plain.test", Route("plain.test", 8448, "plain.test")),
        ("ip.test", Route("10.1.2.3", 8448, "10.1.2.3")),
        ("ip-port.test", Route("::1", 99, "[::1]:99")),
        ("port.test", Route("host.test", 99, "host.test:99")),
        ("host.test", Route("host.test", 8448, "host.test")),
        ("srv.test", Route("srv-host.test", 7, "srv-host.test", (Target("target.test", 7),))),
        ("new.test", Route("new.test", 8, "new.test", SERVICES["_matrix-fed._tcp.new.test"])),
        ("old.test", Route("old.test", 10, "old.test", SERVICES["_matrix._tcp.old.test"])),
        ("bad.test", Route("bad.test", 8448, "bad.test")),
    ],
)
def test_names_lead_where_the_specification_says(server: str, route: Route) -> None:
    assert World().resolve(server) == route


def test_a_port_or_an_address_asks_no_well_known() -> None:
    world = World()
    for server in ("port.test:8448", "1.2.3.4", "[::1]"):
        world.resolve(server)
    assert world.asked == []


def test_what_well_known_says_is_kept_as_long_as_it_says() -> None:
    world = World()
    world.cache_control = "public, max-age=100"
    for moment in (0, 99, 100, 150):
        world.now = float(moment)
        world.resolve("port.test")
    assert len(world.asked) == 2


def test_that_there_is_none_is_kept_longer_each_time() -> None:
    world = World()
    waits = []
    for _ in range(9):
        before = world.now
        world.resolve("plain.test")
        count = len(world.asked)
        while len(world.asked) == count:
            world.now += 60
            world.resolve("plain.test")
        waits.append(world.now - before)
        world.asked.pop()
        world.asked.pop()
        world.asked.append("plain.test")
    assert waits == sorted(waits)
    assert max(waits) <= 2 * names.LONGEST_ERROR_SECONDS


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", names.DEFAULT_SECONDS),
        ("max-age=100", 100),
        ("Private, Max-Age = 100", 100),
        ("max-age=1", names.SHORTEST_SECONDS),
        ("no-store", names.SHORTEST_SECONDS),
        (f"max-age={int(names.LONGEST_SECONDS)}", names.LONGEST_SECONDS),
        ("max-age=999999999", names.LONGEST_SECONDS),
        ("max-age=-5", names.DEFAULT_SECONDS),
    ],
)
def test_lifetimes_have_two_ends(header: str, seconds: float) -> None:
    assert names.lifetime(header) == seconds


@given(st.binary(max_size=100) | st.sampled_from([b"[" * 49_000, b'{"m.server":7}', b'{"m.server":"a/b"}', b"null"]))
def test_a_bad_well_known_is_none(body: bytes) -> None:
    assert names.read_well_known(body) == ""


def test_a_well_known_is_bounded() -> None:
    good = b'{"m.server":"a.test"}'
    assert names.read_well_known(good.ljust(names.MAX_WELL_KNOWN_BYTES)) == "a.test"
    assert names.read_well_known(good.ljust(names.MAX_WELL_KNOWN_BYTES + 1)) == ""


def test_a_well_known_is_asked_for_once_and_known_also_if_nobody_waited_for_it() -> None:
    world = World()
    go = asyncio.Event()
    answer = world.well_known

    async def slowly(host: str) -> WellKnown | None:
        world.asked.append(host)
        await go.wait()
        return await answer(host)

    async def run() -> None:
        world.names._fetch = slowly
        waiting = [asyncio.create_task(world.names.resolve("port.test")) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        go.set()
        assert (await world.names.resolve("port.test")).port == 99
        assert world.asked == ["port.test"] * 2, "once by us, and once counted by the answer"
        go.clear()
        late = asyncio.create_task(world.names.resolve("host.test"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert world.asked[-1] == "host.test"
        await world.names.close()
        with pytest.raises(asyncio.CancelledError):
            await late

    asyncio.run(run())


def test_the_memory_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_CACHED", 3)
    world = World()
    for number in range(9):
        world.resolve(f"s{number}.test")
    assert len(world.names._cache) == 3


PRIVATE = [
    "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "192.0.2.1", "::", "::1", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "2001:db8::1",
    "fec0::1", "64:ff9b::7f00:1", "2002:7f00:1::", "64:ff9b::a9fe:a9fe",
]  # fmt: skip


@pytest.mark.parametrize("text", PRIVATE)
def test_private_addresses_are_not_spoken_to_unless_allowed(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert not addresses.may_speak_to(address)
    assert addresses.may_speak_to(address, addresses.networks([f"{text}"]))


@pytest.mark.parametrize("text", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_spoken_to(text: str) -> None:
    assert addresses.may_speak_to(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["127.1", "2130706433", "127.0.0.1.", "0177.0.0.1", "0x7f.0x1", "::1%lo", "１２７.1"])
def test_what_only_some_programs_read_as_an_address_is_no_name(text: str) -> None:
    assert addresses.is_ambiguous(text)


@pytest.mark.parametrize("text", ["localhost", "1.example", "matrix.example.", "x1", "1x.test"])
def test_names_are_names(text: str) -> None:
    assert not addresses.is_ambiguous(text)


@pytest.mark.parametrize(("text", "is_one"), [("1.2.3.4", True), ("[::1]", True), ("::1", True), ("127.1", False)])
def test_literals(text: str, is_one: bool) -> None:
    found: Any = addresses.literal(text)
    assert (found is not None) == is_one
