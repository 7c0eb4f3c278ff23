"""In-context learning: the same examples of the user's answers with every query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from eval.contracts import Answer, Query, UserView
from eval.methods.base import ShowsHistory
from eval.methods.final_answer import final_answer
from eval.methods.retrieval import Shown, show_examples
from program.task import Task


@dataclass(frozen=True, kw_only=True)
class InContext(ShowsHistory):
    """The user's latest interactions, whatever the query."""

    name: ClassVar[str] = "icl"

    def open(self, user: UserView, learned: Mapping[str, Any]) -> tuple[Task, Shown]:
        """Return the task and the examples."""
        latest = user.history[-self.k :]
        return user.task, show_examples(user.user_id, latest, user.task, self.form)

    def answer(self, prepared: tuple[Task, Shown], query: Query) -> Answer:
        """Answer in one call."""
        task, latest = prepared
        return final_answer(task, query.text, steps=[latest.step], shown=latest.items, settings=self.form)
