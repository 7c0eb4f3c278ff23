"""Reads OPPU's files: one record for each user, with all queries and their golds.

user_top_100_history.json: [{"user_id": "7", "profile": [{"id": ...}],
                             "query": [{"id": "300", "input": "...", "gold": "5"}]}]
user_top_100_history_label.json: {"task": "LaMP_3", "golds": [{"id": "300", "output": "5"}]}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from eval.data.golds import find_golds, read_gold, read_golds
from eval.data.jsonlist import elements
from eval.data.raw import RawQuery, RawUser, read_id, read_optional, read_text, require_list
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
            queries = require_list(record, "query", location)
            yield RawUser(
                user_id=read_id(record, "user_id", location),
                profile=require_list(record, "profile", location),
                queries=[
                    self._query(query, f"{location}, query {place}") for place, query in enumerate(queries)
                ],
                file=self.history,
                position=position,
            )

    def _query(self, query: Mapping[str, object], location: str) -> RawQuery:
        query_id = read_id(query, "id", location)
        return RawQuery(
            id=query_id,
            input=read_text(query, "input", location),
            gold=read_gold(query, query_id, self._golds, location),
            date=read_optional(query, "date", location),
        )

    @cached_property
    def _labels(self) -> Path | None:
        return find_golds(self.history)

    @cached_property
    def _golds(self) -> dict[str, str]:
        return read_golds(self._labels, self.task)
