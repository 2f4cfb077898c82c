"""Base64 (RFC 4648 section 4), one spelling for each value.

Matrix leaves the padding out (`encode_unpadded`), and lets readers take it ("wherever possible").

XEP-0384 types its fields `xs:base64Binary`. White space at both ends is allowed, because the XEPs print it in their
examples; inside it is not: no client writes it there. What has a second spelling (no padding, the URL alphabet,
trailing bits that are not zero) is refused.
"""

from __future__ import annotations

import binascii

from tillie.errors import Malformed

_XML_SPACE = b" \t\r\n"


def decode(text: str | bytes, *, max_bytes: int) -> bytes:
    """At most `max_bytes` bytes from Base64 (RFC 4648 section 4). Raises `Malformed`."""
    try:
        coded = text.encode("ascii") if isinstance(text, str) else text
    except UnicodeEncodeError:
        raise Malformed("The Base64 has characters outside its alphabet.") from None
    coded = coded.strip(_XML_SPACE)
    if len(coded) > (max_bytes + 2) // 3 * 4:
        raise Malformed(f"The Base64 is longer than {max_bytes} bytes.")
    try:
        data = binascii.a2b_base64(coded, strict_mode=True)
    except binascii.Error:
        raise Malformed("The Base64 is not valid.") from None
    # Strict as it is, it takes padding where none belongs, and trailing bits that are not zero.
    last = data[len(data) // 3 * 3 :]
    if len(coded) != (len(data) + 2) // 3 * 4 or (last and binascii.b2a_base64(last, newline=False) != coded[-4:]):
        raise Malformed("The Base64 is not valid.")
    if len(data) > max_bytes:
        raise Malformed(f"The Base64 is longer than {max_bytes} bytes.")
    return data


def encode(data: bytes) -> str:
    """Bytes as Base64 (RFC 4648 section 4), padded, in one line."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode_unpadded(text: object, *, size: int) -> bytes:
    """Exactly `size` bytes from unpadded Base64 (Matrix specification 1.19, appendices, "Unpadded Base64"); padding is
    taken where it is right. Raises `Malformed`, also for what is no string."""
    data = decode_unpadded_most(text, max_bytes=size)
    if len(data) != size:
        raise Malformed(f"The Base64 has {len(data)} bytes instead of {size}.")
    return data


def decode_unpadded_most(text: object, *, max_bytes: int) -> bytes:
    """As `decode_unpadded`, at most `max_bytes` bytes. Raises `Malformed`."""
    if not isinstance(text, str) or text[:1].isspace() or text[-1:].isspace():
        raise Malformed("The Base64 is not valid.")
    missing = -len(text) % 4
    if missing and text[-1:] == "=":
        raise Malformed("The Base64 is not valid.")
    return decode(text + "=" * missing, max_bytes=max_bytes)


def encode_unpadded(data: bytes) -> str:
    """Bytes as Base64 without padding, in one line."""
    return encode(data).rstrip("=")
