"""The same through the slixmpp plugin: a plain stanza in, a sealed stanza out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from slixmpp import ClientXMPP

from bench.measure import Figure, Operation, Side
from bench.ours import OurPair
from bench.pairs import ALICE, BOB, MESSAGE
from bench.steady import BATCH, the_floor


def _step(work: Any) -> object:
    """Run a coroutine that never waits: with a store in memory and nothing to fetch, sealing does not."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("sealing waits for something")


def _client(store: object) -> Any:
    client = ClientXMPP(f"{ALICE}/bench", "no password: it never connects", loop=asyncio.new_event_loop())
    options = {"store": store, "policy": "first-use", "catch_up": False}
    client.register_plugin("xep_0384", options, module="tillie.networks.xmpp.xep_0384")
    return client


def _encrypt() -> Figure:
    pair = OurPair()
    pair.alice.now = time.time()  # the plugin's engine lives by the clock
    for address in (ALICE, BOB):
        pair.alice.learn_devices(address)
    pair.meet()
    client = _client(pair.alice.store)

    def prepare(count: int) -> list[Operation]:
        operations: list[Operation] = []
        for number in range(count):
            body = f"{number:08d} ".ljust(MESSAGE, "x")
            message = client.make_message(BOB, body, mtype="chat")
            message["id"] = f"bench-{number}"
            operations.append(lambda message=message: _step(client["xep_0384"].encrypt_message(message)))
        return operations

    def check(results: Sequence[Any]) -> None:
        for stanza, sealed in results:
            if not sealed.report[0].sealed or stanza["body"] == "x" * MESSAGE:
                raise RuntimeError("a stanza was not sealed")

    def floor(count: int) -> list[Operation]:
        contents = [
            b"<body xmlns='jabber:client'>%b</body>" % (b"%08d " % n).ljust(MESSAGE, b"x") for n in range(count)
        ]
        return [partial(the_floor().encrypt, content) for content in contents]

    sides = {"ours": Side(prepare, BATCH, check), "floor": Side(floor, BATCH)}
    return Figure("omemo.encrypt.1.slixmpp", sides)


FIGURES = {"omemo.encrypt.1.slixmpp": _encrypt}
