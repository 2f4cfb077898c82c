"""New sessions, and a new device."""

from __future__ import annotations

from functools import partial

from bench.measure import Figure, Operation, Side, Target
from bench.pairs import ALICE, first_open, first_seal
from bench.peers import pairs
from bench.steady import floor_opening, floor_side, the_floor
from tillie.model import Address, Done, Fetched, Need, State
from tillie.schemes.omemo import Omemo
from tillie.store import MemoryStore

PAIRS = 5
MANY, MANY_ROUNDS = 100, 3
DEVICES = 3
SOME_TIME = 1_780_000_000.0


def _first() -> Figure:
    sides = {name: first_seal(made) for name, made in pairs(PAIRS).items()}
    sides["floor"] = floor_side(the_floor().first, PAIRS)
    return Figure("omemo.first.1", sides, Target(peer_ratio=15))


def _first_many() -> Figure:
    sides = {name: first_seal(made) for name, made in pairs(1, MANY).items()}
    sides["floor"] = floor_side(partial(the_floor().first, devices=MANY), 1)
    return Figure("omemo.first.100", sides, Target(peer_ratio=10), rounds=MANY_ROUNDS)


def _first_decrypt() -> Figure:
    sides = {name: first_open(made) for name, made in pairs(PAIRS).items()}
    sides["floor"] = floor_opening(the_floor().first_decrypt, the_floor().first, PAIRS)
    return Figure("omemo.first_decrypt", sides, Target(peer_ratio=30))


def _our_device() -> object:
    """An identity and 100 prekeys in a store, and the bytes of the bundle and the device list."""
    account = Address(ALICE)
    scheme, store = Omemo(account), MemoryStore(account)
    no_list = Fetched(account, scheme.version.devices_node, "", None, "item-not-found")

    def step(s: State) -> Done[object]:
        scheme.learn(s, no_list, SOME_TIME)
        scheme.prepare(s, SOME_TIME)
        published = [scheme.publication(s, what, SOME_TIME) for what in ("bundle", "devices")]
        if any(isinstance(item, Need) for item in published):
            raise RuntimeError("a new device needs more than its account's list")
        return Done(published)

    return store.run(step)


def _repeated(operation: Operation) -> Side:
    return Side(lambda count: [operation] * count, DEVICES)


def _new_device() -> Figure:
    sides = {"ours": _repeated(_our_device), "floor": _repeated(the_floor().new_device)}
    try:
        from bench.peer import new_devices
    except ModuleNotFoundError:
        pass
    else:
        sides |= {"peer": new_devices(bare=False), "peer_bare": new_devices(bare=True)}
    return Figure("omemo.device.new", sides, Target(peer_ratio=4))


FIGURES = {
    "omemo.first.1": _first,
    "omemo.first.100": _first_many,
    "omemo.first_decrypt": _first_decrypt,
    "omemo.device.new": _new_device,
}
