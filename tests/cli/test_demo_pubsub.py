"""The demo of private pubsub: what it reports, and that each of its checks can fail."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.demos import failed_steps, report_of
from support.prosody import require_prosody
from tillie.account import Account
from tillie.cli import exits, main
from tillie.crypto.random import random_bytes
from tillie.demo import plaintext, pubsub
from tillie.demo.places import InProcess, OnProsody, Place
from tillie.demo.prosody import PrivateProsody
from tillie.demo.pubsub import CAST, FIRST, FROM_ROMEO, KIND, NURSE, ROMEO, Blog, Person, entry
from tillie.model import Address, Done
from tillie.nodes import Nodes, sharing
from tillie.pubsub.items import Node
from tillie.pubsub.members import Role
from tillie.store import MemoryStore

DEMO_SECONDS = 30.0
SEARCH = Blog.search


def on_prosody() -> Place:
    require_prosody()
    return OnProsody(CAST)


PLACES = pytest.mark.parametrize("place", [on_prosody, InProcess])


@PLACES
def test_everybody_reads_what_is_for_her_and_the_server_nothing(
    place: type[InProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    where = place()
    started = time.monotonic()
    assert pubsub.run(json=True, place=where)
    assert time.monotonic() - started < DEMO_SECONDS
    out, err = capsys.readouterr()
    report = report_of(out)
    assert (report["ok"], report["server_saw_plaintext"], err) == (True, False, "")
    assert report["server"] == {"name": where.name, "version": where.version}
    assert where.version
    steps = report["steps"]
    assert isinstance(steps, list)
    assert len(steps) == 13
    assert steps[-2]["name"] == SEARCH


def test_without_prosody_it_runs_in_process_and_is_plain_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PrivateProsody, "unavailable", staticmethod(lambda: "Prosody is not installed"))
    assert main(["demo", "pubsub"]) == exits.OK
    shown = capsys.readouterr().out
    assert shown.startswith("Prosody can't be started here, so the server is a stand-in inside this process.\n")
    lines = shown.splitlines()
    assert lines.count(f"    {FIRST}") == 3  # Juliet wrote it, the nurse and Romeo read it
    for title in ("  Juliet wrote:", "  the server saw:", "  the nurse read:", "  Romeo read:"):
        assert title in lines
    assert "    nothing: the server refuses" in lines
    assert "  the nurse read: nothing: she does not have its secret" in lines
    assert "valid, by a trusted key" in shown
    assert "keeps what was read or copied" in shown
    assert "\x1b" not in shown


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert pubsub.run(json=True, place=InProcess())
    assert not os.listdir(tmp_path)


def test_the_command_ends_with_one_if_the_server_lost_an_item(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Forgetful(InProcess):
        def published(self, payload: bytes) -> list[tuple[str, str]]:
            return []

    monkeypatch.setattr(pubsub, "choose", lambda people: Forgetful())
    assert main(["demo", "pubsub", "--json"]) == exits.FAILED
    out, err = capsys.readouterr()
    report = report_of(out)
    assert (report["ok"], report["server_saw_plaintext"]) == (False, False)
    assert "does not hold the sealed item" in err


# -- sabotage: each of the checks -------------------------------------------------------------------------------------


class SlippedIn(Blog):
    """The server announces one more key for Romeo."""

    async def _verify(self) -> None:
        client = await self.place.connect(Account(MemoryStore(ROMEO)))
        await client.generate_key(another=True)
        await client.announced()
        await super()._verify()
        await client.close()


class OtherText(Blog):
    """What is published is not what was written."""

    async def _share(self) -> None:
        await self.juliet.nodes.publish(self.node, entry("Something else."), self.items[FIRST], encrypt=True)
        await super()._share()


class Strangers(Blog):
    """The nurse never compared Juliet's fingerprint."""

    async def _verify(self) -> None:
        await self.juliet.verify(self.nurse)
        await self.juliet.verify(self.romeo)
        await self.romeo.verify(self.juliet)


class SealedForAll(Blog):
    """The entry for Romeo is sealed with the secret that all have."""

    async def _publish(self, author: Person, text: str, *, only_for: Address | None = None) -> None:
        await super()._publish(author, text)


class SharedAgain(Blog):
    """The nurse gets the new secret, too."""

    async def _take_back(self) -> None:
        await super()._take_back()
        await self.juliet.nodes.share(self.node, NURSE)
        await self.nurse.hears(self.node, lambda secrets: len(secrets) == 2)
        await self.juliet.nodes.service.affiliate(self.node, {NURSE: "none"})


class LetInByTheServer(Blog):
    """The server goes on showing the blog to the nurse."""

    async def _write_again(self) -> None:
        await self.juliet.nodes.service.affiliate(self.node, {NURSE: "member"})
        await super()._write_again()


class LockedOut(Blog):
    """The nurse loses what she could read."""

    async def _let_in_again(self) -> None:
        await self.juliet.nodes.retract(self.node, self.items[FROM_ROMEO])
        await self._publish(self.juliet, FROM_ROMEO)
        await super()._let_in_again()


@pytest.mark.parametrize(
    ("play", "step", "why"),
    [
        (SlippedIn, "they compare fingerprints", "Juliet sees other keys than Romeo has"),
        (OtherText, "Juliet shares it", "the nurse can't read what is for"),
        (Strangers, "Juliet signs her entry", "the nurse finds another signature than Juliet's"),
        (SealedForAll, "Juliet writes for Romeo only", "got something out of an item"),
        (LetInByTheServer, "Juliet writes again", "showed the nurse the blog"),
        (SharedAgain, "suppose the server lets the nurse in", "got something out of an item"),
        (LockedOut, "suppose the server lets the nurse in", "the nurse can't read what is for"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_play_that_goes_wrong_fails(
    play: type[Blog], step: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not pubsub.run(json=True, place=InProcess(), author=play)
    out, err = capsys.readouterr()
    (name,) = failed_steps(report_of(out))
    assert name.startswith(step)
    assert why in err


def test_a_reader_who_may_write_is_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    share = Nodes.share

    async def generous(nodes: Nodes, node: Node, address: Address, *, role: Role) -> object:
        return await share(nodes, node, address, role=Role.PUBLISHER)

    monkeypatch.setattr(Nodes, "share", generous)
    assert not pubsub.run(json=True, place=InProcess())
    out, err = capsys.readouterr()
    assert failed_steps(report_of(out))[0].startswith("Romeo writes")
    assert "The nurse wrote, who may only read." in err


def test_an_entry_that_is_changed_after_it_was_signed_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sign = Nodes.sign

    async def sign_and_change(nodes: Nodes, node: Node, item: str) -> None:
        await sign(nodes, node, item)
        await nodes.publish(node, entry("Another version."), item, encrypt=True)

    monkeypatch.setattr(Nodes, "sign", sign_and_change)
    assert not pubsub.run(json=True, place=InProcess())
    out, err = capsys.readouterr()
    assert failed_steps(report_of(out))[0].startswith("Juliet signs her entry")
    assert "another signature" in err


def test_a_blog_that_everybody_may_read_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    create = Nodes.create

    async def open_to_all(nodes: Nodes, node: Node, *, type: str) -> Node:
        return await create(nodes, node, type=type, access="open")

    monkeypatch.setattr(Nodes, "create", open_to_all)
    assert not pubsub.run(json=True, place=InProcess())
    out, err = capsys.readouterr()
    assert failed_steps(report_of(out))[0].startswith("Juliet makes a private blog")
    assert "showed the nurse the blog" in err


def test_a_secret_that_never_comes_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def to_nobody(*_: object, **__: object) -> tuple[object, ...]:
        return ()

    monkeypatch.setattr(pubsub, "HEAR_SECONDS", 0.1)
    monkeypatch.setattr(sharing, "deliver", to_nobody)
    assert not pubsub.run(json=True, place=InProcess())
    out, err = capsys.readouterr()
    assert failed_steps(report_of(out))[0].startswith("Juliet shares it")
    assert "did not hear of a secret" in err


# -- sabotage: the search ---------------------------------------------------------------------------------------------


class InTheClear(Blog):
    """Somebody publishes an entry in clear."""

    async def _let_in_again(self) -> None:
        await super()._let_in_again()
        await self.juliet.nodes.publish(self.node, entry(FIRST), encrypt=False)


class Telling(Blog):
    """The server gets to know what kind of items the blog has."""

    async def _let_in_again(self) -> None:
        await super()._let_in_again()
        kind = f"<kind xmlns='urn:example'>{KIND}</kind>".encode()
        await self.juliet.nodes.publish(self.node, kind, encrypt=False)


@pytest.mark.parametrize(("place", "play"), [(on_prosody, InTheClear), (InProcess, InTheClear), (InProcess, Telling)])
def test_plaintext_at_the_server_is_found(
    place: type[InProcess], play: type[Blog], capsys: pytest.CaptureFixture[str]
) -> None:
    assert not pubsub.run(json=True, place=place(), author=play)
    out, err = capsys.readouterr()
    report = report_of(out)
    assert (report["ok"], report["server_saw_plaintext"]) == (False, True)
    assert failed_steps(report) == [SEARCH]
    assert "Plaintext lies in" in err


async def shared_secret(blog: Blog) -> str:
    return (await blog.juliet.nodes.secrets(blog.node))[-1].value  # the first, which is revoked


async def bytes_of_it(blog: Blog) -> str:
    return base64.b64encode(base64.urlsafe_b64decode(await shared_secret(blog))).decode()


async def private_key(blog: Blog) -> str:
    committed = blog.romeo.account.store.run(lambda s: Done(blog.romeo.account.openpgp.own_keys(s)))
    (key,) = committed.value  # type: ignore[union-attr]
    return base64.b64encode(key.data).decode()


@pytest.mark.parametrize(
    ("place", "leaked"),
    [(on_prosody, shared_secret), (InProcess, shared_secret), (InProcess, bytes_of_it), (InProcess, private_key)],
)
def test_a_key_at_the_server_is_found(
    place: type[InProcess], leaked: object, capsys: pytest.CaptureFixture[str]
) -> None:
    class Leaking(Blog):
        async def _let_in_again(self) -> None:
            await super()._let_in_again()
            text = await leaked(self)  # type: ignore[operator]
            await self.juliet.nodes.publish(self.node, f"<x xmlns='urn:example'>{text}</x>".encode(), encrypt=False)

    assert not pubsub.run(json=True, place=place(), author=Leaking)
    out, err = capsys.readouterr()
    report = report_of(out)
    assert (report["ok"], report["server_saw_plaintext"]) == (False, True)
    assert failed_steps(report) == [SEARCH]
    assert "A secret key lies in" in err


@pytest.mark.parametrize("before", [b"", b"x", b"xy"])
def test_a_key_is_found_in_every_form(before: bytes) -> None:
    key = random_bytes(34)
    kept: Sequence[bytes] = (
        before + key,
        key.hex().encode(),
        key.hex().upper().encode(),
        base64.b64encode(before + key + b"more"),
        base64.urlsafe_b64encode(before + key),
    )
    for data in kept:
        assert plaintext.find([key], [("here", b"<" + data + b">")]) == ["here"]
    assert plaintext.find([key], [("noise", base64.b64encode(random_bytes(10_000)))]) == []
