"""Two go-sendxmpp talk to each other: the peer itself works, before anything is said about us."""

from __future__ import annotations

import asyncio

import pytest

from support import gosendxmpp
from support.gnupg import GnuPG, gnupg
from support.gosendxmpp import GoSendXmpp, GoSendXmppError
from support.prosody import HOSTS, new_account, prosody
from tillie.demo.prosody import PrivateProsody

__all__ = ["gnupg", "prosody"]

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(bool(gosendxmpp.unavailable()), reason=gosendxmpp.unavailable() or "available"),
]


def test_two_of_them_exchange_a_message(prosody: PrivateProsody) -> None:
    async def talk() -> None:
        with (
            GoSendXmpp(prosody, new_account(prosody, "juliet")) as juliet,
            GoSendXmpp(prosody, new_account(prosody, "romeo", HOSTS[1])) as romeo,
        ):
            await juliet.generate()
            await romeo.generate()
            async with romeo.listen() as heard:
                await juliet.send(romeo.jid, "wherefore art thou")
                assert (await heard.line()).endswith(f"[OX] {juliet.jid}: wherefore art thou")
            await juliet.send(romeo.jid, "it waits on the server")
            async with romeo.listen() as heard:
                assert (await heard.line()).endswith(f"[OX] {juliet.jid}: it waits on the server")

    asyncio.run(talk())


def test_it_refuses_to_send_to_somebody_without_a_key(prosody: PrivateProsody) -> None:
    async def talk() -> None:
        with GoSendXmpp(prosody, new_account(prosody, "juliet")) as juliet:
            await juliet.generate()
            with pytest.raises(GoSendXmppError):
                await juliet.send(new_account(prosody, "romeo"), "nobody can read this")

    asyncio.run(talk())


def test_it_takes_a_key_of_gnupg(prosody: PrivateProsody, gnupg: GnuPG) -> None:
    async def talk() -> None:
        with (
            GoSendXmpp(prosody, new_account(prosody, "juliet")) as juliet,
            GoSendXmpp(prosody, new_account(prosody, "romeo", HOSTS[1])) as romeo,
        ):
            fingerprint = gnupg.generate(f"xmpp:{juliet.jid}", juliet.passphrase)
            await juliet.take(gnupg.export_secret(fingerprint, juliet.passphrase))
            await romeo.generate()
            await romeo.send(juliet.jid, "sealed for that key")
            async with juliet.listen() as heard:
                assert (await heard.line()).endswith(f"[OX] {romeo.jid}: sealed for that key")

    asyncio.run(talk())
