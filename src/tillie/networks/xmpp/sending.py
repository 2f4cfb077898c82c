"""What the plugins that seal messages have in common: a stanza in, sealed and in the outbox, or back as a stanza."""

from __future__ import annotations

from typing import Any

from slixmpp.plugins import BasePlugin
from slixmpp.stanza import Message

from tillie.envelope import policy
from tillie.errors import UsageError
from tillie.model import Address, Content, Sealed
from tillie.networks.xmpp.core import Core
from tillie.networks.xmpp.elements import children, from_bytes
from tillie.networks.xmpp.network import stanza_of
from tillie.networks.xmpp.opened import OpenedMessage
from tillie.schemes import Scheme
from tillie.wire import address, stanza

# What stanza.message puts beside the sealed element itself.
_OURS = frozenset({"{urn:xmpp:hints}store", "{urn:xmpp:sid:0}origin-id", "{urn:xmpp:eme:0}encryption"})


class SealsMessages(BasePlugin):
    """Sends messages sealed with `scheme`."""

    core: Core
    scheme: Scheme

    async def send_sealed(self, message: Message) -> Sealed:
        """Seal the message's children and put the message into the outbox: it survives a crash, and is sent until the
        server has it. The report says for which devices it was sealed. Raises NotTrusted, NoRecipients, ..."""
        to, content, plain = _split(message)
        return await self.core.engine.send(
            to, content, type=message["type"], message_id=message["id"], plain=plain, scheme=self.scheme.name
        )

    async def encrypt_message(self, message: Message) -> tuple[Message, Sealed]:
        """The sealed stanza for a message, for a program that sends by itself. It does not enter the outbox."""
        to, content, plain = _split(message)
        sealed = await self.core.engine.seal(to, content, scheme=self.scheme.name)
        if self.scheme.fallback and policy.has_body(content):
            plain = (stanza.body(self.scheme.fallback), *plain)
        client: Any = self.xmpp
        element = stanza.message(
            to,
            message["id"] or client.new_id(),
            sealed.element,
            stanza.encryption(self.scheme.namespace, self.scheme.title),
            kind=message["type"],
            plain=plain,
        )
        return stanza_of(client, element), sealed

    async def acknowledge(self, message: OpenedMessage) -> None:
        """The program has taken the message over: it leaves the inbox."""
        if message.row is not None:
            await self.core.engine.acknowledge(message.row)

    async def close(self) -> None:
        """Stop working, and close the store unless the program opened it. The client should be disconnected."""
        await self.core.close()


def _split(message: Message) -> tuple[Address, Content, tuple[bytes, ...]]:
    if message["type"] in ("groupchat", "error"):
        raise UsageError("group chat and errors can't be sealed yet")
    content, plain = policy.split_outgoing(Content(children(message.xml)))
    kept = [data for data in plain if from_bytes(data)[0].tag not in _OURS]
    return address.parse(str(message["to"])), content, tuple(kept)
