"""XEP-0198 the way round that loses nothing: a stanza counts as handled when its processing has been committed.

slixmpp counts a stanza on arrival, so after a crash the server believes delivered what was never stored. Here every
stanza that somebody holds stops the counter until it is released; the server sends everything behind it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from slixmpp.plugins.xep_0198 import stanza as sm
from slixmpp.stanza import Iq, Message, Presence
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

from tillie.networks.xmpp.opened import InSession

MODULUS = 2**32


class Hold(NamedTuple):
    """A stanza that has arrived and is not handled yet: its number in the stream that `epoch` numbers."""

    epoch: int
    number: int


class Handled:
    """Counts what has been handled for slixmpp's xep_0198, instead of what has arrived."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._plugin = client.plugin["xep_0198"]
        self._epoch = 0
        self._arrived = 0  # stanzas of this stream, in full
        self._held: set[int] = set()
        self._owed = False  # the server asked while something was held, and has not heard the end
        client.del_filter("in", self._plugin._handle_incoming)
        client.add_filter("in", self._count)
        for event in ("sm_enabled", "disconnected", "session_end"):
            client.add_event_handler(event, self._begin)
        client.register_handler(
            Callback("Tillie owes an ack", MatchXPath(sm.RequestAck.tag_name()), self._asked, instream=True)
        )

    def hold(self) -> Hold:
        """Called while a stanza arrives: it is not handled before `release` is called with what this returns."""
        self._held.add(self._arrived)
        self._tell()
        return Hold(self._epoch, self._arrived)

    def release(self, hold: Hold) -> None:
        """Its processing is committed. Of no effect if the stream has ended since: the server will send it again."""
        if hold.epoch != self._epoch:
            return
        self._held.discard(hold.number)
        self._tell()
        if self._owed and not self._held:
            self._owed = False
            if self._plugin.enabled_in:
                self._plugin.send_ack()

    def _count(self, stanza: Any) -> Any:
        if isinstance(stanza, InSession):
            return stanza  # what it came in was counted
        if self._plugin.enabled_in and isinstance(stanza, (Message, Presence, Iq)):
            self._arrived += 1
            self._tell()
        return stanza

    def _tell(self) -> None:
        handled = min(self._held) - 1 if self._held else self._arrived
        self._plugin.handled = handled % MODULUS

    def _begin(self, _: object) -> None:
        """A stream ended or began. What was held and not committed is not handled: a resumed stream goes on there."""
        self._epoch += 1
        self._arrived = self._plugin.handled
        self._held.clear()
        self._owed = False

    def _asked(self, _: object) -> None:
        self._owed = bool(self._held)


class Acknowledged:
    """Learns which of our stanzas the server has: from XEP-0198, or from the reply to a ping sent after them.

    RFC 6120 section 10.1: a server processes what comes over one stream in order.
    """

    def __init__(self, client: Any, tell: Callable[[tuple[str, ...]], None]) -> None:
        self._client = client
        self._plugin = client.plugin["xep_0198"]
        self._tell = tell
        self._unconfirmed: list[str] = []  # sent, without XEP-0198, and not behind a ping yet
        self._scheduled = False
        client.add_event_handler("stanza_acked", lambda stanza: self._tell((_id_of(stanza),)))
        client.add_event_handler("disconnected", self._disconnected)

    @property
    def pending(self) -> frozenset[str]:
        """Ids of what slixmpp itself sends again when the stream is resumed."""
        return frozenset(_id_of(stanza) for _, stanza in self._plugin.unacked_queue)

    def sent(self, stanza_id: str) -> None:
        """A stanza was queued; ask the server about it, and about all others that are queued in the same breath."""
        if not self._plugin.enabled_out:
            self._unconfirmed.append(stanza_id)
        if not self._scheduled:
            self._scheduled = True
            self._client.loop.call_soon(self._ask)

    def _ask(self) -> None:
        self._scheduled = False
        if self._client.transport is None:
            return
        if self._plugin.enabled_out:
            self._client.send(sm.RequestAck(self._client))
        ids, self._unconfirmed = tuple(self._unconfirmed), []
        if ids:
            iq = self._client.make_iq_get(ito=self._client.boundjid.domain)
            iq.enable("ping")
            # An error is an answer too: the server has read everything before the ping.
            future = iq.send()
            future.add_done_callback(lambda done: None if _failed(done) else self._tell(ids))

    def _disconnected(self, _: object) -> None:
        self._unconfirmed.clear()


def _failed(done: Any) -> bool:
    from slixmpp.exceptions import IqError

    return bool(done.cancelled() or (done.exception() is not None and not isinstance(done.exception(), IqError)))


def _id_of(stanza: Any) -> str:
    """Its name in the outbox. It is not always its own id: that of an answer was chosen by whoever asked."""
    if not isinstance(stanza, (Message, Presence, Iq)):
        return ""
    return str(getattr(stanza, "outbox_id", "") or stanza["id"])
