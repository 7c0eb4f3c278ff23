"""Records as the files have them; every layout is read into these first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from program.errors import DataError
from program.text_safety import find_problem
from program.values import is_missing, to_id, to_text


@dataclass(frozen=True, kw_only=True)
class RawQuery:
    """One query. ``gold`` and ``date`` are ``None`` if the file has none."""

    id: str
    input: str
    gold: str | None
    date: str | None


@dataclass(frozen=True, kw_only=True)
class RawUser:
    """One record: a user, or one query with its profile.

    Attributes:
        file: The file that holds the record.
        position: The record's position in the file, counted from 0: "record 3".
    """

    user_id: str
    profile: Sequence[Mapping[str, Any]]
    queries: Sequence[RawQuery]
    file: Path
    position: str

    @property
    def location(self) -> str:
        """File and position, for error messages."""
        return f"`{self.file}`, {self.position}"


class RawSource(Protocol):
    """The files of one layout."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that `records` reads, for the manifest."""
        ...

    def records(self) -> Iterator[RawUser]:
        """Read the files from the start, one record in memory at a time.

        Raises:
            DataError: A file is damaged, or a record lacks a field.
        """
        ...


def require(record: object, name: str, location: str) -> Any:
    """Return a field of a record.

    Raises:
        DataError: The field is missing; the message starts with ``location``.
    """
    if not isinstance(record, dict):
        raise DataError(f"{location}: expected an object, got {type(record).__name__}")
    if name not in record:
        raise DataError(f"{location}: field `{name}` is missing; check `--layout` and the path")
    return record[name]


def require_list(record: object, name: str, location: str) -> list[Any]:
    """Return a list field of a record.

    Raises:
        DataError: The field is missing or not a list.
    """
    value = require(record, name, location)
    if not isinstance(value, list):
        raise DataError(f"{location}: field `{name}` must be a list, got {type(value).__name__}")
    return value


def read_id(record: object, name: str, location: str) -> str:
    """Return an id field as text; a whole float is its integer.

    Raises:
        DataError: The field is missing, null, or not an id.
    """
    return _convert(require(record, name, location), to_id, name, location)


def read_text(record: object, name: str, location: str) -> str:
    """Return a text or number as text.

    Raises:
        DataError: The field is missing, null, or cannot be text.
    """
    return _convert(require(record, name, location), to_text, name, location)


def read_optional(record: Mapping[str, object], name: str, location: str) -> str | None:
    """Return a text or number as text; ``None`` if it is missing, null or NaN.

    Raises:
        DataError: The field cannot be text.
    """
    value = record.get(name)
    return None if is_missing(value) else _convert(value, to_text, name, location)


def check_text(text: str, name: str, location: str) -> str:
    """Return ``text``.

    Raises:
        DataError: No file or database can hold it.
    """
    if problem := find_problem(text):
        raise DataError(f"{location}: field `{name}` {problem}; correct it in the file")
    return text


def _convert(value: object, convert: Callable[[object], str], name: str, location: str) -> str:
    try:
        return check_text(convert(value), name, location)
    except ValueError as error:
        raise DataError(f"{location}: field `{name}` {error}") from error
