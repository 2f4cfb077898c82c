"""The only source of randomness in Tillie: the operating system's."""

from __future__ import annotations

from os import urandom

__all__ = ["random_bytes", "random_index"]

random_bytes = urandom


def random_index(size: int) -> int:
    """A uniform index 0 .. size-1, by rejection."""
    if size < 1:
        raise ValueError("an empty range has no index")
    length = (size.bit_length() + 7) // 8
    ceiling = 256**length // size * size
    while True:
        drawn = int.from_bytes(random_bytes(length), "big")
        if drawn < ceiling:
            return drawn % size
