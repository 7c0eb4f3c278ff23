"""Reads OPPU's files: one record for each user, with all queries and their golds.

user_top_100_history.json: [{"user_id": "7", "profile": [{"id": ...}],
                             "query": [{"id": "300", "input": "...", "gold": "5"}]}]
user_top_100_history_label.json: {"task": "LaMP_3", "golds": [{"id": "300", "output": "5"}]}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from eval.data.jsonlist import elements
from eval.data.raw import RawQuery, RawUser, require, require_list, text_or_none
from eval.submission import read_outputs
from program.task import Task


@dataclass(frozen=True)
class OppuFiles:
    """A history file and the label file beside it, if there is one."""

    history: Path
    task: Task

    @property
    def files(self) -> tuple[Path, ...]:
        """The history file, then the label file."""
        return (self.history, self._labels) if self._labels else (self.history,)

    def records(self) -> Iterator[RawUser]:
        """Yield one record for each user. The label file is used for queries without a gold."""
        for number, record in enumerate(elements(self.history)):
            position = f"record {number}"
            location = f"`{self.history}`, {position}"
            yield RawUser(
                user_id=str(require(record, "user_id", location)),
                profile=require_list(record, "profile", location),
                queries=[self._query(query, location) for query in require_list(record, "query", location)],
                file=self.history,
                position=position,
            )

    def _query(self, query: object, location: str) -> RawQuery:
        query_id, text = str(require(query, "id", location)), str(require(query, "input", location))
        fields = query if isinstance(query, dict) else {}
        gold = text_or_none(fields.get("gold", self._golds.get(query_id)))
        return RawQuery(id=query_id, input=text, gold=gold, date=text_or_none(fields.get("date")))

    @property
    def _labels(self) -> Path | None:
        path = self.history.with_name(f"{self.history.stem}_label.json")
        return path if path.exists() else None

    @cached_property
    def _golds(self) -> dict[str, str]:
        return read_outputs(self._labels, self.task) if self._labels else {}
