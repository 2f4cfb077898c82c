"""The bot in docs/xmpp.md is ten lines, and it answers."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import slixmpp

from support.prosody import HOSTS, PASSWORD, new_account, prosody
from support.xmpp import Bot, online
from tillie.demo.prosody import PrivateProsody
from tillie.networks.xmpp import xep_0384

__all__ = ["prosody"]

DOCS = Path(__file__).parents[2] / "docs" / "xmpp.md"


def code() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    return str(block)


def test_it_has_ten_lines() -> None:
    assert len([line for line in code().splitlines() if line.strip()]) <= 10


def test_it_answers_and_goes_on_after_a_restart(prosody: PrivateProsody, tmp_path: Path) -> None:
    names: dict[str, Any] = {"slixmpp": slixmpp}
    exec(code(), names)
    juliet, echo = new_account(prosody, "juliet"), new_account(prosody, "echo", HOSTS[1])

    async def run_bot() -> Any:
        bot = names["EchoBot"](echo, PASSWORD, str(tmp_path / "store"), bytes(32), ssl_context=prosody.ssl_context())
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


def test_every_option_is_documented() -> None:
    text = DOCS.read_text("utf-8")
    for option in xep_0384.XEP_0384.default_config:
        assert f"| `{option}` |" in text
