"""Reads LaMP's own files: `{split}_questions.json` and, unless it is the test split, `{split}_outputs.json`.

    questions: [{"id": "300", "input": "...", "profile": [{"id": "3000", ...}]}]
    outputs:   {"task": "LaMP_3", "golds": [{"id": "300", "output": "5"}]}

The time split adds `user_id` to a question and `date` to a profile item. In the user split each
question is a separate user, with the question's id as user id.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from eval.data.golds import find_golds, read_gold, read_golds
from eval.data.jsonlist import elements
from eval.data.raw import RawQuery, RawUser, read_id, read_optional, read_text, require_list
from program.task import Task


@dataclass(frozen=True)
class OfficialFiles:
    """A questions file and the outputs file beside it, if there is one."""

    questions: Path
    task: Task

    @property
    def files(self) -> tuple[Path, ...]:
        """The questions file, then the outputs file."""
        return (self.questions, self._outputs) if self._outputs else (self.questions,)

    def records(self) -> Iterator[RawUser]:
        """Yield one record for each question."""
        for number, record in enumerate(elements(self.questions)):
            position = f"record {number}"
            location = f"`{self.questions}`, {position}"
            query_id = read_id(record, "id", location)
            query = RawQuery(
                id=query_id,
                input=read_text(record, "input", location),
                gold=read_gold(record, query_id, self._golds, location),
                date=read_optional(record, "date", location),
            )
            yield RawUser(
                user_id=read_id(record, "user_id", location) if "user_id" in record else query_id,
                profile=require_list(record, "profile", location),
                queries=(query,),
                file=self.questions,
                position=position,
            )

    @cached_property
    def _outputs(self) -> Path | None:
        return find_golds(self.questions)

    @cached_property
    def _golds(self) -> dict[str, str]:
        return read_golds(self._outputs, self.task)
