"""What an agent uses besides its persona: one user's task, memory, tools, profile and facts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from program.loop import AgentSettings
from program.memory.base import Before, Memory
from program.memory.semantic import Profile
from program.persona import Persona
from program.task import Task
from program.tools.base import ToolContext
from program.tools.toolset import ToolSet

if TYPE_CHECKING:  # it brings regex
    from program.evidence import Evidence

_REMEMBERED = 32


@dataclass(frozen=True, kw_only=True)
class AgentState:
    """The parts of an agent that change as a user's store grows."""

    task: Task
    memory: Memory
    profile: Profile
    persona: str | Persona


class EvidenceCache:
    """Remembers what was counted for the latest prompts: each step of an agent has the same facts."""

    def __init__(self) -> None:
        self._latest: dict[Hashable, Sequence[Evidence]] = {}

    def get(self, key: Hashable, count: Callable[[], Sequence[Evidence]]) -> Sequence[Evidence]:
        """Return the evidence of ``key``, counted at most once while it is among the latest."""
        evidence = self._latest.get(key)
        if evidence is None:
            evidence = count()
            while len(self._latest) >= _REMEMBERED:
                self._latest.pop(next(iter(self._latest)), None)
            self._latest[key] = evidence
        return evidence


@dataclass(frozen=True)
class AgentContext:
    """Everything an agent uses besides its persona. Copies of an agent share it; optimizers never change it.

    Attributes:
        task: The user's task.
        memory: The user's episodic memory.
        tools: The tools.
        profile: The user's semantic memory.
        settings: Limits and sizes.
        source: Reads the user's current state from the store; ``None`` without a store.
        evidence: Remembers what was counted last.
    """

    task: Task
    memory: Memory
    tools: ToolSet
    profile: Profile
    settings: AgentSettings
    source: Callable[[], AgentState] | None = None
    evidence: EvidenceCache = field(default_factory=EvidenceCache)

    def __deepcopy__(self, memo: object) -> AgentContext:
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A saved program has the state that it was saved with; it cannot carry an open store.
        return {**vars(self), "source": None, "evidence": EvidenceCache()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({"evidence": EvidenceCache(), **state})

    def profile_at(self, before: Before) -> Profile:
        """Return the profile of the interactions before ``before``."""
        if before is None:
            return self.profile
        return self.profile.restricted_to(self.memory.latest(before=before), self.task.response_type)

    def evidence_at(self, before: Before, exclude: Collection[str]) -> Sequence[Evidence]:
        """Return what code counts in the interactions before ``before``."""
        from program.evidence import collect

        key = (before, tuple(sorted(exclude)), len(self.memory))
        return self.evidence.get(
            key, lambda: collect(self.memory.latest(before=before, exclude=exclude), self.task)
        )

    def tool_context(self, before: Before, exclude: Collection[str]) -> ToolContext:
        """Return the context that the tools get for one query."""
        return ToolContext(
            memory=self.memory,
            profile=self.profile_at,
            before=before,
            exclude=exclude,
            k=self.settings.k,
            max_chars=self.settings.item_chars,
            response_noun=self.task.response_noun,
        )
