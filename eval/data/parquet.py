"""Reads Signal-Before-Scale's parquet subsets: one row for each question, its profile as JSON text.

Columns: task, qid, stratum, profile_len, input, gold, profile_json, source_split, seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.data.raw import RawQuery, RawUser, read_id, read_optional, read_text, require_list
from eval.tasks.base import LampTask
from program.errors import DataError
from program.json_text import JsonError, parse
from program.task import Task

_COLUMNS = ("task", "qid", "input", "gold", "profile_json")
_ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class ParquetFile:
    """One parquet subset. Each question is a separate user."""

    path: Path
    task: Task

    @property
    def files(self) -> tuple[Path, ...]:
        """The one file."""
        return (self.path,)

    def records(self) -> Iterator[RawUser]:
        """Yield one record for each row."""
        from pyarrow import ArrowException
        from pyarrow import parquet as pq

        number = 0
        try:
            with pq.ParquetFile(self.path) as file:
                self._check_columns(file.schema_arrow.names)
                for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(_COLUMNS)):
                    for row in batch.to_pylist():
                        yield self._record(row, f"row {number}")
                        number += 1
        # A damaged file can also hold bytes that are not text, and dates or sizes that do not exist.
        except (ArrowException, OSError, ValueError, OverflowError) as error:
            place = f" after row {number - 1}" if number else ""
            raise DataError(
                f"cannot read `{self.path}` as parquet{place} ({type(error).__name__}); download it again"
            ) from error

    def _check_columns(self, names: list[str]) -> None:
        for column in _COLUMNS:
            if column not in names:
                raise DataError(f"`{self.path}`: column `{column}` is missing from {', '.join(names)}")

    def _record(self, row: dict[str, Any], position: str) -> RawUser:
        location = f"`{self.path}`, {position}"
        lamp = LampTask.of(self.task)
        if _normalise(row["task"]) not in {_normalise(name) for name in (lamp.name, *lamp.file_names)}:
            lamp.check_file(self.path, row["task"])
        try:
            profile = {"profile_json": parse(read_text(row, "profile_json", location).encode())}
        except JsonError as error:
            raise DataError(f"{location}: column `profile_json` {error}; write the file again") from error
        query_id = read_id(row, "qid", location)
        query = RawQuery(
            id=query_id,
            input=read_text(row, "input", location),
            gold=read_optional(row, "gold", location),
            date=None,
        )
        return RawUser(
            user_id=query_id,
            profile=require_list(profile, "profile_json", location),
            queries=(query,),
            file=self.path,
            position=position,
        )


def _normalise(name: object) -> str:
    return str(name).lower().replace("_", "").replace("-", "")
