"""Profile-augmented generation: a summary of the user beside what retrieval finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from eval.contracts import Answer, Query, UserView
from eval.methods.base import BaseMethod
from eval.methods.final_answer import final_answer
from eval.methods.profiles import plain_profile, profile_from
from eval.methods.retrieval import check_retrieval, memory_of, profile_step, search_step
from program.loop import AgentSettings, Step
from program.memory.episodic import EpisodicMemory
from program.memory.summary import build_profile
from program.task import Task

Opened = tuple[Task, EpisodicMemory, Step]


@dataclass(frozen=True, kw_only=True)
class Pag(BaseMethod):
    """`rag` plus the profile that PersonaAgent starts from: exact counts and a model's summary.

    After Richardson et al. 2023 ("Integrating Summarization and Retrieval for Enhanced
    Personalization"); the profile's wording is ours, and the same for all methods.

    Attributes:
        k: How many past answers.
        retrieval: As in `rag`.
        prose: Whether a model writes a summary (one call for each user), or only the counts stand;
            None: unless the model is known to invent.
        item_chars: Longest text shown of one interaction, in characters.
    """

    name: ClassVar[str] = "pag"
    k: int = 4
    retrieval: str = "bm25"
    prose: bool | None = None
    item_chars: int = AgentSettings.item_chars

    def __post_init__(self) -> None:
        check_retrieval(self.k, self.retrieval, self.item_chars)

    def prepare(self, user: UserView) -> Mapping[str, Any]:
        """Summarise the history."""
        profile = build_profile(memory_of(user), user.task, prose=self.prose)
        return {"profile": plain_profile(profile)}

    def open(self, user: UserView, learned: Mapping[str, Any]) -> Opened:
        """Return the searchable history and the profile."""
        profile = profile_from(learned["profile"], user)
        return user.task, memory_of(user, self.retrieval), profile_step(profile)

    def answer(self, prepared: Opened, query: Query) -> Answer:
        """Search, then answer in one call."""
        task, memory, profile = prepared
        found = search_step(memory, task, query.text, k=self.k, item_chars=self.item_chars)
        return final_answer(task, query.text, steps=[profile, found])
