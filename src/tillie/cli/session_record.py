"""Writing down what goes over the wire of one session, for `tillie session forge` (schemes.esession.transcript)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from tillie.cli import show
from tillie.client import Client
from tillie.errors import StoreUnwritable, UsageError
from tillie.model import Address, Arrived, Changed, Done, Send
from tillie.schemes.esession import channel as channels
from tillie.schemes.esession import content, records, sessions, transcript
from tillie.schemes.esession.channel import Channel
from tillie.schemes.esession.sessions import ACTIVE
from tillie.wire import xml

_CONTENT = content.NAMESPACE.encode()


@contextlib.asynccontextmanager
async def recorded(client: Client, path: Path | None, peer: Address | None = None) -> AsyncIterator[None]:
    """Write a session down while this lasts, to its end, if a file is wanted."""
    if path is None:
        yield
        return
    recorder = Recorder(client, path, peer)
    try:
        yield
    finally:
        await client.sessions.end_all()
        recorder.close()


class Recorder:
    """The sealed stanzas of the first session with somebody that opens, into a new file, as whoever stands at the wire
    sees them. `close` adds the MAC keys that are of no use any more: without them, only what was re-keyed could be
    forged."""

    def __init__(self, client: Client, path: Path, peer: Address | None = None) -> None:
        self._client = client
        self._path = path
        self._peer = peer
        self._thread = ""
        self._own = self._other = Address("")
        self._keys: dict[bytes, None] = {}
        self._sent: set[str] = set()
        try:
            self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        except FileExistsError:
            raise UsageError(f"{path} is there already.", hint="Choose another name for the transcript.") from None
        except OSError as error:
            raise StoreUnwritable(f"{path} can't be written: {error.strerror}.") from None
        self._unfollow = client.engine.follow(self._changed)
        client.engine.tap = self._passed

    def close(self) -> None:
        """The session is over, or we leave."""
        self._unfollow()
        self._client.engine.tap = lambda _: None
        if self._keys:
            self._write(transcript.keys_of(self._keys))
        self._file.close()
        if not self._thread:
            self._path.unlink(missing_ok=True)
            show.note(f"There was no session to write down: {self._path} is not kept.")

    def _changed(self, change: Changed) -> None:
        """A session opened: its counters are still those of the first stanza, because this is called before any."""
        if self._thread or change.scheme != records.SCHEME:
            return
        session = self._client.account.session(change.name)
        if session is None or session.state != ACTIVE or self._peer not in (None, session.peer.bare):
            return
        self._thread, self._own, self._other = session.thread, session.own, session.peer
        channel = self._look()
        if channel is not None:
            self._write(transcript.header_of(channel, str(self._own), str(self._other), self._thread))

    def _look(self) -> Channel | None:
        """The channel as it is now; its MAC keys are noted, for when it is over."""
        out = self._client.account.store.run(lambda s: Done(sessions.load(s, self._thread)))
        record = out.value if hasattr(out, "value") else None
        if record is None or not record.channel:
            return None
        channel = channels.decode(record.channel)
        reading = [own.km for own in channel.sets]
        writing = [channel.km, *(km for _, km in channel.spent)]
        self._keys.update((key, None) for key in (*reading, *writing, channel.used_in, *channel.published) if key)
        return channel

    def _passed(self, what: Send | Arrived) -> None:
        if not self._thread:
            return
        if isinstance(what, Arrived):
            around = what.stanza
            if around.sender == self._other and around.to == self._own and _CONTENT in what.element:
                self._look()
                self._entry(self._other, _stanza(what))
        elif self._is_ours(what):
            self._look()
            self._sent.add(what.id)
            self._entry(self._own, what.stanza)

    def _is_ours(self, what: Send) -> bool:
        """Whether it is a stanza of this session, for the first time."""
        if what.sender != self._own or what.id in self._sent or _CONTENT not in what.stanza:
            return False
        return xml.parse(what.stanza).get("to") == self._other

    def _entry(self, sender: Address, stanza: bytes) -> None:
        self._write(transcript.Entry(str(sender), stanza.decode()))

    def _write(self, what: transcript.Header | transcript.Entry | transcript.Keys) -> None:
        self._file.write(transcript.line(what))
        self._file.flush()


def _stanza(got: Arrived) -> bytes:
    """A stanza as it came, but for the order of its children."""
    around, kind = got.stanza, got.stanza.kind.encode()
    names = {"type": around.type, "from": around.sender, "to": around.to, "id": around.id}
    head = b"".join(b" %b=%b" % (name.encode(), xml.attribute(value)) for name, value in names.items() if value)
    return b"<%b%b>%b</%b>" % (kind, head, b"".join((got.element, *around.siblings)), kind)
