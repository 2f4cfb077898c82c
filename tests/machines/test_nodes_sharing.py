"""Private nodes between people: shared, read, written, taken back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support.people import BLOG, JULIET, NURSE, PUBSUB, ROMEO, TYBALT, House, at_home, entry, texts
from tillie import store as stores
from tillie.errors import NoRecipients, Rejected, UsageError
from tillie.model import Address
from tillie.nodes.sharing import APART
from tillie.pubsub import secrets
from tillie.pubsub.checking import Verdict
from tillie.pubsub.items import ItemKind, Node
from tillie.pubsub.members import Role


def test_a_blog_is_shared_read_written_and_taken_back() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse, romeo = [await house.person(name) for name in (JULIET, NURSE, ROMEO)]
        assert await juliet.nodes.create(BLOG, type="http://www.w3.org/2005/Atom") == BLOG
        first = await juliet.nodes.publish(BLOG, entry("one"))
        assert first.secret
        assert not first.in_clear
        with pytest.raises(Rejected, match="among those who may read"):
            await nurse.read(BLOG)
        shared = await juliet.nodes.share(BLOG, NURSE)
        assert shared.messages == 1
        await juliet.nodes.share(BLOG, ROMEO, role=Role.PUBLISHER)
        await house.heard()
        assert texts(await nurse.read(BLOG)) == ["one"]
        with pytest.raises(Rejected, match="publish there"):
            await nurse.nodes.publish(BLOG, entry("not mine to write"))
        await romeo.nodes.publish(BLOG, entry("two"))
        assert texts(await juliet.read(BLOG)) == texts(await nurse.read(BLOG)) == ["two", "one"]

        house.clock.now += 60
        removed = await juliet.nodes.remove(BLOG, NURSE)
        assert removed.problems == ()
        assert any("keeps" in line for line in removed.cannot_undo)
        await house.heard()
        await juliet.nodes.publish(BLOG, entry("three"))
        with pytest.raises(Rejected):
            await nurse.read(BLOG)
        assert texts(await romeo.read(BLOG)) == ["three", "two", "one"]
        house.pubsub.nodes[BLOG].affiliations[NURSE] = "member"  # the service lets her in, in spite of all
        assert texts(await nurse.read(BLOG)) == ["no secret", "two", "one"]

        assert not any(b"<title>" in seen for seen in house.pubsub.seen)
        assert await nurse.inbox() == await romeo.inbox() == await juliet.inbox() == []

    at_home(scenario)


def test_who_can_not_be_written_to_is_not_let_in() -> None:
    async def scenario(house: House) -> None:
        juliet = await house.person(JULIET)
        await house.person(NURSE, key=False)
        await juliet.nodes.create(BLOG)
        with pytest.raises(NoRecipients):
            await juliet.nodes.share(BLOG, NURSE)
        assert NURSE not in house.pubsub.nodes[BLOG].affiliations
        assert [one.address for one in await juliet.nodes.members(BLOG) if one.member] == [JULIET]

    at_home(scenario)


def test_sharing_again_sends_nothing_again_and_may_change_the_role() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse = await house.person(JULIET), await house.person(NURSE)
        await juliet.nodes.create(BLOG, publish="only_owner")  # a service's own word for what PEP does
        assert (await juliet.nodes.share(BLOG, NURSE)).messages == 1
        assert (await juliet.nodes.share(BLOG, NURSE)).messages == 0
        assert (await juliet.nodes.share(BLOG, NURSE, role=Role.PUBLISHER)).messages == 0
        await house.heard()
        await nurse.nodes.publish(BLOG, entry("from the nurse"))
        (row,) = [one for one in await juliet.nodes.members(BLOG) if one.address == NURSE]
        assert (row.affiliation, row.has, row.due) == ("publisher", 1, 0)
        assert row.member is not None
        assert row.member.role is Role.PUBLISHER

    at_home(scenario)


def test_a_new_member_reads_the_archive_and_writes_with_the_newest_secret() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse = await house.person(JULIET), await house.person(NURSE)
        await juliet.nodes.create(BLOG)
        used = []
        for text in ("one", "two", "three"):
            used.append((await juliet.nodes.publish(BLOG, entry(text))).secret)
            house.clock.now += 10
            await juliet.nodes.rotate(BLOG)
        assert len(set(used)) == 3
        assert (await juliet.nodes.share(BLOG, NURSE, role=Role.PUBLISHER)).messages == 4
        await house.heard()
        readings = await nurse.read(BLOG)
        assert texts(readings) == ["three", "two", "one"]
        assert not any(reading.notes for reading in readings)  # they came revoked: that says nothing of when
        assert [secret.revoked for secret in await nurse.nodes.secrets(BLOG)] == [False, True, True, True]
        newest = (await nurse.nodes.publish(BLOG, entry("four"))).secret
        assert newest == (await juliet.nodes.secrets(BLOG))[0].id

    at_home(scenario)


def test_the_first_secret_comes_alone_and_the_others_later() -> None:
    """Libervia loses one of two that come at once where it has none."""

    async def scenario(house: House) -> None:
        juliet, *guests = [await house.person(name) for name in (JULIET, NURSE, ROMEO, TYBALT)]
        await juliet.nodes.create(BLOG)
        await juliet.nodes.share(BLOG, NURSE)
        await juliet.nodes.rotate(BLOG)
        assert juliet.pauses == []
        archive = house.server.archive
        before = len(archive)

        async def pause(seconds: float) -> None:
            juliet.pauses.append(seconds)
            assert sorted(message.to for message in archive[before:]) == [ROMEO, TYBALT]

        juliet.nodes._ground = juliet.nodes._ground._replace(pause=pause)
        shared = await juliet.nodes.share_all(BLOG, (ROMEO, NURSE, TYBALT))
        assert [one.messages for one in shared] == [2, 0, 2]
        assert juliet.pauses == [APART]
        assert len(archive) == before + 4
        await house.heard()
        newest = (await juliet.nodes.secrets(BLOG))[0].id
        for guest in guests:
            assert [secret.id == newest for secret in await guest.nodes.secrets(BLOG)] == [True, False]

    at_home(scenario)


def test_who_lost_everything_is_sent_it_again() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse, romeo = [await house.person(name) for name in (JULIET, NURSE, ROMEO)]
        await juliet.nodes.create(BLOG)
        await juliet.nodes.share_all(BLOG, (NURSE, ROMEO))
        await juliet.nodes.rotate(BLOG)
        await house.heard()
        assert (await juliet.nodes.share(BLOG, NURSE)).messages == 0
        assert (await juliet.nodes.share(BLOG, NURSE, again=True)).messages == 2
        assert [one.messages for one in await juliet.nodes.share_all(BLOG, (ROMEO,), again=True)] == [2]
        await house.heard()
        for reader in (nurse, romeo):  # nothing new, for who has it all
            assert [secret.revoked for secret in await reader.nodes.secrets(BLOG)] == [False, True]
        assert (await juliet.nodes.share(BLOG, NURSE)).messages == 0

    at_home(scenario)


def test_what_an_interruption_left_due_is_sent_once() -> None:
    async def scenario(house: House) -> None:
        juliet = await house.person(JULIET)
        nurse, romeo = await house.person(NURSE), await house.person(ROMEO)
        await juliet.nodes.create(BLOG)
        await juliet.nodes.share_all(BLOG, (NURSE, ROMEO))
        house.clock.now += 10
        sent = len(house.server.archive)
        stopped = RuntimeError("the machine stops")
        drive, calls = juliet.engine.drive, 0

        async def stops(step: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 5:  # what is known, what was seen, the new secret, what is due, the first member; then no more
                raise stopped
            return await drive(step)

        juliet.engine.drive = stops  # type: ignore[method-assign]
        with pytest.raises(RuntimeError):
            await juliet.nodes.rotate(BLOG)
        juliet.engine.drive = drive  # type: ignore[method-assign]
        await house.heard()
        await juliet.nodes.resume(BLOG)
        await juliet.nodes.resume(BLOG)
        await house.heard()
        assert len(house.server.archive) - sent == 6  # a revocation and a new secret, for two members and ourselves
        await juliet.nodes.publish(BLOG, entry("after"))
        assert texts(await nurse.read(BLOG)) == texts(await romeo.read(BLOG)) == ["after"]

    at_home(scenario)


def test_our_own_other_device_has_every_secret() -> None:
    async def scenario(house: House) -> None:
        juliet = await house.person(JULIET)
        tablet = await house.person(JULIET, key=False)
        code = "TWNK-KD5Y-MT3T-E1GS-DRDB-KVTW"
        payload = await juliet.nodes._ground.read(lambda s: juliet.openpgp.backup(s, code))
        await tablet.engine.drive(lambda s: tablet.openpgp.restore(s, payload, code, tablet.engine.now()))
        nurse = await house.person(NURSE)
        await juliet.nodes.create(BLOG)
        await juliet.nodes.share(BLOG, NURSE)
        await juliet.nodes.publish(BLOG, entry("one"))
        await house.heard()
        assert texts(await tablet.read(BLOG)) == ["one"]
        house.clock.now += 10
        # The tablet knows of no members. It takes the nurse's access back all the same, by the service's list.
        removed = await tablet.nodes.remove(BLOG, NURSE)
        assert not removed.problems
        await house.heard()
        await juliet.nodes.publish(BLOG, entry("two"))
        assert texts(await tablet.read(BLOG)) == ["two", "one"]
        house.pubsub.nodes[BLOG].affiliations[NURSE] = "member"
        assert texts(await nurse.read(BLOG)) == ["no secret", "one"]

    at_home(scenario)


def test_locks_are_changed_whatever_the_service_does() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse, romeo = [await house.person(name) for name in (JULIET, NURSE, ROMEO)]
        node = await juliet.nodes.create(Node(PUBSUB, ""))
        await juliet.nodes.share_all(node, (NURSE, ROMEO))
        await house.heard()
        house.clock.now += 10
        house.pubsub.down.add(PUBSUB)
        removed = await juliet.nodes.remove(node, NURSE)
        assert any("did not take" in problem for problem in removed.problems)
        await house.heard()
        house.pubsub.down.clear()
        await juliet.nodes.publish(node, entry("new locks"))
        assert texts(await nurse.read(node)) == ["no secret"]  # still on the list
        assert texts(await romeo.read(node)) == ["new locks"]
        again = await juliet.nodes.remove(node, NURSE)
        assert again.problems == ()
        assert again.secret == removed.secret
        with pytest.raises(Rejected):
            await nurse.read(node)

    at_home(scenario)


def test_the_removed_one_is_told_and_nothing_more() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse = await house.person(JULIET), await house.person(NURSE)
        await juliet.nodes.create(BLOG)
        await juliet.nodes.share(BLOG, NURSE)
        house.clock.now += 10
        await juliet.nodes.remove(BLOG, NURSE)
        await house.heard()
        (secret,) = await nurse.nodes.secrets(BLOG)
        assert secret.revoked
        with pytest.raises(UsageError, match="revoked"):
            await nurse.nodes.publish(BLOG, entry("mine"))
        with pytest.raises(UsageError):
            await juliet.nodes.remove(BLOG, TYBALT)
        with pytest.raises(UsageError, match="Your own"):
            await juliet.nodes.remove(BLOG, JULIET)

    at_home(scenario)


def test_whom_the_service_lets_in_gets_no_secret() -> None:
    async def scenario(house: House) -> None:
        juliet, tybalt = await house.person(JULIET), await house.person(TYBALT)
        await juliet.nodes.create(BLOG)
        await juliet.nodes.publish(BLOG, entry("one"))
        house.pubsub.nodes[BLOG].affiliations[TYBALT] = "publisher"
        rotated = await juliet.nodes.rotate(BLOG)
        assert rotated.left_out == (TYBALT,)
        await house.heard()
        assert texts(await tybalt.read(BLOG)) == ["no secret"]
        with pytest.raises(UsageError, match="no secret of it here"):
            await tybalt.nodes.publish(BLOG, entry("in clear, by mistake"))
        assert not any(b"mistake" in seen for seen in house.pubsub.seen)
        (row,) = [one for one in await juliet.nodes.members(BLOG) if one.address == TYBALT]
        assert (row.affiliation, row.member, row.has) == ("publisher", None, 0)

    at_home(scenario)


def test_an_owner_is_looked_up_before_a_first_secret_counts() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse, tybalt = [await house.person(name) for name in (JULIET, NURSE, TYBALT)]
        node = await juliet.nodes.create(Node(PUBSUB, ""))
        # Tybalt is quicker: he shares a secret of his own for Juliet's node. His own client believes that it is his.
        listed = house.pubsub.nodes[node].affiliations
        listed[TYBALT] = "owner"
        await tybalt.make_secret(node)
        await tybalt.nodes.share(node, NURSE)
        del listed[TYBALT]
        await house.heard()
        assert await nurse.nodes.secrets(node) == ()
        assert [each.sender for _, each in await nurse.nodes.pending(node)] == [TYBALT]
        await juliet.nodes.share(node, NURSE)
        await house.heard()
        await juliet.nodes.publish(node, entry("the real one"))
        assert texts(await nurse.read(node)) == ["the real one"]
        assert any(TYBALT in text for text in nurse.notices)

    at_home(scenario)


def test_a_person_decides_whose_secrets_count_where_no_service_says() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse = await house.person(JULIET), await house.person(NURSE)
        node = await juliet.nodes.create(Node(PUBSUB, ""))
        await juliet.nodes.share(node, NURSE)
        await juliet.nodes.publish(node, entry("one"))
        del house.pubsub.nodes[node].affiliations[JULIET]  # the service does not tell
        house.pubsub.nodes[node].affiliations[NURSE] = "publisher"
        await house.heard()
        assert texts(await nurse.read(node)) == ["no secret"]
        with pytest.raises(UsageError, match="not decided"):
            await nurse.nodes.publish(node, entry("two"))
        assert await nurse.nodes.accept(node, JULIET) == 1
        assert texts(await nurse.read(node)) == ["one"]

    at_home(scenario)


def test_only_who_owns_a_node_shares_it() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse, romeo = [await house.person(name) for name in (JULIET, NURSE, ROMEO)]
        await juliet.nodes.create(BLOG)
        await juliet.nodes.share(BLOG, NURSE)
        await house.heard()
        for call in (nurse.nodes.share(BLOG, ROMEO), nurse.nodes.remove(BLOG, JULIET), nurse.nodes.rotate(BLOG)):
            with pytest.raises(UsageError, match="come from"):
                await call
        with pytest.raises(UsageError, match="do not own"):
            await romeo.nodes.share(BLOG, TYBALT)
        with pytest.raises(UsageError, match="for others"):
            await juliet.nodes.share(BLOG, JULIET)

    at_home(scenario)


def test_many_members_one_who_can_not_be_reached_holds_nobody_up() -> None:
    async def scenario(house: House) -> None:
        juliet = await house.person(JULIET)
        await juliet.nodes.create(BLOG)
        names = [Address(f"guest{number}@capulet.test") for number in range(6)]
        guests = [await house.person(name, key=name != names[2]) for name in names]
        seen: list[tuple[int, int]] = []
        shared = await juliet.nodes.share_all(BLOG, names, progress=lambda _, done, total: seen.append((done, total)))
        assert [bool(one.error) for one in shared] == [False, False, True, False, False, False]
        assert seen[0] == (0, 6)
        assert seen[-1] == (6, 6)
        await house.heard()
        await juliet.nodes.publish(BLOG, entry("to all"))
        assert texts(await guests[5].read(BLOG)) == ["to all"]

    at_home(scenario)


def test_an_existing_node_becomes_private() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse = await house.person(JULIET), await house.person(NURSE)
        await juliet.nodes.create(BLOG, encrypted=False, access="open")
        clear = await juliet.nodes.publish(BLOG, entry("for all the world"))
        assert clear.in_clear
        house.pubsub.nodes[BLOG].affiliations[NURSE] = "member"
        converted = await juliet.nodes.convert(BLOG)
        assert converted.in_clear == (clear.id,)
        assert converted.readers == (NURSE,)
        assert house.pubsub.nodes[BLOG].options["pubsub#access_model"] == "whitelist"
        assert not (await juliet.nodes.publish(BLOG, entry("for us"))).in_clear
        assert [reading.kind for reading in await juliet.read(BLOG)] == [ItemKind.OPENED, ItemKind.CLEAR]
        await juliet.nodes.share(BLOG, NURSE)
        await house.heard()
        assert texts(await nurse.read(BLOG)) == ["for us", "for all the world"]
        again = await juliet.nodes.convert(BLOG)
        assert (again.secret, again.in_clear, again.readers) == (converted.secret, (clear.id,), ())
        assert [bool(reading.notes) for reading in await nurse.read(BLOG)] == [False, True]  # it may not be hers

    at_home(scenario)


def test_a_name_that_says_nothing() -> None:
    async def scenario(house: House) -> None:
        juliet = await house.person(JULIET)
        node = await juliet.nodes.create(Node(JULIET, ""), type="urn:example:diary")
        assert len(node.name) >= 20
        options = house.pubsub.nodes[node].options
        assert options["pubsub#type"] == "urn:xmpp:openpgp:pubsub:0"
        assert "diary" not in str(options)
        with pytest.raises(Rejected, match="one already"):
            await juliet.nodes.create(node)
        with pytest.raises(UsageError, match="no access model"):
            await juliet.nodes.configure(node, {"pubsub#access_model": "everybody"})
        await juliet.nodes.delete(node)
        assert len(await juliet.nodes.secrets(node)) == 1  # what copies there are may be opened still

    at_home(scenario)


def test_a_node_in_clear_has_no_locks_to_change() -> None:
    async def scenario(house: House) -> None:
        juliet, _ = await house.person(JULIET), await house.person(NURSE)
        await juliet.nodes.create(BLOG, encrypted=False, access="open")
        for call in (juliet.nodes.share(BLOG, NURSE), juliet.nodes.rotate(BLOG), juliet.nodes.remove(BLOG, NURSE)):
            with pytest.raises(UsageError, match="in clear"):
                await call
        assert (await juliet.nodes.publish(BLOG, entry("for all"))).in_clear

    at_home(scenario)


def test_on_a_node_that_all_may_read_a_removed_one_is_banned() -> None:
    async def scenario(house: House) -> None:
        juliet, _ = await house.person(JULIET), await house.person(NURSE)
        await juliet.nodes.create(BLOG, access="open")
        await juliet.nodes.share(BLOG, NURSE)
        house.clock.now += 10
        assert (await juliet.nodes.remove(BLOG, NURSE)).problems == ()
        assert house.pubsub.nodes[BLOG].affiliations[NURSE] == "outcast"
        await juliet.nodes.publish(BLOG, entry("sealed, for all to fetch"))

    at_home(scenario)


def test_what_is_not_due_any_more_is_not_sent() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse = await house.person(JULIET), await house.person(NURSE)
        await juliet.nodes.create(BLOG)
        await juliet.nodes.share(BLOG, NURSE)
        house.clock.now += 10
        await juliet.nodes.rotate(BLOG)
        await juliet.nodes._ground.write(lambda s: secrets.rotate(s, BLOG, JULIET, juliet.engine.now()) and None)
        sent = len(house.server.archive)
        # Two tasks find the same things due, and take turns.
        drive = juliet.engine.drive

        async def drives_in_turns(step: Any) -> Any:
            await asyncio.sleep(0)
            return await drive(step)

        juliet.engine.drive = drives_in_turns  # type: ignore[method-assign]
        await asyncio.gather(juliet.nodes.resume(BLOG), juliet.nodes.resume(BLOG))
        assert len(house.server.archive) - sent == 4  # a revocation and a secret, for the nurse and for herself
        await house.heard()
        assert [secret.revoked for secret in await nurse.nodes.secrets(BLOG)] == [False, True, True]

    at_home(scenario)


def test_the_same_from_a_file(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        people = []
        for name in (JULIET, NURSE):
            store = stores.open(tmp_path / f"{name}.db", name, bytes(32))
            people.append(await house.person(name, store=store))
        juliet, nurse = people
        await juliet.nodes.create(BLOG)
        published = await juliet.nodes.publish(BLOG, entry("one"), sign=True)
        await juliet.nodes.share(BLOG, NURSE)
        await house.heard()
        assert texts(await nurse.read(BLOG)) == ["one"]
        assert (await nurse.nodes.check(BLOG, published.id)).summary is Verdict.VALID_TRUSTED
        house.clock.now += 10
        await juliet.nodes.remove(BLOG, NURSE)
        await house.heard()
        assert [secret.revoked for secret in await nurse.nodes.secrets(BLOG)] == [True]
        for person in people:
            await person.engine.close()

    at_home(scenario)


def test_locks_are_changed_for_who_is_said_to_own_the_node_too() -> None:
    async def scenario(house: House) -> None:
        juliet, nurse = await house.person(JULIET), await house.person(NURSE)
        await juliet.nodes.create(BLOG)
        await juliet.nodes.share(BLOG, NURSE)
        house.pubsub.nodes[BLOG].affiliations[NURSE] = "owner"
        before = await juliet.nodes.secrets(BLOG)
        removed = await juliet.nodes.remove(BLOG, NURSE)
        assert any("owns this node, too" in problem for problem in removed.problems)
        assert house.pubsub.nodes[BLOG].affiliations[NURSE] == "owner"
        await juliet.nodes.publish(BLOG, entry("behind new locks"))
        await house.heard()
        assert texts(await nurse.read(BLOG)) == ["no secret"]
        assert len(await juliet.nodes.secrets(BLOG)) == len(before) + 1

    at_home(scenario)
