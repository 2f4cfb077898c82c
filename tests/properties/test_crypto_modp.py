"""Classic Diffie-Hellman, counter mode, and hashes by name, against independent definitions."""

from __future__ import annotations

import hashlib
import hmac
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from hypothesis import strategies as st

from tillie.crypto import ctr, kdf, modp
from tillie.errors import BadKey, Malformed, UsageError
from tillie.schemes.esession.keys import from_mpi, mpi

# The last digits of each prime as RFC 2409 and RFC 3526 print them; all begin alike, with the digits of pi.
LAST = {
    1: "4fe1356d6d51c245e485b576625e7ec6f44c42e9a63a3620ffffffffffffffff",
    2: "ee386bfb5a899fa5ae9f24117c4b1fe649286651ece65381ffffffffffffffff",
    5: "670c354e4abc9804f1746c08ca237327ffffffffffffffff",
    14: "de2bcbf6955817183995497cea956ae515d2261898fa051015728e5a8aacaa68ffffffffffffffff",
    15: "43db5bfce0fd108e4b82d120a93ad2caffffffffffffffff",
    16: "93b4ea988d8fddc186ffb7dc90a6c08f4df435c934063199ffffffffffffffff",
    17: "387fe8d76e3c0468043e8f663f4860ee12bf2d5b0b7474d6e694f91e6dcc4024ffffffffffffffff",
    18: "9558e4475677e9aa9e3050e2765694dfc81f56e880b96e7160c980dd98edd3dfffffffffffffffff",
}
FIRST = "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd"
# The module keeps this away from people; pytest undoes that.
OPENSSL_SAYS_SO = pytest.mark.filterwarnings("ignore:Diffie-Hellman over finite fields")
SIZES = {1: 768, 2: 1024, 5: 1536, 14: 2048, 15: 3072, 16: 4096, 17: 6144, 18: 8192}


@pytest.mark.parametrize("number", sorted(SIZES))
def test_the_primes_are_those_of_the_rfcs(number: int) -> None:
    group = modp.GROUPS[number]
    text = f"{group.prime:x}"
    assert (group.number, group.bits, group.prime.bit_length()) == (number, SIZES[number], SIZES[number])
    assert text.startswith(FIRST)
    assert text.endswith(LAST[number])
    gmpy2 = pytest.importorskip("gmpy2")
    if group.bits <= 4096:  # the larger ones take seconds
        assert gmpy2.is_strong_prp(group.prime, 3)
        assert gmpy2.is_strong_prp((group.prime - 1) // 2, 3)


def test_there_are_no_other_groups() -> None:
    assert sorted(modp.GROUPS) == sorted(SIZES)
    assert {1, 2, 5} == modp.SMALL


@OPENSSL_SAYS_SO
@pytest.mark.parametrize("number", sorted(SIZES))
def test_both_backends_agree_with_arithmetic(number: int) -> None:
    group = modp.GROUPS[number]
    x, y = modp.private(group), modp.private(group)
    assert modp.public(group, x) == pow(2, x, group.prime)
    other = modp.public(group, y)
    assert modp.shared(group, x, other) == pow(other, x, group.prime) == modp.shared(group, y, modp.public(group, x))
    if number >= 5:  # OpenSSL looks for a long time at the small ones
        assert modp._power_openssl(group, other, x) == modp._power(group, other, x)


def test_exponents_are_as_long_as_said_and_longer_than_the_specification_asks() -> None:
    for group in modp.GROUPS.values():
        for octet in (b"\0", b"\xff"):
            exponent = modp.private(group, draw=lambda size, octet=octet: octet * size)
            assert exponent.bit_length() == group.exponent_bits
            assert 2**255 < exponent < group.prime - 1
        assert group.exponent_bits % 8 == 0


def test_the_range_of_public_values() -> None:
    group = modp.GROUPS[14]
    for bad in (-1, 0, 1, group.prime - 1, group.prime, group.prime + 1):
        with pytest.raises(BadKey):
            modp.check(group, bad)
        with pytest.raises(BadKey):
            modp.shared(group, modp.private(group), bad)
    assert modp.check(group, 2) == 2
    assert modp.check(group, group.prime - 2) == group.prime - 2


@OPENSSL_SAYS_SO
def test_without_gmpy2_and_without_either(monkeypatch: pytest.MonkeyPatch) -> None:
    group = modp.GROUPS[14]
    x = modp.private(group)
    monkeypatch.setattr(modp, "backend", lambda: "cryptography")
    assert modp.public(group, x) == pow(2, x, group.prime)
    monkeypatch.setattr(modp, "backend", lambda: "")
    with pytest.raises(UsageError):
        modp.public(group, x)


def test_the_backend_is_found_by_what_is_installed() -> None:
    code = (
        "import sys; sys.modules['gmpy2'] = None\n"
        "import warnings; warnings.simplefilter('error')\n"
        "from tillie.crypto import modp\n"
        "group = modp.GROUPS[14]; x = modp.private(group)\n"
        "assert modp.public(group, x) == pow(2, x, group.prime)\n"
        "print(modp.backend())\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "cryptography"
    assert not ran.stderr  # no warning reaches a person


# -- integers as octets -----------------------------------------------------------------------------------------------


@given(st.integers(0, 2**600))
def test_integers_and_their_octets(value: int) -> None:
    octets = mpi(value)
    assert octets[:1] != b"\0"
    assert from_mpi(octets, max_bytes=len(octets)) == value
    with pytest.raises(Malformed):
        from_mpi(b"\0" + octets, max_bytes=100)
    with pytest.raises(Malformed):
        from_mpi(octets + b"x", max_bytes=len(octets))


# -- counter mode -----------------------------------------------------------------------------------------------------


def counter_mode(key: bytes, counter: int, data: bytes) -> bytes:
    """NIST SP 800-38A section 6.5 in words of its own: one block at a time."""
    block = Cipher(AES(key), ECB()).encryptor()
    stream = b"".join(
        block.update(((counter + number) % 2**128).to_bytes(16, "big")) for number in range(-(-len(data) // 16))
    )
    return bytes(a ^ b for a, b in zip(data, stream, strict=False))


@given(
    st.sampled_from([16, 24, 32]),
    st.one_of(st.integers(0, 2**128 - 1), st.sampled_from([2**128 - 1, 2**128 - 2, 2**64 - 1, 2**127 - 1])),
    st.binary(max_size=100),
)
@settings(max_examples=100)
def test_counter_mode_wraps_over_all_its_bits(size: int, counter: int, data: bytes) -> None:
    key = bytes(range(size))
    sealed = ctr.apply("aes128-ctr", key, counter, data)
    assert sealed == counter_mode(key, counter, data)
    assert ctr.apply("aes128-ctr", key, counter, sealed) == data


def test_how_far_a_text_moves_the_counter() -> None:
    assert [ctr.blocks("aes128-ctr", size) for size in (0, 1, 16, 17, 32)] == [0, 1, 1, 2, 2]
    assert [ctr.blocks("none", size) for size in (0, 1, 100)] == [1, 1, 1]
    assert ctr.apply("none", b"", 5, b"text") == b"text"
    assert ctr.advance(2**128 - 1, 2) == 1
    assert ctr.octets(2**128) == bytes(16)


# -- hashes by name ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(kdf.HASHES))
def test_hashes_by_name(name: str) -> None:
    module = name.replace("-", "_")
    assert kdf.hash_by(name, b"data") == hashlib.new(module, b"data").digest()
    assert kdf.hmac_by(name, b"key", b"data") == hmac.new(b"key", b"data", module).digest()
    assert len(kdf.hash_by(name, b"")) == kdf.HASHES[name]


def test_broken_hashes_are_not_there() -> None:
    assert not {"sha1", "md5", "sha-1"} & set(kdf.HASHES)
