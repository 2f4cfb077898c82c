"""Olm messages (Matrix specification 1.19, "End-to-End Encryption") between two devices that have a session.

The floor: in one transaction of a store in memory, load the session, one call of vodozemac, save the session, and the
JSON that is built or parsed. vodozemac is native and used as it is: what is left over is ours. Ours loads a session
once, and then keeps what it saved beside what is stored.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

import msgspec
import vodozemac

from bench.measure import Figure, Side, Target
from bench.pairs import MESSAGE
from support.olm import ALICE, BOB, Player, for_device, pair
from tillie import pipeline
from tillie.crypto.random import random_bytes
from tillie.directory.matrix import OLM
from tillie.model import Arrived, Content, Done, Key, Opened, Sealed, Stanza, State
from tillie.store import Committed, MemoryStore

BATCH = 40
TARGET = Target(floor_ratio=1.5)
TICK = 0.001  # seconds between two messages
_numbers = count()


def _text() -> str:
    """A message of 200 characters, another one each time."""
    return f"{next(_numbers):08d} ".ljust(MESSAGE, "x")


# -- ours -----------------------------------------------------------------------------------------------------------


class OurLine:
    """Alice and Bob with a session that both have used; Bob's policy has taken Alice's device."""

    def __init__(self) -> None:
        self.home, self.alice, self.bob = pair()
        self.bob.receive(ALICE, self.alice.send(BOB, "begin"))
        self.alice.receive(BOB, self.bob.send(ALICE, "answer"))

    def content(self) -> Content:
        body = {"msgtype": "m.text", "body": _text()}
        return Content(msgspec.json.encode({"type": "m.room.message", "content": body}))

    def seal(self, content: Content) -> Sealed:
        """Devices, trust, the session, the request that is ready to be sent."""
        self.home.now += TICK
        alice = self.alice
        return _run(alice, lambda s: pipeline.seal(s, alice.scheme, alice.policy, content, BOB, self.home.now))

    def sealed(self) -> bytes:
        """The content of a message as it comes to Bob."""
        return msgspec.json.encode(for_device(self.seal(self.content()), BOB, self.bob.device))

    def open(self, element: bytes) -> Opened:
        self.home.now += TICK
        bob = self.bob
        got = Arrived(element, Stanza("to-device", ALICE, BOB, "m.room.encrypted"), "olm")
        return _run(bob, lambda s: pipeline.open(s, bob.scheme, bob.policy, got, self.home.now))


def _run(player: Player, step: Callable[[State], object]) -> object:
    out = player.store.run(step)
    if not isinstance(out, Committed):
        raise RuntimeError("a message needs something")
    return out.value


def _our_sealing() -> Side:
    line = OurLine()

    def check(results: Sequence[object]) -> None:
        if not all(isinstance(each, Sealed) and all(device.sealed for device in each.report) for each in results):
            raise RuntimeError("something was not sealed")

    return Side(lambda wanted: [partial(line.seal, line.content()) for _ in range(wanted)], BATCH, check)


def _our_opening() -> Side:
    line = OurLine()

    def check(results: Sequence[object]) -> None:
        if not all(isinstance(each, Opened) and each.content is not None for each in results):
            raise RuntimeError("something was not opened")

    return Side(lambda wanted: [partial(line.open, line.sealed()) for _ in range(wanted)], BATCH, check)


# -- the floor ------------------------------------------------------------------------------------------------------


class FloorLine:
    """Two sessions of vodozemac, each a record in a store."""

    KEY = Key("floor", "session", "")

    def __init__(self) -> None:
        self.secret = random_bytes(32)
        alice, bob = vodozemac.Account(), vodozemac.Account()
        bob.generate_one_time_keys(1)
        (one_time,) = bob.one_time_keys.values()
        ours = alice.create_outbound_session(bob.curve25519_key, one_time)
        first = ours.encrypt(b"begin").to_pre_key()
        theirs, _ = bob.create_inbound_session(alice.curve25519_key, first)
        ours.decrypt(theirs.encrypt(b"answer"))
        self.keys = [account.curve25519_key.to_base64() for account in (alice, bob)]
        self.signing = [account.ed25519_key.to_base64() for account in (alice, bob)]
        self.stores = [MemoryStore(user, clock=lambda: 0.0) for user in (ALICE, BOB)]
        for store, session in zip(self.stores, (ours, theirs), strict=True):
            self._put(store, session)

    def _put(self, store: MemoryStore, session: vodozemac.Session) -> None:
        store.run(lambda s: Done(s.put(self.KEY, session.pickle(self.secret).encode())))

    def _load(self, s: State) -> vodozemac.Session:
        return vodozemac.Session.from_pickle((s.get(self.KEY) or b"").decode(), self.secret)

    def content(self) -> dict[str, object]:
        return {"msgtype": "m.text", "body": _text()}

    def seal(self, content: dict[str, object]) -> bytes:
        payload = {
            "type": "m.room.message",
            "content": content,
            "sender": str(ALICE),
            "recipient": str(BOB),
            "keys": {"ed25519": self.signing[0]},
            "recipient_keys": {"ed25519": self.signing[1]},
        }

        def step(s: State) -> Done[bytes]:
            session = self._load(s)
            type, body = session.encrypt(msgspec.json.encode(payload)).to_parts()
            s.put(self.KEY, session.pickle(self.secret).encode())
            ciphertext = {self.keys[1]: {"type": type, "body": b64encode(body).rstrip(b"=").decode()}}
            sealed = {"algorithm": OLM, "sender_key": self.keys[0], "ciphertext": ciphertext}
            return Done(msgspec.json.encode({"messages": {str(BOB): {"BOBPHONE": sealed}}}))

        return self.stores[0].run(step).value

    def sealed(self) -> bytes:
        return msgspec.json.encode(msgspec.json.decode(self.seal(self.content()))["messages"][BOB]["BOBPHONE"])

    def open(self, element: bytes) -> object:
        def step(s: State) -> Done[object]:
            part = msgspec.json.decode(element)["ciphertext"][self.keys[1]]
            session = self._load(s)
            body = b64decode(part["body"] + "=" * (-len(part["body"]) % 4))
            payload = session.decrypt(vodozemac.AnyOlmMessage.from_parts(part["type"], body))
            s.put(self.KEY, session.pickle(self.secret).encode())
            return Done(msgspec.json.decode(payload))

        return self.stores[1].run(step).value


def _floor_sealing() -> Side:
    line = FloorLine()
    return Side(lambda wanted: [partial(line.seal, line.content()) for _ in range(wanted)], BATCH)


def _floor_opening() -> Side:
    line = FloorLine()
    return Side(lambda wanted: [partial(line.open, line.sealed()) for _ in range(wanted)], BATCH)


def _figure(name: str, ours: Callable[[], Side], floor: Callable[[], Side]) -> Figure:
    return Figure(name, {"ours": ours(), "floor": floor()}, TARGET)


FIGURES = {
    "olm.encrypt": partial(_figure, "olm.encrypt", _our_sealing, _floor_sealing),
    "olm.decrypt": partial(_figure, "olm.decrypt", _our_opening, _floor_opening),
}
