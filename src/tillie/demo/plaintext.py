"""Does a server hold a plaintext, or a key? A search through everything it has, in every form in which it could keep a
text: as it is, escaped for XML, JSON, Lua or a URL, in Base64 at any alignment, in hexadecimal, in UTF-16.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

MIN_PIECE = 8  # characters; a shorter piece of a text could be found by chance
MAX_FILE = 64 * 1024 * 1024  # bytes; nothing in a demo's server is nearly as large
_WORDS = re.compile(rf"[A-Za-z][A-Za-z ,.']{{{MIN_PIECE - 2},}}[A-Za-z]")


def forms(text: str | bytes) -> frozenset[bytes]:
    """Every byte sequence whose presence would mean that this text, or these bytes, are there."""
    if isinstance(text, bytes):
        return frozenset(form for form in _forms_of_bytes(text) if len(form) >= MIN_PIECE)
    found: set[bytes] = set()
    # Pieces without anything that needs escaping: found whatever a server did to the rest.
    for piece in {text, *_WORDS.findall(text)}:
        data = piece.encode()
        found |= _forms_of_bytes(data)
        found |= {piece.encode("utf-16-le"), piece.encode("utf-16-be")}
        found |= {escape(piece).encode(), quoteattr(piece)[1:-1].encode(), quote(piece).encode()}
        found.add(json.dumps(piece)[1:-1].encode())
    return frozenset(form for form in found if len(form) >= MIN_PIECE)


def _forms_of_bytes(data: bytes) -> set[bytes]:
    return {data, data.hex().encode(), data.hex().upper().encode(), _lua(data), *_base64_anywhere(data)}


def _base64_anywhere(data: bytes) -> Iterator[bytes]:
    """The characters of Base64 that depend on `data` alone, wherever in the encoded bytes it begins."""
    for before in range(3):
        padded = bytes(before) + data
        whole = base64.b64encode(padded + bytes(-len(padded) % 3))
        first = -(-before * 4 // 3)  # the first character that holds nothing of what is in front
        last = len(padded) * 4 // 3
        yield whole[first:last]
        yield whole[first:last].replace(b"+", b"-").replace(b"/", b"_")


def _lua(data: bytes) -> bytes:
    """As Prosody writes strings: quotation marks and bytes beyond ASCII with a backslash."""
    return b"".join(bytes((b,)) if 32 <= b < 127 and b not in b'"\\' else b"\\%d" % b for b in data)


def find(texts: Iterable[str | bytes], places: Iterable[tuple[str, bytes]]) -> list[str]:
    """The names of the places that hold one of the texts, or of the keys."""
    wanted = [form for text in texts for form in forms(text)]
    return [name for name, data in places if any(form in data for form in wanted)]


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All files below a folder: their names in it, and what is in them."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(folder)), path.read_bytes()[:MAX_FILE]
