"""Diffie-Hellman in the MODP groups of RFC 2409 and RFC 3526, for XEP-0116.

The exponentiation with a secret exponent is gmpy2's `powmod_sec` where gmpy2 is installed (the extra `gmpy2`), else
OpenSSL's, through cryptography. Python's own `pow` takes a time that depends on the exponent, and is never used here.
Without both, `backend()` is "", and no group can be used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import NamedTuple

from tillie.crypto.random import random_bytes
from tillie.errors import BadKey, UsageError

Draw = Callable[[int], bytes]
GENERATOR = 2


class Group(NamedTuple):
    """One group: its number on the wire, its prime and the length of that in bits, and how long our exponents are.

    The prime is safe, (p - 1) / 2 is prime too, so that a public value 1 < v < p - 1 gives away at most one bit of
    an exponent, whatever the peer chose.
    """

    number: int
    prime: int
    bits: int
    exponent_bits: int

    @property
    def size(self) -> int:
        """Octets of the largest public value."""
        return self.bits // 8


# RFC 2409 section 6 and RFC 3526 define each prime by one small number c:
# p = 2^n - 2^(n-64) - 1 + 2^64 * (floor(2^(n-130) pi) + c).
# The exponents have twice the strength of the group (the larger estimate of RFC 3526 section 8), and more than the
# 2n - 1 = 255 bits that XEP-0116 section 4.3 asks for. On a line: the group, n, c, bits of an exponent.
_DEFINITIONS = (
    (1, 768, 149_686, 264),
    (2, 1024, 129_093, 264),
    (5, 1536, 741_804, 264),
    (14, 2048, 124_476, 320),
    (15, 3072, 1_690_314, 424),
    (16, 4096, 240_904, 480),
    (17, 6144, 929_484, 544),
    (18, 8192, 4_743_158, 624),
)
_PI_BITS = 8192 + 64
_BACKENDS = {"gmpy2": "gmpy2", "cryptography": "cryptography.hazmat.primitives.asymmetric.dh"}


def _arctan_inverse(of: int) -> int:
    """arctan(1 / of) * 2^_PI_BITS, a few units too small at most."""
    power = (1 << _PI_BITS) // of
    total, divisor, sign = power, 3, -1
    while power:
        power //= of * of
        total += sign * (power // divisor)
        divisor, sign = divisor + 2, -sign
    return total


def _groups() -> dict[int, Group]:
    pi = 4 * (4 * _arctan_inverse(5) - _arctan_inverse(239))  # Machin's formula
    found = {}
    for number, bits, c, exponent_bits in _DEFINITIONS:
        middle = (pi >> (_PI_BITS - (bits - 130))) + c
        prime = (1 << bits) - (1 << (bits - 64)) - 1 + (middle << 64)
        found[number] = Group(number, prime, bits, exponent_bits)
    return found


GROUPS = _groups()
SMALL = frozenset({1, 2, 5})  # below 2048 bits: only for peers that have nothing else, and only when asked for


@cache
def backend() -> str:
    """What does the exponentiations: "gmpy2", "cryptography", or "" if this installation can't do any."""
    for name, module in _BACKENDS.items():
        try:
            import_module(module)
        except ImportError:
            continue
        return name
    return ""


def private(group: Group, *, draw: Draw = random_bytes) -> int:
    """A new secret exponent, of exactly `group.exponent_bits` bits, so that its length is no secret."""
    drawn = int.from_bytes(draw(group.exponent_bits // 8), "big")
    return drawn | 1 << (group.exponent_bits - 1)


def public(group: Group, exponent: int) -> int:
    """g^x mod p."""
    return _power(group, GENERATOR, exponent)


def shared(group: Group, exponent: int, peer: int) -> int:
    """peer^x mod p. Raises BadKey for what `check` refuses."""
    return _power(group, check(group, peer), exponent)


def check(group: Group, value: int) -> int:
    """The public value of a peer if 1 < value < p - 1, else BadKey."""
    if not 1 < value < group.prime - 1:
        raise BadKey("a Diffie-Hellman value is out of range")
    return value


def _power(group: Group, base: int, exponent: int) -> int:
    match backend():
        case "gmpy2":
            import gmpy2

            return int(gmpy2.powmod_sec(base, exponent, group.prime))
        case "cryptography":
            return _power_openssl(group, base, exponent)
    raise UsageError("Classic Diffie-Hellman needs gmpy2, or a cryptography that still has it.")


def _power_openssl(group: Group, base: int, exponent: int) -> int:
    """base^x mod p by OpenSSL, which wants a key pair: only its private half matters to the result."""
    from cryptography.hazmat.primitives.asymmetric import dh

    numbers = dh.DHParameterNumbers(group.prime, GENERATOR)
    pair = dh.DHPrivateNumbers(exponent, dh.DHPublicNumbers(GENERATOR, numbers))
    peer = dh.DHPublicNumbers(base, numbers).public_key()
    return int.from_bytes(pair.private_key().exchange(peer), "big")


# cryptography says at each use that it will drop classic groups one day. The person at the command line can't help
# it, and `backend` is ready for that day.
warnings.filterwarnings("ignore", message="Diffie-Hellman over finite fields", module=__name__.replace(".", r"\."))
