"""The Double Ratchet of one session, pure (XEP-0384 section "Double Ratchet"; Perrin and Marlinspike, "The Double
Ratchet Algorithm", section 3).

`encrypt` and `decrypt` take a session and return the next one; the old one stays as it was, so a message that fails
changes nothing. Skipped message keys go in and out as values: the scheme keeps them beside the session, because a
thousand of them would make every write of the session a thousand times larger.

The sending half of a ratchet step is taken when something is sent, not when the peer's new key arrives: the same keys
come out, and a device that only listens pays one agreement less for each turn.
"""

from __future__ import annotations

from typing import NamedTuple

from tillie.crypto import agree
from tillie.crypto.cipher import decrypt_cbc, encrypt_cbc
from tillie.crypto.kdf import equal, hkdf, hmac
from tillie.errors import Undecryptable
from tillie.schemes.omemo import messages
from tillie.schemes.omemo.messages import MAC, RatchetMessage
from tillie.schemes.omemo.version import Version

MAX_SKIP = 1000  # "modern hardware is safe to choose values of around 1000"
HEARTBEAT_AT = 53  # "the first message for a given ratchet key with a counter of 53 or higher"
_NO_SALT = bytes(32)


class OurChain(NamedTuple):
    """The chain we send with: our ratchet pair, the chain key, the number of the next message."""

    private: bytes
    public: bytes
    key: bytes
    n: int

    def __repr__(self) -> str:
        return f"OurChain(n={self.n})"


class TheirChain(NamedTuple):
    """The chain we receive with: their ratchet key, the chain key, the number of the next message."""

    public: bytes
    key: bytes
    n: int

    def __repr__(self) -> str:
        return f"TheirChain(n={self.n})"


class SkippedKey(NamedTuple):
    """The key of a message that has not come yet."""

    public: bytes
    n: int
    key: bytes

    def __repr__(self) -> str:
        return f"SkippedKey(n={self.n})"


class Ratchet(NamedTuple):
    """The state between two messages. At least one of the chains is there.

    `ours.key` is empty when their newest ratchet key waits for our answer: the next `encrypt` takes the step.
    `theirs` has an empty key before anything was received. `previous` is pn: how many messages our last chain sent.
    """

    root: bytes
    ours: OurChain
    theirs: TheirChain
    previous: int

    def __repr__(self) -> str:
        return f"Ratchet(ours={self.ours}, theirs={self.theirs})"


def begin(version: Version, secret: bytes, their_signed_prekey: bytes) -> Ratchet:
    """Alice's first state: she knows Bob's signed prekey as his first ratchet key."""
    waiting = Ratchet(secret, OurChain(b"", b"", b"", 0), TheirChain(their_signed_prekey, b"", 0), 0)
    return _turn_ours(version, waiting)


def answer(secret: bytes, signed_private: bytes, signed_public: bytes) -> Ratchet:
    """Bob's first state: his signed prekey is his first ratchet pair, and nothing has been received."""
    return Ratchet(secret, OurChain(signed_private, signed_public, b"", 0), TheirChain(b"", b"", 0), 0)


def encrypt(version: Version, ratchet: Ratchet, ad: bytes, secret: bytes) -> tuple[Ratchet, bytes, bytes]:
    """(next state, mac, signed bytes of the OMEMOMessage). `ad` is both identity keys, the initiator's first."""
    if not ratchet.ours.key:
        ratchet = _turn_ours(version, ratchet)
    ours = ratchet.ours
    cipher_key, mac_key, iv = _message_keys(version, hmac(ours.key, b"\x01"))
    signed = messages.encode_unauthenticated(ours.n, ratchet.previous, ours.public, encrypt_cbc(cipher_key, iv, secret))
    mac = hmac(mac_key, ad + signed)[:MAC]
    sent = OurChain(ours.private, ours.public, hmac(ours.key, b"\x02"), ours.n + 1)
    return Ratchet(ratchet.root, sent, ratchet.theirs, ratchet.previous), mac, signed


def decrypt(
    version: Version, ratchet: Ratchet, ad: bytes, message: RatchetMessage
) -> tuple[Ratchet, bytes, list[SkippedKey]]:
    """(next state, secret, keys of messages that were skipped). Undecryptable changes nothing.

    At most MAX_SKIP keys are derived before the message is authenticated. Those of the chain that it ends are derived
    afterwards; where the peer claims to have sent more than MAX_SKIP messages that never came, they are given up, so
    that heavy loss does not block the ratchet for ever.
    """
    turned = message.ratchet_key != ratchet.theirs.public
    theirs = _turn_theirs(version, ratchet, message.ratchet_key) if turned else None
    root, chain = theirs if theirs else (ratchet.root, ratchet.theirs)
    if not chain.key:
        raise Undecryptable("the message answers nothing that was sent")
    if message.n < chain.n:
        raise Undecryptable("the key of this message was used or given up")
    if message.n - chain.n > MAX_SKIP:
        raise Undecryptable(f"more than {MAX_SKIP} messages were skipped")
    skipped: list[SkippedKey] = []
    if message.n > chain.n:
        chain, skipped = _skip(chain, message.n)
    secret = open_with(version, hmac(chain.key, b"\x01"), ad, message)
    received = TheirChain(chain.public, hmac(chain.key, b"\x02"), chain.n + 1)
    if not turned:
        return Ratchet(root, ratchet.ours, received, ratchet.previous), secret, skipped
    old = ratchet.theirs
    if old.key and old.n < message.pn <= old.n + MAX_SKIP:
        skipped = _skip(old, message.pn)[1] + skipped
    ours = ratchet.ours
    # A chain that never sent (two of their keys in a row can only come from a peer that breaks the protocol) keeps n.
    waiting = OurChain(ours.private, ours.public, b"", ours.n)
    return Ratchet(root, waiting, received, ratchet.previous), secret, skipped


def open_with(version: Version, message_key: bytes, ad: bytes, message: RatchetMessage) -> bytes:
    """The secret in a message whose message key is known; Undecryptable if it was altered."""
    cipher_key, mac_key, iv = _message_keys(version, message_key)
    if not equal(hmac(mac_key, ad + message.signed)[:MAC], message.mac):
        raise Undecryptable("the message was altered")
    return decrypt_cbc(cipher_key, iv, message.ciphertext)


def _skip(chain: TheirChain, until: int) -> tuple[TheirChain, list[SkippedKey]]:
    key, skipped = chain.key, []
    for n in range(chain.n, until):
        skipped.append(SkippedKey(chain.public, n, hmac(key, b"\x01")))
        key = hmac(key, b"\x02")
    return TheirChain(chain.public, key, until), skipped


def _turn_ours(version: Version, ratchet: Ratchet) -> Ratchet:
    private, public = agree.generate()
    root, key = _root_step(version, ratchet.root, agree.agree(private, ratchet.theirs.public))
    return Ratchet(root, OurChain(private, public, key, 0), ratchet.theirs, ratchet.ours.n)


def _turn_theirs(version: Version, ratchet: Ratchet, public: bytes) -> tuple[bytes, TheirChain]:
    root, key = _root_step(version, ratchet.root, agree.agree(ratchet.ours.private, public))
    return root, TheirChain(public, key, 0)


def _root_step(version: Version, root: bytes, agreed: bytes) -> tuple[bytes, bytes]:
    """KDF_RK: HKDF with the root key as salt; 64 bytes are the next root key and the new chain key."""
    material = hkdf(agreed, salt=root, info=version.root_info, length=64)
    return material[:32], material[32:]


def _message_keys(version: Version, message_key: bytes) -> tuple[bytes, bytes, bytes]:
    material = hkdf(message_key, salt=_NO_SALT, info=version.message_info, length=80)
    return material[:32], material[32:64], material[64:]
