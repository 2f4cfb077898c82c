"""Write omemo2_twomemo.json: what twomemo 2.1 computes, with the private keys that it used.

Run by hand, with the test peers installed: `PYTHONPATH=src:tests python tests/vectors/make_omemo2.py`. The keys are new
each time; what is in the file was made once and is kept, so that our code is held against the same bytes for ever.
"""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64decode
from importlib.metadata import version
from pathlib import Path
from secrets import token_bytes
from typing import Any
from xml.etree import ElementTree as ET

import doubleratchet
import x3dh
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from omemo import SessionManager
from twomemo.twomemo import AEADImpl, DoubleRatchetImpl, MessageChainKDFImpl, RootChainKDFImpl, StateImpl

from support.pep import NS, PepServer
from support.talk import KEY_PATH
from support.twomemo_peer import TwomemoPeer, drive

ALICE, BOB = "alice@a.example", "bob@b.example"
HERE = Path(__file__).parent


def _stored(peer: TwomemoPeer, name: str) -> Any:
    return peer.storage.snapshot()[name].from_just()


def _latin(text: str) -> bytes:
    """python-doubleratchet and x3dh keep bytes in JSON as one character for each byte."""
    return text.encode("latin-1")


def _x3dh() -> dict[str, str]:
    """Bob's side by twomemo; Alice's private keys are ours, and chosen at random."""
    state = StateImpl.create(x3dh.IdentityKeyFormat.ED_25519, x3dh.HashFunction.SHA_256, StateImpl.INFO)
    state.generate_pre_keys(1)
    alice = StateImpl.create(x3dh.IdentityKeyFormat.ED_25519, x3dh.HashFunction.SHA_256, StateImpl.INFO)
    ephemeral = token_bytes(32)
    (once,) = state.bundle.pre_keys
    header = x3dh.Header(
        alice.bundle.identity_key, crypto_scalarmult_base(ephemeral), state.bundle.signed_pre_key, once
    )
    secret, associated, _ = drive(state.get_shared_secret_passive(header))
    kept: Any = state.json
    return {
        "alice_seed": _latin(_secret(alice)).hex(),
        "alice_identity": alice.bundle.identity_key.hex(),
        "ephemeral_private": ephemeral.hex(),
        "ephemeral": header.ephemeral_key.hex(),
        "bob_seed": _latin(_secret(state)).hex(),
        "bob_identity": state.bundle.identity_key.hex(),
        "signed_prekey_private": _latin(kept["signed_pre_key"]["priv"]).hex(),
        "signed_prekey": state.bundle.signed_pre_key.hex(),
        "signed_prekey_signature": state.bundle.signed_pre_key_sig.hex(),
        "prekey_private": _prekey_private(kept, once).hex(),
        "prekey": once.hex(),
        "associated_data": associated.hex(),
        "shared_secret": secret.hex(),
    }


def _secret(state: StateImpl) -> str:
    kept: Any = state.json
    assert kept["identity_key"]["secret_type"] == "SEED"
    return str(kept["identity_key"]["secret"])


def _prekey_private(kept: Any, public: bytes) -> bytes:
    """x3dh stores the private halves only."""
    privates = [_latin(pair["priv"] if isinstance(pair, dict) else pair) for pair in kept["pre_keys"]]
    (private,) = (private for private in privates if crypto_scalarmult_base(private) == public)
    return private


def _root_step() -> dict[str, str]:
    root, ours, theirs = token_bytes(32), token_bytes(32), token_bytes(32)
    agreed = crypto_scalarmult(ours, crypto_scalarmult_base(theirs))
    material = drive(RootChainKDFImpl.derive(root, agreed, 64))
    return {
        "root": root.hex(),
        "our_private": ours.hex(),
        "their_public": crypto_scalarmult_base(theirs).hex(),
        "next_root": material[:32].hex(),
        "chain": material[32:].hex(),
    }


def _message() -> dict[str, Any]:
    """One message on a chain: the next chain key, and the authenticated message."""
    chain, private, associated, secret = (token_bytes(size) for size in (32, 32, 64, 48))
    public = crypto_scalarmult_base(private)
    constant = DoubleRatchetImpl.MESSAGE_CHAIN_CONSTANT
    material = drive(MessageChainKDFImpl.derive(chain, constant, 64))
    header = doubleratchet.Header(public, 3, 17)
    full = DoubleRatchetImpl._build_associated_data(associated, header)
    sealed = drive(AEADImpl.encrypt(secret, material[32:], full))
    return {
        "chain": chain.hex(),
        "ratchet_key": public.hex(),
        "n": 17,
        "pn": 3,
        "associated_data": associated.hex(),
        "secret": secret.hex(),
        "next_chain": material[:32].hex(),
        "message_key": material[32:].hex(),
        "authenticated_message": sealed.hex(),
    }


def _payload(peer: TwomemoPeer, plaintext: bytes) -> dict[str, str]:
    content, key = drive(peer.backend.encrypt_plaintext(plaintext))
    return {
        "plaintext": plaintext.hex(),
        "key": key.key.hex(),
        "tag": key.auth_tag.hex(),
        "ciphertext": content.ciphertext.hex(),
    }


def _changed(element: bytes, change: Any, where: str = KEY_PATH) -> str:
    root = ET.fromstring(element)
    found = root.find(where)
    assert found is not None
    found.text = b64encode(change(urlsafe_b64decode((found.text or "").replace("+", "-").replace("/", "_")))).decode()
    return ET.tostring(root).decode()


def _own_keys(bob: TwomemoPeer, number: int) -> dict[str, Any]:
    """What Bob needs to accept a key exchange that uses his prekey `number`."""
    state = _stored(bob, f"/{NS}/x3dh")
    ids = {value: key for key, value in _stored(bob, f"/{NS}/pre_key_ids").items()}
    public = urlsafe_b64decode(ids[number].replace("+", "-").replace("/", "_"))
    return {
        "device_id": bob.device_id,
        "seed": _latin(state["identity_key"]["secret"]).hex(),
        "identity": bob.identity_key.hex(),
        "signed_prekey_id": 1,
        "signed_prekey_private": _latin(state["signed_pre_key"]["priv"]).hex(),
        "signed_prekey_signature": _latin(state["signed_pre_key"]["sig"]).hex(),
        "prekey_id": number,
        "prekey_private": _prekey_private(state, public).hex(),
    }


def _step(name: str, element: bytes | str, kind: str, plaintext: bytes | None = None) -> dict[str, Any]:
    text = element.decode() if isinstance(element, bytes) else element
    return {"name": name, "element": text, "kind": kind, "plaintext": plaintext.decode() if plaintext else None}


def _key_exchange() -> dict[str, Any]:
    """A new session as Bob sees it: Alice writes, he never answers, so every message repeats the key exchange."""
    server = PepServer()
    alice, bob = TwomemoPeer(server, ALICE), TwomemoPeer(server, BOB)
    alice.learn_devices(BOB)
    bob.learn_devices(ALICE)
    before = bob.storage.snapshot()
    texts = [b"message %d" % number for number in range(5)]
    sent = [alice.encrypt(BOB, text) for text in texts]
    bob.decrypt(ALICE, sent[0])  # which prekey was it?
    number = _stored(bob, f"/{NS}/{ALICE}/{alice.device_id}/key_exchange/pre_key_id")
    bob.storage.restore(before)
    assert number < 128, "one byte of varint, for the changes below"
    nobody = ET.fromstring(sent[0])
    for key in nobody.iterfind(KEY_PATH):
        key.set("rid", "1")
    last = _changed(sent[0], lambda data: data[:-1] + bytes((data[-1] ^ 1,)))
    steps = [
        _step("a key exchange without a prekey", _changed(sent[0], lambda data: data[2:]), "malformed"),
        _step("a key exchange with prekey 0", _changed(sent[0], lambda data: b"\x08\x00" + data[2:]), "malformed"),
        _step("a prekey that Bob does not have", _changed(sent[0], lambda d: b"\x08\xe7\x07" + d[2:]), "tampered"),
        _step("its ciphertext altered", last, "tampered"),
        _step("its payload altered", _changed(sent[0], _flip_first, f"{{{NS}}}payload"), "tampered"),
        _step("sealed for another device", ET.tostring(nobody), "not for us"),
        _step("the third message comes first", sent[2], "opened", texts[2]),
        _step("the first", sent[0], "opened", texts[0]),
        _step("the first again", sent[0], "duplicate"),
        _step("the fifth", sent[4], "opened", texts[4]),
        _step("the fourth", sent[3], "opened", texts[3]),
        _step("the second", sent[1], "opened", texts[1]),
    ]
    return {"own": _own_keys(bob, number), "sender": {"address": ALICE, "device_id": alice.device_id}, "steps": steps}


def _flip_first(data: bytes) -> bytes:
    return bytes((data[0] ^ 1,)) + data[1:]


def _running_session() -> dict[str, Any]:
    """A session in the middle of a conversation, as twomemo keeps it; then messages across a ratchet step."""
    server = PepServer()
    alice, bob = TwomemoPeer(server, ALICE), TwomemoPeer(server, BOB)
    alice.learn_devices(BOB)
    bob.learn_devices(ALICE)
    for number in range(3):
        bob.decrypt(ALICE, alice.encrypt(BOB, b"warm-up %d" % number))
        alice.decrypt(BOB, bob.encrypt(ALICE, b"warm-up %d" % number))
    bob.decrypt(ALICE, alice.encrypt(BOB, b"the last before the state is written down"))
    own, session = _own_keys(bob, 100), _session(bob, alice.device_id)
    late, next_ = alice.encrypt(BOB, b"late"), alice.encrypt(BOB, b"next")
    alice.decrypt(BOB, bob.encrypt(ALICE, b"an answer, with the ratchet key in the state"))
    turned = alice.encrypt(BOB, b"on a new chain")
    steps = [
        _step("the next but one on the chain", next_, "opened", b"next"),
        _step("the first on a new chain", turned, "opened", b"on a new chain"),
        _step("a late one on the chain before", late, "opened", b"late"),
        _step("the late one again", late, "duplicate"),
        _step("altered", _changed(turned, lambda data: data[:-1] + bytes((data[-1] ^ 1,))), "tampered"),
    ]
    sender = {"address": ALICE, "device_id": alice.device_id}
    return {"own": own, "sender": sender, "session": session, "steps": steps}


def _session(bob: TwomemoPeer, device_id: int) -> dict[str, Any]:
    prefix = f"/{NS}/{ALICE}/{device_id}"
    ratchet = _stored(bob, f"{prefix}/double_ratchet")["diffie_hellman_ratchet"]
    chains = ratchet["symmetric_key_ratchet"]
    private = _latin(ratchet["own_ratchet_priv"])
    return {
        "identity": urlsafe_b64decode(_stored(bob, f"{prefix}/key_exchange/identity_key")).hex(),
        "ephemeral": urlsafe_b64decode(_stored(bob, f"{prefix}/key_exchange/ephemeral_key")).hex(),
        "root": _latin(ratchet["root_chain"]["key"]).hex(),
        "our_private": private.hex(),
        "our_public": crypto_scalarmult_base(private).hex(),
        "our_chain": _latin(chains["sending_chain"]["key"]).hex(),
        "our_n": chains["sending_chain"]["length"],
        "their_public": _latin(ratchet["other_ratchet_pub"]).hex(),
        "their_chain": _latin(chains["receiving_chain"]["key"]).hex(),
        "their_n": chains["receiving_chain"]["length"],
        "previous": chains["previous_sending_chain_length"] or 0,
    }


def _identity(peer: TwomemoPeer) -> dict[str, str]:
    return {
        "seed": urlsafe_b64decode(_stored(peer, "/ikp/key")).hex(),
        "identity": peer.identity_key.hex(),
        "fingerprint": " ".join(SessionManager.format_identity_key(peer.identity_key)),
        "label": "Alice's loom \N{SPOOL OF THREAD}",
        "label_signature": drive(peer.backend.sign_own_label("Alice's loom \N{SPOOL OF THREAD}")).hex(),
    }


def main() -> None:
    server = PepServer()
    peers = [TwomemoPeer(server, ALICE) for _ in range(3)]
    names = ("omemo", "twomemo", "x3dh", "doubleratchet", "xeddsa")
    vectors = {
        "provenance": "Computed by make_omemo2.py with "
        + ", ".join(f"{name} {version(name)}" for name in names)
        + " (MIT licences). Bytes are in hex.",
        "identities": [_identity(peer) for peer in peers],
        "x3dh": [_x3dh() for _ in range(3)],
        "root_steps": [_root_step() for _ in range(3)],
        "messages": [_message() for _ in range(3)],
        "payloads": [_payload(peers[0], b"x" * size) for size in (0, 1, 15, 16, 17, 200)],
        "bundle": server.items[ALICE, "urn:xmpp:omemo:2:bundles", str(peers[0].device_id)].decode(),
        "key_exchange": _key_exchange(),
        "running_session": _running_session(),
    }
    text = json.dumps(vectors, indent=1, ensure_ascii=False) + "\n"
    (HERE / "omemo2_twomemo.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
