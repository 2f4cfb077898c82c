"""XEP-0384 (OMEMO Encryption, `urn:xmpp:omemo:2`) as a slixmpp plugin on Tillie's engine and store.

    client.register_plugin("xep_0384", {"store": path, "key": key}, module="tillie.networks.xmpp.xep_0384")

Options, methods and events are in docs/xmpp.md.
"""

from __future__ import annotations

from typing import Any, ClassVar

from slixmpp.plugins.base import register_plugin
from slixmpp.stanza import Iq, Presence

from tillie.engine import Engine
from tillie.envelope import policy as sealing
from tillie.errors import UsageError
from tillie.model import Content, Sealed
from tillie.networks.xmpp import xep_0380, xep_0420
from tillie.networks.xmpp.catch_up import Archive
from tillie.networks.xmpp.core import OPTIONS, core_of
from tillie.networks.xmpp.elements import children, one_from_bytes
from tillie.networks.xmpp.network import XmppNetwork
from tillie.networks.xmpp.opened import OpenedIq
from tillie.networks.xmpp.receiver import Receiver
from tillie.networks.xmpp.sending import SealsMessages
from tillie.schemes.omemo import Omemo, Repair
from tillie.wire import address

_CLASS_OF_IQ: Any = Iq


class XEP_0384(SealsMessages):
    """OMEMO 2 for one client. `engine` is open to programs that want more than stanzas."""

    name = "xep_0384"
    description = "XEP-0384: OMEMO Encryption"
    dependencies: ClassVar[set[str]] = {"xep_0163", "xep_0380", "xep_0420"}
    default_config: ClassVar[dict[str, Any]] = {**OPTIONS, "repair": Repair.MANUAL.value, "label": ""}

    def plugin_init(self) -> None:
        self.core = core_of(self)
        self.scheme = Omemo(self.core.account, label=self.label, repair=Repair(self.repair))
        self.core.use(self.scheme)

    def plugin_end(self) -> None:
        self.core.leave(self, self.scheme)

    @property
    def engine(self) -> Engine:
        return self.core.engine

    @property
    def network(self) -> XmppNetwork:
        return self.core.network

    @property
    def receiver(self) -> Receiver:
        return self.core.receiver

    @property
    def archive(self) -> Archive:
        return self.core.archive

    async def encrypt_presence(self, presence: Presence) -> tuple[Presence, Sealed]:
        """A sealed directed presence. What servers route and filter by stays in plain (XEP-0420)."""
        return await self._encrypt_in_place(presence, None)

    async def encrypt_iq(self, iq: Iq) -> tuple[Iq, Sealed]:
        """A sealed IQ, bound to its type and id."""
        return await self._encrypt_in_place(iq, (iq["type"], iq["id"]))

    async def send_sealed_iq(self, iq: Iq) -> OpenedIq:
        """Send a sealed request and open the answer. Raises `IqError` for a plain error, `Refused` if a result came in
        plain or does not open."""
        sealed: Any = (await self.encrypt_iq(iq))[0]
        answer = await sealed.send(timeout=self.core.timeout)
        return await self.core.receiver.open_answer(answer)

    async def send_sealed_reply(self, reply: Iq) -> Sealed:
        """Send a sealed result or error to a sealed request (`request.reply()`, with what you add)."""
        sealed: Any
        sealed, report = await self.encrypt_iq(_CLASS_OF_IQ(self.xmpp, reply.xml, recv=True))
        sealed.send()
        return report

    async def _encrypt_in_place(self, stanza: Any, iq: tuple[str, str] | None) -> tuple[Any, Sealed]:
        if not stanza["to"]:
            raise UsageError("a sealed stanza needs a recipient")
        content, plain = sealing.split_outgoing(Content(children(stanza.xml)))
        to = address.parse(str(stanza["to"]))
        sealed = await self.core.engine.seal(to, content, iq=iq, scheme=self.scheme.name)
        for child in list(stanza.xml):
            stanza.xml.remove(child)
        for data in (sealed.element, *plain):
            stanza.xml.append(one_from_bytes(data))
        return type(stanza)(self.xmpp, stanza.xml, recv=True), sealed


register_plugin(xep_0380.XEP_0380)
register_plugin(xep_0420.XEP_0420)
register_plugin(XEP_0384)
