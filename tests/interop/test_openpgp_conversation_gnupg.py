"""OpenPGP for XMPP with somebody who uses GnuPG: her key becomes ours, and GnuPG reads and writes our messages."""

from __future__ import annotations

from os import urandom

import pytest

from support.gnupg import GnuPG, gnupg
from support.openpgp import ALICE, BOB, PgpEnd, PgpWorld, arrived
from tillie.crypto import openpgp
from tillie.directory import openpgp as directory
from tillie.errors import UsageError
from tillie.model import Content, Done, Kind
from tillie.schemes.openpgp import content, keys
from tillie.schemes.openpgp.content import Form
from tillie.trust.decisions import Policy
from tillie.wire import xml

__all__ = ["gnupg"]  # the fixture
PASSPHRASE = "correct horse"


def meeting(gnupg: GnuPG, passphrase: str = "") -> tuple[PgpWorld, PgpEnd, PgpEnd, str]:
    """Alice uses the key that she made with GnuPG long ago, Bob one that Tillie made."""
    fingerprint = gnupg.generate("Alice <alice@mail.example>", passphrase)
    world = PgpWorld()
    bob = PgpEnd(world, BOB)
    alice = PgpEnd(world, ALICE, generate=False)
    export = gnupg.export_secret(fingerprint, passphrase)
    alice.run(lambda s: alice.scheme.import_keys(s, export, passphrase, alice.now))
    return world, alice, bob, fingerprint


def test_an_existing_key_of_gnupg_and_its_passphrase(gnupg: GnuPG) -> None:
    world, alice, bob, fingerprint = meeting(gnupg, PASSPHRASE)
    assert alice.key.fingerprint.hex() == fingerprint
    assert f"xmpp:{ALICE}" in alice.key.certificate.user_ids
    assert alice.say(BOB, "with my old key").report[0].sealed
    bob.say(ALICE, "so it is you")
    assert [each.kind for each in world.settle()] == [Kind.OPENED] * 2
    gnupg.take(directory.parse_key(world.nodes[ALICE, directory.key_node(alice.key.fingerprint)]))
    assert f"xmpp:{ALICE}".encode() in gnupg.run("--list-keys", fingerprint)
    laptop = PgpEnd(PgpWorld(), ALICE, generate=False)
    export = gnupg.export_secret(fingerprint, PASSPHRASE)
    before = laptop.dump()
    for data, passphrase in ((export, "wrong"), (gnupg.export(fingerprint), ""), (b"", ""), (b"\x99", "")):
        with pytest.raises(UsageError):
            laptop.run(lambda s, d=data, p=passphrase: laptop.scheme.import_keys(s, d, p, laptop.now))  # type: ignore[misc]
    assert laptop.dump() == before


def test_gnupg_reads_what_we_write_and_we_read_what_it_writes(gnupg: GnuPG) -> None:
    world, alice, bob, fingerprint = meeting(gnupg)
    gnupg.take(bob.key.certificate.data)
    bob.say(ALICE, "hello, GnuPG")
    (letter,) = world.take(alice)
    read = gnupg.open(letter.message)
    assert read.signers == (bob.key.fingerprint.hex(),)
    assert content.decode(read.plaintext).content.data.count(b"hello, GnuPG") == 1
    hello = Content(b"<body xmlns='jabber:client'>hello, Tillie</body>")
    plaintext = content.encode(Form.SIGNCRYPT, hello, [BOB], world.now, urandom)
    sealed = gnupg.seal(plaintext, [bob.key.fingerprint.hex(), fingerprint], fingerprint)
    assert bob.open(arrived(sealed, ALICE, BOB)).kind is Kind.OPENED
    assert bob.read_texts == ["hello, Tillie"]
    assert alice.open(arrived(sealed, ALICE, BOB, via="carbon")).kind is Kind.OPENED


def test_gnupg_opens_a_backup_and_we_open_one_of_its(gnupg: GnuPG) -> None:
    _, alice, _, fingerprint = meeting(gnupg)
    code = alice.scheme.new_code()
    payload = alice.run(lambda s: Done(alice.scheme.backup(s, code)))
    with GnuPG() as other:
        other.take(other.open(directory.parse_backup(payload), code).plaintext)
        assert other.fingerprint(f"xmpp:{ALICE}") == fingerprint
    made = gnupg.seal_with_password(gnupg.export_secret(fingerprint), code)
    laptop = PgpEnd(PgpWorld(), ALICE, generate=False)
    laptop.run(lambda s: laptop.scheme.restore(s, directory.encode_backup(made), code, laptop.now))
    assert laptop.key.fingerprint.hex() == fingerprint


def test_gnupg_opens_an_object(gnupg: GnuPG) -> None:
    _, _, bob, _ = meeting(gnupg)
    bob.say(ALICE, "so that he knows her key")
    sealed = bob.run(lambda s: bob.scheme.seal_object(s, Policy.BLIND, b"\0object\xff", [ALICE], bob.now))
    gnupg.take(bob.key.certificate.data)
    read = gnupg.open(sealed.message)
    (child,) = xml.parse_fragment(content.decode(read.plaintext).content.data)
    assert (child.tag, child.text) == ("{urn:tillie:object:0}object", "AG9iamVjdP8=")


def test_a_key_that_gnupg_revoked_is_not_used(gnupg: GnuPG) -> None:
    _, alice, _, fingerprint = meeting(gnupg)
    file = gnupg.home / "openpgp-revocs.d" / f"{fingerprint.upper()}.rev"
    gnupg.take(file.read_bytes().replace(b":-----", b"-----"))
    published = openpgp.parse_certificate(gnupg.export(fingerprint))
    assert published.why_unusable(alice.now) == "revoked"
    assert alice.run(lambda s: Done(keys.join(s, published.fingerprint, published)))
    assert alice.key.certificate.revoked
