"""In-context learning: the same examples of the user's own answers with every query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from eval.contracts import Answer, Query, Subject
from eval.methods.base import BaseMethod
from eval.methods.final import final_answer
from eval.methods.lookup import check_retrieval, examples_step
from program.loop import AgentSettings, Step
from program.task import Task


@dataclass(frozen=True, kw_only=True)
class InContext(BaseMethod):
    """The user's latest answers as examples, whatever is asked.

    Attributes:
        k: How many.
        item_chars: Longest text shown of one interaction, in characters.
    """

    name: ClassVar[str] = "icl"
    k: int = 4
    item_chars: int = AgentSettings.item_chars

    def __post_init__(self) -> None:
        check_retrieval(self.k, "recency", self.item_chars)

    def open(self, subject: Subject, learned: Mapping[str, Any]) -> tuple[Task, Step]:
        """Choose the examples."""
        latest = subject.history[-self.k :]
        examples = examples_step(subject.user_id, latest, subject.task, item_chars=self.item_chars)
        return subject.task, examples

    def answer(self, opened: tuple[Task, Step], query: Query) -> Answer:
        """Answer in one call."""
        task, examples = opened
        return final_answer(task, query.text, steps=[examples])
