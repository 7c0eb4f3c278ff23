"""Encodes payloads as JSON, with long repeated passages stored once, and times as integers.

Prompts repeat the persona and the earlier steps in every call. `pack` splits JSON text at quotes, at
empty lines and after DSPy's field headers, and replaces long passages by ids of blobs; `unpack`
restores them. ``unpack(pack(text)) == text`` for all JSON text, because JSON never contains the raw
control character that marks an id.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from program.text_safety import repair

MIN_PASSAGE = 160
"""Shortest passage, in characters, that is stored as a blob."""

_CUTS = re.compile(r'(\\n\\n| ## \]\]\\n|")')
_MARK = re.compile("\x01([0-9]+)\x01")
# 9999-01-01 in microseconds; datetime ends soon after.
_LATEST = 253_370_764_800_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def dumps(value: Any) -> str:
    """Return compact JSON. NaN and infinities become null, unknown objects the name of their type.

    Example:
        >>> dumps({"score": float("nan"), "tags": ("a",)})
        '{"score":null,"tags":["a"]}'
    """
    try:
        return to_json(value, inf_nan_mode="null", fallback=_opaque).decode()
    except (PydanticSerializationError, UnicodeEncodeError):
        # Half of a surrogate pair cannot be UTF-8.
        return json.dumps(_repaired(to_jsonable_python(value, inf_nan_mode="null", fallback=_opaque)))


def _repaired(value: Any) -> Any:
    if isinstance(value, str):
        return repair(value)
    if isinstance(value, list):
        return [_repaired(item) for item in value]
    if isinstance(value, dict):
        return {_repaired(key): _repaired(item) for key, item in value.items()}
    return value


def loads(text: str) -> Any:
    """Return the value of stored JSON.

    Raises:
        sqlite3.DatabaseError: The text is damaged.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise sqlite3.DatabaseError("a stored JSON text is damaged") from error


def loads_mapping(text: str | None) -> dict[str, Any]:
    """Return the object of stored JSON; empty if there is none.

    Raises:
        sqlite3.DatabaseError: The text is damaged, or is another value.
    """
    value = loads(text or "{}")
    if not isinstance(value, dict):
        raise sqlite3.DatabaseError("a stored JSON object is damaged")
    return value


def _opaque(value: Any) -> str:
    return f"<{type(value).__name__}>"


def pack(text: str, intern: Callable[[str], int]) -> str:
    """Return ``text`` with each passage of at least `MIN_PASSAGE` characters replaced by its id."""
    if len(text) < MIN_PASSAGE:
        return text
    return "".join(
        f"\x01{intern(piece)}\x01" if len(piece) >= MIN_PASSAGE else piece for piece in _CUTS.split(text)
    )


def unpack(text: str, fetch: Callable[[int], str]) -> str:
    """Undo `pack`."""
    if "\x01" not in text:
        return text
    return _MARK.sub(lambda mark: fetch(int(mark[1])), text)


def micros(value: Any) -> int:
    """Return a time as integer microseconds since 1970 UTC.

    Args:
        value: A datetime (naive means UTC), ISO text (``Z`` or an offset), or seconds.

    Raises:
        ValueError: ``value`` is none of these.

    Example:
        >>> micros("1970-01-01T00:00:01.5Z")
        1500000
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float, datetime)):
        raise ValueError(f"{value!r:.80} is not a time")
    if isinstance(value, (int, float)):
        return round(value * 1_000_000)
    if isinstance(value, str):
        value = datetime.fromisoformat(_fixed_fraction(value))
    if value.tzinfo is None:
        value = value.replace(tzinfo=timezone.utc)
    since = value - _EPOCH
    return int((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)


_FRACTION = re.compile(r"\.(\d+)")


def _fixed_fraction(text: str) -> str:
    # Python 3.10 cannot parse "Z", or fractions without exactly three or six digits.
    text = text.replace("Z", "+00:00")
    return _FRACTION.sub(lambda match: "." + match[1][:6].ljust(6, "0"), text)


def iso(value: int | None) -> str | None:
    """Return microseconds since 1970 as ISO text in UTC; ``None`` stays ``None``.

    Raises:
        sqlite3.DatabaseError: The stored time is damaged.
    """
    if value is None:
        return None
    if not isinstance(value, int) or abs(value) > _LATEST:
        raise sqlite3.DatabaseError("a stored time is damaged")
    return (
        datetime.fromtimestamp(value // 1_000_000, timezone.utc)
        .replace(microsecond=value % 1_000_000)
        .isoformat(timespec="microseconds")
    )
