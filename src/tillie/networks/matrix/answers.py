"""What a homeserver answered, as values that nobody has checked yet.

A strict reader would refuse a whole answer for one device or event in it that has two readings (`wire.canonical`), and
whoever made that would silence all others. So what is ambiguous becomes `AMBIGUOUS` in its place, which
`canonical.encode` refuses: only what holds it is lost.
"""

from __future__ import annotations

import json
from typing import Any

from tillie.errors import Malformed, Rejected
from tillie.wire import canonical
from tillie.wire.canonical import Object

MAX_INTEGER_DIGITS = 17


class _Ambiguous:
    """A member twice, a fraction, an integer that not every program reads."""

    def __repr__(self) -> str:
        return "AMBIGUOUS"


AMBIGUOUS = _Ambiguous()


def parse(data: bytes) -> Object:
    """The object that an answer is. Raises `Rejected`."""
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_object,
            parse_float=lambda _: AMBIGUOUS,
            parse_constant=lambda _: AMBIGUOUS,
            parse_int=lambda text: int(text) if len(text) <= MAX_INTEGER_DIGITS and text != "-0" else AMBIGUOUS,
        )
    except (ValueError, RecursionError):
        raise bad("What it answers is not JSON.") from None
    if not isinstance(value, dict):
        raise bad("What it answers is not a JSON object.")
    return value


def bad(why: str) -> Rejected:
    """An answer that is not what the specification says."""
    return Rejected(why, condition="M_BAD_JSON")


def _object(pairs: list[tuple[str, Any]]) -> Object | _Ambiguous:
    found = dict(pairs)
    return found if len(found) == len(pairs) else AMBIGUOUS


def text(answer: Object, name: str, *, max_length: int = 1_024) -> str:
    """A member that must be a string, and is not empty. Raises `Rejected`."""
    value = answer.get(name)
    if not isinstance(value, str) or not value or len(value) > max_length:
        raise bad(f"Its answer has no valid {name}.")
    return value


def child(answer: Object, *names: str) -> Object:
    """The object at the end of this path; an empty one where something on the way is no object."""
    value: Any = answer
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def sound(members: Object) -> bytes:
    """These members in canonical form, with null for each that has none: whoever reads them finds that it is no
    object."""
    return canonical.encode(
        {name: each if is_sound(each) else None for name, each in members.items() if is_sound(name)}
    )


def is_sound(value: object) -> bool:
    """Whether a value has a canonical form."""
    try:
        canonical.encode(value)
    except Malformed:
        return False
    return True
