"""The contract of a reader, and how readers collect one user and report bad records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from program.memory.interaction import Interaction
from program.store.importers.report import BadRecord


@dataclass(frozen=True, kw_only=True)
class UserRecords:
    """The records of one user in a file.

    Attributes:
        user_id: The user.
        where: Position of the user's first record, as in `BadRecord`.
        interactions: In file order, each id once.
        bad: Records of this user that cannot be stored.
        position: Bytes of the file read so far.
    """

    user_id: str
    where: str
    interactions: tuple[Interaction, ...]
    bad: tuple[BadRecord, ...]
    position: int


class Reader(Protocol):
    """Reads one file, with one user in memory at a time.

    Each call of `users` starts from the beginning. The first one yields a `BadRecord` for a record without
    a user, and each raises `DataError` if the rest of the file cannot be read.

    Attributes:
        time_field: The field that holds the time of a record.
    """

    time_field: str

    def users(self) -> Iterator[UserRecords | BadRecord]:
        """Yield the users of the file."""
        ...

    def warnings(self) -> tuple[str, ...]:
        """Return one line for each thing that the last pass read in a way worth knowing."""
        ...


class FieldError(Exception):
    """A field of a record is invalid; readers convert it to a `BadRecord`."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem


def collect(
    file: str,
    user_id: str,
    where: str,
    position: int,
    records: Iterable[tuple[str, Interaction | FieldError]],
) -> UserRecords:
    """Collect one user's records, each with its place in the file.

    A repeated record counts once. A second record with the same id and other content is bad.
    """
    interactions: dict[str, Interaction] = {}
    first_at: dict[str, str] = {}
    bad = []
    for at, record in records:
        if isinstance(record, Interaction):
            first = interactions.setdefault(record.id, record)
            if first is not record and first != record:
                record = FieldError(
                    "id", f"{record.id[:40]!r} is already {first_at[record.id]}, with other content"
                )
        if isinstance(record, FieldError):
            bad.append(BadRecord(file=file, where=at, field=record.field, problem=record.problem))
        else:
            first_at.setdefault(record.id, at)
    return UserRecords(
        user_id=user_id,
        where=where,
        interactions=tuple(interactions.values()),
        bad=tuple(bad),
        position=position,
    )
