"""Base64 (RFC 4648 section 4), one spelling for each value.

XEP-0384 types its fields `xs:base64Binary`. White space at both ends is allowed, because the XEPs print it in their
examples; inside it is not: no client writes it there. What has a second spelling (no padding, the URL alphabet,
trailing bits that are not zero) is refused.
"""

from __future__ import annotations

import binascii

from tillie.errors import Malformed

_XML_SPACE = " \t\r\n"


def decode(text: str | bytes, *, max_bytes: int) -> bytes:
    """At most `max_bytes` bytes from Base64 (RFC 4648 section 4). Raises `Malformed`."""
    if isinstance(text, bytes):
        try:
            text = text.decode("ascii")
        except UnicodeDecodeError:
            raise Malformed("The Base64 has characters outside its alphabet.") from None
    text = text.strip(_XML_SPACE)
    if len(text) > (max_bytes + 2) // 3 * 4:
        raise Malformed(f"The Base64 is longer than {max_bytes} bytes.")
    try:
        # strict_mode refuses foreign characters and misplaced padding, but not trailing bits.
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise Malformed("The Base64 is not valid.") from None
    if text[-1:] == "=" and binascii.b2a_base64(data[-(len(data) % 3) :], newline=False).decode() != text[-4:]:
        raise Malformed("The Base64 has bits behind its end.")
    if len(data) > max_bytes:
        raise Malformed(f"The Base64 is longer than {max_bytes} bytes.")
    return data


def encode(data: bytes) -> str:
    """Bytes as Base64 (RFC 4648 section 4), padded, in one line."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")
