"""What every file layout is read into first: one record, as the file has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from program.errors import DataError


@dataclass(frozen=True, kw_only=True)
class RawQuery:
    """One question; ``gold`` and ``date`` are ``None`` where the files have none."""

    id: str
    input: str
    gold: str | None
    date: str | None


@dataclass(frozen=True, kw_only=True)
class RawUser:
    """One record: a user, or one question with its profile.

    Attributes:
        file: Where it was read, and ``position`` therein: "record 3", counted from 0.
    """

    user_id: str
    profile: Sequence[Mapping[str, Any]]
    queries: Sequence[RawQuery]
    file: Path
    position: str

    @property
    def where(self) -> str:
        """File and position, for error messages."""
        return f"`{self.file}`, {self.position}"


class RawSource(Protocol):
    """Files of one layout."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is read, for the manifest."""
        ...

    def records(self) -> Iterator[RawUser]:
        """Read the files from the start, one record in memory at a time; raises `DataError`."""
        ...


def need(record: object, name: str, where: str) -> Any:
    """Return a field of a record, or raise `DataError` that names it."""
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object, got {type(record).__name__}")
    if name not in record:
        raise DataError(f"{where}: field `{name}` is missing; check `--layout` and the path")
    return record[name]


def need_list(record: object, name: str, where: str) -> list[Any]:
    """Return a list field of a record, or raise `DataError` that names it."""
    value = need(record, name, where)
    if not isinstance(value, list):
        raise DataError(f"{where}: field `{name}` must be a list, got {type(value).__name__}")
    return value


def text_or_none(value: object) -> str | None:
    """Return a scalar as text; ``None`` stays ``None``."""
    return None if value is None else str(value)
