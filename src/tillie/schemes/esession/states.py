"""What each side keeps between two messages of a negotiation, and what comes of it (XEP-0116 section 4).

Initiator: `Offering` after message 1, `Concluding` after message 3, `Established` after message 4. Responder:
`Answering` after message 2, `Established` after message 4. With three messages both are `Established` with message 3.
All secrets of an attempt are in these and nowhere else: dropping the record forgets the attempt.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from tillie.schemes.esession.channel import Channel
from tillie.schemes.esession.identity import PublicIdentity
from tillie.schemes.esession.parameters import Parameters
from tillie.schemes.esession.settings import Secret
from tillie.trust import strings


class Offering(msgspec.Struct, frozen=True, array_like=True):
    """Of the initiator, after message 1. `form` is the <x/> as sent; `exponents` has the number of each group,
    and of its x and e the octets."""

    profile: str
    three: bool
    form: bytes
    nonce: bytes
    exponents: tuple[tuple[int, bytes, bytes], ...]

    def __repr__(self) -> str:
        return "Offering(...)"


class Answering(msgspec.Struct, frozen=True, array_like=True):
    """Of the responder, after message 2. `commitment` is what message 1 says of e in the chosen group: its hash, or e
    itself with three messages; then `key` is K. `profile` is what our own values followed, not what the peer does."""

    profile: str
    parameters: Parameters
    form_a: bytes
    form_b: bytes
    nonce_a: bytes
    nonce_b: bytes
    counter: bytes  # C_A
    exponent: bytes  # y
    public: bytes  # d
    commitment: bytes
    counter_b: bytes = b""  # with three messages: C_B after ID_B
    key: bytes = b""

    def __repr__(self) -> str:
        return "Answering(...)"


class Concluding(msgspec.Struct, frozen=True, array_like=True):
    """Of the initiator, after message 3. `key` is K before retained and other secrets are mixed in."""

    profile: str
    parameters: Parameters
    form_b: bytes
    nonce_a: bytes
    nonce_b: bytes
    counter_a: bytes  # after ID_A
    counter_b: bytes
    exponent: bytes  # x of the chosen group
    peer: bytes  # d
    key: bytes
    string: str
    string_digest: bytes

    def __repr__(self) -> str:
        return "Concluding(...)"


class Established(NamedTuple):
    """A session that both sides agreed on.

    `used` is the retained secret that was found, `new_secret` what to retain in its place (b"" with three messages).
    `string` is for people to compare; it `verifies` only if it is our own kind, which nobody can search for: the old
    one (`string_name` sas28x5) never does. `peer_key` is a key that has signed; whether it is trusted, others ask.
    """

    channel: Channel
    profile: str
    parameters: Parameters
    peer_key: PublicIdentity | None
    used: Secret | None = None
    new_secret: bytes = b""
    string: str = ""
    string_digest: bytes = b""

    @property
    def string_name(self) -> str:
        return self.parameters.string

    @property
    def verifies(self) -> bool:
        return strings.verifies(self.string_name)

    def __repr__(self) -> str:
        return f"Established({self.profile!r}, {self.string_name!r}, used={self.used is not None})"
