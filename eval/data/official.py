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

from eval.data.jsonlist import elements
from eval.data.raw import RawQuery, RawUser, require, require_list, text_or_none
from eval.submission import read_outputs
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
            query_id = str(require(record, "id", location))
            query = RawQuery(
                id=query_id,
                input=str(require(record, "input", location)),
                gold=self._golds.get(query_id),
                date=text_or_none(record.get("date")),
            )
            yield RawUser(
                user_id=str(record.get("user_id", query_id)),
                profile=require_list(record, "profile", location),
                queries=(query,),
                file=self.questions,
                position=position,
            )

    @property
    def _outputs(self) -> Path | None:
        path = self.questions.with_name(self.questions.name.replace("questions", "outputs"))
        return path if path != self.questions and path.exists() else None

    @cached_property
    def _golds(self) -> dict[str, str]:
        return read_outputs(self._outputs, self.task) if self._outputs else {}
