"""Transcripts: private nodes; made, written, shared, watched, signed, taken back."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from support.terminal import Outcome, Person, World, world
from tillie.cli import exits, progress, show
from tillie.errors import Rejected
from tillie.model import Address
from tillie.pubsub.items import Item, Node
from tillie.pubsub.sealing import MAX_PAYLOAD

__all__ = ["world"]

JULIET, NURSE, ROMEO = "juliet@capulet.example", "nurse@capulet.example", "romeo@montague.example"
BLOG = Node(Address(JULIET), "blog")
XML = "<event xmlns='urn:example:calendar'>Ball</event>"


@pytest.fixture
def juliet(world: World) -> Person:
    return with_key(world.person("juliet", JULIET))


@pytest.fixture
def nurse(world: World) -> Person:
    return with_key(world.person("nurse", NURSE))


@pytest.fixture
def romeo(world: World) -> Person:
    return with_key(world.person("romeo", ROMEO))


@pytest.fixture
def blog(juliet: Person) -> str:
    """A private node of Juliet's."""
    done = juliet("pubsub", "node", "create", "blog")
    assert (done.code, done.out) == (exits.OK, "blog\n"), done.err
    return "blog"


def with_key(person: Person) -> Person:
    assert person("keys", "generate").code == exits.OK
    return person


def write(person: Person, text: str, *options: str) -> str:
    """The id of a new item."""
    done = person("pubsub", "set", "blog", "--text", text, *options)
    assert done.code == exits.OK, done.err
    return done.out.strip()


def read(person: Person, *options: str) -> list[dict[str, Any]]:
    done = person("pubsub", "get", "blog", "--json", *options)
    assert done.code in (exits.OK, exits.PEER), done.err
    return [json.loads(line) for line in done.lines]


def texts(person: Person, *options: str) -> set[str]:
    return {item["text"] for item in read(person, *options)}


AT = ("--service", JULIET)


def shared(owner: Person, *people: str) -> Outcome:
    done = owner("pubsub", "secret", "share", "blog", *people)
    assert done.code == exits.OK, done.err
    return done


# -- written and read -------------------------------------------------------------------------------------------------


def test_a_blog_is_sealed_and_read_by_its_owner(world: World, juliet: Person, blog: str) -> None:
    done = juliet("pubsub", "set", "blog", "--text", "Romeo & I <3", "--title", "Secret")
    assert (done.code, len(done.out.strip())) == (exits.OK, 30)
    assert done.err == "Published, sealed for whoever has the node's secret.\n"
    assert not any(b"Romeo" in payload or b"Secret" in payload for payload in world.server.pubsub.seen)
    shown = juliet("pubsub", "get", "blog")
    assert shown.lines == [f"{done.out.strip()}  {JULIET}", "  Secret", "  Romeo & I <3"]
    (item,) = read(juliet)
    assert (item["kind"], item["text"], item["service"], item["node"]) == (
        "opened", "Secret\nRomeo & I <3", JULIET, "blog",
    )  # fmt: skip
    assert item["payload"].startswith('<entry xmlns="http://www.w3.org/2005/Atom">')


def test_xml_comes_from_a_file_or_a_pipe_and_out_as_it_was(juliet: Person, blog: str) -> None:
    file = juliet.home / "event.xml"
    file.write_text(XML)
    assert juliet("pubsub", "set", "blog", str(file), "--id", "one").out == "one\n"
    assert juliet("pubsub", "set", "blog", "--id", "two", "--encrypt", stdin=XML + "\n").code == exits.OK
    assert juliet("pubsub", "set", "blog", "--text", "-", "--id", "three", stdin="typed\n").code == exits.OK
    assert juliet("pubsub", "get", "blog", "one", "--xml").out == XML.replace("'", '"') + "\n"
    assert [item["text"] for item in read(juliet, "three")] == ["typed"]
    assert len(juliet("pubsub", "list", "blog").lines) == 4
    assert len(juliet("pubsub", "get", "blog", "--last", "2", "--json").lines) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("--text", "x", "--clear", "--encrypt"),
        ("--text", "x", "--clear", "--encrypt-for", ROMEO),
        ("--text", "x", "--encrypt", "--encrypt-for", ROMEO),
        ("--title", "x"),
        ("--text", ""),
        ("file", "--text", "x"),
        ("/nonexistent",),
        ("--text", "x", "--service", "a@b@c"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_done(
    world: World, juliet: Person, blog: str, arguments: tuple[str, ...]
) -> None:
    seen = len(world.server.pubsub.seen)
    assert juliet("pubsub", "set", "blog", *arguments, stdin="<x xmlns='urn:x'/>").code == exits.USAGE
    assert len(world.server.pubsub.seen) == seen


@pytest.mark.parametrize("payload", ["plain text", "<a xmlns='u:a'/><b xmlns='u:b'/>", "<a", "", "<!DOCTYPE a><a/>"])
def test_what_is_not_one_element_is_not_published(world: World, juliet: Person, blog: str, payload: str) -> None:
    seen = len(world.server.pubsub.seen)
    assert juliet("pubsub", "set", "blog", stdin=payload).code == exits.USAGE
    assert len(world.server.pubsub.seen) == seen


def test_a_payload_has_a_limit(juliet: Person, blog: str) -> None:
    frame = "<x xmlns='urn:x'></x>"
    assert juliet("pubsub", "set", "blog", stdin=frame.replace("><", ">" + "y" * MAX_PAYLOAD + "<")).code == exits.USAGE
    fits = frame.replace("><", ">" + "y" * (MAX_PAYLOAD - len(frame)) + "<")
    assert juliet("pubsub", "set", "blog", stdin=fits).code == exits.OK


# -- never in clear unasked -------------------------------------------------------------------------------------------


def test_asked_to_encrypt_without_a_secret_nothing_is_published(world: World, juliet: Person) -> None:
    seen = len(world.server.pubsub.seen)
    done = juliet("pubsub", "set", "diary", "--text", "dear diary", "--encrypt")
    assert (done.code, done.out) == (exits.USAGE, "")
    assert "not published" in done.err
    assert len(world.server.pubsub.seen) == seen


def test_in_clear_at_a_private_node_only_if_it_is_said(world: World, juliet: Person, blog: str) -> None:
    done = juliet("pubsub", "set", "blog", "--text", "for all", "--clear")
    assert "in clear" in done.err
    assert any(b"for all" in payload for payload in world.server.pubsub.seen)
    assert [item["kind"] for item in read(juliet)] == ["clear"]
    assert "[in clear]" in juliet("pubsub", "get", "blog").out


def test_a_public_node_is_in_clear_and_says_so(juliet: Person) -> None:
    made = juliet("pubsub", "node", "create", "news", "--clear", "--access", "open")
    assert (made.code, "in clear" in made.err) == (exits.OK, True)
    done = juliet("pubsub", "set", "news", "--text", "hear ye")
    assert (done.code, done.err.startswith("Published in clear")) == (exits.OK, True)


def test_a_node_that_the_service_opened_gets_nothing(world: World, juliet: Person, blog: str) -> None:
    world.server.pubsub.nodes[BLOG].options["pubsub#access_model"] = "open"
    done = juliet("pubsub", "set", "blog", "--text", "x")
    assert (done.code, done.out) == (exits.NETWORK, "")
    assert not world.server.pubsub.nodes[BLOG].items
    assert juliet("pubsub", "set", "blog", "--text", "x", "--any-access").code == exits.OK


# -- shared and taken back --------------------------------------------------------------------------------------------


def test_the_whole_story(world: World, juliet: Person, nurse: Person, romeo: Person, blog: str) -> None:
    write(juliet, "one")
    refused = nurse("pubsub", "get", "blog", *AT)
    assert (refused.code, "not among those who may read" in refused.err) == (exits.NETWORK, True)

    done = shared(juliet, NURSE)
    assert done.out == f"{NURSE} is a reader now: 1 message with secrets sent.\n"
    assert "is a publisher now" in shared(juliet, ROMEO, "--publisher").out
    assert texts(nurse, *AT) == {"one"}
    assert write(romeo, "two", *AT)
    assert texts(nurse, *AT) == {"one", "two"}
    not_hers = nurse("pubsub", "set", "blog", "--text", "gossip", *AT)
    assert (not_hers.code, "not among those who may publish" in not_hers.err) == (exits.NETWORK, True)

    taken = juliet("pubsub", "secret", "revoke", "blog", NURSE, "--reason", "She talks.")
    assert taken.code == exits.OK
    assert taken.lines[0] == f"{NURSE} has no access to blog any more."
    at = taken.lines.index("What this can't undo:")
    assert all(line.startswith("- ") for line in taken.lines[at + 1 :])
    assert len(taken.lines) > at + 2
    write(juliet, "three")
    assert nurse("pubsub", "get", "blog", *AT).code == exits.NETWORK
    assert texts(romeo, *AT) == {"one", "two", "three"}
    # A server that shows her everything all the same: she reads what she could, and nothing new.
    world.server.pubsub.nodes[BLOG].affiliations[Address(NURSE)] = "member"
    kinds = {item["text"]: item["kind"] for item in read(nurse, *AT)}
    assert kinds == {"one": "opened", "two": "opened", None: "no secret"}
    assert "She talks." in nurse("pubsub", "secret", "list", *AT).out


def test_a_new_member_reads_what_was_there_before(juliet: Person, nurse: Person, blog: str) -> None:
    write(juliet, "old")
    assert juliet("pubsub", "secret", "rotate", "blog").lines[0] == "The locks of blog are changed."
    write(juliet, "new")
    assert "2 messages with secrets sent" in shared(juliet, NURSE).out
    assert texts(nurse, *AT) == {"old", "new"}
    assert "has all secrets already" in shared(juliet, NURSE).out
    assert "Nothing is due" in juliet("pubsub", "secret", "share", "blog").err
    assert "2 messages with secrets sent" in shared(juliet, NURSE, "--again").out
    assert juliet("pubsub", "secret", "share", "blog", "--again").code == exits.USAGE


def test_many_at_once_and_one_who_has_no_key(
    world: World, juliet: Person, nurse: Person, romeo: Person, blog: str
) -> None:
    paris = world.person("paris", "paris@verona.example")
    done = juliet("pubsub", "secret", "share", "blog", NURSE, paris.address, ROMEO, "--json")
    assert done.code == exits.NO_RECIPIENT
    rows = {row["address"]: row for row in map(json.loads, done.lines)}
    assert (rows[NURSE]["error"], rows[ROMEO]["error"]) == ("", "")
    assert "Nobody could read" in rows[paris.address]["error"]
    single = juliet("pubsub", "secret", "share", "blog", paris.address)
    assert (single.code, single.out) == (exits.NO_RECIPIENT, "")


def test_members_are_shown_with_what_they_have(juliet: Person, nurse: Person, romeo: Person, blog: str) -> None:
    shared(juliet, NURSE), shared(juliet, ROMEO, "--publisher")
    juliet("pubsub", "secret", "revoke", "blog", NURSE)
    rows = {row["address"]: row for row in map(json.loads, juliet("pubsub", "node", "members", "blog", "--json").lines)}
    assert (rows[ROMEO]["role"], rows[ROMEO]["affiliation"], rows[ROMEO]["secrets"]) == ("publisher", "publisher", 2)
    assert (rows[NURSE]["role"], rows[NURSE]["affiliation"]) == (None, "none")
    assert rows[NURSE]["removed"]
    assert rows[JULIET]["affiliation"] == "owner"
    table = juliet("pubsub", "node", "members", "blog").out
    assert NURSE in table
    assert "removed 2" in table
    assert romeo("pubsub", "node", "members", "blog", *AT).code == exits.NETWORK


def test_one_secret_is_revoked_by_its_id(juliet: Person, nurse: Person, blog: str) -> None:
    shared(juliet, NURSE)
    (secret,) = [json.loads(line) for line in juliet("pubsub", "secret", "list", "blog", "--json").lines]
    assert (secret["seals"], secret["from"], NURSE in secret["sent_to"]) == (True, JULIET, True)
    done = json.loads(juliet("pubsub", "secret", "revoke", "blog", "--secret", secret["id"], "--json").out)
    assert done["secret"] != secret["id"]
    assert NURSE in done["sent_to"]
    states = {row["id"]: row["state"] for row in map(json.loads, nurse("pubsub", "secret", "list", "--json").lines)}
    assert states == {secret["id"]: "revoked", done["secret"]: "known"}
    assert juliet("pubsub", "secret", "revoke", "blog", "--secret", "nonsense").code == exits.USAGE
    assert juliet("pubsub", "secret", "revoke", "blog").code == exits.USAGE
    assert juliet("pubsub", "secret", "revoke", "blog", NURSE, "--secret", "x").code == exits.USAGE
    assert nurse("pubsub", "secret", "rotate", "blog", *AT).code == exits.USAGE  # not hers


def test_secrets_are_never_printed(world: World, juliet: Person, nurse: Person, blog: str) -> None:
    from tillie import store as stores
    from tillie.pubsub import secrets
    from tillie.store import keys

    shared(juliet, NURSE)
    nurse("pubsub", "secret", "list")
    path = next((juliet.home / "tillie").glob("*/store"))
    store = stores.open(path, Address(JULIET), keys.from_file(juliet.home / "key"))
    from tillie.model import Done

    out = store.run(lambda s: Done(secrets.newest(s, BLOG)))
    store.close()
    value = out.value.value  # type: ignore[union-attr]
    for arguments in (("secret", "list"), ("secret", "list", "--json"), ("node", "members", "blog"), ("node", "list")):
        for person, more in ((juliet, ()), (nurse, AT if arguments[:2] == ("node", "members") else ())):
            done = person("pubsub", *arguments, *more)
            assert value not in done.out + done.err


# -- a stranger's secret ----------------------------------------------------------------------------------------------


def test_a_secret_that_waits_is_accepted_or_refused(world: World, juliet: Person, romeo: Person) -> None:
    """At a service that does not tell who owns a node, a person decides."""
    service = "pubsub.capulet.example"
    place = Node(Address(service), "plans")
    assert juliet("pubsub", "node", "create", "plans", "--service", service).code == exits.OK
    world.server.pubsub.nodes[place].affiliations[Address(ROMEO)] = "member"
    assert juliet("pubsub", "secret", "share", "plans", ROMEO, "--service", service).code == exits.OK
    assert juliet("pubsub", "set", "plans", "--text", "Friday", "--service", service).code == exits.OK
    mercutio = with_key(world.person("mercutio", "mercutio@verona.example"))
    del mercutio
    world.server.pubsub.nodes[place].affiliations.pop(Address(JULIET))
    waits = romeo("pubsub", "secret", "list", "plans")
    assert f"tillie pubsub secret accept plans {JULIET} --service {service}" in waits.out, waits.err
    assert romeo("pubsub", "get", "plans", "--service", service, "--json").out.count("no secret") == 1
    done = romeo("pubsub", "secret", "accept", "plans", JULIET, "--service", service)
    assert done.out == f"The secrets of plans come from {JULIET}: 1 taken in.\n"
    assert json.loads(romeo("pubsub", "get", "plans", "--service", service, "--json").out)["text"] == "Friday"
    assert romeo("pubsub", "secret", "accept", "plans", JULIET, "--service", service).code == exits.USAGE


# -- for a few --------------------------------------------------------------------------------------------------------


def test_an_item_for_one_person(juliet: Person, nurse: Person, romeo: Person, blog: str) -> None:
    shared(juliet, NURSE), shared(juliet, ROMEO)
    done = juliet("pubsub", "set", "blog", "--text", "come at nine", "--encrypt-for", ROMEO, "--id", "tryst")
    assert (done.code, done.err) == (exits.OK, "Published, sealed for 1 device.\n")
    assert texts(romeo, *AT) == {"come at nine"}
    assert texts(romeo, *AT) == {"come at nine"}  # it opens once, and is kept
    hers = nurse("pubsub", "get", "blog", "tryst", *AT)
    assert (hers.code, "come at nine" in hers.out) == (exits.PEER, False)
    assert texts(juliet) == {"come at nine"}


# -- signatures -------------------------------------------------------------------------------------------------------


def test_a_signed_item_is_checked(world: World, juliet: Person, romeo: Person, blog: str) -> None:
    shared(juliet, ROMEO)
    item = write(juliet, "I sign this.", "--sign")
    done = romeo("pubsub", "signature", "check", "blog", item, *AT)
    assert done.code == exits.OK, done.err
    assert done.lines[0].startswith(f"{JULIET}: valid, by a trusted key")
    assert "does not prove who wrote it" in done.err
    countersigned = romeo("pubsub", "signature", "sign", "blog", item, *AT)
    assert (countersigned.code, countersigned.lines[1]) == (exits.OK, "  I sign this."), countersigned.err
    both = json.loads(juliet("pubsub", "signature", "check", "blog", item, "--json").out)
    assert {one["signer"]: one["verdict"] for one in both["signatures"]} == {
        JULIET: "valid_trusted",
        ROMEO: "valid_trusted",
    }


def test_exit_codes_of_a_check(world: World, juliet: Person, romeo: Person, blog: str) -> None:
    shared(juliet, ROMEO)
    plain = write(juliet, "unsigned")
    assert romeo("pubsub", "signature", "check", "blog", plain, *AT).code == exits.PEER
    item = write(juliet, "signed", "--sign")
    romeo("trust", "policy", "manual")
    key = json.loads(romeo("keys", "list", JULIET, "--scheme", "openpgp", "--offline", "--json").out)["fingerprint"]
    romeo("trust", "distrust", JULIET, key)
    assert romeo("pubsub", "signature", "check", "blog", item, *AT).code == exits.DECISION
    write(juliet, "another version", "--id", item)
    changed = juliet("pubsub", "signature", "check", "blog", item)
    assert (changed.code, "not valid" in changed.out) == (exits.PEER, True)
    assert juliet("pubsub", "signature", "check", "blog", "nothing").code == exits.NETWORK


def test_without_a_key_nothing_is_published_that_was_to_be_signed(world: World) -> None:
    paris = world.person("paris", "paris@verona.example")
    done = paris("pubsub", "set", "news", "--text", "x", "--sign")
    assert (done.code, done.out) == (exits.USAGE, "")
    assert "keys generate" in done.err
    assert not world.server.pubsub.seen


def test_what_was_published_but_not_signed_is_told(
    world: World, juliet: Person, blog: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tillie.networks.local_service import LocalService

    publish = LocalService.publish

    async def refuse(self: LocalService, node: Node, item: Item, options: Any = None) -> str:
        if node.name.startswith("urn:xmpp:pubsub-attachments"):
            raise Rejected("no", condition="forbidden")
        return await publish(self, node, item, options)

    monkeypatch.setattr(LocalService, "publish", refuse)
    done = juliet("pubsub", "set", "blog", "--text", "x", "--sign", "--json")
    assert done.code == exits.NETWORK
    assert (json.loads(done.out)["signed"], "not signed" in done.err) == (False, True)


# -- nodes ------------------------------------------------------------------------------------------------------------


def test_a_node_without_a_name_gets_one_that_tells_nothing(juliet: Person) -> None:
    made = juliet("pubsub", "node", "create")
    assert (made.code, len(made.out.strip())) == (exits.OK, 30)
    assert juliet("pubsub", "node", "create", "blog", "--json").code == exits.OK
    again = juliet("pubsub", "node", "create", "blog")
    assert (again.code, "node convert" in again.err) == (exits.NETWORK, True)
    names = [json.loads(line)["node"] for line in juliet("pubsub", "node", "list", "--json").lines]
    assert sorted(names) == sorted([made.out.strip(), "blog"])


def test_an_open_node_is_made_private(juliet: Person, world: World) -> None:
    juliet("pubsub", "node", "create", "blog", "--clear", "--access", "open")
    item = write(juliet, "in clear")
    done = juliet("pubsub", "node", "convert", "blog")
    assert (done.code, done.out) == (exits.OK, "blog is private now: what you publish from now on is sealed.\n")
    assert item in done.err
    assert world.server.pubsub.nodes[BLOG].options["pubsub#access_model"] == "whitelist"
    write(juliet, "sealed")
    assert {row["text"]: row["kind"] for row in read(juliet)} == {"in clear": "clear", "sealed": "opened"}


def test_options_are_changed_and_shown(juliet: Person, blog: str) -> None:
    done = juliet("pubsub", "node", "configure", "blog", "max_items=7")
    assert "max_items=7" in done.lines
    assert "access_model=whitelist" in done.lines
    assert json.loads(juliet("pubsub", "node", "configure", "blog", "--json").out)["pubsub#max_items"] == "7"
    assert juliet("pubsub", "node", "configure", "blog", "nonsense").code == exits.USAGE
    assert juliet("pubsub", "node", "configure", "blog", "access_model=everybody").code == exits.USAGE
    assert juliet("pubsub", "node", "configure", "nothing").code == exits.NETWORK


def test_items_and_nodes_are_deleted(juliet: Person, blog: str) -> None:
    item = write(juliet, "gone")
    assert juliet("pubsub", "delete", "blog", item).out == f"{item}\n"
    assert "no items" in juliet("pubsub", "get", "blog").err
    assert juliet("pubsub", "get", "blog", item).code in (exits.NETWORK, exits.USAGE)
    assert juliet("pubsub", "node", "delete", "blog").code == exits.USAGE  # nobody to ask
    assert juliet("pubsub", "node", "delete", "blog", answers="n\n").code == exits.INTERRUPTED
    assert juliet("pubsub", "node", "delete", "blog", "--yes").code == exits.OK
    assert juliet("pubsub", "get", "blog").code == exits.NETWORK
    assert len(juliet("pubsub", "secret", "list", "blog", "--offline").lines) > 1  # for copies of its items


# -- for programs and terminals ---------------------------------------------------------------------------------------

ITEM = ["service", "node", "id", "kind", "publisher", "secret", "by", "fingerprint", "payload", "text", "notes"]
ITEM += ["error"]
SCHEMAS = {
    ("get", "blog"): ITEM,
    ("list", "blog"): ITEM,
    ("set", "blog", "--text", "x"): ["service", "node", "id", "in_clear", "secret", "devices", "signed", "error"],
    ("node", "create"): ["service", "node", "private"],
    ("node", "convert", "blog"): ["service", "node", "secret", "in_clear", "more", "readers"],
    ("node", "list"): ["service", "node", "shown", "secrets", "from"],
    ("node", "members", "blog"): ["address", "affiliation", "role", "removed", "secrets", "due"],
    ("secret", "list"): ["service", "node", "id", "state", "seals", "time", "from", "reasons", "sent_to"],
    ("secret", "share", "blog", NURSE): ["address", "messages", "error", "devices"],
    ("secret", "rotate", "blog"): ["secret", "sent_to", "failed", "problems", "left_out", "cannot_undo"],
    ("signature", "check", "blog", "1"): ["node", "id", "summary", "signatures", "notes"],
}  # fmt: skip


def test_every_json_has_the_written_schema(juliet: Person, nurse: Person, blog: str) -> None:
    written = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    write(juliet, "one", "--id", "1", "--sign")
    for command, fields in SCHEMAS.items():
        done = juliet("pubsub", *command, "--json")
        assert done.code == exits.OK, (command, done.err)
        assert list(json.loads(done.lines[0])) == fields, command
        assert done.out.isascii()
        for field in fields:
            assert f"`{field}`" in written, (command, field)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("out", "err", "with_results", "bar"),
    [
        (io.StringIO, Terminal, False, True),
        (Terminal, Terminal, False, False),  # what comes is progress enough
        (Terminal, Terminal, True, True),
        (io.StringIO, io.StringIO, True, False),
    ],
)
def test_long_work_shows_a_bar_on_a_terminal_s_stderr_only(
    monkeypatch: pytest.MonkeyPatch, out: type[io.StringIO], err: type[io.StringIO], with_results: bool, bar: bool
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", out())
    monkeypatch.setattr(sys, "stderr", err())
    with progress.shown(also_with_results=with_results) as tell:
        tell("sending secrets", 7, 100)
        show.line("a result")
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert ("7/100" in shown) is bar
    assert sys.stdout.getvalue() == "a result\n"  # type: ignore[attr-defined]
    assert "a result" not in shown


def test_long_sentences_break_between_words_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = "  " + "word " * 30
    for stream, longest in ((Terminal, 40), (io.StringIO, len(text))):
        monkeypatch.setattr(sys, "stderr", stream())
        show.note(text)
        lines = sys.stderr.getvalue().splitlines()  # type: ignore[attr-defined]
        assert max(map(len, lines)) <= longest
        assert " ".join(" ".join(lines).split()) == " ".join(text.split())
        assert all(line.startswith("  ") for line in lines)


# -- flags ------------------------------------------------------------------------------------------------------------


def test_what_an_owner_of_the_service_does_is_flagged(world: World, juliet: Person, blog: str) -> None:
    item = write(juliet, "one")
    read(juliet)
    sealed = world.server.pubsub.nodes[BLOG].items[item]
    world.server.pubsub.nodes[BLOG].items["copy"] = sealed._replace(id="copy")
    done = juliet("pubsub", "get", "blog")
    assert "note: The same sealed item is under the id" in done.err
    broken = sealed.payload.replace(sealed.payload[-60:-40], b"A" * 20)
    world.server.pubsub.nodes[BLOG].items[item] = sealed._replace(payload=broken)
    done = juliet("pubsub", "get", "blog", item)
    assert (done.code, "(tampered: " in done.out) == (exits.PEER, True)


def test_a_peer_s_text_can_t_steer_the_terminal(juliet: Person, romeo: Person, blog: str) -> None:
    shared(juliet, ROMEO, "--publisher")
    evil = "a\N{RIGHT-TO-LEFT OVERRIDE}b\u009bc"
    romeo("pubsub", "set", "blog", "--text", evil, "--id", "x\N{RIGHT-TO-LEFT OVERRIDE}y", *AT)
    for command in ("get", "list"):
        shown = juliet("pubsub", command, "blog").out
        assert not set("\N{RIGHT-TO-LEFT OVERRIDE}\u009b") & set(shown)
