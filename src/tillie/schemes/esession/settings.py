"""What we are willing to agree on in a negotiation of XEP-0116, and with whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from tillie.crypto import modp
from tillie.crypto.ctr import CIPHERS, NONE
from tillie.crypto.kdf import HASHES
from tillie.crypto.random import random_index
from tillie.errors import UsageError
from tillie.model import Address
from tillie.schemes.esession.identity import Identity
from tillie.schemes.esession.profile import STRICT, Layout, Profile
from tillie.trust.strings import SAS28X5, TILLIE

Draw = Callable[[int], bytes]
VERSION = "1.0"
STANZAS = ("message", "presence", "iq")
PUBKEY_WAYS = ("key", "hash", "none")
NEVER_REKEY = 4_294_967_295  # "This value MUST be less than 2^32"
MAX_SECRETS = 250  # of one peer that we name to it in a negotiation, beside the random ones

# The code for two people who have met: 16 characters of 34 are 81 bits. XEP-0116 allows any password; but whoever plays
# the other side in one attempt can try passwords for ever after, offline.
CODE_ALPHABET = "123456789ABCDEFGHIJKLMNPQRSTUVWXYZ"
CODE_GROUPS, CODE_GROUP = 4, 4


class Shield(Enum):
    """Whose public key an active attacker must not learn: one who plays the other side, and is found out too late.

    OURS: we give our key only to who has proven one that we know. THEIRS: whoever talks to us may ask that of us.
    """

    OURS = "ours"
    THEIRS = "theirs"


class Parties(NamedTuple):
    """The two full JIDs of a session, and its thread. Until the answer is there, `peer` may be a bare one."""

    own: Address
    peer: Address
    thread: str


class Secret(NamedTuple):
    """One retained secret, and by which name we know whom it is shared with."""

    name: bytes
    value: bytes

    def __repr__(self) -> str:
        return f"Secret({self.name!r}, ...)"


@dataclass(frozen=True, slots=True)
class Settings:
    """What we offer, best first, and accept (XEP-0116 section 4.3). UsageError for what only `legacy` allows:
    groups below 2048 bits, the cipher "none", the old short string, passwords."""

    profile: Profile = STRICT  # of the peers we ask; of those who ask us, it is found out
    groups: tuple[int, ...] = (15, 14, 16)
    ciphers: tuple[str, ...] = ("aes256-ctr", "aes128-ctr")
    hashes: tuple[str, ...] = ("sha256", "sha512")
    compress: tuple[str, ...] = ("none",)
    strings: tuple[str, ...] = (TILLIE,)
    stanzas: tuple[str, ...] = STANZAS
    # "mustnot" promises that our server keeps nothing, which a client does not know by itself.
    logging: tuple[str, ...] = ("may",)
    rekey_frequency: int = 1  # stanzas between two re-keys, at least: a person may want new keys at any time
    identity: Identity | None = None
    own_key: tuple[str, ...] = ("none",)  # the ways we would give our public key, best first
    peer_key: tuple[str, ...] = ("none",)  # the ways we would take the peer's, best first
    known_keys: tuple[bytes, ...] = ()  # <KeyValue/> elements that may be named by their hash, or asked for (Shield)
    shield: Shield = Shield.THEIRS
    three_message: bool = False  # for services: the initiator's key is shielded, nobody's string is compared
    other_secret: str = ""  # what both people typed: a code that `new_code` made
    legacy: bool = False

    def __post_init__(self) -> None:
        self._check_names()
        if not self.legacy:
            self._check_legacy()
        if self.identity is None and set(self.own_key) - {"none"}:
            raise UsageError("There is no public key to give.")
        if self.three_message and not (set(self.own_key) | set(self.peer_key)) - {"none"}:
            raise UsageError("Three messages need public keys.")

    def _check_names(self) -> None:
        known: tuple[tuple[tuple[object, ...], object], ...] = (
            (self.groups, modp.GROUPS),
            (self.ciphers, CIPHERS),
            (self.hashes, HASHES),
            (self.compress, ("none",)),  # see channel.py for why zlib is not there
            (self.strings, (TILLIE, SAS28X5)),
            (self.stanzas, STANZAS),
            (self.logging, ("may", "mustnot")),
            (self.own_key, PUBKEY_WAYS),
            (self.peer_key, PUBKEY_WAYS),
        )
        for names, supported in known:
            if not names or len(set(names)) < len(names) or not all(name in supported for name in names):  # type: ignore[operator]
                raise UsageError(f"These can't be offered: {', '.join(map(str, names)) or 'nothing'}.")
        if not 1 <= self.rekey_frequency <= NEVER_REKEY:
            raise UsageError("The number of stanzas between two re-keys is out of range.")

    def _check_legacy(self) -> None:
        if modp.SMALL & set(self.groups):
            raise UsageError("Groups below 2048 bits are for legacy peers only.")
        if NONE in self.ciphers:
            raise UsageError("A session that is not encrypted is for legacy peers only.")
        if SAS28X5 in self.strings:
            raise UsageError("The old short string can be forged; it is for legacy peers only.")
        if self.other_secret and not is_code(self.other_secret):
            raise UsageError(
                "A password that a person made can be guessed.",
                hint="Use a code that Tillie made; it has 81 random bits.",
            )

    @property
    def offered_strings(self) -> tuple[str, ...]:
        """Of an offer: peers of the other layouts have one, which they send without a choice."""
        return self.strings if self.profile.layout is Layout.STRICT else (SAS28X5,)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should be told about these settings."""
        if self.other_secret and not is_code(self.other_secret):
            return ("The password can be guessed by whoever was in the middle of one attempt.",)
        return ()

    @property
    def other_octets(self) -> bytes:
        """OSS: the other shared secret as it enters the key."""
        text = normalise_code(self.other_secret) if is_code(self.other_secret) else self.other_secret
        return text.encode()


def new_code() -> str:
    """A secret for two people who have met or have a safe way to pass it: "ABCD-EFGH-IJKL-MNPQ", 81 random bits."""
    drawn = "".join(CODE_ALPHABET[random_index(len(CODE_ALPHABET))] for _ in range(CODE_GROUPS * CODE_GROUP))
    return _grouped(drawn)


def is_code(text: str) -> bool:
    """Whether this may be a code that `new_code` made."""
    plain = _plain(text)
    return len(plain) == CODE_GROUPS * CODE_GROUP and set(plain) <= set(CODE_ALPHABET) and len(set(plain)) > CODE_GROUPS


def normalise_code(text: str) -> str:
    """A code as a person typed it, in the form of `new_code`."""
    return _grouped(_plain(text))


def _plain(text: str) -> str:
    return "".join(text.upper().replace("-", " ").split())


def _grouped(plain: str) -> str:
    return "-".join(plain[start : start + CODE_GROUP] for start in range(0, len(plain), CODE_GROUP))
