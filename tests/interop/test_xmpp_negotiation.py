"""xep_0155 alone in slixmpp programs, on two hosts of a real Prosody."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import slixmpp

from support.prosody import HOSTS, PASSWORD, new_account, prosody
from support.xmpp import SECONDS, Bot, online, until
from tillie.demo.prosody import PrivateProsody
from tillie.errors import NegotiationFailed, SessionEnded, UsageError
from tillie.negotiation.session import Phase, State
from tillie.networks.xmpp import negotiations
from tillie.networks.xmpp.negotiations import Session
from tillie.wire.forms import Field

__all__ = ["prosody"]

EVENTS = ("offer", "missed", "active", "renegotiate", "changed", "continue", "ended")
LOGGING = Field("logging", "list-single", ("may",), ("may", "mustnot"), required=True)
LANGUAGE = Field("language", "list-single", ("en",), ("en", "it"), required=True)
SPEAKS = {"logging": ("may", "mustnot"), "language": ("it", "en")}
OPEN = {"logging": ("may",), "disclosure": ("enabled",), "security": ("c2s",), "multisession": ("0",)}


class Talker(slixmpp.ClientXMPP):
    """A program with `xep_0155` and nothing else. `heard` are its events, `sent` its negotiations."""

    def __init__(self, server: PrivateProsody, jid: str, *, listens: tuple[str, ...] = EVENTS, **options: Any) -> None:
        super().__init__(jid, PASSWORD, ssl_context=server.ssl_context())
        self.enable_direct_tls = False
        self.prosody = server
        self.register_plugin("xep_0155", {"wait": SECONDS} | options, module="tillie.networks.xmpp.xep_0155")
        self.ssn: Any = self.plugin["xep_0155"]
        self.heard: asyncio.Queue[tuple[str, Session]] = asyncio.Queue()
        self.sent: list[ET.Element] = []
        self.came: list[ET.Element] = []
        self.errors: list[BaseException] = []
        for event in listens:
            self.add_event_handler(
                f"xep_0155_{event}", lambda about, event=event: self.heard.put_nowait((event, about))
            )
        self.add_filter("out", lambda stanza: self._note(stanza, self.sent))
        self.add_filter("in", lambda stanza: self._note(stanza, self.came))

    def _note(self, stanza: Any, where: list[ET.Element]) -> Any:
        if isinstance(stanza, slixmpp.Message):
            where.append(ET.fromstring(ET.tostring(stanza.xml)))
        return stanza

    def exception(self, exception: BaseException) -> None:
        self.errors.append(exception)

    async def start(self) -> None:
        started = asyncio.ensure_future(self.wait_until("session_start", SECONDS))
        self.connect("127.0.0.1", self.prosody.port)
        await started
        await self.get_roster()
        self.send_presence()
        await self.settled()

    async def stop(self) -> None:
        if self.transport is not None:
            await self.disconnect(1.0)
        self.cancel_connection_attempt()
        if self._run_out_filters is not None:
            self._run_out_filters.cancel()
        assert self.errors == []

    async def settled(self) -> None:
        """All that the server has for us is here."""
        ping = self.make_iq_get("urn:xmpp:ping", ito=self.boundjid.host)
        try:
            await ping.send()
        except slixmpp.exceptions.IqError:
            pass

    async def hears(self, event: str) -> Session:
        """The next event, which must be this one."""
        name, about = await asyncio.wait_for(self.heard.get(), SECONDS)
        assert name == event
        return about

    @property
    def full(self) -> str:
        return str(self.boundjid.full)


Scenario = Callable[[Any, Any], Awaitable[None]]


async def befriend(a: Talker, b: Talker) -> None:
    a.send_presence_subscription(b.boundjid.bare)
    await until(lambda: a.ssn.shows_presence_to(b.full) and b.ssn.shows_presence_to(a.full))


def couple(server: PrivateProsody, *, listens: tuple[str, ...] = EVENTS, **options: Any) -> tuple[Talker, Talker]:
    return (
        Talker(server, new_account(server, "romeo", HOSTS[1]), supported=SPEAKS),
        Talker(server, new_account(server, "juliet"), listens=listens, **options),
    )


def run(server: PrivateProsody, scenario: Scenario, *, friends: bool = True, **options: Any) -> None:
    """A scenario with Romeo, and Juliet with these options."""

    async def both() -> None:
        romeo, juliet = couple(server, **options)
        async with online(romeo, juliet):
            if friends:
                await befriend(romeo, juliet)
            await scenario(romeo, juliet)
            await romeo.settled()
            await juliet.settled()
            assert romeo.heard.empty()
            assert juliet.heard.empty()

    asyncio.run(both())


def fields(message: ET.Element) -> dict[str, str]:
    """The form in a message: values by field, and its type."""
    (x,) = message.iter("{jabber:x:data}x")
    found = {field.get("var", ""): field.findtext("{jabber:x:data}value", "") for field in x}
    return {"type": x.get("type", "")} | {key: value for key, value in found.items() if key != "FORM_TYPE"}


def said(talker: Talker) -> list[dict[str, str]]:
    return [fields(message) for message in talker.sent if message.find(negotiations.FEATURE_TAG) is not None]


async def says(talker: Talker, form: dict[str, str]) -> None:
    """It is the last thing that was negotiated."""
    await until(lambda: said(talker)[-1:] == [form])


# -- from offer to end ------------------------------------------------------------------------------------------------


def test_a_session_from_offer_to_end(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        session = await romeo.ssn.offer(juliet.boundjid.bare, [LOGGING, LANGUAGE])
        assert (session.peer, session.phase) == (juliet.full, Phase.ACTIVE)  # the resource that answered
        assert session.parameters == {"logging": ("may",), "language": ("en",)}
        await romeo.hears("active")
        hers = await juliet.hears("active")
        assert (hers.peer, hers.parameters, hers.thread) == (romeo.full, session.parameters, session.thread)
        assert said(juliet) == [{"type": "submit", "accept": "1", "logging": "may", "language": "en"}]
        assert [form["type"] for form in said(romeo)] == ["form", "result"]

        got: asyncio.Queue[Any] = asyncio.Queue()
        juliet.add_event_handler("message", got.put_nowait)
        romeo.ssn.send(session, "soft!")
        message = await asyncio.wait_for(got.get(), SECONDS)
        assert (message["body"], message["thread"], juliet.ssn.session_of(message)) == ("soft!", session.thread, hers)
        message["thread"] = "another"
        assert juliet.ssn.session_of(message) is None

        juliet.ssn.terminate(hers)
        assert await romeo.hears("ended") is session
        assert await juliet.hears("ended") is hers
        assert (session.phase, hers.phase) == (Phase.ENDED, Phase.ENDED)
        await juliet.settled()
        await says(romeo, {"type": "result", "terminate": "1"})
        with pytest.raises(SessionEnded):
            romeo.ssn.send(session, "wait")
        with pytest.raises(SessionEnded):
            romeo.ssn.terminate(session)
        assert romeo.ssn.sessions == juliet.ssn.sessions == ()

    run(prosody, scenario, supported=SPEAKS)


def test_what_is_offered_by_default(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        session = await juliet.ssn.offer(romeo.full)
        assert session.parameters == OPEN
        await juliet.hears("active")
        await romeo.hears("active")

    run(prosody, scenario)


def test_every_message_of_a_negotiation_is_as_it_should_be(prosody: PrivateProsody) -> None:
    """XEP-0155 section 4.1: type normal, a thread, no body; the request asks servers not to keep it."""

    async def scenario(romeo: Any, juliet: Any) -> None:
        session = await romeo.ssn.offer(juliet.full, [LANGUAGE])
        await romeo.hears("active")
        await juliet.hears("active")
        for message in (*romeo.sent, *juliet.sent):
            assert message.get("type", "normal") == "normal"
            assert message.findtext("{jabber:client}thread") == session.thread
            assert message.find("{jabber:client}body") is None
        request, result = romeo.sent
        rule = request.find("{http://jabber.org/protocol/amp}amp/{http://jabber.org/protocol/amp}rule")
        assert rule is not None
        assert (rule.get("action"), rule.get("value")) == ("drop", "stored")
        assert result.find("{http://jabber.org/protocol/amp}amp") is None

    run(prosody, scenario, supported=SPEAKS)


def test_a_person_is_asked(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        waits = asyncio.ensure_future(romeo.ssn.offer(juliet.full, [LANGUAGE]))
        offered = await juliet.hears("offer")
        assert offered.view.state is State.ASKED
        juliet.ssn.reject(offered, "How about tonight?")
        with pytest.raises(NegotiationFailed, match="tonight"):
            await waits
        assert (await romeo.hears("ended")).reason == "How about tonight?"
        assert said(juliet) == [{"type": "submit", "accept": "0", "reason": "How about tonight?"}]

        waits = asyncio.ensure_future(romeo.ssn.offer(juliet.full, [LANGUAGE]))
        offered = await juliet.hears("offer")
        with pytest.raises(UsageError):
            await juliet.ssn.accept(offered, [Field("language", values=("de",))])
        await juliet.ssn.accept(offered, [Field("language", values=("it",))])
        assert (await waits).parameters == {"language": ("it",)}
        await romeo.hears("active")
        await juliet.hears("active")

    run(prosody, scenario, answer="ask")


def test_nobody_is_there_to_ask(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        with pytest.raises(NegotiationFailed, match="don't want"):
            await romeo.ssn.offer(juliet.full)
        await romeo.hears("ended")

    run(prosody, scenario, answer="ask", listens=())


def test_what_was_chosen_is_looked_at_first(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        def review(session: Session) -> bool:
            return session.parameters["language"] == ("it",)

        with pytest.raises(NegotiationFailed, match="will not do"):
            await romeo.ssn.offer(juliet.full, [LANGUAGE], review=review)
        await says(romeo, {"type": "result", "accept": "0"})
        await romeo.hears("ended")
        await juliet.hears("ended")

    run(prosody, scenario, supported={"language": ("en",)})


def test_an_offer_that_waits_too_long(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        with pytest.raises(NegotiationFailed, match="no answer"):
            await romeo.ssn.offer(juliet.full, [LANGUAGE], wait=0.2)
        await romeo.hears("ended")
        offered = await juliet.hears("offer")
        assert await juliet.hears("ended") is offered  # told that it is cancelled
        with pytest.raises(SessionEnded):
            await juliet.ssn.accept(offered)

    run(prosody, scenario, answer="ask", supported=SPEAKS)


def test_who_accepts_too_late_is_told(prosody: PrivateProsody) -> None:
    """And who accepts and is never told that it is complete, ends it."""

    async def scenario(romeo: Any, juliet: Any) -> None:
        waits = asyncio.ensure_future(romeo.ssn.offer(juliet.full, [LANGUAGE]))
        offered = await juliet.hears("offer")
        romeo.ssn.sessions[0].view = negotiations.session.lost(romeo.ssn.sessions[0].view)
        with pytest.raises(NegotiationFailed):
            await juliet.ssn.accept(offered)
        await says(romeo, {"type": "result", "accept": "0"})
        await juliet.hears("ended")
        waits.cancel()

        waits = asyncio.ensure_future(romeo.ssn.offer(juliet.full, [LANGUAGE]))
        offered = await juliet.hears("offer")
        romeo.ssn.takers.append(lambda message: True)
        with pytest.raises(NegotiationFailed, match="no answer"):
            await juliet.ssn.accept(offered, wait=0.2)
        await says(juliet, {"type": "submit", "terminate": "1"})
        await juliet.hears("ended")
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        await says(romeo, {"type": "result", "accept": "0"})
        await romeo.hears("ended")

    run(prosody, scenario, answer="ask", supported=SPEAKS)


def test_a_peer_that_begins_anew_has_lost_the_session_before(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        first = await romeo.ssn.offer(juliet.full, [LANGUAGE])
        second = await romeo.ssn.offer(juliet.full, [LANGUAGE])
        assert (first.phase, second.phase) == (Phase.ENDED, Phase.ACTIVE)
        many = Field("multisession", "boolean", ("1",))
        third = await romeo.ssn.offer(juliet.full, [LANGUAGE, many])
        fourth = await romeo.ssn.offer(juliet.full, [LANGUAGE, many])
        assert (second.phase, third.phase, fourth.phase) == (Phase.ENDED, Phase.ACTIVE, Phase.ACTIVE)
        await until(lambda: len(juliet.ssn.sessions) == 2)
        await romeo.settled()
        await juliet.settled()
        for talker in (romeo, juliet):
            while not talker.heard.empty():
                talker.heard.get_nowait()

    run(prosody, scenario, supported={"language": ("en",), "multisession": ("0", "1")})


# -- an open session --------------------------------------------------------------------------------------------------


async def open_one(romeo: Any, juliet: Any) -> tuple[Session, Session]:
    session = await romeo.ssn.offer(juliet.full, [LANGUAGE])
    await romeo.hears("active")
    return session, await juliet.hears("active")


def test_other_parameters(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        session, hers = await open_one(romeo, juliet)
        await romeo.ssn.renegotiate(session, [LOGGING])
        await romeo.hears("changed")
        await juliet.hears("changed")
        assert session.parameters == hers.parameters == {"language": ("en",), "logging": ("may",)}
        unknown = Field("colour", "list-single", (), ("red",), required=True)
        with pytest.raises(NegotiationFailed) as failed:
            await romeo.ssn.renegotiate(session, [unknown])
        assert (failed.value.condition, failed.value.fields) == ("feature-not-implemented", ("colour",))
        german = Field("language", "list-single", (), ("de",), required=True)
        with pytest.raises(NegotiationFailed) as failed:
            await romeo.ssn.renegotiate(session, [german])
        assert (failed.value.condition, failed.value.fields) == ("not-acceptable", ("language",))
        assert session.parameters == hers.parameters == {"language": ("en",), "logging": ("may",)}
        await romeo.ssn.renegotiate(session, [LOGGING])  # and the session goes on
        await romeo.hears("changed")
        await juliet.hears("changed")

    run(prosody, scenario, supported=SPEAKS)


def test_other_parameters_are_for_a_person_to_decide(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        asking = asyncio.ensure_future(romeo.ssn.offer(juliet.full, [LANGUAGE]))
        await juliet.ssn.accept(await juliet.hears("offer"))
        session = await asking
        await romeo.hears("active")
        hers = await juliet.hears("active")
        asking = asyncio.ensure_future(romeo.ssn.renegotiate(session, [LOGGING]))
        assert await juliet.hears("renegotiate") is hers
        juliet.ssn.decline(hers)
        with pytest.raises(NegotiationFailed, match="keep"):
            await asking
        asking = asyncio.ensure_future(romeo.ssn.renegotiate(session, [LOGGING]))
        await juliet.hears("renegotiate")
        juliet.ssn.agree(hers, [Field("logging", values=("mustnot",))])
        await asking
        await romeo.hears("changed")
        assert session.parameters == hers.parameters == {"language": ("en",), "logging": ("mustnot",)}

    run(prosody, scenario, answer="ask", supported=SPEAKS)


def test_both_want_other_parameters_at_once(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        session, hers = await open_one(romeo, juliet)
        outcomes = await asyncio.gather(
            romeo.ssn.renegotiate(session, [LOGGING]),
            juliet.ssn.renegotiate(hers, [LOGGING]),
            return_exceptions=True,
        )
        assert any(isinstance(outcome, NegotiationFailed) for outcome in outcomes)
        await romeo.settled()
        await juliet.settled()
        assert session.parameters == hers.parameters
        for talker in (romeo, juliet):
            while not talker.heard.empty():
                talker.heard.get_nowait()

    run(prosody, scenario, supported=SPEAKS)


def test_a_session_goes_on_at_another_resource(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        session, hers = await open_one(romeo, juliet)
        pda = Talker(prosody, f"{juliet.boundjid.bare}/PDA", supported=SPEAKS)
        async with online(pda):
            with pytest.raises(UsageError):
                pda.ssn.adopt(hers)
            await juliet.ssn.move(hers, pda.boundjid.resource)
            pda.ssn.adopt(hers)
            assert await juliet.hears("continue") is hers
            assert await romeo.hears("continue") is session
            assert (session.peer, hers.view.own) == (pda.full, pda.full)
            assert juliet.ssn.sessions == ()
            got: asyncio.Queue[Any] = asyncio.Queue()
            pda.add_event_handler("message", got.put_nowait)
            romeo.ssn.send(session, "soft!")
            message = await asyncio.wait_for(got.get(), SECONDS)
            assert pda.ssn.session_of(message) is hers
            pda.ssn.terminate(hers)
            await pda.hears("ended")
            assert await romeo.hears("ended") is session

    run(prosody, scenario, supported=SPEAKS)


def test_going_offline(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        session, hers = await open_one(romeo, juliet)
        waits = asyncio.ensure_future(juliet.ssn.offer(romeo.full, [LANGUAGE], wait=SECONDS))
        await asyncio.sleep(0)
        juliet.ssn.terminate_all()
        with pytest.raises(NegotiationFailed):
            await waits
        assert juliet.ssn.sessions == ()
        assert (hers.phase, await romeo.hears("ended")) == (Phase.ENDED, session)
        await romeo.settled()
        await juliet.settled()
        for talker in (romeo, juliet):
            while not talker.heard.empty():
                talker.heard.get_nowait()

    run(prosody, scenario, supported=SPEAKS)


def test_a_new_connection_forgets(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        session, _ = await open_one(romeo, juliet)
        await romeo.disconnect(1.0)
        assert await romeo.hears("ended") is session
        assert romeo.ssn.sessions == ()
        await romeo.start()

    run(prosody, scenario, supported=SPEAKS)


# -- who must not learn that we are online ----------------------------------------------------------------------------


def test_strangers_get_no_answer_before_a_person_decides(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        impossible = Field("colour", "list-single", (), ("red",), required=True)
        for question in ([LANGUAGE], [impossible]):
            with pytest.raises(NegotiationFailed, match="no answer"):
                await romeo.ssn.offer(juliet.full, question, wait=0.3)
            await romeo.hears("ended")
            await juliet.hears("offer")
            await juliet.hears("ended")
        for bad in (form("http://jabber.org/protocol/si", "form", accept="1"), form("urn:xmpp:ssn", "form")):
            say(romeo, juliet.full, bad)
        await romeo.settled()
        await juliet.settled()
        assert juliet.sent == []

        waits = asyncio.ensure_future(romeo.ssn.offer(juliet.full, [LANGUAGE]))
        offered = await juliet.hears("offer")
        juliet.ssn.ignore(offered)
        assert juliet.ssn.sessions == ()
        assert juliet.sent == []
        waits.cancel()
        await romeo.hears("ended")

        waits = asyncio.ensure_future(romeo.ssn.offer(juliet.full, [LANGUAGE]))
        await juliet.ssn.accept(await juliet.hears("offer"))
        await waits
        await romeo.hears("active")
        await juliet.hears("active")

    run(prosody, scenario, friends=False, supported=SPEAKS)


def test_only_so_many_strangers_wait(prosody: PrivateProsody, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negotiations, "MAX_WAITING_OF_ONE", 2)

    async def scenario(romeo: Any, juliet: Any) -> None:
        for number in range(4):
            say(romeo, juliet.full, form("urn:xmpp:ssn", "form", accept="1"), thread=f"t{number}")
        await romeo.settled()
        for _ in range(4):
            await juliet.hears("offer")
        assert [each.thread for each in juliet.ssn.sessions] == ["t2", "t3"]

    run(prosody, scenario, friends=False)


def test_an_offer_that_was_kept_is_not_answered(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        delay = "<delay xmlns='urn:xmpp:delay' from='capulet.test' stamp='2026-01-01T00:00:00Z'/>"
        say(romeo, juliet.full, form("urn:xmpp:ssn", "form", accept="1") + delay)
        missed = await juliet.hears("missed")
        assert missed.peer == romeo.full
        assert juliet.ssn.sessions == ()
        assert juliet.sent == []

    run(prosody, scenario)


# -- errors -----------------------------------------------------------------------------------------------------------


def form(form_type: str, kind: str, **values: str) -> str:
    inside = "".join(
        f"<field var='{var}'><value>{value}</value></field>"
        for var, value in {"FORM_TYPE": form_type, **values}.items()
    )
    return (
        "<feature xmlns='http://jabber.org/protocol/feature-neg'>"
        f"<x xmlns='jabber:x:data' type='{kind}'>{inside}</x></feature>"
    )


def say(talker: Any, to: str, children: str, thread: str = "t") -> None:
    message = talker.make_message(to, mtype="normal")
    message["thread"] = thread
    message.xml.extend(ET.fromstring(f"<f>{children}</f>"))
    message.send()


@pytest.mark.parametrize(
    ("question", "condition", "code", "named"),
    [
        ([Field("colour", "list-single", (), ("red",), required=True)], "feature-not-implemented", "501", ("colour",)),
        ([Field("language", "list-single", (), ("de",), required=True)], "not-acceptable", "406", ("language",)),
    ],
)
def test_why_an_offer_can_not_be_accepted(
    prosody: PrivateProsody, question: list[Field], condition: str, code: str, named: tuple[str, ...]
) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        with pytest.raises(NegotiationFailed) as failed:
            await romeo.ssn.offer(juliet.full, question)
        assert (failed.value.condition, failed.value.fields) == (condition, named)
        await romeo.hears("ended")
        await juliet.hears("ended")
        (answer,) = juliet.sent
        error = answer.find("{jabber:client}error")
        assert error is not None
        assert (answer.get("type"), error.get("code")) == ("error", code)
        assert fields(answer) == fields(romeo.sent[0])  # what was asked comes back

    run(prosody, scenario, supported=SPEAKS)


def test_negotiations_about_something_else(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        say(romeo, juliet.full, form("http://jabber.org/protocol/si", "form", accept="1"))
        await until(lambda: any(message.get("type") == "error" for message in romeo.came))
        condition = romeo.came[-1].find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}service-unavailable")
        assert condition is not None

    run(prosody, scenario)


def test_nobody_is_there(prosody: PrivateProsody) -> None:
    """The server answers, without a word of what was asked."""

    async def scenario(romeo: Any, juliet: Any) -> None:
        for jid, condition in ((f"nobody@{HOSTS[0]}", "service-unavailable"), ("nobody@nowhere.test", "not-allowed")):
            with pytest.raises(NegotiationFailed) as failed:
                await romeo.ssn.offer(jid, [LANGUAGE])
            assert failed.value.condition == condition
            await romeo.hears("ended")

    run(prosody, scenario, friends=False)


def test_choices_that_were_not_offered(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        juliet.ssn.takers.append(lambda message: True)
        waits = asyncio.ensure_future(romeo.ssn.offer(juliet.full, [LANGUAGE]))
        await until(lambda: bool(romeo.ssn.sessions))
        thread = romeo.ssn.sessions[0].thread
        say(juliet, romeo.full, form("urn:xmpp:ssn", "submit", accept="1", language="de"), thread)
        with pytest.raises(NegotiationFailed) as failed:
            await waits
        assert (failed.value.condition, failed.value.fields) == ("not-acceptable", ("language",))
        await until(lambda: any(message.get("type") == "error" for message in juliet.came))
        await romeo.hears("ended")

    run(prosody, scenario)


def test_somebody_else_can_not_answer(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        tybalt = Talker(prosody, new_account(prosody, "tybalt"))
        async with online(tybalt):
            session, hers = await open_one(romeo, juliet)
            for kind, values in (("submit", {"terminate": "1"}), ("submit", {"continue": "hall"}), ("error", {})):
                say(
                    tybalt,
                    romeo.full,
                    form("urn:xmpp:ssn", "submit" if kind == "error" else kind, **values),
                    hers.thread,
                )
            bounce = tybalt.make_message(romeo.full, mtype="error")
            bounce["id"], bounce["thread"] = romeo.sent[-1].get("id"), hers.thread
            bounce["error"]["condition"] = "service-unavailable"
            bounce.send()
            await tybalt.settled()
            await romeo.settled()
            assert (session.phase, session.peer) == (Phase.ACTIVE, juliet.full)

    run(prosody, scenario, supported=SPEAKS)


BROKEN = {
    "a body": form("urn:xmpp:ssn", "form", accept="1") + "<body xmlns='jabber:client'>hello</body>",
    "two forms": 2 * form("urn:xmpp:ssn", "form", accept="1"),
    "two threads": form("urn:xmpp:ssn", "form", accept="1") + "<thread xmlns='jabber:client'>u</thread>",
    "nothing in it": "<feature xmlns='http://jabber.org/protocol/feature-neg'/>",
    "no decision": form("urn:xmpp:ssn", "form"),
    "an answer to nothing": form("urn:xmpp:ssn", "submit", accept="1"),
    "the end of nothing": form("urn:xmpp:ssn", "submit", terminate="1"),
}


def test_what_can_not_be_read_is_dropped(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        for broken in BROKEN.values():
            say(romeo, juliet.full, broken)
        say(romeo, juliet.full, form("urn:xmpp:ssn", "form", accept="1"), thread="")
        await romeo.settled()
        await juliet.settled()
        assert (juliet.sent, juliet.ssn.sessions) == ([], ())

    run(prosody, scenario)


# -- in a program -----------------------------------------------------------------------------------------------------


def test_others_may_take_a_negotiation(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        taken: list[str] = []
        juliet.ssn.takers.append(lambda message: bool(taken.append(message["thread"])) or True)
        with pytest.raises(NegotiationFailed, match="no answer"):
            await romeo.ssn.offer(juliet.full, wait=0.3)
        await romeo.hears("ended")
        await until(lambda: len(taken) == 2)  # the offer, and that it is cancelled
        assert juliet.sent == []

    run(prosody, scenario)


def test_beside_encrypted_sessions(prosody: PrivateProsody) -> None:
    """Both are negotiated with the same elements: each plugin takes its own."""

    async def scenario() -> None:
        names = ("romeo", HOSTS[1]), ("juliet", HOSTS[0])
        bots = [Bot(prosody, new_account(prosody, *name), plugins=("xep_0116",), answer="everyone") for name in names]
        heard: list[str] = []
        for bot in bots:
            bot.register_plugin("xep_0155", {"answer": "ask"}, module="tillie.networks.xmpp.xep_0155")
            bot.add_event_handler("xep_0155_offer", lambda _: heard.append("offer"))
        async with online(*bots):
            romeo, juliet = bots
            session = await romeo.plugin["xep_0116"].start(juliet.boundjid.full)
            assert (session.active, heard) == (True, [])
            await romeo.plugin["xep_0116"].end(session.thread)
            assert heard == []

            juliet.add_event_handler("xep_0155_offer", juliet.plugin["xep_0155"].accept)
            plain = await romeo.plugin["xep_0155"].offer(
                juliet.boundjid.full, [Field("logging", options=())], wait=SECONDS
            )
            assert (plain.phase, heard) == (Phase.ACTIVE, ["offer"])
            assert [each for each in await juliet.plugin["xep_0116"].sessions.all() if not each.over] == []
            assert romeo.errors == juliet.errors == []

    asyncio.run(scenario())


def test_what_a_program_may_offer(prosody: PrivateProsody) -> None:
    async def scenario(romeo: Any, juliet: Any) -> None:
        with pytest.raises(UsageError):  # nobody has said that the archive can be turned off
            await juliet.ssn.offer(romeo.full, [LOGGING])
        with pytest.raises(UsageError):
            await juliet.ssn.offer(romeo.full, [Field("terminate", values=("1",))])
        info = await romeo.plugin["xep_0030"].get_info(jid=juliet.boundjid)
        assert "urn:xmpp:ssn" in info["disco_info"]["features"]
        juliet.plugin.disable("xep_0155")
        info = await romeo.plugin["xep_0030"].get_info(jid=juliet.boundjid, cached=False)
        assert "urn:xmpp:ssn" not in info["disco_info"]["features"]

    run(prosody, scenario)


def test_options() -> None:
    async def scenario() -> None:
        client = slixmpp.ClientXMPP("romeo@montague.test", "")
        with pytest.raises(UsageError):
            client.register_plugin("xep_0155", {"answer": "never"}, module="tillie.networks.xmpp.xep_0155")

    asyncio.run(scenario())
