"""Retrieval-augmented generation: the interactions most similar to the query, then one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from eval.contracts import Answer, Query, UserView
from eval.methods.base import BaseMethod
from eval.methods.final_answer import final_answer
from eval.methods.retrieval import check_retrieval, make_memory, search_step
from program.loop import AgentSettings
from program.memory.episodic import EpisodicMemory
from program.task import Task


@dataclass(frozen=True, kw_only=True)
class Rag(BaseMethod):
    """LaMP's non-parametric baseline: the top `k` profile items, without a persona.

    Attributes:
        k: Interactions shown with a query.
        retrieval: hybrid, bm25, static, dense or recency (see `program.memory.retrieval.make_retriever`).
        item_chars: Most characters shown of one interaction.
    """

    name: ClassVar[str] = "rag"
    k: int = 4
    retrieval: str = "hybrid"
    item_chars: int = AgentSettings.item_chars

    def __post_init__(self) -> None:
        check_retrieval(self.k, self.retrieval, self.item_chars)

    def open(self, user: UserView, learned: Mapping[str, Any]) -> tuple[Task, EpisodicMemory]:
        """Return the task and the indexed history."""
        return user.task, make_memory(user, self.retrieval)

    def answer(self, prepared: tuple[Task, EpisodicMemory], query: Query) -> Answer:
        """Search, then answer in one call."""
        task, memory = prepared
        search = search_step(memory, task, query.text, k=self.k, item_chars=self.item_chars)
        return final_answer(task, query.text, steps=[search])
