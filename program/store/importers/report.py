"""The report of an import, and its bad records."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRecord:
    """A record that cannot be stored.

    Attributes:
        file: The path passed to `import_users`.
        where: ``line 12`` of JSONL or CSV, counted from 1; ``[3]`` or ``[3].profile[5]`` of a JSON list,
            counted from 0.
        field: The invalid field; empty for the whole record.
        problem: The reason, as the rest of a sentence: "is missing".
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
    """The result of one import.

    Attributes:
        users: Users in the file that have a valid record, or none at all.
        interactions: Valid interactions in the file.
        new: Interactions that were not stored before.
        skipped: Bad records, with ``skip_bad``.
        warnings: One line each: what was stored, but is probably not what was meant.
        forgotten: Users in the file who were forgotten and so were left out.
    """

    users: int
    interactions: int
    new: int
    skipped: tuple[BadRecord, ...] = ()
    warnings: tuple[str, ...] = ()
    forgotten: int = 0
