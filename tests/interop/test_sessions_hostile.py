"""What servers and peers may try inside slixmpp: nothing in plain passes for what is sealed, nothing falls to plain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from slixmpp.exceptions import IqError
from slixmpp.stanza import Iq, Message

from support.players import Player
from support.prosody import HOSTS, new_account, prosody
from support.xmpp import SECONDS, online, until
from tillie.demo.prosody import PrivateProsody
from tillie.networks.xmpp.opened import InSession
from tillie.schemes.esession import Session

__all__ = ["prosody"]

CONTENT = "{http://www.xmpp.org/extensions/xep-0200.html#ns}c"
DATA = f"{CONTENT}/{{http://www.xmpp.org/extensions/xep-0200.html#ns}}data"


def run(server: PrivateProsody, scenario: Callable[[Player, Player, Session], Any]) -> None:
    async def all_of_it() -> None:
        juliet = Player(server, new_account(server, "juliet"))
        romeo = Player(server, new_account(server, "romeo", HOSTS[1]))
        async with online(juliet, romeo):
            await scenario(juliet, romeo, await juliet.sessions.start(romeo.full))

    asyncio.run(all_of_it())


def on_the_way(player: Player, do: Callable[[Any], Any]) -> None:
    """Do something with each sealed stanza of a player, where the wire begins."""

    def tap(stanza: Any) -> Any:
        found = isinstance(stanza, (Iq, Message)) and stanza.xml.find(CONTENT) is not None
        return do(stanza) if found else stanza

    player.add_filter("out", tap)


def test_a_plain_answer_to_a_sealed_question_is_not_one(prosody: PrivateProsody) -> None:
    async def scenario(juliet: Player, romeo: Player, _: Session) -> None:
        def answer_twice(stanza: Any) -> Any:
            if isinstance(stanza, Iq) and stanza["type"] == "result":
                answer = "<answer xmlns='urn:example:verona'/>"
                romeo.send_raw(f"<iq type='result' to='{juliet.full}' id='{stanza['id']}'>{answer}</iq>")
            return stanza

        on_the_way(romeo, answer_twice)
        assert await juliet.ask(romeo.full, "who are you?") == "who are you?"
        assert len(juliet.failed) == 1
        assert juliet.failed[0].stanza["type"] == "result"
        assert not isinstance(juliet.failed[0].stanza, InSession)

    run(prosody, scenario)


def altered(stanza: Any) -> Any:
    data = stanza.xml.find(DATA)
    if data is not None:
        data.text = ("A" if data.text[0] != "A" else "B") + data.text[1:]
    return stanza


@pytest.mark.parametrize("tamper", [altered, lambda stanza: None], ids=["altered", "dropped"])
def test_what_is_altered_or_dropped_breaks_the_session_and_nothing_follows_in_plain(
    prosody: PrivateProsody, tamper: Callable[[Any], Any]
) -> None:
    async def scenario(juliet: Player, romeo: Player, session: Session) -> None:
        count = 0

        def once(stanza: Any) -> Any:
            nonlocal count
            count += 1
            return tamper(stanza) if count == 1 else stanza

        on_the_way(juliet, once)
        waiting = asyncio.ensure_future(juliet.ask(romeo.full, "one"))
        await until(lambda: count == 1)
        juliet.send_message(romeo.full, "two", mtype="chat")
        with pytest.raises(IqError) as caught:
            await asyncio.wait_for(waiting, SECONDS)
        assert caught.value.condition in ("not-acceptable", "service-unavailable")  # from here, or from there
        await until(lambda: all([name for name, _ in each.told] == ["started", "ended"] for each in (juliet, romeo)))
        assert juliet.told[-1][1].state == romeo.told[-1][1].state == "broken"
        juliet.send_message(romeo.full, "three", mtype="chat")
        romeo.send_message(juliet.full, "four", mtype="chat")
        await until(lambda: any(getattr(each, "why", "") for each in romeo.failed))
        await romeo.settled()
        assert juliet.leaked("two", "three") == romeo.leaked("four") == []
        assert romeo.opened.empty()
        assert romeo.plain.empty()
        again = await juliet.sessions.start(romeo.full)  # a new one is all that it takes
        assert again.known
        juliet.send_message(romeo.full, "five", mtype="chat")
        assert await romeo.read() == "five"

    run(prosody, scenario)


def test_who_waits_for_an_answer_hears_that_the_session_ended(prosody: PrivateProsody) -> None:
    async def scenario(juliet: Player, romeo: Player, session: Session) -> None:
        romeo.remove_handler("custom")
        romeo.register_handler(_silent())
        waiting = asyncio.ensure_future(juliet.ask(romeo.full, "to be or not to be"))
        await juliet.settled()
        await romeo.settled()
        await romeo.sessions.end(session.thread)
        with pytest.raises(IqError) as caught:
            await asyncio.wait_for(waiting, SECONDS)
        assert caught.value.condition == "not-acceptable"
        assert "before the answer" in caught.value.text

    run(prosody, scenario)


def _silent() -> Any:
    from slixmpp.xmlstream.handler import Callback
    from slixmpp.xmlstream.matcher import StanzaPath

    return Callback("silent", StanzaPath("iq@type=set"), lambda iq: None)


def test_a_handler_that_fails_gives_nothing_away(prosody: PrivateProsody) -> None:
    async def scenario(juliet: Player, romeo: Player, _: Session) -> None:
        def fail(stanza: Any) -> None:
            raise RuntimeError("the potion")

        romeo.add_event_handler("message", fail)
        juliet.send_message(romeo.full, "drink it", mtype="chat")
        assert await romeo.read() == "drink it"
        await until(lambda: len(romeo.errors) == 1)
        assert romeo.leaked("potion", "drink", "got into trouble") == []
        assert await juliet.ask(romeo.full, "are you well?") == "are you well?"

    run(prosody, scenario)
