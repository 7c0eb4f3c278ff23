"""Turns JSON values into the texts that are stored: ids, texts, metadata and times.

A missing value never becomes a word or a zero. Each function raises `ValueError` with the reason as
the rest of a sentence: "is null".
"""

from __future__ import annotations

import json
import math
import re
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# Seconds since 1970 have 9 to 11 digits from 1973 to 5138; each finer unit has three more.
_UNITS = ((10**8, 10**11, 1), (10**11, 10**14, 10**3), (10**14, 10**17, 10**6), (10**17, 10**20, 10**9))
_MAX_WHOLE_FLOAT = 2**53
# What every supported Python reads by itself, and like any other reader.
_PLAIN_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[T ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{6})?(?:[+-]\d\d:[0-5]\d)?", re.ASCII
)
_NUMBER = re.compile(r"\d{9,20}(\.\d+)?")
_UTC = re.compile(r"\s*(UTC|GMT)$", re.IGNORECASE)
_OFFSET = re.compile(r"(:\d\d(?:[.,]\d+)?)\s*([+-]\d\d)(?::?(\d\d))?$")


def is_missing(value: object) -> bool:
    """Return whether a value is null or NaN, as data frames write a gap."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_scalar(value: object) -> bool:
    """Return whether a value is text or a number that `to_text` takes."""
    if isinstance(value, bool):
        return False
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def to_text(value: object) -> str:
    """Return a text, or a number as text.

    Example:
        >>> to_text(4)
        '4'
    """
    if isinstance(value, str):
        return value
    _refuse(value, "text or a number")
    return str(value)


def to_id(value: object) -> str:
    """Return an id as text. A whole float is its integer: data frames turn 7 into 7.0 beside a gap.

    Example:
        >>> to_id(7.0), to_id(7), to_id("7")
        ('7', '7', '7')
    """
    if isinstance(value, str):
        return value
    _refuse(value, "text or a whole number")
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError(f"must be text or a whole number, not {value!r}")
        if abs(value) > _MAX_WHOLE_FLOAT:
            raise ValueError(f"{value!r} has lost digits; write ids as text")
        value = int(value)
    return str(value)


def to_metadata(value: object) -> str | None:
    """Return any value as text: lists and objects as JSON, booleans as true or false; ``None`` if missing.

    Example:
        >>> to_metadata(["tea", 2]), to_metadata(False), to_metadata(float("nan"))
        ('["tea", 2]', 'false', None)
    """
    if is_missing(value):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool | list | dict):
        return json.dumps(_without_nan(value), ensure_ascii=False)
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return str(value)


def to_time(value: object) -> datetime | None:
    """Return a time in UTC: a year, a date, ISO 8601, or the time since 1970 as a number or text.

    A number is seconds, milliseconds, microseconds or nanoseconds, by its size. A time without an offset
    counts as UTC, a year as January 1. ``None`` for a missing value or empty text.

    Example:
        >>> to_time(1753376400000) == to_time("2025-07-24 17:00:00 UTC") == to_time("2025-07-25T02:00+09:00")
        True
    """
    if is_missing(value):
        return None
    text = to_text(value).strip()
    if not text or text == "NaT":
        return None
    if _PLAIN_TIME.fullmatch(text):
        try:
            return _in_utc(datetime.fromisoformat(text))
        except (ValueError, OverflowError):
            pass  # refused below, like any other text
    try:
        if re.fullmatch(r"\d{4}(\.0)?", text):
            return datetime(int(text[:4]), 1, 1, tzinfo=timezone.utc)
        if _NUMBER.fullmatch(text):
            return _since_1970(text)
        if re.match(r"\d{4}-\d\d-\d\d", text):
            return _iso(text)
    except (ValueError, OverflowError):
        pass
    raise ValueError(
        f"{text[:40]!r} is not a time; use YYYY, YYYY-MM-DD, ISO 8601, or seconds or milliseconds since 1970"
    )


def kind(value: object) -> str:
    """Return what a JSON value is, with its article: "a list"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity"
    names = {dict: "an object", list: "a list", bool: "a boolean", str: "text", type(None): "null"}
    return names.get(type(value), "a number")


def _refuse(value: object, expected: str) -> None:
    if not is_scalar(value):
        missing = "is missing: it " if is_missing(value) else ""
        raise ValueError(f"{missing}must be {expected}, not {kind(value)}")


def _since_1970(text: str) -> datetime:
    whole, _, fraction = text.partition(".")
    for least, limit, per_second in _UNITS:
        if least <= int(whole) < limit:
            seconds, rest = divmod(int(whole), per_second)
            micros = rest * 10**6 + int(fraction[:6].ljust(6, "0"))
            return _EPOCH + timedelta(seconds=seconds, microseconds=micros // per_second)
    raise ValueError(text)


def _iso(text: str) -> datetime:
    # Databases write offsets as `+00` or after a space.
    text = _OFFSET.sub(lambda match: f"{match[1]}{match[2]}:{match[3] or '00'}", _UTC.sub("", text))
    return _in_utc(_time_parser().validate_python(text))


def _in_utc(time: datetime) -> datetime:
    if time.tzinfo is timezone.utc:
        return time
    return time.replace(tzinfo=timezone.utc) if time.tzinfo is None else time.astimezone(timezone.utc)


@cache
def _time_parser() -> TypeAdapter[datetime]:
    from pydantic import TypeAdapter

    return TypeAdapter(datetime)


def _without_nan(value: Any) -> Any:
    """Return a nested value in which NaN is null and infinity is text, as JSON can hold it."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return to_metadata(value) if isinstance(value, float) and not math.isfinite(value) else value
