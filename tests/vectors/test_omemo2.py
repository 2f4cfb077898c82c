"""OMEMO 2, layer by layer and as a whole, against what twomemo computed.

Provenance: omemo2_twomemo.json, made by make_omemo2.py; versions and licences are in its first line. Each element has
the kind that it must turn out to be: opened, duplicate, not for us, tampered, malformed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tillie.crypto import agree, sign
from tillie.directory import omemo as directory
from tillie.errors import BadSignature, PeerError, Undecryptable
from tillie.model import Address, Arrived, Done, Kind, Stanza, State
from tillie.pipeline import failed
from tillie.schemes.omemo import Omemo, messages, own, payload, ratchet, records, sessions, x3dh
from tillie.schemes.omemo.ratchet import OurChain, Ratchet, TheirChain
from tillie.schemes.omemo.version import OMEMO2
from tillie.store import Committed, MemoryStore
from tillie.trust.fingerprint import fingerprint

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "omemo2_twomemo.json").read_text(encoding="utf-8"))
BOB = Address("bob@b.example")
NOW = 1_780_000_000.0

Vector = dict[str, Any]


def _bytes(vector: Vector, *names: str) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(vector[name]) for name in names)


@pytest.mark.parametrize("vector", VECTORS["identities"])
def test_identity(vector: Vector) -> None:
    seed, identity, signature = _bytes(vector, "seed", "identity", "label_signature")
    assert sign.public_of(seed) == identity
    assert fingerprint(identity) == vector["fingerprint"]
    labelled = directory.ListedDevice(1, vector["label"], signature)
    assert directory.label_of(labelled, identity) == vector["label"]
    assert directory.label_of(labelled._replace(label="Mallory's loom"), identity) == ""


@pytest.mark.parametrize("vector", VECTORS["x3dh"])
def test_x3dh(vector: Vector) -> None:
    seed_a, a, ek_private, ek = _bytes(vector, "alice_seed", "alice_identity", "ephemeral_private", "ephemeral")
    seed_b, b, spk_private, spk = _bytes(vector, "bob_seed", "bob_identity", "signed_prekey_private", "signed_prekey")
    opk_private, opk, wanted = _bytes(vector, "prekey_private", "prekey", "shared_secret")
    sign.verify(b, spk, bytes.fromhex(vector["signed_prekey_signature"]))
    assert x3dh.initiate(OMEMO2, sign.private_to_curve(seed_a), ek_private, b, spk, opk) == wanted
    assert x3dh.accept(OMEMO2, sign.private_to_curve(seed_b), spk_private, opk_private, a, ek) == wanted
    assert a + b == bytes.fromhex(vector["associated_data"])


@pytest.mark.parametrize("vector", VECTORS["root_steps"])
def test_root_step(vector: Vector) -> None:
    root, private, public = _bytes(vector, "root", "our_private", "their_public")
    assert ratchet._root_step(OMEMO2, root, agree.agree(private, public)) == _bytes(vector, "next_root", "chain")


@pytest.mark.parametrize("vector", VECTORS["messages"])
def test_message(vector: Vector) -> None:
    """Sealed with the same chain, the message has the same bytes; and it opens."""
    chain, public, ad, secret = _bytes(vector, "chain", "ratchet_key", "associated_data", "secret")
    next_chain, wanted = _bytes(vector, "next_chain", "authenticated_message")
    sending = Ratchet(bytes(32), OurChain(bytes(32), public, chain, vector["n"]), TheirChain(b"", b"", 0), vector["pn"])
    sent, mac, signed = ratchet.encrypt(OMEMO2, sending, ad, secret)
    assert messages.encode(mac, signed) == wanted
    assert (sent.ours.key, sent.ours.n) == (next_chain, vector["n"] + 1)
    receiving = Ratchet(bytes(32), OurChain(b"", b"", b"", 0), TheirChain(public, chain, vector["n"]), 0)
    received, opened, skipped = ratchet.decrypt(OMEMO2, receiving, ad, messages.decode(wanted))
    assert (opened, skipped, received.theirs.key) == (secret, [], next_chain)


@pytest.mark.parametrize("vector", VECTORS["messages"])
def test_altered_message(vector: Vector) -> None:
    (ad, wanted), message_key = (
        _bytes(vector, "associated_data", "authenticated_message"),
        bytes.fromhex(vector["message_key"]),
    )
    good = messages.decode(wanted)
    assert ratchet.open_with(OMEMO2, message_key, ad, good) == bytes.fromhex(vector["secret"])
    with pytest.raises(Undecryptable):
        ratchet.open_with(OMEMO2, message_key, ad[32:] + ad[:32], good)
    with pytest.raises(Undecryptable):
        ratchet.open_with(OMEMO2, message_key, ad, good._replace(mac=bytes(16)))


@pytest.mark.parametrize("vector", VECTORS["payloads"])
def test_payload(vector: Vector) -> None:
    plaintext, key, tag, ciphertext = _bytes(vector, "plaintext", "key", "tag", "ciphertext")
    assert payload._seal_from_parts(OMEMO2, plaintext, key) == (key + tag, ciphertext)
    assert payload.open(OMEMO2, key + tag, ciphertext) == plaintext
    with pytest.raises(Undecryptable):
        payload.open(OMEMO2, key + tag, ciphertext[:-1] + bytes((ciphertext[-1] ^ 1,)))


def test_bundle() -> None:
    """A bundle as twomemo publishes it is read, and what we write of it is read the same."""
    bundle = directory.parse_bundle(VECTORS["bundle"].encode())
    assert bundle.identity == bytes.fromhex(VECTORS["identities"][0]["identity"])
    assert len(bundle.prekeys) == 100
    assert directory.parse_bundle(directory.encode_bundle(bundle)) == bundle
    published = VECTORS["bundle"].encode()
    signature = VECTORS["bundle"].partition("<spks>")[2].partition("</spks>")[0]
    altered = ("B" if signature[0] != "B" else "C") + signature[1:]
    with pytest.raises(BadSignature):
        directory.parse_bundle(published.replace(signature.encode(), altered.encode()))


# -- whole elements -------------------------------------------------------------------------------------------------


class _Bob:
    """A device of ours with the private keys of the vector, in a store of its own."""

    def __init__(self, vector: Vector) -> None:
        self.scheme = Omemo(BOB)
        self.store = MemoryStore(BOB, clock=lambda: NOW)
        self.sender = Address(vector["sender"]["address"])
        self.sid = vector["sender"]["device_id"]
        self.store.run(lambda s: Done(self._restore(s, vector)))

    def _restore(self, s: State, vector: Vector) -> None:
        keys = vector["own"]
        seed, identity, signed, signature, once = _bytes(
            keys, "seed", "identity", "signed_prekey_private", "signed_prekey_signature", "prekey_private"
        )
        own.create(s, keys["device_id"], seed, NOW)
        mine = own.load(s)
        assert mine is not None
        assert mine.identity == identity
        prekey = records.SignedPrekey(signed, agree.public_of(signed), signature, NOW, 0.0)
        s.put(records.of_number("signed", keys["signed_prekey_id"]), records.encode_signed(prekey))
        s.put(records.of_number("prekey", keys["prekey_id"]), records.encode_pair(once, agree.public_of(once)))
        if "session" in vector:
            sessions.save(s, self.sender, self.sid, _session(vector["session"]))

    def kind_of(self, element: str) -> tuple[str, str | None]:
        got = Arrived(element.encode(), Stanza("message", Address(self.sender + "/loom"), BOB, "chat"))
        try:
            out = self.store.run(lambda s: self.scheme.open(s, got, NOW))
        except PeerError as error:
            return failed(self.scheme, got, error).kind.value, None
        assert isinstance(out, Committed)
        opened = out.value
        return opened.kind.value, opened.plaintext.decode() if opened.plaintext else None


def _session(vector: Vector) -> records.Session:
    identity, ephemeral, root = _bytes(vector, "identity", "ephemeral", "root")
    ours = OurChain(*_bytes(vector, "our_private", "our_public", "our_chain"), vector["our_n"])
    theirs = TheirChain(*_bytes(vector, "their_public", "their_chain"), vector["their_n"])
    return records.Session(identity, ephemeral, False, True, 1, 1, Ratchet(root, ours, theirs, vector["previous"]), NOW)


@pytest.mark.parametrize("name", ["key_exchange", "running_session"])
def test_elements(name: str) -> None:
    """One after the other, on one device: what fails must not cost what comes after it."""
    vector = VECTORS[name]
    bob = _Bob(vector)
    for step in vector["steps"]:
        assert bob.kind_of(step["element"]) == (step["kind"], step["plaintext"]), step["name"]


def test_every_kind_is_known() -> None:
    kinds = {step["kind"] for name in ("key_exchange", "running_session") for step in VECTORS[name]["steps"]}
    assert kinds == {"opened", "duplicate", "not for us", "tampered", "malformed"}
    assert kinds <= {kind.value for kind in Kind}
