"""OpenPGP messages (XEP-0374) with go-sendxmpp, both ways, over Prosody. It has one key, and trusts the newest one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from support import gosendxmpp
from support.gosendxmpp import GoSendXmpp, GoSendXmppError
from support.prosody import HOSTS, new_account, prosody
from support.residents import Resident, at_home
from tillie.client import text_of
from tillie.demo.prosody import PrivateProsody
from tillie.errors import NotTrusted
from tillie.model import Decided, Device, Done, Trust

__all__ = ["prosody"]

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(bool(gosendxmpp.unavailable()), reason=gosendxmpp.unavailable() or "available"),
]

Scenario = Callable[[Resident, GoSendXmpp], Awaitable[None]]


def play(server: PrivateProsody, scenario: Scenario) -> None:
    """Juliet uses Tillie, Romeo, on another host, go-sendxmpp; each has announced a key."""

    async def run() -> None:
        juliet = Resident(server, new_account(server, "juliet"))
        with GoSendXmpp(server, new_account(server, "romeo", HOSTS[1])) as romeo:
            async with at_home(juliet):
                await juliet.make_key()
                await romeo.generate()
                await scenario(juliet, romeo)

    asyncio.run(run())


def test_messages_pass_both_ways(prosody: PrivateProsody) -> None:
    async def scenario(juliet: Resident, romeo: GoSendXmpp) -> None:
        texts = ["wherefore art thou", "\u201cRomeo\u201d <&> l'été \U0001f339", "x" * 5_000]
        async with romeo.listen() as heard:
            for text in texts:
                assert await juliet.say(romeo.jid, text) == [True]
                assert (await heard.line()).endswith(f"[OX] {juliet.address}: {text}")
        for text in texts:
            await romeo.send(juliet.address, text)
            delivery = await juliet.heard()
            assert (delivery.kind, delivery.scheme, delivery.address) == ("opened", "openpgp", romeo.jid)
            assert text_of(delivery.content).rstrip("\n") == text
            assert delivery.is_trusted
            assert delivery.notes == ()

    play(prosody, scenario)


def test_what_waits_on_the_server(prosody: PrivateProsody) -> None:
    async def scenario(juliet: Resident, romeo: GoSendXmpp) -> None:
        await juliet.say(romeo.jid, "it waits for him")
        async with romeo.listen() as heard:
            assert (await heard.line()).endswith(": it waits for him")
        await juliet.leave()
        await romeo.send(juliet.address, "it waits for her")
        await juliet.arrive()
        delivery = await juliet.heard()
        assert text_of(delivery.content).rstrip("\n") == "it waits for her"
        assert delivery.kind == "opened"

    play(prosody, scenario)


def test_a_new_key_of_his_waits_for_a_decision(prosody: PrivateProsody) -> None:
    """He announces one key, and forgets the one before. A server could have put it there."""

    async def scenario(juliet: Resident, romeo: GoSendXmpp) -> None:
        assert await juliet.say(romeo.jid, "for the first key") == [True]
        await romeo.generate()
        await juliet.learn_keys(romeo.jid)
        with pytest.raises(NotTrusted) as refusal:
            await juliet.say(romeo.jid, "for nobody yet")
        (device,) = refusal.value.devices
        assert isinstance(device, Device)
        await juliet.engine.learn(Decided(device.address, device.key, Trust.VERIFIED))
        async with romeo.listen() as heard:
            await juliet.say(romeo.jid, "for the second key")
            while not (line := await heard.line()).endswith(": for the second key"):
                assert "for nobody yet" not in line

    play(prosody, scenario)


def test_he_seals_nothing_for_a_key_that_we_revoked(prosody: PrivateProsody) -> None:
    async def scenario(juliet: Resident, romeo: GoSendXmpp) -> None:
        (key,) = await juliet.engine.drive(lambda s: Done(juliet.openpgp.own_keys(s)))
        await juliet.engine.drive(lambda s: juliet.openpgp.revoke(s, key.fingerprint, juliet.engine.now()))
        await juliet.sent()
        with pytest.raises(GoSendXmppError):
            await romeo.send(juliet.address, "for nobody")
        await juliet.make_key()
        await romeo.send(juliet.address, "for the new key")
        assert text_of((await juliet.heard()).content).rstrip("\n") == "for the new key"

    play(prosody, scenario)


def test_a_key_of_ours_in_his_hands(prosody: PrivateProsody) -> None:
    """The same account with both programs: it opens what Romeo seals for our key, ours opens what it sent."""

    async def scenario(juliet: Resident, romeo: GoSendXmpp) -> None:
        (key,) = await juliet.engine.drive(lambda s: Done(juliet.openpgp.own_keys(s)))
        with GoSendXmpp(prosody, juliet.address, passphrase="") as other:
            await other.take(key.data)
            await romeo.send(juliet.address, "for one key in two programs")
            assert text_of((await juliet.heard()).content).rstrip("\n") == "for one key in two programs"
            async with romeo.listen() as heard:
                await other.send(romeo.jid, "by our key")
                assert (await heard.line()).endswith(f"[OX] {juliet.address}: by our key")
            copy = await juliet.heard()
            assert (text_of(copy.content).rstrip("\n"), copy.via) == ("by our key", "carbon")

    play(prosody, scenario)
