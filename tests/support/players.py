"""A slixmpp program that knows nothing of encrypted sessions but that it has the plugin, as a test sees it."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from typing import Any

from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import StanzaPath

from support.xmpp import SECONDS, Bot
from tillie.demo.prosody import PrivateProsody
from tillie.networks.xmpp.opened import InSession
from tillie.schemes.esession import Session

SESSIONS = ("xep_0116",)
CUSTOM = "urn:example:verona"


class Player(Bot):
    """A program with sessions. `wire` is all that it wrote, `plain` what handlers of plain messages were given."""

    def __init__(self, server: PrivateProsody, jid: str, **options: Any) -> None:
        options.setdefault("answer", "everyone")
        self.wire: list[str] = []
        super().__init__(server, jid, plugins=options.pop("plugins", SESSIONS), **options)
        self.auto_authorize, self.auto_subscribe = None, False
        self.plain: asyncio.Queue[Any] = asyncio.Queue()
        self.told: list[tuple[str, Session]] = []
        self.register_plugin("xep_0092", {"software_name": "Balcony", "version": "1.4", "os": "Verona"})
        self.register_plugin("xep_0199")
        self.add_event_handler("message", self.plain.put_nowait)
        for event in ("started", "ended", "failed", "offer"):
            self.add_event_handler(f"esession_{event}", lambda it, event=event: self.told.append((event, it)))
        self.register_handler(Callback("custom", StanzaPath("iq@type=set"), self._custom))

    def send_raw(self, data: Any) -> None:
        self.wire.append(data if isinstance(data, str) else data.decode())
        super().send_raw(data)

    @property
    def full(self) -> str:
        return str(self.boundjid.full)

    @property
    def sessions(self) -> Any:
        return self.plugin["xep_0116"]

    def _custom(self, iq: Any) -> None:
        asked = iq.xml.find(f"{{{CUSTOM}}}ask")
        if asked is not None:
            reply = iq.reply()
            reply.xml.append(ET.Element(f"{{{CUSTOM}}}answer", {"to": asked.get("what", "")}))
            reply.send()

    async def ask(self, to: str, what: str) -> str:
        """A request of a namespace that no plugin knows, and its answer."""
        iq = self.make_iq(itype="set", ito=to)
        iq.xml.append(ET.Element(f"{{{CUSTOM}}}ask", {"what": what}))
        answer = await iq.send(timeout=SECONDS)
        assert isinstance(answer, InSession)
        return str(answer.xml.find(f"{{{CUSTOM}}}answer").get("to"))

    def leaked(self, *words: str) -> list[str]:
        return [seen for seen in self.wire if any(word in seen for word in words)]
