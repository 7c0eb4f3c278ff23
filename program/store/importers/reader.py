"""What a reader of one file layout gives: users one at a time, and what is wrong with the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from program.memory.interaction import Interaction
from program.store.importers.report import BadRecord


@dataclass(frozen=True, kw_only=True)
class UserRecords:
    """Everything a file says about one user.

    Attributes:
        user_id: The user.
        where: Where in the file the user stands, or first occurs.
        interactions: In the order of the file, each id once.
        bad: Records of this user that cannot be stored.
        done: How much of the file has been read by now, in bytes.
    """

    user_id: str
    where: str
    interactions: tuple[Interaction, ...]
    bad: tuple[BadRecord, ...]
    done: int


class Reader(Protocol):
    """Reads one file, holding one user at a time.

    `users` may be called again and starts from the beginning. It yields a `BadRecord` where a
    record belongs to no user, and raises `DataError` where the file cannot be read on.
    """

    def users(self) -> Iterator[UserRecords | BadRecord]:
        """Yield the users of the file."""
        ...


class FieldError(Exception):
    """A field of a record is wrong; readers turn it into a `BadRecord`."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem


def collect(
    file: str, user_id: str, where: str, done: int, read: Iterable[tuple[str, Interaction | FieldError]]
) -> UserRecords:
    """Gather one user's records, given each one's position and what was read there.

    The same record twice counts once; one id for two contents makes the second a bad record.
    """
    kept: dict[str, Interaction] = {}
    first_at: dict[str, str] = {}
    bad = []
    for at, found in read:
        if isinstance(found, Interaction) and kept.setdefault(found.id, found) != found:
            found = FieldError("id", f"{found.id[:40]!r} is already {first_at[found.id]}, with other content")
        if isinstance(found, FieldError):
            bad.append(BadRecord(file=file, where=at, field=found.field, problem=found.problem))
        else:
            first_at.setdefault(found.id, at)
    return UserRecords(
        user_id=user_id, where=where, interactions=tuple(kept.values()), bad=tuple(bad), done=done
    )
