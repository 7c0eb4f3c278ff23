"""Retrieval-augmented generation: the interactions most similar to the query, then one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from eval.contracts import Answer, Query, UserView
from eval.methods.final_answer import final_answer
from eval.methods.retrieval import SearchesHistory, make_memory
from program.memory.episodic import EpisodicMemory
from program.task import Task


@dataclass(frozen=True, kw_only=True)
class Rag(SearchesHistory):
    """LaMP's non-parametric baseline: the top `k` profile items, without a persona."""

    name: ClassVar[str] = "rag"

    def open(self, user: UserView, learned: Mapping[str, Any]) -> tuple[Task, EpisodicMemory]:
        """Return the task and the indexed history."""
        return user.task, make_memory(user, self.retrieval)

    def answer(self, prepared: tuple[Task, EpisodicMemory], query: Query) -> Answer:
        """Search, then answer in one call."""
        task, memory = prepared
        result = self.search(memory, task, query.text)
        return final_answer(task, query.text, steps=[result.step], shown=result.items, settings=self.form)
