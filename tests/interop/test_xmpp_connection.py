"""The connection that `client` uses: all schemes and a pubsub service on one login."""

from __future__ import annotations

import asyncio

from support.prosody import PASSWORD, new_account, prosody
from tillie.demo.prosody import PrivateProsody
from tillie.model import Address
from tillie.networks import Options
from tillie.networks.xmpp import xep_0116
from tillie.networks.xmpp.connection import Login, connect
from tillie.pubsub.items import Item, Node
from tillie.store import MemoryStore

__all__ = ["prosody"]


def test_omemo_first_then_openpgp_sessions_and_pubsub(prosody: PrivateProsody) -> None:
    async def scenario() -> None:
        juliet = Address(new_account(prosody, "juliet"))
        login = Login(juliet, PASSWORD, f"127.0.0.1:{prosody.port}", False, str(prosody.ca_file))
        connection = await connect(login, MemoryStore(juliet), Options(label="phone", history=True))
        try:
            engine, service = connection.engine, connection.service
            assert list(engine.schemes) == ["omemo", "openpgp", "esession"]
            assert engine.scheme.name == "omemo"
            assert engine.history
            assert await connection.caught_up(10)
            node = Node(juliet, "blog")
            await service.create(node, {"pubsub#access_model": "whitelist"})
            await service.publish(node, Item("1", b"<entry xmlns='urn:example'/>"))
            assert [[item.id for item in page] async for page in service.items(node)] == [["1"]]
            told = connection._client.plugin["xep_0030"].get_info(connection._client.boundjid, local=True)
            assert set((await told)["features"]) >= {
                "urn:xmpp:openpgp:im:0", "urn:xmpp:openpgp:pubsub:0", "urn:xmpp:pubsub-signing:0",
                "urn:xmpp:pubsub-signing:openpgp:0", "urn:xmpp:pte:0", xep_0116.FEATURE,
            }  # fmt: skip
        finally:
            await connection.close()

    asyncio.run(scenario())
