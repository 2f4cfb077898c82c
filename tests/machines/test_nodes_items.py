"""Items: never in clear by mistake, read in their order, slow ones in worker processes, watched, for a few people."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest

from support.people import BLOG, JULIET, NURSE, ROMEO, House, Person, at_home, entry, texts, until
from tillie.crypto import password
from tillie.errors import Malformed, Rejected, TooLarge, Undecryptable, UsageError
from tillie.model import Address, State
from tillie.nodes import worker
from tillie.nodes.workers import Workers
from tillie.pubsub import sealing, secrets
from tillie.pubsub.items import Item, ItemKind, Node
from tillie.pubsub.members import Role
from tillie.pubsub.secrets import Secret
from tillie.wire import base64, xml

SECRET = b"meet me at the friar's cell"


async def alone(house: House, **options: Any) -> Person:
    juliet = await house.person(JULIET)
    await juliet.nodes.create(BLOG, **options)
    return juliet


# -- never in clear ---------------------------------------------------------------------------------------------------


async def revoke_all(juliet: Person) -> None:
    def step(s: State) -> None:
        for secret in secrets.secrets(s, BLOG):
            secrets.revoke(s, BLOG, JULIET, secret.id, juliet.engine.now())

    await juliet.nodes._ground.write(step)


@pytest.mark.parametrize("payload", [SECRET, b"<a xmlns='u'>" + SECRET + b"</b>", b"<a xmlns='u'/><a xmlns='u'/>", b""])
def test_what_is_no_element_is_not_published(payload: bytes) -> None:
    async def scenario(house: House) -> None:
        juliet = await alone(house)
        with pytest.raises(UsageError):
            await juliet.nodes.publish(BLOG, payload, encrypt=True)
        assert house.pubsub.seen == []

    at_home(scenario)


def test_what_is_to_be_sealed_is_sealed_or_not_published() -> None:
    async def scenario(house: House) -> None:
        juliet = await alone(house)
        await house.person(ROMEO, key=False)
        payload = entry(SECRET.decode().replace("'", ""))

        async def refused(error: type[Exception], node: Node = BLOG, data: bytes = payload, **how: Any) -> None:
            with pytest.raises(error):
                await juliet.nodes.publish(node, data, **how)
            assert house.pubsub.seen == []

        await refused(UsageError, Node(JULIET, "unheard-of"), encrypt=True)  # no secret
        await refused(UsageError, encrypt=False, encrypt_for=(ROMEO,))  # both at once
        await refused(UsageError, encrypt_for=(Address("nobody@nowhere.test"),))  # no device
        await refused(TooLarge, data=entry("a" * sealing.MAX_PAYLOAD))
        await refused(UsageError, data=b"<encrypted xmlns='urn:xmpp:openpgp:pubsub:0' key='k'>QQ==</encrypted>")
        await revoke_all(juliet)
        await refused(UsageError)
        await refused(UsageError, encrypt=True)
        assert BLOG in house.pubsub.nodes
        assert Node(JULIET, "unheard-of") not in house.pubsub.nodes

    at_home(scenario)


def test_a_fault_while_sealing_publishes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        juliet = await alone(house)

        def breaks(*_: object, **__: object) -> bytes:
            raise RuntimeError("a fault in the library")

        with monkeypatch.context() as patched:
            patched.setattr(password, "seal", breaks)
            for how in ({}, {"encrypt": True}, {"sign": True}):
                with pytest.raises(RuntimeError):
                    await juliet.nodes.publish(BLOG, entry("x"), **how)
        assert house.pubsub.seen == []

    at_home(scenario)


def test_in_clear_only_if_it_is_said() -> None:
    async def scenario(house: House) -> None:
        juliet = await alone(house)
        assert not (await juliet.nodes.publish(BLOG, entry("sealed"))).in_clear
        published = await juliet.nodes.publish(BLOG, entry("open"), encrypt=False)
        assert published.in_clear
        assert [reading.kind for reading in await juliet.read(BLOG)] == [ItemKind.CLEAR, ItemKind.OPENED]

    at_home(scenario)


def test_a_node_that_somebody_opened_takes_nothing() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse = await alone(house), await house.person(NURSE)
        await juliet.nodes.share(BLOG, NURSE, role=Role.PUBLISHER)
        await house.heard()
        house.pubsub.nodes[BLOG].options["pubsub#access_model"] = "open"
        for person in (juliet, nurse):
            with pytest.raises(Rejected, match="somebody may have opened it"):
                await person.nodes.publish(BLOG, entry("x"))
        assert house.pubsub.seen == []
        await nurse.nodes.publish(BLOG, entry("sealed, and she knows"), access="")
        await juliet.nodes.configure(BLOG, {"pubsub#access_model": "open"})  # now it is Juliet's own wish
        await juliet.nodes.publish(BLOG, entry("sealed"))

    at_home(scenario)


def test_ids_say_nothing_unless_the_person_says_so() -> None:
    async def scenario(house: House) -> None:
        juliet = await alone(house)
        first, second = [await juliet.nodes.publish(BLOG, entry("the same")) for _ in range(2)]
        assert first.id != second.id
        assert len(first.id) >= 20
        assert (await juliet.nodes.publish(BLOG, entry("mine"), "my-id")).id == "my-id"

    at_home(scenario)


# -- reading ----------------------------------------------------------------------------------------------------------


async def slow_item(juliet: Person, text: str) -> bytes:
    """An item as others write it: the secret is stretched, though it is random."""
    secret: Secret = (await juliet.nodes.secrets(BLOG))[0]
    message = password.seal(entry(text), secret.value, stretch=True)
    return f"<encrypted xmlns='{sealing.NS}' key='{secret.id}'>{base64.encode(message)}</encrypted>".encode()


def test_slow_items_are_opened_in_workers_and_kept_in_their_order() -> None:
    async def scenario(house: House) -> None:
        juliet = await alone(house)
        node = house.pubsub.nodes[BLOG]
        for number in range(6):
            if number % 2:
                await juliet.nodes.publish(BLOG, entry(f"{number}"), f"{number}")
            else:
                node.items[f"{number}"] = Item(f"{number}", await slow_item(juliet, f"{number}"), JULIET)
        counted: list[int] = []
        workers = juliet.nodes._ground.workers
        assert workers.started == 0
        readings = await juliet.read(BLOG, progress=lambda _, done, total: counted.append(done))
        assert texts(readings) == ["5", "4", "3", "2", "1", "0"]
        assert counted == [1, 2, 3, 4, 5, 6]
        assert 1 <= workers.started <= 2
        await juliet.nodes.close()
        assert workers.started == 0
        assert texts(await juliet.read(BLOG)) == ["5", "4", "3", "2", "1", "0"]
        assert workers.started == 0  # what was opened slowly was kept

    at_home(scenario)


def test_a_killed_worker_costs_no_item() -> None:
    async def scenario(house: House) -> None:
        juliet = await alone(house)
        workers = juliet.nodes._ground.workers
        message = password.seal(b"opened", "a word", stretch=True)
        assert await workers.open(message, "a word", max_bytes=100) == b"opened"
        (process,) = workers._all
        os.kill(process.pid, signal.SIGKILL)
        assert await workers.open(message, "a word", max_bytes=100) == b"opened"

    at_home(scenario)


def test_cancelled_work_ends() -> None:
    async def scenario() -> None:
        workers = Workers(1)
        message = password.seal(b"opened", "a word", stretch=True)
        first, second = (asyncio.create_task(workers.open(message, "a word", max_bytes=9)) for _ in range(2))
        await until(lambda: workers.started)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == b"opened"  # by another process: the first one's is ended
        assert workers.started == 1
        await workers.close()
        await workers.close()
        assert workers.started == 0

    asyncio.run(scenario())


def test_without_an_interpreter_to_start_items_open_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")

    async def scenario() -> None:
        workers = Workers(1)
        assert await workers.open(password.seal(b"opened", "word", stretch=True), "word", max_bytes=9) == b"opened"
        assert workers.started == 0

    asyncio.run(scenario())


def test_a_worker_says_what_went_wrong() -> None:
    async def scenario() -> None:
        workers = Workers(1)
        message = password.seal(b"too long for that", "a word", stretch=False)
        with pytest.raises(Undecryptable):
            await workers.open(message, "another", max_bytes=100)
        with pytest.raises(Malformed):
            await workers.open(message, "a word", max_bytes=4)
        with pytest.raises(Malformed):
            await workers.open(b"nothing of the kind", "a word", max_bytes=100)
        assert await workers.open(message, "a word", max_bytes=100) == b"too long for that"
        assert workers.started == 1
        await workers.close()

    asyncio.run(scenario())


def test_the_protocol_of_a_worker() -> None:
    message = password.seal(b"opened", "p", stretch=False)
    requests = io.BytesIO(worker.REQUEST.pack(len(message), 1, 100) + message + b"p")
    answers = io.BytesIO()
    worker.serve(requests, answers)
    assert answers.getvalue() == worker.ANSWER.pack(worker.OPENED, 6) + b"opened"


class Endless:
    """A service whose node never ends, and that counts the pages that were taken."""

    def __init__(self, service: Any, page: Callable[[int], list[Item]]) -> None:
        self._service, self._page = service, page
        self.pages = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    async def items(
        self, node: Node, *, ids: Iterable[str] = (), limit: int | None = None
    ) -> AsyncIterator[list[Item]]:
        while True:
            self.pages += 1
            yield self._page(self.pages)


def test_pages_are_fetched_as_they_are_read() -> None:
    async def scenario(house: House) -> None:
        juliet = await alone(house)
        await juliet.nodes.publish(BLOG, entry("again and again"))
        (item,) = house.pubsub.nodes[BLOG].items.values()
        service = Endless(
            juliet.connection.service, lambda number: [item._replace(id=f"{number}-{n}") for n in range(5)]
        )
        juliet.nodes._ground = juliet.nodes._ground._replace(service=service)
        items = juliet.nodes.items(BLOG)
        for _ in range(12):
            assert (await anext(items)).payload is not None
        await items.aclose()
        assert service.pages <= 4  # three that were read, and the next one
        assert len(await juliet.read(BLOG, limit=7)) == 7
        assert service.pages <= 7
        with pytest.raises(UsageError):
            await juliet.read(BLOG, limit=0)
        # Asked for one item, a service that answers with others is not believed.
        service._page = lambda number: [item._replace(id="another"), item._replace(id="wanted")]
        assert (await juliet.nodes.get(BLOG, "wanted")).item.id == "wanted"

    at_home(scenario)


def test_one_item_or_none() -> None:
    async def scenario(house: House) -> None:
        juliet = await alone(house)
        published = await juliet.nodes.publish(BLOG, entry("one"))
        assert texts([await juliet.nodes.get(BLOG, published.id)]) == ["one"]
        with pytest.raises(Rejected, match="no item"):
            await juliet.nodes.get(BLOG, "another")
        await juliet.nodes.retract(BLOG, published.id)
        with pytest.raises(Rejected, match="no item"):
            await juliet.nodes.get(BLOG, published.id)
        with pytest.raises(Rejected, match="no such node or item"):
            await juliet.nodes.retract(BLOG, published.id)
        with pytest.raises(Rejected, match="no such node"):
            await juliet.read(Node(JULIET, "nowhere"))

    at_home(scenario)


@pytest.mark.parametrize("payloads", ["true", "false"])
def test_what_is_published_is_seen_as_it_comes(payloads: str) -> None:
    async def scenario(house: House) -> None:
        juliet, nurse = await alone(house), await house.person(NURSE)
        await juliet.nodes.share(BLOG, NURSE)
        await house.heard()
        house.pubsub.nodes[BLOG].options["pubsub#deliver_payloads"] = payloads
        watched = nurse.nodes.watch(BLOG)
        coming = asyncio.ensure_future(anext(watched))
        await until(lambda: NURSE in house.pubsub.nodes[BLOG].subscribers)
        await juliet.nodes.publish(BLOG, entry("now"))
        assert texts([await coming]) == ["now"]
        gone = await juliet.nodes.publish(BLOG, entry("gone"))
        await juliet.nodes.retract(BLOG, gone.id)
        await juliet.nodes.publish(BLOG, entry("later"))
        seen = [await anext(watched)]
        if payloads == "true":
            seen.append(await anext(watched))
        assert texts(seen) == (["gone", "later"] if payloads == "true" else ["later"])
        await watched.aclose()
        assert house.pubsub._watches == []

    at_home(scenario)


def test_a_member_only_watches() -> None:
    async def scenario(house: House) -> None:
        await alone(house)
        nurse = await house.person(NURSE)
        with pytest.raises(Rejected, match="among those who may read"):
            await anext(nurse.nodes.watch(BLOG))

    at_home(scenario)


# -- for a few people -------------------------------------------------------------------------------------------------


def test_an_item_for_romeo_only() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse, romeo = [await house.person(name) for name in (JULIET, NURSE, ROMEO)]
        await juliet.nodes.create(BLOG)
        await juliet.nodes.share_all(BLOG, (NURSE, ROMEO))
        await house.heard()
        published = await juliet.nodes.publish(BLOG, entry("for you alone"), encrypt_for=(ROMEO,))
        assert not published.in_clear
        assert {report.device.address for report in published.report if report.sealed} == {ROMEO}
        assert texts(await romeo.read(BLOG)) == ["for you alone"]
        assert texts(await romeo.read(BLOG)) == ["for you alone"]  # it opens once, and is kept
        assert texts(await nurse.read(BLOG)) == ["not for us"]
        assert texts(await juliet.read(BLOG)) == ["for you alone"]
        (reading,) = await romeo.read(BLOG)
        assert reading.by is not None
        assert reading.by.address == JULIET
        assert xml.parse(house.pubsub.seen[-1]).tag == "{urn:xmpp:pte:0}encrypted"
        assert await romeo.inbox() == []
        # The service puts it under another id: it does not open again, and is told.
        node = house.pubsub.nodes[BLOG]
        node.items["copy"] = node.items[published.id]._replace(id="copy")
        assert (await romeo.nodes.get(BLOG, "copy")).kind is ItemKind.REJECTED

    at_home(scenario)
