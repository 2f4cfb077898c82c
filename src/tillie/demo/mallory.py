"""What the man in the middle of `tillie demo session` tries. Each is what she does with the stanzas that pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from tillie.account import Account
from tillie.client import Client
from tillie.demo.middle import Doing, Middle, pass_on, written_by
from tillie.model import Address, Done, State
from tillie.negotiation import element
from tillie.negotiation.options import FORM_TYPE, SSN
from tillie.networks.local import Archived, LocalConnection, LocalServer
from tillie.schemes.esession.scheme import ESession
from tillie.schemes.esession.sessions import Session
from tillie.sessions import Sessions, bind
from tillie.store import MemoryStore
from tillie.wire import base64, forms, xml
from tillie.wire.forms import Field
from tillie.wire.xml import MAX_STANZA_BYTES

_SEALED = f"{{{element.CONTENT}}}c"
_DATA = f"{{{element.CONTENT}}}data"
_FORM = f"{{{element.FEATURE}}}feature/{{jabber:x:data}}x[@type='result']"
_MAC = f"{_FORM}/{{jabber:x:data}}field[@var='mac']/{{jabber:x:data}}value"
_THREAD = "{jabber:client}thread"
_MESSAGE = "{jabber:client}message"


def is_sealed(stanza: bytes, sender: str = "") -> bool:
    """Whether it is a stanza of a session; with `sender`, one of hers."""
    root = xml.parse(stanza)
    return root.find(_SEALED) is not None and root.get("from", "").startswith(sender)


class Once:
    """Do this with the next sealed stanza, and then pass on again."""

    def __init__(self, middle: Middle, trick: Doing) -> None:
        self._middle, self._trick = middle, trick

    def __call__(self, stanza: bytes) -> Iterable[bytes]:
        if not is_sealed(stanza):
            return (stanza,)
        self._middle.doing = pass_on
        return self._trick(stanza)


def alter(stanza: bytes) -> Iterable[bytes]:
    """One bit of what is sealed."""
    root = xml.parse(stanza)
    data = root.find(f"{_SEALED}/{_DATA}")
    assert data is not None
    data.text = _flipped(xml.text_of(data))
    return (xml.serialise(root),)


def _flipped(text: str) -> str:
    octets = bytearray(base64.decode(text, max_bytes=MAX_STANZA_BYTES))
    octets[-1] ^= 1
    return base64.encode(bytes(octets))


class Proof:
    """One bit of what proves, in message 3 of a negotiation, that both have the same keys."""

    def __init__(self, middle: Middle) -> None:
        self._middle = middle

    def __call__(self, stanza: bytes) -> Iterable[bytes]:
        root = xml.parse(stanza)
        values = root.findall(_MAC) if root.find(_FORM) is not None else []
        if not values:
            return (stanza,)
        self._middle.doing = pass_on
        values[0].text = _flipped(xml.text_of(values[0]))
        return (xml.serialise(root),)


def repeat(stanza: bytes) -> Iterable[bytes]:
    return (stanza, stanza)


def drop(_: bytes) -> Iterable[bytes]:
    return ()


def end_in_clear(session: Session) -> bytes:
    """What asks the peer of a session, in the name of its other end, that it be over: XEP-0155, not encrypted."""
    fields = (Field(FORM_TYPE, "hidden", (SSN,)), Field("terminate", "boolean", ("1",)))
    form = element.feature(forms.write("submit", fields))
    return b"<message xmlns='jabber:client' from=%b to=%b id='end'>%b<thread>%b</thread></message>" % (
        xml.attribute(session.own),
        xml.attribute(session.peer),
        form,
        xml.escape(session.thread),
    )


# -- two sessions instead of one --------------------------------------------------------------------------------------


class Impostor:
    """Her end of a session with one of them, under the other's address: Tillie itself, as anybody can have it."""

    def __init__(self, client: Client, connection: LocalConnection, worn: Address) -> None:
        self._connection, self._client = connection, client
        self.worn = worn
        self.sessions: Sessions = client.sessions

    @classmethod
    async def wear(cls, worn: Address, give: Callable[[bytes], None]) -> Impostor:
        account = Account(MemoryStore(worn.bare))
        connection = await _Elsewhere(worn, give).connect(worn.bare, account.store)
        connection.address = worn
        bind(connection.engine, worn)
        scheme = connection.engine.schemes[ESession.name]
        assert isinstance(scheme, ESession)
        scheme.answers = lambda _: True
        return cls(Client(account, connection), connection, worn)

    def take(self, stanza: bytes) -> None:
        sender = Address(xml.parse(stanza).get("from", ""))
        self._connection.deliver(Archived(sender, self.worn, 0.0, stanza), "live")

    async def close(self) -> None:
        for session in await self.sessions.all():
            if not session.over:  # nobody would answer if she ended it in order
                await self._client.engine.drive(partial(self._abandon, session.thread))
        await self._connection.close()

    def _abandon(self, thread: str, s: State) -> Done[None]:
        return self.sessions.scheme.abandon(s, thread, "given up", 0.0)


class _Elsewhere(LocalServer):
    """The network of an impostor: all that she sends is given to the server in somebody's name."""

    def __init__(self, worn: Address, give: Callable[[bytes], None]) -> None:
        super().__init__()
        self._worn, self._give = worn, give

    def route(self, sender: LocalConnection, stanza: bytes) -> None:
        self._give(written_by(self._worn, stanza))


class Swap:
    """The man in the middle proper: she answers Alice in Bob's name, and asks Bob in Alice's."""

    def __init__(self, middle: Middle, as_alice: Impostor, as_bob: Impostor) -> None:
        self._middle = middle
        self._as_alice, self._as_bob = as_alice, as_bob
        self.asking: asyncio.Task[Session] | None = None

    @classmethod
    async def between(cls, middle: Middle, alice: Address, bob: Address) -> Swap:
        """Of two full JIDs."""
        as_alice, as_bob = await Impostor.wear(alice, middle.give), await Impostor.wear(bob, middle.give)
        swap = cls(middle, as_alice, as_bob)
        middle.doing = swap._divert
        return swap

    def _divert(self, stanza: bytes) -> Iterable[bytes]:
        root = xml.parse(stanza)
        if root.tag != _MESSAGE or root.find(_THREAD) is None:
            return (stanza,)  # whatever else they exchange she lets pass, so that nobody wonders
        if Address(root.get("from", "")).bare == self._as_alice.worn.bare:
            self._as_bob.take(stanza)
            if self.asking is None:
                self.asking = asyncio.ensure_future(self._as_alice.sessions.start(self._as_bob.worn))
        else:
            self._as_alice.take(stanza)
        return ()

    async def close(self) -> None:
        self._middle.doing = pass_on
        if self.asking is not None:
            self.asking.cancel()
        await self._as_alice.close()
        await self._as_bob.close()
