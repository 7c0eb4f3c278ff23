"""No personalization: only the question and the query (the paper's "Prompt")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eval.contracts import Answer, Query, UserView
from eval.methods.base import BaseMethod
from eval.methods.final_answer import final_answer
from program.loop import AgentSettings


@dataclass(frozen=True, kw_only=True)
class Direct(BaseMethod):
    """The model sees the question and the query, and nothing about the user.

    Attributes:
        history: The form of the question: that of methods that show examples, or findings.
    """

    name: ClassVar[str] = "direct"
    history: str = AgentSettings.history

    def __post_init__(self) -> None:
        AgentSettings(history=self.history)

    def answer(self, prepared: UserView, query: Query) -> Answer:
        """Answer in one call."""
        return final_answer(prepared.task, query.text, settings=AgentSettings(history=self.history))
