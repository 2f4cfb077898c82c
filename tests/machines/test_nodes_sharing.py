"""Private nodes between people: shared, read, written, taken back."""

from __future__ import annotations

import pytest

from support.people import BLOG, JULIET, NURSE, ROMEO, House, at_home, entry, texts
from tillie.errors import Rejected
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
