"""How the texts of XEP-0116, 0200 and 0217 are read, where they can be read in more than one way.

`STRICT` is our reading of XEP-0116, `SUBSET` of XEP-0217, `GAJIM` what Gajim 0.12 to 0.16.9 did. Who answers finds by
trial which of `TRIALS` the peer follows, once its first message under keys is there: each is a few HMACs. Who asks
must know it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from tillie.crypto.ctr import BLOCK, BLOCK_BITS, CIPHERS
from tillie.crypto.kdf import HASHES
from tillie.wire.forms import Dialect

_LARGEST_KEY = max(CIPHERS.values())  # octets that AES takes


class Layout(Enum):
    """How the forms of a negotiation are laid out: which fields, in which order, of which types."""

    STRICT = "strict"
    SUBSET = "subset"
    GAJIM = "gajim"


@dataclass(frozen=True, slots=True)
class Profile:
    """One reading. The defaults are the strict one."""

    name: str
    # "As many bits of key data as are needed for each key MUST be taken from the least significant bits of the HMAC
    # output." True: the cipher gets the whole output all the same, so that "aes128-ctr" is AES-256.
    whole_cipher_key: bool = False
    # "For algorithms with variable-length keys the maximum length (up to the hash output length) SHOULD be used."
    # XEP-0217 section 4.2: "Only the 128 least significant bits". Octets of the keys of HMACs, 0 for all.
    mac_key: int = 0
    first_block: int = 0  # 1: the counter is moved before each block, not after it
    pad: int = 0  # the text of a stanza is filled with spaces to a multiple of so many octets
    # The counter in the MAC of a stanza: minimal octets, or all of the block's. In identities it is always minimal.
    pads_sent_counter: bool = False
    pads_received_counter: bool = False
    zero: bytes = b""  # the minimal octets of a counter that is 0
    dialect: Dialect = Dialect.STRICT  # of forms, as they are written and normalised
    pads_string: bool = True  # "5-character string": with its leading digits
    rekeys: bool = True
    ends_in_clear: bool = False  # how the peer ends a session: in clear, without an answer
    layout: Layout = Layout.STRICT
    # What Gajim does with random values, for replaying recordings of it: nonces of 8 octets, exponents up to p - 1,
    # and a random value beside the hashes of retained secrets only where there are none.
    draws_like_gajim: bool = False

    def cipher_key(self, cipher: str, hash_name: str) -> int:
        """Octets of a cipher's key."""
        whole = min(HASHES[hash_name], _LARGEST_KEY)  # Gajim knows SHA-256 alone; who chose another is tried as well
        return whole if self.whole_cipher_key and CIPHERS[cipher] else CIPHERS[cipher]

    def hmac_key(self, hash_name: str) -> int:
        """Octets of an HMAC's key."""
        return self.mac_key or HASHES[hash_name]

    def start(self, counter: int) -> int:
        """The counter of the first block of a text, if the session's counter is `counter`."""
        return (counter + self.first_block) % (1 << BLOCK_BITS)

    def minimal(self, counter: int) -> bytes:
        """A counter as the MAC of an identity has it, and mostly that of a stanza: without leading zeros."""
        return counter.to_bytes((counter.bit_length() + 7) // 8, "big") or self.zero


STRICT = Profile("strict")
SUBSET = Profile("subset", mac_key=16, rekeys=False, layout=Layout.SUBSET)
GAJIM = Profile(
    "gajim",
    whole_cipher_key=True,
    first_block=1,
    pad=BLOCK,  # its cipher keeps the rest of a block's key stream, so only whole blocks may come
    pads_sent_counter=True,  # as it verifies
    pads_received_counter=False,  # and as it sends
    zero=b"\0",
    dialect=Dialect.GAJIM,
    pads_string=False,
    rekeys=False,
    ends_in_clear=True,
    layout=Layout.GAJIM,
)
# Gajim itself, both ends: what it sends with a short counter it does not accept. Only recordings are replayed with it.
GAJIM_ITSELF = replace(
    GAJIM, name="gajim-itself", pads_sent_counter=False, pads_received_counter=True, draws_like_gajim=True
)

# Half-way readings that others may have come to. At most eight trials, all before anything is trusted.
TRIALS = (
    STRICT,
    SUBSET,
    replace(STRICT, name="strict+empty-tags", dialect=Dialect.GAJIM),
    replace(STRICT, name="strict+count-first", first_block=1),
    replace(SUBSET, name="subset+empty-tags", dialect=Dialect.GAJIM),
    replace(SUBSET, name="subset+count-first", first_block=1),
    GAJIM,  # after those that it can't be told from with aes256-ctr, which Gajim itself never had
    replace(GAJIM, name="gajim+named-key", whole_cipher_key=False),
)
MAX_TRIALS = 8
PROFILES = {profile.name: profile for profile in (*TRIALS, GAJIM_ITSELF)}
