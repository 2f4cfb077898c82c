"""The examples in docs/xmpp.md run, and the bot is ten lines."""

from __future__ import annotations

import asyncio
import re
import xml.etree.ElementTree as ET
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import slixmpp

from support.prosody import HOSTS, PASSWORD, new_account, prosody
from support.xmpp import Bot, online, until
from tillie.demo.prosody import PrivateProsody
from tillie.model import Address
from tillie.networks.xmpp import core
from tillie.pubsub.checking import Verdict
from tillie.store import MemoryStore

__all__ = ["prosody"]

DOCS = Path(__file__).parents[2] / "docs" / "xmpp.md"


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)


def names() -> dict[str, Any]:
    """What the examples define."""
    defined: dict[str, Any] = {"slixmpp": slixmpp}
    for example in examples():
        exec(example, defined)
    return defined


def test_the_bot_has_ten_lines() -> None:
    assert len([line for line in examples()[0].splitlines() if line.strip()]) <= 10


def test_it_answers_and_goes_on_after_a_restart(prosody: PrivateProsody, tmp_path: Path) -> None:
    bot_class = names()["EchoBot"]
    juliet, echo = new_account(prosody, "juliet"), new_account(prosody, "echo", HOSTS[1])

    async def run_bot() -> Any:
        bot = bot_class(echo, PASSWORD, str(tmp_path / "store"), bytes(32), ssl_context=prosody.ssl_context())
        bot.enable_direct_tls = False
        caught_up = asyncio.ensure_future(bot.wait_until("omemo_caught_up", 15))
        bot.connect("127.0.0.1", prosody.port)
        await caught_up
        return bot

    async def stop(bot: Any) -> None:
        await bot.disconnect(1.0)
        bot._run_out_filters.cancel()
        await bot.plugin["xep_0384"].close()

    async def scenario() -> None:
        a = Bot(prosody, juliet)
        bot = await run_bot()
        async with online(a):
            await a.say(echo, "hello")
            assert await a.read() == "hello"
            await stop(bot)
            await a.say(echo, "are you there?")
            bot = await run_bot()
            assert await a.read() == "are you there?"
            await a.nothing_more()
            await stop(bot)

    asyncio.run(scenario())


def test_keys_and_letters(prosody: PrivateProsody) -> None:
    defined = names()

    async def scenario() -> None:
        juliet, romeo = new_account(prosody, "juliet"), new_account(prosody, "romeo", HOSTS[1])
        a = Bot(prosody, juliet, plugins=("xep_0374",))
        config = {"store": MemoryStore(Address(romeo))}
        letters = defined["Letters"](romeo, PASSWORD, config, ssl_context=prosody.ssl_context())
        letters.enable_direct_tls = False
        async with online(a):
            device, code = await defined["set_up_keys"](a)
            assert device.address == juliet
            assert len(code.replace("-", "")) == 24
            ready = asyncio.ensure_future(letters.wait_until("openpgp_caught_up", 15))
            letters.connect("127.0.0.1", prosody.port)
            await ready
            await until(lambda: config["store"].outbox() == [] and a.store.outbox() == [])
            await a.say(romeo, "hello")
            assert await a.read() == "Thank you."
            await letters.disconnect(1.0)
            letters._run_out_filters.cancel()
            await letters.plugin["xep_0374"].close()

    asyncio.run(scenario())


def test_a_blog(prosody: PrivateProsody) -> None:
    defined = names()
    entry = ET.fromstring("<entry xmlns='http://www.w3.org/2005/Atom'><title>soft!</title></entry>")
    plugins = ("xep_0473", "xep_0475", "xep_0477", "xep_0470")

    async def scenario() -> None:
        juliet, romeo = new_account(prosody, "juliet"), new_account(prosody, "romeo", HOSTS[1])
        a, b = (Bot(prosody, jid, plugins=plugins, generate=True) for jid in (juliet, romeo))
        async with online(a, b):
            await until(lambda: a.store.outbox() == [] and b.store.outbox() == [])
            came = asyncio.ensure_future(b.wait_until("pubsub_secrets", 15))
            blog = await defined["begin_blog"](a, entry, romeo)
            await came
            (payload,) = await defined["read_blog"](b, blog)
            assert b"soft!" in payload
            (reading,) = [reading async for reading in b.plugin["xep_0473"].items(blog.service, blog.name)]
            signed = await defined["sign_and_check"](a, b, blog, reading.item.id)
            assert signed == [(juliet, Verdict.VALID_TRUSTED)]
            attached = await defined["like"](b, blog, reading.item.id)
            assert {(one.author, one.sealed) for one in attached} == {(juliet, True), (romeo, True)}
            (report,) = await defined["whisper"](a, blog, entry, romeo)
            assert (report.device.address, report.sealed) == (romeo, True)
            assert len(await defined["read_blog"](b, blog)) == 2

    asyncio.run(scenario())


def test_a_visit_in_a_session(prosody: PrivateProsody, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        juliet, romeo = new_account(prosody, "juliet"), new_account(prosody, "romeo", HOSTS[1])
        a, b = (Bot(prosody, jid, plugins=("xep_0116",), answer="everyone") for jid in (juliet, romeo))
        for bot in (a, b):
            bot.register_plugin("xep_0092", {"software_name": "Balcony"})
        async with online(a, b):
            ended = asyncio.ensure_future(b.wait_until("esession_ended", 15))
            version = await names()["visit"](a, romeo)
            assert version["software_version"]["name"] == "Balcony"
            assert (await b.read()) == "wherefore"
            assert f"Do you both see {(await ended).string} ?" in capsys.readouterr().out

    asyncio.run(scenario())


def test_a_conversation_is_agreed_on_first(prosody: PrivateProsody) -> None:
    talk = names()["talk_in_italian"]

    class Talker(slixmpp.ClientXMPP):
        def __init__(self, jid: str, languages: tuple[str, ...]) -> None:
            super().__init__(jid, PASSWORD, ssl_context=prosody.ssl_context())
            self.enable_direct_tls = False
            options = {"supported": {"language": languages}, "answer": "ask", "wait": 15.0}
            self.register_plugin("xep_0155", options, module="tillie.networks.xmpp.xep_0155")
            self.add_event_handler("xep_0155_offer", self.plugin["xep_0155"].accept)

        async def start(self) -> None:
            started = asyncio.ensure_future(self.wait_until("session_start", 15))
            self.connect("127.0.0.1", prosody.port)
            await started
            self.send_presence()

        async def stop(self) -> None:
            await self.disconnect(1.0)
            self._run_out_filters.cancel()

    async def scenario() -> None:
        a = Talker(new_account(prosody, "juliet"), ())
        people = [Talker(new_account(prosody, "romeo", HOSTS[1]), speaks) for speaks in (("it", "en"), ("en",))]
        for each in (a, *people):
            await each.start()
        said = asyncio.ensure_future(people[0].wait_until("message", 15))
        italian = await talk(a, people[0].boundjid.full)
        assert (await said)["thread"] == italian.thread
        assert (italian.phase.value, (await talk(a, people[1].boundjid.full)).phase.value) == ("active", "ended")
        for each in (a, *people):
            await each.stop()

    asyncio.run(scenario())


PLUGINS = (
    *(f"xep_{number:04}" for number in (116, 155, 200, 373, 374, 380, 384, 420, 470, 473, 475, 476, 477)),
    core.NAME,
)


@pytest.mark.parametrize("name", PLUGINS)
def test_every_plugin_and_its_options_are_documented(name: str) -> None:
    text = DOCS.read_text("utf-8")
    module = "core" if name == core.NAME else name
    plugin = getattr(import_module(f"tillie.networks.xmpp.{module}"), "Core" if name == core.NAME else name.upper())
    assert f"`{name}`" in text
    for option in plugin.default_config:
        assert f"| `{option}` |" in text
    for feature in getattr(plugin, "features", ()):
        assert f"`{feature}`" in text


@pytest.mark.parametrize("number", [116, 155, 200, 373, 374, 384, 470, 473, 475, 476, 477])
def test_every_method_is_documented(number: int) -> None:
    text = DOCS.read_text("utf-8")
    plugin = getattr(import_module(f"tillie.networks.xmpp.xep_{number:04}"), f"XEP_{number:04}")
    methods = [name for name, value in vars(plugin).items() if callable(value) and not name.startswith("_")]
    for method in set(methods) - {"plugin_init", "plugin_end", "session_bind", "encrypt_iq"}:
        assert f"`{method}" in text, method
