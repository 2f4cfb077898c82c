"""Dates with times, as XMPP writes them (XEP-0082 section 3.2, profile DateTime)."""

from __future__ import annotations

import re
from datetime import date, timedelta
from functools import lru_cache
from math import floor

from tillie.errors import Malformed
from tillie.model import Time

EARLIEST: Time = -62_135_596_800.0  # 0001-01-01
LATEST: Time = 253_402_300_800.0  # 10000-01-01: years have four digits
MAX_OFFSET_HOURS = 14  # as XML Schema part 2 bounds a time zone

_EPOCH = date(1970, 1, 1)
_DAY = 86_400.0
# [0-9], not \d: that would take the digits of every script.
_DATETIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]{1,9})?(?:Z|([+-])([0-9]{2}):([0-9]{2}))"
)


def parse_datetime(text: str) -> Time:
    """Unix seconds from `CCYY-MM-DDThh:mm:ss[.sss]TZD` (XEP-0082 section 3.2), TZD being Z or (+|-)hh:mm.

    Raises `Malformed` for every other form, for days and times that do not exist, leap seconds among them, and
    outside EARLIEST .. LATEST.
    """
    found = _DATETIME.fullmatch(text)
    if not found:
        raise Malformed("A time stamp is not in the form of XEP-0082.")
    hour, minute, second = int(found[2]), int(found[3]), int(found[4])
    if hour > 23 or minute > 59 or second > 59:
        raise Malformed("A time stamp names a time that does not exist.")
    time = _start_of(found[1]) + (hour * 3600 + minute * 60 + second) + float(found[5] or 0)
    if found[6]:
        hours, minutes = int(found[7]), int(found[8])
        if minutes > 59 or hours * 60 + minutes > MAX_OFFSET_HOURS * 60:
            raise Malformed("A time stamp names a time zone that does not exist.")
        time -= (hours * 3600 + minutes * 60) * (1 if found[6] == "+" else -1)
    if not EARLIEST <= time < LATEST:
        raise Malformed("A time stamp is out of range.")
    return time


@lru_cache(maxsize=64)  # what arrives together was mostly written on the same few days
def _start_of(day: str) -> float:
    try:
        return (date.fromisoformat(day) - _EPOCH).days * _DAY
    except ValueError:
        raise Malformed("A time stamp names a day that does not exist.") from None


def format_datetime(time: Time) -> str:
    """Unix seconds as `CCYY-MM-DDThh:mm:ssZ` (XEP-0082 section 3.2), with milliseconds only where there are any.

    Raises `ValueError` outside EARLIEST .. LATEST.
    """
    if not EARLIEST <= time < LATEST:
        raise ValueError("the time is out of range")
    milliseconds = min(floor(time * 1000 + 0.5), floor(LATEST * 1000) - 1)
    days, milliseconds = divmod(milliseconds, 86_400_000)
    seconds, fraction = divmod(milliseconds, 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    text = f"{_name_of(days)}T{hour:02d}:{minute:02d}:{second:02d}"
    return f"{text}.{fraction:03d}Z" if fraction else text + "Z"


@lru_cache(maxsize=64)
def _name_of(days: int) -> str:
    return (_EPOCH + timedelta(days)).isoformat()
