"""No personalization: only the question and the query (the paper's "Prompt")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eval.contracts import Answer, Query, UserView
from eval.methods.base import BaseMethod
from eval.methods.final_answer import final_answer


@dataclass(frozen=True, kw_only=True)
class Direct(BaseMethod):
    """The model sees the question and the query, and nothing about the user."""

    name: ClassVar[str] = "direct"

    def answer(self, prepared: UserView, query: Query) -> Answer:
        """Answer in one call."""
        return final_answer(prepared.task, query.text)
