"""Text that a peer supplied, made safe for a terminal, a log line or a file name.

Attacks: escape sequences that rewrite what the terminal shows, a line feed that forges a second log line, and
bidirectional controls that make a name read backwards.
"""

from __future__ import annotations

import re
import unicodedata

MAX_SHOWN = 1_000
MAX_FILE_NAME_BYTES = 200  # file systems take 255; programs add an ending or a counter

# Control, format (bidi controls and isolates, zero width, tags), surrogate, private, unassigned; line and paragraph
# separators.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")  # Persian and Indic words and emoji families need them
_MAX_MARKS = 8  # combining marks on one character: more of them paint over the lines above
_NOT_IN_FILE_NAMES = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]')
# Windows reserves these whatever their ending.
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9]) *(\.|$)")


def printable(text: str, limit: int = MAX_SHOWN) -> str:
    """Text in one line, with every character that could steer a terminal visible as an escape such as `\\x1b`.

    A longer text than `limit` characters is cut and ends in "…". A backslash is doubled, so that an escape can't be
    forged.
    """
    cut = len(text) > limit
    text = text[: limit - 1] if cut else text
    if not (text.isascii() and text.isprintable() and "\\" not in text):
        text = _escaped(text)
    return text + "…" if cut else text


def _escaped(text: str) -> str:
    shown = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if character == "\\":
            shown.append("\\\\")
        elif character in _JOINERS:
            shown.append(character)
        elif unicodedata.category(character) in _UNSAFE_CATEGORIES or marks > _MAX_MARKS:
            shown.append(_escape(ord(character)))
        else:
            shown.append(character)
    return "".join(shown)


def _escape(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def safe_name(text: str) -> str:
    """A file name without any path in it, for what a peer calls a file. Never empty, hidden, reserved or a path."""
    text = unicodedata.normalize("NFC", printable(text.replace("\\", "/").rpartition("/")[2]))
    text = _NOT_IN_FILE_NAMES.sub("_", " ".join(text.split())).strip(" .")
    while len(text.encode()) > MAX_FILE_NAME_BYTES:
        text = text[:-1]
    text = text.rstrip(" .")
    return f"_{text}" if not text or _RESERVED.match(text) else text
