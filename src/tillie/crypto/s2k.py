"""String-to-key specifiers: a key from a password (RFC 4880 section 3.7)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tillie.crypto.packets import Fields

AES256, SHA256 = 9, 8
KEY_SIZES = {7: 16, 8: 24, 9: 32}  # AES-128, AES-192, AES-256 (section 9.2); no other cipher is used here
HASHES = {2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}  # section 9.4
SIMPLE, SALTED, ITERATED = 0, 1, 3
SALT = 8
SMALLEST, LARGEST = 0x00, 0xFF  # as coded in one octet: 1,024 and 65,011,712 octets are hashed
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Stretch:
    """How a password becomes a key. `count`: the octets that are hashed, 0 if salt and password are hashed once."""

    hash: int
    salt: bytes = b""
    count: int = 0

    def work(self, cipher: int) -> int:
        """Octets to hash for a key of this cipher: a short hash needs several runs."""
        return self.count * -(-KEY_SIZES[cipher] // hashlib.new(HASHES[self.hash]).digest_size)

    def key(self, password: bytes, size: int) -> bytes:
        """The key, `size` octets. Run i hashes i zero octets first (section 3.7.1.1); hashlib frees the interpreter."""
        unit = self.salt + password
        total = max(self.count, len(unit))
        key = b""
        run = 0
        while len(key) < size:
            digest = hashlib.new(HASHES[self.hash], bytes(run))
            if total <= _PIECE:
                digest.update((unit * (total // len(unit) + 1))[:total] if unit else b"")
            else:
                many = unit * max(1, _PIECE // len(unit))
                whole, rest = divmod(total, len(many))
                for _ in range(whole):
                    digest.update(many)
                digest.update(many[:rest])
            key += digest.digest()
            run += 1
        return key[:size]


def count_of(coded: int) -> int:
    """The octets that one octet stands for (section 3.7.1.3)."""
    return (16 + (coded & 15)) << ((coded >> 4) + 6)


def read(fields: Fields) -> Stretch | None:
    """A specifier from the front of `fields`. None: a kind or hash that is not used here (Argon2, a smartcard, MD5)."""
    kind = fields.octet()
    if kind not in (SIMPLE, SALTED, ITERATED):
        return None
    name = fields.octet()
    salt = fields.take(SALT) if kind != SIMPLE else b""
    count = count_of(fields.octet()) if kind == ITERATED else 0
    return Stretch(name, salt, count) if name in HASHES else None
