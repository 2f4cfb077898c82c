"""What a home that holds much costs: claims while a million keys wait, and memory while messages are drained."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from urllib.parse import quote

from msgspec.json import encode

from bench import home_floor, home_load
from bench.home_load import request
from bench.home_servers import Ours
from bench.home_traffic import CLIENT, Crowd, KeysGiven, Login, key_id, one_time_keys, public_key, sealed, values
from bench.measure import Figure, Result, Target
from tillie.crypto.random import random_bytes
from tillie.wire import base64

FEW, MANY = 1_000, 1_000_000  # one-time keys that wait
CLAIMS = 1_000  # in a round, for which keys are added before
OF_EACH = 100  # one-time keys of one device
ROUNDS = 5
FLAT = 1.15  # times the cost with a thousandth of the keys

MESSAGES = 100_000
BEGUN = 10_000  # messages after which memory is looked at first
MOST_GROWTH = 5  # MB

# -- claims ---------------------------------------------------------------------------------------------------------


class Stored:
    """A home with so many one-time keys; each round claims some, of devices all over it, and nothing of the round
    before is missing."""

    def __init__(self, home: Ours, keys: int) -> None:
        self.home = home
        self.people = home.logins(keys // OF_EACH)
        self.crowd = Crowd(home.logins(home_load.CONNECTIONS))
        self.check = KeysGiven()
        self._add(login for login in self.people for _ in range(OF_EACH))

    def round(self, *, first: bool, cpu: bool) -> float:
        """Microseconds for one claim."""
        step = max(1, len(self.people) // CLAIMS)
        victims = [self.people[n * step % len(self.people)] for n in range(CLAIMS)]
        before = home_load.processor_seconds(self.home.pid)
        burst = home_load.send(self.home.port, self.crowd.claims_of(victims))
        used = home_load.processor_seconds(self.home.pid) - before
        self.check(burst.answers)
        self._add(victims)
        return (used / CLAIMS if cpu else burst.each) * 1e6

    def _add(self, logins: Iterable[Login]) -> None:
        """A key more for each. All have one signature, which nobody verifies here."""
        model = next(iter(one_time_keys(self.people[0], random_bytes(32), 1).values()))
        assert isinstance(model, dict)
        head, tail = encode(model).split(model["key"].encode())
        with home_floor.transaction(self.home.database):
            for login in logins:
                text = base64.encode_unpadded(public_key()).encode()
                self.home.insert_key(login.user, key_id(), head + text + tail)


def _claims() -> Figure:
    stack = ExitStack()
    atexit.register(stack.close)
    sides = {name: Stored(stack.enter_context(Ours()), keys) for name, keys in (("ours", MANY), ("less", FEW))}
    return Figure(f"home.claim.{MANY}", sides, Target(growth=FLAT), rounds=ROUNDS)


# -- messages -------------------------------------------------------------------------------------------------------


def _drain() -> Result:
    """How much the peak of the home's memory grew between message BEGUN and the last one."""
    with Ours() as home:
        (login,) = home.logins(1)
        event = {"type": "m.room.encrypted", "sender": f"@alice:{home.name}"}
        home.insert_messages(login, (encode({**event, "content": sealed()}) for _ in range(MESSAGES)))
        since, seen, before = "", 0, 0.0
        while True:
            path = f"{CLIENT}/sync?timeout=0" + (f"&since={quote(since)}" if since else "")
            (answer,) = values(home_load.send(home.port, [request("GET", path, login.token)]).answers)
            got = len(answer["to_device"]["events"]) if "to_device" in answer else 0
            since, seen = answer["next_batch"], seen + got
            if not got:
                break
            if not before and seen >= BEGUN:
                before = home_load.resident_mb(home.pid, peak=True)
        if seen != MESSAGES:
            raise RuntimeError(f"{seen} messages of {MESSAGES} came")
        grown = home_load.resident_mb(home.pid, peak=True) - before
    return Result(Figure(f"home.to_device.{MESSAGES}", {}, Target(most=MOST_GROWTH), unit="MB"), {"ours": grown})


FIGURES: Mapping[str, Callable[[], Figure | Result]] = {
    f"home.claim.{MANY}": _claims,
    f"home.to_device.{MESSAGES}": _drain,
}
