"""In-context learning: the same examples of the user's answers with every query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from eval.contracts import Answer, Query, UserView
from eval.methods.base import BaseMethod
from eval.methods.final_answer import final_answer
from eval.methods.retrieval import check_retrieval, examples_step
from program.loop import AgentSettings, Step
from program.task import Task


@dataclass(frozen=True, kw_only=True)
class InContext(BaseMethod):
    """The user's latest interactions as examples, whatever the query.

    Attributes:
        k: Number of examples.
        item_chars: Most characters shown of one interaction.
    """

    name: ClassVar[str] = "icl"
    k: int = 4
    item_chars: int = AgentSettings.item_chars

    def __post_init__(self) -> None:
        check_retrieval(self.k, "recency", self.item_chars)

    def open(self, user: UserView, learned: Mapping[str, Any]) -> tuple[Task, Step]:
        """Return the task and the examples."""
        latest = user.history[-self.k :]
        return user.task, examples_step(user.user_id, latest, user.task, item_chars=self.item_chars)

    def answer(self, prepared: tuple[Task, Step], query: Query) -> Answer:
        """Answer in one call."""
        task, examples = prepared
        return final_answer(task, query.text, steps=[examples])
