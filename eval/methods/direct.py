"""No personalization: the question alone (the paper's "Prompt")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eval.contracts import Answer, Query, Subject
from eval.methods.base import BaseMethod
from eval.methods.final import final_answer


@dataclass(frozen=True, kw_only=True)
class Direct(BaseMethod):
    """The model sees the question and the query, and nothing of the user."""

    name: ClassVar[str] = "direct"

    def answer(self, opened: Subject, query: Query) -> Answer:
        """Answer in one call."""
        return final_answer(opened.task, query.text)
