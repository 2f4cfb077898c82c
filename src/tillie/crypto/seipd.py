"""Encrypted containers with integrity (RFC 4880 section 5.13, RFC 9580 section 5.13.2) and what is in them.

The library would do this, but never tells how much it will inflate until it has done so: ten kilobytes become ten
megabytes. And it can't read what GnuPG writes by default: a signed message, compressed, inside the encryption.
"""

from __future__ import annotations

import bz2
import hashlib
import hmac
import zlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESOCB3
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tillie.crypto.packets import COMPRESSED, LITERAL, ONE_PASS, SEIPD, SIGNATURE, Packet, header, split
from tillie.crypto.random import random_bytes
from tillie.crypto.s2k import KEY_SIZES
from tillie.errors import Malformed, Undecryptable

MAX_CHUNK_BITS = 16  # RFC 9580 section 5.13.2: chunks of 2**(bits + 6) octets, "values larger than 16" are not used
MAX_SIGNATURES = 16  # of one message; Libervia signs with each key that it has
OVERHEAD = 1 << 16  # octets of packets around a text: names, dates, signatures

_BLOCK = 16
_MDC = b"\xd3\x14"
_DIGEST = 20
_OCB, _GCM = 2, 3
_NONCES = {_OCB: 15, _GCM: 12}
_TAG = 16
_HKDF_SALT = 32
_WRONG = "it does not open with this key"  # for everything from the session key to the check of integrity


def seal(key: bytes, inner: bytes) -> bytes:
    """The packet, version 1, of `inner` (whole packets) under a fresh AES key."""
    return _from_parts(key, inner, random_bytes(_BLOCK))


def _from_parts(key: bytes, inner: bytes, prefix: bytes) -> bytes:
    plain = b"".join((prefix, prefix[-2:], inner, _MDC))
    plain += hashlib.sha1(plain).digest()
    body = Cipher(AES(key), CFB(bytes(_BLOCK))).encryptor().update(plain)
    return header(SEIPD, len(body) + 1) + b"\x01" + body


def unseal(packet: Packet, key: bytes, cipher: int) -> bytes:
    """The packets inside. `cipher` came with the session key; it is 0 where the packet names its own (version 2).

    Whatever is wrong with key or ciphertext raises the same Undecryptable; nothing is given out before it is checked.
    """
    version = packet.body[:1]
    if version == b"\x01":
        return _unseal_mdc(packet.body, key, cipher)
    if version == b"\x02":
        if cipher:  # RFC 9580 section 10.3.2.1: not behind a session key of another generation
            raise Undecryptable(_WRONG)
        return _unseal_aead(packet.body, key)
    raise Malformed("it is encrypted in an unknown way")


def _unseal_mdc(body: bytes, key: bytes, cipher: int) -> bytes:
    if KEY_SIZES.get(cipher) != len(key) or len(body) < 1 + _BLOCK + 2 + len(_MDC) + _DIGEST:
        raise Undecryptable(_WRONG)
    plain = Cipher(AES(key), CFB(bytes(_BLOCK))).decryptor().update(memoryview(body)[1:])
    # The two repeated octets are not looked at: an early answer there is an oracle (Mister and Zuccherato, 2005).
    end = len(plain) - _DIGEST
    digest = hashlib.sha1(memoryview(plain)[:end]).digest()
    if not hmac.compare_digest(_MDC + digest, plain[end - len(_MDC) :]):
        raise Undecryptable(_WRONG)
    return plain[_BLOCK + 2 : end - len(_MDC)]


def _unseal_aead(body: bytes, key: bytes) -> bytes:
    """RFC 9580 section 5.13.2: the tag of every chunk, and at the end one over how much there was."""
    start = 4 + _HKDF_SALT
    if len(body) < start + _TAG:
        raise Undecryptable(_WRONG)
    cipher, mode, bits = body[1], body[2], body[3]
    size, nonce = KEY_SIZES.get(cipher), _NONCES.get(mode)
    if size is None or nonce is None or bits > MAX_CHUNK_BITS or size != len(key):
        raise Undecryptable(_WRONG)
    bound = bytes((0xC0 | SEIPD,)) + body[:4]
    derived = HKDF(hashes.SHA256(), size + nonce - 8, body[4:start], bound).derive(key)
    aead = (AESOCB3 if mode == _OCB else AESGCM)(derived[:size])
    prefix, chunk = derived[size:], (1 << bits + 6) + _TAG
    end = len(body) - _TAG
    plain: list[bytes] = []
    try:
        for index, at in enumerate(range(start, end, chunk)):
            piece = body[at : min(at + chunk, end)]
            plain.append(aead.decrypt(prefix + index.to_bytes(8, "big"), piece, bound))
        total = sum(map(len, plain)).to_bytes(8, "big")
        aead.decrypt(prefix + len(plain).to_bytes(8, "big"), body[end:], bound + total)
    except (InvalidTag, ValueError):
        raise Undecryptable(_WRONG) from None
    return b"".join(plain)


# -- what is inside ---------------------------------------------------------------------------------------------------


def inflate(inner: bytes, *, max_bytes: int) -> bytes:
    """The packets without their compression (RFC 4880 section 5.6), of which one layer is taken off.

    `max_bytes` is for the text in them. Never makes more than that and `OVERHEAD`: what expands further is Malformed.
    """
    max_bytes += OVERHEAD
    if len(inner) > max_bytes:
        raise Malformed("an OpenPGP message is too large")
    if not _compressed(inner):
        return inner
    found = split(inner)
    if len(found) != 1 or not found[0].body:
        raise Malformed("there is something beside a compressed OpenPGP packet")
    return _expand(found[0].body[0], found[0].body[1:], max_bytes)


def _compressed(data: bytes) -> bool:
    return bool(data) and (data[0] & 0xFC == 0x80 | COMPRESSED << 2 or data[0] == 0xC0 | COMPRESSED)


def _expand(kind: int, data: bytes, max_bytes: int) -> bytes:
    if kind == 0:
        return data
    try:
        if kind in (1, 2):  # ZIP is a bare deflate stream, ZLIB has a header (section 9.3)
            stream = zlib.decompressobj(-15 if kind == 1 else 15)
            plain, ended = stream.decompress(data, max_bytes + 1), stream.eof
        elif kind == 3:
            unpack = bz2.BZ2Decompressor()
            plain, ended = unpack.decompress(data, max_bytes + 1), unpack.eof
        else:
            raise Malformed("it is compressed in an unknown way")
    except (zlib.error, OSError):
        raise Malformed("a compressed OpenPGP packet is damaged") from None
    if len(plain) > max_bytes:
        raise Malformed("an OpenPGP message is too large")
    if not ended:
        raise Malformed("a compressed OpenPGP packet is cut short")
    return plain


def encode_literal(text: bytes) -> bytes:
    """The literal packet of `text` (RFC 4880 section 5.9): binary, with neither file name nor date."""
    return header(LITERAL, len(text) + 6) + b"b\x00\x00\x00\x00\x00" + text


def literal(inner: bytes, *, max_bytes: int) -> bytes:
    """The text of the one literal packet in `inner`. Anything beside it, a signature as well, is Malformed."""
    found = split(inner)
    if len(found) != 1 or found[0].tag != LITERAL:
        raise Malformed("it is not exactly one piece of text")
    return _text(found[0].body, max_bytes)


def signed(inner: bytes, *, max_bytes: int) -> bool:
    """Whether `inner` is one signed text: one-pass packets, text, signatures (RFC 4880 section 11.3); False: one text.

    Keeps from the library whatever it would open, inflate or skip by itself.
    """
    found = split(inner)
    tags = [packet.tag for packet in found]
    if tags == [LITERAL]:
        return False
    count = tags.count(ONE_PASS)
    if not 1 <= count <= MAX_SIGNATURES or tags != [ONE_PASS] * count + [LITERAL] + [SIGNATURE] * count:
        raise Malformed("it is not a signed text")
    _text(found[count].body, max_bytes)
    return True


def _text(body: bytes, max_bytes: int) -> bytes:
    """RFC 4880 section 5.9: the format, the file name and the date before it mean nothing here."""
    if len(body) < 6 or len(body) < 6 + body[1]:
        raise Malformed("an OpenPGP packet is cut short")
    text = body[6 + body[1] :]
    if len(text) > max_bytes:
        raise Malformed("an OpenPGP message is too large")
    return text
