"""What came while we were away: the pages of our own archive since the last message that was processed (XEP-0313).

Record: ("xmpp", "archive", "position") -> version, 8 bytes time, the archive id ("" for the beginning of the archive).
"""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tillie.crypto.random import random_bytes
from tillie.errors import Rejected, StoreTooNew
from tillie.model import Address, Done, Key, State, Time
from tillie.networks.xmpp.elements import form
from tillie.networks.xmpp.incoming import ARCHIVE, MAX_ID
from tillie.wire.time import format_datetime

PAGE = 100  # messages asked for at once
MAX_PAGES = 1_000  # in one catch-up
OVERLAP = 86_400.0  # seconds asked for again where the archive has forgotten our position; duplicates are silent
VERSION = 1
RSM = "http://jabber.org/protocol/rsm"

_POSITION = Key("xmpp", "archive", "position")
_HEAD = struct.Struct(">Bd")

Ask = Callable[[str, Address | None, ET.Element], Awaitable[ET.Element]]


class Position(NamedTuple):
    """The last message of the archive that has been processed, and when that was."""

    time: Time
    id: str


def load(s: State) -> Position | None:
    data = s.get(_POSITION)
    if data is None:
        return None
    if data[0] != VERSION:
        raise StoreTooNew(f"the archive position has version {data[0]}; this version of Tillie reads {VERSION}.")
    _, time = _HEAD.unpack_from(data)
    return Position(time, data[_HEAD.size :].decode())


def loading(s: State) -> Done[Position | None]:
    """The step that reads the position."""
    return Done(load(s))


def saving(position: Position) -> Callable[[State], Done[None]]:
    """The step that keeps this position."""

    def step(s: State) -> Done[None]:
        s.put(_POSITION, _HEAD.pack(VERSION, position.time) + position.id.encode())
        return Done(None)

    return step


class Archive:
    """Queries our own archive. `queries` are the ids under way: results of others are not ours."""

    def __init__(self, ask: Ask) -> None:
        self.queries: set[str] = set()
        self._ask = ask

    async def newest(self) -> str:
        """The id of the newest message; "" if the archive is empty. Raises `Rejected` where there is no archive."""
        fin = await self._page(("before", ""), None, maximum=1, queryid=random_bytes(12).hex())
        return _last(fin)

    async def pages(self, since: Position, processed: Callable[[str], Awaitable[None]]) -> None:
        """Ask for everything behind `since`, page by page. Results arrive as messages before `processed` is called with
        the id of the page's last one; the next page is asked for when it returns."""
        start: Time | None = None
        after = since.id
        for _ in range(MAX_PAGES):
            queryid = random_bytes(12).hex()
            self.queries.add(queryid)
            try:
                fin = await self._page(("after", after) if after else None, start, maximum=PAGE, queryid=queryid)
                last = _last(fin)
                if last:
                    await processed(last)
            except Rejected as refusal:
                if refusal.condition != "item-not-found" or start is not None:
                    raise
                start, after = since.time - OVERLAP, ""
                continue
            finally:
                self.queries.discard(queryid)
            if fin.get("complete") in ("true", "1") or not last or last == after:
                return
            after = last

    async def _page(
        self, bound: tuple[str, str] | None, start: Time | None, *, maximum: int, queryid: str
    ) -> ET.Element:
        query = ET.Element(f"{{{ARCHIVE}}}query", {"queryid": queryid})
        if start is not None:
            query.append(form(ARCHIVE, [("start", format_datetime(start))]))
        paging = ET.SubElement(query, f"{{{RSM}}}set")
        ET.SubElement(paging, f"{{{RSM}}}max").text = str(maximum)
        if bound is not None:
            ET.SubElement(paging, f"{{{RSM}}}{bound[0]}").text = bound[1]
        answer = await self._ask("set", None, query)
        fin = answer.find(f"{{{ARCHIVE}}}fin")
        if fin is None:
            raise Rejected("the archive's answer is not as XEP-0313 defines it")
        return fin


def _last(fin: ET.Element) -> str:
    return (fin.findtext(f"{{{RSM}}}set/{{{RSM}}}last") or "")[:MAX_ID]
