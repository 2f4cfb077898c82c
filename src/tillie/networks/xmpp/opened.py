"""What a program gets: slixmpp stanzas with the opened content in them, and what is known about it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from slixmpp.stanza import Iq, Message, Presence

from tillie.envelope import policy
from tillie.errors import UsageError
from tillie.model import Opened, Stanza
from tillie.networks.xmpp.elements import CLIENT, from_bytes
from tillie.pipeline import Delivery, decode_delivery, encode_delivery


class _Sealed:
    """What the three kinds have in common. `delivery` says who sealed it and how far that device is trusted."""

    delivery: Delivery
    row: int | None = None

    def send(self, *_: object, **__: object) -> Any:
        """Refused: this was sealed, and `send` would answer in plain text. Use the plugin's methods."""
        raise UsageError("this stanza was sealed; answer with send_sealed, or make a plain one on purpose")

    def exception(self, error: Exception) -> None:
        """An error in a handler stays here: slixmpp would send it to the other side in plain."""
        self.stream.exception(error)  # type: ignore[attr-defined]


class OpenedMessage(_Sealed, Message):
    """A message that was sealed. Its children are what the sender sealed, and what servers may add."""


class OpenedPresence(_Sealed, Presence):
    """A directed presence that was sealed."""


class OpenedIq(_Sealed, Iq):
    """An IQ that was sealed. Answer it with `send_sealed_reply`."""


class InSession:
    """What came sealed in an encrypted session, on its way to whatever handles such stanzas. An answer (`reply`) goes
    back sealed in the same session, or not at all.

    `delivery` says who sealed it and how far she is trusted; `session` is the thread of the session.
    """

    delivery: Delivery | None = None  # None in an answer
    row: int | None = None
    session = ""

    def reply(self, *args: Any, **options: Any) -> Any:
        answer = super().reply(*args, **options)  # type: ignore[misc]
        answer.session = self.session
        return answer

    def __str__(self, top_level_ns: bool = True) -> str:
        return f"<{type(self).__name__}>"  # slixmpp writes what it handles into its debug log


class _AnsweredByNothing(InSession):
    def exception(self, error: Exception) -> None:
        """An error in a handler stays here: an error in plain would also end the session."""
        self.stream.exception(error)  # type: ignore[attr-defined]


class SessionMessage(_AnsweredByNothing, Message):
    """A message that was sealed in a session."""


class SessionPresence(_AnsweredByNothing, Presence):
    """A directed presence that was sealed in a session."""


class SessionIq(InSession, Iq):
    """An IQ that was sealed in a session."""


_CLASSES: dict[str, Any] = {"message": OpenedMessage, "presence": OpenedPresence, "iq": OpenedIq}
SESSION_CLASSES: dict[str, Any] = {"message": SessionMessage, "presence": SessionPresence, "iq": SessionIq}
_THREAD = f"{{{CLIENT}}}thread"


def build_in_session(client: Any, delivery: Delivery, around: Stanza, *, row: int | None = None) -> Any:
    """The stanza for what came in a session, as if it had come in plain."""
    stanza = SESSION_CLASSES[delivery.stanza](client, _element(delivery, around), recv=True)
    threads = [element for sibling in around.siblings for element in from_bytes(sibling) if element.tag == _THREAD]
    stanza.delivery, stanza.row = delivery, row
    if len(threads) == 1:
        stanza.session = threads[0].text or ""
        if delivery.stanza == "message" and stanza.xml.find(_THREAD) is None:
            stanza.xml.append(threads[0])
    return stanza


def build(client: Any, delivery: Delivery, around: Stanza | None = None, *, row: int | None = None) -> Any:
    """The stanza for a delivery, live (`around` is what carried it) or out of the inbox."""
    stanza = _CLASSES[delivery.stanza](client, _element(delivery, around), recv=True)
    stanza.delivery, stanza.row = delivery, row
    return stanza


def _element(delivery: Delivery, around: Stanza | None) -> ET.Element:
    element = ET.Element(f"{{{CLIENT}}}{delivery.stanza}")
    sender = str(around.sender) if around is not None else delivery.address
    for name, value in (("from", sender), ("to", delivery.to), ("type", delivery.type), ("id", delivery.id)):
        if value:
            element.set(name, value)
    if delivery.content:
        element.extend(from_bytes(delivery.content.encode()))
    if around is not None:
        for sibling in policy.filter_siblings(around.siblings)[0]:
            element.extend(from_bytes(sibling))
    return element


def delivery_of(opened: Opened, around: Stanza) -> Delivery:
    return decode_delivery(encode_delivery(opened, around))
