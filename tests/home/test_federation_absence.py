"""Servers that did not answer: how long they are given, and who finds out that they are back."""

from __future__ import annotations

import contextlib

import pytest

from tillie.home.federation import absence
from tillie.home.federation.absence import LONGEST_SECONDS, Absence
from tillie.home.federation.transport import Failed

B = "b.test"


class World:
    def __init__(self, longest: float = 3_600.0) -> None:
        self.now = 0.0
        self.absence = Absence(1.0, longest, lambda: self.now)

    def ask(self, server: str = B, *, took: float = 0.0, fails: Failed | None = None) -> bool:
        """Whether it came to a request."""
        was_asked = False
        with contextlib.suppress(Failed), self.absence.asking(server):
            was_asked = True
            self.now += took
            if fails:
                raise fails
        return was_asked

    def wait_until_asked(self, **more: object) -> float:
        since = self.now
        while not self.ask(**more):  # type: ignore[arg-type]
            self.now += 0.5
        return self.now - since


GONE = Failed(0)


@pytest.mark.parametrize(("longest", "waits"), [(3_600.0, [1, 2, 4, 8, 16, 32, 60, 60]), (3.0, [1, 2, 3, 3])])
def test_a_server_is_given_longer_each_time_up_to_a_minute(longest: float, waits: list[float]) -> None:
    world = World(longest)
    assert world.ask(fails=GONE)
    assert [world.wait_until_asked(fails=GONE) for _ in waits] == waits
    assert max(waits) <= LONGEST_SECONDS
    world.absence.heard(B)
    assert world.ask(fails=GONE)
    assert world.wait_until_asked() == 1, "counted anew"
    assert world.ask()


def test_a_server_that_lets_us_wait_is_given_at_least_as_long() -> None:
    world = World()
    world.ask(took=10, fails=GONE)
    assert world.wait_until_asked() == 10


@pytest.mark.parametrize(
    ("failed", "wait"),
    [(Failed(429), 1), (Failed(429, retry_after=7), 7), (Failed(429, retry_after=1e9), 60), (Failed(500), 0)],
)
def test_who_answers_is_there_unless_it_wants_to_be_left_alone(failed: Failed, wait: float) -> None:
    world = World()
    world.ask(fails=failed)
    assert world.wait_until_asked() == wait


def test_one_request_finds_out_for_all() -> None:
    world = World()
    world.ask(fails=GONE)
    world.now += 1
    with world.absence.asking(B):
        assert not world.ask()
        assert world.ask("other.test")
    assert world.ask()
    world.ask(fails=GONE)
    world.now += 1
    with pytest.raises(RuntimeError), world.absence.asking(B):
        raise RuntimeError
    assert world.ask(), "who gave up has found out nothing"


def test_requests_that_fail_side_by_side_are_one_failure() -> None:
    world = World()
    several = [world.absence.asking(B) for _ in range(3)]
    for each in several:
        each.__enter__()
    world.now += 1
    for each in several:
        each.__exit__(Failed, GONE, None)
    assert world.wait_until_asked() == 1


def test_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absence, "MAX_SERVERS", 2)
    world = World()
    for name in ("1", "2", "3"):
        world.ask(name, fails=GONE)
    assert [world.ask(name) for name in ("3", "2", "1")] == [False, False, True]
