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
    """One group: its number on the wire, the length of its prime in bits, and how long our exponents are.

    The prime is safe, (p - 1) / 2 is prime too, so that a public value 1 < v < p - 1 gives away at most one bit of
    an exponent, whatever the peer chose.
    """

    number: int
    bits: int
    addend: int  # by which the prime is defined
    exponent_bits: int

    @property
    def prime(self) -> int:
        return _prime(self.bits, self.addend)

    @property
    def size(self) -> int:
        """Octets of the largest public value."""
        return self.bits // 8


# The exponents have twice the strength of the group (the larger estimate of RFC 3526 section 8), and more than the
# 2n - 1 = 255 bits that XEP-0116 section 4.3 asks for.
GROUPS = {
    group.number: group
    for group in (
        Group(1, 768, 149_686, 264),
        Group(2, 1024, 129_093, 264),
        Group(5, 1536, 741_804, 264),
        Group(14, 2048, 124_476, 320),
        Group(15, 3072, 1_690_314, 424),
        Group(16, 4096, 240_904, 480),
        Group(17, 6144, 929_484, 544),
        Group(18, 8192, 4_743_158, 624),
    )
}
SMALL = frozenset({1, 2, 5})  # below 2048 bits: only for peers that have nothing else, and only when asked for
_BACKENDS = {"gmpy2": "gmpy2", "cryptography": "cryptography.hazmat.primitives.asymmetric.dh"}


@cache
def _prime(bits: int, addend: int) -> int:
    """p = 2^n - 2^(n-64) - 1 + 2^64 * (floor(2^(n-130) pi) + addend), as RFC 2409 and RFC 3526 define their primes."""
    return (1 << bits) - (1 << (bits - 64)) - 1 + ((_pi(bits - 130) + addend) << 64)


def _pi(bits: int) -> int:
    """floor(2^bits * pi), by Machin's formula."""
    one = 1 << (bits + 64)  # the last bits of a sum of so many rounded terms are wrong
    return (4 * (4 * _arctan_inverse(5, one) - _arctan_inverse(239, one))) >> 64


def _arctan_inverse(of: int, one: int) -> int:
    """arctan(1 / of), in units of 1 / one."""
    power = one // of
    total, divisor, sign = power, 3, -1
    while power:
        power //= of * of
        total += sign * (power // divisor)
        divisor, sign = divisor + 2, -sign
    return total


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
