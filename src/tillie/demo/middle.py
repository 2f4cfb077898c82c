"""Somebody in the middle, where the server sits: every stanza between two people of a demo goes through her hands.

On Prosody a module hands her the stanzas and delivers what she makes of them (mod_middle.lua); without, she is the
server's `route`. She can pass on, alter, repeat and drop, and write in anybody's name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from typing import Any, Protocol

import slixmpp

from tillie.client import Client
from tillie.crypto.random import random_bytes
from tillie.demo import processes
from tillie.demo.places import ALICE, BOB, InProcess, OnProsody, Place
from tillie.demo.prosody import PrivateProsody
from tillie.errors import Unreachable
from tillie.model import Address
from tillie.networks.local import Archived, LocalConnection, LocalServer
from tillie.networks.xmpp import elements
from tillie.wire import address, xml

SECONDS = 10.0  # until somebody must have answered
COMPONENT = "middle.example"
_LOOK_SECONDS = 0.02
_DISCO = "http://jabber.org/protocol/disco#info"
_FORWARDED = "{urn:xmpp:forward:0}forwarded"

Doing = Callable[[bytes], Iterable[bytes]]
"""What she does with a stanza that goes from one to the other: what is passed on instead, in this order."""


def pass_on(stanza: bytes) -> Iterable[bytes]:
    """What any server does."""
    return (stanza,)


class Middle:
    """Who sits there. `seen` is all that passed, `doing` what she does with it, `give` delivers a stanza with a sender
    and a recipient to the latter."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.doing: Doing = pass_on
        self.give: Callable[[bytes], None] = _nowhere

    def take(self, stanza: bytes) -> None:
        self.seen.append(stanza)
        for each in self.doing(stanza):
            self.give(each)


def _nowhere(_: bytes) -> None:
    raise Unreachable("Nobody sits in the middle.")


class WatchedPlace(Place, Protocol):
    """A place with somebody in the middle of all that these people send each other."""

    middle: Middle

    async def ask(self, asker: Client, asked: Client) -> list[str]:
        """A question of one client to another, as an IQ, and what came back: the features that it has (XEP-0030)."""
        ...

    async def tell(self, teller: Client, hearer: Client, status: str) -> str:
        """Somebody's status, as a presence to another; what is shown there."""
        ...


class MiddleOnProsody(OnProsody):
    """A private Prosody with her module, and her as its component (XEP-0114)."""

    def __init__(self, people: Sequence[Address] = (ALICE, BOB)) -> None:
        self.middle = Middle()
        (self._port,), self._secret = processes.free_ports(1), random_bytes(16).hex()
        self._component: Any = None
        between = " ".join(f'"{person}";' for person in people)
        options = (
            f"component_ports = {{ {self._port} }}\n"
            f'middle_component = "{COMPONENT}"\n'
            f"middle_between = {{ {between} }}\n"
            f'Component "{COMPONENT}"\n'
            f'  component_secret = "{self._secret}"'
        )
        source = files("tillie.demo").joinpath("mod_middle.lua").read_text("utf-8")
        super().__init__(people, options=options, modules={"middle": source}, contacts=True)

    async def open(self) -> None:
        await super().open()
        make: Any = slixmpp.ComponentXMPP  # it has no types
        component = make(COMPONENT, self._secret, "127.0.0.1", self._port)
        component.add_filter("in", self._filter)
        self._component, self.middle.give = component, self._give
        component.connect()
        try:
            async with asyncio.timeout(SECONDS):
                await component.wait_until("session_start")
        except TimeoutError:
            raise Unreachable("Prosody did not let the man in the middle in.") from None

    async def close(self) -> None:
        component, self._component = self._component, None
        if component is not None:
            component.abort()
        await super().close()

    # slixmpp asks, answers and tells as ever. That it happens in a session is Tillie's doing.

    async def ask(self, asker: Client, asked: Client) -> list[str]:
        info = await _xmpp(asker).plugin["xep_0030"].get_info(jid=asked.engine.own, cached=False)
        return sorted(info["disco_info"]["features"])

    async def tell(self, teller: Client, hearer: Client, status: str) -> str:
        async with asyncio.timeout(SECONDS):
            heard = asyncio.ensure_future(_xmpp(hearer).wait_until("presence_available", SECONDS))
            await asyncio.sleep(0)  # it listens
            _xmpp(teller).send_presence(pto=hearer.engine.own, pstatus=status)
            return str((await heard)["status"])

    def seen(self) -> Iterator[tuple[str, bytes]]:
        yield from super().seen()
        yield from _notes(self.middle)

    def _filter(self, stanza: Any) -> Any:
        forwarded = stanza.xml.find(_FORWARDED)
        if forwarded is None:
            return stanza
        for taken in forwarded:
            self.middle.take(elements.as_delivered(taken))
        return None

    def _give(self, stanza: bytes) -> None:
        # To the host of its sender, whose module believes the component.
        host = address.parse(xml.parse(stanza).get("from", "")).domain
        forwarded = b"<forwarded xmlns='urn:xmpp:forward:0'>%b</forwarded>" % stanza
        message = b"<message from='%b' to='%b'>%b</message>" % (COMPONENT.encode(), host.encode(), forwarded)
        self._component.send_raw(message)


class MiddleInProcess(InProcess):
    """The same without Prosody."""

    def __init__(self, people: Sequence[Address] = (ALICE, BOB)) -> None:
        super().__init__()
        self.middle = Middle()
        self._server = _Between(self.middle, people)

    # Nobody asks, answers or shows anything by herself here: these say what slixmpp would.

    async def ask(self, asker: Client, asked: Client) -> list[str]:
        iq = "<iq xmlns='jabber:client' type='%s' id='disco' to='%s'><query xmlns='%s'>%s</query></iq>"
        await asker.sessions.seal((iq % ("get", asked.engine.own, _DISCO, "")).encode())
        await _next(asked, "iq")
        feature = f"<feature var='{_DISCO}'/>"
        await asked.sessions.seal((iq % ("result", asker.engine.own, _DISCO, feature)).encode())
        (query,) = await _next(asker, "iq")
        return [each.get("var", "") for each in query]

    async def tell(self, teller: Client, hearer: Client, status: str) -> str:
        presence = "<presence xmlns='jabber:client' to='%s'><status>%s</status></presence>"
        await teller.sessions.seal((presence % (hearer.engine.own, status)).encode())
        (shown,) = await _next(hearer, "presence")
        return xml.text_of(shown)

    def seen(self) -> Iterator[tuple[str, bytes]]:
        yield from super().seen()
        yield from _notes(self.middle)


async def _next(client: Client, kind: str) -> list[xml.Element]:
    """What the next stanza of this kind hid."""
    async with asyncio.timeout(SECONDS):
        while True:
            for row, delivery in await client.engine.inbox():
                if delivery.stanza == kind and delivery.content:
                    await client.engine.acknowledge(row)
                    return xml.parse_fragment(delivery.content.encode())
            await asyncio.sleep(_LOOK_SECONDS)


def _xmpp(client: Client) -> Any:
    connection: Any = client._connection
    return connection.core.xmpp


class _Between(LocalServer):
    def __init__(self, middle: Middle, people: Sequence[Address]) -> None:
        super().__init__()
        self._middle, self._people = middle, frozenset(people)
        middle.give = self._deliver

    def route(self, sender: LocalConnection, stanza: bytes) -> None:
        to = Address(xml.parse(stanza).get("to", ""))
        if {sender.account, to.bare} <= self._people and sender.account != to.bare:
            self.traffic.append(stanza)
            self._middle.take(written_by(sender.address, stanza))
        else:
            super().route(sender, stanza)

    def _deliver(self, stanza: bytes) -> None:
        element = xml.parse(stanza)
        to = Address(element.get("to", ""))
        entry = Archived(Address(element.get("from", "")), to, self.clock(), stanza)
        for end in list(self._online):
            if end.listening and to in (end.address, end.account):
                end.deliver(entry, "live")


def _notes(middle: Middle) -> Iterator[tuple[str, bytes]]:
    for number, stanza in enumerate(middle.seen):
        yield f"note {number} of the man in the middle", stanza


def written_by(sender: str, stanza: bytes) -> bytes:
    """A stanza with this sender on it."""
    element = xml.parse(stanza)
    element.set("from", sender)
    return xml.serialise(element)


def choose() -> WatchedPlace:
    """On a Prosody if one can be started here."""
    return MiddleOnProsody() if PrivateProsody.available() else MiddleInProcess()
