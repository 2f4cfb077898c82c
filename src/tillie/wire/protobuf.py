"""Protocol Buffers, of which only the one canonical encoding is read.

The same message has many encodings: unknown fields, a field twice, a varint with leading zeros. OMEMO authenticates
the bytes, so none of them forges anything; but two parsers may read such bytes differently, and no client writes them.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, EncodeError, Message

from tillie.errors import Malformed

M = TypeVar("M", bound=Message)


def parse(message_class: type[M], data: bytes, *, max_bytes: int) -> M:
    """A message with all its required fields, in its canonical encoding. Raises `Malformed`.

    `message_class` is a proto2 class; its fields are in the order of their numbers, each at most once.
    """
    if len(data) > max_bytes:
        raise Malformed(f"The message is longer than {max_bytes} bytes.")
    try:
        message = message_class.FromString(data)  # refuses trailing bytes that are no field
        message.DiscardUnknownFields()
        again: bytes = message.SerializeToString(deterministic=True)  # refuses missing required fields
    except (DecodeError, EncodeError):
        raise Malformed("The message does not parse.") from None
    if again != data:
        raise Malformed("The message is not in its canonical encoding.")
    return message
