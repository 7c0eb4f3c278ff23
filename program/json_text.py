"""Reads JSON from outside, with limits that are checked before memory is spent.

Python's parser and others spend gigabytes on a file of 60,000 ``[``. Here nesting and size are known
before a text is parsed, and a list is split into its items without parsing the whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from program.errors import DataError
from program.files import MAX_RECORD_BYTES, not_utf8, open_utf8, too_long

MAX_DEPTH = 100
"""Deepest nesting of lists and objects; data have less than ten levels."""

_CHUNK = 1 << 16
_OUTSIDE = re.compile(rb'["\[\]{}]')
_BETWEEN = re.compile(rb'["\[\]{},]')
# Skips strings without escapes in one call; the limit bounds what the engine keeps to go back.
_PLAIN = re.compile(rb'(?:[^"\[\]{}]+|"[^"\\]*"){0,500}')
_OPENING = b"[{"
_WHITE = b" \t\r\n"


class JsonError(ValueError):
    """A text is not usable JSON; the message is the rest of a sentence, without any text of the file."""


def parse(data: bytes) -> Any:
    r"""Return the value of one JSON text in UTF-8.

    ``NaN`` and ``Infinity`` become floats, as in Python; `program.values` refuses them by name.

    Raises:
        JsonError: It is not JSON, or nested too deep.

    Example:
        >>> parse(b'{"user_id": 7}')
        {'user_id': 7}
        >>> parse(b"[" * 60_000)
        Traceback (most recent call last):
        program.json_text.JsonError: is nested more than 100 levels deep
    """
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        _Nesting().find_end(data, 0)
    return _parse(data)


def read(path: str | Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        DataError: The file cannot be read, is too large or too deep, or is not JSON.
    """
    with open_utf8(path) as text:
        if text.size - text.start > MAX_RECORD_BYTES:
            raise DataError(f"`{path}` has more than {MAX_RECORD_BYTES >> 20} MB; is this the right file?")
        try:
            return parse(text.file.read())
        except JsonError as error:
            raise DataError(f"`{path}` {error}; download or write it again, or check the path") from error


class Item(NamedTuple):
    """One item of a JSON list: its position in the file, and its text."""

    position: int
    data: bytes

    def parse(self) -> Any:
        """Return the value; raises `JsonError` like `parse`."""
        return _parse(self.data)


def split_list(file: IO[bytes], start: int = 0) -> Iterator[Item]:
    """Yield the items of the JSON list at ``start``, one in memory at a time, unparsed.

    Raises:
        JsonError: The file is not one complete list, or an item is too long or too deep.
    """
    base, buffer = start, b""
    file.seek(start)
    while not buffer and (chunk := file.read(_CHUNK)):
        buffer = chunk.lstrip(_WHITE)
        base += len(chunk) - len(buffer)
    if not buffer.startswith(b"["):
        raise JsonError("is not a JSON list")
    nesting, begin, place, count = _Nesting(depth=1), 1, 1, 0
    while True:
        end = nesting.find_end(buffer, place)
        if end < 0:
            place = len(buffer) - begin
            if place > MAX_RECORD_BYTES:
                raise JsonError(too_long())
            file.seek(base + len(buffer))
            chunk = file.read(max(_CHUNK, place))
            if not chunk:
                raise JsonError("ends before the list is closed")
            base, buffer, begin = base + begin, buffer[begin:] + chunk, 0
            continue
        data = buffer[begin:end].lstrip(_WHITE)
        closed = buffer[end : end + 1] == b"]"
        if data:
            yield Item(base + end - len(data), data.rstrip(_WHITE))
        elif count or not closed:
            raise JsonError("has a comma without a value")
        if closed:
            break
        count, begin, place = count + 1, end + 1, end + 1
    file.seek(base + end + 1)
    while chunk := file.read(_CHUNK):
        if chunk.strip(_WHITE):
            raise JsonError("goes on after the end of the list")


class _Nesting:
    """Follows brackets and strings through JSON text, and stops at the limit of depth.

    At depth 1 it stops at the comma or bracket that ends an item of the outermost list.
    """

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._items = depth == 1
        self._in_string = False

    def find_end(self, data: bytes, place: int) -> int:
        """Return the position of the end of the item; -1 if ``data`` ends before."""
        while True:
            if self._in_string:
                place = _after_string(data, place)
                if place < 0:
                    return -1
                self._in_string = False
            if self._items and self._depth == 1:
                match = _BETWEEN.search(data, place)
            else:
                plain = _PLAIN.match(data, place)
                match = _OUTSIDE.search(data, plain.end() if plain else place)
            if match is None:
                return -1
            place = match.end()
            token = match[0]
            if token == b'"':
                self._in_string = True
            elif token in _OPENING:
                self._depth += 1
                if self._depth > MAX_DEPTH:
                    raise JsonError(f"is nested more than {MAX_DEPTH} levels deep")
            elif self._items and self._depth == 1:
                if token == b"}":
                    raise JsonError("has a `}` without a `{`")
                return match.start()
            else:
                self._depth -= 1


def _after_string(data: bytes, place: int) -> int:
    """Return the position after the string that goes on at ``place``; -1 if it does not end."""
    while (end := data.find(b'"', place)) >= 0:
        first = end
        while first and data[first - 1] == 92:
            first -= 1
        if (end - first) % 2 == 0:
            return end + 1
        place = end + 1
    return -1


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise JsonError(not_utf8(error)) from error
    except json.JSONDecodeError as error:
        place = (
            f"line {error.lineno} column {error.colno}" if error.lineno > 1 else f"character {error.pos + 1}"
        )
        raise JsonError(f"is not JSON: {error.msg} at {place}") from error
    except RecursionError as error:
        raise JsonError("is nested too deep") from error
    except ValueError as error:
        raise JsonError("has a number with too many digits") from error
