"""What was ever sent, read from the wire: finds a message key that was used twice."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable

from lxml import etree

from tillie.schemes.omemo import messages
from tillie.schemes.omemo.messages import RatchetMessage

NS = "{urn:xmpp:omemo:2}"


def ratchet_messages(stanza: bytes) -> list[RatchetMessage]:
    found = []
    for key in etree.fromstring(stanza).iter(f"{NS}key"):
        data = b64decode(key.text or "")
        found.append(messages.decode_key_exchange(data).message if key.get("kex") == "true" else messages.decode(data))
    return found


def positions(stanzas: Iterable[bytes]) -> set[tuple[bytes, int]]:
    """(ratchet key, n) of everything sealed. Fails if one pair was used for two different ciphertexts: a message key
    belongs to one pair, and must never encrypt twice."""
    used: dict[tuple[bytes, int], bytes] = {}
    for stanza in stanzas:
        for message in ratchet_messages(stanza):
            place = (message.ratchet_key, message.n)
            assert used.setdefault(place, message.ciphertext) == message.ciphertext, "a message key was used twice"
    return set(used)
