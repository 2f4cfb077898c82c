"""Transcripts: fingerprints, decisions, policies, a changed key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.terminal import ALICE, BOB, Person, World, alice, bob, world
from tillie.cli import exits, verifying
from tillie.errors import UsageError
from tillie.model import Address

__all__ = ["alice", "bob", "world"]


def key_of(person: Person) -> dict[str, Any]:
    """A person's own key, as her own device shows it."""
    keys = [json.loads(line) for line in person("devices", "--json", "--offline").lines]
    found: dict[str, Any] = next(key for key in keys if key["this"])
    return found


def seen_by(person: Person, address: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in person("trust", "list", address, "--json").lines]


def test_both_sides_show_the_same_fingerprint(alice: Person, bob: Person) -> None:
    shown = json.loads(alice("devices", BOB, "--json").out)
    assert shown["fingerprint"] == key_of(bob)["fingerprint"]
    assert len(shown["fingerprint"].split()) == 8
    assert shown["fingerprint"] in alice("trust", "list").out


def test_verify_asks_and_yes_is_kept(alice: Person, bob: Person) -> None:
    done = alice("verify", BOB, answers="yes\n")
    assert done.code == exits.OK
    assert key_of(bob)["fingerprint"] in done.out
    assert f"xmpp:{ALICE}?omemo-sid-{key_of(alice)['device']}=" in done.out
    assert [key["trust"] for key in seen_by(alice, BOB)] == ["verified"]
    alice("send", BOB, "hello")
    bob("send", ALICE, "hello")
    assert "[verified]" in alice("listen", "--count", "1").out


def test_there_is_one_way_to_verify(alice: Person) -> None:
    assert alice("trust", "verify", BOB, answers="y\n").code == exits.USAGE


def test_no_distrusts_and_nothing_is_sealed_for_that_key(alice: Person, bob: Person) -> None:
    assert alice("verify", BOB, answers="perhaps\nno\n").code == exits.OK
    assert [key["trust"] for key in seen_by(alice, BOB)] == ["distrusted"]
    done = alice("send", BOB, "hello")
    assert done.code == exits.NO_RECIPIENT
    assert "distrusted" in done.err


def test_enter_leaves_it_open(alice: Person, bob: Person) -> None:
    assert alice("verify", BOB, answers="\n").code == exits.DECISION
    assert [key["trust"] for key in seen_by(alice, BOB)] == ["trusted"]


def test_verify_without_a_terminal_needs_the_fingerprint(alice: Person, bob: Person) -> None:
    done = alice("verify", BOB)
    assert (done.code, "--fingerprint" in done.err) == (exits.USAGE, True)
    fingerprint = key_of(bob)["fingerprint"]
    assert alice("verify", BOB, "--fingerprint", fingerprint.upper().replace(" ", ":")).code == exits.OK
    assert [key["trust"] for key in seen_by(alice, BOB)] == ["verified"]


def test_a_fingerprint_that_differs_verifies_nothing(alice: Person, bob: Person) -> None:
    done = alice("verify", BOB, "--fingerprint", "00" * 32)
    assert done.code == exits.DECISION
    assert "No known key has that fingerprint" in done.err
    assert [key["trust"] for key in seen_by(alice, BOB)] == ["trusted"]
    assert alice("verify", BOB, "--fingerprint", "123").code == exits.USAGE


def test_the_link_of_a_code_verifies(alice: Person, bob: Person) -> None:
    theirs = key_of(bob)
    digits = theirs["fingerprint"].replace(" ", "")
    link = f"xmpp:{BOB}?omemo-sid-{theirs['device']}={digits}"
    altered = f"xmpp:{BOB}?omemo-sid-{theirs['device']}={'00' * 32}"
    assert alice("verify", BOB, "--uri", altered).code == exits.DECISION
    assert alice("verify", BOB, "--uri", link.replace("bob@", "mercutio@")).code == exits.USAGE
    assert alice("verify", BOB, "--uri", "https://example.org").code == exits.USAGE
    assert alice("verify", BOB, "--uri", link).code == exits.OK
    assert [key["trust"] for key in seen_by(alice, BOB)] == ["verified"]


def test_an_openpgp_key_can_t_stand_for_a_device_in_a_link() -> None:
    """The number of an OpenPGP key is a part of its fingerprint, and so anything that its maker wants."""
    from tillie.known import KnownKey
    from tillie.model import Device, Trust
    from tillie.trust.fingerprint import fingerprint

    key = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")  # RFC 8032, test 2
    bob = Address(BOB)
    theirs = KnownKey(Device(bob, 7, key), Trust.UNDECIDED)
    forged = KnownKey(Device(bob, 7, bytes(20)), Trust.UNDECIDED, scheme="openpgp")
    for keys in ([theirs, forged], [forged, theirs]):
        assert verifying.match(bob, keys, "", {"7": fingerprint(key)}) == [theirs]


def test_a_link_is_read_back(alice: Person) -> None:
    from tillie.model import Device

    key = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")  # RFC 8032, test 2
    odd = Address("o+x?y#z%@capulet.example")
    link = verifying.uri_of([Device(odd, 7, key)])
    assert link.isascii()
    assert list(verifying.fingerprints_in(link, odd)) == ["7"]
    with pytest.raises(UsageError):
        verifying.fingerprints_in(link, Address(ALICE))


def test_a_verified_contact_s_new_key_stops_a_send_and_says_what_to_do(
    world: World, alice: Person, bob: Person
) -> None:
    alice("verify", BOB, answers="y\n")
    world.person("bob", BOB, machine="tablet")
    done = alice("send", BOB, "hello")
    assert (done.code, done.out) == (exits.DECISION, "")
    assert done.err.startswith("error: Nothing was sent: a contact you verified has a new key.")
    assert "tillie verify" in done.err
    assert "trust distrust" in done.err
    assert alice("history", BOB).out == ""


def test_at_a_terminal_send_asks_about_the_new_key(world: World, alice: Person, bob: Person) -> None:
    alice("verify", BOB, answers="y\n")
    tablet = world.person("bob", BOB, machine="tablet")
    left_open = alice("send", BOB, "hello", answers="\n")
    assert left_open.code == exits.DECISION
    assert key_of(tablet)["fingerprint"] in left_open.err
    assert alice("send", BOB, "hello", answers="what?\nd\n").code == exits.OK
    assert sorted(key["trust"] for key in seen_by(alice, BOB)) == ["distrusted", "verified"]
    assert bob("listen", "--count", "1").out.endswith("hello\n")


def test_the_policies(world: World, alice: Person, bob: Person) -> None:
    assert alice("trust", "policy").out == "blind-before-verify\n"
    assert alice("trust", "policy", "manual").out == "manual\n"
    assert alice("send", BOB, "hello").code == exits.DECISION
    assert alice("trust", "policy", "first-use").code == exits.OK
    assert alice("send", BOB, "hello").code == exits.OK
    world.person("bob", BOB, machine="tablet")
    assert alice("send", BOB, "hello").code == exits.DECISION
    assert alice("trust", "policy", "blind-before-verify").code == exits.OK
    assert alice("send", BOB, "hello").code == exits.OK
    assert alice("trust", "policy", "whatever").code == exits.USAGE


def test_distrust_names_one_device(world: World, alice: Person, bob: Person) -> None:
    tablet = world.person("bob", BOB, machine="tablet")
    alice("devices", BOB)
    several = alice("trust", "distrust", BOB)
    assert (several.code, "several devices" in several.err) == (exits.USAGE, True)
    lost = str(key_of(tablet)["device"])
    assert alice("trust", "distrust", BOB, lost).code == exits.OK
    report = json.loads(alice("send", BOB, "hello", "--json").out)["devices"]
    assert {str(device["device"]): device["why"] for device in report}[lost] == "distrusted"
    assert alice("trust", "distrust", BOB, "12345").code == exits.USAGE
