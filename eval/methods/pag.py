"""Profile-augmented generation: a summary of the user beside the retrieved interactions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from eval.contracts import Answer, Query, UserView
from eval.methods.final_answer import final_answer
from eval.methods.profiles import profile_as_dict, restore_profile
from eval.methods.retrieval import SearchesHistory, make_memory, profile_step
from program.loop import Step
from program.memory.episodic import EpisodicMemory
from program.memory.summary import build_profile
from program.task import Task

Prepared = tuple[Task, EpisodicMemory, Step]


@dataclass(frozen=True, kw_only=True)
class Pag(SearchesHistory):
    """`rag` plus the profile that PersonaAgent starts from: exact counts and a model's summary.

    After Richardson et al. 2023 ("Integrating Summarization and Retrieval for Enhanced
    Personalization"); the profile's wording is ours and the same for all methods.

    Attributes:
        prose: Whether a model adds a summary to the profile's counts, with one call for each user;
            ``None``: unless the model's summaries are known to be unreliable.
    """

    name: ClassVar[str] = "pag"
    prose: bool | None = None

    def prepare(self, user: UserView) -> Mapping[str, Any]:
        """Summarise the history."""
        profile = build_profile(make_memory(user), user.task, prose=self.prose)
        return {"profile": profile_as_dict(profile)}

    def open(self, user: UserView, learned: Mapping[str, Any]) -> Prepared:
        """Return the task, the indexed history and the profile."""
        profile = restore_profile(learned["profile"], user)
        return user.task, make_memory(user, self.retrieval), profile_step(profile)

    def answer(self, prepared: Prepared, query: Query) -> Answer:
        """Search, then answer in one call."""
        task, memory, profile = prepared
        result = self.search(memory, task, query.text)
        steps = [profile, result.step]
        return final_answer(task, query.text, steps=steps, shown=result.items, settings=self.form)
