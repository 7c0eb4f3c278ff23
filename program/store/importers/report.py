"""What an import says about a file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BadRecord:
    """A record that cannot be stored.

    Attributes:
        file: The file's path, as it was given.
        where: ``line 12`` of JSONL, ``[3].profile[5]`` of a JSON list; both as an editor or a
            JSON path counts.
        field: The field at fault; empty where it is the whole record.
        problem: What is wrong with it.
    """

    file: str
    where: str
    field: str
    problem: str

    def __str__(self) -> str:
        field = f"field `{self.field}` " if self.field else ""
        return f"`{self.file}` {self.where}: {field}{self.problem}"


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """The outcome of one import.

    Attributes:
        users: Users in the file, whether new or not.
        interactions: Readable interactions in the file.
        new: How many of them the store did not have yet.
        skipped: Records left out because of ``skip_bad``.
    """

    users: int
    interactions: int
    new: int
    skipped: tuple[BadRecord, ...] = ()
