"""OpenPGP in slixmpp programs on a real Prosody: xep_0373 and xep_0374 alone, and beside OMEMO on one store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.prosody import HOSTS, new_account, prosody
from support.xmpp import Bot, online, until
from tillie.demo.prosody import PrivateProsody
from tillie.errors import NoRecipients, PeerError, UsageError
from tillie.model import Address
from tillie.networks.xmpp.core import OPTIONS
from tillie.schemes.openpgp import Form
from tillie.store import MemoryStore

__all__ = ["prosody"]

OX, BOTH = ("xep_0374",), ("xep_0384", "xep_0374")
NOTE = b"<note xmlns='urn:example'>soft!</note>"


def couple(server: PrivateProsody) -> tuple[str, str]:
    return new_account(server, "juliet"), new_account(server, "romeo", HOSTS[1])


async def announced(*bots: Bot) -> None:
    """Their keys are on the server."""
    for bot in bots:
        await until(lambda bot=bot: bot.store.outbox() == [])


async def features(asker: Bot, asked: Bot) -> set[str]:
    return set((await asker.plugin["xep_0030"].get_info(asked.boundjid))["disco_info"]["features"])


def test_messages_both_ways_with_openpgp_alone(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        a, b = (Bot(prosody, jid, plugins=OX, generate=True) for jid in (juliet, romeo))
        seen: list[Any] = []
        a.add_filter("out", lambda stanza: seen.append(str(stanza)) or stanza)
        async with online(a, b):
            await announced(a, b)
            report = await a.say(romeo, "wherefore")
            assert [device.sealed for device in report.report] == [True]
            stanza = await b.read_stanza()
            assert (stanza["body"], stanza["from"].bare, stanza.delivery.scheme) == ("wherefore", juliet, "openpgp")
            assert stanza.delivery.is_trusted
            await b.say(juliet, "therefore")
            assert await a.read() == "therefore"
            outside = next(text for text in seen if "<openpgp xmlns" in text)
            assert "wherefore" not in outside
            assert "urn:xmpp:eme:0" in outside
            assert "<body>This message is sealed with OpenPGP" in outside
            assert await features(a, b) >= {"urn:xmpp:openpgp:im:0", "urn:xmpp:openpgp:0:public-keys+notify"}
            assert a.plugin.get("xep_0384", None) is None
            await a.nothing_more()
            await b.nothing_more()

    asyncio.run(scenario())
    assert not any(b"herefore" in file.read_bytes() for file in prosody.data_folder.rglob("*") if file.is_file())


def test_without_instant_messaging_messages_are_opened_all_the_same(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        a = Bot(prosody, juliet, plugins=OX, generate=True)
        b = Bot(prosody, romeo, plugins=("xep_0373",), generate=True)
        async with online(a, b):
            await announced(a, b)
            await a.say(romeo, "soft!")
            assert await b.read() == "soft!"
            assert "urn:xmpp:openpgp:im:0" not in await features(a, b)

    asyncio.run(scenario())


def test_both_schemes_share_one_engine_and_one_store(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        a, b = Bot(prosody, juliet, plugins=BOTH), Bot(prosody, romeo, plugins=BOTH)
        a2, b2 = (Bot(prosody, bot.boundjid.bare, plugins=BOTH, store=bot.store) for bot in (a, b))
        async with online(a, b):
            for bot in (a, b):
                await bot.plugin["xep_0373"].generate_key()
                assert list(bot.core.engine.schemes) == ["omemo", "openpgp"]
                assert bot.plugin["xep_0384"].engine is bot.plugin["xep_0374"].core.engine
            await announced(a, b)
            for number in range(2):
                for plugin, scheme in (("xep_0384", "omemo"), ("xep_0374", "openpgp")):
                    await a.plugin[plugin].send_sealed(a.make_message(romeo, f"{scheme} {number}", mtype="chat"))
                    stanza = await b.read_stanza()
                    assert (stanza["body"], stanza.delivery.scheme) == (f"{scheme} {number}", scheme)
        async with online(a2):
            await a2.plugin["xep_0374"].send_sealed(a2.make_message(romeo, "while you were away", mtype="chat"))
            await a2.settled()
            async with online(b2):
                assert await b2.read() == "while you were away"
                await b2.nothing_more()

    asyncio.run(scenario())


def test_the_first_plugin_sets_what_all_share(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, _ = couple(prosody)
        store = MemoryStore(Address(juliet))
        bot = Bot(prosody, juliet, store=store, history=True, label="bot")
        for name, config in (("xep_0374", {"history": True}), ("xep_0373", {"store": store})):
            bot.register_plugin(name, config, module=f"tillie.networks.xmpp.{name}")
        assert bot.plugin["xep_0374"].core is bot.core
        other = Bot(prosody, juliet, store=store)
        with pytest.raises(UsageError, match="policy"):
            other.register_plugin("xep_0374", {"policy": "manual"}, module="tillie.networks.xmpp.xep_0374")
        assert bot.core.config == {**OPTIONS, "store": store, "history": True}

    asyncio.run(scenario())


def test_a_plugin_may_leave_and_the_other_goes_on(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        a, b = Bot(prosody, juliet, plugins=BOTH, generate=True), Bot(prosody, romeo, plugins=BOTH, generate=True)
        async with online(a, b):
            await announced(a, b)
            b.plugin.disable("xep_0374")
            b.plugin.disable("xep_0373")
            await a.plugin["xep_0374"].send_sealed(a.make_message(romeo, "not read", mtype="chat"))
            await a.say(romeo, "read")
            assert await b.read() == "read"
            await b.nothing_more()
            b.plugin.disable("xep_0384")
            assert not b.plugin.enabled("tillie")

    asyncio.run(scenario())


def test_what_another_program_opened_and_did_not_read_stays_in_the_inbox(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        a = Bot(prosody, juliet, plugins=OX, generate=True)
        b = Bot(prosody, romeo, plugins=OX, generate=True, auto_acknowledge=False)
        async with online(a, b):
            await announced(a, b)
            await a.say(romeo, "one")
            assert await b.read() == "one"
        only_omemo = Bot(prosody, romeo, store=b.store)
        async with online(only_omemo):
            await only_omemo.nothing_more()
        again = Bot(prosody, romeo, plugins=OX, store=b.store)
        async with online(again):
            assert await again.read() == "one"
            await until(lambda: b.store.inbox() == [])

    asyncio.run(scenario())


def test_keys_are_made_once_backed_up_restored_and_revoked(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        phone, b = Bot(prosody, juliet, plugins=OX), Bot(prosody, romeo, plugins=OX, generate=True)
        laptop = Bot(prosody, juliet, plugins=OX, generate=True)
        async with online(phone, b):
            keys = phone.plugin["xep_0373"]
            with pytest.raises(NoRecipients):
                await b.say(juliet, "too early")
            made = await keys.generate_key()
            await announced(phone)
            with pytest.raises(UsageError, match="here"):
                await keys.generate_key()
            with pytest.raises(UsageError, match="no backup"):
                await keys.restore_keys("TWNK-KD5Y-MT3T-E1GS-DRDB-KVTW")
            code = await keys.back_up_keys()
            async with online(laptop):
                other = laptop.plugin["xep_0373"]
                with pytest.raises(UsageError, match="another device"):
                    await other.generate_key()
                with pytest.raises(UsageError):
                    await other.restore_keys("TWNK-KD5Y-MT3T-E1GS-DRDB-KVTW")
                assert await other.restore_keys(code.lower()) == (made,)
                shown = await b.plugin["xep_0373"].keys_of(juliet)
                assert [(key.fingerprint, key.why) for key in shown] == [(made.key, "")]
                await b.say(juliet, "to both")
                assert [await phone.read(), await laptop.read()] == ["to both", "to both"]
                await phone.settled()
                await phone.say(romeo, "and to my laptop")
                assert await b.read() == "and to my laptop"
                copy = await laptop.read_stanza()
                assert (copy["body"], copy.delivery.via) == ("and to my laptop", "carbon")
            await keys.revoke_key(made.key)
            await announced(phone)
            shown = await b.plugin["xep_0373"].keys_of(juliet)
            assert all(key.revoked for key in shown)
            with pytest.raises(NoRecipients):
                await b.say(juliet, "too late")

    asyncio.run(scenario())


def test_a_key_leaves_the_list_and_comes_back(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        a, b = (Bot(prosody, jid, plugins=OX, generate=True) for jid in (juliet, romeo))
        async with online(a, b):
            await announced(a, b)
            keys = a.plugin["xep_0373"]
            (mine,) = await keys.keys_of(juliet)
            assert mine.held
            assert mine.active
            await keys.retract_key(mine.fingerprint)
            await announced(a)
            assert await b.plugin["xep_0373"].keys_of(juliet) == []
            await keys.announce_key(mine.fingerprint)
            await announced(a)
            assert [key.fingerprint for key in await b.plugin["xep_0373"].keys_of(juliet)] == [mine.fingerprint]

    asyncio.run(scenario())


@pytest.mark.parametrize("form", Form)
def test_content_elements_of_any_form(prosody: PrivateProsody, form: Form) -> None:
    async def scenario() -> None:
        juliet, romeo = couple(prosody)
        a, b = (Bot(prosody, jid, plugins=("xep_0373",), generate=True) for jid in (juliet, romeo))
        arrived: asyncio.Queue[Any] = asyncio.Queue()
        b.add_event_handler("presence_subscribe", arrived.put_nowait)
        async with online(a, b):
            await announced(a, b)
            sealed = await a.plugin["xep_0373"].seal_content(romeo, NOTE, form)
            a.send_raw(f"<presence type='subscribe' to='{romeo}'>{sealed.element.decode()}</presence>")
            stanza = await asyncio.wait_for(arrived.get(), 15)
            opened = await b.plugin["xep_0373"].open_content(stanza)
            assert opened.form is form
            assert b"soft!" in opened.envelope.content.data
            assert (opened.device is None) == (form is Form.CRYPT)
            other = b.make_presence(pfrom=f"tybalt@{HOSTS[0]}", pto=romeo)
            other.xml.append(stanza.xml.find("{urn:xmpp:openpgp:0}openpgp"))
            if form is not Form.CRYPT:  # nobody vouches for its sender
                with pytest.raises(PeerError):
                    await b.plugin["xep_0373"].open_content(other)

    asyncio.run(scenario())
